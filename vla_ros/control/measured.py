"""Measured: the newest joint state of one arm: taken in if it makes sense, how old it is, whether the arm stands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla_ros.control.limits import Interventions
from vla_ros.timing.stamps import ms_to_ns, ns_to_ms
from vla_ros.values import Array

#: An arm that moves faster is not standing, and its pose cannot be taken as the command [rad/s].
_STANDS_BELOW_RAD_S = 0.1


@dataclass(frozen=True, eq=False)
class JointState:
    """Joint positions (J,) [rad] and velocities (J,) [rad/s], where those are told, at one instant."""

    stamp_ns: int
    positions: Array
    velocities: Array | None

    @property
    def stands(self) -> bool:
        """Whether the arm hardly moves; taken for granted where velocities are not told."""
        return self.velocities is None or bool(np.abs(self.velocities).max() <= _STANDS_BELOW_RAD_S)


class Measured:
    """The newest joint state, by its stamp; wrong ones are dropped and counted."""

    def __init__(self, joint_count: int, max_age_ms: float, interventions: Interventions) -> None:
        self._joint_count = joint_count
        self._max_age_ms = max_age_ms
        self._interventions = interventions
        self._state: JointState | None = None
        self._forgot = False

    @property
    def state(self) -> JointState | None:
        """The newest one; None while there is none."""
        return self._state

    def add(self, stamp_ns: int, positions: Array, velocities: Array | None) -> None:
        """Take positions (J,) [rad] and velocities (J,) [rad/s] of a stamp."""
        vectors = [positions] if velocities is None else [positions, velocities]
        if any(np.shape(vector) != (self._joint_count,) or not np.isfinite(vector).all() for vector in vectors):
            self._interventions.count("joint_state_refused")
        elif self._state is not None and 0 < self._state.stamp_ns - stamp_ns < ms_to_ns(self._max_age_ms):
            self._interventions.count("joint_state_out_of_order")
        else:  # a stamp far behind the last one shows that the last one was wrong: it is taken, and its age looked at
            self._state = JointState(stamp_ns, np.array(positions, dtype=np.float64), velocities)

    def moves_as(self, velocities: Array, now_ns: int) -> bool:
        """Whether a fresh state tells velocities that are nearer to these (J,) [rad/s] than to standing."""
        if self._state is None or self._state.velocities is None or self.stale(now_ns):
            return False
        told = np.asarray(self._state.velocities)
        return bool(np.linalg.norm(told - velocities) < np.linalg.norm(told))

    def forget(self) -> None:
        """The stamp of what is there is worthless."""
        self._state, self._forgot = None, True

    def stale(self, now_ns: int) -> str:
        """What is wrong with the age of the newest state, in words; "" when it is fresh."""
        if self._state is None:
            return "none since the clock jumped" if self._forgot else "none yet"
        age_ms = ns_to_ms(now_ns - self._state.stamp_ns)
        return f"{age_ms:.0f} ms old" if abs(age_ms) > self._max_age_ms else ""
