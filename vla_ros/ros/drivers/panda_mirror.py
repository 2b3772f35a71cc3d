"""The driver's side of multipanda_ros2, answered by a simulated world: same topics, services, actions, rates and traps.

What it shares with the real one, and a client has to know:

* a target whose first value is exactly 0.0 is ignored;
* the gripper's actions block: a goal that comes while another runs is refused, whichever of its four actions it is for;
* `gripper_action` takes half the width, moves when that opens and grasps when it closes;
* an arm in a reflex moves again after `error_recovery` only.

What it does better: a target that is not finite or of a wrong size is refused, where the real one reads past its end.
After a reset of the world or a recovery, targets far from where the arm stands are refused too: they were meant for
where it was.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from control_msgs.action import GripperCommand
from franka_msgs.action import Grasp, Homing, Move
from franka_msgs.msg import Errors, FrankaState
from franka_msgs.srv import ErrorRecovery
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger

from vla_ros.geometry import matrix_pose, pose_matrix
from vla_ros.robots.robot import Robot
from vla_ros.ros import convert, qos
from vla_ros.ros.drivers.panda import POSE_TARGET_SIZE
from vla_ros.simulation.world import World
from vla_ros.timing.stamps import ns_to_s, period_ns
from vla_ros.values import Array

_SPEED_M_S = 0.1  # franka_gripper's default, of gripper_action and homing
_FEEDBACK_PERIOD_NS = period_ns(30.0)
_POSE_PERIOD_NS = period_ns(100.0)  # of o_t_ee: a fifth of the whole cost at 1 kHz, and nobody controls by it

#: What a Franka calls the faults of a world, which begin with these words.
_ERROR_OF_FAULT = {
    "collision": "joint_reflex",
    "velocity": "joint_velocity_violation",
    "discontinuity": "joint_motion_generator_velocity_discontinuity",
}

#: A target is near the arm within these: per joint, and for a pose.
_NEAR_RAD, _NEAR_M = 0.15, 0.05


class PandaMirror:
    """As `driver.Mirror`."""

    def __init__(self, node: Node, robot: Robot) -> None:
        self._node = node
        self._max_width_m = robot.gripper.max_width_m
        self._has_target = threading.Event()
        self._lock = threading.Lock()
        self._target: Array | None = None  # joints (7,) or a pose target (12,)
        self._goal: _Goal | None = None
        self._stop_gripper = self._recover = False
        self._reserved = False  # a goal was accepted and has not ended
        self._fault: str | None = None
        self._pose_due_ns = 0
        self._commanded_ns: int | None = None
        self._must_be_near = True
        self._due_ns = {"joint_states": 0, "robot_state": 0, "gripper_joint_states": 0}

        endpoints = robot.endpoints
        self._periods_ns = {key: period_ns(endpoints[key].rate_hz or 0.0) for key in self._due_ns}
        self._joint_state = JointState(name=list(robot.joint_names))
        self._fingers = JointState(name=list(robot.gripper.finger_joints), velocity=[0.0] * 2, effort=[0.0] * 2)
        self._robot_state = FrankaState(robot_mode=FrankaState.ROBOT_MODE_MOVE, control_command_success_rate=1.0)
        self._robot_state.header.frame_id = robot.base_frame
        self._joint_states = node.create_publisher(JointState, endpoints["joint_states"].name, qos.STATE)
        self._robot_states = node.create_publisher(FrankaState, endpoints["robot_state"].name, qos.STATE)
        self._finger_states = node.create_publisher(JointState, endpoints["gripper_joint_states"].name, qos.STATE)
        for key, size in (("joints_desired", len(robot.joints)), ("pose_desired", POSE_TARGET_SIZE)):
            node.create_subscription(
                Float64MultiArray, endpoints[key].name, self._target_heard(endpoints[key].name, size), qos.COMMAND
            )
        node.create_service(Trigger, endpoints["gripper_stop"].name, self._on_stop)
        node.create_service(ErrorRecovery, endpoints["error_recovery"].name, self._on_recovery)
        self._servers = [
            ActionServer(
                node,
                action,
                endpoints[key].name,
                _finished_later,
                goal_callback=self._on_goal,
                handle_accepted_callback=self._accepted(kind),
                cancel_callback=lambda _: CancelResponse.ACCEPT,
            )
            for key, action, kind in (
                ("gripper_homing", Homing, _Homing),
                ("gripper_move", Move, _Move),
                ("gripper_grasp", Grasp, _Grasp),
                ("gripper_action", GripperCommand, _GripperCommand),
            )
        ]

    # --- the simulation's thread ---

    @property
    def commanded_ns(self) -> int | None:
        """As `Mirror.commanded_ns`."""
        return self._commanded_ns

    def wait_for_target(self, timeout_s: float) -> bool:
        """As `Mirror.wait_for_target`."""
        return self._has_target.wait(timeout_s)

    def apply(self, world: World) -> None:
        """As `Mirror.apply`."""
        with self._lock:
            target, self._target = self._target, None
            stop_gripper, self._stop_gripper = self._stop_gripper, False
            recover, self._recover = self._recover, False
            goal = self._goal
        if recover:
            world.recover()
            self._forget_targets()
        if target is not None:
            self._has_target.clear()
            self._apply_target(world, target)
        if goal is not None:
            self._advance_goal(world, goal, stop_gripper)
        elif stop_gripper:
            world.stop_gripper()

    def publish(self, world: World) -> None:
        """As `Mirror.publish`."""
        stamp = convert.ns_to_stamp(world.time_ns)
        if self._is_due("joint_states", world.time_ns):
            self._publish_joints(world, stamp)
        if self._is_due("robot_state", world.time_ns):
            self._publish_robot_state(world, stamp)
        if self._is_due("gripper_joint_states", world.time_ns):
            self._fingers.header.stamp = stamp
            self._fingers.position = [world.gripper_width_m / 2] * 2
            self._finger_states.publish(self._fingers)

    def reset(self, world: World) -> None:
        """As `Mirror.reset`."""
        with self._lock:
            self._target = None
            goal = self._goal
        self._has_target.clear()
        if goal is not None:
            self._end_goal(world, goal, False, "the world was reset")
        self._forget_targets()

    def _apply_target(self, world: World, target: Array) -> None:
        if world.fault is not None:
            return
        is_pose = len(target) == POSE_TARGET_SIZE
        if self._must_be_near:
            distance, near = _pose_distance(world, target) if is_pose else _joint_distance(world, target)
            if distance > near:
                self._log_refused(f"the arm was moved, and this target is {distance:.2f} away from it, not {near:g}")
                return
            self._must_be_near = False
        try:
            if is_pose:
                world.command_pose(_pose_of_target(target))
            else:
                world.command_joints(target)
        except ValueError as error:
            self._log_refused(str(error))
            return
        self._commanded_ns = world.time_ns

    def _forget_targets(self) -> None:
        """The next target must be near the arm."""
        self._must_be_near = True
        self._commanded_ns = None

    def _is_due(self, key: str, now_ns: int) -> bool:
        if now_ns < self._due_ns[key]:
            return False
        self._due_ns[key] = max(self._due_ns[key] + self._periods_ns[key], now_ns + 1)
        return True

    def _publish_joints(self, world: World, stamp: Any) -> None:
        message = self._joint_state
        message.header.stamp = stamp
        message.position = world.joint_positions.tolist()
        message.velocity = world.joint_velocities.tolist()
        message.effort = world.joint_torques.tolist()
        self._joint_states.publish(message)

    def _publish_robot_state(self, world: World, stamp: Any) -> None:
        message = self._robot_state
        if world.fault != self._fault:
            self._fault = world.fault
            self._tell_fault(message, world.fault)
        message.header.stamp = stamp
        message.q = message.theta = world.joint_positions
        message.dq = message.dtheta = world.joint_velocities
        message.tau_j = world.joint_torques
        if world.time_ns >= self._pose_due_ns:
            self._pose_due_ns = world.time_ns + _POSE_PERIOD_NS
            message.o_t_ee = pose_matrix(world.state().tcp_pose).T.ravel()  # column by column
        message.time = ns_to_s(world.time_ns)
        self._robot_states.publish(message)

    def _tell_fault(self, message: FrankaState, fault: str | None) -> None:
        if fault is None:
            message.robot_mode = FrankaState.ROBOT_MODE_MOVE
            message.last_motion_errors = message.current_errors
        else:
            message.robot_mode = FrankaState.ROBOT_MODE_REFLEX
            self._commanded_ns = None
        message.current_errors = Errors()
        if fault is not None:
            setattr(message.current_errors, _ERROR_OF_FAULT.get(fault.partition(":")[0], "joint_reflex"), True)

    def _advance_goal(self, world: World, goal: _Goal, stop: bool) -> None:
        if not goal.begun:
            goal.begun = True
            try:
                goal.begin(world)
            except ValueError as error:
                self._end_goal(world, goal, False, str(error))
        elif stop or goal.handle.is_cancel_requested:
            world.stop_gripper()
            self._end_goal(world, goal, False, "stopped" if stop else "cancelled")
        elif not world.gripper_busy:
            outcome = world.gripper_outcome
            success = outcome is not None and outcome.success
            self._end_goal(world, goal, success, "" if success or outcome is None else outcome.message)
        elif world.time_ns >= goal.feedback_due_ns:
            goal.feedback_due_ns = world.time_ns + _FEEDBACK_PERIOD_NS
            goal.handle.publish_feedback(goal.feedback(world.gripper_width_m))

    def _end_goal(self, world: World, goal: _Goal, success: bool, error: str) -> None:
        result = goal.result(world.gripper_width_m, success, error)

        def finish(handle: ServerGoalHandle) -> Any:
            if handle.is_cancel_requested:
                handle.canceled()
            elif success:
                handle.succeed()
            else:
                handle.abort()
            return result

        with self._lock:
            self._goal = None
            self._reserved = False
        goal.handle.execute(finish)

    # --- the executor's thread ---

    def _target_heard(self, topic: str, size: int) -> Callable[[Float64MultiArray], None]:
        def on_target(message: Float64MultiArray) -> None:
            if len(message.data) != size:
                self._log_refused(f"{topic} takes {size} values, got {len(message.data)}; the real driver would crash")
            elif not np.all(np.isfinite(message.data)):
                self._log_refused(f"{topic} takes finite values, got {list(message.data)}")
            elif message.data[0] == 0.0:
                self._log_refused(f"{topic} ignores a target whose first value is exactly 0.0, as the real driver does")
            else:
                with self._lock:
                    self._target = np.array(message.data, dtype=np.float64)
                self._has_target.set()

        return on_target

    def _on_goal(self, request: Any) -> GoalResponse:
        with self._lock:
            if self._reserved:
                return GoalResponse.REJECT
            self._reserved = True
        return GoalResponse.ACCEPT

    def _accepted(self, kind: type[_Goal]) -> Callable[[ServerGoalHandle], None]:
        """A coroutine that waits makes the executor spin, so a goal is executed in one go, when it has ended.

        Until then its status is ACCEPTED, where the real driver says EXECUTING.
        """

        def on_accepted(handle: ServerGoalHandle) -> None:
            with self._lock:
                self._goal = kind(handle, self._max_width_m)

        return on_accepted

    def _on_stop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._lock:
            self._stop_gripper = True
        response.success = True
        return response

    def _on_recovery(self, _: ErrorRecovery.Request, response: ErrorRecovery.Response) -> ErrorRecovery.Response:
        with self._lock:
            self._recover = True
        response.success = True
        return response

    def _log_refused(self, why: str) -> None:
        self._node.get_logger().warning(f"target refused: {why}", throttle_duration_sec=5.0)


def _joint_distance(world: World, target: Array) -> tuple[float, float]:
    return float(np.abs(target - world.joint_positions).max()), _NEAR_RAD


def _pose_distance(world: World, target: Array) -> tuple[float, float]:
    return float(np.linalg.norm(target[:3] - world.state().tcp_pose[:3])), _NEAR_M


def _pose_of_target(target: Array) -> Array:
    matrix = np.eye(4)
    matrix[:3, 3], matrix[:3, :3] = target[:3], target[3:].reshape(3, 3)
    return matrix_pose(matrix)


def _finished_later(handle: ServerGoalHandle) -> Any:
    raise AssertionError("a goal is executed with the callback that ends it")


# --- the gripper's four actions ---


@dataclass
class _Goal:
    """One goal of the gripper, from acceptance to its end."""

    handle: ServerGoalHandle
    max_width_m: float
    begun: bool = False
    feedback_due_ns: int = 0

    def begin(self, world: World) -> None:
        """Set the fingers moving; raises ValueError for a goal out of range."""
        raise NotImplementedError

    def feedback(self, width_m: float) -> Any:
        """How it goes."""
        raise NotImplementedError

    def result(self, width_m: float, success: bool, error: str) -> Any:
        """How it ended."""
        raise NotImplementedError


class _Homing(_Goal):
    """The simulated gripper knows its range, so that it only opens."""

    def begin(self, world: World) -> None:
        world.move_gripper(self.max_width_m, _SPEED_M_S)

    def feedback(self, width_m: float) -> Homing.Feedback:
        return Homing.Feedback(current_width=width_m)

    def result(self, width_m: float, success: bool, error: str) -> Homing.Result:
        return Homing.Result(success=success, error=error)


class _Move(_Goal):
    def begin(self, world: World) -> None:
        world.move_gripper(self.handle.request.width, self.handle.request.speed)

    def feedback(self, width_m: float) -> Move.Feedback:
        return Move.Feedback(current_width=width_m)

    def result(self, width_m: float, success: bool, error: str) -> Move.Result:
        return Move.Result(success=success, error=error)


class _Grasp(_Goal):
    def begin(self, world: World) -> None:
        goal = self.handle.request
        world.grasp_gripper(goal.width, goal.speed, goal.force, goal.epsilon.inner, goal.epsilon.outer)

    def feedback(self, width_m: float) -> Grasp.Feedback:
        return Grasp.Feedback(current_width=width_m)

    def result(self, width_m: float, success: bool, error: str) -> Grasp.Result:
        return Grasp.Result(success=success, error=error)


class _GripperCommand(_Goal):
    """Position, in goal, feedback and result, is half the width; an effort of 0 grasps with as little as there is."""

    def begin(self, world: World) -> None:
        command = self.handle.request.command
        width_m = 2.0 * command.position
        if width_m >= world.gripper_width_m:
            world.move_gripper(width_m, _SPEED_M_S)
        else:
            world.grasp_gripper(width_m, _SPEED_M_S, command.max_effort)

    def feedback(self, width_m: float) -> GripperCommand.Feedback:
        return GripperCommand.Feedback(position=width_m / 2)

    def result(self, width_m: float, success: bool, error: str) -> GripperCommand.Result:
        return GripperCommand.Result(position=width_m / 2, reached_goal=success, stalled=not success)
