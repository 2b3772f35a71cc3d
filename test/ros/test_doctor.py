"""The doctor over real DDS: a robot with everything wrong, the simulated system with nothing, and the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("mujoco")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Float64MultiArray

from vla_ros import config, graph, topics
from vla_ros.config import SystemConfig
from vla_ros.doctor import system as running
from vla_ros.doctor.findings import Finding, Level
from vla_ros.graph import Graph
from vla_ros.robots.panda import PANDA
from vla_ros.ros.doctor import observing

FRONT, WRIST = "/camera/front/image_raw", "/camera/wrist/image_raw"
JOINTS, FINGERS = PANDA.endpoints["joint_states"].name, PANDA.endpoints["gripper_joint_states"].name
TARGETS = PANDA.endpoints["joints_desired"].name
BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
DRIVER = f"driver of the {PANDA.title}"
OK, WARN, FAIL = Level.OK, Level.WARN, Level.FAIL

REAL = """\
title: A real arm
robot: panda
policy: {name: up_vla}
cameras:
  front: {topic: /camera/front/image_raw, rate_hz: 30, width: 64, height: 48}
  wrist: {topic: /camera/wrist/image_raw, rate_hz: 30, width: 64, height: 48}
"""


class BrokenRobot:
    """Nodes of one process that do wrong what can be done wrong, at 10 Hz."""

    def __init__(self, context: Context) -> None:
        named = {"realsense": "", "franka": "", "teleop": "", "viewer": "", "inference": "/vla", "controller": "/vla"}
        self._nodes = {name: Node(name, namespace=space, context=context) for name, space in named.items()}
        nodes = self._nodes
        self._front = nodes["realsense"].create_publisher(Image, FRONT, BEST_EFFORT)
        nodes["viewer"].create_subscription(Image, FRONT, lambda _: None, 10)  # asks RELIABLE
        self._wrist = nodes["realsense"].create_publisher(CompressedImage, WRIST, BEST_EFFORT)
        self._joints = nodes["franka"].create_publisher(JointState, JOINTS, 10)
        self._fingers = nodes["franka"].create_publisher(JointState, FINGERS, 10)
        nodes["franka"].create_subscription(Float64MultiArray, TARGETS, lambda _: None, 10)
        self._targets = [
            nodes[name].create_publisher(Float64MultiArray, TARGETS, 10) for name in ("controller", "teleop")
        ]
        self._state = nodes["controller"].create_publisher(DiagnosticArray, topics.STATE, 10)
        nodes["franka"].create_timer(0.1, self._publish)
        self._executor = SingleThreadedExecutor(context=context)
        for node in nodes.values():
            self._executor.add_node(node)
        self._thread = threading.Thread(target=self._executor.spin)
        self._thread.start()

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join()
        for node in self._nodes.values():
            node.destroy_node()

    def _publish(self) -> None:
        now = self._nodes["franka"].get_clock().now().to_msg()
        image = Image(height=60, width=80, encoding="rgb8", step=240, data=bytes(80 * 60 * 3))
        image.header.stamp = now
        self._front.publish(image)
        self._joints.publish(JointState(name=["fr3_joint1"], position=[0.0]))  # another arm's, and no stamp
        fingers = JointState(name=list(PANDA.gripper.finger_joints), position=[0.04, 0.04])
        fingers.header.stamp = now
        fingers.header.stamp.sec += 2
        self._fingers.publish(fingers)
        stopped = DiagnosticStatus(level=DiagnosticStatus.ERROR, name="controller", message="stopped: emergency stop")
        stopped.values = [KeyValue(key="safety_state", value="stopped")]
        self._state.publish(DiagnosticArray(status=[stopped]))


@pytest.fixture
def broken_robot(ros_domain_id: int) -> Iterator[BrokenRobot]:
    context = Context()
    rclpy.init(context=context)
    robot = BrokenRobot(context)
    yield robot
    robot.close()
    rclpy.try_shutdown(context=context)


def examine(system: SystemConfig, built: Graph, seconds: float) -> list[Finding]:
    report = running.judge(system, built, observing.observe(system, built, seconds), "this")
    return [finding for findings in report.values() for finding in findings]


def test_everything_that_is_wrong_is_found(broken_robot: BrokenRobot, tmp_path: Path) -> None:
    file = tmp_path / "real.yaml"
    file.write_text(REAL)
    system = config.load(str(file))
    findings = examine(system, graph.build(system), 1.5)

    def found(level: Level, subject: str, told: str) -> bool:
        return any((f.level, f.subject) == (level, subject) and told in f.found for f in findings)

    for level, subject, told in (
        (WARN, FRONT, "/realsense offers BEST_EFFORT, /viewer requests RELIABLE: incompatible"),
        (FAIL, FRONT, " Hz"),
        (FAIL, FRONT, "every image is the same"),
        (WARN, FRONT, "80x60 rgb8"),
        (FAIL, WRIST, "/realsense publishes sensor_msgs/msg/CompressedImage"),
        (FAIL, JOINTS, "have no time stamp (0)"),
        (FAIL, JOINTS, "a joint state lacks panda_joint1, "),
        (FAIL, FINGERS, "in the future"),
        (FAIL, TARGETS, "2 publishers: "),
        (FAIL, DRIVER, f"is running, but does not publish {PANDA.endpoints['robot_state'].name}"),
        (FAIL, DRIVER, f"lacks the action {PANDA.endpoints['gripper_homing'].name}, "),
        (FAIL, "/vla/inference", f"is running, but does not publish {topics.CHUNK} "),
        (FAIL, "/vla/controller", f"lacks the service {topics.START}, "),
        (FAIL, "/vla/inference", "silent for 1.5 s"),
        (FAIL, "/vla/controller", "stopped: emergency stop"),
    ):
        assert found(level, subject, told), (level, subject, told, findings)


def test_of_the_simulated_system_nothing_is_wrong(
    start_node: Callable[..., Any], make_watcher: Callable[..., Any]
) -> None:
    system = config.override(config.load("franka_upvla"), instruction="lift the red cube")
    built = graph.build(system)
    for node in built.nodes:
        start_node(node)
    watcher = make_watcher()
    watcher.until_said("controller", "running")
    findings = examine(system, built, 2.0)
    # A machine that is busy with other tests slows the simulation and may lose a frame; what it says of that is true.
    assert [f for f in findings if f.level is not OK and not _is_of_a_busy_machine(f)] == []
    said = {finding.subject: finding.found for finding in findings}
    assert said["nodes"] == "simulator, inference and controller run"
    for subject, told in ((FRONT, "256x256 rgb8"), (JOINTS, "1000.0 Hz")):
        assert told in said[subject] or "lost in transport" in said[subject]

    watcher.create_publisher(Float64MultiArray, TARGETS, 1)
    (crowd,) = (f for f in examine(system, built, 1.0) if f.subject == TARGETS and f.level is FAIL)
    assert (crowd.found.partition(":")[0], crowd.remedy) == ("2 publishers", "end /watcher")


def _is_of_a_busy_machine(finding: Finding) -> bool:
    return finding.level is WARN and (
        finding.subject in ("/clock", "/vla/controller", "/vla/inference") or "lost in transport" in finding.found
    )


def vla_ros_doctor(*arguments: str, code: str = "") -> tuple[int, str]:
    start = ["-c", code] if code else ["-m", "vla_ros"]
    command = [sys.executable, *start, "doctor", *arguments]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


def test_the_command_tells_a_machine_everything(ros_domain_id: int) -> None:
    exit_code, out = vla_ros_doctor("--json")
    findings = json.loads(out)
    assert {finding["group"] for finding in findings} == {"machine", "devices", "ROS"}
    (images,) = (finding for finding in findings if finding["subject"].startswith("640x480 images"))
    assert " of 60 arrived, median " in images["found"]
    assert exit_code == any(finding["level"] == "fail" for finding in findings)


def test_a_system_that_does_not_run_is_one_failure(ros_domain_id: int) -> None:
    exit_code, out = vla_ros_doctor("franka_upvla", "--seconds", "0.5")
    assert exit_code == 1
    assert f"none of simulator, inference or controller runs in ROS domain {ros_domain_id}" in " ".join(out.split())
    assert "1 fail" in out.splitlines()[-1]


WITHOUT_ROS = """
import sys
sys.modules["rclpy"] = None
from vla_ros.cli import main
main()
"""


def test_without_ros_it_says_so_and_looks_at_the_rest() -> None:
    exit_code, out = vla_ros_doctor("franka_upvla", "--json", code=WITHOUT_ROS)
    findings = {finding["subject"]: finding for finding in json.loads(out)}
    assert exit_code == 1
    assert findings["ROS 2"]["level"] == "fail" and "setup.bash" in findings["ROS 2"]["remedy"]
    assert findings["memory"]["found"]
