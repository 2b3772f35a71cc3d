"""PSNR and SSIM against their closed forms."""

from __future__ import annotations

from math import inf, log10

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.training.similarity import mean_squared_error, psnr_db, ssim
from vla_ros.values import Image

C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def noise(seed: int, side: int = 24) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def grey(values: np.ndarray) -> Image:
    return np.repeat(values[..., None], 3, axis=2).astype(np.uint8)


def test_psnr_is_the_peak_over_the_error() -> None:
    first, second = np.full((8, 8, 3), 10, np.uint8), np.full((8, 8, 3), 250, np.uint8)
    assert mean_squared_error(first, second) == 240.0**2, "no byte may overflow"
    assert psnr_db(240.0**2) == pytest.approx(20.0 * log10(255.0 / 240.0))
    assert psnr_db(mean_squared_error(first, first)) == inf


@given(st.integers(0, 255), st.integers(0, 255))
def test_of_flat_images_only_the_brightness_counts(a: int, b: int) -> None:
    found = ssim(np.full((12, 14, 3), a, np.uint8), np.full((12, 14, 3), b, np.uint8))
    assert found == pytest.approx((2 * a * b + C1) / (a * a + b * b + C1), abs=1e-9)


@given(st.integers(0, 2**32 - 1))
def test_one_window_is_what_weighted_statistics_say(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 256, (2, 11, 11))
    line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    weights = np.outer(line, line) / np.outer(line, line).sum()
    mean_a, mean_b = np.average(a, weights=weights), np.average(b, weights=weights)
    covariance = np.cov(a.ravel(), b.ravel(), aweights=weights.ravel(), ddof=0)
    expected = (2 * mean_a * mean_b + C1) * (2 * covariance[0, 1] + C2)
    expected /= (mean_a**2 + mean_b**2 + C1) * (covariance[0, 0] + covariance[1, 1] + C2)
    assert ssim(grey(a), grey(b)) == pytest.approx(expected, abs=1e-9)


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_it_is_symmetric_and_greatest_for_the_same(first: int, second: int) -> None:
    a, b = noise(first), noise(second)
    assert ssim(a, b) == pytest.approx(ssim(b, a))
    assert ssim(a, a) == pytest.approx(1.0)
    assert -1.0 <= ssim(a, b) <= 1.0
    assert ssim(a, 255 - a) < 0.0, "the opposite is worse than nothing in common"


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match=r"images of one shape are compared, got \(24, 24, 3\) and \(20, 20, 3\)"):
        ssim(noise(0), noise(0, 20))
    with pytest.raises(ValueError, match="windows of 11 pixels"):
        ssim(noise(0, 10), noise(1, 10))
