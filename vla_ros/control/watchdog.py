"""Watchdog: a state machine of (now_ns, event): whether the arm runs, ramps down, holds or is stopped, and why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from pydantic import Field

from vla_ros.geometry import rotation_angle
from vla_ros.values import Array, Config, SafetyState


class WatchdogConfig(Config):
    """When silence counts, and what comes back by itself."""

    max_state_age_ms: float = Field(default=100.0, gt=0.0)  # of the newest joint state
    max_chunk_age_ms: float = Field(default=2000.0, gt=0.0)  # of the observation that is being acted on
    # Measured from commanded: moved, reset, or stuck. Of a joint; of the TCP where the driver is sent poses.
    max_deviation_rad: float = Field(default=0.3, gt=0.0)
    max_deviation_m: float = Field(default=0.15, gt=0.0)
    resumes_by_itself: bool = True  # once chunks or joint states are back; otherwise the operator's `resume` is needed


class Cause(str, Enum):
    """Why the arm does not run; worst first: the first one present is the reason given."""

    ESTOP = "emergency stop"
    FAULT = "fault of the robot"
    AFTER_FAULT = "waits for resume after a fault of the robot"
    CLOCK_JUMP = "clock jump"
    DEVIATED = "the arm is not where it was commanded"
    OPERATOR_HOLD = "held by the operator"
    NOT_STARTED = "not started"
    STATE_STALE = "stale joint state"
    ANCHORING = "takes the measured pose as its command"
    POLICY_LOST = "policy lost"
    REFUSED = "target refused"
    WAITING = "waits for the first chunk"
    CHUNK_STALE = "stale chunk"
    STARVED = "no action is due: the chunks ran out"


class Event(str, Enum):
    """What can happen."""

    START = "start"
    STOP = "stop"
    HOLD = "hold"
    RESUME = "resume"
    ESTOP = "estop"
    FAULT = "fault"
    FAULT_CLEARED = "fault cleared"
    CLOCK_JUMPED = "clock jumped"
    DEVIATED = "deviated"
    STATE_STALE = "joint state stale"
    STATE_FRESH = "joint state fresh"
    ANCHORED = "anchored"
    POLICY_LOST = "policy lost"
    CHUNK_CAME = "chunk came"
    CHUNK_STALE = "chunk stale"
    STARVED = "schedule empty"
    TARGET_REFUSED = "target refused"
    TARGET_GOOD = "target good"
    STANDSTILL = "standstill"
    MOVING = "moving"


@dataclass(frozen=True)
class Effect:
    """Causes that an event begins and ends."""

    begins: tuple[Cause, ...] = ()
    ends: tuple[Cause, ...] = ()


#: Causes that pass when what was lost is back; with `resumes_by_itself` off they too wait for the operator.
LOSSES = (Cause.STATE_STALE, Cause.POLICY_LOST, Cause.REFUSED, Cause.CHUNK_STALE, Cause.STARVED)

#: The whole machine. RUNNING is having no cause not to; with one RAMPING, at standstill HOLDING; with ESTOP STOPPED.
TABLE: dict[Event, Effect] = {
    Event.START: Effect(
        begins=(Cause.ANCHORING, Cause.WAITING),
        ends=(Cause.NOT_STARTED, Cause.CLOCK_JUMP, Cause.DEVIATED, Cause.OPERATOR_HOLD, *LOSSES),
    ),
    Event.STOP: Effect(begins=(Cause.NOT_STARTED,)),
    Event.HOLD: Effect(begins=(Cause.OPERATOR_HOLD,)),
    Event.RESUME: Effect(
        begins=(Cause.ANCHORING, Cause.WAITING),
        ends=(Cause.ESTOP, Cause.AFTER_FAULT, Cause.CLOCK_JUMP, Cause.DEVIATED, Cause.OPERATOR_HOLD, *LOSSES),
    ),
    Event.ESTOP: Effect(begins=(Cause.ESTOP,)),
    Event.FAULT: Effect(begins=(Cause.FAULT, Cause.AFTER_FAULT)),
    Event.FAULT_CLEARED: Effect(ends=(Cause.FAULT,)),
    Event.CLOCK_JUMPED: Effect(begins=(Cause.CLOCK_JUMP,)),
    Event.DEVIATED: Effect(begins=(Cause.DEVIATED,)),
    Event.STATE_STALE: Effect(begins=(Cause.STATE_STALE,)),
    Event.STATE_FRESH: Effect(ends=(Cause.STATE_STALE,)),
    Event.ANCHORED: Effect(ends=(Cause.ANCHORING,)),
    Event.POLICY_LOST: Effect(begins=(Cause.POLICY_LOST,)),
    Event.CHUNK_CAME: Effect(ends=(Cause.POLICY_LOST, Cause.WAITING)),
    Event.CHUNK_STALE: Effect(begins=(Cause.CHUNK_STALE,)),
    Event.STARVED: Effect(begins=(Cause.STARVED,)),
    Event.TARGET_REFUSED: Effect(begins=(Cause.REFUSED,)),
    Event.TARGET_GOOD: Effect(ends=(Cause.REFUSED, Cause.CHUNK_STALE, Cause.STARVED)),
    Event.STANDSTILL: Effect(),
    Event.MOVING: Effect(),
}

_OPERATOR = (Event.START, Event.RESUME)


class Watchdog:
    """The safety state of one arm. Before the first START it is not started."""

    def __init__(self, config: WatchdogConfig) -> None:
        self._config = config
        self._causes: dict[Cause, str] = {Cause.NOT_STARTED: ""}
        self._at_rest = True
        self._state_since_ns: int | None = None

    @property
    def state(self) -> SafetyState:
        """What the arm may do."""
        if not self._causes:
            return SafetyState.RUNNING
        if Cause.ESTOP in self._causes:
            return SafetyState.STOPPED
        return SafetyState.HOLDING if self._at_rest else SafetyState.RAMPING

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
        before = self.state
        effect = TABLE[event]
        for cause in effect.ends:
            if self._config.resumes_by_itself or cause not in LOSSES or event in _OPERATOR:
                self._causes.pop(cause, None)
        for cause in effect.begins:
            self._causes.setdefault(cause, detail)
        if event in (Event.STANDSTILL, Event.MOVING):
            self._at_rest = event is Event.STANDSTILL
        if self.state is not before:
            self._state_since_ns = now_ns
        return self.state


def joints_off(measured: Array, command: Array, names: tuple[str, ...], config: WatchdogConfig) -> str:
    """How far the worst joint of (J,) is from its command, in words, where that is too far; else ""."""
    deviation = np.abs(measured - command)
    worst = int(np.argmax(deviation))
    return f"{names[worst]} is {deviation[worst]:.2f} rad off" if deviation[worst] > config.max_deviation_rad else ""


def tcp_off(measured: Array, command: Array, config: WatchdogConfig) -> str:
    """How far the TCP's pose (7,) is from its command, in words, where that is too far; else ""."""
    distance_m = float(np.linalg.norm(measured[:3] - command[:3]))
    angle_rad = rotation_angle(measured[3:], command[3:])
    is_far = distance_m > config.max_deviation_m or angle_rad > config.max_deviation_rad
    return f"the TCP is {distance_m:.2f} m and {angle_rad:.2f} rad off" if is_far else ""
