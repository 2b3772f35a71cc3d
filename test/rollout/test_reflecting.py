"""What a policy does beside its actions, in the world's time: its reflections, and the cameras it was made for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from vla_ros.actions import ActionSpec, GripperConvention, Space
from vla_ros.control.arm import ArmConfig
from vla_ros.policies.policy import Inference, WindowSpec
from vla_ros.robots.panda import PANDA
from vla_ros.rollout.loop import Episode, Rollout, RolloutConfig
from vla_ros.simulation.tabletop import Tabletop
from vla_ros.simulation.world import TabletopConfig
from vla_ros.values import Committed, ModelChunk, Window

MS = 1_000_000


class Thoughtful:
    """Stays where it is; notes when it thought, and what it had thought by each inference."""

    action_spec = ActionSpec(space=Space.JOINT_POSITION, joint_names=PANDA.joint_names, gripper=GripperConvention.NONE)
    window_spec = WindowSpec(cameras=())

    def __init__(self, reflection_period_s: float = 1.0) -> None:
        self.reflection_period_s = reflection_period_s
        self.description = ""
        self.inferred: list[tuple[int, int]] = []  # instant, reflections by then
        self.reflected: list[int] = []

    def reset(self, instruction: str) -> None:
        self.inferred, self.reflected = [], []

    def infer(self, window: Window, committed: Committed) -> Inference:
        observed_ns = window[-1].instant_ns
        self.inferred.append((observed_ns, len(self.reflected)))
        return Inference(ModelChunk(observed_ns, np.tile(window[-1].proprioception["joints"], (10, 1))))

    def reflect(self, window: Window) -> None:
        self.reflected.append(window[-1].instant_ns)

    def answer(self, window: Window, question: str) -> str:
        raise AssertionError("nobody asks")

    def check_cameras(self, cameras: Mapping[str, tuple[int, int]]) -> None:
        if cameras.get("front") != (256, 256):
            raise ValueError(f"made for a front camera of 256 x 256, given {dict(cameras)}")


def roll(policy: Thoughtful) -> Episode:
    config = RolloutConfig(episode_s=3.0, inference_hz=5.0, inference_delay_ms=50.0)
    return Rollout(Tabletop(PANDA), PANDA, policy, ArmConfig(), config).run(0)


def test_it_reflects_in_the_worlds_time_for_the_next_inference() -> None:
    policy = Thoughtful()
    episode = roll(policy)
    start_ns = episode.start_ns
    assert [instant - start_ns for instant in policy.reflected] == [0, 1000 * MS, 2000 * MS]
    for instant_ns, thoughts in policy.inferred:
        assert thoughts == sum(reflected < instant_ns for reflected in policy.reflected)
    assert len(policy.inferred) == 15


def test_a_policy_that_has_nothing_to_reflect_on_is_not_asked_to() -> None:
    policy = Thoughtful(reflection_period_s=float("inf"))
    roll(policy)
    assert policy.reflected == []


def test_a_world_with_other_cameras_is_refused_before_anything_moves() -> None:
    wide = TabletopConfig().cameras["front"].model_copy(update={"width": 320})
    world = Tabletop(PANDA, TabletopConfig(cameras={"front": wide}))
    with pytest.raises(ValueError, match=r"made for a front camera of 256 x 256, given \{'front': \(320, 256\)\}"):
        Rollout(world, PANDA, Thoughtful(), ArmConfig(), RolloutConfig())
