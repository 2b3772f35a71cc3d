"""Chunks as they come over the wire: read as rclpy reads them, whatever is in them, and in a small part of its time."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from hypothesis import given
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vla_ros import messages
from vla_ros.robots.panda import PANDA
from vla_ros.ros import convert
from vla_ros.values import GRIPPER_DIMENSION, ActionChunk

NAMES = (*PANDA.joint_names, GRIPPER_DIMENSION)
FINITE = st.floats(allow_nan=False)


def outcome(read: Callable[[Any], ActionChunk], given: Any) -> tuple[Any, ...] | None:
    """What the chunk holds, or None where it is refused."""
    try:
        chunk = read(given)
    except ValueError:
        return None
    return chunk.observation_ns, chunk.step_ns, chunk.dimensions, chunk.actions.tolist()


@st.composite
def trajectories(draw: st.DrawFn) -> JointTrajectory:
    """Evenly spaced or nearly so, of any sizes; what a chunk does not need may be there."""
    names = draw(st.lists(st.sampled_from([*NAMES, "joint", "a"]), min_size=1, max_size=9, unique=True))
    names = [name for name in names if name != GRIPPER_DIMENSION] + [GRIPPER_DIMENSION] * (GRIPPER_DIMENSION in names)
    message = JointTrajectory(joint_names=names)
    message.header.frame_id = draw(st.text("bä", max_size=9))
    message.header.stamp.sec = draw(st.integers(-(2**31), 2**31 - 1))
    message.header.stamp.nanosec = draw(st.integers(0, 2**32 - 1))
    has = [draw(st.booleans()) for _ in range(3)]
    step_ns = draw(st.integers(1, 3_000_000_000))
    for index in range(draw(st.integers(0, 12))):
        point = JointTrajectoryPoint(positions=draw(st.lists(FINITE, min_size=len(names), max_size=len(names))))
        for is_there, field in zip(has, ("velocities", "accelerations", "effort"), strict=True):
            setattr(point, field, [0.5] * len(names) * is_there)
        point.time_from_start = convert.ns_to_duration(index * step_ns)
        message.points.append(point)
    if message.points and draw(st.integers(0, 4)) == 0:
        odd = draw(st.sampled_from(message.points))
        setattr(odd, draw(st.sampled_from(["positions", "velocities", "effort"])), [1.0] * draw(st.integers(0, 10)))
        odd.time_from_start.nanosec = draw(st.integers(0, 3))
    return message


@given(trajectories())
def test_they_are_what_rclpy_reads(message: JointTrajectory) -> None:
    expected = outcome(messages.trajectory_to_chunk, message)
    got = outcome(messages.serialized_to_chunk, serialize_message(message))
    sizes = {tuple(map(len, (p.positions, p.velocities, p.accelerations, p.effort))) for p in message.points}
    assert got == expected or (got is None and len(sizes) > 1)  # what a chunk does not need must be of one size


@given(trajectories(), st.data())
def test_damaged_ones_are_refused_or_read_as_rclpy_reads_them(message: JointTrajectory, data: st.DataObject) -> None:
    sent = bytearray(serialize_message(message))
    for _ in range(data.draw(st.integers(1, 3))):
        sent[data.draw(st.integers(0, len(sent) - 1))] = data.draw(st.integers(0, 255))
    del sent[data.draw(st.integers(0, len(sent))) :]
    outcome(messages.serialized_to_chunk, bytes(sent))  # nothing but a ValueError


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"points": [JointTrajectoryPoint()] * 20_000}, "a chunk has 2 to 1000 points, got 20000"),
        ({"joint_names": [f"joint{i}" for i in range(65)]}, "at most 64 dimensions"),
        ({"joint_names": ["x" * 10_000]}, "at most 64 dimensions, with names of 256, got 10001"),
    ],
)
def test_what_is_too_much_is_refused_before_it_is_read(changes: dict[str, Any], refusal: str) -> None:
    data = serialize_message(JointTrajectory(**{"joint_names": list(NAMES), **changes}))
    with pytest.raises(ValueError, match=refusal):
        messages.serialized_to_chunk(data)


def test_the_largest_chunk_costs_a_small_part_of_what_rclpy_needs() -> None:
    chunk = ActionChunk(1, 10, NAMES, np.random.default_rng(0).normal(size=(messages.MOST_POINTS, len(NAMES))))
    data = serialize_message(convert.chunk_to_trajectory(chunk, ""))

    def cost_s(read: Callable[[bytes], Any]) -> float:
        costs = []
        for _ in range(9):
            begin = time.thread_time()
            read(data)
            costs.append(time.thread_time() - begin)
        return median(costs)

    assert cost_s(messages.serialized_to_chunk) < 0.1 * cost_s(lambda data: deserialize_message(data, JointTrajectory))
