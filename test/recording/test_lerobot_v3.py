"""Datasets as LeRobot writes them, by LeRobot's own; what is refused, dropped, resumed, and survives a full disk."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.recording import dataset, files, schemas, tables
from vla_ros.recording.config import RecordingConfig, VideoConfig
from vla_ros.recording.dataset import DatasetMeta
from vla_ros.recording.features import Feature, Row
from vla_ros.recording.files import DatasetError
from vla_ros.recording.lerobot_v3 import LONGEST_TASK, DatasetWriter, EpisodeDetails
from vla_ros.recording.storing import journal
from vla_ros.recording.video import EncoderError, VideoEncoder

REFERENCE = Path(__file__).parents[1] / "reference"


def written(root: Path, episodes: int) -> Path:
    with DatasetWriter(root, tiny.FEATURES, tiny.CONFIG) as writer:
        for _ in range(episodes):
            tiny.record_one(writer)
        assert writer.notices == []
    return root


def paths(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


# Against LeRobot ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def like_lerobot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The very episodes of LeRobot's dataset, written here: k + j, j - k, 1.5 + k, and a grey of 5 k."""
    root = tmp_path_factory.mktemp("like") / "dataset"
    features = DatasetMeta.load(REFERENCE / "lerobot-0.6.1").features
    with DatasetWriter(
        root, features, RecordingConfig(video=VideoConfig(codec="libsvtav1", crf=30, preset="12"))
    ) as writer:
        for episode in range(2):
            writer.begin(f"pick {episode}")
            for k in range(40):
                image = np.full((240, 320, 3), 5 * k, np.uint8)
                values = {
                    "observation.state": k + np.arange(8.0),
                    "action": np.arange(8.0) - k,
                    "observation.extra.stamp": np.array([1.5 + k]),
                }
                writer.add(Row(k, {"front": image, "wrist": image}, values))
            writer.save(EpisodeDetails(f"pick {episode}"))
    return root


def test_info_is_lerobots(like_lerobot: Path) -> None:
    ours, theirs = (json.loads((root / "meta/info.json").read_text()) for root in (like_lerobot, reference()))
    assert list(ours) == list(theirs)
    for key in theirs["features"]:
        assert list(ours["features"][key]) == list(theirs["features"][key])
        info = theirs["features"][key].get("info")
        if info:
            assert list(ours["features"][key]["info"]) == list(info)
    assert ours == theirs


def reference(version: str = "0.6.1") -> Path:
    return REFERENCE / f"lerobot-{version}"


def test_data_have_lerobots_columns_and_values(like_lerobot: Path) -> None:
    theirs = pq.ParquetFile(reference() / "data/chunk-000/file-000.parquet")
    for episode in range(2):
        ours = pq.ParquetFile(like_lerobot / f"data/chunk-000/file-{episode:03d}.parquet")
        assert ours.schema_arrow.equals(theirs.schema_arrow)
        said, expected = (json.loads(one.schema_arrow.metadata[b"huggingface"]) for one in (ours, theirs))
        assert said["info"] == expected["info"]  # a fingerprint names one table of `datasets`, and is left out
        assert list(ours.schema_arrow.metadata) == list(theirs.schema_arrow.metadata)
        assert ours.read().equals(theirs.read().slice(40 * episode, 40))
        assert ours.metadata.num_row_groups == 1
        for column in range(ours.metadata.num_columns):
            mine, other = (one.metadata.row_group(0).column(column) for one in (ours, theirs))
            assert mine.path_in_schema == other.path_in_schema
            assert (mine.compression, mine.encodings) == (other.compression, other.encodings)


def test_tasks_are_lerobots(like_lerobot: Path) -> None:
    ours, theirs = (pq.ParquetFile(root / "meta/tasks.parquet") for root in (like_lerobot, reference()))
    assert ours.schema_arrow.equals(theirs.schema_arrow)
    mine, other = (json.loads(one.schema_arrow.metadata[b"pandas"]) for one in (ours, theirs))
    other["creator"]["version"] = pa.__version__
    assert mine == other
    assert ours.read().equals(theirs.read())
    assert ours.metadata.row_group(0).column(0).compression == "SNAPPY"


def test_episodes_have_lerobots_columns_and_statistics(like_lerobot: Path) -> None:
    theirs = pq.ParquetFile(reference() / "meta/episodes/chunk-000/file-000.parquet")
    for episode in range(2):
        ours = pq.ParquetFile(like_lerobot / f"meta/episodes/chunk-000/file-{episode:03d}.parquet")
        assert ours.schema_arrow.equals(theirs.schema_arrow)
        assert ours.schema_arrow.metadata == theirs.schema_arrow.metadata
        assert ours.metadata.num_row_groups == 1
        assert ours.metadata.row_group(0).column(0).compression == "SNAPPY"
        mine, other = ours.read().to_pylist()[0], theirs.read().to_pylist()[episode]
        for name, value in other.items():
            if name.endswith(("file_index", "_timestamp")):  # a file per episode: its own number, times from 0
                continue
            if not name.startswith("stats/"):
                assert mine[name] == value, name
            elif name.endswith(("/min", "/max", "/mean", "/std", "/count")) and "images.front" not in name:
                tolerance = 0.02 if "images" in name else 1e-6
                np.testing.assert_allclose(mine[name], value, atol=tolerance, rtol=1e-6, err_msg=name)
        assert mine["videos/observation.images.wrist/file_index"] == episode == mine["meta/episodes/file_index"]
        assert mine["videos/observation.images.wrist/from_timestamp"] == 0.0
        assert mine["videos/observation.images.wrist/to_timestamp"] == 40 / 30


