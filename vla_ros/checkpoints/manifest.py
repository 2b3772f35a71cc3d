"""Our checkpoint of UP-VLA: a folder with its weights, tokenizers and what they were trained on, saved atomically."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator

from vla_ros.actions import ActionSpec
from vla_ros.models.up_vla import UpVla, UpVlaConfig
from vla_ros.tokenizers.magvit2 import Magvit2, Magvit2Config
from vla_ros.tokenizers.text import TextTokenizer
from vla_ros.tokenizers.vision import SmallVisionConfig, VisionEncoder
from vla_ros.values import Config

FORMAT = "vla_ros/up_vla/1"

MANIFEST = "manifest.json"
MODEL = "model.safetensors"
IMAGE_TOKENIZER = "image_tokenizer.safetensors"
VISION = "vision.safetensors"
CLIP = "clip"  # folder of a CLIP vision tower, as transformers writes it
TEXT = "text"  # folder of the text tokenizer
CARD = "README.md"


class Normalization(Config):
    """real = offset + scale * model, dimension by dimension."""

    offset: tuple[float, ...]
    scale: tuple[float, ...]

    @model_validator(mode="after")
    def _one_scale_per_offset(self) -> Normalization:
        if len(self.offset) != len(self.scale):
            raise ValueError(f"as many offsets as scales, got {len(self.offset)} and {len(self.scale)}")
        if not all(self.scale):
            raise ValueError(f"no scale may be 0, or there is no way back; got {self.scale}")
        return self


class CameraInput(Config):
    """A camera and the size of its frames [pixels] in training."""

    name: str
    width: int = Field(gt=0)
    height: int = Field(gt=0)


class UpVlaManifest(Config):
    """What a checkpoint is, and what the world has to be like for it.

    `cameras` are what the model sees, in order; those of `code_cameras` reach it as codes, and their future is
    predicted; with `vision` all of them reach it as features, too. `pixels` is the side of what the image tokenizer
    gets. `proprioception` names the values of the state, `words` what it knows of language; empty: any English.
    """

    format: Literal["vla_ros/up_vla/1"] = "vla_ros/up_vla/1"
    size: str
    model: UpVlaConfig
    image_tokenizer: Magvit2Config
    vision: SmallVisionConfig | Literal["clip"] | None = None
    robot: str
    cameras: tuple[CameraInput, ...] = Field(min_length=1)
    code_cameras: tuple[str, ...] = Field(min_length=1)
    pixels: int = Field(gt=0)
    proprioception: tuple[str, ...] = ()
    state: Normalization | None = None
    action: ActionSpec
    normalization: Normalization
    instructions: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    description_period_s: float = Field(default=2.0, gt=0.0)
    trained: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class Bundle:
    """A model with all that it needs to see, read and act; the modules are on one device."""

    manifest: UpVlaManifest
    model: UpVla
    image_tokenizer: Magvit2
    vision: VisionEncoder | None
    text: TextTokenizer


def save(folder: Path, bundle: Bundle, card: str = "") -> None:
    """Write a bundle as a folder, in place of the one that is there; a crash leaves the old one or the new one.

    `card` is the text of the model card, in Markdown. Raises CheckpointError where it cannot be written.
    """
    raise NotImplementedError


def load(folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Bundle:
    """The bundle in a folder that `save` wrote, in eval mode; raises CheckpointError saying what is wrong with it."""
    raise NotImplementedError


def load_manifest(folder: Path) -> UpVlaManifest:
    """What a checkpoint is, without its weights; raises CheckpointError."""
    raise NotImplementedError
