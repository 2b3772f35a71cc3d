"""A world's state in words: what a policy needs to know of the cubes and the hand, as captions and questions.

Words are coarse, and of what can be seen: left is the robot's own left (+y of its base), near is near its base.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vla_ros.simulation.layout import CUBE_X_M, CUBE_Y_M
from vla_ros.simulation.referee import RELEASE_WIDTH_M, STACK_HEIGHT_M
from vla_ros.simulation.tasks import COLORS, CUBE_SIZE_M
from vla_ros.simulation.world import WorldState
from vla_ros.values import Array

#: The cubes' area is divided in two from near to far, and in three from right to left.
FAR_FROM_X_M = 0.5 * sum(CUBE_X_M)
SIDE_FROM_Y_M = (CUBE_Y_M[1] - CUBE_Y_M[0]) / 6.0
HIGH_FROM_M = 0.10  # of the TCP above the table
OVER_M = 0.025  # so far beside a cube's middle, seen from above, the hand is over it
#: Fingers that are around a cube, and as wide as it is, hold it.
_HELD_APART_M = 0.03
_HELD_WIDTH_M = (CUBE_SIZE_M - 0.006, CUBE_SIZE_M + 0.003)
_LYING_M = 0.5 * CUBE_SIZE_M * 2.0**0.5 + STACK_HEIGHT_M  # the highest a cube's middle is on the table, on an edge

HELD = "in the gripper"
PLACES = tuple(f"{depth} {side}" for depth in ("near", "far") for side in ("left", "middle", "right"))


@dataclass(frozen=True)
class Description:
    """What is said of a state.

    `cubes`: color -> "on the table, far left", "on the blue cube", "in the gripper" or "in the air". `gripper_place`:
    "over the red cube", or as the cubes' places.
    """

    cubes: Mapping[str, str]
    gripper_is_open: bool
    gripper_is_high: bool
    gripper_place: str

    @property
    def caption(self) -> str:
        """All of it, a sentence a piece; `read` reads it."""
        sentences = [f"The {color} cube is {where}." for color, where in self.cubes.items()]
        words = (_OPEN[self.gripper_is_open], _HIGH[self.gripper_is_high], self.gripper_place)
        return " ".join([*sentences, f"The gripper is {', '.join(words)}."])

    @property
    def held(self) -> str | None:
        """The colour of the cube in the gripper."""
        return next((color for color, where in self.cubes.items() if where == HELD), None)


_OPEN = {True: "open", False: "closed"}
_HIGH = {True: "high", False: "low"}


def describe(state: WorldState) -> Description:
    """What is where in `state`."""
    return Description(
        cubes={color: _where(color, state) for color in COLORS},
        gripper_is_open=state.gripper_width_m > RELEASE_WIDTH_M,
        gripper_is_high=bool(state.tcp_pose[2] > HIGH_FROM_M),
        gripper_place=_gripper_place(state),
    )


def holds(state: WorldState, color: str) -> bool:
    """Whether the fingers are around the cube of that colour, and as wide as it is."""
    apart_m = np.linalg.norm(state.tcp_pose[:3] - state.cube_pose(color)[:3])
    narrowest_m, widest_m = _HELD_WIDTH_M
    return bool(apart_m < _HELD_APART_M and narrowest_m < state.gripper_width_m < widest_m)


def place(position: Array) -> str:
    """Where x y of the base frame are, coarsely: one of `PLACES`."""
    depth = "far" if position[0] > FAR_FROM_X_M else "near"
    side = "middle" if abs(position[1]) <= SIDE_FROM_Y_M else "left" if position[1] > 0.0 else "right"
    return f"{depth} {side}"


def _where(color: str, state: WorldState) -> str:
    position = state.cube_pose(color)[:3]
    if holds(state, color):
        return HELD
    for other in COLORS:
        below = state.cube_pose(other)[:3]
        is_above = abs(position[2] - below[2] - CUBE_SIZE_M) <= STACK_HEIGHT_M
        if other != color and is_above and np.linalg.norm(position[:2] - below[:2]) < CUBE_SIZE_M:
            return f"on the {other} cube"
    return f"on the table, {place(position)}" if position[2] <= _LYING_M else "in the air"


def _gripper_place(state: WorldState) -> str:
    tcp = state.tcp_pose[:3]
    beneath = [
        color
        for color in COLORS
        if not holds(state, color)
        and state.cube_pose(color)[2] <= tcp[2] + 0.5 * CUBE_SIZE_M
        and np.linalg.norm(tcp[:2] - state.cube_pose(color)[:2]) <= OVER_M
    ]
    topmost = max(beneath, key=lambda color: float(state.cube_pose(color)[2]), default=None)
    return place(tcp) if topmost is None else f"over the {topmost} cube"


# --- captions read ----------------------------------------------------------------------------------------------------

_COLOR = "|".join(COLORS)
_PLACE = "|".join(PLACES)
_CUBE = re.compile(
    rf"The (?P<color>{_COLOR}) cube is "
    rf"(?P<where>on the table, (?:{_PLACE})|on the (?!(?P=color))(?:{_COLOR}) cube|{HELD}|in the air)\."
)
_GRIPPER = re.compile(
    rf"The gripper is (?P<open>open|closed), (?P<high>high|low), (?P<place>over the (?:{_COLOR}) cube|{_PLACE})\."
)


def read(caption: str) -> Description:
    """The description that a caption says; raises ValueError where it is not one whole caption."""
    cubes = {match["color"]: match["where"] for match in _CUBE.finditer(caption)}
    gripper = _GRIPPER.search(caption)
    if gripper is not None and tuple(cubes) == COLORS:
        found = Description(cubes, gripper["open"] == "open", gripper["high"] == "high", gripper["place"])
        if found.caption == caption:
            return found
    raise ValueError(
        f"no caption of the tabletop: {caption!r}; it says of every cube where it is, and of the gripper how it is"
    )


# --- questions --------------------------------------------------------------------------------------------------------


def questions(state: WorldState) -> tuple[tuple[str, str], ...]:
    """Questions about a state with their answers, always the same questions in the same order."""
    seen = describe(state)
    held = "nothing" if seen.held is None else f"the {seen.held} cube"
    free = [color for color in COLORS if color != seen.held]
    leftmost = max(COLORS, key=lambda color: float(state.cube_pose(color)[1]))
    farthest = max(COLORS, key=lambda color: float(state.cube_pose(color)[0]))
    nearest = min(free, key=lambda color: float(np.linalg.norm(state.cube_pose(color)[:2] - state.tcp_pose[:2])))
    return (
        *((f"where is the {color} cube?", where) for color, where in seen.cubes.items()),
        ("is the gripper open or closed?", _OPEN[seen.gripper_is_open]),
        ("where is the gripper?", f"{_HIGH[seen.gripper_is_high]}, {seen.gripper_place}"),
        ("what is in the gripper?", held),
        ("which cube is the leftmost?", f"the {leftmost} cube"),
        ("which cube is the farthest?", f"the {farthest} cube"),
        ("which other cube is the nearest to the gripper?", f"the {nearest} cube"),
    )
