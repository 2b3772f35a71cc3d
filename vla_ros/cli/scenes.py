"""vla-ros scenes: pictures of simulated scenes with what is in them, for a model to learn to see by."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vla_ros.cli.common import (
    System,
    clear_errors,
    command_again,
    interrupted,
    load_system,
    obstacle,
    progress,
    refuse,
)


def scenes(
    context: typer.Context,
    system: System,
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder.", show_default=False)],
    count: Annotated[int, typer.Option(min=1, help="Number of scenes.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the first scene; far from those of episodes.")] = 100_000,
) -> None:
    """Render scenes of a simulated system, and describe them: as conversations in LLaVA's format, and as measurements.

    Most have the arm at random above the cubes; one of five is a moment of the scripted expert at its tasks.
    """
    with clear_errors():
        from vla_ros.models.up_vla import DESCRIBE
        from vla_ros.robots import catalogue
        from vla_ros.rollout import scenes as made

        chosen = load_system(system)
        if chosen.world is None:
            refuse("scenes needs a simulated world, but the system has no section simulation")
        if out.exists() or (problem := obstacle(out)):
            refuse(f"{out}: already exists; give a new folder" if out.exists() else f"{out}: {problem}")
        robot = catalogue.find(chosen.robot)
        try:
            found = made.scenes(robot, chosen.world, tuple(chosen.cameras), chosen.controller, count, seed)
            with progress() as show:
                show("scenes", 0, count)
                written = made.write(found, out, DESCRIBE, lambda done: show("scenes", done, count))
        except ValueError as error:
            refuse(str(error))
        typer.echo(f"{written} scenes: {out / made.CONVERSATIONS}, {out / made.MEASURES}")
        if written < count:
            other = out.with_name(f"{out.name}-{seed + written}")
            rest = command_again(context, out=other, count=count - written, seed=seed + written)
            interrupted(f"{written} of {count} scenes are kept and can be used for training", f"to continue: {rest}")
