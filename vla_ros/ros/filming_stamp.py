"""Measures the latency of real cameras by a clock on a screen that they film; nothing moves."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from rclpy.context import Context
from sensor_msgs.msg import CompressedImage, Image

from vla_ros import messages
from vla_ros.calibration.filmed_stamp import Picture, decode, encode, filmed_latency
from vla_ros.calibration.latency import Delay, Unmeasurable, camera_key
from vla_ros.config import SystemConfig
from vla_ros.ros import operating, qos
from vla_ros.ros.operating import OperatorNode

#: Pictures kept of each camera, to be read when all is over: reading takes longer than a frame.
_MOST_PICTURES = 100


def film(system: SystemConfig, duration_s: float, draw: Callable[[Picture], None]) -> dict[str, Delay | Unmeasurable]:
    """Every camera's latency by its key in a system's file, or why it cannot be told.

    Shows the time by `draw` for so long, and reads it in what the cameras of this ROS domain deliver meanwhile. Their
    stamps and the clock of this machine must be the same time.
    """
    with operating.context() as context:
        audience = _Audience(system, context)
        try:
            drawn = audience.watch(duration_s, draw)
        finally:
            audience.destroy_node()
    measured: dict[str, Delay | Unmeasurable] = {}
    for name, heard in audience.messages.items():
        read = [(messages.stamp_to_ns(message.header.stamp), _read(message)) for message in heard]
        try:
            measured[camera_key(name)] = filmed_latency(read, drawn)
        except Unmeasurable as why:
            measured[camera_key(name)] = why
    return measured


def _read(message: Any) -> int | None:
    return decode(messages.image_to_rgb(message))


class _Audience(OperatorNode):
    """Keeps what the cameras deliver."""

    def __init__(self, system: SystemConfig, context: Context) -> None:
        super().__init__(context, use_sim_time=False, name="audience")
        self.messages: dict[str, list[Any]] = {name: [] for name in system.cameras}
        for name, camera in system.cameras.items():
            kind = CompressedImage if camera.is_compressed else Image
            self.create_subscription(kind, camera.topic, partial(self._on_picture, name), qos.SENSOR)

    def watch(self, duration_s: float, draw: Callable[[Picture], None]) -> list[tuple[int, int]]:
        """Draw the time, again and again; gives the times that were drawn, each with when that was done."""
        drawn: list[tuple[int, int]] = []
        end_s = time.monotonic() + duration_s
        while time.monotonic() < end_s:
            time_ns = self.now_ns()
            draw(encode(time_ns))
            drawn.append((time_ns, self.now_ns()))
            self.spin(0.005)
        return drawn

    def _on_picture(self, camera: str, message: Any) -> None:
        if len(self.messages[camera]) < _MOST_PICTURES:
            self.messages[camera].append(message)
