"""A recorded episode once more: its actions through schedule, limits and the simulated robot, and how well it follows.

The world is set up by the seed that the episode was recorded with, so what was done should be done again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from vla_ros.actions import ActionSpec, Space
from vla_ros.control import kinematics
from vla_ros.control.arm import ArmConfig
from vla_ros.policies.policy import Inference, WindowSpec
from vla_ros.recording.features import ACTION, SENT, STATE, command_names, joint_names
from vla_ros.recording.files import DatasetError
from vla_ros.recording.reader import DatasetReader
from vla_ros.robots.robot import Robot
from vla_ros.rollout.loop import Episode, Rollout, RolloutConfig, Watcher
from vla_ros.rollout.report import EpisodeRow
from vla_ros.simulation.world import World
from vla_ros.timing.stamps import ns_to_s
from vla_ros.values import Array, Committed, ModelChunk, Window

CHUNKS_HZ = 5.0  # each for a second
LONGER_S = 2.0  # than the recording: a task may be done a little later
#: Where the best agreement of recorded and replayed motion is looked for, and how finely.
_MOST_SHIFT_S, _SHIFT_STEP_S = 0.4, 0.002


@dataclass(frozen=True, eq=False)
class Recorded:
    """An episode of a dataset: joints and gripper (T, J + 1) measured and to be sent, one row every 1/fps seconds."""

    episode: int
    seed: int
    task: str
    success: bool | None
    fps: int
    measured: Array
    actions: Array

    @property
    def duration_s(self) -> float:
        """From the first row to the last."""
        return (len(self.actions) - 1) / self.fps


@dataclass(frozen=True)
class Tracking:
    """How far the replayed motion is from the recorded one, row by row.

    `shift_ms`: so much later the replayed one agrees best with the recorded one; `shifted_rms_rad` is then left.
    """

    joint_rms_rad: float
    joint_max_rad: float
    tcp_rms_mm: float
    tcp_max_mm: float
    shift_ms: float
    shifted_rms_rad: float


@dataclass(frozen=True, eq=False)
class Replayed:
    """What came of it: `measured` (N, J + 1) at the rows' instants, as far as it went; `ended`: why it did."""

    recorded: Recorded
    success: bool
    ended: str
    duration_s: float
    interventions: Mapping[str, int]
    measured: Array
    tracking: Tracking

    def summary(self) -> dict[str, object]:
        """As a report has it."""
        recorded = self.recorded
        return {
            "episode": recorded.episode,
            "seed": recorded.seed,
            "task": recorded.task,
            "recorded_success": recorded.success,
            "success": self.success,
            "ended": self.ended,
            "recorded_s": round(recorded.duration_s, 3),
            "duration_s": round(self.duration_s, 3),
            "interventions": dict(self.interventions),
            **{name: round(value, 6) for name, value in asdict(self.tracking).items()},
        }


def load(reader: DatasetReader, episode: int, robot: Robot, column: str = "") -> Recorded:
    """An episode to be replayed; `column`: `command.sent` (the default, where there is one) or `action`.

    Raises DatasetError for an episode or column there is not, another robot's, one recorded without a seed, and one
    with a gap in time.
    """
    if not 0 <= episode < len(reader.meta.episodes):
        raise DatasetError(f"there is no episode {episode}; the dataset has {len(reader.meta.episodes)}, from 0")
    meta = reader.meta.episodes[episode]
    details = reader.meta.details(meta)
    seed = details.get("seed")
    if seed is None:
        raise DatasetError(
            f"episode {episode} has no seed, so its world cannot be set up again; only simulated episodes have one"
        )
    column = column or (SENT if SENT in reader.keys else ACTION)
    if column not in (SENT, ACTION):
        raise DatasetError(f"{SENT} or {ACTION} can be replayed, got {column!r}")
    expected = {ACTION: joint_names(robot), SENT: command_names(robot), STATE: joint_names(robot)}
    for key in (column, STATE):
        feature = next((feature for feature in reader.meta.features.features if feature.key == key), None)
        if feature is None or feature.names != expected[key]:
            got = "it is not there" if feature is None else f"its names are {feature.names}"
            raise DatasetError(f"{key} of a {robot.name} is {', '.join(expected[key])}; {got}")
    segments = reader.segments(episode)
    if len(segments) > 1:
        raise DatasetError(
            f"episode {episode} has a gap in time after row {segments[0][-1]} (recording was paused, or rows are "
            "missing), so it is unknown how the arm moved there; replay episodes without a gap"
        )
    columns = reader.columns(episode, [STATE, column])
    actions = np.asarray(columns[column], dtype=np.float64)
    joints = len(robot.joints)
    return Recorded(
        episode,
        int(seed),
        meta.task,
        details.get("success"),
        reader.meta.fps,
        np.asarray(columns[STATE], dtype=np.float64),
        np.column_stack([actions[:, :joints], actions[:, -1]]),
    )


