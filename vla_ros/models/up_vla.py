"""UP-VLA: one transformer over text, image codes and action queries that understands, predicts the next frame and acts.

Source: Zhang et al., "UP-VLA: A Unified Understanding and Prediction Model for Embodied Agent" (ICML 2025, arXiv
2501.18867) and its released code, which the conditioning `released` equals number for number.

Shape suffixes: B batch, L sequence, W width, H heads, D width of a head, S features of the vision encoder, N image
codes, V vocabulary, K action rows, A action dimensions, P proprioception, R rotary pairs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vla_ros.values import Config

#: What the model asks itself about the scene before it acts (conditioning `paper`).
DESCRIBE = "describe this image"

#: What stands before the image codes (see `action_sequence`).
Conditioning = Literal["released", "paper"]

#: A label that counts in no loss.
IGNORED = -100


def conversation(question: str) -> str:
    """The prompt of a question about an image; the answer follows as " {answer}" and the end of the text."""
    return f"USER: {question} ASSISTANT:"


Size = Annotated[int, Field(gt=0, le=1_000_000)]


class Vocabulary(Config):
    """The ids: those of the text tokenizer, ten special ones, one per image code, and one that masks (unused)."""

    text_size: Size
    end_of_text: int  # begins and ends a text
    codes: Size

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
    """Sizes of one model."""

    vocabulary: Vocabulary
    layers: int = Field(gt=0, le=512)
    width: Size
    heads: Size
    mlp_width: Size
    system: str = ""  # the text that every conversation begins with
    rotary_fraction: float = 0.5  # of the width of a head
    rotary_base: float = 10000.0
    norm_epsilon: float = 1e-5
    conditioning: Conditioning = "released"
    max_text: int = Field(default=576, ge=3)  # ids of the instruction with its begin and end; what is longer is cut
    image_codes: Size = 1024  # per view
    views: Size = 1
    action_rows: Size = 10
    action_dims: Size = 7
    head_heads: Size = 8
    head_mlp_width: Size = 8192
    feature_width: Size = 1024
    features: Size = 576
    max_description: Size = 48  # ids of the model's own answer that condition its actions
    state_dims: int = Field(default=0, le=1_000_000)  # numbers of proprioception, 0 for none; conditioning `paper` only

    @model_validator(mode="after")
    def _divides(self) -> UpVlaConfig:
        for name, heads in (("heads", self.heads), ("head_heads", self.head_heads)):
            if self.width % heads:
                raise ValueError(f"{name} must divide width {self.width}, got {heads}")
        if self.rotary_width % 2 or not 0 < self.rotary_width <= self.head_width:
            raise ValueError(f"rotary_fraction {self.rotary_fraction} of {self.head_width} is not an even number")
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
        system=(  # LLaVA's, by which Show-o learnt to answer
            "A chat between a curious user and an artificial intelligence assistant. "
            "The assistant gives helpful, detailed, and polite answers to the user's questions."
        ),
    ),
    "up-vla-demo": UpVlaConfig(
        vocabulary=Vocabulary(text_size=512, end_of_text=0, codes=1024),
        layers=4,
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
    if not batch:
        raise ValueError("a batch has one instruction or more, got none")
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
    seen_by_image_BLL = ~pad_BL[:, None, :]
    seen_by_rest_BLL = (earlier_LL | features_BLL) & (pad_BL[:, :, None] | ~pad_BL[:, None, :])
    return torch.where(in_image_L[None, :, None], seen_by_image_BLL, seen_by_rest_BLL)


def future_labels(config: UpVlaConfig, sequence: Sequence, future_BN: Tensor) -> Tensor:
    """(B, L): the ids of an action sequence with the codes of the next frame in place of this one's; pads `IGNORED`.

    They are labels of the SAME positions; the loss counts those of `sequence.image`, its begin and end included.
    """
    if sequence.image is None:
        raise ValueError("a conversation predicts no frame; make the sequence by action_sequence")
    if future_BN.shape != (len(sequence.ids_BL), config.all_codes):
        raise ValueError(
            f"codes of the next frame have shape {(len(sequence.ids_BL), config.all_codes)}, "
            f"got {tuple(future_BN.shape)}"
        )
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
    ids_BL, labels_BL = (torch.tensor(rows, dtype=torch.int64, device=device) for rows in (ids, labels))
    return Sequence(ids_BL, understanding_rule(vocabulary, ids_BL)), labels_BL


def understanding_rule(vocabulary: Vocabulary, ids_BL: Tensor) -> Tensor:
    """What each position of a conversation sees: what came before it, and every feature. (B, L, L) bool."""
    position_L = torch.arange(ids_BL.shape[1], device=ids_BL.device)
    earlier_LL = position_L[None, :] <= position_L[:, None]
    return earlier_LL | (ids_BL == vocabulary.feature)[:, None, :]


def _framed(vocabulary: Vocabulary, text: list[int], max_text: int) -> list[int]:
    """The text between two ends; what is longer than `max_text` loses its tail, not its end."""
    end = vocabulary.end_of_text
    framed = [*text, end] if text[:1] == [end] else [end, *text, end]
    return framed if len(framed) <= max_text else [*framed[: max_text - 1], end]


class UpVla(nn.Module):
    """The network. Parameters are float32 when made; another type is the caller's to choose."""

    def __init__(self, config: UpVlaConfig) -> None:
        super().__init__()
        self.config = config
        self.recompute = False  # keep no activations of the blocks but compute them again in the backward pass
        width, size = config.width, config.vocabulary.size
        self.embedding = nn.Embedding(size, width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width, config.norm_epsilon)
        self.lm_head = nn.Linear(width, size)
        self.projector = _two_layers(config.feature_width, width)
        if config.state_dims:
            self.state_projector = _two_layers(config.state_dims, width)
        self.action_head = ActionHead(config)
        self._initialize()

    def forward(self, sequence: Sequence, features_BSF: Tensor | None = None, state_BP: Tensor | None = None) -> Tensor:
        """Hidden states after the final norm, (B, L, W).

        `features_BSF`: the image as the vision encoder sees it, for conversations and with conditioning `paper`.
        `state_BP`: normalised proprioception, for action sequences of a model that has `state_dims`.
        """
        x_BLW = self._embed(sequence, features_BSF, state_BP)
        return self._run_blocks(x_BLW, sequence.attended_BLL)

    def act(self, hidden_BLW: Tensor, sequence: Sequence) -> Tensor:
        """Actions as the head gives them, (B, K, A)."""
        if sequence.actions is None:
            raise ValueError("a conversation holds no actions; make the sequence by action_sequence")
        return cast("Tensor", self.action_head(hidden_BLW[:, sequence.actions]))

    def imagine(self, hidden_BLW: Tensor, sequence: Sequence) -> Tensor:
        """Logits of the next frame's codes at the places of this frame's, (B, N, codes)."""
        if sequence.image is None:
            raise ValueError("a conversation predicts no frame; make the sequence by action_sequence")
        vocabulary = self.config.vocabulary
        codes = slice(vocabulary.first_code, vocabulary.first_code + vocabulary.codes)
        image_BNW = hidden_BLW[:, sequence.image.start + 1 : sequence.image.stop - 1]
        return F.linear(image_BNW, self.lm_head.weight[codes], self.lm_head.bias[codes])

    def text_logits(self, hidden_BLW: Tensor) -> Tensor:
        """Logits over the whole vocabulary, (B, L, V)."""
        return cast("Tensor", self.lm_head(hidden_BLW))

    def project(self, features_BSF: Tensor) -> Tensor:
        """Features of the vision encoder, as wide as the backbone: (B, S, F) to (B, S, W)."""
        return cast("Tensor", self.projector(features_BSF))

    @torch.no_grad()
    def answer(self, features_BSF: Tensor, prompt: list[int], max_tokens: int, system: Iterable[int] = ()) -> list[int]:
        """The answer to a prompt about one image (B is 1): the likeliest text ids one by one, without the end."""
        vocabulary = self.config.vocabulary
        sequence, _ = understanding_sequence(self.config, [prompt], system=system, device=features_BSF.device)
        x_BLW = self._embed(sequence, features_BSF, None)
        cache = KeyValueCache.empty(self.config, x_BLW, x_BLW.shape[1] + max_tokens)
        hidden_BLW = self._run_blocks(x_BLW, sequence.attended_BLL, cache)
        answered: list[int] = []
        while len(answered) < max_tokens:
            if answered:
                token_BL = torch.tensor([answered[-1:]], device=x_BLW.device)
                hidden_BLW = self._run_blocks(self.embedding(token_BL), None, cache)
            text = slice(0, vocabulary.text_size)
            logits_V = F.linear(hidden_BLW[0, -1], self.lm_head.weight[text], self.lm_head.bias[text])
            token = int(logits_V.argmax())
            if token == vocabulary.end_of_text:
                break
            answered.append(token)
        return answered

    def _embed(self, sequence: Sequence, features_BSF: Tensor | None, state_BP: Tensor | None) -> Tensor:
        """The rows of the table that the ids name, features and proprioception in the places that wait for them."""
        config, ids_BL = self.config, sequence.ids_BL
        converses = sequence.image is None
        expected = (len(ids_BL), config.features, config.feature_width)
        _check("features", features_BSF, expected if converses or config.conditioning == "paper" else None)
        _check("state", state_BP, None if converses or not config.state_dims else (len(ids_BL), config.state_dims))
        x_BLW = cast("Tensor", self.embedding(ids_BL))
        if features_BSF is not None:
            places = (ids_BL == config.vocabulary.feature)[..., None]
            x_BLW = x_BLW.masked_scatter(places, self.project(features_BSF).to(x_BLW.dtype))
        if state_BP is not None:
            places = (ids_BL == config.vocabulary.state)[..., None]
            x_BLW = x_BLW.masked_scatter(places, self.state_projector(state_BP).to(x_BLW.dtype))
        return x_BLW

    def _run_blocks(self, x_BLW: Tensor, attended_BLL: Tensor | None, cache: KeyValueCache | None = None) -> Tensor:
        """All blocks and the final norm; with a cache, positions follow those it holds."""
        begin = cache.length if cache is not None else 0
        rotation = _rotation(self.config, begin, begin + x_BLW.shape[1], x_BLW.device)
        mask = None
        if attended_BLL is not None:
            # What is added to the scores: given the bool, attention would make this anew in every block.
            mask = torch.zeros_like(attended_BLL, dtype=x_BLW.dtype).masked_fill_(~attended_BLL, -torch.inf)[:, None]
        for index, block in enumerate(self.blocks):
            cached = cache.of(index) if cache is not None else None
            if self.recompute and self.training:
                x_BLW = checkpoint(block, x_BLW, rotation, mask, cached, begin, use_reentrant=False)
            else:
                x_BLW = block(x_BLW, rotation, mask, cached, begin)
        if cache is not None:
            cache.length += x_BLW.shape[1]
        return cast("Tensor", self.norm(x_BLW))

    def _initialize(self) -> None:
        """Start weights: every product keeps the scale of its input, the blocks' last ones less the deeper it is."""
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                if name.endswith("bias"):
                    nn.init.zeros_(parameter)
            elif name.startswith(("embedding", "lm_head", "action_head.latent", "action_head.actions")):
                nn.init.normal_(parameter, std=0.02)
            else:
                deep = name.startswith("blocks") and "_out." in name
                shrunk = (2 * self.config.layers) ** -0.5 if deep else 1.0
                nn.init.normal_(parameter, std=shrunk * parameter.shape[1] ** -0.5)


