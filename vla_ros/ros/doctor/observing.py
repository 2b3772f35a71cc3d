"""Looks at a running graph for a few seconds: who is there, who talks on what and how, and what comes; says nothing."""

from __future__ import annotations

import importlib
import os
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.action import get_action_server_names_and_types_by_node
from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rclpy.signals import SignalHandlerOptions
from rclpy.type_support import check_for_type_support
from sensor_msgs.msg import CompressedImage, Image, JointState

from vla_ros import messages, topics
from vla_ros.config import SystemConfig
from vla_ros.doctor.arrivals import Arrival
from vla_ros.doctor.findings import Level
from vla_ros.doctor.quality import Quality
from vla_ros.doctor.seen import Content, Peer, Seen, State, Topic
from vla_ros.graph import Graph
from vla_ros.robots import catalogue
from vla_ros.robots.robot import EndpointKind
from vla_ros.ros import diagnostics, transport
from vla_ros.ros.doctor import environment
from vla_ros.timing.stamps import ns_to_s, s_to_ns

_NAME = "vla_ros_doctor"
_CLOCK = "/clock"
#: Not looked into: they come at no rate of their own, or say what /vla/state says.
_UNHEARD = ("/tf", "/tf_static", topics.DIAGNOSTICS)
_PERIOD_S = 0.005
#: Two seconds of 1 kHz, or of a camera: what comes while this process has to wait for a processor.
_DEPTH, _IMAGE_DEPTH = 2000, 60
_INFINITE_NS = s_to_ns(365 * 86400)  # DDS has several numbers for it, all larger
_LEVELS = {diagnostics.OK: Level.OK, diagnostics.WARN: Level.WARN}


def observe(system: SystemConfig, graph: Graph, seconds: float) -> Seen:
    """Listen for `seconds`; only subscribes, and best-effort.

    Messages are kept as they come and not decoded, but for the newest of each camera and of the joint states: so this
    takes in what comes at 1 kHz without disturbing those it looks at.
    """
    os.environ.update(transport.environment(os.environ))  # read by the middleware in rclpy.init
    context = Context()
    rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = rclpy.create_node(
            f"{_NAME}_{os.getpid()}", context=context, enable_rosout=False, start_parameter_services=False
        )
        try:
            return _Observer(node, system, graph).observe(seconds)
        finally:
            node.destroy_node()
    finally:
        rclpy.try_shutdown(context=context)


class _Observer:
    """One look at the topics of `graph`."""

    def __init__(self, node: Node, system: SystemConfig, graph: Graph) -> None:
        self._node = node
        self._robot = catalogue.find(system.robot)
        types = {
            end.name: end.type
            for member in graph.members
            for end in (*member.reads, *member.writes)
            if end.kind is EndpointKind.TOPIC
        }
        self._types = {name: kind for name, text in types.items() if (kind := _message_type(text))}
        self._missing = tuple(sorted({text for name, text in types.items() if name not in self._types}))
        self._names = tuple(types)
        self._listened_ns = 0  # until then (wall time)
        self._heard = {name: _Ear(node, name, kind) for name, kind in self._types.items() if name not in _UNHEARD}

    def observe(self, seconds: float) -> Seen:
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            for ear in self._heard.values():
                ear.listen()
            time.sleep(_PERIOD_S)
        self._listened_ns = time.time_ns()
        return self._seen(seconds)

    def _seen(self, seconds: float) -> Seen:
        node, own = self._node, self._node.get_fully_qualified_name()
        nodes = [f"{space.rstrip('/')}/{name}" for name, space in node.get_node_names_and_namespaces()]
        published = {name: kinds[0] for name, kinds in node.get_topic_names_and_types() if name not in self._names}
        domain_id = int(node.context.get_domain_id())
        return Seen(
            seconds=seconds,
            nodes=tuple(name for name in nodes if name != own),
            topics={name: self._topic(name, own) for name in self._names},
            others=published,
            services=_served(node, Node.get_service_names_and_types_by_node),
            actions=_served(node, get_action_server_names_and_types_by_node),
            states=self._states(),
            ticks=self._ticks(),
            missing_types=self._missing,
            domain_id=domain_id,
            other_domains=environment.other_domains(domain_id),
        )

    def _topic(self, name: str, own: str) -> Topic:
        ear = self._heard.get(name)
        publishers = _peers(self._node.get_publishers_info_by_topic(name), own)
        arrivals = ear.arrivals if ear else ()
        if ear and len(publishers) == 1:  # older releases do not tell who sent a message
            arrivals = [a if a.sender else a._replace(sender=publishers[0].id) for a in arrivals]
        return Topic(
            publishers,
            _peers(self._node.get_subscriptions_info_by_topic(name), own),
            tuple(arrivals),
            self._content(ear) if ear else None,
        )

    def _content(self, ear: _Ear) -> Content | None:
        message = ear.newest_message()
        if isinstance(message, JointState):
            return self._joints(ear, message)
        if not isinstance(message, (Image, CompressedImage)):
            return None
        encoding = message.encoding if isinstance(message, Image) else message.format
        try:
            height, width, _ = messages.image_to_rgb(message).shape
        except ValueError as error:
            return Content(encoding=encoding, problem=str(error))
        return Content(width, height, encoding)

    def _joints(self, ear: _Ear, newest: JointState) -> Content:
        of_gripper = ear.topic == self._robot.endpoints["gripper_joint_states"].name
        reader = messages.JointReader(self._robot.gripper.finger_joints if of_gripper else self._robot.joint_names)
        try:
            way = reader.positions(newest) - reader.positions(ear.oldest_message())
        except ValueError as error:
            return Content(problem=str(error))
        return Content(moved_rad=float(abs(way).max()))

    def _states(self) -> tuple[State, ...]:
        newest: dict[str, State] = {}
        ear = self._heard.get(topics.STATE)
        for raw, arrival in zip(ear.kept, ear.arrivals, strict=True) if ear else ():
            age_s = ns_to_s(self._listened_ns - arrival.received_ns)
            for status in deserialize_message(raw, DiagnosticArray).status:
                values = {entry.key: entry.value for entry in status.values}
                level = _LEVELS.get(status.level, Level.FAIL)
                newest[status.name] = State(status.name, level, status.message, values, age_s)
        return tuple(newest.values())

    def _ticks(self) -> tuple[tuple[int, int], ...]:
        ear = self._heard.get(_CLOCK)
        arrivals = ear.arrivals if ear else []
        return tuple((arrival.received_ns, arrival.stamp_ns or 0) for arrival in arrivals)


