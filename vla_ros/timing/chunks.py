"""Schedule: which action of which chunk is due now; chunks overlap in absolute time and are spliced there."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vla_ros.geometry import interpolate_pose, mean_quaternion, slerp_rows
from vla_ros.timing.delay import DelayConfig, DelayTracker
from vla_ros.timing.stamps import ms_to_ns, ns_to_ms
from vla_ros.values import GRIPPER_DIMENSION, POSE_DIMENSIONS, ActionChunk, Array, Config, Target

#: Chunks remembered: more than ever overlap (ACT: one per step, 100 steps long), and enough to look back on.
_MOST_CHUNKS = 128


class ScheduleMode(str, Enum):
    """What holds where chunks overlap."""

    NEWEST = "newest"  # the newest chunk
    BLEND = "blend"  # a cross-fade from what was scheduled to the newest chunk
    ENSEMBLE = "ensemble"  # a weighted mean of every chunk that says something about the time (ACT)


class ScheduleConfig(Config):
    """How chunks are joined. `ensemble_m`: weights exp(-m i), i = 0 the oldest chunk (Zhao et al. 2023, ACT, IV-B).

    `blend_steps` None: each cross-fade lasts as long as the chunks are late. What a chunk says of now was decided from
    an observation d ago; since then the arm did what older chunks said, so the two plans are apart by d times the speed
    v between them, and go on parting. A fade of length f moves the target by at most v (1 + d/f) beside their mean: a
    short one jerks, f = d takes 2 v, and a longer one gains little (never less than v) but keeps to the older plan. As
    the next inference begins when the last one is over, that fade is over too when the next chunk comes. It is counted
    in whole steps of the newer chunk, at least one (no splice jumps), but ends with the older chunk's last step, and
    leaves the newer one half of what is left of it.
    """

    mode: ScheduleMode = ScheduleMode.BLEND
    blend_steps: int | None = Field(default=None, ge=0)  # length of every cross-fade, in steps of the newer chunk
    delay: DelayConfig = DelayConfig()
    ensemble_m: float = Field(default=0.01, ge=0.0)
    actuation_latency_ms: float = Field(default=0.0, ge=0.0)  # from sending a target to the arm being there


@dataclass(frozen=True, eq=False)
class _Splice:
    """A chunk, the time from which it counts, and how long it takes from then to its full share (0: no time).

    `observed_ns`: when it was observed. The chunk's own time is later if it was shifted.
    """

    chunk: ActionChunk
    start_ns: int
    fade_ns: int
    observed_ns: int

    def share(self, time_ns: int) -> float:
        """The share of the chunk against what was scheduled before it, 0 to 1."""
        elapsed_ns = time_ns - self.start_ns
        return elapsed_ns / self.fade_ns if elapsed_ns < self.fade_ns else 1.0


class Schedule:
    """Absolute targets over absolute time, joined from chunks.

    A chunk counts from the moment it is added (plus the actuation latency): its rows due earlier are dropped by time,
    which loses no displacement because targets are absolute. Between two rows the target is interpolated (joints
    linear, orientation slerp), after the last row of the newest chunk it is kept for one step, then there is none.
    In `blend` and `ensemble` the target is continuous: a chunk that comes moves it no faster than its distance from
    what was scheduled over the length of its fade (in `ensemble` one step, times its weight); a chunk that leaves an
    ensemble does so over its last step. In `newest` the target jumps, and the limits of the arm decide how it gets
    there. The gripper follows the newest chunk in every mode, row by row: a mean of two widths is nobody's wish.

    From standstill a chunk is not dropped by time but shifted: if nothing was followed since its observation, the arm
    is still where its first row begins, and it begins when it is added. So a late first chunk loses no rows, and a
    policy slower than its chunk moves, too. What else was observed in that standstill is shifted by as much as makes
    it begin then: it saw the same arm.

    Looking changes nothing: the same chunks added at the same times to a new schedule give the same targets, live or
    replayed. The delays of chunks are part of that: what is added later depends on them.

    Two processes may each hold a schedule, one to follow it, one to know what is committed. The one that adds a chunk
    earlier, before it travelled, has its fade earlier by so much, and perhaps a step longer or shorter. Both are
    always on the way between the same two chunks, and the same once the fades are over. Of a standstill one knows by
    its schedule alone, that it was empty; the other sees the arm. They shift alike but for an arm that was still
    braking when the chunk was observed (shifted by the first alone), or that was held though its schedule went on (by
    the second alone), until the next chunk comes that was observed in motion.
    """

    def __init__(self, config: ScheduleConfig) -> None:
        self._config = config
        self._latency_ns = ms_to_ns(config.actuation_latency_ms)
        self._delays = DelayTracker(config.delay)
        self._splices: deque[_Splice] = deque(maxlen=_MOST_CHUNKS)
        self._stack: _Stack | None = None  # of the splices; None when there are others since
        self._standstill_ns: tuple[float, int] | None = None  # the last one: since when, and when it ended
        self._shift_ns = 0

    def add(self, chunk: ActionChunk, now_ns: int, idle_since_ns: float | None = None) -> int:
        """Schedule a chunk; the number of its rows that are too late, all of them if the chunk is ignored.

        Ignored is a chunk whose every row is too late (its delay counts: it is the news), or that was not observed
        later than the newest one. Raises ValueError for other dimensions than the scheduled ones.

        `idle_since_ns`: since when the arm stands and follows nothing, infinity if it does not; None: since the
        schedule had nothing more. A chunk observed since then is shifted, in place of whatever was scheduled.
        """
        if self._splices:
            newest = self._splices[-1].chunk
            if chunk.dimensions != newest.dimensions:
                raise ValueError(
                    f"the schedule holds chunks of {newest.dimensions}, got one of {chunk.dimensions}; clear it first"
                )
            if chunk.observation_ns <= self._splices[-1].observed_ns:
                return len(chunk)
        observed_ns, sent_ns = chunk.observation_ns, now_ns + self._latency_ns
        self._delays.add(sent_ns - observed_ns)
        chunk = self._shifted(chunk, sent_ns, idle_since_ns)
        self._shift_ns = chunk.observation_ns - observed_ns
        too_late = min(len(chunk), max(0, -((chunk.observation_ns - sent_ns) // chunk.step_ns)))
        if too_late < len(chunk):
            start_ns = max(sent_ns, chunk.observation_ns)
            fade_ns = self._fade_steps(chunk, start_ns) * chunk.step_ns
            self._splices.append(_Splice(chunk, start_ns, fade_ns, observed_ns))
            self._stack = None
        return too_late

    def target(self, now_ns: int) -> Target | None:
        """What to send at `now_ns`: the target of the time when it takes effect; None where nothing is scheduled."""
        time_ns = now_ns + self._latency_ns
        value = self._value(time_ns)
        return None if value is None else Target(time_ns, self._splices[-1].chunk.dimensions, value)

    def gripper_width_m(self, now_ns: int) -> float | None:
        """The gripper's part of `target`; the newest chunk's last one for a time after that. None without a gripper."""
        if not self._splices:
            return None
        time_ns = min(now_ns + self._latency_ns, self._splices[-1].chunk.end_ns)
        newest = self._newest(time_ns)
        if newest is None or newest.chunk.dimensions[-1] != GRIPPER_DIMENSION:
            return None
        row = min((time_ns - newest.chunk.observation_ns) // newest.chunk.step_ns, len(newest.chunk) - 1)
        return float(newest.chunk.actions[row, -1])

    def committed(self, from_ns: int, rows: int, step_ns: int) -> ActionChunk | None:
        """What was sent or is scheduled for `from_ns + k * step_ns`: `rows` rows, fewer where the schedule ends.

        None if nothing is (or was) scheduled for `from_ns` itself.
        """
        if rows < 1 or step_ns <= 0:
            raise ValueError(f"expected rows >= 1 and step_ns > 0, got rows {rows}, step_ns {step_ns}")
        values: list[Array] = []
        for row in range(rows):
            value = self._value(from_ns + row * step_ns)
            if value is None:
                break
            values.append(value)
        return ActionChunk(from_ns, step_ns, self._splices[-1].chunk.dimensions, np.stack(values)) if values else None

    @property
    def end_ns(self) -> int | None:
        """The time at which the newest chunk's last row is due; None while nothing is scheduled."""
        return self._splices[-1].chunk.end_ns if self._splices else None

    @property
    def delay_ms(self) -> float | None:
        """From an observation to the first target its chunk has a say in, of nearly all chunks; None before any.

        The quantile of `ScheduleConfig.delay`: inference, transport and the actuation latency.
        """
        quantile_ns = self._delays.quantile_ns
        return None if quantile_ns is None else ns_to_ms(quantile_ns)

    @property
    def overlap_steps(self) -> int:
        """Over how many of its steps the newest chunk takes over from what was scheduled; 0 where at once."""
        return self._splices[-1].fade_ns // self._splices[-1].chunk.step_ns if self._splices else 0

    @property
    def shift_ns(self) -> int:
        """By how much the chunk added last was shifted, as it began from standstill; 0: not at all."""
        return self._shift_ns

    def delay_steps(self, step_ns: int) -> int:
        """How many rows of the next chunk will be past when it comes, by the delay of nearly all chunks so far."""
        return self._delays.steps(step_ns)

    def clear(self) -> None:
        """Forget every chunk, and their dimensions; not how late they came: the next will be no earlier for that.

        So too when a clock jumped back: delays are durations. A jump forward looks like one slow chunk, and is
        forgotten like one.
        """
        self._splices.clear()
        self._stack = self._standstill_ns = None

    def _shifted(self, chunk: ActionChunk, sent_ns: int, idle_since_ns: float | None) -> ActionChunk:
        """The chunk; if it was observed in a standstill, in the time that begins when that ends, or ended."""
        if idle_since_ns is None and self._splices:
            newest = self._splices[-1].chunk
            idle_since_ns = newest.end_ns + newest.step_ns
        if idle_since_ns is None or idle_since_ns <= chunk.observation_ns < sent_ns:
            if self._newest(sent_ns):  # a plan that the arm does not follow
                self.clear()
            self._standstill_ns = chunk.observation_ns if idle_since_ns is None else idle_since_ns, sent_ns
        if self._standstill_ns is not None and self._standstill_ns[0] <= chunk.observation_ns < self._standstill_ns[1]:
            return replace(chunk, observation_ns=self._standstill_ns[1])
        return chunk

    def _fade_steps(self, chunk: ActionChunk, start_ns: int) -> int:
        """Over how many of its steps a chunk that counts from `start_ns` takes over from what is scheduled; 0: at once.

        By the longer of the quantile and the chunk's own delay: one that is later than nearly all is the worst splice.
        """
        if self._config.mode is ScheduleMode.NEWEST or not self._newest(start_ns - 1):
            return 0
        if self._config.mode is ScheduleMode.ENSEMBLE:
            return 1
        if self._config.blend_steps is not None:
            return self._config.blend_steps
        older, step_ns = self._splices[-1].chunk, chunk.step_ns
        own_steps = -((chunk.observation_ns - start_ns) // step_ns)
        left_steps = (older.end_ns + older.step_ns - start_ns) // step_ns, (chunk.end_ns - start_ns) // (2 * step_ns)
        return max(1, min(max(own_steps, self.delay_steps(step_ns)), *left_steps))

    def _newest(self, time_ns: int) -> _Splice | None:
        """The newest splice that counts at a time; None where nothing is scheduled."""
        newest = next((splice for splice in reversed(self._splices) if splice.start_ns <= time_ns), None)
        is_over = newest is not None and time_ns >= newest.chunk.end_ns + newest.chunk.step_ns
        return None if is_over else newest

    def _value(self, time_ns: int) -> Array | None:
        """The target (D,) of a time, by the chunks that counted then."""
        newest = self._newest(time_ns)
        if newest is None:
            return None
        if self._config.mode is ScheduleMode.NEWEST:
            return _row(newest.chunk, time_ns)
        if self._config.mode is ScheduleMode.BLEND:
            return self._blended(time_ns)
        if self._stack is None:
            self._stack = _Stack(self._splices)
        return self._stack.mean(time_ns, self._config.ensemble_m)

    def _blended(self, time_ns: int) -> Array:
        """From the newest chunk whose fade is over, cross-fade after cross-fade; an ended chunk keeps its last row."""
        fading: list[_Splice] = []  # newest first
        for splice in reversed(self._splices):
            if splice.start_ns <= time_ns:
                fading.append(splice)
                if splice.share(time_ns) >= 1.0:  # it leaves nothing of what was before
                    break
        oldest = fading.pop()
        row = value = _row(oldest.chunk, time_ns)
        for splice in reversed(fading):
            row = _row(splice.chunk, time_ns)
            value = _mixed(splice.chunk.dimensions, value, row, splice.share(time_ns))
        if oldest.chunk.dimensions[-1] == GRIPPER_DIMENSION:
            value[-1] = row[-1]
        return value


class _Stack:
    """Splices as arrays (n,), oldest first, and their rows one below the other: an ensemble has a hundred of them."""

    def __init__(self, splices: Collection[_Splice]) -> None:
        chunks = [splice.chunk for splice in splices]
        self._dimensions = chunks[0].dimensions
        self._starts_ns = np.array([splice.start_ns for splice in splices])
        self._fades_ns = np.array([splice.fade_ns for splice in splices])
        self._observations_ns = np.array([chunk.observation_ns for chunk in chunks])
        self._steps_ns = np.array([chunk.step_ns for chunk in chunks])
        self._lasts = np.array([len(chunk) for chunk in chunks]) - 1
        self._ends_ns = self._observations_ns + self._lasts * self._steps_ns
        self._firsts = np.cumsum(self._lasts + 1) - (self._lasts + 1)
        self._rows = np.concatenate([chunk.actions for chunk in chunks])

    def mean(self, time_ns: int, m: float) -> Array:
        """The weighted mean (D,) of what the chunks say of a time."""
        shares_n = self._shares(time_ns)
        speaking = np.flatnonzero(shares_n)
        older_n = np.cumsum(shares_n) - shares_n  # by their shares: whole numbers would jump where one falls silent
        weights_n = (shares_n * np.exp(-m * older_n))[speaking]
        weights_n /= weights_n.sum()
        values = self._values(speaking, time_ns)
        mean = np.asarray(weights_n @ values, dtype=np.float64)
        if _is_pose(self._dimensions):
            mean[3:7] = mean_quaternion(values[:, 3:7], weights_n)
        if self._dimensions[-1] == GRIPPER_DIMENSION:
            newest = np.flatnonzero(self._starts_ns <= time_ns)[-1:]
            mean[-1] = self._values(newest, time_ns)[0, -1]
        return mean

    def _shares(self, time_ns: int) -> Array:
        """How far each chunk has come in (over its fade) and not gone out again (over its last step), 0 to 1.

        None goes out further than a newer one has come in: so there is always one that speaks.
        """
        elapsed_n = time_ns - self._starts_ns
        fading_n = np.maximum(elapsed_n, 0) / np.maximum(self._fades_ns, 1)
        in_n = np.where(elapsed_n < self._fades_ns, fading_n, elapsed_n >= 0)
        newer_in_n = np.append(np.maximum.accumulate(in_n[:0:-1])[::-1], 0.0)
        out_n = np.clip((self._ends_ns - time_ns) / self._steps_ns, 0.0, 1.0)
        return np.asarray(in_n * np.maximum(out_n, 1.0 - newer_in_n), dtype=np.float64)

    def _values(self, of: NDArray[np.int64], time_ns: int) -> Array:
        """`_row` of each of these chunks (n, D), at once."""
        steps_ns, lasts, firsts = self._steps_ns[of], self._lasts[of], self._firsts[of]
        rows, beyond_ns = np.divmod(time_ns - self._observations_ns[of], steps_ns)
        starts, ends = self._rows[firsts + np.minimum(rows, lasts)], self._rows[firsts + np.minimum(rows + 1, lasts)]
        fractions_n = beyond_ns / steps_ns
        mixed: Array = starts + fractions_n[:, None] * (ends - starts)
        if _is_pose(self._dimensions):
            mixed[:, 3:7] = slerp_rows(starts[:, 3:7], ends[:, 3:7], fractions_n)
        if self._dimensions[-1] == GRIPPER_DIMENSION:
            mixed[:, -1] = starts[:, -1]
        return mixed


def _row(chunk: ActionChunk, time_ns: int) -> Array:
    """What a chunk says about a time, between its rows interpolated, but for the gripper; its last row for later ones.

    A new array.
    """
    row, beyond_ns = divmod(time_ns - chunk.observation_ns, chunk.step_ns)
    if row >= len(chunk) - 1:
        return np.array(chunk.actions[-1], dtype=np.float64)
    value = _mixed(chunk.dimensions, chunk.actions[row], chunk.actions[row + 1], beyond_ns / chunk.step_ns)
    if chunk.dimensions[-1] == GRIPPER_DIMENSION:
        value[-1] = chunk.actions[row, -1]
    return value


def _mixed(dimensions: tuple[str, ...], start: Array, end: Array, fraction: float) -> Array:
    mixed: Array = start + fraction * (end - start)
    if _is_pose(dimensions):
        mixed[:7] = interpolate_pose(start[:7], end[:7], fraction)
    return mixed


def _is_pose(dimensions: tuple[str, ...]) -> bool:
    return dimensions[:7] == POSE_DIMENSIONS
