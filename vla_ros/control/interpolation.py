"""Jerk-limited motion from a target that moves to commands at the controller's rate; able to stop within the range."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

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
#: Rounding of planned positions and velocities [rad, rad/s].
_ROUNDING = 1e-9
#: A planner needs a velocity, also where none is permitted: what it plans is looked at before it is taken [rad/s].
_CRAWL = 1e-3
#: Parts of a step that are tried before braking, where it cannot be taken as a whole.
_SHARES = (1.0, 0.7, 0.4, 0.2, 0.1)


@dataclass(frozen=True, eq=False)
class Motion:
    """Commanded joint positions, velocities and accelerations, (J,) each, rad and seconds."""

    positions: Array
    velocities: Array
    accelerations: Array

    @cached_property
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


class Way:
    """One step and the way to rest after it, just as they would be commanded: what is judged before a step is taken."""

    def __init__(
        self, start: Motion, motion: Motion, stop: ruckig.Trajectory, jerk: Array, step_s: float, period_s: float
    ) -> None:
        """`start`: what is commanded now. `motion`: a step later. `stop`: from there to rest, with `jerk` (J,)."""
        self.start = start
        self.motion = motion
        self._step_s = step_s
        self._period_s = period_s
        self._stop = stop
        self._duration_s = float(stop.duration)
        self._jerk = jerk
        self.end = _motion_at(stop, self._duration_s).positions
        q, v, a = motion.positions, motion.velocities, motion.accelerations
        #: The range (J,) of the way to rest, from `motion` on.
        self.least, self.most = np.minimum(q, self.end), np.maximum(q, self.end)
        # That way is monotonic, but where the deceleration cannot be taken back in time: there the joint turns round,
        # while the jerk still opposes the acceleration.
        beyond = a * a - 2.0 * jerk * np.abs(v)
        turns = (v * a < 0.0) & (beyond > 0.0)
        if turns.any():
            turn_s = np.where(turns, (np.abs(a) - np.sqrt(np.maximum(beyond, 0.0))) / jerk, 0.0)
            turn = q + turn_s * (v + turn_s * (a / 2.0 - np.sign(a) * jerk * turn_s / 6.0))
            self.least, self.most = np.minimum(self.least, turn), np.maximum(self.most, turn)

    def at(self, time_s: float) -> Motion:
        """The motion `time_s` after the step; exactly at rest from the end on."""
        if time_s < self._duration_s:
            return _motion_at(self._stop, time_s)
        zeros = np.zeros_like(self.end)
        return Motion(self.end, zeros, zeros)

    @cached_property
    def peak(self) -> Array:
        """No axis is faster than this between two ticks (J,)."""
        now, then = self.start, self.motion
        onward = np.abs(then.velocities) + then.accelerations**2 / (2.0 * self._jerk)
        return np.maximum(np.abs(then.positions - now.positions) / self._step_s, onward)

    @cached_property
    def travel(self) -> Array:
        """How far each axis comes from where it is now (J,)."""
        now = self.start.positions
        return np.asarray(np.maximum(np.maximum(self.most - now, now - self.least), 0.0), dtype=np.float64)

    @cached_property
    def ticks(self) -> Array:
        """Positions (N, J) at the ticks: now, after the step, and a period each until it rests."""
        count = math.ceil(self._duration_s / self._period_s)
        stop, period_s = self._stop, self._period_s
        rows = [stop.at_time(period_s * tick)[0] for tick in range(1, count)]
        return np.array([self.start.positions, self.motion.positions, *rows, self.end])

    @cached_property
    def steps_s(self) -> Array:
        """The times (N - 1, 1) between the ticks."""
        steps_s = np.full((len(self.ticks) - 1, 1), self._period_s)
        steps_s[0] = self._step_s
        return steps_s


class Guard(Protocol):
    """Knows something that axes by themselves do not: where the TCP is, and what is near."""

    def objection(self, way: Way) -> str:
        """Why a step must not be taken, as interventions are called; "" where it may."""


class Interpolator:
    """The commanded motion of several axes, the joints of an arm for one, step by step, never beyond `limits`.

    A step is as long as the time since the last one, a period if nothing else is known: commands then keep the limits
    by their stamps, however unevenly the ticks come.

    Every axis is planned by itself, time-optimally, in the frame that moves with its target: the target's velocity is
    followed without lag or ripple. A step is taken only if the way to rest after it is within the limits, too, and none
    of the `guards` objects. Otherwise the axis that would leave its range brakes, or all go a part of the step that is
    nearer to braking, or brake: whatever happens next, there is a way to rest that keeps every limit.

    `straight`: axes arrive together where they can.
    """

    def __init__(
        self,
        limits: AxisLimits,
        period_s: float,
        positions: Array,
        *,
        straight: bool = False,
        guards: Sequence[Guard] = (),
    ) -> None:
        count = positions.size
        self._limits = limits
        self._period_s = period_s
        self._guards = guards
        self._velocity = limits.velocity * _USED  # wherever the axes are
        self._acceleration, self._jerk = limits.acceleration * _USED, limits.jerk * _USED
        self._planner = ruckig.Ruckig(count)
        self._pursuit, self._stop = ruckig.InputParameter(count), ruckig.InputParameter(count)
        for request in (self._pursuit, self._stop):
            request.synchronization = ruckig.Synchronization.No
            request.max_acceleration = self._acceleration.tolist()
            request.max_jerk = self._jerk.tolist()
            request.max_velocity = self._velocity.tolist()
        self._together = ruckig.Synchronization.Phase if straight else ruckig.Synchronization.No
        self._stop.control_interface = ruckig.ControlInterface.Velocity
        self._trajectory = ruckig.Trajectory(count)
        self.anchor(positions)

    @property
    def motion(self) -> Motion:
        """What is commanded now."""
        return self._motion

    @property
    def acted(self) -> tuple[str, ...]:
        """What shaped the last step of `follow`: a rate at its limit, joint_stop, planner, or a guard's word."""
        return self._acted

    def anchor(self, positions: Array) -> None:
        """Command `positions` (J,), at rest, whatever was before."""
        zeros = np.zeros(positions.size)
        self._motion = Motion(np.array(positions, dtype=np.float64), zeros, zeros)
        self._way_out: Way | None = None  # none is needed at rest
        self._way_out_s = 0.0  # how far the arm has come on it
        self._acted: tuple[str, ...] = ()

    def follow(self, positions: Array, velocities: Array, step_s: float | None = None) -> Motion:
        """Step towards a target that is at `positions` (J,) when the step ends and moves with `velocities` (J,)."""
        step_s = self._period_s if step_s is None else step_s
        slowest, fastest = self._velocity_bounds(step_s)
        speed = np.minimum(np.maximum(velocities, _FOLLOWED * slowest), _FOLLOWED * fastest)
        wanted = self._pursue(positions, speed, slowest, fastest, step_s)
        if wanted is None:
            self._acted = ("planner",)
            return self.brake(step_s)
        acted: dict[str, None] = {}  # in order, once each
        for share in _SHARES:
            motion = wanted if share == 1.0 else _mix(self._braked(step_s), wanted, share)
            way = self._permitted_way(motion, step_s, acted)
            if way is not None:
                acted.update(dict.fromkeys(self._rates_at_limit(way.motion, slowest, fastest, step_s)))
                self._motion, self._way_out, self._way_out_s = way.motion, way, 0.0
                break
        else:
            self.brake(step_s)
        self._acted = tuple(acted)
        return self._motion

    def _rates_at_limit(self, motion: Motion, slowest: Array, fastest: Array, step_s: float) -> Iterator[str]:
        """The rates that are as high as they may be in a step to `motion`."""
        jerk = np.abs(motion.accelerations - self._motion.accelerations) / step_s
        if ((motion.velocities > fastest * _AT_LIMIT) | (motion.velocities < slowest * _AT_LIMIT)).any():
            yield "velocity"
        if (np.abs(motion.accelerations) > self._acceleration * _AT_LIMIT).any():
            yield "acceleration"
        if (jerk > self._jerk * _AT_LIMIT).any():
            yield "jerk"

    def brake(self, step_s: float | None = None) -> Motion:
        """Step along the way to a stop, as fast as the limits allow; stand once there."""
        step_s = self._period_s if step_s is None else step_s
        self._motion = self._braked(step_s)
        self._way_out_s += step_s
        return self._motion

    def _braked(self, step_s: float) -> Motion:
        return self._motion if self._way_out is None else self._way_out.at(self._way_out_s + step_s)

    def _velocity_bounds(self, step_s: float) -> tuple[Array, Array]:
        """The least and the greatest velocity (J,) to plan with, from where the axes will be at the next tick."""
        if self._limits.envelope is None:
            return -self._velocity, self._velocity
        now = self._motion
        slowest, fastest = self._limits.velocity_bounds(now.positions + now.velocities * step_s)
        return np.minimum(slowest * _USED, -_CRAWL), np.maximum(fastest * _USED, _CRAWL)

    def _pursue(self, positions: Array, speed: Array, slowest: Array, fastest: Array, step_s: float) -> Motion | None:
        """One step of the fastest way to meet the target, or None where the planner finds none."""
        now = self._motion
        start = positions - speed * step_s  # where the target is as the step begins: the moving frame's origin
        request = self._pursuit
        request.current_position = (now.positions - start).tolist()
        request.current_velocity = (now.velocities - speed).tolist()
        request.current_acceleration = now.accelerations.tolist()
        request.max_velocity = (fastest - speed).tolist()
        request.min_velocity = (slowest - speed).tolist()
        trajectory = self._trajectory
        request.synchronization = self._together
        if not self._plans(request, trajectory):
            request.synchronization = ruckig.Synchronization.No  # by rounding some have arrived and others have not
            if not self._plans(request, trajectory):
                return None
        moved = _motion_at(trajectory, step_s)
        motion = Motion(moved.positions + positions, moved.velocities + speed, moved.accelerations)
        return motion if np.isfinite(motion.positions).all() else None

    def _permitted_way(self, motion: Motion, step_s: float, acted: dict[str, None]) -> Way | None:
        """The way over `motion`, axes that would leave their limits braked; None, and why, where it is forbidden."""
        way = self._way(motion, step_s)
        if way is not None and (unsafe := self._leaves(way)).any():
            acted["joint_stop"] = None
            way = self._way(_merge(unsafe, self._braked(step_s), motion), step_s)
            if way is not None and self._leaves(way).any():
                return None
        if way is None:
            acted["planner"] = None
            return None
        for guard in self._guards:
            if objection := guard.objection(way):
                acted[objection] = None
                return None
        return way

    def _way(self, motion: Motion, step_s: float) -> Way | None:
        """The way over `motion` and then as fast as can be to rest."""
        self._stop.current_position = motion.positions.tolist()
        self._stop.current_velocity = motion.velocities.tolist()
        self._stop.current_acceleration = motion.accelerations.tolist()
        stop = ruckig.Trajectory(motion.positions.size)
        if not self._plans(self._stop, stop):
            return None
        return Way(self._motion, motion, stop, self._jerk, step_s, self._period_s)

    def _leaves(self, way: Way) -> NDArray[np.bool_]:
        """Joints (J,) bool that leave the range, further than they are outside, or are too fast for where they are."""
        limits, now, then = self._limits, way.start.positions, way.motion.positions
        below = np.minimum(then - np.minimum(limits.lower, now), way.least - np.minimum(limits.lower, then))
        above = np.minimum(np.maximum(limits.upper, now) - then, np.maximum(limits.upper, then) - way.most)
        leaves = np.asarray(np.minimum(below, above) < -_ROUNDING, dtype=np.bool_)
        return leaves if limits.envelope is None else leaves | self._races(way)

    def _races(self, way: Way) -> NDArray[np.bool_]:
        """Joints (J,) bool that are somewhere on the way faster than they may be there."""
        limits, now = self._limits, way.start.positions
        slowest, _ = limits.velocity_bounds(np.minimum(now, way.least))
        _, fastest = limits.velocity_bounds(np.maximum(now, way.most))
        if (way.peak <= np.minimum(fastest, -slowest)).all():
            return np.zeros(way.end.size, dtype=np.bool_)
        velocities = np.diff(way.ticks, axis=0) / way.steps_s
        slowest, fastest = limits.velocity_bounds(way.ticks)
        low = velocities < np.maximum(slowest[1:], slowest[:-1]) - _ROUNDING
        high = velocities > np.minimum(fastest[1:], fastest[:-1]) + _ROUNDING
        return np.asarray((low | high).any(axis=0), dtype=np.bool_)

    def _plans(self, request: ruckig.InputParameter, trajectory: ruckig.Trajectory) -> bool:
        try:
            result = self._planner.calculate(request, trajectory)
        except ruckig.RuckigError:
            return False
        return result in (ruckig.Result.Working, ruckig.Result.Finished)


def _motion_at(trajectory: ruckig.Trajectory, time_s: float) -> Motion:
    positions, velocities, accelerations = trajectory.at_time(time_s)
    return Motion(np.array(positions), np.array(velocities), np.array(accelerations))


def _mix(start: Motion, end: Motion, share: float) -> Motion:
    """`share` of the way from one motion to another; as both come from one, it keeps every rate that both keep."""
    return Motion(
        start.positions + share * (end.positions - start.positions),
        start.velocities + share * (end.velocities - start.velocities),
        start.accelerations + share * (end.accelerations - start.accelerations),
    )


def _merge(where: NDArray[np.bool_], chosen: Motion, other: Motion) -> Motion:
    return Motion(
        np.where(where, chosen.positions, other.positions),
        np.where(where, chosen.velocities, other.velocities),
        np.where(where, chosen.accelerations, other.accelerations),
    )
