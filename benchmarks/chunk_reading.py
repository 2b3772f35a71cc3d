"""What the largest chunk that may be sent costs the thread that commands, in what rclpy needs for the same message."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from rclpy.serialization import deserialize_message, serialize_message
from trajectory_msgs.msg import JointTrajectory

from vla_ros import messages
from vla_ros.robots.panda import PANDA
from vla_ros.ros import convert
from vla_ros.values import GRIPPER_DIMENSION, ActionChunk

LIMIT_MS, ROUNDS = 1.0, 200
NAMES = (*PANDA.joint_names, GRIPPER_DIMENSION)


def cost_ms(read: Callable[[], Any]) -> float:
    """CPU time of this thread, the median."""
    costs = []
    for _ in range(ROUNDS):
        begin_s = time.thread_time()
        read()
        costs.append(1e3 * (time.thread_time() - begin_s))
    return median(costs)


def main() -> None:
    print(f"{'points':>7} {'bytes':>8} {'ours ms':>8} {'rclpy ms':>9} {'ratio':>6}")
    for points in (10, 100, messages.MOST_POINTS):
        actions = np.random.default_rng(0).normal(size=(points, len(NAMES)))
        data = serialize_message(convert.chunk_to_trajectory(ActionChunk(1, 10, NAMES, actions), ""))
        ours_ms = cost_ms(lambda data=data: messages.serialized_to_chunk(data))
        rclpy_ms = cost_ms(lambda data=data: messages.trajectory_to_chunk(deserialize_message(data, JointTrajectory)))
        print(f"{points:7} {len(data):8} {ours_ms:8.2f} {rclpy_ms:9.2f} {ours_ms / rclpy_ms:6.3f}")
    print(f"the largest: {ours_ms:.2f} ms, limit {LIMIT_MS:g}: {'kept' if ours_ms <= LIMIT_MS else 'MISSED'}")


if __name__ == "__main__":
    main()
