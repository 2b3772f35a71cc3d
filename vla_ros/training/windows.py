"""Samples of recorded episodes: frames of now and of a chunk later, the chunk, the state, the instruction."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from vla_ros.actions import ActionSpec, Anchor, GripperConvention, Space
from vla_ros.geometry import RotationForm
from vla_ros.recording.features import ACTION, STATE, Features
from vla_ros.recording.files import DatasetError
from vla_ros.recording.finite import check_finite
from vla_ros.recording.reader import DatasetReader
from vla_ros.robots.robot import Robot
from vla_ros.training.frames import Clip, Frames, Progress
from vla_ros.training.labels import COLUMNS, EndRule, RecordedAction, Requested, Taken, rows_between
from vla_ros.training.mapping import find_robot, frame_sizes, state_streams, stored_name
from vla_ros.training.plausible import check_steps
from vla_ros.values import Array, Config, Image

_MOST_CHUNKS = 200_000  # kept, of those made last; one takes about 0.9 kB


def _silent(what: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


#: What the demo-sized policy is taught: steps of the TCP in the base frame, the gripper 0 closed .. 1 open.
TCP_STEPS = ActionSpec(
    space=Space.EE_DELTA,
    rotation=RotationForm.AXIS_ANGLE,
    anchor=Anchor.MEASURED,
    gripper=GripperConvention.OPEN_UNIT,
)


class DataConfig(Config):
    """What is learnt from of a dataset, and in which form.

    `cameras`: those that are seen, in the model's order; `code_cameras`: those of them whose future frame is predicted.
    `source` poses: the TCP poses and widths asked for of this package's datasets, written as `action` says; column: the
    rows of `action_key` as they are, of anyone's dataset, with `action` saying what they mean. `state_streams`: what
    `state_keys` are, one after the other, as the robot measures it (joints [rad], gripper [m], commanded_joints [rad]).
    """

    cameras: tuple[str, ...] = Field(default=("front", "wrist"), min_length=1)
    code_cameras: tuple[str, ...] = Field(default=("front",), min_length=1)
    pixels: int = Field(default=128, ge=16, le=1024)  # side of the squares that frames become
    action: RecordedAction = RecordedAction.model_validate(TCP_STEPS)
    source: Literal["poses", "column"] = "poses"
    action_key: str = ACTION
    action_names: tuple[str, ...] = ()  # of `action_key`, as `action.dimensions` has them; empty: all, in their order
    state_keys: tuple[str, ...] = (STATE,)  # columns put one after the other; empty: no proprioception
    state_streams: tuple[str, ...] = ()  # empty: as this package's own datasets have it
    robot: str = ""  # the arm's name in the catalogue, where the dataset names it otherwise, or not at all
    camera_keys: Mapping[str, str] = Field(default_factory=dict)  # camera -> its key in the dataset, where it differs
    end: EndRule = EndRule.HOLD
    successes_only: bool = True  # episodes that say they failed are left out

    @model_validator(mode="after")
    def _cameras_are_known(self) -> DataConfig:
        for what, names in (("code_cameras", self.code_cameras), ("camera_keys", tuple(self.camera_keys))):
            unknown = [name for name in names if name not in self.cameras]
            if unknown:
                raise ValueError(f"{what}: {', '.join(unknown)} not among cameras {', '.join(self.cameras)}")
        if self.source == "poses" and (self.action.scales != 1.0).any():
            raise ValueError("action: poses are in metres and radians; a scale is for source: column")
        return self


@dataclass(frozen=True, eq=False)
class Sample:
    """One window. `images`, `future`: camera -> (S, S, 3) uint8 rgb; S is `DataConfig.pixels`.

    `future` (code cameras only) is a whole chunk later, or the segment's last frame: an episode is one segment, or
    several with a gap in time between them. `actions` (K, A) in the units of `DataConfig.action`; `action_is_pad` (K,):
    beyond the segment's end. `state` (P,), as recorded. `index` is its
    number in the samples, `episode` that of its episode in all datasets together, `frame` its row in the episode.
    """

    images: Mapping[str, Image]
    future: Mapping[str, Image]
    actions: Array
    action_is_pad: NDArray[np.bool_]
    state: Array
    instruction: str
    index: int
    episode: int
    frame: int


class ActionSamples:
    """Every row of the datasets' episodes as a `Sample`, in order; can be pickled, and read by several processes.

    With a folder `cache` frames are decoded and resized once, into files there that the next run finds again; without
    one, whenever they are asked for.
    """

    def __init__(
        self, roots: Sequence[Path], config: DataConfig, cache: Path | None = None, on_progress: Progress = _silent
    ) -> None:
        """Raises DatasetError for a dataset that cannot be read, or has not what `config` asks for."""
        self.config = config
        self._sources = [_Source(Path(root), config) for root in roots]
        self._clips = tuple(clip for source in self._sources for clip in source.clips)
        if not self._clips:
            raise DatasetError(f"{', '.join(map(str, roots)) or 'no dataset'}: no episode that was a success")
        robots = {source.robot.name for source in self._sources}
        if len(robots) > 1:
            raise DatasetError(
                f"datasets of one robot are learnt from together; these are of {', '.join(sorted(robots))}"
            )
        self._starts = np.cumsum([0, *(clip.length for clip in self._clips)])
        self._frames = self._all_frames(cache, on_progress)
        self._of_source = np.repeat(np.arange(len(self._sources)), [len(source.clips) for source in self._sources])
        firsts = np.cumsum([0, *(sum(clip.length for clip in source.clips) for source in self._sources)])
        self._first_of_source = firsts[:-1]
        self._chunks: OrderedDict[int, tuple[Array, NDArray[np.bool_]]] = OrderedDict()

    def keep(self, cache: Path, on_progress: Progress = _silent) -> None:
        """Decode and resize all frames now, into the folder `cache`, or find them there; raises DatasetError."""
        self._frames = self._all_frames(cache, on_progress)

    def _all_frames(self, cache: Path | None, on_progress: Progress) -> list[dict[str, Frames]]:
        pixels = self.config.pixels
        return [
            {name: Frames.of(source.reader, camera, source.clips, pixels, cache, on_progress)
             for name, camera in source.cameras.items()}
            for source in self._sources
        ]  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_chunks": OrderedDict()}

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def state_dims(self) -> int:
        """P of `Sample.state`; 0 without proprioception."""
        return sum(self.robot.stream_lengths[name] for name in self.state_streams)

    @property
    def state_streams(self) -> tuple[str, ...]:
        """The robot's streams that `Sample.state` is, one after the other."""
        return self._sources[0].state_streams

    @property
    def robot(self) -> Robot:
        """The datasets' robot."""
        return self._sources[0].robot

    @property
    def action(self) -> ActionSpec:
        """What rows mean: `DataConfig.action`, with the robot's joints named."""
        return self._sources[0].labels.spec

    @property
    def frame_sizes(self) -> Mapping[str, tuple[int, int]]:
        """camera -> (width, height) of the frames as recorded, in the first dataset."""
        return self._sources[0].frame_sizes

    @property
    def notices(self) -> tuple[str, ...]:
        """What is odd about the recorded actions, in words."""
        return tuple(notice for source in self._sources for notice in source.notices)

    @property
    def fps(self) -> int:
        """Rows a second of the first dataset."""
        return self._sources[0].reader.meta.fps

    @property
    def instructions(self) -> tuple[str, ...]:
        """Those of the episodes, sorted, each once."""
        return tuple(sorted({clip.instruction for clip in self._clips}))

    @property
    def episodes(self) -> tuple[range, ...]:
        """The samples of each episode."""
        return tuple(range(int(first), int(after)) for first, after in pairwise(self._starts))

    @property
    def segments(self) -> tuple[range, ...]:
        """The samples of each segment."""
        return tuple(
            range(first + rows.start, first + rows.stop)
            for number, first in enumerate(self._starts[:-1].tolist())
            for rows in self._source(number).reader.segments(self._clips[number].episode)
        )

    def sample(self, index: int) -> Sample:
        """Sample `index`; raises IndexError, DatasetError."""
        number, row = self._locate(index)
        clip, config = self._clips[number], self.config
        actions, is_pad = self.actions(index)
        source = self._source(number)
        later = min(row + config.action.horizon * source.stride, source.reader.segment(clip.episode, row)[-1]) - row
        return Sample(
            MappingProxyType({camera: self.frame(index, camera) for camera in config.cameras}),
            MappingProxyType({camera: self.frame(index + later, camera) for camera in config.code_cameras}),
            actions,
            is_pad,
            self.state(index),
            clip.instruction,
            index,
            number,
            row,
        )

    def actions(self, index: int) -> tuple[Array, NDArray[np.bool_]]:
        """`Sample.actions` and `Sample.action_is_pad` alone."""
        number, row = self._locate(index)
        if index not in self._chunks:  # inverse rotations take a millisecond
            source, clip = self._source(number), self._clips[number]
            rows = source.reader.segment(clip.episode, row)
            columns = {key: values[rows.start : rows.stop] for key, values in source.columns(clip).items()}
            self._chunks[index] = source.labels.chunk(columns, row - rows.start, source.stride)
            if len(self._chunks) > _MOST_CHUNKS:
                self._chunks.popitem(last=False)
        return self._chunks[index]

    def state(self, index: int) -> Array:
        """`Sample.state` alone."""
        number, row = self._locate(index)
        source = self._source(number)
        columns = source.columns(self._clips[number])
        parts = [np.asarray(columns[key][row], dtype=np.float64) for key in self.config.state_keys]
        return np.concatenate(parts) if parts else np.zeros(0)

    def frame(self, index: int, camera: str) -> Image:
        """The resized frame of one camera (S, S, 3); raises KeyError for a camera that is not looked at."""
        number, _ = self._locate(index)
        source = int(self._of_source[number])
        return self._frames[source][camera].frame(index - int(self._first_of_source[source]))

    def _locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return number, index - int(self._starts[number])

    def _source(self, number: int) -> _Source:
        return self._sources[int(self._of_source[number])]


