"""A simulated arm and hand that heed their commands late: everything happens as without, so much later."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from vla_ros.robots.panda import PANDA
from vla_ros.simulation.tabletop import Tabletop
from vla_ros.simulation.world import TabletopConfig
from vla_ros.timing.stamps import ms_to_ns
from vla_ros.values import NANOSECONDS_PER_MILLISECOND, Array

LATENCY_MS = 40


def positions(config: TabletopConfig, act: Callable[[Tabletop], None], wait_ms: int, duration_ms: int) -> Array:
    """Joints and fingers (N, 8) at every millisecond from `wait_ms` after the command `act` on."""
    world = Tabletop(PANDA, config)
    act(world)
    if wait_ms:
        world.advance(ms_to_ns(wait_ms))
    rows = []
    for _ in range(duration_ms):
        world.advance(NANOSECONDS_PER_MILLISECOND)
        rows.append([*world.joint_positions, world.gripper_width_m])
    return np.array(rows)


def step_joint(world: Tabletop) -> None:
    world.command_joints(world.joint_positions + np.array([0.05, 0, 0, 0, 0, 0, 0]))


def step_pose(world: Tabletop) -> None:
    world.command_pose(world.tcp_pose + np.array([0, 0.02, 0, 0, 0, 0, 0]))


def close_gripper(world: Tabletop) -> None:
    world.move_gripper(0.04, 0.1)


@pytest.mark.parametrize("act", [step_joint, step_pose, close_gripper])
def test_a_command_is_heeded_so_much_later(act: Callable[[Tabletop], None]) -> None:
    late = TabletopConfig(actuation_latency_ms=LATENCY_MS, gripper_latency_ms=LATENCY_MS)
    at_once = positions(TabletopConfig(), act, 0, 200)
    assert np.ptp(at_once, axis=0).max() > 0.005
    assert positions(late, act, LATENCY_MS, 200) == pytest.approx(at_once, abs=1e-4)
    assert np.ptp(positions(late, act, 0, LATENCY_MS), axis=0).max() < 1e-4


def test_a_reset_forgets_commands_that_are_underway() -> None:
    world = Tabletop(PANDA, TabletopConfig(actuation_latency_ms=LATENCY_MS))
    step_joint(world)
    world.reset(0)
    before = world.joint_positions
    world.advance(ms_to_ns(200))
    assert world.joint_positions == pytest.approx(before, abs=1e-3)


def test_a_command_to_the_gripper_is_in_progress_from_the_start_and_can_be_stopped() -> None:
    world = Tabletop(PANDA, TabletopConfig(gripper_latency_ms=LATENCY_MS))
    close_gripper(world)
    world.advance(ms_to_ns(LATENCY_MS // 2))
    assert world.gripper_busy
    world.stop_gripper()
    assert world.gripper_outcome is not None and not world.gripper_outcome.success
    world.advance(ms_to_ns(200))
    assert world.gripper_width_m == pytest.approx(PANDA.gripper.max_width_m, abs=1e-4)
