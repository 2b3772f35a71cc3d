"""Our checkpoint of UP-VLA: a folder with its weights, tokenizers and what they were trained on, saved atomically."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError, model_validator

from vla_ros.checkpoints.files import CheckpointError, replacing_folder, write_tensors, writing
from vla_ros.checkpoints.loading import blank, load_network
from vla_ros.checkpoints.requirements import MANIFEST, Normalization, Requirements, why_no_checkpoint
from vla_ros.checkpoints.up_vla import RELEASED_FILE
from vla_ros.models.up_vla import UpVla, UpVlaConfig, Vocabulary
from vla_ros.recording.files import load_json
from vla_ros.robots import catalogue
from vla_ros.tokenizers.magvit2 import Magvit2, Magvit2Config
from vla_ros.tokenizers.text import TextTokenizer, TextTokenizerError
from vla_ros.tokenizers.vision import ClipVision, SmallVision, SmallVisionConfig, VisionEncoder, VisionEncoderError
from vla_ros.values import problems_of

FORMAT = "vla_ros/up_vla/1"

MODEL = "model.safetensors"
IMAGE_TOKENIZER = "image_tokenizer.safetensors"
VISION = "vision.safetensors"
CLIP = "clip"  # folder of a CLIP vision tower, as transformers writes it
TEXT = "text"  # folder of the text tokenizer
CARD = "README.md"
_OURS = (MANIFEST, MODEL, IMAGE_TOKENIZER, VISION, CLIP, TEXT, CARD)


class UpVlaManifest(Requirements):
    """What a checkpoint is, and what the world has to be like for it.

    `cameras` are what the model sees, in order; those of `code_cameras` reach it as codes, and their future is
    predicted; with `vision` all of them reach it as features, too. `pixels` is the side of what the image tokenizer
    gets. `proprioception` names the values of the state, `words` what it knows of language, `questions` those that it
    was taught to answer; empty: any English.
    `start` tells of weights that have not learnt to act yet, `trained` of those that have: of a training, a release.
    `description_period_s` is how often it was told anew, in its own words, what it sees; None: never.
    """

    format: Literal["vla_ros/up_vla/1"] = "vla_ros/up_vla/1"
    size: str
    model: UpVlaConfig
    image_tokenizer: Magvit2Config
    vision: SmallVisionConfig | Literal["clip"] | None = None
    code_cameras: tuple[str, ...] = Field(min_length=1)
    normalization: Normalization
    description_period_s: float | None = Field(default=None, gt=0.0)
    start: dict[str, Any] = Field(default_factory=dict)
    trained: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _parts_fit(self) -> UpVlaManifest:
        model, cameras = self.model, [camera.name for camera in self.cameras]
        rows, dims = self.action.horizon, len(self.action.dimensions)
        codes = self.pixels**2 / self.image_tokenizer.pixels_per_code**2
        state = 0 if self.state is None else len(self.state.offset)
        problems = [
            *(
                f"code_cameras: {name} is none of the cameras {cameras}"
                for name in self.code_cameras
                if name not in cameras
            ),
            *_unequal("code_cameras", len(self.code_cameras), "model.views", model.views),
            *_unequal("values of an action", dims, "model.action_dims", model.action_dims),
            *_unequal("values in normalization", len(self.normalization.offset), "of an action", dims),
            *_unequal("action.horizon", rows, "model.action_rows", model.action_rows),
            *_unequal("codes of a frame", codes, "model.image_codes", model.image_codes),
            *_unequal("image_tokenizer.codes", self.image_tokenizer.codes, "vocabulary.codes", model.vocabulary.codes),
            *_unequal("values in state", state, "model.state_dims", model.state_dims),
        ]
        if len(set(cameras)) != len(cameras):
            problems.append(f"cameras: a name stands twice in {cameras}")
        if model.conditioning == "paper" and self.vision is None:
            problems.append("vision: conditioning `paper` needs a vision encoder")
        if problems:
            raise ValueError("; ".join(problems))
        return self


@dataclass(frozen=True)
class Bundle:
    """A model with all that it needs to see, read and act; the modules are on one device."""

    manifest: UpVlaManifest
    model: UpVla
    image_tokenizer: Magvit2
    vision: VisionEncoder | None
    text: TextTokenizer


def save(folder: Path, bundle: Bundle, card: str = "") -> None:
    """Write a bundle as a folder, in place of the one that is there; a crash leaves the old one or the new one.

    `card` is the text of the model card, in Markdown. Raises CheckpointError where it cannot be written, or where the
    manifest tells of another model.
    """
    manifest = bundle.manifest
    for what, told, there in (
        ("model", manifest.model, bundle.model.config),
        ("image_tokenizer", manifest.image_tokenizer, bundle.image_tokenizer.config),
        ("vision", manifest.vision, _vision_config(bundle.vision)),
    ):
        if told != there:
            raise CheckpointError(f"{folder}: the manifest's {what} is not the one to be saved: {told} and {there}")
    check_vision(folder, manifest, bundle.vision)
    with new_checkpoint(folder, manifest, bundle.text, card) as new:
        write_tensors(new / MODEL, bundle.model.state_dict(), {"vla_ros": manifest.format})
        write_tensors(new / IMAGE_TOKENIZER, bundle.image_tokenizer.state_dict())
        if isinstance(bundle.vision, SmallVision):
            write_tensors(new / VISION, bundle.vision.state_dict())
        elif isinstance(bundle.vision, ClipVision):
            bundle.vision.save(new / CLIP)


@contextmanager
def new_checkpoint(folder: Path, manifest: UpVlaManifest, text: TextTokenizer, card: str = "") -> Iterator[Path]:
    """A folder to put the weights into, that becomes `folder` at the end, with all but weights in it.

    What others have put into a checkpoint that is replaced, such as films, is kept.
    """
    with replacing_folder(folder, MANIFEST) as new, writing(folder):
        yield new
        text.save(new / TEXT)
        (new / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        if card:
            (new / CARD).write_text(card, encoding="utf-8")
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name not in _OURS:
                (shutil.copytree if path.is_dir() else shutil.copy2)(path, new / path.name)


def load(folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Bundle:
    """The bundle in a folder that `save` wrote, in eval mode; raises CheckpointError saying what is wrong with it.

    `dtype` is that of the model and the vision encoder; the image tokenizer is float32, as codes are signs of small
    numbers.
    """
    manifest = load_manifest(folder)
    return Bundle(
        manifest,
        load_network(folder / MODEL, blank(UpVla, manifest.model), dtype, device),
        load_network(folder / IMAGE_TOKENIZER, blank(Magvit2, manifest.image_tokenizer), torch.float32, device),
        _load_vision(folder, manifest, dtype, device),
        load_text(folder / TEXT, manifest.model.vocabulary),
    )


def load_manifest(folder: Path) -> UpVlaManifest:
    """What a checkpoint is, without its weights; raises CheckpointError."""
    path = folder / MANIFEST
    try:
        content = load_json(path)
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(_no_checkpoint(folder)) from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # neither UTF-8 nor JSON
        raise CheckpointError(f"{path} is no JSON: {error}") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise CheckpointError(f"{path} is of format {found!r}; {FORMAT!r} is what is read here")
    try:
        return UpVlaManifest.model_validate_json(json.dumps(content))
    except ValidationError as error:
        raise CheckpointError("\n  ".join([f"{path} is not a manifest of UP-VLA:", *problems_of(error)])) from error


def problems(folder: Path, manifest: UpVlaManifest) -> list[str]:
    """What keeps a checkpoint from being used, beside its weights: its robot, its text, its vision encoder."""
    found = []
    for check in (
        lambda: catalogue.find(manifest.robot),
        lambda: load_text(folder / TEXT, manifest.model.vocabulary),
        lambda: check_vision(folder, manifest, _blank_vision(folder, manifest)),
    ):
        try:
            check()
        except ValueError as error:
            found.append(str(error))
    return found


def _blank_vision(folder: Path, manifest: UpVlaManifest) -> VisionEncoder | None:
    """The vision encoder of a checkpoint, a small one without its weights."""
    if isinstance(manifest.vision, SmallVisionConfig):
        return blank(SmallVision, manifest.vision)
    return None if manifest.vision is None else load_clip(folder / CLIP)


def load_text(folder: Path, vocabulary: Vocabulary) -> TextTokenizer:
    """The text tokenizer in a folder; raises CheckpointError where it is not the one of the vocabulary."""
    try:
        text = TextTokenizer.load(folder, vocabulary.text_size)
    except TextTokenizerError as error:
        raise CheckpointError(str(error)) from error
    if text.end_of_text != vocabulary.end_of_text:
        raise CheckpointError(
            f"{folder} ends a text with id {text.end_of_text}, the model with {vocabulary.end_of_text}"
        )
    return text


def _load_vision(
    folder: Path, manifest: UpVlaManifest, dtype: torch.dtype, device: torch.device | str
) -> VisionEncoder | None:
    vision: VisionEncoder | None = None
    if isinstance(manifest.vision, SmallVisionConfig):
        vision = load_network(folder / VISION, blank(SmallVision, manifest.vision), dtype, device)
    elif manifest.vision is not None:
        vision = load_clip(folder / CLIP, dtype, device)
    check_vision(folder, manifest, vision)
    return vision


def check_vision(folder: Path, manifest: UpVlaManifest, vision: VisionEncoder | None) -> None:
    """Raise CheckpointError where a vision encoder gives other features than the model takes."""
    model, cameras = manifest.model, len(manifest.cameras)
    given = None if vision is None else (cameras * vision.features_per_camera, vision.width)
    if given not in (None, (model.features, model.feature_width)):
        raise CheckpointError(
            f"{folder}: the vision encoder gives {given[0]} features of {given[1]} numbers for {cameras} cameras, and "
            f"the model takes {model.features} of {model.feature_width}"
        )


def load_clip(folder: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> ClipVision:
    """CLIP's vision tower in a folder; raises CheckpointError."""
    try:
        return ClipVision(folder, dtype, device)
    except VisionEncoderError as error:
        raise CheckpointError(str(error)) from error


def _vision_config(vision: VisionEncoder | None) -> SmallVisionConfig | str | None:
    if isinstance(vision, SmallVision):
        return vision.config
    return None if vision is None else "clip"


def _unequal(what: str, value: float, other: str, wanted: int) -> list[str]:
    return [] if value == wanted else [f"{what}: {value:g}, but {other}: {wanted}"]


def _no_checkpoint(folder: Path) -> str:
    if (folder / RELEASED_FILE).exists():
        hint = "it is a release of UP-VLA: convert it with vla-ros checkpoint convert"
        return f"{folder} is not a checkpoint of vla_ros: there is no {MANIFEST} in it; {hint}"
    return why_no_checkpoint(folder)
