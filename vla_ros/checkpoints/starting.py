"""Published weights to fine-tune from: Show-o 512 with CLIP, MAGVIT-v2 and Phi-1.5's tokenizer, from local folders."""

from __future__ import annotations

from pathlib import Path

import torch

from vla_ros.checkpoints.manifest import Bundle


def from_show_o(
    show_o: Path,
    image_tokenizer: Path,
    text: Path,
    clip: Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Bundle:
    """What UP-VLA's training starts from: Show-o's weights, and an action head drawn from `seed`.

    `show_o` is a folder of showlab/show-o-w-clip-vit-512x512, `image_tokenizer` of showlab/magvitv2, `text` of
    microsoft/phi-1_5, `clip` of openai/clip-vit-large-patch14-336. Raises CheckpointError naming every file that is
    missing, with where it belongs.
    """
    raise NotImplementedError
