"""The policy protocol: a window of observations in, a chunk of actions and predicted frames out; and its wrappers."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np

from vla_ros.actions import ActionSpec, Anchor, AnchorState, from_absolute, to_absolute
from vla_ros.values import ActionChunk, Array, Committed, ModelChunk, Prediction, Target, Window

#: The proprioceptive streams that relative actions may start from.
ANCHOR_STREAMS = {Anchor.MEASURED: "joints", Anchor.COMMANDED: "commanded_joints"}

#: Further than this from what is scheduled the arm does not follow it: it is held, or was stopped [rad of a joint, m].
_FOLLOWED_RAD = 0.3
_FOLLOWED_M = 0.1


class PolicyError(ValueError):
    """A policy gave what cannot be executed; the message names the policy, what it gave and what would be right."""


@dataclass(frozen=True)
class WindowSpec:
    """What a policy looks at: `length` aligned observations `step_ns` apart, of these cameras and streams.

    `cameras` None means: every camera of the system; empty: the policy looks at no image.
    """

    length: int = 1
    step_ns: int = 0
    cameras: tuple[str, ...] | None = None
    proprioception: tuple[str, ...] = ("joints",)


#: Draws the frames that an inference expects; each is stamped with the time it predicts.
Imagine = Callable[[], tuple[Prediction, ...]]


@dataclass(frozen=True)
class Inference:
    """What one inference gives: actions in the policy's own space, and the frames it expects (may be none).

    `imagine`: where frames take time to draw, how to get them later, on any thread, without holding up the actions.
    """

    chunk: ModelChunk
    predictions: tuple[Prediction, ...] = ()
    imagine: Imagine | None = None


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


@runtime_checkable
class Reflective(Protocol):
    """A policy that thinks slowly too: on another thread than `infer`, which never waits for it."""

    @property
    def reflection_period_s(self) -> float:
        """How often `reflect` is worth its while; infinite: never."""

    @property
    def description(self) -> str:
        """What it last said of what it saw; "" before the first time."""

    def reflect(self, window: Window) -> None:
        """Think about what is seen; the next inferences build on it, if no reset came in between."""

    def answer(self, window: Window, question: str) -> str:
        """Answer a question about what is seen; raises ValueError for one it cannot answer."""


@runtime_checkable
class SeesCameras(Protocol):
    """A policy that was made for certain cameras."""

    def check_cameras(self, cameras: Mapping[str, tuple[int, int]]) -> None:
        """Raise ValueError unless it can see through `cameras`, name -> (width, height)."""


class AbsolutePolicy:
    """A policy whose chunks come out absolute, checked, and anchored at the observation: what a loop or a node runs.

    `forward` maps joint positions (J,) to the TCP pose (7,) in the base frame. Raises PolicyError, never lets NaN out.
    """

    def __init__(self, policy: Policy, forward: Callable[[Array], Array], gripper_max_width_m: float) -> None:
        self._policy = policy
        self._forward = forward
        self._gripper_max_width_m = gripper_max_width_m
        self._own_chunks: list[ModelChunk] = []  # oldest first, as far back as a window reaches
        self._imagine: Imagine | None = None

    @property
    def name(self) -> str:
        """The policy's class, as errors name it."""
        return type(self._policy).__name__

    @property
    def action_spec(self) -> ActionSpec:
        """What the wrapped policy's rows mean."""
        return self._policy.action_spec

    @property
    def window_spec(self) -> WindowSpec:
        """What the wrapped policy looks at, and the stream that says where its actions start."""
        spec = self._policy.window_spec
        stream = ANCHOR_STREAMS[self.action_spec.anchor]
        if stream in spec.proprioception:
            return spec
        return replace(spec, proprioception=(*spec.proprioception, stream))

    @property
    def imagine(self) -> Imagine | None:
        """Draws the frames that the last inference expects, where it left that for later; for any thread."""
        return self._imagine

    @property
    def reflective(self) -> Reflective | None:
        """The wrapped policy's slow side, for another thread than the one that infers; None: it has none."""
        return self._policy if isinstance(self._policy, Reflective) else None

    def check_cameras(self, cameras: Mapping[str, tuple[int, int]]) -> None:
        """Raise ValueError unless the policy can see through `cameras`, name -> (width, height)."""
        if isinstance(self._policy, SeesCameras):
            self._policy.check_cameras(cameras)

    def reset(self, instruction: str) -> None:
        """Forget the past and follow `instruction`; raises ValueError for one the policy cannot follow."""
        self._own_chunks.clear()
        self._imagine = None
        self._policy.reset(instruction)

    def infer(
        self, window: Window, scheduled: ActionChunk | None, delay_steps: int = 0
    ) -> tuple[ActionChunk, tuple[Prediction, ...]]:
        """Absolute targets and predicted frames, given the targets `scheduled` from the window's newest instant on.

        `delay_steps`: how many rows will be past when the chunk comes (`Schedule.delay_steps`). What the arm does not
        follow is not committed: a policy that went on from there would never meet the arm again.
        """
        spec = self.action_spec
        if len(window) != self._policy.window_spec.length:
            raise PolicyError(f"{self.name} looks at {self._policy.window_spec.length} observations, got {len(window)}")
        anchor = self._anchor(window)
        committed = replace(self._committed(window, scheduled, anchor), delay_steps=min(delay_steps, spec.horizon))
        inference = self._policy.infer(window, committed)
        self._check(inference.chunk)
        try:
            absolute = to_absolute(spec, inference.chunk, anchor, self._gripper_max_width_m)
        except ValueError as error:
            raise PolicyError(f"{self.name} gave rows that are no actions: {error}") from error
        self._remember(inference.chunk, window)
        self._imagine = inference.imagine
        return absolute, inference.predictions

    def _anchor(self, window: Window) -> AnchorState | None:
        """Where relative actions start: the robot at the window's newest instant."""
        if not self.action_spec.needs_anchor:
            return None
        stream = ANCHOR_STREAMS[self.action_spec.anchor]
        joint_positions = window[-1].proprioception.get(stream)
        if joint_positions is None:
            have = ", ".join(window[-1].proprioception) or "none"
            raise PolicyError(f"{self.name} gives relative actions, which start from {stream!r}; there are: {have}")
        return AnchorState(joint_positions, self._forward(joint_positions))

    def _committed(self, window: Window, scheduled: ActionChunk | None, anchor: AnchorState | None) -> Committed:
        prefix = None
        if scheduled is not None and not self._is_followed(scheduled, window):
            scheduled = None
        if scheduled is not None and scheduled.dimensions == self.action_spec.absolute_dimensions:
            prefix = from_absolute(self.action_spec, scheduled, anchor, self._gripper_max_width_m)
        # A model that looks back wants what it decided back then: not simply its last chunk, which may be much newer.
        looked_back_ns = window[-2].instant_ns if len(window) > 1 else window[-1].instant_ns
        previous = min(self._own_chunks, key=lambda c: abs(c.observation_ns - looked_back_ns), default=None)
        return Committed(previous=previous, scheduled=scheduled, prefix=prefix)

    def _is_followed(self, scheduled: ActionChunk, window: Window) -> bool:
        joint_positions = window[-1].proprioception.get(ANCHOR_STREAMS[self.action_spec.anchor])
        if joint_positions is None or scheduled.dimensions != self.action_spec.absolute_dimensions:
            return True  # nobody can tell
        due = Target(scheduled.observation_ns, scheduled.dimensions, scheduled.actions[0])
        if due.joint_positions is not None:
            return bool(np.abs(due.joint_positions - joint_positions).max() < _FOLLOWED_RAD)
        assert due.pose is not None  # a target is either
        return bool(np.linalg.norm(due.pose[:3] - self._forward(joint_positions)[:3]) < _FOLLOWED_M)

    def _check(self, chunk: ModelChunk) -> None:
        spec = self.action_spec
        expected = (spec.horizon, len(spec.dimensions))
        if chunk.actions.shape != expected:
            raise PolicyError(f"{self.name} gave actions of shape {chunk.actions.shape}, expected {expected}")
        finite = np.isfinite(chunk.actions)
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            raise PolicyError(
                f"{self.name} gave actions that are not finite: {chunk.actions[row, column]} in row {row}, "
                f"{spec.dimensions[column]}; expected {expected} finite values"
            )

    def _remember(self, chunk: ModelChunk, window: Window) -> None:
        """Keep the chunks a later window may look back at: as far as a window reaches, and one before."""
        look = self._policy.window_spec
        reaches_ns = window[-1].instant_ns - (look.length - 1) * look.step_ns
        first = bisect_left(self._own_chunks, reaches_ns, key=lambda own: own.observation_ns)
        self._own_chunks = [*self._own_chunks[max(0, first - 1) :], chunk]
