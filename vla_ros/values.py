"""Values that cross borders: observations, windows, chunks, commands, safety states; frozen; integer nanoseconds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any

import numpy as np
from annotated_types import Gt
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

Array = NDArray[np.float64]
Image = NDArray[np.uint8]  # (height, width, 3), rgb

NANOSECONDS_PER_SECOND = 1_000_000_000
NANOSECONDS_PER_MILLISECOND = 1_000_000


#: What no number of a configuration is beyond, and no number that has to be positive is below; and how long texts are.
_LARGEST, _SMALLEST, _LONGEST = 1e9, 1e-9, 4096
_LARGEST_INTEGER = 2**63 - 1  # stamps in nanoseconds among them


class Config(BaseModel):
    """Base of every small configuration: frozen, unknown keys refused, defaults written once, in the class.

    Numbers and texts are of sizes that something real has.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _is_within_reason(cls, value: Any, of: ValidationInfo) -> Any:
        for part in _parts(value):
            if isinstance(part, str) and len(part) > _LONGEST:
                raise ValueError(f"a text of {len(part)} characters (given {part[:20]!r}...); at most {_LONGEST}")
            largest = _LARGEST if isinstance(part, float) else _LARGEST_INTEGER
            if isinstance(part, float | int) and abs(part) > largest:
                is_huge = isinstance(part, int) and abs(part) >= 2**1000  # no float holds it
                given = "more than 2^1000" if is_huge else f"{part:.6g}"
                raise ValueError(f"too large (given {given}); should be at most {largest:.6g}")
        if isinstance(value, float) and value < _SMALLEST and Gt(0) in cls.model_fields[of.field_name or ""].metadata:
            raise ValueError(f"too small (given {value:g}); should be at least {_SMALLEST:g}")
        return value


def problems_of(error: ValidationError, within: str = "") -> list[str]:
    """A line for each field of a configuration that is wrong: its dotted place, below `within`, and what is wrong."""
    places = [".".join([*([within] if within else []), *map(str, one["loc"])]) for one in error.errors()]
    reasons = [one["msg"].removeprefix("Value error, ") for one in error.errors()]
    return [f"{place}: {reason}" if place else reason for place, reason in zip(places, reasons, strict=True)]


def _parts(value: Any) -> Iterator[Any]:
    """A value and, of a tuple or mapping, those in it."""
    yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ():
        yield from _parts(part)


def plain_instruction(text: str) -> str:
    """An instruction as tasks and training data write it: lower case, single spaces, without a full stop."""
    return " ".join(text.lower().split()).rstrip(" .!")


def _freeze(array: Array) -> Array:
    """A read-only view, so that a frozen value stays what it was."""
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view


def _freeze_mapping(arrays: Mapping[str, Array]) -> Mapping[str, Array]:
    return MappingProxyType({name: _freeze(array) for name, array in arrays.items()})


@dataclass(frozen=True, eq=False)
class Observation:
    """Every stream at one instant of capture time.

    `images`: camera -> (H, W, 3) uint8 rgb, the nearest frame. `proprioception`: stream -> (D,) float64, interpolated.
    `stamps_ns`: stream -> capture time of what is given (an interpolated stream: of the sample nearest the instant).
    `ages_ns`: stream -> instant minus that stamp; negative when the sample is later than the instant.
    """

    instant_ns: int
    images: Mapping[str, Image]
    proprioception: Mapping[str, Array]
    stamps_ns: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", _freeze_mapping(self.images))  # type: ignore[arg-type]
        object.__setattr__(self, "proprioception", _freeze_mapping(self.proprioception))

    @property
    def ages_ns(self) -> Mapping[str, int]:
        """stream -> instant - stamp [ns]."""
        return {name: self.instant_ns - stamp for name, stamp in self.stamps_ns.items()}

    @property
    def skew_ns(self) -> int:
        """Largest distance in time between two camera frames of this observation."""
        stamps = [self.stamps_ns[name] for name in self.images if name in self.stamps_ns]
        return max(stamps) - min(stamps) if stamps else 0


#: Aligned observations, oldest first, the newest last; `step_ns` apart.
Window = Sequence[Observation]


