"""Limits of targets: finite, step, workspace, joint range, gripper; each permits, moves or refuses, and says so."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pydantic import Field, model_validator

from vla_ros.geometry import rotation_angle
from vla_ros.robots.robot import Robot
from vla_ros.values import GRIPPER_DIMENSION, POSE_DIMENSIONS, ActionChunk, Array, Config

Vector3 = tuple[float, float, float]

#: No joint angle and no coordinate of a TCP is larger [rad, m].
_ABSURD = 1000.0
#: How far from 1 the length of a plane's normal may be.
_UNIT_TOLERANCE = 1e-4
#: Part of the TCP's speeds that its way is planned with: the rest serves to catch up with it.
PACED = 0.95
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
#: As good as inside [m], and how often a position is moved from boundary to boundary until it is.
_INSIDE_M = 1e-6
_PROJECTIONS = 200


class LimitsConfig(Config):
    """How much of what the robot can do is permitted. Scales multiply the robot's own limits.

    The TCP's speeds hold for joint and pose targets alike. Its accelerations and jerks, as it moves and as it turns,
    keep the arm on a straight line where a pose target steps; the joints' limits hold in any case. None is ever taken
    for more than the robot's own.
    Workspace: where the TCP may be, in the base frame [m]: in a box, whose lowest point keeps the fingertips off a
    table at z = 0, on the permitted side of each of the `planes`, and above the table. The arm itself, but for the
    fingers, keeps `clearance_m` from planes, table and itself. Where there is no table, say that it is far below: -10.
    """

    velocity_scale: float = Field(default=0.7, gt=0.0, le=1.0)
    acceleration_scale: float = Field(default=0.8, gt=0.0, le=1.0)
    jerk_scale: float = Field(default=0.05, gt=0.0, le=1.0)
    joint_margin_rad: float = Field(default=0.05, ge=0.0, le=0.5)  # kept from each end of a joint's range
    tcp_velocity_m_s: float = Field(default=0.7, gt=0.0)
    tcp_angular_velocity_rad_s: float = Field(default=2.0, gt=0.0)
    tcp_acceleration_m_s2: float = Field(default=1.5, gt=0.0)  # of each axis, for pose targets, as the next
    tcp_jerk_m_s3: float = Field(default=30.0, gt=0.0)
    tcp_angular_acceleration_rad_s2: float = Field(default=4.0, gt=0.0)
    tcp_angular_jerk_rad_s3: float = Field(default=80.0, gt=0.0)
    workspace_lower_m: Vector3 = (0.15, -0.6, 0.005)
    workspace_upper_m: Vector3 = (0.85, 0.6, 0.9)
    # By name: n_x n_y n_z d with n of length 1; keep n . p >= d.
    planes: dict[str, tuple[float, float, float, float]] = Field(default={})
    table_height_m: float = 0.0
    clearance_m: float = Field(default=0.02, ge=0.0)
    # A target further than this from the present command is a jump: it is refused, not followed.
    max_step_rad: float = Field(default=0.5, gt=0.0)  # joint targets: the largest joint
    max_step_m: float = Field(default=0.2, gt=0.0)  # pose targets: the TCP's way
    max_step_rotation_rad: float = Field(default=1.0, gt=0.0)  # pose targets: the TCP's turn

    @model_validator(mode="after")
    def _workspace_is_somewhere(self) -> LimitsConfig:
        if not all(low < high for low, high in zip(self.workspace_lower_m, self.workspace_upper_m, strict=True)):
            raise ValueError(
                f"workspace_lower_m {self.workspace_lower_m} must be below workspace_upper_m {self.workspace_upper_m}"
            )
        for name, plane in self.planes.items():
            if not _NAME.fullmatch(name):
                raise ValueError(f"no valid name of a plane (given {name!r}); should be letters, digits and _")
            length = float(np.linalg.norm(plane[:3]))
            if abs(length - 1.0) > _UNIT_TOLERANCE:
                raise ValueError(f"planes.{name}: a normal has length 1, that of {plane} has {length:.6g}")
        workspace = Workspace.of(self)
        middle = np.mean([self.workspace_lower_m, self.workspace_upper_m], axis=0)
        if workspace.outside_m(workspace.nearest(middle)) > _INSIDE_M:
            raise ValueError("the planes and the table leave nothing of the workspace's box for the TCP")
        return self


@dataclass(frozen=True, eq=False)
class Workspace:
    """Where the TCP may be: positions p (3,) with `normals` (P, 3) @ p >= `offsets_m` (P,), in the base frame."""

    normals: Array
    offsets_m: Array

    @classmethod
    def of(cls, config: LimitsConfig) -> Workspace:
        """The six faces of the box, the table and the planes."""
        rows = [(0.0, 0.0, 1.0, config.table_height_m), *config.planes.values()]
        box = np.vstack([np.eye(3), -np.eye(3)])
        return cls(
            normals=np.vstack([box, [row[:3] for row in rows]]),
            offsets_m=np.array(
                [*config.workspace_lower_m, *(-high for high in config.workspace_upper_m), *(row[3] for row in rows)]
            ),
        )

    def depths_m(self, positions: Array) -> Array:
        """How far positions (..., 3) are on the permitted side of each boundary, (..., P); negative beyond it."""
        return np.asarray(positions @ self.normals.T - self.offsets_m, dtype=np.float64)

    def outside_m(self, position: Array) -> float:
        """How far a position (3,) is beyond the boundary it is furthest beyond [m], 0 inside."""
        return max(0.0, -float(self.depths_m(position).min()))

    def nearest(self, position: Array) -> Array:
        """The position (3,) itself where it is inside, else one near it that is.

        It is moved to each boundary it is beyond, again where that took it beyond another: for a box at once.
        """
        moved = np.array(position, dtype=np.float64)
        for _ in range(_PROJECTIONS):
            if self.outside_m(moved) <= _INSIDE_M:
                break
            for normal, offset_m in zip(self.normals, self.offsets_m, strict=True):
                moved += max(0.0, float(offset_m - normal @ moved)) * normal
        return moved

    def clamp(self, pose: Array) -> tuple[Array, bool]:
        """The pose (7,) with its position inside the workspace, and whether it had to be moved."""
        if (self.depths_m(pose[:3]) >= 0.0).all():
            return pose, False
        return np.concatenate([self.nearest(pose[:3]), pose[3:]]), True


class Refused(ValueError):
    """A target or chunk that is dropped as a whole; `name` is the counter, the text says what was wrong."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(detail)
        self.name = name


