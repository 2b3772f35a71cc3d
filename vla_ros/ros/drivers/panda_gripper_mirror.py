"""The simulated hand behind franka_gripper's four actions and its stop: one goal at a time, the others are refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from control_msgs.action import GripperCommand
from franka_msgs.action import Grasp, Homing, Move
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.node import Node
from std_srvs.srv import Trigger

from vla_ros.robots.robot import Robot
from vla_ros.simulation.faults import FaultKind, Faults
from vla_ros.simulation.world import World
from vla_ros.timing.stamps import period_ns

_SPEED_M_S = 0.1  # franka_gripper's default, of gripper_action and homing
_FEEDBACK_PERIOD_NS = period_ns(30.0)


class GripperMirror:
    """Hears goals on the executor's thread, and moves the fingers on the simulation's: `apply` in every step."""

    def __init__(self, node: Node, robot: Robot, faults: Faults) -> None:
        self._faults = faults
        self._refuses = False
        self._max_width_m = robot.gripper.max_width_m
        self._goal: _Goal | None = None
        self._stop = threading.Event()
        endpoints = robot.endpoints
        node.create_service(Trigger, endpoints["gripper_stop"].name, self._on_stop)
        self._servers = [
            ActionServer(
                node,
                action,
                endpoints[key].name,
                _finished_later,
                goal_callback=self._on_goal,
                handle_accepted_callback=self._accepted(kind),
                cancel_callback=lambda _: CancelResponse.ACCEPT,
            )
            for key, action, kind in (
                ("gripper_homing", Homing, _Homing),
                ("gripper_move", Move, _Move),
                ("gripper_grasp", Grasp, _Grasp),
                ("gripper_action", GripperCommand, _GripperCommand),
            )
        ]

    # --- the simulation's thread ---

    def apply(self, world: World) -> None:
        """Begin, watch or end the goal."""
        stop = self._stop.is_set()
        if stop:
            self._stop.clear()
        self._refuses = self._faults.has(FaultKind.GRIPPER_REFUSAL, world.time_ns)
        goal = self._goal
        if goal is not None:
            self._advance_goal(world, goal, stop)
        elif stop:
            world.stop_gripper()

    def reset(self, world: World) -> None:
        """The world jumped to a new episode."""
        if self._goal is not None:
            self._end_goal(world, self._goal, False, "the world was reset")

    def _advance_goal(self, world: World, goal: _Goal, stop: bool) -> None:
        if stop or goal.handle.is_cancel_requested:
            world.stop_gripper()
            self._end_goal(world, goal, False, "stopped" if stop else "cancelled")
        elif self._refuses:
            world.stop_gripper()
            self._end_goal(world, goal, False, "a fault of the simulation")
        elif not goal.begun:
            goal.begun = True
            try:
                goal.begin(world)
            except ValueError as error:
                self._end_goal(world, goal, False, str(error))
        elif not world.gripper_busy:
            outcome = world.gripper_outcome
            success = outcome is not None and outcome.success
            self._end_goal(world, goal, success, "" if success or outcome is None else outcome.message)
        elif world.time_ns >= goal.feedback_due_ns:
            goal.feedback_due_ns = world.time_ns + _FEEDBACK_PERIOD_NS
            goal.handle.publish_feedback(goal.feedback(world.gripper_width_m))

    def _end_goal(self, world: World, goal: _Goal, success: bool, error: str) -> None:
        result = goal.result(world.gripper_width_m, success, error)

        def finish(handle: ServerGoalHandle) -> Any:
            if handle.is_cancel_requested:
                handle.canceled()
            elif success:
                handle.succeed()
            else:
                handle.abort()
            return result

        self._goal = None
        goal.handle.execute(finish)

    # --- the executor's thread ---

    def _on_goal(self, request: Any) -> GoalResponse:
        return GoalResponse.ACCEPT if self._goal is None and not self._refuses else GoalResponse.REJECT

    def _accepted(self, kind: type[_Goal]) -> Callable[[ServerGoalHandle], None]:
        """A coroutine that waits makes the executor spin, so a goal is executed in one go, when it has ended.

        Until then its status is ACCEPTED, where the real driver says EXECUTING.
        """

        def on_accepted(handle: ServerGoalHandle) -> None:
            self._goal = kind(handle, self._max_width_m)

        return on_accepted

    def _on_stop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._stop.set()
        response.success = True
        return response


def _finished_later(handle: ServerGoalHandle) -> Any:
    raise AssertionError("a goal is executed with the callback that ends it")


@dataclass
class _Goal:
    """One goal of the gripper, from acceptance to its end."""

    handle: ServerGoalHandle
    max_width_m: float
    begun: bool = False
    feedback_due_ns: int = 0

    def begin(self, world: World) -> None:
        """Set the fingers moving; raises ValueError for a goal out of range."""
        raise NotImplementedError

    def feedback(self, width_m: float) -> Any:
        """How it goes."""
        raise NotImplementedError

    def result(self, width_m: float, success: bool, error: str) -> Any:
        """How it ended."""
        raise NotImplementedError


class _Homing(_Goal):
    """The simulated gripper knows its range, so that it only opens."""

    def begin(self, world: World) -> None:
        world.move_gripper(self.max_width_m, _SPEED_M_S)

    def feedback(self, width_m: float) -> Homing.Feedback:
        return Homing.Feedback(current_width=width_m)

    def result(self, width_m: float, success: bool, error: str) -> Homing.Result:
        return Homing.Result(success=success, error=error)


class _Move(_Goal):
    def begin(self, world: World) -> None:
        world.move_gripper(self.handle.request.width, self.handle.request.speed)

    def feedback(self, width_m: float) -> Move.Feedback:
        return Move.Feedback(current_width=width_m)

    def result(self, width_m: float, success: bool, error: str) -> Move.Result:
        return Move.Result(success=success, error=error)


class _Grasp(_Goal):
    def begin(self, world: World) -> None:
        goal = self.handle.request
        world.grasp_gripper(goal.width, goal.speed, goal.force, goal.epsilon.inner, goal.epsilon.outer)

    def feedback(self, width_m: float) -> Grasp.Feedback:
        return Grasp.Feedback(current_width=width_m)

    def result(self, width_m: float, success: bool, error: str) -> Grasp.Result:
        return Grasp.Result(success=success, error=error)


class _GripperCommand(_Goal):
    """Position, in goal, feedback and result, is half the width."""

    def begin(self, world: World) -> None:
        command = self.handle.request.command
        width_m = 2.0 * command.position
        if width_m >= world.gripper_width_m:
            world.move_gripper(width_m, _SPEED_M_S)
        else:
            world.grasp_gripper(width_m, _SPEED_M_S, command.max_effort)

    def feedback(self, width_m: float) -> GripperCommand.Feedback:
        return GripperCommand.Feedback(position=width_m / 2)

    def result(self, width_m: float, success: bool, error: str) -> GripperCommand.Result:
        return GripperCommand.Result(position=width_m / 2, reached_goal=success, stalled=not success)
