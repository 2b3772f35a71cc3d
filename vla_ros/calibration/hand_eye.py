"""Hand-eye calibration: where a camera is fixed, on a link of the arm or beside it, from views of a board.

With `A` the board's carrier in the frame the camera is fixed to (by the arm's own kinematics), `X` the camera in that
frame, `Y` the board on its carrier and `B` the board as the camera sees it, every view says `A Y = X B`. The start is
Park and Martin (1994), Robot sensor calibration: solving AX = XB on the Euclidean group; it is written here because
the Python bindings of OpenCV 5.0 lack calibrateHandEye. What counts is the reprojection error of every corner, which
is then minimised over X and Y together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from math import degrees, radians

import cv2
import numpy as np
from numpy.typing import NDArray

from vla_ros.calibration.board import Board
from vla_ros.calibration.detection import Corners, Intrinsics, board_pose
from vla_ros.geometry import matrix_pose, pose_matrix
from vla_ros.values import Array

FEWEST_VIEWS = 5
#: Rotations about the second of two axes must spread by this much (root mean square), or the result is a guess.
LEAST_SPREAD_RAD = radians(5.0)
#: With this much about every axis all is well determined.
GOOD_SPREAD_RAD = radians(8.0)
#: More of the views than this cannot be outliers: then it is the others that may be wrong.
_MOST_REJECTED = 1 / 3
#: A view is rejected when it is this many times worse than the median one, and worse than this many pixels.
_REJECT_TIMES, _REJECT_PX = 4.0, 1.0
_HUBER_PX = 1.0
#: No arm is so inexact that its board is seen this far from where it should be.
_CONTRADICTION_PX = 10.0
_MOVED = "did the board or the camera move on what it is fixed to, or the arm while a picture was taken"
#: A print is never this far off by chance.
_SCALE_TOLERANCE = 0.02
_ITERATIONS = 60


class Mounting(str, Enum):
    """What the camera is fixed to."""

    IN_HAND = "in-hand"  # a link of the arm; the board lies still
    TO_HAND = "to-hand"  # something that stands still; the arm holds the board


class CannotCalibrate(ValueError):
    """The views do not determine the camera's pose; the text says what to do about it."""


@dataclass(frozen=True, eq=False)
class View:
    """One picture of the board, taken at rest: the pose (7,) of the link in the arm's base frame, and the corners."""

    link_pose: Array
    corners: Corners


@dataclass(frozen=True, eq=False)
class HandEye:
    """The camera's pose (7,), in the link (`IN_HAND`) or in the base frame (`TO_HAND`), and how well it is known.

    `board_pose` (7,): in the base frame, or in the link. `rms_px` of the corners of all views used, `view_rms_px` of
    each view given, `rejected` the indices of those not used. `error_m`, `error_rad`: how far the board as the camera
    sees it is from where it should be, root of the mean square over the views used. `spread_m`, `spread_rad`: standard
    error of the pose, by leaving out one view after the other. `scale`: how large the board is by the arm's measure.
    """

    mounting: Mounting
    pose: Array
    board_pose: Array
    rms_px: float
    view_rms_px: tuple[float, ...]
    rejected: tuple[int, ...]
    error_m: float
    error_rad: float
    spread_m: float
    spread_rad: float
    scale: float


def calibrate(board: Board, intrinsics: Intrinsics, views: Sequence[View], mounting: Mounting) -> HandEye:
    """Find where the camera is fixed; raises CannotCalibrate for too few views, too little motion, a wrong board."""
    if len(views) < FEWEST_VIEWS:
        raise CannotCalibrate(f"{len(views)} views are too few; take at least {FEWEST_VIEWS}, better 15")
    if missing := missing_rotation([view.link_pose for view in views]):
        raise CannotCalibrate(missing)
    problem = _Problem(board, intrinsics, views, mounting)
    # With the board's size left open: whether it is right, and which views lie, is found out together.
    used = list(range(len(views)))
    solution = problem.refine(problem.start(), used, with_scale=True)
    while rejected := problem.outliers(solution, used):
        used = [index for index in used if index not in rejected]
        if len(views) - len(used) > _MOST_REJECTED * len(views) or len(used) < FEWEST_VIEWS:
            raise CannotCalibrate(
                f"{len(views) - len(used)} of {len(views)} views contradict the others: {_MOVED}? Take them again"
            )
        solution = problem.refine(solution, used, with_scale=True)
    if missing := missing_rotation([views[index].link_pose for index in used]):
        raise CannotCalibrate(missing)
    if problem.rms_px(solution, used) > _CONTRADICTION_PX:
        raise CannotCalibrate(
            f"the views contradict each other by {problem.rms_px(solution, used):.0f} pixels: {_MOVED}, "
            f"or is the camera not {mounting.value}?"
        )
    if abs(solution.scale - 1.0) > _SCALE_TOLERANCE:
        raise CannotCalibrate(
            f"by the arm's measure a square is {1000 * solution.scale * board.square_m:.1f} mm, not "
            f"{1000 * board.square_m:g} mm: measure the print and give its size, or, if that is right, check the "
            "camera's intrinsics"
        )
    return problem.result(problem.refine(replace(solution, scale=1.0), used), used, solution.scale)


