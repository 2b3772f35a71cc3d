"""What a row of actions means: ActionSpec, and the way from a model's action space to absolute targets and back."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from vla_ros.geometry import RotationForm, matrix_pose, pose_matrix, rotation_matrix, rotation_values
from vla_ros.values import (
    GRIPPER_DIMENSION,
    NANOSECONDS_PER_SECOND,
    POSE_DIMENSIONS,
    ActionChunk,
    Config,
    ModelChunk,
)

Array = NDArray[np.float64]


class Space(str, Enum):
    """What the values are."""

    EE_POSE = "ee_pose"  # position [m] and rotation of the TCP
    EE_DELTA = "ee_delta"  # change of the TCP pose since the row before
    JOINT_POSITION = "joint_position"  # [rad]
    JOINT_DELTA = "joint_delta"  # change since the row before [rad]


class Frame(str, Enum):
    """In which frame end-effector values are written."""

    BASE = "base"  # axes of the robot's base; a delta turns about the TCP
    TOOL = "tool"  # ee_pose: relative to the anchor pose; ee_delta: relative to the pose of the row before


class Anchor(str, Enum):
    """Which pose at the observation's instant relative actions start from."""

    MEASURED = "measured"
    COMMANDED = "commanded"


class GripperConvention(str, Enum):
    """How the last value of a row tells the gripper's opening."""

    NONE = "none"  # rows have no gripper value
    WIDTH_M = "width_m"  # opening width [m]
    OPEN_UNIT = "open_unit"  # 0 closed .. 1 open
    CLOSED_UNIT = "closed_unit"  # 0 open .. 1 closed
    OPEN_SIGNED = "open_signed"  # -1 closed .. 1 open (CALVIN)
    CLOSED_SIGNED = "closed_signed"  # -1 open .. 1 closed (robosuite, LIBERO)


class ActionSpec(Config):
    """The meaning of a policy's action rows; the same in a system's config, a dataset and a checkpoint.

    Rows are [end-effector values or joint values, gripper value unless `gripper` is none].
    """

    space: Space = Space.EE_POSE
    frame: Frame = Frame.BASE
    anchor: Anchor = Anchor.MEASURED
    rotation: RotationForm = RotationForm.QUATERNION
    rate_hz: float = Field(default=10.0, ge=0.01, le=1000.0)
    horizon: int = Field(default=10, ge=1, le=1000)  # rows in a chunk
    gripper: GripperConvention = GripperConvention.WIDTH_M
    joint_names: tuple[str, ...] = ()  # filled from the robot for joint spaces

    @model_validator(mode="after")
    def _joint_values_have_no_frame(self) -> ActionSpec:
        if self.is_joint and self.frame is Frame.TOOL:
            raise ValueError(f"frame: tool does not go with space: {self.space.value}; joint values have no frame")
        return self

    @property
    def is_joint(self) -> bool:
        """Whether rows hold joint values."""
        return self.space in (Space.JOINT_POSITION, Space.JOINT_DELTA)

    @property
    def needs_anchor(self) -> bool:
        """Whether rows mean something only relative to the pose at the observation's instant."""
        return self.space in (Space.EE_DELTA, Space.JOINT_DELTA) or self.frame is Frame.TOOL

    @property
    def step_ns(self) -> int:
        """Time between two rows."""
        return round(NANOSECONDS_PER_SECOND / self.rate_hz)

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Names of a row's values, in order."""
        delta = "delta." if self.space in (Space.EE_DELTA, Space.JOINT_DELTA) else ""
        if self.is_joint:
            names = tuple(delta + name for name in self.joint_names)
        else:
            names = tuple(f"{delta}tcp.{name}" for name in ("x", "y", "z", *self.rotation.suffixes))
        return names if self.gripper is GripperConvention.NONE else (*names, GRIPPER_DIMENSION)

    @property
    def absolute_dimensions(self) -> tuple[str, ...]:
        """Names of the values of the absolute chunk that rows of this kind become."""
        names = self.joint_names if self.is_joint else POSE_DIMENSIONS
        return names if self.gripper is GripperConvention.NONE else (*names, GRIPPER_DIMENSION)


@dataclass(frozen=True, eq=False)
class AnchorState:
    """The robot at the observation's instant: `joint_positions` (J,) rad and `tcp_pose` (7,) in the base frame."""

    joint_positions: Array
    tcp_pose: Array


