"""A node's periodic work: by the steady clock, or in simulated time, and while the node ends also where that stands."""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from vla_ros.timing.stamps import s_to_ns

#: ROS time that has not moved for so long stands still: the simulation has ended.
_STANDSTILL_S = 0.1


class Ticking:
    """Calls `tick` every period; `now_ns` is the time of it.

    The period is of the steady clock, unless time is simulated: a timer of a system clock that is set back by an hour
    would be silent for an hour, while the robot keeps its last target and an arm in motion has to ramp to a hold.

    A simulation that ends before the controller takes its time with it, and the arm still has to brake: after
    `outlast`, time that stands still goes on from there at the pace of the steady clock. It never goes back.
    """

    def __init__(self, node: Node, period_s: float, tick: Callable[[], None]) -> None:
        self._node, self._period_s, self._tick = node, period_s, tick
        self._outlasts = False
        self._ros_ns, self._moved_s = 0, 0.0  # the newest ROS time, and when it came
        self._given_ns = 0
        is_simulated = node.get_parameter("use_sim_time").value
        node.create_timer(period_s, tick, clock=None if is_simulated else Clock(clock_type=ClockType.STEADY_TIME))

    @property
    def now_ns(self) -> int:
        """ROS time, or what it would be."""
        ros_ns = int(self._node.get_clock().now().nanoseconds)
        if not self._outlasts:
            return ros_ns
        if ros_ns != self._ros_ns:
            self._ros_ns, self._moved_s = ros_ns, time.monotonic()
        self._given_ns = max(self._given_ns, ros_ns + s_to_ns(max(0.0, self._stood_s)))
        return self._given_ns

    def outlast(self) -> None:
        """Tick from now on even if ROS time stands still."""
        if not self._outlasts:
            self._outlasts, self._moved_s = True, time.monotonic()
            self._node.create_timer(self._period_s, self._on_steady, clock=Clock(clock_type=ClockType.STEADY_TIME))

    @property
    def _stood_s(self) -> float:
        return time.monotonic() - self._moved_s - _STANDSTILL_S

    def _on_steady(self) -> None:
        _ = self.now_ns  # looks whether ROS time has moved
        if self._stood_s > 0.0:
            self._tick()
