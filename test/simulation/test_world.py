from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from vla_ros.geometry import pose_matrix
from vla_ros.simulation.world import DEFAULT_CAMERAS, CameraModel, TabletopConfig, WorldState


def test_the_optical_frame_looks_at_the_target_with_up_upward() -> None:
    camera = CameraModel(position_m=(2.0, 0.0, 1.0), target_m=(0.0, 0.0, 1.0))
    matrix = pose_matrix(camera.optical_pose())
    np.testing.assert_allclose(matrix[:3, 0], [0.0, 1.0, 0.0], atol=1e-12)  # right of who looks along -x is +y
    np.testing.assert_allclose(matrix[:3, 1], [0.0, 0.0, -1.0], atol=1e-12)
    np.testing.assert_allclose(matrix[:3, 2], [-1.0, 0.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(matrix[:3, 3], camera.position_m, atol=1e-12)


def test_the_focal_length_follows_from_the_vertical_angle() -> None:
    camera = CameraModel(
        position_m=(1.0, 0.0, 0.0), target_m=(0.0, 0.0, 0.0), width=640, height=480, vertical_fov_deg=90
    )
    assert camera.intrinsics() == pytest.approx((240.0, 240.0, 319.5, 239.5))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"position_m": (1, 0, 0), "target_m": (1, 0, 0)}, "give no direction"),
        ({"position_m": (0, 0, 1), "target_m": (0, 0, 0)}, "give no direction"),
        ({"position_m": (1, 0, 0), "target_m": (0, 0, 0), "width": 4}, "greater than or equal to 16"),
        ({"position_m": (1, 0, 0), "target_m": (0, 0, 0), "fov": 40}, "Extra inputs"),
    ],
)
def test_a_camera_that_cannot_be_is_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        CameraModel(**values)


def test_the_configured_instruction_must_be_a_task() -> None:
    assert TabletopConfig(instruction="lift the red cube").cameras == DEFAULT_CAMERAS
    with pytest.raises(ValidationError, match="no tabletop task"):
        TabletopConfig(instruction="make coffee")


def test_a_state_is_complete_and_read_only() -> None:
    with pytest.raises(ValueError, match="30 values, got shape"):
        WorldState(0, np.zeros(3))
    with pytest.raises(ValueError, match="read-only"):
        WorldState(0, np.zeros(30)).tcp_pose[0] = 1.0
