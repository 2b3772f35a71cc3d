"""Controls that must fail: a policy told something else, or that sees nothing; what still succeeds then is chance."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from enum import Enum

import numpy as np

from vla_ros.actions import ActionSpec
from vla_ros.policies.policy import Inference, Policy, Reflective, WindowSpec
from vla_ros.simulation.tasks import COLORS, parse
from vla_ros.values import Committed, Window

#: What a blanked image shows everywhere: neither dark nor bright.
MID_GREY = 128


class Control(str, Enum):
    """What a policy is deprived of."""

    WRONG_INSTRUCTION = "wrong-instruction"  # it is told another colour than the one that counts
    BLANK_IMAGE = "blank-image"  # it sees mid-grey


def controlled(policy: Policy, control: Control | None) -> Policy:
    """`policy` under a control; as it is under none."""
    if control is Control.WRONG_INSTRUCTION:
        return wrap(policy, told=wrong_instruction)
    if control is Control.BLANK_IMAGE:
        return wrap(policy, seen=blanked)
    return policy


def wrong_instruction(instruction: str) -> str:
    """The same task with the cube of another colour, always the same one; raises ValueError for no tabletop task.

    Every colour stands for another, so they are as frequent as before: a policy that ignores what it is told succeeds
    as often at the task that counts as at the one it is told.
    """
    task = parse(instruction)
    after = COLORS.index(task.color) + 1
    others = (*COLORS[after:], *COLORS[:after])
    return replace(task, color=next(color for color in others if color not in (task.color, task.target))).instruction


def blanked(window: Window) -> Window:
    """`window` with every image mid-grey, and all else as it was."""
    return tuple(
        replace(one, images={camera: np.full_like(image, MID_GREY) for camera, image in one.images.items()})
        for one in window
    )


# --- a policy around another one


def _as_it_is(instruction: str) -> str:
    return instruction


def _all(window: Window) -> Window:
    return window


def _unheard(window: Window, inference: Inference, wall_s: float) -> None:
    pass


#: Hears the window as it was, what was decided, and how long that took on this machine [s].
Heard = Callable[[Window, Inference, float], None]


class Wrapped:
    """`policy`, `told` another instruction and `seen` another window than it is given; `heard` hears each inference."""

    def __init__(
        self,
        policy: Policy,
        told: Callable[[str], str] = _as_it_is,
        seen: Callable[[Window], Window] = _all,
        heard: Heard = _unheard,
    ) -> None:
        self._policy = policy
        self._told = told
        self._seen = seen
        self._heard = heard

    @property
    def action_spec(self) -> ActionSpec:
        """What its rows mean."""
        return self._policy.action_spec

    @property
    def window_spec(self) -> WindowSpec:
        """What it looks at."""
        return self._policy.window_spec

    def reset(self, instruction: str) -> None:
        """Forget the past and follow what `instruction` is changed into."""
        self._policy.reset(self._told(instruction))

    def infer(self, window: Window, committed: Committed) -> Inference:
        """Decide from what `window` is changed into."""
        began_s = time.perf_counter()
        inference = self._policy.infer(self._seen(window), committed)
        self._heard(window, inference, time.perf_counter() - began_s)
        return inference


class _ReflectiveWrapped(Wrapped):
    """Around a policy that thinks slowly too: about the changed window as well."""

    _policy: Reflective  # type: ignore[assignment]

    @property
    def reflection_period_s(self) -> float:
        """How often `reflect` is worth its while."""
        return self._policy.reflection_period_s

    @property
    def description(self) -> str:
        """What the policy last said."""
        return self._policy.description

    def reflect(self, window: Window) -> None:
        """Think about what `window` is changed into."""
        self._policy.reflect(self._seen(window))

    def answer(self, window: Window, question: str) -> str:
        """Answer a question about what `window` is changed into."""
        return self._policy.answer(self._seen(window), question)


def wrap(
    policy: Policy,
    told: Callable[[str], str] = _as_it_is,
    seen: Callable[[Window], Window] = _all,
    heard: Heard = _unheard,
) -> Wrapped:
    """As `Wrapped`; it is `Reflective` where `policy` is."""
    kind = _ReflectiveWrapped if isinstance(policy, Reflective) else Wrapped
    return kind(policy, told, seen, heard)
