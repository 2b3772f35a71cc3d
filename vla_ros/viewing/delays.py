"""Measured delays as one picture: what was compared, as it was stamped and with the delay taken out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros.calibration.latency import ACTUATION_KEY, Delay, Recording, Series, Unmeasurable, camera_key, patterns
from vla_ros.timing.stamps import ms_to_ns
from vla_ros.values import Array

_WIDTH_IN, _ROW_IN, _DOTS_PER_INCH = 11.0, 2.4, 110
_CAUSE, _EFFECT = "#8a90a0", "#c2410c"


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
        f"camera {name}": (recording.hand, patterns(pictures), measured[camera_key(name)])
        for name, pictures in recording.pictures.items()
    }
    compared["arm"] = (recording.commands.column(recording.joint), recording.swayed, measured[ACTUATION_KEY])
    figure = Figure(figsize=(_WIDTH_IN, _ROW_IN * len(compared)), dpi=_DOTS_PER_INCH, layout="constrained")
    axes = figure.subplots(len(compared), 3, squeeze=False, width_ratios=(3, 1, 1))
    for row, (title, (cause, effect, delay)) in zip(axes, compared.items(), strict=True):
        _draw(row, title, cause, effect, delay)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _draw(row: Any, title: str, cause: Series, effect: Series, delay: Delay | Unmeasurable) -> None:
    over_time, as_stamped, without_delay = row
    delay_ms = delay.delay_ms if isinstance(delay, Delay) else 0.0
    over_time.set_title(f"{title}: {delay_ms:.1f} ms" if isinstance(delay, Delay) else f"{title}: {delay}", loc="left")
    if not len(effect) or not len(cause):
        return
    shown = _standard(effect.values[:, 0])
    if np.corrcoef(_at(cause, effect, delay_ms), shown)[0, 1] < 0.0:
        shown = -shown
    origin_ns = cause.stamps_ns[0]
    over_time.plot((cause.stamps_ns - origin_ns) * 1e-9, _standard(cause.values[:, 0]), color=_CAUSE, lw=1)
    over_time.plot((effect.stamps_ns - origin_ns) * 1e-9, shown, ".", color=_EFFECT, ms=3)
    for axes, shift_ms, label in ((as_stamped, 0.0, "as stamped"), (without_delay, delay_ms, "delay taken out")):
        axes.plot(_at(cause, effect, shift_ms), shown, "-", color=_EFFECT, lw=0.7)
        axes.set_title(label, loc="left", fontsize="small")


def _at(cause: Series, effect: Series, shift_ms: float) -> Array:
    """The cause so much before each sample of the effect."""
    origin_ns = cause.stamps_ns[0]
    then = effect.stamps_ns - origin_ns - ms_to_ns(shift_ms)
    return np.asarray(np.interp(then, cause.stamps_ns - origin_ns, _standard(cause.values[:, 0])))


def _standard(values: Array) -> Array:
    return np.asarray((values - values.mean()) / max(float(values.std()), 1e-12))
