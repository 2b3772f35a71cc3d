"""Are recorded actions what `data.action` says: steps that an arm can make, in metres and radians."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from vla_ros.actions import ActionSpec, GripperConvention, Space
from vla_ros.robots.robot import Robot
from vla_ros.values import Array

#: What no arm does; twice what the fastest of the catalogue may.
_FASTEST_TCP_M_S = 3.0
_FASTEST_TURN_RAD_S = 15.0
_FASTEST_JOINT = 3.0  # times its limit
_FARTHEST_M, _FARTHEST_RAD = 5.0, 4.0 * np.pi
#: Where so many of the rows are beyond, it is the unit that is wrong, and not the recording.
_SHARE = 0.1


def check_steps(spec: ActionSpec, robot: Robot, fps: int, episodes: Mapping[int, Array]) -> Iterator[str]:
    """What is odd about single rows, in words; `episodes`: number -> actions (T, A) as `spec` writes them.

    Raises ValueError where that is so of too many rows.
    """
    for what, unit, most, scale, values in _quantities(spec, robot, fps, episodes):
        every = np.concatenate(list(values.values()))
        beyond = every > most
        if beyond.sum() > _SHARE * len(every):
            usual = np.median(every[beyond])
            raise ValueError(
                f"{what} of {beyond.mean():.0%} of the rows is beyond {most:.3g} {unit} (median {usual:.3g} {unit}), "
                f"read as {spec.space.value} at {fps} rows per second; no arm does that. If the values are scaled or "
                f"in another unit, set data.action.{scale} to how much 1.0 is"
            )
        if beyond.any():
            episode = next(number for number, those in values.items() if (those > most).any())
            row = int(np.argmax(values[episode] > most))
            yield (
                f"{what} of {beyond.sum()} rows is beyond {most:.3g} {unit}, first in episode {episode}, row {row}: "
                f"{values[episode][row]:.3g} {unit}"
            )


def _quantities(
    spec: ActionSpec, robot: Robot, fps: int, episodes: Mapping[int, Array]
) -> Iterator[tuple[str, str, float, str, dict[int, Array]]]:
    """(what, its unit, the most there may be, the scale that would be wrong, episode -> (T,) of it)."""
    has_gripper = spec.gripper is not GripperConvention.NONE
    motions = {number: rows[:, :-1] if has_gripper else rows for number, rows in episodes.items()}
    is_delta = spec.space in (Space.EE_DELTA, Space.JOINT_DELTA)
    steps = {n: rows if is_delta else np.diff(rows, axis=0, prepend=rows[:1]) for n, rows in motions.items()}
    position, rotation = "position_scale_m", "rotation_scale_rad"
    if spec.is_joint:
        if not is_delta:
            farthest = {number: np.abs(rows).max(axis=1) for number, rows in motions.items()}
            yield "the largest joint position", "rad", _FARTHEST_RAD, rotation, farthest
        limits = np.array([joint.velocity_rad_s for joint in robot.joints])
        if spec.joint_names == robot.joint_names:
            fastest = {number: (np.abs(rows) * fps / limits).max(axis=1) for number, rows in steps.items()}
            yield "the speed of a joint", "times its limit", _FASTEST_JOINT, rotation, fastest
        return
    if not is_delta:
        yield "the distance from the base", "m", _FARTHEST_M, position, {
            number: np.linalg.norm(rows[:, :3], axis=1) for number, rows in motions.items()
        }  # fmt: skip
    speeds = {number: np.linalg.norm(rows[:, :3], axis=1) * fps for number, rows in steps.items()}
    yield "the TCP's speed", "m/s", _FASTEST_TCP_M_S, position, speeds
    if is_delta and spec.rotation.size == 3:
        turns = {number: np.linalg.norm(rows[:, 3:6], axis=1) * fps for number, rows in steps.items()}
        yield "the TCP's turning", "rad/s", _FASTEST_TURN_RAD_S, rotation, turns