def to_absolute(
    spec: ActionSpec, chunk: ModelChunk, anchor: AnchorState | None, gripper_max_width_m: float
) -> ActionChunk:
    """Integrate a model's rows, from `anchor`, into absolute targets; row k of a delta chunk is the sum of rows 0..k.

    `anchor` may be None where `spec.needs_anchor` is false. Quaternions of neighbouring rows have the same sign. Raises
    ValueError for rows of another shape, degenerate rotations and a missing anchor.
    """
    rows = np.asarray(chunk.actions, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != len(spec.dimensions):
        raise ValueError(f"actions of {spec.dimensions} have shape (K, {len(spec.dimensions)}), got {rows.shape}")
    motion = rows if spec.gripper is GripperConvention.NONE else rows[:, :-1]
    if spec.space is Space.JOINT_POSITION:
        absolute = motion
    elif spec.space is Space.JOINT_DELTA:
        absolute = _needed(spec, anchor).joint_positions + np.cumsum(motion, axis=0)
    else:
        absolute = _absolute_poses(spec, motion, _start(spec, anchor))
    if spec.gripper is not GripperConvention.NONE:
        widths = gripper_width_m(rows[:, -1:], spec.gripper, gripper_max_width_m)
        absolute = np.concatenate([absolute, widths], axis=1)
    return ActionChunk(chunk.observation_ns, spec.step_ns, spec.absolute_dimensions, absolute)


def from_absolute(
    spec: ActionSpec, chunk: ActionChunk, anchor: AnchorState | None, gripper_max_width_m: float
) -> ModelChunk:
    """The inverse of `to_absolute`: absolute targets written as rows of `spec`."""
    if chunk.dimensions != spec.absolute_dimensions:
        raise ValueError(f"expected a chunk of {spec.absolute_dimensions}, got {chunk.dimensions}")
    has_gripper = spec.gripper is not GripperConvention.NONE
    absolute = chunk.actions[:, :-1] if has_gripper else chunk.actions
    if spec.space is Space.JOINT_POSITION:
        motion = absolute
    elif spec.space is Space.JOINT_DELTA:
        motion = np.diff(absolute, axis=0, prepend=_needed(spec, anchor).joint_positions[None])
    else:
        motion = _relative_poses(spec, absolute, _start(spec, anchor))
    if has_gripper:
        value = gripper_value(chunk.actions[:, -1:], spec.gripper, gripper_max_width_m)
        motion = np.concatenate([motion, value], axis=1)
    return ModelChunk(chunk.observation_ns, motion)


def _needed(spec: ActionSpec, anchor: AnchorState | None) -> AnchorState:
    if anchor is None:
        raise ValueError(f"actions of {spec.space.value} in frame {spec.frame.value} need an anchor, got None")
    return anchor


def _start(spec: ActionSpec, anchor: AnchorState | None) -> Array:
    """The anchor's pose as a 4x4 transform; the identity, which is not looked at, where rows need no anchor."""
    return pose_matrix(_needed(spec, anchor).tcp_pose) if spec.needs_anchor else np.eye(4)


def _absolute_poses(spec: ActionSpec, motion: Array, anchor: Array) -> Array:
    current = anchor
    poses: list[Array] = []
    for row in motion:
        step = np.eye(4)
        step[:3, :3] = rotation_matrix(row[3:], spec.rotation)
        step[:3, 3] = row[:3]
        if spec.space is Space.EE_POSE:
            current = anchor @ step if spec.frame is Frame.TOOL else step
        elif spec.frame is Frame.TOOL:
            current = current @ step
        else:
            moved = np.eye(4)
            moved[:3, :3] = step[:3, :3] @ current[:3, :3]
            moved[:3, 3] = current[:3, 3] + step[:3, 3]
            current = moved
        pose = matrix_pose(current)
        if poses and pose[3:] @ poses[-1][3:] < 0.0:
            pose[3:] *= -1.0  # a hand that points down has qw near 0: its sign must not flip from row to row
        poses.append(pose)
    return np.stack(poses)


def _relative_poses(spec: ActionSpec, poses: Array, anchor: Array) -> Array:
    before = anchor
    rows = []
    for pose in poses:
        current = pose_matrix(pose)
        if spec.space is Space.EE_POSE:
            step = np.linalg.inv(anchor) @ current if spec.frame is Frame.TOOL else current
        elif spec.frame is Frame.TOOL:
            step = np.linalg.inv(before) @ current
        else:
            step = np.eye(4)
            step[:3, :3] = current[:3, :3] @ before[:3, :3].T
            step[:3, 3] = current[:3, 3] - before[:3, 3]
        before = current
        rows.append(np.concatenate([step[:3, 3], rotation_values(step[:3, :3], spec.rotation)]))
    return np.stack(rows)


def gripper_width_m(value: Array, convention: GripperConvention, max_width_m: float) -> Array:
    """Opening width [m] of gripper values in `convention`, clamped to 0..max_width_m."""
    opening = {
        GripperConvention.WIDTH_M: lambda v: v / max_width_m,
        GripperConvention.OPEN_UNIT: lambda v: v,
        GripperConvention.CLOSED_UNIT: lambda v: 1.0 - v,
        GripperConvention.OPEN_SIGNED: lambda v: 0.5 * (1.0 + v),
        GripperConvention.CLOSED_SIGNED: lambda v: 0.5 * (1.0 - v),
    }[convention](np.asarray(value, dtype=np.float64))
    # NaN is kept by clip on purpose: the safety stage refuses the whole command and says so.
    return np.asarray(max_width_m * np.clip(opening, 0.0, 1.0), dtype=np.float64)


def gripper_value(width_m: Array, convention: GripperConvention, max_width_m: float) -> Array:
    """The inverse of `gripper_width_m`."""
    opening = np.asarray(width_m, dtype=np.float64) / max_width_m
    result = {
        GripperConvention.WIDTH_M: lambda o: o * max_width_m,
        GripperConvention.OPEN_UNIT: lambda o: o,
        GripperConvention.CLOSED_UNIT: lambda o: 1.0 - o,
        GripperConvention.OPEN_SIGNED: lambda o: 2.0 * o - 1.0,
        GripperConvention.CLOSED_SIGNED: lambda o: 1.0 - 2.0 * o,
    }[convention](opening)
    return np.asarray(result, dtype=np.float64)