class _Source:
    """One dataset: its episodes that are learnt from, and how."""

    def __init__(self, root: Path, config: DataConfig) -> None:
        self.cameras = {name: stored_name(name, config.camera_keys) for name in config.cameras}
        self.reader = DatasetReader(root, list(self.cameras.values()))
        meta = self.reader.meta
        try:
            self.robot = find_robot(meta.features, config.robot)
            self.stride = rows_between(meta.fps, config.action.rate_hz)
            self.labels = _labels(config, self.robot, meta.features, self.stride)
            self.state_streams = _streams(config, self.robot, meta.features)
        except ValueError as error:
            raise DatasetError(f"{root}: {error}") from error
        of_labels = COLUMNS if config.source == "poses" else (config.action_key,)
        self._keys = tuple(dict.fromkeys((*of_labels, *config.state_keys)))
        self.clips = [
            Clip(episode.index, episode.length, self._instruction(episode.index))
            for episode in meta.episodes
            if not (config.successes_only and meta.details(episode).get("success") is False)
        ]
        used: dict[str, Sequence[int] | None] = dict.fromkeys((*self._keys, "timestamp", self.reader.time_key))
        if isinstance(self.labels, Taken):
            used[config.action_key] = None if config.action_key in config.state_keys else self.labels.dimensions
        check_finite(self.reader, [clip.episode for clip in self.clips], used)
        self.notices = self._check_steps(root)

    def _check_steps(self, root: Path) -> list[str]:
        """What is odd about the actions; raises DatasetError where they are no steps of an arm."""
        labels = self.labels
        if isinstance(labels, Requested) or not self.clips:
            return []  # in metres and radians by what recorded them; or nothing is learnt from
        key, fps = labels.key, self.reader.meta.fps
        taken = {clip.episode: labels.rows(self.columns(clip)[key]) for clip in self.clips}
        try:
            return [f"{root}: {key}: {said}" for said in check_steps(labels.spec, self.robot, fps, taken)]
        except ValueError as error:
            raise DatasetError(f"{root}: {key}: {error}") from None

    @property
    def frame_sizes(self) -> Mapping[str, tuple[int, int]]:
        """camera -> (width, height) as recorded."""
        return frame_sizes(self.reader.meta.features, self.cameras)

    def columns(self, clip: Clip) -> Mapping[str, Array]:
        """Those that are read, of one episode."""
        return self.reader.columns(clip.episode, self._keys)

    def _instruction(self, episode: int) -> str:
        return self.reader.task(int(self.reader.columns(episode, ["task_index"])["task_index"][0, 0]))


