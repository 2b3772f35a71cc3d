"""The arm's reflexes: what makes it stop by itself and ignore commands until someone recovers it."""

from __future__ import annotations

import numpy as np

from vla_ros.robots.robot import Robot
from vla_ros.values import Array

#: Torque by contact [Nm] per joint, above which something was hit; low-passed, so that a touch is no collision.
COLLISION_NM = np.array([60.0, 60.0, 50.0, 50.0, 25.0, 25.0, 20.0])
COLLISION_FILTER_S = 0.01
#: A joint may be this much faster than the vendor's limit before it trips, as measured velocities are noisy.
VELOCITY_MARGIN = 1.1
#: Steps from one command to the next that a 1 kHz controller cannot follow: its motion would not be continuous.
JOINT_STEP_RAD, POSITION_STEP_M, ROTATION_STEP_RAD = 0.3, 0.15, 0.6


class Reflex:
    """Watches one arm: collision, too fast a joint, a command that jumps. The first fault stays until `clear`."""

    def __init__(self, robot: Robot, period_s: float) -> None:
        self._names = robot.joint_names
        self._velocity_limit = VELOCITY_MARGIN * np.array([joint.velocity_rad_s for joint in robot.joints])
        self._gain = period_s / COLLISION_FILTER_S
        self._contact = np.zeros(len(robot.joints))
        self.fault: str | None = None

    def clear(self) -> None:
        """Forget the fault and what led to it."""
        self.fault = None
        self._contact[:] = 0.0

    def trip(self, fault: str) -> None:
        """Stop for a reason found elsewhere."""
        self.fault = self.fault or fault

    def watch(self, velocities: Array, contact_torques: Array) -> bool:
        """One period of joint velocities and of torques by contact, both (J,); true when this one trips."""
        self._contact += self._gain * (contact_torques - self._contact)
        if self.fault is not None:
            return False
        hit = np.abs(self._contact) > COLLISION_NM
        fast = np.abs(velocities) > self._velocity_limit
        if hit.any():
            joint = int(np.argmax(hit))
            torque, limit = self._contact[joint], COLLISION_NM[joint]
            self.fault = f"collision: {torque:.1f} Nm by contact at {self._names[joint]}, limit {limit:.0f}"
        elif fast.any():
            joint = int(np.argmax(fast))
            limit = self._velocity_limit[joint]
            self.fault = f"velocity: {self._names[joint]} at {velocities[joint]:.2f} rad/s, limit {limit:.2f}"
        return self.fault is not None

    def watch_joint_command(self, before: Array, wanted: Array) -> None:
        """Trip if the desired joint positions (J,) jump."""
        step = np.abs(wanted - before)
        joint = int(np.argmax(step))
        if step[joint] > JOINT_STEP_RAD:
            self.trip(f"discontinuity: command for {self._names[joint]} jumped by {step[joint]:.2f} rad")

    def watch_pose_command(self, distance_m: float, angle_rad: float) -> None:
        """Trip if the desired TCP pose jumps."""
        if distance_m > POSITION_STEP_M or angle_rad > ROTATION_STEP_RAD:
            self.trip(f"discontinuity: command for the TCP jumped by {distance_m:.2f} m, {angle_rad:.2f} rad")
