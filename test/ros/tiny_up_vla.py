"""A tiny UP-VLA with random weights for two cameras of 64 x 48 pixels: all parts of a real one, in a millisecond."""

from __future__ import annotations

from typing import Any

import torch

from vla_ros.actions import ActionSpec, GripperConvention, Space
from vla_ros.checkpoints.manifest import Bundle, UpVlaManifest
from vla_ros.checkpoints.requirements import CameraInput, Normalization
from vla_ros.geometry import RotationForm
from vla_ros.models.up_vla import UpVla, UpVlaConfig, Vocabulary
from vla_ros.tokenizers.magvit2 import Magvit2, Magvit2Config
from vla_ros.tokenizers.text import TextTokenizer
from vla_ros.tokenizers.vision import SmallVision, SmallVisionConfig

PIXELS = 32
WIDTH, HEIGHT = 64, 48
INSTRUCTIONS = ("lift the red cube", "lift the blue cube")
#: An arm that hardly moves, whatever the weights say: metres and radians a step.
STEP = 0.002

ACTION = ActionSpec(
    space=Space.EE_DELTA,
    rotation=RotationForm.AXIS_ANGLE,
    gripper=GripperConvention.OPEN_UNIT,
    rate_hz=10.0,
    horizon=10,
)


def manifest(text: TextTokenizer, **changes: Any) -> UpVlaManifest:
    """What the tiny checkpoint is; `changes` as a manifest's fields."""
    tokenizer = Magvit2Config(
        channels=8, multipliers=(1, 1), encoder_blocks=(1, 1), decoder_blocks=(1, 1), code_bits=4, groups=4, patch=4
    )
    model = UpVlaConfig(
        vocabulary=Vocabulary(text_size=text.size, end_of_text=text.end_of_text, codes=tokenizer.codes),
        layers=2,
        width=32,
        heads=2,
        mlp_width=64,
        conditioning="paper",
        max_text=32,
        image_codes=(PIXELS // tokenizer.pixels_per_code) ** 2,
        head_heads=2,
        head_mlp_width=32,
        feature_width=16,
        features=2 * (PIXELS // 16) ** 2,
        max_description=6,
        state_dims=8,
    )
    values = {
        "size": "tiny",
        "model": model,
        "image_tokenizer": tokenizer,
        "vision": SmallVisionConfig(pixels=PIXELS, cameras=2, width=16),
        "robot": "panda",
        "cameras": tuple(CameraInput(name=name, width=WIDTH, height=HEIGHT) for name in ("front", "wrist")),
        "code_cameras": ("front",),
        "pixels": PIXELS,
        "proprioception": ("joints", "gripper"),
        "state": Normalization(offset=(0.0,) * 8, scale=(3.0,) * 7 + (0.08,)),
        "action": ACTION,
        "normalization": Normalization(offset=(0.0,) * 7, scale=(STEP,) * 6 + (1.0,)),
        "instructions": INSTRUCTIONS,
        "words": tuple(sorted({word for text in INSTRUCTIONS for word in text.split()})),
    }
    return UpVlaManifest(**{**values, **changes})


def bundle(seed: int = 0, **changes: Any) -> Bundle:
    """Random weights, the same for the same seed; `changes` as a manifest's fields."""
    text = TextTokenizer.train([*INSTRUCTIONS, "USER: describe this image ASSISTANT:"], 270)
    told = manifest(text, **changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, tokenizer = UpVla(told.model), Magvit2(told.image_tokenizer)
        vision = SmallVision(told.vision) if isinstance(told.vision, SmallVisionConfig) else None
    for module in (model, tokenizer, vision):
        if module is not None:
            module.requires_grad_(False).eval()
    return Bundle(told, model, tokenizer, vision, text)
