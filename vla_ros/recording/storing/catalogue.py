"""A dataset's list of episodes, written: an episode is in it whole or not at all, however the program ends.

An episode exists when its line in meta/episodes does. What it needs is put in its place before; the totals in info.json
and stats.json come after, and are made again from the episodes where a crash left them behind.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.recording import dataset, schemas
from vla_ros.recording.dataset import DatasetMeta
from vla_ros.recording.features import DEFAULTS, Features
from vla_ros.recording.files import (
    DatasetError,
    Layout,
    at_once,
    fsync_folder,
    move,
    publish,
    reported,
    stage,
    staged_path,
    write_atomically,
)
from vla_ros.recording.schemas import Clip, EpisodeMeta, Stats
from vla_ros.recording.statistics import of_rows
from vla_ros.recording.storing.totals import Totals, counted, merged, read
from vla_ros.recording.video import VideoInfo

#: Names of what is taken back into the folder of an open episode, and of an episode's line in meta/episodes.
DATA, DETAILS, LINE = "data.parquet", "details.json", "line.parquet"


@dataclass(frozen=True)
class Finished:
    """An episode that is recorded and not in the dataset yet. `folder` has a video <camera>.mp4 per camera.

    `columns`: key -> (T, N) or (T,), all but LeRobot's own; `videos`: key -> what its file holds; `image_stats`: key of
    a video -> its statistics.
    """

    folder: Path
    columns: Mapping[str, NDArray[Any]]
    videos: Mapping[str, VideoInfo]
    image_stats: Stats

    @property
    def length(self) -> int:
        """Its rows."""
        return len(next(iter(self.columns.values())))


@dataclass
class Catalogue:
    """The episodes of the dataset at `layout`; only who holds its `WriteLock` may have one."""

    layout: Layout
    features: Features
    _totals: Totals
    _before: Totals | None = field(default=None)  # without the last episode, where that was saved here
    _shift: int = 0  # an episode's files have its number and so many more; other programs leave gaps

    def __post_init__(self) -> None:
        if not self.features.columns:
            raise DatasetError("a dataset needs a feature that is no video")
        keys = [feature.key for feature in (*self.features.features, *DEFAULTS)]
        wrong = [key for key in keys if keys.count(key) > 1]
        if wrong:
            raise DatasetError(f"keys of features are distinct, and none of LeRobot's; got {wrong}")
        # Refuses now what could not be saved later, and has libraries load what they load at their first table.
        schemas.data_schema(self.features)
        nothing = {feature.key: np.zeros((0, *feature.shape), feature.numpy) for feature in self.features.columns}
        columns = self._with_defaults(Finished(self.layout.root, nothing, {}, {}), [])
        schemas.parquet(schemas.data_table(self.features, columns))

    @classmethod
    def create(cls, layout: Layout, features: Features) -> Catalogue:
        """A dataset without episodes; raises DatasetError where it cannot be written, or a feature not be stored."""
        info = schemas.new_info(features)
        catalogue = cls(layout, features, Totals(info, {}, {}))
        write_atomically(layout.info, schemas.json_file(info))
        return catalogue

    @classmethod
    def open(cls, root: Path, notices: list[str]) -> Catalogue:
        """The dataset at `root`; totals that are behind are made again, which `notices` then says.

        Raises DatasetError where there is none, or it contradicts itself.
        """
        info = dataset.read_info(root)
        layout, features = Layout.of(root, info), dataset.read_features(root, info)
        totals, is_written = read(layout, info)
        catalogue = cls(layout, features, totals, _shift=_first_free(layout, totals.episodes) - totals.episodes)
        if not is_written:
            catalogue.restore()
            notices.append(
                f"info.json and stats.json did not agree with meta/episodes; rebuilt from its {totals.episodes} "
                f"episodes, {totals.frames} frames"
            )
        return catalogue

    @property
    def episodes(self) -> int:
        """Those in the dataset: the number of the next one."""
        return self._totals.episodes

    @property
    def info(self) -> Mapping[str, Any]:
        """The content of info.json."""
        return self._totals.info

    def add(self, finished: Finished, task: str | Sequence[str], details: bytes) -> None:
        """Make an episode part of the dataset, on the disk when this returns; `details`: the content of its file.

        `task`: of the episode, or one for every row, as other programs have it.

        With a DatasetError it is not part of it, or may not be after a power cut; `add` again goes on where that left,
        `take_back` undoes it.
        """
        totals, index, layout = self._totals, self._totals.episodes, self.layout
        texts = [task] * finished.length if isinstance(task, str) else list(task)
        numbers = {text: number for number, text in totals.tasks.items()}
        for text in texts:
            numbers.setdefault(text, max(numbers.values(), default=-1) + 1)
        tasks = {number: text for text, number in numbers.items()}
        columns = self._with_defaults(finished, [numbers[text] for text in texts])
        stats = self._stats(columns, finished.image_stats)
        line = self._line(finished, tuple(dict.fromkeys(texts)))
        videos = {key: video_info(video) for key, video in finished.videos.items()}
        frames = totals.frames + finished.length
        after = Totals(
            schemas.updated_info(totals.info, index + 1, frames, len(tasks), videos),
            tasks,
            merged(totals.stats, stats),
            index + 1,
            frames,
        )
        sums = after.files(layout)
        texts_file = sums.pop(layout.tasks)
        place = self._place(index)
        data = schemas.parquet(schemas.data_table(self.features, columns))
        files = {layout.data_file(*place): data, layout.details_file(index): details}
        if tasks != totals.tasks:
            files[layout.tasks] = texts_file
        listed = layout.episodes_file(line.metadata_chunk, line.metadata_file)
        lines = {listed: schemas.parquet(schemas.episodes_table(self.features, [(line, stats)]))}
        with _staged({**files, **lines, **sums}):  # whatever takes room; then there are only names to change
            publish([*self._videos(finished.folder, index), *_names(files)])
            publish(_names(lines))  # from here on there is this episode
            publish(_names(sums))
        self._totals, self._before = after, totals

    def take_back(self, folder: Path) -> list[Path]:
        """Move what a failed `add`, or a crash in it, has put in place for the next episode back into `folder`.

        What is there has a name after the camera, data.parquet, details.json. Returns what was moved.
        """
        layout, index = self.layout, self._totals.episodes
        line = layout.episodes_file(*self._place(index))
        if line.exists():
            _remove(line)
        back = [(placed, source) for source, placed in self._files(folder, index) if placed.exists()]
        for placed, source in back:
            move(placed, source)
        return [source for _, source in back]

    def restore(self) -> None:
        """Have info, stats and tasks on the disk as they are known here; raises DatasetError."""
        for path, content in self._totals.files(self.layout).items():
            there = path.read_bytes() if path.exists() else b""
            if there != content and (there or self.episodes):
                write_atomically(path, content)

    def trash_last(self) -> int:
        """Take the last episode out of the dataset, its files below `Layout.trash`; its number. Raises DatasetError."""
        index, layout = self._totals.episodes - 1, self.layout
        if index < 0:
            raise DatasetError(f"{layout.root} has no episode to drop")
        line = layout.episodes_file(*self._place(index))
        if not line.exists():
            raise DatasetError(
                f"{layout.root}: episode {index} shares its files with others (compacted, or written by another "
                "program); it cannot be dropped"
            )
        totals = self._before or counted(DatasetMeta.load(layout.root), index)
        folder = self._trash(index)
        with reported(f"{line} cannot be read"):
            write_atomically(folder / LINE, line.read_bytes())  # without it nothing was taken out yet
        _remove(line)  # from here on there is no such episode
        self._totals, self._before = totals, None
        self.take_back(folder)
        self.restore()
        return index

    def put_back(self) -> list[int]:
        """Make what is in the trash part of the dataset again; the numbers of these episodes. Raises DatasetError."""
        numbers: list[int] = []
        while (folder := self._trash(index := self.episodes)).is_dir():
            if (folder / LINE).is_file():
                publish([(source, placed) for source, placed in self._files(folder, index) if source.exists()])
                publish([(folder / LINE, self.layout.episodes_file(*self._place(index)))])
                self._totals, self._before = read(self.layout, dataset.read_info(self.layout.root))[0], None
                self.restore()
                numbers.append(index)
            with reported(f"{folder} cannot be removed"):
                shutil.rmtree(folder)
        return numbers

    def _stats(self, columns: Mapping[str, NDArray[Any]], images: Stats) -> Stats:
        """Statistics of an episode, of all features in their order."""
        return {
            feature.key: images[feature.key] if feature.is_video else of_rows(columns[feature.key])
            for feature in (*self.features.features, *DEFAULTS)
        }

    def _videos(self, folder: Path, index: int) -> list[tuple[Path, Path]]:
        """(in the folder of the open episode, in the dataset) of every camera."""
        place = self._place(index)
        return [
            (folder / f"{camera}.mp4", self.layout.video_file(key, *place))
            for camera, key in zip(self.features.cameras, self._video_keys(), strict=True)
        ]

    def _files(self, folder: Path, index: int) -> list[tuple[Path, Path]]:
        """The same of every file of an episode, but its line in meta/episodes."""
        data, details = self.layout.data_file(*self._place(index)), self.layout.details_file(index)
        return [*self._videos(folder, index), (folder / DATA, data), (folder / DETAILS, details)]

    def _trash(self, index: int) -> Path:
        return self.layout.trash / self.layout.open_episode(index).name

    def _place(self, index: int) -> tuple[int, int]:
        """(chunk, file) of an episode that was saved here."""
        return self.layout.place(index + self._shift)

    def _video_keys(self) -> list[str]:
        return [feature.key for feature in self.features.features if feature.is_video]

    def _line(self, finished: Finished, tasks: tuple[str, ...]) -> EpisodeMeta:
        index, first = self._totals.episodes, self._totals.frames
        place = self._place(index)
        clip = Clip(*place, 0.0, finished.length / self.features.fps)
        clips = dict.fromkeys(self._video_keys(), clip)
        return EpisodeMeta(index, tasks, finished.length, *place, first, first + finished.length, clips, *place)

    def _with_defaults(self, finished: Finished, tasks: list[int]) -> dict[str, NDArray[Any]]:
        """All columns, LeRobot's own too."""
        frame = np.arange(finished.length, dtype=np.int64)
        return {
            **finished.columns,
            "timestamp": (frame / self.features.fps).astype(np.float32),
            "frame_index": frame,
            "episode_index": np.full(finished.length, self._totals.episodes, dtype=np.int64),
            "index": self._totals.frames + frame,
            "task_index": np.array(tasks, dtype=np.int64),
        }


