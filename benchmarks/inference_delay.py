"""How the scripted expert does when its chunks come late, with each way of joining them: success, time, splices."""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from vla_ros.control.arm import ArmConfig
from vla_ros.policies import registry
from vla_ros.policies.policy import Inference, Policy
from vla_ros.robots.panda import PANDA
from vla_ros.rollout.loop import Episode, Rollout, RolloutConfig
from vla_ros.simulation.tabletop import Tabletop
from vla_ros.simulation.tasks import COLORS
from vla_ros.timing.chunks import ScheduleConfig, ScheduleMode
from vla_ros.values import NANOSECONDS_PER_SECOND, Committed, Window

TASKS = {"lift": "lift the {color} cube", "stack": "stack the {color} cube on the {other} cube"}
#: Whether the policy is told what is committed, and goes on from there; most models can not.
POLICIES = ("told", "not told")
DELAYS_MS = (0, 100, 200, 300)
MODES = tuple(mode.value for mode in ScheduleMode)
AFTER_SPLICE_S = 0.2  # as long as the controller smooths a change of velocity
PLOT = Path(__file__).with_suffix(".png")


@dataclass(frozen=True)
class Setting:
    """What an episode is run with, but for its seed."""

    policy: str
    task: str
    delay_ms: int
    mode: str


@dataclass(frozen=True)
class Outcome:
    """What came of an episode.

    `acceleration_m_s2`, `jerk_m_s3`: the highest that is commanded of the hand around a splice, mean over the splices.
    """

    success: bool
    duration_s: float
    acceleration_m_s2: float
    jerk_m_s3: float


class NotTold:
    """The expert, but nobody tells it what is committed: it plans on from where the arm was when it looked."""

    def __init__(self, expert: Policy) -> None:
        self._expert = expert
        self.action_spec = expert.action_spec
        self.window_spec = expert.window_spec
        self.reset = expert.reset

    def infer(self, window: Window, committed: Committed) -> Inference:
        return self._expert.infer(window, Committed())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="episodes of each setting")
    parser.add_argument("--tasks", nargs="+", choices=tuple(TASKS), default=tuple(TASKS))
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=POLICIES[:1])
    parser.add_argument(
        "--delays-ms", nargs="+", type=int, default=DELAYS_MS, help="observation to the chunk's arrival"
    )
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--plot", type=Path, default=PLOT)
    arguments = parser.parse_args()
    settings = [
        Setting(*values)
        for values in itertools.product(arguments.policies, arguments.tasks, arguments.delays_ms, arguments.modes)
    ]
    outcomes = run_all(settings, arguments.seeds, arguments.processes)
    Console(width=120).print(table(outcomes))
    draw(outcomes, arguments.plot)
    print(f"drawn: {arguments.plot}")


# --- episodes ---------------------------------------------------------------------------------------------------------


def run_all(settings: Sequence[Setting], seeds: int, processes: int) -> dict[Setting, list[Outcome]]:
    outcomes: dict[Setting, list[Outcome]] = {setting: [] for setting in settings}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        asked = {
            pool.submit(run, setting, seed): setting for setting, seed in itertools.product(settings, range(seeds))
        }
        console = Console(stderr=True)
        for done in track(as_completed(asked), "episodes", total=len(asked), console=console):
            outcomes[asked[done]].append(done.result())
    return outcomes


