"""vla-ros convert: datasets from one format to another, whole or in part, and bags into datasets."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vla_ros.cli.common import EXIT_FAILED, clear_errors, complete_system, load_system, obstacle, progress, refuse

if TYPE_CHECKING:
    from vla_ros.config import SystemConfig
    from vla_ros.recording.convert import Conversion, Converted


class Version(str, Enum):
    """Formats of LeRobot that are written."""

    V30 = "v3.0"
    V21 = "v2.1"


class Split(str, Enum):
    """What begins and ends an episode of a bag."""

    AUTO = "auto"
    RECORDER = "recorder"
    MODE = "mode"
    WHOLE = "whole"


def convert(
    source: Annotated[Path, typer.Argument(help="A dataset (v3.0 or v2.1), or the folder of a rosbag2.")],
    destination: Annotated[Path, typer.Argument(help="The folder of the new dataset; it must not exist.")],
    to: Annotated[Version, typer.Option(help="LeRobot's format; GR00T and openpi read v2.1.")] = Version.V30,
    episodes: Annotated[str, typer.Option(metavar="0,3,5-9", help="Only these, in this order.")] = "",
    successes_only: Annotated[bool, typer.Option("--successes-only", help="Only those marked as a success.")] = False,
    without_camera: Annotated[
        list[str] | None, typer.Option(help="Leave this camera out (depth, damaged); may be given more than once.")
    ] = None,
    trim_static: Annotated[
        bool, typer.Option("--trim-static", help="Remove rows without motion at the start and the end.")
    ] = False,
    still_rad: Annotated[float | None, typer.Option(min=0, help="Trim: largest motion of a still joint [rad].")] = None,
    still_m: Annotated[float | None, typer.Option(min=0, help="Trim: largest motion of a still gripper [m].")] = None,
    still_other: Annotated[float | None, typer.Option(min=0, help="Trim: dimensions without a unit.")] = None,
    margin: Annotated[float, typer.Option(min=0, max=10, help="Trim: time kept around the motion [s].")] = 0.1,
    keyframes: Annotated[
        bool, typer.Option("--keyframes", help="Only rows at which the action has changed; fps is kept.")
    ] = False,
    moved_rad: Annotated[float | None, typer.Option(min=0, help="Key frames: change of a joint [rad].")] = None,
    moved_m: Annotated[float | None, typer.Option(min=0, help="Key frames: change of the gripper [m].")] = None,
    moved_other: Annotated[float | None, typer.Option(min=0, help="Key frames: dimensions without a unit.")] = None,
    every: Annotated[
        float | None, typer.Option(metavar="S", min=0, help="One row every S seconds; 1/S is the new fps.")
    ] = None,
    gr00t: Annotated[bool, typer.Option("--gr00t", help="Also write GR00T's meta/modality.json (v2.1).")] = False,
    system: Annotated[str, typer.Option(help="Bag: the system that it shows.", autocompletion=complete_system)] = "",
    task: Annotated[str, typer.Option(help="Bag: the task in words; default: its instruction.")] = "",
    split: Annotated[
        Split, typer.Option(help="Bag: what splits it: recorder commands, the mode, or nothing.")
    ] = Split.AUTO,
    save_anyway: Annotated[
        bool, typer.Option("--save-anyway", help="Bag: also keep episodes beyond the health limits.")
    ] = False,
) -> None:
    """Make a new dataset from a dataset or a bag: in another format, with some of the episodes or rows.

    Whole episodes stay what they are, bit by bit; where rows are left out, videos are coded anew.
    """
    with clear_errors():
        from vla_ros.recording.bag_files import BagError, is_bag
        from vla_ros.recording.convert import Unmakeable
        from vla_ros.recording.files import DatasetError

        if destination.exists():
            refuse(f"{destination} already exists; give a new folder")
        if problem := obstacle(destination):
            refuse(f"{destination}: {problem}")
        if not source.exists():
            refuse(f"{source}: no such folder")
        still = {"rad": still_rad, "m": still_m, "other": still_other}
        moved = {"rad": moved_rad, "m": moved_m, "other": moved_other}
        for given, is_on, name in ((still, trim_static, "--trim-static"), (moved, keyframes, "--keyframes")):
            if not is_on and any(value is not None for value in given.values()):
                refuse(f"--{'still' if given is still else 'moved'}-...: needs {name}")
        values = {
            "to": to.value, "episodes": _numbers(episodes), "successes_only": successes_only,
            "without_cameras": without_camera or (),
            "trim_static": trim_static, "margin_s": margin, "keyframes": keyframes, "every_s": every, "gr00t": gr00t,
        }  # fmt: skip
        conversion = _conversion(values, still, moved)
        try:
            if is_bag(source):
                if conversion != _conversion({}, {}, {}):
                    refuse("a bag is converted to a v3.0 dataset of all its episodes; convert that afterwards")
                if not system:
                    refuse(f"{source} is a bag: give the system it was recorded from with --system")
                _convert_bag(source, destination, load_system(system), task, split.value, save_anyway)
            elif system or task or save_anyway or split is not Split.AUTO:
                refuse(f"--system, --task, --split and --save-anyway are for bags, but {source} is not a bag")
            else:
                _say(_convert(source, destination, conversion), source, destination)
        except Unmakeable as error:
            refuse(str(error))
        except (DatasetError, BagError) as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(EXIT_FAILED) from None


def _conversion(values: dict[str, Any], still: dict[str, Any], moved: dict[str, Any]) -> Conversion:
    """What is asked for; refuses what is out of range."""
    from pydantic import ValidationError

    from vla_ros.recording.convert import Conversion
    from vla_ros.recording.selection import MOVED, STILL
    from vla_ros.values import problems_of

    def changed(defaults: Any, given: dict[str, Any]) -> dict[str, Any]:
        return {**defaults.model_dump(), **{key: value for key, value in given.items() if value is not None}}

    try:
        return Conversion(**values, still=changed(STILL, still), moved=changed(MOVED, moved))
    except ValidationError as error:
        refuse(*problems_of(error))


def _numbers(text: str) -> tuple[int, ...] | None:
    """The numbers of "0,3,5-9"; None for an empty text; refuses any other."""
    numbers: list[int] = []
    for part in text.split(",") if text else ():
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            refuse(f"--episodes: {part!r} is neither a number nor a range; it should be like 0,3,5-9")
        numbers += range(int(first), int(last or first) + 1)
    return tuple(numbers) or None


def _convert(source: Path, destination: Path, conversion: Conversion) -> Converted:
    from vla_ros.recording.convert import convert as convert_dataset

    with progress() as show:
        return convert_dataset(source, destination, conversion, lambda done, total: show("rows", done, total))


def _convert_bag(
    source: Path, destination: Path, system: SystemConfig, task: str, split: str, save_anyway: bool
) -> None:
    from vla_ros.recording.bag import Split, bag_to_dataset
    from vla_ros.recording.convert import whole_or_not_at_all
    from vla_ros.robots import catalogue

    with whole_or_not_at_all(destination) as folder, progress() as show:
        saved = bag_to_dataset(
            source,
            folder,
            catalogue.find(system.robot),
            system.cameras,
            system.recording,
            task=task,
            split=Split(split),
            save_anyway=save_anyway,
            on_progress=show,
            on_notice=show.print,
        )
    rows = sum(episode.frames for episode in saved)
    typer.echo(f"{destination}: {len(saved)} episodes, {rows} rows")


def _say(converted: Converted, source: Path, destination: Path) -> None:
    typer.echo(f"{destination}: {converted.episodes} episodes, {converted.frames} of {converted.of_frames} rows")
    if converted.parted:
        parted = ", ".join(map(str, converted.parted))
        typer.echo(f"episodes {parted} of {source} had gaps in their timestamps: each was split into several episodes")
    if converted.recoded:
        typer.echo(f"{converted.recoded} videos were re-encoded, with some loss")
    for notice in converted.notices:
        typer.echo(notice)
    if converted.still:
        typer.echo(f"left out, as nothing moves in them: episodes {', '.join(map(str, converted.still))} of {source}")