def _first_free(layout: Layout, episodes: int) -> int:
    """The number of the next episode's files: its own, or the first after all that are in use.

    LeRobot leaves files their numbers where it takes episodes out.
    """

    def last_file(line: EpisodeMeta) -> int:
        places = [(line.chunk, line.file), (line.metadata_chunk, line.metadata_file)]
        places += [(clip.chunk, clip.file) for clip in line.clips.values()]
        return max(chunk * layout.chunks_size + file for chunk, file in places)

    files = dataset.episodes_files(layout)
    lines = dataset.read_episodes_of(files[-1]) if files else []
    if len(files) != episodes or [last_file(line) for line in lines] != [episodes - 1]:
        lines = list(dataset.read_episodes(layout))
    return max([episodes, *(last_file(line) + 1 for line in lines)])


def video_info(video: VideoInfo) -> dict[str, Any]:
    """What info.json says of a video, as LeRobot 0.6.1 does."""
    return {
        "video.height": video.height,
        "video.width": video.width,
        "video.codec": video.codec,
        "video.pix_fmt": video.pix_fmt,
        "video.fps": video.fps,
        "video.channels": 3,
        "has_audio": False,
        "video.g": video.gop,
        "video.crf": video.crf,
        "video.preset": int(video.preset) if video.preset.isdecimal() else video.preset,
        "video.fast_decode": 0,
        "video.video_backend": "pyav",
        "video.extra_options": {},
        "is_depth_map": False,
    }


@contextmanager
def _staged(files: Mapping[Path, bytes]) -> Iterator[None]:
    """Have every content written beside its path; what is not there any more in the end was published."""
    try:
        at_once(lambda path: stage(path, files[path]), files)
        yield
    finally:
        for path in files:
            with suppress(OSError):
                staged_path(path).unlink(missing_ok=True)


def _names(files: Mapping[Path, bytes]) -> list[tuple[Path, Path]]:
    return [(staged_path(path), path) for path in files]


def _remove(path: Path) -> None:
    with reported(f"{path} cannot be removed"):
        path.unlink()
        fsync_folder(path.parent)
