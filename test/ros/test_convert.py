"""Messages to values and back, against hand-made pixels, OpenCV's encoders and, where installed, cv_bridge."""

from __future__ import annotations

import struct
import zlib
from array import array
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
cv2 = pytest.importorskip("cv2")

from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from vla_ros import messages
from vla_ros.robots.panda import PANDA
from vla_ros.ros import convert
from vla_ros.simulation.world import WorldState
from vla_ros.values import GRIPPER_DIMENSION, POSE_DIMENSIONS, ActionChunk, Command, Target

HEIGHT, WIDTH = 6, 8


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def message(pixels: np.ndarray, encoding: str, padding: int = 0, big_endian: bool = False) -> Image:
    """`pixels` (H, W[, C]) as a message whose rows are padded with 0xAB bytes."""
    values = pixels.astype(pixels.dtype.newbyteorder(">" if big_endian else "<"))
    rows = np.ascontiguousarray(values).view(np.uint8).reshape(len(pixels), -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=0xAB)
    built = Image(height=pixels.shape[0], width=pixels.shape[1], encoding=encoding, step=rows.shape[1])
    built.is_bigendian = int(big_endian)
    built.data = array("B", rows.tobytes())
    return built


def flat(color: tuple[int, int, int]) -> np.ndarray:
    return np.tile(np.array(color, dtype=np.uint8), (HEIGHT, WIDTH, 1))


def mosaic(rgb: np.ndarray, pattern: str) -> np.ndarray:
    """What a sensor behind a colour filter reads; `pattern` names the first two rows, as in ROS."""
    channel = {letter: index for index, letter in enumerate("rgb")}
    grey = np.empty(rgb.shape[:2], dtype=rgb.dtype)
    for place, letter in enumerate(pattern):
        row, column = divmod(place, 2)
        grey[row::2, column::2] = rgb[row::2, column::2, channel[letter]]
    return grey


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8"])
def test_colour_orders(rgb: np.ndarray, encoding: str, padding: int) -> None:
    ordered = rgb[..., ::-1] if encoding.startswith("bgr") else rgb
    if encoding.endswith("a8"):
        ordered = np.concatenate([ordered, np.full((HEIGHT, WIDTH, 1), 77, np.uint8)], axis=2)
    assert np.array_equal(messages.image_to_rgb(message(ordered, encoding, padding)), rgb)


@pytest.mark.parametrize("encoding", ["8UC3", "8UC4", "16UC3", "16UC4", "rgb16", "bgr16", "rgba16", "bgra16"])
def test_what_cv_bridge_writes_of_opencvs_images(rgb: np.ndarray, encoding: str) -> None:
    """Types without an order of colours are OpenCV's own: blue first."""
    ordered = rgb if encoding.startswith("rgb") else rgb[..., ::-1]
    if encoding.endswith("4") or "a" in encoding:
        ordered = np.concatenate([ordered, np.full((HEIGHT, WIDTH, 1), 77, np.uint8)], axis=2)
    pixels = ordered.astype(np.uint16) * 257 if "16" in encoding else ordered
    assert np.array_equal(messages.image_to_rgb(message(pixels, encoding, padding=4)), rgb)


@pytest.mark.parametrize("padding", [0, 3])
def test_grey_is_the_same_in_every_channel(rgb: np.ndarray, padding: int) -> None:
    grey = rgb[..., 0]
    for encoding in ("mono8", "8UC1"):
        assert np.array_equal(messages.image_to_rgb(message(grey, encoding, padding)), np.stack([grey] * 3, axis=2))


@pytest.mark.parametrize("big_endian", [False, True])
def test_sixteen_bits_are_scaled_to_eight(rgb: np.ndarray, big_endian: bool) -> None:
    grey = rgb[..., 0].astype(np.uint16) * 257  # 255 becomes 65535
    decoded = messages.image_to_rgb(message(grey, "mono16", padding=1, big_endian=big_endian))
    assert np.array_equal(decoded, np.stack([rgb[..., 0]] * 3, axis=2))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_of_a_flat_colour_is_that_colour(pattern: str, bits: int) -> None:
    color = flat((200, 90, 30))
    sensor = mosaic(color, pattern)
    pixels = sensor if bits == 8 else sensor.astype(np.uint16) * 257
    assert np.array_equal(messages.image_to_rgb(message(pixels, f"bayer_{pattern}{bits}")), color)


