"""The in-process loop: a policy in a world, through the same aligner, wrapper and controller as with ROS."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from pydantic import Field

from vla_ros.control import kinematics
from vla_ros.control.arm import ArmConfig, ArmController, ArmStatus
from vla_ros.control.limits import NORMAL_COUNTS
from vla_ros.policies.policy import AbsolutePolicy, Policy
from vla_ros.robots.robot import Robot
from vla_ros.rollout.report import EpisodeRow, Percentiles, Report
from vla_ros.simulation.world import EPISODE_S, World, WorldState
from vla_ros.timing.chunks import Schedule
from vla_ros.timing.stamps import ms_to_ns, ns_to_ms, ns_to_s, period_ns, s_to_ns
from vla_ros.timing.sync import HISTORY_S, Aligner, AlignerConfig, CameraTiming, Interpolation, StreamTiming
from vla_ros.values import (
    NANOSECONDS_PER_MILLISECOND,
    ActionChunk,
    Array,
    Command,
    Config,
    Target,
    Window,
)

#: How each stream is read between its samples; a world's state has quaternions and flags in it.
STREAMS = {
    "joints": StreamTiming(),
    "gripper": StreamTiming(),
    "commanded_joints": StreamTiming(),
    "world": StreamTiming(interpolation=Interpolation.NEAREST),
}

#: How often a watcher is told how the arm does, as /vla/state says it.
_STATUS_NS = 100 * NANOSECONDS_PER_MILLISECOND


class RolloutConfig(Config):
    """How often a policy is asked, how long it takes to answer, how long an episode may last: in the world's time."""

    inference_hz: float = Field(default=5.0, ge=0.01, le=1000.0)  # at most; never before the last answer has arrived
    inference_delay_ms: float = Field(default=100.0, ge=0.0)  # from the instant observed to the chunk's arrival
    camera_hz: float = Field(default=30.0, ge=0.01, le=1000.0)  # only the cameras that somebody looks at are drawn
    episode_s: float = Field(default=EPISODE_S, gt=0.0)
    history_s: float = Field(default=HISTORY_S, gt=0.0)


@dataclass(eq=False)
class Episode:
    """One run: what came of it, what was planned and when it arrived, what was commanded, and the TCP's path (N, 7)."""

    seed: int
    instruction: str
    start_ns: int
    success: bool = False
    end_ns: int = 0
    ended: str = ""
    interventions: dict[str, int] = field(default_factory=dict)
    chunks: list[ActionChunk] = field(default_factory=list)
    arrivals_ns: list[int] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    tcp_path: list[Array] = field(default_factory=list)

    @property
    def row(self) -> EpisodeRow:
        """The episode as a report has it."""
        duration_s = round(ns_to_s(self.end_ns - self.start_ns), 3)
        return EpisodeRow(self.seed, self.instruction, self.success, duration_s, self.ended, self.interventions)

    @property
    def latencies_ms(self) -> list[float]:
        """From the instant observed to the arrival of each chunk, in the world's time."""
        return [
            ns_to_ms(arrival_ns - chunk.observation_ns)
            for chunk, arrival_ns in zip(self.chunks, self.arrivals_ns, strict=True)
        ]


class Watcher:
    """Hears what a recorder hears on a robot's topics, in the order of time; every stamp is of the world's time.

    Nothing is done with what a member does not override. `cameras`: those that it looks at.
    """

    cameras: Sequence[str] = ()

    def begin(self, episode: Episode) -> None:
        """The world was reset, and the arm is told to follow the policy from `episode.start_ns` on."""

    def look(self, camera: str, stamp_ns: int, world: World) -> None:
        """A picture of one of its cameras is due: it is drawn from the world, or from a snapshot of it, later."""

    def on_state(self, stamp_ns: int, joint_positions: Array, gripper_width_m: float) -> None:
        """What the arm (J,) [rad] and the gripper [m] measure, once a tick."""

    def on_chunk(self, chunk: ActionChunk, now_ns: int) -> None:
        """What the policy decided has arrived."""

    def on_command(self, command: Command) -> None:
        """What the driver is sent."""

    def on_wanted(self, now_ns: int, target: Target) -> None:
        """What the policy wants at a tick, before the limits and before any disturbance."""

    def on_status(self, now_ns: int, status: ArmStatus) -> None:
        """How the arm does, ten times a second."""


class Disturbance(Protocol):
    """Something between a policy and the arm that the policy does not know of."""

    def begin(self, episode: Episode) -> None:
        """The world was reset, and the arm is told to follow the policy from `episode.start_ns` on."""

    def disturb(self, chunk: ActionChunk, window: Window) -> ActionChunk:
        """What the arm gets in place of `chunk`, which was decided from `window`."""


