"""Chunks from what was asked for: integrated they give it back, and what lies beyond an episode follows its rule."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.actions import ActionSpec, Anchor, AnchorState, Frame, GripperConvention, Space, to_absolute
from vla_ros.control import kinematics
from vla_ros.geometry import RotationForm, rotated, rotation_angle
from vla_ros.recording.features import REQUESTED, SENT, STATE
from vla_ros.robots.panda import PANDA
from vla_ros.training.labels import EndRule, Requested, Taken, rows_between
from vla_ros.values import Array, ModelChunk

FORWARD = kinematics.for_robot(PANDA).forward
MAX_WIDTH_M = PANDA.gripper.max_width_m
HOME = np.array(PANDA.home_rad)
SPECS = [
    ActionSpec(space=Space.EE_DELTA, rotation=RotationForm.AXIS_ANGLE, gripper=GripperConvention.OPEN_UNIT),
    ActionSpec(space=Space.EE_DELTA, frame=Frame.TOOL, rotation=RotationForm.EULER_XYZ, anchor=Anchor.COMMANDED),
    ActionSpec(space=Space.EE_POSE, rotation=RotationForm.ROTATION_6D, gripper=GripperConvention.CLOSED_SIGNED),
    ActionSpec(space=Space.EE_POSE, frame=Frame.TOOL, gripper=GripperConvention.NONE),
    ActionSpec(space=Space.JOINT_DELTA, gripper=GripperConvention.WIDTH_M),
    ActionSpec(space=Space.JOINT_POSITION),
]


def episode(seed: int, length: int = 40) -> dict[str, Array]:
    """Columns of an arm that wanders: measured, sent and asked for are three different things."""
    rng = np.random.default_rng(seed)
    joints = HOME + np.cumsum(rng.uniform(-0.03, 0.03, (3, length, 7)), axis=1)
    widths = rng.uniform(0.0, MAX_WIDTH_M, (3, length, 1))
    poses = [np.array([FORWARD(row) for row in one]) for one in joints]
    vectors = [np.concatenate(parts, axis=1) for parts in zip(joints, poses, widths, strict=True)]
    return {STATE: np.concatenate([joints[0], widths[0]], axis=1), SENT: vectors[1], REQUESTED: vectors[2]}


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 99), frame=st.integers(0, 39), stride=st.integers(1, 3))
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.space.value}-{spec.frame.value}")
def test_chunks_integrated_from_where_inference_starts_are_what_was_asked_for(
    spec: ActionSpec, seed: int, frame: int, stride: int
) -> None:
    columns = episode(seed)
    labels = Requested(spec, PANDA)
    actions, is_pad = labels.chunk(columns, frame, stride)
    joints = columns[STATE][frame, :7] if spec.anchor is Anchor.MEASURED else columns[SENT][frame, :7]
    back = to_absolute(labels.spec, ModelChunk(0, actions), AnchorState(joints, FORWARD(joints)), MAX_WIDTH_M).actions
    for k, row in enumerate(back):
        wanted = columns[REQUESTED][min(frame + k * stride, 39)]
        assert is_pad[k] == (frame + k * stride > 39)
        if spec.is_joint:
            np.testing.assert_allclose(row[:7], wanted[:7], atol=1e-9)
        else:
            np.testing.assert_allclose(row[:3], wanted[7:10], atol=1e-9)
            assert rotation_angle(row[3:7], wanted[10:14]) < 1e-7
        if spec.gripper is not GripperConvention.NONE:
            assert row[-1] == pytest.approx(wanted[-1], abs=1e-12)


def test_a_hand_that_moves_evenly_is_asked_for_its_lag_then_for_its_speed() -> None:
    """Closed form: 2 cm a row along x, the arm 1.5 cm behind, turning by 0.1 rad a row about z."""
    start = FORWARD(HOME)
    asked = np.zeros((12, 15))
    for k in range(12):
        asked[k, 7:10] = start[:3] + np.array([0.015 + 0.02 * k, 0.0, 0.0])
        asked[k, 10:14] = rotated(start[3:], np.array([0.0, 0.0, 0.1 * k]))
        asked[k, -1] = MAX_WIDTH_M if k < 4 else 0.0
    measured = np.tile([*HOME, MAX_WIDTH_M], (12, 1))
    actions, _ = Requested(SPECS[0], PANDA).chunk({STATE: measured, SENT: asked, REQUESTED: asked}, 0, 1)
    np.testing.assert_allclose(actions[0], [0.015, 0, 0, 0, 0, 0, 1], atol=1e-9)
    np.testing.assert_allclose(actions[1:, :6], np.tile([0.02, 0, 0, 0, 0, 0.1], (9, 1)), atol=1e-9)
    np.testing.assert_array_equal(actions[:, 6], [1, 1, 1, 1, 0, 0, 0, 0, 0, 0])


def test_beyond_the_end_a_hand_stays_or_does_as_the_release() -> None:
    """Rows [k, 10 + k, gripper], an episode of 5; the release leaves the last action out, unless it is the only one."""
    spec = ActionSpec(space=Space.JOINT_DELTA, joint_names=("a", "b"), horizon=4)
    values = np.array([[k, 10 + k, k % 2] for k in range(5)], dtype=np.float32)

    def chunk(frame: int, end: EndRule) -> tuple[list[list[float]], list[bool]]:
        actions, is_pad = Taken(spec, "action", (0, 1, 2), end).chunk({"action": values}, frame, 1)
        return actions.tolist(), is_pad.tolist()

    whole = [[0, 10, 0], [1, 11, 1], [2, 12, 0], [3, 13, 1]], [False] * 4
    assert chunk(0, EndRule.HOLD) == chunk(0, EndRule.RELEASED) == whole
    assert chunk(3, EndRule.HOLD) == ([[3, 13, 1], [4, 14, 0], [0, 0, 0], [0, 0, 0]], [False, False, True, True])
    assert chunk(2, EndRule.RELEASED) == ([[2, 12, 0], [3, 13, 1], [0, 0, 1], [0, 0, 1]], [False, False, True, True])
    assert chunk(4, EndRule.RELEASED) == ([[4, 14, 0], *[[0, 0, 0]] * 3], [False, True, True, True])


def test_absolute_targets_stay_beyond_the_end() -> None:
    spec = ActionSpec(space=Space.JOINT_POSITION, joint_names=("a",), gripper=GripperConvention.NONE, horizon=4)
    values = np.arange(10.0).reshape(5, 2)
    actions, is_pad = Taken(spec, "action", (1,)).chunk({"action": values}, 1, 2)
    assert actions.tolist() == [[3.0], [7.0], [9.0], [9.0]]
    assert is_pad.tolist() == [False, False, True, True]


def test_rows_fall_on_the_steps_of_a_chunk_or_are_refused() -> None:
    assert (rows_between(30, 10.0), rows_between(10, 10.0), rows_between(15, 7.5)) == (3, 1, 2)
    for fps, rate_hz in ((15, 10.0), (5, 10.0)):
        with pytest.raises(ValueError, match=f"{rate_hz:g} Hz do not fall on rows at {fps} Hz"):
            rows_between(fps, rate_hz)
