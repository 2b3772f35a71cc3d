"""ArmController: wishes in, one safe command a tick out; intake, limits, watchdog and gripper latch of one robot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Literal

import numpy as np
from pydantic import Field

from vla_ros.control import kinematics
from vla_ros.control.clearance import ClearanceGuard
from vla_ros.control.gripper import GripperConfig, GripperGoal, Latch
from vla_ros.control.guards import TcpGuard
from vla_ros.control.intake import Intake, Timeliness
from vla_ros.control.interpolation import Interpolator, Motion
from vla_ros.control.limits import (
    AxisLimits,
    Interventions,
    LimitsConfig,
    Meaningless,
    Refused,
    clamp_width,
)
from vla_ros.control.measured import Measured
from vla_ros.control.reference import Reference
from vla_ros.control.watchdog import (
    Cause,
    Condition,
    DeadmanSwitch,
    Event,
    Following,
    Watchdog,
    WatchdogConfig,
    joints_off,
    tcp_off,
)
from vla_ros.robots.robot import Robot
from vla_ros.timing.chunks import ScheduleConfig
from vla_ros.timing.stamps import ClockWatch, ms_to_ns, ns_to_s, period_ns
from vla_ros.values import ActionChunk, Array, Command, Config, Mode, SafetyState, Target

#: A clock that goes further ahead between two ticks has jumped, or the process was suspended [s].
_LONGEST_TICK_S = 0.5
#: Later than any time.
NEVER_NS = 2**63 - 1
#: With one of these the robot is not sent anything.
_NOT_FOLLOWING = (
    Cause.FAULT,
    Cause.AFTER_FAULT,
    Cause.NOT_FOLLOWING,
    Cause.AFTER_NOT_FOLLOWING,
    Cause.UNREACHABLE,
)
#: A robot that was sent nothing for so long has come to rest at the last command [s].
_RESTS_AFTER_S = 0.1
#: A tick that is no later than so many periods after the last moves the command by as much time as went by; a later one
#: by a period, as the robot waited.
_LONGEST_STEP = 2.0
#: What an arm that carries its own weight differs from its command: nothing to correct at a resume [rad].
_SAME_RAD = 0.02


class ArmConfig(Config):
    """One arm's controller. `command_interface`: which of a command's two forms the driver sends."""

    # Joint states further apart than max_state_age_ms are not relied on; an arm rests after 0.1 s without a command.
    rate_hz: float = Field(default=100.0, ge=20.0, le=1000.0)
    command_interface: Literal["joint", "cartesian"] = "joint"
    schedule: ScheduleConfig = ScheduleConfig()
    limits: LimitsConfig = LimitsConfig()
    watchdog: WatchdogConfig = WatchdogConfig()
    gripper: GripperConfig = GripperConfig()


@dataclass(frozen=True)
class ArmStatus:
    """What the controller does and why."""

    mode: Mode
    safety: SafetyState
    reason: str
    state_since_ns: int | None  # when `safety` became what it is; None where it never changed
    plan_since_ns: int  # chunks observed before are not followed; NEVER_NS where none is
    counters: Mapping[str, int]
    chunks: Timeliness
    gripper: str  # what is wrong with it, "" when nothing is


class ArmController:
    """Turns wishes into commands, one a tick, within every limit; knows no clock and no ROS. Not thread-safe.

    It never raises for what a policy, a teleoperator or a driver sends: what is wrong is dropped, counted and, where
    it matters, the arm ramps to a hold with the reason in `status`.
    """

    def __init__(self, robot: Robot, config: ArmConfig, mode: Mode = Mode.HOLD, is_obeyed: bool = True) -> None:
        """`mode` to begin in: a real arm holds until somebody says so. `is_obeyed` False: commands go nowhere."""
        self._robot = robot
        self._config = config
        self._period_ns = period_ns(config.rate_hz)
        self._kinematics = kinematics.for_robot(robot)
        self._limits = AxisLimits.of_joints(robot, config.limits)
        self._guards = (TcpGuard(self._kinematics, robot, config.limits), ClearanceGuard(robot, config.limits))
        self._is_obeyed = is_obeyed
        self._watchdog = Watchdog(config.watchdog)
        self._latch = Latch(config.gripper, robot.gripper.max_width_m)
        self._interventions = Interventions()
        self._intake = Intake(robot, config.schedule, config.watchdog, self._period_ns, self._interventions)
        self._clock = ClockWatch(self._period_ns)
        self._measured = Measured(robot, config.watchdog.max_state_age_ms, self._interventions)
        self._seen: Array | None = None  # where the arm was measured when the operator had it start or resume
        self._interpolator: Interpolator | None = None  # None until a pose is known
        self._reference = Reference(self._kinematics, robot, config.limits, self._limits, self._period_ns)
        self._tcp_pose: Array = np.zeros(7)  # of the commanded joint positions
        self._has_commanded = False
        self._is_released = False  # the robot did not follow, and was not anchored since: nothing is sent
        self._is_sending = False
        self._stood_since_ns: int | None = 0  # the command is at rest since; None while it moves
        self._idle_since_ns: int | None = 0  # and follows nothing since
        self._last_tick_ns: int | None = None
        self._last_steady_ns: int | None = None
        self._deadman = DeadmanSwitch(config.watchdog.max_deadman_age_ms)
        # A target is of the time when the arm is there; a gripper moves sooner or later than that.
        self._gripper_lead_ns = ms_to_ns(config.gripper.latency_ms - config.schedule.actuation_latency_ms)
        self._requested: Target | None = None
        self._wish_width_m: float | None = None
        self._measured_width_m: float | None = None
        self.set_mode(mode, now_ns=0)

    # What comes in

    def on_joint_state(self, stamp_ns: int, positions: Array, velocities: Array | None = None) -> None:
        """Take the measured joint positions (J,) rad and velocities (J,) rad/s of a stamp; wrong ones are counted."""
        self._measured.add(stamp_ns, positions, velocities)

    def on_gripper_state(self, stamp_ns: int, width_m: float) -> None:
        """Take the measured opening width [m]."""
        if np.isfinite(width_m):
            self._measured_width_m = width_m

    def on_chunk(self, chunk: ActionChunk, now_ns: int) -> None:
        """Schedule a chunk that arrived at `now_ns`, or drop it, counted under the reason's name."""
        idle_since_ns = inf if self._idle_since_ns is None else self._idle_since_ns
        try:
            if self._intake.add_chunk(chunk, now_ns, idle_since_ns):
                self._watchdog.on(now_ns, Event.CHUNK_CAME)
        except Meaningless as error:
            self._watchdog.on(now_ns, Event.MEANINGLESS, str(error))

    def on_teleop(self, target: Target, now_ns: int) -> None:
        """Follow what a teleoperator wants from `target.time_ns` on, until the next; or drop it, counted."""
        try:
            if self._intake.add_target(target, now_ns):
                self._watchdog.on(now_ns, Event.TELEOP_CAME)
        except Meaningless as error:
            self._watchdog.on(now_ns, Event.MEANINGLESS, str(error))

    def on_deadman(self, pressed: bool, now_ns: int) -> None:
        """The dead-man switch said whether it is held; it has to say so again and again."""
        self._deadman.hear(pressed, now_ns)

    def on_second_publisher(self, detail: str, now_ns: int) -> None:
        """Somebody else publishes where only one may, as `detail` names; to be told again and again while it is so."""
        self._watchdog.on(now_ns, Event.SECOND_PUBLISHER, detail)

    def on_condition(self, condition: Condition, now_ns: int) -> None:
        """Whether the robot follows, as its driver reports at every tick.

        While it does not, nothing is sent, and the command is kept at the measured pose: so the robot finds it where it
        stands. Afterwards the arm waits for `resume`; a lost contact that is back needs none. An arm that is not
        obeyed takes notice of faults only.
        """
        if condition.following is Following.UNREACHABLE:
            if self._is_obeyed:
                self._release(now_ns, Event.UNREACHABLE, condition.reason)
            return
        if condition.following is Following.FAULT:
            self.on_fault(condition.reason, now_ns)
        else:
            self.on_fault_cleared(now_ns)
        if not self._is_obeyed:
            return
        if self._watchdog.has(Cause.UNREACHABLE):
            is_teleop = self._intake.mode is Mode.TELEOP
            self._watchdog.on(now_ns, Event.REACHED_TELEOP if is_teleop else Event.REACHED)
            self._begin_anew(now_ns)
        if condition.following is Following.FOLLOWS:
            self._watchdog.on(now_ns, Event.FOLLOWING)
        elif condition.following is Following.INACTIVE and not self.needs_recovery:  # a recovery passes through modes
            self._release(now_ns, Event.NOT_FOLLOWING, condition.reason)

    def on_fault(self, reason: str, now_ns: int) -> None:
        """The robot stopped itself: a reflex, a user stop."""
        self._release(now_ns, Event.FAULT, reason)

    def on_fault_cleared(self, now_ns: int) -> None:
        """The robot has no errors any more; the arm waits until it is `on_recovered`."""
        self._watchdog.on(now_ns, Event.FAULT_CLEARED)

    def on_recovered(self, now_ns: int) -> None:
        """The robot would move again after a fault, and may, with what is observed, or wanted, from now on.

        Nothing else that holds the arm ends by it, an emergency stop least of all.
        """
        is_teleop = self._intake.mode is Mode.TELEOP
        self._watchdog.on(now_ns, Event.RECOVERED_TELEOP if is_teleop else Event.RECOVERED)
        self._begin_anew(now_ns)

    def on_malformed(self, what: str) -> None:
        """A message that cannot even be read, to be a `chunk` or a `teleop` target."""
        self._interventions.count(f"{what}_malformed")
        if self._intake.mode is (Mode.TELEOP if what == "teleop" else Mode.POLICY):
            self._watchdog.on(self._last_tick_ns or 0, Event.MEANINGLESS, f"an invalid {what} message")

    def on_policy_lost(self, now_ns: int, detail: str = "") -> None:
        """Nobody plans ahead any more, as `detail` says how one knows; the next chunk shows that somebody does."""
        if self._intake.mode is not Mode.TELEOP:
            self._watchdog.on(now_ns, Event.POLICY_LOST, detail)

    def on_other_task(self, now_ns: int, detail: str = "") -> None:
        """The policy started again and does not do what it did, as `detail` says: what is right the operator knows."""
        if self._intake.mode is not Mode.TELEOP:
            self._watchdog.on(now_ns, Event.OTHER_TASK, detail)

    def on_failure(self, detail: str, now_ns: int) -> None:
        """Something around the arm raised what nothing foresaw, as `detail` tells: what it knows may be incomplete."""
        self._watchdog.on(now_ns, Event.FAILED, detail)

    # What the operator says

    def set_mode(self, mode: Mode, now_ns: int) -> None:
        """Who moves the arm from now on; only what is observed, or wanted, from now on counts.

        POLICY and TELEOP begin when the arm stands, from where it is (see `resume`). HOLD: the arm ramps to a hold, and
        once it stands nothing more is sent.
        """
        self._begin_anew(now_ns, mode)
        if mode is Mode.HOLD:
            self._watchdog.on(now_ns, Event.STOP)
        else:
            self._watchdog.on(now_ns, Event.START_TELEOP if mode is Mode.TELEOP else Event.START)
            self._latch.forget()

    def start(self, now_ns: int) -> None:
        """Let the policy move the arm."""
        self.set_mode(Mode.POLICY, now_ns)

    def stop(self, now_ns: int) -> None:
        """Let nobody move the arm."""
        self.set_mode(Mode.HOLD, now_ns)

    def hold(self, now_ns: int) -> None:
        """Ramp to a hold, until `resume` or `start`; what was planned is dropped."""
        self._watchdog.on(now_ns, Event.HOLD)
        self._intake.begin_anew(now_ns)  # the gripper keeps what it was commanded

    def resume(self, now_ns: int) -> None:
        """Go on after anything but `stop` and a fault, with what is observed, or wanted, from now on.

        And from where the arm is: that is the command, if what is measured agrees, or else what is measured.
        """
        if self._watchdog.state is not SafetyState.RUNNING:
            self._watchdog.on(now_ns, Event.RESUME_TELEOP if self._intake.mode is Mode.TELEOP else Event.RESUME)
            self._begin_anew(now_ns)

    def estop(self, now_ns: int) -> None:
        """Ramp to a hold at once; STOPPED until `resume`; what was planned is dropped."""
        self._watchdog.on(now_ns, Event.ESTOP)
        self._intake.begin_anew(now_ns)  # the gripper keeps what it was commanded

    # What goes out

    def step(self, now_ns: int, steady_ns: int | None = None) -> Command | None:
        """One tick: the command of `now_ns`, as much further than the last as time went by.

        `steady_ns` is of a clock that never jumps, whatever it counts from; without one, every gap in `now_ns` is
        taken for a jump of that clock. It only tells such a jump from a pause of this process: everything else is of
        the time of `now_ns`, which in a simulation may go slower than the steady clock, or faster.

        None while there is nothing to send: no pose is known, the robot does not follow, the arm stands and is not
        started, or was started and is not anchored yet, or the last tick was within half a period (a timer that
        catches up).
        """
        self._watch_clock(now_ns, steady_ns)
        step_ns = self._period_ns if self._last_tick_ns is None else now_ns - self._last_tick_ns
        if step_ns < self._period_ns // 2:
            return None
        self._last_tick_ns = now_ns
        step_s = ns_to_s(step_ns if step_ns <= _LONGEST_STEP * self._period_ns else self._period_ns)
        self._interventions.begin_tick()
        if self._config.watchdog.requires_deadman:
            released = self._deadman.released(now_ns)
            self._watchdog.on(now_ns, Event.DEADMAN_RELEASED if released else Event.DEADMAN_HELD, released)
        self._watch_state(now_ns)
        is_released = self._is_released
        if is_released:
            self._stand_as_measured(now_ns)
        self._anchor_if_due(now_ns)
        if self._interpolator is None or is_released:
            return None
        stood = self._interpolator.motion.is_at_rest
        motion = self._advance(self._interpolator, now_ns, step_s)
        if stood and motion.is_at_rest:
            waits = self._watchdog.has(Cause.ANCHORING) and not self._is_sending
            if waits or self._watchdog.has(Cause.NOT_STARTED):
                self._is_sending = False
                return None
        self._is_sending = True
        positions, velocities = motion.positions, motion.velocities
        self._tcp_pose = self._kinematics.forward(positions)
        self._interventions.count("commands")
        self._has_commanded = True
        return Command(now_ns, positions, velocities, self._tcp_pose, self._wish_width_m, self._requested)

    def gripper_goal(self, now_ns: int) -> GripperGoal | None:
        """The goal to send to the gripper now, if any; its outcome is due in `gripper_done`."""
        if self._wish_width_m is None or self._watchdog.state is not SafetyState.RUNNING:
            return None
        return self._latch.step(now_ns, self._wish_width_m, self._measured_width_m)

    def gripper_done(self, success: bool, message: str = "") -> None:
        """The driver's answer to the goal given out last; one that comes after the goal was given up is ignored."""
        if self._latch.in_flight is not None:
            self._latch.done(success, message)

    def gripper_homed(self) -> None:
        """The fingers were moved by somebody else's word: the next wish counts whatever the last one was."""
        self._latch.forget()

    @property
    def safety(self) -> SafetyState:
        """What the arm may do; as in `status`, but costs nothing."""
        return self._watchdog.state

    @property
    def needs_recovery(self) -> bool:
        """Whether the robot stopped itself, and was not `on_recovered` since."""
        return self._has_any(Cause.FAULT, Cause.AFTER_FAULT)

    @property
    def plan_since_ns(self) -> int:
        """As in `status`, but costs nothing."""
        return self._intake.earliest_ns if self._intake.mode is Mode.POLICY else NEVER_NS

    @property
    def counters(self) -> Mapping[str, int]:
        """As in `status`, at less cost."""
        return self._interventions.counts

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is commanded to move."""
        return self._interpolator is None or self._interpolator.motion.is_at_rest

    def status(self) -> ArmStatus:
        """What goes on."""
        return ArmStatus(
            mode=Mode.HOLD if self._has_any(Cause.NOT_STARTED, Cause.OPERATOR_HOLD) else self._intake.mode,
            safety=self._watchdog.state,
            reason=self._watchdog.reason,
            state_since_ns=self._watchdog.state_since_ns,
            plan_since_ns=self.plan_since_ns,
            counters={**self._interventions.counts, "gripper_failures": self._latch.failures},
            chunks=self._intake.timeliness,
            gripper=self._latch.message,
        )

    # One tick's parts

    def _begin_anew(self, now_ns: int, mode: Mode | None = None) -> None:
        self._intake.begin_anew(now_ns, mode)
        self._wish_width_m = None
        state = self._measured.state
        self._seen = None if state is None or self._measured.stale(now_ns) else state.positions

    def _watch_clock(self, now_ns: int, steady_ns: int | None) -> None:
        """Where time jumps, every stamp from before is worthless; where nothing was sent, the robot came to rest.

        A clock that jumped while ticks came on time changes nothing for the robot: it moves as it was commanded, and
        from there the command ramps down. If this process paused, the robot came to rest at the last command, and the
        command begins there. To an arm that stands and may not move neither is anything.
        """
        last_ns, moves = self._last_tick_ns, self.safety is SafetyState.RUNNING or not self.is_at_rest
        has_jumped_back = self._clock.observe(now_ns)
        elapsed_s = 0.0 if last_ns is None else ns_to_s(now_ns - last_ns)
        paused_s = self._paused_s(steady_ns) if has_jumped_back else min(elapsed_s, self._paused_s(steady_ns))
        self._last_steady_ns = steady_ns
        if paused_s > _RESTS_AFTER_S and self._interpolator is not None:
            self._interpolator.anchor(self._interpolator.motion.positions)
            self._reference.forget()
        if has_jumped_back:
            detail = "" if last_ns is None else f"{-elapsed_s:.2f} s back"
        elif elapsed_s > _LONGEST_TICK_S and moves:
            detail = f"{elapsed_s:.2f} s ahead" + (", as the process was paused" if paused_s > _LONGEST_TICK_S else "")
        else:
            return
        self._watchdog.on(now_ns, Event.CLOCK_JUMPED, detail)
        self._begin_anew(now_ns)
        self._measured.forget()
        self._deadman.forget()
        self._last_tick_ns = None
        if self._stood_since_ns is not None:
            self._stood_since_ns = now_ns
        if self._idle_since_ns is not None:
            self._idle_since_ns = now_ns

    def _paused_s(self, steady_ns: int | None) -> float:
        """For how long nothing was sent, by the steady clock; 0 where there is none."""
        return 0.0 if steady_ns is None or self._last_steady_ns is None else ns_to_s(steady_ns - self._last_steady_ns)

    def _watch_state(self, now_ns: int) -> None:
        """Whether the measured joint states make sense, are fresh and near what was commanded."""
        measured, watchdog = self._measured, self._watchdog
        stale, jump = measured.stale(now_ns), measured.take_jump()
        doubt = measured.doubt(is_strict=watchdog.has(Cause.ANCHORING))
        watchdog.on(now_ns, Event.STATE_DOUBTED if doubt else Event.STATE_BELIEVED, doubt)
        watchdog.on(now_ns, Event.STATE_STALE if stale else Event.STATE_FRESH, stale)
        if measured.state is None or stale or self._interpolator is None or not self._is_obeyed:
            return
        is_free = self._has_any(Cause.NOT_STARTED, Cause.FAULT)  # to be moved by hand
        if is_free or (self._is_released and not watchdog.has(Cause.ANCHORING)):
            return
        if off := jump or self._off(measured.state.positions, self._interpolator.motion.positions):
            watchdog.on(now_ns, Event.DEVIATED, off)

    def _off(self, positions: Array, command: Array) -> str:
        """How far the measured positions (J,) are from where they should be, in words, where that is too far; else "".

        That is from the `command`; and for an arm that is to be anchored, from where it was when the operator said so.
        """
        config, names = self._config.watchdog, self._robot.joint_names
        if self._watchdog.has(Cause.ANCHORING):
            is_free = self._is_released or not self._has_commanded  # to be moved, also while it was not seen
            seen = positions if self._seen is None and is_free else self._seen
            if seen is not None and not joints_off(positions, seen, names, config):
                return ""
        if self._config.command_interface == "joint":
            return joints_off(positions, command, names, config)
        # A driver that is sent poses leaves the elbow where it likes.
        return tcp_off(self._kinematics.forward(positions), self._tcp_pose, config)

    def _release(self, now_ns: int, event: Event, reason: str) -> None:
        """The robot does not follow, as an `event` says."""
        self._watchdog.on(now_ns, event, reason)
        self._is_released = self._is_obeyed

    def _stand_as_measured(self, now_ns: int) -> None:
        """The command stands where the arm is, wherever it is moved, as far as that is known."""
        self._requested, self._is_sending = None, False
        self._reference.forget()
        self._watchdog.on(now_ns, Event.STANDSTILL)
        if self._stood_since_ns is None:
            self._stood_since_ns = now_ns
        if self._idle_since_ns is None:
            self._idle_since_ns = now_ns
        if self._interpolator is None:
            return
        state = self._measured.state
        is_known = state is not None and not self._watchdog.has(Cause.STATE_STALE)
        positions = state.positions if state and is_known else self._interpolator.motion.positions
        self._interpolator.anchor(positions)
        self._tcp_pose = self._kinematics.forward(positions)

    def _anchor_if_due(self, now_ns: int) -> None:
        """Take the measured pose as the command where that was asked for, measured since and standing; or in a fault.

        A robot in a fault follows nobody: when it recovers it must find the command where it stands. One that hears
        its first command must not jump to where it was before somebody moved it. So the command goes where the arm is,
        at once, but only if there is no doubt of that: see `Measured.standing`. An arm that is then seen elsewhere than
        when the operator had it start, or jumps, is not anchored before the operator says so again.
        """
        interpolator, has = self._interpolator, self._watchdog.has
        is_due = interpolator is None or self._has_any(Cause.ANCHORING, Cause.FAULT)
        is_unknown = has(Cause.STATE_STALE) or (has(Cause.DEVIATED) and not has(Cause.FAULT))
        if not is_due or is_unknown or self._stood_since_ns is None:
            return
        pose = self._measured.standing(max(self._stood_since_ns, self._intake.earliest_ns))
        if pose is None:
            return
        self._watchdog.on(now_ns, Event.ANCHORED)
        self._is_released &= self._has_any(*_NOT_FOLLOWING)
        follows = self._has_commanded and not has(Cause.FAULT)
        if interpolator is None:
            self._interpolator = Interpolator(
                self._limits, self._period_ns * 1e-9, pose, straight=True, guards=self._guards
            )
        elif not follows or np.abs(pose - interpolator.motion.positions).max() >= _SAME_RAD:
            interpolator.anchor(pose)
        else:
            return
        self._tcp_pose = self._kinematics.forward(pose)

    def _advance(self, interpolator: Interpolator, now_ns: int, step_s: float) -> Motion:
        """Move the commanded motion on by a step: towards the target where the arm may run, else towards rest."""
        target = self._due_target(now_ns)
        self._requested = target and Target(now_ns, target.dimensions, target.values)
        wanted = None
        if target is not None:
            ahead = self._intake.target_ahead(now_ns) or target
            command, window = interpolator.motion.positions, self._intake.window
            try:
                wanted = self._reference.of(ahead, window, command, self._tcp_pose, self._interventions, step_s)
                self._watchdog.on(now_ns, Event.TARGET_GOOD)
            except Refused as refused:
                self._interventions.act(refused.name)
                self._watchdog.on(now_ns, Event.TARGET_REFUSED, str(refused))
        if wanted is not None and target is not None and self._watchdog.state is SafetyState.RUNNING:
            motion = interpolator.follow(*wanted, step_s)
            for name in interpolator.acted:
                self._interventions.act(name)
            width_m = self._intake.gripper_width_m(now_ns + self._gripper_lead_ns)
            self._wish(target.gripper_width_m if width_m is None else width_m)
            self._idle_since_ns = None
        else:
            self._reference.forget()
            motion = interpolator.brake(step_s)
            if self._idle_since_ns is None and motion.is_at_rest:
                self._idle_since_ns = now_ns
        if not motion.is_at_rest:
            self._stood_since_ns = None
        elif self._stood_since_ns is None:
            self._stood_since_ns = now_ns
        self._watchdog.on(now_ns, Event.STANDSTILL if motion.is_at_rest else Event.MOVING)
        return motion

    def _due_target(self, now_ns: int) -> Target | None:
        """What is wanted now, unless nothing is, or it was wanted too long ago."""
        if self._has_any(Cause.NOT_STARTED, Cause.WAITING, Cause.TELEOP_WAITING):
            return None
        target, age_ms, config = self._intake.target(now_ns), self._intake.age_ms(now_ns), self._config.watchdog
        if self._intake.mode is Mode.TELEOP:
            if age_ms > config.max_teleop_age_ms:
                self._watchdog.on(now_ns, Event.TELEOP_STALE, f"{age_ms:.0f} ms old")
                return None
        elif target is None:
            self._watchdog.on(now_ns, Event.STARVED)
        elif age_ms > config.max_chunk_age_ms:
            self._watchdog.on(now_ns, Event.OBSERVATION_STALE, f"the one that is acted on is {age_ms:.0f} ms old")
            return None
        return target

    def _has_any(self, *causes: Cause) -> bool:
        return any(self._watchdog.has(cause) for cause in causes)

    def _wish(self, width_m: float | None) -> None:
        if width_m is None:
            return
        self._wish_width_m, clamped = clamp_width(width_m, self._robot.gripper.max_width_m)
        if clamped:
            self._interventions.act("gripper_width")
