"""A world's state in numbers that pictures of it show: what an eye is trained to see, before it is asked for words."""

from __future__ import annotations

import numpy as np

from vla_ros.geometry import pose_matrix
from vla_ros.simulation.tasks import COLORS
from vla_ros.simulation.world import WorldState
from vla_ros.values import Array

_SYMMETRY = 4.0  # a cube looks the same after a quarter of a turn


def measures(state: WorldState) -> dict[str, float]:
    """Where each cube is and how it is turned, from the base on and from the gripper on.

    "red.x" .. "red.z" [m] along the axes of the base, "red from gripper.x" .. along those of the gripper, which has a
    camera of its own; "turn_cos", "turn_sin" of four times the angle about the base's z: more cannot be seen of a cube.
    """
    found: dict[str, float] = {}
    origin = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
    for color in COLORS:
        for what, begin in ((color, origin), (f"{color} from gripper", state.tcp_pose)):
            cube = state.cube_pose(color)
            turn = _SYMMETRY * (_heading_rad(cube) - _heading_rad(begin))
            seen = pose_matrix(begin)[:3, :3].T @ (cube - begin)[:3]
            values = (*seen, np.cos(turn), np.sin(turn))
            names = ("x", "y", "z", "turn_cos", "turn_sin")
            found |= {f"{what}.{name}": float(value) for name, value in zip(names, values, strict=True)}
    return found


def _heading_rad(pose: Array) -> float:
    """Where the flattest of a pose's axes points to, about z: of a cube on its face, a side."""
    axes = pose_matrix(pose)[:3, :3]
    flattest = axes[:, int(np.argmin(np.abs(axes[2])))]
    return float(np.arctan2(flattest[1], flattest[0]))
