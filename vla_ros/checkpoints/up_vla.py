"""UP-VLA's weights under the released names and under ours: a reversible table, and where files of weights lie."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from vla_ros.checkpoints.comparison import Shapes, shapes_of
from vla_ros.checkpoints.files import SAFETENSORS, CheckpointError
from vla_ros.checkpoints.loading import blank
from vla_ros.models.up_vla import UpVla, UpVlaConfig

#: Where a file of weights lies in a folder: as the release's loader has it, as we have it.
RELEASED_FILE = Path("unwrapped_model", "pytorch_model.bin")
PLACES = (RELEASED_FILE, Path("pytorch_model.bin"), Path("model.safetensors"))

#: Our modules and the released ones; where several stand, ours holds theirs below each other.
_MODULES = {
    "embedding": "showo.model.embed_tokens",
    "norm": "showo.model.final_layernorm",
    "lm_head": "showo.lm_head",
    "projector.0": "mm_projector.0",
    "projector.2": "mm_projector.2",
    "action_head.projection": "token_learner.projection",
    "action_head.query": "token_learner.attn.q",
    "action_head.key_value": "token_learner.attn.kv",
    "action_head.attention_out": "token_learner.attn.proj",
    "action_head.mlp_in": "token_learner.mlp.0.project",
    "action_head.mlp_out": "token_learner.mlp.1",
    "action_head.actions": "to_logits.0",
}
_TENSORS = {
    "action_head.latent": "token_learner.latents",
    "action_head.attention_gain": "token_learner.attn_norm.g",
    "action_head.mlp_gain": "token_learner.mlp_norm.g",
}
_BLOCK = {
    "norm": ("input_layernorm",),
    "project": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.fc1"),
    "query_norm": ("self_attn.q_layernorm",),
    "key_norm": ("self_attn.k_layernorm",),
    "attention_out": ("self_attn.dense",),
    "mlp_out": ("mlp.fc2",),
}
_LAYER = re.compile(r"(?:showo\.model\.layers|blocks)\.(\d{1,3})\.")


def parts_of_ours(released: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, ...]]:
    """Weights under the released names, under ours; what lies below each other there is still apart: nothing is copied.

    Names that the table does not know stay, and those of parts of which others are missing.
    """
    table = {name: parts for name, parts in _table(released).items() if all(part in released for part in parts)}
    used = {part for parts in table.values() for part in parts}
    ours = {name: tuple(released[part] for part in parts) for name, parts in table.items()}
    return ours | {name: (tensor,) for name, tensor in released.items() if name not in used}


def to_released(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse, of whole tensors; parts are views of the whole, so that nothing is copied."""
    released: dict[str, Tensor] = {}
    table = _table(ours)
    for name, tensor in ours.items():
        parts = table.get(name, (name,))
        if len(parts) == 1:
            released[parts[0]] = tensor
            continue
        width = ours[name.rpartition("project.")[0] + "norm.weight"].shape[0]  # queries, keys and values are as wide
        sizes = [width] * (len(parts) - 1)
        released |= zip(parts, torch.split(tensor, [*sizes, len(tensor) - sum(sizes)]), strict=True)
    return released


def released_shapes(config: UpVlaConfig) -> Shapes:
    """Name and shape of every weight of a model of these sizes, under the released names."""
    return shapes_of(to_released(blank(UpVla, config).state_dict()))


def find_weights(path: Path) -> Path:
    """The file of weights that `path` is, or that lies in the folder `path`; raises CheckpointError."""
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such file or folder")
    if not path.is_dir():
        return path
    for place in PLACES:
        if (path / place).is_file():
            return path / place
    others = sorted(path.glob(f"*{SAFETENSORS}"))
    if len(others) == 1:
        return others[0]
    if index := next(path.glob("*.index.json"), None):
        raise CheckpointError(f"{path} holds weights in several files ({index.name}); save them as one")
    raise CheckpointError(
        f"{path} holds no weights; there should be {', '.join(map(str, PLACES))} or one other {SAFETENSORS} in it"
    )


def _table(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Our names and the released ones, of as many layers as the names tell."""
    layers = 1 + max((int(found[1]) for name in names if (found := _LAYER.match(name))), default=-1)
    modules: dict[str, tuple[str, ...]] = {ours: (released,) for ours, released in _MODULES.items()}
    for layer in range(layers):
        for ours, parts in _BLOCK.items():
            modules[f"blocks.{layer}.{ours}"] = tuple(f"showo.model.layers.{layer}.{part}" for part in parts)
    table: dict[str, tuple[str, ...]] = {ours: (released,) for ours, released in _TENSORS.items()}
    for kind in ("weight", "bias"):
        table |= {f"{ours}.{kind}": tuple(f"{part}.{kind}" for part in parts) for ours, parts in modules.items()}
    return table
