from __future__ import annotations

import numpy as np

from vla_ros.robots.panda import PANDA
from vla_ros.simulation.reflex import Reflex

AT_REST = np.zeros(7)


def test_a_joint_beyond_its_limit_trips_once_and_stays_until_cleared() -> None:
    reflex = Reflex(PANDA, 0.001)
    assert not reflex.watch(np.array([0.0, -2.17, 0.0, 0.0, 2.6, 0.0, 0.0]), AT_REST)
    assert reflex.watch(np.array([0.0, -2.5, 0.0, 0.0, 0.0, 0.0, 0.0]), AT_REST)
    assert reflex.fault == "velocity: panda_joint2 at -2.50 rad/s, limit 2.39"
    assert not reflex.watch(np.array([3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]), AT_REST), "it has tripped already"
    assert reflex.fault is not None and "panda_joint2" in reflex.fault
    reflex.clear()
    assert reflex.fault is None


def test_a_touch_is_no_collision_but_pressing_is() -> None:
    pressed = np.array([0.0, -80.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    reflex = Reflex(PANDA, 0.001)
    for force in (pressed, pressed, *[AT_REST] * 20) * 5:
        assert not reflex.watch(AT_REST, force)
    periods = next(k for k in range(100) if reflex.watch(AT_REST, pressed))
    # A first order low-pass of 10 ms passes 60 of 80 Nm after 10 ms * ln(80 / (80 - 60)).
    assert 10 <= periods <= 15
    assert reflex.fault is not None
    assert reflex.fault.startswith("collision: -60.") and reflex.fault.endswith("contact at panda_joint2, limit 60")


def test_a_first_fault_is_kept() -> None:
    reflex = Reflex(PANDA, 0.001)
    reflex.watch_joint_command(AT_REST, np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.31]))
    reflex.watch_pose_command(0.5, 0.0)
    assert reflex.fault == "discontinuity: command for panda_joint7 jumped by 0.31 rad"
    reflex.clear()
    reflex.watch_joint_command(AT_REST, np.full(7, -0.29))
    reflex.watch_pose_command(0.1, 0.5)
    assert reflex.fault is None
