"""Intake: what the arm is asked to follow, by a policy in chunks or by a teleoperator target by target; due when."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from vla_ros.control.limits import Interventions, Meaningless, Refused, refuse_meaningless
from vla_ros.control.watchdog import WatchdogConfig
from vla_ros.robots.robot import Robot
from vla_ros.timing.chunks import Schedule, ScheduleConfig
from vla_ros.timing.stamps import ms_to_ns, ns_to_ms
from vla_ros.values import ActionChunk, Mode, Target

#: Chunk latencies kept for the quantiles.
_LATENCIES_KEPT = 1000
#: A target may be stamped this much later than it is taken in: the clock of a camera that runs ahead, as far as the
#: Aligner believes it.
_FUTURE_TOLERANCE_MS = 100.0
#: Steps of a chunk over which its targets are smoothed, half of it ahead: a change of velocity takes that long, and no
#: overshoot where a motion ends, as the last row is kept for one step. And ticks, at most.
_SMOOTHED_STEPS = 2
_LONGEST_WINDOW = 40
#: The same for a teleoperator's targets, of which nobody knows the next: what comes at 20 Hz or more is no staircase.
_SMOOTHED_TELEOP_MS = 60.0


@dataclass(frozen=True)
class Timeliness:
    """How late chunks are; None where there was none.

    Latency: from a chunk's observation to its arrival, of the newest chunk and of the last 1000. Delay and overlap: see
    `timing.chunks.Schedule`.
    """

    latency_ms: float | None
    latency_p50_ms: float | None
    latency_p99_ms: float | None
    delay_ms: float | None
    overlap_steps: int


class Intake:
    """Takes what the mode is for, if it may be followed at all; counts all else by the reason's name.

    In mode HOLD it takes nothing. Everything it gave before `begin_anew` is void.
    """

    def __init__(
        self,
        robot: Robot,
        schedule: ScheduleConfig,
        watchdog: WatchdogConfig,
        period_ns: int,
        interventions: Interventions,
    ) -> None:
        self._joint_names = robot.joint_names
        self._config = watchdog
        self._period_ns = period_ns
        self._interventions = interventions
        self._schedule = Schedule(schedule)
        self._mode = Mode.HOLD
        self._wanted: Target | None = None  # by the teleoperator
        self._earliest_ns = 0  # what is followed must have been observed, or wanted, since
        self._acted_on_ns = 0  # when what is followed was observed, or wanted
        self._dimensions: tuple[str, ...] | None = None  # of what is followed
        self._window = 1
        self._latencies_ms: deque[float] = deque(maxlen=_LATENCIES_KEPT)

    @property
    def mode(self) -> Mode:
        """Whose wishes are taken."""
        return self._mode

    @property
    def window(self) -> int:
        """Ticks over which targets are to be smoothed."""
        return self._window

    @property
    def earliest_ns(self) -> int:
        """The last time at which all began anew."""
        return self._earliest_ns

    @property
    def timeliness(self) -> Timeliness:
        """How late chunks are."""
        latencies_ms = self._latencies_ms
        p50_ms, p99_ms = np.quantile(latencies_ms, (0.5, 0.99)) if latencies_ms else (None, None)
        newest_ms = latencies_ms[-1] if latencies_ms else None
        return Timeliness(newest_ms, p50_ms, p99_ms, self._schedule.delay_ms, self._schedule.overlap_steps)

    def begin_anew(self, now_ns: int, mode: Mode | None = None) -> None:
        """Forget what there is, and take only what is observed, or wanted, from `now_ns` on; in another `mode`."""
        self.clear()
        self._earliest_ns = now_ns
        self._mode = self._mode if mode is None else mode

    def clear(self) -> None:
        """Forget what there is."""
        self._schedule.clear()
        self._wanted = None
        self._dimensions = None

    def add_chunk(self, chunk: ActionChunk, now_ns: int, idle_since_ns: float) -> bool:
        """Schedule a chunk that arrived at `now_ns`; whether it was. `idle_since_ns`: see `Schedule.add`.

        Raises Meaningless for one that shows that the policy does not work, if the arm follows one.
        """
        try:
            self._check(chunk, now_ns, Mode.POLICY, self._config.max_chunk_age_ms)
        except Refused as refused:
            self._interventions.count(f"chunk_{refused.name}")
            if isinstance(refused, Meaningless) and self._mode is Mode.POLICY:
                raise
            return False
        self._latencies_ms.append(ns_to_ms(now_ns - chunk.observation_ns))
        late_rows = self._schedule.add(chunk, now_ns, idle_since_ns)
        self._interventions.count("late_rows", late_rows)
        if late_rows == len(chunk):
            self._interventions.count("chunk_late")
            return False
        self._interventions.count("chunks")
        if self._schedule.shift_ns > 0:
            self._interventions.count("chunk_shifted")
        self._follow(chunk.observation_ns, chunk.dimensions, _SMOOTHED_STEPS * chunk.step_ns)
        return True

    def add_target(self, target: Target, now_ns: int) -> bool:
        """Follow a teleoperator's target that arrived at `now_ns`, from now on and until the next; whether it is.

        Raises Meaningless for one that shows that the device does not work, if the arm follows one.
        """
        try:
            row = ActionChunk(target.time_ns, self._period_ns, target.dimensions, target.values[np.newaxis])
            self._check(row, now_ns, Mode.TELEOP, self._config.max_teleop_age_ms)
            if self._wanted is not None and target.time_ns < self._wanted.time_ns:
                raise Refused("out_of_order", "a target that is older than the last one")
        except Refused as refused:
            self._interventions.count(f"teleop_{refused.name}")
            if isinstance(refused, Meaningless) and self._mode is Mode.TELEOP:
                raise
            return False
        self._interventions.count("teleop_targets")
        self._wanted = target
        self._follow(target.time_ns, target.dimensions, ms_to_ns(_SMOOTHED_TELEOP_MS))
        return True

    def target(self, now_ns: int) -> Target | None:
        """What is due now."""
        return self._wanted if self._mode is Mode.TELEOP else self._schedule.target(now_ns)

    def target_ahead(self, now_ns: int) -> Target | None:
        """What is due half a window later, as far as anybody knows."""
        return self.target(now_ns + self._window * self._period_ns // 2)

    def gripper_width_m(self, by_ns: int) -> float | None:
        """The opening width due by `by_ns`: where a policy has planned no further, the last that it has."""
        if self._mode is Mode.TELEOP:
            return None if self._wanted is None else self._wanted.gripper_width_m
        return self._schedule.gripper_width_m(by_ns)

    def age_ms(self, now_ns: int) -> float:
        """How long ago it was observed, or wanted."""
        return ns_to_ms(now_ns - self._acted_on_ns)

    def _check(self, chunk: ActionChunk, now_ns: int, mode: Mode, max_age_ms: float) -> None:
        """Raise Refused for what must not be followed: a chunk, or a teleoperator's target as a chunk of one row."""
        refuse_meaningless(chunk, self._joint_names)
        if self._mode is Mode.HOLD:
            raise Refused("not_started", "for an arm that is not started")
        if self._mode is not mode:
            raise Refused("other_mode", f"in mode {self._mode.value}")
        if chunk.observation_ns < self._earliest_ns:
            raise Refused("before_start", "observed before the start")
        if chunk.observation_ns > now_ns + ms_to_ns(_FUTURE_TOLERANCE_MS):
            raise Refused("in_the_future", "observed later than now")
        if now_ns - chunk.observation_ns > ms_to_ns(max_age_ms):
            raise Refused("too_old", "observed too long ago")
        if self._dimensions not in (None, chunk.dimensions):
            raise Refused("wrong_dimensions", f"{self._dimensions} are followed, got {chunk.dimensions}")

    def _follow(self, observed_ns: int, dimensions: tuple[str, ...], smoothed_ns: int) -> None:
        self._acted_on_ns = observed_ns
        self._dimensions = dimensions
        self._window = min(max(1, round(smoothed_ns / self._period_ns)), _LONGEST_WINDOW)
