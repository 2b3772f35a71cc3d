"""Every arm by name."""

from __future__ import annotations

from vla_ros.robots.fr3 import FR3
from vla_ros.robots.panda import PANDA
from vla_ros.robots.robot import Robot

ROBOTS: dict[str, Robot] = {robot.name: robot for robot in (PANDA,)}
#: Arms whose limits are known here, but that no driver speaks to yet.
_WITHOUT_DRIVER = (FR3.name,)


def find(name: str) -> Robot:
    """The arm called `name`; raises ValueError naming those there are."""
    try:
        return ROBOTS[name]
    except KeyError:
        there = f"there are: {', '.join(sorted(ROBOTS))}"
        if name in _WITHOUT_DRIVER:
            raise ValueError(f"robot {name!r} has no driver here yet, only its limits are known; {there}") from None
        raise ValueError(f"unknown robot {name!r}; {there}") from None
