"""vla-ros dataset: show, check, repair and compact what was recorded."""

from __future__ import annotations

import typer

app = typer.Typer(help="Look at recorded datasets; check, repair and compact them.", no_args_is_help=True)


@app.callback()
def _options() -> None:
    """What stands before the command."""
