"""UP-VLA: one transformer over text, image codes and action queries that understands, predicts the next frame and acts.

Source: Zhang et al., "UP-VLA: A Unified Understanding and Prediction Model for Embodied Agent" (ICML 2025, arXiv
2501.18867) and its released code, which the conditioning `released` equals number for number.

Shape suffixes: B batch, L sequence, W width, H heads, D width of a head, S features of the vision encoder, N image
codes, V vocabulary, K action rows, A action dimensions, P proprioception, R rotary pairs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own abbreviation)
from pydantic import PositiveInt, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vla_ros.values import Config

#: What the model asks itself about the scene before it acts (conditioning `paper`).
DESCRIBE = "describe this image"

#: A label that counts in no loss.
IGNORED = -100


def conversation(question: str) -> str:
    """The prompt of a question about an image; the answer follows as " {answer}" and the end of the text."""
    return f"USER: {question} ASSISTANT:"


class Vocabulary(Config):
    """The ids: those of the text tokenizer, ten special ones, one per image code, and one that masks (unused)."""

    text_size: PositiveInt
    end_of_text: int  # begins and ends a text
    codes: PositiveInt

    @model_validator(mode="after")
    def _end_is_text(self) -> Vocabulary:
        if not 0 <= self.end_of_text < self.text_size:
            raise ValueError(f"end_of_text is an id below text_size ({self.text_size}), got {self.end_of_text}")
        return self

    @property
    def pad(self) -> int:
        """Fills a batch on the left; the first id after those of the text."""
        return self.text_size

    @property
    def begin_image(self) -> int:
        """`<|soi|>`."""
        return self.text_size + 1

    @property
    def end_image(self) -> int:
        """`<|eoi|>`."""
        return self.text_size + 2

    @property
    def begin_video(self) -> int:
        """`<|sov|>`, unused."""
        return self.text_size + 3

    @property
    def end_video(self) -> int:
        """`<|eov|>`, unused."""
        return self.text_size + 4

    @property
    def text_to_image(self) -> int:
        """`<|t2i|>`, begins every sequence that predicts and acts."""
        return self.text_size + 5

    @property
    def understand(self) -> int:
        """`<|mmu|>`, begins every sequence that is a conversation about an image."""
        return self.text_size + 6

    @property
    def state(self) -> int:
        """`<|t2v|>`, which the release never uses: holds the place of the proprioception."""
        return self.text_size + 7

    @property
    def feature(self) -> int:
        """`<|v2v|>`, which the release never uses: holds the place of one feature of the vision encoder."""
        return self.text_size + 8

    @property
    def action(self) -> int:
        """`<|lvg|>`, the action query."""
        return self.text_size + 9

    @property
    def first_code(self) -> int:
        """The id of image code 0."""
        return self.text_size + 10

    @property
    def mask(self) -> int:
        """The last id; the release carries it and never uses it."""
        return self.first_code + self.codes

    @property
    def size(self) -> int:
        """How many ids there are."""
        return self.mask + 1


class UpVlaConfig(Config):
    """Sizes of one model. `conditioning`: what stands before the image codes (see `action_sequence`)."""

    vocabulary: Vocabulary
    layers: PositiveInt
    width: PositiveInt
    heads: PositiveInt
    mlp_width: PositiveInt
    rotary_fraction: float = 0.5  # of the width of a head
    rotary_base: float = 10000.0
    norm_epsilon: float = 1e-5
    conditioning: Literal["released", "paper"] = "released"
    max_text: PositiveInt = 576  # ids of the instruction with its begin and end; what is longer is cut
    image_codes: PositiveInt = 1024  # per view
    views: PositiveInt = 1
    action_rows: PositiveInt = 10
    action_dims: PositiveInt = 7
    head_heads: PositiveInt = 8
    head_mlp_width: PositiveInt = 8192
    feature_width: PositiveInt = 1024
    features: PositiveInt = 576
    max_description: PositiveInt = 48  # ids of the model's own answer that condition its actions
    state_dims: int = 0  # numbers of proprioception, 0 for none; conditioning `paper` only

    @model_validator(mode="after")
    def _divides(self) -> UpVlaConfig:
        for name, heads in (("heads", self.heads), ("head_heads", self.head_heads)):
            if self.width % heads:
                raise ValueError(f"{name} must divide width {self.width}, got {heads}")
        if self.rotary_width % 2 or not 0 < self.rotary_width <= self.head_width:
            raise ValueError(f"rotary_fraction {self.rotary_fraction} of {self.head_width} is no even number of them")
        if self.state_dims < 0 or (self.state_dims and self.conditioning == "released"):
            raise ValueError(
                "state_dims is 0 or more, and 0 with conditioning `released`, which sees no proprioception"
            )
        return self

    @property
    def head_width(self) -> int:
        """Width of an attention head of the backbone."""
        return self.width // self.heads

    @property
    def rotary_width(self) -> int:
        """How many of them turn with the position."""
        return int(self.rotary_fraction * self.head_width)

    @property
    def all_codes(self) -> int:
        """Image codes of all views."""
        return self.views * self.image_codes


SIZES: dict[str, UpVlaConfig] = {
    "up-vla-release": UpVlaConfig(
        vocabulary=Vocabulary(text_size=50295, end_of_text=50256, codes=8192),
        layers=24,
        width=2048,
        heads=32,
        mlp_width=8192,
    ),
    "up-vla-demo": UpVlaConfig(
        vocabulary=Vocabulary(text_size=512, end_of_text=0, codes=1024),
        layers=6,
        width=256,
        heads=4,
        mlp_width=1024,
        conditioning="paper",
        max_text=64,
        image_codes=64,
        head_heads=4,
        head_mlp_width=512,
        feature_width=128,
        features=128,
        state_dims=8,
    ),
}


@dataclass(frozen=True, eq=False)
class Sequence:
    """One batch of sequences, on one device.

    `ids_BL` int64. `image`: begin_image .. end_image; `actions`: the action queries; both the same in every sequence
    of the batch, and None in a conversation. `attended_BLL` bool: what each position sees, as the rules below say.
    """

    ids_BL: Tensor
    attended_BLL: Tensor
    image: slice | None = None
    actions: slice | None = None

    def to(self, device: torch.device | str) -> Sequence:
        """The same on another device."""
        return Sequence(
            self.ids_BL.to(device, non_blocking=True),
            self.attended_BLL.to(device, non_blocking=True),
            self.image,
            self.actions,
        )


def action_sequence(
    config: UpVlaConfig,
    instructions: list[list[int]],
    codes_BN: Tensor,
    descriptions: list[list[int]] | None = None,
    pad_to: int | None = None,
) -> Sequence:
    """The sequence that predicts the next frame and acts, for each instruction (text ids) and its image codes.

    released: pads, text_to_image, end, instruction, end, begin_image, codes, end_image, action queries
    paper:    pads, text_to_image, features, description, end, instruction, end, [state], begin_image, codes, ...

    Padded on the left to the longest, or to `pad_to` ids (the release trains with max_text + 1 + codes + 2 + rows).
    """
    vocabulary = config.vocabulary
    batch = len(instructions)
    if codes_BN.shape != (batch, config.all_codes):
        raise ValueError(
            f"{batch} instructions go with codes of shape {(batch, config.all_codes)}, got {tuple(codes_BN.shape)}"
        )
    if descriptions is not None and config.conditioning == "released":
        raise ValueError("conditioning `released` takes no description")
    if descriptions is not None and len(descriptions) != batch:
        raise ValueError(f"{batch} instructions go with as many descriptions, got {len(descriptions)}")
    before: list[list[int]] = []
    for instruction, description in zip(instructions, descriptions or [[]] * batch, strict=True):
        text = _framed(vocabulary, instruction, config.max_text)
        if config.conditioning == "released":
            before.append([vocabulary.text_to_image, *text])
            continue
        own_answer = description[: config.max_description]
        state = [vocabulary.state] * (config.state_dims > 0)
        before.append([vocabulary.text_to_image, *[vocabulary.feature] * config.features, *own_answer, *text, *state])
    after = 1 + config.all_codes + 1 + config.action_rows
    begin = max(map(len, before))
    if pad_to is not None:
        if pad_to < begin + after:
            raise ValueError(f"the longest sequence has {begin + after} ids, more than pad_to ({pad_to})")
        begin = pad_to - after
    ids_BL = codes_BN.new_full((batch, begin + after), vocabulary.pad, dtype=torch.int64)
    padded = [[vocabulary.pad] * (begin - len(ids)) + ids for ids in before]
    ids_BL[:, :begin] = torch.tensor(padded, dtype=torch.int64).to(codes_BN.device)
    image = slice(begin, begin + config.all_codes + 2)
    ids_BL[:, image.start] = vocabulary.begin_image
    ids_BL[:, image.start + 1 : image.stop - 1] = codes_BN + vocabulary.first_code
    ids_BL[:, image.stop - 1] = vocabulary.end_image
    ids_BL[:, image.stop :] = vocabulary.action
    actions = slice(image.stop, ids_BL.shape[1])
    return Sequence(ids_BL, action_rule(vocabulary, ids_BL, image), image, actions)


def action_rule(vocabulary: Vocabulary, ids_BL: Tensor, image: slice) -> Tensor:
    """What each position (row) of an action sequence sees (column): (B, L, L) bool.

    The image sees everything, the action queries after it too. Everything else sees what came before it, and features
    see each other. Nobody sees pads but pads.
    """
    position_L = torch.arange(ids_BL.shape[1], device=ids_BL.device)
    pad_BL = ids_BL == vocabulary.pad
    feature_BL = ids_BL == vocabulary.feature
    in_image_L = (position_L >= image.start) & (position_L < image.stop)
    earlier_LL = position_L[None, :] <= position_L[:, None]
    features_BLL = feature_BL[:, :, None] & feature_BL[:, None, :]
    seen_by_image_BLL = in_image_L[None, :, None] & ~pad_BL[:, None, :]
    seen_by_rest_BLL = (
        ~in_image_L[None, :, None] & (earlier_LL | features_BLL) & (pad_BL[:, :, None] | ~pad_BL[:, None, :])
    )
    return seen_by_image_BLL | seen_by_rest_BLL


def future_labels(config: UpVlaConfig, sequence: Sequence, future_BN: Tensor) -> Tensor:
    """(B, L): the ids of an action sequence with the codes of the next frame in place of this one's; pads `IGNORED`.

    They are labels of the SAME positions; the loss counts those of `sequence.image`, its begin and end included.
    """
    assert sequence.image is not None, "a conversation predicts no frame"
    labels_BL = sequence.ids_BL.masked_fill(sequence.ids_BL == config.vocabulary.pad, IGNORED)
    labels_BL[:, sequence.image.start + 1 : sequence.image.stop - 1] = future_BN + config.vocabulary.first_code
    return labels_BL


def understanding_sequence(
    config: UpVlaConfig,
    prompts: list[list[int]],
    answers: list[list[int]] | None = None,
    system: Iterable[int] = (),
    device: torch.device | str = "cpu",
) -> tuple[Sequence, Tensor]:
    """Conversations about an image and their labels (B, L): understand, system, begin_image, features, end_image, text.

    Padded on the right. Labels are `IGNORED` but at the answers, which end with `end_of_text` where the caller ends
    them so; position i predicts label i + 1.
    """
    vocabulary = config.vocabulary
    answers = answers if answers is not None else [[]] * len(prompts)
    image = [vocabulary.begin_image, *[vocabulary.feature] * config.features, vocabulary.end_image]
    head = [vocabulary.understand, *system, *image]
    length = len(head) + max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
    ids, labels = [], []
    for prompt, answer in zip(prompts, answers, strict=True):
        row = [*head, *prompt, *answer]
        ids.append(row + [vocabulary.pad] * (length - len(row)))
        labels.append([IGNORED] * (len(row) - len(answer)) + answer + [IGNORED] * (length - len(row)))
    ids_BL = torch.tensor(ids, dtype=torch.int64, device=device)
    return Sequence(ids_BL, understanding_rule(vocabulary, ids_BL)), torch.tensor(
        labels, dtype=torch.int64, device=device
    )


def understanding_rule(vocabulary: Vocabulary, ids_BL: Tensor) -> Tensor:
    """What each position of a conversation sees: what came before it, and every feature. (B, L, L) bool."""
    position_L = torch.arange(ids_BL.shape[1], device=ids_BL.device)
    earlier_LL = position_L[None, :] <= position_L[:, None]
    return earlier_LL | (ids_BL == vocabulary.feature)[:, None, :]


def _framed(vocabulary: Vocabulary, text: list[int], max_text: int) -> list[int]:
    """The text between two ends; what is longer than `max_text` less the task's id loses its tail, not its end."""
    end = vocabulary.end_of_text
    framed = [*text, end] if text[:1] == [end] else [end, *text, end]
    return framed if len(framed) <= max_text else [*framed[: max_text - 1], end]


