"""ROS messages to values: images, stamps, joint states, chunks, commands; by their fields, so a bag's do too.

Everything that comes from outside is checked here for shape and names (ValueError says what was given); whether numbers
are finite and reachable is for the safety stage. The way back, values to messages, is `ros.convert`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from vla_ros.values import (
    GRIPPER_DIMENSION,
    NANOSECONDS_PER_SECOND,
    POSE_DIMENSIONS,
    ActionChunk,
    Array,
    Command,
    Image,
    Mode,
    SafetyState,
    Target,
)

#: A message of the type that the function's name says, from rclpy or from rosbags.
Message = Any

#: What the safety stage did, in the values of the controller's status: `intervention.<name>` -> how often.
INTERVENTION = "intervention."

#: encoding -> (dtype of a value, values per pixel, OpenCV conversion to rgb). OpenCV names a Bayer pattern by the
#: second row's second and third pixel, ROS by the first two rows: rggb is OpenCV's BG.
_COLOR_ENCODINGS: dict[str, tuple[type[np.generic], int, int | None]] = {
    "rgb8": (np.uint8, 3, None),
    "bgr8": (np.uint8, 3, cv2.COLOR_BGR2RGB),
    "rgba8": (np.uint8, 4, cv2.COLOR_RGBA2RGB),
    "bgra8": (np.uint8, 4, cv2.COLOR_BGRA2RGB),
    "rgb16": (np.uint16, 3, None),
    "bgr16": (np.uint16, 3, cv2.COLOR_BGR2RGB),
    "rgba16": (np.uint16, 4, cv2.COLOR_RGBA2RGB),
    "bgra16": (np.uint16, 4, cv2.COLOR_BGRA2RGB),
    "8UC1": (np.uint8, 1, cv2.COLOR_GRAY2RGB),  # cv_bridge's, of images in OpenCV's own order
    "8UC3": (np.uint8, 3, cv2.COLOR_BGR2RGB),
    "8UC4": (np.uint8, 4, cv2.COLOR_BGRA2RGB),
    "16UC3": (np.uint16, 3, cv2.COLOR_BGR2RGB),
    "16UC4": (np.uint16, 4, cv2.COLOR_BGRA2RGB),
    "mono8": (np.uint8, 1, cv2.COLOR_GRAY2RGB),
    "mono16": (np.uint16, 1, cv2.COLOR_GRAY2RGB),
    "yuv422": (np.uint8, 2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": (np.uint8, 2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": (np.uint8, 2, cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": (np.uint8, 2, cv2.COLOR_YUV2RGB_YUY2),
    "bayer_rggb8": (np.uint8, 1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": (np.uint8, 1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": (np.uint8, 1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": (np.uint8, 1, cv2.COLOR_BayerGB2RGB),
    "bayer_rggb16": (np.uint16, 1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr16": (np.uint16, 1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg16": (np.uint16, 1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg16": (np.uint16, 1, cv2.COLOR_BayerGB2RGB),
}

#: encoding -> (dtype, metres per unit)
_DEPTH_ENCODINGS: dict[str, tuple[type[np.generic], float]] = {"16UC1": (np.uint16, 0.001), "32FC1": (np.float32, 1.0)}


def stamp_to_ns(stamp: Message) -> int:
    """A ROS time or duration in nanoseconds."""
    return int(stamp.sec) * NANOSECONDS_PER_SECOND + int(stamp.nanosec)


def image_to_rgb(message: Message) -> Image:
    """A colour or grey image, raw or compressed, as rgb (H, W, 3) uint8; may share the message's memory.

    Raises ValueError for an encoding that has no colours (see `image_to_depth_m`) or data that do not fit its size.
    """
    if hasattr(message, "format"):  # a CompressedImage
        return _decode(message)
    try:
        dtype, channels, conversion = _COLOR_ENCODINGS[message.encoding]
    except KeyError:
        hint = "; it is depth, read it with image_to_depth_m" if message.encoding in _DEPTH_ENCODINGS else ""
        known = ", ".join(_COLOR_ENCODINGS)
        raise ValueError(f"image encoding {message.encoding!r} is not one of {known}{hint}") from None
    pixels = _pixels(message, dtype, channels)
    if channels == 2 and message.width % 2:  # two pixels share their colour
        raise ValueError(f"an image of {message.encoding} has an even width, got {message.width}")
    if conversion is not None:
        pixels = cv2.cvtColor(pixels, conversion)
    if dtype is np.uint16:
        pixels = cv2.convertScaleAbs(pixels, alpha=255.0 / 65535.0)
    return cast(Image, pixels)


def image_to_depth_m(message: Message) -> NDArray[np.float32]:
    """A depth image (16UC1 in millimetres or 32FC1 in metres) as (H, W) float32 metres; no reading stays 0 or NaN."""
    try:
        dtype, metres_per_unit = _DEPTH_ENCODINGS[message.encoding]
    except KeyError:
        known = " or ".join(_DEPTH_ENCODINGS)
        raise ValueError(f"depth is encoded as {known}, got {message.encoding!r}") from None
    return np.asarray(_pixels(message, dtype, 1) * np.float32(metres_per_unit), dtype=np.float32)


class JointReader:
    """Reads joint states by joint name: a message may hold more joints, in any order, and change its mind."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._last_names: list[str] = []
        self._indices: list[int] = []

    def positions(self, message: Message) -> Array:
        """(J,) in the order of the names given; raises ValueError when one is missing."""
        return self._pick(message, message.position, "positions")

    def velocities(self, message: Message) -> Array | None:
        """(J,), or None where the message has none."""
        return self._pick(message, message.velocity, "velocities") if len(message.velocity) else None

    def _pick(self, message: Message, values: Sequence[float], what: str) -> Array:
        if message.name != self._last_names:
            missing = [name for name in self._names if name not in message.name]
            if missing:
                there = ", ".join(message.name) or "none"
                raise ValueError(f"a joint state lacks {', '.join(missing)}; it has {there}")
            self._indices = [message.name.index(name) for name in self._names]
            self._last_names = list(message.name)
        if len(values) != len(message.name):
            raise ValueError(f"a joint state has {len(message.name)} names but {len(values)} {what}")
        return np.array(values, dtype=np.float64)[self._indices]


