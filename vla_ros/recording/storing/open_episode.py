"""The episode that is being recorded: its rows and one video per camera, readable if the program is killed."""

from __future__ import annotations

import errno
import shutil
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import av
import numpy as np

from vla_ros.recording import schemas
from vla_ros.recording.config import VideoConfig
from vla_ros.recording.features import IMAGES, Features, Row
from vla_ros.recording.files import (
    DatasetError,
    at_once,
    fsync_file,
    fsync_folder,
    make_folder,
    reported,
    write_atomically,
)
from vla_ros.recording.statistics import ImageStatistics
from vla_ros.recording.storing import journal
from vla_ros.recording.storing.catalogue import Finished
from vla_ros.recording.storing.journal import Journal
from vla_ros.recording.video import EncoderError, VideoEncoder, VideoInfo

ROWS: Final = "rows.bin"
ABOUT: Final = "episode.json"
_SYNC_S: Final = 1.0  # what a power cut takes of an episode that is not saved; less is left to write at the end


class OpenEpisode:
    """Rows in, `finish` out. Once an error has left rows and frames different, it is `broken` and takes no more."""

    def __init__(self, folder: Path, features: Features, video: VideoConfig, about: Mapping[str, Any]) -> None:
        """Make the folder, which must not be there; `about` goes to its episode.json. Raises DatasetError."""
        self.folder = folder
        self.broken: DatasetError | None = None
        self._features = features
        self._keys = {video.key.removeprefix(IMAGES): video.key for video in features.features if video.is_video}
        self._finished: Finished | None = None
        self._encoders: dict[str, VideoEncoder] = {}
        with ExitStack() as undo:
            with reported(f"{folder} cannot be made"):
                make_folder(folder.parent)
                folder.mkdir()
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
            write_atomically(folder / ABOUT, schemas.json_file(about))
            self._journal = Journal(folder / ROWS, features)
            undo.callback(self._journal.close)
            for camera, (height, width) in features.cameras.items():
                encoder = VideoEncoder(folder / f"{camera}.mp4", height, width, features.fps, video)
                undo.callback(encoder.abort)
                self._encoders[camera] = encoder
            with reported(f"{folder} cannot be written"):
                for named in (folder, folder.parent):  # or a power cut takes the names of what is synced later
                    fsync_folder(named)
            undo.pop_all()
        self._images = {camera: ImageStatistics() for camera in features.cameras}
        self._ending = threading.Event()
        self._sync_error: OSError | None = None
        self._syncing = threading.Thread(target=self._sync, name=f"sync {folder.name}", daemon=True)
        self._syncing.start()

    @property
    def frames(self) -> int:
        """Rows taken."""
        return self._journal.rows

    @property
    def bytes(self) -> int:
        """Size of its rows on the disk, without the frames."""
        return self._journal.bytes

    @property
    def backlog(self) -> int:
        """Frames that wait for an encoder, of the camera that has most."""
        return max((encoder.backlog for encoder in self._encoders.values()), default=0)

    def add(self, row: Row) -> None:
        """Keep a row; its images must not change any more. Raises DatasetError, and then the row is not kept."""
        if self.broken is not None:
            raise self.broken
        if self._finished is not None:
            raise DatasetError(f"{self.folder.name} takes no more rows: it is being saved")
        if self._sync_error is not None:
            self.broken = DatasetError(f"{self.folder} cannot be written: {self._sync_error.strerror}")
            raise self.broken
        self._check_images(row)
        self._journal.append(row)
        for camera, encoder in self._encoders.items():
            try:
                encoder.add(row.images[camera])
            except EncoderError as error:
                self.broken = error
                raise
            self._images[camera].add(row.images[camera])

    def finish(self) -> Finished:
        """End videos and rows, on the disk when this returns; may be called again. Raises DatasetError.

        What is in the files is counted, not what was given: every camera has a frame for every row, or it is an error.
        """
        if self._finished is None:
            self._finished = self._finish()
        return self._finished

    def keep(self) -> None:
        """End what can be ended and leave the folder to be recovered."""
        self._stop()
        self._journal.close()
        for encoder in self._encoders.values():
            try:
                encoder.close()
            except EncoderError:  # the file holds what could be written
                continue

    def delete(self) -> None:
        """Leave nothing; raises DatasetError where the folder cannot be removed."""
        self._stop()
        self._journal.close()
        for encoder in self._encoders.values():
            encoder.abort()
        with reported(f"{self.folder} cannot be removed"):
            shutil.rmtree(self.folder)

    def _finish(self) -> Finished:
        if self.broken is not None:
            raise self.broken
        self._stop()
        videos: dict[str, VideoInfo] = {}
        try:
            for camera, encoder in self._encoders.items():
                videos[self._keys[camera]] = encoder.close()
        except EncoderError as error:
            self.broken = error
            raise
        try:
            at_once(fsync_file, [self.folder / f"{camera}.mp4" for camera in self._encoders])
        except OSError as error:
            failure = DatasetError(f"{self.folder} cannot be written: {error.strerror}")
            if error.errno == errno.EIO:  # told once only: the next sync would succeed, without what is lost
                self.broken = failure
            raise failure from error
        self._journal.close()
        rows = journal.read(self.folder / ROWS)
        counts = {camera: _frames_in(self.folder / f"{camera}.mp4") for camera in self._encoders}
        if {len(rows), *counts.values()} != {self.frames}:
            self.broken = DatasetError(
                f"{self.folder.name}: {self.frames} rows were given, {len(rows)} are in {ROWS}, and frames: {counts}"
            )
            raise self.broken
        stats = {self._keys[camera]: images.stats() for camera, images in self._images.items()}
        return Finished(self.folder, journal.columns(rows), videos, stats)

    def _check_images(self, row: Row) -> None:
        sizes = self._features.cameras
        if set(row.images) != set(sizes):
            raise DatasetError(f"row {self.frames}: images of {sorted(row.images)}, there should be {sorted(sizes)}")
        for camera, image in row.images.items():
            shape = (*sizes[camera], 3)
            if image.shape != shape or image.dtype != np.uint8:
                raise DatasetError(
                    f"row {self.frames}: {camera} should be {shape} uint8, got {image.shape} {image.dtype}"
                )

    def _stop(self) -> None:
        self._ending.set()
        self._syncing.join()

    def _sync(self) -> None:
        """On a thread of its own: the disk may take its time."""
        while not self._ending.wait(_SYNC_S):
            try:
                self._journal.sync()
                for encoder in self._encoders.values():
                    encoder.sync()
            except OSError as error:
                self._sync_error = error
                return


def _frames_in(path: Path) -> int:
    """By the table of frames that was written into the file; to read all frames of an hour would take seconds."""
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            frames: int = container.streams.video[0].frames
    except (OSError, av.FFmpegError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error
    return frames