class UpVla(nn.Module):
    """The network. Parameters are fp32 when made; `.to(dtype)` is the caller's."""

    def __init__(self, config: UpVlaConfig) -> None:
        super().__init__()
        self.config = config
        self.recompute = False  # keep no activations of blocks but compute them again in the backward pass
        width, vocabulary = config.width, config.vocabulary
        self.embedding = nn.Embedding(vocabulary.size, width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width, config.norm_epsilon)
        self.lm_head = nn.Linear(width, vocabulary.size)
        self.projector = nn.Sequential(nn.Linear(config.feature_width, width), nn.GELU(), nn.Linear(width, width))
        if config.state_dims:
            self.state_projector = nn.Sequential(
                nn.Linear(config.state_dims, width), nn.GELU(), nn.Linear(width, width)
            )
        self.action_head = ActionHead(config)

    def project(self, features_BSF: Tensor) -> Tensor:
        """Features of the vision encoder to the backbone's width: (B, S, F) to (B, S, W)."""
        return cast("Tensor", self.projector(features_BSF))

    def forward(self, sequence: Sequence, features_BSF: Tensor | None = None, state_BP: Tensor | None = None) -> Tensor:
        """Hidden states after the final norm, (B, L, W); features and state as the sequence has places for them."""
        raise NotImplementedError

    def act(self, hidden_BLW: Tensor, sequence: Sequence) -> Tensor:
        """Actions as the head gives them, (B, rows, dims)."""
        raise NotImplementedError

    def imagine(self, hidden_BLW: Tensor, sequence: Sequence) -> Tensor:
        """Logits of the next frame's codes, (B, views * image_codes, codes)."""
        raise NotImplementedError

    def text_logits(self, hidden_BLW: Tensor) -> Tensor:
        """Logits over the whole vocabulary, (B, L, V)."""
        return cast("Tensor", self.lm_head(hidden_BLW))

    def answer(self, features_BSF: Tensor, prompt: list[int], max_tokens: int, system: Iterable[int] = ()) -> list[int]:
        """The most likely answer to the prompt about one image (B = 1): text ids without the end."""
        raise NotImplementedError


