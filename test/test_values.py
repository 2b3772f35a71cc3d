"""Values that cross borders stay what they were, and refuse what they cannot be."""

from __future__ import annotations

import numpy as np
import pytest

from vla_ros.values import POSE_DIMENSIONS, ActionChunk, ModelChunk, Observation, Target


def test_a_chunk_knows_when_its_rows_are_due() -> None:
    chunk = ActionChunk(1_000, 100, ("a",), np.zeros((10, 1)))
    assert len(chunk) == 10
    assert chunk.due_ns(0) == 1_000
    assert chunk.due_ns(3) == 1_300
    assert chunk.end_ns == 1_900


@pytest.mark.parametrize("shape", [(10,), (10, 3), (0, 2), (1, 10, 2)])
def test_a_chunk_refuses_actions_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"a chunk of 2 dimensions \('a', 'b'\) has actions of shape \(K, 2\), got"):
        ActionChunk(0, 1, ("a", "b"), np.zeros(shape))


@pytest.mark.parametrize("step_ns", [0, -1])
def test_a_chunk_refuses_a_step_that_is_no_time(step_ns: int) -> None:
    with pytest.raises(ValueError, match=f"step_ns must be positive, got {step_ns}"):
        ActionChunk(0, step_ns, ("a",), np.zeros((1, 1)))


def test_values_cannot_be_changed_through_what_holds_them() -> None:
    chunk = ActionChunk(0, 1, ("a",), np.zeros((1, 1)))
    rows = ModelChunk(0, np.zeros((1, 1)))
    observation = Observation(0, {"front": np.zeros((2, 2, 3), np.uint8)}, {"joints": np.zeros(7)})
    for array in (chunk.actions, rows.actions, observation.images["front"], observation.proprioception["joints"]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    with pytest.raises(TypeError):
        observation.images["wrist"] = np.zeros((2, 2, 3), np.uint8)  # type: ignore[index]


def test_an_observation_tells_ages_and_the_skew_of_its_cameras() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    stamps = {"front": 90, "wrist": 105, "joints": 40}
    observation = Observation(100, {"front": image, "wrist": image}, {"joints": np.zeros(7)}, stamps)
    assert observation.ages_ns == {"front": 10, "wrist": -5, "joints": 60}
    assert observation.skew_ns == 15  # the joints are no camera
    assert Observation(100, {}, {}).skew_ns == 0


def test_a_target_is_a_pose_or_joints_with_a_gripper_or_without() -> None:
    pose = Target(0, (*POSE_DIMENSIONS, "gripper"), np.arange(8.0))
    assert pose.pose is not None and pose.joint_positions is None
    np.testing.assert_array_equal(pose.pose, np.arange(7.0))
    assert pose.gripper_width_m == 7.0
    joints = Target(0, ("a", "b", "gripper"), np.array([1.0, 2.0, 0.04]))
    assert joints.pose is None and joints.joint_positions is not None
    np.testing.assert_array_equal(joints.joint_positions, [1.0, 2.0])
    bare = Target(0, ("a", "b"), np.array([1.0, 2.0]))
    assert bare.gripper_width_m is None and bare.joint_positions is not None
    np.testing.assert_array_equal(bare.joint_positions, [1.0, 2.0])
