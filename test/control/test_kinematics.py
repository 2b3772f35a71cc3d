"""Kinematics against transforms multiplied by hand, finite differences and paths it must follow."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.control.kinematics import Kinematics
from vla_ros.control.limits import AxisLimits
from vla_ros.geometry import RotationForm, matrix_pose, pose_matrix, rotation_angle, rotation_values
from vla_ros.robots import description
from vla_ros.robots.panda import PANDA
from vla_ros.values import Array

PERIOD_S = 0.01
fractions = st.lists(st.floats(0.0, 1.0), min_size=7, max_size=7)


def transform(xyz: tuple[float, float, float], rpy: tuple[float, float, float]) -> Array:
    (sr, cr), (sp, cp), (sy, cy) = ((math.sin(angle), math.cos(angle)) for angle in rpy)
    about_x = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    about_y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    matrix = np.eye(4)
    matrix[:3, :3] = about_z @ about_y @ about_x
    matrix[:3, 3] = xyz
    return matrix


def forward_by_hand(joint_positions: Array) -> Array:
    matrix = np.eye(4)
    for joint, angle in zip(PANDA.joints, joint_positions, strict=True):
        matrix = matrix @ transform(joint.origin_xyz_m, joint.origin_rpy_rad) @ transform((0, 0, 0), (0, 0, angle))
    for frame in PANDA.fixed_frames:
        matrix = matrix @ transform(frame.origin_xyz_m, frame.origin_rpy_rad)
    return matrix


def joint_positions_at(fraction: list[float], limits: AxisLimits) -> Array:
    return limits.lower + np.array(fraction) * (limits.upper - limits.lower)


def toward(kinematics: Kinematics, limits: AxisLimits, home: Array, q: Array, pose: Array):
    return kinematics.toward(
        q, pose, period_s=PERIOD_S, home=home, lower=limits.lower, upper=limits.upper, velocity=limits.velocity
    )


@given(fraction=fractions)
def test_forward_is_the_product_of_the_transforms(kinematics, limits, fraction):
    q = joint_positions_at(fraction, limits)
    by_hand = forward_by_hand(q)
    np.testing.assert_allclose(pose_matrix(kinematics.forward(q)), by_hand, atol=1e-9)
    assert kinematics.forward(q)[6] >= 0.0


@given(fraction=fractions)
def test_jacobian_is_the_slope_of_forward(kinematics, limits, fraction):
    q, step = joint_positions_at(fraction, limits), 1e-6
    jacobian = kinematics.jacobian(q)
    for joint in range(7):
        nudge = np.zeros(7)
        nudge[joint] = step
        before, after = forward_by_hand(q - nudge), forward_by_hand(q + nudge)
        turn = rotation_values(after[:3, :3] @ before[:3, :3].T, RotationForm.AXIS_ANGLE)
        slope = np.concatenate([after[:3, 3] - before[:3, 3], turn]) / (2 * step)
        np.testing.assert_allclose(jacobian[:, joint], slope, atol=1e-6)


@pytest.mark.parametrize("shape", ["line", "circle"])
def test_follows_a_path_within_a_millimetre(kinematics, limits, home, shape):
    start = kinematics.forward(home)
    q, furthest_m, furthest_rad = home, 0.0, 0.0
    for tick in range(400):
        phase = tick / 400
        pose = start.copy()
        if shape == "line":
            pose[:3] += phase * np.array([0.2, 0.25, -0.35])
        else:
            turn = 2 * math.pi * phase
            pose[:3] += 0.12 * np.array([0.0, math.sin(turn), math.cos(turn) - 1.0])
        reach = toward(kinematics, limits, home, q, pose)
        q = reach.joint_positions
        reached = kinematics.forward(q)
        assert abs(np.linalg.norm(reached[:3] - pose[:3]) - reach.position_error_m) < 1e-9
        furthest_m = max(furthest_m, float(np.linalg.norm(reached[:3] - pose[:3])))
        furthest_rad = max(furthest_rad, rotation_angle(reached[3:], pose[3:]))
    assert furthest_m < 1e-3
    assert furthest_rad < 1e-3


def test_stretches_towards_what_is_out_of_reach_and_comes_back(kinematics, limits, home):
    start = kinematics.forward(home)
    far = np.concatenate([[2.0, 0.3, 0.4], start[3:]])
    q = home
    for pose in [far] * 400 + [start] * 600:
        reach = toward(kinematics, limits, home, q, pose)
        assert np.isfinite(reach.joint_positions).all()
        assert (np.abs(reach.joint_positions - q) <= limits.velocity * PERIOD_S * (1 + 1e-9)).all()
        if pose is far:
            nearest_m = reach.position_error_m
        q = reach.joint_positions
    assert 1.0 < nearest_m < 1.5  # the arm is about 0.85 m long
    assert reach.position_error_m < 1e-3
    assert reach.rotation_error_rad < 1e-2


@settings(max_examples=30)
@given(here=fractions, there=fractions)
def test_a_step_keeps_range_and_velocity(kinematics, limits, home, here, there):
    q = joint_positions_at(here, limits)
    pose = kinematics.forward(joint_positions_at(there, limits))
    for _ in range(20):
        reach = toward(kinematics, limits, home, q, pose)
        assert (np.abs(reach.joint_positions - q) <= limits.velocity * PERIOD_S * (1 + 1e-9)).all()
        q = reach.joint_positions
        assert (q >= limits.lower - 1e-12).all()
        assert (q <= limits.upper + 1e-12).all()


def test_null_space_brings_the_elbow_home(kinematics, limits, home):
    pose = kinematics.forward(home)
    q = home.copy()
    for tick in range(3000):
        reach = toward(kinematics, limits, home if tick > 500 else home + 0.5, q, pose)
        q = reach.joint_positions
        if tick == 500:
            away = float(np.abs(q - home).max())
    assert away > 0.05
    assert np.abs(q - home).max() < 0.01
    assert reach.position_error_m < 1e-4


def test_velocity_is_what_a_steady_motion_makes(kinematics, limits, home):
    start = kinematics.forward(home)
    poses = [start + np.array([0.2, 0.1, -0.1, 0, 0, 0, 0]) * tick * PERIOD_S for tick in range(100)]
    q = home
    path = []
    for pose in poses:
        q = toward(kinematics, limits, home, q, pose).joint_positions
        path.append(q)
    velocity = kinematics.joint_velocity(
        path[50], poses[50], poses[51], period_s=PERIOD_S, home=home, lower=limits.lower, upper=limits.upper
    )
    np.testing.assert_allclose(velocity, (path[51] - path[49]) / (2 * PERIOD_S), atol=0.01)


def test_unknown_names_are_told(home):
    urdf = description.urdf(PANDA)
    with pytest.raises(ValueError, match=r"no joints \['panda_joint9'\]"):
        Kinematics(urdf, ("panda_joint9",), "panda_tcp")
    with pytest.raises(ValueError, match="no frame 'tool'"):
        Kinematics(urdf, PANDA.joint_names, "tool")
    with pytest.raises(ValueError, match="joints stand in the URDF"):
        Kinematics(urdf, PANDA.joint_names[::-1], "panda_tcp")


def test_fingers_do_not_move_the_tcp(kinematics, home):
    assert len(kinematics.jacobian(home)[0]) == 7
    np.testing.assert_allclose(matrix_pose(forward_by_hand(home)), kinematics.forward(home), atol=1e-9)
