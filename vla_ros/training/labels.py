"""What a policy should have done from a row on: the chunk, from what was asked for then, in the policy's own space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from vla_ros.actions import ActionSpec, Anchor, AnchorState, GripperConvention, Space, from_absolute
from vla_ros.control import kinematics
from vla_ros.recording.features import REQUESTED, SENT, STATE
from vla_ros.robots.robot import Robot
from vla_ros.values import NANOSECONDS_PER_SECOND, ActionChunk, Array

#: What `Requested` reads.
COLUMNS = (STATE, SENT, REQUESTED)

_POSE = 7
_ANGLES = 3  # values of a rotation that is written in angles
_DELTAS = (Space.EE_DELTA, Space.JOINT_DELTA)


class RecordedAction(ActionSpec):
    """What the values of a column are, and how much 1.0 of them is where they are scaled: CALVIN's 0.02 m, 0.05 rad."""

    position_scale_m: float = Field(default=1.0, gt=0.0)  # also of a change in position
    rotation_scale_rad: float = Field(default=1.0, gt=0.0)  # of rotations, joints and their changes: 0.01745 of degrees

    @model_validator(mode="before")
    @classmethod
    def _may_have_no_scale(cls, given: Any) -> Any:
        return given.model_dump() if isinstance(given, ActionSpec) and not isinstance(given, cls) else given

    @model_validator(mode="after")
    def _scales_are_of_something(self) -> RecordedAction:
        if self.is_joint and self.position_scale_m != 1.0:
            raise ValueError(f"position_scale_m: rows of {self.space.value} have no positions in metres")
        if not self.is_joint and self.rotation.size != _ANGLES and self.rotation_scale_rad != 1.0:
            raise ValueError(f"rotation_scale_rad: {self.rotation.value} is not in radians")
        return self

    @property
    def spec(self) -> ActionSpec:
        """What rows mean once they are scaled."""
        return ActionSpec(**{name: getattr(self, name) for name in ActionSpec.model_fields})

    @property
    def scales(self) -> Array:
        """(A,) by which a row's values are multiplied; the gripper's is 1."""
        count = len(self.dimensions)
        scales = np.full(count, self.rotation_scale_rad)
        if not self.is_joint:
            scales[:3] = self.position_scale_m
        if self.gripper is not GripperConvention.NONE:
            scales[-1] = 1.0
        return scales


class EndRule(str, Enum):
    """What a chunk holds that reaches beyond the last row of its segment (an episode, as far as time has no gap)."""

    HOLD = "hold"  # the last target: no more motion, the gripper as it was
    RELEASED = "released"  # as UP-VLA was trained: the last action left out, then zeros with the last gripper value


def rows_between(fps: int, rate_hz: float) -> int:
    """How many rows at `fps` are a step of a chunk apart; raises ValueError where that is no whole number."""
    rows = round(fps / rate_hz)
    if rows < 1 or abs(rows * rate_hz - fps) > 1e-6 * fps:
        rates = ", ".join(f"{fps / divisor:g}" for divisor in (1, 2, 3, 5))
        raise ValueError(f"actions at {rate_hz:g} Hz do not fall on rows at {fps} Hz; rates that do: {rates} and so on")
    return rows


class Requested:
    """Chunks of the targets that were asked for, before limits and disturbances, as `spec` writes them.

    Row k is what was asked for at k steps after the row observed. What is relative starts where inference will start
    it: at the measured joints, or at those commanded.
    """

    def __init__(self, spec: ActionSpec, robot: Robot, end: EndRule = EndRule.HOLD) -> None:
        if spec.is_joint and not spec.joint_names:
            spec = spec.model_copy(update={"joint_names": robot.joint_names})
        self.spec = spec
        self._end = end
        self._joints = len(robot.joints)
        self._max_width_m = robot.gripper.max_width_m
        self._kinematics = kinematics.for_robot(robot)

    def chunk(self, columns: Mapping[str, Array], frame: int, stride: int) -> tuple[Array, NDArray[np.bool_]]:
        """(K, A) from row `frame` of a segment's `COLUMNS` on, and (K,) which rows are beyond its end."""
        spec, joints = self.spec, self._joints
        rows, is_pad = _rows(frame, len(columns[REQUESTED]), spec.horizon, stride, self._end)
        asked = columns[REQUESTED][rows].astype(np.float64)
        motion = asked[:, :joints] if spec.is_joint else asked[:, joints : joints + _POSE]
        has_gripper = spec.gripper is not GripperConvention.NONE
        targets = np.concatenate([motion, asked[:, -1:]], axis=1) if has_gripper else motion
        step_ns = stride * NANOSECONDS_PER_SECOND  # the grid of time does not matter to what is written
        chunk = ActionChunk(0, step_ns, spec.absolute_dimensions, targets)
        actions = np.array(from_absolute(spec, chunk, self._anchor(columns, frame), self._max_width_m).actions)
        return _ended(actions, is_pad, spec, self._end), is_pad

    def _anchor(self, columns: Mapping[str, Array], frame: int) -> AnchorState:
        if self.spec.anchor is Anchor.COMMANDED:
            sent = columns[SENT][frame].astype(np.float64)
            return AnchorState(sent[: self._joints], sent[self._joints : self._joints + _POSE])
        measured = columns[STATE][frame, : self._joints].astype(np.float64)
        return AnchorState(measured, self._kinematics.forward(measured))


class Taken:
    """Chunks of a column's rows as they are: actions of any dataset, that mean what `spec` says."""

    def __init__(
        self,
        spec: ActionSpec,
        key: str,
        dimensions: Sequence[int],
        end: EndRule = EndRule.HOLD,
        scales: Array | float = 1.0,
    ) -> None:
        """`dimensions`: which of the column's are taken, in order; `scales` (A,): what they are multiplied by."""
        self.spec = spec
        self._scales = scales
        self.dimensions = list(dimensions)
        self.key = key
        self._end = end

    def chunk(self, columns: Mapping[str, Array], frame: int, stride: int) -> tuple[Array, NDArray[np.bool_]]:
        """(K, A) from row `frame` of a segment on, and (K,) which rows are beyond its end."""
        values = columns[self.key]
        rows, is_pad = _rows(frame, len(values), self.spec.horizon, stride, self._end)
        actions = self.rows(values[rows])
        if self.spec.space in _DELTAS:
            motion = actions if self.spec.gripper is GripperConvention.NONE else actions[:, :-1]
            motion[is_pad] = 0.0
        return _ended(actions, is_pad, self.spec, self._end), is_pad

    def rows(self, values: Array) -> Array:
        """(T, A) of rows of the column, as `spec` has them."""
        return np.asarray(values[:, self.dimensions].astype(np.float64) * self._scales)


def _rows(
    frame: int, length: int, horizon: int, stride: int, end: EndRule
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Which rows a chunk takes, (K,), and which of them stand for some beyond the end."""
    wanted = frame + stride * np.arange(horizon)
    last = length - 1 if end is EndRule.HOLD else max(frame, length - 2)
    is_pad = wanted > last
    # Padding repeats the last row taken: with rows that are not next to each other that need not be the very last.
    return np.where(is_pad, wanted[~is_pad][-1] if end is EndRule.RELEASED else last, wanted), is_pad


def _ended(actions: Array, is_pad: NDArray[np.bool_], spec: ActionSpec, end: EndRule) -> Array:
    """`actions` with zeros in the padding where the release has them; the gripper, already the last one, stays."""
    if end is EndRule.RELEASED:
        motion = actions if spec.gripper is GripperConvention.NONE else actions[:, :-1]
        motion[is_pad] = 0.0
    return actions
