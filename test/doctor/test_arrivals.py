"""Rates, gaps, ages, losses and clocks of streams that are made by a formula."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.doctor.arrivals import Arrival, Clock, Stream, merged

MS = 10**6
WALL = Clock()


def stream(count: int, period_ns: int, *, age_ns: int = 5 * MS, clock: Clock = WALL, start_ns: int = 10**18) -> Stream:
    times = [start_ns + i * period_ns for i in range(count)]
    return Stream([Arrival(time + age_ns, time, time, "a", i) for i, time in enumerate(times)], clock)


@given(st.integers(2, 300), st.integers(1, 1000), st.integers(-500, 500))
def test_a_regular_stream(count: int, period_ms: int, age_ms: int) -> None:
    found = stream(count, period_ms * MS, age_ns=age_ms * MS)
    assert found.rate_hz == pytest.approx(1000.0 / period_ms)
    assert found.gap_ns(99.0) == period_ms * MS
    assert set(found.ages_ns.tolist()) == {age_ms * MS}
    assert found.offsets_ns == {"a": age_ms * MS}
    assert (found.zero_stamps, found.repeated_stamps, found.backward_stamps, found.lost) == (0, 0, 0, (0, count))


def test_too_few_have_no_rate() -> None:
    for count in (0, 1):
        assert stream(count, MS).rate_hz is None
        assert stream(count, MS).gap_ns(50.0) is None


@given(st.lists(st.booleans(), min_size=1, max_size=80))
def test_what_is_lost_on_the_way_is_told_from_what_was_not_sent(kept: list[bool]) -> None:
    full = [Arrival(i * 10 * MS + MS, i * 10 * MS, i * 10 * MS or 1, "a", i) for i in range(len(kept) + 2)]
    came = [arrival for arrival, keep in zip(full, [True, *kept, True], strict=True) if keep]
    found = Stream(came, WALL)
    assert found.lost == (kept.count(False), len(full))
    assert found.rate_hz == pytest.approx(100.0)


def test_losses_are_counted_for_each_publisher() -> None:
    arrivals = [
        Arrival(i * MS, sender=sender, number=i + first) for i in range(5) for sender, first in (("a", 0), ("b", 90))
    ]
    assert Stream(arrivals, WALL).lost == (0, 10)


def test_bad_stamps_are_counted_and_do_not_set_the_rate() -> None:
    stamps = [0, 0, 100, 100, 90, 110]
    found = Stream([Arrival(10**18 + i * 20 * MS, 0, stamp) for i, stamp in enumerate(stamps)], WALL)
    assert (found.zero_stamps, found.repeated_stamps, found.backward_stamps) == (2, 1, 1)
    assert found.rate_hz == pytest.approx(50.0)
    assert found.offsets_ns == {}
    assert len(found.ages_ns) == 4


def test_without_a_header_receipt_is_the_time() -> None:
    found = Stream([Arrival(i * 10 * MS) for i in range(11)], WALL)
    assert found.rate_hz == pytest.approx(100.0)
    assert len(found.ages_ns) == 0


def test_simulated_time_is_the_time_that_counts() -> None:
    # a simulation at half speed: ticks of 5 ms every 10 ms; a message at every tick
    clock = Clock([(1000 * MS + i * 10 * MS, i * 5 * MS) for i in range(100)])
    assert clock.speed == pytest.approx(0.5)
    assert clock.at(999 * MS) is None
    assert clock.at(1019 * MS) == 5 * MS
    found = Stream([Arrival(1000 * MS + i * 10 * MS + MS, 0, i * 5 * MS) for i in range(1, 90)], clock)
    assert found.rate_hz == pytest.approx(200.0)
    assert set(found.ages_ns.tolist()) == {0}
    assert WALL.speed is None


def test_a_frozen_picture() -> None:
    assert Stream([Arrival(i, digest=7) for i in range(3)], WALL).is_frozen
    assert not Stream([Arrival(i, digest=i // 2) for i in range(3)], WALL).is_frozen
    assert not Stream([Arrival(i, digest=7) for i in range(2)], WALL).is_frozen
    assert not Stream([Arrival(i) for i in range(9)], WALL).is_frozen


def test_of_several_streams_the_least_offset_of_a_sender_counts() -> None:
    assert merged([{"a": 5, "b": -2}, {"a": 3}, {}]) == {"a": 3, "b": -2}
