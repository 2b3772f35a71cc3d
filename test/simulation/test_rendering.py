from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from threading import Thread

import numpy as np
import pytest

from vla_ros.geometry import pose_matrix
from vla_ros.robots.panda import PANDA
from vla_ros.simulation.tabletop import Tabletop
from vla_ros.simulation.tasks import COLORS
from vla_ros.simulation.world import DEFAULT_CAMERAS, CameraModel, Image, TabletopConfig, WorldState

ABOVE = CameraModel(width=320, height=240, position_m=(0.5, 0.0, 1.2), target_m=(0.5, 0.0, 0.0), up=(1.0, 0.0, 0.0))


@pytest.fixture
def world() -> Iterator[Tabletop]:
    made = Tabletop(PANDA, TabletopConfig(cameras={**DEFAULT_CAMERAS, "above": ABOVE}))
    yield made
    made.close()


def pixel(world: Tabletop, camera: str, point: np.ndarray) -> tuple[int, int]:
    """Column and row where a pinhole camera at `camera_pose` with `intrinsics` sees a point of the base frame."""
    assert world.cameras[camera].frame == ""
    x, y, z, _ = np.linalg.inv(pose_matrix(world.camera_pose(camera))) @ [*point, 1.0]
    fx, fy, cx, cy = world.cameras[camera].intrinsics()
    return round(fx * x / z + cx), round(fy * y / z + cy)


def color_at(image: Image, column: int, row: int) -> str:
    patch = image[row - 1 : row + 2, column - 1 : column + 2].reshape(-1, 3).mean(axis=0)
    assert patch.max() > 1.8 * np.median(patch), f"no clear colour at {column}, {row}: {patch}"
    return COLORS[int(np.argmax(patch))]


def seen_cubes(world: Tabletop, camera: str, state: WorldState) -> dict[str, str]:
    image = world.render(camera)
    return {color: color_at(image, *pixel(world, camera, state.cube_pose(color)[:3])) for color in COLORS}


@pytest.mark.parametrize("seed", range(5))
def test_cubes_are_seen_where_the_camera_model_says(world: Tabletop, seed: int) -> None:
    world.reset(seed)
    for camera in ("front", "above"):
        assert seen_cubes(world, camera, world.state()) == {color: color for color in COLORS}


def test_the_camera_on_the_hand_sees_a_cube_between_the_fingers_where_its_model_says(world: Tabletop) -> None:
    world.reset(0)
    between = pose_matrix(world.tcp_pose)
    joint = world._model.joint("red")
    start = joint.qposadr[0]
    snapshot = world.snapshot()
    w, x, y, z = 1.0, 0.0, 0.0, 0.0
    snapshot.configuration[start : start + 7] = (*between[:3, 3], w, x, y, z)
    renderer = world.renderer()
    image = renderer.render("wrist", snapshot)
    renderer.close()
    # The TCP in panda_hand is a fact: 0.1034 m along z.
    x, y, z, _ = np.linalg.inv(pose_matrix(world.camera_pose("wrist"))) @ [0.0, 0.0, 0.1034, 1.0]
    fx, fy, cx, cy = world.cameras["wrist"].intrinsics()
    assert color_at(image, round(fx * x / z + cx), round(fy * y / z + cy)) == "red"


def test_the_front_camera_sees_the_workspace_and_the_arm(world: Tabletop) -> None:
    for seed in range(50):
        world.reset(seed)
        corners = [np.array([x, y, 0.0]) for x in (0.32, 0.66) for y in (-0.35, 0.35)]
        names = [f"panda_link{i}" for i in range(9)]
        links = [world._data.body(name).xpos for name in names]
        for point in [*corners, *links, world.tcp_pose[:3]]:
            column, row = pixel(world, "front", point)
            assert 0 <= column < 256 and 0 <= row < 256


def test_pictures_have_the_size_of_their_camera_and_the_seed_decides_them(world: Tabletop) -> None:
    world.reset(4)
    first = {name: world.render(name) for name in world.cameras}
    world.reset(5)
    other = world.render("front")
    world.reset(4)
    for name, image in first.items():
        assert image.shape == (world.cameras[name].height, world.cameras[name].width, 3)
        assert image.dtype == np.uint8
        assert (world.render(name) == image).all()
    assert (other != first["front"]).mean() > 0.2  # light and camera moved


def test_another_thread_draws_the_past_while_time_goes_on(world: Tabletop) -> None:
    world.reset(2)
    snapshot = world.snapshot()
    expected = world.render("front")
    drawn: list[Image] = []

    def draw() -> None:
        renderer = world.renderer()
        drawn.extend(renderer.render("front", snapshot) for _ in range(5))
        renderer.close()

    thread = Thread(target=draw)
    thread.start()
    world.command_pose(world.tcp_pose + np.array([0.0, 0.05, -0.1, 0.0, 0.0, 0.0, 0.0]))
    world.advance(300_000_000)
    world.reset(9)
    thread.join()
    assert len(drawn) == 5
    assert all((image == expected).all() for image in drawn)
    assert (world.render("front") != expected).any()


def test_an_unknown_camera_is_refused_with_those_there_are(world: Tabletop) -> None:
    with pytest.raises(ValueError, match="no camera 'side'; there are front, wrist, above"):
        world.render("side")
    with pytest.raises(ValueError, match="no camera 'side'"):
        world.camera_pose("side")


def test_without_a_way_to_draw_physics_works_and_the_error_says_what_to_install() -> None:
    program = (
        "from vla_ros.robots.panda import PANDA\n"
        "from vla_ros.simulation.tabletop import Tabletop\n"
        "world = Tabletop(PANDA)\n"
        "world.advance(10_000_000)\n"
        "try:\n    world.render('front')\n"
        "except RuntimeError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "MUJOCO_GL": "disabled"}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert "apt-get install libegl1 libegl-mesa0 libopengl0 libgl1-mesa-dri" in run.stdout
