"""A filmed time is read right or not at all, and what it says about a camera is right to a millisecond."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.calibration.filmed_stamp import decode, encode, filmed_latency
from vla_ros.calibration.latency import Unmeasurable
from vla_ros.values import NANOSECONDS_PER_MILLISECOND, Image

MILLISECOND = NANOSECONDS_PER_MILLISECOND
START_NS = 1_795_000_000_123 * MILLISECOND


def film(time_ns: int, tilt: float, blur: float, noise: float, brightness: float, seed: int) -> Image:
    """The code of a time on a dark screen before a lighter wall, seen askew, blurred and noisy; (240, 320, 3)."""
    random = np.random.default_rng(seed)
    code = cv2.resize(encode(time_ns), None, fx=8, fy=8, interpolation=cv2.INTER_NEAREST)
    side = len(code)
    corners = np.array([[85, 45], [235, 45], [235, 195], [85, 195]]) + tilt * random.uniform(-15.0, 15.0, (4, 2))
    warp = cv2.getPerspectiveTransform(
        np.array([[0, 0], [side, 0], [side, side], [0, side]], dtype=np.float32), corners.astype(np.float32)
    )
    wall = np.full((240, 320), 160.0)
    seen = cv2.warpPerspective(code.astype(np.float64), warp, (320, 240), dst=wall, borderMode=cv2.BORDER_TRANSPARENT)
    seen = brightness * cv2.GaussianBlur(seen, (0, 0), blur) + noise * random.standard_normal(seen.shape)
    return np.repeat(np.clip(seen, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


@given(
    milliseconds=st.integers(0, 10**13 - 1),
    tilt=st.floats(0.0, 2.0),
    blur=st.floats(0.3, 4.0),
    noise=st.floats(0.0, 40.0),
    brightness=st.floats(0.3, 1.3),
    seed=st.integers(0, 999),
)
def test_a_time_is_read_right_or_not_at_all(
    milliseconds: int, tilt: float, blur: float, noise: float, brightness: float, seed: int
) -> None:
    time_ns = milliseconds * MILLISECOND
    assert decode(film(time_ns, tilt, blur, noise, brightness, seed)) in (time_ns, None)


def test_in_a_fair_view_most_times_are_read() -> None:
    times_ns = [START_NS + 16_683_123 * index for index in range(60)]
    read = [decode(film(time_ns, 0.7, 0.8, 8.0, 0.8, index)) for index, time_ns in enumerate(times_ns)]
    right = [shown == time_ns // MILLISECOND * MILLISECOND for shown, time_ns in zip(read, times_ns, strict=True)]
    assert sum(right) >= 50


def test_pictures_without_a_code_or_with_another_one_say_nothing() -> None:
    assert decode(np.full((240, 320, 3), 128, dtype=np.uint8)) is None
    other = cv2.QRCodeEncoder_create().encode("https://example.org")
    assert decode(cv2.resize(other, None, fx=6, fy=6, interpolation=cv2.INTER_NEAREST)) is None


@given(st.floats(-20.0, 300.0), st.floats(8.0, 60.0), st.integers(0, 99))
def test_the_latency_is_that_between_capture_and_stamp(latency_ms: float, period_ms: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    drawn_ns = (START_NS + np.cumsum(random.uniform(0.8, 1.2, 400) * period_ms * MILLISECOND)).astype(np.int64)
    codes_ns = drawn_ns - random.integers(0, 7 * MILLISECOND, 400)  # a code takes some time to be made and drawn
    captured_ns = np.sort(random.integers(drawn_ns[0], drawn_ns[-1], 120))
    shown_ns = codes_ns[np.searchsorted(drawn_ns, captured_ns, side="right") - 1]
    read = [
        (int(captured + latency_ms * MILLISECOND), None if unread else int(shown) // MILLISECOND * MILLISECOND)
        for captured, shown, unread in zip(captured_ns, shown_ns, random.random(120) < 0.3, strict=True)
    ]
    found = filmed_latency(read, list(zip(codes_ns.tolist(), drawn_ns.tolist(), strict=True)))
    assert found.delay_ms == pytest.approx(latency_ms, abs=0.3 * period_ms)  # the median of some 80
    assert found.spread_ms < 0.5 * period_ms


def test_too_few_readable_pictures_are_refused() -> None:
    with pytest.raises(Unmeasurable, match="could be read in 1 of 3 pictures: the code should fill a good part"):
        filmed_latency([(0, None), (1, START_NS), (2, None)], [(START_NS, START_NS), (2 * START_NS, 2 * START_NS)])
