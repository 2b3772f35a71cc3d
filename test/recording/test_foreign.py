"""Datasets as other programs write them: read as they are meant, or refused with the reason; never something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import foreign
import numpy as np
import pyarrow as pa
import pytest
from foreign import FRONT, ROWS, grey
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.recording.convert import Conversion, convert
from vla_ros.recording.features import Feature, from_info, whole_fps
from vla_ros.recording.files import DatasetError
from vla_ros.recording.reader import DatasetReader
from vla_ros.recording.upkeep.checking import check
from vla_ros.recording.upkeep.compacting import compact
from vla_ros.recording.upkeep.findings import Kind

VERSIONS = ("v3.0", "v2.1")
DEPTH_INFO = {"dtype": "image", "shape": [32, 48, 1], "names": None, "info": {"is_depth_map": True}}


def shown(reader: DatasetReader, index: int) -> float:
    return float(reader.row(index).images["front"].mean())


def is_right(reader: DatasetReader) -> bool:
    """Whether every row shows its own frame."""
    return all(abs(shown(reader, index) - grey(*divmod(index, ROWS))) < 3 for index in range(len(reader)))


def stored(pictures: list[bytes | None], paths: list[str | None]) -> pa.Array:
    cells = [{"bytes": data, "path": path} for data, path in zip(pictures, paths, strict=True)]
    return pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


# Rates ---------------------------------------------------------------------------------------------------------------


@given(
    st.one_of(
        st.floats(allow_nan=True, allow_infinity=True), st.integers(), st.booleans(), st.none(), st.text(max_size=5)
    )
)
def test_a_rate_is_a_whole_number_or_refused(fps: Any) -> None:
    info = {"fps": fps, "features": {}}
    is_good = not isinstance(fps, bool | str | None) and fps in range(1, 1001)
    if is_good:
        assert from_info(info).fps == fps
    else:
        with pytest.raises(ValueError, match="info.json: fps is .* should be a whole number"):
            from_info(info)
    assert whole_fps(30.0) == 30


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("fps", [29.97, 12.5, 0.5, 0, -10, float("nan"), float("inf"), "30"])
def test_a_rate_that_is_not_whole_is_refused_by_its_value(tmp_path: Path, fps: Any, version: str) -> None:
    foreign.write(tmp_path / "set", fps=fps, version=version, cameras=())
    with pytest.raises(DatasetError, match=r"info\.json: fps is (29|12|0|-10|nan|inf|30).*whole number"):
        DatasetReader(tmp_path / "set")
    assert any(one.kind is Kind.INFO and "fps is" in one.what for one in check(tmp_path / "set"))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("fps", "of_video", "frames"), [(10, 30, 36), (30, 10, 12), (10, 11, 12), (30, 30000 / 1001, 12)]
)
def test_a_video_of_another_rate_is_refused_by_all(
    tmp_path: Path, version: str, fps: int, of_video: float, frames: int
) -> None:
    root = foreign.write(
        tmp_path / "set", version=version, fps=fps,
        video=lambda path, number: foreign.encode(path, [grey(number, k) for k in range(frames)], of_video),
    )  # fmt: skip
    said = f"has {of_video:.4g} frames a second, and its dataset {fps} rows"
    with pytest.raises(DatasetError, match=said):
        DatasetReader(root).images(0, "front", [5])
    with pytest.raises(DatasetError, match=f"{said}|no multiple of 1/{fps} s"):
        convert(root, tmp_path / "made", Conversion())
    assert not (tmp_path / "made").exists()
    assert any(one.kind is Kind.VIDEO_TIME for one in check(root))


def test_a_rate_that_the_timestamps_contradict_is_refused(tmp_path: Path) -> None:
    root = foreign.write(tmp_path / "set", fps=30, cameras=(), times=lambda number, rows: np.arange(rows) / 10)
    with pytest.raises(DatasetError, match=r"episode 0 are 0.1 s apart, and fps in meta/info.json \(30\)"):
        DatasetReader(root).row(0)
    with pytest.raises(DatasetError, match=r"0.1 s apart"):
        convert(root, tmp_path / "made", Conversion())


@pytest.mark.parametrize("version", VERSIONS)
def test_frames_are_stored_in_another_order_than_shown(tmp_path: Path, version: str) -> None:
    """B-frames, as libx264 makes them unless it is told otherwise."""
    root = foreign.write(
        tmp_path / "set", version=version,
        video=lambda path, number: foreign.encode(path, [grey(number, k) for k in range(ROWS)], options={"bf": "3"}),
    )  # fmt: skip
    assert is_right(DatasetReader(root))
    assert {one.kind for one in check(root, decode=True)} <= {Kind.STATISTICS, Kind.MISSING}  # which it has none of
    convert(root, tmp_path / "made", Conversion())
    assert is_right(DatasetReader(tmp_path / "made"))
    assert check(tmp_path / "made", decode=True) == []
    compact(tmp_path / "made", tmp_path / "merged")
    assert is_right(DatasetReader(tmp_path / "merged"))
    assert check(tmp_path / "merged", decode=True) == []


# What columns are ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "meant"),
    [
        (["a", "b", "c"], ("a", "b", "c")),
        ({"motors": ["a", "b", "c"]}, ("a", "b", "c")),
        ({"left": ["a", "b"], "gripper": "c"}, ("a", "b", "c")),
        ({"b": 1, "a": 0, "c": 2}, ("a", "b", "c")),
        ({"a": 1, "b": 2, "c": 3}, None),
        (["joint"], ("joint_0", "joint_1", "joint_2")),
        ("joint", ("joint_0", "joint_1", "joint_2")),
        ({"motors": ["joint"]}, ("joint_0", "joint_1", "joint_2")),
        (["a", "b"], None),
        (["a", "b", "c", "d"], None),
        ([], None),
        (None, None),
    ],
)
def test_names_are_one_for_every_value_or_none(names: Any, meant: tuple[str, ...] | None) -> None:
    info = {"fps": 30, "features": {"action": {"dtype": "float32", "shape": [3], "names": names}}}
    assert from_info(info).features == (Feature("action", "float32", (3,), meant),)


LANGUAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
UNUSED: dict[str, tuple[dict[str, Any], Any]] = {
    "text": ({"dtype": "string", "shape": [1]}, lambda number, rows: pa.array(["pick"] * rows)),
    "language": (
        {"dtype": "language", "shape": [1]}, lambda number, rows: pa.array([[]] * rows, pa.list_(LANGUAGE)),
    ),
    "lists of unequal length": (
        {"dtype": "float32", "shape": [2]},
        lambda number, rows: pa.array([[0.0] * (k % 3) for k in range(rows)], pa.list_(pa.float32())),
    ),
    "nulls": ({"dtype": "float32", "shape": [1]}, lambda number, rows: pa.array([None] * rows, pa.float32())),
    "what nobody knows": ({"dtype": "audio", "shape": [1]}, lambda number, rows: pa.array(["x"] * rows)),
}  # fmt: skip


@pytest.mark.parametrize("name", UNUSED)
def test_a_column_that_is_not_asked_for_does_not_matter(tmp_path: Path, name: str) -> None:
    reader = DatasetReader(foreign.write(tmp_path / "set", columns={"extra": UNUSED[name]}))
    window = reader.window(3, {"observation.state": [0], "front": [0]})
    np.testing.assert_allclose(window.values["observation.state"][0], [0.06, 0.07], rtol=1e-6)
    assert abs(window.images["front"].mean() - grey(0, 3)) < 3
    with pytest.raises(DatasetError, match="extra"):
        reader.columns(0, ["extra"])


def test_tasks_are_found_among_other_columns(tmp_path: Path) -> None:
    table = pa.table({"task_index": [0], "note": ["x"], "task": ["pick"], "count": [3]})
    root = foreign.write(tmp_path / "set", tasks=table, line=lambda line: line.update(tasks="pick"))
    reader = DatasetReader(root)
    assert reader.row(0).task == "pick" and reader.meta.episodes[0].tasks == ("pick",)
    assert not [one for one in check(root) if one.kind is Kind.TASK]


def test_a_task_that_is_no_list_is_one_task(tmp_path: Path) -> None:
    root = foreign.write(tmp_path / "set", version="v2.1", line=lambda line: line.update(tasks="pick"))
    assert DatasetReader(root).meta.episodes[1].tasks == ("pick",)
    assert not [one for one in check(root) if one.kind is Kind.TASK]


# Cameras -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("is_marked", [True, False])
def test_depth_in_a_table_is_refused_by_name(tmp_path: Path, suffix: str, is_marked: bool) -> None:
    picture = cv2.imencode(suffix, np.full(foreign.SIZE, 1030, np.uint16))[1].tobytes()
    feature = DEPTH_INFO if is_marked else {**DEPTH_INFO, "info": None}
    depth = (feature, lambda number, rows: stored([picture] * rows, [None] * rows))
    root = foreign.write(tmp_path / "set", columns={"observation.images.depth": depth})
    with pytest.raises(DatasetError, match=r"observation\.images\.depth.* holds depth"):
        DatasetReader(root).row(0)
    assert is_right(DatasetReader(root, cameras=["front"]))


def test_a_grey_picture_of_8_bits_is_an_image(tmp_path: Path) -> None:
    picture = cv2.imencode(".png", np.full(foreign.SIZE, 77, np.uint8))[1].tobytes()
    feature = {"dtype": "image", "shape": [32, 48, 1], "names": None}
    column = (feature, lambda number, rows: stored([picture] * rows, [None] * rows))
    root = foreign.write(tmp_path / "set", columns={"observation.images.grey": column})
    assert DatasetReader(root).row(0).images["grey"].tolist() == np.full((32, 48, 3), 77).tolist()


def test_an_episode_without_a_camera_does_not_stop_the_others(tmp_path: Path) -> None:
    def without_video(line: dict[str, Any]) -> None:
        if line["episode_index"] == 0:
            line.update({key: None for key in line if key.startswith(f"videos/{FRONT}/")})

    reader = DatasetReader(foreign.write(tmp_path / "set", line=without_video))
    assert abs(shown(reader, ROWS + 3) - grey(1, 3)) < 3
    with pytest.raises(DatasetError, match=rf"episode 0 of .* has no video of {FRONT}"):
        reader.row(3)
    assert reader.window(3, {"action": [0]}).frame == 3
