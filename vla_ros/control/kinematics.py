"""Forward kinematics, Jacobian and damped differential inverse kinematics of an arm, by pinocchio from its URDF."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pinocchio as pin

from vla_ros.robots import description
from vla_ros.robots.robot import Robot
from vla_ros.values import Array

#: Below this singular value of the Jacobian [m/rad, rad/rad] a direction is damped, smoothly more towards zero.
_DAMPED_BELOW = 0.06
_LARGEST_DAMPING = 0.06

#: How fast the null-space motion pulls towards home, and away from a joint limit [1/s].
_HOME_GAIN_HZ = 0.5
_LIMIT_GAIN_HZ = 4.0
#: Distance to a joint limit from which the null space pulls away [rad].
_LIMIT_ZONE_RAD = 0.2

#: Newton's method sees no further than this in one iteration: beyond, its linear model means nothing.
_FURTHEST_M = 0.2
_FURTHEST_RAD = 0.5
#: How often a step that leads away from the goal is halved.
_HALVINGS = 3
#: Good enough: less than any arm repeats, and corrected at the next tick.
_CLOSE_M = 2e-5
_CLOSE_RAD = 1e-4


@dataclass(frozen=True, eq=False)
class Reach:
    """Where a step of inverse kinematics came to, and what is left of the way.

    `joint_positions` (J,) rad. `scaled`: the velocity limit shortened the step, so a residual is no surprise.
    """

    joint_positions: Array
    position_error_m: float
    rotation_error_rad: float
    scaled: bool


class Kinematics:
    """One chain from the robot's base to its TCP; poses (7,) in the base frame. Not thread-safe."""

    def __init__(self, urdf: str, joint_names: Sequence[str], tcp_frame: str) -> None:
        """Read `urdf` (XML text); every joint that is not in `joint_names` is locked at zero.

        Raises ValueError for a joint or frame that is not in the URDF.
        """
        whole = pin.buildModelFromXML(urdf)
        unknown = [name for name in joint_names if not whole.existJointName(name)]
        if unknown:
            raise ValueError(f"the URDF has no joints {unknown}; it has {list(whole.names)[1:]}")
        locked = [whole.getJointId(name) for name in list(whole.names)[1:] if name not in joint_names]
        self._model = pin.buildReducedModel(whole, locked, pin.neutral(whole))
        if list(self._model.names)[1:] != list(joint_names):
            raise ValueError(f"joints stand in the URDF as {list(self._model.names)[1:]}, not as {list(joint_names)}")
        if not self._model.existFrame(tcp_frame):
            raise ValueError(f"the URDF has no frame {tcp_frame!r}")
        self._frame = self._model.getFrameId(tcp_frame)
        self._data = self._model.createData()
        #: How far the TCP can be from each joint's axis at most (J,) [m].
        self.levers_m = levers_m(self._model, len(joint_names), self._model.frames[self._frame].placement.translation)

    def forward(self, joint_positions: Array) -> Array:
        """The TCP pose (7,) at `joint_positions` (J,); qw >= 0."""
        pin.framesForwardKinematics(self._model, self._data, joint_positions)
        return _pose(self._data.oMf[self._frame])

    def placements(self, joint_positions: Array) -> Array:
        """The TCP's homogeneous matrices (N, 4, 4) at rows of joint positions (N, J)."""
        placement = self._data.oMf[self._frame]
        matrices = np.empty((len(joint_positions), 4, 4))
        for matrix, row in zip(matrices, joint_positions, strict=True):
            pin.framesForwardKinematics(self._model, self._data, row)
            matrix[:] = placement.homogeneous
        return matrices

    def jacobian(self, joint_positions: Array) -> Array:
        """The TCP Jacobian (6, J): linear rows [m/rad] over angular [rad/rad], axes of the base."""
        pin.computeJointJacobians(self._model, self._data, joint_positions)
        pin.updateFramePlacement(self._model, self._data, self._frame)
        jacobian = pin.getFrameJacobian(self._model, self._data, self._frame, pin.LOCAL_WORLD_ALIGNED)
        return np.asarray(jacobian, dtype=np.float64)

    def toward(
        self,
        joint_positions: Array,
        pose: Array,
        *,
        period_s: float,
        home: Array,
        lower: Array,
        upper: Array,
        velocity: Array,
        iterations: int = 3,
    ) -> Reach:
        """Move `joint_positions` (J,) towards `pose` (7,), as far as `velocity` (J,) [rad/s] allows in `period_s`.

        Damped least squares, at most `iterations` Newton steps. The null space pulls towards `home` and away from the
        limits. The result stays within `lower` and `upper`, or where the start already was outside, as far as it was.
        A step that is too long is shortened as a whole, so that the TCP keeps its direction.
        """
        lower, upper = np.minimum(lower, joint_positions), np.maximum(upper, joint_positions)
        goal = _placement(pose)
        furthest = velocity * period_s
        q, error = joint_positions, self._difference(joint_positions, goal)
        pull = _null_space_pull(q, home, lower, upper) * period_s
        scaled = False
        for _ in range(iterations):
            step = _solve_within(self.jacobian(q), _shorten(error), pull, lower - q, upper - q)
            pull = np.zeros_like(q)
            fraction = _fraction_within(q - joint_positions, step, furthest)
            scaled = fraction < 1.0
            nearer = self._nearer(q, fraction * step, error, goal)
            if nearer is None:
                break
            q, error = nearer
            if scaled or _is_close(error):
                break
        return Reach(q, _length(error[:3]), _length(error[3:]), scaled)

    def joint_velocity(
        self,
        joint_positions: Array,
        start: Array,
        end: Array,
        *,
        period_s: float,
        home: Array,
        lower: Array,
        upper: Array,
    ) -> Array:
        """Joint velocity (J,) [rad/s] of a TCP that moves from pose `start` to `end` (7,) within `period_s`.

        With the null-space motion that `toward` makes, so that it is what a sequence of its steps amounts to.
        """
        jacobian = self.jacobian(joint_positions)
        motion = _difference(_placement(start), _placement(end))
        pull = _null_space_pull(joint_positions, home, lower, upper) * period_s
        room_down, room_up = np.minimum(lower - joint_positions, 0.0), np.maximum(upper - joint_positions, 0.0)
        return _solve_within(jacobian, _shorten(motion), pull, room_down, room_up) / period_s

    def _difference(self, joint_positions: Array, goal: pin.SE3) -> Array:
        """The way of the TCP to `goal` (6,)."""
        pin.framesForwardKinematics(self._model, self._data, joint_positions)
        return _difference(self._data.oMf[self._frame], goal)

    def _nearer(self, q: Array, step: Array, error: Array, goal: pin.SE3) -> tuple[Array, Array] | None:
        """Joint positions after `step`, or a half of it or a quarter, that are nearer to `goal`, and the error there.

        None where none is nearer: without this, what is out of reach is circled for ever instead of being approached.
        """
        for _ in range(_HALVINGS + 1):
            moved = self._difference(q + step, goal)
            if moved @ moved < error @ error or _is_close(moved):
                return q + step, moved
            step = step / 2.0
        return None


