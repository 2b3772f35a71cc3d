"""Every picture with axes names what is on them, with its unit; nothing is printed over something else."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from vla_ros.calibration.latency import ACTUATION_KEY, Delay, Recording, Series, Unmeasurable, camera_key
from vla_ros.viewing import curves, delays, montage, replay

TIMES_NS = (np.arange(400) * 20_000_000).astype(np.int64)


def sway(late_s: float, count: int = 7) -> np.ndarray[Any, Any]:
    values = np.zeros((len(TIMES_NS), count))
    values[:, 0] = 0.08 * np.sin(3.0 * (TIMES_NS * 1e-9 - late_s))
    return values


def draw_curves(path: Path) -> None:
    lines = [
        {"step": step, "measure": 1.0 / step, "held_out_measure": 1.1 / step, "learning_rate": 1e-3, "frames_per_s": 9}
        for step in range(1, 50)
    ]  # fmt: skip
    curves.render_curves({"see": lines}, path, "up-vla-demo")


def draw_replay(path: Path) -> None:
    rows = np.cumsum(np.ones((60, 8)), axis=0)
    replay.render("episode 0", [f"joint{n}" for n in range(1, 8)], 10, rows, rows + 0.1, path)


def draw_delays(path: Path) -> None:
    pictures = {name: Series(TIMES_NS, sway(late, 20)) for name, late in (("front", 0.08), ("wrist", 0.1))}
    still = Series(TIMES_NS, np.full((len(TIMES_NS), 1), 0.08))
    recording = Recording(0, np.eye(7)[0], Series(TIMES_NS, sway(0.0)), Series(TIMES_NS, sway(0.05)), pictures, still)
    found: dict[str, Delay | Unmeasurable] = {
        camera_key("front"): Delay(30.0, 1.0, 0.9), camera_key("wrist"): Unmeasurable("too dark"),
        ACTUATION_KEY: Delay(50.0, 1.0, 0.9),
    }  # fmt: skip
    delays.render(recording, found, path)


@pytest.mark.parametrize("draw", [draw_curves, draw_replay, draw_delays])
def test_axes_have_names_and_units(
    draw: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    save = Figure.savefig

    def kept(figure: Figure, path: Path) -> None:
        figures.append(figure)
        save(figure, path)

    monkeypatch.setattr(Figure, "savefig", kept)
    draw(tmp_path / "picture.png")
    (figure,) = figures
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert shown and figure.get_suptitle()
    for axes in shown:
        has_numbers = any(label.get_visible() and label.get_text() for label in axes.get_xticklabels())
        if has_numbers and axes.xaxis.get_tick_params().get("labelbottom", True):
            assert axes.get_xlabel(), axes.get_title(loc="left")
        assert axes.get_title(loc="left")
    if draw is not draw_curves:
        assert any("[s]" in axes.get_xlabel() for axes in shown)
    if draw is draw_replay:
        assert all(re.search(r"\[(rad|m|mrad)\]$", axes.get_title(loc="left")) for axes in shown)
    assert figure.legends or any(axes.get_legend() for axes in shown)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 30), st.floats(0, 30)), min_size=1, max_size=8))
def test_numbers_of_moments_stand_apart(dots: list[tuple[float, float]]) -> None:
    places = np.array(dots)
    numbers = places + np.array(montage._offsets(places))
    for index, number in enumerate(numbers):
        others = np.delete(numbers, index, axis=0)
        assert not len(others) or np.hypot(*(others - number).T).min() > 5.0, "narrower than a digit"


def test_a_cube_seen_from_any_side_is_outlined() -> None:
    corners = np.array([(x, y) for x in (-1.0, 1.0) for y in (-1.0, 1.0)] * 2)
    assert sorted(map(tuple, montage._hull(corners))) == [(-1.0, -1.0), (-1.0, 1.0), (1.0, -1.0), (1.0, 1.0)]
    turned = corners @ np.array([[0.8, -0.6], [0.6, 0.8]])
    assert len(montage._hull(turned)) == 4
    with_depth = np.concatenate([turned, turned + np.array([0.5, 0.0])])
    assert len(montage._hull(with_depth)) == 6
