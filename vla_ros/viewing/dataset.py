"""A recorded episode as two pictures: what the cameras saw over time, and what the joints did and were told to do."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.values import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DOTS_PER_INCH = 110
_INK, _QUIET, _GRID = "#1f2430", "#8a90a0", "#e6e8ee"
_STATE, _ACTION, _REPEATED, _ACTED = "#e08a00", "#1f5fbf", "#c0392b", "#8e44ad"
_GOOD, _BAD = "#2a8a4a", "#c0392b"
_MODES = {"hold": "#c9ced9", "policy": "#9cc3f0", "teleop": "#7fc796"}

_TILE_IN = 2.0  # width of a camera image
_HEAD_IN = 0.85  # of the title
_PANEL_IN = (6.2, 1.25)  # of one dimension over time
_LINE_IN = 0.24  # of one line of the time line
#: Dimensions that are drawn; what has more is no arm.
_MOST_PANELS = 40
#: An axis shows at least this much of its unit, so that noise does not look like motion.
_LEAST = {"rad": 0.1, "m": 0.01}

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Signals:
    """One feature over time: (T, N), and the names of its columns; those that end in `_rad` or `_m` say their unit."""

    names: tuple[str, ...]
    values: Array

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] != len(self.names):
            raise ValueError(
                f"signals of {len(self.names)} names have shape (T, {len(self.names)}), got {self.values.shape}"
            )


@dataclass(frozen=True, eq=False)
class RecordedEpisode:
    """One episode of T rows at `fps`. `shown`: camera -> (K, H, W, 3) uint8 rgb, the rows `shown_rows` (K,).

    `repeated`: source -> (T,), where its last value stands again. `acted`: what else happened -> (T,), as "a person
    leads". `modes`: (T,) names of who moved the arm; empty where nobody knows.
    """

    number: int
    task: str
    fps: int
    success: bool | None  # None: nobody judged
    shown_rows: Sequence[int]
    shown: Mapping[str, NDArray[np.uint8]]
    state: Signals | None = None
    action: Signals | None = None
    repeated: Mapping[str, Mask] = field(default_factory=dict)
    acted: Mapping[str, Mask] = field(default_factory=dict)
    modes: Sequence[str] = ()
    note: str = ""  # what to know when looking at it

    def __post_init__(self) -> None:
        for camera, images in self.shown.items():
            if len(images) != len(self.shown_rows) or images.ndim != 4:
                raise ValueError(
                    f"camera {camera} shows {len(self.shown_rows)} rows as (K, H, W, 3), got {images.shape}"
                )

    @property
    def rows(self) -> int:
        """How many rows it has, as far as anything says."""
        lengths = [len(signals.values) for signals in (self.state, self.action) if signals is not None]
        return max([*lengths, *(row + 1 for row in self.shown_rows)], default=0)

    @property
    def length_s(self) -> float:
        """How long it is."""
        return self.rows / self.fps


def spread(rows: int, count: int) -> list[int]:
    """`count` rows of an episode, evenly from the first to the last; fewer where there are fewer."""
    return sorted({round(row) for row in np.linspace(0, rows - 1, count)}) if rows else []


# --- what the cameras saw


def render_sheet(episode: RecordedEpisode, path: Path) -> Path:
    """Draw a contact sheet, a line of pictures per camera, into the PNG `path` and give it back; makes its folder.

    Raises ValueError for an episode without cameras, ModuleNotFoundError with what to install without matplotlib.
    """
    if not episode.shown or not len(episode.shown_rows):
        raise ValueError(f"episode {episode.number} has no camera's frames to show")
    heights_in = [_TILE_IN * images.shape[1] / images.shape[2] for images in episode.shown.values()]
    columns = len(episode.shown_rows)
    width_in, height_in = max(_TILE_IN * columns, 8.0), sum(heights_in) + _HEAD_IN
    figure = _figure(width_in, height_in)
    _draw_title(figure, episode, height_in)
    grid = figure.add_gridspec(
        len(heights_in), columns, height_ratios=heights_in, left=0.006, right=0.994, bottom=0.008,
        top=1.0 - _HEAD_IN / height_in, wspace=0.03, hspace=0.03,
    )  # fmt: skip
    for line, (camera, images) in enumerate(episode.shown.items()):
        for column, (row, image) in enumerate(zip(episode.shown_rows, images, strict=True)):
            axes = figure.add_subplot(grid[line, column])
            axes.imshow(image, aspect="equal", interpolation="lanczos")
            axes.set_xticks([])
            axes.set_yticks([])
            is_repeated = camera in episode.repeated and bool(episode.repeated[camera][row])
            axes.spines[:].set_visible(is_repeated)
            axes.spines[:].set(color=_REPEATED, linewidth=3.0)
            if is_repeated:
                _label(axes, "repeated", 0.96, 0.05, color=_REPEATED, ha="right", va="bottom")
            if line == 0:
                axes.set_title(f"{row / episode.fps:.1f} s", size=10, color=_INK, pad=4)
            if column == 0:
                _label(axes, camera, 0.04, 0.95, color=_INK, ha="left", va="top")
    return _save(figure, path)


def _label(axes: Axes, text: str, x: float, y: float, color: str, ha: str, va: str) -> None:
    box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "alpha": 0.8, "linewidth": 0}
    axes.text(x, y, text, transform=axes.transAxes, size=9, color=color, ha=ha, va=va, bbox=box)


# --- what the joints did


def render_signals(episode: RecordedEpisode, path: Path) -> Path:
    """Draw state and action per dimension, and a time line, into the PNG `path` and give it back; makes its folder.

    Raises ValueError for an episode without state and action, ModuleNotFoundError as `render_sheet`.
    """
    dimensions = _panels(episode)
    if not dimensions:
        raise ValueError(f"episode {episode.number} has neither state nor action to show")
    panels = dimensions[:_MOST_PANELS]
    if len(panels) < len(dimensions):
        said = f"the first {len(panels)} of {len(dimensions)} dimensions"
        episode = replace(episode, note=" · ".join(filter(None, (said, episode.note))))
    lines = _lines(episode)
    rows = math.ceil(len(panels) / 2)
    line_in = _LINE_IN * (len(lines) + bool(episode.modes)) + 0.75
    height_in = _HEAD_IN + 0.35 + rows * _PANEL_IN[1] + line_in
    figure = _figure(2 * _PANEL_IN[0], height_in)
    _draw_title(figure, episode, height_in)
    grid = figure.add_gridspec(
        rows + 1, 2, height_ratios=[_PANEL_IN[1]] * rows + [line_in], left=0.11, right=0.988,
        bottom=0.5 / height_in, top=1.0 - (_HEAD_IN + 0.35) / height_in, wspace=0.13, hspace=0.32,
    )  # fmt: skip
    marked = _any(episode.repeated, episode.rows)
    for index, (name, state, action) in enumerate(panels):
        axes = figure.add_subplot(grid[index % rows, index // rows])
        _draw_panel(axes, episode, name, state, action)
        _shade(axes, marked, episode.fps, _REPEATED)
        axes.tick_params(labelbottom=index % rows == rows - 1 or index == len(panels) - 1)
    for column in range(2):  # below both columns of panels, on their axes of time
        axes = figure.add_subplot(grid[rows, column])
        _draw_lines(axes, episode, lines)
        axes.tick_params(labelleft=column == 0)
    handles = _legend_handles(episode, marked)
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.1, 1.0 - 0.66 / height_in), ncols=len(handles),
        frameon=False, fontsize=9,
    )  # fmt: skip
    return _save(figure, path)


def _panels(episode: RecordedEpisode) -> list[tuple[str, Array | None, Array | None]]:
    """(name, state (T,), action (T,)) of every dimension that either has; an action beside the state of its name."""
    state, action = ({} if one is None else dict(zip(one.names, one.values.T, strict=True)) for one in
                     (episode.state, episode.action))  # fmt: skip
    return [(name, state.get(name), action.get(name)) for name in dict.fromkeys([*state, *action])]


def _draw_panel(axes: Axes, episode: RecordedEpisode, name: str, state: Array | None, action: Array | None) -> None:
    shown = [values for values in (state, action) if values is not None]
    for values, color, width in ((state, _STATE, 1.6), (action, _ACTION, 1.1)):
        if values is not None:
            axes.plot(np.arange(len(values)) / episode.fps, values, color=color, linewidth=width)
    label, _, unit = name.rpartition("_")
    if unit not in _LEAST:
        label, unit = name, ""
    low, high = min(map(np.min, shown)), max(map(np.max, shown))
    spare = max(0.1 * (high - low), (_LEAST.get(unit, 0.0) - (high - low)) / 2, 1e-6)
    axes.set_ylim(low - spare, high + 4.0 * spare)  # the name needs room
    axes.set_xlim(0.0, max(episode.length_s, 1e-3))
    axes.text(
        0.006, 0.94, f"{label} [{unit}]" if unit else label, transform=axes.transAxes, size=9, color=_INK, va="top"
    )
    if state is not None and action is not None:
        apart = float(np.abs(action - state).max())
        text = f"apart by at most {apart:.3g} {unit}".rstrip()
        axes.text(0.994, 0.94, text, transform=axes.transAxes, size=8, color=_QUIET, ha="right", va="top")
    _tidy(axes)


def _lines(episode: RecordedEpisode) -> list[tuple[str, Mask, str]]:
    """(label, rows, colour) of the time line: what was repeated, what else happened."""
    repeated = [(f"{source} repeated", rows, _REPEATED) for source, rows in episode.repeated.items() if rows.any()]
    return [*repeated, *((what, rows, _ACTED) for what, rows in episode.acted.items() if rows.any())]


def _draw_lines(axes: Axes, episode: RecordedEpisode, lines: list[tuple[str, Mask, str]]) -> None:
    labels = [f"{what}  ×{int(rows.sum())}" for what, rows, _ in lines]
    if episode.modes:
        labels.insert(0, "mode")
        _draw_modes(axes, episode)
    for place, (_, rows, color) in enumerate(lines, start=len(labels) - len(lines)):
        axes.plot(np.flatnonzero(rows) / episode.fps, np.full(int(rows.sum()), place), "|", color=color, markersize=9)
    if not lines:
        labels.append("")
        text = (
            "no repeated frames, no interventions" if episode.repeated or episode.acted else "no marks in this dataset"
        )
        axes.text(episode.length_s / 2, len(labels) - 1, text, size=9, color=_QUIET, ha="center", va="center")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlim(0.0, max(episode.length_s, 1e-3))
    axes.set_xlabel("time [s]", color=_INK)
    _tidy(axes)


def _draw_modes(axes: Axes, episode: RecordedEpisode) -> None:
    modes = np.asarray(episode.modes)
    begins = np.flatnonzero(np.concatenate([[True], modes[1:] != modes[:-1]]))
    for begin, end in zip(begins, [*begins[1:], len(modes)], strict=True):
        color = _MODES.get(str(modes[begin]), _GRID)
        axes.barh(0, (end - begin) / episode.fps, left=begin / episode.fps, height=0.7, color=color)
        if end - begin > 0.06 * len(modes):
            place = (begin + end) / 2 / episode.fps
            axes.text(place, 0, str(modes[begin]), size=8, color=_INK, ha="center", va="center")


def _legend_handles(episode: RecordedEpisode, marked: Mask) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    if episode.state is not None:
        handles.append(Line2D([], [], color=_STATE, linewidth=2.0, label="state"))
    if episode.action is not None:
        handles.append(Line2D([], [], color=_ACTION, linewidth=2.0, label="action"))
    if marked.any():
        handles.append(Patch(color=_REPEATED, alpha=0.25, label="something is repeated"))
    return handles


def _any(masks: Mapping[str, Mask], rows: int) -> Mask:
    found = np.zeros(rows, dtype=np.bool_)
    for mask in masks.values():
        found[: len(mask)] |= mask
    return found


def _shade(axes: Axes, rows: Mask, fps: int, color: str) -> None:
    """Colour the time that `rows` take."""
    padded = np.concatenate([[False], rows, [False]]).astype(np.int8)
    begins, ends = np.flatnonzero(np.diff(padded) == 1), np.flatnonzero(np.diff(padded) == -1)
    for begin, end in zip(begins, ends, strict=True):
        axes.axvspan((begin - 0.5) / fps, (end - 0.5) / fps, color=color, alpha=0.25, linewidth=0, zorder=1)


# --- both


def _figure(width_in: float, height_in: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("pictures of episodes need matplotlib: pip install 'vla_ros[record]'") from error
    return Figure(figsize=(width_in, height_in), dpi=_DOTS_PER_INCH, facecolor="white")


def _draw_title(figure: Figure, episode: RecordedEpisode, height_in: float) -> None:
    width_in = figure.get_figwidth()
    top = 1.0 - 0.12 / height_in
    task = _shortened(episode.task or "(no task)", int((width_in - 3.0) * 7.0))
    figure.text(0.012, top, task, size=16, weight="bold", color=_INK, va="top", parse_math=False)
    about = f"episode {episode.number}, {episode.length_s:.1f} s at {episode.fps} rows a second"
    figure.text(
        0.012, 1.0 - 0.46 / height_in, " · ".join(filter(None, (about, _shortened(episode.note, int(width_in * 9))))),
        size=9, color=_QUIET, va="top", parse_math=False,
    )  # fmt: skip
    if episode.success is not None:
        word, color = ("success", _GOOD) if episode.success else ("failure", _BAD)
        figure.text(0.988, top, word, size=14, weight="bold", color=color, va="top", ha="right")


def _shortened(text: str, characters: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= characters else line[: characters - 1] + "…"


def _tidy(axes: Axes) -> None:
    axes.grid(visible=True, color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_QUIET)
    axes.tick_params(colors=_QUIET, labelsize=8)


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of a task in a script that the font has not
        figure.savefig(path)
    return path
