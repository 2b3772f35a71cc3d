from __future__ import annotations

import pytest

from vla_ros.robots.panda import PANDA
from vla_ros.simulation.hand import Hand

PERIOD_S = 0.001
MASS_KG = 0.13


class Finger:
    """One finger on a frictionless rail, with a wall where an object's half begins."""

    def __init__(self, object_width_m: float = 0.0) -> None:
        self.hand = Hand(PANDA.gripper, PERIOD_S)
        self.position_m, self.speed_m_s = 0.04, 0.0
        self.wall_m = object_width_m / 2
        self.force_n = 0.0
        self.fastest_m_s = 0.0

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / PERIOD_S)):
            self.force_n = self.hand.step(self.position_m, self.speed_m_s)
            self.speed_m_s += self.force_n / MASS_KG * PERIOD_S
            self.position_m += self.speed_m_s * PERIOD_S
            if self.position_m < self.wall_m:
                self.position_m, self.speed_m_s = self.wall_m, 0.0
            self.fastest_m_s = max(self.fastest_m_s, abs(self.speed_m_s))


def test_a_move_ends_at_the_width_in_the_time_its_speed_asks_for() -> None:
    finger = Finger()
    finger.hand.move(0.03, 0.1)  # 5 cm of width at 10 cm/s
    finger.run(0.45)
    assert finger.hand.busy and finger.hand.outcome is None
    finger.run(0.3)
    assert not finger.hand.busy
    assert finger.hand.outcome is not None and finger.hand.outcome.success
    assert 2 * finger.position_m == pytest.approx(0.03, abs=1e-4)
    assert finger.fastest_m_s == pytest.approx(0.05, rel=0.3)


def test_a_move_that_is_blocked_fails() -> None:
    finger = Finger(object_width_m=0.04)
    finger.hand.move(0.01, 0.1)
    finger.run(1.5)
    outcome = finger.hand.outcome
    assert outcome is not None and not outcome.success
    assert outcome.message == "move ended at 40.0 mm, not within 8.0 to 12.0 mm"


@pytest.mark.parametrize(
    ("width", "inner", "outer", "success"),
    [
        (0.04, 0.005, 0.005, True),
        (0.044, 0.005, 0.005, True),
        (0.036, 0.005, 0.005, True),
        (0.046, 0.005, 0.005, False),  # the object is narrower than width - inner
        (0.034, 0.005, 0.005, False),
        (0.0, 0.0, 0.08, True),
    ],
)
def test_a_grasp_succeeds_when_it_ends_within_the_epsilons(
    width: float, inner: float, outer: float, success: bool
) -> None:
    finger = Finger(object_width_m=0.04)
    finger.hand.grasp(width, 0.1, 30.0, inner, outer)
    finger.run(1.0)
    outcome = finger.hand.outcome
    assert outcome is not None and outcome.success is success
    if success:
        assert finger.force_n == pytest.approx(-30.0)
        finger.run(1.0)
        assert finger.force_n == pytest.approx(-30.0), "it presses on"


def test_a_grasp_of_nothing_fails() -> None:
    finger = Finger()
    finger.hand.grasp(0.04, 0.1, 30.0, 0.005, 0.005)
    finger.run(2.0)
    outcome = finger.hand.outcome
    assert outcome is not None and not outcome.success and "grasp ended at 0.0 mm" in outcome.message


def test_stop_ends_what_is_in_progress() -> None:
    finger = Finger()
    finger.hand.move(0.0, 0.1)
    finger.run(0.3)
    finger.hand.stop(finger.position_m)
    outcome = finger.hand.outcome
    assert outcome is not None and not outcome.success and "move stopped" in outcome.message
    there = finger.position_m
    finger.run(1.0)
    assert finger.position_m == pytest.approx(there, abs=5e-4)


def test_a_new_command_takes_over() -> None:
    finger = Finger()
    finger.hand.move(0.0, 0.05)
    finger.run(0.2)
    finger.hand.move(0.08, 0.2)
    assert finger.hand.busy and finger.hand.outcome is None
    finger.run(1.0)
    assert finger.hand.outcome is not None and finger.hand.outcome.success
    assert 2 * finger.position_m == pytest.approx(0.08, abs=1e-4)


def test_commands_that_cannot_be_are_refused() -> None:
    hand = Finger().hand
    with pytest.raises(ValueError, match=r"0 to 0.08 m, got 0.1"):
        hand.move(0.1, 0.1)
    with pytest.raises(ValueError, match=r"got nan"):
        hand.move(float("nan"), 0.1)
    with pytest.raises(ValueError, match=r"more than 0 m/s, got 0"):
        hand.move(0.04, 0.0)
    with pytest.raises(ValueError, match=r"at most 100.0 N, got 500"):
        hand.grasp(0.04, 0.1, 500, 0.005, 0.005)
    with pytest.raises(ValueError, match=r"epsilons of a grasp are 0 or more"):
        hand.grasp(0.04, 0.1, 10, -0.005, 0.005)
    assert not hand.busy
