"""Which episodes of a damaged dataset are whole: rows that can be read, and a frame of every camera for each.

What the metadata says is compared with the files; where it is lost, the files speak for themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vla_ros.recording import features as keys
from vla_ros.recording.segments import first_rows
from vla_ros.recording.upkeep.checking_rows import bad_values, check_schema, numbers
from vla_ros.recording.upkeep.findings import errors
from vla_ros.recording.upkeep.scanning import (
    NO_FILE,
    UNKNOWN_TASK,
    Episode,
    Scan,
    Segment,
    is_shown_at,
    table,
    video,
)
from vla_ros.recording.video import probe
from vla_ros.values import Array

_NEEDED_VALUES = (keys.STATE, keys.ACTION)
_MOST_TASKS = 100_000  # a number beyond is damage, and there is a text for every number up to the largest


@dataclass(frozen=True, eq=False)
class Whole:
    """An episode that can be kept. `clips`: key of a video -> its file and first frame there.

    `statistics`: as the metadata had them; empty where that is lost. `was_listed`: whether the metadata had it.
    """

    index: int
    length: int
    tasks: tuple[str, ...]
    data: str
    clips: Mapping[str, tuple[str, int]]
    statistics: Mapping[str, Mapping[str, Array]]
    was_listed: bool


@dataclass(eq=False)
class Salvage:
    """What is whole, in order, and what is not: number of an episode -> why; `orphans`: files nobody needs."""

    whole: list[Whole] = field(default_factory=list)
    broken: dict[int, str] = field(default_factory=dict)
    orphans: list[str] = field(default_factory=list)
    tasks: dict[int, str] = field(default_factory=dict)


def rows_of(found: Scan, episode: Whole) -> pa.Table:
    """The rows of a whole episode."""
    rows = table(found, episode.data)
    if rows is None:
        raise OSError(f"{episode.data} became unreadable during the repair")
    mine = _rows_of(rows, episode.index)
    return rows if rows.num_rows == episode.length else mine  # a file of its own, whatever its rows say


def has_gap(found: Scan, episode: Whole) -> bool:
    """Whether an episode has a gap in time that timestamps alone tell of: to count them even would hide it."""
    times_s = numbers(rows_of(found, episode), "timestamp")
    if times_s is None or keys.STAMP in found.features:
        return False
    times_s = times_s.reshape(-1).astype(np.float64)
    return len(first_rows(times_s, np.arange(len(times_s)), found.fps)) > 1


def _rows_of(rows: pa.Table, index: int) -> pa.Table:
    """An episode's rows of a file of several, or all of a file whose rows do not say otherwise."""
    belongs = numbers(rows, "episode_index")
    if belongs is None:
        return rows
    mine = np.flatnonzero(belongs.reshape(-1) == index)
    return rows.slice(mine[0], len(mine)) if _is_run(mine) else rows.take(mine)


def _is_run(places: NDArray[np.intp]) -> bool:
    return len(places) > 0 and bool(places[-1] - places[0] + 1 == len(places))


def salvage(found: Scan, with_unlisted: bool, decode: bool = False) -> Salvage:
    """Look through every file of data and video.

    An episode that the metadata does not list is kept where its line is lost (a file that cannot be read, a number
    missing before others); at the end of the dataset it may be one whose saving was not finished, or that was taken
    back, and is an orphan unless `with_unlisted`. With `decode`, a frame that cannot be decoded is not whole.
    """
    kept = Salvage()
    listed: dict[str, list[Episode]] = {}
    for episode in found.episodes:
        listed.setdefault(episode.data, []).append(episode)
    clips_in = Counter(segment.path for episode in found.episodes for segment in episode.videos.values())
    names = found.files("data", ".parquet")
    unlisted: list[Whole] = []
    for path in sorted({*names, *listed}):
        rows = table(found, path) if path in names else None
        wrong = _wrong_columns(found, path, rows)
        for episode in listed.get(path, []):
            if wrong or rows is None:
                kept.broken[episode.index] = f"{path}: {wrong}"
            else:
                of_episode = rows if len(listed[path]) == 1 else _rows_of(rows, episode.index)
                _judge(found, kept, episode, of_episode, clips_in)
        if path not in listed:
            unlisted += _unlisted(found, path, rows) if rows is not None and not wrong else []
    for one in _placed(found, unlisted, listed):
        if one.index in {other.index for other in kept.whole} or (not one.clips and found.video_keys):
            continue
        if with_unlisted or _line_is_lost(found, one, len(unlisted)):
            kept.whole.append(one)
            kept.broken.pop(one.index, None)
    if decode:
        _drop_undecodable(found, kept)
    kept.whole.sort(key=lambda episode: episode.index)
    _name_tasks(found, kept)
    needed = {episode.data for episode in kept.whole} | {path for each in kept.whole for path, _ in each.clips.values()}
    kept.orphans = sorted({*names, *found.files("videos", ".mp4")} - needed)
    return kept


