"""The controller node: the shell of `control.arm` for one robot; wishes in, driver commands out."""

from __future__ import annotations

import time
from typing import Any

from trajectory_msgs.msg import JointTrajectory

from vla_ros import messages, topics
from vla_ros.config import ControllerNodeConfig
from vla_ros.control.arm import ArmController
from vla_ros.robots import catalogue
from vla_ros.ros import convert, guard, params, qos
from vla_ros.ros.diagnostics import ERROR, OK, WARN, Percentiles, Status, StatusReporter
from vla_ros.ros.drivers import catalogue as drivers
from vla_ros.ros.guard import GuardedNode
from vla_ros.ros.intervening import InterventionLog
from vla_ros.ros.liveliness import Liveliness
from vla_ros.ros.main import run
from vla_ros.ros.obeying import Orders, Plans
from vla_ros.ros.presence import Presence
from vla_ros.ros.recovering import Recovering
from vla_ros.ros.rivals import Rivals, clock_topics
from vla_ros.ros.ticking import Ticking
from vla_ros.timing.stamps import ns_to_ms, ns_to_s, period_ns
from vla_ros.values import Command, Mode, SafetyState

_LEVELS = {SafetyState.RUNNING: OK, SafetyState.RAMPING: WARN, SafetyState.HOLDING: WARN, SafetyState.STOPPED: ERROR}


class ControllerNode(GuardedNode):
    """Holds until it is told whom to follow, a policy or a teleoperator; within the limits, as long as all is well."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("controller", automatically_declare_parameters_from_overrides=True, **kwargs)
        config = params.read(self, ControllerNodeConfig, changeable=("mode",))
        self._robot = catalogue.find(config.robot)
        self._arm = ArmController(self._robot, config.arm, config.mode, is_obeyed=not config.dry_run)
        self._period_ns = period_ns(config.arm.rate_hz)
        self._ticking = Ticking(self, 1.0 / config.arm.rate_hz, self._on_tick)
        self._last_tick_ns = 0
        self._jitter_ms = Percentiles()

        self._command = self.create_publisher(JointTrajectory, topics.COMMAND, qos.COMMAND)
        self._requested = self.create_publisher(JointTrajectory, topics.REQUESTED, qos.COMMAND)
        self._driver = drivers.find(self._robot)(
            self,
            self._robot,
            on_joint_state=self._arm.on_joint_state,
            on_gripper_state=self._arm.on_gripper_state,
            on_condition=lambda condition: self._arm.on_condition(condition, self._now_ns()),
            command_interface=config.arm.command_interface,
            max_state_age_ms=config.arm.watchdog.max_state_age_ms,
        )
        self._commanded = None if config.dry_run else self._driver
        by_itself = config.arm.watchdog.recovers_by_itself
        self._recovering = Recovering(self, self._arm, self._commanded, by_itself, self._now_ns)
        guard.of(self).on_failure = lambda why: self._arm.on_failure(why, self._now_ns())
        presence = Presence(self)
        self._reporter = StatusReporter(self, self._status, config.robot, presence=presence)
        self._liveliness = Liveliness(self, presence, self._arm, self._now_ns)
        trusted = [topics.CHUNK, topics.TELEOP, topics.DEADMAN, *self._driver.state_topics, *clock_topics(self)]
        mine = [self._command.topic_name, self._requested.topic_name]
        mine += [self._commanded.target_topic] if self._commanded else []
        self._rivals = Rivals(self, mine, trusted, presence, self._on_second_publisher)
        Orders(self, self._arm, self._commanded, self._recovering.resume, self._answer, self._now_ns)
        Plans(self, self._arm, self._liveliness.seen, self._now_ns)
        InterventionLog(self, lambda: self._arm.counters)

    def wind_down(self) -> bool:
        """Ramp to a hold before the node ends; whether the arm stands."""
        self._ticking.outlast()
        self._arm.stop(self._now_ns())
        return self._arm.is_at_rest

    def _on_second_publisher(self, who: str) -> None:
        self._arm.on_second_publisher(who, self._now_ns())

    def _answer(self) -> str:
        """How the arm is, after somebody's word."""
        self._rivals.look()  # at once: the word may have ended what they were the cause of
        status = self._status()
        self._reporter.publish()
        return f"mode {status.values['mode']}, {status.message}"

    def _on_tick(self) -> None:
        now_ns = self._now_ns()
        if 0 < self._last_tick_ns < now_ns:
            self._jitter_ms.add(ns_to_ms(abs(now_ns - self._last_tick_ns - self._period_ns)))
        self._last_tick_ns = now_ns
        guard.of(self).call("the driver", self._driver.poll)  # whatever comes, the arm must be able to brake
        command = self._arm.step(now_ns, time.monotonic_ns())
        if command is not None:
            if self._commanded is not None:
                self._commanded.publish(command)
            self._show(command)
        if self._commanded is not None and (goal := self._arm.gripper_goal(now_ns)) is not None:
            self._commanded.send_gripper(goal, self._arm.gripper_done)
        self._recovering.tick(now_ns)
        self._reporter.publish_if_not(self._arm.safety.value, self._arm.plan_since_ns)

    def _show(self, command: Command) -> None:
        """Publish what was sent and what was asked for, where anybody listens: messages take time to make."""
        if self._command.get_subscription_count():
            sent = convert.command_to_trajectory(command, self._robot.joint_names, self._robot.base_frame)
            self._command.publish(sent)
        if command.requested is not None and self._requested.get_subscription_count():
            self._requested.publish(convert.target_to_trajectory(command.requested, self._robot.base_frame))

    def _status(self) -> Status:
        arm = self._arm.status()
        values: dict[str, object] = {
            "mode": arm.mode.value,
            "safety_state": arm.safety.value,
            "reason": arm.reason,
            "state_since_s": None if arm.state_since_ns is None else ns_to_s(arm.state_since_ns),
            messages.PLAN_SINCE: arm.plan_since_ns,
            "recovery": self._recovering.said,
            "dry_run": self._commanded is None,
            **{messages.INTERVENTION + name: count for name, count in arm.counters.items()},
            "chunk_latency_ms": arm.chunks.latency_ms,
            "chunk_latency_ms_p50": arm.chunks.latency_p50_ms,
            "chunk_latency_ms_p99": arm.chunks.latency_p99_ms,
            "chunk_delay_ms": arm.chunks.delay_ms,
            "overlap_steps": arm.chunks.overlap_steps,
            **self._jitter_ms.values("tick_jitter_ms"),
            "gripper": arm.gripper,
        }
        # To hold because nobody asked for more is as it should be.
        as_asked = arm.mode is Mode.HOLD and arm.safety is SafetyState.HOLDING
        reason = arm.reason
        if self._commanded is None:
            reason = f"{reason} (dry run)" if reason else "dry run"
        return Status(OK if as_asked else _LEVELS[arm.safety], arm.safety.value, reason, values)

    def _now_ns(self) -> int:
        return self._ticking.now_ns


def main() -> int:
    """Run the node until it is told to end; the exit code."""
    return run(ControllerNode)
