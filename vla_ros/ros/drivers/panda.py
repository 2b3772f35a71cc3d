"""Our side of multipanda_ros2, the ROS 2 driver of the Franka Panda: its topics, services and actions."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from typing import Any

import numpy as np
from franka_msgs.action import Grasp, Homing, Move
from franka_msgs.msg import Errors, FrankaState
from rclpy.action import ActionClient
from rclpy.client import Client
from rclpy.node import Node
from rclpy.task import Future
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger

from vla_ros import messages
from vla_ros.control.gripper import GripperGoal
from vla_ros.control.watchdog import Condition, Following
from vla_ros.geometry import pose_matrix
from vla_ros.robots.robot import Robot
from vla_ros.ros import guard, qos
from vla_ros.ros.drivers.driver import OnDone, OnGripperState, OnJointState
from vla_ros.ros.drivers.panda_recovery import PandaRecovery
from vla_ros.ros.polling import PolledSubscription
from vla_ros.timing.stamps import ms_to_ns, ns_to_ms, s_to_ns
from vla_ros.values import Array, Command

#: The controllers of multipanda_ros2 ignore a target whose first value is exactly 0.0; this stands for it.
ALMOST_ZERO = 1e-9

#: Values of a pose target: x y z, then the rotation matrix row by row.
POSE_TARGET_SIZE = 12

#: The controllers of multipanda_ros2 that take a stream of targets, as its own configuration names them.
CONTROLLERS = {"joint": "joint_impedance_controller", "cartesian": "cartesian_impedance_controller"}

#: What is said of a robot whose stop button is pressed.
USER_STOP = "user stop: the robot's stop button is pressed, and software cannot recover from it"

#: What a robot does that neither follows nor has stopped itself, by its mode.
_INACTIVE = {
    FrankaState.ROBOT_MODE_IDLE: "idle",
    FrankaState.ROBOT_MODE_GUIDING: "guided by hand",
    FrankaState.ROBOT_MODE_OTHER: "other",
    FrankaState.ROBOT_MODE_AUTOMATIC_ERROR_RECOVERY: "automatic error recovery",
}

#: The errors a Franka can report, in their order.
ERROR_NAMES = tuple(Errors.get_fields_and_field_types())

#: Of a FrankaState the last bytes, at most 3 of padding among them: the mode, and two times a byte for each error.
_CONDITION_BYTES = 1 + 2 * len(ERROR_NAMES) + 3


class PandaDriver:
    """As `driver.Driver`, for one Panda with its hand.

    Joint and robot states arrive at 1 kHz and are polled.
    """

    def __init__(
        self,
        node: Node,
        robot: Robot,
        on_joint_state: OnJointState,
        on_gripper_state: OnGripperState,
        on_condition: Callable[[Condition], None],
        command_interface: str = "joint",
        max_state_age_ms: float = 100.0,
    ) -> None:
        if command_interface not in CONTROLLERS:
            raise ValueError(f"the command interface is joint or cartesian, got {command_interface!r}")
        self._node = node
        self._joint_count = len(robot.joints)
        self._cartesian = command_interface == "cartesian"
        self._on_joint_state = on_joint_state
        self._on_gripper_state = on_gripper_state
        self._on_condition = on_condition
        self._max_state_age_ns = ms_to_ns(max_state_age_ms)
        self._heard: tuple[int, float] | None = None  # the robot's own state: ROS time [ns], monotonic time [s]
        self._robot_says = Condition(Following.UNREACHABLE)
        self._gripper_goal: _GripperGoalInFlight | None = None
        self._arm_reader = messages.JointReader(robot.joint_names)
        self._finger_reader = messages.JointReader(robot.gripper.finger_joints)

        self._names = names = {key: endpoint.name for key, endpoint in robot.endpoints.items()}
        self._joint_states = PolledSubscription(node, JointState, names["joint_states"], qos.NEWEST)
        self._robot_states = PolledSubscription(node, FrankaState, names["robot_state"], qos.NEWEST)
        fingers = names["gripper_joint_states"]
        self._finger_states = node.create_subscription(JointState, fingers, self._on_fingers, qos.SENSOR)
        target = names["pose_desired" if self._cartesian else "joints_desired"]
        self._targets = node.create_publisher(Float64MultiArray, target, qos.COMMAND)
        self._actions = {
            names[key]: ActionClient(node, action, names[key])
            for key, action in (("gripper_homing", Homing), ("gripper_move", Move), ("gripper_grasp", Grasp))
        }
        self._stop = node.create_client(Trigger, names["gripper_stop"])
        self._controller = controller = CONTROLLERS[command_interface]
        self._recovery = PandaRecovery(
            node, names["error_recovery"], names["switch_controller"], controller, self._has_followed_since
        )

    def poll(self) -> None:
        """As `Driver.poll`."""
        joint_state = self._joint_states.take_newest()
        if joint_state is not None:
            self._deliver_joints(joint_state)
        is_heard, robot_state = self._robot_states.take_newest_change(_CONDITION_BYTES)
        if is_heard:
            self._heard = self._now_ns(), time.monotonic()
        if robot_state is not None:
            self._robot_says = condition_of(robot_state, self._controller)
        self._on_condition(self._condition())
        if self._gripper_goal is not None:
            self._gripper_goal.fail_if_server_is_gone()
        self._recovery.poll()

    def publish(self, command: Command) -> None:
        """As `Driver.publish`."""
        if self._cartesian:
            values = pose_target(command.tcp_pose)
        else:
            values = joint_target(command.joint_positions, self._joint_count)
        self._targets.publish(Float64MultiArray(data=array("d", values)))

    def send_gripper(self, goal: GripperGoal, on_done: OnDone) -> None:
        """As `Driver.send_gripper`."""
        if goal.kind == "move":
            self._send("gripper_move", Move.Goal(width=goal.width_m, speed=goal.speed_m_s), on_done)
            return
        grasp = Grasp.Goal(width=goal.width_m, speed=goal.speed_m_s, force=goal.force_n)
        grasp.epsilon.inner = grasp.epsilon.outer = goal.epsilon_m
        self._send("gripper_grasp", grasp, on_done)

    def home_gripper(self, on_done: OnDone) -> None:
        """As `Driver.home_gripper`."""
        self._send("gripper_homing", Homing.Goal(), on_done)

    def stop_gripper(self, on_done: OnDone) -> None:
        """As `Driver.stop_gripper`."""
        _call(self._stop, Trigger.Request(), lambda response: on_done(response.success, response.message), on_done)

    def recover(self, on_done: OnDone) -> None:
        """As `Driver.recover`."""
        if self.can_recover:
            self._recovery.start(on_done)
        else:
            on_done(False, self._robot_says.reason)

    @property
    def can_recover(self) -> bool:
        """As `Driver.can_recover`."""
        return self._robot_says.reason != USER_STOP

    @property
    def target_topic(self) -> str:
        """As `Driver.target_topic`."""
        return str(self._targets.topic_name)

    @property
    def state_topics(self) -> tuple[str, ...]:
        """As `Driver.state_topics`."""
        return self._joint_states.topic, self._robot_states.topic, str(self._finger_states.topic_name)

    def _deliver_joints(self, message: JointState) -> None:
        try:
            positions, velocities = self._arm_reader.positions(message), self._arm_reader.velocities(message)
        except ValueError as error:  # what cannot be read is no state; the watchdog sees the old one age
            guard.of(self._node).refuse(self._names["joint_states"], error)
            return
        self._on_joint_state(messages.stamp_to_ns(message.header.stamp), positions, velocities)

    def _on_fingers(self, message: JointState) -> None:
        try:
            width_m = float(self._finger_reader.positions(message).sum())
        except ValueError as error:
            guard.of(self._node).refuse(self._names["gripper_joint_states"], error)
            return
        self._on_gripper_state(messages.stamp_to_ns(message.header.stamp), width_m)

    def _condition(self) -> Condition:
        """As the robot says, unless it is silent; a target for which nobody listens is followed by nobody."""
        if self._heard is None:
            return Condition(Following.UNREACHABLE, f"nothing on {self._robot_states.topic} yet")
        # Simulated time that stands still is no silence, nor is a clock that jumps.
        silent_ns = min(self._now_ns() - self._heard[0], s_to_ns(time.monotonic() - self._heard[1]))
        if silent_ns > self._max_state_age_ns:
            silence = f"nothing on {self._robot_states.topic} for {ns_to_ms(silent_ns):.0f} ms"
            return Condition(Following.UNREACHABLE, silence)
        if self._robot_says.following is Following.FOLLOWS and self._targets.get_subscription_count() == 0:
            return Condition(Following.UNREACHABLE, f"no subscriber on {self.target_topic}: load {self._controller}")
        return self._robot_says

    def _has_followed_since(self, since_s: float) -> bool:
        heard_s = since_s if self._heard is None else self._heard[1]
        return heard_s > since_s and self._robot_says.following is Following.FOLLOWS

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)

    def _send(self, endpoint: str, goal: Any, on_done: OnDone) -> None:
        if self._gripper_goal is not None:
            # Who sends another one has given up on the first; it never ends by itself if the gripper hangs.
            self.stop_gripper(lambda success, message: None)
            on_done(False, "another gripper goal was in flight, and is being stopped")
            return

        def finish(success: bool, message: str) -> None:
            self._gripper_goal = None
            on_done(success, message)

        name = self._names[endpoint]
        client = self._actions[name]
        if not client.server_is_ready():
            on_done(False, f"the gripper does not answer on {name}")
            return
        self._gripper_goal = _GripperGoalInFlight(client, finish)
        self._gripper_goal.send(goal)


def condition_of(state: FrankaState, controller: str) -> Condition:
    """Whether the robot follows, with its errors by name; `controller` is what it follows targets with."""
    mode = state.robot_mode
    if mode == FrankaState.ROBOT_MODE_MOVE:
        return Condition(Following.FOLLOWS)
    if mode == FrankaState.ROBOT_MODE_USER_STOPPED:
        return Condition(Following.FAULT, USER_STOP)
    if mode == FrankaState.ROBOT_MODE_REFLEX:
        errors = [name for name in ERROR_NAMES if getattr(state.current_errors, name)]
        return Condition(Following.FAULT, f"reflex: {', '.join(errors) or 'no error reported'}")
    name = _INACTIVE.get(mode, str(mode))
    return Condition(Following.INACTIVE, f"robot mode {name}; it follows while {controller} is active (mode move)")


def joint_target(positions: Array, joint_count: int) -> list[float]:
    """What /joint_impedance/joints_desired takes: all joints, finite, the first never exactly 0."""
    return _target(positions, joint_count, "joint target")


def pose_target(pose: Array) -> list[float]:
    """What /cartesian_impedance/pose_desired takes of a pose (7,): x y z, the matrix row by row; the first never 0."""
    if not np.all(np.isfinite(pose)):
        raise ValueError(f"a pose target is finite, got {np.asarray(pose).tolist()}")
    matrix = pose_matrix(pose)
    return _target(np.concatenate([matrix[:3, 3], matrix[:3, :3].ravel()]), POSE_TARGET_SIZE, "pose target")


def _target(values: Array, size: int, what: str) -> list[float]:
    """The driver reads `size` values whatever was sent, so a short target would be read past its end."""
    if values.shape != (size,) or not np.all(np.isfinite(values)):
        raise ValueError(f"a {what} is {size} finite values, got {values.tolist()}")
    target: list[float] = values.tolist()
    if target[0] == 0.0:
        target[0] = ALMOST_ZERO
    return target


class _GripperGoalInFlight:
    """One goal from sending to its end, told once."""

    def __init__(self, client: ActionClient, on_done: OnDone) -> None:
        self._client = client
        self._on_done: OnDone | None = on_done

    def send(self, goal: Any) -> None:
        """Send it."""
        self._client.send_goal_async(goal).add_done_callback(self._on_answer)

    def fail_if_server_is_gone(self) -> None:
        """A server that dies answers nothing; the goal must not stay in flight for ever."""
        if not self._client.server_is_ready():
            self._finish(False, "the gripper's action server is gone")

    def _on_answer(self, answer: Future) -> None:
        handle = answer.result()
        if handle is None or not handle.accepted:
            self._finish(False, "the gripper refused the goal")
        else:
            handle.get_result_async().add_done_callback(self._on_result)

    def _on_result(self, answer: Future) -> None:
        result = answer.result().result
        self._finish(result.success, result.error)

    def _finish(self, success: bool, message: str) -> None:
        if self._on_done is not None:
            on_done, self._on_done = self._on_done, None
            on_done(success, message)


def _call(client: Client, request: Any, on_response: Callable[[Any], None], on_done: OnDone) -> None:
    if not client.service_is_ready():
        on_done(False, f"the driver does not answer on {client.srv_name}")
        return
    client.call_async(request).add_done_callback(lambda future: on_response(future.result()))
