"""A dataset as a policy would have seen it: windows with frames as recorded, and what was done from there on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros.policies.policy import Policy, SeesCameras
from vla_ros.recording.features import IMAGES, SENT, STATE, joint_names
from vla_ros.recording.files import DatasetError
from vla_ros.recording.reader import DatasetReader, camera_name
from vla_ros.robots.robot import Robot
from vla_ros.training.labels import COLUMNS
from vla_ros.training.windows import ActionSamples, DataConfig
from vla_ros.values import NANOSECONDS_PER_SECOND, Array, Image, Observation, Window

_START_NS = NANOSECONDS_PER_SECOND  # of every episode: a stamp of zero means that there is none


class Recorded:
    """The rows of a dataset's episodes, by their index in `samples`, for one policy.

    `mapping`: what `DataConfig` is told of a dataset of others (source, action_key, action_names, camera_keys).
    Raises DatasetError for a dataset that is none, or lacks what the policy looks at.
    """

    def __init__(self, policy: Policy, robot: Robot, root: Path, mapping: Mapping[str, Any]) -> None:
        self._look = policy.window_spec
        self._reader = DatasetReader(root)
        keys = self._found_keys(dict(mapping.get("camera_keys", {})))
        self._cameras = {camera: camera_name(key) for camera, key in keys.items()}
        self._streams = self._found_streams(robot)
        if isinstance(policy, SeesCameras):
            shapes = {camera: self._reader.meta.features.find(key).shape for camera, key in keys.items()}
            policy.check_cameras({camera: (shape[1], shape[0]) for camera, shape in shapes.items()})
        is_ours = all(key in self._reader.keys for key in COLUMNS)
        keys = keys or {name: IMAGES + name for name in self._reader.cameras[:1]}  # samples have one at least
        self.samples = ActionSamples(
            [root],
            DataConfig.model_validate(
                {
                    "source": "poses" if is_ours else "column",
                    **mapping,
                    "camera_keys": keys,
                    "cameras": tuple(keys),
                    "code_cameras": tuple(keys)[:1],
                    "action": policy.action_spec,
                    "state_keys": (),
                    "successes_only": False,  # left out by `chosen`: so an episode's number is the dataset's
                }
            ),
        )
        if is_ours and self.samples.robot != robot.name:
            raise DatasetError(f"{root} was recorded with a {self.samples.robot}, the policy is for a {robot.name}")

    def _found_keys(self, given: Mapping[str, str]) -> dict[str, str]:
        """camera of the policy -> its key in the dataset."""
        reader = self._reader
        looks_at = reader.cameras if self._look.cameras is None else self._look.cameras
        keys = {camera: given.get(camera, IMAGES + camera) for camera in looks_at}
        missing = [camera_name(key) for key in keys.values() if camera_name(key) not in reader.cameras]
        if missing:
            raise DatasetError(
                f"{reader.meta.root} has no camera {', '.join(missing)}, at which the policy looks; "
                f"there are: {', '.join(reader.cameras) or 'none'}"
            )
        return keys

    def _found_streams(self, robot: Robot) -> dict[str, Callable[[int, int], Array]]:
        """What a policy may look at besides cameras, of (episode, row): as far as the dataset is of this robot."""
        joints = len(robot.joints)

        def reads(key: str, part: slice) -> Callable[[int, int], Array]:
            return lambda episode, row: np.asarray(
                self._reader.columns(episode, [key])[key][row, part], dtype=np.float64
            )

        names = {feature.key: feature.names for feature in self._reader.meta.features.features}
        found: dict[str, Callable[[int, int], Array]] = {}
        if names.get(STATE) == joint_names(robot):
            found = {"joints": reads(STATE, slice(0, joints)), "gripper": reads(STATE, slice(joints, None))}
            if SENT in names:
                found["commanded_joints"] = reads(SENT, slice(0, joints))
        unknown = [stream for stream in self._look.proprioception if stream not in found]
        if unknown:
            raise DatasetError(
                f"{self._reader.meta.root} does not hold what the policy looks at besides cameras: "
                f"{', '.join(unknown)}; it holds {', '.join(found) or f'nothing of a {robot.name}'}"
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

    def instruction(self, index: int) -> str:
        """What was to be done."""
        episode, row = self.locate(index)
        return self._reader.task(int(self._reader.columns(episode, ["task_index"])["task_index"][row, 0]))

    def window(self, index: int) -> Window:
        """What the policy would have looked at; what is before the episode is its first row."""
        (episode, row), look = self.locate(index), self._look
        back = [round(k * look.step_ns * self._fps / NANOSECONDS_PER_SECOND) for k in reversed(range(look.length))]
        return tuple(self._observation(episode, max(0, row - rows)) for rows in back)

    def known(self, index: int) -> dict[str, Array]:
        """Of the robot, all that the dataset says of it, whatever the policy looks at: stream -> values."""
        episode, row = self.locate(index)
        return {stream: read(episode, row) for stream, read in self._streams.items()}

    def later(self, index: int, camera: str, ahead_s: float) -> Image | None:
        """The frame that a camera of the policy saw so much later; None where the episode was over by then."""
        episode, row = self.locate(index)
        then = row + round(ahead_s * self._fps)
        if camera not in self._cameras or then >= self._reader.meta.episodes[episode].length:
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
