"""An instruction is heard once, whoever publishes it: kept for late subscribers or not, before the node or after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy")

from std_msgs.msg import String

from vla_ros import topics
from vla_ros.ros import qos
from vla_ros.ros.instructing import Instructions


def test_each_message_of_every_publisher_is_heard_once(make_watcher: Callable[[], Any]) -> None:
    watcher = make_watcher()
    other = rclpy.create_node("other", context=watcher.context)
    keeping = other.create_publisher(String, topics.INSTRUCTION, qos.LATCHED)
    keeping.publish(String(data="before"))
    heard: list[str] = []
    Instructions(watcher, heard.append)
    watcher.until(lambda: heard == ["before"], "what was said before")
    volatile = other.create_publisher(String, topics.INSTRUCTION, 10)  # as `ros2 topic pub` has it
    watcher.until(lambda: volatile.get_subscription_count() == 1, "the volatile publisher to be matched")
    watcher.until(lambda: keeping.get_subscription_count() == 2, "both subscriptions")
    for publisher, text in ((volatile, "a"), (keeping, "b"), (volatile, "end")):
        publisher.publish(String(data=text))
        watcher.until(lambda text=text: heard[-1] == text, text)
    assert heard == ["before", "a", "b", "end"]
    other.destroy_node()
