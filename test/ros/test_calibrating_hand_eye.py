"""Views for a hand-eye calibration over DDS: of an arm that somebody moves, and of one that moves itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import degrees
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rclpy
from rclpy.context import Context
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image, JointState

from vla_ros import config, graph, messages
from vla_ros.calibration import views
from vla_ros.calibration.board import Board
from vla_ros.calibration.hand_eye import Mounting
from vla_ros.config import SystemConfig
from vla_ros.control.kinematics import Kinematics
from vla_ros.geometry import pose_matrix, rotation_angle
from vla_ros.graph import NodeSpec
from vla_ros.robots import description
from vla_ros.robots.panda import PANDA
from vla_ros.ros import convert, operating, qos
from vla_ros.ros.calibrating_hand_eye import Plan, take_views
from vla_ros.ros.operating import Unanswered
from vla_ros.simulation import board as simulated

HAND = PANDA.gripper.frame
BOARD = Board()
MATRIX = np.array([[420.0, 0.0, 319.5], [0.0, 420.0, 239.5], [0.0, 0.0, 1.0]])
#: A camera on the hand that looks where the fingers point.
TRUTH = np.array([0.07, 0.01, 0.02, 0.0, 0.0, 0.70710678, 0.70710678])
PLAN = Plan("wrist", Mounting.IN_HAND, HAND, BOARD, count=6, auto=False)
#: Where the person turns the last joints to, one place after the other.
TURNS = [(0, 0, 0), (0.25, 0, 0), (-0.25, 0.1, 0.3), (0, 0.25, 0), (0, -0.25, -0.3), (0.2, 0.2, 0.4)]


class Peer:
    """A camera and an arm that somebody moves: another place whenever `next` is called."""

    def __init__(self, node: Node, system: SystemConfig) -> None:
        camera = system.cameras["wrist"]
        self._node = node
        self._hand = Kinematics(description.urdf(PANDA), PANDA.joint_names, HAND)
        self._board = pose_matrix(self._hand.forward(np.array(PANDA.home_rad))) @ pose_matrix(TRUTH) @ in_front()
        self._joint_states = node.create_publisher(JointState, PANDA.endpoints["joint_states"].name, qos.SENSOR)
        self._images = node.create_publisher(Image, camera.topic, qos.SENSOR)
        self._infos = node.create_publisher(CameraInfo, camera.info_topic, qos.SENSOR)
        self.place = 0

    def publish(self) -> None:
        joints = np.array(PANDA.home_rad)
        joints[[5, 4, 6]] += TURNS[min(self.place, len(TURNS) - 1)]
        stamp = self._node.get_clock().now().to_msg()
        state = JointState(name=list(PANDA.joint_names), position=joints.tolist())
        state.header.stamp = stamp
        self._joint_states.publish(state)
        in_camera = np.linalg.inv(pose_matrix(self._hand.forward(joints)) @ pose_matrix(TRUTH)) @ self._board
        image = convert.rgb_to_image(drawn(in_camera), messages.stamp_to_ns(stamp), "wrist_optical")
        self._images.publish(image)
        info = CameraInfo(width=640, height=480, distortion_model="plumb_bob", d=[0.0] * 5, k=MATRIX.ravel().tolist())
        info.header = image.header
        self._infos.publish(info)


def in_front() -> np.ndarray:
    """The board's pose (4, 4) in the camera, 0.4 m before it."""
    transform = np.eye(4)
    transform[:3, 3] = (-BOARD.size_m[0] / 2, -BOARD.size_m[1] / 2, 0.4)
    return transform


def drawn(in_camera: np.ndarray) -> np.ndarray:
    """The picture of the board at a pose (4, 4), by the homography of its plane."""
    px_per_m, margin_px = 48 / BOARD.square_m, 24
    on_board = np.array([[1, 0, 0.5 - margin_px], [0, 1, 0.5 - margin_px], [0, 0, px_per_m]]) / px_per_m
    to_camera = MATRIX @ in_camera[:3, [0, 1, 3]] @ on_board
    grey = cv2.warpPerspective(
        BOARD.picture(48, margin_px), to_camera, (640, 480), flags=cv2.INTER_AREA, borderValue=255
    )
    return np.repeat(grey[:, :, None], 3, axis=2)


