"""A gentle motion of one joint that never repeats itself, so that its delay has one answer; and the hand's by it."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

import numpy as np
from numpy.typing import NDArray

from vla_ros.values import Array

#: A second, slower swing below the first; their frequencies have no common period (the golden section).
_SLOWER, _SHARE = 0.618034, 0.5
_LEVER_M = 0.3


@dataclass(frozen=True)
class Sway:
    """Two swings of one joint added up, eased in and out: at rest before 0 and after `duration_s`."""

    amplitude_rad: float = 0.08
    frequency_hz: float = 1.0
    duration_s: float = 8.0
    ease_s: float = 1.0

    def offsets_rad(self, times_s: NDArray[np.floating]) -> Array:
        """How far (N,) the joint is from where it was, at times (N,); never more than the amplitude."""
        phase = 2.0 * pi * self.frequency_hz * times_s
        swing = (np.sin(phase) + _SHARE * np.sin(_SLOWER * phase)) / (1.0 + _SHARE)
        rise = _smooth(times_s / self.ease_s) * _smooth((self.duration_s - times_s) / self.ease_s)
        return np.asarray(self.amplitude_rad * rise * swing, dtype=np.float64)


def along(jacobian: Array, joint: int) -> Array:
    """What a radian of each joint (J,) adds to the hand's motion as `joint` moves it: 1 for itself.

    `jacobian` is the hand's (6, J), moved along [m] and turned [rad]; a turn counts as what a point 0.3 m off moves.
    """
    twist = jacobian[:, joint] * np.array([1.0, 1.0, 1.0, *[_LEVER_M**2] * 3])
    return np.asarray(twist @ jacobian / (twist @ jacobian[:, joint]), dtype=np.float64)


def _smooth(fraction: NDArray[np.floating]) -> Array:
    """From 0 at 0 to 1 at 1, with no jump of velocity or acceleration at the ends."""
    x = np.clip(fraction, 0.0, 1.0)
    return np.asarray(x**3 * (10.0 - 15.0 * x + 6.0 * x**2), dtype=np.float64)
