"""The scripted expert of the tabletop tasks: sees the world's state instead of images, and plans a second ahead.

Each inference starts from the state observed and knows no past: it asks what to do next, imagines it done for one step
of time with a simple model of hand, fingers and cubes, and asks again, row after row. So it recovers from whatever
happens (a cube that slips is a cube that lies there), and the same state always gives the same chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import atan2, ceil, cos, exp, hypot, pi, sin, sqrt

import numpy as np

from vla_ros.actions import ActionSpec
from vla_ros.geometry import pose_matrix, rotation_angle, slerp
from vla_ros.policies.policy import Inference, WindowSpec
from vla_ros.robots.robot import Robot
from vla_ros.simulation.referee import LIFT_HEIGHT_M
from vla_ros.simulation.tasks import COLORS, CUBE_SIZE_M, Task, TaskKind, parse
from vla_ros.simulation.world import WorldState
from vla_ros.values import NANOSECONDS_PER_SECOND, Array, Committed, ModelChunk, Window

HALF_CUBE_M = 0.5 * CUBE_SIZE_M

# The hand. The workspace and the kinematics of other arms are the arm controller's business, not this model's.
SPEED_M_S = 0.25
BRAKING_M_S2 = 0.5  # slowing down towards a goal
ACCELERATION_M_S2 = 0.7  # of every other change of the velocity: more than braking, so that ways end where they should
TURN_RAD_S, TURN_RAD_S2 = 1.2, 3.0
LAG_S = 0.1  # how far the arm is behind its command
FAR_OFF_M = 0.08  # further from what is scheduled the arm does not follow it: the plan starts from the arm
# The fingers.
FINGERS_M_S = 0.08  # a little slower than they are: nothing is lifted before it is held
OPEN_ENOUGH_M = CUBE_SIZE_M + 0.025  # to go down around a cube
HELD_WIDTH_M = CUBE_SIZE_M + 0.003
EMPTY_WIDTH_M = CUBE_SIZE_M - 0.006  # closed further there is no cube between
CLOSED_WIDTH_M = 0.01
FINGERTIP_M = 0.051  # from the middle of the open hand to the middle of a fingertip
FINGERTIP_HALF_M = (0.011, 0.013)  # across and along the way it closes
# The ways.
HOVER_M = 0.10  # above the goal while not yet over it
FUNNEL_SLOPE = 6.0  # rise of the way down, per metre beside the goal
FUNNEL_MOUTH_M = 0.005  # so far beside the goal the hand may go down all the way
TURN_AS_WAY_M = 0.03  # a radian to turn counts as so many metres beside the goal
CLEAR_M = 0.055  # of the TCP above a goal on the table: from there fingers, and what they hold, pass over cubes
AT_GOAL_M = 0.006
GRASP_HEIGHT_M = 0.018  # of the TCP above the table, at least: the fingertips reach 9 mm further down
# The tasks.
LIFT_TO_M = LIFT_HEIGHT_M + 0.05
STANDS_M = 0.004  # so near its height on another cube a cube stands there
PUSH_SPEED_M_S = 0.15
CONTACT_M = HALF_CUBE_M + 0.013  # from a cube's centre to that of closed fingers that touch it
PUSH_AHEAD_M = 0.2  # the goal of a push lies so far beyond the cube; it ends when the world says so
BEHIND_M = 0.055  # from the cube's centre to the closed fingers before a push
LANE_M = 0.014  # so far beside the cube's middle line the fingers may push


@dataclass(frozen=True)
class Wish:
    """Where the hand should go from here: position [m], yaw [rad] (it points down), fingers' width [m], speed."""

    position: Array
    yaw: float
    width_m: float
    speed_m_s: float = SPEED_M_S


