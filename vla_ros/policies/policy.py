"""The policy protocol: a window of observations in, a chunk of actions and predicted frames out; and its wrappers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from vla_ros.actions import ActionSpec, Anchor, AnchorState, from_absolute, to_absolute
from vla_ros.values import ActionChunk, Array, Committed, ModelChunk, Prediction, Window


@dataclass(frozen=True)
class WindowSpec:
    """What a policy looks at: `length` aligned observations `step_ns` apart, of these cameras and proprioceptive streams.

    An empty `cameras` means: every camera of the system.
    """

    length: int = 1
    step_ns: int = 0
    cameras: tuple[str, ...] = ()
    proprioception: tuple[str, ...] = ("joints",)


@dataclass(frozen=True)
class Inference:
    """What one inference gives: actions in the policy's own space, and the frames it expects (may be none)."""

    chunk: ModelChunk
    predictions: tuple[Prediction, ...] = ()


class Policy(Protocol):
    """A policy for one robot, batch of one; knows no clock and no ROS."""

    @property
    def action_spec(self) -> ActionSpec:
        """What its rows mean."""

    @property
    def window_spec(self) -> WindowSpec:
        """What it looks at."""

    def reset(self, instruction: str) -> None:
        """Forget the past and follow `instruction`; raises ValueError for one it cannot follow."""

    def infer(self, window: Window, committed: Committed) -> Inference:
        """Decide the next actions from `window` (oldest first), given what is already committed."""
