"""Recovery: on the operator's word once the arm stands; by itself at most three times in a row, never after a hand."""

from __future__ import annotations

import pytest

from vla_ros.control.recovery import Recovery

S = 1_000_000_000


def attempts(recovery: Recovery, until_s: float, *, success: bool = False, start_s: float = 0.0) -> list[float]:
    """When a robot that needs it and stands is asked, looking every 100 ms."""
    asked = []
    for tick in range(round(start_s * 10), round(until_s * 10)):
        now_ns = tick * S // 10
        if recovery.due(now_ns, is_needed=True, can_recover=True, is_at_rest=True):
            asked.append(tick / 10)
            recovery.done(success, "the robot said so", now_ns)
    return asked


def test_by_default_only_the_operator_asks_and_every_word_counts_once():
    recovery = Recovery(by_itself=False)
    assert attempts(recovery, 100.0) == []
    assert recovery.said == ""
    recovery.ask()
    assert attempts(recovery, 200.0, start_s=100.0) == [100.0]
    assert recovery.said == "does not recover: the robot said so"
    recovery.ask()
    assert attempts(recovery, 300.0, success=True, start_s=200.0) == [200.0]
    assert recovery.said == "recovered: the robot said so"


def test_by_itself_it_tries_three_times_with_a_pause_then_waits_for_the_operator():
    recovery = Recovery(by_itself=True)
    assert attempts(recovery, 60.0) == [0.0, 2.0, 4.0]
    recovery.ask()
    assert attempts(recovery, 120.0, start_s=60.0) == [60.0, 62.0, 64.0, 66.0], "his word, and three more"


@pytest.mark.parametrize(("well_s", "more"), [(9.9, 0), (10.1, 3)])
def test_a_robot_that_falls_back_into_a_reflex_has_used_its_attempts_until_it_was_well_for_a_while(well_s, more):
    recovery = Recovery(by_itself=True)
    assert attempts(recovery, 20.0, success=True) == [0.0, 2.0, 4.0]
    for tick in range(round(well_s * 10) + 1):
        assert not recovery.due(20 * S + tick * S // 10, is_needed=False, can_recover=True, is_at_rest=False)
    assert len(attempts(recovery, 60.0, start_s=40.0)) == more


def test_it_waits_until_the_arm_stands_and_one_attempt_has_ended():
    recovery = Recovery(by_itself=True)
    assert not recovery.due(0, is_needed=True, can_recover=True, is_at_rest=False)
    assert recovery.due(0, is_needed=True, can_recover=True, is_at_rest=True)
    assert recovery.said == "automatic recovery, attempt 1 of 3"
    assert not recovery.due(60 * S, is_needed=True, can_recover=True, is_at_rest=True)


def test_after_a_hand_on_the_stop_button_it_does_nothing_by_itself():
    recovery = Recovery(by_itself=True)
    assert not recovery.due(0, is_needed=True, can_recover=False, is_at_rest=True)
    assert attempts(recovery, 60.0) == []
    recovery.ask()
    assert attempts(recovery, 61.0, start_s=60.0) == [60.0]


def test_what_was_asked_of_a_robot_that_is_well_is_forgotten():
    recovery = Recovery(by_itself=False)
    recovery.ask()
    assert not recovery.due(0, is_needed=False, can_recover=True, is_at_rest=True)
    assert attempts(recovery, 10.0) == []
