"""Every driver by the name a robot gives for it."""

from __future__ import annotations

from vla_ros.robots.robot import Robot
from vla_ros.ros.drivers.driver import Driver, Mirror
from vla_ros.ros.drivers.panda import PandaDriver
from vla_ros.ros.drivers.panda_mirror import PandaMirror

DRIVERS: dict[str, type[Driver]] = {"panda": PandaDriver}
MIRRORS: dict[str, type[Mirror]] = {"panda": PandaMirror}


def find(robot: Robot) -> type[Driver]:
    """Our side of the driver of `robot`; raises ValueError naming those there are."""
    return _find(DRIVERS, robot)


def find_mirror(robot: Robot) -> type[Mirror]:
    """The simulated side of the driver of `robot`; raises ValueError naming those there are."""
    return _find(MIRRORS, robot)


def _find(table: dict[str, type], robot: Robot) -> type:
    try:
        return table[robot.driver]
    except KeyError:
        raise ValueError(f"{robot.name} has unknown driver {robot.driver!r}; there are: {', '.join(table)}") from None
