"""vla-ros checkpoint: what lies in files of weights, and released weights made checkpoints of ours and back."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vla_ros.cli.checkpoint_show import inspect
from vla_ros.cli.common import (
    checkpoint_errors,
    clear_errors,
    complete_robot,
    obstacle,
    progress,
    refuse,
)

if TYPE_CHECKING:
    from vla_ros.checkpoints.converting import Deployment
    from vla_ros.checkpoints.manifest import UpVlaManifest

app = typer.Typer(help="Look at files of weights; convert released ones to ours and back.", no_args_is_help=True)


class Names(str, Enum):
    """Whose names the new weights have."""

    OURS = "ours"
    RELEASED = "released"


class Conditioned(str, Enum):
    """What stands before the image codes of a start."""

    RELEASED = "released"
    PAPER = "paper"


class Kept(str, Enum):
    """Types that weights are kept in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


app.command()(inspect)


@app.callback()
def _options() -> None:
    """What stands before the command."""


@app.command()
def convert(
    source: Annotated[
        Path,
        typer.Argument(help="A release: a folder with unwrapped_model/pytorch_model.bin, or a file; or one of ours."),
    ],
    out: Annotated[Path, typer.Argument(help="The new folder; it must not exist.")],
    to: Annotated[Names, typer.Option(help="A checkpoint of ours, or one that the official code loads.")] = Names.OURS,
    image_tokenizer: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A copy of showlab/magvitv2.", show_default=False)
    ] = None,
    text: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A copy of microsoft/phi-1_5: the tokenizer.", show_default=False)
    ] = None,
    clip: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A copy of openai/clip-vit-large-patch14-336; needed to answer questions, not to act.",
            show_default=False,
        ),
    ] = None,
    start: Annotated[
        bool,
        typer.Option("--start", help="SOURCE is Show-o 512 with CLIP: make what training starts from; needs --clip."),
    ] = False,
    seed: Annotated[
        int | None, typer.Option(help="--start: of the action head, which Show-o does not have.", show_default="0")
    ] = None,
    conditioning: Annotated[
        Conditioned | None,
        typer.Option(
            help="--start: on what it acts; the instruction alone as the official code has it, or CLIP's features and "
            "its own description of the scene as well, with the gripper as a probability.",
            show_default="released",
        ),
    ] = None,
    dtype: Annotated[
        Kept | None,
        typer.Option(
            help="Round the weights to this type (nothing else is done to one of ours); otherwise they stay "
            "(--start: float32).",
            show_default=False,
        ),
    ] = None,
    size: Annotated[str | None, typer.Option(help="Which model it is.", show_default="up-vla-release")] = None,
    robot: Annotated[
        str | None,
        typer.Option(help="The arm it is for.", show_default="panda", autocompletion=complete_robot),
    ] = None,
    camera: Annotated[str | None, typer.Option(help="Its camera's name in the system.", show_default="front")] = None,
    camera_size: Annotated[
        str | None, typer.Option(metavar="WxH", help="Frames of that camera in training.", show_default="200x200")
    ] = None,
    rate_hz: Annotated[
        float | None, typer.Option(help="Rows of actions a second.", show_default="30, CALVIN's")
    ] = None,
    position_scale_m: Annotated[
        float | None, typer.Option(help="What an action of 1.0 moves, in metres.", show_default="0.02, CALVIN's")
    ] = None,
    rotation_scale_rad: Annotated[
        float | None, typer.Option(help="What an action of 1.0 turns, in radians.", show_default="0.05, CALVIN's")
    ] = None,
    rotation: Annotated[
        str | None, typer.Option(help="How rotations are written.", show_default="euler_xyz, CALVIN's")
    ] = None,
    frame: Annotated[
        str | None, typer.Option(help="Frame of the motion: base or tool.", show_default="base, CALVIN's")
    ] = None,
    anchor: Annotated[
        str | None, typer.Option(help="Pose a chunk starts from: measured or commanded.", show_default="measured")
    ] = None,
    gripper: Annotated[
        str | None, typer.Option(help="What the last value means.", show_default="open_signed, CALVIN's")
    ] = None,
) -> None:
    """Make a checkpoint of ours of released UP-VLA weights, or (--to released) the other way round.

    With --dtype, a checkpoint of ours is copied with its weights rounded, all but the image tokenizer's.

    Weights are only renamed, tensor by tensor; converted back they are the same, bit for bit.

    They do not define what an action means: set it by options. The defaults are those of CALVIN, the training data:

    relative actions of 0.02 m and 0.05 rad, 30 a second, in the base's frame, the gripper from -1 closed to 1 open.
    """
    with clear_errors(), checkpoint_errors():
        if out.exists():
            refuse(f"{out} already exists; give a new folder")
        if problem := obstacle(out):
            refuse(f"{out}: {problem}")
        kept = dtype.value if dtype else None
        given = {
            "robot": robot, "camera": camera, "camera_size": camera_size, "rate_hz": rate_hz, "rotation": rotation,
            "position_scale_m": position_scale_m, "rotation_scale_rad": rotation_scale_rad, "frame": frame,
            "anchor": anchor, "gripper": gripper, "image_tokenizer": image_tokenizer, "text": text, "clip": clip,
            "dtype": kept, "start": start or None, "seed": seed, "size": size,
            "conditioning": conditioning.value if conditioning else None,
        }  # fmt: skip
        if to is Names.RELEASED:
            if wrong := _said(given):
                refuse(f"{wrong}: cannot be combined with --to released")
            _to_release(source, out)
            return
        if _is_ours(source):
            if wrong := _said({**given, "dtype": None}):
                refuse(f"{wrong}: {source} is already a checkpoint of vla_ros; only --dtype applies to it")
            _round(source, out, kept)
            return
        if seed is not None and not start:
            refuse("--seed: needs --start")
        if conditioning is not None and not start:
            refuse("--conditioning: needs --start; that of released weights is fixed")
        missing = [
            name
            for name, value in (("--image-tokenizer", image_tokenizer), ("--text", text), ("--clip", clip))
            if value is None and (name != "--clip" or start)
        ]
        if image_tokenizer is None or text is None or missing:
            refuse(f"{', '.join(missing)}: missing; give the folder of a local copy (see --help)")
        manifest = _manifest(given, clip is not None)
        if start:
            drawn = {"seed": seed, "dtype": kept}
            _start(source, out, manifest, image_tokenizer, text, clip, drawn)
        else:
            _from_release(source, out, manifest, image_tokenizer, text, clip, kept)


