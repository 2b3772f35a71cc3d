"""The controller node over DDS, with a robot that is where it was last sent: holds, follows, refuses, says why."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from controller_manager_msgs.srv import SwitchController
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from franka_msgs.msg import FrankaState
from franka_msgs.srv import ErrorRecovery
from rcl_interfaces.srv import SetParameters
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from vla_ros import topics
from vla_ros.graph import NodeSpec
from vla_ros.robots.panda import PANDA
from vla_ros.ros import convert, qos
from vla_ros.values import NANOSECONDS_PER_MILLISECOND, ActionChunk, Target

HOME = np.array(PANDA.home_rad)
STEP_NS = 100 * NANOSECONDS_PER_MILLISECOND


class ObedientRobot:
    """Publishes joint states at 100 Hz: where the last target was, at home before the first; and that it follows."""

    def __init__(self, node: Node) -> None:
        self.positions = HOME.copy()
        self.state = FrankaState(robot_mode=FrankaState.ROBOT_MODE_MOVE)
        self._node = node
        endpoints = PANDA.endpoints
        self._joint_states = node.create_publisher(JointState, endpoints["joint_states"].name, qos.SENSOR)
        self._robot_states = node.create_publisher(FrankaState, endpoints["robot_state"].name, qos.SENSOR)
        node.create_subscription(Float64MultiArray, endpoints["joints_desired"].name, self._on_target, qos.COMMAND)
        node.create_timer(0.01, self._publish)

    def _on_target(self, message: Float64MultiArray) -> None:
        self.positions = np.array(message.data)

    def _publish(self) -> None:
        message = JointState(name=list(PANDA.joint_names), position=self.positions.tolist(), velocity=[0.0] * 7)
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._joint_states.publish(message)
        self._robot_states.publish(self.state)


def say_that_the_policy_is_there(node: Node) -> None:
    """What the inference node says ten times a second."""
    states = node.create_publisher(DiagnosticArray, topics.STATE, qos.STATE)
    here = DiagnosticArray(status=[DiagnosticStatus(name="inference")])
    node.create_timer(0.1, lambda: states.publish(here))


def watch(watcher: Any, start_node: Callable[[NodeSpec], Any], params: dict[str, Any] | None = None) -> Any:
    """The watcher with a robot, and with the controller started."""
    watcher.robot = ObedientRobot(watcher)
    say_that_the_policy_is_there(watcher)
    watcher.chunks = watcher.create_publisher(JointTrajectory, topics.CHUNK, qos.COMMAND)
    watcher.commands = watcher.hear(JointTrajectory, topics.COMMAND)
    watcher.process = start_node(NodeSpec("controller", "controller", params=params or {}))
    watcher.until_said("controller", "holding: ")
    watcher.until(lambda: watcher.chunks.get_subscription_count() == 1, "the controller to listen for chunks")
    return watcher


@pytest.fixture
def watcher(make_watcher: Callable[[], Any], start_node: Callable[[NodeSpec], Any]) -> Any:
    watcher = watch(make_watcher(), start_node)
    watcher.until_said("controller", "holding: not started")
    return watcher


def chunk_of(positions: np.ndarray, observed_ns: int, rows: int = 10) -> ActionChunk:
    return ActionChunk(observed_ns, STEP_NS, PANDA.joint_names, np.tile(positions, (rows, 1)))


def send(watcher: Any, chunk: ActionChunk) -> None:
    watcher.chunks.publish(convert.chunk_to_trajectory(chunk, PANDA.base_frame))


def count(watcher: Any, name: str) -> int:
    return int(watcher.values["controller"].get(f"intervention.{name}", 0))


def test_it_holds_until_it_is_started_then_follows_then_says_that_the_chunks_ran_out(watcher: Any) -> None:
    target = HOME + np.array([0.05, 0, 0, 0, 0, 0, 0.1])
    send(watcher, chunk_of(target, watcher.now_ns))
    watcher.until(lambda: count(watcher, "chunk_not_started") == 1, "the chunk to be refused")
    assert not watcher.commands

    answer = watcher.call(topics.START)
    assert answer.success
    assert answer.message == "mode policy, holding: re-anchoring to the measured pose"
    watcher.until_said("controller", "holding: waits for the first chunk")
    watcher.until(lambda: watcher.commands, "the first command")
    assert np.allclose(watcher.commands[0].points[0].positions[:7], HOME)
    send(watcher, chunk_of(target, watcher.now_ns))
    watcher.until_said("controller", "running")
    watcher.until(lambda: np.allclose(watcher.robot.positions, target, atol=1e-3), "the arm to arrive")
    watcher.until_said("controller", "holding: no action is due: the chunks ran out")
    assert 0.0 <= float(watcher.values["controller"]["chunk_latency_ms"]) < 1000.0
    assert watcher.call(topics.STOP).message.startswith("mode hold, holding: not started")
    assert watcher.process.end() == 0


def test_it_refuses_what_is_no_chunk_and_counts_why(watcher: Any) -> None:
    watcher.call(topics.START)
    wrong_joints = ActionChunk(watcher.now_ns, STEP_NS, PANDA.joint_names[:6], np.tile(HOME[:6], (5, 1)))
    not_finite = chunk_of(np.where(np.arange(7) == 3, np.nan, HOME), watcher.now_ns)
    uneven = convert.chunk_to_trajectory(chunk_of(HOME, watcher.now_ns), PANDA.base_frame)
    uneven.points[1].positions = uneven.points[1].positions[:3]
    for message, name in (
        (convert.chunk_to_trajectory(wrong_joints, PANDA.base_frame), "chunk_wrong_dimensions"),
        (convert.chunk_to_trajectory(not_finite, PANDA.base_frame), "chunk_not_finite"),
        (uneven, "chunk_malformed"),
    ):
        watcher.chunks.publish(message)
        watcher.until(lambda name=name: count(watcher, name) == 1, f"{name} to be counted")
    assert count(watcher, "chunks") == 0
    assert "/vla/chunk: message refused: the points of a chunk are of one size" in watcher.process.output
    told = "intervention chunk_not_finite: 1 so far"
    watcher.until(lambda: told in watcher.process.output, "the log to tell of the chunk that is not finite")
    assert np.allclose(watcher.robot.positions, HOME)


def test_it_says_who_is_missing_when_the_policy_is_gone(watcher: Any) -> None:
    watcher.call(topics.START)
    send(watcher, chunk_of(HOME, watcher.now_ns, rows=50))
    watcher.until_said("controller", "running")
    watcher.destroy_publisher(watcher.chunks)
    watcher.until_said("controller", f"policy lost: no publisher on {topics.CHUNK}")


def test_it_brakes_before_it_ends(watcher: Any) -> None:
    def speed_rad_s() -> float:
        return float(np.abs(watcher.commands[-1].points[0].velocities).max()) if watcher.commands else 0.0

    watcher.call(topics.START)
    watcher.until_said("controller", "holding: waits for the first chunk")
    away = HOME + np.linspace(0.0, 1.0, 20)[:, None] * np.eye(7)[0]
    send(watcher, ActionChunk(watcher.now_ns, STEP_NS, PANDA.joint_names, away))
    watcher.until(lambda: speed_rad_s() > 0.3, "the arm to move")
    os.kill(watcher.process.process_id, signal.SIGINT)
    watcher.until(lambda: speed_rad_s() < 1e-6, "the arm to be told to stand")
    assert watcher.process.exit_code() == 0
    assert 0.0 < watcher.robot.positions[0] < 0.9, "it stopped on its way"


@dataclass
class FallenRobot:
    """What a robot in a reflex offers to get it out: who was asked what, in order; `fails` names a step that does."""

    watcher: Any
    asked: list[str] = field(default_factory=list)
    fails: str = ""

    def __post_init__(self) -> None:
        endpoints = PANDA.endpoints
        self.state = self.watcher.robot.state
        self.watcher.create_service(ErrorRecovery, endpoints["error_recovery"].name, self._recover)
        self.watcher.create_service(SwitchController, endpoints["switch_controller"].name, self._switch)

    def fall(self, mode: int = FrankaState.ROBOT_MODE_REFLEX) -> None:
        self.state.current_errors.joint_reflex = True
        self.state.robot_mode = mode

    def _recover(self, _: ErrorRecovery.Request, response: ErrorRecovery.Response) -> ErrorRecovery.Response:
        self.asked.append("recover")
        response.success = self.fails != "recover"
        response.error = "" if response.success else "the arm is jammed"
        if response.success:
            self.state.robot_mode = FrankaState.ROBOT_MODE_MOVE
            self.state.current_errors.joint_reflex = False
        return response

    def _switch(
        self, request: SwitchController.Request, response: SwitchController.Response
    ) -> SwitchController.Response:
        self.asked += [f"deactivate {name}" for name in request.deactivate_controllers]
        self.asked += [f"activate {name}" for name in request.activate_controllers]
        response.ok = self.fails != "activate" or not request.activate_controllers
        return response


RESTART = ["recover", "deactivate joint_impedance_controller", "activate joint_impedance_controller"]


def test_a_reflex_is_named_and_a_resume_runs_the_drivers_whole_sequence(watcher: Any) -> None:
    robot = FallenRobot(watcher)
    watcher.call(topics.START)
    send(watcher, chunk_of(HOME, watcher.now_ns, rows=100))
    watcher.until_said("controller", "running")
    robot.fall(FrankaState.ROBOT_MODE_USER_STOPPED)
    watcher.until_said("controller", "holding: fault of the robot: user stop: the robot's stop button is pressed")
    watcher.call(topics.RESUME)
    watcher.until(
        lambda: "software cannot recover" in watcher.values["controller"]["recovery"], "the resume to be vain"
    )
    robot.state.robot_mode = FrankaState.ROBOT_MODE_MOVE
    watcher.until_said("controller", "holding: waits for resume after a fault of the robot: user stop")
    robot.fall()
    watcher.until(lambda: "reflex: joint_reflex" in watcher.said["controller"][-1], "the reflex to be named")
    assert robot.asked == []
    robot.fails = "activate"
    watcher.call(topics.RESUME)
    watcher.until_said("controller", "holding: waits for resume after a fault of the robot")
    watcher.until(
        lambda: (
            watcher.values["controller"]["recovery"]
            == "does not recover: activation of joint_impedance_controller: the controller manager refuses"
        ),
        "the step that failed to be named",
    )
    send(watcher, chunk_of(HOME, watcher.now_ns, rows=100))
    robot.fails = ""
    watcher.call(topics.RESUME)
    watcher.until_said("controller", "holding: waits for the first chunk")
    assert robot.asked == RESTART * 2
    assert watcher.values["controller"]["recovery"] == "recovered"
    send(watcher, chunk_of(HOME, watcher.now_ns))
    watcher.until_said("controller", "running")


def test_it_recovers_by_itself_where_so_configured(
    make_watcher: Callable[[], Any], start_node: Callable[[NodeSpec], Any]
) -> None:
    watcher = watch(make_watcher(), start_node, {"arm.watchdog.recovers_by_itself": True, "mode": "policy"})
    robot = FallenRobot(watcher)
    send(watcher, chunk_of(HOME, watcher.now_ns, rows=100))
    watcher.until_said("controller", "running")
    robot.fall()
    watcher.until_said("controller", "holding: waits for the first chunk")
    assert robot.asked == RESTART
    send(watcher, chunk_of(HOME, watcher.now_ns, rows=100))
    watcher.until_said("controller", "running")


def test_a_policy_that_comes_back_with_another_task_waits_for_the_operator(watcher: Any) -> None:
    watcher.call(topics.START)
    send(watcher, chunk_of(HOME, watcher.now_ns, rows=100))
    watcher.until_said("controller", "running")
    states = watcher.create_publisher(DiagnosticArray, topics.STATE, qos.STATE)
    watcher.until(lambda: states.get_subscription_count() == 2, "the controller to listen")
    told_by_the_operator = inference_at("push", instructed=2)
    states.publish(DiagnosticArray(status=[told_by_the_operator, inference_at("lift", instructed=1)]))
    watcher.until_said("controller", "holding: the policy restarted with a different task: 'lift', which was 'push'")
    send(watcher, chunk_of(HOME, watcher.now_ns, rows=100))
    assert "a different task" in watcher.call(topics.HOLD).message
    assert watcher.call(topics.RESUME).message.startswith("mode policy, holding: ")
    send(watcher, chunk_of(HOME, watcher.now_ns, rows=100))
    watcher.until_said("controller", "running")


def inference_at(task: str, instructed: int) -> DiagnosticStatus:
    values = {"instruction": task, "instructed": str(instructed)}
    return DiagnosticStatus(name="inference", values=[KeyValue(key=key, value=value) for key, value in values.items()])


def test_a_teleoperator_moves_it_until_he_is_silent_or_somebody_else_commands(watcher: Any) -> None:
    parameters = watcher.create_client(SetParameters, "/vla/controller/set_parameters")
    watcher.until(parameters.service_is_ready, "the node's parameters")

    def set_mode(mode: str) -> Any:
        request = SetParameters.Request(parameters=[Parameter("mode", value=mode).to_parameter_msg()])
        future = parameters.call_async(request)
        watcher.until(future.done, "an answer to a parameter")
        return future.result().results[0]

    wanted = HOME + np.array([0.2, 0, 0, 0, 0, 0, -0.2])
    targets = watcher.create_publisher(JointTrajectory, topics.TELEOP, qos.COMMAND)

    def teleoperate() -> None:
        values = watcher.robot.positions + np.clip(wanted - watcher.robot.positions, -0.1, 0.1)
        target = Target(watcher.now_ns, PANDA.joint_names, values)
        targets.publish(convert.target_to_trajectory(target, PANDA.base_frame))

    refused = set_mode("autonomous")
    assert (refused.successful, refused.reason) == (
        False,
        "mode: unknown value 'autonomous'; should be one of hold, policy, teleop",
    )
    assert set_mode("teleop").successful
    watcher.until_said("controller", "holding: waits for the first target of the teleoperator")
    timer = watcher.create_timer(0.02, teleoperate)
    watcher.until(lambda: np.allclose(watcher.robot.positions, wanted, atol=1e-3), "the arm to arrive")
    assert watcher.values["controller"]["mode"] == "teleop"
    running = "the arm is running, and may hold something; call /vla/hold first"
    watcher.until(lambda: watcher.call(topics.HOME_GRIPPER).message == running, "the homing to be refused")
    endpoint = PANDA.endpoints["joints_desired"].name
    rival = watcher.create_publisher(Float64MultiArray, endpoint, qos.COMMAND)
    watcher.until_said("controller", f"holding: second publisher: /watcher on {endpoint}")
    assert "second publisher: /watcher" in watcher.call(topics.RESUME).message, "as long as it is there"
    watcher.destroy_publisher(rival)
    watcher.call(topics.STOP)
    refused = watcher.call(topics.HOME_GRIPPER)
    assert (refused.success, refused.message) == (
        False,
        "the gripper is not homed: the gripper does not answer on /panda_gripper/homing",
    )
    watcher.until(lambda: watcher.count_publishers(endpoint) == 1, "the second publisher to be gone")
    assert set_mode("teleop").successful
    watcher.until_said("controller", "running")
    watcher.destroy_timer(timer)
    watcher.until_said("controller", "holding: stale target of the teleoperator: ")


def test_a_dead_man_switch_that_is_released_brakes(
    make_watcher: Callable[[], Any], start_node: Callable[[NodeSpec], Any]
) -> None:
    watcher = watch(make_watcher(), start_node, {"arm.watchdog.requires_deadman": True, "mode": "policy"})
    watcher.until_said("controller", "holding: dead-man switch: not heard of")
    switch = watcher.create_publisher(Bool, topics.DEADMAN, qos.COMMAND)
    held = Bool(data=True)
    watcher.create_timer(0.02, lambda: switch.publish(held))
    away = HOME + np.linspace(0.0, 1.0, 20)[:, None] * np.eye(7)[0]
    send(watcher, ActionChunk(watcher.now_ns, STEP_NS, PANDA.joint_names, away))
    watcher.until(lambda: watcher.robot.positions[0] > 0.05, "the arm to move")
    held.data = False
    watcher.until_said("controller", "holding: dead-man switch: released")
    assert watcher.robot.positions[0] < 0.9, "it stopped on its way"


def test_a_dry_run_computes_all_and_sends_the_driver_nothing(
    make_watcher: Callable[[], Any], start_node: Callable[[NodeSpec], Any]
) -> None:
    watcher = watch(make_watcher(), start_node, {"dry_run": True, "mode": "policy"})
    watcher.until_said("controller", "(dry run)")
    away = HOME + np.linspace(0.0, 1.0, 20)[:, None] * np.eye(7)[0]
    send(watcher, ActionChunk(watcher.now_ns, STEP_NS, PANDA.joint_names, away))
    watcher.until_said("controller", "running: dry run")
    watcher.until(lambda: watcher.commands and watcher.commands[-1].points[0].positions[0] > 0.5, "the command to move")
    assert not any("not where it was commanded" in said for said in watcher.said["controller"])
    np.testing.assert_array_equal(watcher.robot.positions, HOME)
    assert watcher.call(topics.HOME_GRIPPER).message == "nothing is sent to the gripper in a dry run"


def test_an_emergency_stop_needs_a_resume(watcher: Any) -> None:
    watcher.call(topics.START)
    assert watcher.call(topics.ESTOP).message == "mode policy, stopped: emergency stop"
    refused = watcher.call(topics.START)
    assert (refused.success, refused.message) == (
        False,
        "nothing moves after an emergency stop; call /vla/resume, then /vla/start",
    )
    watcher.until_said("controller", "stopped: emergency stop")
    homed = watcher.call(topics.HOME_GRIPPER)
    assert (homed.success, homed.message) == (
        False,
        "nothing moves after an emergency stop; call /vla/stop, then /vla/resume first",
    )
    assert watcher.call(topics.RESUME).message.startswith("mode policy, holding")
    send(watcher, chunk_of(HOME, watcher.now_ns))
    watcher.until_said("controller", "running")


@pytest.mark.parametrize(
    ("params", "line"),
    [
        ({"robot": "pander"}, "unknown robot 'pander'; there are: panda"),
        ({"arm.wachdog": 1}, "arm.wachdog: unknown key; did you mean 'watchdog'?"),
    ],
)
def test_wrong_parameters_end_it_with_one_clear_line(
    start_node: Callable[[NodeSpec], Any], params: dict[str, Any], line: str
) -> None:
    process = start_node(NodeSpec("controller", "controller", params=params))
    assert process.exit_code() == 2
    assert process.output.startswith(f"error: {line}")
    assert process.output.count("\n") == 1
