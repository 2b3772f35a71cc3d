"""Which rows of an episode are kept: without the standing still at both ends, key frames only, or one every so often.

What moves is judged by units, which dimensions' names end in: `_rad` and `_m`, as this package writes them. Other
people's datasets name dimensions without units (or count in degrees), so for those the limit must be said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vla_ros.values import Array, Config

Rows = NDArray[np.int64]


class Motion(Config):
    """How far a dimension must be from where it was to have moved; `other`: where the name ends in no unit."""

    rad: float = Field(gt=0.0)
    m: float = Field(gt=0.0)
    other: float | None = Field(default=None, gt=0.0)

    def limits(self, key: str, names: Sequence[str]) -> Array:
        """(N,) of the feature `key`, whose dimensions have these names.

        Raises:
            ValueError: a dimension has no unit, and there is no limit for such.
        """
        units = [name.rpartition("_")[2] for name in names]
        strange = [name for name, unit in zip(names, units, strict=True) if unit not in ("rad", "m")]
        if strange and self.other is None:
            raise ValueError(
                f"{key}: {', '.join(strange)} have no unit in their names (_rad, _m), so it must be said "
                "how far one must be from where it was (still.other or moved.other)"
            )
        known = {"rad": self.rad, "m": self.m}
        return np.array([known.get(unit, self.other) for unit in units], dtype=np.float64)


#: Standing still: measured joints of a Panda at rest stay within 1e-3 rad, and the slowest reach leaves this in 0.1 s.
STILL = Motion(rad=0.005, m=0.001)
#: From key frame to key frame: 6 degrees of a joint, or an eighth of the range of a Panda's gripper.
MOVED = Motion(rad=0.1, m=0.01)


def trim(columns: Mapping[str, tuple[Array, Array]], margin: int) -> slice:
    """The rows from the first motion to the last; `columns`: key -> ((T, N) values, (N,) limits).

    At the head a row is still while every column is within its limits of the first row, at the tail of the last row;
    `margin` rows are kept before and after. Slow drift counts once it has gone that far. Nothing moves: an empty slice.
    """
    left, ahead = (
        np.any([(np.abs(values - values[end]) > limits).any(1) for values, limits in columns.values()], axis=0)
        for end in (0, -1)
    )
    if not (left.any() and ahead.any()):
        return slice(0, 0)
    first, last = int(np.argmax(left)), len(ahead) - 1 - int(np.argmax(ahead[::-1]))
    return slice(max(first - 1 - margin, 0), min(last + 2 + margin, len(left)))


def keyframes(actions: Array, limits: Array) -> Rows:
    """Rows where `actions` (T, N) is further than `limits` (N,) from the row kept last; the first and the last too."""
    kept = [0]
    for row in range(1, len(actions)):
        if np.any(np.abs(actions[row] - actions[kept[-1]]) > limits):
            kept.append(row)
    if kept[-1] != len(actions) - 1:
        kept.append(len(actions) - 1)
    return np.array(kept, dtype=np.int64)


def stride(fps: int, every_s: float) -> int:
    """How many rows at `fps` are `every_s` seconds apart.

    Raises:
        ValueError: that is no whole number of rows, or the rate it leaves no whole number of frames a second: a dataset
            has one rate, and it is an integer.
    """
    rows = round(fps * every_s)
    if rows < 1 or abs(rows - fps * every_s) > 1e-3 * rows or fps % rows:
        possible = ", ".join(f"{step / fps:.4g}" for step in range(1, fps + 1) if fps % step == 0)
        raise ValueError(
            f"every {every_s} s of {fps} frames a second leaves no whole number of frames a second; possible: "
            f"{possible} s"
        )
    return rows
