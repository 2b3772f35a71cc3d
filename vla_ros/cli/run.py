"""vla-ros run: a system until Ctrl-C, or for some episodes with a report and a picture."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vla_ros import topics
from vla_ros.cli.common import (
    EXIT_FAILED,
    Simulate,
    System,
    build_graph,
    check_policy,
    clear_errors,
    command_again,
    complete_policy,
    complete_robot,
    console,
    episode_line,
    interrupted,
    load_system,
    nodes_for_episodes,
    obstacle,
    refuse,
)
from vla_ros.cli.dry_run import run_dry
from vla_ros.cli.run_live import run_until_interrupted

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from vla_ros.config import SystemConfig
    from vla_ros.graph import Graph
    from vla_ros.rollout.report import EpisodeRow, Report
    from vla_ros.viewing.montage import EpisodeTrace


def run(
    context: typer.Context,
    system: System,
    policy: Annotated[
        str, typer.Option(help="Use this policy, not the system's.", autocompletion=complete_policy)
    ] = "",
    instruction: Annotated[str, typer.Option(help="The task in words.")] = "",
    checkpoint: Annotated[str, typer.Option(help="The policy's weights.")] = "",
    robot: Annotated[str, typer.Option(help="Use this robot, not the system's.", autocompletion=complete_robot)] = "",
    sim: Simulate = None,
    bag: Annotated[str, typer.Option(metavar="DIR", help="Write every topic into a new bag in this folder.")] = "",
    episodes: Annotated[int, typer.Option(min=0, help="Run this many simulated episodes, then stop.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first episode.")] = 0,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json", help="File of the report; the log goes next to it. Default: in runs/<time>/."
        ),
    ] = None,
    montage: Annotated[Path | None, typer.Option(metavar="FILE.png", help="File of the picture.")] = None,
    require_successes: Annotated[int, typer.Option(min=0, help="Exit with 1 if fewer episodes succeed.")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Send nothing to the arm; draw what would have been sent.")
    ] = False,
    seconds: Annotated[float, typer.Option(min=0.0, help="End the dry run after this many seconds of commands.")] = 0.0,
    verbose: Annotated[bool, typer.Option("--verbose", help="Print what the nodes log instead of a summary.")] = False,
) -> None:
    """Run a system until Ctrl-C, or for some episodes with a report and a picture."""
    with clear_errors():
        overrides = {
            "policy": policy,
            "instruction": instruction,
            "checkpoint": checkpoint,
            "robot": robot,
            "bag": bag,
        }
        chosen = check_policy(load_system(system, **overrides))
        graph = build_graph(chosen, sim, seed, dry_run)
        _refuse_unless_new(chosen.bag)
        if seconds and not dry_run:
            refuse("--seconds needs --dry-run")
        if episodes and dry_run:
            refuse("--dry-run and --episodes: a dry run sends nothing, so the arm cannot do an episode; leave one out")
        if not episodes:
            if report or montage or require_successes:
                refuse("--report, --montage and --require-successes need --episodes")
            if (dry_run or verbose) and any(node.params.get("mode") == "hold" for node in graph.nodes):
                typer.echo(f"the arm holds until a task arrives on {topics.INSTRUCTION} and {topics.START} is called")
            if dry_run:
                run_dry(chosen, graph, seconds)
            else:
                run_until_interrupted(chosen, graph, system, verbose)
        elif not graph.is_simulated:
            refuse("--episodes: only a simulation can be reset; the system would run on the real robot")
        elif _run_episodes(context, chosen, graph, episodes, seed, _files(report, montage)) < require_successes:
            raise typer.Exit(EXIT_FAILED)


def _refuse_unless_new(bag: str) -> None:
    """As the bag node would, but at once."""
    if not bag:
        return
    if Path(bag).exists():
        refuse(f"bag: {bag} already exists and is not overwritten; give a new folder")
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


def _run_episodes(
    context: typer.Context,
    system: SystemConfig,
    graph: Graph,
    count: int,
    seed: int,
    files: tuple[Path, Path, Path],
) -> int:
    """Run the episodes with progress, write and show what came out, also of a part of them; the number of successes."""
    from vla_ros.ros.episodes import run_episodes

    report_file, montage_file, log_file = files
    newest: list[tuple[Report, EpisodeTrace | None]] = []
    stopped: BaseException | None = None
    try:
        with nodes_for_episodes(system, graph, count, log_file) as show:

            def on_episode(report: Report, trace: EpisodeTrace | None) -> None:
                newest[:] = [(report, trace)]
                report.write(report_file)  # a kill leaves it, too
                show.print(_line(report.episodes[-1]))

            run_episodes(
                system, count, seed, on_episode, lambda done, note: show(system.policy.name, done, count, note)
            )
    except (KeyboardInterrupt, RuntimeError, OSError) as error:  # what was measured before is kept
        stopped = error
    for report, trace in newest:
        report.write(report_file)  # Ctrl-C may have come just before
        out = console()
        out.print(_table(report))
        out.print(f"report     {report_file}", soft_wrap=True)
        _draw(trace, montage_file, out)
    done = len(newest[0][0].episodes) if newest else 0
    if isinstance(stopped, KeyboardInterrupt):
        rest = command_again(context, episodes=count - done, seed=seed + done, report=None, montage=None)
        interrupted(
            f"the report has {done} of {count} episodes" if done else "no episode was finished",
            *([f"to continue: {rest}"] if done < count else []),
        )
    if stopped is not None:
        raise stopped
    return newest[0][0].successes


def _line(row: EpisodeRow) -> Text:
    why = "" if row.success else f"  ({row.ended})"
    return episode_line(row.seed, row.success, f"{row.duration_s:5.1f} s  {row.instruction}{why}")


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


def _draw(trace: EpisodeTrace | None, file: Path, out: Console) -> None:
    from vla_ros.viewing.montage import render

    if trace is None:
        out.print("montage    none: no episode has frames of every camera")
        return
    try:
        out.print(f"montage    {render(trace, file)}", soft_wrap=True)
    except ModuleNotFoundError as error:
        out.print(f"montage    none: {error}", soft_wrap=True)
