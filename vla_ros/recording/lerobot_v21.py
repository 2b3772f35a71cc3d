"""Writer of LeRobot's format v2.1, which GR00T and openpi read: data and videos by episode, metadata as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros.recording.columns import Column
from vla_ros.recording.dataset_v21 import DATA_PATH_21, EPISODES, STATS, TASKS, VERSION_21, VIDEO_PATH_21
from vla_ros.recording.features import ACTION, DEFAULTS, IMAGES, STATE, Feature, Features
from vla_ros.recording.files import CHUNKS_SIZE, DatasetError, Layout, make_folder, move, write_atomically
from vla_ros.recording.schemas import Stats, data_table, json_file, new_info, parquet


class V21Writer:
    """A new dataset at `root`, of whole episodes; there is a dataset once `close` has returned.

    `videos`: key -> what info.json says of a video (codec, pixel format, rate); `tasks`: number -> text, of all rows.
    """

    def __init__(
        self, root: Path, features: Features, tasks: Mapping[int, str], videos: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self._layout = Layout(root, DATA_PATH_21, VIDEO_PATH_21)
        self._features, self._tasks, self._videos = features, dict(tasks), videos
        self._episodes: list[dict[str, Any]] = []
        self._stats: list[dict[str, Any]] = []
        make_folder(root)

    @property
    def episodes(self) -> int:
        """How many there are."""
        return len(self._episodes)

    @property
    def frames(self) -> int:
        """Rows of all episodes."""
        return sum(episode["length"] for episode in self._episodes)

    def add(
        self,
        columns: Mapping[str, Column],
        videos: Mapping[str, Path],
        stats: Stats,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Add an episode: key -> (T, N) of every column, LeRobot's own too; key -> mp4 of T frames, moved here."""
        episode, numbers = self.episodes, np.asarray(columns["task_index"]).reshape(-1)
        unknown = sorted(set(numbers.tolist()) - set(self._tasks))
        if unknown:
            raise DatasetError(f"episode {episode} has task_index {unknown}, of which no task is known: {self._tasks}")
        chunk = episode // CHUNKS_SIZE
        for key, path in videos.items():
            move(path, self._layout.video_file(key, chunk, episode))
        table = data_table(self._features, columns)
        write_atomically(
            self._layout.data_file(chunk, episode), parquet(table.replace_schema_metadata(self._described()))
        )
        if details:
            write_atomically(self._layout.details_file(episode), json_file(details))
        in_order = dict.fromkeys(numbers.tolist())
        self._episodes.append(
            {"episode_index": episode, "tasks": [self._tasks[number] for number in in_order], "length": len(numbers)}
        )
        as_lists = {key: {name: value.tolist() for name, value in entry.items()} for key, entry in stats.items()}
        self._stats.append({"episode_index": episode, "stats": as_lists})

    def close(self, system: Mapping[str, Any] | None = None) -> None:
        """Write the metadata; `system`: what recorded the dataset."""
        tasks = [{"task_index": number, "task": text} for number, text in sorted(self._tasks.items())]
        meta = self._layout.root / "meta"
        for name, lines in ((EPISODES, self._episodes), (STATS, self._stats), (TASKS, tasks)):
            write_atomically(meta / name, "".join(json.dumps(line) + "\n" for line in lines).encode())
        if system:
            write_atomically(self._layout.system, json_file(system))
        write_atomically(self._layout.info, json_file(self._info()))

    def _info(self) -> Mapping[str, Any]:
        described = dict(new_info(self._features)["features"])
        for key, said in self._videos.items():
            described[key] = {**described[key], "info": dict(said)}
        return {
            "codebase_version": VERSION_21,
            "robot_type": self._features.robot_type,
            "total_episodes": self.episodes,
            "total_frames": self.frames,
            "total_tasks": len(self._tasks),
            "total_videos": self.episodes * len(self._features.cameras),
            "total_chunks": -(-self.episodes // CHUNKS_SIZE),
            "chunks_size": CHUNKS_SIZE,
            "fps": self._features.fps,
            "splits": {"train": f"0:{self.episodes}"},
            "data_path": DATA_PATH_21,
            "video_path": VIDEO_PATH_21 if self._features.cameras else None,
            "features": described,
        }

    def _described(self) -> Mapping[str, str]:
        """The columns as the library `datasets` before release 4 knows them, which v2.1's readers use: no `List`."""
        described: dict[str, Any] = {}
        for feature in (*self._features.columns, *DEFAULTS):
            value = {"dtype": feature.dtype, "_type": "Value"}
            (length,) = feature.shape
            described[feature.key] = value if length == 1 else {"feature": value, "length": length, "_type": "Sequence"}
        return {"huggingface": json.dumps({"info": {"features": described}})}


def modality(features: Features) -> Mapping[str, Any]:
    """GR00T's meta/modality.json: which dimensions are arm and gripper, and what cameras are called.

    Raises:
        DatasetError: state or action are missing, or their dimensions have no names, or arm and gripper are mixed.
    """
    return {
        "state": _groups(_named(features, STATE)),
        "action": _groups(_named(features, ACTION)),
        "video": {
            feature.key.removeprefix(IMAGES): {"original_key": feature.key}
            for feature in features.features
            if feature.is_video
        },
        "annotation": {"human.task_description": {"original_key": "task_index"}},
    }


def _named(features: Features, key: str) -> Feature:
    try:
        feature = features.find(key)
    except ValueError as error:
        raise DatasetError(f"modality.json needs {key}: {error}") from None
    if not feature.names or len(feature.names) != feature.shape[0]:
        raise DatasetError(f"modality.json needs names of the {feature.shape[0]} dimensions of {key}: {feature.names}")
    return feature


def _groups(feature: Feature) -> Mapping[str, Mapping[str, int]]:
    """Group -> from dimension `start` to before `end`; each side of a robot with two arms is called for itself."""
    groups: dict[str, dict[str, int]] = {}
    for place, name in enumerate(feature.names or ()):
        side = next((f"{side}_" for side in ("left", "right") if side in name.lower()), "")
        group = side + ("gripper" if "gripper" in name.lower() or "finger" in name.lower() else "arm")
        found = groups.setdefault(group, {"start": place, "end": place})
        if found["end"] != place:
            raise DatasetError(f"{feature.key}: the dimensions of {group} do not stand together: {feature.names}")
        found["end"] = place + 1
    return groups
