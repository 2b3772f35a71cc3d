"""Gripper latch: continuous width wishes become move and grasp goals, one in flight, with hysteresis and retries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from vla_ros.values import NANOSECONDS_PER_SECOND, Config

#: Some rounding at the ends of the range [m].
_TINY_M = 1e-9


class GripperConfig(Config):
    """How wishes become goals. Fractions are of the gripper's largest opening."""

    grasp_below: float = Field(default=0.4, ge=0.0, le=1.0)  # a wish below this fraction grasps
    open_above: float = Field(default=0.6, ge=0.0, le=1.0)  # a wish above this fraction opens; between: as before
    resolution: float = Field(default=0.15, gt=0.0, le=1.0)  # an opening that changes by less is no new goal
    speed_m_s: float = Field(default=0.1, gt=0.0)
    force_n: float = Field(default=40.0, gt=0.0)
    max_retries: int = Field(default=2, ge=0)  # of a failed goal, until the wish changes
    retry_delay_s: float = Field(default=0.5, ge=0.0)
    timeout_s: float = Field(default=5.0, gt=0.0)  # a goal without an answer counts as failed
    latency_ms: float = Field(default=0.0, ge=0.0, le=2000.0)  # from sending a goal to the fingers moving

    @model_validator(mode="after")
    def _thresholds_leave_a_gap(self) -> GripperConfig:
        if self.grasp_below >= self.open_above:
            raise ValueError(f"grasp_below {self.grasp_below:g} must be less than open_above {self.open_above:g}")
        return self


@dataclass(frozen=True)
class GripperGoal:
    """One goal for the gripper's driver. A grasp closes on any object: `epsilon_m` covers every width."""

    kind: Literal["move", "grasp"]
    width_m: float
    speed_m_s: float
    force_n: float
    epsilon_m: float = 0.0


class Latch:
    """Decides when a wish is worth a goal. A goal given out is in flight until `done`; the next waits for that."""

    def __init__(self, config: GripperConfig, max_width_m: float) -> None:
        self._config = config
        self._max_width_m = max_width_m
        self._reached: GripperGoal | None = None  # the last goal that succeeded
        self._in_flight: GripperGoal | None = None
        self._sent_ns = 0
        self._failed: GripperGoal | None = None
        self._failures = 0  # of `_failed`, in a row
        self._failed_ns: int | None = None  # None: it failed since the last step
        self._total_failures = 0
        self._message = ""

    @property
    def in_flight(self) -> GripperGoal | None:
        """The goal the driver is working on."""
        return self._in_flight

    @property
    def failures(self) -> int:
        """Goals that failed since the beginning."""
        return self._total_failures

    @property
    def message(self) -> str:
        """What is wrong, "" after a success."""
        return self._message

    def forget(self) -> None:
        """Treat the gripper's state as unknown; a goal in flight stays so."""
        self._reached = self._failed = None
        self._failures = 0

    def step(self, now_ns: int, wish_width_m: float, measured_width_m: float | None = None) -> GripperGoal | None:
        """The goal to send now for a wish [m], or None: nothing changed, or one is in flight.

        `measured_width_m` spares the first goal where the gripper already is as open as wished.
        """
        if self._in_flight is not None:
            if now_ns - self._sent_ns < self._config.timeout_s * NANOSECONDS_PER_SECOND:
                return None
            self.done(False, f"no answer to a {self._in_flight.kind} goal in {self._config.timeout_s:g} s")
        goal = self._wished(wish_width_m)
        if goal is None or self._is_as(goal, measured_width_m) or self._waits_after_failure(goal, now_ns):
            return None
        self._in_flight, self._sent_ns = goal, now_ns
        return goal

    def done(self, success: bool, message: str = "") -> None:
        """The driver's answer to the goal in flight; one that comes after its timeout is ignored."""
        goal = self._in_flight
        if goal is None:
            return
        self._in_flight = None
        if success:
            self._reached, self._failed, self._failures, self._message = goal, None, 0, ""
            return
        self._failures = self._failures + 1 if self._failed is not None and self._alike(goal, self._failed) else 1
        self._total_failures += 1
        self._failed, self._failed_ns, self._reached = goal, None, None
        self._message = f"gripper {goal.kind} failed: {message}" if message else f"gripper {goal.kind} failed"

    def _wished(self, width_m: float) -> GripperGoal | None:
        """The goal that is meant by a wish, None between the thresholds."""
        config, fraction = self._config, width_m / self._max_width_m
        if fraction < config.grasp_below:
            return GripperGoal("grasp", 0.0, config.speed_m_s, config.force_n, self._max_width_m)
        if fraction > config.open_above:
            return GripperGoal("move", min(width_m, self._max_width_m), config.speed_m_s, config.force_n)
        return None

    def _is_as(self, goal: GripperGoal, measured_width_m: float | None) -> bool:
        if self._reached is not None:
            return self._alike(goal, self._reached)
        if goal.kind == "grasp" or measured_width_m is None or self._failed is not None:
            return False
        return abs(measured_width_m - goal.width_m) < self._config.resolution * self._max_width_m

    def _alike(self, goal: GripperGoal, other: GripperGoal) -> bool:
        apart_m = abs(goal.width_m - other.width_m)
        return goal.kind == other.kind and apart_m < self._config.resolution * self._max_width_m + _TINY_M

    def _waits_after_failure(self, goal: GripperGoal, now_ns: int) -> bool:
        if self._failed is None or not self._alike(goal, self._failed):
            return False
        if self._failed_ns is None:
            self._failed_ns = now_ns
        tried_often = self._failures > self._config.max_retries
        return tried_often or now_ns - self._failed_ns < self._config.retry_delay_s * NANOSECONDS_PER_SECOND
