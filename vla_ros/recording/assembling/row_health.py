"""How an episode's rows are doing: how many repeat something, how far apart the cameras are, and what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vla_ros.recording.config import HealthConfig
from vla_ros.timing.stamps import ns_to_ms
from vla_ros.values import Array


@dataclass(frozen=True)
class RowHealth:
    """Of one episode. `repeated`: source -> rows in which it had nothing, and its last value stands again."""

    rows: int
    repeated: Mapping[str, int]
    repeated_rows: int  # rows in which any source is repeated
    longest_run: int  # most rows on end in which one source is repeated
    max_skew_ms: float  # largest distance between the capture times of two cameras' frames, without repeated ones
    rate_hz: float  # rows a second in which nothing is repeated
    lag_ms: float  # from the newest row's instant to when rows were last asked for
    moved_rad: float  # how far the joint went that went furthest
    moved_m: float  # and the gripper
    rejected: str  # why the episode is not to be kept; empty when nothing speaks against it

    def problems(self, config: HealthConfig) -> tuple[str, ...]:
        """What speaks against saving the episode, in words; nothing when it is healthy."""
        share = self.repeated_rows / self.rows if self.rows else 0.0
        sources = ", ".join(f"{source} {count}x" for source, count in self.repeated.items() if count)
        return tuple(
            text
            for is_wrong, text in (
                (bool(self.rejected), self.rejected),
                (self.rows < config.min_frames, f"{self.rows} rows, at least {config.min_frames} make an episode"),
                (
                    share > config.max_repeated,
                    f"{share:.1%} of the rows repeat something ({sources}), at most {config.max_repeated:.1%} may",
                ),
                (
                    self.longest_run > config.max_repeated_in_a_row,
                    f"{self.longest_run} rows on end repeat one source ({sources}), at most "
                    f"{config.max_repeated_in_a_row} may",
                ),
                (
                    self.max_skew_ms > config.max_skew_ms,
                    f"cameras are {self.max_skew_ms:.1f} ms apart, at most {config.max_skew_ms:g} ms are allowed",
                ),
                (
                    bool(self.rows) and self.moved_rad < config.min_motion_rad and self.moved_m < config.min_motion_m,
                    f"nothing moved: no joint by more than {self.moved_rad:.4f} rad, the gripper by "
                    f"{1000 * self.moved_m:.1f} mm; does a policy or a teleoperator command the arm?",
                ),
            )
            if is_wrong
        )


@dataclass
class Tally:
    """Counts what `RowHealth` says, row by row."""

    sources: Sequence[str]
    rows: int = 0
    lag_ms: float = 0.0
    _repeated: Counter[str] = field(default_factory=Counter)
    _runs: Counter[str] = field(default_factory=Counter)
    _repeated_rows: int = 0
    _longest_run: int = 0
    _max_skew_ns: int = 0
    _rejected: str = ""
    _least: Array | None = None  # joints and gripper
    _most: Array | None = None

    def add(self, missing: Collection[str], skew_ns: int) -> None:
        """One more row, in which the sources `missing` are repeated."""
        self.rows += 1
        self._repeated_rows += bool(missing)
        self._repeated.update(list(missing))
        self._runs = Counter({source: self._runs[source] + 1 for source in missing})
        self._longest_run = max(self._longest_run, *self._runs.values(), 0)
        self._max_skew_ns = max(self._max_skew_ns, skew_ns)

    def see_motion(self, joint_positions: Array, gripper_width_m: float) -> None:
        """Where joints and gripper are at a row."""
        at = np.append(joint_positions, gripper_width_m)
        self._least = at if self._least is None else np.minimum(self._least, at)
        self._most = at if self._most is None else np.maximum(self._most, at)

    def reject(self, why: str) -> None:
        """The episode is not to be kept; the first reason counts."""
        self._rejected = self._rejected or why

    def health(self, fps: int) -> RowHealth:
        """What was counted, of rows at `fps` a second."""
        moved = np.zeros(2) if self._least is None or self._most is None else self._most - self._least
        return RowHealth(
            rows=self.rows,
            repeated={source: self._repeated[source] for source in self.sources},
            repeated_rows=self._repeated_rows,
            longest_run=self._longest_run,
            max_skew_ms=ns_to_ms(self._max_skew_ns),
            rate_hz=fps * (1.0 - self._repeated_rows / self.rows) if self.rows else 0.0,
            lag_ms=self.lag_ms,
            moved_rad=float(moved[:-1].max()),
            moved_m=float(moved[-1]),
            rejected=self._rejected,
        )
