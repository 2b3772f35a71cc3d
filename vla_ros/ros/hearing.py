"""Whether a process that took a dead one's place hears anything: about one in twenty does not, and the next one will.

Seen with Fast DDS 3.2.3 after a kill -9, whatever ports and memory the new process gets: others hear it, but it hears
nobody, for a time between twelve seconds and ever.
"""

from __future__ import annotations

import time

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node

from vla_ros import topics
from vla_ros.ros import qos

_DEAF_AFTER_S = 8.0


class Hearing:
    """Listens to what the other nodes say of themselves, ten times a second each."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._since_s = time.monotonic()
        self._hears = False
        node.create_subscription(DiagnosticArray, topics.STATE, self._on_state, qos.STATE)

    @property
    def failure(self) -> str:
        """Why the process is of no use; "" as long as it may be, and once it has heard anybody else."""
        silent_s = time.monotonic() - self._since_s
        if self._hears or silent_s < _DEAF_AFTER_S or self._node.count_publishers(topics.STATE) < 2:
            return ""
        return (
            f"no message on {topics.STATE} for {silent_s:.0f} s, though other nodes publish there: this process has to "
            "be restarted"
        )

    def _on_state(self, message: DiagnosticArray) -> None:
        self._hears |= any(status.name != self._node.get_name() for status in message.status)
