"""The metadata of a LeRobot v3.0 dataset, read: ours, what LeRobot 0.4.4 and 0.6.1 write, compacted ones."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from vla_ros.recording import features as feature_sets
from vla_ros.recording.episode_index import EpisodeIndex, Line
from vla_ros.recording.features import LEAVE_OUT, Features
from vla_ros.recording.files import EPISODES_PATH, MOST, DatasetError, Layout, load_json, reported
from vla_ros.recording.schemas import STATISTICS, VERSION, Clip, EpisodeMeta, Stats, statistic, stats_from_json
from vla_ros.recording.tables import read_schema, read_table

_LONGEST_TEXT = 10_000  # characters
_PLACE = re.compile(r"chunk-(\d{1,9})/file-(\d{1,9})\.parquet$")
_READERS = 4  # files of metadata that are read at a time; their footers are long
_INDEXED_FILES = 32  # fewer are read as quickly as an index


@dataclass(frozen=True)
class DatasetMeta:
    """What a dataset says of itself. `stats`: over all episodes; empty for a dataset without any."""

    layout: Layout
    info: Mapping[str, Any]
    features: Features
    tasks: Mapping[int, str]
    episodes: tuple[EpisodeMeta, ...]
    stats: Stats

    @classmethod
    def load(cls, root: Path) -> DatasetMeta:
        """Read `root`; raises DatasetError where there is no v3.0 dataset, or its parts contradict each other."""
        info = read_info(root)
        layout = Layout.of(root, info)
        episodes = read_episodes(layout)
        row = 0
        for number, episode in enumerate(episodes):
            if (episode.index, episode.from_index, episode.to_index - row) != (number, row, episode.length):
                raise DatasetError(
                    f"{root}: where episode {number} of rows {row} and on should be, meta/episodes has episode "
                    f"{episode.index} of rows {episode.from_index} to {episode.to_index} (length {episode.length})"
                )
            if not episode.length:
                raise DatasetError(f"{root}: episode {number} has no rows by meta/episodes")
            row = episode.to_index
        return cls(layout, info, read_features(root, info), read_tasks(layout), episodes, read_stats(layout))

    @property
    def root(self) -> Path:
        """The dataset's folder."""
        return self.layout.root

    @property
    def fps(self) -> int:
        """Rows per second."""
        return self.features.fps

    @property
    def frames(self) -> int:
        """Rows of all episodes."""
        return self.episodes[-1].to_index if self.episodes else 0

    def seeds(self) -> frozenset[int]:
        """Those of its simulated episodes; raises DatasetError."""
        said = (self.details(episode).get("seed") for episode in self.episodes)
        return frozenset(seed for seed in said if isinstance(seed, int))

    def data_path(self, episode: EpisodeMeta) -> Path:
        """The file that has the episode's columns."""
        return self.layout.data_file(episode.chunk, episode.file)

    def video_path(self, episode: EpisodeMeta, key: str) -> Path:
        """The file that has the episode's frames of the video `key`."""
        clip = self._clip(episode, key)
        return self.layout.video_file(key, clip.chunk, clip.file)

    def first_frame(self, episode: EpisodeMeta, key: str) -> int:
        """Which frame of that file is the episode's first."""
        return round(self._clip(episode, key).from_s * self.fps)

    def _clip(self, episode: EpisodeMeta, key: str) -> Clip:
        try:
            return episode.clips[key]
        except KeyError:
            raise DatasetError(f"episode {episode.index} of {self.root} has no video of {key}; {LEAVE_OUT}") from None

    def episode_stats(self, episode: EpisodeMeta) -> Stats:
        """Statistics of one episode, read from its metadata."""
        path = self.layout.episodes_file(episode.metadata_chunk, episode.metadata_file)
        for index, stats in read_episode_stats(path):
            if index == episode.index:
                return stats
        raise DatasetError(f"{path} has no episode {episode.index}")

    def details(self, episode: EpisodeMeta) -> Mapping[str, Any]:
        """What the recorder knew of an episode beside LeRobot's metadata; empty where another program wrote it."""
        return read_details(self.layout, self.stored_index(episode))

    def stored_index(self, episode: EpisodeMeta) -> int:
        """The number that the episode has in its files."""
        return episode.index


def read_info(root: Path) -> dict[str, Any]:
    """The content of info.json; raises DatasetError where there is none, or it is not of v3.0."""
    path = Layout(root).info
    if not path.is_file():
        raise DatasetError(f"{root} is not a LeRobot dataset: it has no meta/info.json")
    info = _read_json(path)
    version = info.get("codebase_version") if isinstance(info, dict) else None
    if version != VERSION:
        raise DatasetError(f"{root} is a dataset of version {version}; `vla-ros convert` makes {VERSION} of v2.1")
    missing = [key for key in ("fps", "features", "data_path") if key not in info]
    if missing:
        raise DatasetError(f"{path} has no {', '.join(missing)}")
    return dict(info)


