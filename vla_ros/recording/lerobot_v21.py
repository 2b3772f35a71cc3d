"""Writer of LeRobot's format v2.1, which GR00T and openpi read: data and videos by episode, metadata as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.recording.dataset_v21 import DATA_PATH_21, EPISODES, STATS, TASKS, VERSION_21, VIDEO_PATH_21
from vla_ros.recording.features import ACTION, DEFAULTS, IMAGES, STATE, Feature, Features
from vla_ros.recording.files import CHUNKS_SIZE, DatasetError, Layout, make_folder, move, reported, write_atomically
from vla_ros.recording.schemas import data_schema, data_table, json_file, new_info, parquet
from vla_ros.recording.statistics import of_rows
from vla_ros.recording.storing.catalogue import Finished, video_info


class V21Writer:
    """A new dataset at `root`, of finished episodes; there is a dataset once `close` has returned."""

    def __init__(self, root: Path, features: Features) -> None:
        """Raises DatasetError where `root` cannot be written, or a feature cannot be stored."""
        data_schema(features)
        self._layout = Layout(root, DATA_PATH_21, VIDEO_PATH_21)
        self._features = features
        self._tasks: dict[str, int] = {}
        self._videos: dict[str, Mapping[str, Any]] = {}
        self._episodes: list[dict[str, Any]] = []
        self._stats: list[dict[str, Any]] = []
        self._frames = 0
        with reported(f"{root} cannot be made"):
            make_folder(root)

    def add(self, finished: Finished, tasks: Sequence[str], details: bytes) -> None:
        """Make an episode part of the dataset; `tasks`: of every row; `details`: the content of its file."""
        episode = len(self._episodes)
        chunk, columns = episode // CHUNKS_SIZE, self._with_defaults(finished, tasks)
        for feature in self._features.features:
            if feature.is_video:
                source = finished.folder / f"{feature.key.removeprefix(IMAGES)}.mp4"
                move(source, self._layout.video_file(feature.key, chunk, episode))
                self._videos.setdefault(feature.key, video_info(finished.videos[feature.key]))
        table = data_table(self._features, columns).replace_schema_metadata(self._described())
        write_atomically(self._layout.data_file(chunk, episode), parquet(table))
        write_atomically(self._layout.details_file(episode), details)
        self._episodes.append(
            {"episode_index": episode, "tasks": list(dict.fromkeys(tasks)), "length": finished.length}
        )
        stats = {}
        for feature in (*self._features.features, *DEFAULTS):
            entry = finished.image_stats[feature.key] if feature.is_video else of_rows(columns[feature.key])
            stats[feature.key] = {name: value.tolist() for name, value in entry.items()}
        self._stats.append({"episode_index": episode, "stats": stats})
        self._frames += finished.length

    def close(self) -> None:
        """Write the metadata; raises DatasetError."""
        tasks = [{"task_index": number, "task": text} for text, number in self._tasks.items()]
        meta = self._layout.root / "meta"
        for name, lines in ((EPISODES, self._episodes), (STATS, self._stats), (TASKS, tasks)):
            write_atomically(meta / name, "".join(json.dumps(line) + "\n" for line in lines).encode())
        write_atomically(self._layout.info, json_file(self._info()))

    def _info(self) -> Mapping[str, Any]:
        described = dict(new_info(self._features)["features"])
        for key, said in self._videos.items():
            described[key] = {**described[key], "info": dict(said)}
        return {
            "codebase_version": VERSION_21,
            "robot_type": self._features.robot_type,
            "total_episodes": len(self._episodes),
            "total_frames": self._frames,
            "total_tasks": len(self._tasks),
            "total_videos": len(self._episodes) * len(self._features.cameras),
            "total_chunks": -(-len(self._episodes) // CHUNKS_SIZE),
            "chunks_size": CHUNKS_SIZE,
            "fps": self._features.fps,
            "splits": {"train": f"0:{len(self._episodes)}"},
            "data_path": DATA_PATH_21,
            "video_path": VIDEO_PATH_21 if self._features.cameras else None,
            "features": described,
        }

    def _with_defaults(self, finished: Finished, tasks: Sequence[str]) -> Mapping[str, NDArray[Any]]:
        """All columns, LeRobot's own too."""
        frame = np.arange(finished.length, dtype=np.int64)
        return {
            **finished.columns,
            "timestamp": (frame / self._features.fps).astype(np.float32),
            "frame_index": frame,
            "episode_index": np.full(finished.length, len(self._episodes), dtype=np.int64),
            "index": self._frames + frame,
            "task_index": np.array([self._tasks.setdefault(task, len(self._tasks)) for task in tasks], dtype=np.int64),
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
