"""Hand-eye calibration against cameras that were put somewhere: found again, or refused with what to do."""

from __future__ import annotations

from math import degrees, radians

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.calibration.board import Board
from vla_ros.calibration.detection import Corners, Intrinsics
from vla_ros.calibration.hand_eye import CannotCalibrate, Mounting, View, advice, calibrate, missing_rotation
from vla_ros.calibration.hand_eye_motion import MOST_POSES, around
from vla_ros.geometry import RotationForm, matrix_pose, pose_matrix, rotation_angle, rotation_matrix
from vla_ros.values import Array

BOARD = Board()
CAMERA = Intrinsics(
    np.array([[470.0, 0.0, 319.5], [0.0, 470.0, 239.5], [0.0, 0.0, 1.0]]), np.array([0.05, -0.02, 0, 0])
)
MIDDLE = np.array([*BOARD.size_m, 0.0]) / 2.0
ALL_AXES = (1.0, 1.0, 1.0)


def transform(translation: Array, rotation_vector: Array) -> Array:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation_matrix(rotation_vector, RotationForm.AXIS_ANGLE)
    matrix[:3, 3] = translation
    return matrix


def look(camera: Array, carried: Array, board: Array, noise_px: float, rng: np.random.Generator) -> Corners:
    """What a camera sees of a board, by the definition of the pose of each; not by the code under test."""
    in_camera = np.linalg.inv(camera) @ carried @ board
    rotation = cv2.Rodrigues(in_camera[:3, :3])[0]
    pixels = cv2.projectPoints(BOARD.corners_m, rotation, in_camera[:3, 3], CAMERA.matrix, CAMERA.distortion)[0]
    pixels = pixels.reshape(-1, 2) + rng.normal(0.0, noise_px, (len(BOARD.corners_m), 2))
    seen = rng.permutation(len(pixels))[: rng.integers(10, len(pixels) + 1)]  # a hand may hide some
    return Corners(tuple(int(corner) for corner in seen), pixels[seen])


def take(
    mounting: Mounting,
    truth: Array,
    seed: int,
    count: int = 15,
    noise_px: float = 0.2,
    axes: tuple[float, float, float] = ALL_AXES,
    widest_deg: float = 25.0,
) -> list[View]:
    """Views by a camera at `truth` (4, 4) of a board half a metre off, the hand turned about `axes` of its own."""
    rng = np.random.default_rng(seed)
    seen = transform(np.array([0.0, 0.0, 0.5]), rng.uniform(-0.3, 0.3, 3)) @ transform(-MIDDLE, np.zeros(3))
    if mounting is Mounting.IN_HAND:
        home = transform(rng.uniform(-0.5, 0.5, 3), rng.uniform(-2.0, 2.0, 3))
        board = home @ truth @ seen
    else:
        board = transform(rng.uniform(-0.1, 0.1, 3), rng.uniform(-2.0, 2.0, 3))
        home = truth @ seen @ np.linalg.inv(board)
    views = []
    for _ in range(count):
        turn = np.array(axes) * rng.uniform(-1.0, 1.0, 3) * radians(widest_deg)
        link = home @ transform(rng.uniform(-0.05, 0.05, 3), turn)
        carried = np.linalg.inv(link) if mounting is Mounting.IN_HAND else link
        views.append(View(matrix_pose(link), look(truth, carried, board, noise_px, rng)))
    return views


def assert_near(pose: Array, truth: Array, millimetres: float, angle_deg: float) -> None:
    apart_mm, apart_deg = off(pose, truth)
    assert apart_mm < millimetres
    assert apart_deg < angle_deg


def off(pose: Array, truth: Array) -> tuple[float, float]:
    """Millimetres and degrees."""
    expected = matrix_pose(truth)
    apart_m = float(np.linalg.norm(pose[:3] - expected[:3]))
    return 1000.0 * apart_m, degrees(rotation_angle(pose[3:], expected[3:]))


VECTORS = st.tuples(*[st.floats(-1.5, 1.5)] * 3).map(np.array)
MOUNTINGS = st.sampled_from(Mounting)


@settings(max_examples=15)
@given(MOUNTINGS, st.tuples(*[st.floats(-0.1, 0.1)] * 3).map(np.array), VECTORS, st.integers(0, 2**32 - 1))
def test_a_camera_is_found_where_it_is(mounting: Mounting, place: Array, turn: Array, seed: int) -> None:
    truth = transform(place, turn)
    found = calibrate(BOARD, CAMERA, take(mounting, truth, seed), mounting)
    assert_near(found.pose, truth, 3.0, 0.5)
    assert found.rejected == ()
    assert found.rms_px == pytest.approx(0.2 * np.sqrt(2.0), rel=0.25)
    assert 1000.0 * found.spread_m < 3.0
    assert found.scale == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("mounting", Mounting)
def test_without_noise_it_is_exact(mounting: Mounting) -> None:
    truth = transform(np.array([0.1, -0.05, 0.7]), np.array([0.3, 2.0, -1.0]))
    found = calibrate(BOARD, CAMERA, take(mounting, truth, 3, noise_px=0.0), mounting)
    assert_near(found.pose, truth, 1e-3, 1e-3)


