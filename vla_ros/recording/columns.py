"""Columns of a parquet file as numpy arrays, and images that are kept in one; whoever wrote it."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow
from numpy.typing import NDArray
from pyarrow import compute, parquet

from vla_ros.recording.features import LEAVE_OUT
from vla_ros.recording.files import DatasetError, inside, ordinary, reported
from vla_ros.recording.tables import opened
from vla_ros.recording.video_reader import is_depth
from vla_ros.values import Image

Column = NDArray[Any]
#: How far the rate that timestamps tell may be from fps: more is no jitter.
_RATE_TOLERANCE = 0.1


def read_columns(path: Path, keys: Iterable[str]) -> Mapping[str, Column]:
    """key -> (T, *shape), read-only; a column of plain numbers is (T, 1).

    Raises:
        DatasetError: the file is missing, is no parquet, lacks a column, or has rows of unequal shape or without value.
    """
    keys = list(keys)
    with opened(path, memory_map=True) as file:
        missing = [key for key in keys if key not in file.schema_arrow.names]
        if missing:
            raise DatasetError(
                f"{path} has no column {', '.join(missing)}; there are: {', '.join(file.schema_arrow.names)}"
            )
        table = file.read(columns=keys)
    return {key: _to_numpy(table.column(key), f"{path}: {key}") for key in keys}


def _to_numpy(column: Any, where: str) -> Column:
    rows, shape = len(column), []
    array = pyarrow.concat_arrays(column.chunks) if column.num_chunks else pyarrow.array([], column.type)
    while pyarrow.types.is_list(array.type) or pyarrow.types.is_fixed_size_list(array.type):
        sizes = compute.unique(compute.list_value_length(array))
        if len(sizes) > 1 or array.null_count:
            raise DatasetError(f"{where} has rows of unequal length: {', '.join(map(str, sizes.to_pylist()))}")
        shape.append(sizes[0].as_py() if len(sizes) else 0)
        array = array.flatten()
    if array.null_count:
        raise DatasetError(f"{where} has {array.null_count} rows without a value")
    try:
        values: Column = array.to_numpy(zero_copy_only=False).reshape(rows, *(shape or [1]))
    except ValueError as error:
        raise DatasetError(f"{where} is not a column of numbers: {error}") from None
    if values.dtype.kind not in "fiub":
        raise DatasetError(f"{where} is not a column of numbers, but of {array.type}")
    values.flags.writeable = False
    return values


def other_step_s(times_s: Column, fps: int) -> float | None:
    """The usual distance of an episode's timestamps (T,) where they tell another rate than `fps`; None: they agree."""
    if len(times_s) < 2:
        return None
    step_s = float(np.median(np.diff(times_s.astype(np.float64))))
    return step_s if abs(step_s * fps - 1.0) > _RATE_TOLERANCE else None


class StoredImages:
    """Images kept in a parquet file of the dataset at `root`, one row group at a time: LeRobot's dtype "image".

    A row may have the name of a file in the dataset's folder instead.
    """

    def __init__(self, root: Path, path: Path, key: str) -> None:
        self._root, self._path, self._key = root, path, key
        self._file = parquet.ParquetFile(ordinary(path), memory_map=True)
        groups = [self._file.metadata.row_group(index).num_rows for index in range(self._file.metadata.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(groups)])
        self._group, self._rows = -1, None

    def frames(self, rows: Sequence[int]) -> NDArray[np.uint8]:
        """(T, H, W, 3) of these rows of the file, in any order; raises DatasetError where one cannot be decoded."""
        return np.stack([self._frame(row) for row in rows])

    def _frame(self, row: int) -> Image:
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        if group != self._group:
            self._group, self._rows = group, self._file.read_row_group(group, columns=[self._key]).column(0)
        assert self._rows is not None
        stored = self._rows[row - int(self._starts[group])].as_py()
        return stored_image(self._root, stored, f"{self._path}: row {row} of {self._key}")

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def stored_image(root: Path, stored: Any, where: str) -> Image:
    """The image of a row of the dataset at `root`, there or in the file that it names; raises DatasetError."""
    if isinstance(stored, dict) and stored.get("bytes"):
        return _decode(stored["bytes"], where)
    if not isinstance(stored, dict) or not isinstance(stored.get("path"), str):
        raise DatasetError(f"{where} holds no image, but {str(stored)[:80]}")
    file = inside(root, stored["path"].removeprefix(f"{root.resolve()}/").removeprefix(f"{root}/"))
    with reported(f"{where}: {file} cannot be read"):
        return _decode(ordinary(file).read_bytes(), f"{where}: {file}")


def _decode(data: bytes, where: str) -> Image:
    try:
        with av.open(io.BytesIO(data), metadata_errors="replace") as file:
            frame = next(file.decode(video=0))
    except (av.FFmpegError, StopIteration) as error:
        raise DatasetError(f"{where} is not a decodable image: {error}") from None
    if is_depth(frame.format):
        raise DatasetError(f"{where} holds depth ({frame.format.name}), not a colour image; {LEAVE_OUT}")
    image: Image = frame.to_ndarray(format="rgb24")
    return image
