"""The frames of a dataset's camera, resized once and kept in a file that is mapped into memory."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.policies.images import square
from vla_ros.recording.files import make_folder, reported
from vla_ros.recording.reader import DatasetReader
from vla_ros.values import Image

#: Told what is being done, how much of it is done, and of how much.
Progress = Callable[[str, int, int], None]

_AT_A_TIME = 64  # frames decoded before they are resized


@dataclass(frozen=True)
class Clip:
    """An episode that is learnt from: its number in its dataset, its rows, what it shows."""

    episode: int
    length: int
    instruction: str


class Frames:
    """Resized frames (S, S, 3) of one camera of one dataset, of its `clips`, one after the other; can be pickled."""

    def __init__(self, reader: DatasetReader, camera: str, clips: Sequence[Clip], pixels: int) -> None:
        self._reader = reader
        self._camera = camera
        self._clips = tuple(clips)
        self._pixels = pixels
        self._starts = np.cumsum([0, *(clip.length for clip in clips)])
        self._path: Path | None = None  # where they are kept
        self._kept: NDArray[np.uint8] | None = None  # mapped

    @classmethod
    def of(
        cls,
        reader: DatasetReader,
        camera: str,
        clips: Sequence[Clip],
        pixels: int,
        cache: Path | None,
        on_progress: Progress,
    ) -> Frames:
        """Kept in the folder `cache`, if there is one; raises DatasetError where a frame cannot be had, or kept."""
        frames = cls(reader, camera, clips, pixels)
        if cache is not None:
            frames._keep(cache, on_progress)
        return frames

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_kept": None}  # a process maps the file for itself

    def frame(self, row: int) -> Image:
        """Frame `row`, counted over the clips."""
        if self._path is None:
            clip = int(np.searchsorted(self._starts, row, side="right")) - 1
            return square(self._decoded(self._clips[clip], [row - int(self._starts[clip])])[0], self._pixels)
        if self._kept is None:
            self._kept = np.load(self._path, mmap_mode="r", allow_pickle=False)
        kept: Image = self._kept[row]
        return kept

    def _decoded(self, clip: Clip, rows: Sequence[int]) -> NDArray[np.uint8]:
        return self._reader.images(clip.episode, self._camera, rows)

    def _keep(self, cache: Path, on_progress: Progress) -> None:
        path = cache / f"{self._reader.meta.root.name}-{self._camera}-{self._pixels}-{self._digest()}.npy"
        with reported(f"{path} cannot be written"):
            make_folder(cache)
            if not path.is_file():
                self._write(path, on_progress)
        self._path = path

    def _write(self, path: Path, on_progress: Progress) -> None:
        """All frames into `path`, which is there whole, or not at all."""
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        total = int(self._starts[-1])
        shape = (total, self._pixels, self._pixels, 3)
        try:
            kept = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.uint8, shape=shape)
            what = f"frames of {self._reader.meta.root.name}, {self._camera}"
            on_progress(what, 0, total)
            for clip, start in zip(self._clips, self._starts, strict=False):
                for first in range(0, clip.length, _AT_A_TIME):
                    rows = range(first, min(first + _AT_A_TIME, clip.length))
                    for row, image in zip(rows, self._decoded(clip, rows), strict=True):
                        kept[start + row] = square(image, self._pixels)
                on_progress(what, int(start) + clip.length, total)
            kept.flush()
            del kept
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)

    def _digest(self) -> str:
        """Of all that the frames depend on: a dataset that has changed since has others."""
        info = self._reader.meta.layout.info
        about = {
            "root": str(self._reader.meta.root.resolve()),
            "changed": info.stat().st_mtime_ns,
            "episodes": [(clip.episode, clip.length) for clip in self._clips],
        }
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
