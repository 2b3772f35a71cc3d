"""What lies in a dataset's folder, however broken: each file read as far as it goes, with what keeps it from more.

Nothing here raises for a damaged file: a part that cannot be read becomes a `Broken`, and reading goes on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa

from vla_ros.recording import dataset_v21
from vla_ros.recording.dataset import episode_of, line_stats, lines_of, tasks_of
from vla_ros.recording.dataset_v21 import DATA_PATH_21, VIDEO_PATH_21, Line
from vla_ros.recording.features import feature_of, whole_fps
from vla_ros.recording.files import (
    DATA_PATH,
    VIDEO_PATH,
    DatasetError,
    Layout,
    inside,
    load_json,
    ordinary,
)
from vla_ros.recording.schemas import stats_from_json
from vla_ros.recording.tables import opened, read_rows, read_schema
from vla_ros.recording.video_reader import TOLERANCE_S, has_text
from vla_ros.values import Array

V30, V21 = "v3.0", "v2.1"
INFO, STATS, TASKS, SYSTEM = "meta/info.json", "meta/stats.json", "meta/tasks.parquet", "meta/vla_ros/system.json"
DETAILS = "meta/vla_ros/episodes"
NO_FILE = "there is no such file"
UNKNOWN_TASK = "unknown task"
_EPISODES_21, _TASKS_21, _STATS_21 = "meta/episodes.jsonl", "meta/tasks.jsonl", "meta/episodes_stats.jsonl"


@dataclass(frozen=True)
class Broken:
    """A file (its path below the root) that cannot be read, or not to its end, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Segment:
    """An episode's part of a video file: path below the root, and its times in the file [s]."""

    path: str
    from_s: float
    to_s: float


@dataclass(frozen=True, eq=False)
class Episode:
    """An episode as the metadata has it; `first` is its first row's number in the whole dataset."""

    index: int
    length: int
    tasks: tuple[str, ...]
    data: str
    first: int
    last: int
    videos: Mapping[str, Segment]
    statistics: Mapping[str, Mapping[str, Array]]
    source: str


@dataclass(frozen=True, eq=False)
class Video:
    """What a video file's packets say: `pts` [s] in the order shown, and how many frames its header promises.

    `has_text`: what the file says of itself, as what wrote it, is UTF-8; else PyAV, and with it LeRobot, refuses it.
    """

    codec: str
    can_decode: bool
    width: int
    height: int
    pix_fmt: str
    extradata: bytes
    pts: tuple[Fraction, ...]
    promised: int
    has_text: bool = True

    @property
    def frames(self) -> int:
        """How many frames are whole."""
        return len(self.pts)

    @property
    def kind(self) -> tuple[Any, ...]:
        """All in which videos must agree to become one."""
        return self.codec, self.width, self.height, self.pix_fmt, self.extradata


@dataclass(eq=False)
class Scan:
    """A dataset's metadata, and the files that could not be read."""

    root: Path
    layout: Layout
    version: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)
    features: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # of info.json, those that can be
    tasks: Mapping[int, str] = field(default_factory=dict)
    episodes: list[Episode] = field(default_factory=list)
    statistics: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)
    details: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    broken: list[Broken] = field(default_factory=list)

    @property
    def video_keys(self) -> tuple[str, ...]:
        """The features that are videos."""
        return tuple(key for key, entry in self.features.items() if entry.get("dtype") == "video")

    @property
    def fps(self) -> int:
        """Rows per second; 0 where info.json does not say."""
        try:
            return whole_fps(self.info.get("fps"))
        except ValueError:
            return 0

    def is_broken(self, path: str) -> bool:
        """Whether this file could not be read."""
        return any(broken.path == path for broken in self.broken)

    def files(self, folder: str, suffix: str) -> list[str]:
        """All files of this kind below `folder`, as paths below the root, sorted; also those in linked folders."""
        found: list[str] = []
        seen: set[Path] = set()
        for at, folders, names in os.walk(inside(self.root, folder), followlinks=True):
            folders[:] = [name for name in folders if not (Path(at) / name).is_symlink() or _is_new_to(seen, at, name)]
            paths = (Path(at) / name for name in names if name.endswith(suffix))
            found += [path.relative_to(self.root).as_posix() for path in paths if path.is_file()]
        return sorted(found)


def _is_new_to(seen: set[Path], at: str, name: str) -> bool:
    """Whether a linked folder was not looked into yet: links may lead in a circle."""
    there = (Path(at) / name).resolve()
    is_new = there not in seen
    seen.add(there)
    return is_new


