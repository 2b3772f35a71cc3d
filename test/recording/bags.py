"""Bags as a robot would leave them, by rosbags: a camera, joints that follow a ramp, what a controller says."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from vla_ros import topics
from vla_ros.robots.panda import PANDA
from vla_ros.timing.stamps import s_to_ns

TYPES = get_typestore(Stores.ROS2_KILTED)
IMAGES = "/front/image_raw"
HEIGHT, WIDTH = 32, 48
FPS = 10
START_NS = s_to_ns(1000.0)
SPEED_RAD_S = 0.1

Event = tuple[int, str, str, Any]  # received [ns], topic, type, message


def kind(name: str) -> Any:
    return TYPES.types[name]


def header(stamp_ns: int) -> Any:
    time = kind("builtin_interfaces/msg/Time")(*divmod(stamp_ns, s_to_ns(1.0)))
    return kind("std_msgs/msg/Header")(time, "")


def gray(number: int) -> int:
    """Of a camera's frame."""
    return 20 + number * 7 % 210


def joint(time_ns: int) -> float:
    """The first joint's position."""
    return (time_ns - START_NS) * 1e-9 * SPEED_RAD_S


def image(number: int, stamp_ns: int) -> Any:
    data = np.full(HEIGHT * WIDTH * 3, gray(number), dtype=np.uint8)
    return kind("sensor_msgs/msg/Image")(header(stamp_ns), HEIGHT, WIDTH, "rgb8", 0, 3 * WIDTH, data)


def joints(names: Iterable[str], positions: Iterable[float], stamp_ns: int) -> Any:
    none = np.zeros(0)
    return kind("sensor_msgs/msg/JointState")(header(stamp_ns), list(names), np.array([*positions]), none, none)


def string(text: str) -> Any:
    return kind("std_msgs/msg/String")(text)


def state(name: str, message: str, values: dict[str, str], stamp_ns: int) -> Any:
    pair = kind("diagnostic_msgs/msg/KeyValue")
    entries = [pair(key, value) for key, value in values.items()]
    status = kind("diagnostic_msgs/msg/DiagnosticStatus")(0, name, message, "", entries)
    return kind("diagnostic_msgs/msg/DiagnosticArray")(header(stamp_ns), [status])


def controller(mode: str, stamp_ns: int) -> Event:
    values = {"mode": mode, "safety_state": "running", "intervention.workspace": "2", "intervention.chunks": "9"}
    return (
        stamp_ns,
        topics.STATE,
        "diagnostic_msgs/msg/DiagnosticArray",
        state("controller", "running", values, stamp_ns),
    )


def told(topic: str, text: str, time_ns: int) -> Event:
    return time_ns, topic, "std_msgs/msg/String", string(text)


def stream(seconds: float, late_ns: int = s_to_ns(0.005), offset_ns: int = 0) -> list[Event]:
    """Frames at 10 Hz, joints and gripper at 50 Hz; received `late_ns` after, by a clock `offset_ns` on."""
    ends = PANDA.endpoints
    events: list[Event] = []
    for number in range(round(seconds * FPS)):
        stamp_ns = START_NS + number * s_to_ns(1 / FPS)
        events.append((stamp_ns, IMAGES, "sensor_msgs/msg/Image", image(number, stamp_ns)))
    for number in range(round(seconds * 50)):
        stamp_ns = START_NS + number * s_to_ns(0.02)
        positions = [joint(stamp_ns), *PANDA.home_rad[1:]]
        arm = joints(PANDA.joint_names, positions, stamp_ns)
        fingers = joints(PANDA.gripper.finger_joints, (0.01, 0.02), stamp_ns)
        events.append((stamp_ns, ends["joint_states"].name, "sensor_msgs/msg/JointState", arm))
        events.append((stamp_ns, ends["gripper_joint_states"].name, "sensor_msgs/msg/JointState", fingers))
    return [(stamp_ns + late_ns + offset_ns, *rest) for stamp_ns, *rest in events]


def write(
    path: Path,
    events: Iterable[Event],
    storage: StoragePlugin = StoragePlugin.MCAP,
    as_given: bool = False,
    compression: CompressionMode = CompressionMode.NONE,
) -> Path:
    """A closed bag; in order of receipt, or `as_given`."""
    version = 9 if storage is StoragePlugin.MCAP else 8
    writer = Writer(path, version=version, storage_plugin=storage)
    if compression is not CompressionMode.NONE:
        writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        connections: dict[str, Any] = {}
        for received_ns, topic, name, message in events if as_given else sorted(events, key=lambda event: event[0]):
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, name, typestore=TYPES)
            data = message if isinstance(message, bytes) else TYPES.serialize_cdr(message, name)
            writer.write(connections[topic], received_ns, data)
    return path
