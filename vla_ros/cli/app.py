"""vla-ros: every command of the line, each in its own file; a command imports what it needs when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from vla_ros.cli import calibrate, checkpoint, dataset, train
from vla_ros.cli.ask import ask
from vla_ros.cli.check import check
from vla_ros.cli.common import PlainHelp
from vla_ros.cli.convert import convert
from vla_ros.cli.doctor import doctor
from vla_ros.cli.evaluate import evaluate
from vla_ros.cli.graph import graph
from vla_ros.cli.record import record
from vla_ros.cli.replay import replay
from vla_ros.cli.run import run
from vla_ros.cli.scenes import scenes

app = typer.Typer(
    name="vla-ros",
    help="Vision-language-action models on real arms, through ROS 2.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in (run, ask, record, replay, scenes, evaluate, convert, graph, check, doctor):
    app.command()(command)
app.add_typer(calibrate.app, name="calibrate")
app.add_typer(dataset.app, name="dataset")
app.add_typer(checkpoint.app, name="checkpoint")
app.add_typer(train.app, name="train")
for group in (app, calibrate.app, dataset.app, checkpoint.app, train.app):
    for known in group.registered_commands:
        known.cls = PlainHelp


def main() -> None:
    """Entry point of `vla-ros`."""
    app(prog_name="vla-ros")


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