def _streams(config: DataConfig, robot: Robot, features: Features) -> tuple[str, ...]:
    """What the state is made of; raises ValueError where nobody says: on a robot nothing could take its place."""
    columns = [features.find(key) for key in config.state_keys]
    streams = state_streams(features, config.state_keys, config.state_streams, robot)
    if columns and not streams:
        names = [name for column in columns for name in column.names or (f"{column.shape[0]} values without a name",)]
        raise ValueError(
            f"which streams of a {robot.name} the state is ({', '.join(config.state_keys)}: {', '.join(names)}) has to "
            f"be said: data.state_streams: [joints, gripper], or what else of {', '.join(robot.stream_lengths)} it is, "
            "in its order; or data.state_keys: [], to learn without it"
        )
    return streams


def _labels(config: DataConfig, robot: Robot, features: Features, stride: int) -> Requested | Taken:
    """What gives the chunks of a dataset; raises ValueError where it has not what they are made of."""
    if config.source == "poses":
        for key in COLUMNS:
            try:
                features.find(key)
            except ValueError:
                raise ValueError(
                    f"no column {key}, which datasets of this package have; give source: column for others"
                ) from None
        return Requested(config.action.spec, robot, config.end)
    feature, action = features.find(config.action_key), config.action
    if stride > 1 and action.space in (Space.EE_DELTA, Space.JOINT_DELTA):
        raise ValueError(
            f"rows of {config.action_key} are changes from row to row, {features.fps} a second: "
            f"action.rate_hz must be that, not {action.rate_hz:g}"
        )
    names = feature.names or tuple(map(str, range(feature.shape[0])))
    wanted = config.action_names or names
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise ValueError(f"{config.action_key} has no {', '.join(unknown)}; it has {', '.join(names)}")
    if action.is_joint and not action.joint_names:
        joints = wanted if action.gripper is GripperConvention.NONE else wanted[:-1]
        of_robot = len(joints) == len(robot.joint_names)  # whose driver refuses other names
        action = action.model_copy(update={"joint_names": robot.joint_names if of_robot else tuple(joints)})
    if len(wanted) != len(action.dimensions):
        raise ValueError(
            f"{config.action_key} has {len(wanted)} values ({', '.join(wanted)}), where `action` has "
            f"{len(action.dimensions)} ({', '.join(action.dimensions)}); say what they are by action, or which by "
            "action_names"
        )
    return Taken(action.spec, config.action_key, [names.index(name) for name in wanted], config.end, action.scales)