def rotation_spread(poses: Sequence[Array]) -> tuple[Array, Array]:
    """How far poses (7,) are turned about three axes of their own link: spreads (3,) [rad], largest first, axes (3, 3).

    The rows of the second are the axes. Root mean squares of the rotations of all pairs, over the square root of two.
    """
    turns = np.stack([_log(np.linalg.inv(pose_matrix(poses[0])) @ pose_matrix(pose))[3:] for pose in poses])
    # About the middle one and not the first, for rotations do not simply add up.
    middle = pose_matrix(poses[int(np.argmin(np.linalg.norm(turns - turns.mean(axis=0), axis=1)))])
    turns = np.stack([_log(np.linalg.inv(middle) @ pose_matrix(pose))[3:] for pose in poses])
    _, singular, axes = np.linalg.svd(turns - turns.mean(axis=0), full_matrices=True)
    spread = np.zeros(3)
    spread[: len(singular)] = singular[:3] / np.sqrt(len(poses))
    return spread, np.asarray(axes, dtype=np.float64)


def missing_rotation(poses: Sequence[Array]) -> str:
    """What rotation the arm has to add so that poses (7,) of its link determine a calibration; "" when none."""
    if len(poses) < 2:
        return "turn the hand about two of its axes, by 20 degrees each"
    spread, axes = rotation_spread(poses)
    if spread[1] >= LEAST_SPREAD_RAD:
        return ""
    lacking = axes[1:] if spread[0] >= LEAST_SPREAD_RAD else axes
    # Of the axes of the link the one that is most in the directions that lack rotation.
    name = "xyz"[int(np.argmax(np.linalg.norm(lacking, axis=0)))]
    known = f"about {'one axis' if spread[0] >= LEAST_SPREAD_RAD else 'no axis'} only"
    return (
        f"the hand was turned {known} ({degrees(spread[0]):.0f} and {degrees(spread[1]):.0f} degrees about the two "
        f"foremost), and about two it has to be: rotate it about its {name} axis by 20 degrees, to both sides"
    )


def advice(poses: Sequence[Array]) -> str:
    """About which axis of its link the arm should turn more, for poses (7,) so far; "" when it has turned enough."""
    if len(poses) < 2:
        return "turn the hand about its x, y and z axis, by 20 degrees each"
    spread, axes = rotation_spread(poses)
    about = np.sqrt(spread**2 @ axes**2)  # of each axis of the link
    name, least = "xyz"[int(np.argmin(about))], float(about.min())
    return "" if least >= GOOD_SPREAD_RAD else f"rotate more about {name}"


# --- the problem ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Solution:
    """X and Y as transforms (4, 4), and how many times as large as said the board is."""

    camera: Array
    board: Array
    scale: float = 1.0


