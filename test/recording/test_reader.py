"""DatasetReader against plain pyarrow and PyAV, on datasets that LeRobot wrote, and against a plain list."""

from __future__ import annotations

import io
import json
import multiprocessing
import pickle
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from vla_ros.recording.columns import Column, read_columns
from vla_ros.recording.files import DatasetError
from vla_ros.recording.reader import DatasetReader

REFERENCE = Path(__file__).parents[1] / "reference"
BY_LEROBOT = ("lerobot-0.4.4", "lerobot-0.6.1")
LENGTH, JOINTS = 40, 8  # of each of the two episodes, see test/reference/README.md


@pytest.fixture(scope="module", params=BY_LEROBOT)
def root(request: pytest.FixtureRequest) -> Path:
    return REFERENCE / str(request.param)


@pytest.fixture(scope="module")
def reader(root: Path) -> DatasetReader:
    return DatasetReader(root, cameras=["wrist"])


def table(root: Path) -> list[dict[str, Any]]:
    return parquet.read_table(root / "data/chunk-000/file-000.parquet").to_pylist()


def frames(root: Path) -> np.ndarray:
    with av.open(str(root / "videos/observation.images.wrist/chunk-000/file-000.mp4")) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


def test_rows_are_those_of_the_file(root: Path, reader: DatasetReader) -> None:
    expected, images = table(root), frames(root)
    assert len(reader) == len(expected) == len(images) == 2 * LENGTH
    for index in [*range(0, len(reader), 7), len(reader) - 1]:
        row = reader.row(index)
        assert row.task == f"pick {row.episode}" and (row.episode, row.frame) == divmod(index, LENGTH)
        assert set(row.values) == set(expected[index])
        for key, value in expected[index].items():
            np.testing.assert_array_equal(row.values[key], np.atleast_1d(value))
        np.testing.assert_array_equal(row.images["wrist"], images[index])


def test_what_was_put_in_comes_out(reader: DatasetReader) -> None:
    columns = reader.columns(1)
    rows, joints = np.arange(LENGTH)[:, None], np.arange(JOINTS)
    np.testing.assert_array_equal(columns["observation.state"], (rows + joints).astype(np.float32))
    np.testing.assert_array_equal(columns["action"], (joints - rows).astype(np.float32))
    np.testing.assert_array_equal(columns["observation.extra.stamp"], 1.5 + rows)
    assert columns["observation.state"].dtype == np.float32 and columns["task_index"].dtype == np.int64
    with pytest.raises(ValueError, match="read-only"):
        columns["action"][0, 0] = 1.0
    levels = reader.images(1, "wrist", range(LENGTH)).mean((1, 2, 3))
    np.testing.assert_allclose(levels, 5 * np.arange(LENGTH), atol=6)  # AV1 has lost some


@given(data=st.data())
def test_windows_are_clamped_within_their_episode(reader: DatasetReader, data: st.DataObject) -> None:
    index = data.draw(st.integers(-2 * LENGTH, 2 * LENGTH - 1))
    steps = data.draw(st.lists(st.integers(-50, 50), min_size=1, max_size=8))
    window = reader.window(index, {"observation.state": steps, "index": steps[:1]})
    episode, frame = divmod(index % (2 * LENGTH), LENGTH)
    rows = list(range(LENGTH))
    wanted = [rows[min(max(frame + step, 0), LENGTH - 1)] for step in steps]
    assert window.values["observation.state"][:, 0].tolist() == wanted
    assert window.values["index"].tolist() == [[episode * LENGTH + wanted[0]]]
    assert window.is_padded["observation.state"].tolist() == [frame + step not in rows for step in steps]
    assert (window.episode, window.frame, window.task) == (episode, frame, f"pick {episode}")


