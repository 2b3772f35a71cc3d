"""The columns of an episode as they come: a file of records, each whole or not counted, for a killed process."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.recording.features import Features, Row
from vla_ros.recording.files import DatasetError, reported

#: A file begins with this, the length of what follows (uint32), and JSON: [[key, dtype, values], ...] of every record.
MAGIC = b"vla_ros rows 1\n"
INSTANT = "instant_ns"
_CHECK = "crc32"  # of the record's bytes before it

#: (T,) records with a field `instant_ns` and one per column, of shape () or (N,).
Rows = NDArray[np.void]


class Journal:
    """Appends rows to a file; what `append` has returned for outlives this process, what `sync` has, a power cut."""

    def __init__(self, path: Path, features: Features) -> None:
        """Make the file, which must not be there yet; raises DatasetError where it cannot be written."""
        self._path = path
        self._columns = features.columns
        fields = [[INSTANT, "<i8", 1], *([f.key, _little_endian(f.numpy), f.shape[0]] for f in self._columns)]
        self._record = np.zeros(1, dtype=_record_type(fields))
        described = json.dumps(fields).encode()
        header = MAGIC + struct.pack("<I", len(described)) + described
        self.bytes = len(header)
        self.rows = 0
        with reported(f"{path} cannot be written"):
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            self._write(header, 0)

    def append(self, row: Row) -> None:
        """Keep a row's columns, all of them or, with a DatasetError, none.

        They must all be there, of their shape, finite and of their type; and the disk must not be full.
        """
        self._fill(row)
        content = self._record.tobytes()
        checked = content[:-4] + struct.pack("<I", zlib.crc32(content[:-4]))
        with reported(f"row {self.rows} cannot be written to {self._path}"):
            self._write(checked, self.bytes)
        self.bytes += len(checked)
        self.rows += 1

    def sync(self) -> None:
        """Have what was appended on the disk; raises OSError."""
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Append no more; may be called again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self, content: bytes, offset: int) -> None:
        """All of it, or nothing: a full disk may take a part."""
        try:
            written = 0
            while written < len(content):
                written += os.pwrite(self._descriptor, content[written:], offset + written)
        except OSError:
            os.ftruncate(self._descriptor, offset)
            raise

    def _fill(self, row: Row) -> None:
        missing = {feature.key for feature in self._columns} ^ set(row.values)
        if missing:
            raise DatasetError(f"row {self.rows}: the columns {', '.join(sorted(missing))} are missing or not known")
        self._record[INSTANT] = row.instant_ns
        for feature in self._columns:
            given = np.asarray(row.values[feature.key])
            if given.shape != feature.shape:
                raise DatasetError(f"row {self.rows}: {feature.key} has shape {feature.shape}, got {given.shape}")
            if not np.isfinite(given).all():
                raise DatasetError(f"row {self.rows}: {feature.key} should be finite, got {given}")
            with np.errstate(over="ignore", invalid="ignore"):
                kept = given.astype(feature.numpy)
            lossy = not np.isfinite(kept).all() if kept.dtype.kind == "f" else (kept != given).any()
            if lossy:
                raise DatasetError(f"row {self.rows}: {feature.key} should be {feature.dtype}, got {given}")
            self._record[feature.key] = kept if len(kept) > 1 else kept[0]


def read(path: Path) -> Rows:
    """The rows up to the first that is torn; raises DatasetError where `path` is no such file."""
    with reported(f"{path} cannot be read"):
        content = path.read_bytes()
    start = len(MAGIC) + 4
    if not content.startswith(MAGIC) or len(content) < start:
        raise DatasetError(f"{path} holds no rows of an episode: it should begin with {MAGIC!r}")
    (length,) = struct.unpack("<I", content[len(MAGIC) : start])
    try:
        kind = _record_type(json.loads(content[start : start + length]))
    except (ValueError, TypeError) as error:
        raise DatasetError(f"{path} holds no rows of an episode: {error}") from error
    start += length
    size = kind.itemsize
    count = 0
    for offset in range(start, len(content) - size + 1, size):
        record = content[offset : offset + size]
        if zlib.crc32(record[:-4]) != struct.unpack("<I", record[-4:])[0]:
            break
        count += 1
    return np.frombuffer(content, dtype=kind, count=count, offset=start)


def columns(rows: Rows) -> Mapping[str, NDArray[Any]]:
    """Key -> (T, N), or (T,) of what has one value, of the rows that `read` gives."""
    names = rows.dtype.names or ()
    return {name: np.ascontiguousarray(rows[name]) for name in names if name not in {INSTANT, _CHECK}}


def _record_type(fields: list[Any]) -> np.dtype[np.void]:
    columns = [(key, kind, (values,)) if values > 1 else (key, kind) for key, kind, values in fields]
    return np.dtype([*columns, (_CHECK, "<u4")])


def _little_endian(kind: type[np.generic]) -> str:
    return np.dtype(kind).newbyteorder("<").str