class ScriptedExpert:
    """Policy for lift, push and stack: one mode, no chance, no timers. Reads stream "world" (WorldState.values)."""

    action_spec = ActionSpec()  # absolute TCP poses in the base frame, quaternion, width in metres, 10 Hz x 10
    window_spec = WindowSpec(cameras=(), proprioception=("joints", "world"))

    def __init__(self, robot: Robot) -> None:
        self._open_width_m = robot.gripper.max_width_m
        self._task: Task | None = None

    def reset(self, instruction: str) -> None:
        """Follow `instruction`; raises ValueError listing the forms it knows."""
        self._task = parse(instruction)

    def infer(self, window: Window, committed: Committed) -> Inference:
        """Plan the next second from the newest observation; raises ValueError before the first `reset`."""
        if self._task is None:
            raise ValueError("the scripted expert has no instruction yet; reset it with one")
        newest = window[-1]
        state = WorldState(newest.instant_ns, newest.proprioception["world"])
        step_s = self.action_spec.step_ns / NANOSECONDS_PER_SECOND
        imagined = Imagined.of(state, committed.prefix, step_s)
        plan = PLANS[self._task.kind]
        rows = []
        for _ in range(self.action_spec.horizon):
            wish = plan(imagined, self._task, self._open_width_m)
            rows.append(np.concatenate([imagined.hand, [wish.width_m]]))
            imagined.follow(wish, step_s)
        return Inference(ModelChunk(newest.instant_ns, np.stack(rows)))


def load(robot: Robot, checkpoint: str, action: ActionSpec | None) -> ScriptedExpert:
    """For the registry. It has no weights, and its action space is its own: raises ValueError for another one."""
    if action is not None and action != ScriptedExpert.action_spec:
        raise ValueError("policy scripted has its own action space (ee_pose, base, quaternion); leave action out")
    return ScriptedExpert(robot)


# --- what is imagined -------------------------------------------------------------------------------------------------


@dataclass
class Imagined:
    """Hand, fingers and cubes, moved on by a simple model: bounded speeds, an arm that lags, cubes that are held."""

    hand: Array  # (7,) as commanded
    arm: Array  # (7,) where the hand really is
    velocity: Array  # (3,) of the hand [m/s]
    width_m: float
    cubes: dict[str, Array]  # (7,) each
    done: bool

    @classmethod
    def of(cls, state: WorldState, scheduled: ModelChunk | None, step_s: float) -> Imagined:
        """What is there now; the command goes on from what is scheduled where the arm follows it, else from the arm."""
        arm = state.tcp_pose.copy()
        hand, velocity = arm.copy(), np.zeros(3)
        if scheduled is not None and _norm(scheduled.actions[0, :3] - arm[:3]) < FAR_OFF_M:
            hand = scheduled.actions[0, :7].copy()
            if len(scheduled.actions) > 1:
                velocity = (scheduled.actions[1, :3] - hand[:3]) / step_s
        cubes = {color: state.cube_pose(color).copy() for color in COLORS}
        return cls(hand, arm, velocity, state.gripper_width_m, cubes, state.success)

    def follow(self, wish: Wish, step_s: float) -> None:
        """Let one step of time pass on the way to `wish`."""
        held = [color for color in COLORS if self.holds(color)]
        before = self.arm[:3].copy()
        self._move_hand(wish, step_s)
        self.arm = _toward(self.arm, self.hand, 1.0 - exp(-step_s / LAG_S))
        for color in COLORS:
            if color in held:
                self.cubes[color][:3] += self.arm[:3] - before
            elif self.width_m < CLOSED_WIDTH_M:
                self._push_aside(color)
        narrowest_m = CUBE_SIZE_M if any(self.is_between(color) for color in COLORS) else 0.0
        change_m = max(wish.width_m, narrowest_m) - self.width_m
        self.width_m += min(max(change_m, -FINGERS_M_S * step_s), FINGERS_M_S * step_s)

    def _move_hand(self, wish: Wish, step_s: float) -> None:
        way = wish.position - self.hand[:3]
        distance = _norm(way)
        wanted = way * (_advance(distance, wish.speed_m_s, BRAKING_M_S2, step_s) / max(distance, 1e-9) / step_s)
        change = wanted - self.velocity
        self.velocity = self.velocity + change * min(1.0, ACCELERATION_M_S2 * step_s / max(_norm(change), 1e-9))
        self.hand[:3] += self.velocity * step_s
        goal = pointing_down(wish.yaw)
        angle = rotation_angle(self.hand[3:], goal)
        self.hand[3:] = slerp(self.hand[3:], goal, _advance(angle, TURN_RAD_S, TURN_RAD_S2, step_s) / max(angle, 1e-9))

    def _push_aside(self, color: str) -> None:
        """A cube gives way to closed fingers."""
        cube = self.cubes[color]
        apart = cube[:2] - self.arm[:2]
        distance_m = _norm(apart)
        if 1e-3 < distance_m < CONTACT_M and self.arm[2] < cube[2] + HALF_CUBE_M:
            cube[:2] = self.arm[:2] + apart * (CONTACT_M / distance_m)

    def is_between(self, color: str) -> bool:
        """Whether the cube is between the fingers, however wide they are open."""
        return self._is_inside(color, 0.5 * self.width_m)

    def holds(self, color: str) -> bool:
        """Whether the fingers are closed on the cube."""
        return EMPTY_WIDTH_M < self.width_m < HELD_WIDTH_M and self._is_inside(color, 0.012)

    def _is_inside(self, color: str, half_width_m: float) -> bool:
        inside = pose_matrix(self.arm)[:3, :3].T @ (self.cubes[color][:3] - self.arm[:3])
        return bool(abs(inside[0]) < 0.015 and abs(inside[1]) < half_width_m and abs(inside[2]) < 0.022)


