"""How a training went, as a picture: losses over steps, trained on and held out, the learning rate and the speed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DOTS_PER_INCH = 110
_INK, _QUIET, _GRID = "#1f2430", "#8a90a0", "#e6e8ee"
_TRAINED, _HELD_OUT = "#1f5fbf", "#e08a00"
_HELD = "held_out_"
_OTHERS = ("learning_rate", "gradient_norm", "frames_per_s")
#: What a number is, in words, with its unit.
_TITLES = {
    "measure": "positions in pictures [std. deviations]",
    "predict": "next frame [cross entropy of codes, nats]",
    "act": "actions [squared error, normalised]",
    "understand": "answers [cross entropy of words, nats]",
    "learning_rate": "learning rate",
    "gradient_norm": "norm of the gradient",
    "frames_per_s": "speed [frames/s]",
}
_LABELS = {"see": "vision encoder"}
_PANEL_IN = (4.6, 2.4)
_COLUMNS = 3

#: Numbers of one run by step: {"step": n, name: value, ...}, oldest first.
Run = Sequence[Mapping[str, Any]]


def render_curves(runs: Mapping[str, Run], path: Path, title: str = "") -> Path:
    """Draw runs, one row of panels after the other, into the PNG `path`, and give it back; makes its folder.

    A panel for each loss, its held-out twin in it, then the rates. Raises ValueError where there is nothing to draw,
    ModuleNotFoundError with what to install without matplotlib.
    """
    panels = [(run, name) for run, lines in runs.items() for name in _names(lines)]
    if not panels:
        raise ValueError(f"no curves to draw in {', '.join(runs) or 'no run'}")
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("pictures of curves need matplotlib: pip install 'vla_ros[record]'") from error
    rows = math.ceil(len(panels) / _COLUMNS)
    height_in = rows * _PANEL_IN[1] + 0.5
    figure = Figure((_COLUMNS * _PANEL_IN[0], height_in), dpi=_DOTS_PER_INCH, facecolor="white")
    figure.subplots_adjust(0.05, 0.5 / height_in, 0.96, 1 - 0.75 / height_in, wspace=0.25, hspace=0.55)
    if title:
        figure.suptitle(title, x=0.012, ha="left", size=14, color=_INK, weight="bold")
    for axes, (run, name) in zip(figure.subplots(rows, _COLUMNS, squeeze=False).flat, panels, strict=False):
        _draw(axes, runs[run], name, run)
    for axes in figure.axes[len(panels) :]:
        axes.set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _names(lines: Run) -> list[str]:
    """What is drawn of a run: its losses, then the rates."""
    seen = list(dict.fromkeys(name for line in lines for name in line))
    hidden = {"step", "seconds", "mfu", "loss", *_OTHERS}
    losses = [name for name in seen if name not in hidden and not name.startswith(_HELD)]
    return [*losses, *(name for name in _OTHERS if name in seen)]


def _draw(axes: Axes, lines: Run, name: str, run: str) -> None:
    ends = [next((line[key] for line in reversed(lines) if key in line), 0.0) for key in (name, f"{_HELD}{name}")]
    for key, color, label in ((name, _TRAINED, "trained on"), (f"{_HELD}{name}", _HELD_OUT, "held out")):
        points = [(line["step"], line[key]) for line in lines if key in line]
        if not points:
            continue
        steps, values = zip(*points, strict=True)
        marker = "." if len(points) < 30 else None
        axes.plot(steps, values, color=color, linewidth=1.2, marker=marker, label=label)
        if name not in _OTHERS:
            axes.annotate(
                f"{values[-1]:.3g}", (steps[-1], values[-1]), color=color, size=8, xytext=(3, 0),
                textcoords="offset points", va="bottom" if values[-1] >= max(ends) else "top", annotation_clip=False,
            )  # fmt: skip
    if name not in _OTHERS and min(line[name] for line in lines if name in line) > 0:
        axes.set_yscale("log")
    if any(f"{_HELD}{name}" in line for line in lines):
        axes.legend(frameon=False, fontsize=8, loc="upper right")
    what = _TITLES.get(name, name.replace("_", " "))
    axes.set_title(f"{_LABELS.get(run, run)}: {what}", size=9, color=_INK, loc="left")
    axes.set_xlabel("updates", size=8, color=_QUIET, labelpad=1)
    axes.grid(visible=True, color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["left", "bottom"]].set_color(_QUIET)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_QUIET, labelsize=8, which="both")
