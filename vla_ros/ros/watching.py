"""Watches what the controller commands and what the arm does, for a picture of it; remembers the last ten minutes."""

from __future__ import annotations

from collections import deque
from contextlib import suppress

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from vla_ros import messages, topics
from vla_ros.config import SystemConfig
from vla_ros.control import kinematics
from vla_ros.control.limits import NORMAL_COUNTS, AxisLimits, refuse_meaningless
from vla_ros.robots import catalogue
from vla_ros.ros import guard, qos
from vla_ros.ros.guard import GuardedNode
from vla_ros.ros.polling import PolledSubscription
from vla_ros.timing.stamps import ns_to_s
from vla_ros.values import POSE_DIMENSIONS, ActionChunk, Array, Command
from vla_ros.viewing.commands import CommandTrace

_REMEMBERED_S = 600.0
_CHUNKS_PER_S, _STATES_PER_S = 10.0, 10.0
_DEEP = QoSProfile(depth=100)


class CommandWatcher(GuardedNode):
    """Hears the controller, spun by `watch`; the joints are asked for with each command."""

    def __init__(self, system: SystemConfig, context: Context) -> None:
        super().__init__("command_watcher", namespace=topics.NAMESPACE, context=context)
        robot = catalogue.find(system.robot)
        self._system, self._robot = system, robot
        self._kinematics = kinematics.for_robot(robot)
        self._joints = messages.JointReader(robot.joint_names)
        commands = round(_REMEMBERED_S * system.controller.rate_hz)
        self._commands: deque[Command] = deque(maxlen=commands)
        self._measured: deque[tuple[int, Array]] = deque(maxlen=commands)
        self._planned: deque[Array] = deque(maxlen=round(_REMEMBERED_S * _CHUNKS_PER_S))
        self._interventions: deque[tuple[int, str]] = deque(maxlen=round(_REMEMBERED_S * _STATES_PER_S))
        self._states: deque[tuple[int, str]] = deque(maxlen=round(_REMEMBERED_S * _STATES_PER_S))
        self._counts: dict[str, int] = {}
        self._first_ns: int | None = None
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self)
        self._joint_states = PolledSubscription(self, JointState, robot.endpoints["joint_states"].name, qos.NEWEST)
        self.create_subscription(JointTrajectory, topics.COMMAND, self._on_command, _DEEP)
        self.create_subscription(JointTrajectory, topics.CHUNK, self._on_chunk, _DEEP)
        self.create_subscription(DiagnosticArray, topics.STATE, self._on_state, _DEEP)

    def watch(self, for_s: float) -> None:
        """Stay until commands have come for `for_s`, by their stamps; 0: until something is raised."""
        while not (for_s and self._commands and self._watched_s >= for_s):
            self._executor.spin_once(timeout_sec=0.1)

    def trace(self, title: str, note: str) -> CommandTrace:
        """What was seen, with what is to be written above it; raises ValueError where nothing was commanded."""
        joints = len(self._robot.joints)
        config = self._system.controller.limits
        return CommandTrace(
            title=title,
            note=note,
            joint_names=self._robot.joint_names,
            limits=AxisLimits.of_joints(self._robot, config),
            workspace_m=np.array([config.workspace_lower_m, config.workspace_upper_m]),
            commanded_ns=[command.time_ns for command in self._commands],
            commanded_rad=np.array([command.joint_positions for command in self._commands]).reshape(-1, joints),
            commanded_rad_s=np.array([command.joint_velocities for command in self._commands]).reshape(-1, joints),
            commanded_m=np.array([command.tcp_pose[:3] for command in self._commands]).reshape(-1, 3),
            measured_ns=[time_ns for time_ns, _ in self._measured],
            measured_rad=np.array([positions for _, positions in self._measured]).reshape(-1, joints),
            measured_m=self._positions_m([positions for _, positions in self._measured]),
            planned=[*self._planned],
            interventions=[*self._interventions],
            states=[*self._states],
        )

    @property
    def _watched_s(self) -> float:
        return 0.0 if self._first_ns is None else ns_to_s(self._commands[-1].time_ns - self._first_ns)

    def _on_command(self, message: JointTrajectory) -> None:
        try:
            command = messages.trajectory_to_command(message, self._robot.joint_names)
        except ValueError:  # of a second publisher, which the controller names
            return
        if self._commands and command.time_ns <= self._commands[-1].time_ns:  # the clock was set back
            return
        self._first_ns = self._first_ns or command.time_ns
        self._commands.append(command)
        state = self._joint_states.take_newest()
        if state is not None:
            with suppress(ValueError):  # the controller says what is wrong with it
                self._measured.append((messages.stamp_to_ns(state.header.stamp), self._joints.positions(state)))

    def _on_chunk(self, message: JointTrajectory) -> None:
        try:
            chunk = messages.trajectory_to_chunk(message)
            refuse_meaningless(chunk, self._robot.joint_names)
        except ValueError:  # by the controller too: it counts them, and that is drawn
            return
        self._planned.append(self._path_m(chunk))

    def _path_m(self, chunk: ActionChunk) -> Array:
        if chunk.dimensions[:7] == POSE_DIMENSIONS:
            return chunk.actions[:, :3]
        return self._positions_m([*chunk.actions[:, : len(self._robot.joints)]])

    def _positions_m(self, joint_positions: list[Array]) -> Array:
        return np.array([self._kinematics.forward(row)[:3] for row in joint_positions]).reshape(-1, 3)

    def _on_state(self, message: DiagnosticArray) -> None:
        try:
            status = messages.status_to_controller(message)
        except ValueError as error:
            guard.of(self).refuse(topics.STATE, error)
            return
        if status is None:
            return
        if not self._states or self._states[-1][1] != status.safety.value:
            self._states.append((status.time_ns, status.safety.value))
        for name, count in status.counts.items():
            if name not in NORMAL_COUNTS and self._first_ns is not None and count > self._counts.get(name, 0):
                self._interventions.append((status.time_ns, name))
        self._counts = status.counts
