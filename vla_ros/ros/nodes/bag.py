"""The bag node: writes the messages of chosen topics, as they came over the wire, into a rosbag2 (MCAP)."""

from __future__ import annotations

import platform
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from vla_ros import topics
from vla_ros.config import BagNodeConfig
from vla_ros.ros import params
from vla_ros.ros.bags import RawBag, message_class
from vla_ros.ros.diagnostics import ERROR, OK, WARN, Status, StatusReporter
from vla_ros.ros.guard import GuardedNode
from vla_ros.ros.main import OUTLASTS_CONTROLLER_S, run

_LOOK_PERIOD_S = 0.1
_DEPTH = 1000  # messages that may wait for the disk: one second of the fastest topic


class BagNode(GuardedNode):
    """Subscribes to each topic as soon as somebody publishes it; messages are stamped with their time of arrival."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("bag", automatically_declare_parameters_from_overrides=True, **kwargs)
        self._at_end = ExitStack()
        config = params.read(self, BagNodeConfig)
        self._missing = list(config.topics)
        self._failure = ""
        self._bag = self._at_end.enter_context(closing(RawBag(Path(config.path))))
        if str(self._bag.path) != config.path:
            self.get_logger().warning(f"{config.path} was not closed; this recording goes into {self._bag.path}")
        self._reporter = StatusReporter(self, self._status, platform.node())
        self.create_timer(_LOOK_PERIOD_S, self._look_for_topics, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def destroy_node(self) -> None:
        """Close the bag properly, whatever ended the node."""
        self._at_end.close()
        super().destroy_node()

    def wind_down(self) -> bool:
        """What the controller sends while it brakes goes into the bag as well."""
        return self.count_publishers(topics.COMMAND) == 0

    def _look_for_topics(self) -> None:
        for topic in list(self._missing):
            publishers = self.get_publishers_info_by_topic(topic)
            if publishers:
                self._missing.remove(topic)
                self._record(topic, publishers)

    def _record(self, topic: str, publishers: list[Any]) -> None:
        type_name = publishers[0].topic_type
        profiles = [publisher.qos_profile for publisher in publishers]
        try:
            kind = message_class(type_name)
            self._bag.add_topic(topic, type_name, profiles)
        except ValueError as error:
            self._failure = f"{topic} is not recorded: {error}"
            return
        self.create_subscription(kind, topic, partial(self._on_message, topic), _matching(profiles), raw=True)

    def _on_message(self, topic: str, serialized: bytes) -> None:
        self._bag.write(topic, self.get_clock().now().nanoseconds, serialized)

    def _status(self) -> Status:
        values = {"path": self._bag.path, **{f"messages{topic}": count for topic, count in self._bag.counts.items()}}
        if self._failure:
            return Status(ERROR, "incomplete", self._failure, values)
        if self._missing:
            return Status(WARN, "waiting", f"no node publishes {', '.join(self._missing)}", values)
        return Status(OK, "recording", "", values)


def _matching(profiles: list[QoSProfile]) -> QoSProfile:
    """What every one of these publishers can serve: the weakest reliability and durability among them."""
    reliable = all(profile.reliability is ReliabilityPolicy.RELIABLE for profile in profiles)
    kept = all(profile.durability is DurabilityPolicy.TRANSIENT_LOCAL for profile in profiles)
    return QoSProfile(
        depth=_DEPTH,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if kept else DurabilityPolicy.VOLATILE,
    )


def main() -> int:
    """Run the node until it is told to end; the exit code."""
    return run(BagNode, wind_down_s=OUTLASTS_CONTROLLER_S)