def _features(found: Scan) -> Iterator[tuple[str, Mapping[str, Any]]]:
    described = found.info.get("features", {})
    for key, entry in described.items() if isinstance(described, dict) else ():
        try:
            feature_of(key, entry)
            yield key, entry
        except ValueError as error:
            note(found, INFO, str(error))


def scan(root: Path, info: Any = None) -> Scan:
    """The metadata of the dataset at `root`, v3.0 or v2.1; `info` stands for its info.json."""
    found = info_of(root, info)
    found.layout = _layout(found)
    found.features = dict(_features(found))
    if found.version == V21:
        _scan_v21(found)
    else:
        _scan_v30(found)
    found.episodes.sort(key=lambda episode: (episode.index, episode.source))
    found.details = dict(_details(found))
    return found


def info_of(root: Path, info: Any = None) -> Scan:
    """The same of info.json alone."""
    found = Scan(root, Layout(root))
    info = _json(found, INFO) if info is None else info
    if isinstance(info, dict):
        found.info = info
    elif not found.is_broken(INFO):
        note(found, INFO, "it is not an object")
    found.version = _version(found)
    return found


def table(found: Scan, path: str) -> pa.Table | None:
    """All rows of a parquet file that can be read, noting in `found` what cannot; None where nothing can."""
    tables, failed = [], ""
    try:
        with opened(found.root / path, page_checksum_verification=True) as file:
            schema = file.schema_arrow
            for number in range(file.num_row_groups):
                try:
                    tables.append(read_rows(file, found.root / path, groups=[number]))
                except (OSError, DatasetError, pa.ArrowException) as error:
                    failed = failed or f"row group {number}: {_line(error)}"
    except DatasetError as error:
        note(found, path, _line(error.__cause__ or error))
        return None
    if failed:
        note(found, path, failed)
    return pa.concat_tables(tables) if tables else schema.empty_table()


def schema_of(found: Scan, path: str) -> pa.Schema | None:
    """The columns of a parquet file, or None, noted in `found`, where it cannot be read."""
    try:
        return read_schema(found.root / path)
    except DatasetError as error:
        note(found, path, _line(error.__cause__ or error))
        return None


def note(found: Scan, path: str, reason: str) -> None:
    """Remember that a file is broken, once."""
    if not found.is_broken(path):
        found.broken.append(Broken(path, reason))


def column(rows: pa.Table, key: str) -> Array:
    """A column's values, (T,) or (T, N); raises ValueError where they are no numbers or of different lengths."""
    values = rows.column(key).combine_chunks()
    if pa.types.is_fixed_size_list(values.type):
        width = values.type.list_size
        return np.asarray(values.flatten().to_numpy(zero_copy_only=False)).reshape(-1, width)
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        return np.array(values.to_pylist())
    return np.asarray(values.to_numpy(zero_copy_only=False))


def is_number(feature: Mapping[str, Any]) -> bool:
    """Whether the feature's column holds numbers in one dimension: what can be counted and compared."""
    return feature.get("dtype") in NUMBERS and len(feature.get("shape") or ()) == 1


NUMBERS = {
    "float32": pa.float32(), "float64": pa.float64(), "float16": pa.float16(), "bool": pa.bool_(),
    "int8": pa.int8(), "int16": pa.int16(), "int32": pa.int32(), "int64": pa.int64(),
    "uint8": pa.uint8(), "uint16": pa.uint16(), "uint32": pa.uint32(), "uint64": pa.uint64(),
}  # fmt: skip


def video(found: Scan, path: str) -> Video | None:
    """What a video's packets say, or None, noted in `found`, where there is no readable video."""
    file = found.root / path
    try:
        status = ordinary(file).stat()
        return _video(file, status.st_size, status.st_mtime_ns)
    except (OSError, ValueError, av.FFmpegError) as error:
        note(found, path, _line(error))
        return None


@lru_cache(maxsize=64)  # many episodes of one file are asked for one after another
def _video(path: Path, size: int, changed_ns: int) -> Video:
    with av.open(str(path), metadata_errors="replace") as container:
        if not container.streams.video:
            raise ValueError("it has no video stream")
        stream = container.streams.video[0]
        context = stream.codec_context
        pts: list[Fraction] = []
        for packet in container.demux(stream):
            if packet.size and packet.pts is not None and not packet.is_corrupt and not packet.is_discard:
                pts.append(packet.pts * stream.time_base)
        pts.sort()  # packets stand in the order in which they are decoded
        name = context.codec.canonical_name if context is not None else ""
        return Video(
            codec=name,
            can_decode=context is not None and bool(context.codec.is_decoder),
            width=context.width if context is not None else 0,
            height=context.height if context is not None else 0,
            pix_fmt=str(context.pix_fmt) if context is not None else "",
            extradata=bytes(context.extradata or b"") if context is not None else b"",
            pts=tuple(pts),
            promised=stream.frames,
            has_text=has_text(path),
        )


