"""The bag node over DDS: a bag that rosbags reads back, whole, however the node was ended; and what it refuses."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from franka_msgs.msg import FrankaState
from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability, QosReliability
from std_msgs.msg import String

from vla_ros import topics
from vla_ros.graph import NodeSpec
from vla_ros.robots.panda import PANDA
from vla_ros.ros import convert, qos
from vla_ros.values import ActionChunk

COUNT = 20


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_was_published_is_in_the_bag(
    number: int, start_node: Callable[[NodeSpec], Any], make_watcher: Callable[[], Any], tmp_path: Path
) -> None:
    watcher = make_watcher()
    rgb = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    chunk = ActionChunk(7, 100_000_000, PANDA.joint_names, np.arange(21.0).reshape(3, 7))
    status = DiagnosticStatus(level=DiagnosticStatus.WARN, name="x", values=[KeyValue(key="k", value="v")])
    sent = {  # nested, bounded and fixed-size fields, a type of our own workspace, a large one, a latched one
        "/image": (convert.rgb_to_image(rgb, 5, "camera"), qos.SENSOR),
        topics.CHUNK: (convert.chunk_to_trajectory(chunk, "base"), qos.COMMAND),
        "/robot_state": (FrankaState(q=[0.5] * 7, robot_mode=4), qos.SENSOR),
        "/said": (DiagnosticArray(status=[status]), qos.STATE),
        topics.INSTRUCTION: (String(data="lift the red cube"), qos.LATCHED),
    }
    publishers = {topic: watcher.create_publisher(type(one), topic, profile) for topic, (one, profile) in sent.items()}
    latched = publishers.pop(topics.INSTRUCTION)
    latched.publish(sent[topics.INSTRUCTION][0])  # once, before anybody listens
    watcher.create_timer(0.02, lambda: [publishers[topic].publish(sent[topic][0]) for topic in publishers])

    path = tmp_path / "new" / "bag"
    params = {"path": str(path), "topics": [*sent, "/nobody"]}
    process = start_node(NodeSpec("bag", "bag", params=params))
    watcher.until_said("bag", "waiting: no node publishes /nobody")
    watcher.until(lambda: all(recorded(watcher, topic) >= COUNT for topic in publishers), "all to be recorded")
    counts = {topic: recorded(watcher, topic) for topic in sent}
    assert process.end(number) == 0

    with AnyReader([path]) as reader:
        messages = {topic: [] for topic in sent}
        offered = {connection.topic: connection.ext.offered_qos_profiles for connection in reader.connections}
        for connection, _, data in reader.messages():
            messages[connection.topic].append(reader.deserialize(data, connection.msgtype))
    assert all(len(messages[topic]) >= counts[topic] for topic in sent)
    assert len(messages[topics.INSTRUCTION]) == counts[topics.INSTRUCTION] == 1
    # Or a player offers what late subscribers do not match, such as those of a latched topic.
    reliable, kept = QosReliability, QosDurability
    for topic, reliability, durability in (
        (topics.INSTRUCTION, reliable.RELIABLE, kept.TRANSIENT_LOCAL),
        (topics.CHUNK, reliable.RELIABLE, kept.VOLATILE),
        ("/image", reliable.BEST_EFFORT, kept.VOLATILE),
    ):
        assert [(one.reliability, one.durability) for one in offered[topic]] == [(reliability, durability)]
    about = yaml.safe_load((path / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    told = {one["topic_metadata"]["name"]: one["topic_metadata"] for one in about["topics_with_message_count"]}
    assert told[topics.INSTRUCTION]["offered_qos_profiles"][0]["durability"] == "transient_local"
    assert np.array_equal(messages["/image"][-1].data.reshape(rgb.shape), rgb)
    assert messages[topics.CHUNK][0].joint_names == list(PANDA.joint_names)
    assert messages[topics.CHUNK][0].points[2].positions.tolist() == list(range(14, 21))
    assert messages[topics.CHUNK][0].points[2].time_from_start.nanosec == 200_000_000
    assert messages["/robot_state"][0].q.tolist() == [0.5] * 7
    assert messages["/robot_state"][0].robot_mode == 4
    assert messages["/said"][0].status[0].values[0].value == "v"
    assert messages[topics.INSTRUCTION][0].data == "lift the red cube"


def recorded(watcher: Any, topic: str) -> int:
    return int(watcher.values["bag"].get(f"messages{topic}", 0))


def test_a_folder_that_is_there_already_is_left_alone(start_node: Callable[[NodeSpec], Any], tmp_path: Path) -> None:
    old = tmp_path / "bag"
    old.mkdir()
    (old / "precious").write_text("data")
    process = start_node(NodeSpec("bag", "bag", params={"path": str(old), "topics": ["/image"]}))
    assert process.exit_code() == 2
    assert process.output == f"error: {old} already exists and is not overwritten; give a new folder\n"
    assert (old / "precious").read_text() == "data"
