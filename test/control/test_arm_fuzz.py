"""The promise: whatever chunks, states and words come in, every command keeps every limit, by finite differences."""

from __future__ import annotations

import numpy as np
import pytest

from vla_ros.control.arm import ArmConfig, ArmController
from vla_ros.control.limits import AxisLimits, LimitsConfig
from vla_ros.robots.panda import PANDA
from vla_ros.timing.chunks import ScheduleConfig, ScheduleMode
from vla_ros.values import GRIPPER_DIMENSION, POSE_DIMENSIONS, ActionChunk, Array, SafetyState

TICK_NS = 10_000_000
JOINTS = PANDA.joint_names
CONFIGS = (
    ArmConfig(),
    ArmConfig(schedule=ScheduleConfig(mode=ScheduleMode.NEWEST)),
    ArmConfig(
        schedule=ScheduleConfig(mode=ScheduleMode.ENSEMBLE),
        limits=LimitsConfig(velocity_scale=1, acceleration_scale=1, jerk_scale=1, joint_margin_rad=0, max_step_rad=5),
    ),
)


class Adversary:
    """Sends an arm, which goes where it is commanded, everything it should not have to expect."""

    def __init__(self, config: ArmConfig, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.arm = ArmController(PANDA, config)
        self.now_ns = 10_000_000_000
        self.measured = np.array(PANDA.home_rad)
        self.tcp_pose = np.array([0.3, 0.0, 0.5, 1.0, 0.0, 0.0, 0.0])
        self.path: list[Array] = [self.measured]
        self.ticks_running = 0
        self.is_connected = True
        self.speaks_poses = False

    def run(self, ticks: int) -> Array:
        for _ in range(ticks):
            if self.random.random() < 0.08:
                self.arm.on_chunk(self.chunk(), self.now_ns)
            if self.random.random() < 0.02:
                self.say()
            self.tick()
        return np.array(self.path)

    def tick(self) -> None:
        self.now_ns += TICK_NS
        if self.is_connected:
            self.arm.on_joint_state(self.now_ns, self.measured, np.zeros(7))
        command = self.arm.step(self.now_ns)
        self.arm.gripper_goal(self.now_ns)
        if command is not None:
            assert np.isfinite(command.tcp_pose).all()
            assert command.gripper_width_m is None or 0.0 <= command.gripper_width_m <= PANDA.gripper.max_width_m
            self.measured = np.array(command.joint_positions)
            self.tcp_pose = np.array(command.tcp_pose)
            self.path.append(self.measured)
        self.ticks_running += self.arm.safety is SafetyState.RUNNING

    def chunk(self) -> ActionChunk:
        """A plausible chunk from here on, with something wrong half of the time."""
        random, rows = self.random, int(self.random.integers(1, 16))
        size = float(random.choice([0.0, 0.01, 0.05, 0.2]))
        steps = np.cumsum(random.normal(size=(rows, 7)) * size, axis=0)
        if self.speaks_poses:
            values = self.tcp_pose + steps * np.array([0.5, 0.5, 0.5, 1, 1, 1, 1])
            values[:, 3:] /= np.linalg.norm(values[:, 3:], axis=1, keepdims=True)
            dimensions = (*POSE_DIMENSIONS, GRIPPER_DIMENSION)
            values = np.column_stack([values, random.uniform(-0.1, 0.2, rows)])
        else:
            values, dimensions = self.measured + steps, JOINTS
        observation_ns, step_ns = self.now_ns, int(random.choice([10_000_000, 33_333_333, 100_000_000]))
        wrong = random.choice(
            [*[""] * 10, "jump", "edge", "nan", "huge", "late", "future", "stamp", "step", "dimensions"]
        )
        if wrong == "jump":
            values = values + random.normal(size=values.shape[1])
        elif wrong == "edge":
            values = values + random.choice([-10.0, 10.0, 100.0]) * np.linspace(0, 1, rows)[:, None]
        elif wrong == "nan":
            values[random.integers(rows), random.integers(values.shape[1])] = random.choice([np.nan, np.inf, -np.inf])
        elif wrong == "huge":
            values = values * 1e300
        elif wrong == "late":
            observation_ns -= int(random.integers(0, 5_000_000_000))
        elif wrong == "future":
            observation_ns += int(random.integers(0, 100_000_000))
        elif wrong == "stamp":
            observation_ns = int(random.choice([0, -(2**62), 2**62]))
        elif wrong == "step":
            step_ns = int(random.choice([1, 1000, 2**60]))
        elif wrong == "dimensions":
            dimensions, values = dimensions[1:], values[:, 1:]
        return ActionChunk(observation_ns, step_ns, dimensions, values)

    def say(self) -> None:
        """An operator, a driver, a clock."""
        arm, now_ns = self.arm, self.now_ns
        word = self.random.choice(
            ["start", "resume", "hold", "stop", "estop", "fault", "silence", "clock", "kind", "state"]
        )
        if word == "fault":
            arm.on_fault("reflex", now_ns)
            arm.on_fault_cleared(now_ns)
            arm.on_recovered(now_ns)
        elif word == "silence":
            self.is_connected = not self.is_connected
        elif word == "clock":
            self.now_ns += int(self.random.choice([-5_000_000_000, -7_000_000, 300_000_000]))
        elif word == "kind":
            self.speaks_poses = not self.speaks_poses
        elif word == "state":
            arm.on_joint_state(int(self.random.choice([0, 2**62, now_ns])), np.full(7, np.nan), None)
        else:
            getattr(arm, word)(now_ns)
        if self.random.random() < 0.7:  # or nothing would ever move
            self.is_connected = True
            arm.resume(now_ns)
            arm.start(now_ns)


def fuzz(assert_keeps, assert_tcp_keeps, config: ArmConfig, seed: int, ticks: int) -> None:
    adversary = Adversary(config, seed)
    path = adversary.run(ticks)
    assert_keeps(path, AxisLimits.of_joints(PANDA, config.limits))
    assert_tcp_keeps(path, config.limits)
    assert adversary.ticks_running > 0.1 * ticks  # it was tried, not only held


@pytest.mark.parametrize("config", CONFIGS, ids=["blend", "newest", "ensemble, all the robot can"])
@pytest.mark.parametrize("seed", range(3))
def test_limits_are_never_crossed(assert_keeps, assert_tcp_keeps, config, seed):
    fuzz(assert_keeps, assert_tcp_keeps, config, seed, 1200)


@pytest.mark.full
@pytest.mark.parametrize("config", CONFIGS, ids=["blend", "newest", "ensemble, all the robot can"])
@pytest.mark.parametrize("seed", range(100, 134))
def test_limits_are_never_crossed_in_a_million_commands(assert_keeps, assert_tcp_keeps, config, seed):
    fuzz(assert_keeps, assert_tcp_keeps, config, seed, 10_000)
