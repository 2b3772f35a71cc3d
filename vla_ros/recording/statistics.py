"""What a policy is normalised by: least, largest, mean, deviation and quantiles of columns and of images.

As LeRobot writes them, but for its two errors: squares are never taken of large numbers (a clock's readings keep their
deviation), nor in uint8. A quantile is the smallest value that this share of the values does not exceed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vla_ros.recording.files import DatasetError
from vla_ros.values import Array, Image

#: Statistic -> value: (N,) of a column, (3, 1, 1) of images in [0, 1]; all float64, but for `count`, (1,) int64.
Statistics = Mapping[str, NDArray[Any]]

QUANTILES: Final[Mapping[str, float]] = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}

_LEVELS: Final = 256
_CHANNELS: Final = 3
#: Images with a side of so many pixels are looked at in steps, so that about `_SIDE` are left of the larger side.
_LARGE: Final = 300
_SIDE: Final = 150


def of_rows(values: NDArray[Any]) -> Statistics:
    """Statistics of a column's rows, (T,) or (T, N); raises DatasetError for none, and for what is not finite."""
    rows = np.asarray(values).astype(np.float64)
    if rows.size == 0 or not np.isfinite(rows).all():
        raise DatasetError(f"statistics need finite values, got {'some that are not' if rows.size else 'no rows'}")
    rows = rows.reshape(len(rows), -1)
    quantiles = np.quantile(rows, list(QUANTILES.values()), axis=0, method="inverted_cdf")
    return {
        "min": rows.min(axis=0),
        "max": rows.max(axis=0),
        "mean": rows.mean(axis=0),
        "std": rows.std(axis=0),
        "count": np.array([len(rows)], np.int64),
        **dict(zip(QUANTILES, quantiles, strict=True)),
    }


def merge(first: Statistics, second: Statistics) -> Statistics:
    """Statistics of both together.

    All are exact but the quantiles, which cannot be had from quantiles: as in LeRobot they are the mean of both,
    weighted by the counts, and left out where one has none.
    """
    counts = float(first["count"][0]), float(second["count"][0])
    share = counts[1] / sum(counts)
    apart = second["mean"] - first["mean"]
    variance = (1 - share) * first["std"] ** 2 + share * second["std"] ** 2 + share * (1 - share) * apart**2
    return {
        "min": np.minimum(first["min"], second["min"]),
        "max": np.maximum(first["max"], second["max"]),
        "mean": first["mean"] + share * apart,
        "std": np.sqrt(variance),
        "count": first["count"] + second["count"],
        **{
            name: (1 - share) * first[name] + share * second[name]
            for name in QUANTILES
            if name in first and name in second
        },
    }


class ImageStatistics:
    """Statistics of one camera's frames while they come, however many there will be.

    Of an episode of n frames at least as many are looked at as LeRobot looks at (all up to 100, n^0.75 of a long one),
    and at most twice as many, evenly spaced: where they are too many, every second one is forgotten.
    """

    def __init__(self) -> None:
        self._frames = 0
        self._step = 1
        self._levels: list[NDArray[np.int32]] = []  # per frame looked at: (3, 256), how many pixels have each level

    def add(self, image: Image) -> None:
        """Take the next frame, (H, W, 3) uint8."""
        if self._frames % self._step == 0:
            self._levels.append(_levels_of(image))
        self._frames += 1
        if len(self._levels) > 2 * enough(self._frames):
            self._levels = self._levels[::2]
            self._step *= 2

    def stats(self) -> Statistics:
        """Statistics of the frames so far, exact for those looked at; `count` is their number.

        Raises DatasetError if there are none.
        """
        if not self._levels:
            raise DatasetError("statistics of images need one frame at least")
        levels = np.stack(self._levels).sum(axis=0, dtype=np.int64)
        values = np.arange(_LEVELS) / (_LEVELS - 1)
        pixels = levels[0].sum()
        mean = levels @ values / pixels
        deviations = (values - mean[:, np.newaxis]) ** 2
        up_to = np.cumsum(levels, axis=1)

        def smallest(count: float) -> Array:
            """Per channel the smallest value that `count` pixels do not exceed."""
            below = (up_to < count - 1e-6).sum(axis=1)  # a share of a count is a whole number but for rounding
            return np.asarray(values[below])

        found = {
            "min": smallest(1),
            "max": smallest(pixels),
            "mean": mean,
            "std": np.sqrt((levels * deviations).sum(axis=1) / pixels),
            **{name: smallest(share * pixels) for name, share in QUANTILES.items()},
        }
        shaped = {name: value.reshape(_CHANNELS, 1, 1) for name, value in found.items()}
        return {**shaped, "count": np.array([len(self._levels)], np.int64)}


def enough(frames: int) -> int:
    """How many frames LeRobot looks at."""
    return max(min(100, frames), min(int(frames**0.75), 10_000))


def _levels_of(image: Image) -> NDArray[np.int32]:
    """(3, 256): how many pixels of each channel have each level; of a large image, in steps."""
    larger = max(image.shape[:2])
    step = larger // _SIDE if larger >= _LARGE else 1
    pixels = image[::step, ::step].reshape(-1, _CHANNELS)
    numbers = pixels + np.arange(0, _CHANNELS * _LEVELS, _LEVELS, dtype=np.uint16)
    counts = np.bincount(numbers.ravel(), minlength=_CHANNELS * _LEVELS)
    return counts.reshape(_CHANNELS, _LEVELS).astype(np.int32)
