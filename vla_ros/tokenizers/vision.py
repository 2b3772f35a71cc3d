"""Vision encoders: what the cameras show, as features for the language model; CLIP's tower, or a small one trained here.

Shapes: B batch, V cameras, H W pixels, S = V * features_per_camera positions, F width of a feature.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from vla_ros.values import Config


class VisionEncoder(Protocol):
    """Images of V cameras into features, one camera's after the other's."""

    width: int
    features_per_camera: int

    def encode(self, images_BVHW3: Tensor) -> Tensor:
        """(B, V, H, W, 3) uint8 rgb -> features (B, S, F); raises ValueError for images of another shape or type."""
        ...


class SmallVisionConfig(Config):
    """Sizes of the small encoder."""

    pixels: int = Field(default=128, gt=0, multiple_of=16)  # side of the images it takes
    cameras: int = Field(default=2, gt=0)
    width: int = Field(default=128, gt=0)


class SmallVision(nn.Module):
    """A few convolutions, and a learned position for every place of every camera; trained with the model behind it."""

    def __init__(self, config: SmallVisionConfig) -> None:
        super().__init__()
        self.config = config

    def encode(self, images_BVHW3: Tensor) -> Tensor:
        """See `VisionEncoder`; gradients flow."""
        raise NotImplementedError


class ClipVision(nn.Module):
    """CLIP's vision tower from a local folder, frozen: the last but one layer's patches, as LLaVA takes them."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> None:
        super().__init__()
        raise NotImplementedError

    def encode(self, images_BVHW3: Tensor) -> Tensor:
        """See `VisionEncoder`; without gradients."""
        raise NotImplementedError
