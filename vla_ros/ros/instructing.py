"""The instruction as a node hears it: from publishers that keep it for late subscribers, and from those that do not."""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.node import Node
from std_msgs.msg import String

from vla_ros import topics
from vla_ros.ros import qos

#: The same text within this time on the other subscription is the same message.
_SAME_S = 1.0


class Instructions:
    """Calls `on_instruction` once for each message on /vla/instruction.

    Two subscriptions: a transient local one does not match volatile publishers, such as `ros2 topic pub`; a volatile
    one gets nothing that was published before it was there.
    """

    def __init__(self, node: Node, on_instruction: Callable[[str], None]) -> None:
        self._on_instruction = on_instruction
        self._last: tuple[str, int, float] | None = None  # text, by which subscription, when
        for index, profile in enumerate((qos.LATCHED, qos.COMMAND)):
            node.create_subscription(String, topics.INSTRUCTION, self._listener(index), profile)

    def _listener(self, index: int) -> Callable[[String], None]:
        def hear(message: String) -> None:
            last, now_s = self._last, time.monotonic()
            if last is not None and last[0] == message.data and last[1] != index and now_s - last[2] < _SAME_S:
                self._last = None
                return
            self._last = message.data, index, now_s
            self._on_instruction(message.data)

        return hear
