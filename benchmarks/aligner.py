"""What aligning costs and misses by: the Aligner against an exhaustive approximate-time matcher, and with a stall."""

from __future__ import annotations

import argparse
import bisect
import functools
import importlib.util
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from vla_ros.timing.sync import Aligner, AlignerConfig, CameraTiming, StreamTiming
from vla_ros.values import NANOSECONDS_PER_MILLISECOND as MS
from vla_ros.values import NANOSECONDS_PER_SECOND as S

LIMIT = 0.1
#: Cameras and proprioceptive streams (100 Hz) of the second table, and what an image may cost while one stalls.
SIZES = ((1, 1), (3, 3), (6, 6), (12, 2))
LIMIT_STALLED_US = 100.0
START_NS = 1_700_000_000 * S
#: camera -> its rate [Hz], and how long after its capture a frame arrives [ms]; free-running, so every phase occurs.
CAMERAS = {"front": (30.0, 25.0), "wrist": (29.97, 45.0), "top": (30.03, 80.0)}
JOINTS = "joints"
JOINTS_LATENCY_MS = 2.0
ARRIVAL_JITTER_MS = 4.0  # of a frame; a sample's is a tenth of it
CAPTURE_JITTER = 0.02  # of a period
LOST = 0.02
LATE = 0.02
LATE_BY_MS = 100.0  # behind frames that were taken after it
#: The matchers' limits: a set spans less than SLOP_MS (free-running cameras at 30 Hz need 22), a queue holds QUEUE_S.
SLOP_MS = 25.0
QUEUE_S = 0.25
PICTURE = np.zeros((1, 1, 3), np.uint8)


@dataclass(frozen=True)
class Message:
    """What arrives; `stamp_ns` is the capture time for all who compare, which `message_filters` has to be given."""

    stream: str
    stamp_ns: int
    received_ns: int
    values: Any  # joints (7,); for a frame nothing


@dataclass(frozen=True)
class Aligned:
    """What was made of the messages at one instant."""

    instant_ns: int
    joints: Any  # (7,)
    camera_stamps_ns: tuple[int, ...]


Run = Callable[[], list[Aligned]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="of stream")
    parser.add_argument("--repeats", type=int, default=3, help="of each measurement; the quickest counts")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    methods: dict[str, Callable[[list[Message], float], Run]] = {
        "Aligner": with_aligner,
        "matcher, first": with_matcher,
        "matcher, best": functools.partial(with_matcher, takes_first=False),
    }
    if importlib.util.find_spec("message_filters") and importlib.util.find_spec("rclpy"):
        methods["message_filters"] = with_message_filters
    else:
        print("message_filters is not installed here: left out")
    for joints_hz in (100.0, 1000.0):
        messages = stream(arguments.seconds, joints_hz, np.random.default_rng(arguments.seed))
        print(f"\njoints at {joints_hz:g} Hz: {len(messages)} messages in {arguments.seconds:g} s")
        print(f"{'':16}  us/message  Aligner/it  instants  joints mrad: mean  worst  cameras apart ms: mean  worst")
        costs_us: dict[str, float] = {}
        for name, method in methods.items():
            cost_us, aligned = measured(method, messages, joints_hz, arguments.repeats)
            costs_us[name] = cost_us
            errors_mrad = [1e3 * np.abs(row.joints - exact(row.instant_ns)).max() for row in aligned]
            skews_ms = [(max(row.camera_stamps_ns) - min(row.camera_stamps_ns)) / MS for row in aligned]
            print(
                f"{name:16}{cost_us:12.2f}{costs_us['Aligner'] / cost_us:12.3f}{len(aligned):10}"
                f"{np.mean(errors_mrad):19.3f}{max(errors_mrad):7.2f}{np.mean(skews_ms):24.1f}{max(skews_ms):7.1f}",
                flush=True,
            )
        floor_us, _ = measured(with_nothing, messages, joints_hz, arguments.repeats)
        least_us = min(costs_us.values())
        print(
            f"limit: {LIMIT:g} of a peer. What bounds it: to call a function per message that copies and checks its "
            f"values takes {floor_us:.2f} us, {floor_us / least_us:.2f} of the cheapest above"
        )
    print_stalled(arguments.seconds / 3.0)


def print_stalled(seconds: float) -> None:
    """What an image costs to add and to look for a new instant, while every stream runs and while one stalls."""
    print("\nus/image, 30 Hz cameras + 100 Hz streams  all run    one stream stalls  ratio  one camera stalls  worst")
    for cameras, streams in SIZES:
        # Where the only camera stalls there is no image to add.
        names = [f"camera{index}" for index in range(cameras)], [f"stream{index}" for index in range(streams)]
        steady_us, _ = cost_of_images(*names, stalled="", seconds=seconds)
        stream_us, worst_us = cost_of_images(*names, stalled="stream0", seconds=seconds)
        camera_us, worst_camera_us = cost_of_images(*names, stalled="camera0", seconds=seconds)
        print(
            f"{cameras:4} + {streams:<2}{steady_us:42.1f}{stream_us:19.1f}{stream_us / steady_us:7.2f}{camera_us:19.1f}"
            f"{max(worst_us, worst_camera_us):7.0f}",
            flush=True,
        )
    print(f"limit: {LIMIT_STALLED_US:g} us")


