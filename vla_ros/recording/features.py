"""What a dataset stores per frame: the features of one robot and its cameras, as LeRobot describes them.

A policy trained with LeRobot takes every 1-D feature whose key begins with `observation` for a state it sees, and every
one that begins with `action` for what it should do. So only `observation.state` and `action` are called that; what else
is known of a frame (when its images were taken, what was asked for and what was sent) has other prefixes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla_ros.recording.files import LONGEST_NAME, DatasetError, checked_name, in_a_line
from vla_ros.robots.robot import Robot
from vla_ros.values import GRIPPER_DIMENSION, POSE_DIMENSIONS, Array, Image

IMAGES = "observation.images."
STATE = "observation.state"
ACTION = "action"
#: Joint positions, TCP pose in the base frame, gripper width: as sent to the driver, and as asked for, before limits.
SENT = "command.sent"
REQUESTED = "command.requested"
IS_REQUESTED = "command.is_requested"  # 0: nobody asked for anything, `command.requested` repeats what was sent
#: Capture time of each camera's frame, in seconds since the episode's first instant (a large number has no deviation).
STAMP = "timing.stamp"
SKEW = "timing.skew"  # largest distance between two cameras' capture times [s]
REPEATED = "timing.repeated"  # per source: 1 where there was nothing at the instant, and the last one stands for it
SOURCE_FRAME = "timing.source_frame"  # of key frames: which row of the source's episode, rows 1/fps seconds apart
LATENCY = "policy.latency"  # from the instant observed to the arrival of the chunk followed last [s]; 0: no chunk yet
MODE = "control.mode"  # as MODES
SAFETY = "control.safety"  # as SAFETY_STATES
INTERVENTIONS = "control.interventions"  # how often a limit has acted since the episode's first instant
INTERVENED = "control.intervened"  # 1: a person leads, in an episode that a policy began

MODES = ("hold", "policy", "teleop")
SAFETY_STATES = ("running", "ramping", "holding", "stopped")
#: Proprioceptive sources of `timing.repeated`, after the cameras.
PROPRIOCEPTION = ("joints", "gripper")

_MOST_AXES, _LONGEST_AXIS = 4, 16_384
#: What a column of numbers may hold.
NUMBERS = (
    *("float16", "float32", "float64", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)  # fmt: skip
#: What to do about a camera that cannot be read.
LEAVE_OUT = "name the other cameras, or leave it out (--without-camera)"
_HIGHEST_FPS = 1000


@dataclass(frozen=True)
class Feature:
    """One column, or one video: `dtype` "video", or a numpy name; `shape` (H, W, 3) or (N,)."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Raises DatasetError for a key that cannot be the name of a file and a column, and for sizes beyond reason."""
        checked_name(self.key, "a feature")
        is_image = len(self.shape) == 3 or not self.is_image
        if not is_image or len(self.shape) > _MOST_AXES or not all(1 <= size <= _LONGEST_AXIS for size in self.shape):
            raise DatasetError(
                f"{self.key} has the shape {list(self.shape)}; it should be at most {_MOST_AXES} sizes of 1 to "
                f"{_LONGEST_AXIS}, and of images height, width, channels"
            )

    @property
    def is_video(self) -> bool:
        """Whether it is kept as a video."""
        return self.dtype == "video"

    @property
    def is_image(self) -> bool:
        """Whether it is a camera: a video, or images in the table."""
        return self.dtype in ("video", "image")

    @property
    def is_number(self) -> bool:
        """Whether it is a column of numbers: neither a camera nor text, nor what later versions add."""
        return self.dtype in NUMBERS

    @property
    def numpy(self) -> type[np.generic]:
        """The type of a column's values; raises ValueError where there is none of that name."""
        if not self.is_number:
            raise ValueError(f"{self.key}: dtype {self.dtype!r} is not one of {', '.join(NUMBERS)}")
        return np.dtype(self.dtype).type


#: What LeRobot appends to the features of every dataset, in its order.
DEFAULTS = (
    Feature("timestamp", "float32", (1,)),
    Feature("frame_index", "int64", (1,)),
    Feature("episode_index", "int64", (1,)),
    Feature("index", "int64", (1,)),
    Feature("task_index", "int64", (1,)),
)


@dataclass(frozen=True)
class Features:
    """All of a dataset's features but LeRobot's own (`DEFAULTS`), in order, with its rate and its robot."""

    fps: int
    robot_type: str
    features: tuple[Feature, ...]

    def __post_init__(self) -> None:
        """Raises DatasetError for cameras of one name."""
        names: dict[str, str] = {}
        for key in (feature.key for feature in self.features if feature.is_image):
            name = key.removeprefix(IMAGES)
            if (other := names.setdefault(name, key)) != key:
                raise DatasetError(f"{other} and {key} are both called {name}; each camera needs a name of its own")

    @property
    def cameras(self) -> Mapping[str, tuple[int, int]]:
        """camera -> (height, width)."""
        videos = (feature for feature in self.features if feature.is_video)
        return {feature.key.removeprefix(IMAGES): (feature.shape[0], feature.shape[1]) for feature in videos}

    @property
    def columns(self) -> tuple[Feature, ...]:
        """Those that are columns: all but the videos."""
        return tuple(feature for feature in self.features if not feature.is_video)

    def find(self, key: str) -> Feature:
        """The feature `key`; raises ValueError where there is none."""
        for feature in (*self.features, *DEFAULTS):
            if feature.key == key:
                return feature
        raise ValueError(f"no feature {key!r}; there are: {', '.join(feature.key for feature in self.features)}")