@contextmanager
def peer(system: SystemConfig) -> Iterator[Peer]:
    """Publishes fifteen times a second, in a thread of its own."""
    context = Context()
    rclpy.init(context=context)
    node = Node("peer", context=context)
    made, ended = Peer(node, system), threading.Event()

    def publish() -> None:
        while not ended.wait(1 / 15):
            made.publish()

    thread = threading.Thread(target=publish)
    thread.start()
    yield made
    ended.set()
    thread.join()
    node.destroy_node()
    rclpy.try_shutdown(context=context)


@pytest.fixture
def system() -> SystemConfig:
    return config.load("franka_upvla")


def test_a_view_is_taken_wherever_the_arm_stands_anew(system: SystemConfig, ros_domain_id: int, tmp_path: Path) -> None:
    said: list[str] = []
    with peer(system) as moved:

        def on_progress(text: str) -> None:
            said.append(text)
            moved.place += " of 6 views" in text

        taken = take_views(
            system, PLAN, tmp_path, simulate=False, confirm=lambda _: pytest.fail("asked"), on_progress=on_progress
        )
    assert taken is not None
    assert views.load(tmp_path) == taken
    assert [text.partition(" views")[0] for text in said[1:]] == [f"{count} of 6" for count in range(1, 7)]
    assert "turn the hand about its x, y and z axis" in said[1]
    assert (taken.frame_id, taken.parent, taken.width, taken.height) == ("wrist_optical", HAND, 640, 480)
    found = views.solve(tmp_path, taken).hand_eye
    assert 1000.0 * np.linalg.norm(found.pose[:3] - TRUTH[:3]) < 2.0
    assert degrees(rotation_angle(found.pose[3:], TRUTH[3:])) < 0.3


def test_what_does_not_come_is_named(
    system: SystemConfig, ros_domain_id: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operating, "APPEAR_S", 0.3)
    with pytest.raises(Unanswered, match="no picture of camera wrist on /camera/wrist/image_raw together with the arm"):
        take_views(system, PLAN, tmp_path, simulate=False, confirm=bool, on_progress=print)


@pytest.mark.full
def test_an_arm_that_moves_itself_finds_its_camera(
    system: SystemConfig, start_node: Callable[[NodeSpec], Any], tmp_path: Path
) -> None:
    assert system.simulation is not None
    plan = Plan("wrist", Mounting.IN_HAND, HAND, BOARD, 8, True, simulated.VIEWPOINTS[Mounting.IN_HAND])
    camera = system.cameras["wrist"].model_copy(update={"width": 640, "height": 480})
    world = system.simulation.model_copy(update={"board": simulated.on_table(BOARD)})
    system = system.model_copy(update={"cameras": {"wrist": camera}, "simulation": world})
    nodes = [start_node(spec) for spec in graph.build_without_policy(system).nodes]
    asked: list[str] = []

    def confirm(intention: str) -> bool:
        asked.append(intention)
        return True

    taken = take_views(system, plan, tmp_path, simulate=True, confirm=confirm, on_progress=print)
    assert taken is not None, [node.output for node in nodes]
    assert len(taken.views) >= 6  # where a busy machine keeps the arm from standing in time, it goes on
    assert "to 8 poses, at 100 mm/s" in asked[0]
    found = views.solve(tmp_path, taken).hand_eye
    assert taken.pose_in_tf is not None  # the truth: the simulator tells TF where its camera is
    assert 1000.0 * np.linalg.norm(found.pose[:3] - taken.pose_in_tf[:3]) < 3.0
    assert degrees(rotation_angle(found.pose[3:], np.array(taken.pose_in_tf[3:]))) < 0.3