class Block(nn.Module):
    """x + attention(norm(x)) + mlp(norm(x)): both at once, their first products in one."""

    def __init__(self, config: UpVlaConfig) -> None:
        super().__init__()
        width, mlp_width = config.width, config.mlp_width
        self.norm = nn.LayerNorm(width, config.norm_epsilon)
        self.project = nn.Linear(width, 3 * width + mlp_width)  # query, key, value, mlp
        self.query_norm = nn.LayerNorm(config.head_width, config.norm_epsilon)
        self.key_norm = nn.LayerNorm(config.head_width, config.norm_epsilon)
        self.attention_out = nn.Linear(width, width)
        self.mlp_out = nn.Linear(mlp_width, width)


class ActionHead(nn.Module):
    """One learned query pools the hidden states of the action queries; an MLP and a linear layer give all rows at once."""

    def __init__(self, config: UpVlaConfig) -> None:
        super().__init__()
        width, mlp_width = config.width, config.head_mlp_width
        self.latent = nn.Parameter(torch.zeros(1, width))
        self.projection = nn.Linear(width, width)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.attention_out = nn.Linear(width, width)
        self.attention_gain = nn.Parameter(torch.ones(width))
        self.mlp_in = nn.Linear(width, 2 * mlp_width)  # value, gate
        self.mlp_out = nn.Linear(mlp_width, width)
        self.mlp_gain = nn.Parameter(torch.ones(width))
        self.actions = nn.Linear(width, config.action_rows * config.action_dims)


_ = (F, checkpoint)
