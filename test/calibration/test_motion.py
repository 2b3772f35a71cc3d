"""The motion that latencies are measured by: gentle, within its amplitude, at rest at both ends, never repeated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.calibration.motion import Sway, along
from vla_ros.robots.panda import PANDA

TIMES_S = np.arange(-1.0, 10.0, 0.001)


@given(st.floats(0.02, 0.2), st.floats(4.0, 9.0))
def test_it_stays_within_its_amplitude_and_rests_before_and_after(amplitude_rad: float, duration_s: float) -> None:
    offsets = Sway(amplitude_rad=amplitude_rad, duration_s=duration_s).offsets_rad(TIMES_S)
    assert 0.7 * amplitude_rad < np.abs(offsets).max() <= amplitude_rad
    assert not offsets[(TIMES_S < 0.0) | (duration_s < TIMES_S)].any()


def test_the_usual_one_is_far_from_every_limit_of_the_arm() -> None:
    offsets = Sway().offsets_rad(TIMES_S)
    velocity, acceleration, jerk = (np.abs(np.diff(offsets, order)).max() / 0.001**order for order in (1, 2, 3))
    assert velocity < 0.25 * min(joint.velocity_rad_s for joint in PANDA.joints)
    assert acceleration < 0.5 * min(joint.acceleration_rad_s2 for joint in PANDA.joints)
    assert jerk < 0.02 * min(joint.jerk_rad_s3 for joint in PANDA.joints)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_it_is_not_like_itself_or_its_mirror_image_at_another_time(sign: float) -> None:
    inside = Sway().offsets_rad(TIMES_S)
    for shift in range(200, 600, 20):  # ms; up to the latest delay that is looked for, and the earliest
        assert np.corrcoef(inside[shift:], sign * inside[:-shift])[0, 1] < 0.9


def test_what_other_joints_add_to_the_motion_of_the_hand() -> None:
    # Two upright axes, 0.6 m and 0.2 m behind the hand, and one across, through it.
    jacobian = np.array([[0, 0.6, 0, 0, 0, 1], [0, 0.2, 0, 0, 0, 1], [0, 0, 0, 1, 0, 0]]).T
    assert along(jacobian, 0) == pytest.approx([1.0, (0.6 * 0.2 + 0.09) / (0.6**2 + 0.09), 0.0])
    assert along(jacobian, 1) == pytest.approx([(0.6 * 0.2 + 0.09) / (0.2**2 + 0.09), 1.0, 0.0])
    assert along(jacobian, 2) == pytest.approx([0.0, 0.0, 1.0])
