"""Pictures of a policy against a dataset: panels for what there is, examples that can be told apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib import image

from vla_ros.viewing.open_loop import Errors, Example, mean_of, render_errors, render_frames


def errors(count: int, still: bool = True) -> Errors:
    values = np.linspace(0.0, 1.0, 10 * count).reshape(10, count)
    values[-1] = np.nan
    names, units = tuple(f"d{k}" for k in range(count)), ("mm", "") * (count // 2) + ("deg",) * (count % 2)
    return Errors(names, units, values, 2.0 * values if still else None)


def test_errors_are_summed_without_what_was_not_compared() -> None:
    one = errors(2)
    assert mean_of(one.policy[:, 1]) == pytest.approx(np.mean(one.policy[:-1, 1]))
    assert mean_of(one.policy[-1:, 1]) is None
    said = one.as_dict()["d1"]
    assert (said["by_row"][-1], len(said["by_row"])) == (None, 10)
    assert said["still_mean"] == pytest.approx(2.0 * said["mean"], abs=3e-5)
    assert "still_mean" not in errors(1, still=False).as_dict()["d0"]


def test_a_group_more_makes_a_taller_picture(tmp_path: Path) -> None:
    one = image.imread(render_errors("tried", 0.1, [("values", errors(7))], tmp_path / "new" / "one.png"))
    groups = [("values", errors(7)), ("path", errors(3, still=False))]
    two = image.imread(render_errors("tried", 0.1, groups, tmp_path / "two.png"))
    assert two.shape[1] == one.shape[1]
    assert two.shape[0] > one.shape[0] + 150
    blue = (np.abs(two[..., :3] - np.array([0x1F, 0x5F, 0xBF]) / 255) < 0.02).all(axis=2)
    columns = np.flatnonzero(blue[one.shape[0] :].any(axis=0))
    assert columns.max() < 0.76 * two.shape[1], "three panels of four"


def example(color: int) -> Example:
    current, predicted, seen = (np.full((16, 16, 3), (value, color, 0), np.uint8) for value in (60, 120, 180))
    return Example("front", 3, 14, 1.0, current, predicted, seen, 0.5, 0.25)


def test_current_predicted_and_seen_stand_below_each_other(tmp_path: Path) -> None:
    file = render_frames("tried", ["front: 20 dB"], [example(40 * k) for k in range(5)], tmp_path / "frames.png")
    shown = (image.imread(file)[..., :3] * 255).round().astype(int)
    tops = [np.argwhere((shown == (value, 80, 0)).all(axis=2)).min(axis=0) for value in (60, 120, 180)]
    assert tops[0][0] < tops[1][0] < tops[2][0]
    assert np.ptp([top[1] for top in tops]) < 30, "in one column"
    with pytest.raises(ValueError, match="no future frame was compared"):
        render_frames("tried", [], [], tmp_path / "none.png")
