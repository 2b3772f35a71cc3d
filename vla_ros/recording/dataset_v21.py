"""A LeRobot v2.1 dataset's metadata (JSON lines; one file per episode), read into the same values as v3.0's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_ros.recording.dataset import DatasetMeta, episode_tasks, read_features
from vla_ros.recording.features import Features
from vla_ros.recording.files import DatasetError, Layout, reported
from vla_ros.recording.schemas import VERSION, Clip, EpisodeMeta, Stats, stats_from_json

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
        tasks = {int(line["task_index"]): str(line["task"]) for line in _lines(folder / TASKS, "task_index", "task")}
        has_stats = (folder / STATS).is_file()
        stats = _lines(folder / STATS, "episode_index", "stats") if has_stats else iter(())
        return cls(
            layout,
            info,
            features,
            tasks,
            tuple(_episodes(folder / EPISODES, layout, features)),
            {},
            {int(line["episode_index"]): _stats(line["stats"], folder / STATS) for line in stats},
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
    path = root / "meta" / "info.json"
    if not path.is_file():
        raise DatasetError(f"{root} is no LeRobot dataset: it has no meta/info.json")
    with reported(f"{path} cannot be read"):
        try:
            info = json.loads(path.read_bytes())
        except ValueError as error:
            raise DatasetError(f"{path} is no JSON: {error}") from error
    if not isinstance(info, dict):
        raise DatasetError(f"{path} should be a JSON object")
    return info


def _lines(path: Path, *keys: str) -> Iterator[Mapping[str, Any]]:
    """The objects of a file of JSON lines; raises DatasetError for one that is none, or lacks one of `keys`."""
    with reported(f"{path} cannot be read"):
        text = path.read_text(encoding="utf-8")
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines: a text may hold U+2028
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except ValueError as error:
            raise DatasetError(f"{path}, line {number} is no JSON: {error}") from error
        if not isinstance(found, dict) or any(key not in found for key in keys):
            raise DatasetError(f"{path}, line {number} should be an object with {', '.join(keys)}")
        yield found


def _episodes(path: Path, layout: Layout, features: Features) -> Iterator[EpisodeMeta]:
    videos = [feature.key for feature in features.features if feature.is_video]
    lines: Sequence[Mapping[str, Any]] = list(_lines(path, "episode_index", "tasks", "length"))
    first, before = 0, -1
    for number, line in enumerate(sorted(lines, key=lambda line: int(line["episode_index"]))):
        index, length = int(line["episode_index"]), int(line["length"])
        if index <= before:
            raise DatasetError(f"{path} has episode {index} after {before}; episodes count from 0, each once")
        before = index
        chunk = index // layout.chunks_size
        clip = Clip(chunk, index, 0.0, length / features.fps)
        yield EpisodeMeta(
            index=number,  # those that were deleted do not count
            tasks=episode_tasks(line["tasks"]),
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


def _stats(values: Any, path: Path) -> Stats:
    try:
        return stats_from_json(values)
    except (AttributeError, TypeError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error
