"""Schedule: which action of which chunk is due now; chunks overlap in absolute time and are spliced there."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

import numpy as np
from pydantic import Field

from vla_ros.geometry import interpolate_pose, mean_quaternion, slerp_rows
from vla_ros.timing.stamps import ms_to_ns
from vla_ros.values import GRIPPER_DIMENSION, POSE_DIMENSIONS, ActionChunk, Array, Config, Target

#: Chunks remembered: more than ever overlap (ACT: one per step, 100 steps long), and enough to look back on.
_MOST_CHUNKS = 128


class ScheduleMode(str, Enum):
    """What holds where chunks overlap."""

    NEWEST = "newest"  # the newest chunk
    BLEND = "blend"  # a cross-fade from what was scheduled to the newest chunk
    ENSEMBLE = "ensemble"  # a weighted mean of every chunk that says something about the time (ACT)


class ScheduleConfig(Config):
    """How chunks are joined. `ensemble_m`: weights exp(-m i), i = 0 the oldest chunk (Zhao et al. 2023, ACT, IV-B)."""

    mode: ScheduleMode = ScheduleMode.BLEND
    blend_steps: int = Field(default=3, ge=0)  # length of the cross-fade, in steps of the newer chunk
    ensemble_m: float = Field(default=0.01, ge=0.0)
    actuation_latency_ms: float = Field(default=0.0, ge=0.0)  # from sending a target to the arm being there


@dataclass(frozen=True, eq=False)
class _Splice:
    """A chunk and the time from which it counts."""

    chunk: ActionChunk
    start_ns: int
    fades_in: bool  # something was scheduled until start_ns


class Schedule:
    """Absolute targets over absolute time, joined from chunks.

    A chunk counts from the moment it is added (plus the actuation latency): its rows due earlier are dropped by time,
    which loses no displacement because targets are absolute. Between two rows the target is interpolated (joints
    linear, orientation slerp), after the last row of the newest chunk it is kept for one step, then there is none.
    In `blend` and `ensemble` the gripper follows the newest chunk: a mean of two widths is nobody's wish.
    Looking changes nothing: the same chunks added at the same times give the same targets, live or replayed.
    """

    def __init__(self, config: ScheduleConfig) -> None:
        self._config = config
        self._latency_ns = ms_to_ns(config.actuation_latency_ms)
        self._splices: deque[_Splice] = deque(maxlen=_MOST_CHUNKS)

    def add(self, chunk: ActionChunk, now_ns: int) -> int:
        """Schedule a chunk; the number of its rows that are too late, all of them if the chunk is ignored.

        Ignored is a chunk whose every row is too late, or that was not observed later than the newest one. Raises
        ValueError for other dimensions than the scheduled ones.
        """
        if self._splices:
            newest = self._splices[-1].chunk
            if chunk.dimensions != newest.dimensions:
                raise ValueError(
                    f"the schedule holds chunks of {newest.dimensions}, got one of {chunk.dimensions}; clear it first"
                )
            if chunk.observation_ns <= newest.observation_ns:
                return len(chunk)
        sent_ns = now_ns + self._latency_ns
        too_late = min(len(chunk), max(0, -((chunk.observation_ns - sent_ns) // chunk.step_ns)))
        if too_late < len(chunk):
            start_ns = max(sent_ns, chunk.observation_ns)
            self._splices.append(_Splice(chunk, start_ns, fades_in=self._value(start_ns - 1) is not None))
        return too_late

    def target(self, now_ns: int) -> Target | None:
        """What to send at `now_ns`: the target of the time when it takes effect; None where nothing is scheduled."""
        time_ns = now_ns + self._latency_ns
        value = self._value(time_ns)
        return None if value is None else Target(time_ns, self._splices[-1].chunk.dimensions, value)

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

    def clear(self) -> None:
        """Forget every chunk, and their dimensions."""
        self._splices.clear()

    def _value(self, time_ns: int) -> Array | None:
        """The target (D,) of a time, by the chunks that counted then."""
        counting = [splice for splice in self._splices if splice.start_ns <= time_ns]
        if not counting:
            return None
        newest = counting[-1].chunk
        if time_ns >= newest.end_ns + newest.step_ns:
            return None
        if self._config.mode is ScheduleMode.NEWEST:
            return _row(newest, time_ns)
        if self._config.mode is ScheduleMode.BLEND:
            return self._blended(counting, time_ns)
        return self._ensembled(counting, min(time_ns, newest.end_ns))

    def _blended(self, counting: list[_Splice], time_ns: int) -> Array:
        """From the newest chunk whose fade is over, cross-fade after cross-fade; an ended chunk keeps its last row."""
        first = len(counting) - 1
        while first > 0 and self._fade(counting[first], time_ns) < 1.0:
            first -= 1
        row = value = _row(counting[first].chunk, time_ns)
        for splice in counting[first + 1 :]:
            row = _row(splice.chunk, time_ns)
            value = _mixed(splice.chunk.dimensions, value, row, self._fade(splice, time_ns))
        if counting[-1].chunk.dimensions[-1] == GRIPPER_DIMENSION:
            value[-1] = row[-1]
        return value

    def _fade(self, splice: _Splice, time_ns: int) -> float:
        """The share of a chunk against what was scheduled before it, 0 to 1."""
        duration_ns = self._config.blend_steps * splice.chunk.step_ns
        elapsed_ns = time_ns - splice.start_ns
        return elapsed_ns / duration_ns if splice.fades_in and elapsed_ns < duration_ns else 1.0

    def _ensembled(self, counting: list[_Splice], time_ns: int) -> Array:
        chunks = [splice.chunk for splice in counting if splice.chunk.end_ns >= time_ns]
        values = _rows(chunks, time_ns)
        weights = np.exp(-self._config.ensemble_m * np.arange(len(chunks)))
        weights /= weights.sum()
        mean = np.asarray(weights @ values, dtype=np.float64)
        if _is_pose(chunks[0].dimensions):
            mean[3:7] = mean_quaternion(values[:, 3:7], weights)
        if chunks[0].dimensions[-1] == GRIPPER_DIMENSION:
            mean[-1] = values[-1, -1]
        return mean


def _row(chunk: ActionChunk, time_ns: int) -> Array:
    """What a chunk says about a time, between its rows interpolated; its last row for later ones. A new array."""
    row, beyond_ns = divmod(time_ns - chunk.observation_ns, chunk.step_ns)
    if row >= len(chunk) - 1:
        return np.array(chunk.actions[-1], dtype=np.float64)
    return _mixed(chunk.dimensions, chunk.actions[row], chunk.actions[row + 1], beyond_ns / chunk.step_ns)


def _rows(chunks: list[ActionChunk], time_ns: int) -> Array:
    """`_row` of each chunk (n, D), at once: an ensemble has a hundred of them at every tick."""
    starts_n, ends_n, fractions_n = [], [], []
    for chunk in chunks:
        row, beyond_ns = divmod(time_ns - chunk.observation_ns, chunk.step_ns)
        last = len(chunk) - 1
        starts_n.append(chunk.actions[min(row, last)])
        ends_n.append(chunk.actions[min(row + 1, last)])
        fractions_n.append(beyond_ns / chunk.step_ns)
    # Much quicker than `np.stack`.
    starts = np.concatenate(starts_n).reshape(len(chunks), -1)
    ends = np.concatenate(ends_n).reshape(len(chunks), -1)
    fractions = np.array(fractions_n)
    mixed: Array = starts + fractions[:, None] * (ends - starts)
    if _is_pose(chunks[0].dimensions):
        mixed[:, 3:7] = slerp_rows(starts[:, 3:7], ends[:, 3:7], fractions)
    return mixed


def _mixed(dimensions: tuple[str, ...], start: Array, end: Array, fraction: float) -> Array:
    mixed: Array = start + fraction * (end - start)
    if _is_pose(dimensions):
        mixed[:7] = interpolate_pose(start[:7], end[:7], fraction)
    return mixed


def _is_pose(dimensions: tuple[str, ...]) -> bool:
    return dimensions[:7] == POSE_DIMENSIONS
