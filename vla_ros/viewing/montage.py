"""One episode as one picture: what the cameras saw over time, what was planned, and what was executed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vla_ros.values import NANOSECONDS_PER_SECOND, Array, Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

_TILE_IN = 2.0  # edge of a camera image
_PATHS_IN = 3.4  # height of the two views of the path
_DOTS_PER_INCH = 110
_INK, _QUIET = "#1f2430", "#8a90a0"
_COLORMAP = "viridis"
_CUBES = {"red": "#c0392b", "green": "#2a8a4a", "blue": "#1f5fbf"}
_NEAR_PT, _APART_PT = 11.0, 9.5  # of a number from its dot; from all others


@dataclass(frozen=True, eq=False)
class EpisodeTrace:
    """What one episode leaves behind to look at; positions are the TCP's in the base frame [m].

    `frames`: camera -> (time_ns, image) pairs, oldest first. `planned`: (observation_ns, positions (K, 3)) per chunk.
    `executed_ns` (N,) and `executed` (N, 3): where the TCP was, over time. `cubes`: corners (8, 3) by colour, at the
    beginning and at the end; empty where nobody knows them.
    """

    instruction: str
    frames: Mapping[str, Sequence[tuple[int, Image]]]
    planned: Sequence[tuple[int, Array]]
    executed_ns: Sequence[int]
    executed: Array
    success: bool | None = None  # None: nobody judged
    cubes: Sequence[Mapping[str, Array]] = ()

    def __post_init__(self) -> None:
        if not self.frames or not all(self.frames.values()):
            raise ValueError(f"a montage needs a frame of every camera, got {[*self.frames]} with {self._counts()}")
        if self.executed.shape != (len(self.executed_ns), 3) or not len(self.executed_ns):
            raise ValueError(
                f"executed has shape (N, 3) and N >= 1 times, got {self.executed.shape}, {len(self.executed_ns)} times"
            )
        for _, positions in self.planned:
            if positions.ndim != 2 or positions.shape[1] != 3:
                raise ValueError(f"a planned chunk has positions of shape (K, 3), got {positions.shape}")

    def _counts(self) -> list[int]:
        return [len(frames) for frames in self.frames.values()]


def render(trace: EpisodeTrace, path: Path, moments: int = 6) -> Path:
    """Draw `trace` into the PNG `path` and give the path back; makes its folder.

    Raises ModuleNotFoundError with what to install where matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the montage needs matplotlib: pip install 'vla_ros[sim]'") from error
    times_ns = _moments(trace, moments)
    height_in = _TILE_IN * len(trace.frames)
    figure = Figure(figsize=(_TILE_IN * moments, height_in + _PATHS_IN + 0.75), dpi=_DOTS_PER_INCH, facecolor="white")
    halves: Any = figure.subfigures(2, 1, height_ratios=(height_in + 0.75, _PATHS_IN))
    _draw_title(halves[0], trace)
    _draw_frames(halves[0], trace, times_ns)
    _draw_paths(halves[1], trace, times_ns)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _moments(trace: EpisodeTrace, count: int) -> list[int]:
    """`count` instants, evenly from the first to the last frame that every camera has."""
    first = max(frames[0][0] for frames in trace.frames.values())
    last = max(first, min(frames[-1][0] for frames in trace.frames.values()))
    return [round(time_ns) for time_ns in np.linspace(first, last, count)]


def _seconds(trace: EpisodeTrace, time_ns: int) -> float:
    start_ns = min(trace.executed_ns[0], *(frames[0][0] for frames in trace.frames.values()))
    return (time_ns - start_ns) / NANOSECONDS_PER_SECOND


def _draw_title(figure: SubFigure, trace: EpisodeTrace) -> None:
    figure.text(0.012, 0.975, trace.instruction, size=17, weight="bold", color=_INK, va="top")
    if trace.success is not None:
        word, color = ("success", "#2a8a4a") if trace.success else ("failure", "#c0392b")
        seconds = _seconds(trace, trace.executed_ns[-1])
        figure.text(0.988, 0.97, f"{word} after {seconds:.1f} s", size=13, color=color, va="top", ha="right")


def _draw_frames(figure: SubFigure, trace: EpisodeTrace, times_ns: Sequence[int]) -> None:
    rows, columns = len(trace.frames), len(times_ns)
    top = 1.0 - 0.72 / (_TILE_IN * rows + 0.75)
    grid = figure.add_gridspec(rows, columns, left=0.012, right=0.988, bottom=0.01, top=top, wspace=0.03, hspace=0.03)
    for row, (camera, frames) in enumerate(trace.frames.items()):
        stamps_ns = np.array([stamp_ns for stamp_ns, _ in frames])
        for column, time_ns in enumerate(times_ns):
            axes = figure.add_subplot(grid[row, column])
            stamp_ns, image = frames[int(np.argmin(np.abs(stamps_ns - time_ns)))]
            axes.imshow(image, aspect="equal", interpolation="lanczos")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            if row == 0:
                axes.set_title(f"{column + 1}   {_seconds(trace, stamp_ns):.1f} s", size=10, color=_INK, pad=4)
            if column == 0:
                label = {"boxstyle": "round,pad=0.25", "facecolor": "white", "alpha": 0.8, "linewidth": 0}
                axes.text(0.04, 0.95, camera, transform=axes.transAxes, size=9, color=_INK, va="top", bbox=label)