@given(frame=st.integers(0, LENGTH - 1), steps=st.lists(st.integers(-60, 60), min_size=1, max_size=5))
def test_windows_of_a_camera_are_those_of_the_columns(reader: DatasetReader, frame: int, steps: list[int]) -> None:
    window = reader.window(LENGTH + frame, {"observation.images.wrist": steps, "frame_index": steps})
    expected = EXPECTED[reader.meta.root][LENGTH + window.values["frame_index"][:, 0]]
    np.testing.assert_array_equal(window.images["wrist"], expected)
    np.testing.assert_array_equal(window.is_padded["wrist"], window.is_padded["frame_index"])


EXPECTED = {REFERENCE / name: frames(REFERENCE / name) for name in BY_LEROBOT}


def test_statistics_are_those_of_the_metadata(root: Path, reader: DatasetReader) -> None:
    for episode, line in enumerate(parquet.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()):
        for key, entry in reader.stats(episode).items():
            for name, value in entry.items():
                np.testing.assert_array_equal(value, line[f"stats/{key}/{name}"])
        assert {"action", "observation.images.wrist", "timestamp"} <= set(reader.stats(episode))


def test_a_key_that_is_not_there_is_named_with_those_that_are(root: Path, reader: DatasetReader) -> None:
    with pytest.raises(DatasetError, match="no 'state'.*observation.state, action.*cameras wrist"):
        reader.window(0, {"state": [0]})
    with pytest.raises(DatasetError, match="no camera left; there are: front, wrist"):
        DatasetReader(root, cameras=["wrist", "left"])
    with pytest.raises(DatasetError, match=r"offsets of action are a list .* given \[\]"):
        reader.window(0, {"action": []})
    with pytest.raises(DatasetError, match="no episode 2; it has 2"):
        reader.columns(2)
    with pytest.raises(IndexError, match="row 80"):
        reader.row(80)
    with pytest.raises(DatasetError, match="no meta/info.json"):
        DatasetReader(root / "meta")


def level(reader: DatasetReader, index: int) -> int:
    return int(reader.row(index).images["wrist"].mean())


def test_readers_travel_to_other_processes_and_threads(reader: DatasetReader) -> None:
    indices = [int(index) for index in np.random.default_rng(1).integers(0, 2 * LENGTH, 24)]
    expected = [level(reader, index) for index in indices]  # files are open now
    assert [level(pickle.loads(pickle.dumps(reader)), index) for index in indices[:3]] == expected[:3]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(level, [reader] * len(indices), indices)) == expected
    context = multiprocessing.get_context("fork")  # as torch's loaders start their workers
    queues = [context.Queue() for _ in range(2)]
    workers = [context.Process(target=lambda q=queue: q.put([level(reader, i) for i in indices])) for queue in queues]
    for worker in workers:
        worker.start()
    assert [level(reader, index) for index in indices] == expected  # at the same time
    assert [queue.get(timeout=20) for queue in queues] == [expected, expected]
    for worker in workers:
        worker.join(20)


