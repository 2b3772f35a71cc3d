"""Random changes of a window's frames: a shift and other colours, the same for all frames of the window."""

from __future__ import annotations

from math import pi

import torch
from pydantic import Field
from torch import Tensor

from vla_ros.values import Config

#: Numbers in -1..1 that change one window: shift in x and y, brightness, contrast, saturation, hue.
DRAWS = 6

#: Luminance and two axes of colour about it, of which hue is the angle and saturation the length (NTSC, 1953).
_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_MIDDLE = 127.5


class AugmentationConfig(Config):
    """How far frames are changed, uniformly up to these; all zero = not at all."""

    shift: float = Field(default=0.03, ge=0.0, lt=0.5)  # of the picture's side, in x and in y; its edge is repeated
    brightness: float = Field(default=0.2, ge=0.0, lt=1.0)  # factor 1 +- this
    contrast: float = Field(default=0.2, ge=0.0, lt=1.0)  # factor 1 +- this, about medium grey
    saturation: float = Field(default=0.2, ge=0.0, lt=1.0)  # factor 1 +- this, about each pixel's grey
    hue: float = Field(default=0.02, ge=0.0, le=0.5)  # of a whole turn


def draw(windows: int, generator: torch.Generator) -> Tensor:
    """(windows, DRAWS) in -1..1, on the CPU."""
    return 2.0 * torch.rand(windows, DRAWS, generator=generator) - 1.0


def augment(images: Tensor, config: AugmentationConfig, draws: Tensor) -> Tensor:
    """The frames (B, N, S, S, 3) uint8 of B windows, each changed by its row of `draws` (B, DRAWS); uint8 again."""
    draws = draws.to(images.device)
    height, width = images.shape[2:4]
    across = _source(width, torch.round(draws[:, 0] * config.shift * width))
    down = _source(height, torch.round(draws[:, 1] * config.shift * height))
    matrices, offsets = _colours(config, draws[:, 2:])
    changed = torch.empty_like(images)
    # Window by window: a whole batch as floating-point numbers would leave the processor's cache.
    for window, x, y, matrix, offset, out in zip(images, across, down, matrices, offsets, changed, strict=True):
        pixels = window.index_select(1, y).index_select(2, x).view(-1, 3).float()
        out.copy_(torch.addmm(offset.expand(3), pixels, matrix.T).round_().clamp_(0.0, 255.0).view(out.shape))
    return changed


def _source(length: int, by: Tensor) -> Tensor:
    """Which pixel of a line (length,) stands where after a shift `by` (B,), the edge repeated: (B, length)."""
    places = torch.arange(length, device=by.device) - by.long()[:, None]
    return places.clamp(0, length - 1)


def _colours(config: AugmentationConfig, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Matrices (B, 3, 3) and offsets (B,): all four changes together are linear in red, green and blue."""
    brightness, contrast, saturation = (
        1.0 + most * draws[:, column]
        for column, most in enumerate((config.brightness, config.contrast, config.saturation))
    )
    angle = 2.0 * pi * config.hue * draws[:, 3]
    turn = torch.zeros(len(draws), 3, 3, device=draws.device)
    turn[:, 0, 0] = 1.0
    turn[:, 1, 1] = turn[:, 2, 2] = saturation * angle.cos()
    turn[:, 2, 1] = saturation * angle.sin()
    turn[:, 1, 2] = -turn[:, 2, 1]
    yiq = _YIQ.to(draws.device)
    matrices = (brightness * contrast)[:, None, None] * (torch.linalg.inv(yiq) @ turn @ yiq)
    return matrices, brightness * (1.0 - contrast) * _MIDDLE
