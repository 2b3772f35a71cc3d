"""Camera frames as a model takes them: squares of one size, made for training and for inference by the same lines."""

from __future__ import annotations

import numpy as np
from PIL import Image as PillowImage

from vla_ros.values import Image


def square(image: Image, pixels: int) -> Image:
    """`image` (H, W, 3) uint8 rgb as (pixels, pixels, 3): the shorter side resized, the longer cropped at its middle.

    Bicubic with antialiasing, rounded to bytes, as Pillow does it: what UP-VLA was published with (training/utils.py,
    torchvision's Resize and CenterCrop). Raises ValueError for an image of another kind.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"an image is (height, width, 3) of uint8, got {image.shape} of {image.dtype}")
    height, width = image.shape[:2]
    shorter = min(height, width)
    size = (pixels * width // shorter, pixels * height // shorter)
    if size != (width, height):
        image = np.asarray(PillowImage.fromarray(image).resize(size, PillowImage.Resampling.BICUBIC))
    left, top = (round((side - pixels) / 2) for side in size)
    return np.ascontiguousarray(image[top : top + pixels, left : left + pixels])
