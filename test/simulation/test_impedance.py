from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.geometry import RotationForm, rotation_matrix, rotation_values
from vla_ros.robots.panda import PANDA
from vla_ros.simulation.impedance import JOINT_STIFFNESS, JointImpedance, TorqueLimiter, rotation_error

vectors = st.tuples(*[st.floats(-1.7, 1.7)] * 3).map(np.array)


@given(vectors, vectors)
def test_the_rotation_error_turns_measured_into_desired(a: np.ndarray, b: np.ndarray) -> None:
    desired, measured = (rotation_matrix(vector, RotationForm.AXIS_ANGLE) for vector in (a, b))
    error = rotation_error(*(rotation_values(each, RotationForm.QUATERNION) for each in (desired, measured)))
    assert np.linalg.norm(error) <= np.pi + 1e-9
    np.testing.assert_allclose(rotation_matrix(error, RotationForm.AXIS_ANGLE) @ measured, desired, atol=1e-7)


def test_the_spring_approaches_a_far_target_at_a_limited_rate() -> None:
    impedance = JointImpedance(PANDA, 0.001)
    start = np.array(PANDA.home_rad)
    impedance.hold(start)
    impedance.target = start + 0.2
    before = np.zeros(7)
    for _ in range(500):
        torques = impedance.torques(start, np.zeros(7))
        assert (np.abs(torques - before) <= 1.0 + 1e-9).all()  # 1000 Nm/s
        before = torques
    np.testing.assert_allclose(before, 0.2 * JOINT_STIFFNESS)


def test_torques_are_limited_in_size_and_rate() -> None:
    limiter = TorqueLimiter(PANDA, 0.001)
    limits = [joint.torque_nm for joint in PANDA.joints]
    np.testing.assert_allclose(limiter.limit(np.full(7, 1e6)), limits)
    np.testing.assert_allclose(limiter.limit(np.full(7, -1e6)), np.array(limits) - 1.0)
    limiter.reset()
    np.testing.assert_allclose(limiter.limit(np.full(7, -1e6)), np.negative(limits))
