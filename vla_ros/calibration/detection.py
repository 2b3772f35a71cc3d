"""Where a camera sees the corners of a ChArUco board, by OpenCV, and the board's pose in that camera."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from vla_ros.calibration.board import Board, Gray
from vla_ros.values import Array, Image

#: Fewer corners than this, or all on one line, leave the board's pose open.
FEWEST_CORNERS = 8


#: One standard deviation of it that is still good enough: as much as the camera's distance from the board is off.
_FOCAL_TOLERANCE = 0.005


class BoardNotSeen(ValueError):
    """The board is not in the picture, or not enough of it; the text says what to do."""


@dataclass(frozen=True, eq=False)
class Intrinsics:
    """A pinhole camera: `matrix` (3, 3) in pixels, `distortion` (n,) as OpenCV orders it (k1 k2 p1 p2 k3 ...)."""

    matrix: Array
    distortion: Array

    def __post_init__(self) -> None:
        if self.matrix.shape != (3, 3) or self.matrix[0, 0] <= 0.0 or self.matrix[1, 1] <= 0.0:
            raise ValueError(
                f"the camera's matrix has focal lengths above 0, got {self.matrix.tolist()}: is the camera calibrated? "
                "--intrinsics estimates them from the same views"
            )

    def project(self, points_nx3: Array) -> tuple[Array, Array]:
        """Pixels (n, 2) of points in the camera's optical frame, and their derivative (n, 2, 3)."""
        zero = np.zeros(3)
        pixels, jacobian = cv2.projectPoints(points_nx3, zero, zero, self.matrix, self.distortion)
        # At rotation zero a point and a translation of all points are the same to the projection.
        return _floats(pixels).reshape(-1, 2), _floats(jacobian[:, 3:6]).reshape(-1, 2, 3)


@dataclass(frozen=True, eq=False)
class Corners:
    """The corners that were found: `ids` (n,) of the board's, `pixels` (n, 2) as x right, y down."""

    ids: tuple[int, ...]
    pixels: Array

    def points_m(self, board: Board) -> Array:
        """The same corners (n, 3) in the board's frame."""
        return board.corners_m[list(self.ids)]


def detect(board: Board, image: Image | Gray) -> Corners:
    """Find the corners of `board` in an image (H, W, 3) rgb or (H, W) grey.

    Raises BoardNotSeen for too few of them, for another board, and RuntimeError where OpenCV is too old.
    """
    if not hasattr(cv2.aruco, "CharucoDetector"):
        raise RuntimeError(f"OpenCV {cv2.__version__} finds no ChArUco boards this way; install 4.7 or newer")
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
    pixels, ids, _, found = cv2.aruco.CharucoDetector(board.charuco()).detectBoard(grey)
    markers = [] if found is None else sorted(int(marker) for marker in found.ravel())
    foreign = [marker for marker in markers if marker not in board.marker_ids]
    if not markers:
        raise BoardNotSeen(
            f"no marker of {board.dictionary} is seen: bring the board into the picture, larger or in better light, "
            "or give the dictionary it was printed with"
        )
    if len(foreign) > len(markers) // 3:
        raise BoardNotSeen(
            f"the markers {', '.join(map(str, foreign))} are not of this board ({board}): it has 0 to "
            f"{board.marker_ids[-1]}; give the numbers of squares that it was printed with"
        )
    corners = () if ids is None else tuple(int(corner) for corner in ids.ravel())
    if len(corners) < FEWEST_CORNERS or _on_one_line(board.corners_m[list(corners)]):
        raise BoardNotSeen(
            f"{len(corners)} of {len(board.corners_m)} corners are seen, and at least {FEWEST_CORNERS} that are not on "
            f"one line are needed: show more of the board, or come nearer (markers seen: {len(markers)})"
        )
    return Corners(corners, _floats(pixels).reshape(-1, 2))


def board_pose(board: Board, corners: Corners, intrinsics: Intrinsics) -> Array:
    """The board's pose as a transform (4, 4) in the camera's optical frame, of the least reprojection error.

    Raises BoardNotSeen where the corners allow none: a board that is not `board`, or another camera's intrinsics.
    """
    points = corners.points_m(board)
    camera = (intrinsics.matrix, intrinsics.distortion)
    # A plane seen from afar has two poses that explain it nearly alike; IPPE gives both, and refining decides.
    _, rotations, translations, _ = cv2.solvePnPGeneric(points, corners.pixels, *camera, flags=cv2.SOLVEPNP_IPPE)
    best, best_rms_px = None, np.inf
    for rotation, translation in zip(rotations, translations, strict=True):
        refined = cv2.solvePnPRefineLM(points, corners.pixels, *camera, rotation, translation)
        transform = np.eye(4)
        transform[:3, :3], transform[:3, 3] = cv2.Rodrigues(refined[0])[0], refined[1].ravel()
        rms_px = reprojection_rms_px(board, corners, intrinsics, transform)
        if rms_px < best_rms_px:
            best, best_rms_px = transform, rms_px
    if best is None:
        raise BoardNotSeen("the corners seen are of no pose of the board; is it flat, and the one that was named?")
    return best


def reprojection_rms_px(board: Board, corners: Corners, intrinsics: Intrinsics, pose: Array) -> float:
    """How far the corners of a board at `pose` (4, 4) are from where they were seen: root of the mean square."""
    points = corners.points_m(board) @ pose[:3, :3].T + pose[:3, 3]
    if (points[:, 2] <= 0.0).any():
        return float("inf")  # behind the camera
    off = intrinsics.project(points)[0] - corners.pixels
    return float(np.sqrt((off**2).sum(axis=1).mean()))


def estimate_intrinsics(board: Board, views: Sequence[Corners], width: int, height: int) -> Intrinsics:
    """The camera itself from views of the board, by cv2.calibrateCamera: focal lengths, centre, k1 k2.

    Raises ValueError for fewer than 6 views, and where they leave the focal length open.
    """
    if len(views) < 6:
        raise ValueError(
            f"the intrinsics need at least 6 views of the board, tilted and near the edges, got {len(views)}"
        )
    points = [view.points_m(board).astype(np.float32) for view in views]
    pixels = [view.pixels.astype(np.float32) for view in views]
    # Tangential distortion and the centre explain the same few views, so that both would be wrong.
    flags = cv2.CALIB_FIX_K3 | cv2.CALIB_ZERO_TANGENT_DIST
    _, matrix, distortion, _, _, deviations, _, _ = cv2.calibrateCameraExtended(
        points, pixels, (width, height), np.eye(3), np.zeros(5), flags=flags
    )
    focal_px, deviation_px = float(matrix[0, 0]), float(deviations.ravel()[0])
    if deviation_px > _FOCAL_TOLERANCE * focal_px:
        raise ValueError(
            f"these views leave the focal length open by {deviation_px:.0f} of {focal_px:.0f} pixels: bring the board "
            "nearer, tilt it more and show it in the corners of the picture; or calibrate the camera separately"
        )
    return Intrinsics(_floats(matrix), _floats(distortion).ravel())


def _on_one_line(points_nx3: Array) -> bool:
    return bool(np.linalg.matrix_rank(points_nx3 - points_nx3[0], tol=1e-9) < 2)


def _floats(values: Any) -> Array:
    return np.asarray(values, dtype=np.float64)
