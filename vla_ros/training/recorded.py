"""A dataset as a policy would have seen it: windows with frames as recorded, and what was done from there on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros.actions import ActionSpec
from vla_ros.policies.policy import Policy, SeesCameras
from vla_ros.recording.features import SENT, STATE
from vla_ros.recording.files import DatasetError
from vla_ros.recording.reader import DatasetReader
from vla_ros.robots import catalogue
from vla_ros.robots.robot import Robot
from vla_ros.training.labels import COLUMNS, RecordedAction
from vla_ros.training.mapping import frame_sizes, slices, state_streams, stored_name
from vla_ros.training.windows import ActionSamples, DataConfig
from vla_ros.values import NANOSECONDS_PER_SECOND, Array, Image, Observation, Window

_START_NS = NANOSECONDS_PER_SECOND  # of every episode: a stamp of zero means that there is none


class Recorded:
    """The rows of a dataset's episodes, by their index in `samples`, for one policy.

    `mapping`: what `DataConfig` is told of a dataset of others (source, action_key, state_streams, camera_keys and so
    on). Raises DatasetError for a dataset that is none, or lacks what the policy looks at.
    """

    def __init__(self, policy: Policy, robot: Robot, root: Path, mapping: Mapping[str, Any]) -> None:
        self._look = policy.window_spec
        self._reader = DatasetReader(root)
        self._cameras = self._found_cameras(mapping.get("camera_keys", {}))
        self._streams = self._found_streams(robot, mapping)
        if isinstance(policy, SeesCameras):
            policy.check_cameras(frame_sizes(self._reader.meta.features, self._cameras))
        is_ours = all(key in self._reader.keys for key in COLUMNS)
        self._check_robot(robot, mapping.get("robot", ""), is_ours)
        keys = self._cameras or {name: name for name in self._reader.cameras[:1]}  # samples have one at least
        self.samples = ActionSamples(
            [root],
            DataConfig.model_validate(
                {
                    "source": "poses" if is_ours else "column",
                    **mapping,
                    "camera_keys": keys,
                    "cameras": tuple(keys),
                    "code_cameras": tuple(keys)[:1],
                    "action": {**policy.action_spec.model_dump(), **_scales(mapping)},
                    "state_keys": (),
                    "state_streams": (),
                    "robot": robot.name,
                    "successes_only": False,  # left out by `chosen`: so an episode's number is the dataset's
                }
            ),
        )

    def _check_robot(self, robot: Robot, given: str, is_ours: bool) -> None:
        """Raise DatasetError where the dataset is of another arm; those of others need not name one that is known."""
        meta = self._reader.meta
        named = given or meta.features.robot_type
        if named != robot.name and (given or is_ours or named in catalogue.ROBOTS):
            raise DatasetError(f"{meta.root} was recorded with a {named}, the policy is for a {robot.name}")

    def _found_cameras(self, given: Mapping[str, str]) -> dict[str, str]:
        """camera of the policy -> what the dataset calls it."""
        reader = self._reader
        looks_at = reader.cameras if self._look.cameras is None else self._look.cameras
        cameras = {camera: stored_name(camera, given) for camera in looks_at}
        missing = [stored for stored in cameras.values() if stored not in reader.cameras]
        if missing:
            raise DatasetError(
                f"{reader.meta.root} has no camera {', '.join(missing)}, at which the policy looks; "
                f"there are: {', '.join(reader.cameras) or 'none'}"
            )
        return cameras

    def _found_streams(self, robot: Robot, mapping: Mapping[str, Any]) -> dict[str, Callable[[int, int], Array]]:
        """What a policy may look at besides cameras, of (episode, row): as far as the dataset is of this robot."""
        features, root = self._reader.meta.features, self._reader.meta.root
        given = mapping.get("state_streams", ())
        keys = tuple(mapping.get("state_keys", (STATE,))) if given else (STATE,)

        def reads(keys: Sequence[str], part: slice) -> Callable[[int, int], Array]:
            def read(episode: int, row: int) -> Array:
                columns = self._reader.columns(episode, keys)
                return np.concatenate([columns[key][row] for key in keys], dtype=np.float64)[part]

            return read

        try:
            streams = state_streams(features, keys, given, robot)
        except ValueError as error:
            raise DatasetError(f"{root}: {error}") from error
        found = {stream: reads(keys, part) for stream, part in slices(streams, robot).items()}
        if streams and not given and SENT in self._reader.keys:
            found["commanded_joints"] = reads([SENT], slice(0, len(robot.joints)))
        unknown = [stream for stream in self._look.proprioception if stream not in found]
        if unknown:
            held = ", ".join(found) or f"nothing of a {robot.name}, as far as its names, or data.state_streams, tell"
            raise DatasetError(
                f"{root} does not hold what the policy looks at besides cameras: {', '.join(unknown)}; it holds {held}"
            )
        return found

    def chosen(self, count: int) -> list[int]:
        """At most `count` samples, evenly over the episodes that did not fail; raises DatasetError where all did."""
        meta = self._reader.meta
        rows = [
            index
            for episode, those in zip(meta.episodes, self.samples.episodes, strict=True)
            if meta.details(episode).get("success") is not False
            for index in those
        ]
        if not rows:
            raise DatasetError(f"{meta.root} has no episode that was a success, of {len(meta.episodes)}")
        return [rows[place] for place in sorted({round(place) for place in np.linspace(0, len(rows) - 1, count)})]

    def locate(self, index: int) -> tuple[int, int]:
        """(episode, row in it) of a sample."""
        return self._reader.locate(index)

    def segment(self, index: int) -> tuple[int, int]:
        """(episode, first row of the segment) of a sample: across a gap in time no policy remembers anything."""
        episode, row = self.locate(index)
        return episode, self._reader.segment(episode, row).start

    def instruction(self, index: int) -> str:
        """What was to be done."""
        episode, row = self.locate(index)
        return self._reader.task(int(self._reader.columns(episode, ["task_index"])["task_index"][row, 0]))

    def window(self, index: int) -> Window:
        """What the policy would have looked at; what is before the segment is its first row."""
        (episode, row), look = self.locate(index), self._look
        back = [round(k * look.step_ns * self._fps / NANOSECONDS_PER_SECOND) for k in reversed(range(look.length))]
        first = self.segment(index)[1]
        return tuple(self._observation(episode, max(first, row - rows)) for rows in back)

    def known(self, index: int) -> dict[str, Array]:
        """Of the robot, all that the dataset says of it, whatever the policy looks at: stream -> values."""
        episode, row = self.locate(index)
        return {stream: read(episode, row) for stream, read in self._streams.items()}

    def later(self, index: int, camera: str, ahead_s: float) -> Image | None:
        """The frame that a camera of the policy saw so much later; None where the segment was over by then."""
        episode, row = self.locate(index)
        then = row + round(ahead_s * self._fps)
        if camera not in self._cameras or then not in self._reader.segment(episode, row):
            return None
        return self._image(episode, camera, then)

    @property
    def _fps(self) -> int:
        return self._reader.meta.fps

    def _observation(self, episode: int, row: int) -> Observation:
        return Observation(
            _START_NS + row * NANOSECONDS_PER_SECOND // self._fps,
            {camera: self._image(episode, camera, row) for camera in self._cameras},
            {stream: self._streams[stream](episode, row) for stream in self._look.proprioception},
        )

    def _image(self, episode: int, camera: str, row: int) -> Image:
        return np.asarray(self._reader.images(episode, self._cameras[camera], [row])[0])


def _scales(mapping: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of `mapping`'s action what the dataset alone knows: how much 1.0 of its values is."""
    given = mapping.get("action")
    names = set(RecordedAction.model_fields) - set(ActionSpec.model_fields)
    return {name: given[name] for name in names if name in given} if isinstance(given, Mapping) else {}
