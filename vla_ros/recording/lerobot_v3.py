"""Accepted episodes → a LeRobot v3.0 dataset, one data, metadata and video file per episode."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from vla_ros.recording import dataset, schemas
from vla_ros.recording.config import LONGEST_TASK, RecordingConfig
from vla_ros.recording.features import Features, Row
from vla_ros.recording.files import DatasetError, Layout, WriteLock, reported, write_atomically
from vla_ros.recording.storing import leftovers
from vla_ros.recording.storing.catalogue import Catalogue
from vla_ros.recording.storing.open_episode import OpenEpisode

_MARGIN_BYTES: Final = 4_000_000  # on top of an episode's rows: the end of its videos, metadata


@dataclass(frozen=True)
class EpisodeDetails:
    """What is known of an episode at its end. `success` None: not said. `extra`: anything JSON can say."""

    task: str
    success: bool | None = None
    notes: str = ""
    source: str = ""  # who led: policy, teleop, scripted, a bag's name
    seed: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SavedEpisode:
    """An episode that is on the disk. `save_s`: how long `save` took."""

    index: int
    frames: int
    duration_s: float
    save_s: float


class DatasetWriter:
    """Writes episodes to a dataset at `root`: `begin`, `add` row by row, then `save` or `discard`.

    Whatever happens, an episode that `save` has returned for stays in the dataset, and one that is open is either kept
    in `.recording` until this or a later writer sets it aside in `.recording/aside`, or discarded on request.
    `notices` says what was found and done at opening and closing. For one thread at a time.
    """

    def __init__(
        self,
        root: Path,
        features: Features,
        config: RecordingConfig,
        *,
        system: Mapping[str, Any] | None = None,
        resume: bool = False,
    ) -> None:
        """Make a dataset at `root`, which must not be there or be empty, or with `resume` go on with the one there.

        `system` describes robot and programs, for meta/vla_ros/system.json. Raises DatasetError: another writes there
        (named), the dataset there has other features (named), `root` cannot be written, a feature cannot be stored.
        """
        if features.fps != config.fps:
            raise DatasetError(f"the features are of {features.fps} Hz, the recording of {config.fps} Hz")
        self.notices: list[str] = []
        self._layout = Layout(root)
        self._features = features
        self._config = config
        self._open: OpenEpisode | None = None
        self._check_root(resume)
        self._lock = WriteLock(self._layout)
        try:
            self._check_root(resume)  # nobody else writes from here on
            if resume:
                self._catalogue = Catalogue.open(root, self.notices)
                self._layout = self._catalogue.layout
                self._check_equal()
            self._note_system(system or {})
            if not resume:
                self._catalogue = Catalogue.create(self._layout, features)
            self.notices += leftovers.clear(self._catalogue)
        except BaseException:
            self._lock.release()
            raise

    @property
    def episodes(self) -> int:
        """Episodes in the dataset."""
        return self._catalogue.episodes

    @property
    def frames(self) -> int:
        """Rows of the open episode; 0 where none is open."""
        return self._open.frames if self._open else 0

    @property
    def backlog(self) -> int:
        """Frames of the open episode that wait for an encoder, of the camera that has most."""
        return self._open.backlog if self._open else 0

    @property
    def is_open(self) -> bool:
        """Whether an episode was begun and is neither saved nor discarded."""
        return self._open is not None

    @property
    def disk_free_mb(self) -> float:
        """Room left where the dataset is."""
        return _free_bytes(self._layout.root) / 1e6

    def begin(self, task: str) -> None:
        """Open an episode; raises DatasetError where one is open, or the task is no text for LeRobot."""
        if self._open is not None:
            raise DatasetError(f"episode {self.episodes} is open; save or discard it first")
        about = {
            "episode": self.episodes,
            "task": checked_task(task),
            "fps": self._features.fps,
            "cameras": list(self._features.cameras),
            "started_at": _now(),
            "process": os.getpid(),
        }
        self._lock.check()
        folder = self._layout.open_episode(self.episodes)
        self._open = OpenEpisode(folder, self._features, self._config.video, about)

    def add(self, row: Row) -> None:
        """Keep a row of the open episode; its images must not change any more.

        Raises DatasetError, and the row is not kept: a value that is not finite or of another shape, a full disk, an
        encoder that has failed. After a failure of the encoder the episode can only be discarded or set aside.
        """
        opened = self._opened()
        self._lock.check()
        opened.add(row)

    def save(self, details: EpisodeDetails) -> SavedEpisode:
        """Make the open episode part of the dataset: on the disk, whole, and loadable when this returns.

        Raises DatasetError (a full disk, details that JSON cannot say, an encoder that failed): then the episode is
        still open, and can be saved again, discarded or set aside.
        """
        started_s = time.perf_counter()
        opened, index = self._opened(), self.episodes
        if not opened.frames:
            raise DatasetError("the episode has no frames; discard it")
        task, content = checked_task(details.task), self._details(details)
        self._lock.check()
        self._check_room(opened)
        finished = opened.finish()
        self._catalogue.add(finished, task, content)
        self._open = None
        for folder in (opened.folder, self._layout.trash):  # a later writer tries again
            shutil.rmtree(folder, ignore_errors=True)
        duration_s = finished.length / self._features.fps
        return SavedEpisode(index, finished.length, duration_s, time.perf_counter() - started_s)

    def discard(self, is_repeated: bool = False) -> None:
        """Leave nothing of the open episode, and what it was to replace as it was, unless it `is_repeated` at once.

        Raises DatasetError where files cannot be removed.
        """
        opened = self._opened()
        self._lock.check()
        self._catalogue.take_back(opened.folder)
        opened.delete()
        self._open = None
        self._catalogue.restore()
        if not is_repeated:
            self._catalogue.put_back()

    def set_aside(self) -> Path:
        """Keep what came of the open episode outside the dataset; returns its folder, which can be repaired later."""
        opened = self._opened()
        opened.keep()
        self._lock.check()
        self._catalogue.take_back(opened.folder)
        self._open = None
        where = leftovers.move_aside(self._layout, opened.folder)
        self._catalogue.restore()
        self._catalogue.put_back()
        return where

    def drop_last(self) -> int:
        """Take the last saved episode out of the dataset, to record it again; returns its number.

        It is kept until an episode is saved: `put_back`, `discard`, `set_aside` and `close` make it part of the dataset
        again. Raises DatasetError where there is none, where an episode is open, or where it shares files with others.
        """
        if self._open is not None:
            raise DatasetError(f"episode {self.episodes} is open; save or discard it first")
        self._lock.check()
        return self._catalogue.trash_last()

    def put_back(self) -> None:
        """Undo `drop_last`, unless an episode was saved or begun since; raises DatasetError."""
        if self._open is None:
            self._catalogue.put_back()

    def close(self) -> None:
        """Set an open episode aside (`notices` says where) and let others write; may be called again."""
        try:
            if self._open is not None:
                frames, where = self._open.frames, self._open.folder
                try:
                    where = self.set_aside()
                except DatasetError as error:  # it stays where it is, for the next writer
                    self.notices.append(str(error))
                self.notices.append(f"an episode of {frames} frames was not saved; it is in {where}")
            else:
                try:
                    self._catalogue.put_back()
                except DatasetError as error:  # the next writer tries again
                    self.notices.append(str(error))
        finally:
            self._lock.release()

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _opened(self) -> OpenEpisode:
        if self._open is None:
            raise DatasetError("no episode is open; begin one first")
        return self._open

    def _check_root(self, resume: bool) -> None:
        root = self._layout.root
        if resume:
            if not is_dataset(root):
                raise DatasetError(f"{root} contains no dataset to continue")
            return
        with reported(f"{root} cannot be read"):
            found = sorted(entry.name for entry in root.iterdir()) if root.exists() else []
        # A writer that died before it wrote info.json leaves these.
        if is_dataset(root) or not set(found) <= {self._layout.recording.name, "meta"}:
            raise DatasetError(
                f"{root} is not empty ({', '.join(found[:5])}); resume the dataset there, or choose a new folder"
            )

    def _check_equal(self) -> None:
        there = differences(self._catalogue.features, self._features)
        there += _codec_differences(self._catalogue.info, self._config.video.codec)
        if there:
            raise DatasetError(f"{self._layout.root} cannot be gone on with: " + "; ".join(there))

    def _check_room(self, opened: OpenEpisode) -> None:
        """Before the videos are ended, which cannot be done twice."""
        needed = _MARGIN_BYTES + 2 * opened.bytes
        if self._layout.root.exists() and (free := _free_bytes(self._layout.root)) < needed:
            raise DatasetError(
                f"{self._layout.root} has {free / 1e6:.1f} MB left, saving takes {needed / 1e6:.1f} MB; make room and "
                "save again"
            )

    def _details(self, details: EpisodeDetails) -> bytes:
        said = {**vars(details), "extra": _finite(dict(details.extra)), "saved_at": _now()}
        try:
            return schemas.json_file(said)
        except (TypeError, ValueError) as error:
            raise DatasetError(f"the episode's details cannot be written as JSON: {error}") from error

    def _note_system(self, system: Mapping[str, Any]) -> None:
        """Add this session to system.json."""
        path = self._layout.system
        sessions = dataset.read_system(self._layout).get("sessions", [])
        session = {
            "started_at": _now(),
            "written_by": f"vla_ros {_version()}",
            "recording": self._config.model_dump(mode="json"),
            # A lost info.json is made again of these.
            "robot_type": self._features.robot_type,
            "features": schemas.new_info(self._features)["features"],
            "system": _finite(dict(system)),
        }
        try:
            content = schemas.json_file({"sessions": [*sessions, session]})
        except (TypeError, ValueError) as error:
            raise DatasetError(f"the description of the system cannot be written as JSON: {error}") from error
        write_atomically(path, content)


def is_dataset(root: Path) -> bool:
    """Whether there is something to resume at `root`."""
    return Layout(root).info.is_file()


def checked_task(task: str) -> str:
    """`task`, if LeRobot's files can hold it; raises DatasetError."""
    if not task.strip():
        raise DatasetError("the task is empty; say in words what is to be done")
    if len(task) > LONGEST_TASK:
        raise DatasetError(f"the task has {len(task)} characters; at most {LONGEST_TASK}")
    try:
        task.encode()
    except UnicodeEncodeError as error:
        raise DatasetError(
            f"the task {task!r} is not Unicode text: character {error.start} is half of a pair"
        ) from None
    return task


