"""Rotations and poses against numbers worked out by hand, Rodrigues' formula and pinocchio."""

from __future__ import annotations

from math import cos, pi, sin, sqrt

import numpy as np
import pinocchio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vla_ros.geometry import (
    RotationForm,
    interpolate_pose,
    matrix_pose,
    mean_quaternion,
    pose_matrix,
    rotated,
    rotation_angle,
    rotation_between,
    rotation_matrix,
    rotation_values,
    slerp,
    slerp_rows,
)
from vla_ros.values import Array

component = st.floats(-1.0, 1.0, allow_nan=False)


#: A pitch of 90 degrees, but for rounding: neither roll nor yaw alone can be told.
NEARLY_LOCKED = np.array([0.5**0.5, 9.31122686e-16, 0.5**0.5, 0.0])


@st.composite
def unit_quaternions(draw: st.DrawFn) -> Array:
    values = np.array([draw(component) for _ in range(4)])
    norm = np.linalg.norm(values)
    return values / norm if norm > 0.1 else np.array([0.0, 0.0, 0.0, 1.0])


def rodrigues(vector: Array) -> Array:
    """The exponential of the skew matrix of `vector`, written out."""
    angle = float(np.linalg.norm(vector))
    if angle == 0.0:
        return np.eye(3)
    x, y, z = vector / angle
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + sin(angle) * k + (1 - cos(angle)) * (k @ k)


# A quarter turn about z carries x to y: the matrix and how each form writes it.
QUARTER_Z = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
QUARTER_Z_VALUES = {
    RotationForm.EULER_XYZ: (0.0, 0.0, pi / 2),
    RotationForm.AXIS_ANGLE: (0.0, 0.0, pi / 2),
    RotationForm.ROTATION_6D: (0.0, -1.0, 0.0, 1.0, 0.0, 0.0),
    RotationForm.QUATERNION: (0.0, 0.0, sqrt(0.5), sqrt(0.5)),
}


@pytest.mark.parametrize("form", RotationForm)
def test_every_form_writes_a_quarter_turn_about_z_as_its_convention_says(form: RotationForm) -> None:
    np.testing.assert_allclose(rotation_values(QUARTER_Z, form), QUARTER_Z_VALUES[form], atol=1e-12)
    np.testing.assert_allclose(rotation_matrix(QUARTER_Z_VALUES[form], form), QUARTER_Z, atol=1e-12)
    assert form.size == len(form.suffixes) == len(QUARTER_Z_VALUES[form])


def test_euler_angles_turn_about_fixed_axes_x_first() -> None:
    roll, pitch, yaw = 0.3, -0.5, 1.1
    by_hand = rodrigues(np.array([0, 0, yaw])) @ rodrigues(np.array([0, pitch, 0])) @ rodrigues(np.array([roll, 0, 0]))
    np.testing.assert_allclose(rotation_matrix((roll, pitch, yaw), RotationForm.EULER_XYZ), by_hand, atol=1e-12)
    np.testing.assert_allclose(by_hand, pinocchio.rpy.rpyToMatrix(roll, pitch, yaw), atol=1e-12)


def test_six_values_are_rows_of_the_matrix_and_are_made_orthonormal() -> None:
    # Numbers a network might give: neither unit nor orthogonal; the first row's direction is kept.
    matrix = rotation_matrix((2.0, 0.0, 0.0, 0.5, 3.0, 0.0), RotationForm.ROTATION_6D)
    np.testing.assert_allclose(matrix, np.eye(3), atol=1e-12)


@given(unit_quaternions())
def test_quaternions_are_scalar_last_as_in_pinocchio(quaternion: Array) -> None:
    by_pinocchio = pinocchio.Quaternion(quaternion).toRotationMatrix()
    np.testing.assert_allclose(rotation_matrix(quaternion, RotationForm.QUATERNION), by_pinocchio, atol=1e-12)


@given(st.tuples(component, component, component))
def test_axis_angle_is_rodrigues_formula(vector: tuple[float, float, float]) -> None:
    v = np.array(vector) * 1.7  # up to nearly pi
    np.testing.assert_allclose(rotation_matrix(v, RotationForm.AXIS_ANGLE), rodrigues(v), atol=1e-12)


@given(unit_quaternions(), st.sampled_from(RotationForm))
@example(NEARLY_LOCKED, RotationForm.EULER_XYZ)
def test_every_form_gives_back_the_matrix_it_was_written_from(quaternion: Array, form: RotationForm) -> None:
    matrix = rotation_matrix(quaternion, RotationForm.QUATERNION)
    again = rotation_matrix(rotation_values(matrix, form), form)
    np.testing.assert_allclose(again, matrix, atol=1e-9)


@given(unit_quaternions())
def test_written_quaternions_are_unit_and_have_no_negative_scalar(quaternion: Array) -> None:
    written = rotation_values(rotation_matrix(quaternion, RotationForm.QUATERNION), RotationForm.QUATERNION)
    assert written[3] >= 0.0
    assert np.linalg.norm(written) == pytest.approx(1.0)
    assert abs(written @ quaternion) == pytest.approx(1.0)


@pytest.mark.parametrize("angle", [0.0, 1e-13, 1e-9, 1e-4, pi - 1e-9, pi])
def test_axis_angle_survives_the_ends_of_its_range(angle: float) -> None:
    v = np.array([0.6, 0.0, 0.8]) * angle
    again = rotation_values(rotation_matrix(v, RotationForm.AXIS_ANGLE), RotationForm.AXIS_ANGLE)
    np.testing.assert_allclose(rodrigues(again), rodrigues(v), atol=1e-9)


