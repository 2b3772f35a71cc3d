"""From a scheduled target to a permitted joint reference and its velocity: target limits, then inverse kinematics."""

from __future__ import annotations

import math

import numpy as np

from vla_ros.control.guards import Margin, PaceGuard
from vla_ros.control.interpolation import Interpolator, Smoother
from vla_ros.control.kinematics import Kinematics
from vla_ros.control.limits import (
    PACED,
    AxisLimits,
    Interventions,
    LimitsConfig,
    Workspace,
    clamp_to_range,
    refuse_joint_jump,
    refuse_not_finite,
    refuse_pose_jump,
    tcp_speeds,
)
from vla_ros.geometry import rotated, rotation_angle, rotation_between
from vla_ros.robots.robot import Robot
from vla_ros.values import NANOSECONDS_PER_SECOND, Array, Target

#: Further than this from the pose asked for, without being on the way, is out of reach [m, rad].
_REACHED_M = 0.005
_REACHED_RAD = 0.05
#: What the limits of the way's axes are to the TCP.
_OF_THE_TCP = {"velocity": "tcp_speed", "joint_stop": "workspace"}
#: Newton steps that bring a joint target back into the workspace: once per tick, and only where it is outside.
_PROJECTION_ITERATIONS = 8


class Reference:
    """The joint reference of one arm, tick by tick: refuse, move into the permitted space, smooth, solve.

    The TCP's way to a pose, moving and turning, is planned as the joints' is, straight and jerk-limited, gently enough
    that the joints keep up and the arm stays on it: joints that are late each by themselves leave it by centimetres. A
    pose is solved from the last reference (at first from the command), never further than the velocity limits allow in
    a tick: so the reference is continuous and never changes the elbow's side.
    """

    def __init__(
        self, kinematics: Kinematics, robot: Robot, config: LimitsConfig, limits: AxisLimits, period_ns: int
    ) -> None:
        self._kinematics = kinematics
        self._config = config
        self._limits = limits
        self._period_s = period_ns / NANOSECONDS_PER_SECOND
        self._home = np.array(robot.home_rad)
        self._workspace = Workspace.of(config)
        self._margin = Margin(kinematics, self._workspace)
        self._pace = Pace(robot, config, self._period_s)
        self._smoother = Smoother()
        self._tcp_limits = AxisLimits.of_tcp(robot, config)
        self._way: PoseWay | None = None
        self._last: Array | None = None  # joint positions

    def forget(self) -> None:
        """Start from the command again."""
        self._smoother.forget()
        self._pace.forget()
        self._way = None
        self._last = None

    def of(
        self,
        target: Target,
        window: int,
        command: Array,
        command_pose: Array,
        interventions: Interventions,
        step_s: float | None = None,
    ) -> tuple[Array, Array]:
        """Joint positions (J,) [rad] now and their velocities [rad/s], for a `target` half a `window` of ticks ahead.

        `command` (J,) and `command_pose` (7,) are what is commanded now; `step_s` is the time since the last tick, a
        period if nothing else is known. Raises Refused for a target that must not be followed; says in `interventions`
        what was moved.
        """
        step_s = self._period_s if step_s is None else step_s
        refuse_not_finite(target.values, "a target")
        if target.pose is not None:
            refuse_pose_jump(target.pose, command_pose, self._config)
            pose, moved = self._workspace.clamp(target.pose)
            if moved:
                interventions.act("workspace")
            mean, change = self._smoother.add(self._same_sign(pose), window)
            if self._way is None:
                self._way = PoseWay(self._tcp_limits, self._period_s, command_pose)
            wanted, following = _with_unit_quaternion(mean), _with_unit_quaternion(mean + change)
            pose, following = self._way.follow(wanted, following, interventions, step_s)
            return self._solve(pose, following, command, interventions, step_s)
        assert target.joint_positions is not None  # a target is either
        refuse_joint_jump(target.joint_positions, command, self._config)
        permitted = self._permitted(target.joint_positions, interventions)
        positions, change = self._smoother.add(permitted, window)
        return self._paced(positions, change, command, command_pose, interventions, step_s)

    def _paced(
        self,
        positions: Array,
        change: Array,
        command: Array,
        command_pose: Array,
        interventions: Interventions,
        step_s: float,
    ) -> tuple[Array, Array]:
        """Joint positions (J,) and velocities, as far as the TCP's speeds allow to come, all joints alike."""
        last, forward = self._last, self._kinematics.forward
        last_pose = command_pose if last is None else None
        last = command if last is None else last
        velocities = change / self._period_s
        step = np.abs(positions - last)
        if not self._pace.keeps_up(float(self._kinematics.levers_m @ step), float(step.sum()), step_s):
            last_pose = forward(last) if last_pose is None else last_pose
            pose, following = forward(positions), forward(positions + change)
            share = self._pace.share(last_pose, pose, following, interventions, step_s)
            if share < 1.0:
                step = share * (positions - last)
                positions, velocities = last + step, step / step_s
        self._last = positions
        return positions, velocities

    def _same_sign(self, pose: Array) -> Array:
        """The pose, with the one of its two quaternions that is nearer to the last: only then they have a mean."""
        last = self._smoother.last
        if last is not None and last.size == pose.size and last[3:] @ pose[3:] < 0.0:
            return np.concatenate([pose[:3], -pose[3:]])
        return pose

    def _solve(
        self, pose: Array, following: Array, command: Array, interventions: Interventions, step_s: float
    ) -> tuple[Array, Array]:
        limits = self._limits
        seed, _ = clamp_to_range(command if self._last is None else self._last, limits)
        reach = self._kinematics.toward(
            seed,
            pose,
            period_s=step_s,
            home=self._home,
            lower=limits.lower,
            upper=limits.upper,
            velocity=limits.velocity,
        )
        if not reach.scaled and (reach.position_error_m > _REACHED_M or reach.rotation_error_rad > _REACHED_RAD):
            interventions.act("unreachable")
        self._last = reach.joint_positions
        velocities = self._kinematics.joint_velocity(
            reach.joint_positions,
            pose,
            following,
            period_s=self._period_s,
            home=self._home,
            lower=limits.lower,
            upper=limits.upper,
        )
        return reach.joint_positions, velocities

    def _permitted(self, joint_positions: Array, interventions: Interventions) -> Array:
        """Joint positions within their range, and with the TCP within the workspace."""
        limits = self._limits
        clamped, moved = clamp_to_range(joint_positions, limits)
        if moved:
            interventions.act("joint_range")
        if self._margin.exceeds(0.0, clamped):
            return clamped
        pose, outside = self._workspace.clamp(self._kinematics.forward(clamped))
        if not outside:
            return clamped
        interventions.act("workspace")
        return self._kinematics.toward(
            clamped,
            pose,
            period_s=1.0,
            home=clamped,
            lower=limits.lower,
            upper=limits.upper,
            velocity=np.full_like(clamped, np.inf),
            iterations=_PROJECTION_ITERATIONS,
        ).joint_positions


