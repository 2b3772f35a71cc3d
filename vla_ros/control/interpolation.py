"""Jerk-limited motion from a target that moves to commands at the controller's rate; able to stop within the range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import ruckig
from numpy.typing import NDArray

from vla_ros.control.limits import AxisLimits
from vla_ros.values import Array

#: Part of the limits that is used, so that rounding does not cross them when differences are divided by the period.
_USED = 0.999
#: Part of the velocity limit a target may move with: the rest serves to catch up with it.
_FOLLOWED = 0.95
#: From this part of the velocity limit on, it is the limit that decides.
_AT_LIMIT = 1.0 - 1e-6
#: Slower than this is standing still [rad/s, rad/s2].
_REST = 1e-9
#: A stop may end this far outside the workspace: targets on its edge are reached [m].
_SLACK_M = 0.002
#: Rounding of a planned position [rad].
_ROUNDING_RAD = 1e-9


@dataclass(frozen=True, eq=False)
class Motion:
    """Commanded joint positions, velocities and accelerations, (J,) each, rad and seconds."""

    positions: Array
    velocities: Array
    accelerations: Array

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing moves."""
        return bool(np.abs(self.velocities).max() < _REST and np.abs(self.accelerations).max() < _REST)


class Smoother:
    """The mean of the last targets: what is linear between the rows of a chunk gets curves for corners.

    Given samples half a window ahead of time, the mean stands in the window's middle: now. A change of velocity takes
    the length of the window instead of being a blow at a row, a steady motion stays as it is.
    """

    def __init__(self) -> None:
        self._samples = np.zeros((0, 0))
        self._weights = np.zeros(0)

    @property
    def last(self) -> Array | None:
        """The sample added last (D,)."""
        return self._samples[-1] if self._samples.size else None

    def forget(self) -> None:
        """Begin anew with the next sample."""
        self._samples = np.zeros((0, 0))

    def add(self, sample: Array, window: int) -> tuple[Array, Array]:
        """The mean (D,) over `window` ticks up to `sample` (D,), and its change per tick."""
        if self._samples.shape != (window + 1, sample.size):
            last = self._samples[-1] if self._samples.shape[1] == sample.size else sample
            self._samples = np.tile(last, (window + 1, 1))
            self._weights = np.full(window + 1, 1.0 / window)
            self._weights[[0, -1]] /= 2.0
        self._samples[:-1] = self._samples[1:]
        self._samples[-1] = sample
        return self._weights @ self._samples, (self._samples[-1] - self._samples[0]) / window


