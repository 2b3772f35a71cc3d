"""DelayTracker against numpy: the exact quantile of the newest delays, and nothing of what was before."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.timing.delay import DelayConfig, DelayTracker

MS = 1_000_000


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(-5 * MS, 10**12), max_size=60),
    st.integers(1, 20),
    st.sampled_from([0.0, 0.5, 0.9, 0.95, 1.0]),
    st.integers(1, 10**11),
)
def test_it_is_the_higher_quantile_of_the_newest(
    delays_ns: list[int], window: int, quantile: float, step_ns: int
) -> None:
    tracker = DelayTracker(DelayConfig(window=window, quantile=quantile))
    assert tracker.quantile_ns is None
    assert tracker.steps(step_ns) == 0
    for count, delay_ns in enumerate(delays_ns, start=1):
        tracker.add(delay_ns)
        newest = np.maximum(delays_ns[max(0, count - window) : count], 0)
        expected_ns = int(np.quantile(newest, quantile, method="higher"))
        assert tracker.quantile_ns == expected_ns
        assert tracker.steps(step_ns) == len(range(0, expected_ns, step_ns))


def test_one_slow_inference_is_planned_with_no_longer_than_it_is_among_the_slowest_few() -> None:
    tracker = DelayTracker(DelayConfig())
    tracker.add(2000 * MS)  # the model is compiled
    planned_ms = []
    for _ in range(60):
        tracker.add(80 * MS)
        assert tracker.quantile_ns is not None
        planned_ms.append(tracker.quantile_ns // MS)
    assert planned_ms == [2000] * 19 + [80] * 41
    tracker.add(2000 * MS)  # once in a window of fifty it is an exception
    assert tracker.quantile_ns == 80 * MS


@pytest.mark.parametrize(("delay_ms", "rows"), [(0, 0), (1, 1), (100, 1), (101, 2), (820, 9)])
def test_rows_that_are_past_when_the_chunk_comes(delay_ms: int, rows: int) -> None:
    tracker = DelayTracker(DelayConfig())
    tracker.add(delay_ms * MS)
    assert tracker.steps(100 * MS) == rows == math.ceil(delay_ms / 100)


def test_what_is_out_of_range_is_refused() -> None:
    for wrong in ({"window": 0}, {"quantile": 1.1}, {"quantile": -0.1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            DelayConfig.model_validate(wrong)
    with pytest.raises(ValueError, match="step_ns must be positive, got 0"):
        DelayTracker(DelayConfig()).steps(0)