def _advance(distance: float, speed: float, braking: float, step_s: float) -> float:
    """How far to go in one step, at most at `speed`, so as to stop at `distance` with a deceleration of `braking`."""
    left_s = max(0.0, sqrt(2.0 * distance / braking) - step_s)
    return min(distance - 0.5 * braking * left_s**2, speed * step_s)


def _norm(vector: Array) -> float:
    return float(np.linalg.norm(vector))


def _toward(pose: Array, goal: Array, fraction: float) -> Array:
    return np.concatenate([pose[:3] + fraction * (goal[:3] - pose[:3]), slerp(pose[3:], goal[3:], fraction)])


# --- the tasks --------------------------------------------------------------------------------------------------------


def lift(scene: Imagined, task: Task, open_width_m: float) -> Wish:
    """Grasp the cube, then go straight up."""
    if scene.holds(task.color):
        return _straight_up(scene, HALF_CUBE_M + LIFT_TO_M, 0.0)
    return grasp(scene, task.color, open_width_m)


def push(scene: Imagined, task: Task, open_width_m: float) -> Wish:
    """Close the fingers, go down behind the cube, push it along y, and go up when it is done."""
    assert task.side is not None
    if scene.done:
        return _straight_up(scene, HALF_CUBE_M + HOVER_M, 0.0)
    cube, forward = scene.cubes[task.color], task.side.sign
    behind_m = forward * (cube[1] - scene.arm[1])
    is_behind = HALF_CUBE_M < behind_m < BEHIND_M + LANE_M and abs(cube[0] - scene.arm[0]) < LANE_M
    if is_behind and scene.arm[2] < GRASP_HEIGHT_M + HALF_CUBE_M and scene.width_m < CLOSED_WIDTH_M:
        ahead = np.array([cube[0], cube[1] + forward * PUSH_AHEAD_M, GRASP_HEIGHT_M])
        ahead[0] += (cube[0] - scene.hand[0]) * PUSH_AHEAD_M / HALF_CUBE_M  # back to the middle within half a cube
        return Wish(ahead, 0.0, 0.0, PUSH_SPEED_M_S)
    goal = np.array([cube[0], cube[1] - forward * BEHIND_M, GRASP_HEIGHT_M])
    beside_m = _beside(scene, goal, 0.0)
    if scene.width_m >= CLOSED_WIDTH_M:
        beside_m = max(beside_m, HOVER_M)  # open fingers would not fit
    return Wish(_way_down(scene, goal, beside_m), 0.0, 0.0)


def stack(scene: Imagined, task: Task, open_width_m: float) -> Wish:
    """Grasp the cube, carry it over the other one, put it down, let go, go straight up."""
    assert task.target is not None
    cube, base = scene.cubes[task.color], scene.cubes[task.target]
    top = base[:3] + np.array([0.0, 0.0, CUBE_SIZE_M])
    beside_m = hypot(*(cube[:2] - top[:2]))
    if beside_m < 2.0 * AT_GOAL_M and abs(cube[2] - top[2]) < STANDS_M:
        has_let_go = scene.width_m > OPEN_ENOUGH_M or not scene.is_between(task.color)
        return _straight_up(scene, top[2] + HOVER_M if has_let_go else scene.hand[2], open_width_m)
    if scene.holds(task.color):
        goal = top + (scene.arm[:3] - cube[:3])
        return Wish(_way_down(scene, goal, beside_m), yaw_of(scene.hand[3:]), 0.0)
    return grasp(scene, task.color, open_width_m)


PLANS: dict[TaskKind, Callable[[Imagined, Task, float], Wish]] = {
    TaskKind.LIFT: lift,
    TaskKind.PUSH: push,
    TaskKind.STACK: stack,
}


