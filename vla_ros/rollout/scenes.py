"""Pictures of seeded scenes with what the world's state says of them: captions and questions, and measures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PillowImage

from vla_ros.control import kinematics
from vla_ros.control.arm import ArmConfig
from vla_ros.geometry import RotationForm, matrix_pose, rotation_matrix
from vla_ros.policies import registry
from vla_ros.robots.robot import Robot
from vla_ros.rollout.demonstrations import task_of
from vla_ros.rollout.loop import Episode, Rollout, RolloutConfig, Watcher
from vla_ros.simulation.describing import describe, questions
from vla_ros.simulation.layout import CUBE_X_M, CUBE_Y_M
from vla_ros.simulation.measuring import measures
from vla_ros.simulation.tabletop import Tabletop
from vla_ros.simulation.tasks import COLORS
from vla_ros.simulation.world import Renderer, Snapshot, TabletopConfig, World, WorldState
from vla_ros.values import Array, Image
from vla_ros.viewing.progress import interruptible

CONVERSATIONS = "conversations.json"
MEASURES = "measures.jsonl"  # a line a scene: its pictures, and where its cubes are
STATES = "states.jsonl"  # what the captions were made from: id, names, values
IMAGES = "images"

_EXPERT = "scripted"
#: The stream of chance of a seed that arms are placed by.
_PLACES = 19
_ONE_ALONG_OF = 5  # scenes is a moment of an episode: each takes ten times as long as another
_PER_EPISODE = 8  # moments of an expert's episode, if it has as many
_EPISODE_S = 12.0  # of which the last is: an expert that takes longer is stuck
#: Where a hand is put at random: clear of cubes on the table, tilted a little, at any turn that the wrist has.
_HAND_Z_M = (0.10, 0.50)
_BESIDE_M = 0.06  # beyond the cubes' area
_TILT_RAD, _TURN_RAD = 0.2, 0.9
#: As often it is put above one of the cubes, as before a grasp: how far beside its middle, and how high.
_OVER_BESIDE_M, _OVER_Z_M = 0.06, (0.06, 0.30)
_CLOSE_M, _CLOSE_RAD = 2e-3, 0.02  # an arm that comes so near is where it was put
_ITERATIONS, _PERIOD_S = 60, 1e-3
_QUALITY = 92  # of jpg
#: The caption is what a policy is told, and the longest answer: it is asked for so many times as often as another.
_CAPTIONS = 4


@dataclass(frozen=True, eq=False)
class Scene:
    """One moment: its pictures by camera, and what stands where."""

    name: str
    images: Mapping[str, Image]
    state: WorldState


def scenes(
    robot: Robot, world: TabletopConfig, cameras: Sequence[str], arm: ArmConfig, count: int, seed: int
) -> Iterator[Scene]:
    """`count` scenes of the seeds from `seed` on, seen by `cameras`; the same arguments, the same scenes.

    Four of five have the arm at random, above the cubes or over one of them; the others are moments of an expert that
    does a task.
    Raises ValueError for a camera that the world has not, RuntimeError where nothing can draw.
    """
    missing = [camera for camera in cameras if camera not in world.cameras]
    if missing or not cameras:
        raise ValueError(f"one or more cameras of {', '.join(world.cameras)} look at scenes, got {', '.join(cameras)}")
    tabletop = Tabletop(robot, world.model_copy(update={"cameras": {name: world.cameras[name] for name in cameras}}))
    renderer = tabletop.renderer()
    try:
        along = count // _ONE_ALONG_OF
        yield from _placed(tabletop, renderer, count - along, seed)
        yield from _along(tabletop, renderer, arm, along, seed)
    finally:
        renderer.close()


def write(found: Iterator[Scene], folder: Path, request: str, on_progress: Callable[[int], None]) -> int:
    """Pictures and json into a new `folder`; returns how many scenes there were.

    Of every scene there are entries that answer `request` with the whole caption, and one for each question, as LLaVA
    has them. They are written last: a folder without them is not finished. Ctrl-C ends it with the scenes that there
    are until then. Raises OSError.
    """
    (folder / IMAGES).mkdir(parents=True)
    entries: list[dict[str, Any]] = []
    count = 0
    with (
        (folder / STATES).open("w", encoding="utf-8") as states,
        (folder / MEASURES).open("w") as measured,
        interruptible() as asked,
    ):
        for scene in found:
            names = {camera: f"{IMAGES}/{scene.name}-{camera}.jpg" for camera in scene.images}
            for camera, image in scene.images.items():
                PillowImage.fromarray(image).save(folder / names[camera], quality=_QUALITY)
            entries += entries_of(scene, list(names.values()), request)
            state = {"id": scene.name, "names": scene.state.names, "values": scene.state.values.tolist()}
            states.write(json.dumps(state) + "\n")
            line = {"images": list(names.values()), "measures": measures(scene.state)}
            measured.write(json.dumps(line) + "\n")
            count += 1
            on_progress(count)
            if asked.is_set():
                break
    unfinished = folder / f".{CONVERSATIONS}.tmp"
    unfinished.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(folder / CONVERSATIONS)
    return count


def entries_of(scene: Scene, images: list[str], request: str) -> list[dict[str, Any]]:
    """A scene in LLaVA's form; `image` is one file, or a list with one of each camera.

    Every question stands alone: asked after others, it would never be learnt without their answers in front of it.
    """
    said = [(request, describe(scene.state).caption)] * _CAPTIONS + list(questions(scene.state))
    image = images if len(images) > 1 else images[0]
    return [
        {
            "id": f"{scene.name}-{number}",
            "image": image,
            "conversations": [{"from": "human", "value": f"<image>\n{asked}"}, {"from": "gpt", "value": answer}],
        }
        for number, (asked, answer) in enumerate(said)
    ]


# --- an arm at random -------------------------------------------------------------------------------------------------


def _placed(tabletop: Tabletop, renderer: Renderer, count: int, seed: int) -> Iterator[Scene]:
    place = Placing(tabletop.robot)
    for number in range(seed, seed + count):
        tabletop.reset(number)
        rng = np.random.default_rng([number, _PLACES])
        is_over = rng.uniform() < 0.5
        over = tabletop.state().cube_pose(COLORS[int(rng.integers(len(COLORS)))])[:2] if is_over else None
        joints, width_m = place.draw(rng, tabletop.joint_positions, over)
        snapshot, state = place.moved(tabletop.snapshot(), tabletop.state(), joints, width_m)
        images = {camera: renderer.render(camera, snapshot) for camera in tabletop.cameras}
        yield Scene(f"placed-{number}", images, state)


class Placing:
    """Puts the arm elsewhere in what a world has shown: no time passes, nothing is touched."""

    def __init__(self, robot: Robot) -> None:
        self._robot = robot
        self._kinematics = kinematics.for_robot(robot)
        self._lower = np.array([joint.lower_rad for joint in robot.joints])
        self._upper = np.array([joint.upper_rad for joint in robot.joints])

    def draw(self, rng: np.random.Generator, near: Array, over: Array | None = None) -> tuple[Array, float]:
        """Joints (J,) of a hand that points down above the cubes, or above x y `over`, and how wide it is."""
        width_m = float(rng.uniform(0.0, self._robot.gripper.max_width_m))
        if rng.uniform() < 0.5:  # hands are wide open, or not at all, most of the time
            width_m = self._robot.gripper.max_width_m * float(rng.integers(2))
        while True:
            reach = self._kinematics.toward(
                near,
                self._pose(rng, over),
                period_s=_PERIOD_S,
                home=np.array(self._robot.home_rad),
                lower=self._lower,
                upper=self._upper,
                velocity=np.full(len(near), np.inf),
                iterations=_ITERATIONS,
            )
            if reach.position_error_m < _CLOSE_M and reach.rotation_error_rad < _CLOSE_RAD:
                return reach.joint_positions, width_m

    def moved(
        self, snapshot: Snapshot, state: WorldState, joints: Array, width_m: float
    ) -> tuple[Snapshot, WorldState]:
        """What there is with the arm at `joints` and the fingers `width_m` apart."""
        arm = len(joints)
        configuration = np.array(snapshot.configuration)  # the arm's joints stand first, then the two fingers
        configuration[:arm], configuration[arm : arm + 2] = joints, 0.5 * width_m
        values = np.array(state.values)
        values[:7], values[7] = self._kinematics.forward(joints), width_m
        return replace(snapshot, configuration=configuration), WorldState(state.time_ns, values)

    def _pose(self, rng: np.random.Generator, over: Array | None) -> Array:
        tilt = rng.uniform(-_TILT_RAD, _TILT_RAD, 2)
        matrix = np.eye(4)
        down = np.diag([1.0, -1.0, -1.0])
        turn = rng.uniform(-_TURN_RAD, _TURN_RAD)
        matrix[:3, :3] = rotation_matrix([*tilt, turn], RotationForm.EULER_XYZ) @ down
        corners = np.array([CUBE_X_M, CUBE_Y_M]).T if over is None else np.array([over, over])
        beside_m, (z_from, z_to) = (_BESIDE_M, _HAND_Z_M) if over is None else (_OVER_BESIDE_M, _OVER_Z_M)
        matrix[:3, 3] = rng.uniform([*(corners[0] - beside_m), z_from], [*(corners[1] + beside_m), z_to])
        return matrix_pose(matrix)


# --- along an expert's episodes ---------------------------------------------------------------------------------------


class _Keeping(Watcher):
    """Keeps what the first camera's frames are of, ten times a second."""

    def __init__(self, cameras: tuple[str, ...]) -> None:
        self.cameras = cameras[:1]
        self.moments: list[tuple[Snapshot, WorldState]] = []

    def begin(self, episode: Episode) -> None:
        """Forget the episode before."""
        self.moments = []

    def look(self, camera: str, stamp_ns: int, world: World) -> None:
        """A moment that may be drawn later."""
        self.moments.append((world.snapshot(), world.state()))


def _along(tabletop: Tabletop, renderer: Renderer, arm: ArmConfig, count: int, seed: int) -> Iterator[Scene]:
    robot = tabletop.robot
    keeping = _Keeping(tuple(tabletop.cameras))
    config = RolloutConfig(camera_hz=10.0, episode_s=_EPISODE_S)
    rollout = Rollout(tabletop, robot, registry.load(_EXPERT, robot=robot), arm, config, watcher=keeping)
    number = seed
    while count > 0:
        rollout.run(number, task_of(number))
        rng = np.random.default_rng([number, _PLACES])
        taken = min(count, _PER_EPISODE, len(keeping.moments))
        for moment in np.sort(rng.permutation(len(keeping.moments))[:taken]):
            snapshot, state = keeping.moments[int(moment)]
            images = {camera: renderer.render(camera, snapshot) for camera in tabletop.cameras}
            yield Scene(f"along-{number}-{moment}", images, state)
        count -= taken
        number += 1
