"""The in-process loop: delays, limits of time, faults, repeatability; with the tabletop and its expert."""

from __future__ import annotations

import numpy as np
import pytest

from vla_ros.control.arm import ArmConfig
from vla_ros.policies import registry
from vla_ros.robots.panda import PANDA
from vla_ros.rollout.loop import Rollout, RolloutConfig, report
from vla_ros.simulation.tabletop import Tabletop
from vla_ros.values import Array, Image

MS = 1_000_000


class Unseen(Tabletop):
    """A tabletop that must not be drawn."""

    def render(self, camera: str) -> Image:
        raise AssertionError(f"camera {camera} was drawn for a policy that looks at no image")


def rollout(world: Tabletop | None = None, arm: ArmConfig | None = None, **settings: float) -> Rollout:
    expert = registry.load("scripted", robot=PANDA)
    return Rollout(world or Unseen(PANDA), PANDA, expert, arm or ArmConfig(), RolloutConfig(**settings))


def path(loop: Rollout, seed: int) -> Array:
    return np.array(loop.run(seed).tcp_path)


def test_an_episode_depends_on_its_seed_alone() -> None:
    loop = rollout(episode_s=1.5)
    first, other, again = path(loop, 3), path(loop, 4), path(loop, 3)
    np.testing.assert_allclose(again, first, atol=1e-9)
    np.testing.assert_allclose(path(rollout(episode_s=1.5), 3), first, atol=1e-9)
    assert np.abs(other - first).max() > 0.01


@pytest.mark.parametrize("delay_ms", [0.0, 95.0, 300.0])
def test_chunks_arrive_after_the_delay_and_are_never_asked_for_twice(delay_ms: float) -> None:
    episode = rollout(episode_s=1.5, inference_hz=5.0, inference_delay_ms=delay_ms).run(0)
    delays = [
        arrival - chunk.observation_ns for arrival, chunk in zip(episode.arrivals_ns, episode.chunks, strict=True)
    ]
    assert all(delay_ms * MS <= delay < (delay_ms + 10.0) * MS for delay in delays)
    observed = np.array([chunk.observation_ns for chunk in episode.chunks])
    assert np.diff(observed).min() >= max(200.0, delay_ms) * MS
    summary = report("scripted", [episode])
    assert summary.latency_ms.p50 == pytest.approx(delay_ms, abs=10.0)
    assert summary.policy == "scripted"


def test_an_episode_ends_with_its_time() -> None:
    episode = rollout(episode_s=0.5).run(0)
    assert not episode.success
    assert (episode.ended, episode.row.duration_s) == ("time limit", 0.5)
    assert len(episode.tcp_path) == 50


def test_an_episode_ends_with_a_fault_and_says_which() -> None:
    class Reflexive(Unseen):
        @property
        def fault(self) -> str | None:
            return "joint 4 touched something" if self.time_ns % 10**10 > 300 * MS else None

    episode = rollout(Reflexive(PANDA)).run(0)
    assert not episode.success
    assert episode.ended == "fault: joint 4 touched something"


@pytest.mark.parametrize("interface", ["joint", "cartesian"])
def test_both_command_interfaces_lift(interface: str) -> None:
    episode = rollout(arm=ArmConfig.model_validate({"command_interface": interface})).run(1)  # the elbow wanders off
    assert episode.success, episode.row


def test_a_task_the_policy_cannot_follow_is_refused() -> None:
    with pytest.raises(ValueError, match="no tabletop task: 'dance'"):
        rollout().run(0, "dance")
