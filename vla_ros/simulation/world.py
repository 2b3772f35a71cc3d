"""A world that answers like the robot: the protocol, its values, its configuration; imports no simulator, no ROS."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import radians, tan
from typing import Any, Protocol

import numpy as np
from pydantic import Field, field_validator, model_validator

from vla_ros.geometry import matrix_pose
from vla_ros.simulation.board import BoardModel
from vla_ros.simulation.faults import FaultConfig, check
from vla_ros.simulation.tasks import COLORS, parse
from vla_ros.values import GRIPPER_DIMENSION, POSE_DIMENSIONS, Array, Config, Image

Vector3 = tuple[float, float, float]

_POSE_SUFFIXES = tuple(name.partition(".")[2] for name in POSE_DIMENSIONS)

#: Layout of `WorldState.values`: TCP pose in the base frame, gripper width, the pose of each cube, success (0 or 1).
STATE_NAMES: tuple[str, ...] = (
    *POSE_DIMENSIONS,
    GRIPPER_DIMENSION,
    *(f"{color}.{suffix}" for color in COLORS for suffix in _POSE_SUFFIXES),
    "success",
)


@dataclass(frozen=True, eq=False)
class WorldState:
    """What stands where at one instant, in the base frame: metres, unit quaternions; `values` as `names` say."""

    time_ns: int
    values: Array
    names: tuple[str, ...] = STATE_NAMES

    def __post_init__(self) -> None:
        values = np.array(self.values, dtype=np.float64)
        if values.shape != (len(self.names),):
            raise ValueError(f"a world state has {len(self.names)} values, got shape {values.shape}")
        values.flags.writeable = False
        object.__setattr__(self, "values", values)

    @property
    def tcp_pose(self) -> Array:
        """The pose (7,) of the TCP."""
        return self.values[:7]

    @property
    def gripper_width_m(self) -> float:
        """The opening between the fingers."""
        return float(self.values[7])

    def cube_pose(self, color: str) -> Array:
        """The pose (7,) of the cube of that colour; raises ValueError for a colour there is not."""
        start = 8 + 7 * COLORS.index(color)
        return self.values[start : start + 7]

    @property
    def success(self) -> bool:
        """Whether the task is done."""
        return bool(self.values[-1] > 0.5)


class CameraModel(Config):
    """A pinhole camera with square pixels and its centre in the middle, looking from `position_m` at `target_m`.

    Both points, and `up` (what is upward in the picture), are in `frame`: a link of the robot, "" for the base.
    """

    width: int = Field(default=256, ge=16, le=4096)
    height: int = Field(default=256, ge=16, le=4096)
    vertical_fov_deg: float = Field(default=45.0, gt=1.0, lt=170.0)
    frame: str = ""
    position_m: Vector3
    target_m: Vector3
    up: Vector3 = (0.0, 0.0, 1.0)

    @model_validator(mode="after")
    def _directions_differ(self) -> CameraModel:
        forward = np.subtract(self.target_m, self.position_m)
        if np.linalg.norm(np.cross(forward, self.up)) < 1e-6:
            raise ValueError(
                f"position_m {self.position_m}, target_m {self.target_m} and up {self.up} give no direction; should be "
                "two different points, and an up that is not along the line between them"
            )
        return self

    def intrinsics(self) -> tuple[float, float, float, float]:
        """fx, fy, cx, cy in pixels; pixel (0, 0) is centred at (0, 0), as in sensor_msgs/CameraInfo."""
        focal = 0.5 * self.height / tan(0.5 * radians(self.vertical_fov_deg))
        return focal, focal, 0.5 * (self.width - 1), 0.5 * (self.height - 1)

    def optical_pose(self) -> Array:
        """The pose (7,) in `frame` of the optical frame: x right, y down, z forward."""
        matrix = np.eye(4)
        forward = np.subtract(self.target_m, self.position_m)
        matrix[:3, 2] = forward / np.linalg.norm(forward)
        right = np.cross(matrix[:3, 2], self.up)
        matrix[:3, 0] = right / np.linalg.norm(right)
        matrix[:3, 1] = np.cross(matrix[:3, 2], matrix[:3, 0])
        matrix[:3, 3] = self.position_m
        return matrix_pose(matrix)


def optical_frame(camera: str) -> str:
    """The TF frame of a camera's images."""
    return f"camera_{camera}_optical_frame"


_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")  # of a camera

#: An episode that takes longer failed, if nobody says otherwise.
EPISODE_S = 20.0

#: One camera opposite the robot that sees arm and workspace, and one on the hand that sees between the fingers.
DEFAULT_CAMERAS: dict[str, CameraModel] = {
    "front": CameraModel(position_m=(1.45, 0.0, 0.75), target_m=(0.35, 0.0, 0.28), vertical_fov_deg=54.0),
    "wrist": CameraModel(
        frame="panda_hand",
        position_m=(0.075, 0.0, 0.03),
        target_m=(0.028, 0.0, 0.13),
        up=(1.0, 0.0, 0.0),
        vertical_fov_deg=75.0,
    ),
}


