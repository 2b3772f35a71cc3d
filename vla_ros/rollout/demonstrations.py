"""Scripted demonstrations in process: the expert in the simulated world, as fast as the machine allows, into a dataset.

What is recorded goes the way it goes on a robot: cameras, joints and gripper through the aligner, chunks through
schedule and limits, rows into the same writer. Time is the world's, so the same seeds give the same columns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from vla_ros.control.arm import ArmConfig, ArmStatus
from vla_ros.control.limits import NORMAL_COUNTS
from vla_ros.policies import registry
from vla_ros.recording.assembling.rows import RowAssembler
from vla_ros.recording.config import ActionSource, RecordingConfig
from vla_ros.recording.dataset import DatasetMeta, read_system
from vla_ros.recording.features import Features, of_robot
from vla_ros.recording.files import DatasetError
from vla_ros.recording.lerobot_v3 import DatasetWriter, EpisodeDetails
from vla_ros.robots.robot import Robot
from vla_ros.rollout.disturbances import Disturbances, NoiseConfig
from vla_ros.rollout.loop import Episode, Rollout, RolloutConfig, Watcher
from vla_ros.simulation.tabletop import Tabletop
from vla_ros.simulation.tasks import COLORS, Side, Task, TaskKind, parse
from vla_ros.simulation.world import Snapshot, TabletopConfig, World
from vla_ros.timing.stamps import ms_to_ns, period_ns
from vla_ros.timing.sync import CameraTiming
from vla_ros.values import ActionChunk, Array, Command, Config, Image, Target

SOURCE = "scripted"
#: The stream of chance that a task is drawn from, apart from a seed's others.
_TASK = 13
#: So many episodes may fail for each that is kept, and some more: beyond, something is wrong.
_TRIES_PER_EPISODE, _SPARE_TRIES = 2, 4

#: What is drawn from first (each with the same chance), then from the tasks of a group.
TASK_GROUPS: Mapping[str, tuple[Task, ...]] = {
    "lift": tuple(Task(TaskKind.LIFT, color) for color in COLORS),
    "push left": tuple(Task(TaskKind.PUSH, color, Side.LEFT) for color in COLORS),
    "push right": tuple(Task(TaskKind.PUSH, color, Side.RIGHT) for color in COLORS),
    "stack": tuple(
        Task(TaskKind.STACK, color, target=target) for color in COLORS for target in COLORS if color != target
    ),
}


class DemonstrationConfig(Config):
    """What is shown. `tasks`: groups (lift, push left, push right, stack) or instructions; empty = all of them.

    With offsets or mishaps a row's `action` is what the expert wanted (the clean label), else what was sent.
    """

    tasks: tuple[str, ...] = ()
    noise: NoiseConfig = NoiseConfig()
    mishaps: float = Field(default=0.1, ge=0.0, le=1.0)  # in which share of the episodes something goes wrong
    keeps_failures: bool = False  # with success false; else they are counted and left out

    @field_validator("tasks")
    @classmethod
    def _tasks_are_known(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        return checked_tasks(tasks)

    @property
    def is_disturbed(self) -> bool:
        """Whether the arm gets anything else than what the expert wants."""
        return not self.noise.is_none or self.mishaps > 0.0


@dataclass(frozen=True)
class Setup:
    """What demonstrations are made with: the parts of a system; `cameras`: those of the world that are recorded."""

    robot: Robot
    world: TabletopConfig
    cameras: tuple[str, ...]
    arm: ArmConfig
    recording: RecordingConfig
    inference_hz: float
    system: Mapping[str, Any] = field(default_factory=dict)  # kept beside the dataset


@dataclass(frozen=True)
class Demonstration:
    """One try. `is_kept`: it is in the dataset; `ended`: why it ended, or why it was not kept."""

    seed: int
    instruction: str
    success: bool
    is_kept: bool
    ended: str
    duration_s: float
    rows: int
    details: Mapping[str, Any]


@dataclass(frozen=True)
class Summary:
    """What came of it, in the order of the tries; `wall_s` in this machine's time."""

    tries: tuple[Demonstration, ...]
    wall_s: float
    is_interrupted: bool = False  # by Ctrl-C, in an episode that was then discarded

    @property
    def kept(self) -> tuple[Demonstration, ...]:
        """Those that are in the dataset."""
        return tuple(demonstration for demonstration in self.tries if demonstration.is_kept)

    @property
    def success_rate(self) -> float:
        """Of all tries, 0 to 1; 0 for none."""
        return sum(demonstration.success for demonstration in self.tries) / max(1, len(self.tries))

    @property
    def per_minute(self) -> float:
        """Episodes kept in a minute of this machine's time."""
        return len(self.kept) / max(1e-9, self.wall_s) * 60.0


