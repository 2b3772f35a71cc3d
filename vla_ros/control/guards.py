"""What keeps the TCP within its speeds and its workspace on every way the arm may go."""

from __future__ import annotations

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


class TcpGuard:
    """Looks where the TCP is at every tick of a way: its speeds between them, and that it leaves no workspace.

    From outside the workspace it may only come nearer, tick by tick. A way that cannot be too fast or leave, by how far
    from each joint's axis the TCP can be at most, is not looked at more closely.
    """

    def __init__(self, kinematics: Kinematics, robot: Robot, config: LimitsConfig) -> None:
        self._kinematics = kinematics
        self._workspace = Workspace.of(config)
        linear_m_s, angular_rad_s = tcp_speeds(robot, config)
        self._linear_m_s, self._angular_rad_s = linear_m_s * _USED, angular_rad_s * _USED
        self._levers_m = kinematics.levers_m

    def objection(self, way: Way) -> str:
        """tcp_speed, workspace_stop, or ""."""
        levers_m = self._levers_m
        is_slow = levers_m @ way.peak < self._linear_m_s and way.peak.sum() < self._angular_rad_s
        now_m = self._kinematics.placements(way.start.positions[None])[0, :3, 3]
        room_m = float(self._workspace.depths_m(now_m).min()) + _SLACK_M
        stays = levers_m @ way.travel < room_m
        if is_slow and stays:
            return ""
        placements = self._kinematics.placements(way.ticks)
        if not is_slow and self._is_fast(placements, way.period_s):
            return "tcp_speed"
        if not stays and self._leaves(placements[:, :3, 3]):
            return "workspace_stop"
        return ""

    def _is_fast(self, placements: Array, period_s: float) -> bool:
        steps = np.diff(placements[:, :3, 3], axis=0)
        if (steps * steps).sum(axis=1).max() > (self._linear_m_s * period_s) ** 2:
            return True
        turns = np.diff(placements[:, :3, :3], axis=0)  # of Frobenius norm sqrt(8) sin(angle / 2)
        most = np.sqrt(8.0) * np.sin(min(self._angular_rad_s * period_s, np.pi) / 2.0)
        return bool((turns * turns).sum(axis=(1, 2)).max() > most * most)

    def _leaves(self, positions: Array) -> bool:
        depths_m = self._workspace.depths_m(positions)
        return bool((depths_m[1:] < np.minimum(depths_m[:-1], -_SLACK_M) - _ROUNDING_M).any())