class RecordedActions:
    """A policy that says what was recorded, whatever it sees: joints between two rows interpolated, fingers held.

    Its chunks are as fine as the rows: between them is what a policy would have meant that was trained on them.
    """

    window_spec = WindowSpec(cameras=(), proprioception=("joints",))

    def __init__(self, robot: Robot, recorded: Recorded) -> None:
        self._recorded = recorded
        self.action_spec = ActionSpec(
            space=Space.JOINT_POSITION,
            rate_hz=recorded.fps,
            horizon=1 + recorded.fps,  # a second
            joint_names=robot.joint_names,
        )
        self._start_ns: int | None = None

    def reset(self, instruction: str) -> None:
        """Begin with the first row at the next instant observed."""
        self._start_ns = None

    def infer(self, window: Window, committed: Committed) -> Inference:
        """What was recorded from the newest instant on; after the end its last row."""
        now_ns, recorded = window[-1].instant_ns, self._recorded
        if self._start_ns is None:
            self._start_ns = now_ns
        elapsed_s = ns_to_s(now_ns - self._start_ns) + np.arange(self.action_spec.horizon) / self.action_spec.rate_hz
        return Inference(ModelChunk(now_ns, at_times(recorded.actions, recorded.fps, elapsed_s)))


class Replayer:
    """Replays episodes in a world, one after the other."""

    def __init__(self, world: World, robot: Robot, arm: ArmConfig) -> None:
        self._world = world
        self._robot = robot
        self._arm = arm

    def replay(self, recorded: Recorded) -> Replayed:
        """The world as it was when the episode was recorded, and its actions; raises ValueError for no known task."""
        policy = RecordedActions(self._robot, recorded)
        watch = _Watch()
        config = RolloutConfig(inference_hz=CHUNKS_HZ, inference_delay_ms=0.0, episode_s=recorded.duration_s + LONGER_S)
        episode = Rollout(self._world, self._robot, policy, self._arm, config, watcher=watch).run(
            recorded.seed, recorded.task
        )
        return judged(recorded, self._robot, episode.row, *watch.seen())


def judged(recorded: Recorded, robot: Robot, row: EpisodeRow, times_s: Array, positions: Array) -> Replayed:
    """What came of a replay in which joints and gripper `positions` (N, J + 1) were measured at `times_s` (N,)."""
    rows_s = np.arange(len(recorded.measured)) / recorded.fps
    rows_s = rows_s[rows_s <= times_s[-1]]
    measured = _interpolated(times_s, positions, rows_s)
    joints = len(robot.joints)
    now, before = measured[:, :joints], recorded.measured[: len(rows_s), :joints]
    forward = kinematics.for_robot(robot).forward
    apart_m = np.array([np.linalg.norm(forward(a)[:3] - forward(b)[:3]) for a, b in zip(now, before, strict=True)])
    shift_s, left_rad = best_shift(times_s, positions[:, :joints], rows_s, before)
    tracking = Tracking(
        _rms(now - before),
        float(np.abs(now - before).max()),
        1e3 * _rms(apart_m),
        1e3 * float(apart_m.max()),
        1e3 * shift_s,
        left_rad,
    )
    return Replayed(recorded, row.success, row.ended, row.duration_s, row.interventions, measured, tracking)


def write_report(replayed: list[Replayed], path: Path) -> None:
    """All of them as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "episodes": [one.summary() for one in replayed],
        "successes": sum(one.success for one in replayed),
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def at_times(rows: Array, fps: int, times_s: Array) -> Array:
    """Rows (T, J + 1) at times (N,) since the first: joints interpolated, the last value (fingers) held; no further."""
    places = np.clip(times_s * fps, 0.0, len(rows) - 1.0)
    # A time that is a row's, but for rounding, is that row's.
    firsts = np.floor(places + 1e-6).astype(np.int64)
    seconds = np.minimum(firsts + 1, len(rows) - 1)
    shares = np.clip(places - firsts, 0.0, 1.0)[:, None]
    values: Array = rows[firsts] + shares * (rows[seconds] - rows[firsts])
    values[:, -1] = rows[firsts, -1]
    return values


def best_shift(times_s: Array, positions: Array, rows_s: Array, recorded: Array) -> tuple[float, float]:
    """How much later than `recorded` (N, J) the replayed `positions` (M, J) agree best, and the rms left [s, rad]."""
    shifts_s = np.arange(-_MOST_SHIFT_S, _MOST_SHIFT_S + 0.5 * _SHIFT_STEP_S, _SHIFT_STEP_S)
    left_rad = np.full(len(shifts_s), np.inf)
    for index, shift_s in enumerate(shifts_s):
        inside = (rows_s + shift_s >= times_s[0]) & (rows_s + shift_s <= times_s[-1])
        if inside.sum() >= 2:
            left_rad[index] = _rms(_interpolated(times_s, positions, rows_s[inside] + shift_s) - recorded[inside])
    best = int(np.argmin(left_rad))
    return float(shifts_s[best]), float(left_rad[best])


def _interpolated(times_s: Array, values: Array, at_s: Array) -> Array:
    return np.column_stack([np.interp(at_s, times_s, column) for column in values.T])


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


class _Watch(Watcher):
    """Keeps what is measured."""

    def begin(self, episode: Episode) -> None:
        """Nothing is left of the last one."""
        self._start_ns = episode.start_ns
        self._times_ns: list[int] = []
        self._positions: list[Array] = []

    def seen(self) -> tuple[Array, Array]:
        """Seconds since the start (N,), joints and gripper (N, J + 1)."""
        return (np.array(self._times_ns) - self._start_ns) * 1e-9, np.array(self._positions)

    def on_state(self, stamp_ns: int, joint_positions: Array, gripper_width_m: float) -> None:
        """Keep it."""
        self._times_ns.append(stamp_ns)
        self._positions.append(np.append(joint_positions, gripper_width_m))
