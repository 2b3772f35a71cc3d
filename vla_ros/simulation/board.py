"""A ChArUco board in the simulated world: where it is, how it is drawn, and from where it is seen well."""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement

import cv2
import numpy as np

from vla_ros.calibration.board import MARGIN_SQUARES, Board
from vla_ros.calibration.hand_eye import Mounting
from vla_ros.calibration.pose import Pose
from vla_ros.geometry import RotationForm, matrix_pose, pose_matrix, rotation_values
from vla_ros.values import Array, Config

#: The file of its picture, among the assets of the scene.
PICTURE = "board.png"

_SQUARE_PX = 48
_THICKNESS_M = 0.004
_ON_TABLE_M = (0.36, 0.0, 0.005)  # its middle, in the base frame
_ON_HAND_M = (0.06, 0.0, 0.126)  # its middle, in the hand: before it, as far from the arm as the hand is long
_ASIDE_M = -0.36

#: The TCP pose (7,) from which a camera sees the board: of the hand over the table, of the front over the hand.
VIEWPOINTS = {
    Mounting.IN_HAND: np.array([0.36, 0.0, 0.30, 1.0, 0.0, 0.0, 0.0]),
    Mounting.TO_HAND: np.array([0.60, 0.0, 0.50, 1.0, 0.0, 0.0, 0.0]),
}


class BoardModel(Config):
    """A board and the pose of its frame in `frame`: a link of the robot, "" for the base.

    Nothing touches it: arm and cubes pass through.
    """

    board: Board = Board()
    frame: str = ""
    pose: Pose


def on_table(board: Board) -> BoardModel:
    """The board flat on the table before the arm, for a camera in the hand."""
    axes = np.diag([1.0, -1.0, -1.0])  # its columns away from the arm, its back downwards
    return BoardModel(board=board, pose=_centred(board, axes, _ON_TABLE_M))


def in_hand(board: Board, frame: str) -> BoardModel:
    """The board upright on the hand `frame`, its face where the hand's x axis points, for a camera beside the arm."""
    axes = np.array([[0.0, 0.0, -1.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])  # its rows towards the fingers' tips
    return BoardModel(board=board, frame=frame, pose=_centred(board, axes, _ON_HAND_M))


def add_board(root: Element, body: Element, model: BoardModel) -> None:
    """Put the board on `body`, its picture on the side from which it is looked at."""
    asset = root.find("asset")
    assert asset is not None
    SubElement(asset, "texture", name="board", type="2d", file=PICTURE)
    SubElement(asset, "material", name="board", texture="board", specular="0", shininess="0", reflectance="0")
    width, height = (0.5 * side + MARGIN_SQUARES * model.board.square_m for side in model.board.size_m)
    place = pose_matrix(model.pose) @ _to_box(model.board)
    x, y, z, w = rotation_values(place[:3, :3], RotationForm.QUATERNION)
    SubElement(
        body,
        "geom",
        type="box",
        name="board",
        pos=" ".join(map(str, place[:3, 3])),
        quat=f"{w} {x} {y} {z}",
        size=f"{width} {height} {_THICKNESS_M / 2}",
        material="board",
        mass="0",
        contype="0",
        conaffinity="0",
    )


def cubes_aside_m(model: BoardModel | None) -> float:
    """How far along y the cubes stand from where they would without a board, so that they hide nothing of it."""
    return 0.0 if model is None else _ASIDE_M


def picture(board: Board) -> bytes:
    """The board as a PNG file, with its margin."""
    _, file = cv2.imencode(".png", board.picture(_SQUARE_PX, round(MARGIN_SQUARES * _SQUARE_PX)))
    return bytes(file)


def _centred(board: Board, axes: Array, middle_m: tuple[float, float, float]) -> Pose:
    """The pose of a board whose middle is at `middle_m`, its axes the columns (3, 3)."""
    transform = np.eye(4)
    transform[:3, :3] = axes
    transform[:3, 3] = np.array(middle_m) - axes[:, :2] @ (0.5 * np.array(board.size_m))
    x, y, z, qx, qy, qz, qw = matrix_pose(transform).tolist()
    return x, y, z, qx, qy, qz, qw


def _to_box(board: Board) -> Array:
    """The box's frame in the board's (4, 4): its centre, x along the columns, z out of the picture."""
    transform = np.diag([1.0, -1.0, -1.0, 1.0])
    transform[:3, 3] = (*(0.5 * side for side in board.size_m), _THICKNESS_M / 2)
    return transform
