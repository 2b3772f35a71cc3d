"""Trains the small image tokenizer on the frames of datasets, and shows what it keeps of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vla_ros.tokenizers.magvit2 import Magvit2
from vla_ros.values import Config


class ImageTokenizerTraining(Config):
    """How the image tokenizer is trained."""

    size: str = "magvit2-demo"
    pixels: int = Field(default=128, gt=0)
    steps: int = Field(default=4000, gt=0)
    batch: int = Field(default=16, gt=0)
    learning_rate: float = Field(default=1e-3, gt=0)
    seed: int = 0


@dataclass(frozen=True)
class Progress:
    """Where the training is."""

    step: int
    steps: int
    losses: dict[str, float]


@dataclass(frozen=True, eq=False)
class Trained:
    """The tokenizer in eval mode and its mean PSNR on frames that it was not trained on."""

    tokenizer: Magvit2
    psnr_db: float
    codes_used: int


def read_frames(
    datasets: Sequence[Path], cameras: Sequence[str], pixels: int, every: int = 3, successes_only: bool = True
) -> NDArray[np.uint8]:
    """(N, pixels, pixels, 3) uint8: each `every`-th frame of the named cameras, resized; raises DatasetError."""
    raise NotImplementedError


def train_image_tokenizer(
    frames: NDArray[np.uint8],
    config: ImageTokenizerTraining,
    out: Path,
    device: str = "cpu",
    report: Callable[[Progress], None] = lambda _: None,
) -> Trained:
    """Train on (N, H, W, 3) frames; writes `image_tokenizer.safetensors`, `.json`, `.jsonl` and `.png` into `out`."""
    raise NotImplementedError
