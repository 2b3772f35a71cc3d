"""ArmController: chunks in, one safe command a tick out; schedule, limits, watchdog and gripper latch of one robot."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from vla_ros.control import kinematics
from vla_ros.control.gripper import GripperConfig, GripperGoal, Latch
from vla_ros.control.guards import TcpGuard
from vla_ros.control.interpolation import Interpolator, Motion
from vla_ros.control.limits import (
    AxisLimits,
    Interventions,
    LimitsConfig,
    Refused,
    clamp_width,
    refuse_meaningless,
)
from vla_ros.control.reference import Reference
from vla_ros.control.watchdog import Cause, Event, Watchdog, WatchdogConfig, joints_off, tcp_off
from vla_ros.robots.robot import Robot
from vla_ros.timing.chunks import Schedule, ScheduleConfig
from vla_ros.timing.stamps import ClockWatch, ms_to_ns, ns_to_ms, period_ns
from vla_ros.values import ActionChunk, Array, Command, Config, Mode, SafetyState, Target

#: Chunk latencies kept for the quantiles.
_LATENCIES_KEPT = 1000
#: A chunk may be observed this much later than it is taken in: clocks that are read one after the other.
_FUTURE_TOLERANCE_MS = 50.0
#: Steps of a chunk over which its targets are smoothed, half of it ahead: a change of velocity takes that long, and no
#: overshoot where a motion ends, as the last row is kept for one step. And ticks, at most.
_SMOOTHED_STEPS = 2
_LONGEST_WINDOW = 40
#: What an arm that carries its own weight differs from its command: nothing to correct at a resume [rad].
_SAME_RAD = 0.02
#: An arm that moves faster is not standing, and its pose cannot be taken as the command [rad/s].
_STANDS_BELOW_RAD_S = 0.1


class ArmConfig(Config):
    """One arm's controller. `command_interface`: which of a command's two forms the driver sends."""

    rate_hz: float = Field(default=100.0, gt=0.0, le=1000.0)
    command_interface: Literal["joint", "cartesian"] = "joint"
    schedule: ScheduleConfig = ScheduleConfig()
    limits: LimitsConfig = LimitsConfig()
    watchdog: WatchdogConfig = WatchdogConfig()
    gripper: GripperConfig = GripperConfig()


@dataclass(frozen=True)
class ArmStatus:
    """What the controller does and why. Latency: from a chunk's observation to its arrival, of the last 1000."""

    mode: Mode
    safety: SafetyState
    reason: str
    counters: Mapping[str, int]
    chunk_latency_ms: float | None  # of the newest chunk
    chunk_latency_p50_ms: float | None
    chunk_latency_p99_ms: float | None
    gripper: str  # what is wrong with it, "" when nothing is


@dataclass(frozen=True, eq=False)
class _JointState:
    stamp_ns: int
    positions: Array
    velocities: Array | None


