"""A process that hears nobody, though others speak, is found out; one that is alone, or heard somebody once, is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

from vla_ros import topics
from vla_ros.ros import hearing, qos
from vla_ros.ros.hearing import Hearing


def test_who_hears_nobody_though_others_speak(make_watcher: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hearing, "_DEAF_AFTER_S", 0.0)
    watcher = make_watcher()
    own = watcher.create_publisher(DiagnosticArray, topics.STATE, qos.STATE)
    ears = Hearing(watcher)
    assert ears.failure == "", "nobody else is there"
    other = rclpy.create_node("other", context=watcher.context)
    silent = other.create_publisher(DiagnosticArray, topics.STATE, qos.STATE)
    watcher.until(lambda: ears.failure, "the silence of the other to be noticed")
    assert ears.failure.startswith(f"no message on {topics.STATE} for ")
    own.publish(DiagnosticArray(status=[DiagnosticStatus(name=watcher.get_name())]))
    watcher.until(lambda: watcher.get_name() in watcher.said, "its own word")
    assert ears.failure, "its own word is nobody else's"
    silent.publish(DiagnosticArray(status=[DiagnosticStatus(name="other")]))
    watcher.until(lambda: not ears.failure, "the other to be heard")
