"""What a running system says of itself, for the terminal that it was started from; polled, so that it costs little."""

from __future__ import annotations

import os
from contextlib import suppress

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.qos import QoSProfile
from std_msgs.msg import Float64MultiArray

from vla_ros import topics
from vla_ros.ros import convert, qos
from vla_ros.ros.polling import PolledSubscription
from vla_ros.simulation.world import WorldState

_DEPTH = 100  # states between two polls


class Happenings:
    """Listens to /vla/state, and to the world where one is simulated; what cannot be read is passed over."""

    def __init__(self, context: Context, has_world: bool) -> None:
        name = f"terminal_{os.getpid()}"
        self._node = rclpy.create_node(name, context=context, enable_rosout=False, start_parameter_services=False)
        self._states = PolledSubscription(self._node, DiagnosticArray, topics.STATE, QoSProfile(depth=_DEPTH))
        self._worlds: PolledSubscription[Float64MultiArray] | None = None
        if has_world:
            self._worlds = PolledSubscription(self._node, Float64MultiArray, topics.SIMULATION_STATE, qos.NEWEST)

    def close(self) -> None:
        """Listen no longer."""
        self._node.destroy_node()

    def states(self) -> list[tuple[str, dict[str, str]]]:
        """(node, what it said of itself, its message included) of every message since the last time."""
        found = []
        for message in self._states.take_all():
            for status in message.status:
                values = {entry.key: entry.value for entry in status.values}
                found.append((status.name, {**values, "message": status.message}))
        return found

    def world(self) -> WorldState | None:
        """The newest state of the simulated world; None where nothing came since the last time."""
        message = None if self._worlds is None else self._worlds.take_newest()
        with suppress(ValueError):
            return None if message is None else convert.array_to_world_state(message)
        return None
