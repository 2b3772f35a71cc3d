"""The tabletop tasks: their words, and what they mean. Left is the robot's own left: +y of its base frame."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from vla_ros.values import plain_instruction

COLORS = ("red", "green", "blue")
CUBE_SIZE_M = 0.04


class TaskKind(str, Enum):
    """What is to be done."""

    LIFT = "lift"
    PUSH = "push"
    STACK = "stack"


class Side(str, Enum):
    """Where to, seen by the robot."""

    LEFT = "left"  # +y
    RIGHT = "right"  # -y

    @property
    def sign(self) -> float:
        """The direction along y of the base frame."""
        return 1.0 if self is Side.LEFT else -1.0


@dataclass(frozen=True)
class Task:
    """One thing to do with the cube of `color`: `side` where it is pushed to, `target` what it is stacked on."""

    kind: TaskKind
    color: str
    side: Side | None = None
    target: str | None = None

    @property
    def instruction(self) -> str:
        """The task in words; `parse` reads them."""
        if self.kind is TaskKind.LIFT:
            return f"lift the {self.color} cube"
        if self.kind is TaskKind.PUSH:
            assert self.side is not None
            return f"push the {self.color} cube to the {self.side.value}"
        return f"stack the {self.color} cube on the {self.target} cube"


_COLOR = "|".join(COLORS)
_FORMS: dict[TaskKind, re.Pattern[str]] = {
    TaskKind.LIFT: re.compile(rf"lift the (?P<color>{_COLOR}) cube"),
    TaskKind.PUSH: re.compile(rf"push the (?P<color>{_COLOR}) cube to the (?P<side>left|right)"),
    TaskKind.STACK: re.compile(rf"stack the (?P<color>{_COLOR}) cube on the (?!(?P=color))(?P<target>{_COLOR}) cube"),
}
FORMS = (
    "lift the <colour> cube",
    "push the <colour> cube to the <left|right>",
    "stack the <colour> cube on the <other colour> cube",
)


def parse(instruction: str) -> Task:
    """The task that `instruction` asks for, see `plain_instruction`; raises ValueError listing the forms."""
    words = plain_instruction(instruction)
    for kind, form in _FORMS.items():
        match = form.fullmatch(words)
        if match:
            found = match.groupdict()
            side = Side(found["side"]) if "side" in found else None
            return Task(kind, found["color"], side, found.get("target"))
    forms = "; ".join(f'"{form}"' for form in FORMS)
    raise ValueError(f"no tabletop task: {instruction!r}; the forms are {forms}, with colours {', '.join(COLORS)}")
