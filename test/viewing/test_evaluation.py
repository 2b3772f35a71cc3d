"""Films of episodes: what was expected stands beside what was seen at that instant; and pictures that show it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib import image

from vla_ros.values import NANOSECONDS_PER_SECOND, Image, Prediction
from vla_ros.viewing.evaluation import Expected, Film, picture, pictures, render

START_NS = 5 * NANOSECONDS_PER_SECOND
SEEN = [(200, 20 * second, 0) for second in range(6)]
EXPECTED = [(0, 20 * second, 200) for second in range(6)]


def flat(color: tuple[int, int, int], height: int = 40, width: int = 60) -> Image:
    return np.full((height, width, 3), color, np.uint8)


def at(second: float) -> int:
    return START_NS + round(second * NANOSECONDS_PER_SECOND)


def film(success: bool = True, asked: str = "") -> Film:
    """Six seconds; from the second second on each was predicted the second before, as a square half as high."""
    seen = {
        "front": [(at(second), flat(color)) for second, color in enumerate(SEEN)],
        "wrist": [(at(second), flat((9, 9, 9))) for second in range(6)],
    }
    expected = [
        Expected(at(second), Prediction("front", at(second + 1), flat(EXPECTED[second + 1], 20, 20)))
        for second in range(1, 5)
    ]
    ended = "success" if success else "time limit"
    return Film(1003, "lift the red cube", success, ended, START_NS, seen, expected[::-1], asked)


def test_what_was_expected_for_an_instant_stands_right_of_what_was_seen_then() -> None:
    for second, shown in enumerate(pictures(film())):
        height, width, _ = shown.shape
        assert (height % 2, width % 2) == (0, 0), "videos need even sizes"
        assert width == 60 + 40 + 60, "the predicted square as high as the frames"
        tiles = shown[-40:]
        assert (tiles[:, :60] == SEEN[second]).all()
        assert (tiles[:, 60:100] == (EXPECTED[second] if second > 1 else (235, 235, 235))).all()
        assert (tiles[:, 100:] == 9).all()


def test_the_prediction_nearest_an_instant_stands_for_it_if_it_is_near() -> None:
    one = film()
    found = one.expected_at("front", at(3.1))
    assert found is not None
    assert (found.observed_ns, found.prediction.time_ns, found.ahead_s) == (at(2), at(3), 1.0)
    assert one.expected_at("front", at(3.4)) is None
    assert one.expected_at("wrist", at(3)) is None
    assert one.predicted_cameras == ("front",)


def test_a_film_thinned_shows_the_same_at_some_moments() -> None:
    thinned = film().thinned(3)
    assert thinned.times_ns == [at(0), at(2), at(5)]
    assert [one.prediction.time_ns for one in thinned.expected] == [at(2), at(5)]
    np.testing.assert_array_equal(picture(thinned, at(5)), picture(film(), at(5)))


def test_moments_step_aside_to_where_something_was_predicted() -> None:
    (once,) = [one for one in film().expected if one.prediction.time_ns == at(4)]
    thinned = replace(film(), expected=(once,)).thinned(3)
    assert thinned.times_ns == [at(0), at(2), at(4)], "instead of 0, 2 or 3, and 5"
    assert thinned.expected == (once,)
    assert replace(film(), expected=()).thinned(3).times_ns[-1] == at(5)


def test_what_is_thinned_stays_so() -> None:
    """A film is thinned when it is kept, and again when it is drawn among others."""
    frames = [(at(0.1 * k), flat((k, 0, 0))) for k in range(101)]
    foreseen = (Expected(at(0), Prediction("front", at(second), flat((0, 0, 9)))) for second in (0.8, 1.0, 3.2))
    once = replace(film(), seen={"front": frames}, expected=tuple(foreseen)).thinned(6)
    assert len(set(once.times_ns)) == 6
    assert once.thinned(6).times_ns == once.times_ns
    assert film().thinned(9).times_ns == film().times_ns, "and there are no more moments than frames"


def test_a_montage_has_a_line_for_each_camera_and_one_for_what_was_expected(tmp_path: Path) -> None:
    file = render("tried: 1 of 2", [film(), film(False, "lift the blue cube")], tmp_path / "new" / "all.png")
    shown = (image.imread(file)[..., :3] * 255).round().astype(int)
    lines = []
    for color in (SEEN[3], EXPECTED[3], (9, 9, 9)):
        places = np.argwhere((shown == color).all(axis=2))
        assert len(places) > 1000
        lines.append(np.unique(places[:, 0]))
    assert lines[0].min() < lines[1].min() < lines[2].min() < lines[0].max(), "below one another, film by film"
    middle = shown[int(np.median(lines[0][: len(lines[0]) // 2]))]
    columns = [np.flatnonzero((middle == color).all(axis=1)).mean() for color in SEEN]
    assert columns == sorted(columns), "from left to right in the order of time"


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match=r"a film needs a frame of every camera, got \['front'\] with \[0\]"):
        Film(1, "", True, "", 0, {"front": []})
    with pytest.raises(ValueError, match="a montage of episodes needs at least one"):
        render("", [], Path("never.png"))


def test_without_matplotlib_it_says_what_to_install() -> None:
    code = """
import sys
sys.modules["matplotlib"] = sys.modules["matplotlib.figure"] = None
from pathlib import Path
from vla_ros.viewing import evaluation, open_loop
for draw in (lambda: evaluation.render("", [], Path("never.png")),
             lambda: open_loop.render_errors("", 0.1, [], Path("never.png"))):
    try:
        draw()
    except ModuleNotFoundError as error:
        print(error)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told == (
        "the montage needs matplotlib: pip install 'vla_ros[sim]'\n"
        "the pictures need matplotlib: pip install 'vla_ros[record]'\n"
    )
