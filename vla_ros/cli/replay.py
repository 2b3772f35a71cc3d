"""vla-ros replay: recorded episodes on the simulated robot, with the tracking error."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vla_ros.cli.common import (
    EXIT_FAILED,
    System,
    clear_errors,
    command_again,
    console,
    interrupted,
    load_system,
    obstacle,
    progress,
    refuse,
    verdict,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table

    from vla_ros.config import SystemConfig
    from vla_ros.rollout.replaying import Recorded, Replayed


def replay(
    context: typer.Context,
    system: System,
    dataset: Annotated[Path, typer.Argument(help="A LeRobot dataset that was recorded in simulation.")],
    episode: Annotated[
        list[int] | None, typer.Option("--episode", min=0, help="May be given more than once; default: all.")
    ] = None,
    column: Annotated[
        str, typer.Option(help="Column to send: command.sent (as executed) or action (the labels).")
    ] = "",
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="File of the report; default: in runs/<time>/.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="File of the plots, one per episode.")
    ] = None,
    require_successes: Annotated[int, typer.Option(min=0, help="Exit with 1 if fewer episodes succeed.")] = 0,
    ros: Annotated[
        bool, typer.Option("--ros/--no-ros", help="Through the nodes, in real time; or in this process, faster.")
    ] = False,
) -> None:
    """Send recorded actions to the simulated robot, in the recorded world, and report the tracking error."""
    with clear_errors():
        from vla_ros.recording.files import DatasetError

        chosen = load_system(system)
        files = _files(report, picture)
        try:
            recorded = _load(chosen, dataset, episode or [], column)
        except DatasetError as error:
            refuse(str(error))
        if _replay(context, chosen, recorded, ros, *files) < require_successes:
            raise typer.Exit(EXIT_FAILED)


def _files(report: Path | None, picture: Path | None) -> tuple[Path, Path]:
    """Where report and pictures go; refused before anything runs where they could not be written afterwards."""
    folder = report.parent if report else Path("runs") / time.strftime("%Y%m%d-%H%M%S")
    files = (report or folder / "replay.json", picture or folder / "replay.png")
    if files[1].suffix != ".png":
        refuse(f"--picture: {files[1]} should end in .png")
    problems = [f"{file}: cannot be written: {why}" for file in files if (why := obstacle(file))]
    if problems:
        refuse(*problems)
    return files


def _load(system: SystemConfig, dataset: Path, episodes: list[int], column: str) -> list[Recorded]:
    from vla_ros.recording.reader import DatasetReader
    from vla_ros.robots import catalogue
    from vla_ros.rollout.replaying import load

    if system.simulation is None:
        refuse("replay needs a simulated world, but the system has no section simulation")
    reader = DatasetReader(dataset, cameras=())
    robot = catalogue.find(system.robot)
    return [load(reader, number, robot, column) for number in episodes or range(len(reader.meta.episodes))]


def _replay(
    context: typer.Context, system: SystemConfig, recorded: list[Recorded], ros: bool, report: Path, picture: Path
) -> int:
    """Replay all with progress, write and show what came out; the number of successes."""
    from vla_ros.robots import catalogue
    from vla_ros.rollout.replaying import write_report
    from vla_ros.viewing import replay as drawing

    out, robot = console(), catalogue.find(system.robot)
    replay_one = _over_ros(system) if ros else _in_process(system)
    replayed: list[Replayed] = []
    is_interrupted = False
    try:
        with progress() as show:
            for wanted in recorded:
                show("replayed", len(replayed), len(recorded), wanted.task)
                replayed.append(replay_one(wanted))
    except KeyboardInterrupt:
        is_interrupted = True
    if replayed:
        write_report(replayed, report)
        out.print(_table(replayed))
        out.print(f"report     {report}", soft_wrap=True)
    for one in replayed:
        number = one.recorded.episode
        path = picture if len(recorded) == 1 else picture.with_stem(f"{picture.stem}-{number:06d}")
        title = f"episode {number}, {one.recorded.task}: {'success' if one.success else one.ended}"
        try:
            drawing.render(title, robot.joint_names, one.recorded.fps, one.recorded.measured, one.measured, path)
        except ModuleNotFoundError as error:
            out.print(f"picture    none: {error}", soft_wrap=True)
            break
        out.print(f"picture    {path}", soft_wrap=True)
    if is_interrupted:
        rest = command_again(
            context, episode=[one.episode for one in recorded[len(replayed) :]], report=None, picture=None
        )
        interrupted(
            f"the report has {len(replayed)} of {len(recorded)} episodes",
            *([f"to continue: {rest}"] if len(replayed) < len(recorded) else []),
        )
    return sum(one.success for one in replayed)


def _in_process(system: SystemConfig) -> Callable[[Recorded], Replayed]:
    from vla_ros.robots import catalogue
    from vla_ros.rollout.replaying import Replayer
    from vla_ros.simulation.tabletop import Tabletop

    robot = catalogue.find(system.robot)
    return Replayer(Tabletop(robot, system.simulation), robot, system.controller).replay


def _over_ros(system: SystemConfig) -> Callable[[Recorded], Replayed]:
    """Each episode with nodes of its own, whose world begins with its seed."""
    from vla_ros.graph import build_without_policy
    from vla_ros.ros import transport
    from vla_ros.ros.replaying import replay
    from vla_ros.ros.supervising import Supervisor

    def replay_one(recorded: Recorded) -> Replayed:
        assert system.simulation is not None
        simulation = system.simulation.model_copy(update={"instruction": recorded.task})
        chosen = system.model_copy(update={"simulation": simulation})
        graph = build_without_policy(chosen, simulate=True, seed=recorded.seed)
        with transport.locked_domain_id() as domain_id:
            os.environ.update(environment := transport.local_environment(os.environ, domain_id))
            with Supervisor(graph, environment, lambda name, line: None):  # who dies is quoted
                return replay(chosen, recorded)

    return replay_one


def _table(replayed: list[Replayed]) -> Table:
    from rich.table import Table

    table = Table(
        title=f"{sum(one.success for one in replayed)} of {len(replayed)} succeeded again", title_justify="left"
    )
    for name in ("episode", "task", "success"):
        table.add_column(name)
    for name in ("joints rms, max [mrad]", "TCP rms, max [mm]", "later by [ms]"):
        table.add_column(name, justify="right")
    for one in replayed:
        tracking = one.tracking
        table.add_row(
            str(one.recorded.episode),
            one.recorded.task,
            verdict(one.success, "yes", f"no ({one.ended})"),
            f"{1e3 * tracking.joint_rms_rad:.1f}, {1e3 * tracking.joint_max_rad:.1f}",
            f"{tracking.tcp_rms_mm:.1f}, {tracking.tcp_max_mm:.1f}",
            f"{tracking.shift_ms:+.0f}",
        )
    return table
