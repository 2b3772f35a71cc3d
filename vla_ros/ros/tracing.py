"""Follows an episode for its picture: frames of each camera, planned chunks, and where the TCP went."""

from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

from vla_ros import messages
from vla_ros.geometry import RotationForm, rotation_matrix
from vla_ros.ros import qos
from vla_ros.simulation.tasks import COLORS, CUBE_SIZE_M
from vla_ros.simulation.world import WorldState
from vla_ros.timing.stamps import s_to_ns
from vla_ros.values import ActionChunk, Array
from vla_ros.values import Image as Pixels
from vla_ros.viewing.montage import EpisodeTrace

#: Time between two frames kept of a camera.
_PERIOD_NS = s_to_ns(0.25)


class Tracer:
    """Keeps the trace of the first successful episode, or of the first one as long as none succeeded.

    Cameras are subscribed only while such an episode runs: afterwards they cost nothing.
    """

    def __init__(self, node: Node, camera_topics: dict[str, str]) -> None:
        self.trace: EpisodeTrace | None = None
        self._node = node
        self._topics = camera_topics
        self._subscriptions: list[Subscription] = []
        self._instruction = ""
        self._frames: dict[str, list[tuple[int, Pixels]]] = {}
        self._planned: list[tuple[int, Array]] = []
        self._executed: list[tuple[int, Array]] = []
        self._worlds: list[WorldState] = []  # the first and the newest

    def begin(self, instruction: str) -> None:
        """An episode starts."""
        if self.trace is not None and self.trace.success:
            return
        self._instruction = instruction
        self._frames = {camera: [] for camera in self._topics}
        self._planned, self._executed, self._worlds = [], [], []
        for camera, topic in self._topics.items():
            kind = CompressedImage if topic.endswith("/compressed") else Image
            on_image = partial(self._on_image, camera, kind)
            self._subscriptions.append(self._node.create_subscription(kind, topic, on_image, qos.NEWEST, raw=True))

    def end(self, success: bool) -> None:
        """The episode is over."""
        if not self._subscriptions:
            return
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []
        complete = all(self._frames.values()) and self._executed
        if complete and (self.trace is None or success):
            self.trace = EpisodeTrace(
                instruction=self._instruction,
                frames=self._frames,
                planned=self._planned,
                executed_ns=[time_ns for time_ns, _ in self._executed],
                executed=np.stack([position for _, position in self._executed]),
                success=success,
                cubes=tuple({color: _corners(world.cube_pose(color)) for color in COLORS} for world in self._worlds),
            )

    def on_chunk(self, chunk: ActionChunk) -> None:
        """A chunk was planned; one of joint positions has no path of the TCP to show."""
        if self._subscriptions and chunk.dimensions[:3] == ("tcp.x", "tcp.y", "tcp.z"):
            self._planned.append((chunk.observation_ns, chunk.actions[:, :3]))

    def on_world(self, world: WorldState) -> None:
        """The world moved."""
        if self._subscriptions:
            self._executed.append((world.time_ns, world.tcp_pose[:3]))
            self._worlds[1:] = [world]

    def _on_image(self, camera: str, kind: type, serialized: bytes) -> None:
        frames = self._frames[camera]
        # Most frames are thrown away unread, so they are taken as bytes and read only when it is time for one.
        if not frames or self._node.get_clock().now().nanoseconds - frames[-1][0] >= _PERIOD_NS:
            message = deserialize_message(serialized, kind)
            frames.append((messages.stamp_to_ns(message.header.stamp), messages.image_to_rgb(message)))


def _corners(pose: Array) -> Array:
    """(8, 3): the corners of a cube at a pose (7,)."""
    half_m = CUBE_SIZE_M / 2
    corners = np.array(list(product((-half_m, half_m), repeat=3)))
    return np.asarray(corners @ rotation_matrix(pose[3:], RotationForm.QUATERNION).T + pose[:3])
