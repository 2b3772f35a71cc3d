"""Bags of either storage become datasets, row for row; what is not as it should be is said."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bags
import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from vla_ros import topics
from vla_ros.config import CameraConfig
from vla_ros.recording.bag import Split, bag_to_dataset
from vla_ros.recording.bag_files import BagError
from vla_ros.recording.config import RecordingConfig, VideoConfig
from vla_ros.recording.video_reader import VideoReader
from vla_ros.robots.panda import PANDA
from vla_ros.timing.stamps import s_to_ns

CAMERAS = {"front": CameraConfig(topic=bags.IMAGES, rate_hz=bags.FPS, tolerance_ms=60.0)}
RECORDING = RecordingConfig(fps=bags.FPS, video=VideoConfig(crf=10))
EPISODES = "meta/vla_ros/episodes/episode-{:06d}.json"


@pytest.fixture
def convert(tmp_path: Path) -> Callable[..., Any]:
    """Converts a bag to `root`; `notices` and `saved` are on it afterwards."""

    def run(bag: Path, **options: Any) -> list[Any]:
        run.notices = []  # type: ignore[attr-defined]
        given: dict[str, Any] = {"cameras": CAMERAS, "task": "push", **options}
        cameras = given.pop("cameras")
        return bag_to_dataset(bag, run.root, PANDA, cameras, RECORDING, on_notice=run.notices.append, **given)  # type: ignore[attr-defined]

    run.root = tmp_path / "dataset"  # type: ignore[attr-defined]
    return run


def rows(root: Path, episode: int = 0) -> Any:
    return pq.read_table(root / f"data/chunk-000/file-{episode:03d}.parquet").to_pydict()


def grays(root: Path, episode: int = 0) -> list[float]:
    reader = VideoReader(root / f"videos/observation.images.front/chunk-000/file-{episode:03d}.mp4")
    images = reader.frames(range(len(rows(root, episode)["timestamp"])))
    reader.close()
    return [float(picture.mean()) for picture in images]


def check_rows(root: Path, first: int, count: int, episode: int = 0) -> None:
    """Frames `first`, `first` + 1, ... with the joints of their instants, and nothing else."""
    table = rows(root, episode)
    assert len(table["timestamp"]) == count
    numbers = range(first, first + count)
    np.testing.assert_allclose(grays(root, episode), [bags.gray(number) for number in numbers], atol=2.5)
    positions = np.array(table["observation.state"])
    due = [bags.joint(bags.START_NS + number * s_to_ns(1 / bags.FPS)) for number in numbers]
    np.testing.assert_allclose(positions[:, 0], due, atol=1e-6)
    np.testing.assert_allclose(positions[:, 7], 0.03, atol=1e-6)
    assert not np.array(table["timing.repeated"]).any()


@pytest.mark.parametrize("storage", [*StoragePlugin], ids=lambda storage: storage.name)
def test_a_whole_bag_is_one_episode_of_either_storage(
    storage: StoragePlugin, tmp_path: Path, convert: Callable[..., Any]
) -> None:
    seen: list[tuple[str, int, int]] = []
    early = bags.told(topics.INSTRUCTION, "push", 1)  # said before a simulation had a clock
    events = [early, *bags.stream(3.0)]
    saved = convert(bags.write(tmp_path / "bag", events, storage), on_progress=lambda *it: seen.append(it))
    assert [episode.frames for episode in saved] == [30]
    check_rows(convert.root, 0, 30)
    assert json.loads((convert.root / EPISODES.format(0)).read_text())["source"] == "bag bag"
    assert seen[-1] == ("messages", 331, 331)
    assert any(notice == f"the bag has nothing of {topics.COMMAND}" for notice in convert.notices)


def test_a_bag_of_humble_has_no_definitions_of_its_types(tmp_path: Path, convert: Callable[..., Any]) -> None:
    bag = bags.write(tmp_path / "bag", bags.stream(2.0), StoragePlugin.SQLITE3)
    with sqlite3.connect(bag / "bag.db3") as database:
        database.executescript("DROP TABLE message_definitions; DROP TABLE schema; DROP TABLE metadata")
    database.close()
    assert [episode.frames for episode in convert(bag)] == [20]
    check_rows(convert.root, 0, 20)


def test_episodes_are_what_a_recorder_was_told(tmp_path: Path, convert: Callable[..., Any]) -> None:
    at = [bags.START_NS + s_to_ns(second) for second in (0.55, 1.95, 2.05, 2.5, 2.75, 4.55)]
    control = topics.RECORDER_CONTROL
    words = [
        bags.told(topics.INSTRUCTION, "push the red cube", at[0] - s_to_ns(0.2)),
        bags.told(control, "start", at[0]),
        bags.told(control, "success", at[0] + s_to_ns(0.5)),
        bags.told(topics.RECORDER_NOTES, "by hand", at[0] + s_to_ns(0.5)),
        bags.told(control, "save", at[1]),
        bags.told(control, "start", at[2] + s_to_ns(0.4)),
        bags.told(control, "discard", at[4]),
        bags.told(control, "seed \u00b2", at[4] - 1),  # a digit, but no number
        bags.told(control, "seed 7", at[4]),
        bags.told(topics.INSTRUCTION, "push the blue cube", at[4] + s_to_ns(0.1)),
        bags.told(control, "start", at[4] + s_to_ns(0.2)),
        bags.told(control, "save", at[5]),
    ]
    saved = convert(bags.write(tmp_path / "bag", [*bags.stream(6.0), *words]), task="")
    assert [episode.frames for episode in saved] == [14, 16]
    check_rows(convert.root, 6, 14)
    check_rows(convert.root, 30, 16, episode=1)
    first, second = (json.loads((convert.root / EPISODES.format(index)).read_text()) for index in range(2))
    assert (first["task"], first["success"], first["notes"]) == ("push the red cube", True, "by hand")
    assert (second["task"], second["success"], second["seed"]) == ("push the blue cube", None, 7)


def test_what_a_recorder_obeyed_counts_from_when_it_did(tmp_path: Path, convert: Callable[..., Any]) -> None:
    start_ns, save_ns = (bags.START_NS + s_to_ns(second) for second in (0.55, 2.25))
    late_ns = save_ns + s_to_ns(0.5)
    told = {"obeyed": f"start@{start_ns} save@{save_ns}"}
    kind = "diagnostic_msgs/msg/DiagnosticArray"
    events = [
        (late_ns - 1, topics.STATE, kind, bags.state("recorder", "idle", {"obeyed": "start"}, late_ns)),
        (late_ns, topics.STATE, kind, bags.state("recorder", "idle", told, late_ns)),
        bags.told(topics.RECORDER_CONTROL, "start", start_ns + s_to_ns(0.3)),
        bags.controller("policy", start_ns - s_to_ns(0.3)),
    ]
    bag = bags.write(tmp_path / "bag", [*bags.stream(4.0), *events])
    assert [episode.frames for episode in convert(bag)] == [17]
    check_rows(convert.root, 6, 17)


def test_episodes_are_while_the_controller_follows_somebody(tmp_path: Path, convert: Callable[..., Any]) -> None:
    modes = (("hold", 0.0), ("policy", 0.55), ("teleop", 1.0), ("policy", 1.5), ("hold", 1.95), ("teleop", 3.15))
    events = [bags.controller(mode, bags.START_NS + s_to_ns(second)) for mode, second in modes]
    events.append(bags.told(topics.INSTRUCTION, "lift", bags.START_NS + s_to_ns(0.6)))  # heard a moment late
    bag = bags.write(tmp_path / "bag", [*bags.stream(5.0), *events])
    assert [episode.frames for episode in convert(bag, task="")] == [14, 18]
    check_rows(convert.root, 6, 14)
    check_rows(convert.root, 32, 18, episode=1)
    assert json.loads((convert.root / EPISODES.format(0)).read_text())["task"] == "lift"
    assert "the bag ends within an episode" in convert.notices
    first = rows(convert.root)
    assert first["control.mode"] == [1] * 4 + [2] * 5 + [1] * 5
    assert first["control.intervened"] == [0] * 4 + [1] * 5 + [0] * 5

    with pytest.raises(BagError, match="not tell of episodes by recorder: no recorder was started"):
        convert(bag, split=Split.RECORDER, resume=True)
    assert [(it.index, it.frames) for it in convert(bag, split=Split.WHOLE, resume=True)] == [(2, 50)]


def test_an_unhealthy_episode_is_left_out_unless_asked_for(tmp_path: Path, convert: Callable[..., Any]) -> None:
    gap = range(bags.START_NS + s_to_ns(1.0), bags.START_NS + s_to_ns(2.0))
    bag = bags.write(tmp_path / "bag", [it for it in bags.stream(3.0) if it[1] != bags.IMAGES or it[0] not in gap])
    with pytest.raises(
        BagError, match=r"no episode of .*bag was saved: the episode up to 2\.9 s is left out: not saved"
    ):
        convert(bag)
    assert [episode.frames for episode in convert(bag, save_anyway=True, resume=True)] == [30]
    repeated = np.array(rows(convert.root)["timing.repeated"])
    assert repeated[:, 0].tolist() == [0] * 10 + [1] * 10 + [0] * 10


def test_joints_are_those_of_their_row_or_marked(tmp_path: Path, convert: Callable[..., Any]) -> None:
    gap = range(bags.START_NS + s_to_ns(1.015), bags.START_NS + s_to_ns(1.29))
    events = [it for it in bags.stream(3.0) if it[1] == bags.IMAGES or it[0] not in gap]
    convert(bags.write(tmp_path / "bag", events), save_anyway=True)
    table = rows(convert.root)
    repeated = np.array(table["timing.repeated"])
    assert repeated[:, 1].tolist() == [0] * 11 + [1] * 2 + [0] * 17
    wrong = np.array(table["observation.state"])[:, 0] - [0.01 * row for row in range(30)]
    np.testing.assert_allclose(wrong[repeated[:, 1] == 0], 0.0, atol=1e-6)


@pytest.mark.parametrize("end", ["cut", "no index", "zeros"])
def test_what_is_whole_in_a_bag_that_was_not_closed_is_kept(
    end: str, tmp_path: Path, convert: Callable[..., Any]
) -> None:
    events = bags.stream(40.0)
    file = bags.write(tmp_path / "bag", events) / "bag.mcap"
    (tmp_path / "bag" / "metadata.yaml").unlink()
    data = file.read_bytes()
    chunk = data.index(b"\x06", 2_000_000)  # somewhere within the third chunk of a megabyte
    whole = {"cut": data[:chunk], "no index": data[:-200], "zeros": data[:chunk] + bytes(100_000)}
    file.write_bytes(whole[end])
    saved = convert(tmp_path / "bag")
    assert saved[0].frames > (300 if end == "no index" else 100)
    check_rows(convert.root, 0, saved[0].frames)
    assert f"{file} was not closed; what is whole in it is read" in convert.notices


def test_files_of_a_bag_that_was_not_closed_are_read_in_their_order(
    tmp_path: Path, convert: Callable[..., Any]
) -> None:
    """And what several threads wrote into one of them, in the order in which they had received it."""
    events = sorted(bags.stream(4.0), key=lambda event: event[0])
    half = len(events) // 2
    shuffled = [event for turn in range(0, half, 20) for event in reversed(events[turn : min(turn + 20, half)])]
    for name, part in (("run_2", shuffled), ("run_10", events[half:])):
        file = bags.write(tmp_path / name, part, as_given=True) / f"{name}.mcap"
        (tmp_path / "bag").mkdir(exist_ok=True)
        (tmp_path / "bag" / file.name).write_bytes(file.read_bytes()[:-100])
    assert [episode.frames for episode in convert(tmp_path / "bag")] == [40]
    check_rows(convert.root, 0, 40)


def test_a_bag_in_simulated_time_is_read_by_its_clock(tmp_path: Path, convert: Callable[..., Any]) -> None:
    events = bags.stream(3.0, offset_ns=s_to_ns(5e8))
    with pytest.raises(BagError, match="were received 500000000 s after their stamps, which come from another clock"):
        convert(bags.write(tmp_path / "without", events))
    clock, time = bags.kind("rosgraph_msgs/msg/Clock"), bags.kind("builtin_interfaces/msg/Time")
    for tick in range(310):
        now_ns = bags.START_NS + tick * s_to_ns(0.01)
        said = clock(time(*divmod(now_ns, s_to_ns(1.0))))
        events.append((now_ns + s_to_ns(5e8), "/clock", "rosgraph_msgs/msg/Clock", said))
    assert [episode.frames for episode in convert(bags.write(tmp_path / "with", events))] == [30]
    check_rows(convert.root, 0, 30)


def test_metadata_that_names_other_qos_loses_nothing(tmp_path: Path, convert: Callable[..., Any]) -> None:
    bag = bags.write(tmp_path / "bag", bags.stream(3.0), StoragePlugin.SQLITE3)
    metadata = yaml.safe_load((bag / "metadata.yaml").read_text())
    for topic in metadata["rosbag2_bagfile_information"]["topics_with_message_count"]:
        topic["topic_metadata"]["offered_qos_profiles"] = (
            "- history: 3\n  depth: 7\n  reliability: 2\n  durability: 1\n"
        )
    (bag / "metadata.yaml").write_text(yaml.safe_dump(metadata))
    assert [episode.frames for episode in convert(bag)] == [30]
    check_rows(convert.root, 0, 30)


@pytest.mark.parametrize("is_listed", [True, False])
def test_files_that_overlap_and_are_named_in_another_order_are_read_by_time(
    is_listed: bool, tmp_path: Path, convert: Callable[..., Any]
) -> None:
    """As a recorder with several threads splits a bag, or one that was merged: every file spans half of the time."""
    events = sorted(bags.stream(4.0), key=lambda event: event[0])
    parts = {
        "run_0": events[-150:],
        "run_1": events[: len(events) - 150 : 2],
        "run_2": events[1 : len(events) - 150 : 2],
    }
    (tmp_path / "bag").mkdir()
    for name, part in parts.items():
        file = bags.write(tmp_path / name, part) / f"{name}.mcap"
        shutil.move(file, tmp_path / "bag" / file.name)
    if is_listed:
        metadata = yaml.safe_load((tmp_path / "run_0" / "metadata.yaml").read_text())
        metadata["rosbag2_bagfile_information"]["relative_file_paths"] = [f"{name}.mcap" for name in parts]
        (tmp_path / "bag" / "metadata.yaml").write_text(yaml.safe_dump(metadata))
    assert [episode.frames for episode in convert(tmp_path / "bag")] == [40]
    check_rows(convert.root, 0, 40)
    assert any("metadata.yaml" in notice for notice in convert.notices) is not is_listed


@pytest.mark.parametrize("late", ["a constant time", "more and more", "all topics", "in bursts"])
def test_what_was_written_late_is_taken_by_its_stamps(late: str, tmp_path: Path, convert: Callable[..., Any]) -> None:
    """Far beyond `settle_ms`: a disk that was slow, a bag that was merged. Offline nothing has to be waited for."""
    events = []
    for received_ns, topic, *rest in bags.stream(4.0):
        age_ns = received_ns - bags.START_NS
        late_ns = {
            "a constant time": s_to_ns(3.0),
            "more and more": age_ns,
            "all topics": s_to_ns(3.0),
            "in bursts": s_to_ns(2.0) - age_ns % s_to_ns(2.0),
        }[late]
        is_late = topic == bags.IMAGES or late == "all topics"
        events.append((received_ns + late_ns * is_late, topic, *rest))
    assert [episode.frames for episode in convert(bags.write(tmp_path / "bag", events))] == [40]
    check_rows(convert.root, 0, 40)
    assert any(f"messages of {bags.IMAGES} were received up to " in notice for notice in convert.notices)


def test_what_came_in_time_is_taken_as_it_came(tmp_path: Path, convert: Callable[..., Any]) -> None:
    convert(bags.write(tmp_path / "bag", bags.stream(2.0)))
    assert not any("stamps" in notice for notice in convert.notices)


def test_images_are_of_the_type_that_the_bag_has_whatever_their_topic_is_called(
    tmp_path: Path, convert: Callable[..., Any]
) -> None:
    name = "sensor_msgs/msg/CompressedImage"

    def compressed(message: Any) -> Any:
        picture = np.asarray(message.data).reshape(bags.HEIGHT, bags.WIDTH, 3)
        data = np.frombuffer(cv2.imencode(".png", picture)[1].tobytes(), np.uint8)
        return bags.kind(name)(message.header, "png", data)

    events = [
        (ns, topic, name, compressed(message)) if topic == bags.IMAGES else (ns, topic, kind, message)
        for ns, topic, kind, message in bags.stream(3.0)
    ]
    assert [episode.frames for episode in convert(bags.write(tmp_path / "bag", events))] == [30]
    check_rows(convert.root, 0, 30)


def stamped(change: Callable[[int], int], topic: str) -> list[bags.Event]:
    """A stream in which the stamps of one topic are changed."""
    events = bags.stream(3.0)
    for received_ns, name, _, message in events:
        if name == topic:
            message.header = bags.header(change(received_ns - s_to_ns(0.005)))
    return events


@pytest.mark.parametrize("topic", [bags.IMAGES, "/franka/joint_states", "/panda_gripper/joint_states"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda ns: 0, "none of the [0-9]+ messages of {} has a stamp .all are 0."),
        (lambda ns: ns + s_to_ns(7.0), "messages of {} were received 7.0 s before their stamps, which come from"),
        (lambda ns: ns - s_to_ns(900.0), "messages of {} were received 900 s after their stamps, which come from"),
    ],
    ids=["zero", "ahead", "long ago"],
)
def test_stamps_that_say_nothing_are_refused_by_topic_and_cause(
    change: Callable[[int], int], said: str, topic: str, tmp_path: Path, convert: Callable[..., Any]
) -> None:
    with pytest.raises(BagError, match=said.format(topic)):
        convert(bags.write(tmp_path / "bag", stamped(change, topic)))


@pytest.mark.parametrize(
    ("topic", "ahead_ms", "said"),
    [
        ("/franka/joint_states", -80, "85 ms after their stamps (median; -20 to 50 ms is usual)"),
        ("/franka/joint_states", 60, "55 ms before their stamps (median; -20 to 50 ms is usual)"),
        ("/franka/joint_states", -30, ""),
        (bags.IMAGES, -120, "125 ms after their stamps (median; -20 to 100 ms is usual)"),
        (bags.IMAGES, 60, "55 ms before their stamps (median; -20 to 100 ms is usual)"),
        (bags.IMAGES, -80, ""),
    ],
)
def test_a_clock_a_little_off_is_told_by_topic(
    topic: str, ahead_ms: int, said: str, tmp_path: Path, convert: Callable[..., Any]
) -> None:
    bag = bags.write(tmp_path / "bag", stamped(lambda ns: ns + ahead_ms * 1_000_000, topic))
    convert(bag, save_anyway=True)  # its end has no frame yet
    told = [notice for notice in convert.notices if "their stamps" in notice]
    assert [notice.startswith(f"messages of {topic} were received {said}") for notice in told] == [True] * bool(said)


def test_values_that_are_no_numbers_are_told_by_topic(tmp_path: Path, convert: Callable[..., Any]) -> None:
    names = PANDA.gripper.finger_joints
    events = [
        (ns, topic, kind, bags.joints(names, (np.nan, 0.0), ns) if "gripper" in topic else message)
        for ns, topic, kind, message in bags.stream(3.0)
    ]
    with pytest.raises(BagError, match=r"150 of 150 messages of /panda_gripper/joint_states .* are not finite"):
        convert(bags.write(tmp_path / "bag", events))


@pytest.mark.parametrize("storage", [*StoragePlugin], ids=lambda storage: storage.name)
@pytest.mark.parametrize("mode", [CompressionMode.FILE, CompressionMode.MESSAGE], ids=lambda mode: mode.name)
@pytest.mark.parametrize("is_listed", [True, False])
def test_compressed_bags_are_read(
    storage: StoragePlugin, mode: CompressionMode, is_listed: bool, tmp_path: Path, convert: Callable[..., Any]
) -> None:
    if storage is StoragePlugin.MCAP and mode is CompressionMode.MESSAGE:
        pytest.skip("rosbag2 has no such bags")
    bag = bags.write(tmp_path / "bag", bags.stream(3.0), storage, compression=mode)
    if not is_listed:
        (bag / "metadata.yaml").unlink()
        (bag,) = bag.iterdir()  # a file by itself
    assert [episode.frames for episode in convert(bag)] == [30]
    check_rows(convert.root, 0, 30)


def test_what_is_whole_in_a_compressed_file_that_was_cut_is_kept(tmp_path: Path, convert: Callable[..., Any]) -> None:
    bag = bags.write(tmp_path / "bag", bags.stream(40.0), compression=CompressionMode.FILE)
    (bag / "metadata.yaml").unlink()
    (file,) = bag.iterdir()
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    saved = convert(file)
    assert 20 < saved[0].frames < 400
    check_rows(convert.root, 0, saved[0].frames)
    assert any(f"{file} cannot be unpacked beyond" in notice for notice in convert.notices)


def test_messages_that_cannot_be_read_are_counted(tmp_path: Path, convert: Callable[..., Any]) -> None:
    when_ns = bags.START_NS + s_to_ns(0.5)
    broken = bags.joints(["elbow"], [0.1], when_ns)
    events = [
        (when_ns, topics.COMMAND, "std_msgs/msg/String", bags.string("no command")),
        (when_ns, topics.CHUNK, topics.TABLE[topics.CHUNK][0], b"\0\1\0\0\xff\xff\xff\x0f"),
        (when_ns, PANDA.endpoints["joint_states"].name, "sensor_msgs/msg/JointState", broken),
    ]
    convert(bags.write(tmp_path / "bag", [*bags.stream(3.0), *events]))
    check_rows(convert.root, 0, 30)
    told = "\n".join(convert.notices)
    assert f"1 messages of {topics.COMMAND} are left out: std_msgs/msg/String, should be trajectory_msgs" in told
    assert f"1 messages of {topics.CHUNK} are not what their type says" in told
    assert "1 messages of /franka/joint_states could not be read: a joint state lacks panda_joint1" in told


@pytest.mark.parametrize(
    ("topic", "events", "message"),
    [
        ("/nowhere", [], r"no messages of /nowhere \(camera front\); its topics: /franka/joint_states \(sensor_msgs/"),
        (
            "/text",
            [(bags.START_NS, "/text", "std_msgs/msg/String", bags.string(""))],
            r"/text \(camera front\) is std_",
        ),
    ],
)
def test_a_camera_that_is_not_in_the_bag_is_refused(
    topic: str, events: list[Any], message: str, tmp_path: Path, convert: Callable[..., Any]
) -> None:
    bag = bags.write(tmp_path / "bag", [*bags.stream(1.0), *events])
    with pytest.raises(BagError, match=message):
        convert(bag, cameras={"front": CameraConfig(topic=topic)})
    assert not convert.root.exists()


def test_joints_and_a_task_are_needed(tmp_path: Path, convert: Callable[..., Any]) -> None:
    events = bags.stream(2.0)
    bag = bags.write(tmp_path / "bag", events)
    with pytest.raises(BagError, match="no episode can begin: there is no task"):
        convert(bag, task="")
    few = bags.write(tmp_path / "few", [it for it in events if it[1] != PANDA.endpoints["joint_states"].name])
    with pytest.raises(BagError, match=r"no messages of /franka/joint_states \(needed for every row\)"):
        convert(few, resume=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "missing does not exist; .* a folder with metadata.yaml"),
        ("folder", r"folder is not a bag: it should have an \.mcap or \.db3 file, and has notes\.txt"),
        ("file.mcap", r"file\.mcap cannot be read: .*file\.mcap is not an MCAP file"),
        ("file.db3", r"file\.db3 cannot be read: Cannot open database"),
        ("notes.txt", r"notes\.txt is not a bag"),
        ("old.bag", r"old\.bag is a bag of ROS 1; `rosbags-convert --src .*old\.bag --dst .*old` converts it to ROS 2"),
    ],
)
def test_what_is_no_bag_is_refused(name: str, message: str, tmp_path: Path, convert: Callable[..., Any]) -> None:
    (tmp_path / "folder").mkdir()
    for file in ("folder/notes.txt", "file.mcap", "file.db3", "notes.txt"):
        (tmp_path / file).write_text("no bag")
    (tmp_path / "old.bag").write_bytes(b"#ROSBAG V2.0\n" + bytes(100))
    with pytest.raises(BagError, match=message):
        convert(tmp_path / name)