class Interpolator:
    """The commanded motion of several axes, the joints of an arm for one, a period a step, never beyond `limits`.

    Every axis is planned by itself, time-optimally, in the frame that moves with its target: the target's velocity is
    followed without lag or ripple. A step is taken only if all can still stop within the range and the workspace after
    it; otherwise, and when the planner fails, the axis, or all, brake. So positions hold as strictly as rates.

    `straight`: axes arrive together where they can. `outside_m`: how far positions are outside the workspace [m].
    """

    def __init__(
        self,
        limits: AxisLimits,
        period_s: float,
        positions: Array,
        *,
        straight: bool = False,
        outside_m: Callable[[Array], float] = lambda _: 0.0,
    ) -> None:
        count = positions.size
        self._limits = limits
        self._period_s = period_s
        self._outside_m = outside_m
        self._velocity = limits.velocity * _USED
        self._planner = ruckig.Ruckig(count)
        self._pursuit, self._stop = ruckig.InputParameter(count), ruckig.InputParameter(count)
        for request in (self._pursuit, self._stop):
            request.synchronization = ruckig.Synchronization.No
            request.max_acceleration = (limits.acceleration * _USED).tolist()
            request.max_jerk = (limits.jerk * _USED).tolist()
            request.max_velocity = self._velocity.tolist()
        if straight:
            self._pursuit.synchronization = ruckig.Synchronization.Phase
        self._stop.control_interface = ruckig.ControlInterface.Velocity
        self._trajectory = ruckig.Trajectory(count)
        self.anchor(positions)

    @property
    def motion(self) -> Motion:
        """What is commanded now."""
        return self._motion

    @property
    def acted(self) -> tuple[str, ...]:
        """What shaped the last step of `follow` beyond smoothing: velocity, joint_stop, workspace_stop, planner."""
        return self._acted

    def anchor(self, positions: Array) -> None:
        """Command `positions` (J,), at rest, whatever was before."""
        zeros = np.zeros(positions.size)
        self._motion = Motion(np.array(positions, dtype=np.float64), zeros, zeros)
        self._way_out: _Stop | None = None  # none is needed at rest
        self._way_out_s = 0.0  # how far the arm has come on it
        self._end_outside_m = self._outside_m(self._motion.positions)  # where it ends
        self._acted: tuple[str, ...] = ()

    def follow(self, positions: Array, velocities: Array) -> Motion:
        """Step towards a target that is at `positions` (J,) when the step ends and moves with `velocities` (J,)."""
        speed = np.clip(velocities, -_FOLLOWED * self._velocity, _FOLLOWED * self._velocity)
        motion = self._pursue(positions, speed)
        self._acted = ()
        if motion is None:
            self._acted = ("planner",)
            return self.brake()
        lower = np.minimum(self._limits.lower, self._motion.positions)
        upper = np.maximum(self._limits.upper, self._motion.positions)
        escape = self._plan_stop(motion)
        if escape is not None and (unsafe := self._leaves(motion, escape, lower, upper)).any():
            self._acted = ("joint_stop",)
            motion = _merge(unsafe, self._braked(), motion)
            escape = self._plan_stop(motion)
            if escape is not None and self._leaves(motion, escape, lower, upper).any():
                escape = None
        if escape is None:
            return self.brake()
        outside_m = self._outside_m(escape.end)
        if outside_m > max(_SLACK_M, self._end_outside_m):
            self._acted = ("workspace_stop",)
            return self.brake()
        if (np.abs(motion.velocities) > self._velocity * _AT_LIMIT).any():
            self._acted = (*self._acted, "velocity")
        self._motion, self._way_out, self._way_out_s, self._end_outside_m = motion, escape, 0.0, outside_m
        return motion

    def brake(self) -> Motion:
        """Step along the way to a stop, as fast as the limits allow; stand once there."""
        self._motion = self._braked()
        self._way_out_s += self._period_s
        return self._motion

    def _braked(self) -> Motion:
        return self._motion if self._way_out is None else self._way_out.at(self._way_out_s + self._period_s)

    def _pursue(self, positions: Array, speed: Array) -> Motion | None:
        """One period of the fastest way to meet the target, or None where the planner finds none."""
        now, period_s = self._motion, self._period_s
        start = positions - speed * period_s  # where the target is as the step begins: the moving frame's origin
        request = self._pursuit
        request.current_position = (now.positions - start).tolist()
        request.current_velocity = (now.velocities - speed).tolist()
        request.current_acceleration = now.accelerations.tolist()
        request.max_velocity = (self._velocity - speed).tolist()
        request.min_velocity = (-self._velocity - speed).tolist()
        trajectory = self._trajectory
        if not self._plans(request, trajectory):
            return None
        moved = _motion_at(trajectory, period_s)
        motion = Motion(moved.positions + positions, moved.velocities + speed, moved.accelerations)
        return motion if np.isfinite(motion.positions).all() else None

    def _plan_stop(self, motion: Motion) -> _Stop | None:
        """The fastest way to rest from `motion`."""
        self._stop.current_position = motion.positions.tolist()
        self._stop.current_velocity = motion.velocities.tolist()
        self._stop.current_acceleration = motion.accelerations.tolist()
        trajectory = ruckig.Trajectory(motion.positions.size)
        return _Stop(trajectory) if self._plans(self._stop, trajectory) else None

    def _leaves(self, motion: Motion, escape: _Stop, lower: Array, upper: Array) -> NDArray[np.bool_]:
        """Joints (J,) bool that leave the range on the way to rest from `motion`."""
        q, v, a = motion.positions, motion.velocities, motion.accelerations
        jerk = self._limits.jerk * _USED
        # The stop's position is monotonic, but where the deceleration cannot be taken back in time: there the joint
        # turns round, while the jerk still opposes the acceleration.
        beyond = a * a - 2.0 * jerk * np.abs(v)
        least, most = np.minimum(q, escape.end), np.maximum(q, escape.end)
        turns = (v * a < 0.0) & (beyond > 0.0)
        if turns.any():
            turn_s = np.where(turns, (np.abs(a) - np.sqrt(np.maximum(beyond, 0.0))) / jerk, 0.0)
            turn = q + turn_s * (v + turn_s * (a / 2.0 - np.sign(a) * jerk * turn_s / 6.0))
            least, most = np.minimum(least, turn), np.maximum(most, turn)
        return np.asarray((least < lower - _ROUNDING_RAD) | (most > upper + _ROUNDING_RAD), dtype=np.bool_)

    def _plans(self, request: ruckig.InputParameter, trajectory: ruckig.Trajectory) -> bool:
        try:
            result = self._planner.calculate(request, trajectory)
        except ruckig.RuckigError:
            return False
        return result in (ruckig.Result.Working, ruckig.Result.Finished)


class _Stop:
    """A planned way to rest."""

    def __init__(self, trajectory: ruckig.Trajectory) -> None:
        self._trajectory = trajectory
        self._duration_s = float(trajectory.duration)
        #: Where it comes to rest (J,).
        self.end = _motion_at(trajectory, self._duration_s).positions

    def at(self, time_s: float) -> Motion:
        """The motion `time_s` after the plan's start; exactly at rest from its end on."""
        if time_s < self._duration_s:
            return _motion_at(self._trajectory, time_s)
        zeros = np.zeros_like(self.end)
        return Motion(self.end, zeros, zeros)


def _motion_at(trajectory: ruckig.Trajectory, time_s: float) -> Motion:
    positions, velocities, accelerations = trajectory.at_time(time_s)
    return Motion(np.array(positions), np.array(velocities), np.array(accelerations))


def _merge(where: NDArray[np.bool_], chosen: Motion, other: Motion) -> Motion:
    return Motion(
        np.where(where, chosen.positions, other.positions),
        np.where(where, chosen.velocities, other.velocities),
        np.where(where, chosen.accelerations, other.accelerations),
    )
