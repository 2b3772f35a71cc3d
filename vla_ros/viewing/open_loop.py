"""A policy against a dataset as two pictures: its errors over the horizon, and its future frames beside the seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vla_ros.values import Array, Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DOTS_PER_INCH = 110
_PANEL_IN, _HEAD_IN, _COLUMNS = (3.3, 1.9), 0.95, 4
_WORDS_IN = 0.42  # above a group of panels
_TILE_IN, _CAPTION_IN = 2.1, 0.3  # a frame; what stands above a column of them
_INK, _QUIET, _GRID = "#1f2430", "#8a90a0", "#e6e8ee"
_POLICY, _STILL = "#1f5fbf", "#c9a24b"


@dataclass(frozen=True, eq=False)
class Errors:
    """Mean absolute errors (K, D) of a chunk's K rows in D named quantities; `still`: of an arm that stands still.

    NaN where nothing was compared. `still` is None where nobody knows where the arm stands.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    policy: Array
    still: Array | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON: quantity -> unit, mean, mean by row; null where nothing was compared."""
        found = {}
        for column, (name, unit) in enumerate(zip(self.names, self.units, strict=True)):
            found[name] = {"unit": unit, **_summed("", self.policy[:, column])}
            if self.still is not None:
                found[name] |= _summed("still_", self.still[:, column])
        return found


@dataclass(frozen=True, eq=False)
class Example:
    """A future frame: what was seen when it was predicted, the prediction, and what was seen then; one size."""

    camera: str
    episode: int
    row: int
    ahead_s: float
    current: Image
    predicted: Image
    seen: Image
    predicted_ssim: float
    copied_ssim: float


def mean_of(errors: Array) -> float | None:
    """Of the rows in which something was compared; None where there is none."""
    known = errors[np.isfinite(errors)]
    return float(known.mean()) if len(known) else None


def _summed(prefix: str, errors: Array) -> dict[str, Any]:
    mean = mean_of(errors)
    return {
        f"{prefix}mean": None if mean is None else round(mean, 5),
        f"{prefix}by_row": [round(float(error), 5) if np.isfinite(error) else None for error in errors],
    }


# --- errors


def render_errors(title: str, step_s: float, groups: Sequence[tuple[str, Errors]], path: Path) -> Path:
    """Draw named groups of errors over the horizon, a panel for each quantity, into the PNG `path`; gives it back.

    Makes the folder. Raises ModuleNotFoundError with what to install where matplotlib is missing.
    """
    lines = [ceil(len(errors.names) / _COLUMNS) for _, errors in groups]
    height_in = _HEAD_IN + sum(lines) * _PANEL_IN[1] + len(groups) * _WORDS_IN
    figure = _figure(_COLUMNS * _PANEL_IN[0], height_in)
    figure.text(0.012, 1.0 - 0.14 / height_in, title, size=14, weight="bold", color=_INK, va="top")
    _draw_legend(figure, 1.0 - 0.42 / height_in, any(errors.still is not None for _, errors in groups))
    top_in = height_in - _HEAD_IN
    for (name, errors), count in zip(groups, lines, strict=True):
        figure.text(0.012, top_in / height_in, name, size=10, color=_QUIET, va="top")
        top_in -= _WORDS_IN
        grid = figure.add_gridspec(
            count, _COLUMNS, left=0.045, right=0.99, wspace=0.22, hspace=0.5,
            top=top_in / height_in, bottom=(top_in - count * _PANEL_IN[1] + 0.5) / height_in,
        )  # fmt: skip
        for column in range(len(errors.names)):
            axes = figure.add_subplot(grid[column // _COLUMNS, column % _COLUMNS])
            _draw_errors(axes, errors, column, step_s)
        top_in -= count * _PANEL_IN[1]
    return _save(figure, path)


def _draw_errors(axes: Axes, errors: Errors, column: int, step_s: float) -> None:
    times_s = step_s * np.arange(len(errors.policy))
    mean = mean_of(errors.policy[:, column])
    unit = errors.units[column]
    if errors.still is not None:
        axes.plot(times_s, errors.still[:, column], color=_STILL, linewidth=1.6)
    axes.plot(times_s, errors.policy[:, column], "o-", color=_POLICY, linewidth=1.6, markersize=3.5)
    axes.set_ylim(bottom=0.0)
    axes.margins(x=0.02)
    axes.set_title(f"{errors.names[column]}{f' [{unit}]' if unit else ''}", size=9, color=_INK, loc="left", pad=4)
    if mean is not None:
        axes.set_title(f"mean {mean:.3g}", size=8, color=_POLICY, loc="right", pad=4)
    axes.set_xlabel("ahead [s]", size=8, color=_QUIET, labelpad=1)
    axes.grid(visible=True, color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_QUIET)
    axes.tick_params(colors=_QUIET, labelsize=8)
    axes.locator_params(axis="y", nbins=5)


def _draw_legend(figure: Figure, top: float, has_still: bool) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=_POLICY, marker="o", markersize=4, label="policy")]
    if has_still:
        handles.append(Line2D([], [], color=_STILL, label="standing still"))
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.007, top), ncols=2, frameon=False, fontsize=9,
    )  # fmt: skip


# --- future frames


def render_frames(title: str, notes: Sequence[str], examples: Sequence[Example], path: Path) -> Path:
    """Draw the examples, a column each: what was seen, what was predicted, what was then seen; into the PNG `path`.

    `notes`: lines below the title. Gives the path back; makes its folder. Raises ValueError without an example,
    ModuleNotFoundError with what to install where matplotlib is missing.
    """
    if not examples:
        raise ValueError("no future frame was compared, so there is none to draw")
    head_in = 0.5 + 0.2 * len(notes) + 0.3
    columns = min(len(examples), 6)
    blocks = [examples[first : first + columns] for first in range(0, len(examples), columns)]
    block_in = 3 * _TILE_IN + _CAPTION_IN
    width_in, height_in = 0.3 + columns * _TILE_IN, head_in + len(blocks) * block_in - 0.15
    figure = _figure(width_in, height_in)
    left = 0.15 / width_in
    figure.text(left, 1.0 - 0.14 / height_in, title, size=13, weight="bold", color=_INK, va="top")
    for line, note in enumerate(notes):
        figure.text(left, 1.0 - (0.45 + 0.2 * line) / height_in, note, size=9, color=_QUIET, va="top")
    for number, block in enumerate(blocks):
        top_in = height_in - head_in - number * block_in
        grid = figure.add_gridspec(
            3, columns, left=left, right=1.0 - left, top=top_in / height_in, wspace=0.03, hspace=0.03,
            bottom=(top_in - 3 * _TILE_IN) / height_in,
        )  # fmt: skip
        for column, example in enumerate(block):
            _draw_example(figure, grid, column, example)
    return _save(figure, path)


def _draw_example(figure: Figure, grid: Any, column: int, example: Example) -> None:
    later = f"{example.ahead_s:.1f} s later"
    tiles = (
        (example.current, "seen", f"SSIM as a copy {example.copied_ssim:.3f}", _INK),
        (example.predicted, f"predicted for {later}", f"SSIM {example.predicted_ssim:.3f}", _POLICY),
        (example.seen, f"seen {later}", "", _INK),
    )
    for line, (image, label, note, color) in enumerate(tiles):
        axes = figure.add_subplot(grid[line, column])
        axes.imshow(image, interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        for y, text, where in ((0.97, label, "top"), (0.03, note, "bottom")):
            if text:
                box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "alpha": 0.8, "linewidth": 0}
                axes.text(0.03, y, text, transform=axes.transAxes, size=8, color=color, va=where, bbox=box)
        if line == 0:
            axes.set_title(
                f"{example.camera}, episode {example.episode}, row {example.row}", size=8, color=_QUIET, pad=3
            )


# --- both


def _figure(width_in: float, height_in: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the pictures need matplotlib: pip install 'vla_ros[record]'") from error
    return Figure(figsize=(width_in, height_in), dpi=_DOTS_PER_INCH, facecolor="white")


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path