def test_threads_read_columns_in_turn(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = DatasetReader(recorded, cameras=[])
    begun: list[Path] = []

    def read(path: Path, keys: Iterable[str]) -> Mapping[str, Column]:
        begun.append(path)
        if len(begun) == 1:
            other.start()
            other.join(0.2)
            assert len(begun) == 1
        return read_columns(path, keys)

    other = Thread(target=reader.columns, args=(1,))
    monkeypatch.setattr("vla_ros.recording.reader.read_columns", read)
    reader.columns(0)
    other.join()
    assert len(begun) == 2


def test_no_more_columns_are_kept_than_allowed(recorded: Path) -> None:
    whole, bounded = DatasetReader(recorded, cameras=[]), DatasetReader(recorded, cameras=[], column_bytes=4000)
    for index in np.random.default_rng(2).integers(0, len(whole), 40).tolist():
        expected, found = whole.row(index), bounded.row(index)
        assert all(np.array_equal(found.values[key], expected.values[key]) for key in whole.keys)
        kept = [sum(column.nbytes for column in columns.values()) for columns in bounded._files.values()]
        assert bounded._kept_bytes == sum(kept)
        assert len(kept) == 1 or sum(kept) <= 4000
    assert len(whole._files) == len(whole.meta.episodes)


def test_no_more_videos_are_open_than_allowed(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened() -> int:
        return sum(path.resolve().is_relative_to(recorded) for path in Path("/proc/self/fd").iterdir() if path.exists())

    shorts = DatasetReader(recorded)
    before = [shorts.row(index).images["wrist"] for index in range(len(shorts))]
    assert opened() == 1  # the one that is being decoded
    shorts.close()
    assert opened() == 0
    monkeypatch.setattr("vla_ros.recording.video_reader._LARGEST_SHORT_BYTES", 0)
    reader = DatasetReader(recorded, open_videos=3)
    for index in range(len(reader)):
        np.testing.assert_array_equal(reader.row(index).images["wrist"], before[index])
    assert opened() == 3
    reader.close()
    assert opened() == 0
    for index in (25, 0, 13):
        np.testing.assert_array_equal(reader.row(index).images["wrist"], before[index])


def test_rows_that_do_not_fit_the_metadata_are_refused(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "set")
    path = tmp_path / "set/data/chunk-000/file-000.parquet"
    rows = parquet.read_table(path)
    parquet.write_table(rows.slice(0, 70), path)
    reader = DatasetReader(tmp_path / "set", cameras=[])
    assert reader.row(39).frame == 39
    with pytest.raises(DatasetError, match="episode 1 should be 40 rows in order; there are 30"):
        reader.row(40)


def write_v21(root: Path, images: list[bytes] | None = None) -> None:
    """A dataset of v2.1 by hand: two episodes of 3 rows, columns as other programs write them."""
    features = {
        "state": {"dtype": "float32", "shape": [2], "names": {"motors": ["a", "b"]}},
        "pose": {"dtype": "float64", "shape": [2, 2], "names": None},
        "done": {"dtype": "bool", "shape": [1], "names": None},
        **({"image": {"dtype": "image", "shape": [4, 6, 3], "names": ["h", "w", "c"]}} if images else {}),
    }
    info = {
        "codebase_version": "v2.1", "fps": 10, "features": features, "chunks_size": 1000, "video_path": None,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    }  # fmt: skip
    (root / "meta").mkdir(parents=True)
    (root / "data/chunk-000").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    (root / "meta/tasks.jsonl").write_text('{"task_index": 0, "task": "a\u2028b"}\n{"task_index": 1, "task": "c"}\n')
    lines = [{"episode_index": number, "tasks": ["a\u2028b", "c"], "length": 3} for number in range(2)]
    (root / "meta/episodes.jsonl").write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines))
    for episode in range(2):
        numbers = [3 * episode + row for row in range(3)]
        columns = {
            "state": pa.array([[number, -number] for number in numbers], pa.list_(pa.float32())),
            "pose": pa.array([[[number, 1], [2, 3]] for number in numbers], pa.list_(pa.list_(pa.float64()))),
            "done": pa.array([[row == 2] for row in range(3)]),
            "timestamp": pa.array([row / 10 for row in range(3)], pa.float32()),
            "frame_index": pa.array(range(3)), "episode_index": pa.array([episode] * 3), "index": pa.array(numbers),
            "task_index": pa.array([0, 0, 1]),
        }  # fmt: skip
        if images:
            columns["image"] = pa.array([{"bytes": images[number], "path": "x.png"} for number in numbers])
        path = root / f"data/chunk-000/episode_{episode:06d}.parquet"
        parquet.write_table(pa.table(columns), path, row_group_size=2)


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="image2pipe") as output:
        stream = output.add_stream("png", rate=1)
        stream.height, stream.width, stream.pix_fmt = image.shape[0], image.shape[1], "rgb24"
        for frame in (av.VideoFrame.from_ndarray(image, format="rgb24"), None):
            output.mux(stream.encode(frame))
    return file.getvalue()