def run(setting: Setting, seed: int) -> Outcome:
    color, other = COLORS[seed % 3], COLORS[(seed + 1 + seed // 3 % 2) % 3]
    return outcome(rollout(setting).run(seed, TASKS[setting.task].format(color=color, other=other)))


@functools.lru_cache(maxsize=4)
def rollout(setting: Setting) -> Rollout:
    expert = registry.load("scripted", robot=PANDA)
    policy = expert if setting.policy == "told" else NotTold(expert)
    arm = ArmConfig(schedule=ScheduleConfig(mode=ScheduleMode(setting.mode)))
    return Rollout(world(), PANDA, policy, arm, RolloutConfig(inference_delay_ms=setting.delay_ms))


@functools.lru_cache(maxsize=1)
def world() -> Tabletop:
    return Tabletop(PANDA)


def outcome(episode: Episode) -> Outcome:
    times_ns = np.array([command.time_ns for command in episode.commands])
    positions_m = np.array([command.tcp_pose[:3] for command in episode.commands])
    period_s = float(np.median(np.diff(times_ns))) / NANOSECONDS_PER_SECOND
    accelerations = np.linalg.norm(np.diff(positions_m, 2, axis=0), axis=1) / period_s**2
    jerks = np.linalg.norm(np.diff(positions_m, 3, axis=0), axis=1) / period_s**3
    splices = np.searchsorted(times_ns, episode.arrivals_ns[1:])  # the first chunk follows none
    around = [slice(max(0, splice - 1), splice + round(AFTER_SPLICE_S / period_s)) for splice in splices]
    return Outcome(
        episode.success,
        episode.row.duration_s,
        float(np.mean([accelerations[ticks].max(initial=0.0) for ticks in around])),
        float(np.mean([jerks[ticks].max(initial=0.0) for ticks in around])),
    )


# --- what is shown ----------------------------------------------------------------------------------------------------


def wilson(successes: int, episodes: int, z: float = 1.96) -> tuple[float, float]:
    """The interval (95 %) of a rate of success (Wilson 1927): holds near 0 and 1, and for few episodes."""
    rate = successes / episodes
    middle = (rate + z * z / (2 * episodes)) / (1 + z * z / episodes)
    half = z * math.sqrt(rate * (1 - rate) / episodes + (z / (2 * episodes)) ** 2) / (1 + z * z / episodes)
    return middle - half, middle + half


def table(outcomes: dict[Setting, list[Outcome]]) -> Table:
    shown = Table("policy", "task", "delay ms", "mode", "success", "95 %", "duration s", "m/s2", "m/s3", box=None)
    for setting, episodes in outcomes.items():
        successes = sum(one.success for one in episodes)
        low, high = wilson(successes, len(episodes))
        shown.add_row(
            setting.policy,
            setting.task,
            str(setting.delay_ms),
            setting.mode,
            f"{successes}/{len(episodes)}",
            f"{100 * low:.0f}-{100 * high:.0f}",
            f"{np.mean([one.duration_s for one in episodes]):.1f}",
            f"{np.mean([one.acceleration_m_s2 for one in episodes]):.2f}",
            f"{np.mean([one.jerk_m_s3 for one in episodes]):.0f}",
        )
    return shown


COLORS_OF_MODES = {"newest": "#c0392b", "blend": "#1f6fb2", "ensemble": "#2a8a4a"}
MARKERS = {"newest": "o", "blend": "s", "ensemble": "^"}
APART_MS = 6.0  # modes are drawn beside each other, so that equal ones can be seen


def draw(outcomes: dict[Setting, list[Outcome]], path: Path) -> None:
    """One column for each policy and task, one row for each of success, duration and acceleration at splices."""
    from matplotlib.figure import Figure

    columns = list(dict.fromkeys((setting.policy, setting.task) for setting in outcomes))
    figure = Figure(figsize=(4.0 * len(columns), 7.8), dpi=110, layout="constrained", facecolor="white")
    axes = figure.subplots(3, len(columns), sharex=True, sharey="row", squeeze=False)
    for column, (policy, task) in enumerate(columns):
        chosen = {key: value for key, value in outcomes.items() if (key.policy, key.task) == (policy, task)}
        for mode in dict.fromkeys(setting.mode for setting in chosen):
            draw_mode(axes[:, column], mode, {s.delay_ms: o for s, o in chosen.items() if s.mode == mode})
        count = len(next(iter(chosen.values())))
        axes[0, column].set_title(f"{task}, {policy} what is committed, n = {count}", size=10)
        axes[2, column].set_xlabel("inference delay [ms]")
    for row, label in enumerate(
        ("success [%], 95 % Wilson", "duration [s]", "hand's peak acceleration\nat splices [m/s²]")
    ):
        axes[row, 0].set_ylabel(label)
    axes[0, 0].set_ylim(-4, 104)
    for row in (1, 2):
        axes[row, 0].set_ylim(bottom=0)
    for one in axes.flat:
        one.grid(visible=True, color="#e6e8ee", linewidth=0.8)
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle("The scripted expert with late chunks", size=12, weight="bold")
    figure.savefig(path)


def draw_mode(axes: Any, mode: str, of_delay: dict[int, list[Outcome]]) -> None:
    """One line in each row of a column; bars: Wilson interval, else the standard error of the mean."""
    style = {"color": COLORS_OF_MODES[mode], "marker": MARKERS[mode], "markersize": 4, "linewidth": 1.4, "capsize": 2}
    delays_ms = np.array(list(of_delay)) + APART_MS * (MODES.index(mode) - 1)
    rates = np.array([np.mean([one.success for one in episodes]) for episodes in of_delay.values()])
    bounds = np.array([wilson(sum(one.success for one in episodes), len(episodes)) for episodes in of_delay.values()])
    beside = np.maximum(0.0, np.abs(bounds - rates[:, None]).T)
    axes[0].errorbar(delays_ms, 100 * rates, 100 * beside, label=mode, **style)
    for row, name in ((1, "duration_s"), (2, "acceleration_m_s2")):
        values = [np.array([getattr(one, name) for one in episodes]) for episodes in of_delay.values()]
        errors = [value.std() / math.sqrt(len(value)) for value in values]
        axes[row].errorbar(delays_ms, [value.mean() for value in values], errors, **style)


if __name__ == "__main__":
    main()
