"""What a node says about itself: its status on /vla/state and /diagnostics, and percentiles of what it timed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from vla_ros import topics
from vla_ros.messages import shortened
from vla_ros.ros import convert, guard, qos
from vla_ros.ros.presence import NODE, OF_PROCESS, PROCESS, Presence

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR

_STATE_PERIOD_S = 0.1
_DIAGNOSTICS_EVERY = 10  # states, so 1 Hz
_LONGEST_MESSAGE, _LONGEST_VALUE = 1000, 2000  # characters


@dataclass(frozen=True)
class Status:
    """How a node is: `state` is one word, `reason` says why it is not a better one (empty when all is well).

    Of `values`, those that are None are left out.
    """

    level: bytes
    state: str
    reason: str = ""
    values: Mapping[str, object] = field(default_factory=dict)

    @property
    def message(self) -> str:
        """`state: reason`, or the state alone."""
        return f"{self.state}: {self.reason}" if self.reason else self.state


class StatusReporter:
    """Publishes what `read` answers: on /vla/state at 10 Hz and on change, on /diagnostics at 1 Hz; logs each change.

    On /diagnostics the status has the node's full name, as an aggregator gets those of several arms. `hardware_id`: the
    arm, or whatever else it is about. `now_ns`: the time, where it is not the node's own.

    The timer runs on the steady clock: a node whose simulated time stands still says so rather than fall silent. What
    its guard has met is part of it: a callback that failed lately is an error of the node. With a `presence` another
    node of the same name is an error as well, reported and logged.
    """

    def __init__(
        self,
        node: Node,
        read: Callable[[], Status],
        hardware_id: str,
        now_ns: Callable[[], int] | None = None,
        presence: Presence | None = None,
    ) -> None:
        self._node = node
        self._name = node.get_fully_qualified_name()
        self._read = read
        self._hardware_id = hardware_id
        self._now_ns = now_ns or (lambda: int(node.get_clock().now().nanoseconds))
        self._presence = presence
        self._twins: list[str] = []
        self._last = ""
        self._last_detail: object = None
        self._count = 0
        self._state = node.create_publisher(DiagnosticArray, topics.STATE, qos.STATE)
        self._diagnostics = node.create_publisher(DiagnosticArray, topics.DIAGNOSTICS, qos.STATE)
        node.create_timer(_STATE_PERIOD_S, self._on_timer, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def publish_if_not(self, state: str, detail: object = None) -> None:
        """Publish now if `state` or a `detail` is new (asking costs nothing, so every tick may)."""
        if state != self._last or detail != self._last_detail:
            self._last_detail = detail
            self.publish()

    def publish(self) -> None:
        """Publish now."""
        self._publish(self._status())

    def _on_timer(self) -> None:
        message = self._publish(self._status())
        if self._count % _DIAGNOSTICS_EVERY == 0:
            message.status[0].name = self._node.get_fully_qualified_name().lstrip("/")
            self._diagnostics.publish(message)
        self._count += 1

    def _status(self) -> Status:
        status, guarded = self._read(), guard.of(self._node)
        reason = "; ".join(filter(None, (status.reason, guarded.problem, twins := self._report_twins())))
        if guarded.problem or twins:
            status = replace(status, level=ERROR, reason=reason)
        who = {NODE: self._name, OF_PROCESS: PROCESS}
        return replace(status, values={**who, **status.values, **guarded.values})

    def _report_twins(self) -> str:
        """What other nodes of this name there are; logged when that changes."""
        twins = self._presence.others(self._name) if self._presence else []
        text = f"another {self._name} runs: {', '.join(twins)}; end one of them" if twins else ""
        if text and twins != self._twins:
            self._node.get_logger().error(text)
        self._twins = twins
        return text

    def _publish(self, status: Status) -> DiagnosticArray:
        if status.state != self._last:
            self._log(status)
            self._last = status.state
        message = DiagnosticArray()
        message.header.stamp = convert.ns_to_stamp(self._now_ns())
        entry = DiagnosticStatus(level=status.level, name=self._node.get_name(), hardware_id=self._hardware_id)
        entry.message = shortened(status.message, _LONGEST_MESSAGE)
        known = {key: value for key, value in status.values.items() if value is not None}
        entry.values = [KeyValue(key=key, value=_text(value)) for key, value in known.items()]
        message.status = [entry]
        self._state.publish(message)
        return message

    def _log(self, status: Status) -> None:
        logger = self._node.get_logger()
        # rclpy keeps one severity per calling line, so each level has a line of its own.
        if status.level == ERROR:
            logger.error(shortened(status.message))
        elif status.level == WARN:
            logger.warning(shortened(status.message))
        else:
            logger.info(shortened(status.message))


def _text(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else shortened(str(value), _LONGEST_VALUE)


class Percentiles:
    """The newest `size` values of a quantity, and their percentiles."""

    def __init__(self, size: int = 2000) -> None:
        self._values: deque[float] = deque(maxlen=size)
        self._new = 0  # values since the percentiles were taken
        self._taken = (0.0, 0.0)

    def add(self, value: float) -> None:
        """Count one more value; the oldest is forgotten."""
        self._values.append(value)
        self._new += 1

    def values(self, name: str) -> dict[str, float]:
        """`<name>_p50` and `<name>_p99`, of all values but at most 2 % new ones; empty as long as there is no value."""
        if not self._values:
            return {}
        if self._new * 50 > len(self._values):
            p50, p99 = np.percentile(self._values, (50.0, 99.0))
            self._new, self._taken = 0, (float(p50), float(p99))
        return {f"{name}_p50": self._taken[0], f"{name}_p99": self._taken[1]}
