"""A camera frame as it came, decoded when it is first looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from vla_ros.values import Image


class Frame:
    """A camera frame as it came; decoded when first looked at, on whichever thread that is."""

    __slots__ = ("_decode", "_decoded", "_given")

    def __init__(self, given: Any, decode: Callable[[Any], Image]) -> None:
        self._given = given
        self._decode = decode
        self._decoded: Image | None = None

    def image(self) -> Image:
        """The frame as an image; raises ValueError where it cannot be decoded."""
        given = self._given  # taken first: another thread forgets it only once there is the image
        if self._decoded is None:
            self._decoded = self._decode(given)
            self._given = None
        return self._decoded


def as_given(frame: Any) -> Image:
    """What is an image already."""
    return cast(Image, frame)
