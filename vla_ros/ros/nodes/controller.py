"""The controller node: the shell of `control.arm` for one robot; chunks in, driver commands out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from vla_ros import topics
from vla_ros.config import ControllerNodeConfig
from vla_ros.control.arm import ArmController
from vla_ros.robots import catalogue
from vla_ros.ros import convert, params, qos
from vla_ros.ros.diagnostics import ERROR, INTERVENTION, OK, WARN, Percentiles, Status, StatusReporter
from vla_ros.ros.drivers import catalogue as drivers
from vla_ros.ros.liveliness import Liveliness
from vla_ros.ros.main import run
from vla_ros.timing.stamps import ns_to_ms, period_ns
from vla_ros.values import Mode, SafetyState

_LEVELS = {SafetyState.RUNNING: OK, SafetyState.RAMPING: WARN, SafetyState.HOLDING: WARN, SafetyState.STOPPED: ERROR}


class ControllerNode(Node):
    """Holds until it is started, then follows the chunks of the policy within the limits, and stops when they stop."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("controller", automatically_declare_parameters_from_overrides=True, **kwargs)
        config = params.read(self, ControllerNodeConfig)
        self._robot = catalogue.find(config.robot)
        self._arm = ArmController(self._robot, config.arm, config.started)
        self._period_ns = period_ns(config.arm.rate_hz)
        self._last_tick_ns = 0
        self._jitter_ms = Percentiles()
        self._malformed_chunks = 0

        self._command = self.create_publisher(JointTrajectory, topics.COMMAND, qos.COMMAND)
        self._driver = drivers.find(self._robot)(
            self,
            self._robot,
            on_joint_state=self._arm.on_joint_state,
            on_gripper_state=self._arm.on_gripper_state,
            on_fault=lambda reason: self._arm.on_fault(reason, self._now_ns()),
            on_fault_cleared=lambda: self._arm.on_fault_cleared(self._now_ns()),
            command_interface=config.arm.command_interface,
        )
        self._reporter = StatusReporter(self, self._status)
        self.create_subscription(JointTrajectory, topics.CHUNK, self._on_chunk, qos.COMMAND)
        self._liveliness = Liveliness(self, lambda why: self._arm.on_policy_lost(self._now_ns(), why))
        for topic, act in (
            (topics.START, self._arm.start),
            (topics.STOP, self._arm.stop),
            (topics.HOLD, self._arm.hold),
            (topics.RESUME, self._resume),
            (topics.ESTOP, self._arm.estop),
        ):
            self.create_service(Trigger, topic, self._service(act))
        self.create_timer(1.0 / config.arm.rate_hz, self._on_tick)

    def wind_down(self) -> bool:
        """Ramp to a hold before the node ends; whether the arm stands."""
        self._arm.stop(self._now_ns())
        return self._arm.is_at_rest

    # --- what arrives ---

    def _on_chunk(self, message: JointTrajectory) -> None:
        self._liveliness.seen()
        try:
            chunk = convert.trajectory_to_chunk(message)
        except ValueError as error:
            self._malformed_chunks += 1
            self.get_logger().error(f"chunk refused: {error}", throttle_duration_sec=1.0)
            return
        self._arm.on_chunk(chunk, self._now_ns())

    def _resume(self, now_ns: int) -> None:
        """The operator's word is also what lets the robot leave a reflex."""
        if self._arm.is_in_fault:
            self._driver.recover(self._on_recovered)
        self._arm.resume(now_ns)

    def _on_recovered(self, success: bool, message: str) -> None:
        if not success:
            self.get_logger().error(f"the robot does not recover: {message}")

    def _service(self, act: Callable[[int], None]) -> Callable[[Trigger.Request, Trigger.Response], Trigger.Response]:
        def serve(_: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
            act(self._now_ns())
            status = self._status()
            response.success = True
            response.message = f"mode {status.values['mode']}, {status.message}"
            self._reporter.publish()
            return response

        return serve

    # --- what is due ---

    def _on_tick(self) -> None:
        now_ns = self._now_ns()
        if 0 < self._last_tick_ns < now_ns:
            self._jitter_ms.add(ns_to_ms(abs(now_ns - self._last_tick_ns - self._period_ns)))
        self._last_tick_ns = now_ns
        self._driver.poll()
        command = self._arm.step(now_ns)
        if command is not None:
            self._driver.publish(command)
            sent = convert.command_to_trajectory(command, self._robot.joint_names, self._robot.base_frame)
            self._command.publish(sent)
        goal = self._arm.gripper_goal(now_ns)
        if goal is not None:
            self._driver.send_gripper(goal, self._arm.gripper_done)
        self._reporter.publish_if_not(self._arm.safety.value)

    def _status(self) -> Status:
        arm = self._arm.status()
        values: dict[str, object] = {
            "mode": arm.mode.value,
            "safety_state": arm.safety.value,
            "reason": arm.reason,
            **{INTERVENTION + name: count for name, count in arm.counters.items()},
            f"{INTERVENTION}chunk_malformed": self._malformed_chunks,
            "chunk_latency_ms": arm.chunk_latency_ms,
            "chunk_latency_ms_p50": arm.chunk_latency_p50_ms,
            "chunk_latency_ms_p99": arm.chunk_latency_p99_ms,
            **self._jitter_ms.values("tick_jitter_ms"),
            "gripper": arm.gripper,
        }
        # To hold because nobody asked for more is as it should be.
        as_asked = arm.mode is Mode.HOLD and arm.safety is SafetyState.HOLDING
        return Status(OK if as_asked else _LEVELS[arm.safety], arm.safety.value, arm.reason, values)

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)


def main() -> int:
    """Run the node until it is told to end; the exit code."""
    return run(ControllerNode)


if __name__ == "__main__":
    sys.exit(main())
