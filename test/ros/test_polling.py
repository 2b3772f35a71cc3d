"""What is asked at a tick instead of calling back: services answered late, or to a client that has gone; changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("rclpy")

from franka_msgs.msg import FrankaState
from rclpy.serialization import serialize_message
from std_msgs.msg import String
from std_srvs.srv import Trigger

from vla_ros.ros import qos
from vla_ros.ros.drivers import panda
from vla_ros.ros.polling import PolledService, PolledSubscription


def test_an_answer_that_comes_after_the_end_hurts_nobody(make_watcher: Callable[[], Any]) -> None:
    """A thread may still be at work on it when its node ends."""
    watcher = make_watcher()
    service = PolledService(watcher, Trigger, "late")
    client = watcher.create_client(Trigger, "late")
    watcher.until(client.service_is_ready, "the service")
    answered = [client.call_async(Trigger.Request()) for _ in range(2)]
    taken: list[Any] = []
    watcher.until(lambda: taken.extend(service.take_all()) or len(taken) == 2, "two requests")
    taken[0][1](Trigger.Response(success=True, message="in time"))
    watcher.until(lambda: any(future.done() for future in answered), "an answer")
    service.close()
    taken[1][1](Trigger.Response(success=True, message="too late"))
    assert [future.result().message for future in answered if future.done()] == ["in time"]


def test_a_change_of_the_end_of_a_message_is_noticed(make_watcher: Callable[[], Any]) -> None:
    watcher = make_watcher()
    polled = PolledSubscription(watcher, String, "state", qos.NEWEST)
    publisher = watcher.create_publisher(String, "state", qos.NEWEST)
    watcher.until(lambda: publisher.get_subscription_count() == 1, "the subscription")
    assert polled.take_newest_change(8) == (False, None)
    for text, is_news in (("aa same", True), ("bb same", False), ("bb changed", True), ("bb same", True)):
        publisher.publish(String(data=text))
        found: list[Any] = []
        watcher.until(lambda found=found: found.append(polled.take_newest_change(6)) or found[-1][0], "a message")
        assert (found[-1][1] is not None) is is_news, text
        assert not is_news or found[-1][1].data == text


def test_all_that_says_whether_a_panda_follows_is_at_the_end_of_its_state() -> None:
    """Whatever the length of what stands before it, and so the padding after it."""
    for frame_id in ("", "a", "ab", "abc", "panda_link0"):

        def end(mode: int = FrankaState.ROBOT_MODE_MOVE, error: str = "", frame_id: str = frame_id) -> bytes:
            state = FrankaState(robot_mode=mode)
            state.header.frame_id = frame_id
            if error:
                setattr(state.current_errors, error, True)
            return serialize_message(state)[-panda._CONDITION_BYTES :]

        assert len({end(mode) for mode in range(7)}) == 7
        assert len({end(error=error) for error in ("", *panda.ERROR_NAMES)}) == len(panda.ERROR_NAMES) + 1
