"""The gripper's latency: a goal is sent so much before the time at which the chunk wants the fingers to move."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vla_ros.control.arm import ArmConfig
from vla_ros.control.gripper import GripperConfig
from vla_ros.robots.panda import PANDA
from vla_ros.timing.chunks import ScheduleConfig
from vla_ros.values import GRIPPER_DIMENSION, NANOSECONDS_PER_MILLISECOND

TICK_MS = 10.0


@pytest.mark.parametrize(
    ("gripper_ms", "arm_ms"), [(0.0, 0.0), (120.0, 0.0), (0.0, 70.0), (50.0, 110.0), (150.0, 60.0)]
)
def test_a_goal_is_sent_its_latency_before_it_is_due_whatever_the_arm_s(
    new_bench: type[Any], gripper_ms: float, arm_ms: float
) -> None:
    config = ArmConfig(
        gripper=GripperConfig(latency_ms=gripper_ms), schedule=ScheduleConfig(actuation_latency_ms=arm_ms)
    )
    bench = new_bench(config).started()
    # Open, and from the sixth row on closed.
    widths = np.where(np.arange(20) < 5, 0.08, 0.0)[:, None]
    bench.send(np.hstack([np.tile(bench.measured, (20, 1)), widths]), (*PANDA.joint_names, GRIPPER_DIMENSION))
    first_ns = bench.now_ns
    due_ms = 500.0 + arm_ms  # from standstill the chunk begins when the arm can follow it
    while (goal := bench.arm.gripper_goal(bench.now_ns)) is None or goal.kind != "grasp":
        assert goal is None or goal.width_m == PANDA.gripper.max_width_m  # to a width between nobody asked for
        bench.arm.gripper_done(True)
        bench.run(0.001 * TICK_MS)
    sent_ms = (bench.now_ns - first_ns) / NANOSECONDS_PER_MILLISECOND
    assert sent_ms == pytest.approx(due_ms - gripper_ms, abs=TICK_MS + 1e-6)


@pytest.mark.parametrize("gripper_ms", [300.0, 900.0])  # less than the chunk lasts, and more
def test_beyond_the_chunk_s_end_its_last_wish_stays(new_bench: type[Any], gripper_ms: float) -> None:
    bench = new_bench(ArmConfig(gripper=GripperConfig(latency_ms=gripper_ms))).started()
    widths = np.where(np.arange(6) < 5, 0.08, 0.0)[:, None]  # closed in the last row alone
    bench.send(np.hstack([np.tile(bench.measured, (6, 1)), widths]), (*PANDA.joint_names, GRIPPER_DIMENSION))
    kinds = []
    for _ in range(70):
        if goal := bench.arm.gripper_goal(bench.now_ns):
            kinds.append(goal.kind)
            bench.arm.gripper_done(True)
        bench.run(0.001 * TICK_MS)
    assert "grasp" in kinds
    assert kinds[kinds.index("grasp") :] == ["grasp"]  # it does not let go again
