"""A release of UP-VLA made a checkpoint of ours, and back: tensor by tensor from the mapped file, bit for bit."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from pydantic import Field, PositiveFloat
from torch import Tensor

from vla_ros.actions import ActionSpec, Anchor, Frame, GripperConvention, Space, gripper_value
from vla_ros.checkpoints.comparison import shapes_of
from vla_ros.checkpoints.files import (
    DTYPES,
    CheckpointError,
    Progress,
    read_tensors,
    replacing_folder,
    write_tensors,
    write_torch,
)
from vla_ros.checkpoints.loading import blank, require, require_finite
from vla_ros.checkpoints.manifest import (
    CLIP,
    IMAGE_TOKENIZER,
    MODEL,
    UpVlaManifest,
    check_vision,
    load_clip,
    load_manifest,
    load_text,
    new_checkpoint,
)
from vla_ros.checkpoints.requirements import MANIFEST, CameraInput, Normalization
from vla_ros.checkpoints.starting import is_show_o
from vla_ros.checkpoints.up_vla import (
    RELEASED_FILE,
    find_weights,
    parts_of_ours,
    released_shapes,
    to_released,
)
from vla_ros.geometry import RotationForm
from vla_ros.models.up_vla import SIZES, Conditioning, UpVla, UpVlaConfig
from vla_ros.robots import catalogue
from vla_ros.tokenizers.magvit2 import MAGVIT2_SIZES, Magvit2, Magvit2Config
from vla_ros.values import Config

#: Where the image tokenizer of a release goes, beside its model.
RELEASED_IMAGE_TOKENIZER = Path("magvitv2", "pytorch_model.safetensors")


class Deployment(Config):
    """What a release's weights do not tell: the robot and camera they are for, and what an action of 1.0 is.

    The defaults are those of CALVIN's relative actions and static camera, on which the release was trained.
    """

    robot: str = "panda"
    camera: CameraInput = CameraInput(name="front", width=200, height=200)
    frame: Frame = Frame.BASE
    anchor: Anchor = Anchor.MEASURED
    rotation: RotationForm = RotationForm.EULER_XYZ
    gripper: GripperConvention = GripperConvention.OPEN_SIGNED
    rate_hz: PositiveFloat = 30.0
    position_scale_m: PositiveFloat = 0.02
    rotation_scale_rad: PositiveFloat = 0.05
    instructions: tuple[str, ...] = Field(default=())


def release_manifest(
    deployment: Deployment,
    size: str = "up-vla-release",
    has_clip: bool = False,
    conditioning: Conditioning = "released",
) -> UpVlaManifest:
    """The manifest of released weights, or of a start for either conditioning.

    Raises ValueError for an unknown size, and for actions that it does not have.
    """
    if size not in SIZES:
        raise CheckpointError(f"{size}: unknown size; there are {', '.join(SIZES)}")
    model, tokenizer, cameras = SIZES[size], _image_tokenizer(size), (deployment.camera,)
    if conditioning == "paper":
        model = model.model_copy(
            update={"conditioning": "paper", "features": len(cameras) * model.features, "state_dims": 0}
        )
    action = ActionSpec(
        space=Space.EE_DELTA,
        frame=deployment.frame,
        anchor=deployment.anchor,
        rotation=deployment.rotation,
        rate_hz=deployment.rate_hz,
        horizon=model.action_rows,
        gripper=deployment.gripper,
    )
    rotation = (deployment.rotation_scale_rad,) * deployment.rotation.size
    zero, one = _gripper_ends(deployment) if conditioning == "paper" else (0.0, 1.0)
    motion = (deployment.position_scale_m,) * 3 + rotation
    scale = (*motion, one - zero)[: len(action.dimensions)]
    offset = (*(0.0 for _ in motion), zero)[: len(action.dimensions)]
    return UpVlaManifest(
        size=size,
        model=model,
        image_tokenizer=tokenizer,
        vision="clip" if has_clip else None,
        robot=deployment.robot,
        cameras=cameras,
        code_cameras=(deployment.camera.name,),
        pixels=math.isqrt(model.image_codes) * tokenizer.pixels_per_code,
        action=action,
        normalization=Normalization(offset=offset, scale=scale),
        instructions=deployment.instructions,
    )


def from_release(
    source: Path,
    folder: Path,
    manifest: UpVlaManifest,
    *,
    image_tokenizer: Path,
    text: Path,
    clip: Path | None = None,
    dtype: str | None = None,
    on_progress: Progress | None = None,
) -> None:
    """Make a checkpoint of ours of a release's weights and of the tokenizers that it was trained with.

    `source` as `find_weights` takes it; `image_tokenizer` is showlab/magvitv2, `text` microsoft/phi-1_5, `clip`
    openai/clip-vit-large-patch14-336, needed for questions only; all local. `dtype`: one of DTYPES, or None for the
    release's. Raises CheckpointError; then there is no `folder`.
    """
    if (source / MANIFEST).is_file():
        raise CheckpointError(f"{source} is a checkpoint of vla_ros already; --to released converts it to a release")
    file, tokens = find_weights(source), find_weights(image_tokenizer)
    tensors, tokenizer = read_tensors(file), read_tensors(tokens)
    if is_show_o(manifest.model, shapes_of(tensors)):
        raise CheckpointError(f"{file} is Show-o, without UP-VLA's action head: training starts from it (--start)")
    require(file, released_shapes(manifest.model), tensors, f"{manifest.size} under the released names")
    require(tokens, image_tokenizer_shapes(manifest.image_tokenizer), tokenizer, "MAGVIT-v2")
    words = load_text(text, manifest.model.vocabulary)
    tower = None if clip is None else load_clip(clip)
    check_vision(clip or source, manifest, tower)
    kind = None if dtype is None else DTYPES[dtype]
    require_finite(file, tensors, kind, on_progress)
    require_finite(tokens, tokenizer)
    facts = {"converted from": file.name, "released as": _dtypes(tensors), "kept as": dtype or _dtypes(tensors)}
    manifest = manifest.model_copy(update={"trained": facts})
    with new_checkpoint(folder, manifest, words, released_card(manifest)) as new:
        parts = parts_of_ours(tensors)
        write_tensors(new / MODEL, parts, {"vla_ros": manifest.format}, dtype=kind, on_progress=on_progress)
        write_tensors(new / IMAGE_TOKENIZER, tokenizer, on_progress=on_progress)
        if tower is not None:
            tower.save(new / CLIP)


def to_release(folder: Path, out: Path, on_progress: Progress | None = None) -> UpVlaManifest:
    """Write the weights of a checkpoint of ours as the official code loads them; what it was is returned.

    `out` gets `unwrapped_model/pytorch_model.bin` and the image tokenizer in `magvitv2`. Raises CheckpointError where
    there is something that the official code does not know; then there is no `out`.
    """
    manifest = load_manifest(folder)
    if manifest.model.conditioning != "released":
        raise CheckpointError(
            f"{folder} is conditioned as in the paper, on its own descriptions, which the official code does not know"
        )
    tensors, tokenizer = read_tensors(folder / MODEL), read_tensors(folder / IMAGE_TOKENIZER)
    require(folder / MODEL, shapes_of(blank(UpVla, manifest.model).state_dict()), tensors, manifest.size)
    require(folder / IMAGE_TOKENIZER, image_tokenizer_shapes(manifest.image_tokenizer), tokenizer, "MAGVIT-v2")
    with replacing_folder(out, str(RELEASED_FILE)) as new:
        write_torch(new / RELEASED_FILE, to_released(tensors), on_progress=on_progress)
        write_tensors(new / RELEASED_IMAGE_TOKENIZER, tokenizer, on_progress=on_progress)
    return manifest


def changes(model: UpVlaConfig, known: UpVlaConfig) -> list[str]:
    """What of a model is not as in a known one: "layers: 2 instead of 24"."""
    return [
        f"{name}: {value} instead of {getattr(known, name)}" for name, value in model if getattr(known, name) != value
    ]


def image_tokenizer_shapes(config: Magvit2Config) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight of an image tokenizer."""
    return dict(shapes_of(blank(Magvit2, config).state_dict()))