@pytest.mark.parametrize(
    ("encoding", "order"),
    [("yuv422", "uyvy"), ("uyvy", "uyvy"), ("yuv422_yuy2", "yuyv"), ("yuyv", "yuyv")],
)
def test_yuv_is_bt601(encoding: str, order: str) -> None:
    # The standard's own value of pure red: Y 81, Cb 90, Cr 240.
    components = {"y": 81, "u": 90, "v": 240}
    pair = np.array([components[letter] for letter in order], dtype=np.uint8)
    pixels = np.tile(pair, (HEIGHT, WIDTH // 2)).reshape(HEIGHT, WIDTH, 2)
    decoded = messages.image_to_rgb(message(pixels, encoding, padding=4))
    assert np.abs(decoded.astype(int) - (255, 0, 0)).max() <= 2


def test_depth_in_metres() -> None:
    millimetres = np.array([[0, 1, 1500], [65535, 20, 3]], dtype=np.uint16)
    for big_endian in (False, True):
        depth = messages.image_to_depth_m(message(millimetres, "16UC1", padding=2, big_endian=big_endian))
        assert depth.dtype == np.float32
        np.testing.assert_allclose(depth, millimetres / 1000.0, rtol=1e-6)
    metres = np.array([[0.5, np.nan], [2.25, np.inf]], dtype=np.float32)
    np.testing.assert_array_equal(messages.image_to_depth_m(message(metres, "32FC1")), metres)


@pytest.mark.parametrize("format", ["jpeg", "png"])
def test_compressed_images(format: str) -> None:
    gradient = np.dstack((*np.meshgrid(np.arange(0, 256, 4), np.arange(0, 128, 4)), np.full((32, 64), 60)))
    picture = gradient.astype(np.uint8)
    packed = convert.rgb_to_compressed(picture, 5, "camera", format)
    assert packed.format == format and isinstance(packed.data, array)
    difference = np.abs(messages.image_to_rgb(packed).astype(int) - picture)
    assert difference.max() == 0 if format == "png" else difference.mean() < 4
    # and one that OpenCV wrote, in its own order of colours
    _, encoded = cv2.imencode(".png", picture[..., ::-1])
    assert np.array_equal(messages.image_to_rgb(CompressedImage(format="png", data=encoded.tobytes())), picture)


def test_images_that_opencv_refuses_are_refused_like_others() -> None:
    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)  # 30 GB of pixels in 100 bytes
    bomb = b"\x89PNG\r\n\x1a\n" + part(b"IHDR", size) + part(b"IDAT", zlib.compress(bytes(9))) + part(b"IEND", b"")
    with pytest.raises(ValueError, match="an image that OpenCV refuses"):
        messages.image_to_rgb(CompressedImage(format="png", data=bomb))


def test_writing_an_image(rgb: np.ndarray) -> None:
    written = convert.rgb_to_image(rgb[:, ::2], 3_000_000_007, "front_optical")  # not contiguous
    assert (written.height, written.width, written.step, written.encoding) == (HEIGHT, WIDTH // 2, 12, "rgb8")
    assert (written.header.stamp.sec, written.header.stamp.nanosec) == (3, 7)
    assert written.header.frame_id == "front_optical"
    assert isinstance(written.data, array)  # numpy would cost 53 ms at 640x480
    assert bytes(written.data) == rgb[:, ::2].tobytes()
    assert np.array_equal(messages.image_to_rgb(written), rgb[:, ::2])
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8, got \(6, 8\)"):
        convert.rgb_to_image(rgb[..., 0], 0, "")


def test_images_that_lie_about_their_size(rgb: np.ndarray) -> None:
    short = message(rgb, "rgb8")
    short.data = short.data[:-1]
    with pytest.raises(ValueError, match=r"height x step = 144 bytes of data, got 143"):
        messages.image_to_rgb(short)
    narrow = message(rgb, "rgb8")
    narrow.step = 3
    with pytest.raises(ValueError, match="at least 24 bytes, got step 3"):
        messages.image_to_rgb(narrow)
    with pytest.raises(ValueError, match="step 0"):
        messages.image_to_rgb(Image(encoding="rgb8"))
    with pytest.raises(ValueError, match="an image of yuv422 has an even width, got 3"):
        messages.image_to_rgb(Image(encoding="yuv422", width=3, height=2, step=6, data=bytes(12)))


def test_encodings_that_have_no_colours(rgb: np.ndarray) -> None:
    with pytest.raises(ValueError, match="'8SC1' is not one of rgb8"):
        messages.image_to_rgb(message(rgb[..., 0], "8SC1"))
    with pytest.raises(ValueError, match="image_to_depth_m"):
        messages.image_to_rgb(message(rgb[..., 0].astype(np.uint16), "16UC1"))
    with pytest.raises(ValueError, match="16UC1 or 32FC1, got 'rgb8'"):
        messages.image_to_depth_m(message(rgb, "rgb8"))
    with pytest.raises(ValueError, match="depth, not colour"):
        messages.image_to_rgb(CompressedImage(format="16UC1; png compressed", data=b"123"))
    for data in (b"", b"no picture"):
        with pytest.raises(ValueError, match="cannot be decoded"):
            messages.image_to_rgb(CompressedImage(format="jpeg", data=data))


@pytest.mark.parametrize(
    "encoding", ["rgb8", "bgr8", "mono8", "rgba8", "bgra8", "mono16", "bayer_rggb8", "bayer_gbrg8"]
)
def test_the_same_as_cv_bridge(encoding: str) -> None:
    bridge = pytest.importorskip("cv_bridge").CvBridge()
    channels = {"mono8": 1, "mono16": 1, "rgba8": 4, "bgra8": 4}.get(encoding, 1 if "bayer" in encoding else 3)
    dtype = np.uint16 if encoding == "mono16" else np.uint8
    shape = (HEIGHT, WIDTH, channels) if channels > 1 else (HEIGHT, WIDTH)
    pixels = np.random.default_rng(1).integers(0, np.iinfo(dtype).max, shape, dtype=dtype)
    sent = message(pixels, encoding)
    assert np.array_equal(messages.image_to_rgb(sent), bridge.imgmsg_to_cv2(sent, "rgb8"))


@pytest.mark.parametrize("time_ns", [0, 1, 999_999_999, 1_000_000_000, 1_763_000_000_123_456_789])
def test_stamps(time_ns: int) -> None:
    stamp = convert.ns_to_stamp(time_ns)
    assert 0 <= stamp.nanosec < 10**9
    assert messages.stamp_to_ns(stamp) == time_ns
    assert messages.stamp_to_ns(convert.ns_to_duration(time_ns)) == time_ns


def test_joints_are_found_by_name() -> None:
    reader = messages.JointReader(("a", "b"))
    state = JointState(name=["gripper", "b", "a"], position=[9.0, 2.0, 1.0], velocity=[9.0, 0.2, 0.1])
    assert reader.positions(state).tolist() == [1.0, 2.0]
    assert reader.velocities(state).tolist() == [0.1, 0.2]
    state = JointState(name=["a", "b"], position=[1.0, 2.0])  # the same joints in another order
    assert reader.positions(state).tolist() == [1.0, 2.0]
    assert reader.velocities(state) is None
    with pytest.raises(ValueError, match="lacks b; it has a, c"):
        reader.positions(JointState(name=["a", "c"], position=[1.0, 2.0]))
    with pytest.raises(ValueError, match="2 names but 1 positions"):
        reader.positions(JointState(name=["a", "b"], position=[1.0]))


CHUNKS = [
    (*POSE_DIMENSIONS, GRIPPER_DIMENSION),
    POSE_DIMENSIONS,
    (*PANDA.joint_names, GRIPPER_DIMENSION),
]


@pytest.mark.parametrize("dimensions", CHUNKS)
def test_chunks_survive(dimensions: tuple[str, ...]) -> None:
    actions = np.random.default_rng(0).normal(size=(10, len(dimensions)))
    chunk = ActionChunk(12_345_678_901, 100_000_000, dimensions, actions)
    sent = convert.chunk_to_trajectory(chunk, "panda_link0")
    assert sent.header.frame_id == "panda_link0"
    assert messages.stamp_to_ns(sent.points[3].time_from_start) == 300_000_000
    received = messages.trajectory_to_chunk(sent)
    assert (received.observation_ns, received.step_ns, received.dimensions) == (12_345_678_901, 100_000_000, dimensions)
    np.testing.assert_array_equal(received.actions, actions)


def test_a_chunk_of_one_row_holds_it_for_a_step() -> None:
    received = messages.trajectory_to_chunk(convert.chunk_to_trajectory(ActionChunk(0, 5, ("a",), np.ones((1, 1))), ""))
    assert received.step_ns == 5 and received.actions.tolist() == [[1.0], [1.0]]


def _chunk_message(**changes: Any) -> JointTrajectory:
    sent = convert.chunk_to_trajectory(ActionChunk(0, 10, ("a", "b"), np.zeros((3, 2))), "base")
    for name, value in changes.items():
        setattr(sent, name, value)
    return sent


def test_chunks_that_are_none() -> None:
    with pytest.raises(ValueError, match="2 to 1000 points, got 0"):
        messages.trajectory_to_chunk(_chunk_message(points=[]))
    for names in ([], ["a", "a"], ["tcp.x", "a"], ["gripper", "a"], list(POSE_DIMENSIONS[::-1])):
        with pytest.raises(ValueError, match="dimensions of a chunk"):
            messages.trajectory_to_chunk(_chunk_message(joint_names=names))
    with pytest.raises(ValueError, match="a point of 3 dimensions has 2 positions"):
        messages.trajectory_to_chunk(_chunk_message(joint_names=["a", "b", "c"]))
    uneven = _chunk_message()
    uneven.points[2].time_from_start.nanosec = 30
    with pytest.raises(ValueError, match="evenly spaced from 0, got point 2 at 30 ns"):
        messages.trajectory_to_chunk(uneven)


@pytest.mark.parametrize("width", [None, 0.03])
def test_commands_survive(width: float | None) -> None:
    sent = Command(7, np.arange(7.0), np.arange(7.0) / 10, np.array([0.1, 0.2, 0.3, 0, 0, 0, 1.0]), width)
    received = messages.trajectory_to_command(
        convert.command_to_trajectory(sent, PANDA.joint_names, PANDA.base_frame), PANDA.joint_names
    )
    assert (received.time_ns, received.gripper_width_m) == (7, width)
    for name in ("joint_positions", "joint_velocities", "tcp_pose"):
        np.testing.assert_array_equal(getattr(received, name), getattr(sent, name))
    with pytest.raises(ValueError, match="a command has the dimensions"):
        messages.trajectory_to_command(_chunk_message(), PANDA.joint_names)


def test_world_states_survive() -> None:
    state = WorldState(3_000_000_007, np.array([0.25, 1.0]), ("tcp.x", "success"))
    sent = convert.world_state_to_array(state)
    assert sent.layout.dim[0].label == "stamp.sec,stamp.nanosec,tcp.x,success"
    received = convert.array_to_world_state(sent)
    assert (received.time_ns, received.names, received.values.tolist()) == (state.time_ns, state.names, [0.25, 1.0])
    for wrong in (Float64MultiArray(), Float64MultiArray(layout=sent.layout, data=[1.0])):
        with pytest.raises(ValueError, match="a world state is labelled"):
            convert.array_to_world_state(wrong)


@pytest.mark.parametrize("dimensions", [PANDA.joint_names, (*POSE_DIMENSIONS, GRIPPER_DIMENSION)])
def test_a_teleoperators_targets_survive(dimensions: tuple[str, ...]) -> None:
    sent = Target(1_700_000_000_123_456_789, dimensions, np.linspace(0.1, 0.8, len(dimensions)))
    message = convert.target_to_trajectory(sent, "panda_link0")
    assert message.header.frame_id == "panda_link0"
    received = messages.trajectory_to_target(message)
    assert (received.time_ns, received.dimensions) == (sent.time_ns, dimensions)
    np.testing.assert_array_equal(received.values, sent.values)
    message.points.append(message.points[0])
    with pytest.raises(ValueError, match="a target is one point, got 2"):
        messages.trajectory_to_target(message)
