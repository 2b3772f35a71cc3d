"""Datasets made from datasets: whole, nothing is lost; in part, rows, frames and times belong together."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import bags
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from vla_ros.cli.app import app
from vla_ros.recording.config import RecordingConfig, VideoConfig
from vla_ros.recording.convert import Conversion, Converted, Unmakeable, convert
from vla_ros.recording.dataset import DatasetMeta
from vla_ros.recording.features import (
    ACTION,
    INTERVENTIONS,
    SOURCE_FRAME,
    STAMP,
    STATE,
    Feature,
    Features,
    Row,
    of_robot,
)
from vla_ros.recording.files import DatasetError
from vla_ros.recording.lerobot_v3 import DatasetWriter, EpisodeDetails
from vla_ros.recording.lerobot_v21 import V21Writer
from vla_ros.recording.reader import DatasetReader
from vla_ros.recording.selection import Motion
from vla_ros.recording.storing.catalogue import Finished
from vla_ros.recording.upkeep.compacting import compact
from vla_ros.robots.panda import PANDA

REFERENCE = Path(__file__).parents[1] / "reference"
FPS, ROWS = 10, 40
FEATURES = of_robot(PANDA, {"front": (32, 48)}, FPS)
#: When the arm begins to follow, and is there: the action leads by two rows.
START, END, LAG = 10, 20, 2


def moving(row: int) -> Row:
    """A joint goes from 0 to 1 rad; the camera's grey tells the row."""
    wanted, there = (np.clip((row - lag - START) / (END - START), 0, 1) for lag in (0, LAG))
    values = {feature.key: np.zeros(feature.shape) for feature in FEATURES.columns}
    values[ACTION] = values[ACTION] + wanted * np.eye(8)[0]
    values[STATE] = values[STATE] + there * np.eye(8)[0]
    values[STAMP], values[INTERVENTIONS] = np.array([row / FPS - 0.01]), np.array([row // 4])
    return Row(row, {"front": np.full((32, 48, 3), 20 + 5 * row, np.uint8)}, values)


@pytest.fixture(scope="session")
def motions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four episodes: a motion (a success), none (a success), a motion (a failure), one without its ends (unmarked)."""
    root = tmp_path_factory.mktemp("motions") / "set"
    episodes = (range(ROWS), [0] * 8, range(ROWS), range(START, END + LAG))
    with DatasetWriter(root, FEATURES, RecordingConfig(fps=FPS, video=VideoConfig(gop=3))) as writer:
        for rows, success in zip(episodes, (True, True, False, None), strict=True):
            writer.begin("move")
            for row in rows:
                writer.add(moving(row))
            writer.save(EpisodeDetails("move", success, notes=f"{len(rows)} rows"))
    return root


def made(source: Path, tmp_path: Path, **options: Any) -> tuple[Converted, DatasetReader]:
    converted = convert(source, tmp_path / "made", Conversion(**options))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    return converted, DatasetReader(tmp_path / "made")


def rows_seen(reader: DatasetReader, episode: int) -> list[int]:
    """Which rows of `moving` the frames of an episode show."""
    length = reader.meta.episodes[episode].length
    levels = reader.images(episode, "front", range(length)).mean((1, 2, 3))
    return [round((level - 20) / 5) for level in levels]


# Whole ---------------------------------------------------------------------------------------------------------------


def statistics(root: Path) -> list[dict[str, Any]]:
    paths = sorted((root / "meta/episodes").rglob("*.parquet"))
    return [row for path in paths for row in parquet.read_table(path).to_pylist()]


def test_there_and_back_again_nothing_has_changed(recorded: Path, tools: Any, tmp_path: Path) -> None:
    there, back = tmp_path / "v21", tmp_path / "v30"
    assert convert(recorded, there, Conversion(to="v2.1")) == Converted(4, 26, 26, 0, ())
    assert convert(there, back, Conversion()) == Converted(4, 26, 26, 0, ())
    assert all(one.is_same(other) for one, other in zip(tools.read(recorded), tools.read(back), strict=True))
    assert statistics(back) == statistics(recorded)
    for path in (
        "meta/info.json",
        "meta/stats.json",
        "meta/vla_ros/system.json",
        "meta/vla_ros/episodes/episode-000002.json",
    ):
        assert json.loads((back / path).read_text()) == json.loads((recorded / path).read_text()), path
    schemas = [parquet.read_schema(root / "data/chunk-000/file-001.parquet") for root in (recorded, back)]
    assert schemas[0].equals(schemas[1], check_metadata=True)


def test_what_was_merged_into_few_files_comes_apart_again(recorded: Path, tools: Any, tmp_path: Path) -> None:
    compact(recorded, tmp_path / "merged")
    videos = sorted((tmp_path / "merged").rglob("*.mp4"))
    assert len(videos) == 2  # one of each camera
    converted, reader = made(tmp_path / "merged", tmp_path)
    assert converted == Converted(4, 26, 26, 0, ())
    assert all(
        one.is_same(other) for one, other in zip(tools.read(recorded), tools.read(reader.meta.root), strict=True)
    )


def test_v21_holds_what_v30_held(recorded: Path, contents: list[Any], tmp_path: Path) -> None:
    _, reader = made(recorded, tmp_path, to="v2.1", gr00t=True)
    for episode, content in enumerate(contents):
        path = tmp_path / f"made/data/chunk-000/episode_{episode:06d}.parquet"
        rows = parquet.read_table(path).to_pylist()
        assert {key: [row[key] for row in rows] for key in rows[0]} == content.columns
        for key, frames in content.frames.items():
            copy = tmp_path / f"made/videos/chunk-000/{key}/episode_{episode:06d}.mp4"
            assert copy.read_bytes() == (recorded / f"videos/{key}/chunk-000/file-{episode:03d}.mp4").read_bytes()
            np.testing.assert_array_equal(reader.images(episode, key, range(len(frames))), frames)
    assert json.loads((tmp_path / "made/meta/modality.json").read_text())["state"]["gripper"] == {"start": 7, "end": 8}


@pytest.fixture(params=["lerobot-0.4.4", "lerobot-0.6.1"])
def by_lerobot(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A dataset that LeRobot wrote, both episodes in one file, without the camera whose video is not here."""
    root = Path(shutil.copytree(REFERENCE / request.param, tmp_path / "lerobot"))
    info = json.loads((root / "meta/info.json").read_text())
    del info["features"]["observation.images.front"]
    (root / "meta/info.json").write_text(json.dumps(info))
    return root


def test_v20_has_no_statistics_of_episodes(by_lerobot: Path, tmp_path: Path) -> None:
    convert(by_lerobot, tmp_path / "v20", Conversion(to="v2.1"))
    (tmp_path / "v20/meta/episodes_stats.jsonl").unlink()
    info = (tmp_path / "v20/meta/info.json").read_text().replace('"v2.1"', '"v2.0"')
    (tmp_path / "v20/meta/info.json").write_text(info)
    assert DatasetReader(tmp_path / "v20").meta.episode_stats(DatasetReader(tmp_path / "v20").meta.episodes[0]) == {}
    converted, reader = made(tmp_path / "v20", tmp_path)
    stats = reader.meta.episode_stats(reader.meta.episodes[1])
    assert converted.recoded == 0 and stats["action"]["max"].tolist() == list(range(8))
    np.testing.assert_allclose(stats["observation.images.wrist"]["std"], np.std(5 * np.arange(40)) / 255, atol=0.02)


def test_depth_is_not_taken_for_images(motions: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(motions, tmp_path / "source"))
    info = json.loads((source / "meta/info.json").read_text())
    info["features"]["observation.images.front"]["info"]["is_depth_map"] = True
    (source / "meta/info.json").write_text(json.dumps(info))
    with pytest.raises(DatasetError, match="holds depth, not colour images"):
        convert(source, tmp_path / "made", Conversion())
    assert DatasetReader(source, cameras=[]).row(0).images == {}


def test_a_gap_that_timestamps_tell_of_ends_an_episode(by_lerobot: Path, tmp_path: Path) -> None:
    """Timestamps are written as k/fps, so nothing else would tell of it any more."""
    path = by_lerobot / "data/chunk-000/file-000.parquet"
    table = parquet.read_table(path)
    field = table.schema.field("timestamp")
    times = np.array(table["timestamp"]) + 2.0 * (np.arange(80) % 40 >= 25) * (np.arange(80) < 40)
    column = pa.array(times, field.type)
    parquet.write_table(table.set_column(table.schema.get_field_index("timestamp"), field, column), path)
    converted, reader = made(by_lerobot, tmp_path, to="v3.0")
    assert (converted.episodes, converted.frames, converted.of_frames, converted.parted) == (3, 80, 80, (0,))
    assert [episode.length for episode in reader.meta.episodes] == [25, 15, 40]
    there = np.asarray(table["action"].to_pylist())
    for episode, rows in enumerate((slice(25), slice(25, 40), slice(40, 80))):
        np.testing.assert_array_equal(reader.columns(episode)["action"], there[rows])
        assert len(reader.segments(episode)) == 1


def packets(path: Path) -> list[tuple[float, bytes]]:
    with av.open(str(path)) as file:
        return [(float(packet.pts * packet.time_base), bytes(packet)) for packet in file.demux(video=0) if packet.size]


@pytest.mark.parametrize("to", ["v2.1", "v3.0"])
def test_an_episode_is_cut_out_of_a_shared_video(by_lerobot: Path, tmp_path: Path, to: str) -> None:
    converted, reader = made(by_lerobot, tmp_path, to=to)
    assert converted == Converted(2, 80, 80, 0, ())
    rows = parquet.read_table(by_lerobot / "data/chunk-000/file-000.parquet").to_pylist()
    key = "observation.images.wrist"
    shared = packets(by_lerobot / f"videos/{key}/chunk-000/file-000.mp4")
    for episode in range(2):
        mine = packets(reader.meta.video_path(reader.meta.episodes[episode], key))
        assert [data for _, data in mine] == [data for _, data in shared[40 * episode : 40 * episode + 40]]
        np.testing.assert_allclose([time_s for time_s, _ in mine], np.arange(40) / 30, atol=1e-9)
        for column, values in reader.columns(episode).items():
            expected = [row[column] for row in rows[40 * episode : 40 * episode + 40]]
            assert (values if isinstance(expected[0], list) else values[:, 0]).tolist() == expected
        stats = reader.meta.episode_stats(reader.meta.episodes[episode])[key]
        np.testing.assert_allclose(stats["mean"], 97.5 / 255, atol=0.02)
        np.testing.assert_allclose(stats["std"], np.std(5 * np.arange(40)) / 255, atol=0.02)  # 0 by LeRobot 0.4.4
    assert [reader.row(index).task for index in (0, 79)] == ["pick 0", "pick 1"]


def test_lerobots_own_statistics_are_kept(by_lerobot: Path, tmp_path: Path) -> None:
    _, reader = made(by_lerobot, tmp_path)
    for ours, theirs in zip(statistics(reader.meta.root), statistics(by_lerobot), strict=True):
        for key, value in theirs.items():
            if key.startswith("stats/") and "front" not in key and key.endswith(("/min", "/max", "/mean")):
                loss = 1 / 255 if "wrist" in key else 1e-9  # of 0.4.4, they are made of the compressed images
                np.testing.assert_allclose(ours[key], value, rtol=1e-6, atol=1.1 * loss, err_msg=key)


def share_one_video(root: Path) -> None:
    """Make two episodes, of 8 and of the other rows, of the only one in a dataset of v3.0; the video stays one file."""
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    table, key, rows = parquet.read_table(path), "videos/observation.images.front", ROWS
    lines = [dict(table.to_pylist()[0]) for _ in range(2)]
    for number, (first, last) in enumerate(((0, 8), (8, rows))):
        lines[number] |= {
            "episode_index": number, "length": last - first, "dataset_from_index": first, "dataset_to_index": last,
            f"{key}/from_timestamp": first / FPS, f"{key}/to_timestamp": last / FPS,
        }  # fmt: skip
    parquet.write_table(pa.Table.from_pylist(lines, schema=table.schema), path)
    path = root / "data/chunk-000/file-000.parquet"
    columns = parquet.read_table(path).to_pylist()
    for number, row in enumerate(columns):
        row |= {"episode_index": int(number >= 8), "frame_index": number if number < 8 else number - 8}
    parquet.write_table(pa.Table.from_pylist(columns, schema=parquet.read_schema(path)), path)


@pytest.mark.parametrize(("gop", "recoded"), [(4, 0), (3, 1)])
def test_between_key_frames_nothing_can_be_cut(tmp_path: Path, gop: int, recoded: int) -> None:
    source = tmp_path / "source"
    with DatasetWriter(source, FEATURES, RecordingConfig(fps=FPS, video=VideoConfig(gop=gop))) as writer:
        writer.begin("move")
        for row in range(ROWS):
            writer.add(moving(row))
        writer.save(EpisodeDetails("move"))
    share_one_video(source)
    assert rows_seen(DatasetReader(source), 0) + rows_seen(DatasetReader(source), 1) == list(range(ROWS))
    converted, reader = made(source, tmp_path, to="v2.1")
    assert converted == Converted(2, ROWS, ROWS, recoded, ())
    assert rows_seen(reader, 0) + rows_seen(reader, 1) == list(range(ROWS))


def write_reordered(path: Path) -> None:
    """A video of `moving`'s rows as other programs make them: frames refer to later ones, key frames are far apart."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=FPS, options={"bf": "2", "crf": "10"})
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = 32, 48, "yuv420p", 8
        for row in range(ROWS):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(moving(row).images["front"], format="rgb24")))
        output.mux(stream.encode(None))


@pytest.mark.parametrize("is_shared", [False, True])
def test_frames_in_another_order_than_shown(motions: Path, tmp_path: Path, is_shared: bool) -> None:
    convert(motions, tmp_path / "source", Conversion(episodes=(0,)))
    video = tmp_path / "source/videos/observation.images.front/chunk-000/file-000.mp4"
    write_reordered(video)
    with av.open(str(video)) as file:
        assert any(packet.pts != packet.dts for packet in file.demux(video=0) if packet.size)
    if is_shared:
        share_one_video(tmp_path / "source")
    converted, reader = made(tmp_path / "source", tmp_path, to="v2.1")
    assert converted.recoded == (2 if is_shared else 0)
    assert [row for episode in reader.meta.episodes for row in rows_seen(reader, episode.index)] == list(range(ROWS))


def test_a_video_that_is_too_short_is_named(motions: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(motions, tmp_path / "source"))
    short, long = (source / f"videos/observation.images.front/chunk-000/file-00{number}.mp4" for number in (1, 2))
    shutil.copyfile(short, long)
    with pytest.raises(DatasetError, match=r"file-002.mp4 has 8 frames; the episode's are 0 to 39"):
        convert(source, tmp_path / "made", Conversion())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]  # neither the whole, nor a part of it


def test_tasks_may_change_within_an_episode(tmp_path: Path) -> None:
    writer = V21Writer(tmp_path / "v21", Features(5, "two", (Feature("action", "float32", (1,)),)))
    for tasks in (["a", "b", "b"], ["c", "a", "a"]):
        columns = {"action": np.arange(3, dtype=np.float32)[:, None]}
        (folder := tmp_path / "empty").mkdir(exist_ok=True)
        writer.add(Finished(folder, columns, {}, {}), tasks, b"{}")
    writer.close()
    _, reader = made(tmp_path / "v21", tmp_path, episodes=(1, 0))
    assert [reader.row(index).task for index in range(6)] == ["c", "a", "a", "a", "b", "b"]
    assert [episode.tasks for episode in DatasetMeta.load(tmp_path / "made").episodes] == [("c", "a"), ("a", "b")]


# In part -------------------------------------------------------------------------------------------------------------


def test_what_stands_still_is_trimmed(motions: Path, tmp_path: Path) -> None:
    converted, reader = made(motions, tmp_path, trim_static=True, margin_s=0.2)
    first, last = START - 2, END + LAG + 2  # 0.2 s are 2 rows
    length = last - first + 1
    assert converted == Converted(3, 2 * length + 12, 2 * ROWS + 12, 2, (1,))
    for episode in (0, 1):
        assert rows_seen(reader, episode) == list(range(first, last + 1))
        columns = reader.columns(episode)
        np.testing.assert_allclose(columns["timestamp"][:, 0], np.arange(length) / FPS, atol=1e-6)
        np.testing.assert_allclose(columns[STAMP][:, 0], np.arange(length) / FPS - 0.01, atol=1e-9)
        assert columns[INTERVENTIONS][[0, -1], 0].tolist() == [0, last // 4 - first // 4]
        assert columns["frame_index"][:, 0].tolist() == list(range(length))
    assert rows_seen(reader, 2) == list(range(START, END + LAG))  # whole: it moves from end to end
    episode = reader.meta.episodes[1]
    said = reader.meta.details(episode)
    assert said["converted"] == {"episode": 2, "first_row": first, "last_row": last}
    assert (said["success"], said["notes"]) == (False, "40 rows")
    stats = reader.meta.episode_stats(episode)
    assert stats["observation.images.front"]["count"] == [length] and stats[ACTION]["count"] == [length]
    assert reader.meta.video_path(episode, "observation.images.front").is_file()


def test_key_frames_say_which_rows_they_were(motions: Path, tmp_path: Path) -> None:
    _, reader = made(motions, tmp_path, episodes=(2,), keyframes=True, moved=Motion(rad=0.25, m=1))
    expected = [0, 13, 16, 19, 39]  # the action moves 0.1 rad a row: further than 0.25 after three
    assert rows_seen(reader, 0) == expected
    columns = reader.columns(0)
    assert columns[SOURCE_FRAME][:, 0].tolist() == expected
    np.testing.assert_allclose(columns["timestamp"][:, 0], np.arange(5) / FPS, atol=1e-6)
    np.testing.assert_allclose(columns[STAMP][:, 0], np.array(expected) / FPS - 0.01)
    np.testing.assert_allclose(columns[ACTION][:, 0], [0, 0.3, 0.6, 0.9, 1], atol=1e-6)
    assert reader.meta.features.find(SOURCE_FRAME) == Feature(SOURCE_FRAME, "int64", (1,))
    assert reader.meta.fps == FPS


def test_key_frames_of_key_frames_still_say_which_rows_they_were(motions: Path, tmp_path: Path) -> None:
    convert(motions, tmp_path / "once", Conversion(episodes=(2,), keyframes=True, moved=Motion(rad=0.25, m=1)))
    _, reader = made(tmp_path / "once", tmp_path, keyframes=True, moved=Motion(rad=0.5, m=1), trim_static=True)
    assert reader.columns(0)[SOURCE_FRAME][:, 0].tolist() == [0, 16, 39]
    np.testing.assert_allclose(rows_seen(reader, 0), [0, 16, 39], atol=1)  # compressed three times


def test_one_row_every_so_often_is_a_slower_dataset(motions: Path, tmp_path: Path) -> None:
    converted, reader = made(motions, tmp_path, to="v2.1", every_s=0.5, successes_only=True)
    assert (reader.meta.fps, converted.episodes, converted.recoded) == (2, 2, 2)
    assert rows_seen(reader, 0) == list(range(0, ROWS, 5))
    columns = reader.columns(0)
    np.testing.assert_allclose(columns["timestamp"][:, 0], np.arange(8) / 2)
    np.testing.assert_allclose(columns[STAMP][:, 0], np.arange(8) / 2 - 0.01)
    times = [
        time_s for time_s, _ in packets(tmp_path / "made/videos/chunk-000/observation.images.front/episode_000000.mp4")
    ]
    assert times == [0.5 * row for row in range(8)]
    assert reader.meta.info["features"]["observation.images.front"]["info"]["video.fps"] == 2


def test_what_is_stored_now_is_noted(motions: Path, tmp_path: Path) -> None:
    made(motions, tmp_path, every_s=0.5, episodes=(0,))
    before, now = json.loads((tmp_path / "made/meta/vla_ros/system.json").read_text())["sessions"]
    info = json.loads((tmp_path / "made/meta/info.json").read_text())
    assert before == json.loads((motions / "meta/vla_ros/system.json").read_text())["sessions"][0]
    assert (now["recording"]["fps"], now["robot_type"]) == (2, "panda") and now["converted"]["from"] == "set"
    assert {key: entry["shape"] for key, entry in now["features"].items()} == {
        key: entry["shape"] for key, entry in info["features"].items()
    }


def test_trimmed_key_frames_are_stamped_by_their_first(motions: Path, tmp_path: Path) -> None:
    once = Conversion(episodes=(2,), trim_static=True, keyframes=True, moved=Motion(rad=0.25, m=1))
    convert(motions, tmp_path / "once", once)
    _, reader = made(tmp_path / "once", tmp_path, trim_static=True, still=Motion(rad=0.45, m=1), margin_s=0)
    columns = reader.columns(0)
    rows = columns[SOURCE_FRAME][:, 0]
    assert rows[0] > 0
    np.testing.assert_allclose(columns[STAMP][:, 0], (rows - rows[0]) / FPS - 0.01)


def test_only_some_episodes_in_another_order(motions: Path, tmp_path: Path) -> None:
    converted, reader = made(motions, tmp_path, episodes=(3, 0))
    assert converted == Converted(2, 52, 52, 0, ())
    assert [rows_seen(reader, episode)[0] for episode in range(2)] == [START, 0]
    assert [reader.meta.details(episode)["converted"]["episode"] for episode in reader.meta.episodes] == [3, 0]
    assert reader.columns(1, ["index"])["index"][:, 0].tolist() == list(range(12, 52))


def test_images_of_tables_become_videos(tmp_path: Path) -> None:
    images = [np.full((32, 48, 3), 50 * row, np.uint8) for row in range(3)]
    with DatasetWriter(
        tmp_path / "set", Features(5, "one", (Feature("action", "float32", (1,)),)), RecordingConfig(fps=5)
    ) as writer:
        writer.begin("look")
        for row in range(3):
            writer.add(Row(row, {}, {"action": np.array([row])}))
        writer.save(EpisodeDetails("look"))
    info = json.loads((tmp_path / "set/meta/info.json").read_text())
    info["features"]["observation.image"] = {
        "dtype": "image",
        "shape": [3, 32, 48],
        "names": ["channels", "height", "width"],
    }
    (tmp_path / "set/meta/info.json").write_text(json.dumps(info))
    path = tmp_path / "set/data/chunk-000/file-000.parquet"
    stored = pa.array([{"bytes": png(image), "path": None} for image in images])
    parquet.write_table(parquet.read_table(path).append_column("observation.image", stored), path)
    converted, reader = made(tmp_path / "set", tmp_path)
    assert converted.recoded == 1 and reader.cameras == ("observation.image",)
    levels = reader.images(0, "observation.image", [2, 1, 0]).mean((1, 2, 3))
    np.testing.assert_allclose(levels, [100, 50, 0], atol=2)
    feature = reader.meta.features.find("observation.image")
    assert feature == Feature("observation.image", "video", (32, 48, 3), ("height", "width", "channels"))


def png(image: np.ndarray) -> bytes:
    context = av.CodecContext.create("png", "w")
    context.height, context.width, context.pix_fmt, context.time_base = *image.shape[:2], "rgb24", Fraction(1)
    return b"".join(bytes(packet) for packet in context.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))


# What cannot be ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"keyframes": True, "every_s": 1.0}, "choose one of them"),
        ({"gr00t": True}, "GR00T reads v2.1"),
        ({"episodes": (0, 7, 4)}, "no episode 7, 4; it has 4"),
        ({"episodes": (0, 2, 0)}, "asked for twice"),
        ({"episodes": (3,), "successes_only": True}, "says whether it was a success"),
        ({"episodes": (1,), "trim_static": True}, "nothing moves"),
        ({"episodes": (2,), "successes_only": True}, "no episode is chosen"),
        ({"every_s": 0.25}, r"possible: 0\.1, 0\.2, 0\.5, 1 s"),
    ],
)
def test_what_cannot_be_done_is_said(motions: Path, tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(Unmakeable, match=said):
        convert(motions, tmp_path / "made", Conversion(**options))
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_that_is_there_is_left_alone(motions: Path, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    with pytest.raises(DatasetError, match="already exists; give a new folder"):
        convert(motions, tmp_path / "made", Conversion())


def test_units_must_be_known(by_lerobot: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="observation.state: j0, .* have no unit in their names"):
        convert(by_lerobot, tmp_path / "made", Conversion(trim_static=True))
    converted = convert(by_lerobot, tmp_path / "made", Conversion(keyframes=True, moved=Motion(rad=1, m=1, other=9.5)))
    assert converted.frames == 2 * len([0, 10, 20, 30, 39])


def test_what_is_interrupted_leaves_nothing(motions: Path, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(motions, tmp_path / "made", Conversion(), interrupt)
    assert list(tmp_path.iterdir()) == []


def command(*words: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["convert", *map(str, words)])
    return result.exit_code, result.output


def test_the_command_converts(motions: Path, tmp_path: Path) -> None:
    code, said = command(
        motions,
        tmp_path / "made",
        "--to",
        "v2.1",
        "--gr00t",
        "--episodes",
        "0,2-3",
        "--trim-static",
        "--still-rad",
        "0.15",
    )
    assert code == 0 and "3 episodes, " in said and "videos were re-encoded" in said
    reader = DatasetReader(tmp_path / "made")
    assert rows_seen(reader, 0)[0] == START  # 0.15 rad are reached at START + 2, 0.1 s before is one row
    assert (tmp_path / "made/meta/modality.json").is_file()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--episodes", "0,x"], 2, "'x' is neither a number"),
        (["--episodes", "3-1"], 2, "'3-1' is neither a number"),
        (["--moved-rad", "0.1"], 2, "needs --keyframes"),
        (["--trim-static", "--still-m", "0"], 2, "still.m: Input should be greater than 0"),
        (["--episodes", "9"], 2, "no episode 9"),
        (["--system", "franka_upvla"], 2, "are for bags"),
    ],
)
def test_the_command_says_what_is_wrong(motions: Path, tmp_path: Path, words: list[str], code: int, said: str) -> None:
    assert command(motions, tmp_path / "made", *words)[0] == code
    assert said in command(motions, tmp_path / "made", *words)[1]
    assert list(tmp_path.iterdir()) == []


def test_the_command_looks_where_it_reads_and_writes(motions: Path, tmp_path: Path) -> None:
    assert command(motions, motions)[0] == 2 and command(tmp_path / "none", tmp_path / "made")[0] == 2
    assert "no meta/info.json" in command(tmp_path, tmp_path / "made")[1]
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag/metadata.yaml").write_text("")
    assert "with --system" in command(tmp_path / "bag", tmp_path / "made")[1]
    assert "converted to a v3.0 dataset" in command(tmp_path / "bag", tmp_path / "made", "--keyframes")[1]


def test_the_command_converts_a_bag(tmp_path: Path) -> None:
    bag = bags.write(tmp_path / "bag", bags.stream(2.0))
    system = {
        "title": "cell", "robot": "panda", "policy": {"name": "scripted"}, "simulation": {}, "recording": {"fps": 10},
        "cameras": {"front": {"topic": bags.IMAGES, "rate_hz": 10}},
    }  # fmt: skip
    (tmp_path / "cell.yaml").write_text(json.dumps(system))
    words = (bag, tmp_path / "made", "--system", tmp_path / "cell.yaml")
    code, said = command(*words)
    assert code == 1 and "task" in said, said  # nobody says what it is about
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bag", "cell.yaml"]
    code, said = command(*words, "--task", "watch", "--split", "whole")
    assert code == 0 and "1 episodes, 20 rows" in said, said
    reader = DatasetReader(tmp_path / "made")
    levels = [reader.row(row).images["front"].mean() for row in (0, 19)]
    np.testing.assert_allclose(levels, [bags.gray(0), bags.gray(19)], atol=4)
    assert reader.row(3).task == "watch"
