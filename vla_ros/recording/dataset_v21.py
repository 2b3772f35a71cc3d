"""A LeRobot v2.1 dataset's metadata (JSON lines; one file per episode), read into the same values as v3.0's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vla_ros.recording.dataset import DatasetMeta, checked_text, episode_tasks, read_features, read_object, whole
from vla_ros.recording.features import Features
from vla_ros.recording.files import DatasetError, Layout, ordinary, reported
from vla_ros.recording.schemas import VERSION, Clip, EpisodeMeta, Stats, stats_from_json

Line = TypeVar("Line")

VERSION_21 = "v2.1"
DATA_PATH_21 = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO_PATH_21 = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
#: v2.0 is the same but for statistics, which it has of the whole dataset only.
_READABLE = ("v2.0", VERSION_21)
EPISODES, TASKS, STATS = "episodes.jsonl", "tasks.jsonl", "episodes_stats.jsonl"


@dataclass(frozen=True)
class DatasetMetaV21(DatasetMeta):
    """What a v2.1 dataset says of itself; `stats` (over all episodes) is empty, for v2.1 does not have it."""

    of_episodes: Mapping[int, Stats]

    @classmethod
    def load(cls, root: Path) -> DatasetMetaV21:
        """Read `root`; raises DatasetError where there is no v2.1 dataset, or its parts contradict each other."""
        info = _info(root)
        if info.get("codebase_version") not in _READABLE:
            raise DatasetError(f"{root} is a dataset of version {info.get('codebase_version')}, not {VERSION_21}")
        missing = [key for key in ("fps", "features", "data_path") if key not in info]
        if missing:
            raise DatasetError(f"{root}/meta/info.json has no {', '.join(missing)}")
        layout, features = Layout.of(root, info), read_features(root, info)
        folder = root / "meta"
        has_stats = (folder / STATS).is_file()
        return cls(
            layout,
            info,
            features,
            dict(_lines(folder / TASKS, task_of)),
            tuple(_episodes(folder / EPISODES, layout, features)),
            {},
            dict(_lines(folder / STATS, stats_of)) if has_stats else {},
        )

    def stored_index(self, episode: EpisodeMeta) -> int:
        """The number that the episode has in its files: where episodes were deleted, another than its place."""
        return episode.file

    def episode_stats(self, episode: EpisodeMeta) -> Stats:
        """Statistics of one episode; empty where there are none, as in v2.0."""
        return self.of_episodes.get(episode.file, {})


def load_meta(root: Path) -> DatasetMeta:
    """What the dataset at `root`, of v3.0 or v2.1, says of itself; raises DatasetError."""
    version = _info(root).get("codebase_version")
    if version in _READABLE:
        return DatasetMetaV21.load(root)
    if version != VERSION:
        raise DatasetError(f"{root} is a dataset of version {version}; what can be read is {VERSION} and {VERSION_21}")
    return DatasetMeta.load(root)


def _info(root: Path) -> Mapping[str, Any]:
    path = Layout(root).info
    if not path.is_file():
        raise DatasetError(f"{root} is not a LeRobot dataset: it has no meta/info.json")
    return read_object(path)


def task_of(line: Mapping[str, Any]) -> tuple[int, str]:
    """Number and text of a line of tasks.jsonl; raises DatasetError."""
    return whole(line, "task_index"), checked_text(line.get("task"), "task")


def stats_of(line: Mapping[str, Any]) -> tuple[int, Stats]:
    """Number of an episode and its statistics, of a line of episodes_stats.jsonl; raises DatasetError."""
    return whole(line, "episode_index"), stats_from_json(line.get("stats"))


def tasks_of(line: Mapping[str, Any]) -> tuple[int, int, tuple[str, ...]]:
    """Number, length and tasks of an episode, of a line of episodes.jsonl; raises DatasetError."""
    return whole(line, "episode_index"), whole(line, "length"), episode_tasks(line.get("tasks"))


def read_lines(path: Path, take: Callable[[Mapping[str, Any]], Line]) -> Iterator[tuple[int, Line | DatasetError]]:
    """Number of every line of JSON and what `take` makes of it, or what is wrong; raises OSError, ValueError."""
    text = ordinary(path).read_bytes().decode()
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines: a text may hold U+2028
        if line.strip():
            try:
                found = json.loads(line)
                yield number, take(found) if isinstance(found, dict) else DatasetError("it should be an object")
            except DatasetError as error:
                yield number, error
            except (ValueError, RecursionError) as error:
                yield number, DatasetError(f"it is not valid JSON: {error}")


def _lines(path: Path, take: Callable[[Mapping[str, Any]], Line]) -> Iterator[Line]:
    """What `take` makes of each object of a file of JSON lines; raises DatasetError for one that is none, or wrong."""
    with reported(f"{path} cannot be read"):
        try:
            lines = list(read_lines(path, take))
        except UnicodeDecodeError as error:
            raise DatasetError(f"{path} is not UTF-8 text: {error}") from error
    for number, line in lines:
        if isinstance(line, DatasetError):
            raise DatasetError(f"{path}, line {number}: {line}") from line
        yield line


def _episodes(path: Path, layout: Layout, features: Features) -> Iterator[EpisodeMeta]:
    videos = [feature.key for feature in features.features if feature.is_video]
    first, before = 0, -1
    for number, (index, length, tasks) in enumerate(sorted(_lines(path, tasks_of))):
        if index <= before:
            raise DatasetError(f"{path} has episode {index} after {before}; episodes count from 0, each once")
        if not length:
            raise DatasetError(f"{path}: episode {index} has no rows")
        before = index
        chunk = index // layout.chunks_size
        clip = Clip(chunk, index, 0.0, length / features.fps)
        yield EpisodeMeta(
            index=number,  # those that were deleted do not count
            tasks=tasks,
            length=length,
            chunk=chunk,
            file=index,
            from_index=first,
            to_index=first + length,
            clips=dict.fromkeys(videos, clip),
            metadata_chunk=0,
            metadata_file=0,
        )
        first += length