def record_demonstrations(
    setup: Setup,
    destination: Path,
    episodes: int,
    seed: int,
    config: DemonstrationConfig,
    on_progress: Callable[[Demonstration], None] = lambda _: None,
    *,
    resume: bool = False,
) -> Summary:
    """Record `episodes` episodes, of the seeds from `seed` on, into the dataset at `destination`.

    A seed that fails is followed by the next; so are seeds that a dataset to `resume` has already. Raises DatasetError
    for a dataset that cannot be written to, RuntimeError where too many tries fail. Ctrl-C ends it early.
    """
    setup = _labelled(setup, config)
    began_s = time.monotonic()
    features = features_of(setup)
    taken = _seeds_to_skip(destination, setup.recording.action) if resume else frozenset()
    world = Tabletop(setup.robot, setup.world)
    system = {**setup.system, "demonstrations": {"seed": seed, **config.model_dump(mode="json")}}
    writer = DatasetWriter(destination, features, setup.recording, system=system, resume=resume)
    tries: list[Demonstration] = []
    is_interrupted = False
    with writer, _Painter(world) as painter:
        show = _Show(setup, config, world, features, writer, painter)
        try:
            for number in _seeds(seed, taken, episodes):
                tries.append(show.run(number))
                on_progress(tries[-1])
                if sum(demonstration.is_kept for demonstration in tries) == episodes:
                    break
            else:
                raise RuntimeError(
                    f"only {sum(one.is_kept for one in tries)} of {len(tries)} tries could be kept; the last ended: "
                    f"{tries[-1].ended}"
                )
        except KeyboardInterrupt:
            is_interrupted = True
    return Summary(tuple(tries), time.monotonic() - began_s, is_interrupted)


def features_of(setup: Setup) -> Features:
    """What a row holds; raises ValueError for a camera that the world has not."""
    missing = [name for name in setup.cameras if name not in setup.world.cameras]
    if missing or not setup.cameras:
        raise ValueError(f"one or more cameras of {', '.join(setup.world.cameras)} are recorded, got {setup.cameras}")
    cameras = {name: setup.world.cameras[name] for name in setup.cameras}
    sizes = {name: (camera.height, camera.width) for name, camera in cameras.items()}
    return of_robot(setup.robot, sizes, setup.recording.fps)


def checked_tasks(tasks: tuple[str, ...]) -> tuple[str, ...]:
    """`tasks`, each a group or an instruction; raises ValueError naming both for what is neither."""
    for task in tasks:
        if task not in TASK_GROUPS:
            try:
                parse(task)
            except ValueError as error:
                raise ValueError(f"{error}; or a group of them: {', '.join(TASK_GROUPS)}") from None
    return tasks


def task_of(seed: int, allowed: tuple[str, ...] = ()) -> str:
    """The instruction of an episode's seed: of groups and instructions, or of all there are."""
    rng = np.random.default_rng([seed, _TASK])
    name = str(rng.choice(allowed or tuple(TASK_GROUPS)))
    group = TASK_GROUPS.get(name)
    return parse(name).instruction if group is None else group[int(rng.integers(len(group)))].instruction


def _labelled(setup: Setup, config: DemonstrationConfig) -> Setup:
    """`setup` with rows labelled as is right for what is shown."""
    action = ActionSource.REQUESTED if config.is_disturbed else ActionSource.SENT
    return replace(setup, recording=setup.recording.model_copy(update={"action": action}))


def _seeds(first: int, taken: frozenset[int], episodes: int) -> Iterator[int]:
    tries = _TRIES_PER_EPISODE * episodes + _SPARE_TRIES
    for number in count(first):
        if number not in taken:
            yield number
            tries -= 1
        if not tries:
            return


def _seeds_to_skip(dataset: Path, action: ActionSource) -> frozenset[int]:
    """The seeds that a dataset shows already; raises DatasetError where its rows are labelled otherwise."""
    if not dataset.exists():
        return frozenset()
    meta = DatasetMeta.load(dataset)
    sessions = read_system(meta.layout).get("sessions", [])
    others = {str(session["recording"]["action"]) for session in sessions} - {action.value}
    if others:
        raise DatasetError(
            f"{dataset} has rows whose action is what was {' and '.join(sorted(others))}, these would be what was "
            f"{action.value}; a dataset is of demonstrations with offsets and mishaps, or of those without"
        )
    return meta.seeds()