def cost_of_images(cameras: list[str], streams: list[str], stalled: str, seconds: float) -> tuple[float, float]:
    """Mean and worst CPU time per image [us], from half a second after `stalled` has stalled."""
    timings = {name: CameraTiming() for name in cameras}
    aligner = Aligner(AlignerConfig(cameras=timings, proprioception={name: StreamTiming() for name in streams}))
    random = np.random.default_rng(0)
    stalls_ns, counts_from_ns = START_NS + S, START_NS + 3 * S // 2
    arrivals = [
        (START_NS + int((tick + phase) / rate_hz * S), name)
        for names, rate_hz in ((cameras, 30.0), (streams, 100.0))
        for name in names
        for phase in [random.random()]
        for tick in range(int((1.5 + seconds) * rate_hz))
    ]
    costs_us = []
    for stamp_ns, name in sorted(arrivals):
        if name == stalled and stamp_ns > stalls_ns:
            continue
        if name in streams:
            aligner.add_sample(name, stamp_ns, stamp_ns, np.zeros(7))
            continue
        start_s = time.process_time()
        aligner.add_image(name, stamp_ns, stamp_ns, PICTURE)
        aligner.newest_complete_instant()
        if stamp_ns >= counts_from_ns:
            costs_us.append((time.process_time() - start_s) * 1e6)
    return (float(np.mean(costs_us)), max(costs_us)) if costs_us else (float("nan"), 0.0)


def measured(
    method: Callable[[list[Message], float], Run], messages: list[Message], joints_hz: float, repeats: int
) -> tuple[float, list[Aligned]]:
    """Least CPU time per message [us], and what came of it; whatever a method prepares is not counted."""
    costs_us, aligned = [], []
    for _ in range(repeats):
        run = method(messages, joints_hz)
        start_s = time.process_time()
        aligned = run()
        costs_us.append((time.process_time() - start_s) * 1e6 / len(messages))
    return min(costs_us), aligned


def exact(time_ns: int) -> Any:
    """Where the joints are (7,): half a radian at 0.3 to 0.9 Hz."""
    seconds = (time_ns - START_NS) / S
    return 0.5 * np.sin(2.0 * np.pi * np.linspace(0.3, 0.9, 7) * seconds + np.arange(7))


def stream(seconds: float, joints_hz: float, random: np.random.Generator) -> list[Message]:
    """Every message, in the order of arrival."""
    messages = [
        message
        for name, (rate_hz, latency_ms) in CAMERAS.items()
        for message in _stream(name, seconds, rate_hz, latency_ms, ARRIVAL_JITTER_MS, random)
    ]
    messages += _stream(JOINTS, seconds, joints_hz, JOINTS_LATENCY_MS, ARRIVAL_JITTER_MS / 10, random)
    return sorted(messages, key=lambda message: message.received_ns)


def _stream(
    name: str, seconds: float, rate_hz: float, latency_ms: float, jitter_ms: float, random: np.random.Generator
) -> Iterator[Message]:
    phase = random.random()
    for tick in range(int(seconds * rate_hz)):
        stamp_ns = START_NS + int((tick + phase + random.normal(0.0, CAPTURE_JITTER)) / rate_hz * S)
        delay_ms = latency_ms + random.exponential(jitter_ms) + (LATE_BY_MS if random.random() < LATE else 0.0)
        if random.random() >= LOST:
            values = exact(stamp_ns) if name == JOINTS else None
            yield Message(name, stamp_ns, stamp_ns + int(delay_ms * MS), values)


def with_aligner(messages: list[Message], joints_hz: float) -> Run:
    """Every message added; each new instant is looked at, as the inference node does."""
    aligner = Aligner(
        AlignerConfig(
            cameras={name: CameraTiming(rate_hz=rate_hz) for name, (rate_hz, _) in CAMERAS.items()},
            proprioception={JOINTS: StreamTiming()},
        )
    )

    def run() -> list[Aligned]:
        aligned = []
        newest_ns: int | None = None
        for message in messages:
            if message.stream == JOINTS:
                aligner.add_sample(JOINTS, message.stamp_ns, message.received_ns, message.values)
                continue
            aligner.add_image(message.stream, message.stamp_ns, message.received_ns, PICTURE)
            instant_ns = aligner.newest_complete_instant()
            if instant_ns is not None and instant_ns != newest_ns:
                newest_ns = instant_ns
                seen = aligner.sample(instant_ns)
                stamps_ns = tuple(seen.stamps_ns[camera] for camera in CAMERAS)
                aligned.append(Aligned(instant_ns, seen.proprioception[JOINTS], stamps_ns))
        return aligned

    return run


