"""Published weights to fine-tune from: Show-o 512 with CLIP, MAGVIT-v2 and Phi-1.5's tokenizer, from local folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vla_ros.checkpoints.comparison import Difference, Shapes, compare, grouped, shapes_of
from vla_ros.checkpoints.files import DTYPES, SAFETENSORS, TORCH, CheckpointError, read_tensors
from vla_ros.checkpoints.loading import blank, fill, load_network
from vla_ros.checkpoints.manifest import Bundle, UpVlaManifest, check_vision, load_clip, load_text, save
from vla_ros.checkpoints.up_vla import find_weights, parts_of_ours, released_shapes
from vla_ros.models.up_vla import Conditioning, UpVla, UpVlaConfig, Vocabulary
from vla_ros.tokenizers.magvit2 import Magvit2

#: What Show-o does not have; under our names and the released ones.
_HEAD = ("action_head.", "state_projector.")
_RELEASED_HEAD = ("token_learner.", "to_logits.")
_CONDITIONED: dict[Conditioning, str] = {
    "released": "as the official code has it: on the instruction alone",
    "paper": "as the paper has it: on CLIP's features, its own description of the scene and the instruction",
}
#: Why a path is not a folder: whether there is something.
_NO_FOLDER = {False: "there is no such folder", True: "it is a file, and a folder is needed"}


def from_show_o(
    manifest: UpVlaManifest,
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
    microsoft/phi-1_5, `clip` of openai/clip-vit-large-patch14-336 (needed where `manifest.vision` is "clip").
    `manifest.start` tells what came from where. Raises CheckpointError naming everything that is missing, and where
    parts do not go together.
    """
    require_sources(show_o, image_tokenizer, text, clip, needs_clip=manifest.vision is not None)
    words = load_text(text, manifest.model.vocabulary)
    tower = None if manifest.vision is None or clip is None else load_clip(clip, dtype, device)
    check_vision(clip or show_o, manifest, tower)
    file = find_weights(show_o)
    tensors = read_tensors(file)
    if any(name.startswith(_RELEASED_HEAD) for name in tensors):
        raise CheckpointError(f"{file} has an action head: it is UP-VLA's and not Show-o's; convert it without --start")
    if difference := show_o_difference(manifest.model, shapes_of(tensors)):
        raise CheckpointError(
            "\n  ".join([f"{file} does not hold Show-o's weights for {manifest.size}:", *difference.lines()])
        )
    wanted = show_o_shapes(manifest.model)
    left_out = grouped(name for name in tensors if name not in wanted)
    parts = parts_of_ours({name: tensor for name, tensor in tensors.items() if name in wanted})
    model = fill(file, blank(UpVla, manifest.model), {**parts, **_drawn(manifest.model, seed)}, dtype, device)
    return Bundle(
        manifest.model_copy(update={"start": {"weights": str(file), "seed": seed, "left out": left_out}}),
        model,
        load_network(find_weights(image_tokenizer), blank(Magvit2, manifest.image_tokenizer), torch.float32, device),
        tower,
        words,
    )


def make_start(
    folder: Path,
    manifest: UpVlaManifest,
    show_o: Path,
    image_tokenizer: Path,
    text: Path,
    clip: Path | None,
    seed: int = 0,
    dtype: str = "float32",
) -> UpVlaManifest:
    """Save what `from_show_o` gives as a folder; `dtype`: one of DTYPES. What it is, is returned.

    Raises CheckpointError.
    """
    bundle = from_show_o(manifest, show_o, image_tokenizer, text, clip, "cpu", DTYPES[dtype], seed)
    save(folder, bundle, _card(bundle.manifest))
    return bundle.manifest


def show_o_shapes(config: UpVlaConfig) -> Shapes:
    """Name and shape of the weights that Show-o has of a model: all but the action head."""
    ours = (*_RELEASED_HEAD, *_HEAD)
    return {name: shape for name, shape in released_shapes(config).items() if not name.startswith(ours)}


def show_o_difference(config: UpVlaConfig, given: Shapes) -> Difference:
    """What Show-o's weights lack; what they have beside is not used, and no difference."""
    difference = compare(show_o_shapes(config), given)
    return Difference(difference.missing, (), difference.reshaped)


def is_show_o(config: UpVlaConfig, given: Shapes) -> bool:
    """Whether weights are Show-o's, without an action head."""
    return not show_o_difference(config, given) and not any(name.startswith(_RELEASED_HEAD) for name in given)


def require_sources(
    show_o: Path, image_tokenizer: Path, text: Path, clip: Path | None, needs_clip: bool = False
) -> None:
    """Raise CheckpointError naming every published part that is not where it was said to be, and its origin."""
    sources = [
        (show_o, "Show-o 512 with CLIP, showlab/show-o-w-clip-vit-512x512", _weights(show_o)),
        (image_tokenizer, "MAGVIT-v2, showlab/magvitv2", _weights(image_tokenizer)),
        (text, "the text tokenizer of Phi-1.5, microsoft/phi-1_5", _text(text)),
    ]
    if needs_clip or clip is not None:
        sources.append((clip or Path("CLIP"), "CLIP, openai/clip-vit-large-patch14-336", _clip(clip)))
    problems = [f"{path}: {problem}; a local copy of {what} is needed" for path, what, problem in sources if problem]
    if problems:
        raise CheckpointError("\n  ".join(["what training starts from is not all there:", *problems]))


def _weights(path: Path) -> str:
    try:
        file = find_weights(path)
    except CheckpointError as error:
        return str(error).removeprefix(f"{path}").removeprefix(": ").strip()
    return "" if file.suffix in (SAFETENSORS, *TORCH) else f"{file.name} is not a weights file"


def _text(folder: Path) -> str:
    if not folder.is_dir():
        return _NO_FOLDER[folder.exists()]
    found = [name for name in ("tokenizer.json", "vocab.json") if (folder / name).is_file()]
    return "" if found else "there is no tokenizer.json in it, and no vocab.json"


def _clip(folder: Path | None) -> str:
    if folder is None:
        return "not given"
    if not folder.is_dir():
        return _NO_FOLDER[folder.exists()]
    return "" if (folder / "config.json").is_file() else "there is no config.json in it"


def _drawn(config: UpVlaConfig, seed: int) -> Mapping[str, tuple[Tensor, ...]]:
    """The weights that no published part has, drawn anew: they do not depend on what is made small here."""
    small = {"layers": 1, "mlp_width": 1, "vocabulary": Vocabulary(text_size=1, end_of_text=0, codes=1)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = UpVla(config.model_copy(update=small)).state_dict()
    return {name: (tensor,) for name, tensor in state.items() if name.startswith(_HEAD)}


def _card(manifest: UpVlaManifest) -> str:
    return f"""# UP-VLA before training

Show-o's weights ({manifest.start["weights"]}) with an action head drawn from seed {manifest.start["seed"]}: it has to
be trained before it moves anything. `vla-ros train up_vla --size {manifest.size} --start` begins from it, conditioned
{_CONDITIONED[manifest.model.conditioning]}.
"""
