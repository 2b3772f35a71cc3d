"""What is asked at a tick instead of calling back: here, a service that is answered late, or to nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("rclpy")

from std_srvs.srv import Trigger

from vla_ros.ros.polling import PolledService


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