class _Problem:
    """The corners of all views, and how far a solution's are from them; C counts corners, V views."""

    def __init__(self, board: Board, intrinsics: Intrinsics, views: Sequence[View], mounting: Mounting) -> None:
        self._intrinsics = intrinsics
        self._mounting = mounting
        self._view = np.repeat(np.arange(len(views)), [len(view.corners.ids) for view in views])  # (C,)
        self._points = np.concatenate([view.corners.points_m(board) for view in views])  # (C, 3)
        self._pixels = np.concatenate([view.corners.pixels for view in views])  # (C, 2)
        links = np.stack([pose_matrix(view.link_pose) for view in views])
        self._carriers = np.linalg.inv(links) if mounting is Mounting.IN_HAND else links  # (V, 4, 4)
        self._seen = np.stack([board_pose(board, view.corners, intrinsics) for view in views])  # (V, 4, 4)

    def start(self) -> _Solution:
        """Park and Martin's solution; of the boards that the views then say, the one all corners like best."""
        pairs = [(i, j) for j in range(len(self._seen)) for i in range(j)]
        carried = np.stack([_log(self._carriers[j] @ np.linalg.inv(self._carriers[i])) for i, j in pairs])
        seen = np.stack([_log(self._seen[j] @ np.linalg.inv(self._seen[i])) for i, j in pairs])
        camera = np.eye(4)
        camera[:3, :3] = _kabsch(seen[:, 3:], carried[:, 3:])
        rows = np.concatenate([cv2.Rodrigues(motion[3:])[0] - np.eye(3) for motion in carried])
        right = seen[:, :3] @ camera[:3, :3].T - carried[:, :3]
        camera[:3, 3] = np.linalg.lstsq(rows, right.ravel(), rcond=None)[0]
        boards = np.linalg.inv(self._carriers) @ camera @ self._seen
        candidates = (_Solution(camera, board) for board in boards)
        return min(candidates, key=lambda solution: float(np.median(self.view_rms_px(solution))))

    def refine(
        self, solution: _Solution, used: Sequence[int], iterations: int = _ITERATIONS, with_scale: bool = False
    ) -> _Solution:
        """Levenberg-Marquardt on the reprojection errors of the views `used`, by Huber's norm."""
        chosen = np.isin(self._view, used)
        damping, cost = 1e-3, self._cost(solution, chosen)
        for _ in range(iterations):
            jacobian, off = self._linearised(solution, chosen, with_scale)
            normal = jacobian.T @ jacobian
            damped = normal + damping * np.diag(np.diag(normal) + 1e-12)
            step: Array = np.linalg.solve(damped, -(jacobian.T @ off)).astype(np.float64)
            moved = _Solution(
                solution.camera @ _exp(step[:6]),
                solution.board @ _exp(step[6:12]),
                solution.scale + float(step[12:].sum()),
            )
            moved_cost = self._cost(moved, chosen)
            if moved_cost < cost:
                done = cost - moved_cost < 1e-9 * cost
                solution, cost, damping = moved, moved_cost, damping / 10.0
                if done:
                    break
            elif damping > 1e8:
                break
            else:
                damping *= 10.0
        return solution

    def outliers(self, solution: _Solution, used: Sequence[int]) -> list[int]:
        """The views of `used` that do not fit with the others; the worst, and those nearly as bad."""
        rms_px = self.view_rms_px(solution)[list(used)]
        worst = rms_px.max()
        if worst <= max(_REJECT_PX, _REJECT_TIMES * float(np.median(rms_px))):
            return []
        return [index for index, rms in zip(used, rms_px, strict=True) if rms > 0.5 * worst]

    def rms_px(self, solution: _Solution, used: Sequence[int]) -> float:
        """The reprojection error of the views `used` together."""
        return _rms(self._off(solution)[0][np.isin(self._view, used)])

    def view_rms_px(self, solution: _Solution) -> Array:
        """The reprojection error (V,) of each view."""
        squares = np.bincount(self._view, (self._off(solution)[0] ** 2).sum(axis=1))
        return np.asarray(np.sqrt(squares / np.bincount(self._view)), dtype=np.float64)

    def result(self, solution: _Solution, used: Sequence[int], scale: float) -> HandEye:
        """What is told of a solution."""
        expected = self._expected(solution)
        off = np.stack([_log(np.linalg.inv(self._seen[index]) @ expected[index]) for index in used])
        left_out = [self.refine(solution, [index for index in used if index != out], 10).camera for out in used]
        apart = np.stack([_log(np.linalg.inv(solution.camera) @ camera) for camera in left_out])
        spread = np.sqrt((len(used) - 1) * ((apart - apart.mean(axis=0)) ** 2).mean(axis=0))  # the jackknife's
        return HandEye(
            mounting=self._mounting,
            pose=matrix_pose(solution.camera),
            board_pose=matrix_pose(solution.board),
            rms_px=self.rms_px(solution, used),
            view_rms_px=tuple(self.view_rms_px(solution).tolist()),
            rejected=tuple(index for index in range(len(self._seen)) if index not in used),
            error_m=_rms(off[:, :3]),
            error_rad=_rms(off[:, 3:]),
            spread_m=float(np.linalg.norm(spread[:3])),
            spread_rad=float(np.linalg.norm(spread[3:])),
            scale=scale,
        )

    def _expected(self, solution: _Solution) -> Array:
        """The board in the camera (V, 4, 4), as the arm says."""
        return np.asarray(np.linalg.inv(solution.camera) @ self._carriers @ solution.board, dtype=np.float64)

    def _off(self, solution: _Solution) -> tuple[Array, Array, Array, Array]:
        """Errors (C, 2), their derivative (C, 2, 3) by the corners in the camera (C, 3), those, rotations (C, 3, 3)."""
        expected = self._expected(solution)[self._view]
        rotations = expected[:, :3, :3]
        points = solution.scale * np.einsum("cij,cj->ci", rotations, self._points) + expected[:, :3, 3]
        pixels, by_point = self._intrinsics.project(points)
        return pixels - self._pixels, by_point, points, rotations

    def _cost(self, solution: _Solution, chosen: NDArray[np.bool_]) -> float:
        lengths = np.linalg.norm(self._off(solution)[0][chosen], axis=1)
        small = np.minimum(lengths, _HUBER_PX)
        return float((small * (2.0 * lengths - small)).sum())

    def _linearised(self, solution: _Solution, chosen: NDArray[np.bool_], with_scale: bool) -> tuple[Array, Array]:
        """The derivative (2 C, 12) by X and Y, each moved in its own frame, and by the scale; the errors (2 C,).

        Both are weighted, so that an error beyond Huber's counts by its length and not by its square.
        """
        off, by_point, points, rotations = (part[chosen] for part in self._off(solution))
        ones = np.broadcast_to(np.eye(3), rotations.shape)
        on_board = solution.scale * self._points[chosen]
        by_camera = np.concatenate([-ones, _cross(points)], axis=2)
        by_board = rotations @ np.concatenate([ones, -_cross(on_board)], axis=2)
        by_scale = rotations @ self._points[chosen][:, :, None]
        columns = np.concatenate([by_camera, by_board, by_scale] if with_scale else [by_camera, by_board], axis=2)
        weights = np.sqrt(_HUBER_PX / np.maximum(np.linalg.norm(off, axis=1), _HUBER_PX))
        jacobian = weights[:, None, None] * (by_point @ columns)
        return jacobian.reshape(off.size, -1), (weights[:, None] * off).ravel()


