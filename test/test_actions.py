"""Action rows to absolute targets and back: every space, frame, rotation form and gripper convention; closed forms."""

from __future__ import annotations

from itertools import product
from math import cos, pi, sin

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.actions import (
    ActionSpec,
    AnchorState,
    Frame,
    GripperConvention,
    Space,
    from_absolute,
    gripper_value,
    gripper_width_m,
    to_absolute,
)
from vla_ros.geometry import RotationForm, rotation_angle
from vla_ros.values import POSE_DIMENSIONS, ActionChunk, Array, ModelChunk

MAX_WIDTH_M = 0.08
NAMES = ("a", "b", "c")
DOWN = (1.0, 0.0, 0.0, 0.0)  # a hand that points down

SPECS = [
    ActionSpec(space=space, frame=frame, rotation=rotation, gripper=gripper, joint_names=joint_names)
    for space, frame, rotation, gripper in product(Space, Frame, RotationForm, GripperConvention)
    for joint_names in ((NAMES if space in (Space.JOINT_POSITION, Space.JOINT_DELTA) else ()),)
    if not (joint_names and (frame is Frame.TOOL or rotation is not RotationForm.QUATERNION))
]


def anchor_at(*pose: float) -> AnchorState:
    return AnchorState(np.array([0.1, -0.2, 0.3]), np.array(pose))


def unit(values: Array) -> Array:
    return np.asarray(values / np.linalg.norm(values, axis=-1, keepdims=True))


def random_absolute(spec: ActionSpec, rng: np.random.Generator, rows: int = 6) -> ActionChunk:
    """A wandering path: steps of any direction, turns of up to about a radian."""
    if spec.is_joint:
        motion = np.cumsum(rng.normal(0.0, 0.1, (rows, len(NAMES))), axis=0)
    else:
        quaternions = [unit(rng.normal(size=4))]
        for _ in range(rows - 1):
            quaternions.append(unit(quaternions[-1] + rng.normal(0.0, 0.2, 4)))
        motion = np.hstack([np.cumsum(rng.normal(0.0, 0.05, (rows, 3)), axis=0), quaternions])
    if spec.gripper is not GripperConvention.NONE:
        motion = np.hstack([motion, rng.uniform(0.0, MAX_WIDTH_M, (rows, 1))])
    return ActionChunk(123, spec.step_ns, spec.absolute_dimensions, motion)


def assert_same_targets(first: ActionChunk, second: ActionChunk) -> None:
    assert (first.observation_ns, first.step_ns, first.dimensions) == (
        second.observation_ns,
        second.step_ns,
        second.dimensions,
    )
    if first.dimensions[:7] != POSE_DIMENSIONS:
        np.testing.assert_allclose(first.actions, second.actions, atol=1e-9)
        return
    columns = [0, 1, 2, *range(7, first.actions.shape[1])]
    np.testing.assert_allclose(first.actions[:, columns], second.actions[:, columns], atol=1e-9)
    for one, other in zip(first.actions[:, 3:7], second.actions[:, 3:7], strict=True):
        assert rotation_angle(one, other) < 1e-6


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(SPECS), st.integers(0, 2**32 - 1))
def test_absolute_targets_survive_the_way_into_any_action_space_and_back(spec: ActionSpec, seed: int) -> None:
    rng = np.random.default_rng(seed)
    absolute = random_absolute(spec, rng)
    anchor = anchor_at(*rng.normal(0.0, 0.3, 3), *unit(rng.normal(size=4)))
    rows = from_absolute(spec, absolute, anchor, MAX_WIDTH_M)
    assert rows.actions.shape == (6, len(spec.dimensions))
    assert_same_targets(to_absolute(spec, rows, anchor, MAX_WIDTH_M), absolute)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([spec for spec in SPECS if not spec.is_joint]), st.integers(0, 2**32 - 1))