def read_features(root: Path, info: Mapping[str, Any]) -> Features:
    """The features that info.json names; raises DatasetError."""
    try:
        found = feature_sets.from_info(info)
    except ValueError as error:
        raise DatasetError(f"{Layout(root).info}: {error}") from error
    if not found.features:
        raise DatasetError(f"{Layout(root).info}: features has only LeRobot's own columns; others are needed")
    return found


def read_tasks(layout: Layout) -> dict[int, str]:
    """Number -> text, of meta/tasks.parquet, whatever its column of texts is called; empty where there is none."""
    if not layout.tasks.is_file():
        return {}
    table = read_table(layout.tasks)
    try:
        return dict(sorted(tasks_of(table).items()))
    except ValueError as error:
        raise DatasetError(f"{layout.tasks} {error}") from None


def tasks_of(table: pa.Table) -> dict[int, str]:
    """Number -> text of a table of tasks, whatever else it has; raises ValueError where it has no such columns."""
    others = [field for field in table.schema if field.name != "task_index"]
    texts = [field.name for field in others if pa.types.is_string(field.type) or len(others) == 1]
    named = [name for name in ("task", "__index_level_0__") if name in table.column_names] or texts
    if "task_index" not in table.column_names or not named or (len(named) > 1 and named[0] != "task"):
        raise ValueError(f"has the columns {table.column_names}; it should have task_index and task")
    numbers, tasks = table["task_index"].to_pylist(), table[named[0]].to_pylist()
    if None in numbers or None in tasks:
        raise ValueError("has a row without a number or a text")
    return {
        whole({"task_index": number}, "task_index"): checked_text(text, f"task {number}")
        for number, text in zip(numbers, tasks, strict=True)
    }


def read_stats(layout: Layout) -> Stats:
    """The content of meta/stats.json; empty where there is none."""
    if not layout.stats.is_file():
        return {}
    try:
        return stats_from_json(_read_json(layout.stats))
    except DatasetError as error:
        raise DatasetError(f"{layout.stats} cannot be read: {error}") from error


def read_details(layout: Layout, episode: int) -> Mapping[str, Any]:
    """The content of an episode's details file; empty where there is none."""
    return read_object(layout.details_file(episode))


def read_system(layout: Layout) -> Mapping[str, Any]:
    """The content of system.json; empty where there is none. Raises DatasetError where its sessions are none."""
    content = read_object(layout.system)
    sessions = content.get("sessions", [])
    if not isinstance(sessions, list) or not all(isinstance(session, dict) for session in sessions):
        raise DatasetError(f"{layout.system} should have `sessions`, a list of objects")
    return content


def episodes_files(layout: Layout) -> list[Path]:
    """The files of meta/episodes, in their order."""
    with reported(f"{layout.episodes} cannot be read"):
        return sorted(layout.episodes.glob("*/*.parquet"))


def read_episodes(layout: Layout) -> tuple[EpisodeMeta, ...]:
    """Every episode of meta/episodes, by its number; raises DatasetError for a file that is not readable."""
    files = episodes_files(layout)
    if not files:
        return ()
    names = _episode_columns(files[0])  # the same in all: to find them again takes as long as to read them
    index = EpisodeIndex(layout, names) if len(files) >= _INDEXED_FILES else None
    known: dict[Path, Sequence[Line]] = {} if index is None else {**index.read(files)}
    unknown = [path for path in files if path not in known]
    with ThreadPoolExecutor(_READERS) as pool:
        known |= zip(unknown, pool.map(lambda path: _lines(path, names), unknown), strict=True)
    if index is not None and unknown:
        index.write(known)
    episodes = (episode for path in files for episode in _episodes_of(path, names, known[path]))
    return tuple(sorted(episodes, key=lambda episode: episode.index))


def read_episodes_of(path: Path) -> list[EpisodeMeta]:
    """The episodes of one file of meta/episodes; raises DatasetError where it is not readable."""
    names = _episode_columns(path)
    return _episodes_of(path, names, _lines(path, names))


def _lines(path: Path, names: Sequence[str]) -> Sequence[Line]:
    try:
        return lines_of(read_table(path, names))
    except DatasetError as error:
        raise DatasetError(f"{path} is not a LeRobot episodes file: {error}") from error


def _episodes_of(path: Path, names: Sequence[str], lines: Sequence[Line]) -> list[EpisodeMeta]:
    videos = [name.split("/")[1] for name in names if name.startswith("videos/") and name.endswith("/chunk_index")]
    place = _PLACE.search(path.as_posix())
    try:
        if place is None:
            raise DatasetError(f"it is not called like {EPISODES_PATH}")
        return [episode_of(line, videos, int(place[1]), int(place[2])) for line in lines]
    except DatasetError as error:
        raise DatasetError(f"{path} is not a LeRobot episodes file: {error}") from error


