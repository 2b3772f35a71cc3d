"""Watchdog: a state machine of (now_ns, event): whether the arm runs, ramps down, holds or is stopped, and why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from pydantic import Field

from vla_ros.geometry import rotation_angle
from vla_ros.timing.stamps import ns_to_ms
from vla_ros.values import Array, Config, SafetyState


class WatchdogConfig(Config):
    """When silence counts, and what comes back by itself."""

    max_state_age_ms: float = Field(default=100.0, gt=0.0)  # of the newest joint state, and of the robot's own state
    max_chunk_age_ms: float = Field(default=2000.0, gt=0.0)  # of the observation that is being acted on
    max_teleop_age_ms: float = Field(default=200.0, gt=0.0)  # of the newest target of a teleoperator
    max_deadman_age_ms: float = Field(default=250.0, gt=0.0)  # of the newest word of the dead-man switch
    requires_deadman: bool = False  # the arm moves only while a dead-man switch is held
    # Measured from commanded: moved, reset, or stuck. Of a joint; of the TCP where the driver is sent poses.
    max_deviation_rad: float = Field(default=0.3, gt=0.0)
    max_deviation_m: float = Field(default=0.15, gt=0.0)
    resumes_by_itself: bool = True  # once what was lost is back; otherwise the operator's `resume` is needed
    recovers_by_itself: bool = False  # from a reflex, once the arm stands; otherwise on the operator's `resume`


class Cause(str, Enum):
    """Why the arm does not run; worst first: the first one present is the reason given."""

    ESTOP = "emergency stop"
    FAULT = "fault of the robot"
    AFTER_FAULT = "waits for resume after a fault of the robot"
    NOT_FOLLOWING = "the robot does not follow"
    CLOCK_JUMP = "clock jump"
    SECOND_PUBLISHER = "second publisher"
    DEVIATED = "the arm is not where it was commanded"
    OTHER_TASK = "the policy restarted with a different task"
    FAILED = "a callback of the controller failed"
    OPERATOR_HOLD = "held by the operator"
    NOT_STARTED = "not started"
    AFTER_NOT_FOLLOWING = "waits for resume, as the robot did not follow"
    DEADMAN = "dead-man switch"
    UNREACHABLE = "no contact with the robot's driver"
    STATE_DOUBTED = "implausible joint states"
    STATE_STALE = "stale joint state"
    ANCHORING = "re-anchoring to the measured pose"
    POLICY_LOST = "policy lost"
    MEANINGLESS = "meaningless input"
    REFUSED = "target refused"
    WAITING = "waits for the first chunk"
    TELEOP_WAITING = "waits for the first target of the teleoperator"
    OBSERVATION_STALE = "stale observation"
    TELEOP_STALE = "stale target of the teleoperator"
    STARVED = "no action is due: the chunks ran out"


class Event(str, Enum):
    """What can happen."""

    START = "start"
    START_TELEOP = "start of teleoperation"
    STOP = "stop"
    HOLD = "hold"
    RESUME = "resume"
    RESUME_TELEOP = "resumed teleoperation"
    ESTOP = "estop"
    FAULT = "fault"
    FAULT_CLEARED = "fault cleared"
    RECOVERED = "recovered"
    RECOVERED_TELEOP = "recovered for teleoperation"
    NOT_FOLLOWING = "robot does not follow"
    FOLLOWING = "robot follows"
    UNREACHABLE = "driver unreachable"
    REACHED = "driver reached"
    REACHED_TELEOP = "driver reached for teleoperation"
    CLOCK_JUMPED = "clock jumped"
    SECOND_PUBLISHER = "second publisher"
    DEVIATED = "deviated"
    OTHER_TASK = "other task"
    FAILED = "failed"
    DEADMAN_RELEASED = "dead-man switch released"
    DEADMAN_HELD = "dead-man switch held"
    STATE_DOUBTED = "joint states doubted"
    STATE_BELIEVED = "joint states believed"
    STATE_STALE = "joint state stale"
    STATE_FRESH = "joint state fresh"
    ANCHORED = "anchored"
    POLICY_LOST = "policy lost"
    MEANINGLESS = "what came means nothing"
    CHUNK_CAME = "chunk came"
    OBSERVATION_STALE = "observation stale"
    STARVED = "schedule empty"
    TELEOP_CAME = "target of the teleoperator came"
    TELEOP_STALE = "target of the teleoperator stale"
    TARGET_REFUSED = "target refused"
    TARGET_GOOD = "target good"
    STANDSTILL = "standstill"
    MOVING = "moving"


@dataclass(frozen=True)
class Effect:
    """Causes that an event ends and begins, in this order."""

    begins: tuple[Cause, ...] = ()
    ends: tuple[Cause, ...] = ()


#: Causes that pass when what was lost is back; with `resumes_by_itself` off they too wait for the operator.
LOSSES = (
    Cause.DEADMAN,
    Cause.UNREACHABLE,
    Cause.STATE_DOUBTED,
    Cause.STATE_STALE,
    Cause.POLICY_LOST,
    Cause.MEANINGLESS,
    Cause.REFUSED,
    Cause.OBSERVATION_STALE,
    Cause.TELEOP_STALE,
    Cause.STARVED,
)
#: What both of the operator's words end, begin with a policy, and begin with a teleoperator.
_LOOKED_AT = (
    Cause.CLOCK_JUMP,
    Cause.SECOND_PUBLISHER,
    Cause.DEVIATED,
    Cause.OTHER_TASK,
    Cause.FAILED,
    Cause.OPERATOR_HOLD,
    Cause.AFTER_NOT_FOLLOWING,
    *LOSSES,
)
_FOR_POLICY = (Cause.ANCHORING, Cause.WAITING)
_FOR_TELEOP = (Cause.ANCHORING, Cause.TELEOP_WAITING)
_STARTED = (Cause.NOT_STARTED, Cause.WAITING, Cause.TELEOP_WAITING, *_LOOKED_AT)
_RESUMED = (Cause.ESTOP, Cause.WAITING, Cause.TELEOP_WAITING, *_LOOKED_AT)
_RECOVERED = (Cause.AFTER_FAULT, Cause.WAITING, Cause.TELEOP_WAITING)
_REACHED = (Cause.UNREACHABLE, Cause.WAITING, Cause.TELEOP_WAITING)

#: The whole machine. RUNNING is having no cause not to; with one RAMPING, at standstill HOLDING; with ESTOP STOPPED.
TABLE: dict[Event, Effect] = {
    Event.START: Effect(begins=_FOR_POLICY, ends=_STARTED),
    Event.START_TELEOP: Effect(begins=_FOR_TELEOP, ends=_STARTED),
    Event.STOP: Effect(begins=(Cause.NOT_STARTED,)),
    Event.HOLD: Effect(begins=(Cause.OPERATOR_HOLD,)),
    Event.RESUME: Effect(begins=_FOR_POLICY, ends=_RESUMED),
    Event.RESUME_TELEOP: Effect(begins=_FOR_TELEOP, ends=_RESUMED),
    Event.ESTOP: Effect(begins=(Cause.ESTOP,)),
    Event.FAULT: Effect(begins=(Cause.FAULT, Cause.AFTER_FAULT)),
    Event.FAULT_CLEARED: Effect(ends=(Cause.FAULT,)),
    Event.RECOVERED: Effect(begins=_FOR_POLICY, ends=_RECOVERED),
    Event.RECOVERED_TELEOP: Effect(begins=_FOR_TELEOP, ends=_RECOVERED),
    Event.NOT_FOLLOWING: Effect(begins=(Cause.NOT_FOLLOWING, Cause.AFTER_NOT_FOLLOWING)),
    Event.FOLLOWING: Effect(ends=(Cause.NOT_FOLLOWING,)),
    Event.UNREACHABLE: Effect(begins=(Cause.UNREACHABLE,)),
    Event.REACHED: Effect(begins=_FOR_POLICY, ends=_REACHED),
    Event.REACHED_TELEOP: Effect(begins=_FOR_TELEOP, ends=_REACHED),
    Event.CLOCK_JUMPED: Effect(begins=(Cause.CLOCK_JUMP,)),
    Event.SECOND_PUBLISHER: Effect(begins=(Cause.SECOND_PUBLISHER,)),
    Event.DEVIATED: Effect(begins=(Cause.DEVIATED,)),
    Event.OTHER_TASK: Effect(begins=(Cause.OTHER_TASK,)),
    Event.FAILED: Effect(begins=(Cause.FAILED,)),
    Event.DEADMAN_RELEASED: Effect(begins=(Cause.DEADMAN,)),
    Event.DEADMAN_HELD: Effect(ends=(Cause.DEADMAN,)),
    Event.STATE_DOUBTED: Effect(begins=(Cause.STATE_DOUBTED,)),
    Event.STATE_BELIEVED: Effect(ends=(Cause.STATE_DOUBTED,)),
    Event.STATE_STALE: Effect(begins=(Cause.STATE_STALE,)),
    Event.STATE_FRESH: Effect(ends=(Cause.STATE_STALE,)),
    Event.ANCHORED: Effect(ends=(Cause.ANCHORING,)),
    Event.POLICY_LOST: Effect(begins=(Cause.POLICY_LOST,)),
    Event.MEANINGLESS: Effect(begins=(Cause.MEANINGLESS,)),
    Event.CHUNK_CAME: Effect(ends=(Cause.POLICY_LOST, Cause.WAITING, Cause.MEANINGLESS)),
    Event.OBSERVATION_STALE: Effect(begins=(Cause.OBSERVATION_STALE,)),
    Event.STARVED: Effect(begins=(Cause.STARVED,)),
    Event.TELEOP_CAME: Effect(ends=(Cause.TELEOP_WAITING, Cause.TELEOP_STALE, Cause.MEANINGLESS)),
    Event.TELEOP_STALE: Effect(begins=(Cause.TELEOP_STALE,)),
    Event.TARGET_REFUSED: Effect(begins=(Cause.REFUSED,)),
    Event.TARGET_GOOD: Effect(ends=(Cause.REFUSED, Cause.OBSERVATION_STALE, Cause.STARVED)),
    Event.STANDSTILL: Effect(),
    Event.MOVING: Effect(),
}

_OPERATOR = (Event.START, Event.START_TELEOP, Event.RESUME, Event.RESUME_TELEOP)


class Following(Enum):
    """Whether the robot follows the targets that its driver is sent."""

    FOLLOWS = "follows"
    FAULT = "stopped itself, and has to recover"
    INACTIVE = "does not follow: its streaming controller is not active, or a person guides it"
    UNREACHABLE = "unknown: the driver is not heard, or does not listen"


@dataclass(frozen=True)
class Condition:
    """What a driver reports of its robot; `reason` is empty while it follows."""

    following: Following
    reason: str = ""


class Watchdog:
    """The safety state of one arm. Before the first START it is not started."""

    def __init__(self, config: WatchdogConfig) -> None:
        self._config = config
        self._causes: dict[Cause, str] = {Cause.NOT_STARTED: ""}
        self._at_rest = True
        self._state = self._state_now()
        self._state_since_ns: int | None = None

    @property
    def state(self) -> SafetyState:
        """What the arm may do."""
        return self._state

    @property
    def reason(self) -> str:
        """Why it does not run, the worst cause and what is known of it; "" when it runs."""
        if not self._causes:
            return ""
        worst = next(cause for cause in Cause if cause in self._causes)
        detail = self._causes[worst]
        return f"{worst.value}: {detail}" if detail else worst.value

    @property
    def state_since_ns(self) -> int | None:
        """When the state became what it is; None where it never changed."""
        return self._state_since_ns

    def has(self, cause: Cause) -> bool:
        """Whether `cause` is present."""
        return cause in self._causes

    def on(self, now_ns: int, event: Event, detail: str = "") -> SafetyState:
        """Take in an `event` of `now_ns`; `detail` tells a person more about what it begins. The state after it."""
        effect = TABLE[event]
        for cause in effect.ends:
            if self._config.resumes_by_itself or cause not in LOSSES or event in _OPERATOR:
                self._causes.pop(cause, None)
        for cause in effect.begins:
            self._causes.setdefault(cause, detail)
        if event in (Event.STANDSTILL, Event.MOVING):
            self._at_rest = event is Event.STANDSTILL
        if (state := self._state_now()) is not self._state:
            self._state, self._state_since_ns = state, now_ns
        return state

    def _state_now(self) -> SafetyState:
        if not self._causes:
            return SafetyState.RUNNING
        if Cause.ESTOP in self._causes:
            return SafetyState.STOPPED
        return SafetyState.HOLDING if self._at_rest else SafetyState.RAMPING


class DeadmanSwitch:
    """Whether somebody holds the switch, which has to say so again and again."""

    def __init__(self, max_age_ms: float) -> None:
        self._max_age_ms = max_age_ms
        self._heard_ns: int | None = None
        self._is_held = False

    def hear(self, is_held: bool, now_ns: int) -> None:
        """It said how it is."""
        self._heard_ns, self._is_held = now_ns, is_held

    def forget(self) -> None:
        """What it said is worthless."""
        self._heard_ns = None

    def released(self, now_ns: int) -> str:
        """Why it counts as released, in words; "" while it is held."""
        if self._heard_ns is None:
            return "not heard of"
        silent_ms = ns_to_ms(now_ns - self._heard_ns)
        if not self._is_held:
            return "released"
        return f"silent for {silent_ms:.0f} ms" if silent_ms > self._max_age_ms else ""


def joints_off(measured: Array, command: Array, names: tuple[str, ...], config: WatchdogConfig) -> str:
    """How far the worst joint of (J,) is from its command, in words, where that is too far; else ""."""
    deviation = np.abs(measured - command)
    worst = int(deviation.argmax())
    return f"{names[worst]} is {deviation[worst]:.2f} rad off" if deviation[worst] > config.max_deviation_rad else ""


def tcp_off(measured: Array, command: Array, config: WatchdogConfig) -> str:
    """How far the TCP's pose (7,) is from its command, in words, where that is too far; else ""."""
    distance_m = float(np.linalg.norm(measured[:3] - command[:3]))
    angle_rad = rotation_angle(measured[3:], command[3:])
    is_far = distance_m > config.max_deviation_m or angle_rad > config.max_deviation_rad
    return f"the TCP is {distance_m:.2f} m and {angle_rad:.2f} rad off" if is_far else ""
