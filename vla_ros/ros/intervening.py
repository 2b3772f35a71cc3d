"""What the limits did, told in the log: each by its name and how often so far, at most once a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from rclpy.clock import Clock, ClockType
from rclpy.node import Node

_LOOK_S = 0.1
_SAY_AGAIN_S = 1.0
#: Counted, but nothing to tell anybody.
_ORDINARY = ("commands", "chunks", "late_rows", "teleop_targets")
#: Told to those who ask for debug messages: the quickest of smooth motions touches them again and again.
_COMMON = ("acceleration", "jerk")


class InterventionLog:
    """Looks at the counters ten times a second, on the steady clock."""

    def __init__(self, node: Node, read: Callable[[], Mapping[str, int]]) -> None:
        self._node = node
        self._read = read
        self._news = News()
        node.create_timer(_LOOK_S, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _look(self) -> None:
        for name, line in self._news.of(self._read(), time.monotonic()):
            if name in _COMMON:
                self._node.get_logger().debug(line)
            else:
                self._node.get_logger().info(line)


class News:
    """What in the counters is worth a line now."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[int, float]] = {}  # name -> the count told last, and when [s]

    def of(self, counters: Mapping[str, int], now_s: float) -> Iterator[tuple[str, str]]:
        """Name and line of each that grew since it was told, and was not told within the last second."""
        for name, count in counters.items():
            told, told_s = self._told.get(name, (0, -_SAY_AGAIN_S))
            if count > told and now_s - told_s >= _SAY_AGAIN_S and name not in _ORDINARY:
                self._told[name] = count, now_s
                yield name, f"intervention {name}: {count} so far"
