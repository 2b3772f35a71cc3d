"""A dataset made from another: in LeRobot's format v3.0 or v2.1, of some of its episodes, of some of their rows.

Rows that are kept whole stay what they are: columns bit by bit (but for the numbers of rows, episodes and tasks, which
count anew), videos packet by packet. Where rows are left out, videos are coded anew.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vla_ros.recording import dataset, schemas, selection
from vla_ros.recording.columns import Column
from vla_ros.recording.config import VideoConfig
from vla_ros.recording.dataset_v21 import VERSION_21
from vla_ros.recording.extracting import codec_of, extract
from vla_ros.recording.features import ACTION, INTERVENTIONS, SOURCE_FRAME, STAMP, STATE, Feature, Features
from vla_ros.recording.files import DatasetError, Layout, write_atomically
from vla_ros.recording.finite import check_finite
from vla_ros.recording.lerobot_v21 import V21Writer, modality
from vla_ros.recording.reader import DatasetReader, camera_name
from vla_ros.recording.selection import MOVED, STILL, Motion
from vla_ros.recording.storing.catalogue import Catalogue, Finished
from vla_ros.recording.upkeep.staging import publish, stage_new
from vla_ros.recording.video_reader import TOLERANCE_S
from vla_ros.values import Config

Progress = Callable[[int, int], None]  # rows done, of how many


class Conversion(Config):
    """What is made of a dataset. Without any option: the same episodes, all of their rows."""

    to: Literal["v3.0", "v2.1"] = "v3.0"
    episodes: tuple[int, ...] | None = None  # these, in this order
    successes_only: bool = False  # those that are marked as a success
    without_cameras: tuple[str, ...] = ()  # depth, or damaged ones
    trim_static: bool = False  # no rows at head and tail in which nothing moves
    still: Motion = STILL
    margin_s: float = Field(default=0.1, ge=0.0, le=10.0)  # what is kept before the first motion and after the last
    keyframes: bool = False  # rows between which the action has changed; `timing.source_frame` tells their time
    moved: Motion = MOVED
    every_s: float | None = Field(default=None, gt=0.0)  # one row every so often; fps is 1 / every_s
    gr00t: bool = False  # meta/modality.json; v2.1 only
    video: VideoConfig = VideoConfig(crf=18)  # of frames coded anew: they are compressed twice


class Unmakeable(DatasetError):
    """What is asked for cannot be made of this dataset, or of any."""


@dataclass(frozen=True)
class Converted:
    """What came of it. `recoded`: videos coded anew; `still`: episodes left out because nothing moves in them.

    `parted`: episodes of the source that are several now, for there were gaps in time.
    `notices`: what else is not as it was in the source, in words.
    """

    episodes: int
    frames: int
    of_frames: int
    recoded: int
    still: tuple[int, ...]
    parted: tuple[int, ...] = ()
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Kept:
    """An episode of the source, or a part of one, and which of its rows; None: all."""

    episode: int
    length: int
    rows: NDArray[np.int64] | None


def convert(
    source: Path, destination: Path, conversion: Conversion, on_progress: Progress = lambda *_: None
) -> Converted:
    """Make a dataset at `destination`, which must not exist, of the one at `source`; it is there whole, or not at all.

    Raises:
        Unmakeable: what is asked for cannot be made of it.
        DatasetError: `source` is no dataset or is damaged; `destination` exists or cannot be written.
    """
    _check(conversion)
    if destination.exists():
        raise DatasetError(f"{destination} already exists; give a new folder")
    reader = DatasetReader(source, without=conversion.without_cameras)
    kept = list(_select(reader, conversion))
    still = tuple(part.episode for part in kept if not part.length)
    kept = [part for part in kept if part.length]
    if not kept:
        raise Unmakeable(f"nothing is left of {source}: " + ("nothing moves" if still else "no episode is chosen"))
    features = _features(reader, conversion, kept[0].episode)
    numbers = [feature.key for feature in features.columns if feature.key in reader.keys]
    check_finite(reader, {part.episode for part in kept}, dict.fromkeys((*numbers, "timestamp")))
    video = conversion.video  # all videos of a dataset have one codec, copied or not
    video = video.model_copy(update={"codec": codec_of(reader, kept[0].episode) or video.codec})
    recoded, done, total = 0, 0, sum(part.length for part in kept)
    with whole_or_not_at_all(destination) as folder:
        target = _Target(folder, features, conversion.to)
        for part in kept:
            on_progress(done, total)
            recoded += _convert_episode(reader, part, target, video)
            done += part.length
        target.close(_system(reader, features, conversion), conversion.gr00t)
    on_progress(done, total)
    reader.close()
    parts = Counter(part.episode for part in kept)
    rows = sum(reader.meta.episodes[episode].length for episode in parts)
    parted = tuple(episode for episode, count in parts.items() if count > 1)
    return Converted(len(kept), done, rows, recoded, still, parted, tuple(_notices(reader, kept, features)))


@contextmanager
def whole_or_not_at_all(destination: Path) -> Iterator[Path]:
    """A folder that becomes `destination` at the end, or nothing where that does not come; raises DatasetError."""
    folder = stage_new(destination)
    try:
        yield folder
        publish(folder, destination)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


class _Target:
    """The new dataset, of either version."""

    def __init__(self, root: Path, features: Features, version: str) -> None:
        self.root, self.features, self.episodes = root, features, 0
        self._v21 = V21Writer(root, features) if version == VERSION_21 else None
        self._v30 = Catalogue.create(Layout(root), features) if self._v21 is None else None

    def add(self, finished: Finished, tasks: Sequence[str], details: Mapping[str, Any]) -> None:
        """Make an episode part of it; `tasks`: of every row."""
        content = schemas.json_file(details)
        if self._v21 is not None:
            self._v21.add(finished, tasks, content)
        elif self._v30 is not None:
            self._v30.add(finished, tasks, content)
        self.episodes += 1

    def close(self, system: Mapping[str, Any], is_gr00t: bool) -> None:
        """Write what is of the dataset as a whole."""
        if self._v21 is not None:
            self._v21.close()
        if system:
            write_atomically(Layout(self.root).system, schemas.json_file(system))
        if is_gr00t:
            write_atomically(self.root / "meta" / "modality.json", schemas.json_file(modality(self.features)))


def _convert_episode(reader: DatasetReader, part: _Kept, target: _Target, video: VideoConfig) -> int:
    """Put an episode into the new dataset; returns how many of its videos were coded anew."""
    features, extracts = target.features, {}
    with TemporaryDirectory(dir=target.root, prefix=".") as name:
        folder = Path(name)
        for feature in features.features:
            if feature.is_video:
                path, stored = folder / f"{camera_name(feature.key)}.mp4", reader.meta.features.find(feature.key)
                extracts[feature.key] = extract(reader, part.episode, stored, part.rows, path, features.fps, video)
        finished = Finished(
            folder,
            _columns(reader, part, features),
            {key: made.info for key, made in extracts.items()},
            {key: made.stats for key, made in extracts.items()},
        )
        target.add(finished, _tasks(reader, part), _details(reader, part, target.episodes))
    return sum(made.is_recoded for made in extracts.values())


def _columns(reader: DatasetReader, part: _Kept, features: Features) -> Mapping[str, Column]:
    """The columns of the rows kept, but LeRobot's own; what counts from an episode's beginning counts from the new."""
    keys = [feature.key for feature in features.columns]
    stored = reader.columns(part.episode, [key for key in keys if key in reader.keys])
    for key, values in stored.items():
        if values.shape[1:] != features.find(key).shape:
            said = f"{key} has {values.shape[1:]} values, and {features.find(key).shape} in meta/info.json"
            raise DatasetError(f"{reader.meta.root}: episode {part.episode}: {said}; correct the shape there")
    if part.rows is None:
        return stored
    columns = {key: values[part.rows] for key, values in stored.items()}
    if STAMP in columns:
        at = stored[SOURCE_FRAME][:, 0] if SOURCE_FRAME in stored else range(len(stored[STAMP]))
        columns[STAMP] = columns[STAMP] - (at[part.rows[0]] - at[0]) / reader.meta.fps
    if INTERVENTIONS in columns:
        columns[INTERVENTIONS] = columns[INTERVENTIONS] - (columns[INTERVENTIONS][0] - stored[INTERVENTIONS][0])
    if SOURCE_FRAME in keys and SOURCE_FRAME not in columns:
        columns[SOURCE_FRAME] = part.rows[:, None]
    return columns


def _tasks(reader: DatasetReader, part: _Kept) -> list[str]:
    """The task of every row kept."""
    numbers = reader.columns(part.episode, ["task_index"])["task_index"][:, 0]
    return [reader.task(int(number)) for number in (numbers if part.rows is None else numbers[part.rows])]


def _details(reader: DatasetReader, part: _Kept, episode: int) -> Mapping[str, Any]:
    """What the recorder knew of the episode; which it was, where it is another episode now, or not all of it."""
    meta = reader.meta.episodes[part.episode]
    details = dict(reader.meta.details(meta)) or {
        "task": meta.task, "success": None, "notes": "", "source": reader.meta.root.name, "seed": None, "extra": {},
    }  # fmt: skip
    if part.rows is not None or episode != part.episode:
        rows = [0, meta.length - 1] if part.rows is None else [int(part.rows[0]), int(part.rows[-1])]
        details["converted"] = {"episode": part.episode, "first_row": rows[0], "last_row": rows[1]}
    return details


def _system(reader: DatasetReader, features: Features, conversion: Conversion) -> Mapping[str, Any]:
    """What recorded the dataset; where other features are stored now, those too: a lost info.json is made of them."""
    said = dataset.read_system(reader.meta.layout)
    if features == reader.meta.features:
        return said
    sessions = said.get("sessions", [])
    last = sessions[-1] if sessions else {}
    session = {
        **last,
        "recording": {**last.get("recording", {}), "fps": features.fps},
        "robot_type": features.robot_type,
        "features": schemas.new_info(features)["features"],
        "converted": {"from": reader.meta.root.name, **conversion.model_dump(mode="json")},
    }
    return {**said, "sessions": [*sessions, session]}


def _check(conversion: Conversion) -> None:
    if conversion.keyframes and conversion.every_s is not None:
        raise Unmakeable("key frames or one row every so often: choose one of them")
    if conversion.gr00t and conversion.to != VERSION_21:
        raise Unmakeable(f"GR00T reads {VERSION_21}; its modality.json belongs to that")


def _chosen(reader: DatasetReader, conversion: Conversion) -> list[int]:
    """The episodes asked for."""
    count = len(reader.meta.episodes)
    chosen = list(range(count)) if conversion.episodes is None else list(conversion.episodes)
    unknown = [episode for episode in chosen if not 0 <= episode < count]
    if unknown:
        raise Unmakeable(f"{reader.meta.root} has no episode {', '.join(map(str, unknown))}; it has {count}, from 0")
    if len(set(chosen)) < len(chosen):
        raise Unmakeable(f"an episode is asked for twice: {chosen}")
    if conversion.successes_only:
        marks = {episode: reader.meta.details(reader.meta.episodes[episode]).get("success") for episode in chosen}
        if all(mark is None for mark in marks.values()):
            raise Unmakeable(f"no episode of {reader.meta.root} says whether it was a success")
        chosen = [episode for episode in chosen if marks[episode] is True]
    return chosen


def _select(reader: DatasetReader, conversion: Conversion) -> Iterator[_Kept]:
    """The episodes asked for, each with the rows that are kept; in parts where there are gaps in time."""
    stride = 1
    try:
        still, moved = (
            {key: motion.limits(key, _names(reader, key)) for key in keys} if is_wanted else {}
            for motion, keys, is_wanted in (
                (conversion.still, (STATE, ACTION), conversion.trim_static),
                (conversion.moved, (ACTION,), conversion.keyframes),
            )
        )
        if conversion.every_s is not None:
            stride = selection.stride(reader.meta.fps, conversion.every_s)
    except ValueError as error:
        raise Unmakeable(f"{reader.meta.root}: {error}") from None
    for episode in _chosen(reader, conversion):
        length = reader.meta.episodes[episode].length
        rows = np.arange(length)
        if still:
            margin, moving = round(conversion.margin_s * reader.meta.fps), reader.columns(episode, list(still))
            rows = rows[selection.trim({key: (moving[key], still[key]) for key in still}, margin)]
        if moved and len(rows):
            actions = reader.columns(episode, [ACTION])[ACTION]
            rows = rows[selection.keyframes(actions[rows], moved[ACTION])]
        for part in _parted(reader, episode, rows):
            chosen = part[::stride]
            yield _Kept(episode, len(chosen), None if len(chosen) == length and not conversion.keyframes else chosen)


def _parted(reader: DatasetReader, episode: int, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Rows of an episode, parted at gaps in time that only `timestamp` tells of: it will say k/fps."""
    segments = reader.segments(episode) if reader.time_key == "timestamp" else ()
    if len(segments) < 2 or not len(rows):
        return [rows]
    parts = (rows[(rows >= segment.start) & (rows < segment.stop)] for segment in segments)
    return [part for part in parts if len(part)]