def _drop_undecodable(found: Scan, kept: Salvage) -> None:
    """What comes after the first frame of a video that cannot be decoded is not to be had."""
    paths = {path for one in kept.whole for path, _ in one.clips.values()}  # many episodes may share one
    good = {path: probe(found.root / path, decode=True).frames for path in paths}
    for one in list(kept.whole):
        for path, first in one.clips.values():
            if first + one.length > good[path] and one in kept.whole:
                kept.whole.remove(one)
                kept.broken[one.index] = f"{path}: frame {good[path]} cannot be decoded"


def _wrong_columns(found: Scan, path: str, rows: pa.Table | None) -> str:
    if rows is None:
        reasons = [broken.reason for broken in found.broken if broken.path == path]
        return reasons[0] if reasons else NO_FILE
    wrong = errors(check_schema(found, path, rows.schema))
    return wrong[0].what if wrong else ""


def _judge(found: Scan, kept: Salvage, episode: Episode, rows: pa.Table, clips_in: Mapping[str, int]) -> None:
    """Put a listed episode among those that are whole, or say why it is not; `clips_in`: how many a video has."""
    clips: dict[str, tuple[str, int]] = {}
    reason = _wrong_values(found, rows, len(episode.tasks))
    for key in found.video_keys:
        segment = episode.videos.get(key)
        reason = reason or (
            f"no video of {key}" if segment is None else _wrong_clip(found, key, segment, rows, clips_in[segment.path])
        )
        if segment is not None:
            clips[key] = (segment.path, round(segment.from_s * found.fps))
    if reason:
        kept.broken[episode.index] = reason
        return
    whole = Whole(episode.index, rows.num_rows, episode.tasks, episode.data, clips, episode.statistics, True)
    if any(one.index == episode.index for one in kept.whole):
        kept.broken[episode.index] = f"the metadata lists it twice; its rows are in {episode.data}"
    else:
        kept.whole.append(whole)


def _wrong_values(found: Scan, rows: pa.Table, tasks: int = 1) -> str:
    if not rows.num_rows:
        return "there are no rows of it"
    used = numbers(rows, "task_index")
    if used is None or len(np.unique(used)) > tasks:
        return f"its rows have more tasks than {tasks}"
    if used.min() < 0 or used.max() >= _MOST_TASKS:
        return f"its rows have the task {used.max() if used.min() >= 0 else used.min()}, which is none"
    bad = [key for key in bad_values(found, rows) if key in _NEEDED_VALUES]
    return f"{bad[0]} has values that are not finite" if bad else ""


def _wrong_clip(found: Scan, key: str, segment: Segment, rows: pa.Table, clips: int) -> str:
    """Why the frames at `segment`, one of `clips` in its file, are not those of the rows; empty if they are."""
    first = round(segment.from_s * found.fps)
    if clips == 1:
        first = 0
        whole_file = True
    else:
        whole_file = False
        if abs(segment.from_s * found.fps - first) > 0.01 or first < 0:
            return f"{segment.path}: it begins between two frames"
        said = round((segment.to_s - segment.from_s) * found.fps)
        if said != rows.num_rows:
            return f"{segment.path}: {said} frames of {key} for {rows.num_rows} rows"
    return wrong_frames(found, key, segment.path, first, rows.num_rows, whole_file)


def wrong_frames(found: Scan, key: str, path: str, first: int, length: int, whole_file: bool) -> str:
    """Why frames `first` and on of a video are not `length` good ones; empty if they are."""
    read = video(found, path)
    if read is None:
        return f"{path}: {next(broken.reason for broken in found.broken if broken.path == path)}"
    there = read.frames if whole_file else len(read.pts[first : first + length])
    if there != length:
        return f"{path}: {there} frames of {key} for {length} rows"
    if not read.can_decode or list(found.features[key]["shape"][:2]) != [read.height, read.width]:
        return f"{path}: {read.codec!r} of {read.height} x {read.width} is not what info.json says"
    if not all(is_shown_at(read.pts[number], number, found.fps) for number in range(first, first + length)):
        return f"{path}: frames of {key} are not shown at k / {found.fps} s"
    return ""


