"""vla-ros dataset: show, check, repair and compact what was recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vla_ros.cli.common import EXIT_FAILED, clear_errors, dataset_errors, progress, refuse
from vla_ros.cli.dataset_show import show

if TYPE_CHECKING:
    from rich.console import Console

    from vla_ros.recording.upkeep.findings import Finding

app = typer.Typer(help="Look at recorded datasets; check, repair and compact them.", no_args_is_help=True)

Dataset = Annotated[Path, typer.Argument(help="Folder of a LeRobot dataset.", metavar="PATH", show_default=False)]
_STYLES = {"error": "bold red", "warning": "yellow"}


app.command()(show)


@app.callback()
def _options() -> None:
    """What stands before the command."""


@app.command()
def check(
    path: Dataset,
    decode: Annotated[bool, typer.Option("--decode", help="Also decode every frame; slow.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print findings as JSON.")] = False,
) -> None:
    """Check whether a dataset (v3.0 or v2.1) can be loaded and is consistent. Exit code 1 if anything is wrong."""
    with clear_errors(), dataset_errors():
        from vla_ros.recording.upkeep import checking
        from vla_ros.recording.upkeep.findings import Severity, errors, to_json

        with progress() as say:
            findings = checking.check(path, decode=decode, on_progress=say)
        if as_json:
            typer.echo(json.dumps(to_json(findings), indent=2))
        else:
            _show(findings, path)
            wrong = len(errors(findings))
            count = sum(finding.severity is Severity.WARNING for finding in findings)
            typer.echo(f"{path}: {wrong} errors, {count} warnings")
        if errors(findings):
            raise typer.Exit(EXIT_FAILED)


@app.command()
def repair(
    path: Dataset,
    keep_open: Annotated[
        bool, typer.Option("--keep-open", help="Turn recordings that were never saved into episodes.")
    ] = False,
    decode: Annotated[bool, typer.Option("--decode", help="Also decode every frame; slow.")] = False,
) -> None:
    """Repair a damaged dataset: rebuild metadata, quarantine corrupt files (in .recording/aside). Deletes nothing."""
    with clear_errors(), dataset_errors():
        from vla_ros.recording.upkeep import repairing

        with progress() as say:
            done = repairing.repair(path, keep_open=keep_open, decode=decode, on_progress=say)
        for line in done or [f"{path}: nothing to mend"]:
            typer.echo(line)


@app.command()
def compact(
    path: Dataset,
    destination: Annotated[
        Path | None, typer.Argument(help="A new folder for the compacted dataset.", show_default=False)
    ] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Replace PATH, after the result was checked.")] = False,
    data_mb: Annotated[float, typer.Option(min=0.1, help="Largest file of rows [MB].")] = 100.0,
    video_mb: Annotated[float, typer.Option(min=0.1, help="Largest video [MB].")] = 200.0,
) -> None:
    """Merge the many small files of a dataset into LeRobot's large ones; rows and frames stay the same."""
    if (destination is None) != in_place:
        refuse("give either a new folder or --in-place")
    with clear_errors(), dataset_errors():
        from vla_ros.recording.upkeep import compacting

        with progress() as say:
            done = compacting.compact(path, destination or path, data_mb=data_mb, video_mb=video_mb, on_progress=say)
        typer.echo(f"{destination or path}: {done.before} files merged into {done.after}")


def _show(findings: list[Finding], path: Path) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, soft_wrap=True)
    for finding in findings:
        style = _STYLES[finding.severity.value]
        where = finding.path + ("" if finding.episode is None else f", episode {finding.episode}")
        console.print(f"[{style}]{finding.severity.value}[/] [bold]{escape(where)}[/]: {finding.kind.value}")
        console.print(f"    {escape(finding.what)}")
    _show_remedies(findings, path, console)


def _show_remedies(findings: list[Finding], path: Path, console: Console) -> None:
    from rich.markup import escape

    for remedy in dict.fromkeys(finding.remedy for finding in findings):
        console.print(f"[dim]try:[/] [cyan]{escape(remedy.replace('PATH', str(path)))}[/]")
