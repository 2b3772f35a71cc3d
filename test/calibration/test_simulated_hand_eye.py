"""Hand-eye calibration in the simulated world, without ROS: rendered boards against where the world has its cameras."""

from __future__ import annotations

import re
import shutil
from math import degrees
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from vla_ros import config
from vla_ros.calibration import hand_eye_motion, pictures, views
from vla_ros.calibration.board import Board
from vla_ros.calibration.hand_eye import Mounting
from vla_ros.cli import app
from vla_ros.control.kinematics import Kinematics, for_robot
from vla_ros.geometry import rotation_angle
from vla_ros.robots import description
from vla_ros.robots.panda import PANDA
from vla_ros.simulation import board as simulated
from vla_ros.simulation.tabletop import Tabletop
from vla_ros.simulation.world import DEFAULT_CAMERAS, TabletopConfig
from vla_ros.values import Array

BOARD = Board()
HAND = PANDA.gripper.frame
CAMERAS = {Mounting.IN_HAND: "wrist", Mounting.TO_HAND: "front"}


def joints_for(pose: Array) -> Array:
    chain, q = for_robot(PANDA), np.array(PANDA.home_rad)
    lower, upper = (np.array([getattr(joint, f"{end}_rad") for joint in PANDA.joints]) for end in ("lower", "upper"))
    for _ in range(100):
        q = chain.toward(
            q, pose, period_s=1.0, home=np.array(PANDA.home_rad), lower=lower, upper=upper, velocity=np.full(7, 9.0)
        ).joint_positions
    return q


def photograph(folder: Path, mounting: Mounting, count: int, seed: int) -> tuple[views.ViewSet, Array]:
    """Views of the board, 640 x 480, and the pose (7,) that the world has its camera at."""
    camera = CAMERAS[mounting]
    model = DEFAULT_CAMERAS[camera].model_copy(update={"width": 640, "height": 480})
    board = simulated.on_table(BOARD) if mounting is Mounting.IN_HAND else simulated.in_hand(BOARD, HAND)
    world = Tabletop(PANDA, TabletopConfig(cameras={camera: model}, board=board))
    world.reset(seed)
    fx, fy, cx, cy = model.intrinsics()
    about = views.ViewSet(
        robot="panda",
        camera=camera,
        mounting=mounting,
        base=PANDA.base_frame,
        link=HAND,
        board=BOARD,
        width=640,
        height=480,
        matrix=(fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0),
    )
    kept = views.ViewFolder(folder, about)
    hand = Kinematics(description.urdf(PANDA), PANDA.joint_names, HAND)
    renderer = world.renderer()
    for pose in hand_eye_motion.around(simulated.VIEWPOINTS[mounting], mounting, count):
        joints = joints_for(pose)
        snapshot = world.snapshot()
        snapshot.configuration[:7] = joints
        kept.add(snapshot.time_ns, renderer.render(camera, snapshot), joints, hand.forward(joints))
    renderer.close()
    return kept.set, world.camera_pose(camera)


def check(folder: Path, mounting: Mounting, taken: views.ViewSet, truth: Array) -> None:
    assert views.load(folder) == taken
    solved = views.solve(folder, taken)
    found = solved.hand_eye
    apart_mm = 1000.0 * float(np.linalg.norm(found.pose[:3] - truth[:3]))
    apart_deg = degrees(rotation_angle(found.pose[3:], truth[3:]))
    print(f"{mounting.value}: {len(taken.views)} views, {apart_mm:.2f} mm, {apart_deg:.3f} deg, {found.rms_px:.2f} px")
    assert len(solved.kept) == len(taken.views)
    assert found.rejected == ()
    assert apart_mm <= 3.0
    assert apart_deg <= 0.3
    assert found.rms_px < 0.5
    assert found.error_m < 0.003
    # The board too is where the world has it.
    expected = simulated.on_table(BOARD) if mounting is Mounting.IN_HAND else simulated.in_hand(BOARD, HAND)
    assert np.allclose(found.board_pose[:3], expected.pose[:3], atol=0.003)
    assert rotation_angle(found.board_pose[3:], np.array(expected.pose[3:])) < 0.006
    sheet = cv2.imread(str(pictures.draw(solved, folder / "hand_eye.png")))
    assert sheet.shape[1] == 4 * 480


@pytest.fixture(scope="module")
def in_hand(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, views.ViewSet, Array]:
    folder = tmp_path_factory.mktemp("in-hand")
    return folder, *photograph(folder, Mounting.IN_HAND, count=7, seed=3)


def test_a_camera_on_the_hand_is_found_where_it_is(in_hand: tuple[Path, views.ViewSet, Array]) -> None:
    folder, taken, truth = in_hand
    check(folder, Mounting.IN_HAND, taken, truth)


def test_a_camera_beside_the_arm_is_found_where_it_is(tmp_path: Path) -> None:
    check(tmp_path, Mounting.TO_HAND, *photograph(tmp_path, Mounting.TO_HAND, count=7, seed=3))


def test_views_are_computed_again_and_the_pose_is_written(
    in_hand: tuple[Path, views.ViewSet, Array], tmp_path: Path
) -> None:
    folder, _, truth = in_hand
    file = Path(shutil.copy(config.find("franka_upvla"), tmp_path))
    arguments = ("calibrate", "hand-eye", str(file), "--camera", "wrist", "--from", str(folder), "--write")
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "in panda_hand, its optical frame" in result.stdout
    assert "views used       7 of 7" in result.stdout
    assert "ros2 run tf2_ros static_transform_publisher --x 0.0" in result.stdout
    assert (folder / "hand_eye.png").exists()
    written = config.load(str(file)).cameras["wrist"]
    assert written.frame == HAND
    assert written.pose is not None
    assert np.allclose(written.pose, truth, atol=0.003)
    assert file.read_text().startswith(config.find("franka_upvla").read_text().partition("cameras:")[0])

    # The print measured anew: the same views say that it is not what it was said to be.
    result = CliRunner().invoke(app, (*arguments, "--board", "5x7,38,28.5,DICT_4X4_50"))
    assert result.exit_code == 1
    assert re.search(r"a square is (35\.9|36\.0) mm, not 38 mm: measure the print", result.stderr), result.stderr


@pytest.mark.full
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("mounting", Mounting)
def test_fifteen_views_of_five_worlds(tmp_path: Path, mounting: Mounting, seed: int) -> None:
    check(tmp_path, mounting, *photograph(tmp_path, mounting, count=15, seed=seed))