def grasp(scene: Imagined, color: str, open_width_m: float) -> Wish:
    """Go over the cube with open fingers, down around it, and close."""
    cube, yaw = scene.cubes[color], grasp_yaw(scene, color)
    goal = np.array([cube[0], cube[1], max(cube[2], GRASP_HEIGHT_M)])
    beside_m = _beside(scene, goal, yaw)
    if scene.is_between(color) and scene.width_m > EMPTY_WIDTH_M and beside_m < 2.0 * AT_GOAL_M:
        if abs(scene.arm[2] - goal[2]) < AT_GOAL_M:
            return Wish(goal, yaw, 0.0)
    elif scene.width_m < OPEN_ENOUGH_M:
        beside_m = max(beside_m, HOVER_M)  # closed fingers would land on it
    return Wish(_way_down(scene, goal, beside_m), yaw, open_width_m)


def grasp_yaw(scene: Imagined, color: str) -> float:
    """The yaw nearest the hand's at which the fingers meet two faces of the cube, and no other cube on the way down."""
    hand_yaw, cube_yaw = yaw_of(scene.hand[3:]), _face_yaw(scene.cubes[color])
    yaws = [cube_yaw + 0.5 * pi * quarters for quarters in range(-4, 5)]
    reachable = [yaw for yaw in yaws if abs(yaw) < 0.6 * pi]
    return min(reachable, key=lambda yaw: (_overlap_m(scene, color, yaw), abs(yaw - hand_yaw)))


def _face_yaw(pose: Array) -> float:
    """The direction of a cube's most level axis, whichever face it lies on [rad]."""
    axes = pose_matrix(pose)[:3, :3]
    level = axes[:, int(np.argmin(np.abs(axes[2])))]
    return atan2(level[1], level[0])


def _overlap_m(scene: Imagined, color: str, yaw: float) -> float:
    """How far a fingertip would land inside another cube, taken as a disc; in steps of a few millimetres."""
    across, along = np.array([cos(yaw), sin(yaw)]), np.array([sin(yaw), -cos(yaw)])
    overlap_m = 0.0
    for other in COLORS:
        if other != color:
            apart = scene.cubes[other][:2] - scene.cubes[color][:2]
            beside_m = abs(apart @ across) - FINGERTIP_HALF_M[0]
            beyond_m = abs(abs(apart @ along) - FINGERTIP_M) - FINGERTIP_HALF_M[1]
            distance_m = hypot(max(0.0, beside_m), max(0.0, beyond_m))
            overlap_m = max(overlap_m, HALF_CUBE_M * sqrt(2.0) - distance_m)
    return 0.004 * ceil(max(0.0, overlap_m) / 0.004)


# --- the ways ---------------------------------------------------------------------------------------------------------


def _straight_up(scene: Imagined, height_m: float, width_m: float) -> Wish:
    return Wish(np.array([*scene.hand[:2], height_m]), yaw_of(scene.hand[3:]), width_m)


def _way_down(scene: Imagined, goal: Array, beside_m: float) -> Array:
    """Where to go next on the way down to `goal`: a funnel, the higher the further beside it; first up, where low."""
    height_m = goal[2] + min(HOVER_M, max(0.0, FUNNEL_SLOPE * (beside_m - FUNNEL_MOUTH_M)))
    is_low = scene.arm[2] < min(height_m, goal[2] + CLEAR_M) - AT_GOAL_M
    if is_low and beside_m > 2.0 * AT_GOAL_M:
        return np.array([*scene.hand[:2], height_m])
    return np.array([goal[0], goal[1], height_m])


def _beside(scene: Imagined, goal: Array, yaw: float) -> float:
    """How far the hand is from being straight over `goal`, with its turn."""
    turn = rotation_angle(scene.arm[3:], pointing_down(yaw))
    return hypot(*(scene.arm[:2] - goal[:2])) + TURN_AS_WAY_M * turn


# --- angles -----------------------------------------------------------------------------------------------------------


def pointing_down(yaw: float) -> Array:
    """The quaternion of a hand that points down, its x axis at `yaw` from the base's."""
    return np.array([cos(0.5 * yaw), sin(0.5 * yaw), 0.0, 0.0])


def yaw_of(quaternion: Array) -> float:
    """The direction of the x axis, seen from above [rad]."""
    x, y, z, w = quaternion
    return atan2(2.0 * (x * y + z * w), 1.0 - 2.0 * (y * y + z * z))
