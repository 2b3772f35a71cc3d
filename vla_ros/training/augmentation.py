"""Random changes of a window's frames: a shift and other colours, the same for all frames of the window."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from vla_ros.values import Config


class AugmentationConfig(Config):
    """How far frames are changed, uniformly up to these; all zero = not at all."""

    shift: float = Field(default=0.03, ge=0.0, lt=0.5)  # of the picture's side, in x and in y; its edge is repeated
    brightness: float = Field(default=0.2, ge=0.0, lt=1.0)  # factor 1 +- this
    contrast: float = Field(default=0.2, ge=0.0, lt=1.0)  # factor 1 +- this, about the window's mean grey
    saturation: float = Field(default=0.2, ge=0.0, lt=1.0)  # factor 1 +- this, about each pixel's grey
    hue: float = Field(default=0.02, ge=0.0, le=0.5)  # of a whole turn


def augment(images: Tensor, config: AugmentationConfig, generator: torch.Generator) -> Tensor:
    """The frames of B windows, each with one change for its N frames; uint8 in and out, the shape stays.

    What is drawn for a window depends on the generator and its place in the batch alone, not on the frames.
    """
    raise NotImplementedError
