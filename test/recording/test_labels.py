"""What a row says of commands, requests, modes and chunks: the last word by its instant, and never an older wish."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.control import kinematics
from vla_ros.recording.assembling.holds import Hold
from vla_ros.recording.assembling.labels import Labels
from vla_ros.robots.panda import PANDA
from vla_ros.values import POSE_DIMENSIONS, Array, Command, Mode, SafetyState, Target

MS = 1_000_000
START_NS = 1_700_000_000_000_000_000
HOME = np.array(PANDA.home_rad)
JOINTS = PANDA.joint_names
KINEMATICS = kinematics.for_robot(PANDA)


@pytest.fixture
def labels() -> Labels:
    return Labels(PANDA, 2000 * MS)


def at(after_ms: int) -> int:
    return START_NS + after_ms * MS


def command(
    after_ms: int, joints: Array = HOME, width_m: float | None = 0.05, requested: Target | None = None
) -> Command:
    return Command(at(after_ms), joints, np.zeros(7), KINEMATICS.forward(joints), width_m, requested)


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers()), max_size=30),
    st.lists(st.integers(0, 45), max_size=10).map(sorted),
)
def test_a_hold_gives_the_last_item_by_then(given_items: list[tuple[int, int]], instants: list[int]) -> None:
    hold: Hold[int] = Hold(15)
    for stamp, item in given_items:
        hold.add(stamp, item)
    oldest = max((stamp for stamp, _ in given_items), default=0) - 15
    for instant in instants:
        earlier = [(stamp, index, item) for index, (stamp, item) in enumerate(given_items) if stamp <= instant]
        if instant >= oldest:
            expected = max(earlier, default=None)
            assert hold.at(instant) == (None if expected is None else (expected[0], expected[2]))


def test_what_was_not_sent_is_what_was_measured(labels: Labels) -> None:
    label = labels.at(at(0), HOME, 0.03)
    np.testing.assert_array_equal(label.sent, np.concatenate([HOME, KINEMATICS.forward(HOME), [0.03]]))
    np.testing.assert_array_equal(label.requested, label.sent)
    assert (label.is_requested, label.latency_s, label.mode, label.safety) == (
        False, 0.0, Mode.HOLD, SafetyState.HOLDING,
    )  # fmt: skip


def test_a_command_without_a_width_leaves_the_gripper_as_it_is(labels: Labels) -> None:
    labels.add_command(command(0, HOME + 0.1, width_m=None))
    label = labels.at(at(10), HOME, 0.03)
    np.testing.assert_array_equal(label.sent[:7], HOME + 0.1)
    assert label.sent[14] == 0.03


def test_requested_joints_come_with_their_pose(labels: Labels) -> None:
    wanted = Target(at(7), (*JOINTS, "gripper"), np.append(HOME + 0.2, 0.01))
    labels.add_command(command(0, HOME + 0.1, requested=wanted))
    label = labels.at(at(5), HOME, 0.03)
    assert label.is_requested, "at the tick of the command, whenever it is for"
    np.testing.assert_allclose(label.requested, [*(HOME + 0.2), *KINEMATICS.forward(HOME + 0.2), 0.01])
    np.testing.assert_array_equal(label.sent[:7], HOME + 0.1)


@given(st.lists(st.floats(-0.15, 0.15), min_size=7, max_size=7), st.booleans())
def test_a_requested_pose_comes_with_joints_that_reach_it(change: list[float], is_flipped: bool) -> None:
    labels = Labels(PANDA, 2000 * MS)
    pose = KINEMATICS.forward(HOME + np.array(change))
    given_pose = pose * np.array([1, 1, 1, *([-2.0] * 4 if is_flipped else [1.0] * 4)])  # the same turn
    labels.add_command(command(0))
    labels.add_requested(at(0), Target(at(0), POSE_DIMENSIONS, given_pose))
    label = labels.at(at(5), HOME, 0.03)
    np.testing.assert_allclose(label.requested[7:14], pose, atol=1e-9)
    np.testing.assert_allclose(KINEMATICS.forward(label.requested[:7])[:3], pose[:3], atol=1e-4)
    assert abs(KINEMATICS.forward(label.requested[:7])[3:] @ pose[3:]) > 1.0 - 1e-6
    assert np.abs(label.requested[:7] - HOME).max() < 1.0, "a way near the joints sent"
    assert label.requested[14] == label.sent[14] == 0.05


def test_a_request_that_was_answered_is_none(labels: Labels) -> None:
    wanted = Target(at(0), JOINTS, HOME + 0.2)
    labels.add_command(command(0, requested=wanted))
    labels.add_command(command(10))  # nobody asks any more: the arm brakes
    assert labels.at(at(5), HOME, 0.0).is_requested
    assert not labels.at(at(10), HOME, 0.0).is_requested
    labels.add_requested(at(20), wanted)
    assert labels.at(at(20), HOME, 0.0).is_requested, "before its command is heard of"
    assert not labels.at(at(1021), HOME, 0.0).is_requested, "and of a second ago"


@pytest.mark.parametrize("values", [np.append(HOME[:6], bad) for bad in (np.nan, np.inf, 1e39)])
def test_a_wish_that_is_no_number_is_no_wish(labels: Labels, values: Array) -> None:
    labels.add_command(command(0))
    labels.add_requested(at(0), Target(at(0), JOINTS, values))
    assert not labels.at(at(5), HOME, 0.0).is_requested


def test_what_is_not_of_this_arm_is_refused(labels: Labels) -> None:
    with pytest.raises(ValueError, match=r"commanded joint positions of panda have shape \(7,\), got \(6,\)"):
        labels.add_command(Command(at(0), HOME[:6], np.zeros(6), np.zeros(7)))
    with pytest.raises(ValueError, match=r"requested joint positions of panda have shape \(7,\), got \(6,\)"):
        labels.add_requested(at(0), Target(at(0), JOINTS[:6], HOME[:6]))
    with pytest.raises(ValueError, match="a command is finite, and no arm goes beyond 1e.06, (?s:.*) gripper nan"):
        labels.add_command(command(0, width_m=np.nan))
    with pytest.raises(ValueError, match="a command is finite, and no arm goes beyond 1e.06, got joints"):
        labels.add_command(Command(at(0), HOME * np.nan, np.zeros(7), np.zeros(7)))


def test_who_leads_and_what_acted(labels: Labels) -> None:
    said = [
        (0, Mode.HOLD, SafetyState.HOLDING, 40),
        (100, Mode.POLICY, SafetyState.RUNNING, 42),
        (200, Mode.TELEOP, SafetyState.RUNNING, 45),
        (300, Mode.POLICY, SafetyState.RAMPING, 3),  # it was restarted
        (400, Mode.POLICY, SafetyState.STOPPED, 4),
    ]
    for after_ms, mode, safety, count in said:
        labels.add_status(at(after_ms), mode, safety, count)
    seen = [labels.at(at(after_ms), HOME, 0.0) for after_ms in (50, 150, 250, 350, 450)]
    assert [label.mode for label in seen] == [mode for _, mode, _, _ in said]
    assert [label.safety for label in seen] == [safety for _, _, safety, _ in said]
    assert [label.interventions for label in seen] == [0, 2, 5, 5, 6], "since the first instant"
    assert [label.is_intervened for label in seen] == [False, False, True, False, False]


def test_a_controller_that_reports_no_more_leads_nobody(labels: Labels) -> None:
    labels.add_status(at(0), Mode.POLICY, SafetyState.RUNNING, 0)
    seen = [labels.at(at(after_ms), HOME, 0.0) for after_ms in (1000, 1001)]
    assert [label.mode for label in seen] == [Mode.POLICY, Mode.HOLD]
    assert [label.safety for label in seen] == [SafetyState.RUNNING, SafetyState.HOLDING]


def test_a_person_who_led_from_the_start_does_not_intervene(labels: Labels) -> None:
    for after_ms, mode in ((0, Mode.TELEOP), (10, Mode.POLICY), (20, Mode.TELEOP)):
        labels.add_status(at(after_ms), mode, SafetyState.RUNNING, 0)
    assert not any(labels.at(at(after_ms), HOME, 0.0).is_intervened for after_ms in (0, 10, 20))


def test_latency_is_of_the_chunk_that_arrived_last(labels: Labels) -> None:
    labels.add_chunk(at(0), at(120))
    labels.add_chunk(at(200), at(280))
    latencies = [labels.at(at(after_ms), HOME, 0.0).latency_s for after_ms in (119, 120, 279, 280)]
    assert latencies == pytest.approx([0.0, 0.12, 0.12, 0.08])


def test_an_episode_takes_over_what_is_still_followed(labels: Labels) -> None:
    labels.add_command(command(0, HOME + 0.1))
    labels.add_chunk(at(0), at(0))
    labels.begin(at(900))
    np.testing.assert_array_equal(labels.at(at(900), HOME, 0.0).sent[:7], HOME + 0.1)
    labels.add_status(at(900), Mode.TELEOP, SafetyState.RUNNING, 0)
    labels.begin(at(1100))
    label = labels.at(at(1100), HOME, 0.0)
    np.testing.assert_array_equal(label.sent[:7], HOME)
    assert label.mode is Mode.TELEOP, "a mode stands until there is another"


def test_more_is_awaited_from_who_just_sent(labels: Labels) -> None:
    assert not labels.awaits_command(at(0), 100 * MS)
    labels.add_command(command(0))
    awaited = [labels.awaits_command(at(after_ms), 100 * MS) for after_ms in (-1, 0, 1, 100, 101)]
    assert awaited == [False, False, True, True, False]
