"""`checking`: nothing is said of good datasets, whoever wrote them; damage is found by its name and place."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import foreign
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import Damage, changed_json, changed_rows, changed_value, copied, deleted, truncated
from typer.testing import CliRunner

from vla_ros.cli import app
from vla_ros.recording.config import RecordingConfig
from vla_ros.recording.convert import Conversion, convert
from vla_ros.recording.features import Feature, Features, Row
from vla_ros.recording.files import DatasetError
from vla_ros.recording.lerobot_v3 import DatasetWriter, EpisodeDetails
from vla_ros.recording.reader import DatasetReader
from vla_ros.recording.upkeep.checking import check
from vla_ros.recording.upkeep.findings import Finding, Kind, Severity
from vla_ros.recording.upkeep.repairing import repair

REFERENCE = Path(__file__).parent.parent / "reference"
DATA, VIDEO = "data/chunk-000/file-{:03d}.parquet", "videos/observation.images.front/chunk-000/file-{:03d}.mp4"
EPISODES = "meta/episodes/chunk-000/file-{:03d}.parquet"
DETAILS = "meta/vla_ros/episodes/episode-{:06d}.json"
FRONT = "observation.images.front"
INFO, STATS, TASKS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"


def another_schema(root: Path) -> None:
    path = root / DATA.format(0)
    table = pq.ParquetFile(path).read()
    pq.write_table(table.set_column(0, "observation.state", table.column(0).cast(pa.list_(pa.float64(), 8))), path)


def without_column(root: Path) -> None:
    path = root / DATA.format(1)
    pq.write_table(pq.ParquetFile(path).read().drop_columns(["action"]), path)


def remade_video(frames: int, fps: int = 20, size: tuple[int, int] = (48, 64)) -> Damage:
    """The front video of episode 1 (8 frames) by another of these properties."""

    def damage(root: Path) -> None:
        with av.open(str(root / VIDEO.format(1)), "w") as container:
            stream = container.add_stream("libx264", rate=fps)
            stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
            generator = np.random.default_rng(0)
            for _ in range(frames):
                image = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
            container.mux(stream.encode(None))

    return damage


def flipped_in_packets(root: Path) -> None:
    content = bytearray((root / VIDEO.format(1)).read_bytes())
    start = content.find(b"mdat") + 2000
    content[start : start + 600] = bytes(600)
    (root / VIDEO.format(1)).write_bytes(content)


def flipped_in_page(root: Path) -> None:
    """Of a column whose pages are checked by nothing else."""
    path = root / DATA.format(1)
    chunk = pq.read_metadata(path).row_group(0).column(0)
    content = bytearray(path.read_bytes())
    content[chunk.dictionary_page_offset + chunk.total_compressed_size - 2] ^= 0x10
    path.write_bytes(content)


def open_episode(root: Path) -> None:
    folder = root / ".recording/episode-000004"
    folder.mkdir(parents=True)
    (folder / "rows.bin").write_bytes(b"")


ERROR, WARNING = Severity.ERROR, Severity.WARNING
DAMAGES: dict[str, tuple[Damage, Severity, Kind, str, int | None]] = {
    "info torn": (truncated(INFO), ERROR, Kind.UNREADABLE, INFO, None),
    "info gone": (deleted(INFO), ERROR, Kind.MISSING, INFO, None),
    "no rate": (changed_json(INFO, lambda info: info.pop("fps")), ERROR, Kind.INFO, INFO, None),
    "another rate": (changed_json(INFO, lambda info: info.update(fps=25)), ERROR, Kind.TIMESTAMP, DATA.format(0), 0),
    "total episodes": (changed_json(INFO, lambda info: info.update(total_episodes=9)), ERROR, Kind.INFO, INFO, None),
    "total frames": (changed_json(INFO, lambda info: info.update(total_frames=9)), ERROR, Kind.INFO, INFO, None),
    "total tasks": (changed_json(INFO, lambda info: info.update(total_tasks=9)), ERROR, Kind.INFO, INFO, None),
    "splits": (changed_json(INFO, lambda info: info.update(splits={"train": "0:3"})), ERROR, Kind.INFO, INFO, None),
    "a version of tomorrow": (
        changed_json(INFO, lambda info: info.update(codebase_version="v4.0")), ERROR, Kind.INFO, INFO, None,
    ),
    "codec": (
        changed_json(INFO, lambda info: info["features"][FRONT]["info"].update({"video.codec": "x"})),
        WARNING, Kind.VIDEO_FORMAT, VIDEO.format(0), 0,
    ),
    "data torn": (truncated(DATA.format(1)), ERROR, Kind.UNREADABLE, DATA.format(1), None),
    "data without foot": (
        lambda root: (root / DATA.format(1)).write_bytes((root / DATA.format(1)).read_bytes()[:-8]),
        ERROR, Kind.UNREADABLE, DATA.format(1), None,
    ),
    "data gone": (deleted(DATA.format(1)), ERROR, Kind.MISSING, DATA.format(1), 1),
    "a bit of data": (flipped_in_page, ERROR, Kind.UNREADABLE, DATA.format(1), None),
    "data twice": (copied(DATA.format(1), DATA.format(7)), ERROR, Kind.ORPHAN, DATA.format(7), None),
    "another type": (another_schema, ERROR, Kind.SCHEMA, DATA.format(0), None),
    "no action": (without_column, ERROR, Kind.SCHEMA, DATA.format(1), None),
    "a row dropped": (changed_rows(DATA.format(1), lambda rows: rows.pop(3)), ERROR, Kind.ROWS, DATA.format(1), 1),
    "frame_index": (changed_value(DATA.format(1), "frame_index", 7), ERROR, Kind.INDEX, DATA.format(1), 1),
    "index": (changed_value(DATA.format(2), "index", 7), ERROR, Kind.INDEX, DATA.format(2), 2),
    "episode_index": (changed_value(DATA.format(2), "episode_index", 1), ERROR, Kind.INDEX, DATA.format(2), 2),
    "timestamp": (changed_value(DATA.format(1), "timestamp", 0.1002), ERROR, Kind.TIMESTAMP, DATA.format(1), 1),
    "unknown task": (changed_value(DATA.format(1), "task_index", 7), ERROR, Kind.TASK, DATA.format(1), 1),
    "another task": (changed_value(DATA.format(1), "task_index", 0), ERROR, Kind.TASK, DATA.format(1), 1),
    "NaN in state": (
        changed_value(DATA.format(1), "observation.state", [float("nan")] * 8), ERROR, Kind.NAN, DATA.format(1), 1,
    ),
    "infinite action": (
        changed_value(DATA.format(1), "action", [float("inf")] * 8), ERROR, Kind.NAN, DATA.format(1), 1,
    ),
    "NaN elsewhere": (
        changed_value(DATA.format(1), "timing.skew", float("nan")), WARNING, Kind.NAN, DATA.format(1), 1,
    ),
    "another state": (
        changed_value(DATA.format(1), "observation.state", [9.0] * 8), ERROR, Kind.STATISTICS, EPISODES.format(1), 1,
    ),
    "video torn": (truncated(VIDEO.format(2)), ERROR, Kind.UNREADABLE, VIDEO.format(2), None),
    "video gone": (deleted(VIDEO.format(2)), ERROR, Kind.MISSING, VIDEO.format(2), 2),
    "no video": (
        lambda root: (root / VIDEO.format(2)).write_bytes(b"video"), ERROR, Kind.UNREADABLE, VIDEO.format(2), None,
    ),
    "video without episode": (copied(VIDEO.format(1), VIDEO.format(7)), WARNING, Kind.ORPHAN, VIDEO.format(7), None),
    "a frame less": (remade_video(7), ERROR, Kind.FRAMES, VIDEO.format(1), 1),
    "a frame more": (remade_video(9), ERROR, Kind.FRAMES, VIDEO.format(1), 1),
    "frames at another rate": (remade_video(8, fps=19), ERROR, Kind.VIDEO_TIME, VIDEO.format(1), 1),
    "frames of another size": (remade_video(8, size=(96, 64)), ERROR, Kind.VIDEO_FORMAT, VIDEO.format(1), 1),
    "metadata torn": (truncated(EPISODES.format(1)), ERROR, Kind.UNREADABLE, EPISODES.format(1), None),
    "metadata gone": (deleted(EPISODES.format(1)), ERROR, Kind.EPISODES, "meta/episodes", None),
    "length": (changed_value(EPISODES.format(1), "length", 7, 0), ERROR, Kind.ROWS, DATA.format(1), 1),
    "rows elsewhere": (
        changed_value(EPISODES.format(1), "dataset_from_index", 4, 0), ERROR, Kind.EPISODES, EPISODES.format(1), 1,
    ),
    "frames between frames": (
        changed_value(EPISODES.format(1), "videos/observation.images.front/from_timestamp", 0.02, 0),
        ERROR, Kind.VIDEO_TIME, VIDEO.format(1), 1,
    ),
    "too long in the video": (
        changed_value(EPISODES.format(1), "videos/observation.images.front/to_timestamp", 0.5, 0),
        ERROR, Kind.VIDEO_TIME, VIDEO.format(1), 1,
    ),
    "a task nobody knows": (
        changed_value(EPISODES.format(1), "tasks", ["x"], 0), ERROR, Kind.TASK, EPISODES.format(1), 1,
    ),
    "statistics of an episode": (
        changed_value(EPISODES.format(1), "stats/action/mean", [9.0] * 8, 0),
        ERROR, Kind.STATISTICS, EPISODES.format(1), 1,
    ),
    "tasks gone": (deleted(TASKS), ERROR, Kind.MISSING, TASKS, None),
    "tasks out of order": (changed_rows(TASKS, lambda rows: rows.reverse()), ERROR, Kind.TASK, TASKS, None),
    "statistics gone": (deleted(STATS), ERROR, Kind.MISSING, STATS, None),
    "no statistics of action": (
        changed_json(STATS, lambda stats: stats.pop("action")), ERROR, Kind.STATISTICS, STATS, None,
    ),
    "NaN in statistics": (
        changed_json(STATS, lambda stats: stats["action"]["std"].__setitem__(0, float("nan"))),
        ERROR, Kind.STATISTICS, STATS, None,
    ),
    "wrong deviation": (
        changed_json(STATS, lambda stats: stats["action"]["std"].__setitem__(0, 3.0)),
        ERROR, Kind.STATISTICS, STATS, None,
    ),
    "count": (
        changed_json(STATS, lambda stats: stats["action"].update(count=[7])), ERROR, Kind.STATISTICS, STATS, None,
    ),
    "quantiles": (
        changed_json(STATS, lambda stats: stats["action"].update(q01=[9.0] * 8)), ERROR, Kind.STATISTICS, STATS, None,
    ),
    "statistics of numbers": (  # as LeRobot's `delete_episodes` leaves them
        changed_json(STATS, lambda stats: stats["episode_index"].update(mean=[7.0])),
        WARNING, Kind.STATISTICS, STATS, None,
    ),
    "details torn": (truncated(DETAILS.format(1)), WARNING, Kind.DETAILS, DETAILS.format(1), None),
    "details gone": (deleted(DETAILS.format(1)), WARNING, Kind.DETAILS, DETAILS.format(1), 1),
    "details of nothing": (
        copied(DETAILS.format(1), DETAILS.format(9)), WARNING, Kind.ORPHAN, DETAILS.format(9), None,
    ),
    "open episode": (open_episode, WARNING, Kind.OPEN_EPISODE, ".recording/episode-000004", None),
}  # fmt: skip


def test_nothing_is_said_of_what_the_recorder_writes(recorded: Path) -> None:
    assert check(recorded, decode=True) == []


def test_nothing_is_said_of_a_resumed_dataset(dataset: Path, tools: Any) -> None:
    tools.record(dataset, range(2), resume=True)
    assert check(dataset) == []


def test_nothing_is_said_of_a_dataset_without_episodes(tmp_path: Path, tools: Any) -> None:
    tools.record(tmp_path / "empty", range(0))
    assert check(tmp_path / "empty") == []


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_by_its_name(name: str, dataset: Path) -> None:
    damage, severity, kind, path, episode = DAMAGES[name]
    damage(dataset)
    findings = check(dataset)
    assert (severity, kind, path, episode) in {(one.severity, one.kind, one.path, one.episode) for one in findings}, [
        str(one) for one in findings
    ]
    if severity is WARNING:
        assert not [one for one in findings if one.severity is ERROR]


def test_a_frame_shown_twice_without_a_mark_is_said(dataset: Path) -> None:
    path = DATA.format(1)
    changed_rows(path, lambda rows: [row.update({"timing.stamp": [1.0, row["frame_index"]]}) for row in rows])(dataset)
    said = [one for one in check(dataset) if one.kind is Kind.REPEATED]
    assert [(one.severity, one.path, one.episode) for one in said] == [(WARNING, path, 1)]
    assert "front" in said[0].what
    marked = {"timing.repeated": [1, 0, 0, 0]}
    changed_rows(path, lambda rows: [row.update(marked) for row in rows])(dataset)
    assert not [one for one in check(dataset) if one.kind is Kind.REPEATED]


def test_a_clock_that_does_not_have_the_rate_is_good_enough(tmp_path: Path) -> None:
    """A seventh of a second is no whole number of a clock's 90000 ticks; LeRobot loads it."""
    columns = [Feature(key, "float32", (1,)) for key in ("observation.state", "action")]
    features = Features(7, "x", (Feature("observation.images.front", "video", (48, 64, 3)), *columns))
    with DatasetWriter(tmp_path / "dataset", features, RecordingConfig(fps=7)) as writer:
        writer.begin("look")
        for k in range(12):
            image = np.full((48, 64, 3), 10 * k, np.uint8)
            writer.add(Row(k, {"front": image}, {"observation.state": np.ones(1) * k, "action": np.ones(1) * k}))
        writer.save(EpisodeDetails("look"))
    video = next((tmp_path / "dataset").rglob("*.mp4"))
    shutil.move(video, tmp_path / "video.mp4")
    rate = {"video_track_timescale": "90000"}
    with av.open(str(tmp_path / "video.mp4")) as source, av.open(str(video), "w", options=rate) as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = stream
                copy.mux(packet)
    assert check(tmp_path / "dataset") == []


