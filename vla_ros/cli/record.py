"""vla-ros record: episodes into a LeRobot dataset, led by a person's keys or by themselves in simulation."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from vla_ros.cli.common import (
    EXIT_FAILED,
    Simulate,
    System,
    build_graph,
    check_policy,
    clear_errors,
    command_again,
    complete_policy,
    console,
    interrupted,
    load_system,
    nodes_for_episodes,
    obstacle,
    refuse,
    verdict,
)

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from vla_ros.config import SystemConfig
    from vla_ros.graph import Graph


def record(
    context: typer.Context,
    system: System,
    dataset: Annotated[Path, typer.Option(metavar="DIR", help="A new folder, or with --resume a dataset.")],
    task: Annotated[str, typer.Option(help="The episodes' task in words; default: the instruction.")] = "",
    fps: Annotated[int, typer.Option(min=0, max=240, help="Rows per second; default: the system's.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Append to an existing dataset.")] = False,
    policy: Annotated[
        str, typer.Option(help="Use this policy, not the system's.", autocompletion=complete_policy)
    ] = "",
    checkpoint: Annotated[str, typer.Option(help="The policy's weights.")] = "",
    sim: Simulate = None,
    episodes: Annotated[int, typer.Option(min=0, help="Record this many simulated episodes, then stop.")] = 0,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the first simulated episode; default: 0, or after the dataset's.")
    ] = None,
    keep_failures: Annotated[
        bool, typer.Option("--keep-failures", help="Keep simulated episodes that failed; else they are replaced.")
    ] = False,
    no_ros: Annotated[
        bool, typer.Option("--no-ros", help="Scripted demonstrations in this process, without nodes.")
    ] = False,
    tasks: Annotated[
        list[str] | None, typer.Option(help="With --no-ros: lift, push left, push right, stack, or an instruction.")
    ] = None,
    noise: Annotated[
        float | None, typer.Option(min=0.0, max=1.5, help="With --no-ros: scale of the action noise; 1 = default.")
    ] = None,
    mishaps: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="With --no-ros: share of episodes with an injected failure.")
    ] = None,
) -> None:
    """Record episodes into a LeRobot dataset, by keys and services, or automatically in simulation."""
    with clear_errors():
        chosen = _with_rate(load_system(system, policy=policy, instruction=task, checkpoint=checkpoint), fps)
        _refuse_unless_fit(dataset, resume)
        disturbed = {name: value for name, value in (("noise", noise), ("mishaps", mishaps)) if value is not None}
        if no_ros:
            _demonstrate(context, chosen, dataset, episodes, seed or 0, resume, tasks or (), keep_failures, disturbed)
            return
        if tasks or disturbed:
            refuse("--tasks, --noise and --mishaps need --no-ros")
        chosen = check_policy(chosen).model_copy(update={"record": str(dataset)})
        first = (_seed_after(dataset) if resume and episodes else 0) if seed is None else seed
        graph = build_graph(chosen, sim, first, by_hand=not episodes)
        if not episodes:
            from vla_ros.cli.record_live import run_live

            if keep_failures or seed is not None:
                refuse("--keep-failures and --seed need --episodes")
            run_live(graph, task, graph.is_simulated)
        elif not graph.is_simulated:
            refuse("--episodes: only a simulation can be reset; leave it out to record by keys or services")
        else:
            _record_episodes(context, chosen, graph, dataset, episodes, first, keep_failures)


def _with_rate(system: SystemConfig, fps: int) -> SystemConfig:
    if not fps:
        return system
    return system.model_copy(update={"recording": system.recording.model_copy(update={"fps": fps})})


def _seed_after(dataset: Path) -> int:
    """The first seed after those of the dataset's episodes."""
    from vla_ros.recording.dataset import DatasetMeta
    from vla_ros.recording.files import DatasetError

    try:
        return max(DatasetMeta.load(dataset).seeds(), default=-1) + 1
    except DatasetError as error:
        refuse(f"--resume: {error}")