def test_v21_of_other_programs_is_read(tmp_path: Path) -> None:
    write_v21(tmp_path)
    reader = DatasetReader(tmp_path)
    assert (len(reader), reader.cameras) == (6, ())
    row = reader.row(4)
    assert (row.episode, row.frame, row.task, reader.row(5).task) == (1, 1, "a\u2028b", "c")
    assert row.values["state"].tolist() == [4, -4] and row.values["pose"].tolist() == [[4, 1], [2, 3]]
    assert reader.columns(0, ["done"])["done"].tolist() == [[False], [False], [True]]


def test_text_is_left_alone(tmp_path: Path) -> None:
    write_v21(tmp_path)
    info = json.loads((tmp_path / "meta/info.json").read_text())
    info["features"]["remark"] = {"dtype": "string", "shape": [1], "names": None}
    (tmp_path / "meta/info.json").write_text(json.dumps(info))
    path = tmp_path / "data/chunk-000/episode_000000.parquet"
    parquet.write_table(parquet.read_table(path).append_column("remark", pa.array(["a", "b", "c"])), path)
    assert DatasetReader(tmp_path).row(1).values["state"].tolist() == [1, -1]
    with pytest.raises(DatasetError, match="no 'remark'; there are columns state, pose, done"):
        DatasetReader(tmp_path).window(0, {"remark": [0]})


def test_images_in_tables_are_read(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 6, 3)).astype(np.uint8)
    write_v21(tmp_path, [png(image) for image in images])
    reader = DatasetReader(tmp_path)
    np.testing.assert_array_equal(reader.window(4, {"image": [-9, 0, 1]}).images["image"], images[[3, 4, 5]])
    np.testing.assert_array_equal(reader.row(0).images["image"], images[0])


def test_no_image_in_a_table_is_said(tmp_path: Path) -> None:
    write_v21(tmp_path, [b"none"] * 6)
    with pytest.raises(DatasetError, match="row 1 of image is not a decodable image"):
        DatasetReader(tmp_path).row(1)


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("meta/info.json", '{"codebase_version": "v1.6"}', r"version v1.6; what can be read is v3.0 and v2.1"),
        ("meta/info.json", "[", "info.json is no JSON"),
        ("meta/info.json", '{"codebase_version": "v2.1", "fps": 3}', "info.json has no features, data_path"),
        ("meta/episodes.jsonl", 2 * '{"episode_index": 1, "tasks": [], "length": 3}\n', "has episode 1 after 1"),
        ("meta/episodes.jsonl", '\n{"episode_index": 0}', "line 2: length is None; it should be a whole number"),
        ("meta/tasks.jsonl", "{", "tasks.jsonl, line 1: it is not valid JSON"),
        ("meta/tasks.jsonl", "", "meta/tasks has no task 0"),
        ("data/chunk-000/episode_000000.parquet", "PAR1", "episode_000000.parquet cannot be read"),
    ],
)
def test_what_is_wrong_with_a_dataset_is_said(tmp_path: Path, file: str, text: str, said: str) -> None:
    write_v21(tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(DatasetError, match=said):
        DatasetReader(tmp_path).row(0)


def test_columns_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    write_v21(tmp_path)
    path = tmp_path / "data/chunk-000/episode_000000.parquet"
    good = parquet.read_table(path)
    for column, said in (
        (pa.array([[1.0], [1.0, 2.0], [3.0]]), "state has rows of unequal length: 1, 2"),
        (pa.array(["a", "b", "c"]), "state is not a column of numbers, but of string"),
        (pa.array([1.0, None, 2.0]), "state has 1 rows without a value"),
    ):
        parquet.write_table(good.set_column(0, "state", column), path)
        with pytest.raises(DatasetError, match=said):
            DatasetReader(tmp_path).row(0)
    parquet.write_table(good.drop_columns(["state"]), path)
    with pytest.raises(DatasetError, match="no column state; there are: pose, done, timestamp"):
        DatasetReader(tmp_path).row(0)