def test_damage_inside_of_frames_is_found_by_decoding(dataset: Path) -> None:
    flipped_in_packets(dataset)
    found = [one for one in check(dataset, decode=True) if one.severity is ERROR]
    assert [(one.kind, one.path, one.episode) for one in found] == [(Kind.DECODING, VIDEO.format(1), 1)]


def test_a_frozen_camera_is_found_by_decoding(dataset: Path, tools: Any) -> None:
    with av.open(str(dataset / VIDEO.format(1)), "w") as container:
        stream = container.add_stream("libx264", rate=tools.FPS, options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for _ in range(8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8))))
        container.mux(stream.encode(None))
    found = [(one.severity, one.kind, one.episode) for one in check(dataset, decode=True)]
    assert found == [(WARNING, Kind.REPEATED, 1)]


@pytest.mark.parametrize("name", ["lerobot-0.4.4", "lerobot-0.6.1"])
def test_lerobots_own_datasets_are_good_but_for_a_bug_that_is_known(name: str, tmp_path: Path) -> None:
    root = Path(shutil.copytree(REFERENCE / name, tmp_path / name))
    # The front video is not in the repository; a smaller one of as many frames stands for it.
    info = json.loads((root / INFO).read_text())
    front = root / "videos/observation.images.front/chunk-000/file-000.mp4"
    front.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(root / "videos/observation.images.wrist/chunk-000/file-000.mp4", front)
    assert info["total_frames"] == 80
    findings = check(root, decode=True)
    assert [one for one in findings if one.severity is ERROR] == []
    bugs = [one for one in findings if one.kind is Kind.STATISTICS]
    assert all("a bug of LeRobot 0.4.4" in one.what for one in bugs)
    assert bool(bugs) == (name == "lerobot-0.4.4")
    assert {one.kind for one in findings} <= {Kind.STATISTICS, Kind.REPEATED}


