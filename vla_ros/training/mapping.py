"""What a dataset calls otherwise than we do: its cameras, its robot, and what of that robot its state is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vla_ros.recording.features import STATE, Features, joint_names
from vla_ros.recording.reader import camera_name
from vla_ros.robots import catalogue
from vla_ros.robots.robot import Robot

_CHANNELS = 3
_OWN = ("joints", "gripper")  # what the state of this package's datasets is put together from


def stored_name(camera: str, keys: Mapping[str, str]) -> str:
    """What a dataset calls a camera; `keys`: camera -> its key there, `observation.images.` in front or not."""
    return camera_name(keys.get(camera, camera))


def frame_sizes(features: Features, cameras: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """camera -> (width, height) as recorded; whoever wrote it may say channels first. `cameras`: -> `stored_name`."""
    shapes = {camera_name(feature.key): feature.shape for feature in features.features if feature.is_image}
    sizes = {camera: shape[1:] if shape[-1] != _CHANNELS else shape[:2] for camera, shape in shapes.items()}
    return {name: (sizes[stored][1], sizes[stored][0]) for name, stored in cameras.items()}


def find_robot(features: Features, given: str) -> Robot:
    """The arm that a dataset is of, `given` where that is not empty; raises ValueError for one that nobody knows."""
    try:
        return catalogue.find(given or features.robot_type)
    except ValueError:
        said = f"data.robot: {given!r}" if given else f"its robot_type {features.robot_type!r}"
        raise ValueError(
            f"{said} is not in the catalogue; say which arm it is by data.robot: {', '.join(sorted(catalogue.ROBOTS))}"
        ) from None


def state_streams(features: Features, keys: Sequence[str], given: Sequence[str], robot: Robot) -> tuple[str, ...]:
    """The streams of `robot` that the columns `keys` are, one after the other: `given`, or those of our own state.

    Empty where nobody says. Raises ValueError for streams that there are not, or of other lengths than the columns.
    """
    if not given:
        names = {feature.key: feature.names for feature in features.features}
        return _OWN if tuple(keys) == (STATE,) and names.get(STATE) == joint_names(robot) else ()
    lengths = robot.stream_lengths
    unknown = [name for name in given if name not in lengths]
    if unknown or len(set(given)) < len(given):
        raise ValueError(f"data.state_streams: each of {', '.join(lengths)} at most once, not {', '.join(given)}")
    wanted, values = sum(lengths[name] for name in given), sum(features.find(key).shape[0] for key in keys)
    if wanted != values:
        raise ValueError(
            f"values of data.state_streams ({', '.join(given)}) for a {robot.name}: {wanted}, but of data.state_keys "
            f"({', '.join(keys) or 'none'}): {values}"
        )
    return tuple(given)


def slices(streams: Sequence[str], robot: Robot) -> dict[str, slice]:
    """stream -> where it stands in a state that is made of `streams`."""
    found, start = {}, 0
    for name in streams:
        found[name] = slice(start, start + robot.stream_lengths[name])
        start = found[name].stop
    return found
