"""Measured delays as one picture: what was compared, as it was stamped and with the delay taken out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros.calibration.latency import ACTUATION_KEY, Delay, Recording, Series, Unmeasurable, camera_key, patterns
from vla_ros.timing.stamps import ms_to_ns
from vla_ros.values import Array

_WIDTH_IN, _ROW_IN, _HEAD_IN, _DOTS_PER_INCH = 13.0, 2.4, 0.6, 110
_INK, _QUIET, _GRID = "#1f2430", "#8a90a0", "#e6e8ee"
#: What is compared: the cause, and what follows it late. Both are scaled, as only their shape over time counts.
_OF_CAMERA, _OF_ARM = ("measured joint", "what the camera sees"), ("commanded joint", "measured joint")
_CAUSE, _EFFECT = "#8a90a0", "#1f5fbf"


def render(recording: Recording, measured: Mapping[str, Delay | Unmeasurable], path: Path) -> Path:
    """Draw every stream that was compared with the joint into the PNG `path` and give the path back; makes its folder.

    Left over time, right against each other, where the way there and the way back coincide once the delay is out.
    Raises ModuleNotFoundError with what to install where matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the plot needs matplotlib: pip install 'vla_ros[sim]'") from error
    compared = {
        f"camera {name}": (recording.hand, patterns(pictures), measured[camera_key(name)], _OF_CAMERA)
        for name, pictures in recording.pictures.items()
    }
    compared["arm"] = (recording.commands.column(recording.joint), recording.swayed, measured[ACTUATION_KEY], _OF_ARM)
    height_in = _HEAD_IN + _ROW_IN * len(compared)
    figure = Figure(figsize=(_WIDTH_IN, height_in), dpi=_DOTS_PER_INCH, layout="constrained", facecolor="white")
    figure.suptitle("delays", x=0.01, ha="left", size=14, weight="bold", color=_INK)
    axes = figure.subplots(len(compared), 3, squeeze=False, width_ratios=(3, 1, 1))
    for row, (title, (cause, effect, delay, names)) in zip(axes, compared.items(), strict=True):
        _draw(row, title, cause, effect, delay, names)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _draw(
    row: Any, title: str, cause: Series, effect: Series, delay: Delay | Unmeasurable, names: tuple[str, str]
) -> None:
    over_time, as_stamped, without_delay = row
    delay_ms = delay.delay_ms if isinstance(delay, Delay) else 0.0
    found = f"{delay_ms:.1f} ms late" if isinstance(delay, Delay) else str(delay)
    over_time.set_title(f"{title}: {found}", loc="left", size=11, color=_INK)
    for axes in row:
        _tidy(axes)
    if not len(effect) or not len(cause):
        return
    shown = _standard(effect.values[:, 0])
    if np.corrcoef(_at(cause, effect, delay_ms), shown)[0, 1] < 0.0:
        shown = -shown
    origin_ns = cause.stamps_ns[0]
    over_time.plot(
        (cause.stamps_ns - origin_ns) * 1e-9, _standard(cause.values[:, 0]), color=_CAUSE, lw=1, label=names[0]
    )
    over_time.plot((effect.stamps_ns - origin_ns) * 1e-9, shown, ".", color=_EFFECT, ms=3, label=names[1])
    over_time.set_xlabel("time [s]", size=9, color=_INK)
    over_time.set_ylabel("standard deviations", size=9, color=_INK)
    over_time.margins(y=0.25)  # for the legend
    over_time.legend(loc="upper right", ncols=2, frameon=False, fontsize=8)
    for axes, shift_ms, label in ((as_stamped, 0.0, "as stamped"), (without_delay, delay_ms, "delay taken out")):
        axes.plot(_at(cause, effect, shift_ms), shown, "-", color=_EFFECT, lw=0.7)
        axes.set_title(label, loc="left", size=10, color=_INK)
        axes.set_xlabel(names[0], size=9, color=_INK)
        axes.set_ylabel(names[1], size=9, color=_INK)


def _tidy(axes: Any) -> None:
    axes.grid(visible=True, color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_QUIET)
    axes.tick_params(colors=_QUIET, labelsize=8)


def _at(cause: Series, effect: Series, shift_ms: float) -> Array:
    """The cause so much before each sample of the effect."""
    origin_ns = cause.stamps_ns[0]
    then = effect.stamps_ns - origin_ns - ms_to_ns(shift_ms)
    return np.asarray(np.interp(then, cause.stamps_ns - origin_ns, _standard(cause.values[:, 0])))


def _standard(values: Array) -> Array:
    return np.asarray((values - values.mean()) / max(float(values.std()), 1e-12))
