from __future__ import annotations

from itertools import combinations
from math import hypot, pi, radians

import numpy as np
import pytest

from vla_ros.geometry import rotation_angle
from vla_ros.robots.panda import PANDA
from vla_ros.simulation.layout import draw
from vla_ros.simulation.tasks import COLORS
from vla_ros.simulation.world import DEFAULT_CAMERAS

SEEDS = 200
LAYOUTS = [draw(seed, PANDA.home_rad, DEFAULT_CAMERAS) for seed in range(SEEDS)]


def test_cubes_are_within_bounds_and_apart() -> None:
    for layout in LAYOUTS:
        assert set(layout.cubes) == set(COLORS)
        for x, y, yaw in layout.cubes.values():
            assert 0.36 <= x <= 0.62 and -0.19 <= y <= 0.19 and -pi <= yaw <= pi
        for (x1, y1, _), (x2, y2, _) in combinations(layout.cubes.values(), 2):
            assert hypot(x1 - x2, y1 - y2) >= 0.10  # more than the diagonal of a cube: nothing overlaps


def test_cubes_use_at_least_25_by_35_cm_and_every_yaw_in_every_colour() -> None:
    for color in COLORS:
        x, y, yaw = np.array([layout.cubes[color] for layout in LAYOUTS]).T
        assert np.ptp(x) >= 0.25 and np.ptp(y) >= 0.35 and np.ptp(yaw) >= 1.9 * pi
        assert abs(np.mean(y)) < 0.03 and abs(np.mean(x) - 0.49) < 0.02
    assert {layout.task.color for layout in LAYOUTS} == set(COLORS)


def test_joints_and_cameras_vary_as_much_as_they_may() -> None:
    offsets = np.array([layout.joint_positions for layout in LAYOUTS]) - PANDA.home_rad
    assert np.abs(offsets).max() <= 0.1 and (np.abs(offsets).max(axis=0) > 0.095).all()
    for name, camera in DEFAULT_CAMERAS.items():
        pose = camera.optical_pose()
        moved = [np.linalg.norm(layout.camera_poses[name][:3] - pose[:3]) for layout in LAYOUTS]
        turned = [rotation_angle(layout.camera_poses[name][3:], pose[3:]) for layout in LAYOUTS]
        assert 0.01 < max(moved) <= 0.01 * 3**0.5  # 1 cm along each axis
        assert radians(1.0) < max(turned) <= 1.01 * radians(1.0) * 3**0.5


def test_the_light_varies_over_all_it_may() -> None:
    lights = np.array([layout.light for layout in LAYOUTS])
    lower, upper = np.array([0.2, -0.8, 1.4, 0.75]), np.array([1.2, 0.8, 2.0, 1.1])
    assert (lights >= lower).all() and (lights <= upper).all()
    assert (np.ptp(lights, axis=0) > 0.9 * (upper - lower)).all()


def test_the_seed_alone_decides() -> None:
    again = draw(7, PANDA.home_rad, DEFAULT_CAMERAS)
    assert again.cubes == LAYOUTS[7].cubes and again.task == LAYOUTS[7].task
    assert (again.joint_positions == LAYOUTS[7].joint_positions).all() and (again.light == LAYOUTS[7].light).all()
    assert len({layout.cubes["red"] for layout in LAYOUTS}) == SEEDS


def test_one_camera_less_moves_no_cube() -> None:
    fewer = draw(3, PANDA.home_rad, {"front": DEFAULT_CAMERAS["front"]})
    assert fewer.cubes == LAYOUTS[3].cubes
    assert (fewer.camera_poses["front"] == LAYOUTS[3].camera_poses["front"]).all()


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="got -1"):
        draw(-1, PANDA.home_rad, DEFAULT_CAMERAS)


def test_variety_widens_cameras_and_brightness_and_nothing_else() -> None:
    for seed in range(50):
        usual, wide, none = (draw(seed, PANDA.home_rad, DEFAULT_CAMERAS, variety) for variety in (1.0, 3.0, 0.0))
        assert usual.cubes == wide.cubes == none.cubes
        np.testing.assert_array_equal(usual.joint_positions, wide.joint_positions)
        np.testing.assert_array_equal(usual.light[:3], wide.light[:3])
        assert wide.light[3] - none.light[3] == pytest.approx(3.0 * (usual.light[3] - none.light[3]), abs=1e-12)
        for name, camera in DEFAULT_CAMERAS.items():
            middle = camera.optical_pose()
            np.testing.assert_allclose(none.camera_poses[name][:3], middle[:3], atol=1e-12)
            moved = [np.linalg.norm(layout.camera_poses[name][:3] - middle[:3]) for layout in (usual, wide)]
            assert moved[1] == pytest.approx(3.0 * moved[0], rel=1e-6)
