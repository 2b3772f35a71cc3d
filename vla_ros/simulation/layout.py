"""How an episode begins: the fixed distribution that resets draw from, by seed alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import pi, radians

import numpy as np

from vla_ros.geometry import RotationForm, matrix_pose, pose_matrix, rotation_matrix
from vla_ros.simulation.tasks import COLORS, Task, TaskKind
from vla_ros.simulation.world import CameraModel
from vla_ros.values import Array

CUBE_X_M = (0.36, 0.62)
CUBE_Y_M = (-0.19, 0.19)
CUBE_DISTANCE_M = 0.10  # of two centres, at least: an open hand fits around each cube
JOINT_RAD = 0.1
CAMERA_M, CAMERA_RAD = 0.01, radians(1.0)
LIGHT_X_M, LIGHT_Y_M, LIGHT_Z_M = (0.2, 1.2), (-0.8, 0.8), (1.4, 2.0)
LIGHT_BRIGHTNESS = (0.75, 1.1)


@dataclass(frozen=True, eq=False)
class Layout:
    """One beginning: cubes as (x, y, yaw) by colour, joints [rad], optical frames of the cameras in their `frame`."""

    cubes: Mapping[str, tuple[float, float, float]]
    joint_positions: Array
    camera_poses: Mapping[str, Array]
    light: Array  # x y z of the lamp [m], its brightness
    task: Task


def draw(seed: int, home_rad: Sequence[float], cameras: Mapping[str, CameraModel], variety: float = 1.0) -> Layout:
    """The beginning of episode `seed`; depends on nothing but the arguments.

    The distribution, everything uniform and independent:

    - cubes: centres over x 0.36 to 0.62 m, y -0.19 to 0.19 m (26 x 38 cm) and at least 10 cm apart, any yaw; colours
      permuted
    - joints: home +- 0.1 rad each
    - cameras: +- 1 cm along and +- 1 degree about each axis of their optical frame
    - light: the lamp within 1 x 1.6 x 0.6 m above the table, its brightness from 0.75 to 1.1
    - task, where none is asked for: lift a cube of any colour

    `variety`: so many times as far cameras, and so many times as much brightness, differ from their middle.
    """
    if seed < 0:
        raise ValueError(f"a seed is 0 or more, got {seed}")
    # Streams of their own: one more camera, or a cube that took more tries, changes nothing else.
    for_cubes, for_arm, for_cameras, for_light, for_task = np.random.default_rng(seed).spawn(5)
    return Layout(
        cubes=_cubes(for_cubes),
        joint_positions=np.asarray(home_rad) + for_arm.uniform(-JOINT_RAD, JOINT_RAD, len(home_rad)),
        camera_poses={name: _jittered(for_cameras, cameras[name].optical_pose(), variety) for name in sorted(cameras)},
        light=np.array(
            [
                for_light.uniform(*bounds)
                for bounds in (LIGHT_X_M, LIGHT_Y_M, LIGHT_Z_M, _widened(LIGHT_BRIGHTNESS, variety))
            ]
        ),
        task=Task(TaskKind.LIFT, str(for_task.choice(COLORS))),
    )


def _cubes(rng: np.random.Generator) -> dict[str, tuple[float, float, float]]:
    while True:  # all at once, so that no cube's place depends on the order; nearly half of the draws will do
        xs, ys = rng.uniform(*CUBE_X_M, len(COLORS)), rng.uniform(*CUBE_Y_M, len(COLORS))
        distances = [np.hypot(xs[i] - xs[j], ys[i] - ys[j]) for i in range(len(COLORS)) for j in range(i)]
        if min(distances) >= CUBE_DISTANCE_M:
            break
    yaws = rng.uniform(-pi, pi, len(COLORS))
    places = [(float(x), float(y), float(yaw)) for x, y, yaw in zip(xs, ys, yaws, strict=True)]
    return {str(color): place for color, place in zip(rng.permutation(COLORS), places, strict=True)}


def _widened(bounds: tuple[float, float], variety: float) -> tuple[float, float]:
    """`bounds` as far from their middle as `variety` says, but no darkness."""
    wider = 0.5 * (bounds[1] - bounds[0]) * (variety - 1.0)
    return max(0.0, bounds[0] - wider), bounds[1] + wider


def _jittered(rng: np.random.Generator, pose: Array, variety: float) -> Array:
    angle_rad, way_m = CAMERA_RAD * variety, CAMERA_M * variety
    jitter = np.eye(4)
    jitter[:3, :3] = rotation_matrix(rng.uniform(-angle_rad, angle_rad, 3), RotationForm.EULER_XYZ)
    jitter[:3, 3] = rng.uniform(-way_m, way_m, 3)
    return matrix_pose(pose_matrix(pose) @ jitter)
