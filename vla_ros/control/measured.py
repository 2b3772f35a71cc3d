"""Measured: the joint states of one arm: whether they make sense and agree, how old they are, where the arm stands."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from vla_ros.control.limits import Interventions
from vla_ros.robots.robot import Robot
from vla_ros.timing.stamps import ms_to_ns, ns_to_ms, ns_to_s
from vla_ros.values import Array

#: So many measurements in a row make a pose that is believed; so many wrong ones put every other in doubt.
_ENOUGH = 3
#: Two measurements may differ by what the arm can move in between, and by so much: their noise, and that of stamps.
_NOISE_RAD = 0.03
#: A joint may be measured this far beyond its range: its zero is a little off.
_BEYOND_RANGE_RAD = 0.05
#: An arm that moves faster is not standing, and its pose cannot be taken as the command [rad/s]; and what the
#: measurements of one that stands differ by, whatever the time between them [rad].
_STANDS_BELOW_RAD_S = 0.1
_STANDS_WITHIN_RAD = 0.01


@dataclass(frozen=True, eq=False)
class JointState:
    """Joint positions (J,) [rad] and velocities (J,) [rad/s], where those are known, at one instant."""

    stamp_ns: int
    positions: Array
    velocities: Array | None


class Measured:
    """What is believed of the joint states that come in.

    A measurement is believed if it is finite, inside the joints' ranges, stamped later than the last one, and no
    further from that than the arm can move in the time between. Any other is dropped and counted. After a pause, or
    where the arm seems to have jumped, `_ENOUGH` in a row that follow from each other are believed in place of the
    old ones; of a jump one is then told (`take_jump`). So no single measurement decides anything.

    Ages are differences of the robot's stamps from the ROS clock, as only that shares a time base with them; whether
    the ROS clock itself can be believed is the controller's business.
    """

    def __init__(self, robot: Robot, max_age_ms: float, interventions: Interventions) -> None:
        self._names = robot.joint_names
        self._lower = np.array([joint.lower_rad for joint in robot.joints])
        self._upper = np.array([joint.upper_rad for joint in robot.joints])
        self._velocity = np.array([joint.velocity_rad_s for joint in robot.joints])
        self._max_age_ms = max_age_ms
        self._max_age_ns = ms_to_ns(max_age_ms)
        self._interventions = interventions
        self._believed: deque[JointState] = deque(maxlen=_ENOUGH)
        self._others: list[JointState] = []  # newer ones that follow from each other, not from those believed
        self._wrong = 0  # measurements that cannot be; none for as long as a state may be old, and they are forgotten
        self._wrong_ns = 0
        self._why_wrong = ""
        self._jump = ""
        self._forgot = False
        self._why_none = ""  # why the newest measurement does not follow from the one before, while none is believed

    @property
    def state(self) -> JointState | None:
        """The newest that is believed; None while there is none."""
        return self._believed[-1] if self._believed else None

    def add(self, stamp_ns: int, positions: Array, velocities: Array | None) -> None:
        """Take positions (J,) [rad] and velocities (J,) [rad/s] of a stamp."""
        if why := self._senseless(positions, velocities):
            self._interventions.count("joint_state_refused")
            self._doubt(why)
            return
        state = JointState(stamp_ns, np.array(positions, dtype=np.float64), velocities)
        last, leap = self.state, ""
        if last is not None:
            if -self._max_age_ns < stamp_ns - last.stamp_ns <= 0:
                self._interventions.count("joint_state_out_of_order")
                return
            leap = self._leap(last, state)
            if not leap and not self._interval(last, state):
                self._believed.append(state)
                self._others.clear()
                if self._wrong and stamp_ns - self._wrong_ns > self._max_age_ns:
                    self._wrong = 0
                return
        if leap:
            self._interventions.count("joint_state_jump")
            self._doubt(leap)
        self._believe_others(state)

    def take_jump(self) -> str:
        """How the arm seems to have jumped since this was asked last, in words; "" where it did not."""
        jump, self._jump = self._jump, ""
        return jump

    def doubt(self, *, is_strict: bool) -> str:
        """Why the newest measurements cannot be believed, in words, or `is_strict`: those of lately; "" if they can."""
        return self._why_wrong if self._wrong >= (1 if is_strict else _ENOUGH) else ""

    def standing(self, since_ns: int) -> Array | None:
        """Where the arm stands (J,), as measured since then; None while that is not known for sure.

        It takes measurements in a row that agree, none wrong among them or shortly before.
        """
        newest = self.state
        if newest is None or newest.stamp_ns < since_ns or len(self._believed) < _ENOUGH or self._wrong:
            return None
        moves = newest.velocities is not None and np.abs(newest.velocities).max() > _STANDS_BELOW_RAD_S
        positions = np.array([state.positions for state in self._believed])
        span_s = ns_to_s(newest.stamp_ns - self._believed[0].stamp_ns)
        if moves or np.ptp(positions, axis=0).max() > _STANDS_WITHIN_RAD + _STANDS_BELOW_RAD_S * span_s:
            return None
        return np.asarray(np.median(positions, axis=0), dtype=np.float64)

    def forget(self) -> None:
        """The stamps of what is there are worthless."""
        self._believed.clear()
        self._others.clear()
        self._wrong, self._jump, self._why_none, self._forgot = 0, "", "", True

    def stale(self, now_ns: int) -> str:
        """What is wrong with the age of the newest state, in words; "" when it is fresh."""
        if (state := self.state) is None:
            none = "none since the clock jumped" if self._forgot else "none yet"
            return f"{none} that is reliable: {self._why_none}" if self._why_none else none
        age_ms = ns_to_ms(now_ns - state.stamp_ns)
        return f"{age_ms:.0f} ms old" if abs(age_ms) > self._max_age_ms else ""

    def _senseless(self, positions: Array, velocities: Array | None) -> str:
        shape = self._lower.shape
        if positions.shape != shape or (velocities is not None and velocities.shape != shape):
            return f"positions and velocities of {len(self._names)} joints are expected"
        if not np.isfinite(positions).all() or (velocities is not None and not np.isfinite(velocities).all()):
            return "values that are not finite"
        beyond = np.maximum(self._lower - positions, positions - self._upper)
        worst = int(beyond.argmax())
        if beyond[worst] <= _BEYOND_RANGE_RAD:
            return ""
        ends = f"{self._lower[worst]:.3f} to {self._upper[worst]:.3f}"
        return f"{self._names[worst]} at {positions[worst]:.3f} rad is outside its range, {ends}"

    def _leap(self, last: JointState, state: JointState) -> str:
        """How an arm would have jumped from one measurement to another, in words; "" where it can move so far."""
        time_ns = abs(state.stamp_ns - last.stamp_ns)
        beyond = np.abs(state.positions - last.positions) - self._velocity * ns_to_s(time_ns)
        worst = int(beyond.argmax())
        if beyond[worst] <= _NOISE_RAD:
            return ""
        was, is_now = last.positions[worst], state.positions[worst]
        return (
            f"{self._names[worst]} was measured at {was:.3f} rad and {ns_to_ms(time_ns):.0f} ms later at {is_now:.3f}"
        )

    def _interval(self, last: JointState, state: JointState) -> str:
        """What is wrong with the time between two stamps, in words; "" for one after the other without a pause."""
        interval_ns = state.stamp_ns - last.stamp_ns
        if 0 < interval_ns <= self._max_age_ns:
            return ""
        return f"stamps {ns_to_ms(interval_ns):.0f} ms apart, expected above 0 and at most {self._max_age_ms:g}"

    def _believe_others(self, state: JointState) -> None:
        """Believe measurements that do not follow from the last ones, once there are enough that agree."""
        others = self._others
        if others and (why := self._interval(others[-1], state) or self._leap(others[-1], state)):
            others.clear()
            self._why_none = why
        others.append(state)
        if len(others) < _ENOUGH:
            return
        if self._believed:
            self._jump = self._leap(self._believed[-1], others[0])
        self._believed.extend(others)
        others.clear()
        self._wrong_ns = state.stamp_ns

    def _doubt(self, why: str) -> None:
        self._wrong += 1
        self._wrong_ns = self._believed[-1].stamp_ns if self._believed else 0
        self._why_wrong = why
