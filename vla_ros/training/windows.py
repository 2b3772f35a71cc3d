"""Samples of recorded episodes: frames of now and of a chunk later, the chunk, the state, the instruction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from vla_ros.actions import ActionSpec, Anchor, GripperConvention, Space
from vla_ros.geometry import RotationForm
from vla_ros.recording.features import ACTION, STATE
from vla_ros.values import Array, Config, Image

#: What the demo-sized policy is taught: steps of the TCP in the base frame, the gripper 0 closed .. 1 open.
TCP_STEPS = ActionSpec(
    space=Space.EE_DELTA,
    rotation=RotationForm.AXIS_ANGLE,
    anchor=Anchor.MEASURED,
    gripper=GripperConvention.OPEN_UNIT,
)


class EndRule(str, Enum):
    """What a chunk holds that reaches beyond its episode's last row."""

    HOLD = "hold"  # the last target: no more motion, the gripper as it was
    RELEASED = "released"  # as UP-VLA was trained: the last action left out, then zeros with the last gripper value


class DataConfig(Config):
    """What is learnt from of a dataset, and in which form.

    `cameras`: those that are seen, in the model's order; `code_cameras`: those of them whose future frame is predicted.
    `source` poses: the TCP poses and widths asked for of this package's datasets, written as `action` says; column: the
    rows of `action_key` as they are, of anyone's dataset, with `action` saying what they mean.
    """

    cameras: tuple[str, ...] = Field(default=("front", "wrist"), min_length=1)
    code_cameras: tuple[str, ...] = Field(default=("front",), min_length=1)
    pixels: int = Field(default=128, ge=16, le=1024)  # side of the squares that frames become
    action: ActionSpec = TCP_STEPS
    source: Literal["poses", "column"] = "poses"
    action_key: str = ACTION
    action_names: tuple[str, ...] = ()  # of `action_key`, as `action.dimensions` has them; empty: all, in their order
    state_keys: tuple[str, ...] = (STATE,)  # columns put one after the other; empty: no proprioception
    camera_keys: Mapping[str, str] = Field(default_factory=dict)  # camera -> its key in the dataset, where it differs
    end: EndRule = EndRule.HOLD
    successes_only: bool = True  # episodes that say they failed are left out

    @model_validator(mode="after")
    def _cameras_are_known(self) -> DataConfig:
        for what, names in (("code_cameras", self.code_cameras), ("camera_keys", tuple(self.camera_keys))):
            unknown = [name for name in names if name not in self.cameras]
            if unknown:
                raise ValueError(f"{what}: {', '.join(unknown)} not among cameras {', '.join(self.cameras)}")
        return self


@dataclass(frozen=True, eq=False)
class Sample:
    """One window. `images`, `future`: camera -> (S, S, 3) uint8 rgb; S is `DataConfig.pixels`.

    `future` (code cameras only) is a whole chunk later, or the episode's last frame. `actions` (K, A) in the units of
    `DataConfig.action`; `action_is_pad` (K,): beyond the episode's end. `state` (P,), as recorded. `index` is its
    number in the samples, `episode` that of its episode in all datasets together, `frame` its row in the episode.
    """

    images: Mapping[str, Image]
    future: Mapping[str, Image]
    actions: Array
    action_is_pad: NDArray[np.bool_]
    state: Array
    instruction: str
    index: int
    episode: int
    frame: int


class ActionSamples:
    """Every row of the datasets' episodes as a `Sample`, in order; can be pickled, and read by several processes.

    Frames are decoded and resized once, when the samples are made: into memory, or into files in `cache` that the next
    run finds again.
    """

    def __init__(
        self,
        roots: Sequence[Path],
        config: DataConfig,
        cache: Path | None = None,
        on_progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    ) -> None:
        """Raises DatasetError for a dataset that cannot be read, or has not what `config` asks for."""
        self.config = config
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    @property
    def state_dims(self) -> int:
        """P of `Sample.state`; 0 without proprioception."""
        raise NotImplementedError

    @property
    def robot(self) -> str:
        """The datasets' robot, as they name it."""
        raise NotImplementedError

    @property
    def instructions(self) -> tuple[str, ...]:
        """Those of the episodes, sorted, each once."""
        raise NotImplementedError

    @property
    def episodes(self) -> tuple[range, ...]:
        """The samples of each episode."""
        raise NotImplementedError

    def sample(self, index: int) -> Sample:
        """Sample `index`; raises IndexError, DatasetError."""
        raise NotImplementedError

    def actions(self, index: int) -> tuple[Array, NDArray[np.bool_]]:
        """`Sample.actions` and `Sample.action_is_pad` alone."""
        raise NotImplementedError

    def states(self) -> Array:
        """(N, P) of all samples."""
        raise NotImplementedError

    def frame(self, index: int, camera: str) -> Image:
        """The resized frame of one camera (S, S, 3)."""
        raise NotImplementedError
