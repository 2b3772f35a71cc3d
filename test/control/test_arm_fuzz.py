"""The promise: whatever chunks, states and words come in, every command keeps every limit, by finite differences.

At rest inside the limits, an arm stays within them; from outside of one it only moves inward.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vla_ros.control.arm import ArmConfig, ArmController
from vla_ros.control.clearance import Clearance
from vla_ros.control.kinematics import for_robot
from vla_ros.control.limits import AxisLimits, LimitsConfig, Workspace
from vla_ros.control.watchdog import Condition, Following
from vla_ros.robots.fr3 import FR3
from vla_ros.robots.panda import PANDA
from vla_ros.robots.robot import Robot
from vla_ros.timing.chunks import ScheduleConfig, ScheduleMode
from vla_ros.values import GRIPPER_DIMENSION, POSE_DIMENSIONS, ActionChunk, Array, SafetyState

TICK_NS = 10_000_000
PERIOD_S = 0.01
#: The TCP may be this far outside its workspace, as everywhere.
SLACK_M = 0.002
ALL_IT_CAN = LimitsConfig(
    velocity_scale=1, acceleration_scale=1, jerk_scale=1, joint_margin_rad=0, max_step_rad=5, tcp_velocity_m_s=1.7
)
CASES = {
    "blend": (PANDA, ArmConfig()),
    "newest": (PANDA, ArmConfig(schedule=ScheduleConfig(mode=ScheduleMode.NEWEST))),
    "ensemble, all the robot can": (
        PANDA,
        ArmConfig(schedule=ScheduleConfig(mode=ScheduleMode.ENSEMBLE), limits=ALL_IT_CAN),
    ),
    "fr3, a wall": (FR3, ArmConfig(limits=LimitsConfig(planes={"wall": (0.0, 0.8, 0.6, 0.0)}, joint_margin_rad=0.0))),
}
STARTS = (
    PANDA.home_rad,
    (0.4, -0.6, 1.2, -2.9, 0.9, 0.15, 0.6),  # folded: the hand too near the forearm; outside the FR3's range
    (0.0, -0.2, 0.0, -0.09, 0.0, 1.6, 0.8),  # stretched: above the workspace, joint 4 outside its range
)


class Adversary:
    """Sends an arm, which goes where it is commanded, everything it should not have to expect."""

    def __init__(self, robot: Robot, config: ArmConfig, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.robot = robot
        self.arm = ArmController(robot, config)
        self.now_ns, self.steady_ns = 10_000_000_000, 0
        ranges = np.array([(joint.lower_rad, joint.upper_rad) for joint in robot.joints])
        self.measured = np.clip(STARTS[seed % len(STARTS)], ranges[:, 0] - 0.04, ranges[:, 1] + 0.04)
        self.tcp_pose = for_robot(robot).forward(self.measured)
        self.velocities = np.zeros(7)
        self.paths: list[list[Array]] = [[self.measured]]  # each from rest: a robot that stops itself is sent nothing
        self.ticks_running = 0
        self.is_connected = True
        self.speaks_poses = False
        self.kept: list[ActionChunk] = []  # to be sent later, or again

    def run(self, ticks: int) -> list[Array]:
        for _ in range(ticks):
            if self.random.random() < 0.08:
                self.send(self.chunk())
            if self.random.random() < 0.02:
                self.say()
            self.tick()
        return [np.array(path) for path in self.paths]

    def send(self, chunk: ActionChunk) -> None:
        """At once, later, or twice; and then whatever was kept."""
        fate = self.random.choice(["sent", "sent", "kept", "twice"])
        if fate != "kept":
            self.arm.on_chunk(chunk, self.now_ns)
        if fate != "sent":
            self.kept.append(chunk)
        if len(self.kept) > 3:
            self.random.shuffle(self.kept)
            self.arm.on_chunk(self.kept.pop(), self.now_ns)

    def tick(self) -> None:
        self.now_ns += TICK_NS
        self.steady_ns += TICK_NS
        if self.is_connected:
            measured = self.measured
            if self.random.random() < 0.05:  # wrong, and each in its own way
                measured = measured + self.random.choice([0.1, 0.25, 4.0]) * self.random.normal(size=7)
            self.arm.on_joint_state(self.now_ns, measured, self.velocities)
        command = self.arm.step(self.now_ns, self.steady_ns)
        self.arm.gripper_goal(self.now_ns)
        if command is not None:
            assert np.isfinite(command.tcp_pose).all()
            assert command.gripper_width_m is None or 0.0 <= command.gripper_width_m <= self.robot.gripper.max_width_m
            self.velocities = (command.joint_positions - self.measured) / PERIOD_S
            self.measured = np.array(command.joint_positions)
            self.tcp_pose = np.array(command.tcp_pose)
            self.paths[-1].append(self.measured)
        elif self.arm.is_at_rest and self.velocities.any():
            self.velocities = np.zeros(7)
            self.paths.append([self.measured])
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
            values, dimensions = self.measured + steps, self.robot.joint_names
        observation_ns, step_ns = self.now_ns, int(random.choice([10_000_000, 33_333_333, 100_000_000]))
        wrong = random.choice(
            [
                *[""] * 10,
                "jump",
                "edge",
                "nan",
                "huge",
                "late",
                "future",
                "stamp",
                "step",
                "dimensions",
                "names",
                "long",
            ]
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
        elif wrong == "names":
            dimensions = tuple(f"other_{name}" for name in dimensions)
        elif wrong == "long":
            dimensions, values = (*dimensions, "one more"), np.column_stack([values, values[:, 0]])
        return ActionChunk(observation_ns, step_ns, dimensions, values)

    def say(self) -> None:
        """An operator, a driver, a clock."""
        arm, now_ns = self.arm, self.now_ns
        word = self.random.choice(
            ["start", "resume", "hold", "stop", "estop", "fault", "condition", "silence", "clock", "kind", "state"]
        )
        if word == "fault":
            arm.on_fault("reflex", now_ns)
            arm.on_fault_cleared(now_ns)
            arm.on_recovered(now_ns)
        elif word == "condition":
            following = self.random.choice([Following.INACTIVE, Following.UNREACHABLE])
            arm.on_condition(Condition(following, "for a moment"), now_ns)
            arm.on_condition(Condition(Following.FOLLOWS), now_ns)
        elif word == "silence":
            self.is_connected = not self.is_connected
        elif word == "clock":
            self.now_ns += int(self.random.choice([-5_000_000_000, 300_000_000, 700_000_000]))
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


def fuzz(assert_keeps, assert_tcp_keeps, case: str, seed: int, ticks: int) -> None:
    robot, config = CASES[case]
    adversary = Adversary(robot, config, seed)
    limits = AxisLimits.of_joints(robot, config.limits)
    for path in adversary.run(ticks):
        if len(path) < 2:
            continue
        assert_keeps(path, replace(limits, lower=np.full(7, -np.inf), upper=np.full(7, np.inf)))
        assert_tcp_keeps(path, config.limits, robot)
        assert_only_moves_inward(path, robot, config.limits, limits)
        velocities = np.diff(path, axis=0) / PERIOD_S
        for at in (path[1:], path[:-1]):
            low, up = limits.velocity_bounds(at)
            assert (velocities <= up * (1 + 1e-6) + 1e-7).all() and (velocities >= low * (1 + 1e-6) - 1e-7).all()
    assert adversary.ticks_running > 0.05 * ticks  # it was tried, not only held


def assert_only_moves_inward(path: Array, robot: Robot, config: LimitsConfig, limits: AxisLimits) -> None:
    """Range, workspace and clearance: what is kept at one tick is kept at the next, what is not gets no worse."""
    outside = np.maximum(np.maximum(limits.lower - path, path - limits.upper), 0.0)
    assert (np.diff(outside, axis=0) <= 1e-6).all()
    forward, clearance = for_robot(robot).forward, Clearance(robot, config)
    depths_m = Workspace.of(config).depths_m(np.array([forward(row)[:3] for row in path]))
    assert (depths_m[1:] >= np.minimum(depths_m[:-1], -SLACK_M) - 1e-6).all()
    distances_m = np.array([clearance.distances_m(row) for row in path])
    assert (distances_m[1:] >= np.minimum(distances_m[:-1], config.clearance_m) - 1e-6).all()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_limits_are_never_crossed(assert_keeps, assert_tcp_keeps, case, seed):
    fuzz(assert_keeps, assert_tcp_keeps, case, seed, 1100)


@pytest.mark.full
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(100, 125))
def test_limits_are_never_crossed_in_a_million_commands(assert_keeps, assert_tcp_keeps, case, seed):
    fuzz(assert_keeps, assert_tcp_keeps, case, seed, 10_000)
