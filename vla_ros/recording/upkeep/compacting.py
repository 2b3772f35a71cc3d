"""Many small files of a dataset → LeRobot's large ones: rows and frames the same, nothing coded anew."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from vla_ros.recording import features as feature_sets
from vla_ros.recording import schemas
from vla_ros.recording.files import (
    CHUNKS_SIZE,
    DATA_PATH,
    EPISODES_PATH,
    VIDEO_PATH,
    DatasetError,
    Layout,
    WriteLock,
    make_folder,
    reported,
    write_atomically,
)
from vla_ros.recording.schemas import Clip, EpisodeMeta
from vla_ros.recording.upkeep.checking import check, check_scan
from vla_ros.recording.upkeep.findings import Progress, errors
from vla_ros.recording.upkeep.scanning import INFO, V30, Scan, scan, video
from vla_ros.recording.upkeep.staging import Staging, publish, stage_new
from vla_ros.recording.video import concatenate

_MB = 1024**2  # as LeRobot counts


@dataclass(frozen=True)
class Compacted:
    """How many files of data, videos and episodes' metadata there were, and are."""

    before: int
    after: int


def compact(
    root: Path,
    destination: Path,
    *,
    data_mb: float = 100,
    video_mb: float = 200,
    on_progress: Progress | None = None,
) -> Compacted:
    """Merge the files of the dataset at `root` (v3.0) into some of at most these sizes, at `destination`.

    Whole files are joined, packet for packet; those larger already stay as they are. `destination` must not be there,
    and appears when it is whole; or it is `root`, which is then replaced in one step. Raises DatasetError: there is no
    whole dataset (it names what is wrong; repair it first), or the disk cannot be written.
    """
    say = on_progress or (lambda what, done, total: None)
    root, destination = root.resolve(), destination.resolve()
    if data_mb <= 0 or video_mb <= 0:
        raise DatasetError(f"sizes must be positive, got {data_mb} MB of data and {video_mb} MB of video")
    if root == destination:
        with WriteLock(Layout(root)):
            found = _sound(root)
            staging = Staging(root)
            try:
                done = _fill(found, staging.path, data_mb, video_mb, say)
                staging.swap("")
            except BaseException:
                staging.abandon()
                raise
            return done
    if destination.exists():
        raise DatasetError(f"{destination} is there already; choose a new folder")
    if root in destination.parents:
        raise DatasetError(f"{destination} lies in the dataset itself; choose a folder outside it")
    found = _sound(root)
    folder = stage_new(destination)
    try:
        done = _fill(found, folder, data_mb, video_mb, say)
        publish(folder, destination)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return done


def _sound(root: Path) -> Scan:
    if not (root / INFO).is_file():
        raise DatasetError(f"{root} is not a LeRobot dataset: it has no meta/info.json")
    found = scan(root)
    if found.version != V30:
        raise DatasetError(f"{root} is a dataset of version {found.version}; only {V30} has files of several episodes")
    wrong = errors(check_scan(found))
    if wrong:
        raise DatasetError(f"{root} is damaged, repair it first (vla-ros dataset repair): {wrong[0]}")
    return found


def _fill(found: Scan, folder: Path, data_mb: float, video_mb: float, say: Progress) -> Compacted:
    total = len(found.files("data", ".parquet")) + len(found.files("videos", ".mp4"))
    count = total + len(found.files("meta/episodes", ".parquet"))
    done = 0
    data: dict[str, tuple[int, int]] = {}
    for number, paths in enumerate(_groups(found, _in_order(each.data for each in found.episodes), data_mb)):
        place = divmod(number, CHUNKS_SIZE)
        _join_data(found, paths, folder / DATA_PATH.format(chunk_index=place[0], file_index=place[1]))
        data.update(dict.fromkeys(paths, place))
        done += len(paths)
        say("joining", done, total)
    videos: dict[str, tuple[tuple[int, int], int]] = {}  # file -> its new one, and where its frames begin there
    after = len(set(data.values())) + 1
    for key in found.video_keys:
        files = _in_order(episode.videos[key].path for episode in found.episodes)
        for number, paths in enumerate(_groups(found, files, video_mb)):
            place = divmod(number, CHUNKS_SIZE)
            to = folder / VIDEO_PATH.format(video_key=key, chunk_index=place[0], file_index=place[1])
            _join_videos(found, paths, to)
            first = 0
            for path in paths:
                videos[path] = (place, first)
                first += _frames(found, path)
            after += 1
            done += len(paths)
            say("joining", done, total)
    _write_metadata(found, folder, data, videos, data_mb, video_mb)
    left = errors(check(folder, on_progress=say))
    if left:
        raise DatasetError(f"{found.root} could not be joined, and is as it was: {left[0]}")
    return Compacted(count, after)


