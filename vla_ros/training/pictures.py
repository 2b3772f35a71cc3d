"""Files of pictures, resized, and kept in memory while there is room."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from vla_ros.policies.images import square
from vla_ros.recording.files import inside

_ROOM_BYTES = 2**31  # all of a small set, the first ones of a great one


def paths_of(folder: Path, names: Iterable[str], where: str) -> tuple[Path, ...]:
    """The files `names` in `folder`; raises ValueError, with `where` in front, for a name that leads elsewhere."""
    try:
        return tuple(inside(folder, name) for name in names)
    except ValueError as error:
        raise ValueError(f"{where}: image {error}") from None


def check_there(paths: Iterable[Path], where: str) -> None:
    """Raise ValueError, with `where` in front, unless all files are there: in the middle of a training is too late."""
    wanted = dict.fromkeys(paths)
    missing = [path for path in wanted if not _is_file(path)]
    if missing:
        raise ValueError(f"{where}: {missing[0]} is not there; missing are {len(missing)} of {len(wanted)} images")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file can have, a folder that may not be looked into
        return False


class Pictures:
    """Squares of S pixels."""

    def __init__(self, pixels: int) -> None:
        self._pixels = pixels
        self._kept: dict[Path, NDArray[np.uint8]] = {}
        self._most_kept = _ROOM_BYTES // (3 * pixels**2)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_kept": {}}

    def read(self, path: Path) -> NDArray[np.uint8]:
        """(S, S, 3) rgb; raises ValueError for an image that cannot be read."""
        if (kept := self._kept.get(path)) is not None:
            return kept
        try:
            with PillowImage.open(path) as file:
                image = square(np.asarray(file.convert("RGB")), self._pixels)
        except (OSError, UnidentifiedImageError) as error:
            raise ValueError(f"{path} is not a readable image: {error}") from None
        if len(self._kept) < self._most_kept:
            self._kept[path] = image
        return image
