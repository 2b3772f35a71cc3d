"""DatasetReader: rows of a LeRobot dataset in random order, with windows in time over columns and cameras."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from threading import RLock
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.recording.columns import Column, StoredImages, other_step_s, read_columns
from vla_ros.recording.dataset import read_episode_stats
from vla_ros.recording.dataset_v21 import DatasetMetaV21, load_meta
from vla_ros.recording.features import DEFAULTS, IMAGES, LEAVE_OUT, SOURCE_FRAME, STAMP, Feature
from vla_ros.recording.files import DatasetError
from vla_ros.recording.schemas import EpisodeMeta, Stats
from vla_ros.recording.segments import first_rows
from vla_ros.recording.video_reader import Decoders, ShortVideo, VideoReader
from vla_ros.values import Image

#: Columns that are read of every file: where an episode's rows are, at what times, and what their task is.
_PLACES = ("episode_index", "frame_index", "timestamp", "task_index")
_MOST_SHORT = 16_384  # videos of which the packets are known; an episode of 300 frames takes 6 kB
_INHERITED: list[Any] = []  # opened before a fork, perhaps amid another thread's read: never closed here


@dataclass(frozen=True, eq=False)
class Frame:
    """One row: key -> (N,) of every column, camera -> (H, W, 3) uint8 rgb, and where it is from."""

    values: Mapping[str, Column]
    images: Mapping[str, Image]
    task: str
    episode: int
    frame: int


@dataclass(frozen=True, eq=False)
class Window:
    """Rows around one: key -> (T, N), camera -> (T, H, W, 3) uint8 rgb, in the order of the offsets asked for.

    `is_padded`: key or camera -> (T,); where an offset led out of the row's segment (an episode is one, unless there
    is a gap in time), the segment's first or last row stands instead.
    """

    values: Mapping[str, Column]
    images: Mapping[str, NDArray[np.uint8]]
    is_padded: Mapping[str, NDArray[np.bool_]]
    task: str
    episode: int
    frame: int


class DatasetReader:
    """A dataset of LeRobot's format v3.0 (any number of episodes in a file) or v2.1: its numbers and images.

    Files are opened when they are needed; what is kept of them is bounded: columns used last, where the packets of
    short videos are, large videos open. It can be pickled and taken along into a fork: every process opens files for
    itself. Calls from several threads take turns.

    Raises:
        DatasetError: there is no such dataset, or it has no such camera.
    """

    def __init__(
        self,
        root: Path,
        cameras: Sequence[str] | None = None,
        open_videos: int = 64,
        column_bytes: int = 1024**3,
        without: Sequence[str] = (),
    ) -> None:
        """`cameras`: those that are read, by name; None: all but `without`.

        Of the large videos used last `open_videos` are kept open, which takes 1.5 MB (256 x 256) to 3 MB (640 x 480)
        each; of the columns used last `column_bytes`.
        """
        self._open_videos, self._column_bytes = open_videos, column_bytes
        self.meta = load_meta(Path(root))
        stored = {camera_name(f.key): f for f in self.meta.features.features if f.is_image}
        names = list(stored) if cameras is None else [camera_name(key) for key in cameras]
        left_out = [camera_name(key) for key in without]
        missing = [name for name in (*names, *left_out) if name not in stored]
        if missing:
            raise DatasetError(f"{root} has no camera {', '.join(missing)}; there are: {', '.join(stored) or 'none'}")
        self._cameras = {name: stored[name] for name in names if name not in left_out}
        self._columns = [f.key for f in (*self.meta.features.features, *DEFAULTS) if f.is_number]
        self._places = [key for key in (*_PLACES, STAMP, SOURCE_FRAME) if key in self._columns]
        self._starts = np.array([episode.from_index for episode in self.meta.episodes], dtype=np.int64)
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._lock = RLock()
        self._files: OrderedDict[tuple[int, int], dict[str, Column]] = OrderedDict()
        self._kept_bytes = 0  # of the columns in it
        self._rows: dict[int, slice] = {}
        self._segments: dict[int, tuple[range, ...]] = {}
        self._stats: tuple[Path | None, Mapping[int, Stats]] = (None, {})
        self._videos: OrderedDict[tuple[int, int, str], VideoReader | StoredImages] = OrderedDict()
        self._short: OrderedDict[tuple[int, int, str], ShortVideo] = OrderedDict()
        self._decoders = Decoders()

    def __getstate__(self) -> dict[str, Any]:
        opened = {"_process", "_lock", "_files", "_kept_bytes", "_rows", "_segments", "_stats"}
        opened |= {"_videos", "_short", "_decoders"}
        return {name: value for name, value in vars(self).items() if name not in opened}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def __len__(self) -> int:
        return self.meta.frames

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of those that are read."""
        return tuple(self._cameras)

    @property
    def camera_keys(self) -> tuple[str, ...]:
        """Keys of the features of those that are read."""
        return tuple(feature.key for feature in self._cameras.values())

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the columns of numbers."""
        return tuple(self._columns)

    def close(self) -> None:
        """Close the videos; a further read opens them again."""
        self._be_in_this_process()
        with self._lock:
            while self._videos:
                self._videos.popitem()[1].close()
            self._decoders = Decoders()

    def locate(self, index: int) -> tuple[int, int]:
        """(episode, row in it) of row `index`, which may be negative.

        Raises:
            IndexError: there is no such row.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {self.meta.root}: it has {len(self)}")
        index %= len(self)
        episode = int(np.searchsorted(self._starts, index, side="right")) - 1
        return episode, index - int(self._starts[episode])

    def row(self, index: int) -> Frame:
        """Row `index` with every column and every camera; raises IndexError, DatasetError."""
        window = self.window(index, dict.fromkeys((*self._columns, *self._cameras), (0,)))
        return Frame(
            MappingProxyType({key: values[0] for key, values in window.values.items()}),
            MappingProxyType({camera: images[0] for camera, images in window.images.items()}),
            window.task,
            window.episode,
            window.frame,
        )

    def window(self, index: int, offsets: Mapping[str, Sequence[int]]) -> Window:
        """What stands at `offsets` (key or camera -> rows after row `index`, negative: before) in its segment.

        A camera is called by its name or by its feature's key. Several offsets of a camera seek its video once.

        Raises:
            IndexError: there is no row `index`.
            DatasetError: there is no such key or camera, or no offset is given for it; or a file cannot be read.
        """
        episode, frame = self.locate(index)
        self._file(episode, [key for key in offsets if camera_name(key) not in self._cameras])
        segment = self.segment(episode, frame)
        values: dict[str, Column] = {}
        images: dict[str, NDArray[np.uint8]] = {}
        padded: dict[str, NDArray[np.bool_]] = {}
        for key, steps in offsets.items():
            wanted = frame + np.asarray(steps, dtype=np.int64)
            if wanted.ndim != 1 or not len(wanted):
                raise DatasetError(f"offsets of {key} are a list of one or more whole numbers, given {steps!r}")
            rows = np.clip(wanted, segment[0], segment[-1])
            name = camera_name(key)
            if name in self._cameras:
                images[name] = self.images(episode, name, rows)
            else:
                name, values[key] = key, self._column(episode, key)[rows]
            padded[name] = rows != wanted
        return Window(
            MappingProxyType(values),
            MappingProxyType(images),
            MappingProxyType(padded),
            self.task(int(self._column(episode, "task_index")[frame, 0])),
            episode,
            frame,
        )

    @property
    def time_key(self) -> str:
        """The column that tells when rows were captured: by each camera, where that is recorded."""
        has_stamps = STAMP in self._columns and self.meta.features.find(STAMP).shape[0] > 0
        return STAMP if has_stamps else "timestamp"

    def segments(self, episode: int) -> tuple[range, ...]:
        """The rows of an episode, parted where there is a gap in time."""
        self._be_in_this_process()
        if episode not in self._segments:
            times_s = self._column(episode, self.time_key)
            steps = self._column(episode, SOURCE_FRAME if SOURCE_FRAME in self._columns else "frame_index")[:, 0]
            firsts = first_rows(times_s.astype(np.float64), steps.astype(np.int64), self.meta.fps).tolist()
            self._segments[episode] = tuple(range(*pair) for pair in pairwise([*firsts, len(steps)]))
        return self._segments[episode]

    def segment(self, episode: int, frame: int) -> range:
        """The segment that row `frame` of an episode is in."""
        return next(rows for rows in self.segments(episode) if frame in rows)

    def columns(self, episode: int, keys: Sequence[str] | None = None) -> Mapping[str, Column]:
        """key -> (T, N), read-only, of a whole episode; without `keys` every column; raises DatasetError."""
        keys = self._columns if keys is None else keys
        self._file(episode, keys)
        return MappingProxyType({key: self._column(episode, key) for key in keys})

    def stats(self, episode: int) -> Stats:
        """Statistics of an episode's features; empty where there are none, as in v2.0; raises DatasetError."""
        found = self.meta.episodes[episode]
        if isinstance(self.meta, DatasetMetaV21):
            return self.meta.episode_stats(found)
        path = self.meta.layout.episodes_file(found.metadata_chunk, found.metadata_file)
        self._be_in_this_process()
        with self._lock:
            if path != self._stats[0]:  # a file may have those of many episodes
                self._stats = path, dict(read_episode_stats(path))
            return self._stats[1].get(episode, {})

    def task(self, number: int) -> str:
        """The text of a `task_index`; raises DatasetError where there is none."""
        try:
            return self.meta.tasks[number]
        except KeyError:
            raise DatasetError(f"{self.meta.root}: meta/tasks has no task {number}, which its rows name") from None

    def images(self, episode: int, camera: str, rows: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """(T, H, W, 3) of these rows of an episode, in any order; raises DatasetError."""
        feature = self._cameras.get(camera_name(camera))
        if feature is None:
            raise self._unknown(camera)
        self._be_in_this_process()
        with self._lock:
            frames, first = self._opened(episode, feature)
            return frames([first + int(row) for row in rows])

    def _unknown(self, key: str) -> DatasetError:
        return DatasetError(
            f"{self.meta.root} has no {key!r}; there are columns {', '.join(self._columns)}, and cameras "
            f"{', '.join(self._cameras) or 'none'}"
        )

    def _column(self, episode: int, key: str) -> Column:
        return self._file(episode, [key])[key][self._rows[episode]]

    def _file(self, episode: int, keys: Sequence[str] = ()) -> Mapping[str, Column]:
        """The columns `keys`, and others, of the file that the episode is in, each read once.

        Those that nobody asks for are not read: what is wrong with them does not matter.
        """
        self._be_in_this_process()
        if not 0 <= episode < len(self.meta.episodes):
            raise DatasetError(f"{self.meta.root} has no episode {episode}; it has {len(self.meta.episodes)}, from 0")
        found = self.meta.episodes[episode]
        name = (found.chunk, found.file)
        with self._lock:
            columns = self._files.setdefault(name, {})
            self._files.move_to_end(name)
            if missing := [key for key in (*keys, *self._places) if key not in columns]:
                if unknown := [key for key in keys if key not in self._columns]:
                    raise self._unknown(unknown[0])
                read = read_columns(self.meta.data_path(found), dict.fromkeys(missing))
                columns.update(read)
                self._kept_bytes += sum(column.nbytes for column in read.values())
                while self._kept_bytes > self._column_bytes and len(self._files) > 1:  # the file used last stays
                    forgotten = self._files.popitem(last=False)[1]
                    self._kept_bytes -= sum(column.nbytes for column in forgotten.values())
            if episode not in self._rows:
                self._rows[episode] = self._find(episode, columns)
            return columns

    def _find(self, episode: int, columns: Mapping[str, Column]) -> slice:
        """Where the episode's rows are in its file; raises DatasetError where they are not all there, in order."""
        found = self.meta.episodes[episode]
        length = found.length
        places = np.flatnonzero(columns["episode_index"][:, 0] == self.meta.stored_index(found))
        frames = columns["frame_index"][places, 0]
        if not np.array_equal(frames, np.arange(length)) or np.any(np.diff(places) != 1):
            raise DatasetError(
                f"{self.meta.data_path(found)}: episode {episode} should be {length} rows in order; there are "
                f"{len(places)}, with frame_index {frames[:5].tolist()} and so on"
            )
        self._check_rate(found, columns["timestamp"][places, 0])
        return slice(int(places[0]), int(places[0]) + length)

    def _check_rate(self, found: EpisodeMeta, times_s: Column) -> None:
        """Raise DatasetError where an episode's rows are at another rate than fps, by their timestamps."""
        step_s = other_step_s(times_s, self.meta.fps)
        if step_s is not None:
            raise DatasetError(
                f"{self.meta.data_path(found)}: timestamp says that rows of episode {found.index} are {step_s:.4g} s "
                f"apart, and fps in meta/info.json ({self.meta.fps}) that they are {1 / self.meta.fps:.4g} s; correct "
                "the wrong one"
            )

    def _opened(self, episode: int, feature: Feature) -> tuple[Callable[[Sequence[int]], NDArray[np.uint8]], int]:
        """What gives frames of the file with an episode's images, and which of them is the episode's first."""
        self._file(episode)
        found, key = self.meta.episodes[episode], feature.key
        self._refuse_depth(feature)
        if feature.is_video:
            first = self.meta.first_frame(found, key)
            name = (found.clips[key].chunk, found.clips[key].file, key)
        else:
            first, name = self._rows[episode].start, (found.chunk, found.file, key)
        if name in self._short:
            self._short.move_to_end(name)
            return partial(self._decoders.frames, self._short[name]), first
        if name not in self._videos:
            if not feature.is_video:
                self._keep_open(name, StoredImages(self.meta.root, self.meta.data_path(found), key))
                return self._videos[name].frames, first
            video = VideoReader(self.meta.video_path(found, key), self.meta.fps)
            short = video.short()
            if short is not None:
                video.close()
                self._short[name] = short
                if len(self._short) > _MOST_SHORT:
                    self._short.popitem(last=False)
                return partial(self._decoders.frames, short), first
            self._keep_open(name, video)
        self._videos.move_to_end(name)
        return self._videos[name].frames, first

    def _keep_open(self, name: tuple[int, int, str], images: VideoReader | StoredImages) -> None:
        while len(self._videos) >= self._open_videos:
            self._videos.popitem(last=False)[1].close()
        self._videos[name] = images

    def _refuse_depth(self, feature: Feature) -> None:
        made = self.meta.info["features"][feature.key].get("info")
        if isinstance(made, dict) and (made.get("is_depth_map") or made.get("video.is_depth_map")):
            raise DatasetError(f"{feature.key} of {self.meta.root} holds depth, not colour images; {LEAVE_OUT}")

    def _be_in_this_process(self) -> None:
        """After a fork: files are shared with the parent, down to where each is read; this process opens its own."""
        if self._process != os.getpid():
            _INHERITED.append((self._videos, self._short, self._decoders))
            self._forget()


def camera_name(key: str) -> str:
    """What a camera is called whose feature has this key."""
    return key.removeprefix(IMAGES)
