"""vla-ros check: every error of a system's file at once."""

from __future__ import annotations

from typing import Annotated

import typer

from vla_ros.cli.common import build_graph, complete_system, load_system, refuse


def check(
    systems: Annotated[list[str], typer.Argument(help="Systems by name or path.", autocompletion=complete_system)],
) -> None:
    """Check systems: every error at once, with file, line and field."""
    from vla_ros.config import ConfigError

    problems: list[str] = []
    for name in systems:
        try:
            chosen = load_system(name)
            nodes = ", ".join(node.name for node in build_graph(chosen).nodes)
            typer.echo(
                f"{name}: fine ({chosen.title}; robot {chosen.robot}, policy {chosen.policy.name}; nodes {nodes})"
            )
        except ConfigError as error:
            problems += error.problems
    if problems:
        refuse(*problems)
