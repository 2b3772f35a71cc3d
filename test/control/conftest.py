"""One arm and its limits for every test of control, and the one check that matters."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from vla_ros.control.kinematics import Kinematics, for_robot
from vla_ros.control.limits import AxisLimits, LimitsConfig
from vla_ros.robots.panda import PANDA
from vla_ros.robots.robot import Robot
from vla_ros.values import Array

PERIOD_S = 0.01


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
