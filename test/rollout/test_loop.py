"""The in-process loop: delays, limits of time, faults, repeatability; with the tabletop and its expert."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from vla_ros.control.arm import ArmConfig, ArmStatus
from vla_ros.policies import registry
from vla_ros.robots.panda import PANDA
from vla_ros.rollout.loop import Episode, Rollout, RolloutConfig, Watcher, report
from vla_ros.simulation.tabletop import Tabletop
from vla_ros.simulation.world import Snapshot, World
from vla_ros.values import ActionChunk, Array, Command, Image, Target, Window

MS = 1_000_000


class Unseen(Tabletop):
    """A tabletop that must not be drawn."""

    def render(self, camera: str, snapshot: Snapshot | None = None) -> Image:
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


class Seen(Watcher):
    """Keeps what it hears."""

    cameras = ("front", "wrist")

    def __init__(self) -> None:
        self.pictures: list[tuple[str, int, int]] = []
        self.heard: dict[str, list[Any]] = {"state": [], "chunk": [], "command": [], "wanted": [], "status": []}

    def begin(self, episode: Episode) -> None:
        self.start_ns = episode.start_ns

    def look(self, camera: str, stamp_ns: int, world: World) -> None:
        self.pictures.append((camera, stamp_ns - self.start_ns, world.snapshot().time_ns - self.start_ns))

    def on_state(self, stamp_ns: int, joint_positions: Array, gripper_width_m: float) -> None:
        self.heard["state"].append((stamp_ns, joint_positions))

    def on_chunk(self, chunk: ActionChunk, now_ns: int) -> None:
        self.heard["chunk"].append(chunk)

    def on_command(self, command: Command) -> None:
        self.heard["command"].append(command)

    def on_wanted(self, now_ns: int, target: Target) -> None:
        self.heard["wanted"].append((now_ns, target))

    def on_status(self, now_ns: int, status: ArmStatus) -> None:
        self.heard["status"].append((now_ns, status))


class Aside:
    """A disturbance: everything 2 cm to the left."""

    def begin(self, episode: Episode) -> None:
        pass

    def disturb(self, chunk: ActionChunk, window: Window) -> ActionChunk:
        return replace(chunk, actions=chunk.actions + np.eye(8)[1] * 0.02)


def watched(disturbance: Aside | None = None) -> tuple[Seen, Episode]:
    seen = Seen()
    expert = registry.load("scripted", robot=PANDA)
    config = RolloutConfig(episode_s=1.0, camera_hz=30.0)
    loop = Rollout(Unseen(PANDA), PANDA, expert, ArmConfig(), config, watcher=seen, disturbance=disturbance)
    return seen, loop.run(5)


def test_a_watcher_hears_all_there_is_and_pictures_are_taken_when_they_are_due() -> None:
    seen, episode = watched()
    due_ms = [-(-k * 1000 // 30) for k in range(30)]
    assert [(camera, at_ns // MS) for camera, at_ns, _ in seen.pictures] == [
        (camera, at_ms) for at_ms in due_ms for camera in ("front", "wrist")
    ]
    assert all(at_ns == world_ns for _, at_ns, world_ns in seen.pictures)
    assert [stamp_ns - seen.start_ns for stamp_ns, _ in seen.heard["state"]] == [10 * MS * k for k in range(100)]
    assert [now_ns - seen.start_ns for now_ns, _ in seen.heard["status"]] == [100 * MS * k for k in range(10)]
    assert seen.heard["chunk"] == episode.chunks
    assert seen.heard["command"] == episode.commands
    wanted = seen.heard["wanted"]
    for (now_ns, target), command in zip(wanted, seen.heard["command"][-len(wanted) :], strict=True):
        assert command.time_ns == now_ns
        np.testing.assert_array_equal(target.values, command.requested.values)


def test_being_watched_changes_nothing() -> None:
    _, episode = watched()
    np.testing.assert_array_equal(np.array(episode.tcp_path), path(rollout(episode_s=1.0), 5))


def test_a_disturbance_reaches_the_arm_and_nobody_else() -> None:
    seen, episode = watched(Aside())
    _, calm = watched()
    np.testing.assert_array_equal(episode.chunks[0].actions, calm.chunks[0].actions)  # decided before anything was off
    for now_ns, target in seen.heard["wanted"]:
        command = next(command for command in episode.commands if command.time_ns == now_ns)
        np.testing.assert_allclose(command.requested.values - target.values, np.eye(8)[1] * 0.02, atol=1e-9)
