"""What a row says of commands, requests and modes: each is held from its stamp until the next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from vla_ros.control import kinematics
from vla_ros.recording import features as keys
from vla_ros.recording.assembling.holds import Hold
from vla_ros.recording.features import MODES, SAFETY_STATES
from vla_ros.robots.robot import Robot
from vla_ros.timing.stamps import ns_to_s, s_to_ns
from vla_ros.values import Array, Command, Mode, SafetyState, Target

#: What was sent or asked for longer ago than this, when an episode begins, is not followed any more; nor is a request.
_FOLLOWED_NS = s_to_ns(1.0)
#: An arm that is led is sent something at every tick; beyond this it is not the last command that moves it.
_STALE_NS = s_to_ns(0.2)
#: The controller says ten times a second that the arm is led; one that fell silent leads nobody.
_SAID_NS = s_to_ns(0.3)
#: In radians and metres, and well within what a row's float32 can say.
_BEYOND_ALL = 1e6
#: Inverse kinematics of a requested pose: from the joints sent, which are near it, with next to no null-space motion.
_PERIOD_S, _ITERATIONS = 1e-3, 20


@dataclass(frozen=True, eq=False)
class Label:
    """What is said at one instant; `sent` and `requested`: joint positions, TCP pose (7,), gripper width.

    `unheard_ns`: for how long the arm has been led without a command that came here; then `sent` is not what moves it.
    """

    sent: Array
    requested: Array
    is_requested: bool
    latency_s: float
    mode: Mode
    safety: SafetyState
    interventions: int
    is_intervened: bool
    unheard_ns: int

    def columns(self) -> dict[str, Array]:
        """The columns of a row that it fills."""
        numbers = {
            keys.IS_REQUESTED: self.is_requested,
            keys.LATENCY: self.latency_s,
            keys.MODE: MODES.index(self.mode.value),
            keys.SAFETY: SAFETY_STATES.index(self.safety.value),
            keys.INTERVENTIONS: self.interventions,
            keys.INTERVENED: self.is_intervened,
        }
        columns = {key: np.array([number], dtype=np.float64) for key, number in numbers.items()}
        return {keys.SENT: self.sent, keys.REQUESTED: self.requested, **columns}


class Labels:
    """Holds what was sent, requested and said; asked for instants in order (interventions are counted from one on)."""

    def __init__(self, robot: Robot, history_ns: int) -> None:
        self._robot = robot
        self._kinematics = kinematics.for_robot(robot)
        self._lower = np.array([joint.lower_rad for joint in robot.joints])
        self._upper = np.array([joint.upper_rad for joint in robot.joints])
        self._sent: Hold[Command] = Hold(history_ns)
        self._requests: Hold[Target] = Hold(history_ns)
        self._statuses: Hold[tuple[Mode, SafetyState, int]] = Hold(history_ns)
        self._latencies: Hold[float] = Hold(history_ns)
        self._begin()

    def checked(self, values: ArrayLike, what: str) -> Array:
        """(J,) as an array; raises ValueError for another number of joints."""
        positions = np.asarray(values, dtype=np.float64)
        if positions.shape != (len(self._robot.joints),):
            raise ValueError(
                f"{what} of {self._robot.name} have shape ({len(self._robot.joints)},), got {positions.shape}"
            )
        return positions

    def add_command(self, command: Command) -> None:
        """What was sent, and what it answers where it says so; raises ValueError for none of this arm."""
        positions = self.checked(command.joint_positions, "commanded joint positions")
        width_m = 0.0 if command.gripper_width_m is None else command.gripper_width_m
        if not (_is_meant(positions) and _is_meant(command.tcp_pose) and _is_meant(width_m)):
            raise ValueError(
                f"a command is finite, and no arm goes beyond {_BEYOND_ALL:g}, got joints {positions}, pose "
                f"{command.tcp_pose}, gripper {width_m}"
            )
        self._sent.add(command.time_ns, command)
        if command.requested is not None:
            self.add_requested(command.time_ns, command.requested)

    def add_requested(self, time_ns: int, target: Target) -> None:
        """What was asked for at a tick; what is not finite, or a row cannot say, nobody can have meant."""
        if target.joint_positions is not None:
            self.checked(target.joint_positions, "requested joint positions")
        has_turn = target.pose is None or np.linalg.norm(target.pose[3:]) > 0.0
        if _is_meant(target.values) and has_turn:
            self._requests.add(time_ns, target)

    def add_status(self, stamp_ns: int, mode: Mode, safety: SafetyState, interventions: int) -> None:
        """As the controller says."""
        self._statuses.add(stamp_ns, (mode, safety, interventions))

    def add_chunk(self, observation_ns: int, received_ns: int) -> None:
        """A chunk arrived."""
        self._latencies.add(received_ns, ns_to_s(received_ns - observation_ns))

    def awaits_command(self, instant_ns: int, within_ns: int) -> bool:
        """Whether there is none at or after an instant, but one within `within_ns` before it."""
        newest_ns = self._sent.newest_ns()
        return newest_ns is not None and instant_ns - within_ns <= newest_ns < instant_ns

    def begin(self, now_ns: int) -> None:
        """An episode begins."""
        for hold in (self._sent, self._requests, self._latencies):
            hold.drop_before(now_ns - _FOLLOWED_NS)
        self._begin()

    def clear(self) -> None:
        """Forget everything."""
        for hold in (self._sent, self._requests, self._statuses, self._latencies):
            hold.clear()
        self._begin()

    def at(self, instant_ns: int, joint_positions: Array, gripper_width_m: float) -> Label:
        """What is said at an instant at which this was measured: joints (J,) [rad], gripper."""
        held = self._sent.at(instant_ns)
        if held is None:
            pose, sent_ns = self._kinematics.forward(joint_positions), None
            sent = np.concatenate([joint_positions, pose, [gripper_width_m]])
        else:
            sent_ns, command = held
            width_m = gripper_width_m if command.gripper_width_m is None else command.gripper_width_m
            sent = np.concatenate([command.joint_positions, command.tcp_pose, [width_m]])
        request = self._request(instant_ns, sent_ns)
        mode, safety, acted = self._status(instant_ns)
        latency = self._latencies.at(instant_ns)
        return Label(
            sent=sent,
            requested=sent if request is None else self._as_vector(request, sent),
            is_requested=request is not None,
            latency_s=0.0 if latency is None else latency[1],
            mode=mode,
            safety=safety,
            interventions=acted,
            is_intervened=mode is Mode.TELEOP and self._leader is Mode.POLICY,
            unheard_ns=self._unheard(instant_ns, sent_ns),
        )

    def _begin(self) -> None:
        self._leader: Mode | None = None  # who moved the arm first
        self._counted: int | None = None  # the controller's own count at the last instant
        self._acted = 0
        self._unheard_since_ns: int | None = None

    def _unheard(self, instant_ns: int, sent_ns: int | None) -> int:
        held = self._statuses.at(instant_ns)
        is_led = (
            held is not None
            and instant_ns - held[0] <= _SAID_NS
            and held[1][0] is not Mode.HOLD
            and held[1][1] is SafetyState.RUNNING
        )
        if not is_led or (sent_ns is not None and instant_ns - sent_ns <= _STALE_NS):
            self._unheard_since_ns = None
        elif self._unheard_since_ns is None:
            self._unheard_since_ns = instant_ns
        return 0 if self._unheard_since_ns is None else instant_ns - self._unheard_since_ns

    def _request(self, instant_ns: int, sent_ns: int | None) -> Target | None:
        """What is asked for: at the tick of what was sent last, or later; at an earlier one it was answered."""
        held = self._requests.at(instant_ns)
        if held is None or instant_ns - held[0] > _FOLLOWED_NS or (sent_ns is not None and held[0] < sent_ns):
            return None
        return held[1]

    def _status(self, instant_ns: int) -> tuple[Mode, SafetyState, int]:
        held = self._statuses.at(instant_ns)
        is_known = held is not None and instant_ns - held[0] <= _FOLLOWED_NS  # a dead controller said that it runs
        mode, safety, counted = held[1] if held and is_known else (Mode.HOLD, SafetyState.HOLDING, self._counted)
        if self._leader is None and mode is not Mode.HOLD:
            self._leader = mode
        if counted is not None:
            self._acted += 0 if self._counted is None else max(0, counted - self._counted)
            self._counted = counted
        return mode, safety, self._acted

    def _as_vector(self, target: Target, sent: Array) -> Array:
        """Joints, pose and gripper of a target; what it does not say is as sent, or follows by kinematics."""
        joints = len(self._robot.joints)
        width_m = sent[-1] if target.gripper_width_m is None else target.gripper_width_m
        if target.pose is None:
            positions = np.asarray(target.joint_positions)
            return np.concatenate([positions, self._kinematics.forward(positions), [width_m]])
        turn = target.pose[3:] / np.linalg.norm(target.pose[3:])
        pose = np.concatenate([target.pose[:3], turn if turn[3] >= 0.0 else -turn])
        reach = self._kinematics.toward(
            sent[:joints],
            pose,
            period_s=_PERIOD_S,
            home=np.array(self._robot.home_rad),
            lower=self._lower,
            upper=self._upper,
            velocity=np.full(joints, np.inf),
            iterations=_ITERATIONS,
        )
        return np.concatenate([reach.joint_positions, pose, [width_m]])


def _is_meant(values: ArrayLike) -> bool:
    return bool((np.abs(values) < _BEYOND_ALL).all())  # which no NaN is
