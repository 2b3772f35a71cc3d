"""Where an arm goes by itself to see a board from many sides: poses about the one it has."""

from __future__ import annotations

from math import radians

import numpy as np

from vla_ros.calibration.hand_eye import Mounting
from vla_ros.geometry import RotationForm, matrix_pose, pose_matrix, rotation_matrix
from vla_ros.values import Array

#: Of each pose, how much it turns about x, y and z of the TCP and moves along them, as shares of the most; the first
#: stays. Every axis is turned about to both sides, alone and with others, and no two poses are near each other.
_PLAN: tuple[tuple[tuple[float, float, float], tuple[float, float, float]], ...] = (
    ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    ((1.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    ((-1.0, 0.0, 0.0), (0.0, 0.0, 0.3)),
    ((0.0, 1.0, 0.0), (0.0, 0.0, 0.0)),
    ((0.0, -1.0, 0.0), (0.0, 0.0, -0.5)),
    ((0.0, 0.0, 1.0), (0.6, 0.0, 0.0)),
    ((0.0, 0.0, -1.0), (-0.6, 0.0, 0.0)),
    ((0.7, 0.7, 0.5), (0.0, 0.5, 0.0)),
    ((-0.7, 0.7, -0.5), (0.0, -0.5, 0.0)),
    ((0.7, -0.7, -1.0), (0.4, 0.4, 0.0)),
    ((-0.7, -0.7, 1.0), (-0.4, -0.4, 0.0)),
    ((0.8, 0.3, -0.7), (0.5, -0.5, -0.7)),
    ((-0.8, -0.3, -0.7), (-0.5, 0.5, -0.7)),
    ((0.3, 0.8, 0.7), (0.0, 0.7, -1.0)),
    ((-0.3, -0.8, 0.7), (0.0, -0.7, -1.0)),
)
MOST_POSES = len(_PLAN)

_TILT_RAD = radians(20.0)
_SHIFT_M = {Mounting.IN_HAND: 0.05, Mounting.TO_HAND: 0.08}
#: Before the TCP, along its z axis: a camera in the hand is turned about where the board may be, so that it stays in
#: the picture; a board in the hand is turned about the hand.
_PIVOT_M = {Mounting.IN_HAND: 0.25, Mounting.TO_HAND: 0.0}


def around(pose: Array, mounting: Mounting, count: int = MOST_POSES) -> list[Array]:
    """`count` TCP poses (7,) about `pose`, by up to 20 degrees about each axis and some centimetres.

    Raises ValueError for more poses than there are in the plan.
    """
    if not 1 <= count <= MOST_POSES:
        raise ValueError(f"the arm knows 1 to {MOST_POSES} poses to go to, got {count}")
    start, to_pivot = pose_matrix(pose), np.eye(4)
    to_pivot[2, 3] = _PIVOT_M[mounting]
    poses = []
    for turn, way in _PLAN[:count]:
        moved = np.eye(4)
        moved[:3, :3] = rotation_matrix(_TILT_RAD * np.array(turn), RotationForm.AXIS_ANGLE)
        moved[:3, 3] = _SHIFT_M[mounting] * np.array(way)
        poses.append(matrix_pose(start @ to_pivot @ moved @ np.linalg.inv(to_pivot)))
    return poses
