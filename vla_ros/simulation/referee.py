"""When a tabletop task is done: a judge of one episode, over world states."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vla_ros.geometry import rotation_angle
from vla_ros.simulation.tasks import CUBE_SIZE_M, Task, TaskKind
from vla_ros.simulation.world import WorldState
from vla_ros.values import NANOSECONDS_PER_MILLISECOND, Array

LIFT_HEIGHT_M = 0.08  # how far above where it stood
PUSH_DISTANCE_M = 0.10  # to the side asked for
PUSH_HEIGHT_M = 0.015  # a cube once higher above the table than this was carried, not pushed
STACK_OFFSET_M = 0.02  # of the centres, seen from above: half a cube
STACK_HEIGHT_M = 0.005
RELEASE_WIDTH_M = CUBE_SIZE_M + 0.01  # open wider than this, the fingers hold nothing
STILL_M, STILL_RAD = 0.002, 0.05  # "does not move": over the time that success must hold
HOLD_NS = 300 * NANOSECONDS_PER_MILLISECOND  # success counts after so much time without interruption


class Referee:
    """Judges one episode from its states in order: a task is done when it has been, without interruption, for 0.3 s.

    lift: the cube is 8 cm higher than at the start. push: it is 10 cm to the side, on the table, and was never carried.
    stack: it stands on the other cube, off centre by less than half a cube, still, and the gripper has let go.
    """

    def __init__(self, task: Task, start: WorldState) -> None:
        self.task = task
        self._start = start
        self._carried = False
        self._since_ns: int | None = None  # since when it looks done
        self._then = start  # what it looked like then
        self.success = False

    def watch(self, state: WorldState) -> bool:
        """Take the next state into account; true when the task counts as done now."""
        start, now = self._start.cube_pose(self.task.color), state.cube_pose(self.task.color)
        self._carried = self._carried or bool(now[2] - start[2] > PUSH_HEIGHT_M)
        if not self._looks_done(start, now, state):
            self._since_ns = None
        elif self._since_ns is None or not self._as_then(now):
            self._since_ns, self._then = state.time_ns, state
        self.success = self._since_ns is not None and state.time_ns - self._since_ns >= HOLD_NS
        return self.success

    def _looks_done(self, start: Array, now: Array, state: WorldState) -> bool:
        checks: dict[TaskKind, Callable[[], bool]] = {
            TaskKind.LIFT: lambda: bool(now[2] - start[2] >= LIFT_HEIGHT_M),
            TaskKind.PUSH: lambda: self._is_pushed(start, now),
            TaskKind.STACK: lambda: self._is_stacked(now, state),
        }
        return checks[self.task.kind]()

    def _is_pushed(self, start: Array, now: Array) -> bool:
        assert self.task.side is not None
        moved = self.task.side.sign * (now[1] - start[1])
        return bool(moved >= PUSH_DISTANCE_M and abs(now[2] - start[2]) <= PUSH_HEIGHT_M and not self._carried)

    def _is_stacked(self, now: Array, state: WorldState) -> bool:
        assert self.task.target is not None
        below = state.cube_pose(self.task.target)
        centred = np.linalg.norm(now[:2] - below[:2]) <= STACK_OFFSET_M
        on_top = abs(now[2] - below[2] - CUBE_SIZE_M) <= STACK_HEIGHT_M
        return bool(centred and on_top and state.gripper_width_m >= RELEASE_WIDTH_M)

    def _as_then(self, now: Array) -> bool:
        """Whether the cube is where it was when it first looked done; only a stack has to be still."""
        if self.task.kind is not TaskKind.STACK:
            return True
        then = self._then.cube_pose(self.task.color)
        moved, turned = float(np.linalg.norm(now[:3] - then[:3])), rotation_angle(now[3:], then[3:])
        return moved <= STILL_M and turned <= STILL_RAD
