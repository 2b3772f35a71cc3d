"""Parquet files read with care: ordinary files only, and none whose rows take far more memory than its bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from vla_ros.recording.files import DatasetError, ordinary, reported

#: What a file's values may take beyond its own size: floats shrink to a third, and constant columns weigh nothing.
_ROOM_BYTES: Final = 64_000_000
_RATIO: Final = 100
_ROWS_OF_TEXT: Final = 32  # read at a time: only then it shows how long texts are
_WIDTHS: Final = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8, "BYTE_ARRAY": 8}


@contextmanager
def opened(path: Path, **options: Any) -> Iterator[pq.ParquetFile]:
    """An open parquet file; raises DatasetError where it is torn, not there, or would fill the memory."""
    with reported(f"{path} cannot be read"):
        try:
            with pq.ParquetFile(ordinary(path), **options) as file:
                _check_size(path, file.metadata.num_rows, _values_bytes(file.metadata))
                yield file
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise DatasetError(f"{path} cannot be read: {error}") from error


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows of a file, or some columns of them; raises DatasetError."""
    with opened(path) as file:
        return read_rows(file, path, columns)


def read_rows(
    file: pq.ParquetFile, path: Path, columns: Sequence[str] | None = None, groups: Sequence[int] | None = None
) -> pa.Table:
    """Rows of an open file, all or of these row groups; raises DatasetError, OSError, ArrowException."""
    groups = range(file.num_row_groups) if groups is None else groups
    names = set(file.schema_arrow.names if columns is None else columns)
    if not any(_has_text(field.type) for field in file.schema_arrow if field.name in names):
        return file.read_row_groups(list(groups), columns=columns)
    batches, size = [], 0
    for batch in file.iter_batches(_ROWS_OF_TEXT, row_groups=list(groups), columns=columns):
        batches.append(batch)
        size += batch.nbytes
        _check_size(path, file.metadata.num_rows, size)
    return pa.Table.from_batches(batches) if batches else file.read_row_groups(list(groups), columns=columns)


def read_schema(path: Path) -> pa.Schema:
    """The columns of a file; raises DatasetError."""
    with opened(path) as file:
        return file.schema_arrow


def _check_size(path: Path, rows: int, values_bytes: int) -> None:
    size = path.stat().st_size
    if values_bytes > max(_ROOM_BYTES, _RATIO * size):
        raise DatasetError(
            f"{path} has {rows} rows, which take {values_bytes / 1e6:.0f} MB or more, in {size} bytes: it is damaged, "
            "or crafted to exhaust the memory"
        )


def _values_bytes(metadata: Any) -> int:
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    columns = [group.column(number) for group in groups for number in range(group.num_columns)]
    values = sum(column.num_values * _WIDTHS.get(column.physical_type, 1) for column in columns)
    return max(int(values), max((int(column.total_uncompressed_size) for column in columns), default=0))


def _has_text(kind: pa.DataType) -> bool:
    """Whether it is of variable length, or has a part that is."""
    if isinstance(kind, pa.StructType):
        return any(_has_text(kind.field(number).type) for number in range(kind.num_fields))
    if isinstance(kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType):
        return _has_text(kind.value_type)
    return not (pa.types.is_primitive(kind) or pa.types.is_null(kind))
