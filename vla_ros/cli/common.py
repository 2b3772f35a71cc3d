"""What the commands share: arguments and their completion, systems and graphs, how they say no."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from vla_ros.config import SystemConfig
    from vla_ros.graph import Graph

EXIT_FAILED = 1  # it ran, or tried to, and did not come to a good end
EXIT_WRONG = 2  # what was asked for is wrong
_MOST_PROBLEMS = 20  # told at once


def complete_system(incomplete: str) -> list[str]:
    """Systems that begin so."""
    from vla_ros import config

    return [name for name in config.names() if name.startswith(incomplete)]


def complete_policy(incomplete: str) -> list[str]:
    """Policies that begin so."""
    from vla_ros.policies import registry

    return [name for name in registry.names() if name.startswith(incomplete)]


def complete_robot(incomplete: str) -> list[str]:
    """Arms that begin so."""
    from vla_ros.robots import catalogue

    return [name for name in catalogue.ROBOTS if name.startswith(incomplete)]


System = Annotated[
    str,
    typer.Argument(help="A system by name, as franka_upvla, or the path of its .yaml.", autocompletion=complete_system),
]
Simulate = Annotated[
    bool | None,
    typer.Option(
        "--sim/--no-sim", help="In simulation or on the real robot; otherwise as the system says.", show_default=False
    ),
]


def load_system(name: str, **overrides: str) -> SystemConfig:
    """The system `name` with what the command line changes; raises ConfigError."""
    from vla_ros import config
    from vla_ros.policies import registry

    chosen = config.override(config.load(name, registry.names()), policies=registry.names(), **overrides)
    entry = registry.POLICIES[chosen.policy.name]
    if entry.needs_checkpoint and not chosen.policy.checkpoint:
        raise config.ConfigError([f"policy.checkpoint: missing; policy {chosen.policy.name} has weights, say where"])
    return chosen


def build_graph(system: SystemConfig, simulate: bool | None = None, seed: int = 0, dry_run: bool = False) -> Graph:
    """The checked graph of a system, as `graph.build`; raises ConfigError."""
    from vla_ros import graph
    from vla_ros.config import ConfigError

    built = graph.build(system, simulate=simulate, seed=seed, dry_run=dry_run)
    problems = graph.check(built)
    if problems:
        raise ConfigError(problems)
    return built


def obstacle(path: Path) -> str:
    """What is in the way of a new file at `path`; empty when nothing is."""
    nearest = next(folder for folder in path.absolute().parents if folder.exists())
    if not nearest.is_dir():
        return f"{nearest} is no folder"
    if not os.access(nearest, os.W_OK):
        return f"{nearest} is protected"
    return "it is a folder" if path.is_dir() else ""


def refuse(*problems: str) -> NoReturn:
    """Say what is wrong with what was asked for, and exit with 2."""
    for problem in problems[:_MOST_PROBLEMS]:
        typer.echo(f"error: {problem}", err=True)
    if len(problems) > _MOST_PROBLEMS:
        typer.echo(f"error: and {len(problems) - _MOST_PROBLEMS} more", err=True)
    raise typer.Exit(EXIT_WRONG)


@contextmanager
def clear_errors() -> Iterator[None]:
    """What a user can do something about is said in a line or two, with an exit code; the rest keeps its traceback."""
    from vla_ros.config import ConfigError

    try:
        yield
    except typer.Exit:  # a RuntimeError by birth
        raise
    except ConfigError as error:
        refuse(*error.problems)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("rclpy", "rpyutils"):
            raise
        typer.echo(
            "error: ROS 2 is not to be found here (no module rclpy). Source an installation "
            "(. /opt/ros/<distro>/setup.bash), or let `make setup` put it into .venv.",
            err=True,
        )
        raise typer.Exit(EXIT_FAILED) from None
    except (RuntimeError, OSError) as error:  # a node died, or does not answer; a file cannot be written
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(EXIT_FAILED) from None


@contextmanager
def dataset_errors() -> Iterator[None]:
    """What is wrong with a dataset is said in a line, with exit code 1."""
    from vla_ros.recording.files import DatasetError

    try:
        yield
    except DatasetError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(EXIT_FAILED) from None


@contextmanager
def checkpoint_errors() -> Iterator[None]:
    """What is wrong with a checkpoint is said in a line per problem, with exit code 1."""
    from vla_ros.checkpoints.files import CheckpointError

    try:
        yield
    except CheckpointError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(EXIT_FAILED) from None


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on the terminal, for what takes long; called with what is being done, how much is done, and of how much."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        tasks = {}

        def say(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield say


def episodes_bar(console: Console) -> Progress:
    """A bar that counts episodes and says how long those to come will take, below what is printed on `console`."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console)


@contextmanager
def nodes_for_episodes(system: SystemConfig, graph: Graph, count: int, log_file: Path) -> Iterator[Progress]:
    """The nodes of a graph, alone in a ROS domain of their own, their log in a file; gives the bar of the episodes."""
    from rich.console import Console

    from vla_ros.ros import transport
    from vla_ros.ros.supervising import Supervisor

    console = Console()
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with transport.locked_domain_id() as domain_id, log_file.open("w", encoding="utf-8", buffering=1) as log:
        os.environ.update(environment := transport.local_environment(os.environ, domain_id))
        console.print(f"{system.title}; episodes: {count}; ROS_DOMAIN_ID {domain_id}", highlight=False)
        console.print(f"nodes' log {log_file}", highlight=False, soft_wrap=True)
        nodes = Supervisor(
            graph,
            environment,
            log=lambda name, line: print(f"[{name}] {line}", file=log),
            tell=lambda text: console.print(text, highlight=False, markup=False),
        )
        with nodes, episodes_bar(console) as bar:
            bar.add_task(system.policy.name, total=count)
            yield bar