def _unlisted(found: Scan, path: str, rows: pa.Table) -> Iterator[Whole]:
    """Episodes of a data file that no metadata names, without their videos."""
    belongs = numbers(rows, "episode_index")
    for index in () if belongs is None else dict.fromkeys(int(number) for number in belongs.reshape(-1)):
        of_episode = _rows_of(rows, index)
        steps = numbers(of_episode, "frame_index")
        if _wrong_values(found, of_episode) or steps is None or not np.array_equal(steps, np.arange(len(steps))):
            continue
        used = numbers(of_episode, "task_index")
        details = found.details.get(index, {})
        said = details.get("task")
        number = int(used[0]) if used is not None else 0
        known = said if isinstance(said, str) and said else found.tasks.get(number) or f"{UNKNOWN_TASK} {number}"
        yield Whole(index, of_episode.num_rows, (known,), path, {}, {}, False)


def _placed(found: Scan, unlisted: list[Whole], listed: Mapping[str, list[Episode]]) -> Iterator[Whole]:
    """Unlisted episodes with the videos that must be theirs: the file beside theirs, or the next frames nobody has."""
    taken = {segment.path for episodes in listed.values() for each in episodes for segment in each.videos.values()}
    free = {
        key: [path for path in found.files(f"videos/{key}", ".mp4") if path not in taken] for key in found.video_keys
    }
    alone = {each.data for each in unlisted if sum(other.data == each.data for other in unlisted) == 1}
    at = dict.fromkeys(free, (0, 0))  # file, frame: where the next episode without a file of its own begins
    for episode in sorted(unlisted, key=lambda each: each.index):
        clips: dict[str, tuple[str, int]] = {}
        for key, paths in free.items():
            beside = [path for path in paths if PurePosixPath(path).with_suffix("").parts[-2:] == _place(episode.data)]
            if episode.data in alone and beside and not wrong_frames(found, key, beside[0], 0, episode.length, True):
                clips[key] = (beside[0], 0)
                continue
            number, first = at[key]
            while number < len(paths) and (read := video(found, paths[number])) is not None and first >= read.frames:
                number, first = number + 1, 0
            if number < len(paths) and not wrong_frames(found, key, paths[number], first, episode.length, False):
                clips[key] = (paths[number], first)
                at[key] = (number, first + episode.length)
        yield replace(episode, clips=clips if len(clips) == len(free) else {})


def _place(path: str) -> tuple[str, ...]:
    return PurePosixPath(path).with_suffix("").parts[-2:]


def _line_is_lost(found: Scan, episode: Whole, unlisted: int) -> bool:
    torn = any(broken.path.startswith("meta/episodes") for broken in found.broken)
    later = max((other.index for other in found.episodes), default=-1)
    return torn or episode.index < later or unlisted > 1


def _name_tasks(found: Scan, kept: Salvage) -> None:
    """Have number -> text by most of those who say so: the lines of the episodes, meta/tasks.parquet, the details."""
    votes: dict[int, Counter[str]] = {}
    numbers_of: dict[int, list[int]] = {}
    for episode in kept.whole:
        used = numbers(rows_of(found, episode), "task_index")
        numbers_of[episode.index] = list(dict.fromkeys(used.tolist())) if used is not None else []
        said = found.details.get(episode.index, {}).get("task")
        for number, text in zip(numbers_of[episode.index], episode.tasks, strict=False):
            votes.setdefault(number, Counter())[text] += 1
            if isinstance(said, str) and len(episode.tasks) == 1:
                votes[number][said] += 1
    for number, text in found.tasks.items():
        if number in votes and isinstance(text, str) and text:
            votes[number][text] += 1
    chosen = {number: counted.most_common(1)[0][0] for number, counted in sorted(votes.items())}
    unused = {number: text for number, text in found.tasks.items() if number not in chosen and isinstance(text, str)}
    chosen.update({number: text for number, text in unused.items() if text and text not in chosen.values()})
    # LeRobot finds a text by its place, so there is one for every number.
    numbers_up_to = range(max(chosen, default=-1) + 1)
    kept.tasks = {number: chosen.get(number, f"{UNKNOWN_TASK} {number}") for number in numbers_up_to}
    kept.whole = [
        replace(
            episode, tasks=tuple(chosen.get(number, f"{UNKNOWN_TASK} {number}") for number in numbers_of[episode.index])
        )
        for episode in kept.whole
    ]
