"""The simulator node in its own process, over DDS: rates in simulated time, pictures, frames, episodes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")

from franka_msgs.msg import FrankaState
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage

from vla_ros import messages, topics
from vla_ros.robots.panda import PANDA
from vla_ros.ros import convert, qos
from vla_ros.ros.polling import PolledSubscription
from vla_ros.simulation.tabletop import Tabletop
from vla_ros.simulation.world import optical_frame

PARAMETERS = """
/**:
  ros__parameters:
    seed: 7
    cameras:
      front: {topic: /camera/front/image_raw}
      wrist: {topic: /camera/wrist/image_raw/compressed}
"""
FRONT, WRIST = "/camera/front/image_raw", "/camera/wrist/image_raw/compressed"
JOINTS, ROBOT = PANDA.endpoints["joint_states"].name, PANDA.endpoints["robot_state"].name
FINGERS = PANDA.endpoints["gripper_joint_states"].name
EVERYTHING = QoSProfile(depth=2000, reliability=ReliabilityPolicy.BEST_EFFORT)
KINDS: dict[str, type] = {
    "/clock": Clock,
    FRONT: Image,
    WRIST: CompressedImage,
    "/camera/front/camera_info": CameraInfo,
    "/camera/wrist/camera_info": CameraInfo,
    JOINTS: JointState,
    ROBOT: FrankaState,
    FINGERS: JointState,
    topics.SIMULATION_STATE: Float64MultiArray,
    "/tf": TFMessage,
}


class Listener:
    """Keeps every message of the simulator, in the order of its topic."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.messages: dict[str, list[Any]] = {topic: [] for topic in KINDS}
        self._subscriptions = {
            topic: PolledSubscription(node, kind, topic, EVERYTHING) for topic, kind in KINDS.items()
        }

    def until(self, condition: Callable[[], Any], what: str, timeout_s: float = 60.0) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, f"waited in vain until {what}"
            rclpy.spin_once(self.node, executor=self.node.executor, timeout_sec=0.02)
            for topic, subscription in self._subscriptions.items():
                self.messages[topic] += subscription.take_all()

    def times_ns(self, topic: str) -> list[int]:
        return [time_ns(message) for message in self.messages[topic]]

    def clear(self) -> None:
        for heard in self.messages.values():
            heard.clear()

    @property
    def span_ns(self) -> int:
        """Simulated time heard of."""
        times = self.times_ns("/clock")
        return times[-1] - times[0] if times else 0


def time_ns(message: Any) -> int:
    if isinstance(message, Clock):
        return messages.stamp_to_ns(message.clock)
    if isinstance(message, Float64MultiArray):
        return convert.array_to_world_state(message).time_ns
    return messages.stamp_to_ns((message.transforms[0] if isinstance(message, TFMessage) else message).header.stamp)


@pytest.fixture
def listener(ros_domain_id: int) -> Iterator[Listener]:
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=ros_domain_id)
    node = Node("listener", context=context)
    executor = rclpy.executors.SingleThreadedExecutor(context=context)
    executor.add_node(node)
    yield Listener(node)
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown(context=context)


def start(parameters: str, folder: Path) -> subprocess.Popen[str]:
    file = folder / "parameters.yaml"
    file.write_text(parameters)
    command = [sys.executable, "-m", "vla_ros.ros.nodes", "simulator", "--ros-args", "--params-file", str(file)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


@pytest.fixture
def simulator(listener: Listener, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = start(PARAMETERS, tmp_path)
    try:
        listener.until(
            lambda: all(listener.messages.values()) or process.poll() is not None, "every topic has been heard once"
        )
        assert process.poll() is None, process.communicate()[1]
        listener.clear()
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors


def reset(listener: Listener) -> str:
    client = listener.node.create_client(Trigger, topics.SIMULATION_RESET)
    listener.until(client.service_is_ready, "the service is there")
    future = client.call_async(Trigger.Request())
    listener.until(future.done, "the world is reset")
    response = future.result()
    assert response.success
    return str(response.message)


@pytest.mark.usefixtures("simulator")
def test_what_it_publishes(listener: Listener) -> None:
    fixed: list[TFMessage] = []
    listener.node.create_subscription(TFMessage, "/tf_static", fixed.append, qos.LATCHED)
    listener.until(lambda: listener.span_ns > 2 * 10**9 and fixed, "two seconds have passed")
    expected = {
        "/clock": 200.0,
        FRONT: 30.0,
        WRIST: 30.0,
        "/camera/front/camera_info": 30.0,
        "/camera/wrist/camera_info": 30.0,
        JOINTS: 1000.0,
        ROBOT: 1000.0,
        FINGERS: 15.0,
        topics.SIMULATION_STATE: 50.0,
        "/tf": 30.0,
    }
    for topic, rate_hz in expected.items():
        times = listener.times_ns(topic)
        assert all(later > earlier for earlier, later in pairwise(times)), topic
        heard_hz = (len(times) - 1) / (times[-1] - times[0]) * 1e9
        assert heard_hz == pytest.approx(rate_hz, rel=0.1), topic

    images = {camera: listener.messages[topic] for camera, topic in (("front", FRONT), ("wrist", WRIST))}
    for camera, heard in images.items():
        picture = messages.image_to_rgb(heard[-1])
        assert picture.shape == (256, 256, 3)
        assert picture.std() > 10.0  # not one colour
        assert heard[-1].header.frame_id == optical_frame(camera)
    stamps = set(listener.times_ns(FRONT)) & set(listener.times_ns(WRIST))
    assert len(stamps) >= len(images["front"]) - 2  # both cameras see the same instants

    calibration = listener.messages["/camera/front/camera_info"][-1]
    assert (calibration.width, calibration.height) == (256, 256)
    assert calibration.k[0] == calibration.k[4] > 100.0
    joints = listener.messages[JOINTS][-1]
    assert tuple(joints.name) == PANDA.joint_names
    assert np.abs(np.array(joints.position) - PANDA.home_rad).max() < 0.15
    assert sum(listener.messages[FINGERS][-1].position) == pytest.approx(0.08, abs=1e-3)
    state = listener.messages[ROBOT][-1]
    assert state.robot_mode == FrankaState.ROBOT_MODE_MOVE

    # TF leads from the base to the TCP, where the robot says it is.
    parents = {t.child_frame_id: t for t in [*listener.messages["/tf"][-1].transforms, *fixed[-1].transforms]}
    pose = np.eye(4)
    frame = PANDA.tcp_frame
    while frame != PANDA.base_frame:
        pose = matrix(parents[frame].transform) @ pose
        frame = parents[frame].header.frame_id
    np.testing.assert_allclose(pose, np.reshape(state.o_t_ee, (4, 4), order="F"), atol=2e-3)
    assert {optical_frame("front"), optical_frame("wrist")} <= set(parents)


@pytest.mark.usefixtures("simulator")
def test_episodes(listener: Listener) -> None:
    world = Tabletop(PANDA)
    last_ns = 0
    for seed in (7, 8):
        instruction = reset(listener)
        assert instruction == world.reset(seed)
        listener.clear()
        listener.until(lambda: listener.span_ns > 2 * 10**8, "the new episode is seen")
        state = convert.array_to_world_state(listener.messages[topics.SIMULATION_STATE][-1])
        for color in ("red", "green", "blue"):
            np.testing.assert_allclose(state.cube_pose(color)[:2], world.state().cube_pose(color)[:2], atol=2e-3)
        times = listener.times_ns(JOINTS)
        assert times[0] > last_ns
        assert times == sorted(times)
        last_ns = times[-1]


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ("/**: {ros__parameters: {robot: pando}}", "unknown robot 'pando'"),
        ("/**: {ros__parameters: {clock_rate_hz: 0.0, sead: 1}}", "sead"),
        (
            "/**: {ros__parameters: {cameras: {top: {topic: /camera/top/image_raw}}}}",
            "(given top); should be of front, wrist",
        ),
    ],
)
def test_a_wrong_configuration(ros_domain_id: int, tmp_path: Path, parameters: str, told: str) -> None:
    process = start(parameters, tmp_path)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2, errors
    assert told in errors
    assert "Traceback" not in errors


def test_it_ends_beside_a_robot_that_would_be_commanded_too(listener: Listener, tmp_path: Path) -> None:
    process = start(PARAMETERS, tmp_path)
    try:
        listener.until(lambda: listener.span_ns > 0, "time runs")
        listener.node.create_publisher(JointState, JOINTS, 10)
        listener.until(lambda: process.poll() is not None, "the simulation has ended")
        assert "a robot is in this ROS domain" in process.communicate()[1]
    finally:
        process.kill()


def matrix(transform: Any) -> np.ndarray:
    """A transform message as a 4x4 matrix, by the textbook formula."""
    x, y, z, w = transform.rotation.x, transform.rotation.y, transform.rotation.z, transform.rotation.w
    result = np.eye(4)
    result[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    result[:3, 3] = [transform.translation.x, transform.translation.y, transform.translation.z]
    return result