def differences(there: Features, given: Features) -> list[str]:
    """What differs between two sets of features, in words."""
    said = []
    if there.fps != given.fps:
        said.append(f"it has {there.fps} Hz, given {given.fps} Hz")
    if there.robot_type != given.robot_type:
        said.append(f"its robot is {there.robot_type!r}, given {given.robot_type!r}")
    old, new = ({feature.key: feature for feature in features.features} for features in (there, given))
    said += [f"{key} is in it, not given" for key in old if key not in new]
    said += [f"{key} is given, not in it" for key in new if key not in old]
    for key in old:
        if key in new and old[key] != new[key]:
            said += [
                f"{key} has {name} {getattr(old[key], name)}, given {getattr(new[key], name)}"
                for name in ("dtype", "shape", "names")
                if getattr(old[key], name) != getattr(new[key], name)
            ]
    if not said and list(old) != list(new):
        said.append(f"its features are in the order {', '.join(old)}; given {', '.join(new)}")
    return said


def _codec_differences(info: Mapping[str, Any], codec: str) -> list[str]:
    """Videos of one camera have one codec, so that they can be joined."""
    given = {"libsvtav1": "av1", "auto": "h264"}.get(codec, codec.removesuffix("_nvenc"))
    said = []
    for key, entry in info["features"].items():
        there = (entry.get("info") or {}).get("video.codec", given)
        if there != given:
            said.append(f"{key} is coded as {there}, given {codec}")
    return said


def _finite(content: Any) -> Any:
    """JSON has no NaN and no infinity: null."""
    if isinstance(content, Mapping):
        return {str(key): _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _version() -> str:
    try:
        return version("vla_ros")
    except PackageNotFoundError:  # run from a source tree
        return "of unknown version"


def _free_bytes(folder: Path) -> int:
    with reported(f"{folder} cannot be read"):
        return shutil.disk_usage(folder).free


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