def trajectory_to_chunk(message: Message) -> ActionChunk:
    """The chunk in a message; raises ValueError for wrong names, lengths, or points not evenly spaced from 0."""
    dimensions = _checked_dimensions(message.joint_names)
    if len(message.points) < 2:
        raise ValueError(f"a chunk has at least two points, got {len(message.points)}")
    times_ns = [stamp_to_ns(point.time_from_start) for point in message.points]
    step_ns = times_ns[1]
    if times_ns != [index * step_ns for index in range(len(times_ns))] or step_ns <= 0:
        raise ValueError(f"the points of a chunk are evenly spaced from 0, got times {times_ns} ns")
    rows = [_positions(point, dimensions) for point in message.points]
    return ActionChunk(stamp_to_ns(message.header.stamp), step_ns, dimensions, np.stack(rows))


def trajectory_to_target(message: Message) -> Target:
    """The inverse of `target_to_trajectory`; raises ValueError for wrong names, lengths, numbers of points."""
    dimensions = _checked_dimensions(message.joint_names)
    if len(message.points) != 1:
        raise ValueError(f"a target is one point, got {len(message.points)}")
    return Target(stamp_to_ns(message.header.stamp), dimensions, _positions(message.points[0], dimensions))


def trajectory_to_command(message: Message, joint_names: Sequence[str]) -> Command:
    """The inverse of `command_to_trajectory`; raises ValueError when names or lengths are others."""
    names = tuple(message.joint_names)
    expected = (*joint_names, *POSE_DIMENSIONS)
    if names not in (expected, (*expected, GRIPPER_DIMENSION)):
        raise ValueError(f"a command has the dimensions {', '.join(expected)} (and gripper), got {', '.join(names)}")
    if len(message.points) != 1:
        raise ValueError(f"a command is one point, got {len(message.points)}")
    values = _positions(message.points[0], names)
    velocities = np.array(message.points[0].velocities, dtype=np.float64)
    if velocities.shape != values.shape:
        raise ValueError(f"a command of {len(values)} positions has as many velocities, got {len(velocities)}")
    joints = len(joint_names)
    return Command(
        time_ns=stamp_to_ns(message.header.stamp),
        joint_positions=values[:joints],
        joint_velocities=velocities[:joints],
        tcp_pose=values[joints : joints + len(POSE_DIMENSIONS)],
        gripper_width_m=float(values[-1]) if names[-1] == GRIPPER_DIMENSION else None,
    )


