"""Whether another node publishes where only one may, and which: by participants in the DDS graph, not by messages."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterable

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.topic_endpoint_info import TopicEndpointInfo

from vla_ros import topics
from vla_ros.ros.presence import Presence

#: Who is there when a node starts is known after this long, in wall time (0.2 s measured, and now and then 0.6 s).
DISCOVERED_WITHIN_S = 1.0
_PERIOD_S = 0.1
#: Those of every node that just appeared have no name for a moment, those of a program that speaks DDS without ROS for
#: ever. So one counts when it has had none for this many looks: three seconds, as one in fifty nodes that took a dead
#: one's place had none for more than one.
_NAMELESS_LOOKS = 30
#: A participant that was killed stays in the graph for 20 s, next to its successor of the same name. One that stays for
#: this many looks is alive.
_LINGERING_LOOKS = 220
#: A participant's part of the identifier of an endpoint [bytes].
_PARTICIPANT = 12
_EVERYTHING = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)


class Rivals:
    """Looks ten times a second, on the steady clock; `on_rival(who)` is called each time while there is one.

    `mine` are topics where no node but this one may publish, `one_each` those where one other node may. Publishers of
    two names are two nodes. Those of one name may be a process that was killed and its successor. They are two nodes if
    two processes report under that name (see `Presence`), if messages of both come, or if the older one stays.
    """

    def __init__(
        self,
        node: Node,
        mine: Iterable[str],
        one_each: Iterable[str],
        presence: Presence,
        on_rival: Callable[[str], None] = lambda who: None,
    ) -> None:
        self._node = node
        self._mine, self._one_each = tuple(mine), tuple(one_each)
        self._on_rival = on_rival
        self.found = ""  # who publishes where as well; "" where none does
        self._presence = presence
        self._nameless_looks: dict[str, int] = {}
        self._lingering_looks: dict[str, int] = {}
        self._participants: dict[str, set[tuple[str, bytes]]] = {}
        self._ears: dict[str, _Ear] = {}  # where there are two publishers of one name
        node.create_timer(_PERIOD_S, self.look, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def look(self) -> None:
        """Look now."""
        found = []
        for topic in (*self._mine, *self._one_each):
            if self._node.count_publishers(topic) < 2:  # much cheaper than who they are
                self._nameless_looks.pop(topic, None)
                self._forget_namesakes(topic)
            elif who := self._who(topic):
                found.append(f"{who} on {topic}")
        self.found = "; ".join(found)
        if self.found:
            self._on_rival(self.found)

    def _who(self, topic: str) -> str:
        """Who publishes there, where it is more than may; else ""."""
        infos = self._node.get_publishers_info_by_topic(topic)
        participants = {(_name(info), bytes(info.endpoint_gid)[:_PARTICIPANT]) for info in infos}
        if self._participants.get(topic) != participants:  # the dead of several restarts linger one after the other
            self._participants[topic] = participants
            self._forget_namesakes(topic)
        names = [name for name, _ in participants]
        known = {name for name in names if name}
        own = self._node.get_fully_qualified_name()
        strangers = self._strangers(topic, names.count(""))
        allowed = {own} if topic in self._mine else set(sorted(known)[:1])
        found = sorted(known - allowed) + strangers if topic in self._mine else [*sorted(known), *strangers]
        if len(found) > (topic in self._one_each):
            return ", ".join(found)
        namesakes = [name for name in allowed if names.count(name) > 1]
        if not namesakes:
            self._forget_namesakes(topic)
        return next((who for name in namesakes if (who := self._namesake(topic, name, infos[0].topic_type))), "")

    def _strangers(self, topic: str, nameless: int) -> list[str]:
        """Those that have had no name for long enough."""
        looks = self._nameless_looks[topic] = self._nameless_looks.get(topic, 0) + 1 if nameless else 0
        return ["a program without a name"] * (nameless if looks > _NAMELESS_LOOKS else 0)

    def _namesake(self, topic: str, name: str, topic_type: str) -> str:
        """Says that more than one node of this name publishes there, if that is certain; else ""."""
        processes = self._presence.processes(name)
        if len(processes) > 1:
            return f"two nodes {name} ({', '.join(processes)})"
        self._lingering_looks[topic] = looks = self._lingering_looks.get(topic, 0) + 1
        are_heard = topic in self._one_each and self._are_heard(topic, topic_type)
        return f"two nodes {name}" if are_heard or looks > _LINGERING_LOOKS else ""

    def _are_heard(self, topic: str, topic_type: str) -> bool:
        """Whether messages of two publishers have come since there were two."""
        if topic not in self._ears:
            self._ears[topic] = _Ear(self._node, topic, topic_type)
        self._ears[topic].listen()
        return len(self._ears[topic].heard) > 1

    def _forget_namesakes(self, topic: str) -> None:
        self._lingering_looks.pop(topic, None)
        if (ear := self._ears.pop(topic, None)) is not None:
            ear.close()


def clock_topics(node: Node) -> list[str]:
    """The source of time of a node that lives in simulated time; none on a real robot."""
    return ["/clock"] if node.get_parameter("use_sim_time").value else []


class _Ear:
    """Which publishers' messages come on one topic; not all middlewares tell."""

    def __init__(self, node: Node, topic: str, topic_type: str) -> None:
        package, _, kind = topic_type.split("/")
        self._type = getattr(importlib.import_module(f"{package}.msg"), kind)
        self._subscription = node.create_subscription(self._type, topic, lambda _: None, _EVERYTHING, raw=True)
        node._subscriptions.remove(self._subscription)  # no executor has to wake for it
        self.heard: set[bytes] = set()

    def listen(self) -> None:
        """Take what came."""
        with (handle := self._subscription.handle):
            for _ in range(_EVERYTHING.depth):
                taken = handle.take_message(self._type, True)
                if taken is None:
                    return
                sender = taken[1].get("publisher_gid")
                if sender:
                    self.heard.add(sender["data"])

    def close(self) -> None:
        """Hear nothing any more."""
        self._subscription.destroy()


def refuse_a_robot(node: Node, joint_states: str, within_s: float = 0.0, twins: Callable[[], list[str]] = list) -> None:
    """For a simulation: raise RuntimeError where another node, appearing within so long, publishes `joint_states`.

    That is the driver of a real robot, which would follow every target that the simulated one is sent. `twins`: the
    processes of other simulators, which have the same name.
    """
    deadline_s = time.monotonic() + within_s
    while not (drivers := _others(node, joint_states)) and not (others := twins()):
        if time.monotonic() >= deadline_s:
            return
        time.sleep(0.05)
    remedy = "or choose another ROS_DOMAIN_ID"
    if drivers:
        raise RuntimeError(
            f"{' and '.join(drivers)} publishes {joint_states}: a robot is in this ROS domain, and would follow the "
            f"targets of the simulated one; end its driver, {remedy}"
        )
    raise RuntimeError(f"another simulator runs in this ROS domain: {', '.join(others)}; end it, {remedy}")


def _others(node: Node, topic: str) -> list[str]:
    """The nodes that publish there besides those of the name of this one, as far as their names are known."""
    if node.count_publishers(topic) < 2:
        return []
    names = {_name(info) for info in node.get_publishers_info_by_topic(topic)}
    return sorted(names - {"", node.get_fully_qualified_name()})


def _name(info: TopicEndpointInfo) -> str:
    """The full name of its node; "" where that is not known."""
    return "" if info.node_name in topics.NAMELESS else f"{info.node_namespace.rstrip('/')}/{info.node_name}"
