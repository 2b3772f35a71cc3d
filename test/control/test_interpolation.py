"""Interpolation: limits by finite differences whatever the target does, no ripple where it moves steadily."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.control.interpolation import Interpolator, Motion, Smoother, Way
from vla_ros.control.limits import AxisLimits, LimitsConfig
from vla_ros.robots.fr3 import FR3
from vla_ros.robots.panda import PANDA

PERIOD_S = 0.01
CONFIGS = {
    "default": LimitsConfig(),
    "all the robot can": LimitsConfig(velocity_scale=1, acceleration_scale=1, jerk_scale=1, joint_margin_rad=0),
    "gentle": LimitsConfig(velocity_scale=0.1, acceleration_scale=0.05, jerk_scale=0.001),
}


@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1))
def test_limits_hold_whatever_the_target_does(assert_keeps, home, name, seed):
    limits = AxisLimits.of_joints(PANDA, CONFIGS[name])
    random = np.random.default_rng(seed)
    interpolator = Interpolator(limits, PERIOD_S, home)
    commands = [home]
    while len(commands) < 300:
        target = random.uniform(limits.lower, limits.upper)
        if random.random() < 0.5:  # at an end of the range
            target = np.where(random.random(7) < 0.5, limits.lower, limits.upper)
        velocities = random.normal(size=7) * random.choice([0.0, 1.0, 10.0])
        brakes = random.random() < 0.2
        for _ in range(int(random.integers(1, 40))):
            motion = interpolator.brake() if brakes else interpolator.follow(target, velocities)
            commands.append(motion.positions)
    assert_keeps(np.array(commands), limits)


def assert_keeps_envelope(commands, limits):
    """By finite differences, at both ends of each, of commands (T, 7)."""
    velocities = np.diff(commands, axis=0) / PERIOD_S
    low, up = limits.velocity_bounds(commands)
    for end in (slice(1, None), slice(None, -1)):
        assert (velocities <= up[end] * (1 + 1e-6) + 1e-8).all()
        assert (velocities >= low[end] * (1 + 1e-6) - 1e-8).all()


@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=8)
@given(seed=st.integers(0, 2**32 - 1))
def test_velocities_by_position_hold_whatever_the_target_does(assert_keeps, home, name, seed):
    limits = AxisLimits.of_joints(FR3, CONFIGS[name])
    random = np.random.default_rng(seed)
    interpolator = Interpolator(limits, PERIOD_S, home)
    commands = [home]
    while len(commands) < 300:
        target = np.where(random.random(7) < 0.5, limits.lower, limits.upper)
        velocities = random.normal(size=7) * random.choice([0.0, 1.0, 10.0])
        brakes = random.random() < 0.2
        for _ in range(int(random.integers(1, 150))):
            motion = interpolator.brake() if brakes else interpolator.follow(target, velocities)
            commands.append(motion.positions)
    assert_keeps(np.array(commands), limits)
    assert_keeps_envelope(np.array(commands), limits)


def test_an_end_of_the_range_is_reached_though_velocity_fades_there(home):
    limits = AxisLimits.of_joints(FR3, LimitsConfig())
    interpolator = Interpolator(limits, PERIOD_S, home)
    target = np.where(np.arange(7) % 2, limits.lower, limits.upper)
    path = np.array([interpolator.follow(target, np.zeros(7)).positions for _ in range(500)])
    np.testing.assert_allclose(path[-1], target, atol=1e-6)
    assert_keeps_envelope(path, limits)
    half = np.abs(path[-1] - path[0]) / 2
    assert (np.abs(path[200] - path[0]) > half).all()  # and not at a crawl


def test_a_steady_motion_is_followed_without_lag_or_ripple(home, limits):
    interpolator = Interpolator(limits, PERIOD_S, home)
    speed = np.array([0.5, -0.4, 0.3, -0.5, 0.6, 0.7, -0.8])
    targets = [home + speed * PERIOD_S * tick for tick in range(1, 101)]
    commands = np.array([interpolator.follow(target, speed).positions for target in targets])
    np.testing.assert_allclose(commands[40:], targets[40:], atol=1e-7)
    ripple = np.diff(commands[40:], axis=0) / PERIOD_S - speed
    assert np.abs(ripple).max() < 1e-4


def test_a_step_is_reached_without_overshoot(home, limits):
    interpolator = Interpolator(limits, PERIOD_S, home)
    target = home + 0.2
    commands = np.array([interpolator.follow(target, np.zeros(7)).positions for _ in range(150)])
    assert commands.max(axis=0) == pytest.approx(target, abs=1e-7)
    assert commands[-1] == pytest.approx(target, abs=1e-7)
    assert interpolator.motion.is_at_rest


def test_braking_comes_to_rest_and_stays(home, limits, assert_keeps):
    interpolator = Interpolator(limits, PERIOD_S, home)
    commands = [home]
    for tick in range(40):
        commands.append(interpolator.follow(home + 0.02 * tick, np.full(7, 2.0)).positions)
    assert not interpolator.motion.is_at_rest
    commands += [interpolator.brake().positions for _ in range(100)]
    assert interpolator.motion.is_at_rest
    assert (commands[-1] == commands[-20]).all()
    assert_keeps(np.array(commands), limits)


def test_a_target_that_cannot_be_planned_for_brakes(home, limits):
    interpolator = Interpolator(limits, PERIOD_S, home)
    for _ in range(20):
        moving = interpolator.follow(home + 0.3, np.zeros(7))
    stopped = interpolator.follow(np.full(7, np.nan), np.zeros(7))
    assert interpolator.acted == ("planner",)
    assert np.isfinite(stopped.positions).all()
    assert (np.abs(stopped.velocities) < np.abs(moving.velocities) + limits.acceleration * PERIOD_S).all()
    for _ in range(100):
        stopped = interpolator.follow(np.full(7, np.nan), np.zeros(7))
    assert stopped.is_at_rest


def test_from_outside_the_range_it_only_moves_inward(home, limits):
    outside = home.copy()
    outside[3] = limits.upper[3] + 0.04
    interpolator = Interpolator(limits, PERIOD_S, outside)
    path = [interpolator.follow(np.minimum(home, limits.upper), np.full(7, 1.0)).positions[3] for _ in range(400)]
    assert (np.diff([outside[3], *path]) <= 1e-9).all() or max(path) <= outside[3] + 1e-9
    assert path[-1] <= limits.upper[3]


def test_rates_that_reach_their_limits_are_told(home, limits):
    interpolator = Interpolator(limits, PERIOD_S, home)
    acted = []
    for _ in range(200):
        interpolator.follow(home + np.array([2.0, 0, 0, 0, 0, 0, 0]), np.zeros(7))
        acted.append(interpolator.acted)
    assert acted[0] == ("jerk",)
    assert ("velocity",) in acted, "at full speed nothing else is at its limit"
    assert set().union(*acted) == {"velocity", "acceleration", "jerk"}
    assert acted[-1] == ()


@given(slope=st.floats(-5.0, 5.0), offset=st.floats(-3.0, 3.0), window=st.integers(1, 20), ticks=st.integers(25, 60))
def test_smoothing_leaves_a_steady_motion_as_it_is(slope, offset, window, ticks):
    smoother = Smoother()
    for tick in range(ticks):
        mean, change = smoother.add(np.array([offset + slope * tick]), window)
    assert mean[0] == pytest.approx(offset + slope * (ticks - 1 - window / 2), abs=1e-9)
    assert change[0] == pytest.approx(slope, abs=1e-9)


def test_smoothing_makes_a_corner_a_curve():
    smoother, window = Smoother(), 10
    means = np.array([smoother.add(np.array([max(0.0, tick - 30.0)]), window)[0][0] for tick in range(60)])
    assert np.abs(np.diff(means, 2)).max() <= 1.0 / window + 1e-9  # all of the change of slope, spread over the window
    smoother.forget()
    assert smoother.add(np.array([7.0]), window)[0][0] == pytest.approx(7.0)


def test_what_still_moves_is_not_at_rest(home):
    """Down to what is called rest."""
    still, crawling = np.full(7, 0.9e-9), np.full(7, 1e-9)
    assert Motion(home, still, still).is_at_rest
    assert not Motion(home, crawling, still).is_at_rest
    assert not Motion(home, still, crawling).is_at_rest


class Ways:
    """A guard that lets every way pass, and keeps them."""

    def __init__(self) -> None:
        self.seen: list[Way] = []

    def objection(self, way: Way) -> str:
        self.seen.append(way)
        return ""


@pytest.mark.parametrize("seed", range(3))
def test_what_is_known_of_a_way_is_what_happens_on_it(home, limits, seed):
    random, ways = np.random.default_rng(seed), Ways()
    axes = Interpolator(limits, 0.01, home, guards=(ways,))
    for _ in range(40):
        target = home + random.uniform(-0.5, 0.5, 7)
        for _ in range(5):
            axes.follow(target, np.zeros(7), float(random.choice([0.005, 0.01, 0.018])))
    for way in ways.seen:
        far = np.abs(way.ticks - way.start.positions).max(axis=0)
        assert (way.travel >= far - 1e-9).all()
        assert (way.travel <= far + np.abs(way.motion.velocities) * 0.01 + 1e-3).all(), "no more than it goes"
        speeds = np.abs(np.diff(way.ticks, axis=0) / way.steps_s)
        assert (way.peak >= speeds.max(axis=0) - 1e-6).all()
