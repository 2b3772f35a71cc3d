"""Is a dataset whole and true: every file read, every number compared with what it is made of; nothing is changed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import numpy as np

from vla_ros.recording.features import whole_fps
from vla_ros.recording.files import DatasetError, links_out
from vla_ros.recording.upkeep.advising import advised
from vla_ros.recording.upkeep.checking_images import check_depth, check_images
from vla_ros.recording.upkeep.checking_offsets import Offsets
from vla_ros.recording.upkeep.checking_rows import (
    check_image_statistics,
    check_rows,
    check_schema,
    compare,
    is_finite,
    numbers,
    summary,
)
from vla_ros.recording.upkeep.checking_videos import check_clip, check_video, decode
from vla_ros.recording.upkeep.findings import Finding, Kind, Progress, error, warning
from vla_ros.recording.upkeep.scanning import (
    DETAILS,
    INFO,
    NO_FILE,
    STATS,
    TASKS,
    V21,
    V30,
    Episode,
    Scan,
    Segment,
    is_number,
    scan,
    table,
    video,
)
from vla_ros.values import Array

_KEEP = "vla-ros dataset repair PATH --keep-open makes an episode of it"
#: End of the name of a folder that an episode was made of.
RECOVERED = "-recovered"
_NEEDED = ("fps", "features", "total_episodes", "total_frames", "total_tasks", "data_path")
_LISTED = 8  # numbers in a finding
_DEFAULTS = ("timestamp", "frame_index", "episode_index", "index", "task_index")


def check(root: Path, *, decode: bool = False, on_progress: Progress | None = None) -> list[Finding]:
    """Everything that makes the dataset at `root` (v3.0 or v2.1) unloadable or false; an empty list for a good one.

    Videos are read packet by packet; with `decode` every frame is decoded as well, which takes minutes per hour
    recorded. Raises DatasetError where there is no dataset.
    """
    if not any((root / folder).is_dir() for folder in ("meta", "data")):
        raise DatasetError(f"{root} is not a LeRobot dataset: it has neither a folder meta nor a folder data")
    found = scan(root)
    return advised(found, check_scan(found, decode, on_progress), decode)


def check_scan(found: Scan, decode: bool = False, on_progress: Progress | None = None) -> list[Finding]:
    """As `check`, of what is read already; `found` learns of more files that cannot be read."""
    return list(_check(found, decode, on_progress or (lambda what, done, total: None)))


def _check(found: Scan, decoding: bool, on_progress: Progress) -> Iterator[Finding]:
    yield from _check_info(found)
    if found.features and found.fps:  # without, nothing could be compared
        yield from _check_tasks(found)
        yield from check_depth(found)
        yield from _check_episodes(found)
        yield from _check_data(found, decoding, on_progress)
        yield from _check_videos(found, decoding, on_progress)
        yield from _check_details(found)
    yield from _check_open(found)
    for path in links_out(found.root):
        said = "it is a link to a folder outside of the dataset; no command writes through it"
        yield warning(Kind.LINK, path, said, remedy=f"move the folder itself to PATH/{path}")
    for broken in found.broken:
        if broken.path.startswith(DETAILS):
            yield warning(Kind.DETAILS, broken.path, broken.reason)
        elif broken.reason == NO_FILE and broken.path != INFO and _is_new(found):
            continue
        elif broken.reason == NO_FILE:
            yield error(Kind.MISSING, broken.path, broken.reason)
        else:
            yield error(Kind.UNREADABLE, broken.path, broken.reason)


def _check_info(found: Scan) -> Iterator[Finding]:
    info = found.info
    if not info:
        return  # said of the file
    missing = [key for key in _NEEDED if key not in info]
    if missing:
        yield error(Kind.INFO, INFO, f"there is no {', '.join(missing)}")
    if found.version not in (V30, V21):
        remedy = "use the LeRobot that wrote it, or its converter"
        yield error(Kind.INFO, INFO, f"codebase_version {found.version}; supported: {V30}, {V21}", remedy=remedy)
    try:
        whole_fps(info.get("fps"))
    except ValueError as failure:
        yield error(Kind.INFO, INFO, str(failure).removeprefix("info.json: "))
    if not found.features.keys() - set(_DEFAULTS):
        yield error(Kind.INFO, INFO, "features has only LeRobot's own columns")
    lacking = [key for key in _DEFAULTS if key not in found.features]
    if lacking:
        yield error(Kind.INFO, INFO, f"features lack {', '.join(lacking)}")
    frames = sum(episode.length for episode in found.episodes)
    for key, true in (
        ("total_episodes", len(found.episodes)),
        ("total_frames", frames),
        ("total_tasks", len(found.tasks)),
    ):
        if key in info and info[key] != true and not _metadata_broken(found):
            yield error(Kind.INFO, INFO, f"{key} is {info[key]}, there are {true}")
    splits = info.get("splits")
    if isinstance(splits, dict) and splits and not _metadata_broken(found):
        ends = [int(part.split(":")[1]) for part in splits.values() if re.fullmatch(r"\d{1,9}:\d{1,9}", str(part))]
        if len(ends) != len(splits) or max(ends, default=0) != len(found.episodes):
            yield error(Kind.INFO, INFO, f"splits are {splits}, there are {len(found.episodes)} episodes")
    elif "splits" not in info:
        yield warning(Kind.INFO, INFO, "splits are missing")


def _check_tasks(found: Scan) -> Iterator[Finding]:
    if found.version == V30 and list(found.tasks) != list(range(len(found.tasks))):
        said = f"task numbers are {_few(list(found.tasks))}; LeRobot finds tasks by position, and needs 0, 1, 2, ..."
        yield error(Kind.TASK, TASKS, said)


def _is_new(found: Scan) -> bool:
    """Whether there is no episode yet, so that nothing but info.json is needed."""
    return not found.episodes and found.info.get("total_episodes") == 0 and not found.files("data", ".parquet")


def _metadata_broken(found: Scan) -> bool:
    return any(broken.path.startswith(("meta/episodes", TASKS, "meta/tasks")) for broken in found.broken)


def _check_episodes(found: Scan) -> Iterator[Finding]:
    if not found.episodes and not _metadata_broken(found) and found.files("data", ".parquet"):
        yield error(Kind.EPISODES, "meta/episodes", "it is missing, although there are data")
    first, indices = 0, [episode.index for episode in found.episodes]
    if indices != list(range(len(indices))):
        there = set(indices)
        absent = list(islice((index for index in range(max(indices) + 1) if index not in there), _LISTED + 1))
        twice = sorted(index for index, count in Counter(indices).items() if count > 1)
        said = "episodes are not numbered 0, 1, 2, ...: " + "; ".join(
            part
            for part in (f"{_few(absent)} missing" if absent else "", f"{_few(twice)} twice" if twice else "")
            if part
        )
        yield error(Kind.EPISODES, "meta/episodes" if found.version != V21 else "meta/episodes.jsonl", said)
    for episode in found.episodes:
        if episode.length < 1:
            yield error(Kind.EPISODES, episode.source, f"length is {episode.length}", episode.index)
        if (episode.first, episode.last) != (first, first + episode.length):
            right = f"{first} to {first + episode.length}"
            said = f"it is rows {episode.first} to {episode.last}; by the previous episodes it should be {right}"
            yield error(Kind.EPISODES, episode.source, said, episode.index)
        first = max(first, episode.last)
        for key in found.video_keys:
            if key not in episode.videos:
                yield error(Kind.EPISODES, episode.source, f"no video of {key}", episode.index)
        unknown = [task for task in episode.tasks if task not in found.tasks.values()]
        if (unknown or not episode.tasks) and found.tasks:
            said = f"its tasks are {list(episode.tasks)}, {TASKS} has {sorted(map(str, found.tasks.values()))[:5]}"
            yield error(Kind.TASK, episode.source, said, episode.index)


def _few(numbers: list[int]) -> str:
    text = ", ".join(str(number) for number in numbers[:_LISTED])
    return text + (", ..." if len(numbers) > _LISTED else "")


def _check_data(found: Scan, decoding: bool, on_progress: Progress) -> Iterator[Finding]:
    of_file: dict[str, list[Episode]] = {}
    for episode in found.episodes:
        of_file.setdefault(episode.data, []).append(episode)
    there = found.files("data", ".parquet")
    for path in (path for path in there if path not in of_file):
        yield error(Kind.ORPHAN, path, "no episode in the metadata refers to it, but LeRobot reads every file")
    merged: dict[str, dict[str, Array]] = {}
    unclear: set[str] = set()
    offsets = Offsets(found)
    for number, (path, episodes) in enumerate(sorted(of_file.items())):
        on_progress("data", number, len(of_file))
        if path not in there:
            yield from (error(Kind.MISSING, path, NO_FILE, episode.index) for episode in episodes)
            continue
        rows = table(found, path)
        if rows is None:
            continue
        yield from check_schema(found, path, rows.schema)
        belongs = numbers(rows, "episode_index")
        for episode in episodes:
            if belongs is None or len(episodes) == 1:
                of_episode = rows
            else:
                of_episode = rows.take(np.flatnonzero(belongs.reshape(-1) == episode.index))
            yield from check_rows(found, episode, of_episode)
            yield from check_images(found, episode, of_episode, decoding)
            offsets.add(episode, of_episode)
        known = [episode.index for episode in episodes]
        if belongs is not None and len(episodes) > 1 and (strange := set(belongs.reshape(-1).tolist()) - set(known)):
            yield error(Kind.ROWS, path, f"it has rows of episodes {sorted(strange)[:8]}, which belong elsewhere")
        for key, entry in found.features.items():
            values = numbers(rows, key) if is_number(entry) else None
            if values is None or not is_finite(values):
                unclear.add(key)  # said of the rows
            elif len(values):
                merged[key] = _merge(merged.get(key), summary(values))
    on_progress("data", len(of_file), len(of_file))
    yield from offsets.findings()
    yield from _check_statistics(found, {key: values for key, values in merged.items() if key not in unclear})


def _merge(one: dict[str, Array] | None, other: dict[str, Array]) -> dict[str, Array]:
    """Statistics of both blocks of rows; deviations merged without squares of large numbers."""
    if one is None or one["mean"].shape != other["mean"].shape:
        return other
    count, more = float(one["count"][0]), float(other["count"][0])
    total = count + more
    apart = other["mean"] - one["mean"]
    variance = (count * one["std"] ** 2 + more * other["std"] ** 2) / total + apart**2 * count * more / total**2
    return {
        "min": np.minimum(one["min"], other["min"]),
        "max": np.maximum(one["max"], other["max"]),
        "mean": one["mean"] + apart * more / total,
        "std": np.sqrt(variance),
        "count": np.array([total]),
    }


def _check_statistics(found: Scan, merged: Mapping[str, Mapping[str, Array]]) -> Iterator[Finding]:
    if found.version == V21 or found.is_broken(STATS):
        return  # v2.1 has none over all episodes
    data_broken = any(broken.path.startswith("data/") for broken in found.broken)
    for key, entry in found.features.items():
        if key not in found.statistics:
            if found.episodes:
                yield error(Kind.STATISTICS, STATS, f"statistics of {key} are missing")
        elif not is_number(entry):
            yield from check_image_statistics(STATS, key, found.statistics[key])
        elif key in merged and not data_broken:
            yield from compare(STATS, key, found.statistics[key], merged[key])


def _check_videos(found: Scan, decoding: bool, on_progress: Progress) -> Iterator[Finding]:
    of_file: dict[tuple[str, str], list[tuple[Episode, Segment]]] = {}
    for episode in found.episodes:
        for key, segment in episode.videos.items():
            of_file.setdefault((segment.path, key), []).append((episode, segment))
    there = set(found.files("videos", ".mp4"))
    for path in sorted(there - {path for path, _ in of_file}):
        yield warning(Kind.ORPHAN, path, "no episode in the metadata refers to it")
    for number, ((path, key), clips) in enumerate(sorted(of_file.items(), key=lambda item: item[0])):
        on_progress("videos", number, len(of_file))
        if path not in there:
            yield from (error(Kind.MISSING, path, NO_FILE, episode.index) for episode, _ in clips)
            continue
        if video(found, path) is None:
            continue
        yield from check_video(found, key, path, clips)
        for episode, segment in clips:
            yield from check_clip(found, episode, key, segment)
        if decoding:
            yield from decode(found, path, clips)
    on_progress("videos", len(of_file), len(of_file))


def _check_details(found: Scan) -> Iterator[Finding]:
    if not (found.root / DETAILS).is_dir():
        return  # another program's dataset
    indices = {episode.index for episode in found.episodes}
    for index in sorted(set(found.details) - indices):
        path = f"{DETAILS}/episode-{index:06d}.json"
        yield warning(Kind.ORPHAN, path, "no episode has this number")
    for episode in found.episodes:
        path = f"{DETAILS}/episode-{episode.index:06d}.json"
        details = found.details.get(episode.index)
        if details is None and not found.is_broken(path):
            yield warning(Kind.DETAILS, path, "this episode has no details", episode.index)
        elif details is not None and details.get("task", *episode.tasks[:1]) not in episode.tasks:
            said = f"task is {details['task']!r}, that of the metadata {list(episode.tasks)}"
            yield warning(Kind.DETAILS, path, said, episode.index)


def _check_open(found: Scan) -> Iterator[Finding]:
    for folder in open_episodes(found.root):
        path = folder.relative_to(found.root).as_posix()
        yield warning(Kind.OPEN_EPISODE, path, "rows and videos of an episode that was never saved", remedy=_KEEP)


def open_episodes(root: Path) -> list[Path]:
    """Folders below .recording with the rows and videos of an episode that was never saved."""
    recording = root / ".recording"
    found = [*recording.glob("episode-*"), *(recording / "aside").glob("*")]
    return sorted(folder for folder in found if (folder / "rows.bin").is_file() and not folder.name.endswith(RECOVERED))
