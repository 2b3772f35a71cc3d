"""Segments of episodes: where time has a gap, and where capture times only jitter."""

from __future__ import annotations

import numpy as np
import pytest

from vla_ros.recording.segments import first_rows

FPS = 10
ROWS = np.arange(40)


def times(gap_after: int = 20, gap_s: float = 0.0) -> np.ndarray:
    return ROWS / FPS + gap_s * (gap_after <= ROWS)


@pytest.mark.parametrize("gap_s", [0.1, 0.2, 5.0, 1000.0])
def test_rows_that_are_missing_and_pauses_are_gaps(gap_s: float) -> None:
    assert first_rows(times(gap_s=gap_s), ROWS, FPS).tolist() == [0, 20]
    both = np.where(ROWS >= 30, gap_s, 0.0) + times(gap_s=gap_s)
    assert first_rows(both, ROWS, FPS).tolist() == [0, 20, 30]


def test_regular_rows_are_one_segment() -> None:
    assert first_rows(times(), ROWS, FPS).tolist() == [0]
    assert first_rows(times()[:1], ROWS[:1], FPS).tolist() == [0]
    assert first_rows(np.zeros(40), ROWS, FPS).tolist() == [0], "nobody has written times"


def test_frames_of_a_camera_of_another_rate_and_phase_have_no_gap() -> None:
    """A row shows the frame nearest its instant, of cameras slower and faster than the rows."""
    rng = np.random.default_rng(3)
    for camera_hz in (3.1, 7.0, 9.97, 10.0, 10.03, 15.0, 30.0, 59.94):
        frames = np.arange(500) / camera_hz + rng.uniform(-0.002, 0.002, 500)
        instants = frames[5] + ROWS / FPS  # the grid begins at a frame
        nearest = frames[np.abs(instants[:, None] - frames).argmin(axis=1)]
        assert first_rows(nearest, ROWS, FPS).tolist() == [0], camera_hz
        paused = nearest + np.where(ROWS >= 17, 2.0, 0.0)
        assert first_rows(paused, ROWS, FPS).tolist() == [0, 17], camera_hz


def test_a_camera_that_stalls_opens_no_gap() -> None:
    """Its last frame is repeated; the rows in between are where they should be, and joints are of their instants."""
    stalled = times()
    stalled[12:17] = stalled[11]
    assert first_rows(stalled, ROWS, FPS).tolist() == [0]
    other = np.stack([stalled, times() - 0.01], axis=1)
    assert first_rows(other, ROWS, FPS).tolist() == [0]


def test_rows_that_come_slower_than_promised_are_no_gaps() -> None:
    assert first_rows(ROWS / 7.0, ROWS, FPS).tolist() == [0]
    assert first_rows(ROWS / 4.0 + 3.0 * (ROWS >= 9), ROWS, FPS).tolist() == [0, 9]


def test_key_frames_are_as_far_apart_as_their_rows_were() -> None:
    kept = np.array([0, 3, 4, 11, 19, 20, 31])
    assert first_rows(times()[kept], kept, FPS).tolist() == [0]
    assert first_rows(times(gap_after=15, gap_s=2.0)[kept], kept, FPS).tolist() == [0, 4]
