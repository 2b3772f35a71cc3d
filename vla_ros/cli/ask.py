"""vla-ros ask: a question about what the running policy sees, answered in words."""

from __future__ import annotations

from typing import Annotated

import typer

from vla_ros.cli.common import clear_errors


def ask(
    question: Annotated[str, typer.Argument(help='For example "where is the red cube?".')],
    timeout: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="How long to wait for the answer.")] = 60.0,
) -> None:
    """Ask the running policy about what its cameras see."""
    with clear_errors():
        from vla_ros.ros.asking import ask as ask_policy

        typer.echo(ask_policy(question, timeout))
