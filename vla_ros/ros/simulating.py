"""A simulated world on its own thread, in step with the wall clock where the machine can: clock, robot, pictures.

Simulated time is what the other nodes live in, so it waits for them rather than leave them behind: for the renderer
when the next picture is due before the last one is drawn, and for the controller, shortly, when its commands stay away.
A slow machine is therefore slow, not wrong; it never hurries to make up for lost time. A controller that died holds
nothing up but once, for `_PATIENCE_S`: its absence is the watchdog's business.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from vla_ros.ros.drivers.driver import Mirror
from vla_ros.simulation.world import Snapshot, World
from vla_ros.timing.stamps import ms_to_ns, ns_to_s
from vla_ros.timing.sync import CameraTiming
from vla_ros.values import NANOSECONDS_PER_MILLISECOND, NANOSECONDS_PER_SECOND, Image

Answer = TypeVar("Answer")
OnFrame = Callable[[str, int, Image], None]  # camera, stamp_ns, picture

_STEP_NS = NANOSECONDS_PER_MILLISECOND
#: A controller that commanded is missed when nothing came for its period, 10 ms unless it proves to be slower, and is
#: then waited for so long. So many commands at that period prove that it was only held up.
_MISSED_AFTER_NS, _MISSED_AFTER_AT_MOST_NS = 10 * NANOSECONDS_PER_MILLISECOND, 50 * NANOSECONDS_PER_MILLISECOND
_PROVING_COMMANDS = 5
_PATIENCE_S = 0.1
_ANSWER_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Frame:
    """A picture to be drawn: of the world at the snapshot, stamped with the time at which a camera would deliver it."""

    camera: str
    stamp_ns: int
    snapshot: Snapshot


class Simulation:
    """Moves `world` in slices of `slice_ns`; every callback is on its threads.

    `on_clock(time_ns)` opens each slice with the time at its end, so that nothing in it is stamped later than the
    clock; `on_slice()` closes it. `on_frame` comes from the drawing thread. Raises RuntimeError where nothing can draw.
    """

    def __init__(
        self,
        world: World,
        mirror: Mirror,
        cameras: Mapping[str, CameraTiming],
        slice_ns: int,
        real_time_factor: float,
        on_clock: Callable[[int], None],
        on_slice: Callable[[], None],
        on_frame: OnFrame,
    ) -> None:
        self._world = world
        self._mirror = mirror
        self._steps = max(1, round(slice_ns / _STEP_NS))
        self._factor = real_time_factor
        self._on_clock = on_clock
        self._on_slice = on_slice
        self._shutters = [_Shutter(name, timing) for name, timing in cameras.items()]
        self._calls: deque[tuple[Callable[[], object], Future]] = deque()
        self._missed_after_least_ns = self._missed_after_ns = max(_MISSED_AFTER_NS, self._steps * _STEP_NS)
        self._missed_ns: int | None = None  # the last command before a wait that was in vain
        self._commands_ns: deque[int] = deque(maxlen=_PROVING_COMMANDS + 1)
        self._speed = 0.0
        self._closing = threading.Event()
        self._failure: BaseException | None = None
        self._painter = Painter(world, on_frame)
        self._thread = threading.Thread(target=self._run, name="simulation", daemon=True)
        self._thread.start()

    @property
    def speed(self) -> float:
        """Simulated seconds per second, over about the last one."""
        return self._speed

    def check(self) -> None:
        """Raise what ended a thread, if anything did."""
        failure = self._failure or self._painter.failure
        if failure is not None:
            raise failure

    def call(self, function: Callable[[], Answer]) -> Answer:
        """Let the simulation's thread call `function` between two slices and give its answer."""
        future: Future[Answer] = Future()
        self._calls.append((function, future))
        return future.result(timeout=_ANSWER_TIMEOUT_S)

    def close(self) -> None:
        """End both threads."""
        self._closing.set()
        self._painter.close()
        self._thread.join(2.0)

    def forget_frames(self) -> None:
        """Drop what was to be drawn; for a world that jumps to a new episode."""
        for shutter in self._shutters:
            shutter.pending.clear()

    def _run(self) -> None:
        try:
            pace = _Pace(self._factor)
            while not self._closing.is_set():
                self._answer_calls()
                self._wait_for_controller()
                self._advance_slice()
                self._speed = pace.wait(self._steps * _STEP_NS)
        except BaseException as error:  # told by check(), on the node's thread
            self._failure = error

    def _advance_slice(self) -> None:
        world, mirror = self._world, self._mirror
        self._on_clock(world.time_ns + self._steps * _STEP_NS)
        for _ in range(self._steps):
            mirror.apply(world)
            world.advance(_STEP_NS)
            mirror.publish(world)
            self._take_pictures()
        self._on_slice()

    def _take_pictures(self) -> None:
        now_ns = self._world.time_ns
        opening = [shutter for shutter in self._shutters if shutter.opens(now_ns)]
        if opening:
            snapshot = self._world.snapshot()
            for shutter in opening:
                shutter.pending.append(Frame(shutter.camera, now_ns + shutter.latency_ns, snapshot))
        delivered = [frame for shutter in self._shutters for frame in shutter.delivered(now_ns)]
        if delivered:
            self._painter.paint(delivered)

    def _wait_for_controller(self) -> None:
        commanded_ns = self._mirror.commanded_ns
        if commanded_ns is None or commanded_ns == self._missed_ns:
            return
        if commanded_ns not in self._commands_ns:
            self._commands_ns.append(commanded_ns)
            span_ns = commanded_ns - self._commands_ns[0]
            if len(self._commands_ns) > _PROVING_COMMANDS and span_ns <= (_PROVING_COMMANDS + 1) * _MISSED_AFTER_NS:
                self._missed_after_ns = self._missed_after_least_ns
        missed = self._world.time_ns - commanded_ns > self._missed_after_ns
        if missed and not self._mirror.wait_for_target(_PATIENCE_S):
            self._missed_ns = commanded_ns
            self._missed_after_ns = min(2 * self._missed_after_ns, _MISSED_AFTER_AT_MOST_NS)

    def _answer_calls(self) -> None:
        while self._calls:
            function, future = self._calls.popleft()
            try:
                future.set_result(function())
            except Exception as error:  # belongs to the caller
                future.set_exception(error)


