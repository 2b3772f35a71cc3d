"""vla-ros check: every error of a system's file at once."""

from __future__ import annotations

from typing import Annotated

import typer

from vla_ros.cli.common import build_graph, check_policy, complete_policy, complete_system, load_system, refuse


def check(
    systems: Annotated[list[str], typer.Argument(help="Systems by name or path.", autocompletion=complete_system)],
    policy: Annotated[
        str, typer.Option(help="Use this policy, not the system's.", autocompletion=complete_policy)
    ] = "",
    checkpoint: Annotated[str, typer.Option(metavar="DIR", help="Check whether these weights fit the system.")] = "",
    instruction: Annotated[str, typer.Option(help="Check whether the policy can follow this task.")] = "",
) -> None:
    """Check systems: list every error with file, line and field, and whether a policy's weights fit."""
    from vla_ros.config import ConfigError

    problems: list[str] = []
    for name in systems:
        try:
            chosen = check_policy(load_system(name, policy=policy, checkpoint=checkpoint, instruction=instruction))
            nodes = ", ".join(node.name for node in build_graph(chosen).nodes)
            typer.echo(
                f"{name}: fine ({chosen.title}; robot {chosen.robot}, policy {chosen.policy.name}; nodes {nodes})"
            )
        except ConfigError as error:
            problems += error.problems
    if problems:
        refuse(*problems)
