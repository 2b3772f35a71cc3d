"""A clock that cameras read: the present time as a QR code on a screen, and what a camera's stamps say beside it."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from vla_ros.calibration.latency import Delay, Unmeasurable
from vla_ros.timing.stamps import ns_to_ms
from vla_ros.values import NANOSECONDS_PER_MILLISECOND

Picture = NDArray[np.uint8]  # (H, W) grey, or (H, W, 3) rgb

#: Digits of a time in milliseconds since 1970, until the year 2286; a code of the smallest size holds them with the
#: strongest correction of errors.
_DIGITS = 13
_QUIET_MODULES = 4  # of white around a code, as its standard asks for
_FEWEST_READ = 10


def encode(time_ns: int) -> Picture:
    """A time as a small picture (H, W), one pixel a module, to be shown enlarged; it carries milliseconds."""
    parameters = cv2.QRCodeEncoder.Params()
    parameters.version = 1
    parameters.mode = cv2.QRCodeEncoder_MODE_NUMERIC
    parameters.correction_level = cv2.QRCodeEncoder_CORRECT_LEVEL_H
    code = cv2.QRCodeEncoder.create(parameters).encode(f"{time_ns // NANOSECONDS_PER_MILLISECOND:0{_DIGITS}d}")
    dark = np.argwhere(code == 0)
    (top, left), (bottom, right) = dark.min(axis=0), dark.max(axis=0)
    code = np.asarray(code, dtype=np.uint8)
    return np.pad(code[top : bottom + 1, left : right + 1], _QUIET_MODULES, constant_values=255)


def decode(picture: Picture) -> int | None:
    """The time [ns, whole milliseconds] that a picture shows; None where none can be read."""
    try:
        text, *_ = cv2.QRCodeDetector().detectAndDecode(picture)
    except cv2.error:  # what it takes for a code can be too much for it
        return None
    if len(text) != _DIGITS or not text.isdigit():
        return None
    return int(text) * NANOSECONDS_PER_MILLISECOND


def filmed_latency(read: Sequence[tuple[int, int | None]], drawn: Sequence[tuple[int, int]]) -> Delay:
    """Stamp minus capture, from pairs (header stamp, time read in the picture).

    `drawn` has every time that was shown, and when it appeared, rising: a picture was taken after that, and before the
    next one appeared; in the middle, on average. The screen's own delay (5 to 30 ms) is part of what is measured.
    Raises Unmeasurable where too few times could be read.
    """
    of_code = {time_ns // NANOSECONDS_PER_MILLISECOND: index for index, (time_ns, _) in enumerate(drawn[:-1])}
    delays_ms = []
    for stamp_ns, time_ns in read:
        index = None if time_ns is None else of_code.get(time_ns // NANOSECONDS_PER_MILLISECOND)
        if index is not None:
            delays_ms.append(ns_to_ms(stamp_ns - (drawn[index][1] + drawn[index + 1][1]) // 2))
    if len(delays_ms) < _FEWEST_READ:
        raise Unmeasurable(
            f"the shown time could be read in {len(delays_ms)} of {len(read)} pictures: the code should fill a good "
            "part of the picture, sharp and neither too bright nor too dark"
        )
    return Delay(float(np.median(delays_ms)), float(np.std(delays_ms)))
