"""Stamps: exact conversions, and a clock watch that tells a jump back from callbacks overtaking each other."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.timing.stamps import ClockWatch, ms_to_ns, ns_to_ms, ns_to_s, period_ns, s_to_ns


def test_conversions_are_exact_where_floats_would_not_be() -> None:
    assert ms_to_ns(0.1) == 100_000
    assert ms_to_ns(16.7) == 16_700_000
    assert s_to_ns(2.0) == 2_000_000_000
    assert ns_to_ms(1_500_000) == 1.5
    assert ns_to_s(1_500_000_000) == 1.5
    assert period_ns(30.0) == 33_333_333


@pytest.mark.parametrize("rate_hz", [0.0, -1.0, float("nan")])
def test_a_rate_is_positive(rate_hz: float) -> None:
    with pytest.raises(ValueError, match=r"a rate is positive, got (0\.0|-1\.0|nan) Hz"):
        period_ns(rate_hz)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=30), st.integers(0, 100))
def test_clock_watch_against_its_definition(readings: list[int], tolerance_ns: int) -> None:
    watch = ClockWatch(tolerance_ns)
    newest = readings[0]
    for reading in readings:
        expected = reading < newest - tolerance_ns
        assert watch.observe(reading) is expected
        newest = reading if expected else max(newest, reading)


def test_clock_watch_starts_again_after_a_jump() -> None:
    watch = ClockWatch(0)
    assert [watch.observe(now) for now in (100, 200, 50, 60, 55)] == [False, False, True, False, True]


def test_a_clock_that_is_corrected_by_a_little_has_not_jumped() -> None:
    watch = ClockWatch()
    readings_ms = (1000, 1100, 1099.999999, 1090, 1200, 1100, 1099)
    assert [watch.observe(ms_to_ns(now)) for now in readings_ms] == [False] * 6 + [True]


def test_clock_watch_refuses_a_negative_tolerance() -> None:
    with pytest.raises(ValueError, match="tolerance_ns is not negative, got -1"):
        ClockWatch(-1)
