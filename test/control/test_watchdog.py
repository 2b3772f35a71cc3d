"""Watchdog: which events stop the arm, what brings it back, and the reason it gives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.control.watchdog import TABLE, Cause, Event, Watchdog, WatchdogConfig
from vla_ros.values import SafetyState

RUNNING, RAMPING, HOLDING, STOPPED = (
    SafetyState.RUNNING,
    SafetyState.RAMPING,
    SafetyState.HOLDING,
    SafetyState.STOPPED,
)


def running(config: WatchdogConfig | None = None) -> Watchdog:
    watchdog = Watchdog(config or WatchdogConfig())
    for event in (Event.START, Event.STATE_FRESH, Event.ANCHORED, Event.CHUNK_CAME, Event.TARGET_GOOD, Event.MOVING):
        watchdog.on(0, event)
    assert watchdog.state is RUNNING
    assert watchdog.reason == ""
    return watchdog


def test_is_held_until_started():
    watchdog = Watchdog(WatchdogConfig())
    assert watchdog.state is HOLDING
    assert watchdog.reason == "not started"
    watchdog.on(0, Event.RESUME)
    watchdog.on(0, Event.ANCHORED)
    watchdog.on(0, Event.CHUNK_CAME)
    assert watchdog.reason == "not started"


LOSSES = [
    (Event.STATE_STALE, Event.STATE_FRESH),
    (Event.POLICY_LOST, Event.CHUNK_CAME),
    (Event.CHUNK_STALE, Event.TARGET_GOOD),
    (Event.STARVED, Event.TARGET_GOOD),
    (Event.TARGET_REFUSED, Event.TARGET_GOOD),
]


@pytest.mark.parametrize(("lost", "back"), LOSSES)
def test_a_loss_ramps_holds_and_comes_back_by_itself(lost, back):
    watchdog = running()
    assert watchdog.on(10, lost, "told") is RAMPING
    assert watchdog.reason.endswith(": told")
    assert watchdog.on(20, Event.STANDSTILL) is HOLDING
    assert watchdog.state_since_ns == 20
    assert watchdog.on(30, back) is RUNNING
    watchdog.on(40, Event.MOVING)
    assert watchdog.on(50, lost) is RAMPING


@pytest.mark.parametrize(("lost", "back"), LOSSES)
def test_a_loss_waits_for_the_operator_where_so_configured(lost, back):
    watchdog = running(WatchdogConfig(resumes_by_itself=False))
    watchdog.on(10, lost)
    watchdog.on(20, back)
    assert watchdog.state is RAMPING
    watchdog.on(30, Event.RESUME)
    for event in (Event.ANCHORED, Event.CHUNK_CAME):
        watchdog.on(30, event)
    assert watchdog.state is RUNNING


@pytest.mark.parametrize(
    ("event", "state", "reason"),
    [
        (Event.FAULT, RAMPING, "waits for resume after a fault of the robot"),
        (Event.ESTOP, STOPPED, "emergency stop"),
        (Event.CLOCK_JUMPED, RAMPING, "clock jump"),
        (Event.DEVIATED, RAMPING, "the arm is not where it was commanded"),
        (Event.HOLD, RAMPING, "held by the operator"),
    ],
)
def test_serious_causes_wait_for_the_operator(event, state, reason):
    watchdog = running()
    assert watchdog.on(10, event) is state
    for other in Event:
        if other not in (Event.RESUME, Event.START, Event.STOP, Event.ESTOP) and not TABLE[other].begins:
            watchdog.on(20, other)
    assert watchdog.state is not RUNNING
    assert watchdog.reason == reason
    watchdog.on(30, Event.RESUME)
    for after in (Event.ANCHORED, Event.CHUNK_CAME):
        watchdog.on(30, after)
    assert watchdog.state is RUNNING


def test_a_fault_that_is_still_there_cannot_be_resumed_from():
    watchdog = running()
    watchdog.on(10, Event.FAULT, "joint reflex")
    watchdog.on(20, Event.RESUME)
    assert watchdog.state is not RUNNING
    assert watchdog.reason == "fault of the robot: joint reflex"


def test_start_does_not_end_an_emergency_stop_or_a_fault():
    for event in (Event.ESTOP, Event.FAULT):
        watchdog = running()
        watchdog.on(10, event)
        for after in (Event.START, Event.FAULT_CLEARED, Event.ANCHORED, Event.CHUNK_CAME):
            watchdog.on(20, after)
        assert watchdog.state is not RUNNING


def test_the_worst_cause_is_the_reason():
    watchdog = running()
    watchdog.on(10, Event.STARVED)
    watchdog.on(10, Event.STATE_STALE, "150 ms old")
    assert watchdog.reason == "stale joint state: 150 ms old"
    watchdog.on(10, Event.ESTOP)
    assert watchdog.reason == "emergency stop"


@given(events=st.lists(st.sampled_from(list(Event)), max_size=60))
def test_runs_only_without_a_cause_and_always_knows_why_not(events):
    watchdog = Watchdog(WatchdogConfig())
    stopped = False
    for event in events:
        state = watchdog.on(0, event)
        stopped = event is Event.ESTOP or (stopped and event is not Event.RESUME)
        assert (state is STOPPED) is stopped
        assert (state is RUNNING) is (watchdog.reason == "")
        assert (state is RUNNING) is not any(watchdog.has(cause) for cause in Cause)


def test_every_cause_has_a_beginning_and_an_end():
    begun = {cause for effect in TABLE.values() for cause in effect.begins}
    ended = {cause for effect in TABLE.values() for cause in effect.ends}
    assert begun == ended == set(Cause)
    assert set(TABLE) == set(Event)
