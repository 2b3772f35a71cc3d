"""Pose targets that come late: the TCP catches up, turning too, as its limits say, and stays on its way."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vla_ros.control.arm import ArmConfig
from vla_ros.control.limits import AxisLimits, Interventions, LimitsConfig
from vla_ros.control.reference import PoseWay
from vla_ros.geometry import rotated, rotation_angle
from vla_ros.robots.panda import PANDA
from vla_ros.values import POSE_DIMENSIONS

PERIOD_S = 0.01
LATE_S = 0.3
CONFIG = LimitsConfig()


def least_s(angle_rad: float) -> float:
    """How long a turn about an axis takes from rest to rest, at constant jerk, acceleration, jerk and so back."""
    ramp_s = CONFIG.tcp_angular_acceleration_rad_s2 / CONFIG.tcp_angular_jerk_rad_s3
    return ramp_s + math.sqrt(ramp_s**2 + 4.0 * angle_rad / CONFIG.tcp_angular_acceleration_rad_s2)


@pytest.mark.parametrize("axis", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.48, -0.6, 0.64)])
def test_a_turn_that_is_late_is_caught_up_in_time_and_moves_the_tcp_nowhere(new_bench, kinematics, axis):
    bench = new_bench().started()
    start, angle_rad, begin_ns = kinematics.forward(bench.measured), 0.45, bench.now_ns
    target = np.concatenate([start[:3], rotated(start[3:], angle_rad * np.array(axis))])
    bench.run(LATE_S)
    bench.send(np.tile(target, (15, 1)), POSE_DIMENSIONS, age_ns=bench.now_ns - begin_ns)
    come = len(bench.commands)
    bench.run(1.1)
    commands = bench.commands[come:]
    left_rad = np.array([rotation_angle(command.tcp_pose[3:], target[3:]) for command in commands])
    assert (left_rad[round(least_s(angle_rad) / PERIOD_S) + 5 :] < 0.01).all()
    off_m = np.linalg.norm([command.tcp_pose[:3] - start[:3] for command in commands], axis=1)
    assert off_m.max() < 0.2 * CONFIG.tcp_velocity_m_s * PERIOD_S  # a fifth of a tick's way
    assert not {"tcp_speed", "velocity", "jump"} & set(bench.counters)


def test_a_turn_that_is_late_leaves_a_motion_on_its_line(new_bench, kinematics):
    bench = new_bench().started()
    start, begin_ns, turn = kinematics.forward(bench.measured), bench.now_ns, np.array([0.2, 0.3, 0.2])
    bench.run(LATE_S)
    for _ in range(6):
        due_s = np.minimum((bench.now_ns - begin_ns) * 1e-9 + 0.1 * np.arange(10), 1.0)
        rows = np.tile(np.concatenate([start[:3], rotated(start[3:], turn)]), (10, 1))
        rows[:, 1] += 0.2 * due_s
        bench.send(rows, POSE_DIMENSIONS)
        bench.run(0.2)
    path = np.array([command.tcp_pose[:3] for command in bench.commands]) - start[:3]
    assert np.linalg.norm(path[:, [0, 2]], axis=1).max() < 0.003
    assert np.abs(np.diff(path[:, 1])).sum() < 0.2 + 0.005  # there, and neither back nor beyond
    assert path[-1, 1] == pytest.approx(0.2, abs=1e-4)
    assert not {"tcp_speed", "velocity", "jump"} & set(bench.counters)


def test_axes_that_are_too_fast_together_are_slowed_down_on_the_line(new_bench, kinematics, assert_tcp_keeps):
    config = LimitsConfig(tcp_velocity_m_s=0.1)
    bench = new_bench(ArmConfig(limits=config)).started()
    start, begin_ns, direction = kinematics.forward(bench.measured), bench.now_ns, np.array([1, 1, -1]) / math.sqrt(3)
    for _ in range(15):
        due_s = np.minimum((bench.now_ns - begin_ns) * 1e-9 + 0.1 * np.arange(10), 1.5)
        rows = np.tile(start, (10, 1))
        rows[:, :3] += np.outer(0.12 * due_s, direction)
        bench.send(rows, POSE_DIMENSIONS)
        bench.run(0.2)
    assert bench.counters["tcp_speed"] >= 1
    assert_tcp_keeps(bench.path(), config)
    path = np.array([command.tcp_pose[:3] for command in bench.commands]) - start[:3]
    along = path @ direction
    assert np.linalg.norm(path - np.outer(along, direction), axis=1).max() < 0.002
    assert along.max() < 0.18 + 0.002
    speeds = np.diff(along) / PERIOD_S
    assert np.median(speeds[(along[1:] > 0.03) & (along[1:] < 0.15)]) > 0.09  # of the 0.1 there is


def test_a_pose_that_runs_away_is_followed_in_its_direction():
    """Faster than the TCP may be, in x twice as much as in y: both are slowed down alike, not each by itself."""
    limits = AxisLimits.of_tcp(PANDA, LimitsConfig())
    pose = np.array([0.3, 0.0, 0.4, 0, 0, 0, 1.0])
    way, interventions = PoseWay(limits, 0.01, pose), Interventions()
    target, step = pose.copy(), np.array([0.02, 0.01, 0, 0, 0, 0, 0])  # 2 and 1 m/s
    for _ in range(80):
        target = target + step
        reached, _ = way.follow(target, target + step, interventions)
    moved = reached[:3] - pose[:3]
    assert moved[0] > 0.2
    assert 0.3 < moved[1] / moved[0] < 0.6
