"""One end of a stream of images, as a process: `publish` until killed, or `receive COUNT` and end."""

from __future__ import annotations

import array
import sys

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

# The size of this system's cameras. At 640x480 about a third is lost in the small UDP buffer of a default receiver.
HEIGHT, WIDTH, RATE_HZ, TOPIC = 256, 256, 15, "image"


def main(role: str, count: int = 0) -> None:
    rclpy.init()
    node = rclpy.create_node(role)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    if role == "publish":
        image = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=3 * WIDTH)
        image.data = array.array("B", bytes(3 * WIDTH * HEIGHT))
        publisher = node.create_publisher(Image, TOPIC, qos_profile_sensor_data)
        node.create_timer(1 / RATE_HZ, lambda: publisher.publish(image))
        executor.spin()
    received: list[int] = []
    node.create_subscription(Image, TOPIC, lambda message: received.append(len(message.data)), qos_profile_sensor_data)
    while len(received) < count:
        executor.spin_once()
    print(*received)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
