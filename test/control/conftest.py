"""One arm and its limits for every test of control, and the one check that matters."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from vla_ros.control.arm import ArmConfig, ArmController
from vla_ros.control.kinematics import Kinematics, for_robot
from vla_ros.control.limits import AxisLimits, LimitsConfig
from vla_ros.robots.panda import PANDA
from vla_ros.robots.robot import Robot
from vla_ros.values import ActionChunk, Array, Command, SafetyState

PERIOD_S = 0.01
TICK_NS = 10_000_000
STEP_NS = 100_000_000
JOINTS = PANDA.joint_names


@pytest.fixture(scope="session")
def robot() -> Robot:
    return PANDA


@pytest.fixture(scope="session")
def kinematics() -> Kinematics:
    return for_robot(PANDA)


@pytest.fixture(scope="session")
def limits() -> AxisLimits:
    return AxisLimits.of_joints(PANDA, LimitsConfig())


@pytest.fixture(scope="session")
def home() -> Array:
    return np.array(PANDA.home_rad)


@pytest.fixture(scope="session")
def assert_keeps() -> Callable[[Array, AxisLimits], None]:
    """Checks commands (T, J), from rest on, one controller period apart, by finite differences."""

    def check(commands: Array, limits: AxisLimits) -> None:
        commands = np.concatenate([np.repeat(commands[:1], 4, axis=0), commands])
        assert (commands >= limits.lower - 1e-6).all()
        assert (commands <= limits.upper + 1e-6).all()
        for order, most in ((1, limits.velocity), (2, limits.acceleration), (3, limits.jerk)):
            used = np.abs(np.diff(commands, order, axis=0)).max(axis=0) / PERIOD_S**order / most
            assert used.max() <= 1.0 + 1e-6, f"derivative {order} uses {used} of its limits"

    return check


@pytest.fixture(scope="session")
def assert_keeps_by_stamps() -> Callable[[list[Command], AxisLimits], None]:
    """Checks commands, from rest on, by divided differences over their own stamps, however far apart those are."""

    def check(commands: list[Command], limits: AxisLimits) -> None:
        stamps_ns = [command.time_ns for command in commands]
        times_s = (np.array([stamps_ns[0] - ago * TICK_NS for ago in (3, 2, 1)] + stamps_ns) - stamps_ns[0]) * 1e-9
        values = np.array([commands[0].joint_positions] * 3 + [command.joint_positions for command in commands])
        for order, most in ((1, limits.velocity), (2, limits.acceleration), (3, limits.jerk)):
            values = order * np.diff(values, axis=0) / (times_s[order:] - times_s[:-order])[:, None]
            used = np.abs(values).max(axis=0) / most
            assert used.max() <= 1.0 + 1e-6, f"derivative {order} uses {used} of its limits"

    return check


@pytest.fixture(scope="session")
def assert_tcp_keeps() -> Callable[..., None]:
    """Checks commands (T, J), one controller period apart, by finite differences of the TCP's pose."""

    def check(commands: Array, config: LimitsConfig, robot: Robot = PANDA) -> None:
        forward = for_robot(robot).forward
        poses = np.array([forward(row) for row in commands])
        speeds = np.linalg.norm(np.diff(poses[:, :3], axis=0), axis=1) / PERIOD_S
        dots = np.abs(np.sum(poses[1:, 3:] * poses[:-1, 3:], axis=1))
        turns = 2.0 * np.arccos(np.minimum(dots, 1.0)) / PERIOD_S  # exact where it matters: near the limit
        assert speeds.max() <= config.tcp_velocity_m_s * (1.0 + 1e-6)
        assert turns.max() <= config.tcp_angular_velocity_rad_s * (1.0 + 1e-6)

    return check


class Bench:
    """An arm that is where it is commanded, and a clock moved by hand."""

    def __init__(self, config: ArmConfig | None = None, start: Array | None = None) -> None:
        self.arm = ArmController(PANDA, config or ArmConfig())
        self.now_ns = 5_000_000_000
        self.steady_ns = 77  # counts from wherever it likes
        self.measured = np.array(PANDA.home_rad) if start is None else start
        self.commands: list[Command] = []
        self.is_connected = True

    def started(self) -> Bench:
        self.run(0.05)
        self.arm.start(self.now_ns)
        self.run(0.05)
        return self

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds * 1e9 / TICK_NS)):
            self.pass_time(TICK_NS)
            if self.is_connected:
                self.arm.on_joint_state(self.now_ns, self.measured, np.zeros(7))
            self.step()

    def pass_time(self, by_ns: int) -> None:
        """By both clocks: the one that may jump, and the steady one."""
        self.now_ns += by_ns
        self.steady_ns += by_ns

    def step(self) -> Command | None:
        """One tick; the arm goes where it is commanded."""
        command = self.arm.step(self.now_ns, self.steady_ns)
        if command is not None:
            self.commands.append(command)
            self.measured = np.array(command.joint_positions)
        return command

    def send(self, rows: Array, dimensions: tuple[str, ...] = JOINTS, age_ns: int = 0) -> None:
        self.arm.on_chunk(ActionChunk(self.now_ns - age_ns, STEP_NS, dimensions, rows), self.now_ns)

    def send_joints(self, change: float = 0.02) -> None:
        """A chunk from here on, `change` rad a row."""
        self.send(self.measured + change * np.arange(10)[:, None])

    @property
    def reason(self) -> str:
        return self.arm.status().reason

    @property
    def safety(self) -> SafetyState:
        return self.arm.safety

    @property
    def counters(self) -> dict[str, int]:
        return dict(self.arm.status().counters)

    def path(self) -> Array:
        return np.array([command.joint_positions for command in self.commands])


@pytest.fixture(scope="session")
def new_bench() -> type[Bench]:
    return Bench
