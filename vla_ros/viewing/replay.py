"""A recorded and a replayed motion as one picture: joint by joint over time, and how far they are apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros.values import Array

_SIZE_IN, _DOTS_PER_INCH = (13.0, 7.0), 100
_RECORDED, _REPLAYED, _APART = "#8a90a0", "#1f5fbf", "#c0392b"
_COLUMNS = 4


def render(title: str, joint_names: Sequence[str], fps: int, recorded: Array, replayed: Array, path: Path) -> Path:
    """Draw joints [rad] and gripper [m], rows (T, J + 1) and (N, J + 1) at the same instants, into the PNG `path`.

    Gives the path back; makes its folder. Raises ModuleNotFoundError with what to install where matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the plot needs matplotlib: pip install 'vla_ros[sim]'") from error
    names = [*(f"{name} [rad]" for name in joint_names), "gripper [m]"]
    figure = Figure(figsize=_SIZE_IN, dpi=_DOTS_PER_INCH, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left")
    rows = -(-(len(names) + 1) // _COLUMNS)
    axes = figure.subplots(rows, _COLUMNS, sharex=True, squeeze=False).ravel()
    for column, (place, name) in enumerate(zip(axes, names, strict=False)):
        _tidy(place, name)
        place.plot(_seconds(recorded, fps), recorded[:, column], color=_RECORDED, lw=3, label="recorded")
        place.plot(_seconds(replayed, fps), replayed[:, column], color=_REPLAYED, lw=1, label="replayed")
    axes[0].legend(frameon=False, fontsize="small")
    common = min(len(recorded), len(replayed))
    apart = 1e3 * np.abs(replayed[:common, :-1] - recorded[:common, :-1])
    last = axes[len(names)]
    _tidy(last, "largest difference of a joint [mrad]")
    last.plot(_seconds(apart, fps), apart.max(axis=1), color=_APART, lw=1)
    for unused in axes[len(names) + 1 :]:
        unused.set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _seconds(rows: Array, fps: int) -> Array:
    return np.arange(len(rows)) / fps


def _tidy(axes: Any, title: str) -> None:
    axes.set_title(title, loc="left", fontsize="small")
    axes.grid(color="#e6e8ee")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize="x-small")