class Rollout:
    """One policy in one world, stepped at the controller's rate on the world's time."""

    def __init__(
        self,
        world: World,
        robot: Robot,
        policy: Policy,
        arm: ArmConfig,
        config: RolloutConfig,
        watcher: Watcher | None = None,
        disturbance: Disturbance | None = None,
    ) -> None:
        self._world = world
        self._watcher = watcher
        self._disturbance = disturbance
        self._config = config
        self._robot = robot
        self._arm_config = arm
        # New ones for each episode: nothing is left of the last.
        self._arm = ArmController(robot, arm)
        self._policy = AbsolutePolicy(policy, kinematics.for_robot(robot).forward, robot.gripper.max_width_m)
        self._schedule = Schedule(arm.schedule)  # as the policy's side knows it, for what is committed
        self._policy.check_cameras({name: (model.width, model.height) for name, model in world.cameras.items()})
        look = self._policy.window_spec
        self._looks_at = tuple(world.cameras) if look.cameras is None else look.cameras
        self._has_cameras = bool(self._looks_at or (watcher is not None and watcher.cameras))
        self._aligner = Aligner(
            AlignerConfig(
                cameras={camera: CameraTiming(rate_hz=config.camera_hz) for camera in self._looks_at},
                proprioception={stream: STREAMS[stream] for stream in look.proprioception},
                history_s=config.history_s + ns_to_s(look.length * look.step_ns),
            ),
            decode=lambda taken: world.render(*taken),  # drawn when a window looks at it: most frames never are
        )
        self._tick_ns = period_ns(arm.rate_hz)
        self._in_flight: tuple[int, ActionChunk, ActionChunk] | None = None  # arrives when; as decided; as disturbed
        self._inferred_ns: int | None = None  # the last instant the policy was asked about
        self._reflected_ns: int | None = None  # the last that it thought about slowly
        self._next_frame_ns = 0
        self._next_status_ns = 0
        self._commanded: Array | None = None
        self._gripper_is_asked = False

    def run(self, seed: int, instruction: str = "") -> Episode:
        """One episode, until it succeeds or its time is over; raises ValueError for a task the policy cannot follow."""
        episode = self._begin(seed, instruction)
        while not episode.ended:
            self._tick(episode)
        episode.end_ns = self._world.time_ns
        counters = self._arm.status().counters
        episode.interventions = {name: count for name, count in counters.items() if count and name not in NORMAL_COUNTS}
        return episode

    def _begin(self, seed: int, instruction: str) -> Episode:
        if self._world.time_ns == 0:
            self._world.advance(self._tick_ns)  # a stamp of zero means that there is none
        instruction = self._world.reset(seed, instruction)
        self._policy.reset(instruction)
        self._aligner.clear()
        self._schedule = Schedule(self._arm_config.schedule)
        self._arm = ArmController(self._robot, self._arm_config)
        self._in_flight = self._inferred_ns = self._reflected_ns = self._commanded = None
        self._gripper_is_asked = False
        self._next_frame_ns = self._next_status_ns = now_ns = self._world.time_ns
        self._arm.start(now_ns)
        episode = Episode(seed, instruction, now_ns)
        for other in (self._watcher, self._disturbance):
            if other is not None:
                other.begin(episode)
        return episode

    def _tick(self, episode: Episode) -> None:
        """One controller period: look, think, command, let time pass."""
        world, now_ns = self._world, self._world.time_ns
        state = world.state()
        self._look(now_ns, state)
        self._arm.on_joint_state(now_ns, world.joint_positions, world.joint_velocities)
        self._arm.on_gripper_state(now_ns, world.gripper_width_m)
        self._deliver(now_ns, episode)
        self._think(now_ns, episode)
        command = self._arm.step(now_ns)
        if command is not None:
            self._send(command)
            episode.commands.append(command)
        self._tell(now_ns, command)
        self._move_gripper(now_ns)
        episode.tcp_path.append(state.tcp_pose)
        self._pass_time(now_ns + self._tick_ns)
        if world.success():
            episode.success, episode.ended = True, "success"
        elif world.fault is not None:
            episode.ended = f"fault: {world.fault}"
        elif world.time_ns - episode.start_ns >= s_to_ns(self._config.episode_s):
            episode.ended = "time limit"

    def _look(self, now_ns: int, state: WorldState) -> None:
        """Feed the aligner with what the policy looks at, as it is now."""
        world = self._world
        if self._commanded is None:
            self._commanded = world.joint_positions
        read: dict[str, Callable[[], Array]] = {
            "joints": lambda: world.joint_positions,
            "gripper": lambda: np.array([world.gripper_width_m]),
            "commanded_joints": lambda: np.asarray(self._commanded),
            "world": lambda: state.values,
        }
        for stream in self._policy.window_spec.proprioception:
            self._aligner.add_sample(stream, now_ns, now_ns, read[stream]())
        if self._watcher is not None:
            self._watcher.on_state(now_ns, world.joint_positions, world.gripper_width_m)
        if self._has_cameras and now_ns >= self._next_frame_ns:
            self._take_pictures()

    def _take_pictures(self) -> None:
        self._next_frame_ns += period_ns(self._config.camera_hz)
        now_ns, snapshot = self._world.time_ns, self._world.snapshot()
        for camera in self._looks_at:
            self._aligner.add_image(camera, now_ns, now_ns, (camera, snapshot))
        if self._watcher is not None:
            for camera in self._watcher.cameras:
                self._watcher.look(camera, now_ns, self._world)

    def _pass_time(self, until_ns: int) -> None:
        """Let a tick pass; pictures are taken when they are due, to the millisecond: a camera knows no ticks."""
        while self._has_cameras:
            due_ns = -(-self._next_frame_ns // NANOSECONDS_PER_MILLISECOND) * NANOSECONDS_PER_MILLISECOND
            if due_ns >= until_ns:
                break
            if due_ns > self._world.time_ns:
                self._world.advance(due_ns - self._world.time_ns)
            self._take_pictures()
        self._world.advance(until_ns - self._world.time_ns)

    def _think(self, now_ns: int, episode: Episode) -> None:
        """Ask the policy about the newest instant, where its turn has come; the answer arrives after the delay."""
        instant_ns = self._aligner.newest_complete_instant()
        if self._in_flight is not None or instant_ns is None:
            return
        if not _is_due(instant_ns, self._inferred_ns, period_ns(self._config.inference_hz)):
            return
        self._inferred_ns = instant_ns
        look, action = self._policy.window_spec, self._policy.action_spec
        window = self._aligner.window(instant_ns, look.length, look.step_ns, episode.start_ns)
        scheduled = self._schedule.committed(instant_ns, action.horizon, action.step_ns)
        chunk, _ = self._policy.infer(window, scheduled, self._schedule.delay_steps(action.step_ns))
        self._reflect(window)
        disturbed = chunk if self._disturbance is None else self._disturbance.disturb(chunk, window)
        self._in_flight = (instant_ns + ms_to_ns(self._config.inference_delay_ms), chunk, disturbed)
        self._deliver(now_ns, episode)

    def _reflect(self, window: Window) -> None:
        """What a robot's policy does beside its actions; what it changes counts from the next inference on."""
        reflective, instant_ns = self._policy.reflective, window[-1].instant_ns
        period_s = reflective.reflection_period_s if reflective else math.inf
        if reflective and math.isfinite(period_s) and _is_due(instant_ns, self._reflected_ns, s_to_ns(period_s)):
            self._reflected_ns = instant_ns
            reflective.reflect(window)

    def _deliver(self, now_ns: int, episode: Episode) -> None:
        if self._in_flight is None or self._in_flight[0] > now_ns:
            return
        _, chunk, disturbed = self._in_flight
        self._in_flight = None
        self._arm.on_chunk(disturbed, now_ns)
        self._schedule.add(chunk, now_ns)
        episode.chunks.append(chunk)
        episode.arrivals_ns.append(now_ns)
        if self._watcher is not None:
            self._watcher.on_chunk(chunk, now_ns)

    def _tell(self, now_ns: int, command: Command | None) -> None:
        """Tell the watcher what is wanted and sent at this tick, and now and then how the arm does."""
        watcher = self._watcher
        if watcher is None:
            return
        if now_ns >= self._next_status_ns:
            self._next_status_ns += _STATUS_NS
            watcher.on_status(now_ns, self._arm.status())
        if command is None:
            return
        wanted = command.requested if self._disturbance is None else self._schedule.target(now_ns)
        if wanted is not None:
            watcher.on_wanted(now_ns, wanted)
        watcher.on_command(command)

    def _send(self, command: Command) -> None:
        self._commanded = command.joint_positions
        if self._arm_config.command_interface == "joint":
            self._world.command_joints(command.joint_positions)
        else:
            self._world.command_pose(command.tcp_pose)

    def _move_gripper(self, now_ns: int) -> None:
        """Answer the goal that is in flight once the gripper is done, then pass the next one on."""
        outcome = self._world.gripper_outcome
        if self._gripper_is_asked and outcome is not None:
            self._gripper_is_asked = False
            self._arm.gripper_done(outcome.success, outcome.message)
        goal = self._arm.gripper_goal(now_ns)
        if goal is None:
            return
        self._gripper_is_asked = True
        if goal.kind == "move":
            self._world.move_gripper(goal.width_m, goal.speed_m_s)
        else:
            self._world.grasp_gripper(goal.width_m, goal.speed_m_s, goal.force_n, goal.epsilon_m, goal.epsilon_m)


def _is_due(instant_ns: int, last_ns: int | None, period_ns: int) -> bool:
    return last_ns is None or instant_ns - last_ns >= period_ns


def report(policy: str, episodes: Iterable[Episode]) -> Report:
    """The report of episodes; the latency is what was injected, rounded up to a tick."""
    episodes = list(episodes)
    latencies_ms = [latency_ms for episode in episodes for latency_ms in episode.latencies_ms]
    return Report(policy, tuple(episode.row for episode in episodes), Percentiles.of(latencies_ms))
