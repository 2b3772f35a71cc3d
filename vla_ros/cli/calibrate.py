"""vla-ros calibrate: what has to be measured on each robot, one command each."""

from __future__ import annotations

import typer

from vla_ros.cli.calibrate_hand_eye import board, hand_eye
from vla_ros.cli.calibrate_latency import latency

app = typer.Typer(help="Measure what differs from robot to robot, by moving the arm a little.", no_args_is_help=True)
for command in (latency, hand_eye, board):
    app.command()(command)


@app.callback()
def _options() -> None:
    """What stands before the command; without it a single command would not need its name."""
