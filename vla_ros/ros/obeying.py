"""What the controller node is told: chunks, services, the mode as a parameter, teleoperation, a dead-man switch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from vla_ros import messages, topics
from vla_ros.control.arm import ArmController
from vla_ros.messages import shortened
from vla_ros.ros import guard, qos
from vla_ros.ros.drivers.driver import Driver
from vla_ros.values import Mode, SafetyState

_MODE = "mode"
_AFTER_ESTOP = f"nothing moves after an emergency stop; call {topics.RESUME}, then {topics.START}"


class Plans:
    """What a policy may send: chunks, read as they come over the wire, since the arm waits meanwhile."""

    def __init__(self, node: Node, arm: ArmController, seen: Callable[[], None], now_ns: Callable[[], int]) -> None:
        """`seen` is called with every chunk, whatever it is worth."""
        self._guard, self._arm = guard.of(node), arm
        self._seen, self._now_ns = seen, now_ns
        node.create_subscription(JointTrajectory, topics.CHUNK, self._on_chunk, qos.COMMAND, raw=True)

    def _on_chunk(self, data: bytes) -> None:
        self._seen()
        try:
            guard.refuse_large(topics.CHUNK, data)
            chunk = messages.serialized_to_chunk(data)
        except ValueError as error:
            self._arm.on_malformed("chunk")
            self._guard.refuse(topics.CHUNK, error)
            return
        self._arm.on_chunk(chunk, self._now_ns())


class Orders:
    """Everything an operator, or a teleoperator, may send; the mode is a parameter of the node, and always true."""

    def __init__(
        self,
        node: Node,
        arm: ArmController,
        driver: Driver | None,
        resume: Callable[[int], None],
        answer: Callable[[], str],
        now_ns: Callable[[], int],
    ) -> None:
        """`driver` None: a dry run. `answer` says, and publishes, how the node is after an order was carried out."""
        self._node, self._arm, self._driver = node, arm, driver
        self._answer, self._now_ns = answer, now_ns
        for topic, act in (
            (topics.STOP, lambda _: self._set_mode(Mode.HOLD)),
            (topics.HOLD, arm.hold),
            (topics.RESUME, resume),
            (topics.ESTOP, arm.estop),
        ):
            node.create_service(Trigger, topic, self._service(act))
        node.create_service(Trigger, topics.START, self._start)
        node.create_service(Trigger, topics.HOME_GRIPPER, self._home_gripper)
        # Heard from reliable and best-effort publishers alike; one that is lost is replaced by the next.
        node.create_subscription(JointTrajectory, topics.TELEOP, self._on_teleop, qos.NEWEST)
        node.create_subscription(Bool, topics.DEADMAN, lambda held: arm.on_deadman(held.data, now_ns()), qos.NEWEST)
        node.add_on_set_parameters_callback(self._check_parameters)
        self._acts_afterwards = hasattr(node, "add_post_set_parameters_callback")  # from Iron on
        if self._acts_afterwards:
            node.add_post_set_parameters_callback(self._obey_parameters)

    def _service(self, act: Callable[[int], None]) -> Callable[[Trigger.Request, Trigger.Response], Trigger.Response]:
        def serve(_: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
            act(self._now_ns())
            response.success, response.message = True, self._answer()
            return response

        return serve

    def _start(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._arm.safety is SafetyState.STOPPED:
            response.message = _AFTER_ESTOP
            return response
        self._set_mode(Mode.POLICY)
        response.success, response.message = True, self._answer()
        return response

    def _set_mode(self, mode: Mode) -> None:
        self._node.set_parameters([Parameter(_MODE, Parameter.Type.STRING, mode.value)])

    def _check_parameters(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        """Whether the mode may be so; what else is set with it may still be refused, by others."""
        known = [item.value for item in Mode]
        modes = [parameter.value for parameter in parameters if parameter.name == _MODE]
        reason = ""
        if wrong := [mode for mode in modes if mode not in known]:
            reason = f"mode: unknown value {shortened(repr(wrong[0]))}; should be one of {', '.join(known)}"
        elif modes and modes[-1] != Mode.HOLD.value and self._arm.safety is SafetyState.STOPPED:
            reason = f"mode: {_AFTER_ESTOP}"
        elif modes and not self._acts_afterwards:
            if len(parameters) > 1:
                reason = "mode: set it alone; this release of ROS cannot tell whether the others are accepted"
            else:
                self._obey_parameters(parameters)
        return SetParametersResult(successful=not reason, reason=reason)

    def _obey_parameters(self, parameters: Sequence[Parameter]) -> None:
        """The whole set was accepted."""
        for parameter in parameters:
            if parameter.name == _MODE:
                self._arm.set_mode(Mode(parameter.value), self._now_ns())
                self._answer()

    def _on_teleop(self, message: JointTrajectory) -> None:
        try:
            target = messages.trajectory_to_target(message)
        except ValueError as error:
            self._arm.on_malformed("teleop")
            guard.of(self._node).refuse(topics.TELEOP, error)
            return
        self._arm.on_teleop(target, self._now_ns())

    def _home_gripper(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Answers when it has begun: a service that waits for its end would keep the node from its ticks."""
        failures: list[str] = []
        if self._driver is None:
            failures.append("nothing is sent to the gripper in a dry run")
        elif self._arm.safety is SafetyState.RUNNING:
            failures.append(f"the arm is running, and may hold something; call {topics.HOLD} first")
        elif self._arm.safety is SafetyState.STOPPED:
            failures.append(f"nothing moves after an emergency stop; call {topics.STOP}, then {topics.RESUME} first")
        else:
            self._driver.home_gripper(lambda success, message: self._on_homed(success, message, failures))
        response.success = not failures
        response.message = failures[0] if failures else "the gripper is homing; the log will report the result"
        return response

    def _on_homed(self, success: bool, message: str, failures: list[str]) -> None:
        self._arm.gripper_homed()
        if success:
            self._node.get_logger().info("the gripper is homed")
        else:
            failures.append(f"the gripper is not homed: {message}")
            self._node.get_logger().error(failures[-1])
