"""Pictures of recorded episodes: the right frames at the right places, curves where the values are, marks in time."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib import image

from vla_ros.viewing import dataset, page
from vla_ros.viewing.dataset import RecordedEpisode, Signals

COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255)]
FPS = 10
ROWS = 51
NAMES = ("panda_joint1_rad", "gripper_m")
REPEATED_RED = np.array([0xC0, 0x39, 0x2B])


def episode(**more: Any) -> RecordedEpisode:
    """Five seconds; two cameras that show a colour of its own in each row shown."""
    shown = np.stack([np.full((48, 64, 3), color, np.uint8) for color in COLORS])
    times = np.arange(ROWS) / FPS
    state = np.stack([np.sin(times), 0.04 + 0.0 * times], axis=1)
    given = {
        "number": 3,
        "task": "stack the green cube on the blue cube",
        "fps": FPS,
        "success": True,
        "shown_rows": dataset.spread(ROWS, 6),
        "shown": {"front": shown, "wrist": shown[::-1]},
        "state": Signals(NAMES, state),
        "action": Signals(NAMES, state + 0.1),
    }
    return RecordedEpisode(**{**given, **more})


def pixels(path: Path) -> np.ndarray:
    return (image.imread(path)[..., :3] * 255).round().astype(int)


def is_color(picture: np.ndarray, color: Any, within: int = 3) -> np.ndarray:
    return (np.abs(picture - np.asarray(color)) <= within).all(axis=-1)


def test_the_sheet_shows_each_camera_in_order_of_time(tmp_path: Path) -> None:
    picture = pixels(dataset.render_sheet(episode(), tmp_path / "new" / "folder" / "sheet.png"))
    places = np.array([[column[half].mean() for half in (0, 1)] for column in halves(picture)])
    assert (np.diff(places[:, 0]) > 100).all(), "the first camera, from left to right"
    assert (np.diff(places[:, 1]) < -100).all(), "the second one shows them the other way"


def halves(picture: np.ndarray) -> list[list[np.ndarray]]:
    """Per colour, the columns of pixels where it is, in the upper and in the lower camera."""
    rows = [np.flatnonzero(is_color(picture, color).any(axis=1)) for color in COLORS]
    top, bottom = min(row[0] for row in rows), max(row[-1] for row in rows)
    middle = (top + bottom) // 2
    return [
        [np.flatnonzero(is_color(part, color).sum(axis=0) > 40) for part in (picture[:middle], picture[middle:])]
        for color in COLORS
    ]


@pytest.mark.parametrize(("success", "color"), [(True, (0x2A, 0x8A, 0x4A)), (False, (0xC0, 0x39, 0x2B)), (None, None)])
def test_success_has_its_colour(tmp_path: Path, success: bool | None, color: tuple[int, int, int] | None) -> None:
    judged = episode(success=success)
    for file in (
        dataset.render_sheet(judged, tmp_path / "sheet.png"),
        dataset.render_signals(judged, tmp_path / "signals.png"),
    ):
        corner = pixels(file)[:70, -300:]
        for one in ((0x2A, 0x8A, 0x4A), (0xC0, 0x39, 0x2B)):
            assert is_color(corner, one).any() == (one == color)


def test_a_repeated_frame_is_framed(tmp_path: Path) -> None:
    late = np.zeros(ROWS, dtype=bool)
    late[20] = True  # the third picture
    file = dataset.render_sheet(episode(repeated={"wrist": late}), tmp_path / "sheet.png")
    marked = np.flatnonzero(is_color(pixels(file), REPEATED_RED).any(axis=0))
    assert len(marked), "there is a mark"
    assert 2 / 6 < marked.mean() / pixels(file).shape[1] < 3 / 6


def test_what_is_repeated_is_marked_when_it_was(tmp_path: Path) -> None:
    late = np.zeros(ROWS, dtype=bool)
    late[25:30] = True
    plain = pixels(dataset.render_signals(episode(acted={"a limit acts": late}), tmp_path / "plain.png"))
    marked = pixels(dataset.render_signals(episode(repeated={"wrist": late}), tmp_path / "marked.png"))
    panel = slice(145, 200)
    shaded = np.flatnonzero((np.abs(marked[panel] - plain[panel]).sum(axis=-1) > 10).any(axis=0))
    axes_left, axes_right = 0.11 * marked.shape[1], 0.522 * marked.shape[1]
    seconds = (shaded[shaded < axes_right] - axes_left) / (axes_right - axes_left) * ROWS / FPS
    assert seconds.min() == pytest.approx(2.45, abs=0.15)
    assert seconds.max() == pytest.approx(2.95, abs=0.15)


def test_dimensions_meet_by_name() -> None:
    state = Signals(("a_rad", "b_rad"), np.zeros((4, 2)))
    action = Signals(("b_rad", "c"), np.ones((4, 2)))
    panels = dataset._panels(episode(state=state, action=action, shown={}, shown_rows=()))
    told = [(name, one is not None, other is not None) for name, one, other in panels]
    assert told == [("a_rad", True, False), ("b_rad", True, True), ("c", False, True)]


ONE_ROW = {
    "state": Signals(NAMES, np.zeros((1, 2))),
    "action": None,
    "shown_rows": [0],
    "shown": {"a": np.zeros((1, 9, 9, 3), np.uint8)},
}


@pytest.mark.parametrize(
    "more",
    [
        {"action": None},
        {"state": None},
        {"task": "", "success": None, "note": "x" * 500},
        {"task": "pick $the$ <b>red</b> \\frac{1}{2} 緑の立方体 " * 9},
        {"modes": ["hold"] * 10 + ["policy"] * 30 + ["teleop"] * 11, "acted": {"a limit acts": np.arange(ROWS) == 7}},
        {"state": Signals(("still_rad",), np.zeros((ROWS, 1))), "action": None},
        ONE_ROW,
    ],
)
def test_whatever_an_episode_is_it_is_drawn(tmp_path: Path, more: dict[str, Any]) -> None:
    odd = episode(**more)
    for file in (
        dataset.render_sheet(odd, tmp_path / "sheet.png"),
        dataset.render_signals(odd, tmp_path / "signals.png"),
    ):
        height, width, _ = pixels(file).shape
        assert 100 < height < 4000
        assert 500 < width < 3000


def test_of_very_many_dimensions_the_first_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "_MOST_PANELS", 2)
    many = episode(state=Signals(tuple(map(str, range(70))), np.zeros((ROWS, 70))), action=None)
    assert pixels(dataset.render_signals(many, tmp_path / "signals.png")).shape[0] < 500


def test_rows_are_spread_from_the_first_to_the_last() -> None:
    assert dataset.spread(11, 6) == [0, 2, 4, 6, 8, 10]
    assert dataset.spread(3, 8) == [0, 1, 2]
    assert dataset.spread(9, 1) == [0]
    assert dataset.spread(0, 8) == []


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"signals of 2 names have shape \(T, 2\), got \(5, 3\)"):
        Signals(NAMES, np.zeros((5, 3)))
    with pytest.raises(ValueError, match=r"camera front shows 2 rows as \(K, H, W, 3\), got \(1, 4, 4, 3\)"):
        episode(shown_rows=[0, 1], shown={"front": np.zeros((1, 4, 4, 3), np.uint8)})
    with pytest.raises(ValueError, match="episode 3 has no camera's frames to show"):
        dataset.render_sheet(episode(shown={}), Path("never.png"))
    with pytest.raises(ValueError, match="episode 3 has neither state nor action to show"):
        dataset.render_signals(episode(state=None, action=None), Path("never.png"))


def test_without_matplotlib_it_says_what_to_install() -> None:
    code = """
