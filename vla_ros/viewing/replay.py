"""A recorded and a replayed motion as one picture: joint by joint over time, and how far they are apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros.values import Array

_SIZE_IN, _DOTS_PER_INCH = (13.0, 8.0), 110
_INK, _QUIET, _GRID = "#1f2430", "#8a90a0", "#e6e8ee"
_RECORDED, _REPLAYED, _APART = "#8a90a0", "#1f5fbf", "#c0392b"
_COLUMNS = 3


def render(title: str, joint_names: Sequence[str], fps: int, recorded: Array, replayed: Array, path: Path) -> Path:
    """Draw joints [rad] and gripper [m], rows (T, J + 1) and (N, J + 1) at the same instants, into the PNG `path`.

    Gives the path back; makes its folder. Raises ModuleNotFoundError with what to install where matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the plot needs matplotlib: pip install 'vla_ros[sim]'") from error
    names = [*(f"{name} [rad]" for name in joint_names), "gripper [m]"]
    figure = Figure(figsize=_SIZE_IN, dpi=_DOTS_PER_INCH, layout="constrained", facecolor="white")
    figure.suptitle(title, x=0.01, ha="left", size=14, weight="bold", color=_INK)
    rows = -(-(len(names) + 1) // _COLUMNS)
    axes = figure.subplots(rows, _COLUMNS, sharex=True, squeeze=False).ravel()
    for column, (place, name) in enumerate(zip(axes, names, strict=False)):
        _tidy(place, name)
        place.plot(_seconds(recorded, fps), recorded[:, column], color=_RECORDED, lw=3, label="recorded")
        place.plot(_seconds(replayed, fps), replayed[:, column], color=_REPLAYED, lw=1, label="replayed")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="upper right", ncols=2, frameon=False, fontsize=10)
    common = min(len(recorded), len(replayed))
    apart = 1e3 * np.abs(replayed[:common, :-1] - recorded[:common, :-1])
    last = axes[len(names)]
    _tidy(last, "largest difference of a joint [mrad]")
    last.plot(_seconds(apart, fps), apart.max(axis=1), color=_APART, lw=1)
    for unused in axes[len(names) + 1 :]:
        unused.set_visible(False)
    for lowest in axes[len(names) + 1 - _COLUMNS : len(names) + 1]:  # what is below them is empty
        lowest.set_xlabel("time [s]", color=_INK, size=9)
        lowest.tick_params(labelbottom=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _seconds(rows: Array, fps: int) -> Array:
    return np.arange(len(rows)) / fps


def _tidy(axes: Any, title: str) -> None:
    axes.set_title(title, loc="left", size=10, color=_INK)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_QUIET)
    axes.tick_params(colors=_QUIET, labelsize=8)
