"""The board: drawn and found again, printed true to scale, refused where it is not the one."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from vla_ros.calibration import sheet
from vla_ros.calibration.board import Board
from vla_ros.calibration.detection import BoardNotSeen, Intrinsics, board_pose, detect, estimate_intrinsics

BOARDS = [Board(), Board(columns=4, rows=6, square_m=0.04, marker_m=0.03), Board(dictionary="DICT_5X5_100")]


@pytest.mark.parametrize("board", BOARDS, ids=str)
def test_every_corner_is_found_where_it_was_drawn(board: Board) -> None:
    corners = detect(board, board.picture(48, 24))
    assert sorted(corners.ids) == list(range(len(board.corners_m)))
    drawn = 24 + 48 * corners.points_m(board)[:, :2] / board.square_m - 0.5  # a pixel's centre is its coordinate
    assert np.abs(corners.pixels - drawn).max() < 0.1


def test_corners_are_opencvs() -> None:
    for board in BOARDS:
        assert np.allclose(board.charuco().getChessboardCorners(), board.corners_m)


@pytest.mark.parametrize(
    ("picture", "told"),
    [
        (np.full((480, 640), 200, np.uint8), "no marker of DICT_4X4_50 is seen: bring the board into the picture"),
        (
            Board(dictionary="DICT_6X6_100").picture(48, 24),
            "no marker of DICT_4X4_50 is seen: .* or give the dictionary",
        ),
        (
            Board(columns=9, rows=10).picture(48, 24)[240:],
            r"the markers .* are not of this board \(5 x 7 squares of 36 mm, .*\): it has 0 to 16; give the numbers",
        ),
        (
            Board().picture(48, 24)[:110],
            r"\d of 24 corners are seen, and at least 8 that are not on one line are needed",
        ),
    ],
)
def test_what_is_not_the_board_is_refused_in_words(picture: np.ndarray, told: str) -> None:
    with pytest.raises(BoardNotSeen, match=told):
        detect(Board(), picture)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"marker_m": 0.04}, "given markers of 40 mm in squares of 36 mm"),
        ({"dictionary": "DICT_4X4_51"}, "given 'DICT_4X4_51'"),
        ({"columns": 11, "rows": 10}, "11 x 10 squares need 55 markers .given DICT_4X4_50 with 50."),
    ],
)
def test_a_board_that_cannot_be_is_refused(wrong: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Board(**wrong)


def seen_from(board: Board, matrix: np.ndarray, rotation: tuple[float, ...], away_m: float) -> np.ndarray:
    """A board drawn by perspective, independently of what detects it: the picture warped as the camera would."""
    picture, px_per_m, margin_px = board.picture(60, 30), 60 / board.square_m, 30
    turn = cv2.Rodrigues(np.array(rotation))[0]
    middle = np.array([*board.size_m, 0.0]) / 2.0
    translation = np.array([0.0, 0.0, away_m]) - turn @ middle
    on_board = np.array(
        [[1 / px_per_m, 0, (0.5 - margin_px) / px_per_m], [0, 1 / px_per_m, (0.5 - margin_px) / px_per_m], [0, 0, 1]]
    )
    to_camera = matrix @ np.stack([turn[:, 0], turn[:, 1], translation], axis=1) @ on_board
    return cv2.warpPerspective(picture, to_camera, (640, 480), flags=cv2.INTER_AREA, borderValue=255), translation


MATRIX = np.array([[600.0, 0.0, 310.0], [0.0, 605.0, 245.0], [0.0, 0.0, 1.0]])


def test_the_boards_pose_is_where_it_was_drawn() -> None:
    picture, translation = seen_from(Board(), MATRIX, (0.4, -0.3, 0.2), 0.45)
    pose = board_pose(Board(), detect(Board(), picture), Intrinsics(MATRIX, np.zeros(5)))
    assert np.allclose(pose[:3, 3], translation, atol=0.001)
    assert np.allclose(pose[:3, :3], cv2.Rodrigues(np.array([0.4, -0.3, 0.2]))[0], atol=0.01)


def test_intrinsics_are_estimated_from_tilted_views() -> None:
    turns = [(0.5, 0, 0), (-0.5, 0, 0.3), (0, 0.5, 0), (0, -0.5, 1.2), (0.4, 0.4, 0), (-0.4, 0.4, 0.7), (0.1, 0.1, 0)]
    views = [detect(Board(), seen_from(Board(), MATRIX, turn, 0.42)[0]) for turn in turns]
    found = estimate_intrinsics(Board(), views, 640, 480)
    assert np.allclose(found.matrix, MATRIX, atol=6.0)
    facing = [detect(Board(), seen_from(Board(), MATRIX, (0.02 * turn, 0.05, 0.0), 0.9)[0]) for turn in range(6)]
    with pytest.raises(ValueError, match="leave the focal length open by .* bring the board nearer, tilt it more"):
        estimate_intrinsics(Board(), facing, 640, 480)
    with pytest.raises(ValueError, match="at least 6 views .* got 3"):
        estimate_intrinsics(Board(), views[:3], 640, 480)


def test_a_camera_without_calibration_is_refused() -> None:
    with pytest.raises(ValueError, match=r"focal lengths above 0, got .*--intrinsics estimates them"):
        Intrinsics(np.zeros((3, 3)), np.zeros(5))


def test_a_print_is_true_to_scale(tmp_path: Path) -> None:
    board = Board()
    width_m, height_m = sheet.write(board, tmp_path / "board.png")
    with Image.open(tmp_path / "board.png") as printed:
        page = np.asarray(printed.convert("L"))
        dots_per_m = printed.info["dpi"][0] / 0.0254
    assert width_m < 0.210  # A4
    assert height_m < 0.297
    assert (width_m * dots_per_m, height_m * dots_per_m) == pytest.approx(page.shape[::-1], rel=1e-4)
    corners = detect(board, cv2.resize(page, None, fx=0.1, fy=0.1, interpolation=cv2.INTER_AREA))
    order = np.argsort(corners.ids)
    first, last_of_row = corners.pixels[order[0]], corners.pixels[order[board.columns - 2]]
    apart_m = 10 * np.linalg.norm(last_of_row - first) / dots_per_m
    assert apart_m == pytest.approx(board.square_m * (board.columns - 2), rel=2e-3)
    # The ruler: its base line is dark over 100 mm, and nowhere else below the board is a line so long.
    foot = page[round(0.27 * dots_per_m) :]
    assert (foot == 0).sum(axis=1).max() / dots_per_m == pytest.approx(0.1, abs=0.0005)

    sheet.write(board, tmp_path / "board.pdf")
    box = (tmp_path / "board.pdf").read_bytes().partition(b"/MediaBox [")[2].partition(b"]")[0].split()
    assert [float(edge) * 0.0254 / 72 for edge in box[2:]] == pytest.approx([width_m, height_m], rel=1e-6)
    with pytest.raises(ValueError, match=r"written as \.png or \.pdf .given .*board\.gif"):
        sheet.write(board, tmp_path / "board.gif")
