"""vla-ros: run a system, show its graph, check its configuration; each command imports what it needs when it runs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from vla_ros.config import SystemConfig
    from vla_ros.graph import Graph
    from vla_ros.rollout.report import EpisodeRow, Report
    from vla_ros.viewing.montage import EpisodeTrace

EXIT_FAILED = 1  # it ran, or tried to, and did not come to a good end
EXIT_WRONG = 2  # what was asked for is wrong

app = typer.Typer(
    name="vla-ros",
    help="Vision-language-action models on real arms, through ROS 2.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Entry point of `vla-ros`."""
    app(prog_name="vla-ros")


def _complete_system(incomplete: str) -> list[str]:
    from vla_ros import config

    return [name for name in config.names() if name.startswith(incomplete)]


def _complete_policy(incomplete: str) -> list[str]:
    from vla_ros.policies import registry

    return [name for name in registry.names() if name.startswith(incomplete)]


def _complete_robot(incomplete: str) -> list[str]:
    from vla_ros.robots import catalogue

    return [name for name in catalogue.ROBOTS if name.startswith(incomplete)]


System = Annotated[
    str,
    typer.Argument(
        help="A system by name, as franka_upvla, or the path of its .yaml.", autocompletion=_complete_system
    ),
]
Simulate = Annotated[
    bool | None,
    typer.Option(
        "--sim/--no-sim", help="In simulation or on the real robot; otherwise as the system says.", show_default=False
    ),
]


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"vla-ros {version('vla_ros')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """What stands before the command."""


@app.command()
def run(
    system: System,
    policy: Annotated[str, typer.Option(help="Another policy.", autocompletion=_complete_policy)] = "",
    instruction: Annotated[str, typer.Option(help="What to do, in words.")] = "",
    checkpoint: Annotated[str, typer.Option(help="The policy's weights.")] = "",
    robot: Annotated[str, typer.Option(help="Another arm.", autocompletion=_complete_robot)] = "",
    sim: Simulate = None,
    record: Annotated[str, typer.Option(metavar="DIR", help="Record everything into a new bag there.")] = "",
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
) -> None:
    """Run a system until Ctrl-C, or for some episodes with a report and a picture."""
    with _clear_errors():
        overrides = {
            "policy": policy,
            "instruction": instruction,
            "checkpoint": checkpoint,
            "robot": robot,
            "record": record,
        }
        chosen = _load(system, **overrides)
        graph = _graph(chosen, sim, seed)
        _refuse_unless_new(chosen.record)
        if not episodes:
            if report or montage or require_successes:
                _refuse("--report, --montage and --require-successes need --episodes")
            _run_until_interrupted(graph)
        elif not any(node.executable == "simulator" for node in graph.nodes):
            _refuse("--episodes: only a simulation can be reset; the system would run on the real robot")
        elif _run_episodes(chosen, graph, episodes, seed, *_files(report, montage)) < require_successes:
            raise typer.Exit(EXIT_FAILED)


@app.command()
def graph(system: System, sim: Simulate = None) -> None:
    """Print the graph of nodes and topics as a Mermaid flowchart."""
    with _clear_errors():
        from vla_ros.graph import mermaid

        typer.echo(mermaid(_graph(_load(system), sim)), nl=False)


@app.command()
def check(
    systems: Annotated[list[str], typer.Argument(help="Systems by name or path.", autocompletion=_complete_system)],
) -> None:
    """Check systems: every error at once, with file, line and field."""
    from vla_ros.config import ConfigError

    problems: list[str] = []
    for name in systems:
        try:
            chosen = _load(name)
            nodes = ", ".join(node.name for node in _graph(chosen).nodes)
            typer.echo(
                f"{name}: fine ({chosen.title}; robot {chosen.robot}, policy {chosen.policy.name}; nodes {nodes})"
            )
        except ConfigError as error:
            problems += error.problems
    if problems:
        _refuse(*problems)


# --- what a command line asks for -----------------------------------------------------------------------------------


def _load(name: str, **overrides: str) -> SystemConfig:
    from vla_ros import config
    from vla_ros.policies import registry

    chosen = config.override(config.load(name, registry.names()), policies=registry.names(), **overrides)
    entry = registry.POLICIES[chosen.policy.name]
    if entry.needs_checkpoint and not chosen.policy.checkpoint:
        raise config.ConfigError([f"policy.checkpoint: missing; policy {chosen.policy.name} has weights, say where"])
    return chosen


def _graph(system: SystemConfig, simulate: bool | None = None, seed: int = 0) -> Graph:
    from vla_ros import graph
    from vla_ros.config import ConfigError

    built = graph.build(system, simulate=simulate, seed=seed)
    problems = graph.check(built)
    if problems:
        raise ConfigError(problems)
    return built


def _refuse_unless_new(record: str) -> None:
    """As the recorder would, but at once."""
    if not record:
        return
    if Path(record).exists():
        _refuse(f"record: {record} exists already, and a recording overwrites nothing; give a new folder")
    if why := _obstacle(Path(record)):
        _refuse(f"record: {record} cannot be made: {why}")


def _files(report: Path | None, montage: Path | None) -> tuple[Path, Path, Path]:
    """Where report, picture and log go; refused before anything runs where they could not be written afterwards."""
    folder = report.parent if report else Path("runs") / time.strftime("%Y%m%d-%H%M%S")
    files = (report or folder / "report.json", montage or folder / "montage.png", folder / "nodes.log")
    if files[1].suffix != ".png":
        _refuse(f"--montage: {files[1]} should end in .png")
    problems = [f"{file}: cannot be written: {why}" for file in files if (why := _obstacle(file))]
    if problems:
        _refuse(*problems)
    return files


def _obstacle(path: Path) -> str:
    """What is in the way of a new file at `path`; empty when nothing is."""
    nearest = next(folder for folder in path.absolute().parents if folder.exists())
    if not nearest.is_dir():
        return f"{nearest} is no folder"
    if not os.access(nearest, os.W_OK):
        return f"{nearest} is protected"
    return "it is a folder" if path.is_dir() else ""


def _run_until_interrupted(graph: Graph) -> None:
    from vla_ros import topics
    from vla_ros.ros import transport
    from vla_ros.ros.supervising import Supervisor

    transport.remove_dead_segments()
    with Supervisor(graph, transport.environment(os.environ)) as nodes:
        if any(node.params.get("started") is False for node in graph.nodes):
            typer.echo(f"the arm holds until it hears a task on {topics.INSTRUCTION} and {topics.START} is called")
        try:
            nodes.wait()
        except KeyboardInterrupt:
            typer.echo("stopping", err=True)


def _run_episodes(
    system: SystemConfig, graph: Graph, count: int, seed: int, report_file: Path, montage_file: Path, log_file: Path
) -> int:
    """Run the episodes with progress, write and show what came out; the number of successes."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from vla_ros.ros import transport
    from vla_ros.ros.episodes import run_episodes
    from vla_ros.ros.supervising import Supervisor

    console = Console()
    transport.remove_dead_segments()
    log_file.parent.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with transport.locked_domain_id() as domain_id, log_file.open("w", encoding="utf-8", buffering=1) as log:
        os.environ.update(environment := transport.local_environment(os.environ, domain_id))
        console.print(f"{system.title}; episodes: {count}; ROS_DOMAIN_ID {domain_id}", highlight=False)
        console.print(f"nodes' log {log_file}", highlight=False, soft_wrap=True)
        nodes = Supervisor(graph, environment, lambda name, line: print(f"[{name}] {line}", file=log))
        with nodes, Progress(*columns, console=console) as progress:
            task = progress.add_task(system.policy.name, total=count)

            def show(row: EpisodeRow) -> None:
                progress.console.print(_line(row), highlight=False)
                progress.advance(task)

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


# --- how it says no ---------------------------------------------------------------------------------------------------


def _refuse(*problems: str) -> NoReturn:
    for problem in problems:
        typer.echo(f"error: {problem}", err=True)
    raise typer.Exit(EXIT_WRONG)


@contextmanager
def _clear_errors() -> Iterator[None]:
    """What a user can do something about is said in a line or two, with an exit code; the rest keeps its traceback."""
    from vla_ros.config import ConfigError

    try:
        yield
    except typer.Exit:  # a RuntimeError by birth
        raise
    except ConfigError as error:
        _refuse(*error.problems)
    except ModuleNotFoundError as error:
        if error.name not in ("rclpy", "rpyutils"):
            raise
        typer.echo(
            "error: ROS 2 is not to be found here (no module rclpy). Source an installation "
            "(. /opt/ros/<distro>/setup.bash), or let `make setup` put it into .venv.",
            err=True,
        )
        raise typer.Exit(EXIT_FAILED) from None
    except RuntimeError as error:  # a node died, or does not answer
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(EXIT_FAILED) from None
