"""Simulated time: never faster than it may be, waits for pictures and for the controller, and goes on without it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from vla_ros.ros.simulating import Simulation
from vla_ros.simulation.world import Snapshot
from vla_ros.timing.sync import CameraTiming
from vla_ros.values import Image

MS = 1_000_000


class BareWorld:
    """As much of a World as the loop touches: a clock and pictures of the time, which `gate` holds up."""

    def __init__(self) -> None:
        self.time_ns = 0
        self.gate = threading.Event()
        self.gate.set()
        self.broken = ""

    def advance(self, duration_ns: int) -> None:
        if self.broken:
            raise ZeroDivisionError(self.broken)
        self.time_ns += duration_ns

    def snapshot(self) -> Snapshot:
        return Snapshot(self.time_ns, np.zeros(0), {}, np.zeros(4))

    def renderer(self) -> BareWorld:
        return self

    def render(self, camera: str, snapshot: Snapshot) -> Image:
        assert self.gate.wait(10.0)
        return np.full((1, 1, 3), snapshot.time_ns // MS % 256, np.uint8)

    def close(self) -> None:
        pass


class BareMirror:
    """A controller that commands every `period_ns` as long as `commanding`."""

    def __init__(self) -> None:
        self.commanding = False
        self.period_ns = 1
        self.commanded_ns: int | None = None
        self.waits = 0
        self._target = threading.Event()

    def wait_for_target(self, timeout_s: float) -> bool:
        self.waits += 1
        return self._target.wait(timeout_s)

    def apply(self, world: BareWorld) -> None:
        if self.commanding and world.time_ns >= (self.commanded_ns or 0) + self.period_ns:
            self.commanded_ns = world.time_ns

    def publish(self, world: BareWorld) -> None:
        pass


class Loop:
    """A simulation, and what it said."""

    def __init__(self, factor: float, **cameras: CameraTiming) -> None:
        self.world, self.mirror = BareWorld(), BareMirror()
        self.clock: list[int] = []
        self.slices: list[int] = []
        self.frames: list[tuple[str, int, int]] = []
        self.simulation = Simulation(
            self.world,  # type: ignore[arg-type]
            self.mirror,  # type: ignore[arg-type]
            cameras,
            slice_ns=5 * MS,
            real_time_factor=factor,
            on_clock=self.clock.append,
            on_slice=lambda: self.slices.append(self.world.time_ns),
            on_frame=lambda camera, stamp, picture: self.frames.append((camera, stamp, int(picture[0, 0, 0]))),
        )

    def until(self, condition: Callable[[], Any], timeout_s: float = 10.0) -> None:
        """Wait for `condition`."""
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end
            self.simulation.call(lambda: None)  # comes back after at most a slice


@pytest.fixture
def loop(request: pytest.FixtureRequest) -> Iterator[Callable[..., Loop]]:
    loops: list[Loop] = []

    def make(factor: float = 1.0, **cameras: CameraTiming) -> Loop:
        loops.append(Loop(factor, **cameras))
        return loops[-1]

    yield make
    for made in loops:
        made.world.gate.set()
        made.simulation.close()


@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_time_is_not_hurried(loop: Callable[..., Loop], factor: float) -> None:
    run = loop(factor)
    start_s = time.monotonic()  # before the rest, so that a busy machine can only make it longer
    start_ns = run.simulation.call(lambda: run.world.time_ns)
    run.until(lambda: run.world.time_ns > start_ns + 200 * MS * factor)
    assert (
        time.monotonic() - start_s >= 0.2 - 2 * 0.005 / factor
    )  # but for the one slice that may be caught up, and the one begun
    assert run.clock == [5 * MS * (index + 1) for index in range(len(run.clock))]
    assert run.slices == run.clock[: len(run.slices)]


def test_lost_time_stays_lost(loop: Callable[..., Loop]) -> None:
    run = loop()
    held = threading.Event()
    threading.Timer(0.3, held.set).start()
    run.simulation.call(lambda: held.wait(10.0))  # a slice that takes 0.3 s
    start_s = time.monotonic()
    start_ns = run.simulation.call(lambda: run.world.time_ns)
    run.until(lambda: run.world.time_ns > start_ns + 100 * MS)
    assert time.monotonic() - start_s > 0.08


def test_pictures_come_at_their_rate_and_show_the_time_of_capture(loop: Callable[..., Loop]) -> None:
    run = loop(front=CameraTiming(rate_hz=25.0), late=CameraTiming(rate_hz=50.0, latency_ms=30.0))
    run.until(lambda: len(run.frames) > 30)
    front = [frame for frame in run.frames if frame[0] == "front"]
    late = [frame for frame in run.frames if frame[0] == "late"]
    assert np.diff([stamp for _, stamp, _ in front[1:]]).tolist() == [40 * MS] * (len(front) - 2)
    assert np.diff([stamp for _, stamp, _ in late[1:]]).tolist() == [20 * MS] * (len(late) - 2)
    assert all(shown == stamp // MS % 256 for _, stamp, shown in front)
    assert all(shown == (stamp // MS - 30) % 256 for _, stamp, shown in late)


def test_time_waits_for_pictures(loop: Callable[..., Loop]) -> None:
    run = loop(front=CameraTiming(rate_hz=30.0))
    run.until(lambda: len(run.frames) > 2)
    run.world.gate.clear()
    frames = len(run.frames)
    stands = [run.world.time_ns]

    def stands_still() -> bool:
        threading.Event().wait(0.05)
        stands.append(run.world.time_ns)
        return stands[-1] == stands[-2]

    end = time.monotonic() + 10.0
    while not stands_still():
        assert time.monotonic() < end
    assert stands[-1] - stands[0] <= 2 * 34 * MS  # one being drawn, one due
    run.world.gate.set()
    run.until(lambda: len(run.frames) > frames + 3)
    assert [b[1] - a[1] <= 34 * MS for a, b in zip(run.frames[1:], run.frames[2:], strict=False)].count(False) == 0


def test_time_waits_for_a_controller_once(loop: Callable[..., Loop]) -> None:
    run = loop()
    run.until(lambda: run.world.time_ns > 50 * MS)
    assert run.mirror.waits == 0  # nobody ever commanded
    run.mirror.commanding = True
    run.until(lambda: run.mirror.commanded_ns is not None)
    start_s = time.monotonic()
    run.mirror.commanding = False
    commanded_ns = run.simulation.call(lambda: run.mirror.commanded_ns)  # no more comes
    assert commanded_ns is not None
    run.until(lambda: run.world.time_ns > commanded_ns + 100 * MS)
    assert run.mirror.waits == 1
    assert time.monotonic() - start_s > 0.1 + 0.05  # its patience, and most of the simulated time
    run.mirror.commanding = True
    run.until(lambda: run.mirror.commanded_ns != commanded_ns)
    run.mirror.commanding = False
    run.until(lambda: run.mirror.waits == 2)


def test_a_slow_controller_is_soon_not_missed(loop: Callable[..., Loop]) -> None:
    run = loop()
    run.mirror.period_ns = 33 * MS
    run.mirror.commanding = True
    run.until(lambda: run.world.time_ns > 500 * MS)
    assert 1 <= run.mirror.waits <= 3  # of 15 commands


def test_a_controller_that_was_only_held_up_is_missed_as_soon_as_before(loop: Callable[..., Loop]) -> None:
    run = loop()
    run.mirror.period_ns = 10 * MS
    for waits in (1, 2, 3, 4):
        run.mirror.commanding = True
        start_ns = run.simulation.call(lambda: run.world.time_ns)
        run.until(lambda start_ns=start_ns: run.world.time_ns > start_ns + 150 * MS)
        run.mirror.commanding = False
        commanded_ns = run.simulation.call(lambda: run.mirror.commanded_ns)
        run.until(lambda waits=waits: run.mirror.waits == waits)
        assert run.world.time_ns - commanded_ns <= 20 * MS, "missed after 10 ms, at the end of a slice"
        run.until(lambda commanded_ns=commanded_ns: run.world.time_ns > commanded_ns + 60 * MS)


def test_calls_are_answered_between_slices(loop: Callable[..., Loop]) -> None:
    run = loop()
    name = run.simulation.call(lambda: threading.current_thread().name)
    assert name == "simulation"
    assert run.simulation.call(lambda: run.world.time_ns % (5 * MS)) == 0
    with pytest.raises(ZeroDivisionError):
        run.simulation.call(lambda: 1 // 0)
    run.simulation.check()


def test_a_world_that_breaks_is_told(loop: Callable[..., Loop]) -> None:
    run = loop()
    run.world.broken = "the table fell over"
    run.simulation._thread.join(10.0)
    with pytest.raises(ZeroDivisionError, match="fell over"):
        run.simulation.check()
