"""Nothing outside of a dataset's folder is read or written, whatever its metadata call their files."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import changed_json
from typer.testing import CliRunner, Result

from vla_ros.cli import app
from vla_ros.recording.config import RecordingConfig
from vla_ros.recording.convert import Conversion, convert
from vla_ros.recording.features import Feature, Features
from vla_ros.recording.files import DatasetError, Layout, inside
from vla_ros.recording.lerobot_v3 import DatasetWriter
from vla_ros.recording.upkeep.checking import check
from vla_ros.recording.upkeep.findings import errors

FRONT = "observation.images.front"
COMMANDS = {
    "show": ("dataset", "show"), "check": ("dataset", "check"), "repair": ("dataset", "repair"),
    "compact": ("dataset", "compact"), "convert": ("convert",), "convert to v2.1": ("convert", "--to", "v2.1"),
}  # fmt: skip


def run(command: str, root: Path) -> Result:
    words = [*COMMANDS[command], str(root), *([str(root.parent / "out")] if "co" in command else [])]
    return CliRunner().invoke(app, words)


def everything(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_refused(found: Result, *said: str) -> None:
    assert found.exit_code in (1, 2) and isinstance(found.exception, SystemExit), found.output
    lines = [line for line in found.output.splitlines() if line.startswith("error")]
    assert any(all(part in line for part in said) for line in lines), found.output


@pytest.mark.parametrize("key", ["../../../esc", "observation.images.../../esc", "/esc", "..", "a\nb"])
def test_a_feature_is_not_called_like_a_path(dataset: Path, tmp_path: Path, key: str) -> None:
    """Of v2.1: its videos lie in a folder that is called by the key alone."""
    root = tmp_path / "a" / "b" / "v21"
    convert(dataset, root, Conversion(to="v2.1"))
    changed_json("meta/info.json", lambda info: info["features"].update({key: info["features"].pop(FRONT)}))(root)
    if key.endswith("esc"):
        shutil.copytree(root / "videos" / "chunk-000" / FRONT, root / "videos" / "chunk-000" / key, dirs_exist_ok=True)
    before = everything(tmp_path)
    assert_refused(run("convert to v2.1", root), "meta/info.json", repr(key), "name")
    assert everything(tmp_path) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_a_pattern_leads_nowhere_else(dataset: Path, tmp_path: Path, command: str) -> None:
    other = Path(shutil.copytree(dataset, tmp_path / "other"))
    pattern = "../other/data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    changed_json("meta/info.json", lambda info: info.update(data_path=pattern))(dataset)
    before = everything(other)
    found = run(command, dataset)
    if command == "repair":  # the data are where they always are
        assert found.exit_code == 0 and "data_path" in found.output, found.output
        assert not errors(check(dataset))
    else:
        assert_refused(found)
        assert "data_path in info.json is" in found.output
    assert everything(other) == before


@pytest.mark.parametrize(
    "pattern",
    [
        "data/../../other/{file_index:03d}.parquet",
        "/proc/self/environ",
        "data/{chunk_index.__class__}/{file_index:03d}",
        "data/{chunk_index:02000000000d}/{file_index:03d}.parquet",
        "data/{chunk_index:{file_index}d}",
        "data/{chunk_index!r}",
        "data/{video_key:2000000000}",
        "data/{0}",
        "data/{",
        "data/\0",
        "",
        None,
        7,
    ],
)
def test_a_pattern_is_a_path_with_numbers(pattern: object) -> None:
    info = json.dumps({"data_path": pattern, "chunks_size": 1000})
    with pytest.raises(DatasetError, match="data_path in info.json is .* it should be a path like 'data/chunk-"):
        Layout.of(Path("/d"), json.loads(info))
    for size in (0, -1, None, "9", 10**12, float("nan")):
        with pytest.raises(DatasetError, match="chunks_size in info.json is"):
            Layout.of(Path("/d"), {"data_path": "data/{file_index}", "chunks_size": size})


def test_a_name_is_a_path_inside() -> None:
    assert inside(Path("/d"), "videos/a b/x.mp4") == Path("/d/videos/a b/x.mp4")
    for name in ("../x", "a/../../x", "/x", "", ".", "a\0", "a\x1b[2J"):
        with pytest.raises(DatasetError, match="is not a path inside /d"):
            inside(Path("/d"), name)
    layout = Layout(Path("/d"), video_pattern="{video_key}/{file_index}.mp4")
    with pytest.raises(DatasetError, match="is not a path inside /d"):
        layout.video_file("..", 0, 0)


def test_a_feature_has_a_name_and_a_size() -> None:
    for key in ("up/down", "..", "", "a\0b", "\ud800", "x" * 201):
        with pytest.raises(DatasetError, match="a name should have 1 to 200 printable characters, no slash"):
            Feature(key, "float32", (1,))
    for shape in ((10**9,), (0,), (1, 1, 1, 1, 1)):
        with pytest.raises(DatasetError, match="pose has the shape"):
            Feature("pose", "float32", shape)
    with pytest.raises(DatasetError, match="both called front; each camera needs a name of its own"):
        Features(5, "", (Feature("front", "video", (8, 8, 3)), Feature(FRONT, "image", (8, 8, 3))))


@pytest.mark.parametrize("name", [".recording", ".recording/aside", "videos", f"videos/{FRONT}", "meta/episodes"])
def test_nothing_is_written_through_a_link(dataset: Path, tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    (dataset / name).mkdir(parents=True, exist_ok=True)
    shutil.move(dataset / name, elsewhere)
    (dataset / name).symlink_to(elsewhere)
    (dataset / "meta/stats.json").unlink()
    before = everything(elsewhere)
    assert_refused(run("repair", dataset), str(dataset / name), "link", "elsewhere")
    assert everything(elsewhere) == before


def test_a_link_of_what_is_written_is_not_followed(dataset: Path, tmp_path: Path, tools: object) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (dataset / ".recording").mkdir(exist_ok=True)
    for name in (".recording/lock", "meta/vla_ros/.system.json.tmp"):
        (dataset / name).unlink(missing_ok=True)
        (dataset / name).symlink_to(precious)
        with pytest.raises(DatasetError, match="cannot be written"):
            DatasetWriter(dataset, tools.features(), RecordingConfig(fps=tools.FPS), resume=True)  # type: ignore[attr-defined]
        (dataset / name).unlink(missing_ok=True)
        assert precious.read_text() == "mine"


FILES = ("meta/info.json", "data/chunk-000/file-000.parquet", f"videos/{FRONT}/chunk-000/file-000.mp4")


@pytest.mark.parametrize("name", FILES)
def test_a_pipe_is_not_waited_for(dataset: Path, name: str) -> None:
    (dataset / name).unlink()
    os.mkfifo(dataset / name)
    for command in ("check", "convert", "compact"):
        assert run(command, dataset).exit_code == 1
    assert run("repair", dataset).exit_code == 0
    assert not errors(check(dataset))


def test_rows_that_would_fill_the_memory_are_refused(dataset: Path) -> None:
    """Two hundred megabytes of one row again and again, in a file of some kilobytes."""
    path = dataset / "data/chunk-000/file-001.parquet"
    row = pq.ParquetFile(path).read().slice(0, 1)
    with pq.ParquetWriter(path, row.schema) as writer:
        rows = row.take(pa.array([0] * 100_000))
        for _ in range(8):
            writer.write_table(rows)
    for command in ("show", "convert", "compact"):
        assert_refused(run(command, dataset), "800000 rows, which take")
    assert any("800000 rows, which take" in finding.what for finding in errors(check(dataset)))


def test_texts_that_would_fill_the_memory_are_refused(dataset: Path) -> None:
    path = dataset / "meta/episodes/chunk-000/file-001.parquet"
    table = pq.ParquetFile(path).read()
    tasks = pa.array([["x" * 1_000_000]] * 200, table.schema.field("tasks").type)
    many = table.take(pa.array([0] * 200)).set_column(table.schema.get_field_index("tasks"), "tasks", tasks)
    pq.write_table(many, path)
    assert_refused(run("convert", dataset), "200 rows, which take")
    pq.write_table(many.slice(0, 1), path)
    assert_refused(run("convert", dataset), "a task has 1000000 characters")
    assert all(len(str(finding)) < 2000 for finding in check(dataset))


def test_linked_folders_are_read(dataset: Path, tmp_path: Path) -> None:
    """As on a small disk with the videos on a large one; and a link in a circle ends nothing."""
    shutil.move(dataset / "videos", tmp_path / "large")
    (dataset / "videos").symlink_to(tmp_path / "large")
    (tmp_path / "large" / "again").symlink_to(tmp_path / "large")
    found = check(dataset)
    assert not errors(found)
    assert any("videos" in finding.path and "link" in finding.what for finding in found)
