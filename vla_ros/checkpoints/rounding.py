"""A checkpoint of ours with its weights rounded to another type, tensor by tensor; all else is copied as it is."""

from __future__ import annotations

import shutil
from pathlib import Path

from torch import nn

from vla_ros.checkpoints.comparison import shapes_of
from vla_ros.checkpoints.files import (
    DTYPES,
    CheckpointError,
    Progress,
    read_metadata,
    read_tensors,
    replacing_folder,
    write_tensors,
    writing,
)
from vla_ros.checkpoints.loading import blank, require, require_finite
from vla_ros.checkpoints.manifest import (
    CLIP,
    IMAGE_TOKENIZER,
    MODEL,
    VISION,
    UpVlaManifest,
    load_clip,
    load_manifest,
    problems,
)
from vla_ros.checkpoints.requirements import MANIFEST
from vla_ros.models.up_vla import UpVla
from vla_ros.tokenizers.magvit2 import Magvit2
from vla_ros.tokenizers.vision import SmallVision, SmallVisionConfig


def round_checkpoint(folder: Path, out: Path, dtype: str, on_progress: Progress | None = None) -> None:
    """Copy a checkpoint of ours with the floating point of model and vision encoder as `dtype`, one of DTYPES.

    The image tokenizer stays as it is, as codes are signs of small numbers. Hidden files, such as those of git, stay
    behind. Raises CheckpointError; then there is no `out`.
    """
    manifest, kind = load_manifest(folder), DTYPES[dtype]
    if folder.resolve() in out.resolve().parents:
        raise CheckpointError(f"{out} lies in {folder}, which is copied; it should be outside")
    if wrong := problems(folder, manifest):
        raise CheckpointError(f"{folder} is not a complete checkpoint: {'; '.join(wrong)}")
    tensors = {}
    for name, network in _networks(manifest).items():
        tensors[name] = read_tensors(folder / name)
        require(folder / name, shapes_of(network.state_dict()), tensors[name], type(network).__name__)
        require_finite(folder / name, tensors[name], None if name == IMAGE_TOKENIZER else kind, on_progress)
    del tensors[IMAGE_TOKENIZER]  # copied with what lies beside
    tower = load_clip(folder / CLIP) if manifest.vision == "clip" else None
    if tower is not None:
        require_finite(folder / CLIP, tower.state_dict(), kind)
    written = {*tensors, *([] if tower is None else [CLIP])}
    with replacing_folder(out, MANIFEST) as new, writing(out):
        for path in folder.iterdir():
            if path.name not in written and not path.name.startswith("."):
                (shutil.copytree if path.is_dir() else shutil.copy2)(path, new / path.name)
        for name, each in tensors.items():
            write_tensors(new / name, each, read_metadata(folder / name), dtype=kind, on_progress=on_progress)
        if tower is not None:
            tower.to(kind).save(new / CLIP)


def _networks(manifest: UpVlaManifest) -> dict[str, nn.Module]:
    """The networks that lie in a file each, without weights."""
    networks: dict[str, nn.Module] = {
        MODEL: blank(UpVla, manifest.model),
        IMAGE_TOKENIZER: blank(Magvit2, manifest.image_tokenizer),
    }
    if isinstance(manifest.vision, SmallVisionConfig):
        networks[VISION] = blank(SmallVision, manifest.vision)
    return networks