@dataclass(frozen=True)
class ControllerStatus:
    """What the controller says of itself: who moves the arm, whether it may, and what it counted (see INTERVENTION)."""

    time_ns: int
    mode: Mode
    safety: SafetyState
    counts: dict[str, int]


def status_values(message: Message, name: str) -> dict[str, str] | None:
    """What the node `name` says in a DiagnosticArray, its state as "state"; None where it says nothing there."""
    for status in message.status:
        if status.name == name:
            return {entry.key: entry.value for entry in status.values} | {"state": status.message.partition(":")[0]}
    return None


def status_to_controller(message: Message) -> ControllerStatus | None:
    """The controller's status in a DiagnosticArray, or None; ValueError: it says what no controller does."""
    said = status_values(message, "controller")
    if said is None:
        return None
    try:
        return ControllerStatus(
            stamp_to_ns(message.header.stamp),
            Mode(said["mode"]),
            SafetyState(said["safety_state"]),
            {key.removeprefix(INTERVENTION): int(said[key]) for key in said if key.startswith(INTERVENTION)},
        )
    except KeyError as error:
        raise ValueError(f"a status of the controller has no {error}; it has {', '.join(said)}") from None


def _decode(message: Message) -> Image:
    if message.format.startswith(tuple(_DEPTH_ENCODINGS)):
        raise ValueError(f"a compressed image of format {message.format!r} is depth, not colour")
    data = np.frombuffer(message.data, dtype=np.uint8)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    decoded = cv2.imdecode(data, flags) if data.size else None
    if decoded is None:
        raise ValueError(f"a compressed image of format {message.format!r}, {data.size} bytes, cannot be decoded")
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _pixels(message: Message, dtype: type[np.generic], channels: int) -> Any:
    """(H, W) or (H, W, channels) in native byte order; rows may be padded to `step` bytes."""
    row_bytes = message.width * channels * np.dtype(dtype).itemsize
    size = f"{message.width}x{message.height} {message.encoding}"
    if row_bytes == 0 or message.height == 0 or message.step < row_bytes:
        raise ValueError(f"an image of {size} has rows of at least {row_bytes} bytes, got step {message.step}")
    data = np.frombuffer(message.data, dtype=np.uint8)
    if data.size != message.height * message.step:
        raise ValueError(
            f"an image of {size} with step {message.step} has height x step = {message.height * message.step} bytes of "
            f"data, got {data.size}"
        )
    rows = np.ascontiguousarray(data.reshape(message.height, message.step)[:, :row_bytes])
    order = np.dtype(dtype).newbyteorder(">" if message.is_bigendian else "<")
    values = rows.view(order).astype(dtype, copy=False)
    return values if channels == 1 else values.reshape(message.height, message.width, channels)


def _checked_dimensions(names: Sequence[str]) -> tuple[str, ...]:
    dimensions = tuple(names)
    body = dimensions[:-1] if dimensions[-1:] == (GRIPPER_DIMENSION,) else dimensions
    is_pose = any(name.startswith("tcp.") for name in body)
    if not body or len(set(body)) != len(body) or GRIPPER_DIMENSION in body or (is_pose and body != POSE_DIMENSIONS):
        raise ValueError(
            f"the dimensions of a chunk are distinct joint names, or {', '.join(POSE_DIMENSIONS)}, then gripper where "
            f"there is one; got {', '.join(dimensions) or 'none'}"
        )
    return dimensions


def _positions(point: Message, dimensions: Sequence[str]) -> Array:
    if len(point.positions) != len(dimensions):
        raise ValueError(f"a point of {len(dimensions)} dimensions has {len(point.positions)} positions")
    return np.array(point.positions, dtype=np.float64)
