"""A robot that does not follow is sent nothing, and finds the command where it stands when it follows again."""

from __future__ import annotations

import numpy as np
import pytest

from vla_ros.control.arm import ArmConfig, ArmController
from vla_ros.control.watchdog import Condition, Following, WatchdogConfig
from vla_ros.robots.panda import PANDA
from vla_ros.values import Mode, SafetyState

FOLLOWS = Condition(Following.FOLLOWS)
FAULT = Condition(Following.FAULT, "reflex")
INACTIVE = Condition(Following.INACTIVE, "its mode is idle")
UNREACHABLE = Condition(Following.UNREACHABLE, "no robot state for 200 ms")


def run(bench, condition, seconds):
    for _ in range(round(seconds * 100)):
        bench.arm.on_condition(condition, bench.now_ns)
        bench.run(0.01)


def guide(bench, condition, way, seconds=0.5):
    """A person moves the arm while it reports `condition`."""
    for _ in range(round(seconds * 100)):
        bench.measured = bench.measured + way / (seconds * 100)
        run(bench, condition, 0.01)


@pytest.mark.parametrize(
    ("condition", "reason", "waits"),
    [
        (FAULT, "fault of the robot: reflex", "waits for resume after a fault of the robot: reflex"),
        (
            INACTIVE,
            "the robot does not follow: its mode is idle",
            "waits for resume, as the robot did not follow: its mode is idle",
        ),
        (UNREACHABLE, "no contact with the robot's driver: no robot state for 200 ms", ""),
    ],
)
def test_it_is_sent_nothing_and_begins_again_where_it_was_moved(
    new_bench, limits, assert_keeps, condition, reason, waits
):
    bench = new_bench().started()
    bench.send_joints(0.05)
    run(bench, FOLLOWS, 0.5)
    assert np.abs(bench.commands[-1].joint_velocities).max() > 0.1
    sent = len(bench.commands)
    run(bench, condition, 0.2)
    assert (bench.safety, bench.reason) == (SafetyState.HOLDING, reason)
    guide(bench, condition, np.array([-0.4, 0, 0, 0, 0, 0, -0.4]))
    bench.arm.resume(bench.now_ns)
    run(bench, condition, 0.1)
    assert bench.reason == reason, "no resume makes it follow"
    assert len(bench.commands) == sent
    run(bench, FOLLOWS, 0.2)
    if waits:
        assert bench.reason == waits
        assert len(bench.commands) == sent
        bench.arm.on_recovered(bench.now_ns) if condition is FAULT else bench.arm.resume(bench.now_ns)
    stood = bench.measured.copy()
    run(bench, FOLLOWS, 0.2)
    assert bench.reason == "waits for the first chunk"
    np.testing.assert_array_equal(bench.commands[sent].joint_positions, stood)
    bench.send_joints(0.05)
    run(bench, FOLLOWS, 0.5)
    assert bench.safety is SafetyState.RUNNING
    assert_keeps(bench.path()[sent:], limits)
    assert np.abs(bench.path()[-1] - stood).max() > 0.1


def test_an_arm_that_was_not_started_needs_nothing_but_the_start(new_bench):
    bench = new_bench()
    run(bench, UNREACHABLE, 0.1)
    assert bench.reason == "not started"
    run(bench, INACTIVE, 0.1)
    assert bench.reason == "the robot does not follow: its mode is idle"
    guide(bench, INACTIVE, np.array([0, 0.4, 0, 0, 0, 0, 0]))
    run(bench, FOLLOWS, 0.1)
    assert bench.reason == "not started"
    bench.arm.start(bench.now_ns)
    run(bench, FOLLOWS, 0.1)
    np.testing.assert_array_equal(bench.path()[0], bench.measured)
    bench.send_joints()
    run(bench, FOLLOWS, 0.1)
    assert bench.safety is SafetyState.RUNNING


@pytest.mark.parametrize(("by_itself", "runs"), [(True, SafetyState.RUNNING), (False, SafetyState.HOLDING)])
def test_a_driver_that_comes_later_than_the_start_is_waited_for(new_bench, by_itself, runs):
    bench = new_bench(ArmConfig(watchdog=WatchdogConfig(resumes_by_itself=by_itself)))
    bench.arm.start(bench.now_ns)
    run(bench, UNREACHABLE, 0.2)
    run(bench, FOLLOWS, 0.1)
    bench.send_joints()
    run(bench, FOLLOWS, 0.1)
    assert bench.safety is runs


def test_a_robot_that_is_moved_while_nothing_is_measured_is_not_pulled_back(new_bench):
    bench = new_bench().started()
    bench.send_joints()
    run(bench, FOLLOWS, 0.3)
    sent, bench.is_connected = len(bench.commands), False
    run(bench, UNREACHABLE, 0.3)
    bench.measured = bench.measured + 0.3
    bench.is_connected = True
    run(bench, FOLLOWS, 0.3)
    np.testing.assert_array_equal(bench.path()[sent], bench.measured)


def test_a_recovery_leads_through_modes_in_which_it_does_not_follow(new_bench):
    bench = new_bench().started()
    for condition in (FAULT, INACTIVE, FOLLOWS):
        run(bench, condition, 0.1)
    assert bench.reason == "waits for resume after a fault of the robot: reflex"
    bench.arm.on_recovered(bench.now_ns)
    run(bench, FOLLOWS, 0.1)
    assert bench.reason == "waits for the first chunk"


def test_in_a_dry_run_only_a_fault_matters():
    arm = ArmController(PANDA, ArmConfig(), Mode.POLICY, is_obeyed=False)
    home = np.array(PANDA.home_rad)
    for tick in range(1, 30):
        now_ns = tick * 10_000_000
        arm.on_joint_state(now_ns, home, np.zeros(7))
        arm.on_condition((UNREACHABLE, INACTIVE)[tick % 2], now_ns)
        command = arm.step(now_ns)
    assert command is not None
    assert arm.status().reason == "waits for the first chunk"
    arm.on_condition(FAULT, now_ns)
    assert arm.status().reason == "fault of the robot: reflex"
