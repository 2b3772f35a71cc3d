"""Messages that nobody should send: random ones of any type, good ones with damage, and bytes that are none."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.serialization import deserialize_message, serialize_message
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool, Float64MultiArray, String
from trajectory_msgs.msg import JointTrajectory

from vla_ros.robots.panda import PANDA
from vla_ros.ros import convert
from vla_ros.simulation.world import STATE_NAMES, WorldState
from vla_ros.values import GRIPPER_DIMENSION, ActionChunk, Command, Target

HOME = np.array(PANDA.home_rad)
POSE = np.array([0.5, 0.0, 0.3, 1.0, 0.0, 0.0, 0.0])
NUMBERS = (0.0, -0.0, 1.0, -1.0, 1e-300, 1e9, 1e300, float("nan"), float("inf"), -float("inf"))
TEXTS = (
    "", "9" * 5000, "-1", "inf", "nan", "seed 5", "seed " + "9" * 99, "start", "save", "controller", "inference", "a,b",
    "instructed", "instruction", "mode", "policy", "safety_state", "intervention.velocity", "\x00", "ü" * 300,
    "x" * 20_000, "../../x", "mode\nhold", *PANDA.joint_names, GRIPPER_DIMENSION, "tcp.x", "panda_finger_joint1",
)  # fmt: skip
LENGTHS = (0, 1, 2, 3, 7, 8, 9, 12, 100, 3000)
_FIELD = re.compile(r"(?:sequence<(?P<item>[^,>]+(?:<\d+>)?)(?:, \d+)?>|(?P<one>[^\[]+)(?:\[(?P<size>\d+)\])?)$")
_BITS = {f"{sign}int{bits}": (sign == "", bits) for sign in ("", "u") for bits in (8, 16, 32, 64)}


class Adversary:
    """Makes messages by a seed; `now_ns` is the time of those who will take them."""

    def __init__(self, seed: int, now_ns: Callable[[], int]) -> None:
        self.random = np.random.default_rng(seed)
        self._now_ns = now_ns

    def pick(self, items: Sequence[Any]) -> Any:
        return items[int(self.random.integers(len(items)))]

    def message(self, kind: type) -> Any:
        """A good message with a few fields changed, where there is a good one, or a random one."""
        good = self.good(kind)
        if not good or self.random.random() < 0.3:
            return self.anything(kind)
        message = self.pick(good)
        for _ in range(int(self.random.integers(0, 4))):
            self._damage(message)
        return message

    def serialized(self, kind: type) -> bytes:
        """A message over the wire; sometimes of another type, damaged, cut short, or no message at all."""
        case = self.random.random()
        if case < 0.05:
            return self.random.bytes(int(self.random.integers(0, 400)))
        other = self.pick((JointState, JointTrajectory, DiagnosticArray, String, Float64MultiArray, Clock))
        data = bytearray(serialize_message(self.message(other if case < 0.15 else kind)))
        if case > 0.9:
            for _ in range(int(self.random.integers(1, 5))):
                data[int(self.random.integers(len(data)))] = int(self.random.integers(256))
        return bytes(data[: int(self.random.integers(len(data)))] if case > 0.97 else data)

    def good(self, kind: type) -> list[Any]:
        """What is sent in an ordinary system, stamped now."""
        now_ns = self._now_ns()
        swing = HOME + 0.05 * np.sin(1e-9 * now_ns)
        names = PANDA.joint_names
        made: list[Any] = []
        if kind is JointState:
            made = [
                JointState(name=list(names), position=swing.tolist(), velocity=[0.0] * 7),
                JointState(name=list(PANDA.gripper.finger_joints), position=[0.02, 0.02]),
            ]
        elif kind is JointTrajectory:
            rows = np.tile([*HOME, 0.04], (10, 1))
            width = (*names, GRIPPER_DIMENSION)
            made = [
                convert.chunk_to_trajectory(ActionChunk(now_ns, 100_000_000, width, rows), ""),
                convert.target_to_trajectory(Target(now_ns, names, HOME), ""),
                convert.command_to_trajectory(Command(now_ns, HOME, np.zeros(7), POSE, 0.04), names, ""),
            ]
        elif kind is DiagnosticArray:
            told = {"instructed": "3", "instruction": "lift", "mode": "policy", "safety_state": "running"}
            values = [KeyValue(key=key, value=value) for key, value in told.items()]
            made = [
                DiagnosticArray(status=[DiagnosticStatus(name=name, message="running: ", values=values)])
                for name in ("inference", "controller")
            ]
        elif kind is Float64MultiArray:
            state = np.array([*POSE, 0.04, *np.tile([0.5, 0.1, 0.02, 0.0, 0.0, 0.0, 1.0], 3), 0.0])
            assert len(state) == len(STATE_NAMES)
            made = [
                convert.world_state_to_array(WorldState(now_ns, state)),
                Float64MultiArray(data=HOME.tolist()),
                Float64MultiArray(data=[0.3, 0.0, 0.5, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, -1.0]),
            ]
        elif kind is Image:
            made = [convert.rgb_to_image(self.random.integers(0, 256, (16, 16, 3), dtype=np.uint8), now_ns, "camera")]
        elif kind is String:
            made = [String(data="lift the red cube"), String(data="start"), String(data="seed 3")]
        elif kind is Bool:
            made = [Bool(data=True)]
        elif kind is Clock:
            made = [Clock(clock=convert.ns_to_stamp(now_ns))]
        for message in made:
            if hasattr(message, "header"):
                message.header.stamp = convert.ns_to_stamp(now_ns)
        return made

    def known(self, kind: type) -> list[Any]:
        """What once ended a node, or came near it, and its like: good messages with one thing wrong."""
        made: list[Any] = []

        def but(number: int, change: Callable[[Any], None]) -> None:
            made.append(self.good(kind)[number])
            change(made[-1])

        if kind is DiagnosticArray:
            for text in TEXTS:
                but(0, lambda message, text=text: setattr(message.status[0].values[0], "value", text))
                but(1, lambda message, text=text: setattr(message.status[0].values[2], "value", text))
                counted = KeyValue(key="intervention.velocity", value=text)
                but(1, lambda message, counted=counted: message.status[0].values.append(counted))
        elif kind is JointState:
            for number in (0, 1):
                but(number, lambda message: message.name.pop())
                but(number, lambda message: message.position.pop())
                but(number, lambda message: (message.name.pop(), message.position.pop()))
                but(number, lambda message: message.name.__setitem__(0, message.name[1]))
                for value in NUMBERS:
                    but(number, lambda message, value=value: message.position.__setitem__(0, value))
        elif kind is Float64MultiArray:
            but(0, lambda message: message.data.pop())
            dim = made[-1].layout.dim[0]
            dim.label = dim.label.rpartition(",")[0]  # fewer values, and as many labels
            for place in (0, 1, 2, 7):
                for value in NUMBERS:
                    but(0, lambda message, place=place, value=value: message.data.__setitem__(place, value))
                    but(1, lambda message, place=place, value=value: message.data.__setitem__(place - 1, value))
        elif kind is JointTrajectory:
            but(0, lambda message: setattr(message, "points", message.points * 2000))
            but(0, lambda message: setattr(message, "joint_names", message.joint_names * 20))
            but(0, lambda message: setattr(message.points[1].time_from_start, "sec", -1))
            for number in (0, 1, 2):
                but(number, lambda message: setattr(message, "points", []))
                but(number, lambda message: message.points[0].positions.pop())
                for value in NUMBERS:
                    but(number, lambda message, value=value: message.points[0].positions.__setitem__(0, value))
        elif kind is Clock:
            for seconds in (-1, -(2**31), 2**31 - 1):
                but(0, lambda message, seconds=seconds: setattr(message.clock, "sec", seconds))
        elif kind is Image:
            for field, value in (("height", 2**32 - 1), ("width", 0), ("step", 1), ("encoding", "9" * 5000)):
                but(0, lambda message, field=field, value=value: setattr(message, field, value))
        elif kind is String:
            made = [String(data=text) for text in TEXTS]
        for message in [*made] if hasattr(kind, "header") else []:
            late = deserialize_message(serialize_message(message), kind)
            late.header.stamp = convert.ns_to_stamp(-5)
            made.append(late)
        return made

    def anything(self, kind: type) -> Any:
        """Random values in every field."""
        message = kind()
        for field, written in kind.get_fields_and_field_types().items():  # type: ignore[attr-defined]
            setattr(message, field, self._value(written))
        return message

    def _damage(self, message: Any) -> None:
        """Change one field, somewhere."""
        fields = message.get_fields_and_field_types()
        field = self.pick(list(fields))
        value = getattr(message, field)
        inner = value[int(self.random.integers(len(value)))] if isinstance(value, list) and value else value
        if hasattr(inner, "get_fields_and_field_types") and self.random.random() < 0.8:
            self._damage(inner)
        elif isinstance(value, array) and len(value) and self.random.random() < 0.6 and value.typecode == "d":
            value[int(self.random.integers(len(value)))] = self.pick(NUMBERS)
        else:
            setattr(message, field, self._value(fields[field]))

    def _value(self, written: str) -> Any:
        match = _FIELD.match(written)
        assert match is not None, written
        kind = match["item"] or match["one"]
        if match["item"] or match["size"]:
            length = int(match["size"]) if match["size"] else self.pick(LENGTHS[: 6 if "/" in kind else None])
            if kind in ("uint8", "octet"):
                data = self.random.bytes(length)
                return [data[i : i + 1] for i in range(length)] if kind == "octet" else np.frombuffer(data, np.uint8)
            values = [self._value(kind) for _ in range(min(length, 20))]
            return (values * length)[:length]
        if "/" in kind:
            package, name = kind.split("/")
            return self.anything(getattr(import_module(f"{package}.msg"), name))
        if kind in ("double", "float"):
            number = self.pick(NUMBERS) if self.random.random() < 0.7 else float(self.random.normal())
            return number if kind == "double" or abs(number) < 1e38 or number - number != 0 else 0.0
        if kind == "boolean":
            return bool(self.random.random() < 0.5)
        if kind in ("octet", "byte"):
            return self.random.bytes(1)
        if kind.startswith(("string", "wstring")):
            return self.pick(TEXTS)
        signed, bits = _BITS[kind]
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        return self.pick(
            (0, 1, 2, low, high, int(self.random.integers(low, high, dtype=np.int64 if signed else np.uint64)))
        )