class _Ear:
    """What comes on one topic, as bytes."""

    def __init__(self, node: Node, topic: str, kind: Any) -> None:
        self.topic = topic
        self.arrivals: list[Arrival] = []
        self.kept: list[bytes] = []  # every message of /vla/state, else the oldest and the newest
        self._kind = kind
        self._is_image = kind in (Image, CompressedImage)
        # A header comes first in every message that has one, and /clock is a time and nothing else.
        first = next(iter(kind.get_fields_and_field_types().items()), ("", ""))
        self._is_stamped = first[1] in ("std_msgs/Header", "builtin_interfaces/Time")
        depth = _IMAGE_DEPTH if self._is_image else _DEPTH
        profile = QoSProfile(depth=depth, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._depth = depth
        # Never called: no executor spins this node.
        self._subscription = node.create_subscription(kind, topic, lambda _: None, profile, raw=True)

    def listen(self) -> None:
        """Take what came."""
        with (handle := self._subscription.handle):
            for _ in range(self._depth):
                taken = handle.take_message(self._kind, True)
                if taken is None:
                    return
                self._keep(*taken)

    def oldest_message(self) -> Any:
        """The oldest, decoded."""
        return deserialize_message(self.kept[0], self._kind)

    def newest_message(self) -> Any:
        """The newest, decoded; None where nothing came."""
        return deserialize_message(self.kept[-1], self._kind) if self.kept else None

    def _keep(self, raw: bytes, info: Mapping[str, Any]) -> None:
        if self.topic != topics.STATE:
            del self.kept[1:]
        self.kept.append(raw)
        sender = info.get("publisher_gid") or {}
        self.arrivals.append(
            Arrival(
                received_ns=info.get("received_timestamp") or time.time_ns(),
                sent_ns=info.get("source_timestamp") or 0,
                stamp_ns=_stamp_ns(raw) if self._is_stamped else None,
                sender=_id(sender.get("data", b"")),
                number=info.get("publication_sequence_number"),
                digest=zlib.crc32(raw[12:]) if self._is_image else None,
            )
        )


def _stamp_ns(raw: bytes) -> int:
    """The time with which a serialised message begins (CDR: 4 bytes say how, of which the second the byte order)."""
    order: Any = "little" if raw[1] & 1 else "big"
    seconds = int.from_bytes(raw[4:8], order, signed=True)
    return s_to_ns(seconds) + int.from_bytes(raw[8:12], order)


def _message_type(text: str) -> type | None:
    """The class of a type written as sensor_msgs/msg/Image; None where its package is not installed."""
    package, _, name = text.split("/")
    try:
        kind: type = getattr(importlib.import_module(f"{package}.msg"), name)
        check_for_type_support(kind)
    except Exception:  # not there, or built for another release, which shows in many ways
        return None
    return kind


def _peers(found: Iterable[Any], own: str) -> tuple[Peer, ...]:
    peers = (
        Peer(
            node=f"{info.node_namespace.rstrip('/')}/{info.node_name}",
            type=info.topic_type,
            quality=_quality(info.qos_profile),
            definition=str(getattr(info, "topic_type_hash", "") or ""),
            id=_id(info.endpoint_gid),
        )
        for info in found
    )
    return tuple(peer for peer in peers if peer.node != own)


def _quality(profile: QoSProfile) -> Quality:
    return Quality(
        reliability=profile.reliability.name,
        durability=profile.durability.name,
        deadline_ns=_finite(profile.deadline.nanoseconds),
        liveliness=profile.liveliness.name,
        lease_ns=_finite(profile.liveliness_lease_duration.nanoseconds),
    )


def _finite(duration_ns: int) -> int | None:
    return duration_ns if 0 < duration_ns < _INFINITE_NS else None


def _id(gid: Iterable[int]) -> str:
    return bytes(gid)[:16].hex()


def _served(node: Node, ask: Callable[[Node, str, str], list[tuple[str, list[str]]]]) -> dict[str, tuple[str, ...]]:
    """name -> types of what the nodes of the graph serve."""
    served: dict[str, tuple[str, ...]] = {}
    for name, space in set(node.get_node_names_and_namespaces()):
        try:
            served |= {service: tuple(kinds) for service, kinds in ask(node, name, space)}
        except RuntimeError:  # gone in the meantime
            continue
    return served
