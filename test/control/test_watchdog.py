"""Watchdog: which events stop the arm, what brings it back, and the reason it gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from vla_ros.control.watchdog import (
    TABLE,
    Cause,
    DeadmanSwitch,
    Event,
    Watchdog,
    WatchdogConfig,
    joints_off,
    tcp_off,
)
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
    (Event.STATE_DOUBTED, Event.STATE_BELIEVED),
    (Event.POLICY_LOST, Event.CHUNK_CAME),
    (Event.MEANINGLESS, Event.CHUNK_CAME),
    (Event.MEANINGLESS, Event.TELEOP_CAME),
    (Event.OBSERVATION_STALE, Event.TARGET_GOOD),
    (Event.DEADMAN_RELEASED, Event.DEADMAN_HELD),
    (Event.TELEOP_STALE, Event.TELEOP_CAME),
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


@pytest.mark.parametrize(("measured", "far"), [(0.3, False), (0.2, False), (0.4, True)])
def test_an_arm_may_be_as_far_off_as_is_configured(measured, far):
    config = WatchdogConfig(max_deviation_rad=0.3, max_deviation_m=0.3)
    assert joints_off(np.array([0.0, measured]), np.zeros(2), ("a", "b"), config) == (
        f"b is {measured:.2f} rad off" if far else ""
    )
    pose = np.array([measured, 0, 0, 0, 0, 0, 1.0])
    assert bool(tcp_off(pose, np.array([0, 0, 0, 0, 0, 0, 1.0]), config)) is far


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
        (Event.ESTOP, STOPPED, "emergency stop"),
        (Event.CLOCK_JUMPED, RAMPING, "clock jump"),
        (Event.SECOND_PUBLISHER, RAMPING, "second publisher"),
        (Event.DEVIATED, RAMPING, "the arm is not where it was commanded"),
        (Event.OTHER_TASK, RAMPING, "the policy restarted with a different task"),
        (Event.FAILED, RAMPING, "a callback of the controller failed"),
        (Event.HOLD, RAMPING, "held by the operator"),
        (Event.NOT_FOLLOWING, RAMPING, "waits for resume, as the robot did not follow"),
    ],
)
def test_serious_causes_wait_for_the_operator(event, state, reason):
    watchdog = running()
    assert watchdog.on(10, event) is state
    for other in Event:
        if other not in (*OPERATOR, *RECOVERS) and not TABLE[other].begins:
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


@pytest.mark.parametrize("word", [Event.START, Event.RESUME, Event.START_TELEOP, Event.RESUME_TELEOP])
def test_no_word_ends_a_fault_before_the_robot_has_recovered(word):
    watchdog = running()
    for event in (Event.FAULT, word, Event.FAULT_CLEARED, Event.ANCHORED, Event.CHUNK_CAME, Event.TELEOP_CAME):
        watchdog.on(20, event)
    assert watchdog.reason == "waits for resume after a fault of the robot"
    watchdog.on(30, Event.RECOVERED)
    assert watchdog.reason == "re-anchoring to the measured pose"
    watchdog.on(30, Event.ANCHORED)
    assert watchdog.reason == "waits for the first chunk"
    assert watchdog.on(30, Event.CHUNK_CAME) is RUNNING


@pytest.mark.parametrize("word", [Event.START, Event.START_TELEOP, Event.RECOVERED])
def test_only_a_resume_ends_an_emergency_stop(word):
    watchdog = running()
    for event in (Event.ESTOP, word, Event.ANCHORED, Event.CHUNK_CAME, Event.TELEOP_CAME):
        watchdog.on(20, event)
    assert watchdog.state is STOPPED
    for event in (Event.RESUME, Event.ANCHORED, Event.CHUNK_CAME):
        watchdog.on(20, event)
    assert watchdog.state is RUNNING


def test_the_worst_cause_is_the_reason():
    watchdog = running()
    watchdog.on(10, Event.STARVED)
    watchdog.on(10, Event.STATE_STALE, "150 ms old")
    assert watchdog.reason == "stale joint state: 150 ms old"
    watchdog.on(10, Event.ESTOP)
    assert watchdog.reason == "emergency stop"


#: Written down by cause, and so in another way than the machine is: what begins it, what ends it, and what ends it only
#: where the arm resumes by itself.
OPERATOR = (Event.START, Event.START_TELEOP, Event.RESUME, Event.RESUME_TELEOP)
RESUMES = (Event.RESUME, Event.RESUME_TELEOP)
STARTS = (Event.START, Event.START_TELEOP)
RECOVERS = (Event.RECOVERED, Event.RECOVERED_TELEOP)
REACHES = (Event.REACHED, Event.REACHED_TELEOP)
FOR_POLICY = (Event.START, Event.RESUME, Event.RECOVERED, Event.REACHED)
FOR_TELEOP = (Event.START_TELEOP, Event.RESUME_TELEOP, Event.RECOVERED_TELEOP, Event.REACHED_TELEOP)
GOOD = (Event.TARGET_GOOD,)
BY_CAUSE: dict[Cause, tuple[tuple[Event, ...], tuple[Event, ...], tuple[Event, ...]]] = {
    Cause.ESTOP: ((Event.ESTOP,), RESUMES, ()),
    Cause.FAULT: ((Event.FAULT,), (Event.FAULT_CLEARED,), ()),
    Cause.AFTER_FAULT: ((Event.FAULT,), RECOVERS, ()),
    Cause.NOT_FOLLOWING: ((Event.NOT_FOLLOWING,), (Event.FOLLOWING,), ()),
    Cause.AFTER_NOT_FOLLOWING: ((Event.NOT_FOLLOWING,), OPERATOR, ()),
    Cause.UNREACHABLE: ((Event.UNREACHABLE,), OPERATOR, REACHES),
    Cause.CLOCK_JUMP: ((Event.CLOCK_JUMPED,), OPERATOR, ()),
    Cause.SECOND_PUBLISHER: ((Event.SECOND_PUBLISHER,), OPERATOR, ()),
    Cause.DEVIATED: ((Event.DEVIATED,), OPERATOR, ()),
    Cause.OTHER_TASK: ((Event.OTHER_TASK,), OPERATOR, ()),
    Cause.FAILED: ((Event.FAILED,), OPERATOR, ()),
    Cause.OPERATOR_HOLD: ((Event.HOLD,), OPERATOR, ()),
    Cause.NOT_STARTED: ((Event.STOP,), STARTS, ()),
    Cause.ANCHORING: ((*OPERATOR, *RECOVERS, *REACHES), (Event.ANCHORED,), ()),
    Cause.WAITING: (FOR_POLICY, (Event.CHUNK_CAME, *FOR_TELEOP), ()),
    Cause.TELEOP_WAITING: (FOR_TELEOP, (Event.TELEOP_CAME, *FOR_POLICY), ()),
    Cause.DEADMAN: ((Event.DEADMAN_RELEASED,), OPERATOR, (Event.DEADMAN_HELD,)),
    Cause.STATE_DOUBTED: ((Event.STATE_DOUBTED,), OPERATOR, (Event.STATE_BELIEVED,)),
    Cause.STATE_STALE: ((Event.STATE_STALE,), OPERATOR, (Event.STATE_FRESH,)),
    Cause.POLICY_LOST: ((Event.POLICY_LOST,), OPERATOR, (Event.CHUNK_CAME,)),
    Cause.MEANINGLESS: ((Event.MEANINGLESS,), OPERATOR, (Event.CHUNK_CAME, Event.TELEOP_CAME)),
    Cause.REFUSED: ((Event.TARGET_REFUSED,), OPERATOR, GOOD),
    Cause.OBSERVATION_STALE: ((Event.OBSERVATION_STALE,), OPERATOR, GOOD),
    Cause.TELEOP_STALE: ((Event.TELEOP_STALE,), OPERATOR, (Event.TELEOP_CAME,)),
    Cause.STARVED: ((Event.STARVED,), OPERATOR, GOOD),
}


@pytest.mark.parametrize("resumes_by_itself", [True, False])
@pytest.mark.parametrize("cause", list(Cause))
def test_every_event_does_to_every_cause_what_is_written_down(cause, resumes_by_itself):
    begins, ends, ends_by_itself = BY_CAUSE[cause]
    config = WatchdogConfig(resumes_by_itself=resumes_by_itself)
    for event in Event:
        for present in (False, True):
            watchdog = Watchdog(config)
            watchdog.on(0, Event.START)
            watchdog.on(0, Event.ANCHORED)
            watchdog.on(0, Event.CHUNK_CAME)
            if present:
                watchdog.on(1, begins[0])
            watchdog.on(2, event)
            ended = event in ends or (resumes_by_itself and event in ends_by_itself)
            assert watchdog.has(cause) is (event in begins or (present and not ended)), (event, present)


class Machine(RuleBasedStateMachine):
    """Any events in any order, beside the little that must be so whatever happens."""

    def __init__(self) -> None:
        super().__init__()
        self.watchdog = Watchdog(WatchdogConfig())
        self.now_ns = 0
        self.at_rest = True
        self.stopped = False  # by an emergency stop
        self.failed = False  # a fault, and no recovery since
        self.was = SafetyState.HOLDING
        self.changed_ns: int | None = None

    @initialize(by_itself=st.booleans())
    def configured(self, by_itself: bool) -> None:
        self.watchdog = Watchdog(WatchdogConfig(resumes_by_itself=by_itself))

    @rule(event=st.sampled_from(list(Event)), detail=st.sampled_from(["", "told"]))
    def happens(self, event: Event, detail: str) -> None:
        self.now_ns += 1
        state = self.watchdog.on(self.now_ns, event, detail)
        self.at_rest = event is Event.STANDSTILL or (self.at_rest and event is not Event.MOVING)
        self.stopped = event is Event.ESTOP or (self.stopped and event not in RESUMES)
        self.failed = event is Event.FAULT or (self.failed and event not in RECOVERS)
        if state is not self.was:
            self.was, self.changed_ns = state, self.now_ns

    @rule()
    def goes_well(self) -> None:
        for event in (
            Event.RESUME,
            Event.START,
            Event.FAULT_CLEARED,
            Event.RECOVERED,
            Event.FOLLOWING,
            Event.REACHED,
            Event.DEADMAN_HELD,
            Event.STATE_FRESH,
            Event.STATE_BELIEVED,
        ):
            self.happens(event, "")
        for event in (Event.ANCHORED, Event.CHUNK_CAME, Event.TARGET_GOOD):
            self.happens(event, "")
        assert self.watchdog.state is RUNNING

    @invariant()
    def runs_only_without_a_cause(self) -> None:
        present = [cause for cause in Cause if self.watchdog.has(cause)]
        assert (self.watchdog.state is RUNNING) is (not present)
        assert self.watchdog.reason.startswith(present[0].value if present else "")
        assert bool(self.watchdog.reason) is bool(present)

    @invariant()
    def only_a_resume_leaves_a_stop_and_only_a_recovery_a_fault(self) -> None:
        assert (self.watchdog.state is STOPPED) is self.stopped
        assert not self.failed or self.watchdog.state is not RUNNING

    @invariant()
    def holds_where_nothing_moves(self) -> None:
        if self.watchdog.state not in (RUNNING, STOPPED):
            assert self.watchdog.state is (HOLDING if self.at_rest else RAMPING)

    @invariant()
    def knows_since_when(self) -> None:
        assert self.watchdog.state_since_ns == self.changed_ns


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_nothing_makes_it_run_that_should_not = Machine.TestCase


def test_a_dead_man_switch_has_to_speak():
    switch = DeadmanSwitch(250.0)
    assert switch.released(0) == "not heard of"
    switch.hear(True, 0)
    assert switch.released(250_000_000) == ""
    assert switch.released(251_000_000) == "silent for 251 ms"
    switch.hear(False, 260_000_000)
    assert switch.released(261_000_000) == "released"
    switch.hear(True, 270_000_000)
    switch.forget()
    assert switch.released(270_000_000) == "not heard of"


def test_every_cause_has_a_beginning_and_an_end():
    begun = {cause for effect in TABLE.values() for cause in effect.begins}
    ended = {cause for effect in TABLE.values() for cause in effect.ends}
    assert begun == ended == set(Cause)
    assert set(TABLE) == set(Event)
