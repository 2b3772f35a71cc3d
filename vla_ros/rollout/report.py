"""What a set of episodes came to, as numbers and as a JSON file; the same from the in-process loop and from ROS."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class EpisodeRow:
    """One episode. `ended` says why it ended; `interventions` counts what the safety stage did, by name."""

    seed: int
    instruction: str
    success: bool
    duration_s: float  # in the world's time
    ended: str
    interventions: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Percentiles:
    """The middle and the tail of a measured quantity; None where nothing was measured."""

    p50: float | None
    p99: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Percentiles:
        """The percentiles of `values`, in their unit."""
        if not values:
            return cls(None, None)
        p50, p99 = np.percentile(np.asarray(values, dtype=np.float64), (50.0, 99.0))
        return cls(round(float(p50), 3), round(float(p99), 3))


@dataclass(frozen=True)
class Report:
    """Episodes of one policy, with what was measured on the way.

    `latency_ms`: from the instant observed to the chunk's arrival at the controller. `jitter_ms`: how far controller
    ticks were from their period. `topics`: topic -> rate [Hz].
    """

    policy: str
    episodes: tuple[EpisodeRow, ...]
    latency_ms: Percentiles = Percentiles(None, None)
    jitter_ms: Percentiles = Percentiles(None, None)
    topics: Mapping[str, float] = field(default_factory=dict)

    @property
    def successes(self) -> int:
        """How many episodes reached their goal."""
        return sum(row.success for row in self.episodes)

    @property
    def interventions(self) -> dict[str, int]:
        """What the safety stage did over all episodes, by name."""
        total: Counter[str] = Counter()
        for row in self.episodes:
            total.update(row.interventions)
        return dict(sorted(total.items()))

    def as_dict(self) -> dict[str, Any]:
        """What stands in the JSON file: totals first, then a row per episode."""
        return {
            "policy": self.policy,
            "episodes": len(self.episodes),
            "successes": self.successes,
            "latency_ms": asdict(self.latency_ms),
            "jitter_ms": asdict(self.jitter_ms),
            "topics": dict(self.topics),
            "interventions": self.interventions,
            "rows": [{**vars(row), "interventions": dict(row.interventions)} for row in self.episodes],
        }

    def write(self, path: Path) -> None:
        """Write the JSON file at once or not at all: a reader never sees half of it. Makes its folder."""
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        unfinished.write_text(json.dumps(self.as_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        unfinished.replace(path)
