"""How often the scripted expert succeeds at each tabletop task, in process, seed by seed; the limit: 99 of 100."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from vla_ros.control.arm import ArmConfig
from vla_ros.policies import registry
from vla_ros.robots.panda import PANDA
from vla_ros.rollout.loop import Rollout, RolloutConfig, report
from vla_ros.simulation.tabletop import Tabletop
from vla_ros.simulation.tasks import COLORS

TASKS = {
    "lift": "lift the {color} cube",
    "push left": "push the {color} cube to the left",
    "push right": "push the {color} cube to the right",
    "stack": "stack the {color} cube on the {other} cube",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=100, help="per task; seeds from --seed on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tasks", nargs="+", choices=tuple(TASKS), default=tuple(TASKS))
    parser.add_argument("--delay-ms", type=float, default=100.0, help="from an observation to its chunk's arrival")
    parser.add_argument("--reports", type=Path, help="folder for a JSON file per task")
    arguments = parser.parse_args()
    config = RolloutConfig(inference_delay_ms=arguments.delay_ms)
    rollout = Rollout(Tabletop(PANDA), PANDA, registry.load("scripted", robot=PANDA), ArmConfig(), config)
    for task in arguments.tasks:
        started_s = time.perf_counter()
        episodes = []
        for seed in range(arguments.seed, arguments.seed + arguments.episodes):
            color, other = COLORS[seed % 3], COLORS[(seed + 1 + seed // 3 % 2) % 3]
            episodes.append(rollout.run(seed, TASKS[task].format(color=color, other=other)))
        wall_s = time.perf_counter() - started_s
        summary = report("scripted", episodes)
        if arguments.reports:
            summary.write(arguments.reports / f"{task.replace(' ', '_')}.json")
        durations_s = [row.duration_s for row in summary.episodes]
        print(
            f"{task}: {summary.successes}/{len(episodes)}, {np.median(durations_s):.1f} s median, "
            f"{max(durations_s):.1f} s longest, {sum(durations_s) / wall_s:.1f} x real time, {summary.interventions}",
            flush=True,
        )
        for row in summary.episodes:
            if not row.success:
                print(f"  seed {row.seed}: {row.instruction}: {row.ended} {dict(row.interventions)}", flush=True)


if __name__ == "__main__":
    main()
