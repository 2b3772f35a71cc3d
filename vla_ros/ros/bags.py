"""Serialised messages into a rosbag2 (MCAP storage) without a ROS installation's bag tools."""

from __future__ import annotations

import importlib
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rclpy.duration import Duration
from rclpy.qos import QoSProfile
from rosbags.interfaces import Connection, Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from vla_ros.values import NANOSECONDS_PER_SECOND

_PRIMITIVES = {"double": "float64", "float": "float32", "boolean": "bool", "octet": "byte"}
_FIELD = re.compile(r"(?:sequence<(?P<item>[^,>]+(?:<\d+>)?)(?:, (?P<most>\d+))?>|(?P<one>[^\[]+)(?P<array>\[\d+\])?)$")


def message_class(name: str) -> Any:
    """The Python class of `package/msg/Type`; raises ValueError where it is not installed."""
    try:
        package, folder, kind = name.split("/")
        return getattr(importlib.import_module(f"{package}.{folder}"), kind)
    except (ValueError, ImportError, AttributeError):
        raise ValueError(f"message type {name!r} is not installed here; expected package/msg/Type") from None


class RawBag:
    """A new bag, open until `close`; raises ValueError if there is something at `path` already.

    That is, unless it is the bag of a node that was killed, which nobody closed: then the new one is beside it, as
    <path>-2 or whatever number is free. `path` says where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = _beside(path) if _is_unfinished(path) else path
        if self.path.exists():
            raise ValueError(f"{path} already exists and is not overwritten; give a new folder")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._types = get_typestore(Stores.EMPTY)
        self._writer = Writer(self.path, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        self._connections: dict[str, Connection] = {}
        self.counts: dict[str, int] = {}

    def add_topic(self, topic: str, type_name: str, profiles: Sequence[QoSProfile] = ()) -> None:
        """Make room for `topic`; `profiles`: what its publishers offer, so that it is replayed in the same way."""
        self._register(type_name)
        self._connections[topic] = self._writer.add_connection(
            topic, type_name, typestore=self._types, offered_qos_profiles=[_offered(profile) for profile in profiles]
        )
        self.counts[topic] = 0

    def write(self, topic: str, time_ns: int, serialized: bytes) -> None:
        """Append one message as it came over the wire (CDR)."""
        self._writer.write(self._connections[topic], time_ns, serialized)
        self.counts[topic] += 1

    def close(self) -> None:
        """Write index and metadata; without them the bag cannot be read."""
        self._writer.close()

    def _register(self, type_name: str) -> None:
        """Teach the bag a message type from the installed class: that is what goes over the wire here."""
        if type_name in self._types.fielddefs:
            return
        lines = []
        for field, kind in message_class(type_name).get_fields_and_field_types().items():
            written, nested = _msg_type(kind)
            if nested:
                self._register(nested)
            lines.append(f"{written} {field}")
        self._types.register(get_types_from_msg("\n".join(lines), type_name))


def _offered(profile: QoSProfile) -> Qos:
    """A profile as rosbag2 writes it."""
    return Qos(
        history=QosHistory(profile.history.value),
        depth=profile.depth,
        reliability=QosReliability(profile.reliability.value),
        durability=QosDurability(profile.durability.value),
        deadline=_time(profile.deadline),
        lifespan=_time(profile.lifespan),
        liveliness=QosLiveliness(profile.liveliness.value),
        liveliness_lease_duration=_time(profile.liveliness_lease_duration),
        avoid_ros_namespace_conventions=profile.avoid_ros_namespace_conventions,
    )


def _time(duration: Duration) -> QosTime:
    return QosTime(*divmod(duration.nanoseconds, NANOSECONDS_PER_SECOND))


def _is_unfinished(path: Path) -> bool:
    """Whether a bag was begun at `path` and never closed: its messages are there, its metadata not."""
    return any(path.glob("*.mcap")) and not (path / "metadata.yaml").exists()


def _beside(path: Path) -> Path:
    candidates = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return next(candidate for candidate in candidates if not candidate.exists())


def _msg_type(kind: str) -> tuple[str, str]:
    """A field type of a Python message class as a .msg file has it, and the full name of a message nested in it."""
    match = _FIELD.match(kind)
    if match is None:
        raise ValueError(f"field type {kind!r} is none that a .msg file can hold")
    item = (match["item"] or match["one"]).replace("<", "<=").replace(">", "")
    unbounded = "[]" if match["item"] else match["array"] or ""
    array = f"[<={match['most']}]" if match["most"] else unbounded
    nested = item.replace("/", "/msg/") if "/" in item else ""
    return _PRIMITIVES.get(item, item) + array, nested
