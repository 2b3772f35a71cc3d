"""A simulated camera's topics: pictures, raw or compressed, and its calibration, as they come through the faults."""

from __future__ import annotations

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage
from sensor_msgs.msg import Image as ImageMessage

from vla_ros.config import CameraConfig
from vla_ros.ros import convert, qos
from vla_ros.simulation.faults import Faults, Stream
from vla_ros.simulation.world import optical_frame
from vla_ros.values import Image


class SimulatedCamera:
    """Publishes what `name` sees; `calibration` as its camera_info is to be, but for the stamp."""

    def __init__(self, node: Node, name: str, config: CameraConfig, calibration: CameraInfo, faults: Faults) -> None:
        kind = CompressedImage if config.is_compressed else ImageMessage
        self._frame_id = optical_frame(name)
        self._write = convert.rgb_to_compressed if config.is_compressed else convert.rgb_to_image
        self._calibration = calibration
        self._stream: Stream[Image] = faults.stream(name, name)
        self._images = node.create_publisher(kind, config.topic, qos.SENSOR)
        self._calibrations = node.create_publisher(CameraInfo, config.info_topic, qos.SENSOR)

    def deliver(self, time_ns: int, picture: Image) -> None:
        """A picture (H, W, 3) comes out of the camera."""
        for stamp_ns, arriving in self._stream.deliver(time_ns, picture):
            message = self._write(arriving, stamp_ns, self._frame_id)
            self._calibration.header.stamp = message.header.stamp
            self._images.publish(message)
            self._calibrations.publish(self._calibration)
