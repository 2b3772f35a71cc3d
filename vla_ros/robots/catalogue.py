"""Every arm by name."""

from __future__ import annotations

from vla_ros.robots.panda import PANDA
from vla_ros.robots.robot import Robot

ROBOTS: dict[str, Robot] = {robot.name: robot for robot in (PANDA,)}


def find(name: str) -> Robot:
    """The arm called `name`; raises ValueError naming those there are."""
    try:
        return ROBOTS[name]
    except KeyError:
        raise ValueError(f"unknown robot {name!r}; there are: {', '.join(sorted(ROBOTS))}") from None
