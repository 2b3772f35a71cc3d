"""What goes wrong in a demonstration on purpose: commands off by a held offset, and mishaps the expert recovers from.

The arm gets what is disturbed; what is recorded as wanted is the policy's own chunk. So a dataset shows states beside
the right way, with labels that lead back to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import radians

import numpy as np
from pydantic import Field, model_validator

from vla_ros.geometry import RotationForm, matrix_pose, pose_matrix, rotation_matrix
from vla_ros.rollout.loop import Episode
from vla_ros.simulation.describing import holds
from vla_ros.simulation.tasks import CUBE_SIZE_M, Task, TaskKind, parse
from vla_ros.simulation.world import WorldState
from vla_ros.timing.stamps import ns_to_s, s_to_ns
from vla_ros.values import POSE_DIMENSIONS, ActionChunk, Array, Config, Window

#: Streams of chance of an episode's seed, apart from those of its layout.
_OFFSETS, _MISHAPS = 11, 12
_LATEST_S = 8.0  # a mishap that found no occasion until then does not happen


class NoiseConfig(Config):
    """Offsets of the commanded TCP pose, each held for a while, then drawn anew; 0 m and 0 degrees: none.

    In any direction and about any axis, uniform up to `position_m` and `rotation_deg`; `quiet` of all draws are zero:
    time to get back. Within `near_m` of what must not be touched (the cube, or what it is put on) only the share `near`
    is left of an offset, further than `far_m` all of it, in between in proportion.
    """

    position_m: float = Field(default=0.04, ge=0.0, le=0.06)
    rotation_deg: float = Field(default=8.0, ge=0.0, le=20.0)
    hold_s: tuple[float, float] = (0.3, 1.0)  # shortest, longest
    ramp_s: float = Field(default=0.25, gt=0.0)  # from one to the next, at the beginning of the time it is held
    quiet: float = Field(default=0.35, ge=0.0, le=1.0)
    near: float = Field(default=0.25, ge=0.0, le=1.0)
    near_m: float = Field(default=0.06, ge=0.0)
    far_m: float = Field(default=0.16, ge=0.0)

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> NoiseConfig:
        if not self.ramp_s <= self.hold_s[0] <= self.hold_s[1]:
            raise ValueError(f"hold_s is (shortest, longest) [s], at least ramp_s {self.ramp_s:g}; got {self.hold_s}")
        if self.near_m >= self.far_m:
            raise ValueError(f"near_m {self.near_m:g} must be less than far_m {self.far_m:g}")
        return self

    @property
    def is_none(self) -> bool:
        """Whether nothing is ever off."""
        return (self.position_m == 0.0 and self.rotation_deg == 0.0) or self.quiet == 1.0


class Mishap(str, Enum):
    """What may happen once in an episode."""

    DROP = "drop"  # the fingers open while they hold the cube in the air
    EARLY = "early"  # the fingers close before they are around the cube (or open before a push)
    ASTRAY = "astray"  # the hand is led far beside its way


@dataclass
class _Offsets:
    """Offsets over time, drawn as far as they are asked for: the same at the same time, whoever asks."""

    config: NoiseConfig
    rng: np.random.Generator
    ends_ns: list[int]
    values: list[Array]

    def at(self, time_ns: int) -> Array:
        """x y z [m] and a rotation vector [rad], (6,); zero before the first."""
        config = self.config
        while self.ends_ns[-1] <= time_ns:
            ways = self.rng.normal(size=(2, 3))
            ways *= (self.rng.uniform(size=2) / np.linalg.norm(ways, axis=1))[:, None]
            is_quiet = self.rng.uniform() < config.quiet
            held_ns = s_to_ns(float(self.rng.uniform(*config.hold_s)))
            offset = np.concatenate([ways[0] * config.position_m, ways[1] * radians(config.rotation_deg)])
            self.values.append(np.zeros(6) if is_quiet else offset)
            self.ends_ns.append(self.ends_ns[-1] + held_ns)
        index = int(np.searchsorted(self.ends_ns, time_ns, side="right"))
        if index == 0:
            return self.values[0]
        share = min(1.0, ns_to_s(time_ns - self.ends_ns[index - 1]) / config.ramp_s)
        return self.values[index - 1] + share * (self.values[index] - self.values[index - 1])


class Disturbances:
    """A `Disturbance` by an episode's seed: held offsets, and in a share of the episodes one mishap. For pose chunks.

    It looks at the stream "world" of the window, as the scripted expert does.
    """

    def __init__(self, noise: NoiseConfig, mishaps: float, open_width_m: float) -> None:
        """`mishaps`: in which share of the episodes something happens, 0 to 1."""
        self._noise = noise
        self._share = mishaps
        self._open_width_m = open_width_m
        self._mishap: Mishap | None = None  # of this episode
        self._happened_ns: int | None = None  # when, if it has

    def begin(self, episode: Episode) -> None:
        """Draw what is off in this episode."""
        self._task = parse(episode.instruction)
        self._start_ns = episode.start_ns
        rng = np.random.default_rng([episode.seed, _OFFSETS])
        self._offsets = _Offsets(self._noise, rng, [episode.start_ns], [np.zeros(6)])
        rng = np.random.default_rng([episode.seed, _MISHAPS])
        happens, kind = rng.uniform() < self._share, rng.integers(1_000_000)
        kinds = [Mishap.EARLY, Mishap.ASTRAY] if self._task.kind is TaskKind.PUSH else list(Mishap)
        self._mishap = kinds[kind % len(kinds)] if happens else None
        self._happened_ns = None
        self._lasts_ns = s_to_ns(float(rng.uniform(0.5, 0.9)))
        self._height_m = float(rng.uniform(0.04, 0.07))  # of the TCP from which a cube is dropped
        self._apart_m = float(rng.uniform(0.12, 0.22))  # from hand to cube, where all else begins
        direction = rng.normal(size=3)
        direction[2] = abs(direction[2]) + 0.5  # not into the table, nor a cube
        self._astray_m = direction / np.linalg.norm(direction) * rng.uniform(0.05, 0.08)

    def disturb(self, chunk: ActionChunk, window: Window) -> ActionChunk:
        """Offsets on the poses, fingers as the mishap has them; raises ValueError for chunks of joints."""
        if chunk.dimensions[: len(POSE_DIMENSIONS)] != POSE_DIMENSIONS:
            raise ValueError(f"only poses are disturbed, got chunks of {', '.join(chunk.dimensions)}")
        newest = window[-1]
        state = WorldState(newest.instant_ns, newest.proprioception["world"])
        self._watch_for_occasion(state, chunk)
        rows = np.array(chunk.actions)
        for index, row in enumerate(rows):
            due_ns = chunk.due_ns(index)
            offset = self._offsets.at(due_ns) * self._scale(row[:3], state)
            if self._happens(due_ns):
                self._bring_about(row, offset)
            row[:7] = _moved(row[:7], offset)
        return ActionChunk(chunk.observation_ns, chunk.step_ns, chunk.dimensions, rows)

    @property
    def details(self) -> dict[str, object]:
        """What an episode's details say of its mishap; empty where nothing happened."""
        if self._mishap is None or self._happened_ns is None:
            return {}
        return {"mishap": self._mishap.value, "mishap_s": round(ns_to_s(self._happened_ns - self._start_ns), 3)}

    def _scale(self, position: Array, state: WorldState) -> float:
        """How much of an offset is left at a commanded position, 0 to 1."""
        noise = self._noise
        beside = (_clearance_m(position, state, self._task) - noise.near_m) / (noise.far_m - noise.near_m)
        return noise.near + (1.0 - noise.near) * min(1.0, max(0.0, beside))

    def _watch_for_occasion(self, state: WorldState, chunk: ActionChunk) -> None:
        if self._mishap is None or self._happened_ns is not None:
            return
        if state.time_ns - self._start_ns > s_to_ns(_LATEST_S):
            return
        held = holds(state, self._task.color)
        if self._mishap is Mishap.DROP:  # as soon as it is planned to be high enough: seen there it would be too late
            high = np.flatnonzero(chunk.actions[:, 2] > self._height_m)
            if held and high.size:
                self._happened_ns = chunk.due_ns(int(high[0]))
        elif not held and np.linalg.norm(state.tcp_pose[:3] - state.cube_pose(self._task.color)[:3]) < self._apart_m:
            self._happened_ns = state.time_ns

    def _happens(self, due_ns: int) -> bool:
        return self._happened_ns is not None and self._happened_ns <= due_ns < self._happened_ns + self._lasts_ns

    def _bring_about(self, row: Array, offset: Array) -> None:
        """Change the fingers of a row, or its offset."""
        if self._mishap is Mishap.DROP:
            row[-1] = self._open_width_m
        elif self._mishap is Mishap.EARLY:
            row[-1] = self._open_width_m if self._task.kind is TaskKind.PUSH else 0.0
        else:
            offset[:3] = self._astray_m


def _clearance_m(position: Array, state: WorldState, task: Task) -> float:
    """How far a TCP at `position` is from what an offset would spoil."""
    if not holds(state, task.color):
        return float(np.linalg.norm(position - state.cube_pose(task.color)[:3]))
    above_m = float(position[2])
    if task.target is None:
        return above_m
    top = state.cube_pose(task.target)[:3] + np.array([0.0, 0.0, CUBE_SIZE_M])
    return min(above_m, float(np.linalg.norm(position - top)))


def _moved(pose: Array, offset: Array) -> Array:
    """`pose` (7,) moved by x y z in the base frame and turned about the TCP by a rotation vector in it."""
    matrix = pose_matrix(pose)
    matrix[:3, :3] = rotation_matrix(offset[3:], RotationForm.AXIS_ANGLE) @ matrix[:3, :3]
    matrix[:3, 3] += offset[:3]
    moved = matrix_pose(matrix)
    return moved if moved[3:] @ pose[3:] >= 0.0 else np.concatenate([moved[:3], -moved[3:]])
