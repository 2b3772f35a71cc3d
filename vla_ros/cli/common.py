"""What the commands share: arguments and their completion, systems and graphs, how they say no."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from vla_ros.config import SystemConfig
    from vla_ros.graph import Graph
    from vla_ros.viewing.progress import Progress

EXIT_FAILED = 1  # it ran, or tried to, and did not come to a good end
EXIT_WRONG = 2  # what was asked for is wrong
EXIT_INTERRUPTED = 130  # by Ctrl-C, as a shell has it
_MOST_PROBLEMS = 20  # told at once


class PlainHelp(TyperCommand):
    """A command whose help is shown as it is written: Rich takes a unit in brackets for a style, and drops it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        helped: list[Any] = [self, *self.params]
        for one in helped:
            if text := getattr(one, "help", None):
                one.help = text.replace("[", r"\[")


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
    typer.Argument(help="A system's name, such as franka_upvla, or its .yaml file.", autocompletion=complete_system),
]
Simulate = Annotated[
    bool | None,
    typer.Option(
        "--sim/--no-sim", help="In simulation or on the real robot; default: the system's.", show_default=False
    ),
]


def load_system(name: str, **overrides: str) -> SystemConfig:
    """The system `name` with what the command line changes; raises ConfigError."""
    from vla_ros import config
    from vla_ros.policies import registry

    chosen = config.override(config.load(name, registry.names()), policies=registry.names(), **overrides)
    if not chosen.policy.checkpoint and (problems := registry.problems(chosen.policy.name, "")):
        raise config.ConfigError(problems)
    return chosen


def check_policy(system: SystemConfig) -> SystemConfig:
    """The system, whose checkpoint fits it as far as its manifest tells; raises ConfigError with all that does not."""
    from vla_ros.config import ConfigError
    from vla_ros.policies import registry
    from vla_ros.robots import catalogue

    world = system.simulation
    problems = registry.problems(system.policy.name, system.policy.checkpoint)
    if problems:
        raise ConfigError(problems)
    problems = registry.misfits(
        system.policy.name,
        robot=catalogue.find(system.robot),
        checkpoint=system.policy.checkpoint,
        cameras={name: (camera.width, camera.height) for name, camera in system.cameras.items()},
        instruction=(world.instruction if world else "") or system.instruction,
        action=system.action,
    )
    if problems:
        raise ConfigError([f"policy.checkpoint: {problem}" for problem in problems])
    return system


def build_graph(
    system: SystemConfig, simulate: bool | None = None, seed: int = 0, dry_run: bool = False, by_hand: bool = False
) -> Graph:
    """The checked graph of a system, as `graph.build`; raises ConfigError."""
    from vla_ros import graph
    from vla_ros.config import ConfigError

    built = graph.build(system, simulate=simulate, seed=seed, dry_run=dry_run, by_hand=by_hand)
    problems = graph.check(built)
    if problems:
        raise ConfigError(problems)
    return built


def obstacle(path: Path) -> str:
    """What is in the way of a new file at `path`; empty when nothing is."""
    nearest = next(folder for folder in path.absolute().parents if folder.exists())
    if not nearest.is_dir():
        return f"{nearest} is not a folder"
    if not os.access(nearest, os.W_OK):
        return f"{nearest} is not writable"
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
    except KeyboardInterrupt:  # of a command that keeps nothing by halves
        interrupted()
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


def console() -> Console:
    """The standard output, for results: what stands in brackets is text, as a unit or a name, and never a style."""
    from rich.console import Console

    return Console(highlight=False, markup=False)


def verdict(success: bool, good: str = "success", bad: str = "failure") -> Text:
    """How something ended, in its colour."""
    from rich.text import Text

    return Text(good, "green") if success else Text(bad, "red")


def episode_line(seed: int, success: bool, rest: str) -> Text:
    """One episode in the list of those that were run."""
    from rich.text import Text

    return Text.assemble(f"  seed {seed:<6} ", verdict(success), f"  {rest}")


def progress() -> Progress:
    """Bars on the terminal, or lines; see `Progress`."""
    from vla_ros.viewing.progress import Progress

    return Progress()


def interrupted(*lines: str) -> NoReturn:
    """Say what was kept when the user pressed Ctrl-C, and how to continue; exit with 130."""
    for line in ("interrupted", *lines):
        typer.echo(line, err=True)
    raise typer.Exit(EXIT_INTERRUPTED)


def command_again(context: typer.Context, **changes: Any) -> str:
    """The command as it was typed, with other values of some options; None leaves an option out."""
    words = [context.command_path]
    for parameter in context.command.params:
        name = parameter.name or ""
        is_given = getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
        value = changes[name] if name in changes else context.params[name] if is_given else None
        if value is None:
            continue
        for one in value if isinstance(value, (list, tuple)) else (value,):
            if parameter.param_type_name == "argument":
                words.append(shlex.quote(str(one)))
            elif isinstance(one, bool):
                words.append(max([*parameter.opts] if one else [*parameter.secondary_opts], key=len))
            else:
                words += [max(parameter.opts, key=len), shlex.quote(str(one))]
    return " ".join(words)


@contextmanager
def nodes_for_episodes(system: SystemConfig, graph: Graph, count: int, log_file: Path) -> Iterator[Progress]:
    """The nodes of a graph, alone in a ROS domain of their own, their log in a file; gives the bar of the episodes."""
    from vla_ros.ros import transport
    from vla_ros.ros.supervising import Supervisor

    log_file.parent.mkdir(parents=True, exist_ok=True)
    with transport.locked_domain_id() as domain_id, log_file.open("w", encoding="utf-8", buffering=1) as log:
        os.environ.update(environment := transport.local_environment(os.environ, domain_id))
        with progress() as show:
            show.print(f"{system.title}; episodes: {count}; ROS_DOMAIN_ID {domain_id}")
            show.print(f"nodes' log {log_file}")
            nodes = Supervisor(
                graph,
                environment,
                log=lambda name, line: print(f"[{name}] {line}", file=log),
                tell=show.print,
            )
            with nodes:
                show(system.policy.name, 0, count, "starting the nodes")
                yield show
