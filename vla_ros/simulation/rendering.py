"""Pictures of a world by MuJoCo, off screen; import mujoco from here: this chooses how to draw where no one did."""

from __future__ import annotations

import copy
import ctypes
import os
from collections.abc import Mapping

import numpy as np

from vla_ros.simulation.world import CameraModel, Snapshot
from vla_ros.values import Image

#: What each way to draw without a screen loads, in the order of preference.
_LIBRARIES = {"egl": ("libEGL.so.1", "libOpenGL.so.0"), "osmesa": ("libOSMesa.so.8", "libOpenGL.so.0")}
_LAMP_DIFFUSE = 0.45  # at brightness 1
_LAMP_TARGET_M = np.array([0.45, 0.0, 0.0])
_ADVICE = (
    "MuJoCo cannot draw off screen here ({reason}). On Debian or Ubuntu, install what EGL needs: "
    "apt-get install libegl1 libegl-mesa0 libopengl0 libgl1-mesa-dri (or, for MUJOCO_GL=osmesa: libosmesa6 libopengl0)"
)


def _choose_backend() -> str:
    """egl if its libraries are there, else osmesa, else none (physics works without); a user's choice stands."""
    chosen = os.environ.get("MUJOCO_GL", "").strip().lower()
    return chosen or next((name for name, needs in _LIBRARIES.items() if all(map(_loads, needs))), "disabled")


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


# mujoco reads the variable when it is imported, and falls back to a window where there may be no screen.
os.environ["MUJOCO_GL"] = _choose_backend()

import mujoco as mujoco  # noqa: E402, PLC0414  # exported, so that nobody imports it too early


class MujocoRenderer:
    """Draws snapshots with a model and state of its own, so that the world may go on; for the thread that made it."""

    def __init__(self, model: mujoco.MjModel, cameras: Mapping[str, CameraModel]) -> None:
        self._model = copy.copy(model)
        self._data = mujoco.MjData(self._model)
        self._cameras = cameras
        self._contexts: dict[tuple[int, int], mujoco.Renderer] = {}
        sizes = {(camera.height, camera.width) for camera in cameras.values()}
        try:
            for height, width in sizes:
                self._contexts[height, width] = mujoco.Renderer(self._model, height, width)
        except Exception as error:  # every backend fails in its own way
            self.close()
            raise RuntimeError(_ADVICE.format(reason=f"MUJOCO_GL={os.environ['MUJOCO_GL']}: {error}")) from error

    def render(self, camera: str, snapshot: Snapshot) -> Image:
        """The picture (height, width, 3) of `camera`; raises ValueError for a camera there is not."""
        if camera not in self._cameras:
            raise ValueError(f"no camera {camera!r}; there are {', '.join(self._cameras)}")
        place_looks(self._model, snapshot)
        self._data.qpos[:] = snapshot.configuration
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)
        context = self._contexts[self._cameras[camera].height, self._cameras[camera].width]
        context.update_scene(self._data, camera=camera)
        context.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        context.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        return np.asarray(context.render(), dtype=np.uint8)

    def close(self) -> None:
        """Free the drawing contexts."""
        for context in self._contexts.values():
            context.close()
        self._contexts.clear()


def place_looks(model: mujoco.MjModel, snapshot: Snapshot) -> None:
    """Put cameras and lamp where the snapshot has them."""
    for name, pose in snapshot.camera_poses.items():
        camera = model.camera(name)
        x, y, z, w = pose[3:]
        camera.pos[:] = pose[:3]
        # MuJoCo's camera looks along -z with y up: the optical frame turned by pi about x, which is (0, 1, 0, 0).
        camera.quat[:] = (-x, w, z, -y)
    lamp = model.light("lamp")
    lamp.pos[:] = snapshot.light[:3]
    toward = _LAMP_TARGET_M - snapshot.light[:3]
    lamp.dir[:] = toward / np.linalg.norm(toward)
    lamp.diffuse[:] = _LAMP_DIFFUSE * snapshot.light[3]
