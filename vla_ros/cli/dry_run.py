"""What `vla-ros run --dry-run` does: everything but the last publish, and a picture of what would have been sent."""

from __future__ import annotations

import importlib.util
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vla_ros.cli.common import obstacle, refuse

if TYPE_CHECKING:
    from vla_ros.config import SystemConfig
    from vla_ros.graph import Graph
    from vla_ros.ros.watching import CommandWatcher

_WHAT_IT_DOES = """\
dry run: all of it runs, but nothing is sent to the arm or its gripper, and a reflex is not recovered
what would have been sent is drawn at the end, the last 10 minutes of it; end it with Ctrl-C"""
_NOTE = "the arm did not move, so each chunk begins at its pose, and the command restarts with each chunk"


def run_dry(system: SystemConfig, graph: Graph, for_s: float) -> None:
    """Run until Ctrl-C, or until commands have come for `for_s`; then draw them into runs/<time>/commands.png."""
    from vla_ros.ros import operating, transport
    from vla_ros.ros.supervising import Supervisor
    from vla_ros.ros.watching import CommandWatcher

    picture = Path("runs") / time.strftime("%Y%m%d-%H%M%S") / "commands.png"
    if why := obstacle(picture):
        refuse(f"{picture}: cannot be written: {why}")
    if importlib.util.find_spec("matplotlib") is None:
        refuse("--dry-run draws what would have been sent, and needs matplotlib: pip install 'vla_ros[sim]'")
    typer.echo(_WHAT_IT_DOES)
    with operating.context() as context:
        watcher = CommandWatcher(system, context)
        try:
            with Supervisor(graph, transport.environment(os.environ)):
                watcher.watch(for_s)
        except KeyboardInterrupt:
            typer.echo("stopping", err=True)
        finally:
            draw(watcher, f"{system.title}: dry run, nothing was sent to the arm", picture)
            watcher.destroy_node()


def draw(watcher: CommandWatcher, title: str, picture: Path) -> None:
    """Draw what was watched, and say where; or that there was nothing."""
    from vla_ros.viewing import commands

    try:
        typer.echo(f"commands   {commands.render(watcher.trace(title, _NOTE), picture)}")
    except ValueError as error:
        typer.echo(f"commands   none: {error}")
