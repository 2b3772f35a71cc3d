"""Joint states: which are believed, where the arm stands; and that no wrong one ever moves the command."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.control.limits import Interventions
from vla_ros.control.measured import Measured
from vla_ros.robots.panda import PANDA
from vla_ros.values import SafetyState

MS = 1_000_000
TICK_NS = 10 * MS
HOME = np.array(PANDA.home_rad)
ELBOW = np.array([0, 0, 0, 1.0, 0, 0, 0])


def measured() -> Measured:
    return Measured(PANDA, 100.0, Interventions())


def feed(arm: Measured, begin_ms: int, *positions: np.ndarray) -> None:
    """One every 10 ms."""
    for index, row in enumerate(positions):
        arm.add((begin_ms + 10 * index) * MS, row, np.zeros(7))


def test_it_takes_three_that_agree_to_know_where_an_arm_stands():
    arm = measured()
    for count in range(3):
        assert arm.standing(0) is None
        feed(arm, 10 * count, HOME)
    np.testing.assert_array_equal(arm.standing(0), HOME)
    assert arm.standing(21 * MS) is None, "measured before"
    assert arm.stale(120 * MS) == ""
    assert arm.stale(121 * MS) == "101 ms old"


@pytest.mark.parametrize("wrong", [HOME + 0.2, HOME - 0.2 * ELBOW, HOME + 4.0, np.full(7, np.nan)])
def test_one_that_is_wrong_is_dropped_and_for_a_while_nothing_is_sure(wrong):
    arm = measured()
    feed(arm, 0, HOME, HOME, HOME, wrong)
    assert arm.standing(0) is None
    assert arm.doubt(is_strict=True)
    assert not arm.doubt(is_strict=False)
    feed(arm, 40, *[HOME] * 9)
    np.testing.assert_array_equal(arm.state.positions, HOME)
    assert arm.standing(0) is None
    feed(arm, 130, HOME)
    np.testing.assert_array_equal(arm.standing(0), HOME)
    assert not arm.doubt(is_strict=True)
    assert arm.take_jump() == ""


@pytest.mark.parametrize("other", [HOME + 0.2, HOME + 4.0])
def test_two_sources_that_disagree_are_never_believed_to_stand(other):
    """A second publisher of joint states; three of its messages never come in a row."""
    arm = measured()
    random = np.random.default_rng(1)
    since_other = 0
    for tick in range(200):
        is_other = since_other == 8 or (since_other >= 2 and random.random() < 0.3)
        since_other = 0 if is_other else since_other + 1
        feed(arm, 10 * tick, other if is_other else HOME)
        if tick > 20:
            assert arm.standing(0) is None
            np.testing.assert_array_equal(arm.state.positions, HOME)
    assert arm.doubt(is_strict=False)


@pytest.mark.parametrize(
    ("stamps_ms", "offsets_rad", "why"),
    [
        ([0, 10, 20, 30], [0.0, 0.2, 0.0, 0.2], "panda_joint4 was measured at -2.356 rad and 10 ms later at -2.156"),
        ([0, 0, 0, 0], [0.0] * 4, "stamps 0 ms apart, expected above 0 and at most 100"),
        ([30, 20, 10, 0], [0.0] * 4, "stamps -10 ms apart, expected above 0 and at most 100"),
        ([0, 500, 1000, 1500], [0.0] * 4, "stamps 500 ms apart, expected above 0 and at most 100"),
    ],
)
@pytest.mark.parametrize("jumped", [False, True])
def test_joint_states_that_come_but_are_never_believed_say_why(stamps_ms, offsets_rad, why, jumped):
    arm = measured()
    if jumped:
        arm.forget()
    for stamp_ms, offset_rad in zip(stamps_ms, offsets_rad, strict=True):
        arm.add(stamp_ms * MS, HOME + offset_rad * ELBOW, None)
    assert arm.stale(0) == f"none {'since the clock jumped' if jumped else 'yet'} that is reliable: {why}"


def test_an_arm_that_is_elsewhere_for_good_has_jumped():
    arm = measured()
    feed(arm, 0, HOME, HOME, HOME, HOME + 0.4 * ELBOW, HOME + 0.4 * ELBOW)
    assert arm.take_jump() == ""
    feed(arm, 50, HOME + 0.4 * ELBOW)
    assert arm.take_jump() == "panda_joint4 was measured at -2.356 rad and 10 ms later at -1.956"
    assert arm.take_jump() == "", "once"
    assert arm.standing(0) is None
    feed(arm, 60, *[HOME + 0.4 * ELBOW] * 11)
    np.testing.assert_array_equal(arm.standing(0), HOME + 0.4 * ELBOW)


def test_where_nothing_was_measured_an_arm_may_have_moved():
    arm = measured()
    feed(arm, 0, HOME, HOME, HOME)
    feed(arm, 520, *[HOME + 0.4 * ELBOW] * 2)
    np.testing.assert_array_equal(arm.state.positions, HOME)
    feed(arm, 540, HOME + 0.4 * ELBOW)
    assert arm.take_jump() == ""
    np.testing.assert_array_equal(arm.standing(0), HOME + 0.4 * ELBOW)


def test_a_robot_whose_clock_is_set_back_is_believed_again():
    arm = measured()
    feed(arm, 10_000, HOME, HOME, HOME)
    feed(arm, 5_000, HOME, HOME)
    assert arm.state.stamp_ns == 10_020 * MS
    feed(arm, 5_020, HOME)
    assert arm.state.stamp_ns == 5_020 * MS


@pytest.mark.parametrize("speed_rad_s", [0.05, 0.5])
def test_an_arm_that_moves_does_not_stand_whatever_velocities_it_reports(speed_rad_s):
    arm = measured()
    for tick in range(20):
        arm.add(tick * TICK_NS, HOME + speed_rad_s * tick * 0.01 * ELBOW, None if tick % 2 else np.zeros(7))
    assert (arm.standing(0) is None) is (2 * 0.01 * speed_rad_s > 0.01 + 0.1 * 0.02) or speed_rad_s > 0.1
    arm.add(200 * MS, arm.state.positions, 0.3 * ELBOW)
    assert arm.standing(0) is None


def test_what_is_out_of_range_says_which_joint_and_where():
    arm = measured()
    feed(arm, 0, *[HOME + np.array([4.0, 0, 0, 0, 0, 0, 0])] * 3)
    assert arm.doubt(is_strict=False) == "panda_joint1 at 4.000 rad is outside its range, -2.897 to 2.897"
    at_the_end = HOME.copy()
    at_the_end[3] = PANDA.joints[3].upper_rad + 0.04
    arm = measured()
    feed(arm, 0, at_the_end, at_the_end, at_the_end)
    assert arm.standing(0) is not None, "a zero may be a little off"


# --- on the arm: the command never goes where a wrong measurement is


WRONG = [0.2, -0.25, 4.0, np.nan]


def resumed(new_bench):
    """An arm that was held and has just been told to resume."""
    bench = new_bench().started()
    bench.arm.hold(bench.now_ns)
    bench.run(0.1)
    bench.arm.resume(bench.now_ns)
    return bench


@pytest.mark.parametrize("offset", WRONG)
@pytest.mark.parametrize("word", ["start", "resume", "hold", "run", "fault"])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_no_single_joint_state_moves_the_command(new_bench, limits, assert_keeps, offset, word, after):
    bench = new_bench().started()
    bench.send_joints(0.01)
    bench.run(0.5)
    if word in ("start", "resume", "hold"):
        bench.arm.hold(bench.now_ns)
        bench.run(0.5)
        getattr(bench.arm, word)(bench.now_ns)
    elif word == "fault":
        bench.arm.on_fault("reflex", bench.now_ns)
        bench.run(0.2)
        bench.commands = []  # the robot stopped itself
        bench.arm.on_fault_cleared(bench.now_ns)
        bench.arm.on_recovered(bench.now_ns)
    bench.run(0.01 * after)
    bench.pass_time(TICK_NS)
    bench.arm.on_joint_state(bench.now_ns, bench.measured + offset, np.zeros(7))
    bench.step()
    bench.run(0.3)
    assert_keeps(bench.path(), limits)
    bench.send_joints(0.01)
    bench.run(0.1)
    assert bench.safety is (SafetyState.HOLDING if word == "hold" else SafetyState.RUNNING), bench.reason


def test_a_second_publisher_of_joint_states_is_no_place_to_start_from(new_bench):
    bench = resumed(new_bench)
    held = bench.measured.copy()
    for tick in range(100):
        bench.pass_time(TICK_NS)
        bench.arm.on_joint_state(bench.now_ns - MS, held, np.zeros(7))
        if tick % 3 == 0:
            bench.arm.on_joint_state(bench.now_ns, held + 0.25, np.zeros(7))
        bench.step()
        assert (bench.commands[-1].joint_positions == held).all()
    assert bench.reason.startswith("implausible joint states: panda_joint")


def test_an_arm_that_jumps_after_the_word_waits_for_another(new_bench):
    bench = resumed(new_bench)
    held = bench.measured.copy()
    for _ in range(50):
        bench.measured = held + 0.2 * ELBOW
        bench.run(0.01)
    assert (bench.commands[-1].joint_positions == held).all()
    assert bench.reason.startswith("the arm is not where it was commanded: panda_joint4 was measured at -2.356 rad and")
    bench.arm.resume(bench.now_ns)
    bench.measured = held + 0.2 * ELBOW
    bench.run(0.01)
    np.testing.assert_array_equal(bench.commands[-1].joint_positions, held + 0.2 * ELBOW)


def test_an_arm_that_was_guided_by_hand_starts_where_it_was_left(new_bench, limits, assert_keeps):
    """0.5 rad away, at a speed that a hand has; nothing that is sent then is further from the arm than the limits."""
    bench = new_bench().started()
    bench.arm.stop(bench.now_ns)
    bench.run(0.1)
    bench.commands = []
    for _ in range(100):
        bench.measured = bench.measured + 0.005 * ELBOW
        bench.run(0.01)
    left = bench.measured.copy()
    bench.arm.start(bench.now_ns)
    bench.run(0.1)
    assert bench.commands
    assert (bench.path() == left).all()
    bench.send_joints(0.02)
    bench.run(0.5)
    assert bench.safety is SafetyState.RUNNING
    assert_keeps(bench.path(), limits)


@given(seed=st.integers(0, 2**31), share=st.sampled_from([0.02, 0.3, 0.9]))
def test_whatever_is_measured_the_command_stays_where_the_arm_is(new_bench, limits, assert_keeps, seed, share):
    """Every wrong state is wrong in its own way; a held arm is resumed and started again and again."""
    random = np.random.default_rng(seed)
    bench = new_bench().started()
    held = bench.measured.copy()
    for tick in range(120):
        bench.pass_time(TICK_NS)
        if random.random() < share:
            wrong = held + random.choice([0.1, 0.3, 2.0]) * random.normal(size=7)
            stamp_ns = bench.now_ns + int(random.choice([0, -50 * MS, 90 * MS, -(10**10), 2**62]))
            bench.arm.on_joint_state(stamp_ns, wrong, np.zeros(7))
        else:
            bench.arm.on_joint_state(bench.now_ns, held, np.zeros(7))
        if tick % 10 == 0:
            getattr(bench.arm, random.choice(["hold", "resume", "start"]))(bench.now_ns)
        bench.step()
    assert (bench.path() == held).all()