def _in_order(paths: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(paths))


def _groups(found: Scan, paths: list[str], size_mb: float) -> Iterator[list[str]]:
    """Successive files that can become one: not larger together, and of videos, all of a kind."""
    group: list[str] = []
    size = 0
    for path in paths:
        bytes_ = (found.root / path).stat().st_size
        if group and (size + bytes_ > size_mb * _MB or not _alike(found, group[0], path)):
            yield group
            group, size = [], 0
        group.append(path)
        size += bytes_
    if group:
        yield group


def _alike(found: Scan, one: str, other: str) -> bool:
    if not one.endswith(".mp4"):
        return True
    first, second = video(found, one), video(found, other)
    return first is not None and second is not None and first.kind == second.kind


def _frames(found: Scan, path: str) -> int:
    read = video(found, path)
    return read.frames if read is not None else 0


def _join_data(found: Scan, paths: list[str], to: Path) -> None:
    """Data files as one, a row group per episode."""
    lengths = {path: [each.length for each in found.episodes if each.data == path] for path in paths}
    with reported(f"{to} cannot be written"):
        make_folder(to.parent)
        schema = pq.read_schema(found.root / paths[0])
        with pq.ParquetWriter(to, schema, compression="snappy", write_page_checksum=True) as writer:
            for path in paths:
                rows = pq.ParquetFile(found.root / path).read().cast(schema)
                first = 0
                for length in lengths[path]:
                    writer.write_table(rows.slice(first, length), row_group_size=length)
                    first += length


def _join_videos(found: Scan, paths: list[str], to: Path) -> None:
    with reported(f"{to} cannot be written"):
        make_folder(to.parent)
        if len(paths) == 1:
            shutil.copyfile(found.root / paths[0], to)
            return
    concatenate([found.root / path for path in paths], to)


def _write_metadata(
    found: Scan,
    folder: Path,
    data: Mapping[str, tuple[int, int]],
    videos: Mapping[str, tuple[tuple[int, int], int]],
    data_mb: float,
    video_mb: float,
) -> None:
    features = feature_sets.from_info(found.info)
    lines = []
    for episode in found.episodes:
        clips = {}
        for key, segment in episode.videos.items():
            place, offset = videos[segment.path]
            first = offset + round(segment.from_s * found.fps)
            # Of whole numbers, so that no error adds up from episode to episode.
            clips[key] = Clip(*place, first / found.fps, (first + episode.length) / found.fps)
        line = EpisodeMeta(
            episode.index,
            episode.tasks,
            episode.length,
            *data[episode.data],
            episode.first,
            episode.last,
            clips,
            0,
            0,
        )
        lines.append((line, episode.statistics))
    table = schemas.parquet(schemas.episodes_table(features, lines))
    write_atomically(folder / EPISODES_PATH.format(chunk_index=0, file_index=0), table)
    info = {
        **found.info,
        "chunks_size": CHUNKS_SIZE,
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if found.video_keys else None,
        "data_files_size_in_mb": data_mb,
        "video_files_size_in_mb": video_mb,
    }
    write_atomically(folder / INFO, schemas.json_file(info))
    for path in found.files("meta", ""):
        if path != INFO and not path.startswith("meta/episodes/"):
            with reported(f"{folder / path} cannot be written"):
                make_folder((folder / path).parent)
                shutil.copyfile(found.root / path, folder / path)