class Block(nn.Module):
    """x + attention(norm(x)) + mlp(norm(x)): both beside each other, so their first products are one."""

    def __init__(self, config: UpVlaConfig) -> None:
        super().__init__()
        width, mlp_width = config.width, config.mlp_width
        self.heads, self.head_width = config.heads, config.head_width
        self.norm = nn.LayerNorm(width, config.norm_epsilon)
        self.project = nn.Linear(width, 3 * width + mlp_width)  # query, key, value, mlp
        self.query_norm = nn.LayerNorm(config.head_width, config.norm_epsilon)
        self.key_norm = nn.LayerNorm(config.head_width, config.norm_epsilon)
        self.attention_out = nn.Linear(width, width)
        self.mlp_out = nn.Linear(mlp_width, width)

    def forward(
        self,
        x_BLW: Tensor,
        rotation: tuple[Tensor, Tensor],
        mask: Tensor | None,
        cached: Tensor | None = None,
        begin: int = 0,
    ) -> Tensor:
        """One block; `mask` is added to the scores (B, H, L, L). `cached`: this block's part of a key-value cache."""
        width = x_BLW.shape[-1]
        projected = self.project(self.norm(x_BLW))
        query_BLW, key_BLW, value_BLW, mlp = projected.split([width, width, width, projected.shape[-1] - 3 * width], -1)
        q_BHLD = _rotate(self.query_norm(self._split(query_BLW)), rotation).transpose(1, 2)
        k_BHLD = _rotate(self.key_norm(self._split(key_BLW)), rotation).transpose(1, 2)
        v_BHLD = self._split(value_BLW).transpose(1, 2)
        if cached is not None:
            end = begin + x_BLW.shape[1]
            cached[0, :, :, begin:end], cached[1, :, :, begin:end] = k_BHLD, v_BHLD
            k_BHLD, v_BHLD = cached[0, :, :, :end], cached[1, :, :, :end]
        attended_BHLD = F.scaled_dot_product_attention(q_BHLD, k_BHLD, v_BHLD, mask)
        attention_BLW = self.attention_out(attended_BHLD.transpose(1, 2).flatten(2))
        return cast("Tensor", x_BLW + attention_BLW + self.mlp_out(F.gelu(mlp, approximate="tanh")))

    def _split(self, x_BLW: Tensor) -> Tensor:
        """To heads: (B, L, W) to (B, L, H, D)."""
        return x_BLW.view(*x_BLW.shape[:-1], self.heads, self.head_width)


