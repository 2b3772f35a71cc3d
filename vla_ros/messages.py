"""ROS messages to values: images, stamps, joint states, chunks, commands; by their fields, so a bag's do too.

Everything that comes from outside is checked here for shape and names (ValueError says what was given); whether numbers
are finite and reachable is for the safety stage. The way back, values to messages, is `ros.convert`.
"""

from __future__ import annotations

import struct
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

#: The longest chunk that an `ActionSpec` allows, and more dimensions than any robot here has; the longest name.
MOST_POINTS, MOST_DIMENSIONS, _LONGEST_NAME = 1000, 64, 256

#: What the safety stage did, in the values of the controller's status: `intervention.<name>` -> how often.
INTERVENTION = "intervention."
#: In what the simulator says of itself: the simulated time at which its world was reset last.
RESET = "reset_ns"
#: Under this key of its status the controller says since when its plan counts [ns]: chunks observed before are dropped.
PLAN_SINCE = "plan_since_ns"
_MOST_DIGITS = 20  # of a time in nanoseconds

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


def shortened(text: str, most: int = 300) -> str:
    """`text` in one line of at most `most` characters: what others send may be quoted, but not at any length."""
    line = " ".join(text[: most + 1].split())
    return line if len(text) <= most else f"{line[: most - 3]}..."


def stamp_to_ns(stamp: Message) -> int:
    """A ROS time or duration in nanoseconds."""
    return int(stamp.sec) * NANOSECONDS_PER_SECOND + int(stamp.nanosec)


def image_to_rgb(message: Message) -> Image:
    """A colour or grey image, raw or compressed, as rgb (H, W, 3) uint8; may share the message's memory.

    Raises ValueError for an encoding that has no colours (see `image_to_depth_m`) or data that do not fit its size.
    """
    try:
        return _decode(message) if hasattr(message, "format") else _convert(message)  # compressed, or raw
    except cv2.error as error:  # of so many pixels, or so few, that OpenCV does nothing with them
        raise ValueError(f"an image that OpenCV refuses: {shortened(str(error))}") from None


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
    _check_points(len(message.points))
    dimensions = _checked_dimensions(message.joint_names)
    step_ns = _step_ns([stamp_to_ns(point.time_from_start) for point in message.points])
    rows = [_positions(point, dimensions) for point in message.points]
    return ActionChunk(stamp_to_ns(message.header.stamp), step_ns, dimensions, np.stack(rows))


def serialized_to_chunk(data: bytes) -> ActionChunk:
    """As `trajectory_to_chunk`, of a message as it comes over the wire (CDR): no object is made for any point.

    A message of rclpy with 1000 points costs 20 ms to make, in which no command would be sent.
    """
    cdr = _Cdr(data)
    stamp_ns = cdr.time_ns()
    cdr.text()  # the frame
    names = [cdr.text() for _ in range(cdr.count(MOST_DIMENSIONS))]
    points = cdr.count()
    _check_points(points)
    dimensions = _checked_dimensions(names)
    # Alignment may give the first point a length of its own, never those after the second.
    times_ns, rows = zip(*(cdr.point() for _ in range(2)), strict=True)
    rest_ns, rest = cdr.points_like_the_last(points - 2)
    if sizes := {len(row) for row in rows} - {len(dimensions)}:
        raise ValueError(f"a point of {len(dimensions)} dimensions has {sizes.pop()} positions")
    return ActionChunk(stamp_ns, _step_ns([*times_ns, *rest_ns]), dimensions, np.concatenate([np.stack(rows), rest]))


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
class _Place:
    """Where a point of a serialised trajectory is: its size, its four counts with their values, its positions."""

    size: int
    counts: list[tuple[int, int]]
    positions_at: int