class TabletopConfig(Config):
    """The tabletop world: its cameras, its task ("" = lift a cube of a seeded colour), and what goes wrong with it."""

    cameras: dict[str, CameraModel] = Field(default_factory=lambda: dict(DEFAULT_CAMERAS))
    instruction: str = ""
    episode_s: float = Field(default=EPISODE_S, gt=0.0, le=600.0)  # longer than this: the episode failed
    # What a real arm and gripper add between being sent a command and heeding it.
    actuation_latency_ms: float = Field(default=0.0, ge=0.0, le=1000.0)
    gripper_latency_ms: float = Field(default=0.0, ge=0.0, le=1000.0)
    faults: dict[str, FaultConfig] = Field(default_factory=dict)  # by a name of one's own
    variety: float = Field(default=1.0, ge=0.0, le=5.0)  # of cameras and light from episode to episode; 0 = none
    board: BoardModel | None = None  # for the calibration of a camera; the cubes then stand aside

    @field_validator("cameras")
    @classmethod
    def _cameras_have_names(cls, cameras: dict[str, CameraModel]) -> dict[str, CameraModel]:
        for name in cameras:
            if not _NAME.fullmatch(name):
                raise ValueError(f"no valid camera name (given {name!r}); should be lower case letters, digits and _")
        return cameras

    @field_validator("instruction")
    @classmethod
    def _instruction_is_a_task(cls, instruction: str) -> str:
        if instruction:
            parse(instruction)
        return instruction

    @model_validator(mode="after")
    def _faults_can_be(self) -> TabletopConfig:
        check(self.faults, self.cameras)
        return self


@dataclass(frozen=True)
class GripperOutcome:
    """How the last gripper command ended."""

    success: bool
    message: str


@dataclass(frozen=True, eq=False)
class Snapshot:
    """All that a picture of the world depends on, copied, so that another thread can render while time goes on."""

    time_ns: int
    configuration: Array  # the simulator's generalised positions
    camera_poses: Mapping[str, Array]  # optical frame in the camera's `frame`, (7,)
    light: Array  # x y z of the lamp [m], its brightness


class Renderer(Protocol):
    """Draws snapshots; made, used and closed by one thread."""

    def render(self, camera: str, snapshot: Snapshot) -> Image:
        """The picture (height, width, 3) of `camera`; raises ValueError for a camera there is not."""

    def close(self) -> None:
        """Free the drawing context."""


class World(Protocol):
    """One arm, its surroundings and a task; time moves only in `advance`, and never back."""

    @property
    def time_ns(self) -> int:
        """Simulated time since the world was made."""

    @property
    def instruction(self) -> str:
        """The task of this episode."""

    @property
    def cameras(self) -> Mapping[str, CameraModel]:
        """The cameras by name."""

    def reset(self, seed: int, instruction: str = "") -> str:
        """Begin the episode `seed`; gives its instruction. The world depends on these arguments alone."""

    def advance(self, duration_ns: int) -> None:
        """Let time pass; raises ValueError unless it is a positive multiple of the physics step."""

    def command_joints(self, joint_positions: Array) -> None:
        """Joint impedance toward these positions (J,) rad, until another command."""

    def command_pose(self, tcp_pose: Array) -> None:
        """Cartesian impedance toward this TCP pose (7,) in the base frame, until another command."""

    def move_gripper(self, width_m: float, speed_m_s: float) -> None:
        """Open or close to a width; succeeds when it is reached."""

    def grasp_gripper(
        self,
        width_m: float,
        speed_m_s: float,
        force_n: float,
        epsilon_inner_m: float = 0.005,
        epsilon_outer_m: float = 0.005,
    ) -> None:
        """Close until something stops the fingers; succeeds when the width is then within the epsilons of `width_m`."""

    def stop_gripper(self) -> None:
        """Stop where the fingers are; a command in progress fails."""

    @property
    def gripper_busy(self) -> bool:
        """Whether a gripper command is in progress."""

    @property
    def gripper_outcome(self) -> GripperOutcome | None:
        """How the last gripper command ended; None while one is in progress and before the first."""

    @property
    def fault(self) -> str | None:
        """Why the arm stopped by reflex and ignores commands, or None."""

    def recover(self) -> None:
        """Leave a fault: hold where the arm is, and accept commands again."""

    @property
    def joint_positions(self) -> Array:
        """Measured (J,) rad."""

    @property
    def joint_velocities(self) -> Array:
        """Measured (J,) rad/s."""

    @property
    def joint_torques(self) -> Array:
        """Applied (J,) Nm."""

    @property
    def gripper_width_m(self) -> float:
        """Measured opening between the fingers."""

    @property
    def tcp_pose(self) -> Array:
        """The pose (7,) of the TCP in the base frame."""

    def state(self) -> WorldState:
        """What stands where, now."""

    def success(self) -> bool:
        """Whether the task is done, and has been for the time that counts."""

    def camera_pose(self, camera: str) -> Array:
        """The pose (7,) of the camera's optical frame in its `frame`, as this episode has it."""

    def snapshot(self) -> Snapshot:
        """A copy of all that pictures depend on."""

    def renderer(self) -> Renderer:
        """A renderer for the calling thread; raises RuntimeError saying what to install where nothing can draw."""

    def render(self, camera: str, snapshot: Snapshot | None = None) -> Image:
        """The picture of a snapshot, else of now, drawn by the thread that moves the world."""


def checked(name: str, values: Any, size: int) -> Array:
    """A finite copy (size,) of `values`; raises ValueError naming what was given."""
    array = np.array(values, dtype=np.float64)
    if array.shape != (size,) or not np.isfinite(array).all():
        raise ValueError(f"{name} has {size} finite values, got {array.tolist()}")
    return array
