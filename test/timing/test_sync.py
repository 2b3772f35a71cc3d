"""Aligner against exact functions, brute force and its own replay: instants, interpolation, latency, windows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.timing.sync import Aligner, AlignerConfig, CameraTiming, Interpolation, StreamTiming
from vla_ros.timing.track import Misaligned
from vla_ros.values import Image

MS = 1_000_000
START_NS = 1_700_000_000_000_000_000  # stamps as large as real ones: floats would lose 100 ns
FEW = settings(max_examples=40, deadline=None)


def picture(number: int) -> Image:
    """A tiny image that says which frame it is."""
    return np.full((1, 1, 3), number % 251, dtype=np.uint8)


def aligner(cameras: dict[str, CameraTiming], streams: dict[str, StreamTiming] | None = None, **more: Any) -> Aligner:
    return Aligner(AlignerConfig(cameras=cameras, proprioception=streams or {}, **more))


def nearest(stamps: list[int], instant: int) -> int:
    return min(stamps, key=lambda stamp: (abs(stamp - instant), stamp))


# --- proprioception between samples


@FEW
@given(
    st.floats(0.1, 3.0),
    st.floats(0.0, 6.3),
    st.lists(st.integers(1 * MS, 60 * MS), min_size=2, max_size=20),
    st.floats(0.0, 1.0),
)
def test_joints_follow_a_sinusoid_within_the_bound_of_linear_interpolation(
    frequency_hz: float, phase: float, gaps_ns: list[int], fraction: float
) -> None:
    omega = 2 * math.pi * frequency_hz
    stamps = [START_NS + int(sum(gaps_ns[:count])) for count in range(len(gaps_ns) + 1)]

    def exact(stamp: int) -> float:
        return math.sin(omega * (stamp - START_NS) * 1e-9 + phase)

    sync = aligner({}, {"joints": StreamTiming()})
    for stamp in stamps:
        sync.add_sample("joints", stamp, stamp, np.array([exact(stamp), 1.0]))
    instant = stamps[0] + int(fraction * (stamps[-1] - stamps[0]))
    values = sync.sample(instant).proprioception["joints"]
    bound = omega**2 * (max(gaps_ns) * 1e-9) ** 2 / 8  # |f''| h^2 / 8
    assert abs(values[0] - exact(instant)) <= bound + 1e-9
    assert values[1] == 1.0


@FEW
@given(
    st.tuples(*[st.floats(-1.0, 1.0)] * 3).filter(lambda axis: math.hypot(*axis) > 0.1),
    st.floats(0.1, 20.0),
    st.lists(st.booleans(), min_size=5, max_size=5),
    st.integers(0, 80 * MS),
)
def test_poses_turn_exactly_about_a_fixed_axis(
    axis: tuple[float, ...], rate_rad_s: float, flips: list[bool], after_ns: int
) -> None:
    unit = np.array(axis) / np.linalg.norm(axis)

    def quaternion(stamp: int) -> np.ndarray[Any, Any]:
        half = 0.5 * rate_rad_s * (stamp - START_NS) * 1e-9
        return np.concatenate([unit * math.sin(half), [math.cos(half)]])

    sync = aligner({}, {"tcp": StreamTiming(interpolation=Interpolation.POSE)})
    for index, flip in enumerate(flips):
        stamp = START_NS + 20 * MS * index
        position = np.array([1.0, -2.0, 3.0]) * (stamp - START_NS) * 1e-9
        sign = -3.0 if flip else 3.0  # either sign and any length are the same rotation
        sync.add_sample("tcp", stamp, stamp, np.concatenate([position, sign * quaternion(stamp)]))
    instant = START_NS + after_ns
    pose = sync.sample(instant).proprioception["tcp"]
    assert np.allclose(pose[:3], np.array([1.0, -2.0, 3.0]) * after_ns * 1e-9, atol=1e-12)
    assert abs(float(pose[3:] @ quaternion(instant))) == pytest.approx(1.0, abs=1e-12)


def test_nothing_is_extrapolated_or_interpolated_across_a_hole() -> None:
    sync = aligner({}, {"joints": StreamTiming(max_gap_ms=50.0), "flag": StreamTiming(interpolation="nearest")})
    for stamp, value in ((0, 0.0), (10, 1.0), (300, 30.0)):
        sync.add_sample("joints", START_NS + stamp * MS, START_NS + 300 * MS, np.array([value]))
        sync.add_sample("flag", START_NS + stamp * MS, START_NS + 300 * MS, np.array([value]))

    def joints(after_ms: int) -> float:
        return float(sync.sample(START_NS + after_ms * MS).proprioception["joints"][0])

    assert joints(5) == pytest.approx(0.5)
    assert joints(-20) == 0.0  # before the first sample
    assert joints(40) == 1.0  # after it comes a hole, not a line
    assert joints(320) == 30.0  # after the last sample
    assert sync.sample(START_NS + 5 * MS).proprioception["flag"][0] == 0.0
    with pytest.raises(
        Misaligned, match=r"stream joints: nothing within 50 ms of the instant; the nearest is 90\.0 ms"
    ):
        joints(100)


def test_a_value_is_between_two_samples_or_within_10_ms_of_one() -> None:
    sync = aligner({}, {"joints": StreamTiming(max_gap_ms=50.0)})
    for after_ms, value in ((0, 0.0), (20, 2.0)):
        sync.add_sample("joints", START_NS + after_ms * MS, START_NS + after_ms * MS, np.array([value]))
    assert float(sync.value("joints", START_NS + 5 * MS)[0]) == pytest.approx(0.5)
    assert float(sync.value("joints", START_NS + 30 * MS)[0]) == 2.0
    with pytest.raises(Misaligned, match=r"stream joints: not between two samples; the nearest is 10\.0 ms off"):
        sync.value("joints", START_NS + 30 * MS + 1)


def test_an_instant_is_covered_once_every_stream_has_reached_it() -> None:
    sync = aligner({"front": CameraTiming()}, {"joints": StreamTiming()})
    sync.add_image("front", START_NS + 10 * MS, START_NS + 10 * MS, picture(0))
    assert not sync.covers(START_NS)  # there are no joints at all
    sync.add_sample("joints", START_NS, START_NS, np.zeros(7))
    assert sync.covers(START_NS)
    assert not sync.covers(START_NS + 1)


def test_a_sample_is_copied_when_it_is_given() -> None:
    sync = aligner({}, {"joints": StreamTiming()})
    values = np.zeros(7)
    sync.add_sample("joints", START_NS, START_NS, values)
    values += 1.0
    assert np.array_equal(sync.sample(START_NS).proprioception["joints"], np.zeros(7))


# --- which instant, which frames

CAMERAS = {
    "front": CameraTiming(tolerance_ms=20.0),
    "wrist": CameraTiming(tolerance_ms=15.0),
    "side": CameraTiming(rate_hz=10.0, tolerance_ms=60.0),
}
camera_stamps = st.fixed_dictionaries(
    {name: st.lists(st.integers(0, 600), min_size=1, max_size=20, unique=True).map(sorted) for name in CAMERAS}
)


def complete(stamps: dict[str, list[int]], instant: int) -> bool:
    return all(
        abs(nearest(stamps[name], instant) - instant) <= timing.tolerance_ms * MS for name, timing in CAMERAS.items()
    )


@FEW
@given(camera_stamps)
def test_the_instant_is_the_newest_complete_one(stamps_ms: dict[str, list[int]]) -> None:
    stamps = {name: [START_NS + stamp * MS for stamp in times] for name, times in stamps_ms.items()}
    sync = aligner(CAMERAS)
    for name, times in stamps.items():
        for stamp in times:
            sync.add_image(name, stamp, START_NS + 600 * MS, picture(0))
    instant = sync.newest_complete_instant()
    settled = min(times[-1] for times in stamps.values())
    frames = sorted(stamp for times in stamps.values() for stamp in times if stamp <= settled)
    candidates = [stamp for stamp in frames if complete(stamps, stamp)]
    if not candidates:
        assert instant is None
        assert "nothing within" in sync.reason()
        return
    assert instant is not None
    assert complete(stamps, instant)
    # It shows the same frames as the newest candidate, and no frame set is announced under two instants.
    assert {n: nearest(t, instant) for n, t in stamps.items()} == {
        n: nearest(t, candidates[-1]) for n, t in stamps.items()
    }
    assert sync.reason() == ""


@FEW
@given(camera_stamps, st.randoms(use_true_random=False))
def test_frames_are_within_tolerance_settled_and_announced_once(stamps_ms: dict[str, list[int]], random: Any) -> None:
    """Live, in any interleaving of the cameras: what is sampled at an instant is what a replay of everything gives."""
    queues = {name: [START_NS + stamp * MS for stamp in times] for name, times in stamps_ms.items()}
    live, replay = aligner(CAMERAS), aligner(CAMERAS)
    seen: list[Any] = []
    while any(queues.values()):
        name = random.choice([name for name, queue in queues.items() if queue])
        stamp = queues[name].pop(0)
        for sync in (live, replay):
            sync.add_image(name, stamp, START_NS + 600 * MS, picture((stamp - START_NS) // MS))
        instant = live.newest_complete_instant()
        if instant is not None and (not seen or instant != seen[-1].instant_ns):
            seen.append(live.sample(instant))
    for observation in seen:
        again = replay.sample(observation.instant_ns)
        assert observation.stamps_ns == again.stamps_ns
        for name, timing in CAMERAS.items():
            assert np.array_equal(observation.images[name], again.images[name])
            assert abs(observation.ages_ns[name]) <= timing.tolerance_ms * MS
    assert [o.instant_ns for o in seen] == sorted({o.instant_ns for o in seen})
    frame_sets = [tuple(sorted(o.stamps_ns.items())) for o in seen]
    assert len(set(frame_sets)) == len(frame_sets)


@FEW
@given(st.integers(-33, 33), st.integers(2, 15))
def test_cameras_out_of_phase_give_one_instant_per_period(offset_ms: int, frames: int) -> None:
    sync = aligner({"a": CameraTiming(), "b": CameraTiming()})
    events = [("a", index * 33) for index in range(frames)] + [("b", index * 33 + offset_ms) for index in range(frames)]
    instants = set()
    for name, stamp in sorted(events, key=lambda event: event[1]):
        stamp_ns = START_NS + (100 + stamp) * MS
        sync.add_image(name, stamp_ns, stamp_ns, picture(0))
        instants.add(sync.newest_complete_instant())
    assert frames - 1 <= len(instants - {None}) <= frames + 1


messages = st.lists(
    st.tuples(st.sampled_from(["front", "wrist", "joints", "tcp"]), st.integers(0, 1500)),
    min_size=4, max_size=60, unique=True,
)  # fmt: skip


@FEW
@given(messages, st.data())
def test_the_order_of_arrival_never_shows(in_order: list[tuple[str, int]], data: st.DataObject) -> None:
    in_order.sort(key=lambda message: message[1])
    shuffled = data.draw(st.permutations(in_order))
    streams = {"joints": StreamTiming(), "tcp": StreamTiming(interpolation=Interpolation.POSE, max_gap_ms=300.0)}
    results = []
    for order in (in_order, shuffled):
        sync = aligner({"front": CameraTiming(), "wrist": CameraTiming(tolerance_ms=40.0)}, streams)
        for name, stamp in order:
            stamp_ns = START_NS + stamp * MS
            if name in streams:
                values = np.array([1, 2, 3, math.sin(stamp), 0, 0, math.cos(stamp)]) * (1.0 if name == "tcp" else stamp)
                sync.add_sample(name, stamp_ns, START_NS + 1500 * MS, values)
            else:
                sync.add_image(name, stamp_ns, START_NS + 1500 * MS, picture(stamp))
        results.append((sync.newest_complete_instant(), sync))
    (instant, first), (other_instant, second) = results
    assert instant == other_instant
    if instant is not None:
        one, two = first.sample(instant), second.sample(instant)
        assert one.stamps_ns == two.stamps_ns
        for name in one.images:
            assert np.array_equal(one.images[name], two.images[name])
        for name in one.proprioception:
            assert np.array_equal(one.proprioception[name], two.proprioception[name])


@FEW
@given(messages, st.data())
def test_asking_after_each_message_gives_what_asking_once_gives(
    in_order: list[tuple[str, int]], data: st.DataObject
) -> None:
    """What was searched before is not searched again: no late message, hole or stalled stream may make that wrong."""
    tolerances = {"front": 20.0, "wrist": 40.0}
    cameras = {name: CameraTiming(tolerance_ms=tolerance) for name, tolerance in tolerances.items()}
    streams = {"joints": StreamTiming(), "tcp": StreamTiming(max_gap_ms=300.0)}
    live = aligner(cameras, streams)
    arrived: list[tuple[str, int]] = []
    instant: int | None = None
    for name, stamp in data.draw(st.permutations(in_order)):
        arrived.append((name, stamp))
        asked_once = aligner(cameras, streams)
        for sync, news in ((live, arrived[-1:]), (asked_once, arrived)):
            for stream, after_ms in news:
                stamp_ns = START_NS + after_ms * MS
                if stream in streams:
                    sync.add_sample(stream, stamp_ns, START_NS + 1500 * MS, np.ones(1))
                else:
                    sync.add_image(stream, stamp_ns, START_NS + 1500 * MS, picture(0))
        complete_ns = asked_once.newest_complete_instant()
        if complete_ns is not None:
            instant = complete_ns if instant is None else max(instant, complete_ns)  # it never goes back
        assert live.newest_complete_instant() == instant
        assert (live.reason() == "") == (instant is not None)


def test_cameras_of_different_latency_that_film_one_clock_show_one_time() -> None:
    sync = aligner(
        {
            "quick": CameraTiming(latency_ms=12.5, tolerance_ms=5.0),
            "slow": CameraTiming(latency_ms=170.0, tolerance_ms=5.0),
        },
        {"joints": StreamTiming(latency_ms=0.1)},
    )
    arrivals = []
    for tick in range(30):
        filmed_ns = START_NS + tick * 33 * MS
        arrivals.append((filmed_ns + 12_500_000, "quick", tick))
        arrivals.append((filmed_ns + 170 * MS, "slow", tick))
        arrivals.append((filmed_ns + 100_000, "joints", tick))
    for stamp, name, tick in sorted(arrivals):
        if name == "joints":
            sync.add_sample(name, stamp, stamp, np.array([float(tick)]))
            continue
        sync.add_image(name, stamp, stamp, picture(tick))
        instant = sync.newest_complete_instant()
        if instant is not None:
            seen = sync.sample(instant)
            assert seen.skew_ns == 0
            assert seen.images["quick"][0, 0, 0] == seen.images["slow"][0, 0, 0] == seen.proprioception["joints"][0]
    assert instant == START_NS + 29 * 33 * MS


def test_without_cameras_the_streams_set_the_pace() -> None:
    sync = aligner({}, {"joints": StreamTiming(), "world": StreamTiming(interpolation="nearest")})
    for after_ms in range(0, 100, 10):
        stamp = START_NS + after_ms * MS
        sync.add_sample("joints", stamp, stamp, np.zeros(7))
        if after_ms % 30 == 0:
            sync.add_sample("world", stamp, stamp, np.zeros(3))
            assert sync.newest_complete_instant() == stamp
    assert sync.newest_complete_instant() == START_NS + 90 * MS


# --- windows


def filled(seconds: float = 1.9) -> tuple[Aligner, int]:
    sync = aligner({"front": CameraTiming(rate_hz=50.0)}, {"joints": StreamTiming()})
    last = 0
    for tick in range(round(seconds * 50) + 1):
        last = START_NS + tick * 20 * MS
        sync.add_image("front", last, last, picture(tick))
        sync.add_sample("joints", last, last, np.array([float(tick)]))
    return sync, last


def test_a_window_is_the_samples_back_in_time_oldest_first() -> None:
    sync, last = filled()
    window = sync.window(last, 16, 100 * MS)
    assert [seen.instant_ns for seen in window] == [last - back * 100 * MS for back in range(15, -1, -1)]
    assert [float(seen.proprioception["joints"][0]) for seen in window] == [
        95.0 - 5 * back for back in range(15, -1, -1)
    ]
    assert [int(seen.images["front"][0, 0, 0]) for seen in window] == [95 - 5 * back for back in range(15, -1, -1)]
    (newest,) = sync.window(last, 1, 0)
    assert newest.instant_ns == last


def test_what_lies_before_the_episode_is_answered_by_its_first_observation() -> None:
    sync, last = filled()
    window = sync.window(last, 5, 100 * MS, earliest_ns=last - 250 * MS)
    assert [(last - seen.instant_ns) // MS for seen in window] == [240, 240, 200, 100, 0]
    assert window[0] is window[1]
    at_once = sync.window(last, 5, 100 * MS, earliest_ns=last - 5 * MS)
    assert all(seen is at_once[-1] for seen in at_once)


def test_the_first_observation_of_an_episode_is_complete() -> None:
    """Of two cameras one begins later: before that there is none, also where the window has an instant."""
    sync = aligner({"early": CameraTiming(rate_hz=50.0), "late": CameraTiming(rate_hz=50.0)})
    for tick in range(51):
        stamp = START_NS + tick * 20 * MS
        for name in ("early", "late"):
            if name == "early" or tick >= 33:
                sync.add_image(name, stamp, stamp, picture(tick))
    window = sync.window(START_NS + 1000 * MS, 6, 100 * MS, earliest_ns=START_NS + 550 * MS)
    assert [(seen.instant_ns - START_NS) // MS for seen in window] == [640, 640, 700, 800, 900, 1000]
    assert window[0].skew_ns == 20 * MS  # the nearest frame, within the tolerance


def test_a_window_that_cannot_be_answered_says_why() -> None:
    sync, last = filled()
    with pytest.raises(
        Misaligned, match=r"camera front: nothing within 20 ms of the instant; the nearest is 1100\.0 ms later"
    ):
        sync.window(last, 31, 100 * MS)
    with pytest.raises(ValueError, match="length >= 1 and a positive step, got length 0, step_ns 1"):
        sync.window(last, 0, 1)
    with pytest.raises(ValueError, match="length >= 1 and a positive step, got length 2, step_ns 0"):
        sync.window(last, 2, 0)
    with pytest.raises(ValueError, match=f"a window at {last} cannot start at {last + 1}, which is later"):
        sync.window(last, 1, 1, earliest_ns=last + 1)
