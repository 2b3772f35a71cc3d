"""Policies of each kind on one protocol, through the whole chain: 16 frames, the previous chunk, late deltas."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest

from vla_ros.actions import ActionSpec, Anchor, Frame, GripperConvention, Space
from vla_ros.control import kinematics
from vla_ros.control.arm import ArmConfig
from vla_ros.geometry import RotationForm, matrix_pose, pose_matrix, rotation_angle, rotation_values
from vla_ros.policies.policy import Inference, WindowSpec
from vla_ros.robots.panda import PANDA
from vla_ros.rollout.loop import Episode, Rollout, RolloutConfig
from vla_ros.simulation.world import STATE_NAMES, CameraModel, GripperOutcome, Snapshot, WorldState
from vla_ros.timing.chunks import ScheduleConfig, ScheduleMode
from vla_ros.values import ActionChunk, Array, Committed, Image, ModelChunk, Window

MS = 1_000_000
KINEMATICS = kinematics.for_robot(PANDA)
HOME_POSE = KINEMATICS.forward(np.array(PANDA.home_rad))


class IdealWorld:
    """An arm that is at once where it is commanded, and a camera whose pictures tell the time; nothing else."""

    cameras: Mapping[str, CameraModel] = {"front": CameraModel(position_m=(1.0, 0.0, 1.0), target_m=(0.0, 0.0, 0.0))}
    gripper_width_m = 0.08
    gripper_outcome: GripperOutcome | None = None
    fault: str | None = None
    instruction = "wave"

    def __init__(self) -> None:
        self.time_ns = 1_000 * MS
        self.joint_positions = np.array(PANDA.home_rad)
        self.joint_velocities = np.zeros(7)

    def reset(self, seed: int, instruction: str = "") -> str:
        return self.instruction

    def advance(self, duration_ns: int) -> None:
        self.time_ns += duration_ns

    def command_joints(self, joint_positions: Array) -> None:
        self.joint_positions = np.array(joint_positions)

    def move_gripper(self, width_m: float, speed_m_s: float) -> None:
        self.gripper_width_m = width_m
        self.gripper_outcome = GripperOutcome(True, "")

    def state(self) -> WorldState:
        values = np.zeros(len(STATE_NAMES))
        values[:7] = KINEMATICS.forward(self.joint_positions)
        return WorldState(self.time_ns, values)

    def success(self) -> bool:
        return False

    def snapshot(self) -> Snapshot:
        return Snapshot(self.time_ns, np.zeros(0), {}, np.zeros(0))

    def render(self, camera: str, snapshot: Snapshot) -> Image:
        return np.frombuffer(snapshot.time_ns.to_bytes(12, "big"), np.uint8).reshape(2, 2, 3)


def time_in(image: Image) -> int:
    """When a picture of the ideal world was taken."""
    return int.from_bytes(np.asarray(image).tobytes(), "big")


@dataclass
class Dummy:
    """A policy made of its two specs and one function; keeps what it was shown."""

    action_spec: ActionSpec
    window_spec: WindowSpec
    decide: Callable[[Window, Committed], Array]
    windows: list[Window] = field(default_factory=list)
    committed: list[Committed] = field(default_factory=list)

    def reset(self, instruction: str) -> None:
        self.windows.clear()
        self.committed.clear()

    def infer(self, window: Window, committed: Committed) -> Inference:
        self.windows.append(window)
        self.committed.append(committed)
        return Inference(ModelChunk(window[-1].instant_ns, self.decide(window, committed)))


def roll(policy: Dummy, arm: ArmConfig | None = None, **settings: float) -> Episode:
    return Rollout(IdealWorld(), PANDA, policy, arm or ArmConfig(), RolloutConfig(**settings)).run(seed=0)


# --- a model that looks at 16 past frames ---


def test_sixteen_past_frames_are_those_taken_at_their_instants() -> None:
    step_ns = 100 * MS
    stay = np.tile(np.array([*HOME_POSE, 0.08]), (10, 1))
    policy = Dummy(
        ActionSpec(),
        WindowSpec(length=16, step_ns=step_ns, proprioception=("joints",)),
        lambda window, committed: stay,
    )
    roll(policy, episode_s=4.0, inference_hz=4.0, inference_delay_ms=120.0)
    start_ns = time_in(policy.windows[0][-1].images["front"])
    assert len(policy.windows) > 10
    for window in policy.windows:
        assert len(window) == 16
        newest_ns = window[-1].instant_ns
        for back, observation in enumerate(reversed(window)):
            instant_ns = newest_ns - back * step_ns
            assert observation.instant_ns == max(
                start_ns, instant_ns
            )  # its first observation stands for what was before
            assert abs(time_in(observation.images["front"]) - observation.instant_ns) <= 20 * MS
            assert observation.proprioception["joints"].shape == (7,)


# --- a model that conditions on its previous observation and chunk ---


def test_a_model_of_image_chunk_image_gets_the_chunk_that_followed_the_first_image() -> None:
    """Replanned five times a second while it looks back a whole second, it gets the chunk of then, not the newest."""
    spec = ActionSpec(space=Space.EE_DELTA, rotation=RotationForm.AXIS_ANGLE, gripper=GripperConvention.OPEN_SIGNED)
    look = WindowSpec(length=2, step_ns=1_000 * MS, cameras=("front",), proprioception=())
    # Each chunk has its number written in its gripper column, far below what opens or closes anything.
    policy = Dummy(spec, look, lambda window, committed: np.array([[0.0] * 6 + [1e-3 * len(policy.windows)]] * 10))
    roll(policy, episode_s=4.0, inference_hz=5.0)
    assert policy.committed[0].previous is None
    assert len(policy.windows) > 15
    instants = [window[-1].instant_ns for window in policy.windows]
    for number, (window, committed) in enumerate(zip(policy.windows, policy.committed, strict=True)):
        if number == 0 or window[0] is window[1]:
            continue  # in its first second an episode has no such past
        previous = committed.previous
        assert previous is not None
        told = round(1e3 * previous.actions[0, -1]) - 1
        assert previous.observation_ns == instants[told]
        assert abs(previous.observation_ns - window[0].instant_ns) <= 120 * MS  # half a period, and one frame


# --- models of deltas ---

BELL_M = 0.01 * np.array([1.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0] + [0.0] * 13)  # 10 cm, and time to get there


@pytest.mark.parametrize("frame", Frame)
@pytest.mark.parametrize("anchor", Anchor)
@pytest.mark.parametrize("delay_ms", [0.0, 100.0, 300.0])
def test_a_chunk_of_deltas_loses_no_displacement_however_late_it_comes(
    frame: Frame, anchor: Anchor, delay_ms: float
) -> None:
    """One chunk only, so that nothing corrects what is lost: 10 cm sideways and a turn of 0.3 rad, always."""
    spec = ActionSpec(
        space=Space.EE_DELTA,
        frame=frame,
        anchor=anchor,
        rotation=RotationForm.AXIS_ANGLE,
        horizon=20,
        gripper=GripperConvention.NONE,
    )
    rows = np.zeros((20, 6))
    rows[:, 1], rows[:, 5] = BELL_M, 3.0 * BELL_M
    policy = Dummy(spec, WindowSpec(cameras=()), lambda window, committed: rows)
    episode = roll(policy, episode_s=3.0, inference_hz=0.1, inference_delay_ms=delay_ms)
    assert len(episode.chunks) == 1
    # The hand at home points down: its y and z are the base's, reversed.
    sign = 1.0 if frame is Frame.BASE else -1.0
    moved = np.eye(4)
    turn = sign * 0.3
    moved[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    expected = matrix_pose(moved @ pose_matrix([0.0, 0.0, 0.0, *HOME_POSE[3:]]))
    if frame is Frame.BASE:
        expected[:3] = HOME_POSE[:3] + np.array([0.0, 0.1, 0.0])
    else:  # each step goes along the y axis as it is turned by then
        turned = sign * 3.0 * np.concatenate([[0.0], np.cumsum(BELL_M)[:-1]])
        path = np.stack([np.sin(turned) * BELL_M, -np.cos(turned) * BELL_M])
        expected[:3] = HOME_POSE[:3] + np.array([*path.sum(axis=1), 0.0])
    reached = episode.tcp_path[-1]
    np.testing.assert_allclose(reached[:3], expected[:3], atol=1e-3)
    assert rotation_angle(reached[3:], expected[3:]) < 0.01


@pytest.mark.parametrize("mode", ScheduleMode)
def test_a_replanning_policy_of_deltas_reaches_the_same_pose_300_ms_late(mode: ScheduleMode) -> None:
    goal = pose_matrix([HOME_POSE[0] + 0.1, HOME_POSE[1] - 0.15, HOME_POSE[2] - 0.1, *HOME_POSE[3:]])
    spec = ActionSpec(
        space=Space.EE_DELTA, frame=Frame.TOOL, rotation=RotationForm.ROTATION_6D, gripper=GripperConvention.CLOSED_UNIT
    )

    def toward_goal(window: Window, committed: Committed) -> Array:
        current = pose_matrix(KINEMATICS.forward(window[-1].proprioception["joints"]))
        rows = []
        for _ in range(10):
            way = np.linalg.inv(current) @ goal
            step = way.copy()
            step[:3, 3] = way[:3, 3] * min(1.0, 0.02 / max(np.linalg.norm(way[:3, 3]), 1e-9))
            current = current @ step
            rows.append([*step[:3, 3], *rotation_values(step[:3, :3], RotationForm.ROTATION_6D), 0.0])
        return np.array(rows)

    arm = ArmConfig(schedule=ScheduleConfig(mode=mode))
    ends = []
    for delay_ms in (0.0, 300.0):
        policy = Dummy(spec, WindowSpec(cameras=()), toward_goal)
        ends.append(roll(policy, arm, episode_s=4.0, inference_hz=5.0, inference_delay_ms=delay_ms).tcp_path[-1])
    np.testing.assert_allclose(ends[0][:3], goal[:3, 3], atol=1e-3)
    np.testing.assert_allclose(ends[1], ends[0], atol=1e-3)


# --- real-time chunking ---


def test_the_committed_prefix_kept_in_the_models_own_space_is_what_was_scheduled() -> None:
    """A model of deltas that repeats its prefix contradicts the schedule nowhere, though each anchor is another."""
    spec = ActionSpec(space=Space.JOINT_DELTA, gripper=GripperConvention.OPEN_UNIT, joint_names=PANDA.joint_names)

    def keep_then_wander(window: Window, committed: Committed) -> Array:
        rows = np.zeros((10, 8))
        rows[:, 0], rows[:, -1] = 0.02, 1.0
        if committed.prefix is not None:
            kept = committed.prefix.actions[:5]
            rows[: len(kept)] = kept
        return rows

    policy = Dummy(spec, WindowSpec(cameras=()), keep_then_wander)
    episode = roll(policy, episode_s=2.0, inference_hz=5.0, inference_delay_ms=150.0)
    # It is told, too, which rows will be past: those due before the chunk comes, once it is known how late that is.
    assert [committed.delay_steps for committed in policy.committed] == [0] + [2] * (len(policy.committed) - 1)
    kept = 0
    for chunk, committed in zip(episode.chunks, policy.committed, strict=False):
        scheduled: ActionChunk | None = committed.scheduled
        if scheduled is not None:
            rows = min(5, len(scheduled))
            np.testing.assert_allclose(chunk.actions[:rows], scheduled.actions[:rows], atol=1e-9)
            kept += 1
    assert kept >= 5
