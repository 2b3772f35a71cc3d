"""Tensors in files: safetensors and torch's own, read without unpickling, written whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

#: Called with what is being done, how much of it is done, and of how much.
Progress = Callable[[str, int, int], None]


class CheckpointError(ValueError):
    """What was asked of a checkpoint cannot be: the text says what was given and what would be right."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU and mapped: a tensor is read from the disk when it is looked at.

    `.safetensors`, or `.bin`, `.pt`, `.pth` as torch.save writes them, read with weights_only: nothing is executed.
    Raises CheckpointError, naming the file, where it is missing, cut off, no such file, or holds more than tensors.
    """
    raise NotImplementedError


def read_metadata(path: Path) -> dict[str, str]:
    """The texts that a safetensors file carries beside its tensors; raises CheckpointError."""
    raise NotImplementedError


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    dtype: torch.dtype | None = None,
    on_progress: Progress | None = None,
) -> None:
    """Write a safetensors file, on the disk when this returns; what was at `path` stays until it is whole.

    One tensor after the other, so that no second copy is held; floating point as `dtype` where that is given. Raises
    CheckpointError where the disk is full or may not be written; then nothing is left.
    """
    raise NotImplementedError
