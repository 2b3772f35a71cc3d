"""Whether the inference node is still there: by what it says, and by whether anybody publishes chunks."""

from __future__ import annotations

import time
from collections.abc import Callable

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from vla_ros import topics
from vla_ros.ros import qos

_INFERENCE = "inference"
_PERIOD_S = 0.1
#: The inference node says how it is ten times a second. A process that was killed stays in DDS discovery for 20 s, so
#: silence tells earlier than the number of publishers.
_SILENCE_S = 1.0


class Liveliness:
    """Calls `on_lost(why)`, again and again, while nobody seems to plan; on the steady clock."""

    def __init__(self, node: Node, on_lost: Callable[[str], None]) -> None:
        self._node = node
        self._on_lost = on_lost
        self._seen_s: float | None = None
        node.create_subscription(DiagnosticArray, topics.STATE, self._on_state, qos.STATE)
        node.create_timer(_PERIOD_S, self._check, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def seen(self) -> None:
        """The inference node did something."""
        self._seen_s = time.monotonic()

    def _on_state(self, message: DiagnosticArray) -> None:
        if any(status.name == _INFERENCE for status in message.status):
            self.seen()

    def _check(self) -> None:
        if self._node.count_publishers(topics.CHUNK) == 0:
            self._on_lost(f"no publisher on {topics.CHUNK}")
        elif self._seen_s is not None and time.monotonic() - self._seen_s > _SILENCE_S:
            self._on_lost(f"the inference node has said nothing for {_SILENCE_S:g} s")