class ActionHead(nn.Module):
    """A learned query pools the hidden states of the action queries; from it an MLP makes all rows at once."""

    def __init__(self, config: UpVlaConfig) -> None:
        super().__init__()
        width, mlp_width = config.width, config.head_mlp_width
        self.heads, self.rows = config.head_heads, config.action_rows
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

    def forward(self, hidden_BKW: Tensor) -> Tensor:
        """Hidden states of the action queries to actions (B, K, A), as the last layer gives them."""
        projected_BKW = self.projection(hidden_BKW)
        k_BHKD, v_BHKD = self.key_value(projected_BKW).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q_BH1D = self.query(self.latent).unflatten(-1, (self.heads, -1)).transpose(0, 1).expand(len(k_BHKD), -1, -1, -1)
        pooled_BW = F.scaled_dot_product_attention(q_BH1D, k_BHKD, v_BHKD).flatten(1)
        x_BW = _rms_norm(self.latent + self.attention_out(pooled_BW), self.attention_gain)
        value_BM, gate_BM = self.mlp_in(x_BW).chunk(2, -1)
        x_BW = _rms_norm(x_BW + self.mlp_out(value_BM * F.silu(gate_BM)), self.mlp_gain)
        return cast("Tensor", self.actions(x_BW).unflatten(-1, (self.rows, -1)))


