"""From a scheduled target to a permitted joint reference and its velocity: target limits, then inverse kinematics."""

from __future__ import annotations

import numpy as np

from vla_ros.control.interpolation import Interpolator, Motion, Smoother
from vla_ros.control.kinematics import Kinematics
from vla_ros.control.limits import (
    AxisLimits,
    Interventions,
    LimitsConfig,
    clamp_to_range,
    clamp_to_workspace,
    refuse_joint_jump,
    refuse_not_finite,
    refuse_pose_jump,
)
from vla_ros.robots.robot import Robot
from vla_ros.values import NANOSECONDS_PER_SECOND, Array, Target

#: Further than this from the pose asked for, without being on the way, is out of reach [m, rad].
_REACHED_M = 0.005
_REACHED_RAD = 0.05
#: Newton steps that bring a joint target back into the workspace: once per tick, and only where it is outside.
_PROJECTION_ITERATIONS = 8


class Reference:
    """The joint reference of one arm, tick by tick: refuse, move into the permitted space, smooth, solve.

    The TCP's way to a pose is planned as the joints' is, straight and jerk-limited, gently enough that the joints keep
    up and the arm stays on it: joints that are late each by themselves leave it by centimetres. A pose is solved from
    the last reference (at first from the command), never further than the velocity limits allow in a tick: so the
    reference is continuous and never changes the elbow's side.
    """

    def __init__(
        self, kinematics: Kinematics, robot: Robot, config: LimitsConfig, limits: AxisLimits, period_ns: int
    ) -> None:
        self._kinematics = kinematics
        self._config = config
        self._limits = limits
        self._period_s = period_ns / NANOSECONDS_PER_SECOND
        self._home = np.array(robot.home_rad)
        self._smoother = Smoother()
        self._tcp_limits = AxisLimits.of_tcp(config)
        self._way: Interpolator | None = None  # of the TCP's position
        self._last: Array | None = None

    def forget(self) -> None:
        """Start from the command again."""
        self._smoother.forget()
        self._way = None
        self._last = None

    def of(
        self, target: Target, window: int, command: Array, command_pose: Array, interventions: Interventions
    ) -> tuple[Array, Array]:
        """Joint positions (J,) [rad] now and their velocities [rad/s], for a `target` half a `window` of ticks ahead.

        `command` (J,) and `command_pose` (7,) are what is commanded now. Raises Refused for a target that must not be
        followed; says in `interventions` what was moved.
        """
        refuse_not_finite(target.values, "a target")
        if target.pose is not None:
            refuse_pose_jump(target.pose, command_pose, self._config)
            pose, moved = clamp_to_workspace(target.pose, self._config)
            if moved:
                interventions.act("workspace")
            mean, change = self._smoother.add(self._same_sign(pose), window)
            way = self._on_the_way(command_pose[:3], mean[:3], change[:3] / self._period_s)
            turned, following = _unit(mean[3:]), _unit(mean[3:] + change[3:])
            return self._solve(
                np.concatenate([way.positions, turned]),
                np.concatenate([way.positions + way.velocities * self._period_s, following]),
                command,
                interventions,
            )
        assert target.joint_positions is not None  # a target is either
        refuse_joint_jump(target.joint_positions, command, self._config)
        positions, change = self._smoother.add(self._permitted(target.joint_positions, interventions), window)
        return positions, change / self._period_s

    def _same_sign(self, pose: Array) -> Array:
        """The pose, with the one of its two quaternions that is nearer to the last: only then they have a mean."""
        last = self._smoother.last
        if last is not None and last.size == pose.size and last[3:] @ pose[3:] < 0.0:
            return np.concatenate([pose[:3], -pose[3:]])
        return pose

    def _on_the_way(self, command_m: Array, target_m: Array, velocity_m_s: Array) -> Motion:
        if self._way is None:
            self._way = Interpolator(self._tcp_limits, self._period_s, command_m, straight=True)
        return self._way.follow(target_m, velocity_m_s)

    def _solve(
        self, pose: Array, following: Array, command: Array, interventions: Interventions
    ) -> tuple[Array, Array]:
        limits = self._limits
        seed, _ = clamp_to_range(command if self._last is None else self._last, limits)
        reach = self._kinematics.toward(
            seed,
            pose,
            period_s=self._period_s,
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
        pose, outside = clamp_to_workspace(self._kinematics.forward(clamped), self._config)
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


def _unit(quaternion: Array) -> Array:
    return np.asarray(quaternion / np.linalg.norm(quaternion), dtype=np.float64)
