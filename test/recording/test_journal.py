"""Rows that outlive the program: whole or not counted, whatever became of the file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.recording.features import Feature, Features, Row
from vla_ros.recording.files import DatasetError
from vla_ros.recording.storing import journal
from vla_ros.recording.storing.journal import Journal

FEATURES = Features(
    30,
    "none",
    (
        Feature("observation.state", "float32", (3,)),
        Feature("observation.images.front", "video", (48, 64, 3)),
        Feature("timing.skew", "float64", (1,)),
        Feature("control.mode", "int64", (1,)),
        Feature("is.good", "bool", (2,)),
    ),
)


def row(number: int, **changed: object) -> Row:
    values = {
        "observation.state": np.array([0.1, 0.2, 0.3]) * number,
        "timing.skew": np.array([1e-9 * number]),
        "control.mode": np.array([2.0**40 + number]),
        "is.good": np.array([1.0, number % 2]),
    }
    return Row(number * 10, {}, {**values, **changed})  # type: ignore[dict-item]


def written(path: Path, rows: int) -> None:
    kept = Journal(path, FEATURES)
    for number in range(rows):
        kept.append(row(number))
    assert kept.rows == rows
    kept.close()


def check(read: journal.Rows, rows: int) -> None:
    assert read[journal.INSTANT].tolist() == [10 * number for number in range(rows)]
    columns = journal.columns(read)
    assert {key: values.dtype.name for key, values in columns.items()} == {
        "observation.state": "float32",
        "timing.skew": "float64",
        "control.mode": "int64",
        "is.good": "bool",
    }
    numbers = np.arange(rows)
    np.testing.assert_array_equal(
        columns["observation.state"], np.outer(numbers, [0.1, 0.2, 0.3]).astype(np.float32).reshape(rows, 3)
    )
    np.testing.assert_array_equal(columns["timing.skew"], 1e-9 * numbers)
    np.testing.assert_array_equal(columns["control.mode"], 2**40 + numbers)
    np.testing.assert_array_equal(columns["is.good"][:, 1], numbers % 2 == 1)


def test_rows_come_back_with_their_types(tmp_path: Path) -> None:
    written(tmp_path / "rows.bin", 5)
    check(journal.read(tmp_path / "rows.bin"), 5)


def test_rows_are_with_the_kernel_before_the_file_is_closed(tmp_path: Path) -> None:
    kept = Journal(tmp_path / "rows.bin", FEATURES)
    for number in range(3):
        kept.append(row(number))
        check(journal.read(tmp_path / "rows.bin"), number + 1)


@given(cut=st.floats(0, 1), garbage=st.binary(max_size=200))
def test_a_torn_end_takes_only_itself(tmp_path_factory: pytest.TempPathFactory, cut: float, garbage: bytes) -> None:
    path = tmp_path_factory.mktemp("torn") / "rows.bin"
    written(path, 0)
    header = path.stat().st_size
    path.unlink()
    written(path, 6)
    content = path.read_bytes()
    record = (len(content) - header) // 6
    end = header + round(cut * (len(content) - header))
    path.write_bytes(content[:end] + garbage)
    read = journal.read(path)
    whole = (end - header) // record
    assert len(read) >= whole
    check(read[:whole], whole)
    if not content[end:].startswith(garbage):
        assert len(read) == whole


@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_seen(tmp_path_factory: pytest.TempPathFactory, at: float, bit: int) -> None:
    path = tmp_path_factory.mktemp("flipped") / "rows.bin"
    written(path, 0)
    header = path.stat().st_size
    path.unlink()
    written(path, 4)
    content = bytearray(path.read_bytes())
    place = header + int(at * (len(content) - header))
    content[place] ^= 1 << bit
    path.write_bytes(content)
    check(journal.read(path), (place - header) // ((len(content) - header) // 4))


@pytest.mark.parametrize("content", [b"", b"vla_ros rows 1\n", b"vla_ros rows 1\n\xff\xff\xff\xff{", b"\0" * 500])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rows.bin").write_bytes(content)
    with pytest.raises(DatasetError, match="holds no rows of an episode"):
        journal.read(tmp_path / "rows.bin")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"observation.state": np.zeros(2)}, r"row 1: observation.state has shape \(3,\), got \(2,\)"),
        ({"timing.skew": np.array([np.nan])}, "row 1: timing.skew should be finite"),
        ({"observation.state": np.array([0, 0, 1e300])}, "row 1: observation.state should be float32"),
        ({"control.mode": np.array([0.5])}, "row 1: control.mode should be int64"),
        ({"is.good": np.array([0, 2])}, "row 1: is.good should be bool"),
        ({"more": np.zeros(1)}, "row 1: the columns more are missing or not known"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_whole(tmp_path: Path, changed: dict[str, object], said: str) -> None:
    kept = Journal(tmp_path / "rows.bin", FEATURES)
    kept.append(row(0))
    with pytest.raises(DatasetError, match=said):
        kept.append(row(1, **changed))
    kept.append(row(1))
    check(journal.read(tmp_path / "rows.bin"), 2)


def test_a_full_disk_takes_back_half_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Journal(tmp_path / "rows.bin", FEATURES)
    kept.append(row(0))
    write, calls = os.pwrite, iter(range(10))

    def part(descriptor: int, content: bytes, offset: int) -> int:
        if next(calls):
            raise OSError(28, "No space left on device")
        return write(descriptor, content[:7], offset)

    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", part)
        with pytest.raises(DatasetError, match="row 1 cannot be written .*No space left"):
            kept.append(row(1))
    check(journal.read(tmp_path / "rows.bin"), 1)
    kept.append(row(1))
    check(journal.read(tmp_path / "rows.bin"), 2)


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    written(tmp_path / "rows.bin", 1)
    with pytest.raises(DatasetError, match="rows.bin cannot be written: File exists"):
        Journal(tmp_path / "rows.bin", FEATURES)