# --- converting


def _is_ours(source: Path) -> bool:
    from vla_ros.checkpoints.requirements import MANIFEST

    return (source / MANIFEST).is_file()


def _said(given: dict[str, Any]) -> str:
    """The options that were given, by name."""
    return ", ".join(f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None)


def _round(source: Path, out: Path, dtype: str | None) -> None:
    """A copy of one of ours, with weights of another type."""
    from vla_ros.checkpoints import rounding

    if dtype is None:
        refuse(
            f"{source} is already a checkpoint of vla_ros, so there is nothing to convert; --dtype rounds its weights, "
            "--to released converts it to a release"
        )
    with progress() as say:
        rounding.round_checkpoint(source, out, dtype, say)
    typer.echo(f"{out}: {source} with its weights as {dtype}")


def _manifest(given: dict[str, Any], has_clip: bool) -> UpVlaManifest:
    """The manifest of what is asked for; refuses what cannot be."""
    from pydantic import ValidationError

    from vla_ros.checkpoints.converting import Deployment, release_manifest
    from vla_ros.robots import catalogue
    from vla_ros.values import problems_of

    fields = {name: given[name] for name in Deployment.model_fields if given.get(name) is not None}
    try:
        default = Deployment()
        catalogue.find(fields.get("robot", default.robot))
        fields["camera"] = _camera(default, given["camera"], given["camera_size"])
        named = {name: given[name] for name in ("size", "conditioning") if given[name] is not None}
        return release_manifest(Deployment(**fields), has_clip=has_clip, **named)
    except ValidationError as error:
        refuse(*problems_of(error))
    except ValueError as error:
        refuse(str(error))


def _camera(default: Deployment, name: str | None, size: str | None) -> dict[str, Any]:
    camera = default.camera.model_dump()
    if name is not None:
        camera["name"] = name
    if size is not None:
        width, _, height = size.partition("x")
        if not (width.isdecimal() and height.isdecimal()):
            refuse(f"--camera-size: {size!r} is not a size; it should be like 200x200, width first")
        camera |= {"width": int(width), "height": int(height)}
    return camera


def _from_release(
    source: Path, out: Path, manifest: UpVlaManifest, image_tokenizer: Path, text: Path, clip: Path | None,
    dtype: str | None,
) -> None:  # fmt: skip
    from vla_ros.checkpoints import converting

    with progress() as say:
        converting.from_release(
            source, out, manifest, image_tokenizer=image_tokenizer, text=text, clip=clip, dtype=dtype, on_progress=say
        )
    typer.echo(f"{out}: a checkpoint of vla_ros; {_motion(manifest)}; look at it: vla-ros checkpoint inspect {out}")


def _start(
    source: Path, out: Path, manifest: UpVlaManifest, image_tokenizer: Path, text: Path, clip: Path | None,
    drawn: dict[str, Any],
) -> None:  # fmt: skip
    from vla_ros.checkpoints import starting

    drawn = {name: value for name, value in drawn.items() if value is not None}
    made = starting.make_start(out, manifest, source, image_tokenizer, text, clip, **drawn)
    typer.echo(
        f"{out}: training starts from it, with an action head of seed {made.start['seed']}: "
        f"vla-ros train up_vla --size {made.size} --start {out}"
    )


def _to_release(source: Path, out: Path) -> None:
    from vla_ros.checkpoints import converting
    from vla_ros.models.up_vla import SIZES

    with progress() as say:
        manifest = converting.to_release(source, out, say)
    typer.echo(f"{out}: released names, of {source}")
    typer.echo("the official code does not scale actions; after it, apply real = offset + scale * action:")
    for name, each in manifest.normalization:
        typer.echo(f"  {name}: {', '.join(f'{value:.6g}' for value in each)}")
    for change in converting.changes(manifest.model, SIZES["up-vla-release"]):
        typer.echo(f"set in the official code: {change}")


def _motion(manifest: UpVlaManifest) -> str:
    """What an action means, in a line."""
    scale, action = manifest.normalization.scale, manifest.action
    return f"an action of 1.0 is {scale[0]:g} m and {scale[3]:g} rad, {action.rate_hz:g} a second"
