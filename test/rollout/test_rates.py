"""Success rates: Wilson's interval against its definition and published values."""

from __future__ import annotations

from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.rollout.rates import Rate


@pytest.mark.parametrize(
    ("successes", "of", "low", "high"),
    [  # Newcombe 1998, Statistics in Medicine 17: table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_interval_is_the_published_one(successes: int, of: int, low: float, high: float) -> None:
    assert Rate(successes, of).interval == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda of: st.tuples(st.integers(0, of), st.just(of))))
def test_the_ends_are_so_many_of_their_own_deviations_away(counts: tuple[int, int]) -> None:
    rate = Rate(*counts)
    for end in rate.interval:
        if 1e-9 < end < 1.0 - 1e-9:
            assert abs(rate.share - end) == pytest.approx(1.959964 * sqrt(end * (1.0 - end) / rate.of), rel=1e-5)
    low, high = rate.interval
    assert low <= rate.share <= high
    assert Rate(rate.of - rate.successes, rate.of).interval == pytest.approx((1.0 - high, 1.0 - low))


def test_a_rate_is_said_with_its_interval() -> None:
    assert str(Rate(40, 50)) == "40 of 50, 80% (95% in 67 to 89%)"
    assert Rate(40, 50).as_dict() == {"successes": 40, "of": 50, "rate": 0.8, "interval_95": [0.6696, 0.8876]}


@pytest.mark.parametrize("counts", [(0, 0), (3, 2), (-1, 5)])
def test_what_is_no_rate_is_refused(counts: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="a rate is of one or more tries"):
        Rate(*counts)