def _refuse_unless_fit(dataset: Path, resume: bool) -> None:
    """As the recorder would, but at once."""
    there = (dataset / "meta" / "info.json").is_file()
    if resume and not there:
        refuse(f"--resume: {dataset} contains no dataset to continue")
    if not resume and there:
        refuse(f"--dataset: {dataset} is already a dataset; --resume appends to it")
    if dataset.is_dir():
        if not there and any(entry.name not in (".recording", "meta") for entry in dataset.iterdir()):
            refuse(f"--dataset: {dataset} is not empty and not a dataset; give a new folder")
        if not os.access(dataset, os.W_OK):
            refuse(f"--dataset: {dataset} is not writable")
    elif why := "it is a file" if dataset.exists() else obstacle(dataset):
        refuse(f"--dataset: {dataset} cannot be made: {why}")


def _demonstrate(
    context: typer.Context,
    system: SystemConfig,
    dataset: Path,
    episodes: int,
    seed: int,
    resume: bool,
    tasks: Sequence[str],
    keeps_failures: bool,
    disturbed: Mapping[str, float],
) -> None:
    from vla_ros.cli.record_no_ros import run_no_ros
    from vla_ros.recording.files import DatasetError

    if not episodes:
        refuse("--no-ros needs --episodes")
    try:
        summary = run_no_ros(
            system,
            dataset,
            episodes=episodes,
            seed=seed,
            resume=resume,
            tasks=tasks,
            keeps_failures=keeps_failures,
            **disturbed,
        )
    except DatasetError as error:
        refuse(str(error))
    if summary.is_interrupted:
        _interrupted(context, len(summary.kept), episodes)


def _interrupted(context: typer.Context, kept: int, wanted: int) -> NoReturn:
    """Say what was kept, and exit."""
    rest = command_again(context, resume=True, episodes=wanted - kept, seed=None)
    interrupted(f"{kept} of {wanted} episodes are kept", *([f"to continue: {rest}"] if 0 < kept < wanted else []))


# --- in simulation, over ROS ----------------------------------------------------------------------------------------


def _record_episodes(
    context: typer.Context,
    system: SystemConfig,
    graph: Graph,
    dataset: Path,
    count: int,
    seed: int,
    keeps_failures: bool,
) -> None:
    """Record with progress and show what came of it; exits with 1 where too few episodes could be kept."""
    from vla_ros.ros.recording_episodes import RecordedEpisode, record_episodes

    log_file = Path("runs") / time.strftime("%Y%m%d-%H%M%S") / "nodes.log"
    tries: list[RecordedEpisode] = []
    is_interrupted = False
    try:
        with nodes_for_episodes(system, graph, count, log_file) as show:

            def on_episode(one: RecordedEpisode) -> None:
                tries.append(one)
                why = one.said if one.row.success else f"{one.row.ended}; {one.said}"
                show.print(_line(one.row.seed, one.is_saved, f"{one.row.instruction}  ({why})"))

            record_episodes(
                system, count, seed, keeps_failures, on_episode, lambda done, note: show("recorded", done, count, note)
            )
    except KeyboardInterrupt:
        is_interrupted = True
    kept = sum(one.is_saved for one in tries)
    failed = sum(not one.row.success for one in tries)
    out = console()
    out.print(_table(len(tries), kept, failed))
    out.print(f"dataset    {dataset}", soft_wrap=True)
    if is_interrupted:
        _interrupted(context, kept, count)
    if kept < count:
        raise typer.Exit(EXIT_FAILED)


# --- what is shown --------------------------------------------------------------------------------------------------


def _line(seed: int, is_kept: bool, rest: str) -> Text:
    from rich.text import Text

    return Text.assemble(f"  seed {seed:<6} ", verdict(is_kept, "kept   ", "dropped"), f"  {rest}")


def _table(tries: int, kept: int, failed: int) -> Table:
    from rich.table import Table

    table = Table("recorded", "episodes", title_justify="left")
    table.add_row("kept", str(kept))
    table.add_row("dropped", str(tries - kept))
    table.add_row("of all, failed", str(failed))
    return table
