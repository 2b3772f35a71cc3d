"""Batches as pure functions of the step: resumed, or shared among processes, training sees the same ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vla_ros.checkpoints.manifest import Normalization
from vla_ros.training.augmentation import AugmentationConfig
from vla_ros.training.conversations import Conversations
from vla_ros.training.windows import ActionSamples

Batch_co = TypeVar("Batch_co", covariant=True)


@dataclass(frozen=True)
class Share:
    """Which part of every global batch is this process's: `rank` of `world`."""

    rank: int = 0
    world: int = 1


@dataclass(frozen=True, eq=False)
class ActionBatch:
    """B windows, on the CPU; uint8 images, float32 numbers.

    `images` (B, V, S, S, 3): the cameras in order. `now`, `future` (B, C, S, S, 3): the code cameras' frames, now and a
    chunk later. `actions` (B, K, A), `state` (B, P) or None: normalised. `is_pad` (B, K) bool: beyond the episode's
    end. `samples` (B,) int64: their numbers in the samples.
    """

    images: Tensor
    now: Tensor
    future: Tensor
    actions: Tensor
    is_pad: Tensor
    state: Tensor | None
    instructions: tuple[str, ...]
    samples: Tensor


@dataclass(frozen=True, eq=False)
class ConversationBatch:
    """B questions with their answers, about `images` (B, V, S, S, 3) uint8, on the CPU."""

    images: Tensor
    questions: tuple[str, ...]
    answers: tuple[str, ...]


class Batches(Protocol[Batch_co]):
    """A batch for every step."""

    def __getitem__(self, step: int) -> Batch_co:
        """The batch of `step`, 0 and on."""


def shuffled(length: int, batch: int, step: int, seed: int) -> NDArray[np.int64]:
    """Which samples make up the global batch of `step`: (batch,).

    Every sample comes once in each round, in an order of that round's own; a batch may span two rounds.
    """
    raise NotImplementedError


class ActionBatches:
    """`ActionBatch` by step; `batch` is the global size, a multiple of `share.world`."""

    def __init__(
        self,
        samples: ActionSamples,
        action: Normalization,
        state: Normalization | None,
        batch: int,
        seed: int = 0,
        augmentation: AugmentationConfig | None = None,
        share: Share = Share(),
    ) -> None:
        raise NotImplementedError

    def __getitem__(self, step: int) -> ActionBatch:
        raise NotImplementedError


class ConversationBatches:
    """`ConversationBatch` by step, as `ActionBatches`."""

    def __init__(
        self,
        conversations: Conversations,
        batch: int,
        seed: int = 0,
        augmentation: AugmentationConfig | None = None,
        share: Share = Share(),
    ) -> None:
        raise NotImplementedError

    def __getitem__(self, step: int) -> ConversationBatch:
        raise NotImplementedError


def prefetched(batches: Batches[Batch_co], first: int, last: int, ahead: int = 2) -> Iterator[tuple[int, Batch_co]]:
    """(step, batch) from `first` up to but without `last`, made by a thread `ahead` of whoever asks."""
    raise NotImplementedError
