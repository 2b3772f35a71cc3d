"""Values to ROS messages: images, stamps, chunks, commands, a world's state; reading is in `vla_ros.messages`."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import cv2
import numpy as np
from builtin_interfaces.msg import Duration, Time
from sensor_msgs.msg import CompressedImage
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Float64MultiArray, MultiArrayDimension
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vla_ros.simulation.world import WorldState
from vla_ros.values import (
    GRIPPER_DIMENSION,
    NANOSECONDS_PER_SECOND,
    POSE_DIMENSIONS,
    ActionChunk,
    Array,
    Command,
    Image,
    Target,
)

_STAMP_NAMES = ("stamp.sec", "stamp.nanosec")


def ns_to_stamp(time_ns: int) -> Time:
    """Nanoseconds as a ROS time."""
    seconds, nanoseconds = divmod(time_ns, NANOSECONDS_PER_SECOND)
    return Time(sec=seconds, nanosec=nanoseconds)


def ns_to_duration(duration_ns: int) -> Duration:
    """Nanoseconds as a ROS duration."""
    seconds, nanoseconds = divmod(duration_ns, NANOSECONDS_PER_SECOND)
    return Duration(sec=seconds, nanosec=nanoseconds)


def rgb_to_image(rgb: Image, stamp_ns: int, frame_id: str) -> ImageMessage:
    """(H, W, 3) uint8 as an rgb8 message."""
    height, width = _checked_rgb(rgb).shape[:2]
    message = ImageMessage(height=height, width=width, encoding="rgb8", step=3 * width)
    message.header.stamp = ns_to_stamp(stamp_ns)
    message.header.frame_id = frame_id
    # array.array takes the setter's short way: 0.04 ms at 640x480, where a numpy array costs 53 ms.
    data = array("B")
    data.frombytes(np.ascontiguousarray(rgb).data.cast("B"))
    message.data = data
    return message


def rgb_to_compressed(rgb: Image, stamp_ns: int, frame_id: str, format: str = "jpeg") -> CompressedImage:
    """(H, W, 3) uint8 as a `jpeg` or `png` message."""
    suffixes = {"jpeg": ".jpg", "png": ".png"}
    if format not in suffixes:
        raise ValueError(f"a compressed image is jpeg or png, got {format!r}")
    _, encoded = cv2.imencode(suffixes[format], cv2.cvtColor(_checked_rgb(rgb), cv2.COLOR_RGB2BGR))
    message = CompressedImage(format=format)
    message.header.stamp = ns_to_stamp(stamp_ns)
    message.header.frame_id = frame_id
    message.data = array("B", encoded.tobytes())
    return message


def chunk_to_trajectory(chunk: ActionChunk, frame_id: str) -> JointTrajectory:
    """A chunk as a message; a single row is written twice, since one point alone could not say how long it holds."""
    message = JointTrajectory(joint_names=list(chunk.dimensions))
    message.header.stamp = ns_to_stamp(chunk.observation_ns)
    message.header.frame_id = frame_id
    rows = chunk.actions if len(chunk) > 1 else np.repeat(chunk.actions, 2, axis=0)
    message.points = [
        JointTrajectoryPoint(positions=row, time_from_start=ns_to_duration(index * chunk.step_ns))
        for index, row in enumerate(rows.tolist())
    ]
    return message


def target_to_trajectory(target: Target, frame_id: str) -> JointTrajectory:
    """What a teleoperator wants, as one point."""
    message = JointTrajectory(joint_names=list(target.dimensions))
    message.header.stamp = ns_to_stamp(target.time_ns)
    message.header.frame_id = frame_id
    message.points = [JointTrajectoryPoint(positions=doubles(target.values))]
    return message


def command_to_trajectory(command: Command, joint_names: Sequence[str], frame_id: str) -> JointTrajectory:
    """What was sent, as one point: joints, TCP pose, gripper width; velocities are 0 where none is commanded."""
    gripper = [] if command.gripper_width_m is None else [command.gripper_width_m]
    zeros = bytes(8 * (len(POSE_DIMENSIONS) + len(gripper)))
    message = JointTrajectory(joint_names=[*joint_names, *POSE_DIMENSIONS, *([GRIPPER_DIMENSION] if gripper else [])])
    message.header.stamp = ns_to_stamp(command.time_ns)
    message.header.frame_id = frame_id
    point = JointTrajectoryPoint()
    point.positions = doubles(command.joint_positions) + doubles(command.tcp_pose) + array("d", gripper)
    point.velocities = doubles(command.joint_velocities) + array("d", zeros)
    message.points = [point]
    return message


def doubles(values: Array) -> array[float]:
    """For a field float64[]: its setter looks at each value of anything but an array.array."""
    return array("d", np.ascontiguousarray(values, dtype=np.float64).tobytes())


def world_state_to_array(state: WorldState) -> Float64MultiArray:
    """A world's state with its stamp in front; the names stand in the label of the only dimension."""
    message = Float64MultiArray()
    values = np.array([*divmod(state.time_ns, NANOSECONDS_PER_SECOND), *state.values], dtype=np.float64)
    label = ",".join((*_STAMP_NAMES, *state.names))
    message.layout.dim = [MultiArrayDimension(label=label, size=len(values), stride=len(values))]
    message.data = doubles(values)
    return message


def array_to_world_state(message: Float64MultiArray) -> WorldState:
    """The inverse of `world_state_to_array`; raises ValueError when labels, data or the stamp are others."""
    label = message.layout.dim[0].label if message.layout.dim else ""
    names = tuple(label.split(","))
    if names[:2] != _STAMP_NAMES or len(names) != len(message.data):
        raise ValueError(
            f"a world state is labelled {','.join(_STAMP_NAMES)},... with one value per label, got {len(message.data)} "
            f"values labelled {label!r}"
        )
    values = np.array(message.data, dtype=np.float64)
    if not np.isfinite(values[:2]).all() or (values[:2] < 0).any():
        raise ValueError(f"a world state is stamped with seconds and nanoseconds, got {values[0]:g} and {values[1]:g}")
    time_ns = int(values[0]) * NANOSECONDS_PER_SECOND + int(values[1])
    return WorldState(time_ns, values[2:], names[2:])


def _checked_rgb(rgb: Image) -> Image:
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"an image is (H, W, 3) uint8, got {rgb.shape} {rgb.dtype}")
    return rgb