# --- rigid motions ----------------------------------------------------------------------------------------------------


def _exp(motion: Array) -> Array:
    """The transform (4, 4) of a small motion (6,): translation, then rotation vector."""
    transform = np.eye(4)
    transform[:3, :3] = cv2.Rodrigues(motion[3:])[0]
    transform[:3, 3] = motion[:3]
    return transform


def _log(transform: Array) -> Array:
    """Translation and rotation vector (6,) of a transform (4, 4)."""
    return np.concatenate([transform[:3, 3], cv2.Rodrigues(transform[:3, :3])[0].ravel()])


def _cross(points_nx3: Array) -> Array:
    """The matrices (n, 3, 3) that take the cross product with each point."""
    matrices = np.zeros((len(points_nx3), 3, 3))
    x, y, z = points_nx3.T
    matrices[:, 0, 1], matrices[:, 0, 2], matrices[:, 1, 2] = -z, y, -x
    return matrices - matrices.transpose(0, 2, 1)


def _kabsch(start_nx3: Array, end_nx3: Array) -> Array:
    """The rotation (3, 3) that takes the vectors of the first best to those of the second."""
    left, _, right = np.linalg.svd(end_nx3.T @ start_nx3)
    mirrored = np.diag([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    return np.asarray(left @ mirrored @ right, dtype=np.float64)


def _rms(vectors: Array) -> float:
    """Root of the mean square length of vectors (n, d)."""
    return float(np.sqrt((vectors**2).sum(axis=1).mean()))
