"""What a running system says of itself, for the terminal that it was started from; polled, so that it costs little."""

from __future__ import annotations

import os

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from std_msgs.msg import Float64MultiArray

from vla_ros import topics
from vla_ros.ros import convert, qos
from vla_ros.simulation.world import WorldState

_DEPTH = 100  # states between two polls


class Happenings:
    """Listens to /vla/state, and to the world where one is simulated."""

    def __init__(self, context: Context, has_world: bool) -> None:
        name = f"terminal_{os.getpid()}"
        self._node = rclpy.create_node(name, context=context, enable_rosout=False, start_parameter_services=False)

        # Never called: no executor spins this node.
        def ignore(_: object) -> None: ...

        states = QoSProfile(depth=_DEPTH)
        self._states = self._node.create_subscription(DiagnosticArray, topics.STATE, ignore, states, raw=True)
        self._worlds = None
        if has_world:
            self._worlds = self._node.create_subscription(
                Float64MultiArray, topics.SIMULATION_STATE, ignore, qos.NEWEST, raw=True
            )

    def close(self) -> None:
        """Listen no longer."""
        self._node.destroy_node()

    def states(self) -> list[tuple[str, dict[str, str]]]:
        """(node, what it said of itself, its message included) of every message since the last time."""
        found = []
        for raw in self._taken(self._states, DiagnosticArray, _DEPTH):
            for status in deserialize_message(raw, DiagnosticArray).status:
                values = {entry.key: entry.value for entry in status.values}
                found.append((status.name, {**values, "message": status.message}))
        return found

    def world(self) -> WorldState | None:
        """The newest state of the simulated world; None where nothing came since the last time."""
        if self._worlds is None:
            return None
        raw = self._taken(self._worlds, Float64MultiArray, 1)
        return convert.array_to_world_state(deserialize_message(raw[0], Float64MultiArray)) if raw else None

    @staticmethod
    def _taken(subscription: rclpy.subscription.Subscription, kind: type, most: int) -> list[bytes]:
        taken: list[bytes] = []
        with (handle := subscription.handle):
            while len(taken) < most and (one := handle.take_message(kind, True)) is not None:
                taken.append(one[0])
        return taken
