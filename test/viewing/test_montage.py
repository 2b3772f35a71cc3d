"""The montage: the right frames at the right times, and a picture that is one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib import image

from vla_ros.values import NANOSECONDS_PER_SECOND, Image
from vla_ros.viewing import montage
from vla_ros.viewing.montage import EpisodeTrace

START_NS = 100 * NANOSECONDS_PER_SECOND
COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255)]


def flat(color: tuple[int, int, int]) -> Image:
    return np.full((64, 64, 3), color, np.uint8)


def trace(success: bool | None = True) -> EpisodeTrace:
    """Six seconds; both cameras show a colour of its own in each of them."""
    frames = [(START_NS + second * NANOSECONDS_PER_SECOND, flat(color)) for second, color in enumerate(COLORS)]
    times = np.linspace(0.0, 5.0, 101)
    executed = np.stack([0.3 + 0.05 * times, 0.1 * np.sin(times), 0.4 - 0.05 * times], axis=1)
    planned = [(START_NS + second * NANOSECONDS_PER_SECOND, executed[20 * second :][:10]) for second in range(5)]
    executed_ns = [START_NS + round(t * NANOSECONDS_PER_SECOND) for t in times]
    return EpisodeTrace(
        "lift the red cube", {"front": frames, "wrist": frames}, planned, executed_ns, executed, success
    )


@pytest.mark.parametrize("success", [True, False, None])
def test_the_picture_shows_the_frames_in_order(tmp_path: Path, success: bool | None) -> None:
    file = montage.render(trace(success), tmp_path / "new" / "folder" / "montage.png", moments=6)
    picture = (image.imread(file)[..., :3] * 255).round().astype(int)
    width = picture.shape[1]
    for row, height in enumerate((160, 370)):  # a line of pixels through each camera's row
        line = picture[height]
        places = [np.flatnonzero((line == color).all(axis=1)) for color in COLORS]
        assert all(len(place) > 0.1 * width for place in places), row
        assert [place.mean() for place in places] == sorted(place.mean() for place in places)


def test_moments_lie_evenly_where_every_camera_has_frames() -> None:
    late = trace()
    frames = {"front": late.frames["front"], "wrist": late.frames["wrist"][1:5]}
    shown = montage._moments(EpisodeTrace("", frames, (), late.executed_ns, late.executed), 4)
    assert shown == [START_NS + second * NANOSECONDS_PER_SECOND for second in (1, 2, 3, 4)]


def test_one_frame_and_one_place_are_enough(tmp_path: Path) -> None:
    least = EpisodeTrace("", {"front": [(5, flat((1, 2, 3)))]}, [], [5], np.zeros((1, 3)))
    assert montage.render(least, tmp_path / "least.png").stat().st_size > 0


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match=r"a montage needs a frame of every camera, got \['front'\] with \[0\]"):
        EpisodeTrace("", {"front": []}, [], [5], np.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"executed has shape \(N, 3\) and N >= 1 times, got \(1, 2\), 1 times"):
        EpisodeTrace("", {"front": [(5, flat((1, 2, 3)))]}, [], [5], np.zeros((1, 2)))
    with pytest.raises(ValueError, match=r"a planned chunk has positions of shape \(K, 3\), got \(3,\)"):
        EpisodeTrace("", {"front": [(5, flat((1, 2, 3)))]}, [(5, np.zeros(3))], [5], np.zeros((1, 3)))


def test_without_matplotlib_it_says_what_to_install() -> None:
    code = """
import sys
sys.modules["matplotlib"] = sys.modules["matplotlib.figure"] = None
import numpy as np
from pathlib import Path
from vla_ros.viewing.montage import EpisodeTrace, render
least = EpisodeTrace("", {"front": [(5, np.zeros((4, 4, 3), np.uint8))]}, [], [5], np.zeros((1, 3)))
try:
    render(least, Path("never.png"))
except ModuleNotFoundError as error:
    print(error)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told == "the montage needs matplotlib: pip install 'vla_ros[sim]'\n"