@dataclass
class KeyValueCache:
    """Keys and values of every position so far, in room made beforehand: (layers, 2, B, H, room, D)."""

    keys_values: Tensor
    length: int = 0

    @classmethod
    def empty(cls, config: UpVlaConfig, x_BLW: Tensor, room: int) -> KeyValueCache:
        """Room for `room` positions, of the batch, type and device of `x_BLW`."""
        return cls(x_BLW.new_empty(config.layers, 2, len(x_BLW), config.heads, room, config.head_width))

    def of(self, index: int) -> Tensor:
        """The part of block `index`."""
        return self.keys_values[index]


def _two_layers(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, width))


def _rotation(config: UpVlaConfig, begin: int, end: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and sine at the positions begin .. end - 1, (L, 1, R) float32, as bfloat16 knows no angle of 1000."""
    exponent_R = torch.arange(0, config.rotary_width, 2, device=device, dtype=torch.float32) / config.rotary_width
    position_L = torch.arange(begin, end, device=device, dtype=torch.float32)
    angle_L1R = (position_L[:, None] / config.rotary_base**exponent_R)[:, None]
    return angle_L1R.cos(), angle_L1R.sin()


def _rotate(x_BLHD: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """The first 2R numbers of each head turn, number r together with number r + R; the others pass."""
    cos_L1R, sin_L1R = rotation
    pairs = cos_L1R.shape[-1]
    first, second, passing = torch.split(x_BLHD, [pairs, pairs, x_BLHD.shape[-1] - 2 * pairs], -1)
    turned = (first * cos_L1R - second * sin_L1R, second * cos_L1R + first * sin_L1R)
    return torch.cat([*(each.to(x_BLHD.dtype) for each in turned), passing], -1)


def _rms_norm(x_BW: Tensor, gain_W: Tensor) -> Tensor:
    """X by its root mean square, at least 1e-8."""
    root = x_BW.shape[-1] ** 0.5
    scaled_BW: Tensor = F.normalize(x_BW, dim=-1, eps=1e-8 * root) * root * gain_W
    return scaled_BW


def _check(name: str, given: Tensor | None, shape: tuple[int, ...] | None) -> None:
    """Raise if the input is missing, not wanted, or of another shape."""
    if (given is None) != (shape is None) or (given is not None and tuple(given.shape) != shape):
        wanted = "takes none" if shape is None else f"needs {shape}"
        raise ValueError(f"{name}: this sequence {wanted}, got {None if given is None else tuple(given.shape)}")
