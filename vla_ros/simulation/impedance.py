"""Impedance control of a torque-controlled arm, joint and Cartesian, as the robot's own controllers do it at 1 kHz."""

from __future__ import annotations

import numpy as np

from vla_ros.robots.robot import Robot
from vla_ros.values import Array

#: Nm/rad and Nm s/rad of the vendor's joint impedance examples, for the seven joints of a Franka arm.
JOINT_STIFFNESS = np.array([600.0, 600.0, 600.0, 600.0, 250.0, 150.0, 50.0])
JOINT_DAMPING = np.array([50.0, 50.0, 50.0, 30.0, 20.0, 15.0, 8.0])
#: N/m along, Nm/rad about the axes of the base; and what damps them well.
POSE_STIFFNESS = np.array([1000.0, 1000.0, 1000.0, 60.0, 60.0, 60.0])
POSE_DAMPING = np.array([100.0, 100.0, 100.0, 8.0, 8.0, 8.0])
#: Toward the joint positions at which Cartesian control began, in the directions that do not move the TCP.
POSTURE_STIFFNESS, POSTURE_DAMPING = 20.0, 6.0
TORQUE_RATE_NM_S = 1000.0


def joint_torques(error: Array, velocities: Array) -> Array:
    """Torques (J,) of springs and dampers at the joints; `error` is desired minus measured [rad]."""
    return np.asarray(JOINT_STIFFNESS * error - JOINT_DAMPING * velocities)


def pose_torques(error: Array, jacobian: Array, velocities: Array, posture_error: Array) -> Array:
    """Torques (J,) of a spring and damper at the TCP.

    `error` (6,): desired minus measured position [m] and rotation vector [rad] in the base frame; `jacobian` (6, J);
    `posture_error` (J,): desired minus measured joint positions, followed where that leaves the TCP alone.
    """
    wrench = POSE_STIFFNESS * error - POSE_DAMPING * (jacobian @ velocities)
    posture = POSTURE_STIFFNESS * posture_error - POSTURE_DAMPING * velocities
    # Damped projection: exact away from singularities, finite in them.
    square = jacobian @ jacobian.T
    square[np.diag_indices(6)] += 1e-6
    posture -= jacobian.T @ np.linalg.solve(square, jacobian @ posture)
    return np.asarray(jacobian.T @ wrench + posture)


def rotation_error(desired_xyzw: Array, measured_wxyz: Array) -> Array:
    """The rotation vector (3,) [rad], in base axes, that turns the measured orientation into the desired one."""
    x, y, z, w = (float(value) for value in desired_xyzw)
    mw, mx, my, mz = (float(value) for value in measured_wxyz)
    # desired * conjugate(measured)
    ew = w * mw + x * mx + y * my + z * mz
    vector = np.array(
        [
            -w * mx + x * mw - y * mz + z * my,
            -w * my + x * mz + y * mw - z * mx,
            -w * mz - x * my + y * mx + z * mw,
        ]
    )
    if ew < 0.0:
        ew, vector = -ew, -vector
    sine = float(np.sqrt(vector @ vector))
    return vector * (2.0 if sine < 1e-9 else 2.0 * float(np.arctan2(sine, ew)) / sine)


class TorqueLimiter:
    """Keeps torques, of which the compensation of gravity is a part, within the arm's limits in size and in rate."""

    def __init__(self, robot: Robot, period_s: float) -> None:
        self._limit = np.array([joint.torque_nm for joint in robot.joints])
        self._step = TORQUE_RATE_NM_S * period_s
        self._last: Array | None = None

    def reset(self) -> None:
        """Forget the last torque: the next may be any within the limits."""
        self._last = None

    def limit(self, torques: Array) -> Array:
        """The permitted torques (J,) nearest to `torques`."""
        limit = self._limit
        if self._last is not None:
            torques = np.minimum(np.maximum(torques, self._last - self._step), self._last + self._step)
        self._last = np.minimum(np.maximum(torques, -limit), limit)
        return self._last
