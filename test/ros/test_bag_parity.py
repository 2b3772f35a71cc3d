"""The same run recorded live and, beside it, into a bag: the dataset made of the bag is the live one, row for row."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from test_recorder import CAMERAS, FPS, SETTLE_MS, TASK, Desk, number_in, spec

from vla_ros import topics
from vla_ros.graph import NodeSpec
from vla_ros.recording import features
from vla_ros.recording.bag import bag_to_dataset
from vla_ros.recording.config import RecordingConfig
from vla_ros.recording.reader import DatasetReader
from vla_ros.robots.panda import PANDA

RECORDING = RecordingConfig(fps=FPS, settle_ms=SETTLE_MS)
TOPICS = (
    *(camera.topic for camera in CAMERAS.values()),
    *(PANDA.endpoints[name].name for name in ("joint_states", "gripper_joint_states")),
    *(topics.COMMAND, topics.REQUESTED, topics.CHUNK, topics.STATE),
    *(topics.INSTRUCTION, topics.RECORDER_CONTROL, topics.RECORDER_NOTES),
)
ARRIVAL_S = 0.2  # by which a chunk may reach one process before the other, on a busy machine


def test_a_bag_gives_the_rows_that_were_recorded_live(
    make_watcher: Callable[[], Any], start_node: Callable[[NodeSpec], Any], tmp_path: Path
) -> None:
    live, path, of_bag = tmp_path / "live", tmp_path / "bag", tmp_path / "of_bag"
    desk = Desk(make_watcher())
    bag = start_node(NodeSpec("bag", "bag", params={"path": str(path), "topics": [*TOPICS]}))
    recorder = start_node(spec(live))
    desk.watcher.until_said("bag", "recording")
    desk.record(30)
    assert desk.tell("success")[0]
    desk.robot.note("gripper squeaks")
    assert desk.tell("save")[0]
    desk.record(10, "another task")
    assert desk.tell("discard")[0]
    desk.record(15, "another task")
    assert desk.tell("pause")[0]
    desk.until(lambda: desk.said == "paused", "the pause")
    frames = int(desk.value("frames"))
    assert desk.tell("resume")[0]
    desk.until(lambda: int(desk.value("frames")) >= frames + 15, "15 frames more")
    assert desk.tell("save")[0]
    desk.until(lambda: desk.value("obeyed").count("save") == 2, "the recorder to say what it obeyed")
    assert recorder.end(signal.SIGINT) == 0
    assert bag.end(signal.SIGINT) == 0

    notices: list[str] = []
    saved = bag_to_dataset(path, of_bag, PANDA, CAMERAS, RECORDING, on_notice=notices.append)
    assert notices == []
    lived, converted = DatasetReader(live), DatasetReader(of_bag)
    assert [episode.length for episode in lived.meta.episodes] == [episode.frames for episode in saved]
    assert [episode.task for episode in converted.meta.episodes] == [TASK, "another task"]
    for index, episode in enumerate(lived.meta.episodes):
        assert_same(lived, converted, index)
        details = lived.meta.details(episode), converted.meta.details(converted.meta.episodes[index])
        for key in ("success", "notes", "seed"):
            assert details[0][key] == details[1][key]


def assert_same(lived: DatasetReader, converted: DatasetReader, episode: int) -> None:
    """Every column is equal but the latency, which is the arrival's; every image shows the same frame."""
    keys = [feature.key for feature in lived.meta.features.columns]
    mine, theirs = lived.columns(episode, keys), converted.columns(episode, keys)
    for key in keys:
        tolerance = ARRIVAL_S if key == features.LATENCY else 0.0
        np.testing.assert_allclose(mine[key], theirs[key], rtol=0.0, atol=tolerance, err_msg=key)
    first = lived.meta.episodes[episode].from_index
    for row in range(first, first + lived.meta.episodes[episode].length):
        images = lived.row(row).images, converted.row(row).images
        for camera in CAMERAS:
            assert number_in(images[0][camera]) == number_in(images[1][camera])
            assert np.array_equal(images[0][camera], images[1][camera])
