"""A camera that shows the same picture again and again while the robot moves: it hangs, and who looks at it is blind.

Stamps do not tell: a driver that hangs delivers its last picture with fresh ones. Nor does the picture alone: a real
sensor's noise makes every frame another, but a rendered scene, or one that is too dark, stays the same as long as
nothing moves. A robot that has moved, though, is seen elsewhere by a camera that sees it, and sees something else by
one that it carries.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vla_ros.timing.stamps import ms_to_ns, ns_to_ms
from vla_ros.values import Array

#: A robot of which a joint is so far from where it was is seen to have moved, by a camera of 64 pixels too.
MOVED_RAD = 0.05


class FrozenWatch:
    """Watches the frames of one camera.

    It is frozen once `after_ms` have passed, with the same picture, in which the robot was elsewhere than when that
    picture first came; until another one comes. With 0 it never is.
    """

    def __init__(self, after_ms: float) -> None:
        #: Capture time of the newest frame that is known to have shown nothing new.
        self.frozen_until_ns = 0
        self._after_ns = ms_to_ns(after_ms)
        self._picture: Any = None
        self._newest_ns = self._since_ns = 0
        self._joint_positions: Array | None = None  # as the picture came first
        self._elsewhere_since_ns: int | None = None

    def see(self, capture_ns: int, picture: Any, joint_positions: Array | None) -> None:
        """A frame came: its bytes, in anything whose == compares them, and where the joints (J,) were measured [rad].

        It costs next to nothing: two pictures with noise differ in their first bytes, where comparing them ends.
        """
        if self._newest_ns - self._after_ns < capture_ns < self._newest_ns:
            return  # it was overtaken
        if capture_ns < self._newest_ns:  # the clock jumped back
            self._picture, self.frozen_until_ns = None, 0
        if self._picture is None or picture != self._picture:
            self._picture, self._since_ns = picture, capture_ns
            self._joint_positions, self._elsewhere_since_ns = joint_positions, None
        elif self._joint_positions is None:
            self._joint_positions = joint_positions
        elif self._elsewhere_since_ns is None and joint_positions is not None:
            moved_rad = float(np.abs(joint_positions - self._joint_positions).max())
            self._elsewhere_since_ns = capture_ns if moved_rad > MOVED_RAD else None
        self._newest_ns = capture_ns
        if self.reason:
            self.frozen_until_ns = capture_ns

    @property
    def reason(self) -> str:
        """Why the camera counts as frozen, in words; empty when it does not."""
        since_ns = self._elsewhere_since_ns
        if self._after_ns == 0 or since_ns is None or self._newest_ns - since_ns <= self._after_ns:
            return ""
        same_ms = ns_to_ms(self._newest_ns - self._since_ns)
        return f"frozen, the same picture for {same_ms:.0f} ms, in which the robot moved"