@pytest.mark.parametrize("mounting", Mounting)
def test_the_spread_told_is_the_error_made(mounting: Mounting) -> None:
    truth = transform(np.array([0.05, 0.0, 0.05]), np.array([0.1, 0.2, 1.0]))
    runs = [calibrate(BOARD, CAMERA, take(mounting, truth, seed), mounting) for seed in range(12)]
    made_mm = np.sqrt(np.mean([off(run.pose, truth)[0] ** 2 for run in runs]))
    told_mm = np.sqrt(np.mean([(1000.0 * run.spread_m) ** 2 for run in runs]))
    assert 0.5 < told_mm / made_mm < 2.0


@pytest.mark.parametrize("mounting", Mounting)
def test_views_that_lie_are_left_out(mounting: Mounting) -> None:
    truth = transform(np.array([0.05, 0.0, 0.05]), np.array([0.1, 0.2, 1.0]))
    views = take(mounting, truth, 5)
    for index, moved in ((2, [0.03, 0.0, 0.0, 0.0, 0.0, 0.1]), (9, [0.0, -0.02, 0.02, 0.1, 0.0, 0.0])):
        link = pose_matrix(views[index].link_pose) @ transform(np.array(moved[:3]), np.array(moved[3:]))
        views[index] = View(matrix_pose(link), views[index].corners)
    found = calibrate(BOARD, CAMERA, views, mounting)
    assert found.rejected == (2, 9)
    assert_near(found.pose, truth, 2.0, 0.3)


def test_views_that_contradict_each_other_are_refused() -> None:
    truth = transform(np.zeros(3), np.zeros(3))
    views = take(Mounting.IN_HAND, truth, 1, count=5) + take(Mounting.IN_HAND, truth, 2, count=5)
    with pytest.raises(
        CannotCalibrate, match="the views contradict each other by .* pixels: did the board or the camera move"
    ):
        calibrate(BOARD, CAMERA, views, Mounting.IN_HAND)


@pytest.mark.parametrize("mounting", Mounting)
@pytest.mark.parametrize(
    ("axes", "told"),
    [
        ((0.0, 0.0, 0.0), "about no axis only .* rotate it about its [xyz] axis by 20 degrees, to both sides"),
        ((0.0, 0.0, 1.0), "about one axis only .* rotate it about its [xy] axis by 20 degrees, to both sides"),
        ((1.0, 0.05, 0.05), "about one axis only .* rotate it about its [yz] axis by 20 degrees, to both sides"),
    ],
)
def test_motion_that_leaves_the_pose_open_is_refused_with_what_to_do(
    mounting: Mounting, axes: tuple[float, float, float], told: str
) -> None:
    views = take(mounting, transform(np.zeros(3), np.zeros(3)), 4, axes=axes)
    with pytest.raises(CannotCalibrate, match=told):
        calibrate(BOARD, CAMERA, views, mounting)


def test_two_axes_are_enough() -> None:
    truth = transform(np.array([0.05, 0.0, 0.05]), np.array([0.1, 0.2, 1.0]))
    views = take(Mounting.IN_HAND, truth, 4, axes=(1.0, 1.0, 0.0))
    assert missing_rotation([view.link_pose for view in views]) == ""
    assert_near(calibrate(BOARD, CAMERA, views, Mounting.IN_HAND).pose, truth, 3.0, 0.3)


def test_progress_names_the_axis_that_was_turned_about_least() -> None:
    home = transform(np.array([0.4, 0.1, 0.3]), np.array([0.5, 2.0, 1.0]))
    poses = [matrix_pose(home)]
    assert advice(poses) == "turn the hand about its x, y and z axis, by 20 degrees each"
    for axis, then in enumerate(("rotate more about", "rotate more about z", "")):
        for side in (-0.5, 0.5):
            poses.append(matrix_pose(home @ transform(np.zeros(3), side * np.eye(3)[axis])))
        assert advice(poses).startswith(then) and bool(advice(poses)) == bool(then)


@pytest.mark.parametrize("mounting", Mounting)
def test_the_arms_own_poses_determine_a_camera_and_stay_near(mounting: Mounting) -> None:
    here = matrix_pose(transform(np.array([0.4, 0.1, 0.3]), np.array([3.0, 0.2, 0.0])))
    poses = around(here, mounting)
    assert np.allclose(poses[0], here)
    assert len(poses) == MOST_POSES
    for count in range(5, MOST_POSES + 1):
        assert missing_rotation(poses[:count]) == ""
    assert advice(poses) == ""
    assert max(np.linalg.norm(pose[:3] - here[:3]) for pose in poses) < 0.2
    assert max(degrees(rotation_angle(pose[3:], here[3:])) for pose in poses) < 35.0
    for index, pose in enumerate(poses):  # each is a view of its own
        for other in poses[:index]:
            assert degrees(rotation_angle(pose[3:], other[3:])) > 7.0
    with pytest.raises(ValueError, match="1 to 15 poses to go to, got 16"):
        around(here, mounting, 16)


def test_too_few_views_are_refused() -> None:
    views = take(Mounting.IN_HAND, np.eye(4), 4, count=4)
    with pytest.raises(CannotCalibrate, match="4 views are too few; take at least 5, better 15"):
        calibrate(BOARD, CAMERA, views, Mounting.IN_HAND)


@pytest.mark.parametrize("mounting", Mounting)
def test_a_board_printed_smaller_than_said_is_refused_with_its_true_size(mounting: Mounting) -> None:
    views = take(mounting, transform(np.array([0.0, 0.0, 0.1]), np.zeros(3)), 6)
    said = Board(square_m=0.04, marker_m=0.03)
    with pytest.raises(CannotCalibrate, match=r"a square is 36\.\d mm, not 40 mm: measure the print"):
        calibrate(said, CAMERA, views, mounting)
