"""Batches as pure functions of the step: resumed, or shared among processes, training sees the same ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_ros.checkpoints.requirements import Normalization
from vla_ros.training.augmentation import AugmentationConfig, augment, draw
from vla_ros.training.conversations import Conversations
from vla_ros.training.stats import normalized
from vla_ros.training.windows import ActionSamples
from vla_ros.values import Array

Batch_co = TypeVar("Batch_co", covariant=True)


@dataclass(frozen=True)
class Share:
    """Which part of every global batch is this process's: `rank` of `world`."""

    rank: int = 0
    world: int = 1


ALONE = Share()
#: The stream of chance that windows are changed by, apart from that of their order.
_DRAWS = 17


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
    """B conversations about `images` (B, V, S, S, 3) uint8, on the CPU: (question, answer) in order.

    The last answer of each is learnt.
    """

    images: Tensor
    turns: tuple[tuple[tuple[str, str], ...], ...]


class Batches(Protocol[Batch_co]):
    """A batch for every step."""

    def __getitem__(self, step: int) -> Batch_co:
        """The batch of `step`, from 0 on."""


def shuffled(length: int, batch: int, step: int, seed: int) -> NDArray[np.int64]:
    """Which of `length` samples make up the global batch of `step`: (batch,).

    Every sample comes once in each round, in an order of that round's own; a batch may span rounds.
    """
    places = np.arange(step * batch, (step + 1) * batch)
    rounds = places // length
    orders = {int(n): _round(length, seed, int(n)) for n in np.unique(rounds)}
    return np.array([orders[int(n)][place] for n, place in zip(rounds, places % length, strict=True)], dtype=np.int64)


@lru_cache(maxsize=4)  # two rounds of windows, and of conversations: of millions, drawing one takes longer than a batch
def _round(length: int, seed: int, number: int) -> NDArray[np.int64]:
    """The order of one round; of its few readers none writes."""
    return np.random.default_rng([seed, number]).permutation(length)


class ActionBatches:
    """`ActionBatch` by step; `batch` is the global size."""

    def __init__(
        self,
        samples: ActionSamples,
        action: Normalization,
        state: Normalization | None,
        batch: int,
        seed: int = 0,
        augmentation: AugmentationConfig | None = None,
        share: Share = ALONE,
    ) -> None:
        """Raises ValueError for a batch that is not of as many samples for each process."""
        self._samples = samples
        self._action = action
        self._state = state
        self._order = Order(len(samples), batch, seed, share)
        self._augmentation = augmentation

    def __getitem__(self, step: int) -> ActionBatch:
        config = self._samples.config
        samples = [self._samples.sample(int(index)) for index in self._order.indices(step)]
        now = np.stack([[sample.images[camera] for camera in config.cameras] for sample in samples])
        later = np.stack([[sample.future[camera] for camera in config.code_cameras] for sample in samples])
        frames = torch.from_numpy(np.concatenate([now, later], axis=1))
        if self._augmentation is not None:
            frames = augment(frames, self._augmentation, self._order.draws(step))
        images, future = frames[:, : len(config.cameras)], frames[:, len(config.cameras) :]
        actions = normalized(np.stack([sample.actions for sample in samples]), self._action)
        state = None
        if self._state is not None:
            state = _float32(normalized(np.stack([sample.state for sample in samples]), self._state))
        return ActionBatch(
            images=images,
            now=images[:, [config.cameras.index(camera) for camera in config.code_cameras]],
            future=future,
            actions=_float32(actions),
            is_pad=torch.from_numpy(np.stack([sample.action_is_pad for sample in samples])),
            state=state,
            instructions=tuple(sample.instruction for sample in samples),
            samples=torch.tensor([sample.index for sample in samples]),
        )


class ConversationBatches:
    """`ConversationBatch` by step, as `ActionBatches`."""

    def __init__(
        self,
        conversations: Conversations,
        batch: int,
        seed: int = 0,
        augmentation: AugmentationConfig | None = None,
        share: Share = ALONE,
    ) -> None:
        """Raises ValueError for a batch that is not of as many samples for each process."""
        self._conversations = conversations
        self._order = Order(len(conversations), batch, seed, share)
        self._augmentation = augmentation

    def __getitem__(self, step: int) -> ConversationBatch:
        turns = [self._conversations.turn(int(index)) for index in self._order.indices(step)]
        images = torch.from_numpy(np.stack([turn.images for turn in turns]))
        if self._augmentation is not None:
            images = augment(images, self._augmentation, self._order.draws(step))
        return ConversationBatch(images, tuple((*turn.before, (turn.question, turn.answer)) for turn in turns))


def prefetched(batches: Batches[Batch_co], first: int, last: int, ahead: int = 2) -> Iterator[tuple[int, Batch_co]]:
    """(step, batch) from `first` up to but without `last`, made by a thread `ahead` of whoever asks."""
    with ThreadPoolExecutor(1) as thread:
        steps = iter(range(first, last))
        waiting = deque((step, thread.submit(batches.__getitem__, step)) for step in islice(steps, ahead))
        try:
            while waiting:
                step, made = waiting.popleft()
                batch = made.result()
                waiting.extend((later, thread.submit(batches.__getitem__, later)) for later in islice(steps, 1))
                yield step, batch
        finally:
            for _, made in waiting:
                made.cancel()


class Order:
    """Which samples a process takes at a step, and the chance that goes with them."""

    def __init__(self, length: int, batch: int, seed: int, share: Share) -> None:
        if batch < 1 or batch % share.world:
            raise ValueError(f"a batch of {batch} cannot be shared evenly by {share.world} processes")
        self._length, self._batch, self._seed = length, batch, seed
        each = batch // share.world
        self._own = slice(share.rank * each, (share.rank + 1) * each)

    def indices(self, step: int) -> NDArray[np.int64]:
        """Of its part of the global batch."""
        return shuffled(self._length, self._batch, step, self._seed)[self._own]

    def draws(self, step: int) -> Tensor:
        """As many rows of `augmentation.draw`: the same ones for a sample whoever takes it."""
        seed = int(np.random.SeedSequence([self._seed, step, _DRAWS]).generate_state(1)[0])
        return draw(self._batch, torch.Generator().manual_seed(seed))[self._own]


def _float32(values: Array) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))