class PoseWay:
    """The TCP's way to a pose that moves: position and turn as six axes, straight and jerk-limited, within its speeds.

    Turns have no coordinates that go on for ever. Those of the turning axes add up the small turns of every tick; only
    how they change means something.
    """

    def __init__(self, limits: AxisLimits, period_s: float, pose: Array) -> None:
        """`pose` (7,): where the TCP is, at rest."""
        self._period_s = period_s
        self._linear_m_s, self._angular_rad_s = float(limits.velocity[0]), float(limits.velocity[3])
        self._pose = pose
        start = np.concatenate([pose[:3], np.zeros(3)])
        guard = PaceGuard(limits.velocity)
        self._axes = Interpolator(limits, period_s, start, straight=True, guards=(guard,))

    def follow(
        self, pose: Array, following: Array, interventions: Interventions, step_s: float | None = None
    ) -> tuple[Array, Array]:
        """Where the TCP goes now and a tick later (7,), for a target at `pose` that is at `following` a tick later.

        `step_s` is the time since the last tick. Says in `interventions` what, but for smoothing, keeps it back.
        """
        axes = self._axes.motion.positions
        velocities = _between(pose, following) / self._period_s
        linear, angular = velocities[:3] / self._linear_m_s, velocities[3:] / self._angular_rad_s
        velocities /= max(1.0, math.sqrt(linear @ linear), math.sqrt(angular @ angular))
        motion = self._axes.follow(axes + _between(self._pose, pose), velocities, step_s)
        for name in self._axes.acted:
            interventions.act(_OF_THE_TCP.get(name, name))
        self._pose = _moved(self._pose, motion.positions - axes)
        return self._pose, _moved(self._pose, motion.velocities * self._period_s)


class Pace:
    """Scales time: how much of the way to a target the TCP may come in a tick, so that it keeps its speeds.

    A target that is no further than a tick's way is met. One that got away is caught up with, by a way on which the
    TCP can still slow down to the target's own speed: so it is not overshot when it stops.
    """

    def __init__(self, robot: Robot, config: LimitsConfig, period_s: float) -> None:
        self._linear_m_s, self._angular_rad_s = tcp_speeds(robot, config)
        self._slowing_hz = config.tcp_acceleration_m_s2 / self._linear_m_s  # parts of the speed, a second
        self._period_s = period_s
        self._is_behind = False

    def forget(self) -> None:
        """Begin anew."""
        self._is_behind = False

    def keeps_up(self, way_m: float, turn_rad: float, step_s: float) -> bool:
        """Whether a TCP that moves and turns at most so far in a tick is surely not slowed down."""
        needs_s = max(way_m / self._linear_m_s, turn_rad / self._angular_rad_s)
        return not self._is_behind and needs_s <= PACED * step_s

    def share(self, last: Array, pose: Array, following: Array, interventions: Interventions, step_s: float) -> float:
        """The part of the way from the pose (7,) of the `last` tick to `pose`, which is at `following` a tick later.

        `step_s` is the time since the last tick. Says tcp_speed in `interventions` where it is the TCP's speed that
        allows no more.
        """
        behind_s = self._needs_s(last, pose)
        if not self._is_behind and behind_s <= PACED * step_s:
            return 1.0
        own = self._needs_s(pose, following) / self._period_s
        paced = own + math.sqrt(2.0 * self._slowing_hz * behind_s)
        if paced > PACED:
            paced = PACED
            interventions.act("tcp_speed")
        self._is_behind = paced * step_s < behind_s
        return paced * step_s / behind_s if self._is_behind else 1.0

    def _needs_s(self, start: Array, end: Array) -> float:
        """How long the TCP needs at least between two poses (7,)."""
        way = end[:3] - start[:3]
        return max(math.sqrt(way @ way) / self._linear_m_s, rotation_angle(start[3:], end[3:]) / self._angular_rad_s)


def _between(start: Array, end: Array) -> Array:
    """The way from one pose (7,) to another (6,): metres, then the rotation vector [rad]."""
    return np.concatenate([end[:3] - start[:3], rotation_between(start[3:], end[3:])])


def _moved(pose: Array, way: Array) -> Array:
    return np.concatenate([pose[:3] + way[:3], rotated(pose[3:], way[3:])])


def _with_unit_quaternion(pose: Array) -> Array:
    return np.concatenate([pose[:3], pose[3:] / math.sqrt(pose[3:] @ pose[3:])])
