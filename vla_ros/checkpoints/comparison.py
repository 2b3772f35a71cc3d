"""What lies between two sets of weights: names missing, too many, of other shapes, in groups that a person can read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Difference:
    """Weights that were expected and are not there, the other way round, and those of another shape (expected, given)."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.reshaped)

    def lines(self) -> list[str]:
        """A line per group: "missing: showo.model.layers.{0-23}.mlp.fc1.{bias,weight} (48)"."""
        raise NotImplementedError


def compare(expected: Shapes, given: Shapes) -> Difference:
    """What `given` lacks, has too much, and has in another shape."""
    raise NotImplementedError