class Meaningless(Refused):
    """Refused for what it is, and not for when it comes or where it leads: its sender does not work."""


@dataclass(frozen=True, eq=False)
class AxisLimits:
    """The permitted range and rates of axes, (N,) each: of joints in rad, or of the TCP in m and rad, and s."""

    lower: Array
    upper: Array
    velocity: Array  # wherever the axes are
    acceleration: Array
    jerk: Array
    envelope: Envelope | None = None  # of the velocity, by position

    @classmethod
    def of_joints(cls, robot: Robot, config: LimitsConfig) -> AxisLimits:
        """The robot's own limits, less the margin, times the scales."""
        joints = robot.joints
        return cls(
            lower=np.array([joint.lower_rad for joint in joints]) + config.joint_margin_rad,
            upper=np.array([joint.upper_rad for joint in joints]) - config.joint_margin_rad,
            velocity=np.array([joint.velocity_rad_s for joint in joints]) * config.velocity_scale,
            acceleration=np.array([joint.acceleration_rad_s2 for joint in joints]) * config.acceleration_scale,
            jerk=np.array([joint.jerk_rad_s3 for joint in joints]) * config.jerk_scale,
            envelope=Envelope.of(robot, config.velocity_scale),
        )

    @classmethod
    def of_tcp(cls, robot: Robot, config: LimitsConfig) -> AxisLimits:
        """How fast a pose target may be followed: the TCP's position in the workspace's box, then its turn (6,)."""
        facts = robot.cartesian
        velocity = np.array(tcp_speeds(robot, config)) * PACED
        acceleration = (
            min(config.tcp_acceleration_m_s2, facts.linear_acceleration_m_s2),
            min(config.tcp_angular_acceleration_rad_s2, facts.angular_acceleration_rad_s2),
        )
        jerk = (
            min(config.tcp_jerk_m_s3, facts.linear_jerk_m_s3),
            min(config.tcp_angular_jerk_rad_s3, facts.angular_jerk_rad_s3),
        )
        return cls(
            lower=np.array([*config.workspace_lower_m, *[-np.inf] * 3]),
            upper=np.array([*config.workspace_upper_m, *[np.inf] * 3]),
            velocity=np.repeat(velocity, 3),
            acceleration=np.repeat(acceleration, 3),
            jerk=np.repeat(jerk, 3),
        )

    def velocity_bounds(self, positions: Array) -> tuple[Array, Array]:
        """The least and the greatest velocity (..., N) that axes at `positions` (..., N) may have."""
        if self.envelope is None:
            return -self.velocity, self.velocity
        down, up = self.envelope.speeds(positions)
        return np.maximum(-self.velocity, -down), np.minimum(self.velocity, up)


@dataclass(frozen=True, eq=False)
class Envelope:
    """How fast joints may move towards the ends of their ranges from where they are, (J,); see VelocityEnvelope."""

    scale: float
    offset: Array
    slope: Array
    lower: Array
    upper: Array

    @classmethod
    def of(cls, robot: Robot, scale: float) -> Envelope | None:
        """The robot's, times `scale`; None where it has none."""
        facts = [joint.velocity_envelope for joint in robot.joints if joint.velocity_envelope is not None]
        if not facts:
            return None
        if len(facts) != len(robot.joints):
            raise ValueError(f"{robot.name}: a velocity envelope for {len(facts)} joints; all have one, or none")
        return cls(
            scale=scale,
            offset=np.array([fact.offset_rad_s for fact in facts]),
            slope=np.array([fact.slope_rad_s2 for fact in facts]),
            lower=np.array([fact.lower_rad for fact in facts]),
            upper=np.array([fact.upper_rad for fact in facts]),
        )

    def speeds(self, positions: Array) -> tuple[Array, Array]:
        """The greatest speed downwards and upwards (..., J), both 0 or more."""
        down = np.sqrt(self.slope * np.maximum(positions - self.lower, 0.0)) - self.offset
        up = np.sqrt(self.slope * np.maximum(self.upper - positions, 0.0)) - self.offset
        return self.scale * np.maximum(down, 0.0), self.scale * np.maximum(up, 0.0)


