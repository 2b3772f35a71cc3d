"""Which rows are kept, on motions drawn by hand, and by rules on motions drawn at random."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nst

from vla_ros.recording import selection
from vla_ros.recording.selection import Motion

LIMIT = np.array([0.1])
walks = nst.arrays(
    np.float64, st.tuples(st.integers(1, 40), st.just(2)), elements=st.floats(-1, 1).map(lambda x: round(x, 2))
)


def column(*values: float) -> tuple[np.ndarray, np.ndarray]:
    return np.array(values)[:, None], LIMIT


def test_standing_still_at_both_ends_is_trimmed() -> None:
    action = column(0, 0.05, 0, 0, 0.2, 0.5, 0.5, 0.8, 1, 1.05, 1, 1)
    assert selection.trim({"action": action}, 0) == slice(3, 9)  # from the last row before, to the first row after
    assert selection.trim({"action": action}, 2) == slice(1, 11)
    assert selection.trim({"action": action}, 99) == slice(0, 12)


def test_a_state_that_lags_behind_its_action_is_not_cut_off() -> None:
    action, state = column(0, 0, 1, 1, 1, 1, 1, 1), column(0, 0, 0, 0, 0, 0.5, 1, 1)
    assert selection.trim({"action": action}, 0) == slice(1, 3)
    assert selection.trim({"action": action, "state": state}, 0) == slice(1, 7)


def test_drift_counts_once_it_is_far_enough() -> None:
    slow = column(*np.linspace(0, 0.3, 31))  # never more than 0.01 from row to row
    assert selection.trim({"action": slow}, 0) == slice(10, 21)


@pytest.mark.parametrize("values", [(0.0,), (0, 0.05, -0.05, 0), (0, 0, 0, 0, 0)])
def test_where_nothing_moves_nothing_is_left(values: tuple[float, ...]) -> None:
    assert selection.trim({"action": column(*values)}, 5) == slice(0, 0)


@given(walks, st.integers(0, 3))
def test_what_is_trimmed_is_still(values: np.ndarray, margin: int) -> None:
    kept = selection.trim({"action": (values, np.array([0.1, 0.5]))}, margin)
    limits = np.array([0.1, 0.5])
    if kept.stop:
        assert np.all(np.abs(values[: kept.start + 1] - values[0]) <= limits)
        assert np.all(np.abs(values[kept.stop - 1 :] - values[-1]) <= limits)
    else:
        assert np.all(np.abs(values - values[0]) <= 2 * limits)


def test_key_frames_are_where_the_action_has_changed() -> None:
    actions = np.array([0, 0.05, 0.11, 0.15, 0.2, 0.22, 0.22, 0.22, -1, -1])[:, None]
    assert selection.keyframes(actions, LIMIT).tolist() == [0, 2, 5, 8, 9]
    assert selection.keyframes(actions[:1], LIMIT).tolist() == [0]
    assert selection.keyframes(actions[5:8], LIMIT).tolist() == [0, 2]


@given(walks)
def test_no_row_is_far_from_the_key_frame_before_it(values: np.ndarray) -> None:
    limits = np.array([0.1, 0.5])
    kept = selection.keyframes(values, limits)
    assert (kept[0], kept[-1]) == (0, len(values) - 1) and np.all(np.diff(kept) > 0)
    before = kept[np.searchsorted(kept, np.arange(len(values)), side="right") - 1]
    assert np.all(np.abs(values - values[before]) <= limits)
    moved = np.abs(values[kept[1:-1]] - values[kept[:-2]]) > limits
    assert np.all(moved.any(1))  # none is kept for nothing


def test_units_are_in_the_names() -> None:
    motion = Motion(rad=0.1, m=0.002)
    assert motion.limits("action", ["panda_joint1_rad", "gripper_m"]).tolist() == [0.1, 0.002]
    with pytest.raises(ValueError, match="action: j0, deg have no unit in their names"):
        motion.limits("action", ["j0", "x_rad", "deg"])
    assert Motion(rad=1, m=2, other=3).limits("a", ["j0", "gripper_m"]).tolist() == [3, 2]


@pytest.mark.parametrize(
    ("fps", "every_s", "rows"), [(30, 1.0, 30), (30, 0.1, 3), (30, 1 / 30, 1), (25, 0.2, 5), (50, 0.5, 25)]
)
def test_every_so_often_is_a_whole_number_of_rows(fps: int, every_s: float, rows: int) -> None:
    assert selection.stride(fps, every_s) == rows


@pytest.mark.parametrize(("fps", "every_s"), [(30, 2.0), (30, 0.04), (30, 0.4), (30, 0.01), (25, 0.1)])
def test_a_rate_that_is_no_whole_number_is_refused_with_those_that_are(fps: int, every_s: float) -> None:
    with pytest.raises(ValueError, match=r"possible: 0\.0\d+, .*, 1 s"):
        selection.stride(fps, every_s)
