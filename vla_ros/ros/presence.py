"""Which processes report on /vla/state, by the full name of their node: two at once are two nodes of one name."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node

from vla_ros import topics
from vla_ros.ros import qos
from vla_ros.ros.polling import PolledSubscription

#: This process, for people; the last part tells it from a process of the same number in another container.
PROCESS = f"process {os.getpid()} on {socket.gethostname()} ({secrets.token_hex(2)})"
#: Under which keys of its state a node says who it is.
NODE, OF_PROCESS = "node", "process"

#: A node reports ten times a second; one that has been silent for longer has ended, or hangs.
_SILENT_S = 1.0
_MOST_NAMES = 100

Hear = Callable[[DiagnosticArray], None]


class Presence:
    """Hears every state once for all parts of a node that want it.

    A process that was killed stays in DDS discovery for 20 s, next to its successor. It reports no more, so it is not
    taken for a second node of that name: of two processes the older one has to report after the younger one began.
    """

    def __init__(self, node: Node | None = None) -> None:
        """`node` None: only what is given to `hear`."""
        self._heard: dict[str, dict[str, tuple[float, float]]] = {}  # node -> process -> first and last (monotonic) [s]
        self._listeners: list[Hear] = []
        if node is not None:
            node.create_subscription(DiagnosticArray, topics.STATE, self.hear, qos.STATE)

    def polled(self, node: Node) -> Callable[[], list[str]]:
        """For a node that no executor spins yet: what takes in what came, and gives `others`."""
        states = PolledSubscription(node, DiagnosticArray, topics.STATE, qos.STATE)

        def others() -> list[str]:
            for state in states.take_all():
                self.hear(state)
            return self.others(node.get_fully_qualified_name())

        return others

    def listen(self, listener: Hear) -> None:
        """Let `listener` have every message."""
        self._listeners.append(listener)

    def hear(self, message: DiagnosticArray) -> None:
        """A state came."""
        now_s = time.monotonic()
        for status in message.status:
            said = {entry.key: entry.value for entry in status.values if entry.key in (NODE, OF_PROCESS)}
            if len(said) == 2:
                self.see(said[NODE], said[OF_PROCESS], now_s)
        for listener in self._listeners:
            listener(message)

    def see(self, name: str, process: str, now_s: float) -> None:
        """`process` reported for the node `name`."""
        if name not in self._heard and len(self._heard) >= _MOST_NAMES:
            self._heard.clear()
        heard = self._heard.setdefault(name, {})
        for other in [other for other, (_, last_s) in heard.items() if now_s - last_s > _SILENT_S]:
            del heard[other]
        heard[process] = (heard.get(process, (now_s, now_s))[0], now_s)

    def processes(self, name: str, now_s: float | None = None) -> list[str]:
        """Those that report for the node `name`."""
        now_s = time.monotonic() if now_s is None else now_s
        heard = {
            process: (first_s, last_s)
            for process, (first_s, last_s) in self._heard.get(name, {}).items()
            if now_s - last_s <= _SILENT_S
        }
        newest_s = max((first_s for first_s, _ in heard.values()), default=0.0)
        return sorted(process for process, (_, last_s) in heard.items() if last_s >= newest_s)

    def others(self, name: str) -> list[str]:
        """Those that report for the node `name` besides this process."""
        return [process for process in self.processes(name) if process != PROCESS]
