"""What lets a person judge a calibration: each view with the corners seen and those expected, and frames drawn in."""

from __future__ import annotations

from math import ceil
from pathlib import Path

import cv2
import numpy as np

from vla_ros.calibration.detection import Intrinsics
from vla_ros.calibration.hand_eye import Mounting
from vla_ros.calibration.views import Solved
from vla_ros.geometry import pose_matrix
from vla_ros.values import Array, Image

_COLUMNS = 4
_TILE_PX = (480, 400)  # width, height
_ROOM = 2.0  # so many times as wide and high as the corners are apart
_AXIS_M = 0.08
_SEEN, _EXPECTED, _REJECTED, _INK = (40, 220, 60), (255, 40, 200), (230, 60, 40), (255, 255, 255)
_AXIS_COLORS = ((255, 60, 60), (60, 220, 60), (80, 120, 255))  # x y z
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw(solved: Solved, file: Path) -> Path:
    """Draw every view into the PNG `file` and give the path back.

    A green ring is a corner as it was seen, a pink cross where the calibration expects it; the axes x y z, red green
    blue, of the board, and of the link that carries it where that is in the picture. A rejected view has a red rim.
    """
    tiles = [_tile(solved, number) for number in range(len(solved.kept))]
    rows = ceil(len(tiles) / _COLUMNS)
    tiles += [np.full_like(tiles[0], 255)] * (rows * _COLUMNS - len(tiles))
    sheet = np.concatenate([np.concatenate(tiles[row * _COLUMNS :][:_COLUMNS], axis=1) for row in range(rows)])
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), sheet[:, :, ::-1])
    return file


def _tile(solved: Solved, number: int) -> Image:
    """One view about its board."""
    hand_eye, corners = solved.hand_eye, solved.corners[number]
    window = _Window(corners.pixels)
    tile = window.cut(solved.images[number])
    link = pose_matrix(solved.set.views[solved.kept[number]].link_pose)
    in_hand = hand_eye.mounting is Mounting.IN_HAND
    carrier = np.linalg.inv(pose_matrix(hand_eye.pose)) @ (np.linalg.inv(link) if in_hand else link)
    board = carrier @ pose_matrix(hand_eye.board_pose)
    expected = corners.points_m(solved.set.board) @ board[:3, :3].T + board[:3, 3]
    for seen, wanted in zip(corners.pixels, solved.intrinsics.project(expected)[0], strict=True):
        cv2.circle(tile, window.at(seen), 6, _SEEN, 1, cv2.LINE_AA)
        cv2.drawMarker(tile, window.at(wanted), _EXPECTED, cv2.MARKER_TILTED_CROSS, 7, 1, cv2.LINE_AA)
    for frame in (board,) if in_hand else (board, carrier):
        _draw_axes(tile, frame, solved.intrinsics, window)
    rejected = number in hand_eye.rejected
    words = f"{solved.kept[number] + 1}: {hand_eye.view_rms_px[number]:.2f} px{', rejected' if rejected else ''}"
    cv2.rectangle(tile, (0, 0), (12 + 9 * len(words), 24), (0, 0, 0), -1)
    cv2.putText(tile, words, (6, 17), _FONT, 0.5, _INK, 1, cv2.LINE_AA)
    cv2.rectangle(tile, (0, 0), (_TILE_PX[0] - 1, _TILE_PX[1] - 1), _REJECTED if rejected else _INK, 3)
    return tile


def _draw_axes(tile: Image, frame: Array, intrinsics: Intrinsics, window: _Window) -> None:
    """The axes of a frame (4, 4) in the camera, unless they are behind it."""
    ends = np.concatenate([frame[:3, 3:], frame[:3, 3:] + _AXIS_M * frame[:3, :3]], axis=1).T
    if (ends[:, 2] <= 0.0).any():
        return
    origin, *tips = (window.at(pixel) for pixel in intrinsics.project(ends)[0])
    for tip, color in zip(tips, _AXIS_COLORS, strict=True):
        cv2.line(tile, origin, tip, color, 2, cv2.LINE_AA)


class _Window:
    """The part of a picture about some pixels (n, 2) that fills a tile."""

    def __init__(self, pixels: Array) -> None:
        lower, upper = pixels.min(axis=0), pixels.max(axis=0)
        self._zoom = float((np.array(_TILE_PX) / (_ROOM * (upper - lower))).min())
        self._corner = 0.5 * (lower + upper) - 0.5 * np.array(_TILE_PX) / self._zoom

    def cut(self, image: Image) -> Image:
        """The tile; black where the picture ends."""
        to_tile = self._zoom * np.concatenate([np.eye(2), -self._corner[:, None]], axis=1)
        how = cv2.INTER_AREA if self._zoom < 1.0 else cv2.INTER_LINEAR
        return np.asarray(cv2.warpAffine(image, to_tile, _TILE_PX, flags=how), dtype=np.uint8)

    def at(self, pixel: Array) -> tuple[int, int]:
        """Where a pixel of the picture is in the tile."""
        x, y = self._zoom * (pixel - self._corner)
        return round(float(x)), round(float(y))