def test_statistics_have_lerobots_form_and_values(like_lerobot: Path) -> None:
    ours, theirs = (json.loads((root / "meta/stats.json").read_text()) for root in (like_lerobot, reference()))
    assert set(ours) == set(theirs)
    for key, expected in theirs.items():
        assert list(ours[key]) == list(expected)
        for name, value in expected.items():
            assert np.shape(ours[key][name]) == np.shape(value), (key, name)
            if name in {"min", "max", "mean", "std", "count"} and key != "observation.images.front":
                tolerance = 0.02 if "images" in key else 1e-5
                np.testing.assert_allclose(ours[key][name], value, atol=tolerance, err_msg=f"{key} {name}")


@pytest.mark.parametrize("version", ["0.4.4", "0.6.1"])
def test_lerobots_datasets_are_read(version: str) -> None:
    meta = DatasetMeta.load(reference(version))
    assert meta.tasks == {0: "pick 0", 1: "pick 1"} and meta.frames == 80 and meta.fps == 30
    first, second = meta.episodes
    assert (first.task, first.length, second.from_index, second.to_index) == ("pick 0", 40, 40, 80)
    assert meta.data_path(second).name == "file-000.parquet" and meta.data_path(second).exists()
    assert [meta.first_frame(episode, "observation.images.wrist") for episode in meta.episodes] == [0, 40]
    assert meta.episode_stats(second)["action"]["count"].tolist() == [40]
    assert meta.stats["observation.images.wrist"]["mean"].shape == (3, 1, 1)
    assert meta.details(first) == {}


# Recording ---------------------------------------------------------------------------------------------------------


def test_what_is_recorded_is_there_whole(tmp_path: Path) -> None:
    root = written(tmp_path / "dataset", 4)
    assert tiny.check_dataset(root) == 4
    episodes = DatasetMeta.load(root).episodes
    assert [episode.length for episode in episodes] == [tiny.length(number) for number in range(4)]
    assert [path.name for path in (root / ".recording").iterdir()] == ["lock"]
    assert not list(root.rglob("*.tmp"))


def test_an_episode_knows_who_made_it(tmp_path: Path) -> None:
    root = tmp_path / "dataset"
    with DatasetWriter(root, tiny.FEATURES, tiny.CONFIG, system={"robot": "panda", "nan": float("nan")}) as writer:
        writer.begin("lift")
        tiny.add_rows(writer, 0)
        assert writer.frames == tiny.length(0) and writer.backlog >= 0 and writer.disk_free_mb > 1
        saved = writer.save(EpisodeDetails("lift", False, "fell \ud800 over", "teleop", 7, {"skew_ms": [1.5, np.inf]}))
        assert (saved.index, saved.frames, saved.duration_s) == (0, tiny.length(0), tiny.length(0) / 30)
        assert 0 < saved.save_s < 10 and writer.frames == 0 and writer.episodes == 1
    meta = DatasetMeta.load(root)
    details = dict(meta.details(meta.episodes[0]))
    assert details.pop("saved_at").endswith("+00:00")
    assert details == {
        "task": "lift",
        "success": False,
        "notes": "fell \ud800 over",
        "source": "teleop",
        "seed": 7,
        "extra": {"skew_ms": [1.5, None]},
    }
    (session,) = dataset.read_system(meta.layout)["sessions"]
    assert session["system"] == {"robot": "panda", "nan": None}
    assert session["recording"]["fps"] == 30


def test_details_that_json_cannot_say_keep_the_episode_open(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "dataset", tiny.FEATURES, tiny.CONFIG) as writer:
        writer.begin(tiny.task(0))
        tiny.add_rows(writer, 0)
        with pytest.raises(DatasetError, match="details cannot be written as JSON"):
            writer.save(EpisodeDetails(tiny.task(0), extra={"object": object()}))
        writer.save(EpisodeDetails(tiny.task(0)))
    assert tiny.check_dataset(tmp_path / "dataset") == 1


