"""Episodes to look at: what the cameras saw beside what the model had expected for that instant, over time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from vla_ros.values import NANOSECONDS_PER_MILLISECOND, NANOSECONDS_PER_SECOND, Image, Prediction

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DOTS_PER_INCH = 110
_TILE_IN = 1.55  # width of a frame
_MARGIN_IN, _HEAD_IN, _WORDS_IN, _APART_IN = 0.15, 0.5, 0.3, 0.22  # the title; a film's words above it, and room below
_LONGEST = 44  # letters of why an episode ended
_INK, _QUIET, _EXPECTED = "#1f2430", "#8a90a0", "#1f5fbf"
_GOOD, _BAD = "#2a8a4a", "#c0392b"

#: A prediction stands for an instant so near the one it predicts; further away there is none for it.
NEAR_NS = 150 * NANOSECONDS_PER_MILLISECOND

# A picture of a film, in pixels.
_LINE, _TEXT, _SMALL = 26, 15, 13
_EMPTY = 235  # grey of a tile where nothing was predicted


@dataclass(frozen=True, eq=False)
class Expected:
    """A frame that a model expected when it looked at `observed_ns`."""

    observed_ns: int
    prediction: Prediction

    @property
    def ahead_s(self) -> float:
        """How far it looked ahead."""
        return (self.prediction.time_ns - self.observed_ns) / NANOSECONDS_PER_SECOND


@dataclass(frozen=True, eq=False)
class Film:
    """An episode to look at. `seen`: camera -> (time_ns, image), oldest first, at least one; `expected`: in any order.

    `asked`: what the policy was told, where that is not `instruction`, by which `success` is judged.
    """

    seed: int
    instruction: str
    success: bool
    ended: str
    start_ns: int
    seen: Mapping[str, Sequence[tuple[int, Image]]]
    expected: Sequence[Expected] = ()
    asked: str = ""

    def __post_init__(self) -> None:
        if not self.seen or not all(self.seen.values()):
            counts = [len(frames) for frames in self.seen.values()]
            raise ValueError(f"a film needs a frame of every camera, got {[*self.seen]} with {counts}")

    @property
    def predicted_cameras(self) -> tuple[str, ...]:
        """Those that something was expected of, in the order of `seen`."""
        cameras = {one.prediction.camera for one in self.expected}
        return tuple(camera for camera in self.seen if camera in cameras)

    @property
    def times_ns(self) -> list[int]:
        """When there are frames."""
        return [time_ns for time_ns, _ in next(iter(self.seen.values()))]

    def seen_at(self, camera: str, time_ns: int) -> Image:
        """The frame nearest an instant."""
        return min(self.seen[camera], key=lambda frame: abs(frame[0] - time_ns))[1]

    def expected_at(self, camera: str, time_ns: int) -> Expected | None:
        """What was expected for an instant; None where nothing was for one near it."""
        ofs = [one for one in self.expected if one.prediction.camera == camera]
        best = min(ofs, key=lambda one: abs(one.prediction.time_ns - time_ns), default=None)
        return best if best is not None and abs(best.prediction.time_ns - time_ns) <= NEAR_NS else None

    def thinned(self, moments: int) -> Film:
        """The same at `moments` instants from the first to the last frame: all that a montage shows.

        They lie evenly, but for a step aside to the next instant that something was predicted for: a policy that is
        asked now and then predicts little. A film that has no more instants stays as it is.
        """
        if len(self.times_ns) <= moments:
            return self
        times_ns = np.array(self.times_ns)
        even_ns = np.linspace(times_ns[0], times_ns[-1], moments)
        aside_ns = 0.5 * (times_ns[-1] - times_ns[0]) / max(1, moments - 1)
        known_ns = np.array(
            [at for at in self.times_ns if any(self.expected_at(c, at) for c in self.predicted_cameras)]
        )
        chosen = []
        for at in even_ns:
            known = known_ns[np.abs(known_ns - at) < aside_ns]
            near = known if len(known) else times_ns
            chosen.append(int(near[np.argmin(np.abs(near - at))]))
        seen = {camera: [(at, self.seen_at(camera, at)) for at in chosen] for camera in self.seen}
        expected = [self.expected_at(camera, at) for camera in self.predicted_cameras for at in chosen]
        return replace(self, seen=seen, expected=tuple(one for one in expected if one is not None))


# --- one film, picture by picture


def pictures(film: Film) -> Iterator[Image]:
    """(H, W, 3) of every instant, H and W even: each camera, and right of it what was expected of it."""
    for time_ns in film.times_ns:
        yield picture(film, time_ns)


def picture(film: Film, time_ns: int) -> Image:
    """The picture (H, W, 3) of one instant; see `pictures`."""
    tiles: list[tuple[str, Image]] = []
    height = max(frames[0][1].shape[0] for frames in film.seen.values())
    for camera in film.seen:
        tiles.append((camera, _scaled(film.seen_at(camera, time_ns), height)))
        if camera in film.predicted_cameras:
            expected = film.expected_at(camera, time_ns)
            if expected is not None:
                label = f"{camera}, predicted {expected.ahead_s:.1f} s before"
                tiles.append((label, _scaled(expected.prediction.image, height)))
            else:
                like = next(one.prediction.image for one in film.expected if one.prediction.camera == camera)
                tiles.append((f"{camera}, nothing predicted", np.full_like(_scaled(like, height), _EMPTY)))
    return _composed(film, time_ns, tiles, height)


def _composed(film: Film, time_ns: int, tiles: Sequence[tuple[str, Image]], height: int) -> Image:
    width = sum(tile.shape[1] for _, tile in tiles)
    canvas = PillowImage.new("RGB", (width + width % 2, height + height % 2 + 2 * _LINE), "white")
    draw = ImageDraw.Draw(canvas)
    font, small = ImageFont.load_default(_TEXT), ImageFont.load_default(_SMALL)
    draw.text((6, _LINE / 2), _words(film), fill=_INK, font=font, anchor="lm")
    elapsed_s = (time_ns - film.start_ns) / NANOSECONDS_PER_SECOND
    verdict = "success" if film.success else "failure"
    draw.text(
        (width - 6, _LINE / 2), verdict, fill=_GOOD if film.success else _BAD, font=font, anchor="rm",
    )  # fmt: skip
    left = 0
    for place, (label, tile) in enumerate(tiles):
        text = f"{elapsed_s:.1f} s   {label}" if place == 0 else label
        color = _EXPECTED if "predicted" in label else _QUIET
        draw.text((left + 6, 1.5 * _LINE), text, fill=color, font=small, anchor="lm")
        canvas.paste(PillowImage.fromarray(tile), (left, 2 * _LINE))
        left += tile.shape[1]
    return np.asarray(canvas)


def _words(film: Film) -> str:
    told = f" (told: {film.asked})" if film.asked else ""
    return f"{film.instruction}{told}   seed {film.seed}"


def _scaled(image: Image, height: int) -> Image:
    """`image` at that height, its pixels as large as they are."""
    if image.shape[0] == height:
        return image
    width = round(image.shape[1] * height / image.shape[0])
    return np.asarray(PillowImage.fromarray(image).resize((width, height), PillowImage.Resampling.NEAREST))


# --- all films as one picture


def render(title: str, films: Sequence[Film], path: Path, moments: int = 6) -> Path:
    """Draw the films one below the other, a line for each camera, into the PNG `path`, and give it back.

    Below a camera's frames stands what was expected for the same instants. Makes the folder. Raises ValueError for no
    film, ModuleNotFoundError with what to install where matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the montage needs matplotlib: pip install 'vla_ros[sim]'") from error
    if not films:
        raise ValueError("a montage of episodes needs at least one")
    films = [film.thinned(moments) for film in films]
    heights_in = [[_TILE_IN * _aspect(film, camera) for camera, _ in _lines(film)] for film in films]
    width_in = _TILE_IN * moments + 2.0 * _MARGIN_IN
    height_in = _HEAD_IN + sum(_WORDS_IN + sum(lines_in) + _APART_IN for lines_in in heights_in)
    figure = Figure(figsize=(width_in, height_in), dpi=_DOTS_PER_INCH, facecolor="white")
    left, top_in = _MARGIN_IN / width_in, height_in - _HEAD_IN
    figure.text(left, 1.0 - _MARGIN_IN / height_in, title, size=14, weight="bold", color=_INK, va="top")
    for film, lines_in in zip(films, heights_in, strict=True):
        ended = film.ended if len(film.ended) <= _LONGEST else f"{film.ended[: _LONGEST - 1]}…"
        verdict = f"{ended} after {_seconds(film, film.times_ns[-1]):.1f} s"
        color = _GOOD if film.success else _BAD
        figure.text(left, top_in / height_in, _words(film), size=11, color=_INK, va="top")
        figure.text(1.0 - left, top_in / height_in, verdict, size=11, color=color, va="top", ha="right")
        top_in -= _WORDS_IN
        grid = figure.add_gridspec(
            len(lines_in), moments, left=left, right=1.0 - left, wspace=0.03, hspace=0.03, height_ratios=lines_in,
            bottom=(top_in - sum(lines_in)) / height_in, top=top_in / height_in,
        )  # fmt: skip
        for line, (camera, is_expected) in enumerate(_lines(film)):
            for column, time_ns in enumerate(film.times_ns):
                _draw_tile(figure.add_subplot(grid[line, column]), film, camera, time_ns, is_expected, column == 0)
        top_in -= sum(lines_in) + _APART_IN
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _aspect(film: Film, camera: str) -> float:
    """Height of the camera's frames over their width."""
    height, width, _ = film.seen[camera][0][1].shape
    return float(height / width)