def test_a_deviation_that_lerobot_loses_is_a_warning(dataset: Path) -> None:
    """E[x²] - E[x]² of epoch times is 0 in LeRobot 0.6.1."""
    path = dataset / DATA.format(1)
    table = pq.ParquetFile(path).read()
    stamps = 1.75e9 + 0.05 * np.arange(table.num_rows)
    place = table.schema.get_field_index("timing.skew")
    pq.write_table(table.set_column(place, table.schema.field(place), pa.array(stamps)), path)
    said = {"min": stamps.min(), "max": stamps.max(), "mean": stamps.mean(), "std": 0.0}
    said |= {f"q{quantile:02d}": float(np.quantile(stamps, quantile / 100)) for quantile in (1, 10, 50, 90, 99)}
    for name, value in said.items():
        changed_value(EPISODES.format(1), f"stats/timing.skew/{name}", [float(value)], 0)(dataset)
    found = [one for one in check(dataset) if one.path == EPISODES.format(1)]
    assert [(one.severity, one.kind) for one in found] == [(WARNING, Kind.STATISTICS)]
    assert "LeRobot's std is inexact" in found[0].what


@pytest.fixture(scope="module")
def converted(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same dataset in v2.1."""
    root = tmp_path_factory.mktemp("converted") / "dataset"
    convert(recorded, root, Conversion(to="v2.1"))
    return root


def changed_line(path: str, line: int, change: Callable[[Any], object]) -> Damage:
    def damage(root: Path) -> None:
        lines = [json.loads(text) for text in (root / path).read_text().splitlines()]
        change(lines[line])
        (root / path).write_text("".join(json.dumps(content) + "\n" for content in lines))

    return damage


DATA_21, VIDEO_21 = "data/chunk-000/episode_000001.parquet", f"videos/chunk-000/{FRONT}/episode_000001.mp4"
DAMAGES_21: dict[str, tuple[Damage, Kind, str, int | None]] = {
    "data torn": (truncated(DATA_21), Kind.UNREADABLE, DATA_21, None),
    "video gone": (deleted(VIDEO_21), Kind.MISSING, VIDEO_21, 1),
    "episodes torn": (
        lambda root: os.truncate(root / "meta/episodes.jsonl", 100), Kind.UNREADABLE, "meta/episodes.jsonl", None,
    ),
    "tasks gone": (deleted("meta/tasks.jsonl"), Kind.MISSING, "meta/tasks.jsonl", None),
    "length": (changed_line("meta/episodes.jsonl", 1, lambda line: line.update(length=7)), Kind.ROWS, DATA_21, 1),
    "statistics": (
        changed_line("meta/episodes_stats.jsonl", 1, lambda line: line["stats"]["action"].update(mean=[9.0] * 8)),
        Kind.STATISTICS, "meta/episodes.jsonl", 1,
    ),
    "a row dropped": (changed_rows(DATA_21, lambda rows: rows.pop(3)), Kind.ROWS, DATA_21, 1),
}  # fmt: skip


def test_nothing_is_said_of_v21(converted: Path) -> None:
    assert check(converted, decode=True) == []


@pytest.mark.parametrize("name", DAMAGES_21)
def test_damage_of_v21_is_found(name: str, converted: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(converted, tmp_path / "dataset"))
    damage, kind, path, episode = DAMAGES_21[name]
    damage(root)
    findings = check(root)
    assert (ERROR, kind, path, episode) in {(one.severity, one.kind, one.path, one.episode) for one in findings}, [
        str(one) for one in findings
    ]


def follow(root: Path, findings: list[Finding]) -> Path | None:
    """Where a dataset is after what the findings recommend; None where they say that nothing helps."""
    (remedy,) = {one.remedy for one in findings if one.severity is ERROR}
    if remedy.startswith("get the dataset again"):
        return None
    if remedy.startswith('write "fps": 10 in PATH/meta/info.json'):
        changed_json(INFO, lambda info: info.update(fps=10))(root)
        return follow(root, check(root))
    done = CliRunner().invoke(app, remedy.replace("PATH", str(root)).split()[1:])
    assert done.exit_code == 0, (remedy, done.output)
    return root if "repair" in remedy else root.with_name(f"{root.name}-new")


LOST_21 = ("episodes torn", "tasks gone")


@pytest.mark.parametrize("name", [*DAMAGES_21, "an episode deleted"])
def test_what_is_recommended_for_v21_helps(name: str, converted: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(converted, tmp_path / "dataset"))
    if name == "an episode deleted":
        lines = (root / "meta/episodes.jsonl").read_text().splitlines(keepends=True)
        (root / "meta/episodes.jsonl").write_text("".join(lines[:1] + lines[2:]))
        for path in root.rglob("episode_000001.*"):
            path.unlink()
    else:
        DAMAGES_21[name][0](root)
    before = sorted(root.rglob("*"))
    helped = follow(root, check(root))
    assert (helped is None) == (name in LOST_21)
    if helped is not None:
        assert check(helped, decode=True) == []
        assert len(DatasetReader(helped).meta.episodes) == (4 if name == "statistics" else 3)
    with pytest.raises(DatasetError, match=r"only v3.0 can be repaired"):
        repair(root)
    assert sorted(root.rglob("*")) == before


OTHERS: dict[str, tuple[dict[str, Any], int]] = {  # how it is written, episodes that are left
    "text": ({"columns": {"extra": ({"dtype": "string", "shape": [1]}, lambda n, rows: pa.array(["x"] * rows))}}, 2),
    "video of another rate": (
        {"video": lambda path, number: foreign.encode(path, range(20, 20 + 6 * foreign.ROWS, 6), 10 if number else 30)},
        1,
    ),
    "all videos of another rate": (
        {"video": lambda path, number: foreign.encode(path, [9] * 3 * foreign.ROWS, 30)}, 2,
    ),
    "rate that is not whole": ({"fps": 12.5, "cameras": ()}, 0),
    "uneven times": ({"times": lambda number, rows: np.arange(rows) / 10 + 0.01 * (np.arange(rows) % 2)}, 2),
    "times of another rate": ({"fps": 30, "cameras": (), "times": lambda number, rows: np.arange(rows) / 10}, 2),
    "a gap": ({"times": lambda number, rows: np.arange(rows) / 10 + 3 * (np.arange(rows) >= 7)}, 4),
    "no picture": (
        {"columns": {"observation.images.left": (
            {"dtype": "image", "shape": [4, 4, 3]},
            lambda number, rows: pa.array([{"bytes": b"none", "path": None}] * rows),
        )}}, 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
@pytest.mark.parametrize("name", OTHERS)
def test_what_is_recommended_for_other_programs_datasets_helps(name: str, version: str, tmp_path: Path) -> None:
    written, episodes = OTHERS[name]
    root = foreign.write(tmp_path / "dataset", version=version, **written)
    helped = follow(root, check(root))
    if helped is not None:
        assert check(helped, decode=True) == []
        assert len(DatasetReader(helped).meta.episodes) == episodes
    else:
        assert (version == "v2.1" and episodes < 2) or name in ("all videos of another rate", "rate that is not whole")


def is_readable(root: Path) -> bool:
    try:
        reader = DatasetReader(root)
        return all(reader.row(index).task for index in range(len(reader)))
    except DatasetError:
        return False


@pytest.mark.parametrize("name", DAMAGES)
def test_what_the_reader_refuses_is_found(name: str, dataset: Path) -> None:
    DAMAGES[name][0](dataset)
    assert is_readable(dataset) or any(one.severity is ERROR for one in check(dataset))


def test_a_folder_without_a_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is not a LeRobot dataset"):
        check(tmp_path)


def test_the_command_says_what_is_wrong_and_what_helps(dataset: Path) -> None:
    good = CliRunner().invoke(app, ["dataset", "check", str(dataset)])
    assert good.exit_code == 0 and "0 errors, 0 warnings" in good.output
    truncated(DATA.format(1))(dataset)
    bad = CliRunner().invoke(app, ["dataset", "check", str(dataset)])
    assert bad.exit_code == 1
    assert DATA.format(1) in bad.output and f"vla-ros dataset repair {dataset}" in bad.output
    listed = CliRunner().invoke(app, ["dataset", "check", "--json", str(dataset)])
    assert {"severity": "error", "kind": "unreadable", "path": DATA.format(1)}.items() <= json.loads(listed.stdout)[
        0
    ].items()
    nothing = CliRunner().invoke(app, ["dataset", "check", str(dataset / "data")])
    assert nothing.exit_code == 1 and "is not a LeRobot dataset" in nothing.output
