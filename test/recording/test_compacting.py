"""`compacting`: few large files with every row, frame and statistic of the many small ones; times do not drift."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from vla_ros.cli import app
from vla_ros.recording.config import RecordingConfig, VideoConfig
from vla_ros.recording.files import DatasetError
from vla_ros.recording.lerobot_v3 import DatasetWriter, EpisodeDetails
from vla_ros.recording.reader import DatasetReader
from vla_ros.recording.upkeep import staging
from vla_ros.recording.upkeep.checking import check
from vla_ros.recording.upkeep.compacting import compact

REFERENCE = Path(__file__).parent.parent / "reference"


def hashes(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file() and path.name != "lock")
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def lines(root: Path) -> list[dict[str, Any]]:
    files = sorted((root / "meta/episodes").rglob("*.parquet"))
    found = [line for path in files for line in pq.ParquetFile(path).read().to_pylist()]
    return sorted(found, key=lambda line: line["episode_index"])


def same(before: list[Any], after: list[Any]) -> bool:
    return len(before) == len(after) and all(one.is_same(other) for one, other in zip(before, after, strict=True))


def test_all_episodes_in_one_file_of_each_kind(recorded: Path, contents: list[Any], tools: Any, tmp_path: Path) -> None:
    before = hashes(recorded)
    done = compact(recorded, tmp_path / "compacted")
    assert (done.before, done.after) == (4 * 4, 4)
    assert hashes(recorded) == before, "the source is untouched"
    assert check(tmp_path / "compacted", decode=True) == []
    assert same(contents, tools.read(tmp_path / "compacted"))
    rows = pq.read_metadata(tmp_path / "compacted/data/chunk-000/file-000.parquet")
    assert [rows.row_group(k).num_rows for k in range(rows.num_row_groups)] == list(tools.LENGTHS)
    assert len(list((tmp_path / "compacted/videos").rglob("*.mp4"))) == 2
    for one, other in zip(lines(recorded), lines(tmp_path / "compacted"), strict=True):
        unplaced = [key for key in one if key.startswith("stats/") or key in ("tasks", "length", "dataset_from_index")]
        assert {key: one[key] for key in unplaced} == {key: other[key] for key in unplaced}
    for name in ("meta/stats.json", "meta/tasks.parquet", "meta/vla_ros/episodes/episode-000003.json"):
        assert (tmp_path / "compacted" / name).read_bytes() == (recorded / name).read_bytes()
    info, old = (json.loads((root / "meta/info.json").read_text()) for root in (tmp_path / "compacted", recorded))
    assert info == {**old, "data_files_size_in_mb": 100, "video_files_size_in_mb": 200}


def test_the_reader_finds_the_same_rows_and_frames(recorded: Path, tmp_path: Path) -> None:
    compact(recorded, tmp_path / "compacted")
    before, after = DatasetReader(recorded), DatasetReader(tmp_path / "compacted")
    assert len(before) == len(after)
    for index in np.random.default_rng(0).permutation(len(before)):
        one, other = before.row(int(index)), after.row(int(index))
        assert (one.task, one.episode, one.frame) == (other.task, other.episode, other.frame)
        assert all(np.array_equal(one.values[key], other.values[key]) for key in one.values)
        assert all(np.array_equal(one.images[key], other.images[key]) for key in one.images)


def test_files_stay_below_their_sizes(recorded: Path, contents: list[Any], tools: Any, tmp_path: Path) -> None:
    videos = sorted((recorded / "videos/observation.images.front").rglob("*.mp4"))
    two = sum(path.stat().st_size for path in videos[:2]) / 1024**2
    compact(recorded, tmp_path / "compacted", video_mb=two)
    made = sorted((tmp_path / "compacted/videos/observation.images.front").rglob("*.mp4"))
    assert 1 < len(made) < len(videos)
    assert all(path.stat().st_size <= two * 1024**2 * 1.02 for path in made)
    assert same(contents, tools.read(tmp_path / "compacted"))
    assert check(tmp_path / "compacted") == []


def test_times_do_not_drift_over_many_episodes(recorded: Path, tools: Any, tmp_path: Path) -> None:
    """Sums of floats would: 1/20 s is none of them."""
    root = Path(shutil.copytree(recorded, tmp_path / "many"))
    tools.record(root, range(4), resume=True)
    tools.record(root, range(4), resume=True)
    compact(root, tmp_path / "compacted")
    frame = 0
    for line in lines(tmp_path / "compacted"):
        times = [line[f"videos/observation.images.wrist/{name}_timestamp"] for name in ("from", "to")]
        assert times == [float(Fraction(frame, 20)), float(Fraction(frame + line["length"], 20))]
        frame += line["length"]
    assert frame == 3 * sum(tools.LENGTHS)


def test_videos_that_were_coded_otherwise_stay_apart(
    recorded: Path, contents: list[Any], tools: Any, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(recorded, tmp_path / "mixed"))
    config = RecordingConfig(fps=tools.FPS, video=VideoConfig(preset="veryslow", gop=5))
    with DatasetWriter(root, tools.features(), config, resume=True) as writer:
        writer.begin(tools.TASKS[0])
        for frame in range(9):
            writer.add(tools.row(7, frame))
        writer.save(EpisodeDetails(task=tools.TASKS[0]))
    compact(root, tmp_path / "compacted")
    assert check(tmp_path / "compacted", decode=True) == []
    found = tools.read(tmp_path / "compacted")
    assert same(contents, found[:4]) and same(tools.read(root), found)
    assert len(list((tmp_path / "compacted/videos/observation.images.wrist").rglob("*.mp4"))) == 2


def test_recording_and_compacting_go_on(dataset: Path, contents: list[Any], tools: Any, tmp_path: Path) -> None:
    assert (dataset / "meta/vla_ros/system.json").exists()
    compact(dataset, dataset)
    assert same(contents, tools.read(dataset))
    assert not list(dataset.parent.glob(".dataset*")), "nothing is left of the old files"
    assert len(list((dataset / "data").rglob("*.parquet"))) == 1
    tools.record(dataset, range(2), resume=True)
    assert same([*contents, *tools.read(dataset)[4:]], tools.read(dataset))
    compact(dataset, tmp_path / "again")
    assert check(tmp_path / "again", decode=True) == []
    assert same(tools.read(dataset), tools.read(tmp_path / "again"))
    assert len(list((tmp_path / "again/data").rglob("*.parquet"))) == 1


def test_all_is_on_the_disk_before_the_old_files_go(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[int] = set()
    before = set(hashes(dataset))

    def sync(descriptor: int, really: Callable[[int], None] = os.fsync) -> None:
        really(descriptor)
        synced.add(os.fstat(descriptor).st_ino)

    def exchange(new: Path, old: Path, really: Callable[[Path, Path], None] = staging._exchange) -> None:
        assert set(hashes(old)) == before
        inside = [path for path in new.rglob("*") if ".recording" not in path.parts]
        assert [path for path in inside if path.stat().st_ino not in synced] == []
        really(new, old)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(staging, "_exchange", exchange)
    compact(dataset, dataset)
    assert len(set(hashes(dataset))) < len(before)


def test_where_a_disk_is_mounted_nothing_is_tried(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = hashes(dataset)
    monkeypatch.setattr(Path, "is_mount", lambda self: self == dataset)
    with pytest.raises(DatasetError, match="is a mount point"):
        compact(dataset, dataset)
    assert hashes(dataset) == before


def test_lerobots_own_dataset(tools: Any, tmp_path: Path) -> None:
    root = Path(shutil.copytree(REFERENCE / "lerobot-0.6.1", tmp_path / "lerobot"))
    front = root / "videos/observation.images.front/chunk-000/file-000.mp4"
    front.parent.mkdir(parents=True, exist_ok=True)  # left out of the repository for its size
    shutil.copyfile(root / "videos/observation.images.wrist/chunk-000/file-000.mp4", front)
    compact(root, tmp_path / "compacted")
    assert same(tools.read(root), tools.read(tmp_path / "compacted"))


def test_what_cannot_be_compacted_is_refused(dataset: Path, tools: Any, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is there already"):
        compact(dataset, tmp_path)
    with pytest.raises(DatasetError, match="lies in the dataset itself"):
        compact(dataset, dataset / "compacted")
    with pytest.raises(DatasetError, match="is not a LeRobot dataset"):
        compact(dataset / "data", tmp_path / "compacted")
    with (
        DatasetWriter(dataset, tools.features(), RecordingConfig(fps=tools.FPS), resume=True),
        pytest.raises(DatasetError, match="is being written by process"),
    ):
        compact(dataset, dataset)
    before = hashes(dataset)
    (dataset / "data/chunk-000/file-002.parquet").unlink()
    with pytest.raises(DatasetError, match="is damaged, repair it first"):
        compact(dataset, tmp_path / "compacted")
    with pytest.raises(DatasetError, match="is damaged, repair it first"):
        compact(dataset, dataset)
    before.pop("data/chunk-000/file-002.parquet")
    assert hashes(dataset) == before and [path.name for path in tmp_path.iterdir()] == ["dataset"]


def test_the_command(dataset: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["dataset", "compact", str(dataset), *arguments])

    assert run().exit_code == 2 and "either a new folder or --in-place" in run().output
    assert run(str(tmp_path / "new"), "--in-place").exit_code == 2
    done = run(str(tmp_path / "new"))
    assert done.exit_code == 0 and "16 files merged into 4" in done.output
    assert run("--in-place").exit_code == 0
    assert hashes(tmp_path / "new").keys() == hashes(dataset).keys()
    again = run(str(tmp_path / "new"))
    assert again.exit_code == 1 and "is there already" in again.output
