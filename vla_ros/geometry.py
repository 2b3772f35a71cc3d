"""Rotations and poses as arrays: the four rotation forms, slerp, and pose <-> matrix; SI units, right-handed frames.

A *pose* is an array of seven: x y z in metres, then a unit quaternion qx qy qz qw (scalar last, as in geometry_msgs).
"""

from __future__ import annotations

import math
from enum import Enum

import numpy as np
from numpy.typing import ArrayLike, NDArray
from transforms3d import axangles, euler, quaternions

Array = NDArray[np.float64]

#: Below this angle between two quaternions, linear interpolation is exact to machine precision.
_SLERP_LINEAR_BELOW = 1e-6


class RotationForm(str, Enum):
    """How three-dimensional rotations are written as numbers."""

    EULER_XYZ = "euler_xyz"  # roll, pitch, yaw about the fixed axes x, y, z [rad]
    AXIS_ANGLE = "axis_angle"  # unit axis times angle [rad]
    ROTATION_6D = "rotation_6d"  # first two rows of the matrix (Zhou et al. 2019, rows as in pytorch3d)
    QUATERNION = "quaternion"  # qx qy qz qw

    @property
    def size(self) -> int:
        """Number of values: 3, 3, 6 or 4."""
        return {"euler_xyz": 3, "axis_angle": 3, "rotation_6d": 6, "quaternion": 4}[self.value]

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Names of the values, in order, as they stand in a dataset's feature names."""
        return {
            "euler_xyz": ("roll", "pitch", "yaw"),
            "axis_angle": ("rx", "ry", "rz"),
            "rotation_6d": ("r11", "r12", "r13", "r21", "r22", "r23"),
            "quaternion": ("qx", "qy", "qz", "qw"),
        }[self.value]


def rotation_matrix(values: ArrayLike, form: RotationForm) -> Array:
    """The 3x3 matrix of a rotation written in `form`; raises ValueError for a wrong length or a degenerate rotation."""
    v = np.asarray(values, dtype=np.float64)
    if v.shape != (form.size,):
        raise ValueError(f"a rotation in form {form.value} has {form.size} values, got shape {v.shape}")
    if form is RotationForm.EULER_XYZ:
        return np.asarray(euler.euler2mat(v[0], v[1], v[2], "sxyz"), dtype=np.float64)
    if form is RotationForm.AXIS_ANGLE:
        angle = float(np.linalg.norm(v))
        if angle == 0.0:
            return np.eye(3)
        return np.asarray(axangles.axangle2mat(v / angle, angle, is_normalized=True), dtype=np.float64)
    if form is RotationForm.ROTATION_6D:
        return _gram_schmidt(v[:3], v[3:])
    norm = float(np.linalg.norm(v))
    if norm < 1e-6:
        raise ValueError(f"a quaternion of norm {norm:g} is not a rotation")
    x, y, z, w = v / norm
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def rotation_values(matrix: Array, form: RotationForm) -> Array:
    """A 3x3 rotation matrix written in `form`; quaternions have qw >= 0."""
    if form is RotationForm.EULER_XYZ:
        return _roll_pitch_yaw(matrix)
    if form is RotationForm.AXIS_ANGLE:
        quaternion = rotation_values(matrix, RotationForm.QUATERNION)
        sine = float(np.linalg.norm(quaternion[:3]))
        if sine < 1e-12:
            return 2.0 * quaternion[:3]
        angle = 2.0 * float(np.arctan2(sine, quaternion[3]))
        return np.asarray(quaternion[:3] / sine * angle, dtype=np.float64)
    if form is RotationForm.ROTATION_6D:
        return np.asarray(matrix, dtype=np.float64)[:2, :].reshape(6)
    w, x, y, z = quaternions.mat2quat(matrix)
    quaternion = np.array([x, y, z, w], dtype=np.float64)
    return -quaternion if w < 0 else quaternion


def _roll_pitch_yaw(matrix: Array) -> Array:
    """Angles that give the matrix back, at a pitch of +-90 degrees too, where roll and yaw are about one axis.

    There transforms3d takes either from what is left of rounding, and both together are another rotation. Here yaw is
    what roll, however it came out, leaves to be done: matrix @ Rx(-roll) is Rz(yaw) @ Ry(pitch).
    """
    roll = math.atan2(matrix[2, 1], matrix[2, 2])
    pitch = math.atan2(-matrix[2, 0], math.hypot(matrix[0, 0], matrix[1, 0]))
    second_column = math.cos(roll) * matrix[:, 1] - math.sin(roll) * matrix[:, 2]
    return np.array([roll, pitch, math.atan2(-second_column[0], second_column[1])])


def _gram_schmidt(first_row: Array, second_row: Array) -> Array:
    a_norm = float(np.linalg.norm(first_row))
    if a_norm < 1e-6:
        raise ValueError("the first row of a 6-d rotation is zero")
    a = first_row / a_norm
    b = second_row - (a @ second_row) * a
    b_norm = float(np.linalg.norm(b))
    if b_norm < 1e-6:
        raise ValueError("the two rows of a 6-d rotation are parallel")
    b = b / b_norm
    return np.stack([a, b, np.cross(a, b)])


