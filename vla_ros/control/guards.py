"""What keeps the TCP within its speeds and its workspace on every way the arm may go, or is planned to go."""

from __future__ import annotations

import math

import numpy as np

from vla_ros.control.interpolation import Way
from vla_ros.control.kinematics import Kinematics
from vla_ros.control.limits import LimitsConfig, Workspace, tcp_speeds
from vla_ros.robots.robot import Robot
from vla_ros.values import Array

#: Part of the speeds that is used, so that rounding does not cross them when differences are divided by the period.
_USED = 0.9999
#: The TCP may be this far outside the workspace: targets on its edge are reached [m].
_SLACK_M = 0.002
#: Rounding of a position [m].
_ROUNDING_M = 1e-9


class Margin:
    """A lower bound of how far the TCP is inside the workspace: as last computed, less what it can have moved since."""

    def __init__(self, kinematics: Kinematics, workspace: Workspace) -> None:
        self._kinematics, self._workspace = kinematics, workspace
        self._known_m = -math.inf
        self._known_at: Array = np.zeros(kinematics.levers_m.size)

    def exceeds(self, depth_m: float, joint_positions: Array) -> bool:
        """Whether the TCP at joint positions (J,) is further than `depth_m` inside every boundary."""
        moved_m = float(self._kinematics.levers_m @ np.abs(joint_positions - self._known_at))
        if self._known_m - moved_m > depth_m:
            return True
        self._known_at = joint_positions
        self._known_m = float(self._workspace.depths_m(self._kinematics.forward(joint_positions)[:3]).min())
        return self._known_m > depth_m


class TcpGuard:
    """Looks where the TCP is at every tick of a way: its speeds between them, and that it leaves no workspace.

    From outside the workspace it may only come nearer, tick by tick. A way that cannot be too fast or leave, by how far
    from each joint's axis the TCP can be at most, is not looked at more closely.
    """

    def __init__(self, kinematics: Kinematics, robot: Robot, config: LimitsConfig) -> None:
        self._kinematics = kinematics
        self._workspace = Workspace.of(config)
        self._margin = Margin(kinematics, self._workspace)
        linear_m_s, angular_rad_s = tcp_speeds(robot, config)
        self._linear_m_s, self._angular_rad_s = linear_m_s * _USED, angular_rad_s * _USED
        self._levers_m = kinematics.levers_m

    def objection(self, way: Way) -> str:
        """tcp_speed, workspace_stop, or ""."""
        levers_m, peak = self._levers_m, way.peak
        is_slow = levers_m @ peak < self._linear_m_s and peak.sum() < self._angular_rad_s
        stays = self._margin.exceeds(float(levers_m @ way.travel) - _SLACK_M, way.start.positions)
        if is_slow and stays:
            return ""
        ticks, steps_s = way.ticks, way.steps_s
        if stays:  # only to the last tick at which it could be too fast
            speeds = np.abs(ticks[1:] - ticks[:-1]) / steps_s
            fast = np.flatnonzero((speeds @ levers_m >= self._linear_m_s) | (speeds.sum(axis=1) >= self._angular_rad_s))
            if not fast.size:
                return ""
            ticks, steps_s = ticks[: fast[-1] + 2], steps_s[: fast[-1] + 1]
        placements = self._kinematics.placements(ticks)
        if not is_slow and self._is_fast(placements, steps_s):
            return "tcp_speed"
        if not stays and self._leaves(placements[:, :3, 3]):
            return "workspace_stop"
        return ""

    def _is_fast(self, placements: Array, steps_s: Array) -> bool:
        steps = placements[1:, :3] - placements[:-1, :3]
        squares, steps_s = steps * steps, steps_s[:, 0]
        if (squares[:, :, 3].sum(axis=1) > (self._linear_m_s * steps_s) ** 2).any():
            return True
        # The change of a rotation matrix has the Frobenius norm sqrt(8) sin(angle / 2). At the very speed either answer
        # is right: only a part of what is permitted is used.
        most = np.sin(np.minimum(self._angular_rad_s * steps_s, math.pi) / 2.0)
        return bool((squares[:, :, :3].sum(axis=(1, 2)) > 8.0 * most * most).any())

    def _leaves(self, positions: Array) -> bool:
        depths_m = self._workspace.depths_m(positions)
        return bool((depths_m[1:] < np.minimum(depths_m[:-1], -_SLACK_M) - _ROUNDING_M).any())


class PaceGuard:
    """Keeps the speed of the TCP's planned way: axes that are each slow enough can together be too fast."""

    def __init__(self, velocity: Array) -> None:
        """`velocity` (6,) of the position's axes [m/s], then the turn's [rad/s]; what one may, three may together."""
        self._linear_m_s, self._angular_rad_s = float(velocity[0]), float(velocity[3])

    def objection(self, way: Way) -> str:
        """tcp_speed or ""."""
        if self._is_slow(way.peak):
            return ""
        velocities = np.diff(way.ticks, axis=0) / way.steps_s
        return "" if all(self._is_slow(row) for row in velocities) else "tcp_speed"

    def _is_slow(self, velocities: Array) -> bool:
        linear, angular = velocities[:3], velocities[3:]
        return bool(linear @ linear <= self._linear_m_s**2 and angular @ angular <= self._angular_rad_s**2)