def released_card(manifest: UpVlaManifest) -> str:
    """The model card of a converted release, in Markdown: what it is, and what was assumed."""
    position, rotation = manifest.normalization.scale[0], manifest.normalization.scale[3]
    action, camera = manifest.action, manifest.cameras[0]
    return f"""# UP-VLA, converted from its release

Weights of UP-VLA (Zhang et al., ICML 2025, arXiv 2501.18867) as published, under the names of vla_ros and kept as
{manifest.trained["kept as"]} (released as {manifest.trained["released as"]}). The authors' repository states no
licence; ask them before you pass it on.

| | |
|---|---|
| size | {manifest.size} |
| sees | camera `{camera.name}`, trained on {camera.width}x{camera.height} pixels, resized to {manifest.pixels} |
| proprioception | none |
| acts | {action.horizon} rows at {action.rate_hz:g} Hz, {action.space.value} in frame {action.frame.value}, \
{action.rotation.value}, gripper {action.gripper.value} |
| an action of 1.0 is | {position:g} m, {rotation:g} rad |
| predicts | the frame {action.horizon} rows ahead |

The rate, the frame, the gripper's sign and what an action of 1.0 means are not in the weights. They are given here by
whoever converted it; the defaults are those of CALVIN's relative actions (0.02 m and 0.05 rad, 30 Hz), on which the
release was trained. On another robot, with another camera or another scale it has to be fine-tuned.
"""


def _gripper_ends(deployment: Deployment) -> tuple[float, float]:
    """The values of a gripper that are 0 and 1 as a probability, which conditioning `paper` learns it as."""
    if deployment.gripper is GripperConvention.NONE:
        return 0.0, 1.0
    widest = catalogue.find(deployment.robot).gripper.max_width_m
    ends = gripper_value(np.array([0.0, widest]), deployment.gripper, widest)
    return float(ends.min()), float(ends.max())


def _image_tokenizer(size: str) -> Magvit2Config:
    """The image tokenizer that goes with a model: the one with as many codes."""
    return next(config for config in MAGVIT2_SIZES.values() if config.codes == SIZES[size].vocabulary.codes)


def _dtypes(tensors: dict[str, Tensor]) -> str:
    return ", ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()}))
