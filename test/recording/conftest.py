"""A small dataset as the recorder writes it, and what is in a dataset, read without the project's own readers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from vla_ros.recording.config import RecordingConfig
from vla_ros.recording.features import IMAGES, Features, Row, of_robot
from vla_ros.recording.lerobot_v3 import DatasetWriter, EpisodeDetails
from vla_ros.robots.panda import PANDA

LENGTHS = (5, 8, 6, 7)
TASKS = ("stack the blocks", "open the drawer", "stack the blocks", "wipe the table")
CAMERAS = {"front": (48, 64), "wrist": (48, 64)}
FPS = 20
#: Columns that say where a row is; they change when episodes before it go.
COUNTS = ("episode_index", "index")


@dataclass(frozen=True, eq=False)
class Content:
    """An episode: its columns by name, and each camera's frames (T, H, W, 3) as decoded."""

    task: tuple[str, ...]
    columns: Mapping[str, list[Any]]
    frames: Mapping[str, np.ndarray]

    def is_same(self, other: Content, but: tuple[str, ...] = ()) -> bool:
        """Whether every value and every pixel is the same."""
        columns = [{key: value for key, value in one.columns.items() if key not in but} for one in (self, other)]
        same = self.frames.keys() == other.frames.keys()
        same = same and all(np.array_equal(self.frames[key], other.frames[key]) for key in self.frames)
        return same and self.task == other.task and repr(columns[0]) == repr(columns[1])


def features() -> Features:
    """Those of a robot but some, which would only take time."""
    whole = of_robot(PANDA, CAMERAS, FPS)
    kept = [one for one in whole.features if one.key.startswith(("observation", "action", "timing"))]
    return Features(whole.fps, whole.robot_type, tuple(kept))


def row(episode: int, frame: int) -> Row:
    """Frames that differ from each other in noise, columns that differ in every value."""
    generator = np.random.default_rng((episode, frame))
    images = {camera: generator.integers(0, 256, (*size, 3), dtype=np.uint8) for camera, size in CAMERAS.items()}
    values = {}
    for feature in features().columns:
        drawn = generator.normal(size=feature.shape)
        whole = feature.dtype == "int64"
        values[feature.key] = (np.zeros(feature.shape) if whole else drawn).astype(feature.numpy)
    return Row(frame * 50_000_000, images, values)


def record(root: Path, episodes: range, *, resume: bool = False) -> None:
    with DatasetWriter(root, features(), RecordingConfig(fps=FPS), resume=resume) as writer:
        for episode in episodes:
            writer.begin(TASKS[episode])
            for frame in range(LENGTHS[episode]):
                writer.add(row(episode, frame))
            writer.save(EpisodeDetails(task=TASKS[episode], success=True, notes=f"recorded as {episode}"))


def read(root: Path) -> list[Content]:
    """Every episode of a dataset of v3.0, by pyarrow and PyAV alone, as LeRobot finds them: rows by their index."""
    info = json.loads((root / "meta/info.json").read_text())
    fps = info["fps"]
    lines = [
        line
        for path in sorted((root / "meta/episodes").rglob("*.parquet"))
        for line in pq.ParquetFile(path).read().to_pylist()
    ]
    rows = [
        one for path in sorted((root / "data").rglob("*.parquet")) for one in pq.ParquetFile(path).read().to_pylist()
    ]
    assert [one["index"] for one in rows] == list(range(len(rows)))
    decoded: dict[str, list[np.ndarray]] = {}
    found = []
    for number, line in enumerate(sorted(lines, key=lambda one: one["episode_index"])):
        assert line["episode_index"] == number
        mine = rows[line["dataset_from_index"] : line["dataset_to_index"]]
        assert {one["episode_index"] for one in mine} == {number} and len(mine) == line["length"]
        frames = {}
        for key in (key for key, entry in info["features"].items() if entry["dtype"] == "video"):
            place = {name: line[f"videos/{key}/{name}"] for name in ("chunk_index", "file_index")}
            path = info["video_path"].format(video_key=key, **place)
            if path not in decoded:
                decoded[path] = _decode(root / path, fps)
            start = line[f"videos/{key}/from_timestamp"] * fps
            assert abs(start - round(start)) < 1e-9 * max(1.0, start)
            frames[key] = np.stack(decoded[path][round(start) : round(start) + line["length"]])
            assert len(frames[key]) == len(mine)
        columns = {key: [one[key] for one in mine] for key in mine[0]}
        found.append(Content(tuple(line["tasks"]), columns, frames))
    return found


def _decode(path: Path, fps: int) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        frames = list(container.decode(container.streams.video[0]))
    assert [frame.pts * frame.time_base * fps for frame in frames] == list(range(len(frames)))
    return [frame.to_ndarray(format="rgb24") for frame in frames]


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four episodes as the recorder writes them; to be copied, not changed."""
    root = tmp_path_factory.mktemp("recorded") / "dataset"
    record(root, range(len(LENGTHS)))
    return root


@pytest.fixture(scope="session")
def contents(recorded: Path) -> list[Content]:
    """What is in `recorded`."""
    return read(recorded)


@pytest.fixture
def dataset(recorded: Path, tmp_path: Path) -> Path:
    """A copy of `recorded`."""
    return Path(shutil.copytree(recorded, tmp_path / "dataset"))


@pytest.fixture(scope="session")
def tools() -> Any:
    """`read`, `record` and what they are about, for the tests beside."""
    return type(
        "Tools",
        (),
        {
            "read": staticmethod(read),
            "record": staticmethod(record),
            "row": staticmethod(row),
            "features": staticmethod(features),
            "LENGTHS": LENGTHS,
            "TASKS": TASKS,
            "FPS": FPS,
            "COUNTS": COUNTS,
            "IMAGES": IMAGES,
        },
    )