def for_robot(robot: Robot) -> Kinematics:
    """The kinematics of `robot`'s own URDF."""
    return Kinematics(description.urdf(robot), robot.joint_names, robot.tcp_frame)


def levers_m(model: pin.Model, joint: int, point_m: Array) -> Array:
    """How far a point of the link after `joint` (from 1 on) can be from each joint's axis (J,) [m], 0 beyond `joint`.

    The first offset counts as far as it leads away from the axis, those after it, each turned by its joint, as a whole.
    """
    offsets = [model.jointPlacements[index].translation for index in range(2, joint + 1)] + [point_m]
    away = [
        math.hypot(offset[0], offset[1]) + sum(_length(after) for after in offsets[index + 1 :])
        for index, offset in enumerate(offsets)
    ]
    return np.array(away + [0.0] * (model.nq - joint))


def _solve_within(jacobian: Array, motion: Array, pull: Array, room_down: Array, room_up: Array) -> Array:
    """Joint step (J,) for the TCP `motion` (6,), in the room; a joint at its end leaves it to the others."""
    step = _damped_step(jacobian, motion, pull)
    outside = (step < room_down) | (step > room_up)
    free = ~outside
    while outside.any():
        step[outside] = np.minimum(np.maximum(step, room_down), room_up)[outside]
        if not free.any():
            break
        left_over = motion - jacobian[:, ~free] @ step[~free]
        step[free] = _damped_step(jacobian[:, free], left_over, pull[free])
        outside = free & ((step < room_down) | (step > room_up))
        free &= ~outside
    return step


def _damped_step(jacobian: Array, motion: Array, pull: Array) -> Array:
    """Damped least squares plus `pull` projected on the null space.

    Damping grows only along the singular directions that vanish (Maciejewski and Klein 1988): others stay exact.
    """
    left, singular, right = np.linalg.svd(jacobian, full_matrices=False)
    weakness = np.maximum(1.0 - (singular / _DAMPED_BELOW) ** 2, 0.0)
    inverse = singular / (singular**2 + weakness * _LARGEST_DAMPING**2 + 1e-12)
    step: Array = right.T @ (inverse * (left.T @ motion)) + pull - right.T @ (right @ pull)
    return step


def _null_space_pull(q: Array, home: Array, lower: Array, upper: Array) -> Array:
    """The velocity [rad/s] the null space would like: home, and away from limits that are near."""
    from_lower = np.maximum(_LIMIT_ZONE_RAD - (q - lower), 0.0)
    from_upper = np.maximum(_LIMIT_ZONE_RAD - (upper - q), 0.0)
    return _HOME_GAIN_HZ * (home - q) + _LIMIT_GAIN_HZ * (from_lower - from_upper)


def _fraction_within(moved: Array, step: Array, furthest: Array) -> float:
    """How much of `step` (J,) keeps `moved` + `step` within `furthest` (J,) either way: 0 to 1."""
    room = furthest - np.sign(step) * moved
    excess = float((np.abs(step) / np.maximum(room, 1e-12)).max())
    return 1.0 / max(1.0, excess)


def _is_close(error: Array) -> bool:
    return _length(error[:3]) < _CLOSE_M and _length(error[3:]) < _CLOSE_RAD


def _shorten(motion: Array) -> Array:
    return motion / max(1.0, _length(motion[:3]) / _FURTHEST_M, _length(motion[3:]) / _FURTHEST_RAD)


def _length(vector: Array) -> float:
    return math.sqrt(vector @ vector)  # np.linalg.norm takes five times as long, on the way of every tick


def _difference(start: pin.SE3, end: pin.SE3) -> Array:
    """The way from `start` to `end` (6,): metres, then rotation vector [rad], in base axes."""
    turn = start.rotation @ pin.log3(start.rotation.T @ end.rotation)
    return np.concatenate([end.translation - start.translation, turn])


def _placement(pose: Array) -> pin.SE3:
    return pin.XYZQUATToSE3(np.asarray(pose, dtype=np.float64))


def _pose(placement: pin.SE3) -> Array:
    pose = np.asarray(pin.SE3ToXYZQUAT(placement), dtype=np.float64)
    if pose[6] < 0.0:
        pose[3:] = -pose[3:]
    return pose
