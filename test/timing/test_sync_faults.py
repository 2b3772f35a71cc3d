"""Aligner where streams misbehave: bad stamps, stalls, clocks that jump back, undecodable frames; what it reports."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from vla_ros.timing.sync import Aligner, AlignerConfig, CameraTiming, Interpolation, StreamTiming
from vla_ros.timing.track import Misaligned, Track
from vla_ros.values import Image

MS = 1_000_000
START_NS = 1_000_000_000_000
PERIOD_NS = 33 * MS


def system() -> Aligner:
    return Aligner(
        AlignerConfig(
            cameras={"front": CameraTiming(), "wrist": CameraTiming()}, proprioception={"joints": StreamTiming()}
        )
    )


def feed(sync: Aligner, first: int, count: int, *, without: str = "", shift_ns: int = 0, clock_ns: int = 0) -> int:
    """Ticks `first` to `first + count` of every stream; the last instant. Stamps are shifted, receipt by clock_ns."""
    stamp = 0
    for tick in range(first, first + count):
        stamp = START_NS + tick * PERIOD_NS + shift_ns
        received = START_NS + tick * PERIOD_NS + clock_ns
        if without != "joints":
            sync.add_sample("joints", stamp, received, np.array([float(tick)]))
        for camera in ("front", "wrist"):
            if without != camera:
                sync.add_image(camera, stamp, received, np.full((1, 1, 3), tick % 251, dtype=np.uint8))
    return stamp


def test_before_the_first_frame_the_reason_names_the_stream() -> None:
    sync = system()
    assert sync.newest_complete_instant() is None
    assert sync.reason() == "camera front: nothing usable yet"
    feed(sync, 0, 3, without="wrist")
    assert sync.newest_complete_instant() is None
    assert sync.reason() == "camera wrist: nothing usable yet"
    with pytest.raises(Misaligned, match="camera wrist: nothing usable yet"):
        sync.sample(START_NS)


@pytest.mark.parametrize("without", ["front", "wrist"])
def test_a_stalled_camera_holds_the_instant_and_is_named(without: str) -> None:
    sync = system()
    last = feed(sync, 0, 10)
    assert sync.newest_complete_instant() == last
    assert sync.reason(last) == ""
    now = feed(sync, 10, 100, without=without)
    assert sync.newest_complete_instant() == last
    assert sync.reason() == ""  # there is an instant, an old one
    assert sync.reason(now) == f"camera {without}: stalled, nothing usable for 3300 ms"
    with pytest.raises(
        Misaligned, match=f"camera {without}: nothing within 20 ms of the instant; the nearest is 3300.0 ms earlier"
    ):
        sync.sample(now)
    health = sync.health(now)
    assert health[without].rate_hz == 0.0
    assert health[without].age_ms == pytest.approx(3300.0)
    assert "stalled" in health[without].problem
    again = feed(sync, 110, 2)
    assert sync.newest_complete_instant() == again
    assert sync.reason(again) == ""


def test_a_stalled_stream_holds_the_instant_and_is_named() -> None:
    sync = system()
    feed(sync, 0, 10)
    now = feed(sync, 10, 30, without="joints")
    instant = sync.newest_complete_instant()
    assert instant is not None
    assert instant - (START_NS + 9 * PERIOD_NS) <= 100 * MS  # no farther than max_gap_ms from the last sample
    assert now - instant > 500 * MS
    assert sync.reason(now).startswith("stream joints: stalled, nothing usable for 990 ms")


def test_a_camera_out_of_tolerance_is_named() -> None:
    sync = Aligner(
        AlignerConfig(
            cameras={"a": CameraTiming(tolerance_ms=5.0), "b": CameraTiming(tolerance_ms=5.0)}, proprioception={}
        )
    )
    for tick in range(10):
        stamp = START_NS + tick * PERIOD_NS
        sync.add_image("a", stamp, stamp, None)
        sync.add_image("b", stamp + 12 * MS, stamp + 12 * MS, None)
    assert sync.newest_complete_instant() is None
    assert sync.reason() == "camera b: nothing within 5 ms of the instant; the nearest is 12.0 ms later"


@pytest.mark.parametrize(
    ("stamp_ns", "received_ns", "why"),
    [
        (0, START_NS, "zero"),
        (-5, START_NS, "zero"),
        (START_NS + 101 * MS, START_NS, "future"),
        (START_NS, START_NS, "duplicate"),
        (START_NS - 2001 * MS, START_NS, "late"),
    ],
)
def test_a_bad_stamp_is_counted_and_leaves_no_trace(stamp_ns: int, received_ns: int, why: str) -> None:
    sync = system()
    feed(sync, 0, 1)
    sync.add_image("front", stamp_ns, received_ns, np.full((1, 1, 3), 99, dtype=np.uint8))
    sync.add_sample("joints", stamp_ns, received_ns, np.array([99.0]))
    assert sync.newest_complete_instant() == START_NS
    seen = sync.sample(START_NS)
    assert seen.images["front"][0, 0, 0] == 0
    assert seen.proprioception["joints"][0] == 0.0
    health = sync.health(START_NS)
    for name in ("front", "joints"):
        assert health[name].dropped == {why: 1}
        assert health[name].received == 2
    assert health["wrist"].dropped == {}


def test_a_stream_of_only_bad_stamps_says_so() -> None:
    sync = system()
    for tick in range(4):
        sync.add_image("front", 0, START_NS + tick, None)
    sync.add_image("front", 2 * START_NS, START_NS, None)
    assert sync.reason() == "camera front: nothing usable yet (1 dropped as future, 4 dropped as zero)"


def test_one_late_message_finds_its_place_and_clears_nothing() -> None:
    sync = system()
    last = feed(sync, 0, 10, without="front")
    for tick in (0, 1, 2, 4, 5, 6, 7, 8, 9, 3):
        sync.add_image("front", START_NS + tick * PERIOD_NS, last, np.full((1, 1, 3), tick, dtype=np.uint8))
    assert sync.newest_complete_instant() == last
    assert sync.sample(START_NS + 3 * PERIOD_NS).images["front"][0, 0, 0] == 3
    assert sync.health(last)["front"].clock_jumps == 0


def test_a_burst_of_held_up_messages_is_no_jump_of_the_clock() -> None:
    """The network held five frames back and delivers them, in order, after the newer one."""
    sync = system()
    last = feed(sync, 0, 10, without="front")
    for tick in (0, 1, 2, 3, 9, 4, 5, 6, 7, 8):
        sync.add_image("front", START_NS + tick * PERIOD_NS, last + tick * MS, np.full((1, 1, 3), tick, dtype=np.uint8))
    assert sync.health(last)["front"].clock_jumps == 0
    assert [seen.images["front"][0, 0, 0] for seen in sync.window(last, 10, PERIOD_NS)] == list(range(10))


@pytest.mark.parametrize("jump_ms", [500, 1500, 60_000])
def test_a_camera_whose_clock_jumps_back_starts_again_and_never_shows_the_past(jump_ms: int) -> None:
    """The camera's host is set back; receipt and the other streams go on."""
    sync = system()
    feed(sync, 0, 60)
    for tick in range(60, 75):
        feed(sync, tick, 1, without="wrist")
        received = START_NS + tick * PERIOD_NS
        sync.add_image("wrist", received - jump_ms * MS, received, np.full((1, 1, 3), tick, dtype=np.uint8))
    now = START_NS + 74 * PERIOD_NS
    health = sync.health(now)
    assert health["wrist"].clock_jumps == 1
    assert health["front"].clock_jumps == 0
    with pytest.raises(Misaligned, match="camera wrist"):
        sync.sample(now)
    if jump_ms > 2000:
        assert sync.newest_complete_instant() is None
        assert sync.reason().startswith("camera front: nothing within 20 ms of the instant")