@settings(max_examples=10 if not os.environ.get("VLA_ROS_FULL") else 100)
@given(st.lists(st.tuples(st.text(min_size=1, max_size=20), st.integers(1, 12)), min_size=1, max_size=4))
def test_any_text_and_any_length(tmp_path_factory: pytest.TempPathFactory, said: list[tuple[str, int]]) -> None:
    root = tmp_path_factory.mktemp("any") / "dataset"
    kept: list[tuple[str, int]] = []
    with DatasetWriter(root, replace(tiny.FEATURES, features=tiny.FEATURES.features[:2]), tiny.CONFIG) as writer:
        for text, length in said:
            is_text = text.strip() and not any("\ud800" <= character <= "\udfff" for character in text)
            if not is_text:
                with pytest.raises(DatasetError, match="the task"):
                    writer.begin(text)
                continue
            writer.begin(text)
            for frame in range(length):
                row = tiny.row(len(kept), frame)
                values = {key: row.values[key] for key in ("observation.state", "action")}
                writer.add(Row(row.instant_ns, {}, values))
            writer.save(EpisodeDetails(text))
            kept.append((text, length))
    meta = DatasetMeta.load(root)
    assert [(episode.task, episode.length) for episode in meta.episodes] == kept
    assert sorted(meta.tasks.values()) == sorted({text for text, _ in kept})
    assert list(meta.tasks) == list(range(len(meta.tasks)))
    for episode in meta.episodes:
        numbers = set(tables.read_table(meta.data_path(episode))["task_index"].to_pylist())
        assert [meta.tasks[number] for number in numbers] == [episode.task]


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("", "the task is empty"),
        (" \n", "the task is empty"),
        ("lift \udcff", "the task 'lift .udcff' is not Unicode text: character 5 is half of a pair"),
        ("x" * (LONGEST_TASK + 1), "the task has 1001 characters; at most 1000"),
    ],
)
def test_a_task_that_is_no_text_is_refused(tmp_path: Path, task: str, said: str) -> None:
    with DatasetWriter(tmp_path / "dataset", tiny.FEATURES, tiny.CONFIG) as writer:
        with pytest.raises(DatasetError, match=said):
            writer.begin(task)
        writer.begin(tiny.task(0))
        tiny.add_rows(writer, 0)
        with pytest.raises(DatasetError, match=said):
            writer.save(EpisodeDetails(task))
        writer.save(EpisodeDetails(tiny.task(0)))
    assert tiny.check_dataset(tmp_path / "dataset") == 1


def test_calls_out_of_order_are_refused(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "dataset", tiny.FEATURES, tiny.CONFIG) as writer:
        for call in (writer.discard, writer.set_aside, lambda: writer.add(tiny.row(0, 0))):
            with pytest.raises(DatasetError, match="no episode is open; begin one first"):
                call()
        with pytest.raises(DatasetError, match="has no episode to drop"):
            writer.drop_last()
        writer.begin("lift")
        with pytest.raises(DatasetError, match="the episode has no frames; discard it"):
            writer.save(EpisodeDetails("lift"))
        for call in (writer.drop_last, lambda: writer.begin("lift")):
            with pytest.raises(DatasetError, match="episode 0 is open; save or discard it first"):
                call()
        writer.discard()


def test_a_row_that_does_not_fit_is_refused_whole(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "dataset", tiny.FEATURES, tiny.CONFIG) as writer:
        writer.begin(tiny.task(0))
        good = tiny.row(0, 0)
        without = {"front": good.images["front"]}
        small = {**good.images, "wrist": good.images["wrist"][:40]}
        nan = {**good.values, "action": np.full(8, np.nan)}
        for bad, said in (
            (replace(good, images=without), r"row 0: images of \['front'\], there should be \['front', 'wrist'\]"),
            (replace(good, images=small), r"row 0: wrist should be \(48, 64, 3\) uint8, got \(40, 64, 3\) uint8"),
            (replace(good, values=nan), "row 0: action should be finite"),
        ):
            with pytest.raises(DatasetError, match=said):
                writer.add(bad)
        tiny.add_rows(writer, 0)
        writer.save(EpisodeDetails(tiny.task(0)))
    assert tiny.check_dataset(tmp_path / "dataset") == 1


def test_discard_leaves_nothing(tmp_path: Path) -> None:
    root = written(tmp_path / "dataset", 2)
    with DatasetWriter(root, tiny.FEATURES, tiny.CONFIG, resume=True) as writer:
        before = paths(root)
        writer.begin("something new")
        tiny.add_rows(writer, 2)
        writer.discard()
        assert paths(root) == before
        assert tiny.record_one(writer) == 2
    assert tiny.check_dataset(root) == 3