def _draw_paths(figure: SubFigure, trace: EpisodeTrace, times_ns: Sequence[int]) -> None:
    grid = figure.add_gridspec(1, 2, left=0.075, right=0.9, bottom=0.17, top=0.83, wspace=0.18)
    for index, (title, vertical, label) in enumerate(
        (("from above", 1, "y [m]"), ("from the side", 2, "z [m]")),
    ):
        axes = figure.add_subplot(grid[0, index])
        _draw_cubes(axes, trace, vertical)
        _draw_path(axes, trace, vertical)
        axes.set_title(title, size=11, color=_INK, loc="left")
        axes.set_xlabel("x [m]", color=_INK)
        axes.set_ylabel(label, color=_INK)
        if index == 0:
            handles, labels = axes.get_legend_handles_labels()
            figure.legend(
                handles, labels, loc="upper right", bbox_to_anchor=(0.95, 1.0), ncols=4, frameon=False, fontsize=9
            )
        _draw_numbers(axes, trace, times_ns, vertical)
    _draw_time_bar(figure, trace)


def _draw_path(axes: Axes, trace: EpisodeTrace, vertical: int) -> None:
    colors = _colors(trace)
    for index, (observation_ns, positions) in enumerate(trace.planned):
        label = "planned chunks" if index == 0 else None
        color = colors.to_rgba(_seconds(trace, observation_ns))
        axes.plot(
            positions[:, 0], positions[:, vertical], color=color, linewidth=1.3, alpha=0.75, zorder=3, label=label
        )
    x, y = trace.executed[:, 0], trace.executed[:, vertical]
    axes.plot(x, y, color=_INK, linewidth=3.2, alpha=0.35, zorder=2, label="executed path", solid_capstyle="round")
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.12)
    axes.locator_params(nbins=6, steps=(1, 2, 5, 10))
    axes.grid(visible=True, color="#e6e8ee", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_QUIET)
    axes.tick_params(colors=_QUIET, labelsize=8)


def _draw_cubes(axes: Axes, trace: EpisodeTrace, vertical: int) -> None:
    """Outlines of the cubes: dashed at the beginning, filled at the end."""
    from matplotlib.patches import Polygon

    for is_end, cubes in enumerate(trace.cubes):
        for index, (color, corners) in enumerate(cubes.items()):
            outline, hue = _hull(corners[:, [0, vertical]]), _CUBES.get(color, _QUIET)
            style: Any = {"facecolor": (hue, 0.35)} if is_end else {"fill": False, "linestyle": (0, (2, 2))}
            label = f"cubes at the {'end' if is_end else 'beginning'}" if index == 0 else None
            patch = Polygon(outline, closed=True, edgecolor=hue, linewidth=1.2, zorder=1.5, label=label, **style)
            axes.add_patch(patch)


def _hull(points: Array) -> Array:
    """The convex hull of points (N, 2), counter-clockwise (Andrew's monotone chain)."""
    ordered = sorted(map(tuple, points.round(9).tolist()))

    def chain(along: Sequence[tuple[float, ...]]) -> list[tuple[float, ...]]:
        found: list[tuple[float, ...]] = []
        for x, y in along:
            while len(found) > 1:
                (ax, ay), (bx, by) = found[-2:]
                if (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0:
                    break
                found.pop()
            found.append((x, y))
        return found[:-1]

    return np.array(chain(ordered) + chain(ordered[::-1]))


def _draw_numbers(axes: Axes, trace: EpisodeTrace, times_ns: Sequence[int], vertical: int) -> None:
    """Where the TCP was at the moments of the frames; numbers stand where no other is, with a line to their place."""
    from matplotlib.patheffects import withStroke

    axes.autoscale_view()
    axes.apply_aspect()
    colors = _colors(trace)
    at = [int(np.argmin(np.abs(np.asarray(trace.executed_ns) - time_ns))) for time_ns in times_ns]
    places = trace.executed[at][:, [0, vertical]]
    dots = axes.transData.transform(places) * 72.0 / _DOTS_PER_INCH
    for number, (place, (x, y), offset) in enumerate(zip(at, places, _offsets(dots), strict=True), start=1):
        face = colors.to_rgba(_seconds(trace, trace.executed_ns[place]))
        axes.plot(x, y, "o", markersize=6, markerfacecolor=face, markeredgecolor="white", zorder=4)
        is_far = float(np.hypot(*offset)) > 1.5 * _NEAR_PT
        line = {"arrowstyle": "-", "color": _QUIET, "lw": 0.7} if is_far else None
        axes.annotate(
            str(number), (x, y), offset, textcoords="offset points", ha="center", va="center", size=9, weight="bold",
            color=_INK, zorder=5, arrowprops=line, path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )  # fmt: skip


def _offsets(dots: Array) -> list[tuple[float, float]]:
    """An offset [points] for the number of each dot (N, 2): the nearest one that meets no dot and no other number."""
    numbers: list[Array] = []
    offsets: list[tuple[float, float]] = []
    ring = [
        (times * _NEAR_PT * np.cos(angle), times * _NEAR_PT * np.sin(angle))
        for times in range(1, 6)
        for angle in np.pi * (0.25 + np.arange(8) / 4)
    ]
    for dot in dots:
        taken = np.array([*numbers, *dots])
        room_pt = [float(np.min(np.hypot(*(taken - (dot + offset)).T))) for offset in ring]
        chosen = next((i for i, distance_pt in enumerate(room_pt) if distance_pt >= _APART_PT), int(np.argmax(room_pt)))
        offsets.append(ring[chosen])
        numbers.append(dot + ring[chosen])
    return offsets


def _draw_time_bar(figure: SubFigure, trace: EpisodeTrace) -> None:
    bar = figure.colorbar(_colors(trace), cax=figure.add_axes((0.925, 0.17, 0.012, 0.66)))
    bar.set_label("time [s]", color=_INK)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=_QUIET, labelsize=8)


def _colors(trace: EpisodeTrace) -> Any:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    end_s = max(_seconds(trace, trace.executed_ns[-1]), 1e-3)
    return ScalarMappable(Normalize(0.0, end_s), _COLORMAP)
