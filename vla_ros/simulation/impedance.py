"""Impedance control of a torque-controlled arm, joint and Cartesian, as a Franka's own controllers do it at 1 kHz."""

from __future__ import annotations

import numpy as np

from vla_ros.robots.robot import Robot
from vla_ros.values import Array

#: Nm/rad of the vendor's joint impedance, for the seven joints; Nm s/rad that damp it well in most poses.
JOINT_STIFFNESS = np.array([600.0, 600.0, 600.0, 600.0, 250.0, 150.0, 50.0])
JOINT_DAMPING = np.array([40.0, 40.0, 35.0, 30.0, 10.0, 10.0, 5.0])
#: N/m along and Nm/rad about the axes of the base; and what damps them well.
POSE_STIFFNESS = np.array([1000.0, 1000.0, 1000.0, 60.0, 60.0, 60.0])
POSE_DAMPING = np.array([100.0, 100.0, 100.0, 8.0, 8.0, 8.0])
#: Toward the joint positions at which Cartesian control began, in the directions that do not move the TCP.
POSTURE_STIFFNESS, POSTURE_DAMPING = 20.0, 6.0
#: Limit of the vendor; what a spring's reference may move at follows from it.
TORQUE_RATE_NM_S = 1000.0


class JointImpedance:
    """Springs and dampers at the joints.

    The springs pull toward a reference which follows `target`, as fast as the joints may move and as the torques may
    change: without it, a target that jumps makes the limited torques lag behind the motion, and the arm swings up.
    """

    def __init__(self, robot: Robot, period_s: float) -> None:
        velocity = np.array([joint.velocity_rad_s for joint in robot.joints])
        self._stride = period_s * np.minimum(velocity, TORQUE_RATE_NM_S / JOINT_STIFFNESS)
        self.hold(np.array(robot.home_rad))

    def hold(self, positions: Array) -> None:
        """Pull toward these joint positions (J,) from now on, without an approach."""
        self.target = np.array(positions)
        self._reference = np.array(positions)

    def torques(self, positions: Array, velocities: Array) -> Array:
        """Torques (J,) after one more period."""
        self._reference += np.minimum(np.maximum(self.target - self._reference, -self._stride), self._stride)
        return np.asarray(JOINT_STIFFNESS * (self._reference - positions) - JOINT_DAMPING * velocities)


class PoseImpedance:
    """A spring and a damper at the TCP; the joints keep their posture where that leaves the TCP alone.

    As with the joints, the spring's reference follows the position of `target` at a limited speed.
    """

    def __init__(self, robot: Robot, period_s: float) -> None:
        self._stride_m = period_s * robot.cartesian.linear_velocity_m_s
        self.hold(np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]), np.array(robot.home_rad))

    def hold(self, tcp_pose: Array, positions: Array) -> None:
        """Pull toward this TCP pose (7,) from now on, with this posture (J,)."""
        self.target = np.array(tcp_pose)
        self._reference_m = np.array(tcp_pose[:3])
        self._posture = np.array(positions)

    def torques(self, tcp_pose: Array, jacobian: Array, positions: Array, velocities: Array) -> Array:
        """Torques (J,) after one more period, where the measured TCP pose is (7,) and its jacobian (6, J)."""
        ahead = self.target[:3] - self._reference_m
        distance = float(np.sqrt(ahead @ ahead))
        self._reference_m += ahead if distance <= self._stride_m else ahead * (self._stride_m / distance)
        error = np.empty(6)
        error[:3] = self._reference_m - tcp_pose[:3]
        error[3:] = rotation_error(self.target[3:], tcp_pose[3:])
        wrench = POSE_STIFFNESS * error - POSE_DAMPING * (jacobian @ velocities)
        posture = POSTURE_STIFFNESS * (self._posture - positions) - POSTURE_DAMPING * velocities
        # Damped projection: exact away from singularities, finite in them.
        square = jacobian @ jacobian.T
        square[np.diag_indices(6)] += 1e-6
        posture -= jacobian.T @ np.linalg.solve(square, jacobian @ posture)
        return np.asarray(jacobian.T @ wrench + posture)


def rotation_error(desired_xyzw: Array, measured_xyzw: Array) -> Array:
    """The rotation vector (3,) [rad], in base axes, that turns the measured orientation into the desired one."""
    x, y, z, w = desired_xyzw.tolist()
    mx, my, mz, mw = measured_xyzw.tolist()
    # The quaternion desired * conjugate(measured), as plain numbers: this runs at 1 kHz.
    cosine = w * mw + x * mx + y * my + z * mz
    vector = np.array(
        [
            -w * mx + x * mw - y * mz + z * my,
            -w * my + x * mz + y * mw - z * mx,
            -w * mz - x * my + y * mx + z * mw,
        ]
    )
    if cosine < 0.0:
        cosine, vector = -cosine, -vector
    sine = float(np.sqrt(vector @ vector))
    return np.asarray(vector * (2.0 if sine < 1e-9 else 2.0 * float(np.arctan2(sine, cosine)) / sine))


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