@dataclass(frozen=True, eq=False)
class ActionChunk:
    """Absolute targets on a grid of time: row k is due at `observation_ns + k * step_ns`.

    `actions` is (K, D); `dimensions` names its columns: joint names [rad], or `tcp.x` .. `tcp.qw` (pose of the TCP in
    the base frame), then `gripper` [m, opening width] where there is one.
    """

    observation_ns: int
    step_ns: int
    dimensions: tuple[str, ...]
    actions: Array

    def __post_init__(self) -> None:
        actions = np.asarray(self.actions, dtype=np.float64)
        if actions.ndim != 2 or actions.shape[0] == 0 or actions.shape[1] != len(self.dimensions):
            raise ValueError(
                f"a chunk of {len(self.dimensions)} dimensions {self.dimensions} has actions of shape (K, "
                f"{len(self.dimensions)}), got {actions.shape}"
            )
        if self.step_ns <= 0:
            raise ValueError(f"step_ns must be positive, got {self.step_ns}")
        object.__setattr__(self, "actions", _freeze(actions))

    def __len__(self) -> int:
        return int(self.actions.shape[0])

    def due_ns(self, row: int) -> int:
        """The time at which row `row` is due."""
        return self.observation_ns + row * self.step_ns

    @property
    def end_ns(self) -> int:
        """The time at which the last row is due."""
        return self.due_ns(len(self) - 1)


POSE_DIMENSIONS = ("tcp.x", "tcp.y", "tcp.z", "tcp.qx", "tcp.qy", "tcp.qz", "tcp.qw")
GRIPPER_DIMENSION = "gripper"


@dataclass(frozen=True, eq=False)
class Target:
    """What the schedule wants at one instant; `values` (D,) as in `ActionChunk.dimensions`."""

    time_ns: int
    dimensions: tuple[str, ...]
    values: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", _freeze(np.asarray(self.values, dtype=np.float64)))

    @property
    def pose(self) -> Array | None:
        """The TCP pose (7,), or None for a joint target."""
        return self.values[:7] if self.dimensions[:7] == POSE_DIMENSIONS else None

    @property
    def joint_positions(self) -> Array | None:
        """The joint positions, or None for a pose target."""
        if self.pose is not None:
            return None
        return self.values[:-1] if self.gripper_width_m is not None else self.values

    @property
    def gripper_width_m(self) -> float | None:
        """The opening width, or None where the chunk has no gripper."""
        return float(self.values[-1]) if self.dimensions[-1] == GRIPPER_DIMENSION else None


@dataclass(frozen=True, eq=False)
class Prediction:
    """One predicted camera frame: what the model expects `camera` to see at `time_ns`."""

    camera: str
    time_ns: int
    image: Image


class SafetyState(str, Enum):
    """States of the watchdog, from best to worst."""

    RUNNING = "running"  # commands follow the schedule or the teleoperator
    RAMPING = "ramping"  # on the way to a stop
    HOLDING = "holding"  # standing still, position commanded
    STOPPED = "stopped"  # emergency stop; only resume on an operator's word


class Mode(str, Enum):
    """Who moves the robot."""

    HOLD = "hold"
    POLICY = "policy"
    TELEOP = "teleop"


@dataclass(frozen=True, eq=False)
class Command:
    """What is sent to the driver at one controller tick, after every limit.

    `joint_positions` (J,) rad; `tcp_pose` (7,) the same command as a pose in the base frame. `gripper_width_m` is the
    wish after the limits (latched into goals by `control.gripper`). `requested`: what was asked for at this tick (and
    stamped with it), before the limits; None where nobody asks for anything that may be followed.
    """

    time_ns: int
    joint_positions: Array
    joint_velocities: Array
    tcp_pose: Array
    gripper_width_m: float | None = None
    requested: Target | None = None

    def __post_init__(self) -> None:
        for name in ("joint_positions", "joint_velocities", "tcp_pose"):
            object.__setattr__(self, name, _freeze(np.asarray(getattr(self, name), dtype=np.float64)))


@dataclass(frozen=True, eq=False)
class ModelChunk:
    """Actions as a model wrote them, (K, A) in its `ActionSpec`; row k belongs to `observation_ns + k * step_ns`."""

    observation_ns: int
    actions: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "actions", _freeze(np.asarray(self.actions, dtype=np.float64)))


@dataclass(frozen=True, eq=False)
class Committed:
    """What was already decided when an inference starts.

    `previous`: the policy's own chunk in its own action space, of the observation nearest the window's last but one
    instant, of its last inference where the window has one (UniVLA conditions on image, chunk, image). `scheduled`:
    the absolute targets sent or scheduled from the window's newest instant on; `prefix`: the same in the policy's own
    action space, relative to the anchor of this inference. `delay_steps`: how many rows of the chunk now decided will
    be past when it comes, judged by how late nearly all chunks were so far; at most all.

    Real-time chunking (Black et al. 2025) takes over the first `delay_steps` rows of `prefix`, which will have been
    executed as they are, and lets itself be guided by the rest of it, less and less.
    """

    previous: ModelChunk | None = None
    scheduled: ActionChunk | None = None
    prefix: ModelChunk | None = None
    delay_steps: int = 0