class _Cdr:
    """A trajectory_msgs/JointTrajectory in CDR, read front to back; ValueError where it is another, or cut short."""

    def __init__(self, data: bytes) -> None:
        if len(data) < 4 or data[0] != 0 or data[1] not in (0, 1):
            raise ValueError(f"a message begins with the header of plain CDR, got {data[:4].hex() or 'nothing'}")
        self._data, self._at = data[4:], 0
        self._order = "<" if data[1] else ">"
        self._last = _Place(0, [], 0)

    def time_ns(self) -> int:
        seconds, nanoseconds = self._unpack("iI")
        return int(seconds) * NANOSECONDS_PER_SECOND + int(nanoseconds)

    def count(self, most: int | None = None) -> int:
        (count,) = self._unpack("I")
        if most is not None and count > most:
            raise ValueError(
                f"a chunk has at most {MOST_DIMENSIONS} dimensions, with names of {_LONGEST_NAME}, got {count}"
            )
        return int(count)

    def text(self) -> str:
        length = self.count(_LONGEST_NAME)
        (text,) = self._unpack(f"{length}s", aligned_to=1)
        return bytes(text).rstrip(b"\0").decode("utf-8", "replace")

    def point(self) -> tuple[int, Array]:
        """Its time from the start and its positions; velocities, accelerations and efforts are passed over."""
        begins, counts, parts = self._at, [], []
        for _ in range(4):
            length = self.count(MOST_DIMENSIONS)
            counts.append((self._at - 4, length))
            parts.append(self._unpack(f"{length}d", aligned_to=8) if length else ())
        first_at = counts[1][0] - 8 * counts[0][1]
        time_ns = self.time_ns()
        self._last = _Place(self._at - begins, counts, first_at)
        return time_ns, np.array(parts[0], dtype=np.float64)

    def points_like_the_last(self, count: int) -> tuple[list[int], Array]:
        """The times and positions (count, D) of all points that follow, which are as long as the last that was read."""
        last, stride, rest = self._last, self._last.size, len(self._data) - self._at

        def column(kind: str, at: int, width: int = 1) -> Any:
            form = np.dtype(self._order + kind)
            return np.ndarray((count, width), form, self._data, at + stride, strides=(stride, form.itemsize))

        fits = count * stride <= rest  # some send more room than the message needs
        if not fits or (count and any((column("u4", at) != length).any() for at, length in last.counts)):
            raise ValueError(f"the points of a chunk are of one size, got {rest} bytes for {count} of {stride}")
        if not count:
            return [], np.zeros((0, last.counts[0][1]))
        seconds, nanoseconds = column("i4", self._at - 8)[:, 0], column("u4", self._at - 4)[:, 0]
        times_ns = seconds.astype(np.int64) * NANOSECONDS_PER_SECOND + nanoseconds
        return times_ns.tolist(), column("f8", last.positions_at, last.counts[0][1]).astype(np.float64)

    def _unpack(self, layout: str, aligned_to: int = 4) -> tuple[Any, ...]:
        start = self._at + -self._at % aligned_to
        form = struct.Struct(self._order + layout)
        if start + form.size > len(self._data):
            raise ValueError(f"a message of {len(self._data)} bytes is cut short")
        self._at = start + form.size
        return form.unpack_from(self._data, start)


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


def status_to_plan_since(message: Message) -> int | None:
    """Since when the controller's plan counts [ns], in a DiagnosticArray; None where it does not say."""
    return _nanoseconds((status_values(message, "controller") or {}).get(PLAN_SINCE, ""))


def status_to_reset(message: Message) -> int | None:
    """When a simulation was reset last [ns], in a DiagnosticArray; None where it does not say."""
    return _nanoseconds(
        next((entry.value for status in message.status for entry in status.values if entry.key == RESET), "")
    )


def _nanoseconds(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < _MOST_DIGITS else None


def _convert(message: Message) -> Image:
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


def _check_points(count: int) -> None:
    if not 2 <= count <= MOST_POINTS:
        raise ValueError(f"a chunk has 2 to {MOST_POINTS} points, got {count}")


def _step_ns(times_ns: Sequence[int]) -> int:
    """The step of points that are evenly spaced from 0."""
    step_ns = times_ns[1]
    if step_ns <= 0 or times_ns[0] != 0:
        raise ValueError(f"the points of a chunk are evenly spaced from 0, got the first two at {times_ns[:2]} ns")
    for index, time_ns in enumerate(times_ns):
        if time_ns != index * step_ns:
            raise ValueError(f"the points of a chunk are evenly spaced from 0, got point {index} at {time_ns} ns")
    return step_ns


def _checked_dimensions(names: Sequence[str]) -> tuple[str, ...]:
    if len(names) > MOST_DIMENSIONS:
        raise ValueError(f"there are at most {MOST_DIMENSIONS} dimensions, got {len(names)}")
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
