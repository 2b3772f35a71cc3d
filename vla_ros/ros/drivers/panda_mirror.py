"""The driver's side of multipanda_ros2, answered by a simulated world: same topics, services, actions, rates and traps.

What it shares with the real one, and a client has to know:

* a target whose first value is exactly 0.0 is ignored;
* the gripper's actions block: a goal that comes while another runs is refused, whichever of its four actions it is for;
* `gripper_action` takes half the width, moves when that opens and grasps when it closes;
* an arm in a reflex moves again only after `error_recovery`, and then the activation of the controller in use, which
  the reflex ended;
* its mode is MOVE while a controller is active and IDLE otherwise; a controller that is activated forgets what it was
  sent before.

What it does better: a target that is not finite or of a wrong size is refused, where the real one reads past its end.
After a reset of the world or a recovery, targets far from where the arm stands are refused too: they were meant for
where it was.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import numpy as np
from controller_manager_msgs.srv import SwitchController
from franka_msgs.msg import Errors, FrankaState
from franka_msgs.srv import ErrorRecovery
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from vla_ros.geometry import matrix_pose, pose_matrix
from vla_ros.messages import shortened
from vla_ros.robots.robot import Robot
from vla_ros.ros import convert, qos
from vla_ros.ros.drivers.panda import CONTROLLERS, POSE_TARGET_SIZE
from vla_ros.ros.drivers.panda_gripper_mirror import GripperMirror
from vla_ros.ros.drivers.panda_recovery import NO_ERRORS
from vla_ros.ros.polling import PolledSubscription
from vla_ros.simulation.faults import JOINTS, Faults, Stream
from vla_ros.simulation.world import World
from vla_ros.timing.stamps import ns_to_s, period_ns
from vla_ros.values import Array

_LISTEN_PERIOD_S = 0.001
_POSE_PERIOD_NS = period_ns(100.0)  # of o_t_ee, the one value here that costs something; nobody controls by it

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

    def __init__(self, node: Node, robot: Robot, faults: Faults) -> None:
        self._node = node
        self._target: Array | None = None  # joints (7,) or a pose target (12,)
        self._recover = threading.Event()
        self._activated = threading.Event()
        self._active = set(CONTROLLERS.values())  # both, until a reflex: nobody had to choose one
        self._fault: str | None = None
        self._pose_due_ns = 0
        self._commanded_ns: int | None = None
        self._must_be_near = True
        self._due_ns = {"joint_states": 0, "robot_state": 0, "gripper_joint_states": 0}

        endpoints = robot.endpoints
        self._periods_ns = {key: period_ns(endpoints[key].rate_hz or 0.0) for key in self._due_ns}
        self._joints: Stream[tuple[Array, Array, Array]] = faults.stream("joint_states", JOINTS)
        self._robots: Stream[None] = faults.stream("robot_state")
        self._widths: Stream[float] = faults.stream("gripper_joint_states")
        self._joint_state = JointState(name=list(robot.joint_names))
        self._fingers = JointState(name=list(robot.gripper.finger_joints), velocity=[0.0] * 2, effort=[0.0] * 2)
        self._robot_state = FrankaState(robot_mode=FrankaState.ROBOT_MODE_MOVE, control_command_success_rate=1.0)
        self._robot_state.header.frame_id = robot.base_frame
        self._joint_states = node.create_publisher(JointState, endpoints["joint_states"].name, qos.STATE)
        self._robot_states = node.create_publisher(FrankaState, endpoints["robot_state"].name, qos.STATE)
        self._finger_states = node.create_publisher(JointState, endpoints["gripper_joint_states"].name, qos.STATE)
        self._targets = [
            _TargetTopic(PolledSubscription(node, Float64MultiArray, name, qos.COMMAND), name, size)
            for name, size in (
                (endpoints["joints_desired"].name, len(robot.joints)),
                (endpoints["pose_desired"].name, POSE_TARGET_SIZE),
            )
        ]
        node.create_service(ErrorRecovery, endpoints["error_recovery"].name, self._on_recovery)
        node.create_service(SwitchController, endpoints["switch_controller"].name, self._on_switch)
        self._gripper = GripperMirror(node, robot, faults)

    # --- the simulation's thread ---

    @property
    def commanded_ns(self) -> int | None:
        """As `Mirror.commanded_ns`."""
        return self._commanded_ns

    def wait_for_target(self, timeout_s: float) -> bool:
        """As `Mirror.wait_for_target`."""
        end = time.monotonic() + timeout_s
        while not self._hear_target():
            if time.monotonic() > end:
                return False
            time.sleep(_LISTEN_PERIOD_S)
        return True

    def apply(self, world: World) -> None:
        """As `Mirror.apply`."""
        if self._recover.is_set():
            self._recover.clear()
            world.recover()
            self._forget_targets()
        if self._activated.is_set():
            self._activated.clear()
            self._forget_targets()
        self._hear_target()
        target, self._target = self._target, None
        if target is not None:
            self._apply_target(world, target)
        self._gripper.apply(world)

    def publish(self, world: World) -> None:
        """As `Mirror.publish`."""
        now_ns = world.time_ns
        if self._is_due("joint_states", now_ns):
            measured = (world.joint_positions, world.joint_velocities, world.joint_torques)
            for stamp_ns, joints in self._joints.deliver(now_ns, measured):
                self._publish_joints(stamp_ns, *joints)
        if self._is_due("robot_state", now_ns):
            for stamp_ns, _ in self._robots.deliver(now_ns, None):
                self._publish_robot_state(stamp_ns, world)
        if self._is_due("gripper_joint_states", now_ns):
            for stamp_ns, width_m in self._widths.deliver(now_ns, world.gripper_width_m):
                self._fingers.header.stamp = convert.ns_to_stamp(stamp_ns)
                self._fingers.position = [width_m / 2] * 2
                self._finger_states.publish(self._fingers)

    def reset(self, world: World) -> None:
        """As `Mirror.reset`."""
        self._active = set(CONTROLLERS.values())
        self._gripper.reset(world)
        self._forget_targets()

    def _hear_target(self) -> bool:
        """Take what was sent; whether there is a target to be applied."""
        for topic in self._targets:
            message = topic.subscription.take_newest()
            if message is not None:
                refusal = topic.refusal(message)
                if refusal:
                    self._log_refused(refusal)
                else:
                    self._target = np.array(message.data, dtype=np.float64)
        return self._target is not None

    def _apply_target(self, world: World, target: Array) -> None:
        is_pose = len(target) == POSE_TARGET_SIZE
        if world.fault is not None or CONTROLLERS["cartesian" if is_pose else "joint"] not in self._active:
            return
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
        """What was sent is void, and the next target must be near the arm."""
        self._hear_target()
        self._target = None
        self._must_be_near = True
        self._commanded_ns = None

    def _is_due(self, key: str, now_ns: int) -> bool:
        if now_ns < self._due_ns[key]:
            return False
        self._due_ns[key] = max(self._due_ns[key] + self._periods_ns[key], now_ns + 1)
        return True

    def _publish_joints(self, stamp_ns: int, positions: Array, velocities: Array, torques: Array) -> None:
        message = self._joint_state
        message.header.stamp = convert.ns_to_stamp(stamp_ns)
        message.position = positions.tolist()
        message.velocity = velocities.tolist()
        message.effort = torques.tolist()
        self._joint_states.publish(message)

    def _publish_robot_state(self, stamp_ns: int, world: World) -> None:
        message = self._robot_state
        if world.fault != self._fault:
            self._fault = world.fault
            self._tell_fault(message, world.fault)
        if world.fault is None:
            message.robot_mode = FrankaState.ROBOT_MODE_MOVE if self._active else FrankaState.ROBOT_MODE_IDLE
        message.header.stamp = convert.ns_to_stamp(stamp_ns)
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
            message.last_motion_errors = message.current_errors
        else:
            message.robot_mode = FrankaState.ROBOT_MODE_REFLEX
            self._active = set()
            self._commanded_ns = None
        message.current_errors = Errors()
        if fault is not None:
            setattr(message.current_errors, _ERROR_OF_FAULT.get(fault.partition(":")[0], "joint_reflex"), True)

    # --- the executor's thread ---

    def _on_recovery(self, _: ErrorRecovery.Request, response: ErrorRecovery.Response) -> ErrorRecovery.Response:
        response.success = self._fault is not None
        if response.success:
            self._recover.set()
        else:
            response.error = NO_ERRORS
        return response

    def _on_switch(
        self, request: SwitchController.Request, response: SwitchController.Response
    ) -> SwitchController.Response:
        wanted, unwanted = set(request.activate_controllers), set(request.deactivate_controllers)
        strict = request.strictness == SwitchController.Request.STRICT
        if unknown := (wanted | unwanted) - set(CONTROLLERS.values()):
            response.message = f"no controller of the name {', '.join(sorted(unknown))}"
        elif strict and wanted & self._active:
            response.message = f"{', '.join(sorted(wanted & self._active))} is active already"
        else:
            is_chosen = len(self._active) < len(CONTROLLERS)
            self._active = (self._active - unwanted if is_chosen or not unwanted else set()) | wanted
            if wanted:
                self._activated.set()
            else:
                self._commanded_ns = None  # the simulation waits for no targets that nobody follows
            response.ok = True
        return response

    def _log_refused(self, why: str) -> None:
        self._node.get_logger().warning(f"target refused: {shortened(why)}", throttle_duration_sec=5.0)


@dataclass(frozen=True)
class _TargetTopic:
    """Where targets of `size` values arrive; polled, as every callback of this node would look at all its actions."""

    subscription: PolledSubscription[Float64MultiArray]
    name: str
    size: int

    def refusal(self, message: Float64MultiArray) -> str:
        """Why this target is not heeded; empty when it is."""
        if len(message.data) != self.size:
            return f"{self.name} takes {self.size} values, got {len(message.data)}; the real driver would crash"
        if not np.all(np.isfinite(message.data)):
            return f"{self.name} takes finite values, got {list(message.data)}"
        if message.data[0] == 0.0:
            return f"{self.name} ignores a target whose first value is exactly 0.0, as the real driver does"
        return ""


def _joint_distance(world: World, target: Array) -> tuple[float, float]:
    return float(np.abs(target - world.joint_positions).max()), _NEAR_RAD


def _pose_distance(world: World, target: Array) -> tuple[float, float]:
    return float(np.linalg.norm(target[:3] - world.state().tcp_pose[:3])), _NEAR_M


def _pose_of_target(target: Array) -> Array:
    matrix = np.eye(4)
    matrix[:3, 3], matrix[:3, :3] = target[:3], target[3:].reshape(3, 3)
    return matrix_pose(matrix)
