"""DelayTracker: how late chunks come, as a high quantile of the newest delays; what is slow once is forgotten."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque

from pydantic import Field

from vla_ros.values import Config


class DelayConfig(Config):
    """Which delays are looked at, and which of them is planned with."""

    window: int = Field(default=50, ge=1, le=10_000)  # the newest delays, in chunks
    quantile: float = Field(default=0.95, ge=0.0, le=1.0)


class DelayTracker:
    """The exact quantile of the newest `window` delays, the higher of two where it lies between them.

    A maximum that never forgets would plan for ever with the one inference that compiled the model. Here it weighs on
    the next 20 chunks (with the defaults: until it is the slowest 5 %), and is gone after `window`.
    """

    def __init__(self, config: DelayConfig) -> None:
        self._config = config
        self._newest: deque[int] = deque()
        self._sorted: list[int] = []

    def add(self, delay_ns: int) -> None:
        """Take one more delay; a negative one (clocks that are read one after the other) counts as none."""
        delay_ns = max(0, delay_ns)
        if len(self._newest) == self._config.window:
            del self._sorted[bisect_left(self._sorted, self._newest.popleft())]
        self._newest.append(delay_ns)
        insort(self._sorted, delay_ns)

    @property
    def quantile_ns(self) -> int | None:
        """The delay to plan with; None before the first."""
        if not self._sorted:
            return None
        return self._sorted[math.ceil(self._config.quantile * (len(self._sorted) - 1))]

    def steps(self, step_ns: int) -> int:
        """How many rows `step_ns` apart are past when a chunk comes so late, its first row at no delay; 0 before any.

        Raises ValueError unless `step_ns` is positive.
        """
        if step_ns <= 0:
            raise ValueError(f"step_ns must be positive, got {step_ns}")
        return -(-(self.quantile_ns or 0) // step_ns)
