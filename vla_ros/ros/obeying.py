"""What a person tells the controller node: services, the mode as a parameter, teleoperation, a dead-man switch."""

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
from vla_ros.ros import qos
from vla_ros.ros.drivers.driver import Driver
from vla_ros.values import Mode, SafetyState

_MODE = "mode"


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
            (topics.START, lambda _: self._set_mode(Mode.POLICY)),
            (topics.STOP, lambda _: self._set_mode(Mode.HOLD)),
            (topics.HOLD, arm.hold),
            (topics.RESUME, resume),
            (topics.ESTOP, arm.estop),
        ):
            node.create_service(Trigger, topic, self._service(act))
        node.create_service(Trigger, topics.HOME_GRIPPER, self._home_gripper)
        # Heard from reliable and best-effort publishers alike; one that is lost is replaced by the next.
        node.create_subscription(JointTrajectory, topics.TELEOP, self._on_teleop, qos.NEWEST)
        node.create_subscription(Bool, topics.DEADMAN, lambda held: arm.on_deadman(held.data, now_ns()), qos.NEWEST)
        node.add_on_set_parameters_callback(self._on_parameters)

    def _service(self, act: Callable[[int], None]) -> Callable[[Trigger.Request, Trigger.Response], Trigger.Response]:
        def serve(_: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
            act(self._now_ns())
            response.success, response.message = True, self._answer()
            return response

        return serve

    def _set_mode(self, mode: Mode) -> None:
        self._node.set_parameters([Parameter(_MODE, Parameter.Type.STRING, mode.value)])

    def _on_parameters(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        for parameter in parameters:
            if parameter.name != _MODE:
                continue
            try:
                mode = Mode(parameter.value)
            except ValueError:
                known = ", ".join(item.value for item in Mode)
                reason = f"mode: unknown value {parameter.value!r}; should be one of {known}"
                return SetParametersResult(successful=False, reason=reason)
            self._arm.set_mode(mode, self._now_ns())
            self._answer()
        return SetParametersResult(successful=True)

    def _on_teleop(self, message: JointTrajectory) -> None:
        try:
            target = messages.trajectory_to_target(message)
        except ValueError as error:
            self._arm.on_malformed("teleop")
            self._node.get_logger().error(f"target refused: {error}", throttle_duration_sec=1.0)
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
        response.message = failures[0] if failures else "the gripper is being homed; the log says how it ended"
        return response

    def _on_homed(self, success: bool, message: str, failures: list[str]) -> None:
        self._arm.gripper_homed()
        if success:
            self._node.get_logger().info("the gripper is homed")
        else:
            failures.append(f"the gripper is not homed: {message}")
            self._node.get_logger().error(failures[-1])
