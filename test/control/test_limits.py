"""Limits of targets: what is permitted passes untouched, the rest is moved or refused with a reason."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vla_ros.control.limits import (
    AxisLimits,
    Interventions,
    LimitsConfig,
    Refused,
    Workspace,
    clamp_to_range,
    clamp_width,
    refuse_joint_jump,
    refuse_not_finite,
    refuse_pose_jump,
)
from vla_ros.robots.fr3 import FR3

CONFIG = LimitsConfig()
WORKSPACE = Workspace.of(CONFIG)
anywhere = st.lists(st.floats(-10.0, 10.0), min_size=3, max_size=3)


def pose_at(position, turn_rad=0.0):
    return np.array([*position, np.sin(turn_rad / 2), 0.0, 0.0, np.cos(turn_rad / 2)])


@given(position=anywhere)
def test_workspace_moves_only_what_is_outside_and_never_further_than_needed(position):
    pose, moved = WORKSPACE.clamp(pose_at(position))
    lower, upper = np.array(CONFIG.workspace_lower_m), np.array(CONFIG.workspace_upper_m)
    inside = bool(((np.array(position) >= lower) & (np.array(position) <= upper)).all())
    assert moved is not inside
    assert (pose[3:] == pose_at(position)[3:]).all()
    np.testing.assert_allclose(pose[:3], np.clip(position, lower, upper), atol=1e-9)
    away = np.maximum(lower - position, np.array(position) - upper).max()
    assert WORKSPACE.outside_m(np.array(position)) == pytest.approx(max(away, 0.0), abs=1e-9)


def test_default_workspace_lets_the_gripper_grasp_on_the_table():
    assert not WORKSPACE.clamp(pose_at((0.5, 0.1, 0.02)))[1]
    pose, moved = WORKSPACE.clamp(pose_at((0.5, 0.1, -0.02)))
    assert moved
    assert pose[2] == pytest.approx(0.005)


@given(position=anywhere)
def test_planes_and_table_hold_together_with_the_box(position):
    slope = (-np.sin(0.3), 0.0, -np.cos(0.3), -0.7)
    config = LimitsConfig(planes={"wall": (0.0, 0.8, 0.6, -0.1), "roof": slope}, table_height_m=0.1)
    nearest = Workspace.of(config).nearest(np.array(position))
    assert (nearest >= np.array([0.15, -0.6, 0.1]) - 1e-6).all()
    assert (nearest <= np.array([0.85, 0.6, 0.9]) + 1e-6).all()
    assert 0.8 * nearest[1] + 0.6 * nearest[2] >= -0.1 - 1e-6
    assert np.dot(slope[:3], nearest) >= -0.7 - 1e-6


def test_planes_that_mean_nothing_are_refused():
    with pytest.raises(ValidationError, match=r"planes\.wall: a normal has length 1, that of .* has 2"):
        LimitsConfig(planes={"wall": (0.0, 2.0, 0.0, -1.0)})
    with pytest.raises(ValidationError, match="leave nothing of the workspace's box"):
        LimitsConfig(planes={"wall": (1.0, 0.0, 0.0, 1.0)})
    with pytest.raises(ValidationError, match="leave nothing of the workspace's box"):
        LimitsConfig(table_height_m=1.0)


@given(values=st.lists(st.floats(-5.0, 5.0), min_size=7, max_size=7))
def test_joint_range(limits, values):
    clamped, moved = clamp_to_range(np.array(values), limits)
    assert (clamped >= limits.lower).all()
    assert (clamped <= limits.upper).all()
    assert moved is bool((clamped != np.array(values)).any())


def test_joint_limits_are_the_robot_s_less_margin_times_scale(robot):
    config = LimitsConfig(velocity_scale=0.5, acceleration_scale=0.4, jerk_scale=0.2, joint_margin_rad=0.1)
    limits = AxisLimits.of_joints(robot, config)
    assert limits.lower[3] == pytest.approx(-3.0718 + 0.1)
    assert limits.upper[3] == pytest.approx(-0.0698 - 0.1)
    assert limits.velocity[0] == pytest.approx(2.175 * 0.5)
    assert limits.acceleration[1] == pytest.approx(7.5 * 0.4)
    assert limits.jerk[6] == pytest.approx(10000 * 0.2)


#: libfranka's rate_limiting.h, row by row: V, c, k, a, b of v_up(q) = min(V, max(0, -c + sqrt(max(0, k (a - q))))) and
#: v_lo(q) = max(-V, min(0, c - sqrt(max(0, k (b + q))))).
FR3_CONSTANTS = (
    (2.62, 0.30, 12.0, 2.75010, 2.75010),
    (2.62, 0.20, 5.17, 1.79180, 1.79180),
    (2.62, 0.20, 7.00, 2.90650, 2.90650),
    (2.62, 0.30, 8.00, -0.1458, 3.04810),
    (5.26, 0.35, 34.0, 2.81010, 2.81010),
    (4.18, 0.35, 11.0, 4.52050, -0.54092),
    (5.26, 0.35, 34.0, 3.01960, 3.01960),
)


def fr3_velocity_bounds(joint, q):
    most, c, k, a, b = FR3_CONSTANTS[joint]
    up = min(most, max(0.0, -c + math.sqrt(max(0.0, k * (a - q)))))
    low = max(-most, min(0.0, c - math.sqrt(max(0.0, k * (b + q)))))
    return low, up


@given(values=st.lists(st.floats(-3.5, 5.0), min_size=7, max_size=7), scale=st.floats(0.1, 1.0))
def test_the_fr3_s_velocity_by_position_is_the_vendor_s_formula(values, scale):
    limits = AxisLimits.of_joints(FR3, LimitsConfig(velocity_scale=scale))
    low, up = limits.velocity_bounds(np.array(values))
    expected = np.array([fr3_velocity_bounds(joint, q) for joint, q in enumerate(values)]) * scale
    np.testing.assert_allclose(low, expected[:, 0], atol=1e-12)
    np.testing.assert_allclose(up, expected[:, 1], atol=1e-12)


def test_the_panda_s_velocity_is_the_same_everywhere(limits):
    low, up = limits.velocity_bounds(np.full(7, 2.0))
    assert (up == limits.velocity).all() and (low == -limits.velocity).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_refuses_all(bad):
    refuse_not_finite(np.zeros(7), "a target")
    with pytest.raises(Refused, match="a target with values that are not finite") as refused:
        refuse_not_finite(np.array([0.0, bad, 0.0]), "a target")
    assert refused.value.name == "not_finite"


def test_jumps_are_refused_not_followed(home):
    refuse_joint_jump(home + 0.49, home, CONFIG)
    with pytest.raises(Refused, match=r"0\.51 rad from the command at joint 3, more than max_step_rad 0\.5"):
        refuse_joint_jump(home + np.array([0, 0, -0.51, 0, 0, 0, 0]), home, CONFIG)
    here = pose_at((0.4, 0.0, 0.3))
    refuse_pose_jump(pose_at((0.4, 0.0, 0.49), 0.9), here, CONFIG)
    with pytest.raises(Refused, match=r"0\.21 m from the command"):
        refuse_pose_jump(pose_at((0.4, 0.0, 0.51)), here, CONFIG)
    with pytest.raises(Refused, match=r"turned 1\.1 rad"):
        refuse_pose_jump(pose_at((0.4, 0.0, 0.3), 1.1), here, CONFIG)
    with pytest.raises(Refused):
        refuse_pose_jump(pose_at((1e300, 0.0, 0.3)), here, CONFIG)


def test_gripper_width():
    assert clamp_width(0.05, 0.08) == (0.05, False)
    assert clamp_width(-0.01, 0.08) == (0.0, True)
    assert clamp_width(0.09, 0.08) == (0.08, True)


def test_a_limit_that_keeps_acting_has_acted_once():
    interventions = Interventions()
    for tick in range(20):
        interventions.begin_tick()
        if tick not in (0, 10):
            interventions.act("workspace")
            interventions.act("workspace")
    interventions.count("late_rows", 3)
    assert interventions.counts == {"workspace": 2, "late_rows": 3}


def test_a_workspace_that_is_no_box_is_refused():
    with pytest.raises(ValidationError, match="must be below"):
        LimitsConfig(workspace_lower_m=(0.5, 0.0, 0.0), workspace_upper_m=(0.4, 1.0, 1.0))
