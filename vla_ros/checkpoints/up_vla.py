"""UP-VLA's weights under the released names and under ours: a reversible table, and strict loading."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vla_ros.models.up_vla import UpVla, UpVlaConfig


def to_ours(released: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the released names, under ours; names that the table does not know stay. No tensor is copied."""
    raise NotImplementedError


def to_released(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `to_ours`."""
    raise NotImplementedError


def find_weights(path: Path) -> Path:
    """The file of weights that `path` is, or that lies in the folder `path`; raises CheckpointError."""
    raise NotImplementedError


def load_model(
    path: Path, config: UpVlaConfig, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> UpVla:
    """A model with the weights at `path`, in eval mode.

    `path` is a file, or a folder with `unwrapped_model/pytorch_model.bin` or `model.safetensors`; under the released
    names or ours. Raises CheckpointError with what is missing, too much or of another shape, in groups.
    """
    raise NotImplementedError