def is_shown_at(pts: Fraction, number: int, fps: int) -> bool:
    """Whether a time in a video is that of a frame, as near as LeRobot needs it: not every clock has 1 / fps."""
    right = Fraction(number, fps)
    return pts == right or abs(pts - right) < TOLERANCE_S


def _scan_v30(found: Scan) -> None:
    for path in found.files("meta/episodes", ".parquet"):
        rows = table(found, path)
        try:
            lines = lines_of(rows) if rows is not None else []
        except DatasetError as error:
            note(found, path, str(error))
            continue
        for line in lines:
            try:
                found.episodes.append(_episode_v30(found, line, path))
            except DatasetError as error:
                note(found, path, f"a row is wrong: {error}")
    tasks = table(found, TASKS)
    try:
        found.tasks = tasks_of(tasks) if tasks is not None else {}
    except ValueError as error:
        note(found, TASKS, str(error))
    stats = _json(found, STATS)
    try:
        found.statistics = stats_from_json({} if stats is None else stats)
    except DatasetError as error:
        note(found, STATS, str(error))


def _episode_v30(found: Scan, line: Mapping[str, Any], source: str) -> Episode:
    read = episode_of(line, found.video_keys)
    return Episode(
        index=read.index,
        length=read.length,
        tasks=read.tasks,
        data=found.layout.data_name(read.chunk, read.file),
        first=read.from_index,
        last=read.to_index,
        videos={
            key: Segment(found.layout.video_name(key, clip.chunk, clip.file), clip.from_s, clip.to_s)
            for key, clip in read.clips.items()
        },
        statistics=line_stats(line),
        source=source,
    )


def _scan_v21(found: Scan) -> None:
    found.tasks = dict(_lines(found, _TASKS_21, dataset_v21.task_of))
    statistics = dict(_lines(found, _STATS_21, dataset_v21.stats_of))
    first = 0
    for index, length, tasks in _lines(found, _EPISODES_21, dataset_v21.tasks_of):
        place = index // found.layout.chunks_size, index
        videos = {
            key: Segment(found.layout.video_name(key, *place), 0.0, length / (found.fps or 1))
            for key in found.video_keys
        }
        data, of_episode = found.layout.data_name(*place), statistics.get(index, {})
        found.episodes.append(
            Episode(index, length, tasks, data, first, first + length, videos, of_episode, _EPISODES_21)
        )
        first += length


def _version(found: Scan) -> str:
    said = found.info.get("codebase_version")
    if isinstance(said, str) and said:
        return V21 if said == "v2.0" else said  # which is the same but for statistics
    return V21 if (found.root / _EPISODES_21).exists() else V30


def _layout(found: Scan) -> Layout:
    """The one of info.json, or where that says none that can be, the usual one."""
    data, videos = (DATA_PATH_21, VIDEO_PATH_21) if found.version == V21 else (DATA_PATH, VIDEO_PATH)
    try:
        return Layout.of(found.root, {"data_path": data, "video_path": videos, **found.info})
    except DatasetError as error:
        note(found, INFO, str(error))
        return Layout(found.root, data, videos)


def _details(found: Scan) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for path in found.files(DETAILS, ".json"):
        stem = Path(path).stem
        details = _json(found, path)
        if isinstance(details, dict) and stem.removeprefix("episode-").isdigit():
            yield int(stem.removeprefix("episode-")), details
        elif details is not None:
            note(found, path, "it is not an object called episode-NNNNNN.json")


def _json(found: Scan, path: str) -> Any:
    try:
        return load_json(found.root / path)
    except (OSError, ValueError) as error:
        note(found, path, _line(error))
    return None


def _lines(found: Scan, path: str, take: Callable[[Mapping[str, Any]], Line]) -> Iterator[Line]:
    """What `take` makes of each object of a file of JSON lines; what cannot be is noted and left out."""
    try:
        lines = list(dataset_v21.read_lines(found.root / path, take))
    except (OSError, UnicodeDecodeError) as error:
        note(found, path, _line(error))
        return
    for number, line in lines:
        if isinstance(line, DatasetError):
            note(found, path, f"line {number}: {line}")
        else:
            yield line


def _line(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return NO_FILE
    said = getattr(error, "strerror", None)  # of the system and of FFmpeg, without numbers and paths
    if said:
        return str(said)
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
