"""Streams of a node: frames come in while others are decoded, and one that cannot be is told and dropped."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sensor_msgs.msg import Image, JointState

from vla_ros import messages
from vla_ros.config import CameraConfig
from vla_ros.robots.panda import PANDA
from vla_ros.ros import convert, streams
from vla_ros.ros.streams import Streams
from vla_ros.timing.track import Misaligned

MS = 1_000_000
START_NS = 1_700_000_000_000_000_000
PATIENCE_S = 20.0


@pytest.fixture(autouse=True)
def _joint_states_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is polled is what was put there."""

    def polled(node: OneCamera, *_: Any) -> Any:
        def take_all() -> list[JointState]:
            taken, node.joint_states = node.joint_states, []
            return taken

        return SimpleNamespace(take_all=take_all)

    monkeypatch.setattr(streams, "PolledSubscription", polled)


class OneCamera:
    """A node with no network, whose camera's callback is called by hand and whose clock is set by it."""

    def __init__(self) -> None:
        self.instants_ns: list[int] = []
        self._now_ns = START_NS
        self._on_image: Callable[[Any], None]
        self.joint_states: list[JointState] = []
        camera = CameraConfig(topic="/camera/front/image_raw")
        self.streams = Streams(self, PANDA, {"front": camera}, (), 2.0, self.instants_ns.append)

    def create_subscription(self, kind: type, topic: str, callback: Callable[[Any], None], profile: Any) -> None:
        self._on_image = callback

    def get_clock(self) -> Any:
        return SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=self._now_ns))

    def move(self, angle_rad: float) -> None:
        """Deliver joint positions with the next frame."""
        self.joint_states.append(JointState(name=list(PANDA.joint_names), position=[angle_rad] * 7))

    def show(self, number: int, encoding: str = "rgb8", at: int | None = None) -> int:
        """Deliver the frame of a number, when it is due or `at` the time of another; its stamp."""
        self._now_ns = START_NS + (number if at is None else at) * 33 * MS
        message: Image = convert.rgb_to_image(np.full((2, 2, 3), number, np.uint8), self._now_ns, "camera")
        message.encoding = encoding
        self._on_image(message)
        return self._now_ns


def test_a_frame_comes_in_while_another_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decode, decoded = messages.image_to_rgb, []
    has_begun, may_end = threading.Event(), threading.Event()

    def slow_decode(message: Any) -> Any:
        has_begun.set()
        decoded.append(message)
        assert may_end.wait(PATIENCE_S), "the callback waits for the decoding"
        return decode(message)

    monkeypatch.setattr(messages, "image_to_rgb", slow_decode)
    camera = OneCamera()
    first_ns = camera.show(1)
    with ThreadPoolExecutor(1) as worker:
        window = worker.submit(camera.streams.window, first_ns, 1, 0, None)
        assert has_begun.wait(PATIENCE_S)
        second_ns = camera.show(2)
        assert camera.streams.reason(second_ns) == ""
        assert not window.done()
        may_end.set()
        (seen,) = window.result()
    assert camera.instants_ns == [first_ns, second_ns]
    assert (seen.images["front"] == 1).all()
    assert len(decoded) == 1


def test_a_frame_that_cannot_be_decoded_is_told_and_dropped() -> None:
    camera = OneCamera()
    camera.show(1)
    bad_ns = camera.show(2, encoding="rgb99")
    with pytest.raises(Misaligned, match="camera front: the frame of the instant cannot be decoded: .*rgb99"):
        camera.streams.window(bad_ns, 2, 33 * MS, None)
    assert camera.streams.values(bad_ns)["front.invalid"] == 1
    good_ns = camera.show(3)
    assert (camera.streams.window(good_ns, 1, 0, None)[0].images["front"] == 3).all()


def test_nobody_is_to_look_at_a_frozen_camera() -> None:
    camera = OneCamera()
    stamps = []
    for frame in range(60):
        camera.move(0.01 * frame)
        stamps.append(camera.show(min(frame, 10) if frame < 55 else frame, at=frame))
    # It hangs from frame 10 on; frame 16 is the first after which the arm is elsewhere, and a second is 31 frames.
    assert camera.instants_ns == [*stamps[:47], *stamps[55:]]
    camera.move(0.0)
    for frame in range(60, 100):
        camera.move(0.01 * frame)
        now_ns = camera.show(60, at=frame)
    told = "camera front: frozen, the same picture for 1287 ms, in which the robot moved"
    assert camera.streams.reason(now_ns) == f"{told}; front is /camera/front/image_raw"
    assert camera.streams.values(now_ns)["front.problem"] == told
