"""Judging a policy in closed loop: many seeded episodes in process, its own delay injected, success with an interval.

Episodes go the way they go on a robot: cameras and joints through the aligner, chunks through wrapper, schedule and
limits. How they begin depends on their seeds alone, so every policy is judged by the same ones.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from vla_ros.control.arm import ArmConfig
from vla_ros.policies.policy import Inference, Policy, SeesCameras
from vla_ros.recording.files import write_atomically
from vla_ros.robots.robot import Robot
from vla_ros.rollout.controls import Control, controlled, wrap, wrong_instruction
from vla_ros.rollout.demonstrations import checked_tasks, task_of
from vla_ros.rollout.filming import Filming
from vla_ros.rollout.loop import Episode, Rollout, RolloutConfig
from vla_ros.rollout.rates import Rate
from vla_ros.rollout.report import EpisodeRow, Percentiles, Report
from vla_ros.simulation import layout
from vla_ros.simulation.referee import Referee
from vla_ros.simulation.tabletop import Tabletop
from vla_ros.simulation.tasks import parse
from vla_ros.simulation.world import TabletopConfig, World
from vla_ros.timing.stamps import ns_to_ms, ns_to_s, period_ns, s_to_ns
from vla_ros.values import Array, Config, Window
from vla_ros.viewing.evaluation import Film

#: How often a policy is asked to find out how long it takes; the first answers, with which it warms up, do not count.
_ASKED, _WARMING_UP = 12, 3
#: So many of a hundred inferences take no longer than the delay that is injected for all; what else the machine was
#: busy with in a few of them does not count.
_USUAL_PERCENT = 75.0
_SHOWN_EVERY_NS = s_to_ns(0.25)


class EvaluationConfig(Config):
    """Which episodes: of the seeds from `seed` on; `tasks` as for demonstrations, empty = the world's own task."""

    episodes: int = Field(default=50, ge=1)
    seed: int = Field(default=1000, ge=0)
    tasks: tuple[str, ...] = ()
    control: Control | None = None
    inference_delay_ms: float | None = Field(default=None, ge=0.0)  # None: as long as the policy takes here
    films: int = Field(default=3, ge=0)  # so many successes are drawn to look at, and so many failures
    film_hz: float = Field(default=10.0, ge=0.1, le=60.0)

    @field_validator("tasks")
    @classmethod
    def _tasks_are_known(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        return checked_tasks(tasks)


@dataclass(frozen=True)
class Setup:
    """Where a policy is judged: the parts of a system. The delay in `rollout` is replaced by the one that is found."""

    robot: Robot
    world: TabletopConfig
    arm: ArmConfig
    rollout: RolloutConfig


@dataclass(frozen=True)
class Outcome:
    """One episode. `asked`: what the policy was told where that is something else, and whether it did that."""

    row: EpisodeRow
    asked: str = ""
    asked_success: bool | None = None


@dataclass(frozen=True)
class Evaluation:
    """What the episodes came to. `inference_ms`: how long the policy took on this machine, in all of them."""

    config: EvaluationConfig
    report: Report
    outcomes: tuple[Outcome, ...]
    delay_ms: float
    inference_ms: Percentiles

    @property
    def rate(self) -> Rate:
        """Of the task that counts; raises ValueError before the first episode."""
        return Rate(self.report.successes, len(self.outcomes))

    @property
    def asked_rate(self) -> Rate | None:
        """Of what the policy was told instead; None where it was told what counts."""
        judged = [one.asked_success for one in self.outcomes if one.asked_success is not None]
        return Rate(sum(judged), len(judged)) if judged else None

    @property
    def rates_by_task(self) -> dict[str, Rate]:
        """instruction -> of its episodes."""
        tries = Counter(one.row.instruction for one in self.outcomes)
        done = Counter(one.row.instruction for one in self.outcomes if one.row.success)
        return {instruction: Rate(done[instruction], tries[instruction]) for instruction in sorted(tries)}

    @property
    def success_s(self) -> Percentiles:
        """How long the successes took, in the world's time."""
        return Percentiles.of([one.row.duration_s for one in self.outcomes if one.row.success])

    def as_dict(self) -> dict[str, Any]:
        """What stands in the JSON file: the rate first, a row per episode last."""
        asked = self.asked_rate
        told = {one.row.seed: {"asked": one.asked, "asked_success": one.asked_success} for one in self.outcomes}
        whole = self.report.as_dict()
        rows = [{**row, **(told[row["seed"]] if asked else {})} for row in whole.pop("rows")]
        whole.pop("topics")
        whole.pop("jitter_ms")
        return {
            "success": self.rate.as_dict(),
            **({"asked_success": asked.as_dict()} if asked else {}),
            "tasks": {instruction: rate.as_dict() for instruction, rate in self.rates_by_task.items()},
            "success_s": vars(self.success_s),
            "inference_ms": vars(self.inference_ms),
            "injected_delay_ms": self.delay_ms,
            "config": self.config.model_dump(mode="json"),
            **whole,
            "rows": rows,
        }

    def write(self, path: Path, **about: str) -> None:
        """Write the JSON file, `about` what first, at once or not at all; makes its folder.

        Raises DatasetError where it cannot be written.
        """
        content = {**about, **self.as_dict()}
        write_atomically(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


class Evaluator:
    """Runs the episodes one after the other: `with Evaluator(...) as e: for outcome, film in e.episodes(): ...`.

    Raises ValueError for a policy that cannot see through the world's cameras, or does not know a task.
    """

    def __init__(self, setup: Setup, name: str, policy: Policy, config: EvaluationConfig) -> None:
        _check_cameras(setup.world, policy)
        self.config = config
        self._setup = setup
        self._name = name
        self._world = Tabletop(setup.robot, setup.world)
        self._inference_s: list[float] = []
        self._outcomes: list[Outcome] = []
        self._latencies_ms: list[float] = []
        cameras = policy.window_spec.cameras or tuple(self._world.cameras)
        self._watch = _Watch(self._world, cameras, config)
        self.action = policy.action_spec
        self._policy = wrap(controlled(policy, config.control), heard=self._hear)
        self._tasks = {seed: self._task(seed) for seed in range(config.seed, config.seed + config.episodes)}
        for instruction in sorted(set(self._tasks.values())):
            self._policy.reset(instruction)  # what it cannot follow is said before anything moves
        self.delay_ms = self._found_delay_ms() if config.inference_delay_ms is None else config.inference_delay_ms

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(self, *_: object) -> None:
        self._world.close()

    def episodes(
        self, on_progress: Callable[[float, str], None] = lambda done, note: None
    ) -> Iterator[tuple[Outcome, Film | None]]:
        """Each episode as it ends, and what it looked like if it is among the first successes or failures.

        `on_progress` hears how many are done, the present one in part, and a note about it.
        """
        rollout = self._rollout(self.delay_ms, self._setup.rollout.episode_s)
        filmed: Counter[bool] = Counter()
        for seed, instruction in self._tasks.items():
            self._watch.films = any(filmed[success] < self.config.films for success in (True, False))
            self._watch.on_elapsed = partial(self._progress, on_progress, instruction)
            episode = rollout.run(seed, instruction)
            outcome = Outcome(episode.row, self._watch.asked, self._watch.asked_success)
            self._outcomes.append(outcome)
            self._latencies_ms += episode.latencies_ms
            film = None
            if filmed[episode.success] < self.config.films:
                filmed[episode.success] += 1
                film = self._watch.film(self._world, episode, self._watch.asked)
            yield outcome, film
            on_progress(len(self._outcomes), "")

    def _progress(self, on_progress: Callable[[float, str], None], instruction: str, elapsed_s: float) -> None:
        limit_s = self._setup.rollout.episode_s
        share = min(0.99, elapsed_s / limit_s)
        on_progress(len(self._outcomes) + share, f"{elapsed_s:.1f} of at most {limit_s:g} s: {instruction}")

    @property
    def evaluation(self) -> Evaluation:
        """What the episodes came to that were run so far."""
        return Evaluation(
            self.config,
            Report(self._name, tuple(one.row for one in self._outcomes), Percentiles.of(self._latencies_ms)),
            tuple(self._outcomes),
            self.delay_ms,
            Percentiles.of([1e3 * taken_s for taken_s in self._inference_s]),
        )

    def _rollout(self, delay_ms: float, episode_s: float) -> Rollout:
        config = self._setup.rollout.model_copy(update={"inference_delay_ms": delay_ms, "episode_s": episode_s})
        return Rollout(self._world, self._setup.robot, self._policy, self._setup.arm, config, watcher=self._watch)

    def _task(self, seed: int) -> str:
        """What is to be done in the episode of a seed: of the tasks asked for, else the world's own."""
        if self.config.tasks:
            return task_of(seed, self.config.tasks)
        world, home_rad = self._setup.world, self._setup.robot.home_rad
        return world.instruction or layout.draw(seed, home_rad, world.cameras, world.variety).task.instruction

    def _found_delay_ms(self) -> float:
        """How long the policy takes on this machine, up to a controller tick, as chunks arrive at one."""
        seed, instruction = next(iter(self._tasks.items()))
        asked_hz = min(self._setup.rollout.inference_hz, self._setup.rollout.camera_hz)
        self._rollout(0.0, _ASKED / asked_hz).run(seed, instruction)
        found_s = self._inference_s[_WARMING_UP:] or self._inference_s[-1:]  # a task may be done by then
        self._inference_s.clear()
        return delay_ms_of(found_s, ns_to_ms(period_ns(self._setup.arm.rate_hz)))

    def _hear(self, window: Window, inference: Inference, wall_s: float) -> None:
        self._inference_s.append(wall_s)
        self._watch.hear(window, inference)


class _Watch(Filming):
    """Films, while it is wanted; judges an episode by what the policy was told, where that is something else."""

    def __init__(self, world: World, cameras: tuple[str, ...], config: EvaluationConfig) -> None:
        super().__init__(cameras, config.film_hz)
        self._world = world
        self._is_told_otherwise = config.control is Control.WRONG_INSTRUCTION
        self._referee: Referee | None = None
        self.films = False
        self.on_elapsed: Callable[[float], None] = lambda elapsed_s: None
        self._start_ns = self._shown_ns = 0
        self.asked = ""
        self.asked_success: bool | None = None

    def begin(self, episode: Episode) -> None:
        """The world was reset."""
        super().begin(episode)
        self._start_ns = self._shown_ns = episode.start_ns
        if self._is_told_otherwise:
            self.asked, self.asked_success = wrong_instruction(episode.instruction), False
            self._referee = Referee(parse(self.asked), self._world.state())

    def look(self, camera: str, stamp_ns: int, world: World) -> None:
        """Where everything stands."""
        if self.films:
            super().look(camera, stamp_ns, world)

    def hear(self, window: Window, inference: Inference) -> None:
        """What is expected."""
        if self.films:
            super().hear(window, inference)

    def on_state(self, stamp_ns: int, joint_positions: Array, gripper_width_m: float) -> None:
        """A tick has passed; what was once done is done."""
        if stamp_ns - self._shown_ns >= _SHOWN_EVERY_NS:
            self._shown_ns = stamp_ns
            self.on_elapsed(ns_to_s(stamp_ns - self._start_ns))
        if self._referee is not None and not self.asked_success:
            self.asked_success = self._referee.watch(self._world.state())


def delay_ms_of(inference_s: Sequence[float], tick_ms: float) -> float:
    """The delay that stands for inferences that took so long [s]: three of four are done by then, at a whole tick."""
    usual_ms = 1e3 * float(np.percentile(np.asarray(inference_s), _USUAL_PERCENT))
    return tick_ms * ceil(usual_ms / tick_ms)


def _check_cameras(world: TabletopConfig, policy: Policy) -> None:
    sizes = {name: (camera.width, camera.height) for name, camera in world.cameras.items()}
    missing = [name for name in policy.window_spec.cameras or () if name not in sizes]
    if missing:
        raise ValueError(f"the policy looks at {', '.join(missing)}; the system's cameras are {', '.join(sizes)}")
    if isinstance(policy, SeesCameras):
        policy.check_cameras(sizes)
