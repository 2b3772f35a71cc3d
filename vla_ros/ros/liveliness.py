"""Whether the inference node is still there, and at the same task: by what it says, and by who publishes chunks."""

from __future__ import annotations

import time
from collections.abc import Callable

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from vla_ros import topics
from vla_ros.control.arm import ArmController
from vla_ros.ros.presence import Presence

_INFERENCE = "inference"
_PERIOD_S = 0.1
#: The inference node says how it is ten times a second. A process that was killed stays in DDS discovery for 20 s, so
#: silence tells earlier than the number of publishers.
_SILENCE_S = 1.0
_DIGITS = 18


class Liveliness:
    """Tells `arm` at every look, on the steady clock, that no policy plans ahead.

    And once that a process that took a dead one's place follows another task.
    """

    def __init__(self, node: Node, presence: Presence, arm: ArmController, now_ns: Callable[[], int]) -> None:
        self._node = node
        self._arm = arm
        self._now_ns = now_ns
        self._task = TaskWatch()
        self._seen_s: float | None = None
        presence.listen(self._on_state)
        node.create_timer(_PERIOD_S, self._check, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def seen(self) -> None:
        """The inference node did something."""
        self._seen_s = time.monotonic()

    def _on_state(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name != _INFERENCE:
                continue
            self.seen()
            values = {entry.key: entry.value for entry in status.values}
            instructed = values.get("instructed", "")
            if not (instructed.isdecimal() and len(instructed) <= _DIGITS):  # a count, and none that Python refuses
                continue
            if other := self._task.see(values.get("instruction", ""), int(instructed)):
                self._arm.on_other_task(self._now_ns(), other)

    def _check(self) -> None:
        if self._node.count_publishers(topics.CHUNK) == 0:
            self._arm.on_policy_lost(self._now_ns(), f"no publisher on {topics.CHUNK}")
        elif self._seen_s is not None and time.monotonic() - self._seen_s > _SILENCE_S:
            self._arm.on_policy_lost(self._now_ns(), f"no message from the inference node for {_SILENCE_S:g} s")


class TaskWatch:
    """Whether a policy that began anew does what it did: it knows its parameters, but not what it was told since."""

    def __init__(self) -> None:
        self._task = ""
        self._instructed = 0
        self._is_new = False

    def see(self, task: str, instructed: int) -> str:
        """It follows `task`, and was instructed so often; what differs, in words, if it is new and something does."""
        self._is_new |= instructed < self._instructed
        self._instructed = instructed
        if not task:
            return ""
        before, self._task = self._task, task
        is_new, self._is_new = self._is_new, False
        return f"{task!r}, which was {before!r}" if is_new and before not in ("", task) else ""
