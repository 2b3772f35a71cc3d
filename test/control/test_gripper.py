"""Gripper latch: one goal in flight, no flood from a wish that chatters, failures retried and told."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vla_ros.control.gripper import GripperConfig, Latch

MAX_M = 0.08
TICK_NS = 10_000_000
SECOND_NS = 1_000_000_000


def latch(**config) -> Latch:
    return Latch(GripperConfig(**config), MAX_M)


def test_a_closing_wish_grasps_whatever_is_there():
    goal = latch().step(0, 0.01)
    assert goal is not None
    assert goal.kind == "grasp"
    assert (goal.width_m, goal.epsilon_m) == (0.0, MAX_M)
    assert goal.force_n == GripperConfig().force_n


def test_an_opening_wish_moves_to_the_wished_width():
    goal = latch(speed_m_s=0.15).step(0, 0.07)
    assert goal is not None
    assert (goal.kind, goal.width_m, goal.speed_m_s) == ("move", 0.07, 0.15)


@pytest.mark.parametrize("wish_m", [0.04, 0.06])
def test_at_the_thresholds_it_stays_as_it_is(wish_m):
    """They and what lies between mean neither."""
    gripper = latch(grasp_below=0.5, open_above=0.75)
    assert gripper.step(0, wish_m) is None
    assert gripper.step(0, wish_m - 0.021 if wish_m < 0.05 else wish_m + 0.001) is not None


def test_the_next_goal_waits_for_the_answer():
    gripper = latch()
    assert gripper.step(0, 0.0) is not None
    assert gripper.step(TICK_NS, MAX_M) is None
    assert gripper.in_flight is not None
    gripper.done(True)
    opening = gripper.step(2 * TICK_NS, MAX_M)
    assert opening is not None
    assert opening.kind == "move"


def test_a_gripper_that_is_open_already_gets_no_goal_but_a_closed_one_is_made_to_hold():
    assert latch().step(0, MAX_M, measured_width_m=0.079) is None
    assert latch().step(0, MAX_M, measured_width_m=0.03) is not None
    assert latch().step(0, 0.0, measured_width_m=0.0) is not None


@given(noise=st.lists(st.floats(-0.15, 0.15), min_size=50, max_size=200), centre=st.floats(0.35, 0.65))
def test_chatter_around_a_threshold_is_no_flood(noise, centre):
    gripper = latch(grasp_below=0.3, open_above=0.7)
    goals = 0
    for tick, offset in enumerate(noise):
        wish = min(max(centre + offset, 0.0), 1.0) * MAX_M
        if gripper.step(tick * TICK_NS, wish) is not None:
            goals += 1
            gripper.done(True)
    crossings = {"low": centre - 0.15 < 0.3, "high": centre + 0.15 > 0.7}
    assert goals <= sum(crossings.values())


@given(wishes=st.lists(st.tuples(st.floats(0.0, MAX_M), st.sampled_from(["", "done", "failed"])), max_size=300))
def test_never_two_goals_in_flight(wishes):
    gripper = latch(timeout_s=1000.0)
    in_flight = 0
    for tick, (wish, answer) in enumerate(wishes):
        if gripper.step(tick * TICK_NS, wish) is not None:
            in_flight += 1
        assert in_flight <= 1
        assert (gripper.in_flight is not None) is (in_flight == 1)
        if answer and in_flight:
            gripper.done(answer == "done", "refused")
            in_flight = 0


def test_a_failure_is_retried_later_but_not_for_ever():
    gripper = latch(max_retries=2, retry_delay_s=0.5)
    goals = []
    for tick in range(500):
        if gripper.step(tick * TICK_NS, 0.0) is not None:
            goals.append(tick)
            gripper.done(False, "finger blocked")
    assert len(goals) == 3
    assert all(later - earlier >= 50 for earlier, later in pairwise(goals))
    assert gripper.failures == 3
    assert gripper.message == "gripper grasp failed: finger blocked"
    assert gripper.step(500 * TICK_NS, MAX_M) is not None  # another wish is another chance
    gripper.done(True)
    assert gripper.message == ""
    assert gripper.step(501 * TICK_NS, 0.0) is not None


def test_no_answer_is_a_failure():
    gripper = latch(timeout_s=2.0, retry_delay_s=0.0)
    assert gripper.step(0, 0.0) is not None
    assert gripper.step(2 * SECOND_NS - 1, 0.0) is None
    assert gripper.failures == 0
    assert gripper.step(2 * SECOND_NS, 0.0) is not None
    assert gripper.message == "gripper grasp failed: no answer to a grasp goal in 2 s"
    gripper.done(True)
    gripper.done(True)  # the first goal's answer, late: nothing is in flight any more
    assert gripper.in_flight is None


def test_forgetting_makes_the_same_wish_a_goal_again():
    gripper = latch()
    gripper.step(0, 0.0)
    gripper.done(True)
    assert gripper.step(TICK_NS, 0.0) is None
    gripper.forget()
    assert gripper.step(2 * TICK_NS, 0.0) is not None


def test_a_ramp_of_widths_ends_at_the_last_one():
    gripper = latch()
    widths = []
    for tick in range(100):
        goal = gripper.step(tick * TICK_NS, min(MAX_M, 0.049 + 0.0005 * tick))
        if goal is not None:
            widths.append(goal.width_m)
        if tick % 20 == 19:
            gripper.done(True)
    assert len(widths) <= 3
    assert MAX_M - widths[-1] < 0.15 * MAX_M


def test_thresholds_need_a_gap():
    with pytest.raises(ValidationError, match=r"grasp_below 0\.6 must be less than open_above 0\.6"):
        GripperConfig(grasp_below=0.6, open_above=0.6)
