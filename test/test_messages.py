"""Messages are read by their fields: rosbags' as rclpy's (those are in test/ros/test_convert.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rosbags.typesys import Stores, get_typestore

from vla_ros import messages
from vla_ros.robots.panda import PANDA
from vla_ros.values import POSE_DIMENSIONS, Mode, SafetyState

STORES = [Stores.ROS2_HUMBLE, Stores.ROS2_JAZZY, Stores.ROS2_KILTED]


def decoded(store: Stores, name: str, *fields: Any) -> Any:
    """A message as it comes out of a bag."""
    types = get_typestore(store)
    return types.deserialize_cdr(types.serialize_cdr(types.types[name](*fields), name), name)


def header(store: Stores) -> Any:
    types = get_typestore(store).types
    return types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](3, 250), "base")


def said(store: Stores, **statuses: dict[str, str]) -> Any:
    types = get_typestore(store).types
    entry, one = types["diagnostic_msgs/msg/KeyValue"], types["diagnostic_msgs/msg/DiagnosticStatus"]
    array = [
        one(0, name, "running: slowly", "", [entry(key, value) for key, value in values.items()])
        for name, values in statuses.items()
    ]
    return decoded(store, "diagnostic_msgs/msg/DiagnosticArray", header(store), array)


@pytest.mark.parametrize("store", STORES, ids=lambda store: store.name)
def test_a_controller_says_mode_safety_and_counts(store: Stores) -> None:
    values = {"mode": "teleop", "safety_state": "ramping", "intervention.workspace": "4", "chunk_delay_ms": "80.0"}
    message = said(store, inference={"mode": "no mode"}, controller=values)
    status = messages.status_to_controller(message)
    assert status == messages.ControllerStatus(3_000_000_250, Mode.TELEOP, SafetyState.RAMPING, {"workspace": 4})
    assert messages.status_values(message, "inference") == {"mode": "no mode", "state": "running"}
    assert messages.status_values(message, "recorder") is None
    assert messages.status_to_controller(said(store, inference=values)) is None


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"mode": "hold"}, "a status of the controller has no 'safety_state'; it has mode, state"),
        ({"mode": "asleep", "safety_state": "running"}, "'asleep' is not a valid Mode"),
        ({"mode": "hold", "safety_state": "running", "intervention.jerk": "often"}, "invalid literal"),
    ],
)
def test_what_no_controller_says_is_refused(values: dict[str, str], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        messages.status_to_controller(said(Stores.ROS2_KILTED, controller=values))


@pytest.mark.parametrize("store", STORES, ids=lambda store: store.name)
def test_commands_images_and_joints_of_a_bag_are_read(store: Stores) -> None:
    types = get_typestore(store).types
    values, none = np.arange(15.0), np.zeros(0)
    duration = types["builtin_interfaces/msg/Duration"](0, 0)
    point = types["trajectory_msgs/msg/JointTrajectoryPoint"](values, values / 10, none, none, duration)
    names = [*PANDA.joint_names, *POSE_DIMENSIONS, "gripper"]
    trajectory = decoded(store, "trajectory_msgs/msg/JointTrajectory", header(store), names, [point])
    command = messages.trajectory_to_command(trajectory, PANDA.joint_names)
    assert command.time_ns == 3_000_000_250
    assert command.joint_positions.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert command.joint_velocities.tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert command.gripper_width_m == 14.0

    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    fields = (header(store), 4, 6, "bgr8", 0, 18, pixels.reshape(-1))
    assert np.array_equal(messages.image_to_rgb(decoded(store, "sensor_msgs/msg/Image", *fields)), pixels[..., ::-1])

    shuffled = [*reversed(PANDA.joint_names), "another"]
    joints = decoded(store, "sensor_msgs/msg/JointState", header(store), shuffled, np.arange(8.0), none, none)
    assert messages.JointReader(PANDA.joint_names).positions(joints).tolist() == [6, 5, 4, 3, 2, 1, 0]
