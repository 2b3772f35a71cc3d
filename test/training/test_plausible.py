"""Actions that no arm makes: refused where the unit is wrong, reported by row where the recording is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vla_ros.actions import ActionSpec, GripperConvention, Space
from vla_ros.robots.panda import PANDA
from vla_ros.training.labels import RecordedAction, Taken
from vla_ros.training.plausible import check_steps
from vla_ros.training.windows import DataConfig
from vla_ros.values import Array

FPS, ROWS = 30, 200
CALVIN: dict[str, Any] = {"space": "ee_delta", "rotation": "euler_xyz", "gripper": "open_signed", "rate_hz": FPS}
SCALES = {"position_scale_m": 0.02, "rotation_scale_rad": 0.05}


def spec(**given: Any) -> ActionSpec:
    return ActionSpec(**{"gripper": GripperConvention.NONE, "joint_names": PANDA.joint_names, "rate_hz": FPS, **given})


def motion() -> Array:
    """A slow sine of seven joints [rad], or of a pose [m] and its quaternion."""
    phase = np.linspace(0.0, 6.0, ROWS)
    return np.stack([0.3 * np.sin(phase + k) for k in range(7)], axis=1)


@pytest.mark.parametrize(
    ("space", "unit", "scale"),
    [
        (Space.JOINT_POSITION, 180 / np.pi, "rotation_scale_rad"),
        (Space.JOINT_DELTA, 180 / np.pi, "rotation_scale_rad"),
        (Space.EE_POSE, 1000.0, "position_scale_m"),
        (Space.EE_DELTA, 1000.0, "position_scale_m"),
    ],
)
def test_another_unit_is_refused_with_the_scale_that_helps(space: Space, unit: float, scale: str) -> None:
    actions = motion()
    if space in (Space.JOINT_DELTA, Space.EE_DELTA):
        actions = np.diff(actions, axis=0, prepend=actions[:1])
    assert list(check_steps(spec(space=space), PANDA, FPS, {0: actions})) == []
    with pytest.raises(ValueError, match=rf"no arm does that.* data\.action\.{scale} "):
        list(check_steps(spec(space=space), PANDA, FPS, {0: unit * actions}))


def test_a_single_jump_is_reported_by_its_row() -> None:
    actions = motion()
    actions[57:] += 1.0  # 30 rad/s, of a joint that may 2.175
    said = list(check_steps(spec(space=Space.JOINT_POSITION), PANDA, FPS, {3: motion(), 4: actions}))
    assert len(said) == 1 and "1 rows is beyond 3 times its limit, first in episode 4, row 57: 13" in said[0]
    step = np.zeros((ROWS, 7))
    step[9, 1] = 0.2  # 6 m/s
    said = list(check_steps(ActionSpec(**CALVIN), PANDA, FPS, {0: step}))
    assert said == ["the TCP's speed of 1 rows is beyond 3 m/s, first in episode 0, row 9: 6 m/s"]


def test_scaled_actions_become_metres_and_radians() -> None:
    action = RecordedAction(**CALVIN, **SCALES)
    column = np.random.default_rng(0).uniform(-1, 1, (ROWS, 7))
    taken = Taken(action.spec, "rel_actions", range(7), scales=action.scales)
    found, _ = taken.chunk({"rel_actions": column}, 3, 1)
    expected = column[3 : 3 + action.horizon] * [0.02, 0.02, 0.02, 0.05, 0.05, 0.05, 1.0]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert action.spec == ActionSpec(**CALVIN), "a policy that learns them knows nothing of the scale"
    assert list(check_steps(action.spec, PANDA, FPS, {0: taken.rows(column)})) == []
    with pytest.raises(ValueError, match="scale"):
        list(check_steps(action.spec, PANDA, FPS, {0: column}))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"space": "joint_position", "position_scale_m": 0.1}, "no positions in metres"),
        ({"space": "ee_pose", "rotation_scale_rad": 0.1}, "quaternion is not in radians"),
        ({**CALVIN, "position_scale_m": 0.0}, "greater than 0"),
    ],
)
def test_a_scale_of_nothing_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        RecordedAction(**given)
    with pytest.raises(ValueError, match="a scale is for source: column"):
        DataConfig.model_validate({"action": {**CALVIN, **SCALES}})
