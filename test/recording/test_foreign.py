"""Datasets as other programs write them: read as they are meant, or refused with the reason; never something else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import foreign
import numpy as np
import pyarrow as pa
import pytest
from foreign import FPS, FRONT, ROWS, grey
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from vla_ros.cli.app import app
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


def is_right(
    reader: DatasetReader, place: Callable[[int], tuple[int, int]] = lambda index: divmod(index, ROWS)
) -> bool:
    """Whether every row shows its own frame; `place`: row -> episode and frame."""
    return all(abs(shown(reader, index) - grey(*place(index))) < 3 for index in range(len(reader)))


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
    with pytest.raises(DatasetError, match=r"info\.json: fps is '?(29|12|0|-10|nan|inf|30).*whole number"):
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


KEPT = {
    "int32": ({"dtype": "int32", "shape": [1]}, lambda number, rows: np.arange(rows, dtype=np.int32)),
    "uint8": ({"dtype": "uint8", "shape": [3]}, lambda number, rows: np.full((rows, 3), 200, np.uint8)),
}  # fmt: skip
LEFT_OUT = {
    "text": UNUSED["text"],
    "language": UNUSED["language"],
    "matrix": (
        {"dtype": "float32", "shape": [4, 4]},
        lambda number, rows: np.tile(np.eye(4, dtype=np.float32), (rows, 1, 1)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("to", VERSIONS)
def test_what_cannot_be_a_column_is_left_out_and_named(tmp_path: Path, to: Any) -> None:
    source = foreign.write(tmp_path / "set", columns={**KEPT, **LEFT_OUT})
    converted = convert(source, tmp_path / "made", Conversion(to=to))
    assert converted.notices == tuple(
        f"left out: {name} ({said})"
        for name, said in (
            ("text", "string, shape 1"), ("language", "language, shape 1"), ("matrix", "float32, shape 4, 4")
        )
    )  # fmt: skip
    reader = DatasetReader(tmp_path / "made")
    columns = reader.columns(1, list(KEPT))
    assert columns["int32"].dtype == np.int32 and columns["int32"][:, 0].tolist() == list(range(ROWS))
    assert columns["uint8"].dtype == np.uint8 and columns["uint8"].tolist() == [[200] * 3] * ROWS
    assert is_right(reader) and check(tmp_path / "made") == []


def test_uneven_times_are_reported_where_they_are_made_even(tmp_path: Path) -> None:
    late_s = np.where(np.arange(ROWS) == 5, 0.02, 0.0)
    source = foreign.write(tmp_path / "set", times=lambda number, rows: np.arange(rows) / FPS + late_s)
    converted = convert(source, tmp_path / "made", Conversion())
    assert converted.notices == ("timestamp of 2 episodes was up to 20.0 ms off even steps of 1/10 s; it counts even "
                                 "steps now",)  # fmt: skip


def test_a_gap_that_only_timestamps_tell_of_ends_an_episode(tmp_path: Path) -> None:
    source = foreign.write(
        tmp_path / "set", numbers=[0], times=lambda number, rows: np.arange(rows) / FPS + 3.0 * (np.arange(rows) >= 7)
    )  # fmt: skip
    converted = convert(source, tmp_path / "made", Conversion())
    assert converted.parted == (0,)
    reader = DatasetReader(tmp_path / "made")
    assert [episode.length for episode in reader.meta.episodes] == [7, 5]
    assert is_right(reader, lambda index: (0, index))
    assert (converted.frames, converted.of_frames) == (ROWS, ROWS)


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


def test_pictures_in_files_are_read_if_they_are_in_the_folder(tmp_path: Path) -> None:
    names = ["images/0.png", str(tmp_path / "set/images/1.png"), "../2.png", "images/gone.png", *[None] * (ROWS - 4)]
    feature = {"dtype": "image", "shape": [*foreign.SIZE, 3], "names": None}
    column = (feature, lambda number, rows: stored([None] * rows, names))
    root = foreign.write(tmp_path / "set", columns={"observation.images.left": column}, numbers=[0])
    (root / "images").mkdir()
    for path, level in ((root / "images/0.png", 50), (root / "images/1.png", 80), (tmp_path / "2.png", 90)):
        path.write_bytes(cv2.imencode(".png", np.full((*foreign.SIZE, 3), level, np.uint8))[1].tobytes())
    reader = DatasetReader(root)
    assert [reader.row(k).images["left"].mean() for k in (0, 1)] == [50, 80]
    for row, said in ((2, "not a path inside"), (3, "gone.png cannot be read"), (4, "holds no image")):
        with pytest.raises(DatasetError, match=said):
            reader.row(row)


def test_deleted_episodes_of_v21_do_not_stop_the_others(tmp_path: Path) -> None:
    source = foreign.write(tmp_path / "set", version="v2.1", numbers=(0, 2, 5))
    right = [grey(number, 3) for number in (0, 2, 5)]
    assert [round(shown(DatasetReader(source), ROWS * place + 3)) for place in range(3)] == pytest.approx(right, abs=3)
    convert(source, tmp_path / "made", Conversion())
    made = DatasetReader(tmp_path / "made")
    assert [round(shown(made, ROWS * place + 3)) for place in range(3)] == pytest.approx(right, abs=3)
    assert check(tmp_path / "made") == []


def test_an_episode_without_a_camera_does_not_stop_the_others(tmp_path: Path) -> None:
    def without_video(line: dict[str, Any]) -> None:
        if line["episode_index"] == 0:
            line.update({key: None for key in line if key.startswith(f"videos/{FRONT}/")})

    reader = DatasetReader(foreign.write(tmp_path / "set", line=without_video))
    assert abs(shown(reader, ROWS + 3) - grey(1, 3)) < 3
    with pytest.raises(DatasetError, match=rf"episode 0 of .* has no video of {FRONT}"):
        reader.row(3)
    assert reader.window(3, {"action": [0]}).frame == 3


@pytest.mark.parametrize("name", ["depth", "broken"])
def test_a_camera_that_cannot_be_read_can_be_left_out(tmp_path: Path, name: str) -> None:
    """By `convert` and `show`, both of which name the option."""
    picture = cv2.imencode(".png", np.full(foreign.SIZE, 1030, np.uint16))[1].tobytes()
    feature = DEPTH_INFO if name == "depth" else {**DEPTH_INFO, "info": None}
    content = picture if name == "depth" else b"nothing"
    column = (feature, lambda number, rows: stored([content] * rows, [None] * rows))
    root = foreign.write(tmp_path / "set", columns={f"observation.images.{name}": column})
    for words in (
        ["convert", str(root), str(tmp_path / "made")],
        ["dataset", "show", str(root), "--out", str(tmp_path)],
    ):
        refused = CliRunner().invoke(app, words)
        assert refused.exit_code == 1 and name in refused.output
        made = CliRunner().invoke(app, [*words, "--without-camera", name])
        assert made.exit_code == 0, made.output
    assert is_right(DatasetReader(tmp_path / "made")) and DatasetReader(tmp_path / "made").cameras == ("front",)
    unknown = CliRunner().invoke(app, ["convert", str(root), str(tmp_path / "other"), "--without-camera", "x"])
    assert unknown.exit_code == 1 and "no camera x; there are: " in unknown.output


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("pattern", ["data/**/*000.parquet", "videos/**/*000.mp4"])
def test_a_damaged_episode_that_is_not_chosen_does_not_matter(tmp_path: Path, version: str, pattern: str) -> None:
    root = foreign.write(tmp_path / "set", version=version)
    for path in root.glob(pattern):
        path.write_bytes(b"torn")
    convert(root, tmp_path / "made", Conversion(episodes=(1,)))
    assert is_right(DatasetReader(tmp_path / "made"), lambda index: (1, index))
    out = str(tmp_path / "pictures")
    shown = CliRunner().invoke(app, ["dataset", "show", str(root), "--episode", "1", "--out", out])
    assert shown.exit_code == 0, shown.output
    with pytest.raises(DatasetError, match="000"):
        convert(root, tmp_path / "other", Conversion())
