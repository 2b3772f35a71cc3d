"""How alike two images are: peak signal-to-noise ratio, and structural similarity (SSIM)."""

from __future__ import annotations

from math import inf, log10

import numpy as np
from numpy.typing import NDArray

from vla_ros.values import Array, Image

PEAK = 255.0
_RADIUS, _SIGMA = 5, 1.5  # of the window that SSIM looks through, in pixels
_C1, _C2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2  # keep the quotients tame where an image is flat
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def mean_squared_error(first: Image, second: Image) -> float:
    """Of all values; raises ValueError for images of different shapes."""
    _check(first, second)
    return float(np.mean(np.square(first.astype(np.float64) - second)))


def psnr_db(squared_error: float) -> float:
    """The ratio of the largest value to a mean squared error, in decibels; infinite where there is none."""
    return inf if squared_error == 0.0 else 10.0 * log10(PEAK**2 / squared_error)


def ssim(first: Image, second: Image) -> float:
    """-1 to 1 (the same), of the brightness: Wang et al. 2004, Gaussian windows of 11 pixels, the whole of them inside.

    Raises ValueError for images of different shapes, or smaller than a window.
    """
    _check(first, second)
    if min(first.shape[:2]) <= 2 * _RADIUS:
        raise ValueError(f"SSIM looks through windows of {2 * _RADIUS + 1} pixels, the images are {first.shape}")
    a, b = first @ _LUMA, second @ _LUMA
    mean_a, mean_b = _smoothed(a), _smoothed(b)
    variance_a, variance_b = _smoothed(a * a) - mean_a**2, _smoothed(b * b) - mean_b**2
    covariance = _smoothed(a * b) - mean_a * mean_b
    brightness = (2.0 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    structure = (2.0 * covariance + _C2) / (variance_a + variance_b + _C2)
    return float(np.mean(brightness * structure))


def _smoothed(values: Array) -> Array:
    """The Gaussian mean (H - 10, W - 10) around every pixel (H, W) whose window is inside."""
    weights = np.exp(-0.5 * np.square(np.arange(-_RADIUS, _RADIUS + 1) / _SIGMA))
    weights /= weights.sum()
    for axis in (0, 1):
        windows = np.lib.stride_tricks.sliding_window_view(values, len(weights), axis=axis)
        values = np.asarray(windows @ weights)
    return values


def _check(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> None:
    if first.shape != second.shape:
        raise ValueError(f"images of one shape are compared, got {first.shape} and {second.shape}")
