"""What a node ticks by: no clock that is set back may keep an arm from braking."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from rclpy.clock import Clock, ClockType

from vla_ros.ros.ticking import Ticking


class NodeOfTimers:
    """Keeps the clocks of its timers, and has the parameter that every node has."""

    def __init__(self, use_sim_time: bool) -> None:
        self._use_sim_time = use_sim_time
        self._clock = Clock(clock_type=ClockType.ROS_TIME)
        self.clocks: list[Clock] = []

    def get_parameter(self, name: str) -> Any:
        return {"use_sim_time": SimpleNamespace(value=self._use_sim_time)}[name]

    def create_timer(self, period_s: float, tick: Any, clock: Clock | None = None) -> None:
        self.clocks.append(clock or self._clock)  # as rclpy's nodes do


@pytest.mark.parametrize(("use_sim_time", "clock"), [(False, ClockType.STEADY_TIME), (True, ClockType.ROS_TIME)])
def test_a_system_clock_that_is_set_back_does_not_silence_the_ticks(use_sim_time, clock):
    node = NodeOfTimers(use_sim_time)
    Ticking(node, 0.01, lambda: None)
    assert [one.clock_type for one in node.clocks] == [clock]
