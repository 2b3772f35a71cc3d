"""The views of one hand-eye calibration as a folder: pictures, the arm's joints at each, all that recomputing needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from pydantic import Field, ValidationError

from vla_ros.calibration.board import Board
from vla_ros.calibration.detection import BoardNotSeen, Corners, Intrinsics, detect, estimate_intrinsics
from vla_ros.calibration.hand_eye import HandEye, Mounting, View, calibrate
from vla_ros.calibration.pose import Pose, Seven
from vla_ros.values import Array, Config, Image, problems_of

FILE = "views.json"


class SavedView(Config):
    """One picture, and where the arm was: its joints, and the link in the base frame."""

    image: str
    stamp_ns: int
    joint_positions: tuple[float, ...]
    link_pose: Pose


class ViewSet(Config):
    """What is the same for all views, and the views. `matrix` (9,) by rows and `distortion` are camera_info's k and d.

    `link` is the link of the arm that carries the camera, or the board; an empty `matrix`: it is to be estimated.
    `frame_id`: of the pictures, the camera's optical frame; `pose_in_tf`: where TF had it then, in `parent`.
    """

    robot: str
    camera: str
    frame_id: str = ""
    pose_in_tf: Pose | None = None
    mounting: Mounting
    base: str
    link: str
    board: Board
    width: int
    height: int
    matrix: tuple[float, ...] = ()
    distortion: tuple[float, ...] = ()
    views: tuple[SavedView, ...] = Field(default=())

    @property
    def parent(self) -> str:
        """The frame in which the camera's pose is found."""
        return self.link if self.mounting is Mounting.IN_HAND else self.base

    def known_intrinsics(self) -> Intrinsics | None:
        """The camera's, where its driver says them."""
        if not self.matrix or self.matrix[0] == 0.0:
            return None
        return Intrinsics(np.reshape(self.matrix, (3, 3)), np.array(self.distortion or (0.0,) * 5))


class ViewFolder:
    """Where views are kept while they are taken; every view is on disk before the next."""

    def __init__(self, folder: Path, about: ViewSet) -> None:
        """Make the folder; raises OSError where that cannot be."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.set = about

    def add(self, stamp_ns: int, image: Image, joint_positions: Array, link_pose: Array) -> None:
        """Keep one more view, its picture (H, W, 3) rgb."""
        name = f"view_{len(self.set.views) + 1:02d}.png"
        cv2.imwrite(str(self._folder / name), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        x, y, z, qx, qy, qz, qw = link_pose.tolist()
        view = SavedView(
            image=name,
            stamp_ns=stamp_ns,
            joint_positions=tuple(joint_positions.tolist()),
            link_pose=(x, y, z, qx, qy, qz, qw),
        )
        self.set = self.set.model_copy(update={"views": (*self.set.views, view)})
        (self._folder / FILE).write_text(self.set.model_dump_json(indent=2) + "\n", encoding="utf-8")


def load(folder: Path) -> ViewSet:
    """The views of a folder; raises ValueError where there are none, or none that can be read."""
    try:
        return ViewSet.model_validate_json((folder / FILE).read_bytes())
    except OSError as error:
        raise ValueError(f"{folder} holds no views: {FILE}: {error.strerror}") from None
    except ValidationError as error:
        raise ValueError(f"{folder / FILE}: {'; '.join(problems_of(error))}") from None


@dataclass(frozen=True, eq=False)
class Solved:
    """A calibration with what it was made of; `corners` of each view whose board was found, `kept` its index."""

    set: ViewSet
    kept: tuple[int, ...]
    images: tuple[Image, ...]
    corners: tuple[Corners, ...]
    intrinsics: Intrinsics
    hand_eye: HandEye


def solve(folder: Path, views: ViewSet) -> Solved:
    """Find the corners in the pictures of `folder`, and calibrate; raises ValueError saying what to do where it cannot.

    A view in which the board is not found is left out.
    """
    kept, images, corners = [], [], []
    lost: BoardNotSeen | None = None
    for index, view in enumerate(views.views):
        picture = cv2.imread(str(folder / view.image), cv2.IMREAD_COLOR)
        if picture is None:
            raise ValueError(f"{folder / view.image} is not a picture")
        try:
            found = detect(views.board, np.asarray(picture[:, :, ::-1], dtype=np.uint8))
        except BoardNotSeen as error:
            lost = error
            continue
        kept.append(index)
        corners.append(found)
        images.append(np.asarray(picture[:, :, ::-1], dtype=np.uint8))
    if not kept and lost is not None:
        raise lost
    intrinsics = views.known_intrinsics() or estimate_intrinsics(views.board, corners, views.width, views.height)
    poses = [np.array(views.views[index].link_pose) for index in kept]
    hand_eye = calibrate(views.board, intrinsics, _paired(poses, corners), views.mounting)
    return Solved(views, tuple(kept), tuple(images), tuple(corners), intrinsics, hand_eye)


def as_seven(pose: Array) -> Seven:
    """A pose (7,) as a configuration writes it: micrometres, and as many digits of the rotation."""
    x, y, z, qx, qy, qz, qw = (round(float(value), 7) for value in pose)
    return x, y, z, qx, qy, qz, qw


def _paired(poses: Sequence[Array], corners: Sequence[Corners]) -> list[View]:
    return [View(pose, seen) for pose, seen in zip(poses, corners, strict=True)]
