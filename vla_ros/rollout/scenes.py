"""Pictures of seeded scenes with captions and questions from the world's state, as LLaVA's json has them."""

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
from vla_ros.simulation.tabletop import Tabletop
from vla_ros.simulation.world import Renderer, Snapshot, TabletopConfig, World, WorldState
from vla_ros.values import Array, Image

CONVERSATIONS = "conversations.json"
STATES = "states.jsonl"  # what the captions were made from: id, names, values
IMAGES = "images"

_EXPERT = "scripted"
#: The stream of chance of a seed that arms are placed by.
_PLACES = 19
_PER_EPISODE = 8  # moments of an expert's episode, if it has as many
_EPISODE_S = 12.0  # of which the last is: an expert that takes longer is stuck
#: Where a hand is put at random: clear of cubes on the table, tilted a little, at any turn that the wrist has.
_HAND_Z_M = (0.10, 0.50)
_BESIDE_M = 0.06  # beyond the cubes' area
_TILT_RAD, _TURN_RAD = 0.2, 0.9
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

    One half have the arm at random above the cubes, of the other half each is a moment of an expert that does a task.
    Raises ValueError for a camera that the world has not, RuntimeError where nothing can draw.
    """
    missing = [camera for camera in cameras if camera not in world.cameras]
    if missing or not cameras:
        raise ValueError(f"one or more cameras of {', '.join(world.cameras)} look at scenes, got {', '.join(cameras)}")
    tabletop = Tabletop(robot, world.model_copy(update={"cameras": {name: world.cameras[name] for name in cameras}}))
    renderer = tabletop.renderer()
    try:
        placed = count // 2
        yield from _placed(tabletop, renderer, placed, seed)
        yield from _along(tabletop, renderer, arm, count - placed, seed)
    finally:
        renderer.close()


def write(found: Iterator[Scene], folder: Path, request: str, on_progress: Callable[[int], None]) -> int:
    """Pictures and json into a new `folder`; returns how many scenes there were.

    Of every scene there are entries that answer `request` with the whole caption, and one for each question. The json
    is written last: a folder without one is not finished. Raises OSError.
    """
    (folder / IMAGES).mkdir(parents=True)
    entries: list[dict[str, Any]] = []
    count = 0
    with (folder / STATES).open("w", encoding="utf-8") as states:
        for scene in found:
            names = {camera: f"{IMAGES}/{scene.name}-{camera}.jpg" for camera in scene.images}
            for camera, image in scene.images.items():
                PillowImage.fromarray(image).save(folder / names[camera], quality=_QUALITY)
            entries += entries_of(scene, list(names.values()), request)
            state = {"id": scene.name, "names": scene.state.names, "values": scene.state.values.tolist()}
            states.write(json.dumps(state) + "\n")
            count += 1
            on_progress(count)
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
        joints, width_m = place.draw(np.random.default_rng([number, _PLACES]), tabletop.joint_positions)
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

    def draw(self, rng: np.random.Generator, near: Array) -> tuple[Array, float]:
        """Joints (J,) of a hand that points down, somewhere above the cubes, and how wide it is."""
        width_m = float(rng.uniform(0.0, self._robot.gripper.max_width_m))
        if rng.uniform() < 0.5:  # hands are wide open, or not at all, most of the time
            width_m = self._robot.gripper.max_width_m * float(rng.integers(2))
        while True:
            reach = self._kinematics.toward(
                near,
                self._pose(rng),
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

    def _pose(self, rng: np.random.Generator) -> Array:
        tilt = rng.uniform(-_TILT_RAD, _TILT_RAD, 2)
        matrix = np.eye(4)
        down = np.diag([1.0, -1.0, -1.0])
        turn = rng.uniform(-_TURN_RAD, _TURN_RAD)
        matrix[:3, :3] = rotation_matrix([*tilt, turn], RotationForm.EULER_XYZ) @ down
        (x_from, x_to), (y_from, y_to) = CUBE_X_M, CUBE_Y_M
        matrix[:3, 3] = rng.uniform(
            (x_from - _BESIDE_M, y_from - _BESIDE_M, _HAND_Z_M[0]), (x_to + _BESIDE_M, y_to + _BESIDE_M, _HAND_Z_M[1])
        )
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