@pytest.mark.parametrize(
    ("form", "values", "message"),
    [
        (RotationForm.QUATERNION, (0, 0, 0, 0), "a quaternion of norm 0 is not a rotation"),
        (RotationForm.ROTATION_6D, (0, 0, 0, 1, 0, 0), "the first row of a 6-d rotation is zero"),
        (RotationForm.ROTATION_6D, (1, 0, 0, 2, 0, 0), "the two rows of a 6-d rotation are parallel"),
        (RotationForm.EULER_XYZ, (1, 2, 3, 4), r"form euler_xyz has 3 values, got shape \(4,\)"),
    ],
)
def test_what_is_no_rotation_is_refused(form: RotationForm, values: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rotation_matrix(values, form)


@given(unit_quaternions(), st.tuples(component, component, component))
def test_poses_and_matrices_are_inverse(quaternion: Array, position: tuple[float, float, float]) -> None:
    pose = np.array([*position, *quaternion])
    matrix = pose_matrix(pose)
    np.testing.assert_allclose(pose_matrix(matrix_pose(matrix)), matrix, atol=1e-12)
    np.testing.assert_allclose(matrix[:3, 3], position)


def test_a_pose_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a pose has 7 values .* got shape \(6,\)"):
        pose_matrix(np.zeros(6))


@given(unit_quaternions(), st.tuples(component, component, component), st.floats(0.0, 1.0))
def test_slerp_turns_at_constant_speed_the_short_way(
    start: Array, vector: tuple[float, float, float], fraction: float
) -> None:
    turn = np.array(vector) * 1.7
    end_matrix = rotation_matrix(start, RotationForm.QUATERNION) @ rodrigues(turn)
    end = rotation_values(end_matrix, RotationForm.QUATERNION)
    expected = rotation_matrix(start, RotationForm.QUATERNION) @ rodrigues(fraction * turn)
    for sign in (1.0, -1.0):  # both quaternions of one rotation
        between = slerp(start, sign * end, fraction)
        np.testing.assert_allclose(rotation_matrix(between, RotationForm.QUATERNION), expected, atol=1e-6)
        starts, ends = np.stack([start, start]), np.stack([sign * end, start])
        rows = slerp_rows(starts, ends, np.array([fraction, fraction]))
        np.testing.assert_allclose(rows, np.stack([between, start]), atol=1e-12)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_slerp_of_the_smallest_turns_is_as_exact_as_of_others(sign: float) -> None:
    """The angle from arccos is worthless here; half a turn of 4e-7 rad about z is (0, 0, sin, cos)."""
    start, half_rad = np.array([0.0, 0.0, 0.0, 1.0]), 4e-7
    end = sign * np.array([0.0, 0.0, sin(half_rad), cos(half_rad)])
    expected = [0.0, 0.0, sin(0.25 * half_rad), cos(0.25 * half_rad)]
    np.testing.assert_allclose(slerp(start, end, 0.25), expected, rtol=1e-9)
    np.testing.assert_allclose(slerp_rows(start[None], end[None], np.array([0.25]))[0], expected, rtol=1e-9)


def test_a_pose_in_between_is_linear_in_position_and_slerps() -> None:
    start = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
    end = np.array([1.0, 2.0, -4.0, 0.0, 0.0, sqrt(0.5), sqrt(0.5)])
    expected = [0.25, 0.5, -1.0, 0.0, 0.0, sin(pi / 16), cos(pi / 16)]
    np.testing.assert_allclose(interpolate_pose(start, end, 0.25), expected, atol=1e-12)


@given(unit_quaternions())
def test_the_mean_of_a_rotation_written_with_both_signs_is_that_rotation(quaternion: Array) -> None:
    mean = mean_quaternion(np.stack([quaternion, -quaternion, quaternion]), np.array([0.2, 0.5, 0.3]))
    assert rotation_angle(mean, quaternion) == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, 1.0, pi / 2, pi])
def test_the_angle_between_two_rotations_is_exact_however_small(angle: float) -> None:
    identity = np.array([0.0, 0.0, 0.0, 1.0])
    turned = np.array([sin(angle / 2), 0.0, 0.0, cos(angle / 2)])
    assert rotation_angle(identity, turned) == pytest.approx(angle, rel=1e-9, abs=1e-15)
    assert rotation_angle(identity, -turned) == pytest.approx(angle, rel=1e-9, abs=1e-15)


@given(unit_quaternions(), st.tuples(component, component, component), st.sampled_from([1e-9, 1e-5, 0.1, 1.8]))
def test_a_turned_rotation_is_the_exponential_after_it_and_the_turn_is_found_again(
    quaternion: Array, direction: tuple[float, float, float], scale: float
) -> None:
    turn = scale * np.array(direction)  # of pi at most
    turned = rotated(quaternion, turn)
    before, after = (rotation_matrix(one, RotationForm.QUATERNION) for one in (quaternion, turned))
    np.testing.assert_allclose(after, rodrigues(turn) @ before, atol=1e-12)
    np.testing.assert_allclose(rotation_between(quaternion, turned), turn, atol=1e-12, rtol=1e-7)
    np.testing.assert_allclose(rotation_between(quaternion, -turned), turn, atol=1e-12, rtol=1e-7)