@pytest.mark.parametrize("resumed", [False, True])
def test_the_last_episode_can_be_dropped(tmp_path: Path, resumed: bool) -> None:
    root = written(tmp_path / "dataset", 2)
    before = {path: (root / path).read_bytes() for path in paths(root) if "system" not in path and "lock" not in path}
    writer = DatasetWriter(root, tiny.FEATURES, tiny.CONFIG, resume=True)
    assert tiny.record_one(writer) == 2  # its task is new
    if resumed:  # what was before the last episode has to be found out
        writer.close()
        writer = DatasetWriter(root, tiny.FEATURES, tiny.CONFIG, resume=True)
    with writer:
        assert (writer.drop_last(), writer.episodes) == (2, 2)
        for path, content in before.items():
            if path.endswith(".json") and resumed:
                compare_json(json.loads((root / path).read_bytes()), json.loads(content))
            elif not (resumed and path == "meta/tasks.parquet"):
                assert (root / path).read_bytes() == content, path
        assert not [path for path in paths(root) if "002" in path and "trash" not in path]
        assert tiny.record_one(writer) == 2
        assert tiny.check_dataset(root) == 3
        assert [writer.drop_last() for _ in range(3)] == [2, 1, 0]
        assert tiny.record_one(writer) == 0
    assert tiny.check_dataset(root) == 1


@pytest.mark.parametrize("how", ["discarded", "put back", "closed", "set aside", "killed", "killed while recording"])
def test_an_episode_that_is_recorded_again_is_there_until_the_next_is_saved(tmp_path: Path, how: str) -> None:
    root, files = written(tmp_path / "dataset", 3), ("data/", "videos/", "meta/episodes/", "meta/vla_ros/episodes/")
    whole = {path: (root / path).read_bytes() for path in paths(root) if path.startswith(files)}
    writer = DatasetWriter(root, tiny.FEATURES, tiny.CONFIG, resume=True)
    assert writer.drop_last() == 2
    assert tiny.check_dataset(root) == 2
    if how in ("discarded", "set aside", "killed while recording"):
        writer.begin("lift")
        tiny.add_rows(writer, 2)
    if how.startswith("killed"):
        copy = shutil.copytree(root, tmp_path / "copy")
        writer.close()
        root = copy
        writer = DatasetWriter(root, tiny.FEATURES, tiny.CONFIG, resume=True)
        assert "episode 2 was being recorded again" in " ".join(writer.notices)
    else:
        {"discarded": writer.discard, "put back": writer.put_back, "closed": writer.close, "set aside": writer.close}[
            how
        ]()
    assert writer.episodes == 3
    assert {path: (root / path).read_bytes() for path in whole} == whole
    assert not list((root / ".recording" / "trash").glob("*"))
    writer.close()
    assert tiny.check_dataset(root) == 3


def test_what_was_replaced_is_gone_once_the_next_is_saved(tmp_path: Path) -> None:
    root = written(tmp_path / "dataset", 2)
    with DatasetWriter(root, tiny.FEATURES, tiny.CONFIG, resume=True) as writer:
        writer.drop_last()
        writer.begin("lift")
        tiny.add_rows(writer, 1)
        writer.discard(is_repeated=True)
        assert writer.episodes == 1
        assert tiny.record_one(writer) == 1
        assert not (root / ".recording" / "trash").exists()
    assert tiny.check_dataset(root) == 2


@pytest.mark.parametrize("replaced", [False, True])
def test_a_folder_that_is_taken_away_is_an_error_and_not_made_again(tmp_path: Path, replaced: bool) -> None:
    root = written(tmp_path / "dataset", 1)
    writer = DatasetWriter(root, tiny.FEATURES, tiny.CONFIG, resume=True)
    writer.begin("lift")
    tiny.add_rows(writer, 1)
    root.rename(tmp_path / "elsewhere")
    if replaced:
        written(root, 1)
    said = "was replaced by another folder" if replaced else "was removed or moved while it was being written"
    there = paths(root) if replaced else []
    for call in (
        lambda: writer.add(tiny.row(1, 0)),
        lambda: writer.save(EpisodeDetails("lift")),
        writer.discard,
    ):
        with pytest.raises(DatasetError, match=f"dataset {said}"):
            call()
    writer.close()
    assert any(said in notice for notice in writer.notices)
    assert root.exists() is replaced
    assert not replaced or paths(root) == there


