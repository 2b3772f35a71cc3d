"""The index of episodes: what it saves is time, never an answer other than that of the files."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from vla_ros.recording import dataset as datasets
from vla_ros.recording.dataset import DatasetMeta

INDEX = ".recording/episodes.json"


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """An index for as few files as a test has."""
    monkeypatch.setattr(datasets, "_INDEXED_FILES", 2)


@pytest.fixture
def files_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files whose lines are read."""
    read: list[str] = []
    original = datasets._lines

    def lines(path: Path, names: Any) -> Any:
        read.append(path.name)
        return original(path, names)

    monkeypatch.setattr(datasets, "_lines", lines)
    return read


def episodes(root: Path) -> tuple[Any, ...]:
    return DatasetMeta.load(root).episodes


def test_files_are_read_once(dataset: Path, files_read: list[str]) -> None:
    first = episodes(dataset)
    assert len(files_read) == len(first)
    assert (dataset / INDEX).is_file()
    files_read.clear()
    assert episodes(dataset) == first
    assert files_read == []


def test_a_file_that_changed_is_read_again(dataset: Path, files_read: list[str]) -> None:
    episodes(dataset)
    files_read.clear()
    path = sorted((dataset / "meta/episodes").glob("*/*.parquet"))[1]
    table = pq.read_table(path)
    column = table.column_names.index("tasks")
    pq.write_table(table.set_column(column, "tasks", [[["another task"]]]), path)
    os.utime(path, ns=(0, 0))
    assert episodes(dataset)[1].tasks == ("another task",)
    assert files_read == [path.name]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b'{"columns": null, "files": {}}',
        b"[" * 100_000,
    ],
)
def test_an_index_that_is_damaged_is_made_again(dataset: Path, content: bytes) -> None:
    expected = episodes(dataset)
    (dataset / INDEX).write_bytes(content)
    assert episodes(dataset) == expected
    assert json.loads((dataset / INDEX).read_bytes())["files"]


def test_lines_that_are_damaged_are_read_from_their_files(dataset: Path) -> None:
    expected = episodes(dataset)
    content = json.loads((dataset / INDEX).read_bytes())
    for damage in (lambda entry: entry[1][0].pop(), lambda entry: entry.pop(), lambda entry: entry.insert(0, "x")):
        damaged = json.loads(json.dumps(content))
        damage(next(iter(damaged["files"].values())))
        (dataset / INDEX).write_text(json.dumps(damaged))
        assert episodes(dataset) == expected


def test_nothing_is_added_to_datasets_of_other_programs_or_through_a_link(dataset: Path, tmp_path: Path) -> None:
    expected = episodes(dataset)
    shutil.rmtree(dataset / ".recording")
    assert episodes(dataset) == expected
    assert not (dataset / ".recording").exists()
    (tmp_path / "elsewhere").mkdir()
    (dataset / ".recording").symlink_to(tmp_path / "elsewhere")
    assert episodes(dataset) == expected
    assert list((tmp_path / "elsewhere").iterdir()) == []