def tcp_speeds(robot: Robot, config: LimitsConfig) -> tuple[float, float]:
    """How fast the TCP may move [m/s] and turn [rad/s]: what is configured, but no more than the robot can."""
    facts = robot.cartesian
    return (
        min(config.tcp_velocity_m_s, facts.linear_velocity_m_s),
        min(config.tcp_angular_velocity_rad_s, facts.angular_velocity_rad_s),
    )


#: What a controller counts that is no intervention; the quickest of smooth motions touches the last two.
NORMAL_COUNTS = ("chunks", "chunk_shifted", "commands", "late_rows", "acceleration", "jerk")


class Interventions:
    """How often each limit acted. A limit that acts on many ticks without a pause has acted once."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._acting: set[str] = set()
        self._acting_now: set[str] = set()

    def begin_tick(self) -> None:
        """Start a tick: what does not act in it has paused."""
        self._acting, self._acting_now = self._acting_now, set()

    def act(self, name: str) -> None:
        """Say that the limit `name` acts in this tick."""
        if name not in self._acting and name not in self._acting_now:
            self._counts[name] += 1
        self._acting_now.add(name)

    def count(self, name: str, times: int = 1) -> None:
        """Count events by themselves, refused chunks for example."""
        self._counts[name] += times

    @property
    def counts(self) -> Mapping[str, int]:
        """How often, by name."""
        return dict(self._counts)


def refuse_not_finite(values: Array, what: str) -> None:
    """Raise Meaningless where a value is NaN or infinite."""
    if not np.isfinite(values).all():
        raise Meaningless("not_finite", f"{what} with values that are not finite")


def refuse_meaningless(chunk: ActionChunk, joint_names: tuple[str, ...]) -> None:
    """Raise Meaningless for a chunk of other dimensions than the joints' or the TCP's, or with values of no meaning."""
    motion = chunk.dimensions[:-1] if chunk.dimensions[-1] == GRIPPER_DIMENSION else chunk.dimensions
    if motion not in (POSE_DIMENSIONS, joint_names):
        raise Meaningless("wrong_dimensions", f"a chunk of {motion}, expected {joint_names} or {POSE_DIMENSIONS}")
    refuse_not_finite(chunk.actions, "a chunk")
    if np.abs(chunk.actions).max() > _ABSURD:
        raise Meaningless("absurd", f"a chunk with a value of {np.abs(chunk.actions).max():.3g}")
    if motion == POSE_DIMENSIONS and (np.abs(np.linalg.norm(chunk.actions[:, 3:7], axis=1) - 1.0) > 0.01).any():
        raise Meaningless("no_rotation", "a chunk with a quaternion that is not of length one")


def refuse_joint_jump(target: Array, command: Array, config: LimitsConfig) -> None:
    """Raise Refused where a joint target (J,) is too far from the present command (J,)."""
    distance = np.abs(target - command)
    worst = int(np.argmax(distance))
    if distance[worst] > config.max_step_rad:
        raise Refused(
            "jump",
            f"a target {distance[worst]:.3g} rad from the command at joint {worst + 1}, more than max_step_rad "
            f"{config.max_step_rad:g}",
        )


def refuse_pose_jump(target: Array, command: Array, config: LimitsConfig) -> None:
    """Raise Refused where a pose target (7,) is too far from the present command's pose (7,)."""
    with np.errstate(over="ignore"):
        distance = float(np.linalg.norm(target[:3] - command[:3]))
    if distance > config.max_step_m:
        raise Refused("jump", f"a target {distance:.3g} m from the command, more than max_step_m {config.max_step_m:g}")
    angle = rotation_angle(target[3:], command[3:])
    if angle > config.max_step_rotation_rad:
        raise Refused(
            "jump",
            f"a target turned {angle:.3g} rad from the command, more than max_step_rotation_rad "
            f"{config.max_step_rotation_rad:g}",
        )


def clamp_to_range(joint_positions: Array, limits: AxisLimits) -> tuple[Array, bool]:
    """Joint positions (J,) inside the permitted range, and whether one had to be moved."""
    clamped = np.clip(joint_positions, limits.lower, limits.upper)
    return clamped, bool((clamped != joint_positions).any())


def clamp_width(width_m: float, max_width_m: float) -> tuple[float, bool]:
    """A gripper width between closed and fully open, and whether it had to be moved."""
    clamped = min(max(width_m, 0.0), max_width_m)
    return clamped, clamped != width_m
