"""The TCP's speeds and its workspace, by finite differences of where the commands lead it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.control.arm import ArmConfig
from vla_ros.control.guards import TcpGuard
from vla_ros.control.interpolation import Interpolator
from vla_ros.control.limits import AxisLimits, LimitsConfig, Workspace
from vla_ros.robots.panda import PANDA
from vla_ros.values import POSE_DIMENSIONS

PERIOD_S = 0.01
SLOW = LimitsConfig(tcp_velocity_m_s=0.15, tcp_angular_velocity_rad_s=0.4)
#: The joints could do ten times as much: what holds is the TCP's guard alone.
FAST_JOINTS = LimitsConfig(velocity_scale=1, acceleration_scale=1, jerk_scale=1, tcp_velocity_m_s=0.3)


@pytest.mark.parametrize("config", [SLOW, FAST_JOINTS], ids=["slow", "fast joints"])
@settings(max_examples=5)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_tcp_keeps_its_speeds_whatever_the_target_does(
    assert_keeps, assert_tcp_keeps, kinematics, home, config, seed
):
    limits = AxisLimits.of_joints(PANDA, config)
    random = np.random.default_rng(seed)
    interpolator = Interpolator(limits, PERIOD_S, home, guards=(TcpGuard(kinematics, PANDA, config),))
    commands = [home]
    while len(commands) < 150:
        target = np.clip(interpolator.motion.positions + random.normal(size=7) * 0.7, limits.lower, limits.upper)
        velocities = random.normal(size=7) * random.choice([0.0, 1.0, 10.0])
        brakes = random.random() < 0.2
        for _ in range(int(random.integers(1, 40))):
            motion = interpolator.brake() if brakes else interpolator.follow(target, velocities)
            commands.append(motion.positions)
    assert_keeps(np.array(commands), limits)
    assert_tcp_keeps(np.array(commands), config)


def sweep(bench, kinematics, speed_m_s, turn_rad_s, as_joints):
    """Send an arm a way of its TCP, sideways and turning, and back; the fastest it is asked for."""
    start = kinematics.forward(bench.measured)
    for row in range(20):
        times_s = np.minimum(row * 0.2 + np.arange(10) * 0.1, 2.0)
        rows = np.tile(start, (10, 1))
        rows[:, 1] += speed_m_s * times_s
        half = turn_rad_s * times_s / 2.0
        rows[:, 3:] = np.column_stack([np.cos(half), np.sin(half), 0 * half, 0 * half])  # looking down, turned about z
        if as_joints:
            joints, q = [], bench.measured
            for pose in rows:
                q = kinematics.toward(
                    q, pose, period_s=1.0, home=q, lower=np.full(7, -4.0), upper=np.full(7, 4.0),
                    velocity=np.full(7, 9.0), iterations=20,
                ).joint_positions  # fmt: skip
                joints.append(q)
            bench.send(np.array(joints))
        else:
            bench.send(rows, POSE_DIMENSIONS)
        bench.run(0.2)
    bench.run(1.0)
    return rows[-1]


@pytest.mark.parametrize("as_joints", [True, False], ids=["joint", "pose"])
def test_targets_that_are_too_fast_are_followed_later_on_the_same_way(
    new_bench, kinematics, assert_keeps, assert_tcp_keeps, as_joints
):
    bench = new_bench(ArmConfig(limits=LimitsConfig(tcp_velocity_m_s=0.1))).started()
    goal = sweep(bench, kinematics, 0.12, 0.0, as_joints)
    assert bench.counters["tcp_speed"] >= 1
    assert_keeps(bench.path(), AxisLimits.of_joints(PANDA, LimitsConfig()))
    assert_tcp_keeps(bench.path(), LimitsConfig(tcp_velocity_m_s=0.1))
    tcp = np.array([command.tcp_pose for command in bench.commands])
    np.testing.assert_allclose(tcp[-1, :3], goal[:3], atol=0.002)
    assert tcp[:, 1].max() < goal[1] + 0.003  # it slows down in time
    assert np.abs(tcp[:, [0, 2]] - goal[[0, 2]]).max() < 0.015  # and stays near the line
    speeds = np.diff(tcp[:, 1]) / PERIOD_S
    assert np.median(speeds[(tcp[1:, 1] > 0.03) & (tcp[1:, 1] < 0.15)]) > 0.085  # of the 0.1 there is


def test_turns_that_are_too_fast_are_followed_later(new_bench, kinematics, assert_tcp_keeps):
    config = LimitsConfig(tcp_angular_velocity_rad_s=0.25)
    bench = new_bench(ArmConfig(limits=config)).started()
    goal = sweep(bench, kinematics, 0.0, 0.35, as_joints=False)
    assert bench.counters["tcp_speed"] >= 1
    assert_tcp_keeps(bench.path(), config)
    assert abs(bench.commands[-1].tcp_pose[3:] @ goal[3:]) == pytest.approx(1.0, abs=1e-4)


def test_what_is_slow_enough_is_left_alone(new_bench, kinematics):
    bench = new_bench().started()
    sweep(bench, kinematics, 0.1, 0.3, as_joints=False)
    assert "tcp_speed" not in bench.counters


def test_the_robot_s_own_speeds_hold_too(kinematics, home, assert_tcp_keeps):
    config = LimitsConfig(
        velocity_scale=1, acceleration_scale=1, jerk_scale=1, tcp_velocity_m_s=9, tcp_angular_velocity_rad_s=9
    )
    limits = AxisLimits.of_joints(PANDA, config)
    interpolator = Interpolator(limits, PERIOD_S, home, guards=(TcpGuard(kinematics, PANDA, config),))
    target = np.array([2.0, 0.3, 0.0, -1.0, 1.5, 2.5, 2.5])
    path = np.array([interpolator.follow(target, np.zeros(7)).positions for _ in range(150)])
    assert_tcp_keeps(path, LimitsConfig(tcp_velocity_m_s=1.7, tcp_angular_velocity_rad_s=2.5))


@settings(max_examples=8)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_tcp_never_leaves_its_workspace_and_from_outside_only_comes_nearer(kinematics, home, seed):
    config = LimitsConfig(planes={"wall": (0.0, 0.8, 0.6, 0.2)})
    workspace, limits = Workspace.of(config), AxisLimits.of_joints(PANDA, config)
    random = np.random.default_rng(seed)
    start = home + random.normal(size=7) * 0.4
    start = np.clip(start, limits.lower, limits.upper)
    interpolator = Interpolator(limits, PERIOD_S, start, guards=(TcpGuard(kinematics, PANDA, config),))
    path = [start]
    for _ in range(6):
        target = np.clip(home + random.normal(size=7) * 0.6, limits.lower, limits.upper)
        path += [interpolator.follow(target, np.zeros(7)).positions for _ in range(40)]
    depths_m = workspace.depths_m(np.array([kinematics.forward(row)[:3] for row in path]))
    assert (depths_m[1:] >= np.minimum(depths_m[:-1], -0.002) - 1e-6).all()


def test_levers_are_as_long_as_the_tcp_can_be_from_each_axis(kinematics):
    random = np.random.default_rng(3)
    lower, upper = AxisLimits.of_joints(PANDA, LimitsConfig()).lower, AxisLimits.of_joints(PANDA, LimitsConfig()).upper
    found = np.zeros(7)
    for _ in range(2000):
        jacobian = kinematics.jacobian(random.uniform(lower, upper))
        found = np.maximum(found, np.linalg.norm(jacobian[:3], axis=0))
    assert (found <= kinematics.levers_m + 1e-12).all()
    assert (found >= 0.5 * kinematics.levers_m).all()
