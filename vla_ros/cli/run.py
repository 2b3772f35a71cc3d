"""vla-ros run: a system until Ctrl-C, or for some episodes with a report and a picture."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vla_ros.cli.common import (
    EXIT_FAILED,
    Simulate,
    System,
    build_graph,
    clear_errors,
    complete_policy,
    complete_robot,
    load_system,
    nodes_for_episodes,
    obstacle,
    refuse,
)
from vla_ros.cli.dry_run import run_dry

if TYPE_CHECKING:
    from rich.table import Table

    from vla_ros.config import SystemConfig
    from vla_ros.graph import Graph
    from vla_ros.rollout.report import EpisodeRow, Report
    from vla_ros.viewing.montage import EpisodeTrace


def run(
    system: System,
    policy: Annotated[str, typer.Option(help="Another policy.", autocompletion=complete_policy)] = "",
    instruction: Annotated[str, typer.Option(help="What to do, in words.")] = "",
    checkpoint: Annotated[str, typer.Option(help="The policy's weights.")] = "",
    robot: Annotated[str, typer.Option(help="Another arm.", autocompletion=complete_robot)] = "",
    sim: Simulate = None,
    bag: Annotated[str, typer.Option(metavar="DIR", help="Write every topic into a new bag there.")] = "",
    episodes: Annotated[int, typer.Option(min=0, help="Run so many simulated episodes, then stop.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of the first episode.")] = 0,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json", help="Where the report goes, and what comes with it; otherwise runs/<time>/."
        ),
    ] = None,
    montage: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Where the picture goes.")] = None,
    require_successes: Annotated[int, typer.Option(min=0, help="Exit with 1 if fewer episodes succeed.")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Send nothing to the arm; draw what would have been sent.")
    ] = False,
    seconds: Annotated[float, typer.Option(min=0.0, help="End the dry run after so many seconds of commands.")] = 0.0,
) -> None:
    """Run a system until Ctrl-C, or for some episodes with a report and a picture."""
    from vla_ros.policies import registry

    with clear_errors():
        overrides = {
            "policy": policy,
            "instruction": instruction,
            "checkpoint": checkpoint,
            "robot": robot,
            "bag": bag,
        }
        chosen = load_system(system, **overrides)
        graph = build_graph(chosen, sim, seed, dry_run)
        _refuse_unless_new(chosen.bag)
        if problems := registry.problems(chosen.policy.name, chosen.policy.checkpoint):
            refuse(*problems)  # as the inference node would, but before any node starts
        if seconds and not dry_run:
            refuse("--seconds needs --dry-run")
        if episodes and dry_run:
            refuse("--dry-run and --episodes: an arm that nothing is sent to does no episode; leave one out")
        if not episodes:
            if report or montage or require_successes:
                refuse("--report, --montage and --require-successes need --episodes")
            _run_until_interrupted(chosen, graph, dry_run, seconds)
        elif not graph.is_simulated:
            refuse("--episodes: only a simulation can be reset; the system would run on the real robot")
        elif _run_episodes(chosen, graph, episodes, seed, *_files(report, montage)) < require_successes:
            raise typer.Exit(EXIT_FAILED)


def _refuse_unless_new(bag: str) -> None:
    """As the bag node would, but at once."""
    if not bag:
        return
    if Path(bag).exists():
        refuse(f"bag: {bag} exists already, and a recording overwrites nothing; give a new folder")
    if why := obstacle(Path(bag)):
        refuse(f"bag: {bag} cannot be made: {why}")


def _files(report: Path | None, montage: Path | None) -> tuple[Path, Path, Path]:
    """Where report, picture and log go; refused before anything runs where they could not be written afterwards."""
    folder = report.parent if report else Path("runs") / time.strftime("%Y%m%d-%H%M%S")
    files = (report or folder / "report.json", montage or folder / "montage.png", folder / "nodes.log")
    if files[1].suffix != ".png":
        refuse(f"--montage: {files[1]} should end in .png")
    problems = [f"{file}: cannot be written: {why}" for file in files if (why := obstacle(file))]
    if problems:
        refuse(*problems)
    return files


def _run_until_interrupted(system: SystemConfig, graph: Graph, dry_run: bool, seconds: float) -> None:
    from vla_ros import topics
    from vla_ros.ros import transport
    from vla_ros.ros.supervising import Supervisor

    if any(node.params.get("mode") == "hold" for node in graph.nodes):
        typer.echo(f"the arm holds until it hears a task on {topics.INSTRUCTION} and {topics.START} is called")
    if dry_run:
        run_dry(system, graph, seconds)
        return
    with Supervisor(graph, transport.environment(os.environ)) as nodes:
        try:
            nodes.wait()
        except KeyboardInterrupt:
            typer.echo("stopping", err=True)


def _run_episodes(
    system: SystemConfig, graph: Graph, count: int, seed: int, report_file: Path, montage_file: Path, log_file: Path
) -> int:
    """Run the episodes with progress, write and show what came out; the number of successes."""
    from vla_ros.ros.episodes import run_episodes

    with nodes_for_episodes(system, graph, count, log_file) as progress:
        console = progress.console

        def show(row: EpisodeRow) -> None:
            console.print(_line(row), highlight=False)
            progress.advance(progress.task_ids[0])

        report, trace = run_episodes(system, count, seed, show)
    report.write(report_file)
    console.print(_table(report))
    console.print(f"report     {report_file}", highlight=False, soft_wrap=True)
    _draw(trace, montage_file, console)
    return report.successes


def _line(row: EpisodeRow) -> str:
    verdict = "[green]success[/]" if row.success else "[red]failure[/]"
    why = "" if row.success else f"  ({row.ended})"
    return f"  seed {row.seed:<4} {verdict}  {row.duration_s:5.1f} s  {row.instruction}{why}"


def _table(report: Report) -> Table:
    from rich.table import Table

    table = Table(
        title=f"{report.policy}: {report.successes} of {len(report.episodes)} succeeded", title_justify="left"
    )
    table.add_column("measured")
    table.add_column("value", justify="right")
    table.add_row("latency, observation to chunk: p50, p99", _pair(report.latency_ms, "ms"))
    table.add_row("jitter of the controller: p50, p99", _pair(report.jitter_ms, "ms"))
    for name, times in report.interventions.items():
        table.add_row(f"intervention: {name}", str(times))
    for topic, rate_hz in report.topics.items():
        table.add_row(topic, f"{rate_hz:.1f} Hz")
    return table


def _pair(percentiles: Any, unit: str) -> str:
    values = (percentiles.p50, percentiles.p99)
    return "not measured" if None in values else f"{values[0]:.1f}, {values[1]:.1f} {unit}"


def _draw(trace: EpisodeTrace | None, file: Path, console: Any) -> None:
    from vla_ros.viewing.montage import render

    if trace is None:
        console.print("montage    none: no episode left frames of every camera")
        return
    try:
        console.print(f"montage    {render(trace, file)}", highlight=False, soft_wrap=True)
    except ModuleNotFoundError as error:
        console.print(f"montage    none: {error}", highlight=False, soft_wrap=True)
