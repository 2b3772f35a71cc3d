"""The v2.1 writer: layout and files as plain JSON, pyarrow and PyAV read them; GR00T's modality.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from pyarrow import parquet

from vla_ros.recording.config import VideoConfig
from vla_ros.recording.features import Feature, Features, of_robot
from vla_ros.recording.files import DatasetError
from vla_ros.recording.lerobot_v21 import V21Writer, modality
from vla_ros.recording.reader import DatasetReader
from vla_ros.recording.statistics import ImageStatistics
from vla_ros.recording.storing.catalogue import Finished
from vla_ros.recording.video import VideoEncoder
from vla_ros.robots import catalogue

FEATURES = Features(
    10,
    "panda",
    (
        Feature("observation.state", "float32", (2,), ("a_rad", "gripper_m")),
        Feature("action", "float32", (2,), ("a_rad", "gripper_m")),
        Feature("observation.images.front", "video", (32, 48, 3), ("height", "width", "channels")),
        Feature("control.mode", "int64", (1,)),
    ),
)
LENGTHS = (5, 3)


def finished(folder: Path, episode: int) -> Finished:
    folder.mkdir()
    length = LENGTHS[episode]
    rows = np.arange(length)[:, None]
    stats, encoder = ImageStatistics(), VideoEncoder(folder / "front.mp4", 32, 48, 10, VideoConfig())
    for row in range(length):
        image = np.full((32, 48, 3), 40 * row + episode, np.uint8)
        encoder.add(image)
        stats.add(image)
    columns = {
        "observation.state": (rows + np.array([0.25, 0.5])).astype(np.float32),
        "action": (rows * [1.0, -1.0] + episode).astype(np.float32),
        "control.mode": rows % 2,
    }
    key = "observation.images.front"
    return Finished(folder, columns, {key: encoder.close()}, {key: stats.stats()})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("v21")
    writer = V21Writer(folder / "set", FEATURES)
    writer.add(finished(folder / "0", 0), ["lift"] * 5, b'{"success": true}')
    writer.add(finished(folder / "1", 1), ["push \u2028 it", "lift", "lift"], b"{}")
    writer.close()
    return folder / "set"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def test_the_layout_is_that_of_v21(root: Path) -> None:
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    assert files == [
        "data/chunk-000/episode_000000.parquet",
        "data/chunk-000/episode_000001.parquet",
        "meta/episodes.jsonl",
        "meta/episodes_stats.jsonl",
        "meta/info.json",
        "meta/tasks.jsonl",
        "meta/vla_ros/episodes/episode-000000.json",
        "meta/vla_ros/episodes/episode-000001.json",
        "videos/chunk-000/observation.images.front/episode_000000.mp4",
        "videos/chunk-000/observation.images.front/episode_000001.mp4",
    ]
    info = json.loads((root / "meta/info.json").read_text())
    assert list(info) == [
        "codebase_version", "robot_type", "total_episodes", "total_frames", "total_tasks", "total_videos",
        "total_chunks", "chunks_size", "fps", "splits", "data_path", "video_path", "features",
    ]  # fmt: skip
    totals = [info[f"total_{name}"] for name in ("episodes", "frames", "tasks", "videos", "chunks")]
    assert totals == [2, 8, 2, 2, 1] and (info["codebase_version"], info["fps"]) == ("v2.1", 10)
    assert info["splits"] == {"train": "0:2"} and info["chunks_size"] == 1000
    for key in ("data_path", "video_path"):
        for episode in range(2):
            path = info[key].format(episode_chunk=0, episode_index=episode, video_key="observation.images.front")
            assert (root / path).is_file()
    image = info["features"]["observation.images.front"]
    assert image["shape"] == [32, 48, 3] and image["info"]["video.codec"] == "h264" and image["info"]["video.fps"] == 10
    assert list(info["features"])[-5:] == ["timestamp", "frame_index", "episode_index", "index", "task_index"]


def test_the_metadata_are_json_lines(root: Path) -> None:
    assert lines(root / "meta/tasks.jsonl") == [
        {"task_index": 0, "task": "lift"},
        {"task_index": 1, "task": "push \u2028 it"},
    ]
    assert lines(root / "meta/episodes.jsonl") == [
        {"episode_index": 0, "tasks": ["lift"], "length": 5},
        {"episode_index": 1, "tasks": ["push \u2028 it", "lift"], "length": 3},
    ]
    stats = lines(root / "meta/episodes_stats.jsonl")
    assert [line["episode_index"] for line in stats] == [0, 1]
    action = stats[0]["stats"]["action"]
    assert (action["min"], action["max"], action["count"]) == ([0, -4], [4, 0], [5])
    np.testing.assert_allclose(action["mean"], [2, -2])
    np.testing.assert_allclose(action["std"], np.std(np.arange(5)))
    image = stats[0]["stats"]["observation.images.front"]
    assert np.shape(image["mean"]) == (3, 1, 1) and image["max"][0] == [[160 / 255]]
    assert stats[1]["stats"]["index"]["min"] == [5]


def test_columns_and_frames_are_what_was_put_in(root: Path, tmp_path: Path) -> None:
    for episode, length in enumerate(LENGTHS):
        path = root / f"data/chunk-000/episode_{episode:06d}.parquet"
        table = parquet.read_table(path)
        rows = table.to_pylist()
        assert table.column_names == [
            "observation.state", "action", "control.mode", "timestamp", "frame_index", "episode_index", "index",
            "task_index",
        ]  # fmt: skip
        assert [row["action"] for row in rows] == [[row + episode, -row + episode] for row in range(length)]
        assert [row["control.mode"] for row in rows] == [row % 2 for row in range(length)]
        np.testing.assert_allclose([row["timestamp"] for row in rows], np.arange(length) / 10, atol=1e-7)
        assert [row["index"] for row in rows] == [5 * episode + row for row in range(length)]
        # The library `datasets` before 4.0 knows no "List".
        described = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
        value = {"dtype": "float32", "_type": "Value"}
        assert described["action"] == {"feature": value, "length": 2, "_type": "Sequence"}
        assert described["control.mode"] == {"dtype": "int64", "_type": "Value"}
        with av.open(str(root / f"videos/chunk-000/observation.images.front/episode_{episode:06d}.mp4")) as file:
            frames = [(frame.time, frame.to_ndarray(format="rgb24").mean()) for frame in file.decode(video=0)]
        np.testing.assert_allclose([time for time, _ in frames], np.arange(length) / 10, atol=1e-9)
        np.testing.assert_allclose([level for _, level in frames], 40 * np.arange(length) + episode, atol=3)
    assert [row["task_index"] for row in rows] == [1, 0, 0]


def test_the_reader_reads_it(root: Path) -> None:
    reader = DatasetReader(root)
    assert [reader.row(index).task for index in (4, 5, 6)] == ["lift", "push \u2028 it", "lift"]
    assert reader.meta.details(reader.meta.episodes[0]) == {"success": True}
    np.testing.assert_array_equal(reader.meta.episode_stats(reader.meta.episodes[1])["index"]["max"], [7])
    np.testing.assert_allclose(reader.row(7).images["front"].mean(), 81, atol=3)


def test_arm_and_gripper_are_told_apart() -> None:
    said = modality(of_robot(catalogue.find("panda"), {"front": (8, 8), "wrist": (8, 8)}, 30))
    parts = {"arm": {"start": 0, "end": 7}, "gripper": {"start": 7, "end": 8}}
    assert said == {
        "state": parts,
        "action": parts,
        "video": {camera: {"original_key": f"observation.images.{camera}"} for camera in ("front", "wrist")},
        "annotation": {"human.task_description": {"original_key": "task_index"}},
    }


def with_names(*names: str) -> Features:
    features = [
        Feature(key, "float32", (max(len(names), 1),), names or None) for key in ("observation.state", "action")
    ]
    return Features(30, "two", tuple(features))


def test_two_arms_are_told_apart() -> None:
    said = modality(
        with_names("left_waist", "left_elbow", "left_gripper", "right_waist", "right_elbow", "right_gripper")
    )
    assert said["action"] == {
        "left_arm": {"start": 0, "end": 2},
        "left_gripper": {"start": 2, "end": 3},
        "right_arm": {"start": 3, "end": 5},
        "right_gripper": {"start": 5, "end": 6},
    }


@pytest.mark.parametrize(
    ("features", "said"),
    [
        (with_names(), "needs names of the 1 dimensions of observation.state"),
        (with_names("a", "gripper", "b"), "observation.state: the dimensions of arm do not stand together"),
        (Features(30, "none", ()), "needs observation.state: no feature"),
    ],
)
def test_what_gr00t_needs_is_said(features: Features, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        modality(features)


def test_a_feature_that_cannot_be_stored_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="pose"):
        V21Writer(tmp_path / "set", Features(30, "", (Feature("pose", "float32", (2, 2)),)))
    assert not (tmp_path / "set").exists()
