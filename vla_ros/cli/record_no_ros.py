"""vla-ros record --no-ros: scripted demonstrations in process, with progress and a table of what came of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vla_ros.cli.common import console, episode_line, obstacle, progress, refuse

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from vla_ros.config import SystemConfig
    from vla_ros.rollout.demonstrations import Demonstration, DemonstrationConfig, Setup, Summary


def run_no_ros(
    system: SystemConfig,
    destination: Path,
    *,
    episodes: int,
    seed: int = 0,
    resume: bool = False,
    tasks: Sequence[str] = (),
    noise: float = 1.0,
    mishaps: float = 0.1,
    keeps_failures: bool = False,
) -> Summary:
    """Record demonstrations of `system` and say what came of them; exits with 2 for what is wrong with what was asked.

    `tasks`: groups or instructions, none = the system's instruction, or else all; `noise`: how large the held offsets
    are, 1 = as `NoiseConfig` has them, 0 = none. Raises DatasetError (a ValueError) and RuntimeError.
    """
    from vla_ros.rollout.demonstrations import record_demonstrations

    setup = _setup(system)
    config = _config(
        tasks or (setup.world.instruction,) * bool(setup.world.instruction), noise, mishaps, keeps_failures
    )
    if (why := obstacle(destination)) and not destination.is_dir():
        refuse(f"{destination}: cannot be created: {why}")
    out, kept = console(), 0
    out.print(f"{system.title}; scripted demonstrations: {episodes}; without ROS")
    with progress() as show:
        show("recorded", 0, episodes)

        def on_progress(demonstration: Demonstration) -> None:
            nonlocal kept
            kept += demonstration.is_kept
            show.print(_line(demonstration))
            show("recorded", kept, episodes, demonstration.instruction)

        summary = record_demonstrations(setup, destination, episodes, seed, config, on_progress, resume=resume)
    out.print(_table(summary))
    out.print(f"dataset    {destination}", soft_wrap=True)
    return summary


def _setup(system: SystemConfig) -> Setup:
    from vla_ros.robots import catalogue
    from vla_ros.rollout.demonstrations import SOURCE, Setup

    if system.world is None:
        refuse("--no-ros needs a simulated world, but the system has no section simulation")
    if system.policy.name != SOURCE:
        refuse(f"--no-ros records the policy {SOURCE}, but the system has {system.policy.name}; give --policy {SOURCE}")
    return Setup(
        robot=catalogue.find(system.robot),
        world=system.world,
        cameras=tuple(system.cameras),
        arm=system.controller,
        recording=system.recording,
        inference_hz=system.inference.max_rate_hz,
        system=system.model_dump(mode="json"),
    )


def _config(tasks: Sequence[str], noise: float, mishaps: float, keeps_failures: bool) -> DemonstrationConfig:
    from pydantic import ValidationError

    from vla_ros.rollout.demonstrations import DemonstrationConfig
    from vla_ros.rollout.disturbances import NoiseConfig
    from vla_ros.values import problems_of

    usual = NoiseConfig()
    try:
        offsets = NoiseConfig(position_m=usual.position_m * noise, rotation_deg=usual.rotation_deg * noise)
        return DemonstrationConfig(tasks=tuple(tasks), noise=offsets, mishaps=mishaps, keeps_failures=keeps_failures)
    except ValidationError as error:
        refuse(*problems_of(error))


def _line(demonstration: Demonstration) -> Text:
    said = "" if demonstration.success and demonstration.is_kept else f"  ({demonstration.ended})"
    mishap = demonstration.details.get("mishap")
    rest = f"{demonstration.duration_s:5.1f} s  {demonstration.instruction}{f', {mishap}' if mishap else ''}{said}"
    return episode_line(demonstration.seed, demonstration.success, rest)


def _table(summary: Summary) -> Table:
    from rich.table import Table

    table = Table(
        title=f"{len(summary.kept)} episodes kept of {len(summary.tries)}; {summary.success_rate:.0%} succeeded",
        title_justify="left",
    )
    table.add_column("recorded")
    table.add_column("value", justify="right")
    table.add_row("rows", str(sum(one.rows for one in summary.kept)))
    table.add_row("duration", f"{sum(one.duration_s for one in summary.kept):.1f} s")
    table.add_row("episodes per minute", f"{summary.per_minute:.1f}")
    for instruction, times in sorted(Counter(one.instruction for one in summary.kept).items()):
        table.add_row(instruction, str(times))
    for mishap, times in sorted(Counter(str(one.details["mishap"]) for one in summary.kept if one.details).items()):
        table.add_row(f"injected failure: {mishap}", str(times))
    return table