def with_nothing(messages: list[Message], joints_hz: float) -> Run:
    """The least that must be done: values copied and checked, stamps kept in order."""
    stamps_ns: dict[str, list[int]] = {name: [] for name in (*CAMERAS, JOINTS)}

    def add(message: Message) -> None:
        values = None if message.values is None else np.array(message.values, dtype=np.float64)
        if values is None or all(map(math.isfinite, values.tolist())):
            bisect.insort(stamps_ns[message.stream], message.stamp_ns)

    def run() -> list[Aligned]:
        for message in messages:
            add(message)
        return []

    return run


def with_matcher(messages: list[Message], joints_hz: float, takes_first: bool = True) -> Run:
    """The matcher below, with a queue as long as each stream needs."""
    rates_hz = {**{name: rate_hz for name, (rate_hz, _) in CAMERAS.items()}, JOINTS: joints_hz}
    sizes = {name: math.ceil(QUEUE_S * rate_hz) for name, rate_hz in rates_hz.items()}
    matcher = Matcher(sizes, int(SLOP_MS * MS), takes_first)

    def run() -> list[Aligned]:
        sets = (matcher.add(message) for message in messages)
        return [matched(found) for found in sets if found is not None]

    return run


class Matcher:
    """Tries, for every message, the combinations of one message per other stream with it; those used are used up.

    `takes_first`: as `message_filters.ApproximateTimeSynchronizer` in Python, the first combination that spans less
    than the slop, the nearest of each stream first; otherwise every combination is tried, and the one that spans least
    is taken. Times are integers, not objects, so that nothing but the method is compared.
    """

    def __init__(self, queue_sizes: dict[str, int], slop_ns: int, takes_first: bool) -> None:
        self._sizes = queue_sizes
        self._slop_ns = slop_ns
        self._takes_first = takes_first
        self._queues: dict[str, dict[int, Message]] = {name: {} for name in queue_sizes}

    def add(self, message: Message) -> dict[str, Message] | None:
        """The set that the message completes, if it does."""
        queue = self._queues[message.stream]
        stamp_ns = message.stamp_ns
        queue[stamp_ns] = message
        while len(queue) > self._sizes[message.stream]:
            del queue[min(queue)]
        candidates: list[list[int]] = []
        for name, other in self._queues.items():
            if name == message.stream:
                candidates.append([stamp_ns] if stamp_ns in queue else [])
                continue
            near = [stamp for stamp in other if abs(stamp - stamp_ns) <= self._slop_ns]
            if not near:
                return None
            candidates.append(sorted(near, key=lambda stamp: abs(stamp - stamp_ns)))
        fitting = (each for each in itertools.product(*candidates) if max(each) - min(each) < self._slop_ns)
        if self._takes_first:
            chosen = next(fitting, None)
        else:
            chosen = min(fitting, key=lambda each: max(each) - min(each), default=None)
        if chosen is None:
            return None
        return {name: kept.pop(stamp) for (name, kept), stamp in zip(self._queues.items(), chosen, strict=True)}


def with_message_filters(messages: list[Message], joints_hz: float) -> Run:
    """`message_filters` itself; its one queue size is what the joints need. Its stamps are made beforehand."""
    filters = importlib.import_module("message_filters")
    time_of = importlib.import_module("rclpy.time").Time
    inputs = {name: filters.SimpleFilter() for name in (*CAMERAS, JOINTS)}
    synchronizer = filters.ApproximateTimeSynchronizer(
        list(inputs.values()), math.ceil(QUEUE_S * joints_hz), SLOP_MS / 1000.0
    )
    wrapped = []
    for given in messages:
        header = SimpleNamespace(stamp=time_of(nanoseconds=given.stamp_ns))
        wrapped.append((inputs[given.stream], SimpleNamespace(header=header, given=given)))
    aligned: list[Aligned] = []
    synchronizer.registerCallback(
        lambda *found: aligned.append(matched({each.given.stream: each.given for each in found}))
    )

    def run() -> list[Aligned]:
        for source, message in wrapped:
            source.signalMessage(message)
        return aligned

    return run


def matched(found: dict[str, Message]) -> Aligned:
    """A set has no instant of its own: of its cameras' stamps it is taken at the one nearest to its joints."""
    joints = found[JOINTS]
    stamps_ns = tuple(found[camera].stamp_ns for camera in CAMERAS)
    return Aligned(min(stamps_ns, key=lambda stamp: abs(stamp - joints.stamp_ns)), joints.values, stamps_ns)


if __name__ == "__main__":
    main()