def test_quaternions_of_neighbouring_targets_have_the_same_sign(spec: ActionSpec, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tilts = rng.normal(0.0, 0.05, (6, 4)) + DOWN  # qw near zero: a canonical sign would flip at random
    motion = np.hstack([np.zeros((6, 3)), unit(tilts)])
    if spec.gripper is not GripperConvention.NONE:
        motion = np.hstack([motion, np.zeros((6, 1))])
    anchor = anchor_at(0.0, 0.0, 0.0, *DOWN)
    rows = from_absolute(spec, ActionChunk(0, 1, spec.absolute_dimensions, motion), anchor, MAX_WIDTH_M)
    quaternions = to_absolute(spec, rows, anchor, MAX_WIDTH_M).actions[:, 3:7]
    assert (np.sum(quaternions[1:] * quaternions[:-1], axis=1) > 0.0).all()


@pytest.mark.parametrize("rotation", RotationForm)
def test_constant_tool_deltas_trace_a_circle(rotation: RotationForm) -> None:
    """Forward by a chord and a turn of `angle` per row, in the tool frame, is a polygon inscribed in a circle."""
    angle, radius = pi / 10, 0.2
    spec = ActionSpec(
        space=Space.EE_DELTA, frame=Frame.TOOL, rotation=rotation, horizon=20, gripper=GripperConvention.NONE
    )
    chord = (radius * sin(angle), radius * (1 - cos(angle)), 0.0)  # from the tangent's point of view
    turn = {
        RotationForm.EULER_XYZ: (0.0, 0.0, angle),
        RotationForm.AXIS_ANGLE: (0.0, 0.0, angle),
        RotationForm.ROTATION_6D: (cos(angle), -sin(angle), 0.0, sin(angle), cos(angle), 0.0),
        RotationForm.QUATERNION: (0.0, 0.0, sin(angle / 2), cos(angle / 2)),
    }[rotation]
    rows = np.tile([*chord, *turn], (20, 1))
    start = anchor_at(radius, 0.0, 0.5, 0.0, 0.0, sin(pi / 4), cos(pi / 4))  # on the x axis, heading along y
    actions = to_absolute(spec, ModelChunk(0, rows), start, MAX_WIDTH_M).actions
    turned = angle * np.arange(1, 21)
    expected = np.stack([radius * np.cos(turned), radius * np.sin(turned), np.full(20, 0.5)], axis=1)
    np.testing.assert_allclose(actions[:, :3], expected, atol=1e-12)
    assert rotation_angle(actions[-1, 3:], start.tcp_pose[3:]) < 1e-9  # once round


def test_constant_tool_deltas_with_a_climb_trace_a_helix() -> None:
    angle, climb, forward = 0.2, 0.01, 0.05
    spec = ActionSpec(
        space=Space.EE_DELTA, frame=Frame.TOOL, rotation=RotationForm.AXIS_ANGLE, gripper=GripperConvention.NONE
    )
    rows = np.tile([forward, 0.0, climb, 0.0, 0.0, angle], (10, 1))
    actions = to_absolute(spec, ModelChunk(0, rows), anchor_at(0, 0, 0, 0, 0, 0, 1), MAX_WIDTH_M).actions
    # Row k moves along the heading it finds, which is k turns: the sum of a geometric series of unit vectors.
    steps = np.cumsum(forward * np.exp(1j * angle * np.arange(10)))
    np.testing.assert_allclose(actions[:, 0] + 1j * actions[:, 1], steps, atol=1e-12)
    np.testing.assert_allclose(actions[:, 2], climb * np.arange(1, 11), atol=1e-12)


def test_base_deltas_move_along_the_base_and_turn_about_the_tcp() -> None:
    spec = ActionSpec(space=Space.EE_DELTA, rotation=RotationForm.AXIS_ANGLE, gripper=GripperConvention.NONE)
    rows = np.tile([0.01, 0.0, 0.0, 0.0, 0.0, 0.1], (10, 1))
    actions = to_absolute(spec, ModelChunk(0, rows), anchor_at(0.4, 0.1, 0.3, *DOWN), MAX_WIDTH_M).actions
    np.testing.assert_allclose(actions[:, 0], 0.4 + 0.01 * np.arange(1, 11), atol=1e-12)
    np.testing.assert_allclose(actions[:, 1:3], np.tile([0.1, 0.3], (10, 1)), atol=1e-12)
    # A yaw of 1 rad in the base, of a hand that points down: q = (0, 0, sin, cos) * (1, 0, 0, 0).
    assert rotation_angle(actions[-1, 3:], np.array([cos(0.5), sin(0.5), 0.0, 0.0])) < 1e-9


def test_tool_poses_are_relative_to_the_anchor_and_not_to_the_row_before() -> None:
    spec = ActionSpec(space=Space.EE_POSE, frame=Frame.TOOL, gripper=GripperConvention.NONE)
    rows = np.array([[0.0, 0.0, 0.1, 0, 0, 0, 1.0], [0.0, 0.0, 0.1, 0, 0, 0, 1.0]])
    actions = to_absolute(spec, ModelChunk(0, rows), anchor_at(0.4, 0.1, 0.3, *DOWN), MAX_WIDTH_M).actions
    np.testing.assert_allclose(actions[:, :3], [[0.4, 0.1, 0.2]] * 2, atol=1e-12)  # the hand's z points down


def test_joint_deltas_add_up_from_the_anchor() -> None:
    spec = ActionSpec(space=Space.JOINT_DELTA, gripper=GripperConvention.NONE, joint_names=NAMES)
    rows = np.tile([0.1, 0.0, -0.2], (3, 1))
    chunk = to_absolute(spec, ModelChunk(7, rows), anchor_at(0, 0, 0, 0, 0, 0, 1), MAX_WIDTH_M)
    np.testing.assert_allclose(chunk.actions, [[0.2, -0.2, 0.1], [0.3, -0.2, -0.1], [0.4, -0.2, -0.3]])
    assert chunk.dimensions == NAMES
    assert spec.dimensions == ("delta.a", "delta.b", "delta.c")
    assert (chunk.observation_ns, chunk.step_ns) == (7, 100_000_000)


GRIPPER_ENDS = {  # the value that means closed, the value that means open
    GripperConvention.WIDTH_M: (0.0, MAX_WIDTH_M),
    GripperConvention.OPEN_UNIT: (0.0, 1.0),
    GripperConvention.CLOSED_UNIT: (1.0, 0.0),
    GripperConvention.OPEN_SIGNED: (-1.0, 1.0),
    GripperConvention.CLOSED_SIGNED: (1.0, -1.0),
}


@pytest.mark.parametrize("convention", GRIPPER_ENDS)
def test_gripper_values_mean_what_their_convention_says(convention: GripperConvention) -> None:
    closed, opened = GRIPPER_ENDS[convention]
    values = np.array([closed, opened, (closed + opened) / 2, 3 * closed - 2 * opened, 3 * opened - 2 * closed])
    widths = gripper_width_m(values, convention, MAX_WIDTH_M)
    np.testing.assert_allclose(widths, [0.0, MAX_WIDTH_M, MAX_WIDTH_M / 2, 0.0, MAX_WIDTH_M], atol=1e-12)
    np.testing.assert_allclose(gripper_value(widths[:3], convention, MAX_WIDTH_M), values[:3], atol=1e-12)


def test_a_joint_space_has_no_tool_frame() -> None:
    with pytest.raises(ValueError, match="tool does not go with space: joint_delta"):
        ActionSpec(space=Space.JOINT_DELTA, frame=Frame.TOOL)


def test_rows_of_another_length_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"tcp\.qw', 'gripper'\) have shape \(K, 8\), got \(10, 7\)"):
        to_absolute(ActionSpec(), ModelChunk(0, np.zeros((10, 7))), None, MAX_WIDTH_M)
    with pytest.raises(ValueError, match=r"expected a chunk of .* got \('a', 'b', 'c'\)"):
        from_absolute(ActionSpec(), ActionChunk(0, 1, NAMES, np.zeros((1, 3))), None, MAX_WIDTH_M)


@pytest.mark.parametrize("space", [Space.EE_DELTA, Space.JOINT_DELTA])
def test_deltas_without_an_anchor_are_refused(space: Space) -> None:
    spec = ActionSpec(space=space, joint_names=NAMES if space is Space.JOINT_DELTA else ())
    assert spec.needs_anchor
    with pytest.raises(ValueError, match=f"actions of {space.value} in frame base need an anchor, got None"):
        to_absolute(spec, ModelChunk(0, np.ones((2, len(spec.dimensions)))), None, MAX_WIDTH_M)


def test_a_spec_written_as_json_is_read_back_the_same() -> None:
    spec = ActionSpec(space=Space.EE_DELTA, frame=Frame.TOOL, rotation=RotationForm.EULER_XYZ, rate_hz=5, horizon=16)
    assert ActionSpec.model_validate_json(spec.model_dump_json()) == spec
    with pytest.raises(ValueError, match="rotatoin"):
        ActionSpec.model_validate({"rotatoin": "quaternion"})
