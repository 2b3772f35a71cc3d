"""A dataset at a glance: its episodes, its size on the disk, and how far states and actions go."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla_ros.recording.columns import read_columns
from vla_ros.recording.dataset import DatasetMeta
from vla_ros.recording.features import ACTION, REPEATED, SKEW, STATE, Feature
from vla_ros.recording.files import DatasetError
from vla_ros.recording.schemas import EpisodeMeta, Stats, fitting
from vla_ros.recording.upkeep.findings import Progress


@dataclass(frozen=True)
class EpisodeSummary:
    """One episode. None: the dataset does not say. `repeated_rows`: in which any source's last value stands again."""

    index: int
    task: str
    frames: int
    length_s: float
    success: bool | None
    source: str
    seed: int | None
    repeated_rows: int | None
    max_skew_ms: float | None  # between two cameras, where none is repeated
    notes: str


@dataclass(frozen=True)
class Range:
    """How far one dimension of a feature goes, over all episodes."""

    key: str
    name: str
    low: float
    high: float
    mean: float | None
    deviation: float | None


@dataclass(frozen=True)
class Summary:
    """A dataset. `sizes_bytes`: top-level folder -> what is in it."""

    root: Path
    version: str
    robot: str
    fps: int
    cameras: Mapping[str, tuple[int, int]]  # name -> (height, width)
    episodes: tuple[EpisodeSummary, ...]
    sizes_bytes: Mapping[str, int]
    ranges: tuple[Range, ...]

    @property
    def frames(self) -> int:
        """Rows of all episodes."""
        return sum(episode.frames for episode in self.episodes)

    @property
    def length_s(self) -> float:
        """Of all episodes."""
        return self.frames / self.fps

    @property
    def size_bytes(self) -> int:
        """Of everything in its folder."""
        return sum(self.sizes_bytes.values())


def summarize(
    meta: DatasetMeta,
    on_progress: Progress = lambda what, done, total: None,
    chosen: Sequence[int] | None = None,
) -> Summary:
    """Read what there is to say, of the rows of the episodes `chosen` only (None: all).

    Raises DatasetError where a file of rows cannot be read.
    """
    columns = _Timing(meta)
    episodes = []
    for done, episode in enumerate(meta.episodes):
        timing = columns.of(episode) if chosen is None or done in chosen else (None, None)
        episodes.append(_episode(meta, episode, *timing))
        on_progress("reads episodes", done + 1, len(meta.episodes))
    return Summary(
        root=meta.root,
        version=str(meta.info.get("codebase_version", "")),
        robot=meta.features.robot_type,
        fps=meta.fps,
        cameras=meta.features.cameras,
        episodes=tuple(episodes),
        sizes_bytes=_sizes(meta.root),
        ranges=tuple(_ranges(meta)),
    )


class _Timing:
    """How the rows of an episode were aligned, where the dataset says so; keeps the file that was read last."""

    def __init__(self, meta: DatasetMeta) -> None:
        self._meta = meta
        there = {feature.key for feature in meta.features.columns}
        self._keys = [REPEATED, SKEW, "episode_index"] if {REPEATED, SKEW} <= there else []
        self._path: Path | None = None

    def of(self, episode: EpisodeMeta) -> tuple[int | None, float | None]:
        """Rows that repeat anything, and the largest skew [ms]."""
        if not self._keys:
            return None, None
        path = self._meta.data_path(episode)
        if path != self._path:
            self._path, self._columns = path, read_columns(path, self._keys)
        rows = self._columns["episode_index"][:, 0] == self._meta.stored_index(episode)
        repeated = self._columns[REPEATED][rows] != 0
        whole = ~repeated[:, : len(self._meta.features.cameras)].any(axis=1)
        skew_s = self._columns[SKEW][rows][whole]
        return int(repeated.any(axis=1).sum()), float(1000.0 * skew_s.max()) if skew_s.size else None


def _episode(
    meta: DatasetMeta, episode: EpisodeMeta, repeated_rows: int | None, skew_ms: float | None
) -> EpisodeSummary:
    details = meta.details(episode)
    success, seed = details.get("success"), details.get("seed")
    return EpisodeSummary(
        index=episode.index,
        task=episode.task,
        frames=episode.length,
        length_s=episode.length / meta.fps,
        success=success if isinstance(success, bool) else None,
        source=str(details.get("source") or ""),
        seed=seed if isinstance(seed, int) else None,
        repeated_rows=repeated_rows,
        max_skew_ms=skew_ms,
        notes=str(details.get("notes") or ""),
    )


def _sizes(root: Path) -> dict[str, int]:
    """Top-level folder (or file) -> bytes in it, the largest first."""
    sizes: dict[str, int] = {}
    for folder, _, names in os.walk(root):
        within = Path(folder).relative_to(root).parts
        for name in names:
            top = within[0] if within else name
            sizes[top] = sizes.get(top, 0) + (Path(folder) / name).lstat().st_size
    return dict(sorted(sizes.items(), key=lambda entry: -entry[1]))


def _ranges(meta: DatasetMeta) -> list[Range]:
    stats = [meta.stats] if meta.stats else [meta.episode_stats(episode) for episode in meta.episodes]
    features = [feature for feature in meta.features.columns if feature.key in (STATE, ACTION)]
    return [
        found
        for feature in features
        for found in _ranges_of(meta, feature, [one for one in stats if feature.key in one])
    ]


def _ranges_of(meta: DatasetMeta, feature: Feature, stats: list[Stats]) -> list[Range]:
    """Of one feature; mean and deviation only where the dataset has them of all episodes together."""
    key = feature.key
    if not stats:
        return []
    for one in stats:
        if wrong := fitting(one[key], feature):
            raise DatasetError(f"{meta.root}: the statistics are not those of its features: {wrong}")
    low = np.min([np.ravel(one[key]["min"]) for one in stats], axis=0)
    high = np.max([np.ravel(one[key]["max"]) for one in stats], axis=0)
    names = feature.names or ()
    names = names if len(names) == len(low) else tuple(str(index) for index in range(len(low)))
    only = stats[0][key] if len(stats) == 1 else None
    return [
        Range(
            key,
            name,
            float(low[index]),
            float(high[index]),
            None if only is None else float(np.ravel(only["mean"])[index]),
            None if only is None else float(np.ravel(only["std"])[index]),
        )
        for index, name in enumerate(names)
    ]
