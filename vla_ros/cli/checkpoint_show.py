"""vla-ros checkpoint inspect: what lies in a folder or file of weights, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vla_ros.cli.common import EXIT_FAILED, checkpoint_errors, clear_errors

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from vla_ros.checkpoints.inspecting import Inspection, Weights
    from vla_ros.checkpoints.manifest import UpVlaManifest

_MOST_WORDS = 12
_FILE_COLUMNS = ("file", "what it is", "tensors", "parameters", "types", "size")
_RIGHT = ("tensors", "parameters", "size")
_MOTION_COLUMNS = ("action", "unit", "0 is", "1 is")


def inspect(
    path: Annotated[
        Path, typer.Argument(help="A checkpoint's folder, a release's, or one file of weights.", show_default=False)
    ],
) -> None:
    """Tell what a checkpoint is: model, sizes, types, training, and how it differs from the model it is nearest to.

    Exit code 1 if it is a checkpoint of vla_ros that cannot be loaded.
    """
    with clear_errors(), checkpoint_errors():
        from rich.console import Console

        from vla_ros.checkpoints import inspecting

        found = inspecting.inspect(path)
        _show(Console(highlight=False), found)
        if found.problems:
            raise typer.Exit(EXIT_FAILED)


def _show(console: Console, found: Inspection) -> None:
    from rich.markup import escape

    console.print(f"[bold]{escape(str(found.path))}[/]")
    console.print(escape(_facts(found)))
    console.print(_table(_FILE_COLUMNS, [*map(_weights_cells, found.weights), *_other_cells(found)]))
    if found.manifest is not None:
        console.print()
        console.print(_table(("", ""), _manifest_lines(found.manifest)))
        console.print()
        console.print(_table(_MOTION_COLUMNS, _motion_lines(found.manifest)))
    for line in found.changed:
        console.print(f"[yellow]not as in the named size:[/] {escape(line)}")
    for weights in found.weights:
        if weights.difference and found.manifest is None:
            console.print(f"[yellow]{escape(weights.path.name)} is not quite {escape(weights.what)}:[/]")
            for line in weights.difference.lines():
                console.print(f"  {escape(line)}", soft_wrap=True)
    for line in found.problems:
        console.print(f"[bold red]problem:[/] {escape(line)}", soft_wrap=True)


def _facts(found: Inspection) -> str:
    parameters = sum(weights.parameters for weights in found.weights)
    size = sum(weights.size_bytes for weights in found.weights) + sum(found.other_files.values())
    near = "nearest to " if found.manifest is None and found.weights[0].difference else ""
    return f"{near}{found.what}; {_count(parameters)} parameters, {_bytes(size)} on the disk"


def _weights_cells(weights: Weights) -> tuple[str, ...]:
    types = ", ".join(
        name if len(weights.dtypes) == 1 else f"{name} {_count(number)}" for name, number in weights.dtypes.items()
    )
    return (
        weights.path.name, weights.what, str(weights.tensors), _count(weights.parameters), types,
        _bytes(weights.size_bytes),
    )  # fmt: skip


def _other_cells(found: Inspection) -> list[tuple[str, ...]]:
    return [(name, "", "", "", "", _bytes(size)) for name, size in found.other_files.items()]


def _manifest_lines(manifest: UpVlaManifest) -> list[tuple[str, str]]:
    model, action = manifest.model, manifest.action
    cameras = ", ".join(
        f"{camera.name} {camera.width}x{camera.height}" + (" (predicted)" * (camera.name in manifest.code_cameras))
        for camera in manifest.cameras
    )
    words = " ".join(manifest.words[:_MOST_WORDS]) + " ..." * (len(manifest.words) > _MOST_WORDS)
    return [
        ("size", f"{manifest.size}: {model.layers} layers, width {model.width}, {model.heads} heads"),
        ("conditioning", model.conditioning),
        ("robot", manifest.robot),
        ("sees", f"{cameras}; resized to {manifest.pixels} pixels, {model.image_codes} codes"),
        ("proprioception", ", ".join(manifest.proprioception) or "none"),
        ("acts", f"{action.horizon} rows at {action.rate_hz:g} Hz: {action.space.value}, frame {action.frame.value}, "
         f"{action.rotation.value}, gripper {action.gripper.value}"),
        ("understands", words or "any English"),
        *(("instruction", text) for text in manifest.instructions[:3]),
        *(_trained_lines("starts from", manifest.start) if manifest.start else ()),
        *(line for name, value in manifest.trained.items() for line in _trained_lines(name, value)),
    ]  # fmt: skip


def _trained_lines(name: str, value: object) -> list[tuple[str, str]]:
    """A training fact, or one for each of its parts where these have parts themselves."""
    if isinstance(value, dict) and value and all(isinstance(each, dict) for each in value.values()):
        return [(key, _fact(each)) for key, each in value.items()]
    return [(name.replace("_", " "), _fact(value))]


def _fact(value: object) -> str:
    """A training fact as text, whatever it is."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_fact(each)}" for key, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_fact, value)) or "nothing"
    if value is None:
        return "nothing"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _motion_lines(manifest: UpVlaManifest) -> list[tuple[str, ...]]:
    normalization = manifest.normalization
    return [
        (name, _unit(name), f"{offset:.4g}", f"{offset + scale:.4g}")
        for name, offset, scale in zip(
            manifest.action.dimensions, normalization.offset, normalization.scale, strict=True
        )
    ]


def _unit(dimension: str) -> str:
    last = dimension.rpartition(".")[2]
    if last in ("x", "y", "z"):
        return "m"
    return "" if last == "gripper" or last.startswith(("q", "r1", "r2")) else "rad"


def _count(number: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.4g} {unit}"
    return str(number)


def _bytes(size: int) -> str:
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= limit:
            return f"{size / limit:.1f} {unit}"
    return f"{size} B"


def _table(columns: tuple[str, ...], lines: Sequence[tuple[str, ...]]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="dim", pad_edge=False, show_header=any(columns))
    for name in columns:
        table.add_column(name, justify="right" if name in _RIGHT else "left", overflow="fold")
    for cells in lines:
        table.add_row(*map(escape, cells))
    return table
