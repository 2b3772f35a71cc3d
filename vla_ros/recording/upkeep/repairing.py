"""A damaged dataset made whole again: what is lost in the metadata is made of the data, what is broken is set aside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vla_ros.recording import features as feature_sets
from vla_ros.recording import schemas
from vla_ros.recording.files import DATA_PATH, EPISODES_PATH, VIDEO_PATH, DatasetError, Layout, WriteLock
from vla_ros.recording.schemas import Clip, EpisodeMeta, Stats
from vla_ros.recording.storing import leftovers
from vla_ros.recording.storing.totals import merged
from vla_ros.recording.upkeep.checking import check, check_scan
from vla_ros.recording.upkeep.checking_rows import numbers
from vla_ros.recording.upkeep.findings import Finding, Kind, Progress, Severity, errors
from vla_ros.recording.upkeep.rebuilding import better_statistics, refuse_version, usable_info
from vla_ros.recording.upkeep.recovering import recover
from vla_ros.recording.upkeep.salvaging import Salvage, Whole, has_gap, rows_of, salvage
from vla_ros.recording.upkeep.scanning import DETAILS, INFO, STATS, TASKS, Scan, info_of, scan, video
from vla_ros.recording.upkeep.staging import Staging, remove_leftover
from vla_ros.recording.video import cut

#: Beside errors: what repair does something about.
_MENDED = (Kind.ORPHAN, Kind.DETAILS)


def repair(
    root: Path, *, keep_open: bool = False, decode: bool = False, on_progress: Progress | None = None
) -> list[str]:
    """Make the dataset at `root` (v3.0) loadable and true again; returns what was done, in words.

    Nothing is deleted: what is broken, or belongs to no episode, is moved below .recording/aside. Where an episode in
    the middle is broken, those after it get new numbers. Everything is made beside `root` and takes its place in one
    step.
    `keep_open` makes episodes of what was recorded and never saved, as far as rows and all cameras' frames go. With
    `decode` every frame is decoded, and an episode with one that cannot be is broken, too; that takes its time.

    Raises DatasetError where there is no dataset, another writes to it, its disk cannot be written, or it cannot be
    mended; it is then as it was.
    """
    if not any((root / folder).is_dir() for folder in ("meta", "data")):
        raise DatasetError(f"{root} is not a LeRobot dataset: it has neither a folder meta nor a folder data")
    root = root.resolve()
    refuse_version(info_of(root))
    say = on_progress or (lambda what, done, total: None)
    with WriteLock(Layout(root)):
        remove_leftover(root)
        said = leftovers.take_back(root)
        return [*said, *_mend(root, keep_open, decode, say), *recover(root, keep_open)]


def _mend(root: Path, with_unlisted: bool, decode: bool, say: Progress) -> list[str]:
    found = scan(root)
    info, said = usable_info(found)
    if said:
        found = scan(root, info)
    findings = check_scan(found, decode, say)
    if not said and not [each for each in findings if _concerns(each)]:
        return []
    saved = salvage(found, with_unlisted, decode)
    if not saved.whole and saved.broken:
        index, reason = next(iter(saved.broken.items()))
        raise DatasetError(f"{root}: no episode is intact, so nothing was changed; episode {index}: {reason}")
    for one in saved.whole:
        if has_gap(found, one):
            raise DatasetError(
                f"{root}: episode {one.index} has a gap in time, and even timestamps would hide it; `vla-ros convert "
                f"{root} {root}-new` splits it there"
            )
    work = _Work(found, saved, findings)
    if said:
        work.done.append(f"{said}: rebuilt from the data")
    staging = Staging(root)
    try:
        work.build(staging, dict(info), say)
        left = errors(check(staging.path, decode=decode))
        if left:
            raise DatasetError(f"{root} cannot be repaired, and was not changed; it would still have: {left[0]}")
        aside = staging.swap("repair")
    except BaseException:
        staging.abandon()
        raise
    if aside:
        work.done.append(f"{len(aside)} original files are kept in {root / '.recording/aside'}: {_some(aside)}")
    return work.done


def _concerns(finding: Finding) -> bool:
    return finding.severity is Severity.ERROR or finding.kind in _MENDED


def _some(names: list[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")


@dataclass(eq=False)
class _Work:
    """One repair. `done`: what was done, in words."""

    found: Scan
    saved: Salvage
    findings: list[Finding]
    done: list[str] = field(default_factory=list)

    def build(self, staging: Staging, info: dict[str, Any], say: Progress) -> None:
        """Fill the new folder."""
        self._say_what_is_lost()
        places = self._places()
        self._videos(staging, places)
        lines = self._data(staging, places, say)
        self._metadata(staging, lines, info)

    def _say_what_is_lost(self) -> None:
        for index, reason in sorted(self.saved.broken.items()):
            self.done.append(f"episode {index} is quarantined: {reason}")
        moved = [(one.index, new) for new, one in enumerate(self.saved.whole) if one.index != new]
        if moved:
            first, last = moved[0], moved[-1]
            if first == last:
                self.done.append(f"episode {first[0]} is now number {first[1]}")
            else:
                self.done.append(f"episodes {first[0]} to {last[0]} are now numbers {first[1]} to {last[1]}")
        for one in self.saved.whole:
            if not one.was_listed:
                self.done.append(f"episode {one.index}: its line in meta/episodes is rebuilt from its rows and videos")
        if self.saved.orphans:
            self.done.append(f"{len(self.saved.orphans)} files that no intact episode needs are quarantined")

    def _places(self) -> dict[str, tuple[int, int]]:
        """File of data or video -> its chunk and file number: as they are, or by its first episode if that changed."""
        files: dict[str, int] = {}
        for new, one in enumerate(self.saved.whole):
            for path in (one.data, *(clip for clip, _ in one.clips.values())):
                files.setdefault(path, new)
        if all(one.index == new for new, one in enumerate(self.saved.whole)):
            kept = {path: _place(path) for path in files}
            if all(place is not None for place in kept.values()):
                return {path: place for path, place in kept.items() if place is not None}
        return {path: divmod(new, 1000) for path, new in files.items()}

    def _videos(self, staging: Staging, places: Mapping[str, tuple[int, int]]) -> None:
        clips: dict[str, list[tuple[str, int, int]]] = {}
        for one in self.saved.whole:
            for key, (path, first) in one.clips.items():
                clips.setdefault(path, []).append((key, first, one.length))
        for path, parts in clips.items():
            key, first, length = parts[0]
            to = _filled(VIDEO_PATH, places[path], key)
            read = video(self.found, path)
            whole = read.frames if read is not None else 0
            needed = length if len(parts) == 1 and first == 0 else whole
            if read is not None and (whole > needed or not read.has_text):
                (staging.path / to).parent.mkdir(parents=True, exist_ok=True)
                cut(self.found.root / path, staging.path / to, needed)
            else:
                staging.keep(path, to)

    def _data(
        self, staging: Staging, places: Mapping[str, tuple[int, int]], say: Progress
    ) -> list[tuple[EpisodeMeta, Stats]]:
        """Data files, those unchanged kept as they are; returns the lines of meta/episodes."""
        lines: list[tuple[EpisodeMeta, Stats]] = []
        row, mended, remade, groups = 0, 0, 0, _by_file(self.saved.whole)
        for path, episodes in groups.items():
            say("episodes", len(lines), len(self.saved.whole))
            tables, changed = [], False
            for one in episodes:
                rows = rows_of(self.found, one)
                right = self._right(rows, len(lines), row, one)
                mended += not right.equals(rows) and one.index == len(lines)
                changed = changed or not right.equals(rows)
                stats, made = self._stats(one, right)
                remade += made and one.was_listed and one.index == len(lines)
                lines.append((self._line(one, len(lines), row, places), stats))
                row += one.length
                tables.append(right)
            to = _filled(DATA_PATH, places[path])
            if changed or sum(rows.num_rows for rows in tables) != _rows_in(self.found.root / path):
                staging.write(to, _parquet(tables))
            else:
                staging.keep(path, to)
        if mended:
            self.done.append(f"the times and numbers of the rows of {mended} episodes were wrong and are corrected")
        if remade:
            self.done.append(f"the statistics of {remade} episodes are recomputed from their rows and frames")
        return lines

    def _right(self, rows: pa.Table, index: int, first: int, one: Whole) -> pa.Table:
        """The rows with the numbers and times that they must have."""
        steps = np.arange(one.length)
        times = (steps / self.found.fps).astype(np.float32)
        counted = {"frame_index": steps, "episode_index": np.full(one.length, index), "index": first + steps}
        said = numbers(rows, "timestamp")
        if said is None or np.abs(said.reshape(-1) - times).max() > 1e-4:
            counted["timestamp"] = times
        for key, values in counted.items():
            place = rows.schema.get_field_index(key)
            rows = rows.set_column(place, rows.schema.field(key), pa.array(values, type=rows.schema.field(key).type))
        return rows

    def _stats(self, one: Whole, rows: pa.Table) -> tuple[Stats, bool]:
        stats, remade = {}, False
        for key in self.found.features:
            stats[key], made = better_statistics(self.found, key, one.statistics.get(key), rows, one.clips.get(key))
            remade = remade or made
        return stats, remade

    def _line(self, one: Whole, index: int, first: int, places: Mapping[str, tuple[int, int]]) -> EpisodeMeta:
        fps, place = self.found.fps, places[one.data]
        clips = {key: Clip(*places[path], at / fps, (at + one.length) / fps) for key, (path, at) in one.clips.items()}
        return EpisodeMeta(index, one.tasks, one.length, *place, first, first + one.length, clips, *place)

    def _metadata(self, staging: Staging, lines: list[tuple[EpisodeMeta, Stats]], info: dict[str, Any]) -> None:
        features = feature_sets.from_info(info)
        files: dict[tuple[int, int], list[tuple[EpisodeMeta, Stats]]] = {}
        total: Stats = {}
        for line, stats in lines:
            files.setdefault((line.metadata_chunk, line.metadata_file), []).append((line, stats))
            total = merged(total, stats)
        if self._is_good("meta/episodes") and all(one.was_listed for one in self.saved.whole) and self._same_numbers():
            for path in self.found.files("meta/episodes", ".parquet"):
                staging.keep(path)
        else:
            for place, of_file in files.items():
                table = schemas.episodes_table(features, of_file)
                staging.write(_filled(EPISODES_PATH, place), schemas.parquet(table))
        frames = sum(one.length for one in self.saved.whole)
        tasks = schemas.parquet(schemas.tasks_table(self.saved.tasks))
        # What LeRobot wrote of the same content stays as it is.
        if self._is_good(TASKS) and self.saved.tasks == self.found.tasks:
            staging.keep(TASKS)
        else:
            staging.write(TASKS, tasks)
            self.done.append("the tasks are made again from the episodes")
        if self._is_good(STATS) and self._is_good("meta/episodes") and self._same_numbers():
            staging.keep(STATS)
        else:
            staging.write(STATS, schemas.stats_file(total))
            self.done.append("stats.json is made again from the episodes' statistics")
        right = schemas.updated_info(info, len(lines), frames, len(self.saved.tasks), {})
        right = {**right, "data_path": DATA_PATH, "video_path": VIDEO_PATH if self.found.video_keys else None}
        if right == self.found.info and self._is_good(INFO):
            staging.keep(INFO)
        else:
            staging.write(INFO, schemas.json_file(right))
            self.done.append(
                f"info.json names {len(lines)} episodes, {frames} frames, {len(self.saved.tasks)} tasks now"
            )
        self._details(staging)
        self._others(staging)

    def _same_numbers(self) -> bool:
        whole = self.saved.whole
        return [one.index for one in whole] == [one.index for one in self.found.episodes] == list(range(len(whole)))

    def _is_good(self, path: str) -> bool:
        return not any(finding.path.startswith(path) for finding in self.findings if _concerns(finding))

    def _details(self, staging: Staging) -> None:
        if not (self.found.root / DETAILS).is_dir():
            return
        lost = 0
        for new, one in enumerate(self.saved.whole):
            path, details = _details_path(one.index), self.found.details.get(one.index)
            if details is not None and details.get("task", one.tasks[0]) in one.tasks:
                staging.keep(path, _details_path(new))
            else:
                notes = "made again by repair: what was noted is lost"
                empty: dict[str, Any] = {
                    "task": one.tasks[0],
                    "success": None,
                    "notes": notes,
                    "source": "",
                    "seed": None,
                    "extra": {},
                }
                staging.write(_details_path(new), schemas.json_file({**empty, **(details or {}), "task": one.tasks[0]}))
                lost += 1
        if lost:
            self.done.append(f"the details of {lost} episodes were lost or wrong; a short entry replaces them")

    def _others(self, staging: Staging) -> None:
        """What else is in meta, as somebody put it there."""
        for path in self.found.files("meta", ""):
            known = path.startswith(("meta/episodes/", DETAILS)) or path in (INFO, STATS, TASKS)
            if not known and not PurePosixPath(path).name.endswith(".tmp"):
                staging.keep(path)


def _by_file(episodes: list[Whole]) -> dict[str, list[Whole]]:
    files: dict[str, list[Whole]] = {}
    for one in episodes:
        files.setdefault(one.data, []).append(one)
    return files


def _place(path: str) -> tuple[int, int] | None:
    """Chunk and file of a path as LeRobot calls them."""
    parts = PurePosixPath(path).with_suffix("").parts[-2:]
    numbers = [part.removeprefix(name) for part, name in zip(parts, ("chunk-", "file-"), strict=False)]
    return (int(numbers[0]), int(numbers[1])) if len(numbers) == 2 and all(map(str.isdecimal, numbers)) else None


def _filled(pattern: str, place: tuple[int, int], key: str = "") -> str:
    return pattern.format(video_key=key, chunk_index=place[0], file_index=place[1])


def _details_path(index: int) -> str:
    return f"{DETAILS}/episode-{index:06d}.json"


def _rows_in(path: Path) -> int:
    return int(pq.read_metadata(path).num_rows)


def _parquet(tables: list[pa.Table]) -> bytes:
    """Tables as one file, a row group for each, as LeRobot writes episodes."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, tables[0].schema, compression="snappy", write_page_checksum=True) as writer:
        for rows in tables:
            writer.write_table(rows, row_group_size=max(rows.num_rows, 1))
    content: bytes = sink.getvalue().to_pybytes()
    return content
