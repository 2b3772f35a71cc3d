"""vla-ros calibrate latency: how late cameras, arm and gripper are, measured and written into the system's file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vla_ros.cli.common import EXIT_FAILED, Simulate, System, clear_errors, console, obstacle, refuse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vla_ros.calibration.latency import Delay, Recording, Unmeasurable
    from vla_ros.config import SystemConfig
    from vla_ros.ros.calibrating_latency import Plan


def latency(
    system: System,
    sim: Simulate = None,
    joint: Annotated[int, typer.Option(min=1, help="Number of the joint to move, from the base.")] = 1,
    amplitude: Annotated[float, typer.Option(min=0.02, max=0.2, help="How far it moves to either side [rad].")] = 0.08,
    duration: Annotated[float, typer.Option(min=4.0, max=60.0, help="How long it moves [s].")] = 8.0,
    strokes: Annotated[int, typer.Option(min=0, max=20, help="How often the gripper closes and opens.")] = 3,
    write: Annotated[bool, typer.Option("--write", help="Write the results into the system's file.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before a real arm moves.")] = False,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Plot the compared signals.")] = None,
    filmed_stamp: Annotated[
        bool, typer.Option("--filmed-stamp", help="Real cameras only: they film a clock on this screen.")
    ] = False,
) -> None:
    """Measure how late cameras, arm and gripper are, by moving the arm a little.

    Cameras: a joint sways, and what each camera sees must fit where the arm was measured to be. Arm: by how much the
    measured joint follows its command. Gripper: from a goal to the first motion. Nothing else may command the arm.
    With --filmed-stamp nothing moves: this screen shows the time, and the cameras look at it.
    """
    with clear_errors():
        from vla_ros import config
        from vla_ros.calibration.latency import measure
        from vla_ros.calibration.motion import Sway
        from vla_ros.robots import catalogue
        from vla_ros.ros.calibrating_latency import Plan

        chosen = config.load(system)
        if filmed_stamp:
            if sim or plot:
                refuse("--filmed-stamp: a simulated camera sees no screen, and there is nothing to plot")
            measured = _film(chosen, duration)
            _show(chosen, measured, "filmed stamp, with the screen's own delay")
            _finish(system, measured, write)
            return
        joints = catalogue.find(chosen.robot).joint_names
        if joint > len(joints):
            refuse(f"--joint: {chosen.robot} has {len(joints)} joints (given {joint})")
        if plot and (plot.suffix != ".png" or obstacle(plot)):
            refuse(f"--plot: {plot} {obstacle(plot) or 'should end in .png'}")
        sway = Sway(amplitude_rad=amplitude, duration_s=duration)
        recording = _record(chosen, sim, Plan(joint - 1, sway, strokes), yes)
        measured = measure(recording)
        _show(chosen, measured, "image against joint")
        if plot:
            _draw(recording, measured, plot)
        _finish(system, measured, write)


def _film(system: SystemConfig, duration_s: float) -> dict[str, Delay | Unmeasurable]:
    from vla_ros.ros.filming_stamp import film
    from vla_ros.viewing.window import Window

    with Window(f"{system.title}: the time") as window:
        return film(system, duration_s, window.draw)


def _record(system: SystemConfig, sim: bool | None, plan: Plan, yes: bool) -> Recording:
    """What was seen while the arm moved; refuses where a person does not want it to move."""
    from vla_ros.graph import build_without_policy
    from vla_ros.ros import transport
    from vla_ros.ros.calibrating_latency import record
    from vla_ros.ros.supervising import Supervisor

    graph = build_without_policy(system, simulate=sim)
    simulates = graph.is_simulated

    def confirm(intention: str) -> bool:
        typer.echo(intention)
        return simulates or yes or typer.confirm("Is there room for that, and nothing between the fingers?")

    def run(environment: Mapping[str, str]) -> Recording | None:
        os.environ.update(environment)
        with Supervisor(graph, environment, lambda name, line: None):  # who dies is quoted
            return record(system, simulate=simulates, plan=plan, confirm=confirm, on_progress=typer.echo)

    transport.remove_dead_segments()
    if simulates:
        with transport.locked_domain_id() as domain_id:
            recording = run(transport.local_environment(os.environ, domain_id))
    else:
        recording = run(transport.environment(os.environ))
    if recording is None:
        typer.echo("nothing was moved", err=True)
        raise typer.Exit(EXIT_FAILED)
    return recording


def _show(system: SystemConfig, measured: Mapping[str, Delay | Unmeasurable], camera_how: str) -> None:
    """A table of what was measured, beside what the file says."""
    from rich.table import Table

    from vla_ros.calibration.latency import ACTUATION_KEY, GRIPPER_KEY, Delay, camera_key

    known = {
        camera_key(name): (f"camera {name}", camera.latency_ms, camera_how) for name, camera in system.cameras.items()
    }
    schedule, gripper = system.controller.schedule, system.controller.gripper
    known[ACTUATION_KEY] = ("arm", schedule.actuation_latency_ms, "joint against command")
    known[GRIPPER_KEY] = ("gripper", gripper.latency_ms, "goal to first motion")
    table = Table(title=f"{system.title}: latencies in ms", title_justify="left")
    table.add_column("of")
    for heading in ("measured", "spread", "in the file"):
        table.add_column(heading, justify="right")
    table.add_column("how")
    for key, delay in measured.items():
        name, in_file_ms, how = known[key]
        found = (f"{delay.delay_ms:.1f}", f"{delay.spread_ms:.1f}") if isinstance(delay, Delay) else ("none", "")
        table.add_row(name, *found, f"{in_file_ms:.1f}", how)
    console().print(table)


def _draw(recording: Recording, measured: Mapping[str, Delay | Unmeasurable], file: Path) -> None:
    from vla_ros.viewing.delays import render

    try:
        typer.echo(f"plot       {render(recording, measured, file)}")
    except ModuleNotFoundError as error:
        typer.echo(f"plot       none: {error}")


def _finish(name: str, measured: Mapping[str, Delay | Unmeasurable], write: bool) -> None:
    """Write what could be measured, and say what could not."""
    from vla_ros import config
    from vla_ros.calibration.latency import Delay
    from vla_ros.config.editing import set_values

    found = {key: round(delay.delay_ms, 1) for key, delay in measured.items() if isinstance(delay, Delay)}
    if write and found:
        file = config.find(name)
        set_values(file, found)
        typer.echo(f"written    {', '.join(found)} in {file}")
    problems = [f"{key}: {delay}" for key, delay in measured.items() if not isinstance(delay, Delay)]
    for problem in problems:
        typer.echo(f"error: {problem}", err=True)
    if problems:
        raise typer.Exit(EXIT_FAILED)