@dataclass(frozen=True, eq=False)
class Row:
    """One frame of an episode: camera -> (H, W, 3) uint8 rgb, and key -> (N,) of every column but `DEFAULTS`."""

    instant_ns: int
    images: Mapping[str, Image]
    values: Mapping[str, Array]


def joint_names(robot: Robot) -> tuple[str, ...]:
    """Names of `observation.state` and `action`: joint positions and the gripper's opening, with their units."""
    return (*(f"{name}_rad" for name in robot.joint_names), f"{GRIPPER_DIMENSION}_m")


def command_names(robot: Robot) -> tuple[str, ...]:
    """Names of `command.sent` and `command.requested`: joints, TCP pose in the base frame, gripper."""
    pose = (f"{name}_m" if len(name) == len("tcp.x") else name for name in POSE_DIMENSIONS)  # quaternions have no unit
    joints, gripper = joint_names(robot)[:-1], joint_names(robot)[-1]
    return (*joints, *pose, gripper)


def of_robot(robot: Robot, cameras: Mapping[str, tuple[int, int]], fps: int) -> Features:
    """What is stored of `robot` with `cameras` (name -> height, width)."""
    joints, command = joint_names(robot), command_names(robot)
    sources = (*cameras, *PROPRIOCEPTION)
    return Features(
        fps,
        robot.name,
        (
            Feature(STATE, "float32", (len(joints),), joints),
            Feature(ACTION, "float32", (len(joints),), joints),
            *(
                Feature(IMAGES + name, "video", (*size, 3), ("height", "width", "channels"))
                for name, size in cameras.items()
            ),
            Feature(SENT, "float32", (len(command),), command),
            Feature(REQUESTED, "float32", (len(command),), command),
            Feature(IS_REQUESTED, "int64", (1,)),
            Feature(STAMP, "float64", (len(cameras),), tuple(cameras)),
            Feature(SKEW, "float64", (1,)),
            Feature(REPEATED, "int64", (len(sources),), sources),
            Feature(LATENCY, "float64", (1,)),
            Feature(MODE, "int64", (1,)),
            Feature(SAFETY, "int64", (1,)),
            Feature(INTERVENTIONS, "int64", (1,)),
            Feature(INTERVENED, "int64", (1,)),
        ),
    )


def from_info(info: Mapping[str, Any]) -> Features:
    """The features of a dataset's `meta/info.json`, whoever wrote it; raises ValueError for what cannot be read."""
    try:
        described = info["features"]
        features = tuple(
            feature_of(key, entry)
            for key, entry in described.items()
            if key not in {default.key for default in DEFAULTS}
        )
        return Features(whole_fps(info["fps"]), in_a_line(str(info.get("robot_type") or ""), LONGEST_NAME), features)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"info.json has no readable {error}; it should have fps and features (dtype, shape)") from None


def whole_fps(given: Any) -> int:
    """Rows per second as info.json gives them, 30 or 30.0; raises ValueError for what is no whole number above 0."""
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    if not is_number or not 1 <= given <= _HIGHEST_FPS or given != int(given):
        raise ValueError(
            f"info.json: fps is {repr(given)[:40]}, and should be a whole number from 1 to {_HIGHEST_FPS}; write the "
            "dataset again at such a rate, with its videos (ffmpeg -i OLD -vf fps=RATE NEW) and timestamps"
        )
    return int(given)


def feature_of(key: str, entry: Any) -> Feature:
    """A feature as info.json describes it; raises ValueError for what cannot be one."""
    entry = entry if isinstance(entry, dict) else {"": entry}
    dtype, shape, made = (entry.get(name) for name in ("dtype", "shape", "info"))
    is_shape = isinstance(shape, list) and all(type(size) is int for size in shape)
    if not isinstance(dtype, str) or not is_shape or not isinstance(made, dict | None):
        raise ValueError(
            f"info.json: feature {key} is {entry}; it should have a dtype, a shape (whole numbers) and perhaps an info"
        )
    return Feature(key, dtype, tuple(shape), _names(entry.get("names"), tuple(shape)))


def _names(given: Any, shape: tuple[int, ...]) -> tuple[str, ...] | None:
    """Names as LeRobot's programs write them: a list, or a group's name -> list, or name -> place, or none.

    One name of several values stands for name_0, name_1 and so on. Names that are not as many as the values are none:
    which of them belongs to which value is not known.
    """
    if isinstance(given, Mapping):
        places = list(given.values())
        if places and all(isinstance(place, int) for place in places):
            in_order = sorted(places) == list(range(len(places)))
            given = sorted(given, key=lambda name: given[name]) if in_order else None
        else:
            given = [name for group in places for name in (group if isinstance(group, list) else [group])]
    if isinstance(given, str):
        given = [given]
    names = tuple(in_a_line(str(name), LONGEST_NAME) for name in given) if given else None
    if names is None or len(shape) != 1 or len(names) == shape[0]:
        return names
    return tuple(f"{names[0]}_{place}" for place in range(shape[0])) if len(names) == 1 else None
