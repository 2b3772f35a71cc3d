"""Between arm and driver after a reflex: whose word it takes, and what an emergency stop keeps to itself."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")

from rclpy.logging import get_logger

from vla_ros.control.arm import ArmConfig, ArmController
from vla_ros.robots.panda import PANDA
from vla_ros.ros.drivers.driver import OnDone
from vla_ros.ros.recovering import Recovering
from vla_ros.values import ActionChunk, Mode, SafetyState

TICK_NS = 10_000_000
HOME = np.array(PANDA.home_rad)


class FallenDriver:
    """Takes an attempt and keeps what is to be told of its end."""

    def __init__(self) -> None:
        self.can_recover = True
        self.attempts: list[OnDone] = []

    def recover(self, on_done: OnDone) -> None:
        self.attempts.append(on_done)


class Bench:
    """An arm that stands at home, with a chunk to stay there at every tick."""

    def __init__(self, by_itself: bool, is_dry: bool = False) -> None:
        self.now_ns = 10**9
        self.driver = FallenDriver()
        self.arm = ArmController(PANDA, ArmConfig(), Mode.POLICY)
        node = SimpleNamespace(get_logger=lambda: get_logger("bench"))
        driver = None if is_dry else self.driver
        self.recovering = Recovering(node, self.arm, driver, by_itself, lambda: self.now_ns)
        self.run(0.1)
        assert self.arm.safety is SafetyState.RUNNING

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds * 100)):
            self.now_ns += TICK_NS
            self.arm.on_joint_state(self.now_ns, HOME, np.zeros(7))
            self.arm.on_chunk(
                ActionChunk(self.now_ns, 10 * TICK_NS, PANDA.joint_names, np.tile(HOME, (5, 1))), self.now_ns
            )
            self.arm.step(self.now_ns)
            self.recovering.tick(self.now_ns)

    def end_attempt(self, success: bool = True) -> None:
        if success:
            self.arm.on_fault_cleared(self.now_ns)
        self.driver.attempts[-1](success, "" if success else "jammed")

    def fall(self) -> None:
        self.arm.on_fault("reflex", self.now_ns)


def test_the_arm_runs_again_only_after_the_whole_sequence_that_the_operator_asked_for():
    bench = Bench(by_itself=False)
    bench.fall()
    bench.run(5.0)
    assert bench.driver.attempts == []
    bench.recovering.resume(bench.now_ns)
    bench.arm.on_fault_cleared(bench.now_ns)  # as after the first of its steps
    bench.run(1.0)
    assert len(bench.driver.attempts) == 1
    assert bench.arm.safety is SafetyState.HOLDING
    bench.end_attempt()
    bench.run(0.1)
    assert bench.arm.safety is SafetyState.RUNNING


def test_by_itself_it_tries_three_times_and_then_waits_for_the_operator():
    bench = Bench(by_itself=True)
    bench.fall()
    for attempt in range(1, 4):
        bench.run(2.1)
        assert len(bench.driver.attempts) == attempt
        bench.end_attempt(success=False)
    bench.run(20.0)
    assert len(bench.driver.attempts) == 3
    assert bench.recovering.said == "does not recover: jammed"
    bench.recovering.resume(bench.now_ns)
    bench.run(0.1)
    bench.end_attempt()
    bench.run(0.1)
    assert bench.arm.safety is SafetyState.RUNNING


@pytest.mark.parametrize("by_itself", [True, False])
def test_no_recovery_ends_an_emergency_stop(by_itself):
    bench = Bench(by_itself)
    bench.fall()
    bench.recovering.resume(bench.now_ns)
    bench.run(0.1)
    bench.arm.estop(bench.now_ns)  # after the word, while the robot recovers
    bench.end_attempt()
    bench.run(1.0)
    assert bench.arm.safety is SafetyState.STOPPED
    bench.fall()
    bench.run(20.0)
    assert len(bench.driver.attempts) == 1, "nor does one begin in it by itself"
    bench.recovering.resume(bench.now_ns)
    bench.run(0.1)
    bench.end_attempt()
    bench.run(0.1)
    assert bench.arm.safety is SafetyState.RUNNING


def test_a_hand_on_the_stop_button_is_waited_for():
    bench = Bench(by_itself=True)
    bench.driver.can_recover = False
    bench.fall()
    bench.run(1.0)
    bench.driver.can_recover = True
    bench.arm.on_fault_cleared(bench.now_ns)
    bench.run(20.0)
    assert bench.driver.attempts == []
    assert bench.arm.status().reason == "waits for resume after a fault of the robot: reflex"


def test_in_a_dry_run_the_operators_word_is_enough():
    bench = Bench(by_itself=True, is_dry=True)
    bench.fall()
    bench.arm.on_fault_cleared(bench.now_ns)
    bench.run(5.0)
    assert bench.arm.safety is SafetyState.HOLDING
    bench.recovering.resume(bench.now_ns)
    bench.run(0.1)
    assert bench.arm.safety is SafetyState.RUNNING
    assert bench.driver.attempts == []
