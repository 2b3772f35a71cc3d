"""Frames as the model takes them, against the resampling written out as the two sums that it is."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from vla_ros.policies.images import square
from vla_ros.values import Image


def cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' kernel with a = -1/2."""
    x = np.abs(distance)
    near = 1.5 * x**3 - 2.5 * x**2 + 1.0
    far = -0.5 * x**3 + 2.5 * x**2 - 4.0 * x + 2.0
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def weights(source: int, target: int) -> NDArray[np.float64]:
    """(target, source): how much of each pixel goes into each; the kernel is as wide as what a target pixel covers."""
    scale = source / target
    width = max(scale, 1.0)
    centre = (np.arange(target) + 0.5) * scale
    kernel = cubic((np.arange(source) + 0.5 - centre[:, None]) / width)
    # Pillow takes whole pixels within two widths of the centre.
    index = np.arange(source)
    first = np.maximum(np.trunc(centre - 2.0 * width + 0.5), 0)[:, None]
    last = np.minimum(np.trunc(centre + 2.0 * width + 0.5), source)[:, None]
    kernel *= (index >= first) & (index < last)
    return kernel / kernel.sum(axis=1, keepdims=True)


def resized(image: Image, height: int, width: int) -> NDArray[np.float64]:
    """Rows first, then columns, bytes in between."""
    across = np.einsum("xs,hsc->hxc", weights(image.shape[1], width), image.astype(float))
    down = np.einsum("ys,sxc->yxc", weights(image.shape[0], height), np.clip(np.round(across), 0, 255))
    return np.clip(np.round(down), 0, 255)


@pytest.mark.parametrize(
    ("height", "width", "pixels", "left", "top"),
    [
        (48, 64, 32, 5, 0),  # 42 x 32: (42 - 32) / 2 = 5
        (64, 48, 32, 0, 5),
        (50, 50, 128, 0, 0),
        (96, 131, 32, 6, 0),  # 43 x 32: 5.5 goes to the even 6
        (96, 125, 32, 4, 0),  # 41 x 32: 4.5 goes to the even 4
        (17, 23, 40, 7, 0),
    ],
)
def test_the_shorter_side_is_resized_and_the_longer_one_cropped(
    height: int, width: int, pixels: int, left: int, top: int
) -> None:
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    shorter = min(height, width)
    whole = resized(image, pixels * height // shorter, pixels * width // shorter)
    expected = whole[top : top + pixels, left : left + pixels]
    given = square(image, pixels)
    assert given.shape == (pixels, pixels, 3)
    assert given.dtype == np.uint8
    # Pillow computes in integers of 22 bits, so a value at the edge of two bytes may fall on either side.
    difference = np.abs(given.astype(float) - expected)
    assert difference.max() <= 1.0
    assert (difference > 0).mean() < 0.01


def test_a_frame_of_the_right_size_is_left_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(square(image, 32), image)
    wide = np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8)
    np.testing.assert_array_equal(square(wide, 32), wide[:, 4:36])


def test_what_shrinks_is_filtered_first() -> None:
    """Stripes of one pixel are grey from afar; without antialiasing they would be stripes, or all black."""
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    np.testing.assert_allclose(square(stripes, 32)[:, 2:-2], 127.5, atol=3.0)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), r"\(height, width, 3\) of uint8, got \(4, 4, 3\) of float32"),
        (np.zeros((4, 4), np.uint8), r"got \(4, 4\) of uint8"),
        (np.zeros((4, 4, 4), np.uint8), r"got \(4, 4, 4\) of uint8"),
        (np.zeros((0, 4, 3), np.uint8), r"got \(0, 4, 3\) of uint8"),
    ],
)
def test_what_is_no_image_is_refused(image: Image, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        square(image, 8)