def test_when_time_itself_starts_again_every_stream_does() -> None:
    """A simulation is reset, or a recording loops: receipt and stamps jump back together."""
    sync = system()
    feed(sync, 0, 60)
    back_ns = -500 * MS
    again = feed(sync, 60, 2, shift_ns=back_ns, clock_ns=back_ns)
    assert sync.newest_complete_instant() == again
    assert {health.clock_jumps for health in sync.health(again).values()} == {1}
    with pytest.raises(Misaligned):
        sync.sample(START_NS + 30 * PERIOD_NS)  # known before the jump


def test_clear_forgets_but_counts_on() -> None:
    sync = system()
    last = feed(sync, 0, 5)
    sync.clear()
    assert sync.newest_complete_instant() is None
    assert sync.reason() == "camera front: nothing usable yet"
    assert sync.health(last)["front"].received == 5
    assert sync.health(last)["front"].age_ms is None


@pytest.mark.parametrize("bad", [[np.nan] * 7, [0, 0, np.inf, 0, 0, 0, 1], [1, 2, 3, 0, 0, 0, 0]])
def test_a_sample_that_is_no_pose_is_counted_as_invalid(bad: list[float]) -> None:
    sync = Aligner(AlignerConfig(cameras={}, proprioception={"tcp": StreamTiming(interpolation=Interpolation.POSE)}))
    sync.add_sample("tcp", START_NS, START_NS, np.array(bad, dtype=np.float64))
    assert sync.reason() == "stream tcp: nothing usable yet (1 dropped as invalid)"


