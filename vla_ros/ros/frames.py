"""Frames for TF, and camera_info: the arm's links from its facts, the cameras of a world from their models."""

from __future__ import annotations

from math import cos, sin

import numpy as np
from geometry_msgs.msg import TransformStamped
from sensor_msgs.msg import CameraInfo
from tf2_msgs.msg import TFMessage

from vla_ros.geometry import RotationForm, rotation_matrix, rotation_values
from vla_ros.robots.robot import Robot, Vector3
from vla_ros.ros import convert
from vla_ros.simulation.world import CameraModel, optical_frame
from vla_ros.values import Array


class LinkFrames:
    """The frames of one arm, from its base to its TCP."""

    def __init__(self, robot: Robot) -> None:
        self._robot = robot
        self._origins = [_pose(joint.origin_xyz_m, joint.origin_rpy_rad) for joint in robot.joints]

    def fixed(self, stamp_ns: int) -> list[TransformStamped]:
        """What stands still in its parent: flange, hand, TCP."""
        return [
            transform(frame.parent, frame.name, _pose(frame.origin_xyz_m, frame.origin_rpy_rad), stamp_ns)
            for frame in self._robot.fixed_frames
        ]

    def moving(self, joint_positions: Array, stamp_ns: int) -> TFMessage:
        """The links, each in the one before."""
        return TFMessage(
            transforms=[
                transform(joint.parent, joint.child, _turned(origin, float(position)), stamp_ns)
                for joint, origin, position in zip(self._robot.joints, self._origins, joint_positions, strict=True)
            ]
        )


def transform(parent: str, child: str, pose: Array, stamp_ns: int) -> TransformStamped:
    """`pose` (7,) of `child` in `parent`."""
    message = TransformStamped(child_frame_id=child)
    message.header.stamp = convert.ns_to_stamp(stamp_ns)
    message.header.frame_id = parent
    values = [float(value) for value in pose]
    translation, rotation = message.transform.translation, message.transform.rotation
    translation.x, translation.y, translation.z = values[:3]
    rotation.x, rotation.y, rotation.z, rotation.w = values[3:]
    return message


def camera_transform(camera: str, model: CameraModel, pose: Array, base_frame: str, stamp_ns: int) -> TransformStamped:
    """The optical frame of a camera that stands at `pose` (7,) in its model's frame."""
    return transform(model.frame or base_frame, optical_frame(camera), pose, stamp_ns)


def camera_info(camera: str, model: CameraModel) -> CameraInfo:
    """The calibration of a camera without distortion; the stamp is left to the one who publishes it."""
    fx, fy, cx, cy = model.intrinsics()
    message = CameraInfo(height=model.height, width=model.width, distortion_model="plumb_bob", d=[0.0] * 5)
    message.header.frame_id = optical_frame(camera)
    message.k = [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0]
    message.r = np.eye(3).ravel().tolist()
    message.p = [fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    return message


def _pose(origin_xyz_m: Vector3, origin_rpy_rad: Vector3) -> Array:
    matrix = rotation_matrix(origin_rpy_rad, RotationForm.EULER_XYZ)
    return np.concatenate([origin_xyz_m, rotation_values(matrix, RotationForm.QUATERNION)])


def _turned(pose: Array, angle_rad: float) -> Array:
    """`pose` (7,) turned about its own z axis."""
    x, y, z, w = pose[3:]
    s, c = sin(0.5 * angle_rad), cos(0.5 * angle_rad)
    return np.array([*pose[:3], x * c + y * s, y * c - x * s, z * c + w * s, w * c - z * s])