def lines_of(table: pa.Table) -> list[dict[str, Any]]:
    """The rows of a table; raises DatasetError for a text that is none."""
    try:
        lines: list[dict[str, Any]] = table.to_pylist()
        return lines
    except ValueError as error:
        raise DatasetError(f"it has a text that is not UTF-8: {error}") from None


def _episode_columns(path: Path) -> list[str]:
    return [name for name in read_schema(path).names if not name.startswith("stats/")]


def read_episode_stats(path: Path) -> Iterator[tuple[int, Stats]]:
    """(episode, its statistics) of every line of a file of meta/episodes."""
    table = read_table(path)
    names = [name for name in table.column_names if name.startswith("stats/") and name.count("/") == 2]
    try:
        for line in table.select(
            [name for name in ("episode_index", *names) if name in table.column_names]
        ).to_pylist():
            yield whole(line, "episode_index"), line_stats(line)
    except DatasetError as error:
        raise DatasetError(f"{path} is not a LeRobot episodes file: {error}") from error


def line_stats(line: Mapping[str, Any]) -> Stats:
    """The statistics in a line of meta/episodes; raises DatasetError."""
    stats: dict[str, dict[str, Any]] = {}
    for name, value in line.items():
        _, key, called = name.split("/") if name.startswith("stats/") and name.count("/") == 2 else ("", "", "")
        if called in STATISTICS and value is not None:
            stats.setdefault(key, {})[called] = statistic(key, called, value)
    return stats


def episode_of(
    line: Mapping[str, Any], videos: Sequence[str], metadata_chunk: int = 0, metadata_file: int = 0
) -> EpisodeMeta:
    """An episode of its line in meta/episodes; raises DatasetError for what cannot be."""
    return EpisodeMeta(
        index=whole(line, "episode_index"),
        tasks=episode_tasks(line.get("tasks")),
        length=whole(line, "length"),
        chunk=whole(line, "data/chunk_index"),
        file=whole(line, "data/file_index"),
        from_index=whole(line, "dataset_from_index"),
        to_index=whole(line, "dataset_to_index"),
        clips={
            key: Clip(
                whole(line, f"videos/{key}/chunk_index"),
                whole(line, f"videos/{key}/file_index"),
                _seconds(line, f"videos/{key}/from_timestamp"),
                _seconds(line, f"videos/{key}/to_timestamp"),
            )
            for key in videos
            if is_there(line.get(f"videos/{key}/chunk_index"))
        },
        metadata_chunk=metadata_chunk,
        metadata_file=metadata_file,
    )


def whole(line: Mapping[str, Any], key: str) -> int:
    """A number of a line that counts something; raises DatasetError for what does not."""
    value: Any = line.get(key)
    if not _is_real(value) or not 0 <= value <= MOST or value != int(value):
        raise DatasetError(f"{key} is {value!r}; it should be a whole number from 0 to {MOST}")
    return int(value)


def _seconds(line: Mapping[str, Any], key: str) -> float:
    value: Any = line.get(key)
    if not _is_real(value) or not -MOST <= value <= MOST:
        raise DatasetError(f"{key} is {value!r}; it should be a time in seconds")
    return float(value)


def _is_real(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_there(value: Any) -> bool:
    """Whether a cell of a table has a value: neither null nor, as pandas writes it, NaN."""
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def episode_tasks(given: Any) -> tuple[str, ...]:
    """The tasks of an episode's line: a list, or one text; raises DatasetError for others."""
    given = [given] if isinstance(given, str) else given
    if not isinstance(given, list | None):
        raise DatasetError(f"tasks is {given!r}; it should be a list of texts")
    return tuple(checked_text(task, "a task") for task in given or ())


def checked_text(given: Any, what: str) -> str:
    """A text of metadata, if it is one; raises DatasetError."""
    if not isinstance(given, str):
        raise DatasetError(f"{what} is {given!r}; it should be a text")
    if len(given) > _LONGEST_TEXT:
        raise DatasetError(
            f"{what} has {len(given)} characters ({given[:40]!r} ...); it should have at most {_LONGEST_TEXT}"
        )
    if not given.isascii() and given != given.encode(errors="ignore").decode():
        raise DatasetError(f"{what} is {given!r}, which is not Unicode text")
    return given


def _read_json(path: Path) -> Any:
    with reported(f"{path} cannot be read"):
        try:
            return load_json(path)
        except ValueError as error:
            raise DatasetError(f"{path} is no JSON: {error}") from error


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none. Raises DatasetError."""
    if not path.is_file():
        return {}
    content = _read_json(path)
    if not isinstance(content, dict):
        raise DatasetError(f"{path} should be a JSON object")
    return content