def test_frames_are_decoded_once_and_only_when_looked_at() -> None:
    decoded: list[int] = []

    def decode(number: int) -> Image:
        decoded.append(number)
        return np.full((1, 1, 3), number, dtype=np.uint8)

    sync = Aligner(AlignerConfig(cameras={"front": CameraTiming()}, proprioception={}), decode)
    for tick in range(30):
        sync.add_image("front", START_NS + tick * PERIOD_NS, START_NS + tick * PERIOD_NS, tick)
        sync.newest_complete_instant()
    assert decoded == []
    last = START_NS + 29 * PERIOD_NS
    assert sync.sample(last).images["front"] is not None
    sync.window(last, 2, PERIOD_NS)
    assert decoded == [29, 28]


def test_a_frame_that_cannot_be_decoded_is_dropped_and_the_next_one_serves() -> None:
    def decode(number: int) -> Image:
        if number == 1:
            raise ValueError("not a JPEG")
        return np.full((1, 1, 3), number, dtype=np.uint8)

    sync = Aligner(AlignerConfig(cameras={"front": CameraTiming()}, proprioception={}), decode)
    for tick in range(3):
        stamp = START_NS + tick * PERIOD_NS
        sync.add_image("front", stamp, stamp, tick)
        instant = sync.newest_complete_instant()
        assert instant == stamp
        if tick == 1:
            for text in (
                "camera front: the frame of the instant cannot be decoded: not a JPEG",
                "camera front: nothing within",
            ):
                with pytest.raises(Misaligned, match=text):
                    sync.sample(stamp)
            assert sync.newest_complete_instant() == stamp  # never back to the one before
        else:
            assert sync.sample(stamp).images["front"][0, 0, 0] == tick
    assert sync.health(stamp)["front"].dropped == {"invalid": 1}


def test_health_tells_rate_age_and_skew() -> None:
    sync = system()
    for tick in range(30):
        stamp = START_NS + tick * PERIOD_NS
        sync.add_image("front", stamp, stamp, None)
        sync.add_image("wrist", stamp + 8 * MS, stamp + 8 * MS, None)
        sync.add_sample("joints", stamp, stamp, np.zeros(7))
    now = stamp + 20 * MS
    health = sync.health(now)
    assert health["front"].rate_hz == pytest.approx(1000 / 33)
    assert (health["front"].age_ms, health["wrist"].age_ms) == (20.0, 12.0)
    assert (health["front"].skew_ms, health["wrist"].skew_ms, health["joints"].skew_ms) == (0.0, 8.0, 0.0)
    assert all(stream.problem == "" for stream in health.values())


def test_what_is_kept_is_bounded_in_time() -> None:
    track: Track[int] = Track("t", latency_ns=0, reach_ns=1, silence_ns=1, history_ns=1000, capacity=50)
    for stamp in range(1, 5000, 100):
        track.add(stamp, stamp, stamp)
    assert track.stamps_ns == track.items == list(range(3901, 4902, 100))
    assert not track.dropped


def test_what_is_kept_is_bounded_in_number() -> None:
    track: Track[int] = Track("t", latency_ns=0, reach_ns=1, silence_ns=1, history_ns=1_000_000, capacity=50)
    for stamp in range(1000):
        track.add(stamp, stamp, stamp)
    assert track.stamps_ns == track.items == list(range(950, 1000))
    assert track.dropped == {"overflow": 950}


def test_names_are_checked() -> None:
    sync = system()
    with pytest.raises(ValueError, match="unknown camera 'font'; known: front, wrist"):
        sync.add_image("font", START_NS, START_NS, None)
    with pytest.raises(ValueError, match="unknown proprioceptive stream 'front'; known: joints"):
        sync.add_sample("front", START_NS, START_NS, np.zeros(1))
    sync.add_sample("joints", START_NS, START_NS, np.zeros(7))
    with pytest.raises(ValueError, match=r"a sample of stream joints has shape \(7,\), got \(6,\)"):
        sync.add_sample("joints", START_NS + 1, START_NS, np.zeros(6))
    with pytest.raises(ValidationError, match="nothing to align"):
        AlignerConfig(cameras={}, proprioception={})
    with pytest.raises(ValidationError, match=r"these are both: \['tcp'\]"):
        AlignerConfig(cameras={"tcp": CameraTiming()}, proprioception={"tcp": StreamTiming()})
