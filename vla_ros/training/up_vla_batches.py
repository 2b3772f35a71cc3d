"""Windows and conversations into what UP-VLA is trained on: ids, image codes, labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_ros.models.up_vla import (
    UpVlaConfig,
    action_sequence,
    conversation,
    future_labels,
    understanding_sequence,
)
from vla_ros.tokenizers.magvit2 import Magvit2, normalized
from vla_ros.tokenizers.text import TextTokenizer
from vla_ros.training.batches import ActionBatch, ActionBatches, ConversationBatch, ConversationBatches, prefetched
from vla_ros.training.up_vla_objective import Part, Talks, Windows
from vla_ros.training.windows import ActionSamples, Sample

#: Tells the chance of what is left out from that of other things drawn by the same seed.
_LEFT_OUT = 0x1EF7


@dataclass(frozen=True, eq=False)
class Preparation:
    """Everything between a batch and the model. `descriptions`: sample -> what the model said of the scene.

    Descriptions and states are left out of some samples (`description_dropout`, `state_dropout`), so that neither is
    all that is looked at.
    """

    config: UpVlaConfig
    text: TextTokenizer
    image_tokenizer: Magvit2  # frozen, on `device`
    device: torch.device
    dtype: torch.dtype = torch.float32  # bfloat16 changes 3 codes of 1000, in half the time
    descriptions: Mapping[int, str] | None = None
    description_dropout: float = 0.0
    state_dropout: float = 0.0
    counts_pads: bool = False  # rows beyond an episode's end count in the action loss, as the release has it
    pad_to: int | None = None
    seed: int = 0

    def windows(self, batch: ActionBatch, step: int) -> Windows:
        """What `batch` of `step` is to the model, on its device."""
        config, paper = self.config, self.config.conditioning == "paper"
        codes_BN, future_BN = self._codes(batch)
        instructions = [self.text.encode(instruction.strip()) for instruction in batch.instructions]
        forgets, is_blind = self._left_out(batch, step)
        descriptions = [
            [] if forgets[place] else self._description(sample) for place, sample in enumerate(batch.samples.tolist())
        ]
        sequence = action_sequence(config, instructions, codes_BN, descriptions if paper else None, self.pad_to)
        assert sequence.image is not None
        state = batch.state if config.state_dims else None
        if state is not None:
            state = state.masked_fill(torch.from_numpy(is_blind)[:, None], 0.0).to(self.device)
        return Windows(
            sequence,
            batch.images.to(self.device) if paper else None,
            state,
            future_labels(config, sequence, future_BN)[:, sequence.image],
            batch.actions.to(self.device),
            None if self.counts_pads else batch.is_pad.to(self.device),
        )

    def talks(self, batch: ConversationBatch) -> Talks:
        """What a batch of conversations is to the model, on its device.

        Each answer ends the text, as in LLaVA's form. As in the release none is longer than an action sequence: the
        beginning of what was said before is left out, then the end of an answer.
        """
        system = self.text.encode(self.config.system)
        room = longest(self.config) - 3 - self.config.features - len(system)
        answers = [self._answer(turns[-1][1])[: room - 1] for turns in batch.turns]
        prompts = [
            self._prompt(turns)[-(room - len(answer)) :] for turns, answer in zip(batch.turns, answers, strict=True)
        ]
        sequence, labels_BL = understanding_sequence(self.config, prompts, answers, system)
        return Talks(sequence.to(self.device), batch.images.to(self.device), labels_BL.to(self.device))

    def _prompt(self, turns: tuple[tuple[str, str], ...]) -> list[int]:
        """Ids of all that is said up to the last answer."""
        *before, (question, _) = turns
        said = [[*self.text.encode(conversation(asked)), *self._answer(answered)] for asked, answered in before]
        return [*chain.from_iterable(said), *self.text.encode(conversation(question))]

    def _answer(self, answer: str) -> list[int]:
        return [*self.text.encode(f" {answer}"), self.config.vocabulary.end_of_text]

    def _description(self, sample: int) -> list[int]:
        said = "" if self.descriptions is None else self.descriptions.get(sample, "")
        return self.text.encode(said) if said else []

    @torch.no_grad()
    def _codes(self, batch: ActionBatch) -> tuple[Tensor, Tensor]:
        """Codes of the code cameras' frames, now and a chunk later, (B, N) each: one view's after the other's."""
        frames = torch.stack([batch.now, batch.future])  # (2, B, C, S, S, 3)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            codes = self.image_tokenizer.encode(normalized(frames.flatten(0, 2).to(self.device)))
        now_BN, future_BN = codes.reshape(2, len(batch.now), -1)
        return now_BN, future_BN

    def _left_out(self, batch: ActionBatch, step: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """For each sample, whether its description and its state are left out; the same whoever asks."""
        drawn = np.array(
            [np.random.default_rng([self.seed, step, sample, _LEFT_OUT]).random(2) for sample in batch.samples.tolist()]
        )
        return drawn[:, 0] < self.description_dropout, drawn[:, 1] < self.state_dropout


def parts(
    preparation: Preparation,
    actions: ActionBatches,
    talks: ConversationBatches | None,
    steps: range,
    pieces: int = 1,
) -> Iterator[tuple[int, list[Part]]]:
    """(step, its parts) for each of the steps, in `pieces` parts each; a thread loads ahead."""
    for step, (windows, conversations) in prefetched(_Both(actions, talks), steps.start, steps.stop):
        yield (
            step,
            [
                Part(
                    preparation.windows(_piece(windows, place, pieces), step),
                    None if conversations is None else preparation.talks(_piece_of_talks(conversations, place, pieces)),
                )
                for place in range(pieces)
            ],
        )


def longest(config: UpVlaConfig) -> int:
    """Ids of the longest action sequence there is: what is said before the image codes, they, action queries."""
    before = 1 + config.max_text + (config.state_dims > 0)
    if config.conditioning == "paper":
        before += config.features + config.max_description
    return before + 1 + config.all_codes + 1 + config.action_rows


def chosen(samples: ActionSamples, indices: NDArray[np.int64]) -> ActionSamples:
    """Only these samples, as batches take them; each keeps its number among all."""
    return cast("ActionSamples", _Chosen(samples, indices))


class _Chosen:
    """What batches ask of samples."""

    def __init__(self, samples: ActionSamples, indices: NDArray[np.int64]) -> None:
        self._samples, self._indices, self.config = samples, indices, samples.config

    def __len__(self) -> int:
        return len(self._indices)

    def sample(self, index: int) -> Sample:
        return self._samples.sample(int(self._indices[index]))


@dataclass(frozen=True, eq=False)
class _Both:
    """Windows and conversations of a step."""

    actions: ActionBatches
    talks: ConversationBatches | None

    def __getitem__(self, step: int) -> tuple[ActionBatch, ConversationBatch | None]:
        return self.actions[step], None if self.talks is None else self.talks[step]


def _piece(batch: ActionBatch, place: int, pieces: int) -> ActionBatch:
    own = _slice(len(batch.instructions), place, pieces)
    return replace(
        batch,
        images=batch.images[own],
        now=batch.now[own],
        future=batch.future[own],
        actions=batch.actions[own],
        is_pad=batch.is_pad[own],
        state=None if batch.state is None else batch.state[own],
        instructions=batch.instructions[own],
        samples=batch.samples[own],
    )


def _piece_of_talks(batch: ConversationBatch, place: int, pieces: int) -> ConversationBatch:
    own = _slice(len(batch.turns), place, pieces)
    return ConversationBatch(batch.images[own], batch.turns[own])


def _slice(length: int, place: int, pieces: int) -> slice:
    return slice(place * length // pieces, (place + 1) * length // pieces)
