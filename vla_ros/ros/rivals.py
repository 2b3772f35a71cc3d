"""Whether somebody else publishes where only one may, and who: looked up in the DDS graph, not in the messages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.topic_endpoint_info import TopicEndpointInfo

from vla_ros import topics

#: Who is there when a node starts is known after this long, in wall time (0.2 s measured, and now and then 0.6 s).
DISCOVERED_WITHIN_S = 1.0
_PERIOD_S = 0.1
#: Those of every node that just appeared have no name for a moment, those of a program that speaks DDS without ROS for
#: ever. So one counts when it has had none for this many looks: three seconds, as one in fifty nodes that took a dead
#: one's place had none for more than one.
_NAMELESS_LOOKS = 30


class Rivals:
    """Calls `on_rival(who)`, again and again, while there is one; on the steady clock.

    `mine` are topics where nobody but this node may publish, `one_each` those where one other node may. There,
    publishers of the same node count once: one that was killed stays in the graph for 20 s, beside its successor.
    """

    def __init__(
        self, node: Node, mine: Iterable[str], one_each: Iterable[str], on_rival: Callable[[str], None]
    ) -> None:
        self._node = node
        self._mine, self._one_each = tuple(mine), tuple(one_each)
        self._on_rival = on_rival
        self._nameless_looks: dict[str, int] = {}
        node.create_timer(_PERIOD_S, self.look, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def look(self) -> None:
        """Look now."""
        for topic in (*self._mine, *self._one_each):
            if self._node.count_publishers(topic) < 2:  # much cheaper than who they are
                self._nameless_looks.pop(topic, None)
                continue
            names = [_name(info) for info in self._node.get_publishers_info_by_topic(topic)]
            if topic in self._one_each:
                names = list(dict.fromkeys(names))
            elif (own := self._node.get_fully_qualified_name()) in names:
                names.remove(own)
            names = self._believable(topic, names)
            if len(names) > (topic in self._one_each):
                self._on_rival(f"{', '.join(sorted(names))} on {topic}")

    def _believable(self, topic: str, names: list[str]) -> list[str]:
        """Without those that have no name yet."""
        looks = self._nameless_looks[topic] = self._nameless_looks.get(topic, 0) + 1 if "" in names else 0
        return [name or "a program without a name" for name in names if name or looks > _NAMELESS_LOOKS]


def refuse_a_robot(node: Node, joint_states: str, within_s: float = 0.0) -> None:
    """For a simulation: raise RuntimeError where somebody else, appearing within so long, publishes `joint_states`.

    That is the driver of a real robot, which would follow every target that the simulated one is sent.
    """
    deadline_s = time.monotonic() + within_s
    while not (drivers := _others(node, joint_states)) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    if drivers:
        raise RuntimeError(
            f"{' and '.join(drivers)} publishes {joint_states}: a robot is in this ROS domain, and would follow what "
            "the simulated one is sent; end its driver, or choose another ROS_DOMAIN_ID"
        )


def _others(node: Node, topic: str) -> list[str]:
    """The nodes that publish there besides this one, as far as their names are known."""
    if node.count_publishers(topic) < 2:
        return []
    names = {_name(info) for info in node.get_publishers_info_by_topic(topic)}
    return sorted(names - {"", node.get_fully_qualified_name()})


def _name(info: TopicEndpointInfo) -> str:
    """The full name of its node; "" where that is not known."""
    return "" if info.node_name in topics.NAMELESS else f"{info.node_namespace.rstrip('/')}/{info.node_name}"