class Painter:
    """Draws frames on a thread of its own (a drawing context belongs to one thread), one batch at a time."""

    def __init__(self, world: World, on_frame: OnFrame) -> None:
        self._world = world
        self._on_frame = on_frame
        self._batch: list[Frame] = []
        self._closing = False
        self._changed = threading.Condition()
        self._ready: Future[None] = Future()
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="painter", daemon=True)
        self._thread.start()
        self._ready.result()

    def paint(self, batch: list[Frame]) -> None:
        """Have `batch` drawn; waits for the batch before."""
        with self._changed:
            self._changed.wait_for(lambda: not self._batch or self._closing)
            self._batch = batch
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(5.0)

    def _run(self) -> None:
        try:
            renderer = self._world.renderer()
        except Exception as error:  # raised to the one who made this
            self._ready.set_exception(error)
            return
        self._ready.set_result(None)
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._batch or self._closing)
                    if self._closing:
                        return
                for frame in self._batch:
                    self._on_frame(frame.camera, frame.stamp_ns, renderer.render(frame.camera, frame.snapshot))
                with self._changed:
                    self._batch = []
                    self._changed.notify_all()
        except BaseException as error:  # told by Simulation.check(), on the node's thread
            self.failure = error
            with self._changed:
                self._closing = True
                self._changed.notify_all()
        finally:
            renderer.close()


class _Shutter:
    """When one camera sees, and when what it saw is delivered: `latency_ms` later, stamped with that moment."""

    def __init__(self, camera: str, timing: CameraTiming) -> None:
        self.camera = camera
        self.latency_ns = ms_to_ns(timing.latency_ms)
        self.pending: deque[Frame] = deque()
        self._rate_hz = timing.rate_hz
        self._count: int | None = None

    def opens(self, now_ns: int) -> bool:
        """Whether the next of the evenly spaced instants has come."""
        count = int(now_ns * self._rate_hz) // NANOSECONDS_PER_SECOND
        opens = count != self._count
        self._count = count
        return opens

    def delivered(self, now_ns: int) -> list[Frame]:
        """What has come to its stamp."""
        frames = []
        while self.pending and self.pending[0].stamp_ns <= now_ns:
            frames.append(self.pending.popleft())
        return frames


class _Pace:
    """Keeps simulated time at or below `factor` times wall time; what is lost by more than a slice stays lost."""

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._due_s = self._mark_s = time.monotonic()
        self._simulated_s = 0.0  # since the mark
        self._speed = 0.0

    def wait(self, slice_ns: int) -> float:
        """Wait until a slice of `slice_ns` may be over; gives simulated seconds per second, of the last full second."""
        slice_s = ns_to_s(slice_ns) / self._factor
        now_s = time.monotonic()
        self._due_s = max(self._due_s + slice_s, now_s - slice_s)
        if self._due_s > now_s:
            time.sleep(self._due_s - now_s)
        self._simulated_s += ns_to_s(slice_ns)
        elapsed_s = time.monotonic() - self._mark_s
        if elapsed_s >= 1.0:
            self._speed = self._simulated_s / elapsed_s
            self._mark_s, self._simulated_s = self._mark_s + elapsed_s, 0.0
        return self._speed
