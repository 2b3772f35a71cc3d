"""The wrapper that makes any policy's chunks absolute: anchors, memory, checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from vla_ros.actions import ActionSpec, Anchor, Frame, GripperConvention, Space
from vla_ros.geometry import RotationForm
from vla_ros.policies.policy import _FOLLOWED_RAD, AbsolutePolicy, Inference, PolicyError, WindowSpec
from vla_ros.values import ActionChunk, Array, Committed, ModelChunk, Observation, Window

MAX_WIDTH_M = 0.08
JOINTS = ("a", "b")
DELTA = ActionSpec(space=Space.JOINT_DELTA, horizon=3, gripper=GripperConvention.OPEN_UNIT, joint_names=JOINTS)


def forward(joint_positions: Array) -> Array:
    """Kinematics of a gantry that points down: two joints are x and y."""
    return np.array([joint_positions[0], joint_positions[1], 0.3, 1.0, 0.0, 0.0, 0.0])


@dataclass
class Dummy:
    """A policy that gives what it is told to, and keeps what it was given."""

    action_spec: ActionSpec = DELTA
    window_spec: WindowSpec = field(default_factory=WindowSpec)
    decide: Callable[[Window, Committed], Array] = lambda window, committed: np.full((3, 3), 0.5)
    seen: list[Committed] = field(default_factory=list)
    instruction: str = ""

    def reset(self, instruction: str) -> None:
        self.instruction = instruction

    def infer(self, window: Window, committed: Committed) -> Inference:
        self.seen.append(committed)
        return Inference(ModelChunk(window[-1].instant_ns, self.decide(window, committed)))


def observation(instant_ns: int, **streams: tuple[float, ...]) -> Observation:
    return Observation(instant_ns, {}, {name: np.array(values) for name, values in streams.items()})


def wrap(policy: Dummy) -> AbsolutePolicy:
    return AbsolutePolicy(policy, forward, MAX_WIDTH_M)


def test_deltas_start_from_the_pose_that_the_spec_names() -> None:
    here = observation(5, joints=(1.0, 2.0), commanded_joints=(1.5, 2.5))
    measured, _ = wrap(Dummy()).infer([here], None)
    np.testing.assert_allclose(measured.actions, [[1.5, 2.5, 0.04], [2.0, 3.0, 0.04], [2.5, 3.5, 0.04]])
    assert (measured.observation_ns, measured.dimensions) == (5, ("a", "b", "gripper"))
    commanded, _ = wrap(Dummy(DELTA.model_copy(update={"anchor": Anchor.COMMANDED}))).infer([here], None)
    np.testing.assert_allclose(commanded.actions[0], [2.0, 3.0, 0.04])


def test_a_pose_relative_to_the_tool_starts_from_forward_kinematics() -> None:
    spec = ActionSpec(frame=Frame.TOOL, rotation=RotationForm.AXIS_ANGLE, horizon=1, gripper=GripperConvention.NONE)
    policy = Dummy(spec, decide=lambda window, committed: np.array([[0.0, 0.1, 0.2, 0.0, 0.0, 0.0]]))
    chunk, _ = wrap(policy).infer([observation(0, joints=(1.0, 2.0))], None)
    np.testing.assert_allclose(chunk.actions, [[1.0, 1.9, 0.1, 1.0, 0.0, 0.0, 0.0]], atol=1e-12)


def test_a_policy_of_absolute_actions_is_followed_without_knowing_the_joints() -> None:
    spec = ActionSpec(horizon=1)
    row = np.array([[0.4, 0.0, 0.3, 1.0, 0.0, 0.0, 0.0, 0.08]])
    policy = Dummy(spec, WindowSpec(proprioception=()), lambda window, committed: row)
    assert wrap(policy).window_spec.proprioception == ("joints",)  # they tell whether the arm follows
    chunk, _ = wrap(policy).infer([observation(0)], None)
    np.testing.assert_allclose(chunk.actions, row, atol=1e-12)


def test_the_stream_actions_start_from_is_asked_for() -> None:
    spec = DELTA.model_copy(update={"anchor": Anchor.COMMANDED})
    policy = wrap(Dummy(spec, WindowSpec(proprioception=("world",))))
    assert policy.window_spec.proprioception == ("world", "commanded_joints")
    with pytest.raises(PolicyError, match="which start from 'commanded_joints'; there are: world"):
        policy.infer([observation(0, world=(0.0,))], None)


def test_what_is_scheduled_is_given_in_the_policys_own_space_too() -> None:
    policy = Dummy()
    scheduled = ActionChunk(0, DELTA.step_ns, DELTA.absolute_dimensions, np.array([[1.0, 2.0, 0.08], [1.2, 2.0, 0.0]]))
    wrap(policy).infer([observation(0, joints=(0.9, 2.0))], scheduled)
    committed = policy.seen[0]
    assert committed.scheduled is scheduled
    assert committed.prefix is not None
    np.testing.assert_allclose(committed.prefix.actions, [[0.1, 0.0, 1.0], [0.2, 0.0, 0.0]], atol=1e-12)


@pytest.mark.parametrize(("apart", "is_committed"), [(0.05, True), (0.35, False)])
@pytest.mark.parametrize("spec", [DELTA, ActionSpec(horizon=3)], ids=["joints", "poses"])
def test_only_what_the_arm_follows_is_committed(spec: ActionSpec, apart: float, is_committed: bool) -> None:
    """A held arm stays where it is while the schedule runs ahead: whoever went on from there would never meet it."""
    here = forward(np.array([1.0, 2.0])) if not spec.is_joint else np.array([1.0, 2.0])
    ahead = np.tile(np.append(here, 0.08), (3, 1))
    ahead[:, 0] += apart
    policy = Dummy(spec, decide=lambda window, committed: np.tile(ahead[0], (3, 1)))
    wrap(policy).infer(
        [observation(0, joints=(1.0, 2.0))], ActionChunk(0, spec.step_ns, spec.absolute_dimensions, ahead)
    )
    committed = policy.seen[0]
    assert (committed.scheduled is not None) is is_committed
    assert (committed.prefix is not None) is is_committed


def test_an_arm_exactly_at_the_tolerance_does_not_follow() -> None:
    for apart, is_committed in ((_FOLLOWED_RAD, False), (np.nextafter(_FOLLOWED_RAD, 0.0), True)):
        policy = Dummy()
        scheduled = ActionChunk(0, DELTA.step_ns, DELTA.absolute_dimensions, np.array([[apart, 0.0, 0.08]] * 3))
        wrap(policy).infer([observation(0, joints=(0.0, 0.0))], scheduled)
        assert (policy.seen[0].scheduled is not None) is is_committed


def test_a_policy_is_told_how_many_of_its_rows_will_be_past_at_most_all() -> None:
    policy = Dummy()
    for delay_steps in (0, 2, 3, 9):
        wrap(policy).infer([observation(0, joints=(0.0, 0.0))], None, delay_steps)
    assert [committed.delay_steps for committed in policy.seen] == [0, 2, 3, DELTA.horizon]


def test_what_is_scheduled_in_other_dimensions_has_no_prefix() -> None:
    policy = Dummy()
    wrap(policy).infer([observation(0, joints=(0.0, 0.0))], ActionChunk(0, 1, ("teleop",), np.zeros((1, 1))))
    assert policy.seen[0].prefix is None


def test_a_policy_gets_back_its_last_chunk() -> None:
    policy = Dummy(decide=lambda window, committed: np.full((3, 3), 1e-9 * window[-1].instant_ns))
    absolute = wrap(policy)
    for instant_ns in (0, 200, 400):
        absolute.infer([observation(instant_ns, joints=(0.0, 0.0))], None)
    assert policy.seen[0].previous is None
    assert [committed.previous.observation_ns for committed in policy.seen[1:] if committed.previous] == [0, 200]


def test_a_policy_that_looks_back_gets_the_chunk_it_decided_back_then() -> None:
    """Replanned every 200 while its observations are 1000 apart: a model of image, chunk, image wants a match."""
    policy = Dummy(window_spec=WindowSpec(length=2, step_ns=1000))
    absolute = wrap(policy)
    for instant_ns in range(0, 5000, 200):
        past = observation(max(0, instant_ns - 1000 + 30), joints=(0.0, 0.0))  # instants never match exactly
        absolute.infer([past, observation(instant_ns, joints=(0.0, 0.0))], None)
    looked_back = [committed.previous.observation_ns for committed in policy.seen if committed.previous]
    assert looked_back == [0] * 5 + list(range(200, 4000, 200))


def test_a_reset_forgets_and_passes_the_instruction_on() -> None:
    policy = Dummy()
    absolute = wrap(policy)
    absolute.infer([observation(0, joints=(0.0, 0.0))], None)
    absolute.reset("lift the red cube")
    absolute.infer([observation(1, joints=(0.0, 0.0))], None)
    assert policy.instruction == "lift the red cube"
    assert policy.seen[1].previous is None


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((3, 2)), r"Dummy gave actions of shape \(3, 2\), expected \(3, 3\)"),
        (np.zeros((4, 3)), r"Dummy gave actions of shape \(4, 3\), expected \(3, 3\)"),
        (np.zeros(3), r"Dummy gave actions of shape \(3,\), expected \(3, 3\)"),
        (np.array([[0, 0, 0], [0, np.nan, 0], [0, 0, 0]]), r"not finite: nan in row 1, delta\.b; expected \(3, 3\)"),
        (np.array([[0, 0, 0], [0, 0, 0], [0, 0, -np.inf]]), r"not finite: -inf in row 2, gripper"),
    ],
)
def test_what_cannot_be_executed_is_refused_by_name(rows: Array, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        wrap(Dummy(decide=lambda window, committed: rows)).infer([observation(0, joints=(0.0, 0.0))], None)


def test_rows_that_are_no_rotation_are_refused_by_name() -> None:
    policy = Dummy(ActionSpec(horizon=1), decide=lambda window, committed: np.zeros((1, 8)))
    with pytest.raises(PolicyError, match="Dummy gave rows that are no actions: a quaternion of norm 0"):
        wrap(policy).infer([observation(0, joints=(0.0, 0.0))], None)


def test_a_window_of_another_length_is_refused() -> None:
    with pytest.raises(PolicyError, match="Dummy looks at 16 observations, got 1"):
        wrap(Dummy(window_spec=WindowSpec(length=16, step_ns=1))).infer([observation(0, joints=(0.0, 0.0))], None)
