"""What sums up a dataset's episodes, info.json, tasks and statistics: as written, caught up after a crash, or anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from vla_ros.recording import dataset, schemas
from vla_ros.recording.dataset import DatasetMeta
from vla_ros.recording.files import DatasetError, Layout
from vla_ros.recording.schemas import MERGED, EpisodeMeta, Stats
from vla_ros.recording.statistics import merge

_MOST_BEHIND: Final = 3  # episodes; a crash leaves one


@dataclass(frozen=True)
class Totals:
    """Everything over all episodes; `info` is the content of info.json."""

    info: Mapping[str, Any]
    tasks: Mapping[int, str]
    stats: Stats
    episodes: int = 0
    frames: int = 0

    def files(self, layout: Layout) -> dict[Path, bytes]:
        """Path -> content, in the order in which they are written: a reader believes info.json."""
        return {
            layout.tasks: schemas.parquet(schemas.tasks_table(self.tasks)),
            layout.stats: schemas.stats_file(self.stats),
            layout.info: schemas.json_file(self.info),
        }


def merged(first: Stats, second: Stats) -> Stats:
    """Statistics over both; a feature that only one has is as it is there. Raises DatasetError for other sizes."""
    for key in first:
        if key in second and (wrong := _apart(first[key], second[key])):
            raise DatasetError(f"statistics of {key} cannot be added up: {wrong}; `vla-ros dataset repair` fixes them")
    both = {key: merge(first[key], second[key]) for key in first if key in second}
    return {**first, **second, **both}


def _apart(one: Mapping[str, NDArray[Any]], other: Mapping[str, NDArray[Any]]) -> str:
    for name in MERGED:
        if name not in one or name not in other:
            return f"there is no {name}"
        if one[name].shape != other[name].shape:
            return f"{name} is of {one[name].shape} and of {other[name].shape} values"
    return (
        ""
        if one["count"].size == 1 and min(one["count"][0], other["count"][0]) > 0
        else "count is not a number of rows"
    )


def counted(meta: DatasetMeta, episodes: int | None = None) -> Totals:
    """The totals by what meta/episodes says of every episode, or of the first `episodes`."""
    found = meta.episodes[:episodes]
    stats: Stats = {}
    for path in dataset.episodes_files(meta.layout):
        for index, entry in dataset.read_episode_stats(path):
            if index < len(found):
                stats = merged(stats, entry)
    return _summed(meta.info, meta.tasks, stats, len(found), found[-1].to_index if found else 0)


def read(layout: Layout, info: Mapping[str, Any]) -> tuple[Totals, bool]:
    """The totals of the dataset at `layout`, and whether they are what its files say.

    Where each episode has a file of its own, no more is read of them than the last ones, however many there are. Raises
    DatasetError where meta/episodes contradicts itself.
    """
    files = dataset.episodes_files(layout)
    if not files:
        totals: Totals | None = _summed(info, dataset.read_tasks(layout), {}, 0, 0)
    else:
        last = _last_of(files[-1])
        is_one_each = len(files) == last.index + 1
        totals = _caught_up(layout, info, files) if is_one_each else _as_written(layout, info)
    if totals is None:
        return counted(DatasetMeta.load(layout.root)), False
    return totals, totals.info == info and _frames_of(dataset.read_stats(layout)) == totals.frames


def _caught_up(layout: Layout, info: Mapping[str, Any], files: list[Path]) -> Totals | None:
    """The statistics as written, with the last episodes where they are without them; None: they are of others."""
    stats = dataset.read_stats(layout)
    frames = _frames_of(stats)
    last = _last_of(files[-1])
    behind = 0
    while behind < min(len(files), _MOST_BEHIND):
        if _last_of(files[-1 - behind]).to_index == frames:
            break
        behind += 1
    else:
        if frames or behind < len(files):
            return None
    for path in files[len(files) - behind :]:
        for _, entry in dataset.read_episode_stats(path):
            stats = merged(stats, entry)
    return _summed(info, dataset.read_tasks(layout), stats, last.index + 1, last.to_index)


def _last_of(path: Path) -> EpisodeMeta:
    lines = dataset.read_episodes_of(path)
    if not lines:
        raise DatasetError(f"{path} has no episode")
    return lines[-1]


def _as_written(layout: Layout, info: Mapping[str, Any]) -> Totals | None:
    """The totals of files that have several episodes; None if the statistics are not of all of them."""
    meta = DatasetMeta.load(layout.root)
    if _frames_of(meta.stats) != meta.frames:
        return None
    return _summed(info, meta.tasks, meta.stats, len(meta.episodes), meta.frames)


def _summed(info: Mapping[str, Any], tasks: Mapping[int, str], stats: Stats, episodes: int, frames: int) -> Totals:
    return Totals(schemas.updated_info(info, episodes, frames, len(tasks), {}), tasks, stats, episodes, frames)


def _frames_of(stats: Stats) -> int:
    """Of how many rows they are."""
    count = stats.get("frame_index", {}).get("count")
    return int(count[0]) if count is not None and count.shape == (1,) else 0