def _lines(film: Film) -> list[tuple[str, bool]]:
    """(camera, whether what was expected of it) of every line."""
    return [
        (camera, is_expected)
        for camera in film.seen
        for is_expected in (False, True)
        if not is_expected or camera in film.predicted_cameras
    ]


def _draw_tile(axes: Axes, film: Film, camera: str, time_ns: int, is_expected: bool, is_first: bool) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    label = f"{_seconds(film, time_ns):.1f} s"
    if is_expected:
        expected = film.expected_at(camera, time_ns)
        if expected is None:
            axes.set_facecolor("#ebebeb")
            axes.text(0.5, 0.5, "nothing\npredicted", transform=axes.transAxes, size=8, color=_QUIET,
                      ha="center", va="center")  # fmt: skip
            return
        axes.imshow(expected.prediction.image, aspect="equal", interpolation="nearest")
        label = f"predicted {expected.ahead_s:.1f} s before"
    else:
        axes.imshow(film.seen_at(camera, time_ns), aspect="equal", interpolation="lanczos")
    box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "alpha": 0.8, "linewidth": 0}
    text = f"{camera}  {label}" if is_first and not is_expected else label
    color = _EXPECTED if is_expected else _INK
    axes.text(0.03, 0.96, text, transform=axes.transAxes, size=7.5, color=color, va="top", bbox=box)


def _seconds(film: Film, time_ns: int) -> float:
    return (time_ns - film.start_ns) / NANOSECONDS_PER_SECOND