class ArmController:
    """Turns chunks into commands, one a tick, within every limit; knows no clock and no ROS. Not thread-safe.

    It never raises for what a policy or a driver sends: what is wrong is dropped, counted and, where it matters,
    the arm ramps to a hold with the reason in `status`.
    """

    def __init__(self, robot: Robot, config: ArmConfig, started: bool = False) -> None:
        """`started`: need not be told to `start`; for a simulated arm only."""
        self._robot = robot
        self._config = config
        self._period_ns = period_ns(config.rate_hz)
        self._kinematics = kinematics.for_robot(robot)
        self._limits = AxisLimits.of_joints(robot, config.limits)
        self._guards = (TcpGuard(self._kinematics, robot, config.limits),)
        self._schedule = Schedule(config.schedule)
        self._watchdog = Watchdog(config.watchdog)
        self._latch = Latch(config.gripper, robot.gripper.max_width_m)
        self._interventions = Interventions()
        self._max_state_age_ns = ms_to_ns(config.watchdog.max_state_age_ms)
        self._clock = ClockWatch(self._period_ns)
        self._state: _JointState | None = None
        self._interpolator: Interpolator | None = None  # None until a pose is known
        self._reference = Reference(self._kinematics, robot, config.limits, self._limits, self._period_ns)
        self._tcp_pose: Array = np.zeros(7)  # of the commanded joint positions
        self._stood_since_ns: int | None = 0  # the command is at rest since; None while it moves
        self._keeps_command = False  # the next anchor leaves a command alone that agrees with what is measured
        self._last_tick_ns: int | None = None
        self._earliest_ns = 0  # chunks must have been observed since
        self._acted_on_ns = 0  # observation of the newest chunk in the schedule
        self._dimensions: tuple[str, ...] | None = None  # of the chunks in the schedule
        self._window = 1  # ticks over which targets are smoothed
        self._wish_width_m: float | None = None
        self._measured_width_m: float | None = None
        self._latencies_ms: deque[float] = deque(maxlen=_LATENCIES_KEPT)
        if started:
            self.start(now_ns=0)

    # What comes in

    def on_joint_state(self, stamp_ns: int, positions: Array, velocities: Array | None = None) -> None:
        """Take the measured joint positions (J,) rad and velocities (J,) rad/s of a stamp; wrong ones are counted."""
        count = len(self._robot.joints)
        vectors = [positions] if velocities is None else [positions, velocities]
        if any(np.shape(vector) != (count,) or not np.isfinite(vector).all() for vector in vectors):
            self._interventions.count("joint_state_refused")
        elif self._state is not None and 0 < self._state.stamp_ns - stamp_ns < self._max_state_age_ns:
            self._interventions.count("joint_state_out_of_order")
        else:  # a stamp far behind the last one shows that the last one was wrong: it is taken, and its age looked at
            self._state = _JointState(stamp_ns, np.array(positions, dtype=np.float64), velocities)

    def on_gripper_state(self, stamp_ns: int, width_m: float) -> None:
        """Take the measured opening width [m]."""
        if np.isfinite(width_m):
            self._measured_width_m = width_m

    def on_chunk(self, chunk: ActionChunk, now_ns: int) -> None:
        """Schedule a chunk that arrived at `now_ns`, or drop it, counted under the reason's name."""
        try:
            self._check(chunk, now_ns)
        except Refused as refused:
            self._interventions.count(f"chunk_{refused.name}")
            return
        self._latencies_ms.append(ns_to_ms(now_ns - chunk.observation_ns))
        late_rows = self._schedule.add(chunk, now_ns)
        self._interventions.count("late_rows", late_rows)
        if late_rows == len(chunk):
            self._interventions.count("chunk_late")
            return
        self._interventions.count("chunks")
        self._acted_on_ns = chunk.observation_ns
        self._dimensions = chunk.dimensions
        self._window = min(max(1, round(_SMOOTHED_STEPS * chunk.step_ns / self._period_ns)), _LONGEST_WINDOW)
        self._watchdog.on(now_ns, Event.CHUNK_CAME)

    def on_fault(self, reason: str, now_ns: int) -> None:
        """The robot stopped itself: a reflex, a user stop."""
        self._watchdog.on(now_ns, Event.FAULT, reason)

    def on_fault_cleared(self, now_ns: int) -> None:
        """The robot would move again; the arm waits for `resume`."""
        self._watchdog.on(now_ns, Event.FAULT_CLEARED)

    def on_policy_lost(self, now_ns: int, detail: str = "") -> None:
        """Nobody plans ahead any more, as `detail` says how one knows; the next chunk shows that somebody does."""
        self._watchdog.on(now_ns, Event.POLICY_LOST, detail)

    def on_clock_jump(self, now_ns: int) -> None:
        """Time went back: every stamp from before is worthless."""
        self._watchdog.on(now_ns, Event.CLOCK_JUMPED)
        self._schedule.clear()
        self._dimensions = None
        self._state = None
        self._last_tick_ns = None
        if self._stood_since_ns is not None:
            self._stood_since_ns = now_ns

    # What the operator says

    def start(self, now_ns: int) -> None:
        """Let the policy move the arm, from where it is measured to stand; only chunks observed from now on count."""
        self._watchdog.on(now_ns, Event.START)
        self._begin_anew(now_ns)
        self._keeps_command = False
        self._latch.forget()

    def stop(self, now_ns: int) -> None:
        """Ramp to a hold; once the arm stands nothing more is sent, until `start`."""
        self._watchdog.on(now_ns, Event.STOP)

    def hold(self, now_ns: int) -> None:
        """Ramp to a hold, until `resume` or `start`."""
        self._watchdog.on(now_ns, Event.HOLD)

    def resume(self, now_ns: int) -> None:
        """Go on after a hold, fault, clock jump or emergency stop, with new chunks, from where the arm is.

        That is the command, if what is measured agrees, or else what is measured.
        """
        if self._watchdog.state is not SafetyState.RUNNING:
            self._watchdog.on(now_ns, Event.RESUME)
            self._begin_anew(now_ns)
            self._keeps_command = True

    def estop(self, now_ns: int) -> None:
        """Ramp to a hold at once; STOPPED until `resume`."""
        self._watchdog.on(now_ns, Event.ESTOP)

    # What goes out

    def step(self, now_ns: int) -> Command | None:
        """One tick: the command of `now_ns`, one period further than the last.

        None while there is nothing to send: the robot's pose is unknown, the arm stands and is not started, or this
        tick follows the last one within half a period (a timer that catches up would move the arm too fast).
        """
        if self._clock.observe(now_ns):
            self.on_clock_jump(now_ns)
        if self._last_tick_ns is not None and now_ns - self._last_tick_ns < self._period_ns // 2:
            return None
        self._last_tick_ns = now_ns
        self._interventions.begin_tick()
        self._watch_state(now_ns)
        self._anchor_if_due(now_ns)
        if self._interpolator is None:
            return None
        stood = self._interpolator.motion.is_at_rest
        motion = self._advance(self._interpolator, now_ns)
        if stood and motion.is_at_rest and self._watchdog.has(Cause.NOT_STARTED):
            return None
        self._tcp_pose = self._kinematics.forward(motion.positions)
        self._interventions.count("commands")
        return Command(now_ns, motion.positions, motion.velocities, self._tcp_pose, self._wish_width_m)

    def gripper_goal(self, now_ns: int) -> GripperGoal | None:
        """The goal to send to the gripper now, if any; its outcome is due in `gripper_done`."""
        if self._wish_width_m is None or self._watchdog.state is not SafetyState.RUNNING:
            return None
        return self._latch.step(now_ns, self._wish_width_m, self._measured_width_m)

    def gripper_done(self, success: bool, message: str = "") -> None:
        """The driver's answer to the goal given out last; one that comes after the goal was given up is ignored."""
        if self._latch.in_flight is not None:
            self._latch.done(success, message)

    @property
    def safety(self) -> SafetyState:
        """What the arm may do; as in `status`, but costs nothing."""
        return self._watchdog.state

    @property
    def is_in_fault(self) -> bool:
        """Whether the robot stopped itself and has not recovered."""
        return self._watchdog.has(Cause.FAULT)

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is commanded to move."""
        return self._interpolator is None or self._interpolator.motion.is_at_rest

    def status(self) -> ArmStatus:
        """What goes on."""
        p50_ms, p99_ms = np.quantile(self._latencies_ms, (0.5, 0.99)) if self._latencies_ms else (None, None)
        held = self._watchdog.has(Cause.NOT_STARTED) or self._watchdog.has(Cause.OPERATOR_HOLD)
        return ArmStatus(
            mode=Mode.HOLD if held else Mode.POLICY,
            safety=self._watchdog.state,
            reason=self._watchdog.reason,
            counters={**self._interventions.counts, "gripper_failures": self._latch.failures},
            chunk_latency_ms=self._latencies_ms[-1] if self._latencies_ms else None,
            chunk_latency_p50_ms=p50_ms,
            chunk_latency_p99_ms=p99_ms,
            gripper=self._latch.message,
        )

    # One tick's parts

    def _check(self, chunk: ActionChunk, now_ns: int) -> None:
        """Raise Refused for a chunk that must not be scheduled."""
        refuse_meaningless(chunk, self._robot.joint_names)
        if self._watchdog.has(Cause.NOT_STARTED):
            raise Refused("not_started", "a chunk for an arm that is not started")
        if chunk.observation_ns < self._earliest_ns:
            raise Refused("before_start", "a chunk that was observed before the start")
        if chunk.observation_ns > now_ns + ms_to_ns(_FUTURE_TOLERANCE_MS):
            raise Refused("in_the_future", "a chunk that was observed later than now")
        if now_ns - chunk.observation_ns > ms_to_ns(self._config.watchdog.max_chunk_age_ms):
            raise Refused("too_old", "a chunk that was observed too long ago")
        if self._dimensions not in (None, chunk.dimensions):
            raise Refused("wrong_dimensions", f"the schedule holds {self._dimensions}, got {chunk.dimensions}")

    def _begin_anew(self, now_ns: int) -> None:
        self._schedule.clear()
        self._dimensions = None
        self._earliest_ns = now_ns
        self._wish_width_m = None

    def _watch_state(self, now_ns: int) -> None:
        """Whether the measured joint state is fresh and near what was commanded."""
        state, config = self._state, self._config.watchdog
        age_ms = None if state is None else ns_to_ms(now_ns - state.stamp_ns)
        if state is None or age_ms is None or abs(age_ms) > config.max_state_age_ms:
            detail = "none since the clock jumped" if age_ms is None else f"{age_ms:.0f} ms old"
            self._watchdog.on(now_ns, Event.STATE_STALE, detail if self._interpolator else "none yet")
            return
        self._watchdog.on(now_ns, Event.STATE_FRESH)
        if self._interpolator is None or self._watchdog.has(Cause.NOT_STARTED) or self._watchdog.has(Cause.ANCHORING):
            return
        command = self._interpolator.motion.positions
        if self._config.command_interface == "joint":
            off = joints_off(state.positions, command, self._robot.joint_names, config)
        else:  # a driver that is sent poses leaves the elbow where it likes
            off = tcp_off(self._kinematics.forward(state.positions), self._tcp_pose, config)
        if off and not self._watchdog.has(Cause.FAULT):
            self._watchdog.on(now_ns, Event.DEVIATED, off)

    def _anchor_if_due(self, now_ns: int) -> None:
        """Take the measured pose as the command where that was asked for, measured since and standing; or in a fault.

        A robot in a fault follows nobody: when it recovers it must find the command where it stands.
        """
        state = self._state
        due = self._interpolator is None or self._watchdog.has(Cause.ANCHORING) or self._watchdog.has(Cause.FAULT)
        if not due or state is None or self._watchdog.has(Cause.STATE_STALE):
            return
        if self._stood_since_ns is None or state.stamp_ns < max(self._stood_since_ns, self._earliest_ns):
            return
        if state.velocities is not None and np.abs(state.velocities).max() > _STANDS_BELOW_RAD_S:
            return
        self._watchdog.on(now_ns, Event.ANCHORED)
        if self._interpolator is None:
            self._interpolator = Interpolator(
                self._limits, self._period_ns * 1e-9, state.positions, guards=self._guards
            )
        elif self._keeps_command and np.abs(state.positions - self._interpolator.motion.positions).max() < _SAME_RAD:
            return
        self._interpolator.anchor(state.positions)
        self._tcp_pose = self._kinematics.forward(state.positions)

    def _advance(self, interpolator: Interpolator, now_ns: int) -> Motion:
        """Move the commanded motion on by one period: towards the target where the arm may run, else towards rest."""
        target = self._due_target(now_ns)
        wanted = None
        if target is not None:
            ahead = self._schedule.target(now_ns + self._window * self._period_ns // 2) or target
            command = interpolator.motion.positions
            try:
                wanted = self._reference.of(ahead, self._window, command, self._tcp_pose, self._interventions)
                self._watchdog.on(now_ns, Event.TARGET_GOOD)
            except Refused as refused:
                self._interventions.act(refused.name)
                self._watchdog.on(now_ns, Event.TARGET_REFUSED, str(refused))
        if wanted is not None and target is not None and self._watchdog.state is SafetyState.RUNNING:
            motion = interpolator.follow(*wanted)
            for name in interpolator.acted:
                self._interventions.act(name)
            self._wish(target)
        else:
            self._reference.forget()
            motion = interpolator.brake()
        if not motion.is_at_rest:
            self._stood_since_ns = None
        elif self._stood_since_ns is None:
            self._stood_since_ns = now_ns
        self._watchdog.on(now_ns, Event.STANDSTILL if motion.is_at_rest else Event.MOVING)
        return motion

    def _due_target(self, now_ns: int) -> Target | None:
        """What the schedule wants now, unless it is too old."""
        if self._watchdog.has(Cause.WAITING) or self._watchdog.has(Cause.NOT_STARTED):
            return None
        target = self._schedule.target(now_ns)
        if target is None:
            self._watchdog.on(now_ns, Event.STARVED)
            return None
        age_ms = ns_to_ms(now_ns - self._acted_on_ns)
        if age_ms > self._config.watchdog.max_chunk_age_ms:
            self._watchdog.on(now_ns, Event.CHUNK_STALE, f"the observation acted on is {age_ms:.0f} ms old")
            return None
        return target

    def _wish(self, target: Target) -> None:
        if target.gripper_width_m is None:
            return
        self._wish_width_m, clamped = clamp_width(target.gripper_width_m, self._robot.gripper.max_width_m)
        if clamped:
            self._interventions.act("gripper_width")
