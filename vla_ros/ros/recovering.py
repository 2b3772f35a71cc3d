"""A robot that stopped itself gets going again: the decision is `control.recovery`'s, the doing its driver's."""

from __future__ import annotations

from collections.abc import Callable

from rclpy.node import Node

from vla_ros.control.arm import ArmController
from vla_ros.control.recovery import Recovery
from vla_ros.ros.drivers.driver import Driver
from vla_ros.values import SafetyState


class Recovering:
    """Between one arm and its driver; without a driver, in a dry run, whoever commands the robot sees to its faults."""

    def __init__(
        self, node: Node, arm: ArmController, driver: Driver | None, by_itself: bool, now_ns: Callable[[], int]
    ) -> None:
        self._logger = node.get_logger()
        self._arm = arm
        self._driver = driver
        self._now_ns = now_ns
        self._recovery = Recovery(by_itself)

    @property
    def said(self) -> str:
        """How it goes, or went the last time; "" where there was nothing to recover from."""
        return self._recovery.said

    def resume(self, now_ns: int) -> None:
        """The operator's word, for the arm and, where it stopped itself, for the robot."""
        self._arm.resume(now_ns)
        if self._arm.needs_recovery:
            self._recovery.ask()
            if self._driver is None:
                self._arm.on_recovered(now_ns)

    def tick(self, now_ns: int) -> None:
        """Ask the driver where that is due."""
        if self._driver is None:
            return
        arm = self._arm
        no_hand_stopped_it = self._driver.can_recover and arm.safety is not SafetyState.STOPPED
        if self._recovery.due(now_ns, arm.needs_recovery, no_hand_stopped_it, arm.is_at_rest):
            self._logger.info(self._recovery.said)
            self._driver.recover(self._on_done)

    def _on_done(self, success: bool, message: str) -> None:
        now_ns = self._now_ns()
        self._recovery.done(success, message, now_ns)
        if success:
            self._arm.on_recovered(now_ns)
        if message:
            self._logger.warning(self._recovery.said)
        else:
            self._logger.info(self._recovery.said)
