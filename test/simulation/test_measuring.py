"""Measures are where the state has things: exactly, and alike for whatever looks alike."""

from __future__ import annotations

from math import cos, pi, sin

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.simulation.measuring import measures
from vla_ros.simulation.world import WorldState

ANGLES = st.floats(-pi, pi)


def state(hand_rad: float, *cubes: tuple[float, float, float, float]) -> WorldState:
    """A hand that points down at (0.4, 0.1, 0.3), turned about z; cubes at x y z, turned."""
    down = [cos(hand_rad / 2), sin(hand_rad / 2), 0.0, 0.0]
    values = [0.4, 0.1, 0.3, *down, 0.08]
    for x, y, z, turn in cubes:
        values += [x, y, z, 0.0, 0.0, sin(turn / 2), cos(turn / 2)]
    return WorldState(0, np.array([*values, 0.0]))


@given(hand=ANGLES, turn=ANGLES)
def test_places_and_turns_are_those_of_the_state(hand: float, turn: float) -> None:
    found = measures(state(hand, (0.5, -0.1, 0.02, turn), (0.4, 0.1, 0.28, hand), (0.6, 0.0, 0.02, 0.0)))
    assert [found[f"red.{axis}"] for axis in "xyz"] == pytest.approx([0.5, -0.1, 0.02])
    x, y = (
        0.1 * cos(hand) - 0.2 * sin(hand),
        0.1 * sin(hand) + 0.2 * cos(hand),
    )  # upside down
    assert [found[f"red from gripper.{axis}"] for axis in "xyz"] == pytest.approx([x, y, 0.28])
    assert (found["red.turn_cos"], found["red.turn_sin"]) == pytest.approx((cos(4 * turn), sin(4 * turn)), abs=1e-9)
    between = 4 * (turn - hand)
    seen = (found["red from gripper.turn_cos"], found["red from gripper.turn_sin"])
    assert seen == pytest.approx((cos(between), sin(between)), abs=1e-9)
    assert found["green from gripper.turn_cos"] == pytest.approx(1.0), "the hand is along its sides"
    assert found["blue.turn_cos"] == pytest.approx(1.0)
    assert len(found) == 3 * 2 * 5


@given(turn=ANGLES, quarters=st.integers(-3, 3))
def test_a_quarter_of_a_turn_changes_nothing(turn: float, quarters: int) -> None:
    others = ((0.4, 0.1, 0.02, 0.0), (0.6, 0.0, 0.02, 0.0))
    first = measures(state(0.3, (0.5, -0.1, 0.02, turn), *others))
    again = measures(state(0.3, (0.5, -0.1, 0.02, turn + quarters * pi / 2), *others))
    assert again == pytest.approx(first, abs=1e-9)
