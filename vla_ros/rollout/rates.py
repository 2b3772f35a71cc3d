"""How sure a success rate is: so many of so many, with the interval that its truth lies in."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

_Z_95 = 1.959963984540054  # the normal distribution has 95 % within so many standard deviations


@dataclass(frozen=True)
class Rate:
    """`successes` of `of` independent tries; raises ValueError for fewer than one try, or more successes than tries."""

    successes: int
    of: int

    def __post_init__(self) -> None:
        if not 0 <= self.successes <= self.of or not self.of:
            raise ValueError(f"a rate is of one or more tries, 0 to all of them successes, got {vars(self)}")

    @property
    def share(self) -> float:
        """0 to 1."""
        return self.successes / self.of

    @property
    def interval(self) -> tuple[float, float]:
        """Where the true rate is with 95 % confidence: Wilson's score interval (1927), good for few tries and near 1.

        Its ends are the rates p from which what was seen is just 1.96 of their own standard deviations away.
        """
        spread = _Z_95**2 / self.of
        middle = (self.share + 0.5 * spread) / (1.0 + spread)
        half = sqrt(self.share * (1.0 - self.share) * spread + 0.25 * spread**2) / (1.0 + spread)
        low = middle - half if self.successes else 0.0  # without rounding where it is certain
        return low, middle + half if self.successes < self.of else 1.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        low, high = self.interval
        return {
            "successes": self.successes,
            "of": self.of,
            "rate": round(self.share, 4),
            "interval_95": [round(low, 4), round(high, 4)],
        }

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.successes} of {self.of}, {self.share:.0%} (95% in {100 * low:.0f} to {high:.0%})"