def pose_matrix(pose: ArrayLike) -> Array:
    """The 4x4 transform of a pose (7,)."""
    p = np.asarray(pose, dtype=np.float64)
    if p.shape != (7,):
        raise ValueError(f"a pose has 7 values (x y z qx qy qz qw), got shape {p.shape}")
    matrix = np.eye(4)
    matrix[:3, :3] = rotation_matrix(p[3:], RotationForm.QUATERNION)
    matrix[:3, 3] = p[:3]
    return matrix


def matrix_pose(matrix: Array) -> Array:
    """The pose (7,) of a 4x4 transform."""
    return np.concatenate([matrix[:3, 3], rotation_values(matrix[:3, :3], RotationForm.QUATERNION)])


def slerp(start: Array, end: Array, fraction: float) -> Array:
    """Spherical linear interpolation of unit quaternions (4,), the short way round; fraction 0 is start, 1 is end."""
    dot = float(start @ end)
    sign = -1.0 if dot < 0.0 else 1.0  # at exactly 0 (half a turn apart) both ways are equally short
    angle = math.acos(min(1.0, abs(dot)))
    if angle < _SLERP_LINEAR_BELOW:
        blended = start + fraction * (sign * end - start)
    else:
        blended = math.sin((1.0 - fraction) * angle) * start + sign * math.sin(fraction * angle) * end
    return np.asarray(blended / math.sqrt(blended @ blended), dtype=np.float64)


def slerp_rows(start_nx4: Array, end_nx4: Array, fraction_n: Array) -> Array:
    """`slerp` of each row (n, 4)."""
    dot_n = np.sum(start_nx4 * end_nx4, axis=1)
    sign_n = np.where(dot_n < 0.0, -1.0, 1.0)
    angle_n = np.arccos(np.minimum(1.0, np.abs(dot_n)))
    is_linear_n = angle_n < _SLERP_LINEAR_BELOW
    start_share_n = np.where(is_linear_n, 1.0 - fraction_n, np.sin((1.0 - fraction_n) * angle_n))
    end_share_n = sign_n * np.where(is_linear_n, fraction_n, np.sin(fraction_n * angle_n))
    blended = start_share_n[:, None] * start_nx4 + end_share_n[:, None] * end_nx4
    return np.asarray(blended / np.linalg.norm(blended, axis=1, keepdims=True), dtype=np.float64)


def interpolate_pose(start: Array, end: Array, fraction: float) -> Array:
    """A pose between two poses (7,): position linear, orientation by slerp."""
    position = start[:3] + fraction * (end[:3] - start[:3])
    return np.concatenate([position, slerp(start[3:], end[3:], fraction)])


def mean_quaternion(quaternions_nx4: Array, weights_n: Array) -> Array:
    """Weighted mean of unit quaternions (n, 4) near each other: sign-aligned to the first, summed, normalised."""
    signs = np.where(quaternions_nx4 @ quaternions_nx4[0] < 0.0, -1.0, 1.0)
    mean = (weights_n * signs) @ quaternions_nx4
    return np.asarray(mean / np.linalg.norm(mean), dtype=np.float64)


def rotation_angle(first: Array, second: Array) -> float:
    """The angle [rad] between two unit quaternions (4,), 0 to pi; exact for small ones too, where arccos is not."""
    near = -second if first @ second < 0.0 else second
    apart, together = first - near, first + near
    return 4.0 * math.atan2(math.sqrt(apart @ apart), math.sqrt(together @ together))


def rotation_between(start: Array, end: Array) -> Array:
    """The rotation vector (3,) [rad] that turns one unit quaternion (4,) into another, the short way round."""
    x, y, z, w = _product(end.tolist(), [*(-start[:3]).tolist(), float(start[3])])
    sine, cosine = math.sqrt(x * x + y * y + z * z), abs(w)
    scale = 2.0 * math.atan2(sine, cosine) / sine if sine > _SLERP_LINEAR_BELOW else 2.0
    return np.array([x, y, z]) * math.copysign(scale, w)


def rotated(quaternion: Array, rotation: Array) -> Array:
    """A unit quaternion (4,) turned by a rotation vector (3,) [rad], about axes that stand still."""
    angle = math.sqrt(rotation @ rotation)
    scale = math.sin(angle / 2.0) / angle if angle > _SLERP_LINEAR_BELOW else 0.5
    turned = _product([*(scale * rotation).tolist(), math.cos(angle / 2.0)], quaternion.tolist())
    return np.array(turned) / math.hypot(*turned)


def _product(second: list[float], first: list[float]) -> tuple[float, float, float, float]:
    """The quaternion of one rotation after another; in plain numbers, which is ten times as fast as arrays of four."""
    (a, b, c, d), (x, y, z, w) = second, first
    return (
        d * x + a * w + b * z - c * y,
        d * y + b * w + c * x - a * z,
        d * z + c * w + a * y - b * x,
        d * w - a * x - b * y - c * z,
    )