import sys
sys.modules["matplotlib"] = sys.modules["matplotlib.figure"] = None
import numpy as np
from pathlib import Path
from vla_ros.viewing.dataset import RecordedEpisode, render_sheet
try:
    render_sheet(RecordedEpisode(0, "", 30, None, [0], {"a": np.zeros((1, 4, 4, 3), np.uint8)}), Path("never.png"))
except ModuleNotFoundError as error:
    print(error)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told == "pictures of episodes need matplotlib: pip install 'vla_ros[record]'\n"


class Tags(HTMLParser):
    """Every tag of a page with its attributes, and the texts between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_page_holds_all_it_needs_and_nothing_is_taken_for_markup(tmp_path: Path) -> None:
    picture = dataset.render_sheet(episode(), tmp_path / "sheet.png")
    cells = [["0", "<script>alert(1)</script> & more"], ["1", "success"]]
    section = page.Section('Episode "0" <i>', "a & b", ("#", "task"), cells, [picture])
    text = page.write("a <set>", [section], tmp_path / "new" / "index.html").read_text()
    found = Tags(text)
    images = [attributes["src"] or "" for tag, attributes in found.tags if tag == "img"]
    assert [base64.b64decode(one.partition(",")[2]) for one in images] == [picture.read_bytes()]
    assert {"script", "i", "set"}.isdisjoint(tag for tag, _ in found.tags)
    assert not re.search(r'(src|href)="(?!data:)', text), "nothing from elsewhere"
    for said in ("a <set>", 'Episode "0" <i>', "<script>alert(1)</script> & more", "a & b"):
        assert said in found.texts
    assert ("td", {"class": "success"}) in found.tags
