"""A frozen camera is told from a still scene by the robot's motion alone, and from a late frame by its stamp."""

from __future__ import annotations

from array import array

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.timing.frozen import MOVED_RAD, FrozenWatch

MS = 1_000_000
PERIOD_NS = 33 * MS


def picture(number: int) -> array[int]:
    return array("B", [7, 7, number % 256])


def joints(angle_rad: float) -> np.ndarray:
    return np.array([0.0, angle_rad, 0.0])


def test_the_same_picture_while_the_robot_moves_is_frozen_until_another_comes() -> None:
    watch = FrozenWatch(after_ms=1000.0)
    frozen = []
    for frame in range(100):
        shown = min(frame, 20) if frame < 90 else frame  # hangs from frame 20 on, comes back at 90
        watch.see(frame * PERIOD_NS, picture(shown), joints(0.02 * frame))
        if watch.reason:
            frozen.append(frame)
    # It has moved by more than 0.05 rad at frame 23, and a second is 31 frames.
    assert frozen == list(range(54, 90))


def test_frames_that_overtake_each_other_hide_nothing() -> None:
    watch = FrozenWatch(after_ms=500.0)
    for frame in np.arange(40).reshape(-1, 2)[:, ::-1].ravel():  # 1 0 3 2 ...
        watch.see(int(frame) * PERIOD_NS, picture(0), joints(0.1 * frame))
    assert watch.reason and watch.frozen_until_ns == 39 * PERIOD_NS
    watch.see(42 * PERIOD_NS, picture(1), joints(0.0))
    watch.see(41 * PERIOD_NS, picture(0), joints(1.0))
    watch.see(43 * PERIOD_NS, picture(1), joints(0.0))
    assert not watch.reason and watch.frozen_until_ns == 39 * PERIOD_NS


def test_it_says_for_how_long() -> None:
    watch = FrozenWatch(after_ms=100.0)
    for frame in range(11):
        watch.see(frame * 100 * MS, picture(0), joints(0.5 * frame))
    assert watch.reason == "frozen, the same picture for 1000 ms, in which the robot moved"


@given(st.lists(st.floats(-MOVED_RAD / 2, MOVED_RAD / 2), min_size=60, max_size=60))
def test_a_still_scene_is_not_frozen_as_long_as_the_robot_stays(angles: list[float]) -> None:
    watch = FrozenWatch(after_ms=500.0)
    for frame, angle in enumerate(angles):
        watch.see(frame * PERIOD_NS, picture(0), joints(angle))
        assert not watch.reason


@given(st.lists(st.floats(-3.0, 3.0), min_size=60, max_size=60), st.integers(1, 12))
def test_a_camera_that_shows_something_new_now_and_then_is_not_frozen(angles: list[float], repeats: int) -> None:
    watch = FrozenWatch(after_ms=500.0)
    for frame, angle in enumerate(angles):
        watch.see(frame * PERIOD_NS, picture(frame // repeats), joints(angle))
        assert not watch.reason


def test_a_scene_that_stood_still_for_long_is_not_frozen_when_the_robot_starts() -> None:
    watch = FrozenWatch(after_ms=500.0)
    for frame in range(200):
        angle = 0.0 if frame < 190 else 0.1 * (frame - 190)  # its pictures come a few frames late
        watch.see(frame * PERIOD_NS, picture(max(0, frame - 193)), joints(angle))
        assert not watch.reason


def test_nothing_is_frozen_where_nobody_knows_the_joints_or_it_is_turned_off() -> None:
    watch, off = FrozenWatch(after_ms=500.0), FrozenWatch(after_ms=0.0)
    for frame in range(100):
        watch.see(frame * PERIOD_NS, picture(0), None)
        off.see(frame * PERIOD_NS, picture(0), joints(frame))
        assert not watch.reason and not off.reason


def test_a_clock_that_jumps_back_begins_anew() -> None:
    watch = FrozenWatch(after_ms=500.0)
    for frame in range(40):
        watch.see((frame + 100) * PERIOD_NS, picture(0), joints(0.1 * frame))
    assert watch.reason
    watch.see(0, picture(0), joints(4.0))
    assert not watch.reason and watch.frozen_until_ns == 0
