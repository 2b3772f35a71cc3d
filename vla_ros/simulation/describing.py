"""A world's state in words: what a policy needs to know of the cubes and the hand, as captions and questions."""

from __future__ import annotations

from dataclasses import dataclass

from vla_ros.simulation.world import WorldState


@dataclass(frozen=True)
class Description:
    """What is said of a state: color -> where each cube is, whether the gripper is open, how high, and where it is."""

    cubes: dict[str, str]
    gripper_is_open: bool
    gripper_is_high: bool
    gripper_place: str

    @property
    def caption(self) -> str:
        """All of it, a sentence a piece; `read` reads it."""
        raise NotImplementedError


def describe(state: WorldState) -> Description:
    """What is where in `state`."""
    raise NotImplementedError


def read(caption: str) -> Description:
    """The description that a caption says; raises ValueError where it is none."""
    raise NotImplementedError


def questions(state: WorldState) -> tuple[tuple[str, str], ...]:
    """Questions about a state with their answers, always the same ones in the same order."""
    raise NotImplementedError