def _names(reader: DatasetReader, key: str) -> Sequence[str]:
    feature = reader.meta.features.find(key)
    return feature.names or [f"dimension {place}" for place in range(feature.shape[0])]


def _notices(reader: DatasetReader, kept: Sequence[_Kept], features: Features) -> Iterator[str]:
    """What the new dataset has not of the source, or otherwise."""
    there = {feature.key for feature in features.features}
    for feature in reader.meta.features.features:
        if feature.key not in there:
            yield f"left out: {feature.key} ({feature.dtype}, shape {', '.join(map(str, feature.shape))})"
    uneven = {part.episode: off_s for part in kept if (off_s := _unevenness_s(reader, part)) > TOLERANCE_S}
    if uneven:
        yield (
            f"timestamp of {len(uneven)} episodes was up to {1000 * max(uneven.values()):.1f} ms off even steps of "
            f"1/{reader.meta.fps} s; it counts even steps now"
        )


def _unevenness_s(reader: DatasetReader, part: _Kept) -> float:
    """How far the timestamps of the rows kept are from even steps."""
    times_s = reader.columns(part.episode, ["timestamp"])["timestamp"][:, 0].astype(np.float64)
    rows = np.arange(len(times_s)) if part.rows is None else part.rows
    return float(np.abs(times_s[rows] - times_s[rows[0]] - (rows - rows[0]) / reader.meta.fps).max())


def _features(reader: DatasetReader, conversion: Conversion, episode: int) -> Features:
    """What the new dataset stores: images of tables become videos, and videos are described as they are.

    Columns that are no numbers, or in more than one dimension, are left out.
    """
    features = []
    for feature in reader.meta.features.features:
        if feature.key in reader.camera_keys:
            features.append(_described(reader, feature, episode))
        elif schemas.is_storable(feature):
            features.append(feature)
    if conversion.keyframes and all(feature.key != SOURCE_FRAME for feature in features):
        features.append(Feature(SOURCE_FRAME, "int64", (1,)))
    fps = reader.meta.fps
    if conversion.every_s is not None:
        fps //= selection.stride(fps, conversion.every_s)
    return replace(reader.meta.features, fps=fps, features=tuple(features))


def _described(reader: DatasetReader, feature: Feature, episode: int) -> Feature:
    """Some programs give an image's shape with the channels first: here it is (height, width, 3)."""
    shape = reader.images(episode, camera_name(feature.key), [0]).shape[1:]
    names = feature.names if feature.shape == shape else ("height", "width", "channels")
    return Feature(feature.key, "video", shape, names)