def compare_json(given: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert list(given) == list(expected)
        for key, value in expected.items():
            if key != "total_tasks":  # a text that no episode has any more stays
                compare_json(given[key], value)
    elif isinstance(expected, list):
        np.testing.assert_allclose(given, expected, rtol=1e-9) if expected and not isinstance(expected[0], str) else ...
    else:
        assert given == expected


# Resuming ----------------------------------------------------------------------------------------------------------


def test_a_dataset_is_gone_on_with(tmp_path: Path) -> None:
    root = written(tmp_path / "dataset", 2)
    for count in (3, 4):
        with DatasetWriter(root, tiny.FEATURES, tiny.CONFIG, resume=True) as writer:
            assert writer.notices == [] and tiny.record_one(writer) == count - 1
        assert tiny.check_dataset(root) == count
    assert len(dataset.read_system(files.Layout(root))["sessions"]) == 3


def test_a_dataset_of_lerobots_is_gone_on_with(tmp_path: Path) -> None:
    root = tmp_path / "dataset"
    subprocess.run(["cp", "-r", str(reference("0.4.4")), str(root)], check=True)
    features = DatasetMeta.load(root).features
    config = RecordingConfig(video=VideoConfig(codec="libsvtav1"))
    with DatasetWriter(root, features, config, resume=True) as writer:
        assert writer.episodes == 2 and writer.notices == []
        writer.begin("pick 1")
        image = np.zeros((240, 320, 3), np.uint8)
        values = {"observation.state": np.zeros(8), "action": np.ones(8), "observation.extra.stamp": np.zeros(1)}
        for k in range(3):
            writer.add(Row(k, {"front": image, "wrist": image}, values))
        writer.save(EpisodeDetails("pick 1"))
        assert writer.drop_last() == 2
        with pytest.raises(DatasetError, match="episode 1 shares its files with others"):
            writer.drop_last()
        writer.begin("pick 1")
        writer.add(Row(0, {"front": image, "wrist": image}, values))
        writer.save(EpisodeDetails("pick 1"))
    meta = DatasetMeta.load(root)
    assert [(episode.length, episode.file, episode.from_index) for episode in meta.episodes] == [
        (40, 0, 0),
        (40, 0, 40),
        (1, 2, 80),
    ]
    assert meta.stats["action"]["count"].tolist() == [81]
    assert meta.tasks == {0: "pick 0", 1: "pick 1"}
    columns = tables.read_table(meta.data_path(meta.episodes[2])).to_pydict()
    assert (columns["index"], columns["task_index"], columns["action"]) == ([80], [1], [[1.0] * 8])


def without_first(root: Path) -> None:
    """Take episode 0 out as LeRobot's `delete_episodes` does: rows counted anew, files named as they were."""
    lines = [pq.ParquetFile(root / f"meta/episodes/chunk-000/file-{k:03d}.parquet").read() for k in (1, 2)]
    first = tiny.length(0)
    rows = [line.to_pylist()[0] for line in lines]
    for k, row in enumerate(rows):
        row |= {"episode_index": k, "meta/episodes/file_index": 0}
        row |= {name: row[name] - first for name in ("dataset_from_index", "dataset_to_index")}
        path = root / f"data/chunk-000/file-{k + 1:03d}.parquet"
        data = pq.ParquetFile(path).read()
        for name, shift in (("episode_index", 1), ("index", first)):
            values = pa.array(data[name].to_numpy() - shift)
            data = data.set_column(data.schema.get_field_index(name), data.schema.field(name), values)
        pq.write_table(data, path)
    for path in sorted(root.glob("*/**/file-000.*")) + sorted(root.glob("meta/episodes/*/*.parquet")):
        path.unlink(missing_ok=True)
    shutil.rmtree(root / "meta/vla_ros")
    pq.write_table(pa.Table.from_pylist(rows, lines[0].schema), root / "meta/episodes/chunk-000/file-000.parquet")


def test_files_that_kept_their_numbers_are_not_written_again(tmp_path: Path) -> None:
    root = written(tmp_path / "dataset", 3)
    without_first(root)
    there = {path: path.read_bytes() for path in root.glob("[dv]*/**/file-*.*")}
    for k in range(3):
        with DatasetWriter(root, tiny.FEATURES, tiny.CONFIG, resume=True) as writer:
            assert "no episode" not in " ".join(writer.notices)
            assert (writer.episodes, tiny.record_one(writer)) == (2 + k, 2 + k)
            assert writer.drop_last() == 2 + k
            tiny.record_one(writer)
    assert {path: path.read_bytes() for path in there} == there
    meta = DatasetMeta.load(root)
    assert [episode.file for episode in meta.episodes] == [1, 2, 3, 4, 5]
    for episode in meta.episodes:
        columns = tables.read_table(meta.data_path(episode)).to_pydict()
        assert columns["index"] == list(range(episode.from_index, episode.to_index))
        assert set(columns["episode_index"]) == {episode.index}
        assert all(clip.file == episode.file for clip in episode.clips.values())
    for line in tiny.lines(root)[2:]:
        tiny.check_episode(root, line)


@pytest.mark.parametrize("lost", ["stats.json", "info.json"])
def test_totals_that_are_wrong_are_made_again(tmp_path: Path, lost: str) -> None:
    root = written(tmp_path / "dataset", 5)
    content = json.loads((root / "meta" / lost).read_text())
    if lost == "stats.json":
        (root / "meta" / lost).unlink()
    else:
        (root / "meta" / lost).write_text(json.dumps({**content, "total_episodes": 4, "total_frames": 7}))
    with DatasetWriter(root, tiny.FEATURES, tiny.CONFIG, resume=True) as writer:
        (notice,) = writer.notices
        assert "rebuilt from its 5 episodes" in notice
        compare_json(json.loads((root / "meta" / lost).read_text()), content)
        tiny.record_one(writer)
    assert tiny.check_dataset(root) == 6


def test_other_features_are_refused_by_name(tmp_path: Path) -> None:
    root = written(tmp_path / "dataset", 1)
    state, action, *others = tiny.FEATURES.features
    changed = (replace(state, shape=(9,), names=None), Feature("force", "float32", (6,)), *others)
    with pytest.raises(DatasetError) as raised:
        DatasetWriter(
            root,
            replace(tiny.FEATURES, fps=50, robot_type="fr3", features=changed),
            RecordingConfig(fps=50, video=VideoConfig(codec="hevc")),
            resume=True,
        )
    for said in (
        "it has 30 Hz, given 50 Hz",
        "its robot is 'panda', given 'fr3'",
        "action is in it, not given",
        "force is given, not in it",
        "observation.state has shape (8,), given (9,)",
        "observation.images.front is coded as h264, given hevc",
    ):
        assert said in str(raised.value)
    with pytest.raises(DatasetError, match="features are in the order observation.state, action"):
        DatasetWriter(root, replace(tiny.FEATURES, features=(action, state, *others)), tiny.CONFIG, resume=True)
    assert tiny.check_dataset(root) == 1
    DatasetWriter(root, tiny.FEATURES, tiny.CONFIG, resume=True).close()  # the lock was given back


def test_a_second_writer_is_refused_by_name(tmp_path: Path) -> None:
    root = written(tmp_path / "dataset", 1)
    waits = (
        "import sys; sys.path.insert(0, sys.argv[1]); import tiny; from pathlib import Path\n"
        "with tiny.DatasetWriter(Path(sys.argv[2]), tiny.FEATURES, tiny.CONFIG, resume=True) as writer:\n"
        "    print(writer.episodes, flush=True); sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", waits, str(Path(__file__).parent), str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == "1\n"
        with pytest.raises(DatasetError, match=f"is being written by process {other.pid} .*one writer at a time"):
            DatasetWriter(root, tiny.FEATURES, tiny.CONFIG, resume=True)
        other.stdin.close()
        assert other.wait(20) == 0
    finally:
        other.kill()
        other.wait()
    with DatasetWriter(root, tiny.FEATURES, tiny.CONFIG, resume=True) as writer:
        assert tiny.record_one(writer) == 1


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DatasetError, match=r"is not empty \(notes.txt\)"):
        DatasetWriter(tmp_path, tiny.FEATURES, tiny.CONFIG)
    with pytest.raises(DatasetError, match="contains no dataset to continue"):
        DatasetWriter(tmp_path, tiny.FEATURES, tiny.CONFIG, resume=True)
    with pytest.raises(DatasetError, match="contains no dataset to continue"):
        DatasetWriter(tmp_path / "nowhere", tiny.FEATURES, tiny.CONFIG, resume=True)
    assert paths(tmp_path) == ["notes.txt"]
    assert not (tmp_path / "nowhere").exists()
    root = written(tmp_path / "dataset", 1)
    with pytest.raises(DatasetError, match="is not empty .*resume the dataset there"):
        DatasetWriter(root, tiny.FEATURES, tiny.CONFIG)


@pytest.mark.parametrize(
    ("feature", "said"),
    [
        (Feature("observation.cube", "float32", (2, 2, 2)), r"observation.cube: a column has .* float32 \(2, 2, 2\)"),
        (Feature("observation.text", "string", (1,)), r"observation.text: a column has .* string \(1,\)"),
        (Feature("timestamp", "float32", (1,)), r"none of LeRobot's; got \['timestamp', 'timestamp'\]"),
        (Feature("observation.images.front", "video", (48, 64, 3)), "needs a feature that is no video"),
    ],
)
def test_a_feature_that_cannot_be_stored_is_refused(tmp_path: Path, feature: Feature, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        DatasetWriter(tmp_path / "dataset", replace(tiny.FEATURES, features=(feature,)), tiny.CONFIG)
    assert not (tmp_path / "dataset/meta/info.json").exists()


# Errors while writing ----------------------------------------------------------------------------------------------


class Failing:
    """The n-th change of a name or end of writing from now on fails, as on a full disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self.steps = 0
        for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "mkdir")):
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name), at))

    def _counted(self, function: Any, at: int) -> Any:
        def step(*args: Any, **kwargs: Any) -> Any:
            self.steps += 1
            if self.steps == at + 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return function(*args, **kwargs)

        return step


@pytest.mark.parametrize("again", ["save", "discard", "set aside"])
def test_a_full_disk_at_any_step_of_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: str) -> None:
    root = written(tmp_path / "dataset", 3)
    first = ["save", "discard", "set aside"].index(again)
    every = 1 if os.environ.get("VLA_ROS_FULL") else 5
    with DatasetWriter(root, tiny.FEATURES, tiny.CONFIG, resume=True) as writer:
        with monkeypatch.context() as context:
            counted = Failing(context, at=1_000_000)
            writer.begin(tiny.task(3))
            begun = counted.steps
            tiny.add_rows(writer, 3)
            writer.save(EpisodeDetails(tiny.task(3)))
        steps = range(2 * first % every, counted.steps - begun, every)
        assert counted.steps - begun >= 15
        for step in steps:
            save_failing_at(writer, root, step, monkeypatch, again)
    assert tiny.check_dataset(root) == 4 + len(steps)


def save_failing_at(writer: DatasetWriter, root: Path, at: int, monkeypatch: pytest.MonkeyPatch, again: str) -> None:
    """Save an episode with a failure at step `at`, then save it again, or discard it and save the next."""
    episode = writer.episodes
    writer.begin(tiny.task(episode))
    tiny.add_rows(writer, episode)
    with monkeypatch.context() as context:
        Failing(context, at)
        with pytest.raises(DatasetError, match="No space left on device"):
            writer.save(EpisodeDetails(tiny.task(episode)))
    assert writer.episodes == episode
    if again == "save":
        writer.save(EpisodeDetails(tiny.task(episode)))
    else:
        if again == "discard":
            writer.discard()
        else:
            assert (writer.set_aside() / "rows.bin").exists()
        assert not [path for path in paths(root) if f"file-{episode:03d}" in path]
        assert not list(root.rglob("*.tmp"))
        info = json.loads((root / "meta/info.json").read_text())
        assert info["total_episodes"] == len(tiny.lines(root)) == episode
        stats = json.loads((root / "meta/stats.json").read_text())
        assert stats["index"]["count"] == [info["total_frames"]]
        assert tiny.record_one(writer) == episode
    tiny.check_episode(root, tiny.lines(root)[-1])


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a disk of a few megabytes can only be mounted as root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_full_keeps_what_is_saved(tmp_path: Path) -> None:
    """Filled while recording, and before saving; freed, the next episode is saved."""
    with small_disk(tmp_path / "disk", "24m") as disk:
        root = disk / "dataset"
        with DatasetWriter(root, tiny.FEATURES, tiny.CONFIG) as writer:
            for _ in range(3):
                tiny.record_one(writer)
            writer.begin(tiny.task(3))
            tiny.add_rows(writer, 3)
            ballast = disk / "ballast"
            fill(ballast)
            with pytest.raises(DatasetError, match="MB left, saving takes .* make room and save again"):
                writer.save(EpisodeDetails(tiny.task(3)))
            with pytest.raises(DatasetError, match="No space left on device|encoding failed"):
                add_many(writer, 3)
            assert len(tiny.lines(root)) == 3
            ballast.unlink()
            where = writer.set_aside()
            assert (where / "rows.bin").stat().st_size > 0
            assert tiny.record_one(writer) == 3
            fill(ballast)
            with pytest.raises(DatasetError, match="No space left on device"):
                writer.begin(tiny.task(4))
            assert not writer.is_open
            ballast.unlink()
            assert tiny.record_one(writer) == 4
        assert tiny.check_dataset(root) == 5


def add_many(writer: DatasetWriter, episode: int) -> None:
    for frame in range(100_000):
        writer.add(tiny.row(episode, tiny.length(episode) + frame))


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    if file.write(b"x" * size) < size:
                        break
            except OSError:
                continue


def test_a_disk_that_may_not_be_written_keeps_what_is_saved(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "24m") as disk:
        root = written(disk / "dataset", 2)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(DatasetError, match="dataset cannot be written: Read-only file system"):
            DatasetWriter(root, tiny.FEATURES, tiny.CONFIG, resume=True)
        with pytest.raises(DatasetError, match="cannot be written: Read-only file system"):
            DatasetWriter(disk / "other", tiny.FEATURES, tiny.CONFIG)
        assert tiny.check_dataset(root) == 2


def test_an_encoder_that_fails_takes_only_its_episode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = written(tmp_path / "dataset", 2)
    with DatasetWriter(root, tiny.FEATURES, tiny.CONFIG, resume=True) as writer:
        writer.begin("fails")
        tiny.add_rows(writer, 2)
        until(lambda: writer.backlog == 0)
        encode = VideoEncoder._write

        def fails(self: Any, frame: Any) -> None:
            if "wrist" in str(self._path) and frame is not None:
                raise av.FFmpegError(5, "the encoder is gone")
            encode(self, frame)

        with monkeypatch.context() as context:
            context.setattr(VideoEncoder, "_write", fails)
            with pytest.raises(EncoderError, match="wrist.mp4: encoding failed after .* frames: .*encoder is gone"):
                add_many(writer, 2)
        for call in (lambda: writer.add(tiny.row(2, 0)), lambda: writer.save(EpisodeDetails("fails"))):
            with pytest.raises(EncoderError, match="the encoder is gone"):
                call()
        where = writer.set_aside()
        assert sorted(path.name for path in where.iterdir()) == ["episode.json", "front.mp4", "rows.bin", "wrist.mp4"]
        with av.open(str(where / "wrist.mp4")) as container:
            assert len(list(container.decode(video=0))) >= tiny.length(2)
        assert tiny.record_one(writer) == 2
    assert tiny.check_dataset(root) == 3


def test_a_disk_that_lost_frames_once_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel reports what it could not write at one sync, and then no more."""
    root = written(tmp_path / "dataset", 1)
    writer = DatasetWriter(root, tiny.FEATURES, tiny.CONFIG, resume=True)
    writer.begin(tiny.task(1))
    tiny.add_rows(writer, 1)
    told: list[str] = []

    def sync(descriptor: int, really: Callable[[int], None] = os.fsync) -> None:
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if path.endswith("front.mp4") and not told:
            told.append(path)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        really(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    for _ in range(2):
        with pytest.raises(DatasetError, match="Input/output error"):
            writer.save(EpisodeDetails(tiny.task(1)))
    writer.close()
    assert len(told) == 1 and "was not saved" in writer.notices[-1]
    assert tiny.check_dataset(root) == 1


def test_a_video_with_other_frames_than_rows_is_not_saved(tmp_path: Path) -> None:
    """What is in the file counts, whatever the encoder says."""
    root = written(tmp_path / "dataset", 1)
    with DatasetWriter(root, tiny.FEATURES, tiny.CONFIG, resume=True) as writer:
        writer.begin(tiny.task(1))
        tiny.add_rows(writer, 1)
        assert writer._open is not None
        writer._open._encoders["wrist"].add(np.zeros((48, 64, 3), np.uint8))
        with pytest.raises(DatasetError, match=r"10 rows were given, 10 are in rows.bin, and frames: .*'wrist': 11"):
            writer.save(EpisodeDetails(tiny.task(1)))
        writer.discard()
    assert tiny.check_dataset(root) == 1


def test_a_codec_that_is_not_here_leaves_no_episode(tmp_path: Path) -> None:
    config = RecordingConfig(fps=30, video=VideoConfig(preset="nonsense"))
    with DatasetWriter(tmp_path / "dataset", tiny.FEATURES, config) as writer:
        with pytest.raises(EncoderError, match="those that work: h264"):
            writer.begin("lift")
        assert not writer.is_open
        assert not list((tmp_path / "dataset/.recording").glob("episode-*"))


def test_closing_on_a_full_disk_leaves_the_episode_to_the_next(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "24m") as disk:
        root = written(disk / "dataset", 1)
        with DatasetWriter(root, tiny.FEATURES, tiny.CONFIG, resume=True) as writer:
            writer.begin(tiny.task(1))
            tiny.add_rows(writer, 1)
            until(lambda: writer.backlog == 0)
            fill(disk / "ballast")
        assert "an episode of 10 frames was not saved" in writer.notices[-1]
        (disk / "ballast").unlink()
        with DatasetWriter(root, tiny.FEATURES, tiny.CONFIG, resume=True) as writer:
            assert tiny.record_one(writer) == 1
        (where,) = (root / ".recording/aside").iterdir()
        assert len(journal.read(where / "rows.bin")) == 10
        assert tiny.check_dataset(root) == 2


def test_closing_sets_an_open_episode_aside(tmp_path: Path) -> None:
    root = written(tmp_path / "dataset", 1)
    writer = DatasetWriter(root, tiny.FEATURES, tiny.CONFIG, resume=True)
    writer.begin(tiny.task(1))
    tiny.add_rows(writer, 1)
    writer.close()
    writer.close()
    (notice,) = writer.notices
    where = Path(notice.removeprefix("an episode of 10 frames was not saved; it is in "))
    assert where.parent == root / ".recording/aside"
    with av.open(str(where / "front.mp4")) as container:
        assert len(list(container.decode(video=0))) == 10
    assert json.loads((where / "episode.json").read_text())["task"] == tiny.task(1)
    assert tiny.check_dataset(root) == 1


def test_save_does_not_grow_with_the_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what it does: after many episodes, it reads and writes as many bytes of as many files as after few."""
    root = written(tmp_path / "dataset", 3)
    opened: list[str] = []

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event in {"open", "os.listdir", "os.scandir", "os.rename"}:
            opened.append(event)

    watching = False
    sys.addaudithook(audit)
    counts = []
    with DatasetWriter(root, tiny.FEATURES, tiny.CONFIG, resume=True) as writer:
        for episode in range(3, 30):
            writer.begin(tiny.task(episode))
            tiny.add_rows(writer, episode)
            opened.clear()
            watching = True
            writer.save(EpisodeDetails(tiny.task(episode)))
            watching = False
            counts.append(len(opened))
    assert max(counts[1:]) == min(counts[1:])
    sizes = [(root / "meta" / name).stat().st_size for name in ("info.json", "stats.json", "tasks.parquet")]
    assert sum(sizes) < 100_000
    assert schemas.VERSION == "v3.0"