class _Show:
    """Runs one episode after the other, and records it."""

    def __init__(
        self,
        setup: Setup,
        config: DemonstrationConfig,
        world: Tabletop,
        features: Features,
        writer: DatasetWriter,
        painter: _Painter,
    ) -> None:
        self._setup = setup
        self._config = config
        self._writer = writer
        robot = setup.robot
        self._disturbances = Disturbances(config.noise, config.mishaps, robot.gripper.max_width_m)
        self._hearing = _Hearing(setup, features, writer, painter)
        self._rollout = Rollout(
            world,
            robot,
            registry.load(SOURCE, robot=robot),
            setup.arm,
            RolloutConfig(
                inference_hz=setup.inference_hz, camera_hz=setup.recording.fps, episode_s=setup.world.episode_s
            ),
            watcher=self._hearing,
            disturbance=self._disturbances if config.is_disturbed else None,
        )

    def run(self, seed: int) -> Demonstration:
        """One try, in the dataset if it is worth it."""
        instruction = task_of(seed, self._config.tasks)
        try:
            episode = self._rollout.run(seed, instruction)
            problems = self._hearing.end(episode)
        except BaseException:
            if self._writer.is_open:
                self._writer.discard()  # its seed gives it again
            raise
        rows = self._writer.frames
        is_kept = not problems and (episode.success or self._config.keeps_failures)
        details = self._disturbances.details if self._config.is_disturbed else {}
        if is_kept:
            noise = {} if self._config.noise.is_none else {"noise": self._config.noise.model_dump(mode="json")}
            extra = {"ended": episode.ended, "interventions": episode.interventions, **details, **noise}
            self._writer.save(
                EpisodeDetails(
                    task=instruction, success=episode.success, notes="", source=SOURCE, seed=seed, extra=extra
                )
            )
        else:
            self._writer.discard()
        ended = "; ".join(problems) or episode.ended
        return Demonstration(seed, instruction, episode.success, is_kept, ended, episode.row.duration_s, rows, details)


class _Hearing(Watcher):
    """What it hears becomes rows of the open episode."""

    def __init__(self, setup: Setup, features: Features, writer: DatasetWriter, painter: _Painter) -> None:
        self._setup = setup
        self._painter = painter
        self._features = features
        self._writer = writer
        self._tick_ns = period_ns(setup.arm.rate_hz)
        self._settle_ns = ms_to_ns(setup.recording.settle_ms)
        self.cameras = setup.cameras

    def begin(self, episode: Episode) -> None:
        """Begin an episode of the dataset, with an assembler that remembers nothing of the last."""
        setup = self._setup
        timings = {name: CameraTiming(rate_hz=setup.recording.fps) for name in setup.cameras}
        self._assembler = RowAssembler(setup.robot, self._features, timings, setup.recording, decode=_Painter.painted)
        self._assembler.start(episode.start_ns)
        self._writer.begin(episode.instruction)

    def look(self, camera: str, stamp_ns: int, world: World) -> None:
        """A picture is due."""
        self._assembler.add_image(camera, stamp_ns, stamp_ns, self._painter.paint(camera, world.snapshot()))

    def on_state(self, stamp_ns: int, joint_positions: Array, gripper_width_m: float) -> None:
        """What is measured."""
        self._assembler.add_joints(stamp_ns, stamp_ns, joint_positions)
        self._assembler.add_gripper(stamp_ns, stamp_ns, gripper_width_m)

    def on_chunk(self, chunk: ActionChunk, now_ns: int) -> None:
        """A chunk arrived."""
        self._assembler.add_chunk(chunk.observation_ns, now_ns)

    def on_command(self, command: Command) -> None:
        """What was sent, without what it answers: that may be disturbed."""
        self._assembler.add_command(replace(command, requested=None))

    def on_wanted(self, now_ns: int, target: Target) -> None:
        """What the expert wants, at the tick at which it does."""
        self._assembler.add_requested(replace(target, time_ns=now_ns))

    def on_status(self, now_ns: int, status: ArmStatus) -> None:
        """How the arm does; also the time to write what is settled."""
        acted = sum(times for name, times in status.counters.items() if name not in NORMAL_COUNTS)
        self._assembler.add_status(now_ns, status.mode, status.safety, acted)
        self._write(now_ns)

    def end(self, episode: Episode) -> tuple[str, ...]:
        """Write the last rows, up to the last tick that was looked at; what speaks against keeping the episode."""
        self._assembler.pause(episode.end_ns - self._tick_ns)
        self._write(episode.end_ns + self._settle_ns)
        return self._assembler.health.problems(self._setup.recording.health)

    def _write(self, now_ns: int) -> None:
        for row in self._assembler.rows(now_ns):
            self._writer.add(row)


class _Painter:
    """Draws in a thread of its own, while the world goes on."""

    def __init__(self, world: World) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._renderer = self._thread.submit(world.renderer).result()

    def paint(self, camera: str, snapshot: Snapshot) -> Future[Image]:
        """The picture of `camera`, in a while."""
        return self._thread.submit(self._renderer.render, camera, snapshot)

    @staticmethod
    def painted(picture: Future[Image]) -> Image:
        """The picture, once it is there."""
        return picture.result()

    def __enter__(self) -> _Painter:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.submit(self._renderer.close)
        self._thread.shutdown()
