"""The files of a LeRobot v3.0 dataset, column for column as LeRobot 0.6.1 writes them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vla_ros.recording.features import DEFAULTS, NUMBERS, Feature, Features
from vla_ros.recording.files import CHUNKS_SIZE, DATA_PATH, VIDEO_PATH, DatasetError

VERSION = "v3.0"
#: What LeRobot 0.6.1 keeps of every feature, in its order.
STATISTICS = ("min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99")

#: feature -> statistic -> (N,), (3, 1, 1) for images; `count` (1,) int64, all others float64.
Stats = Mapping[str, Mapping[str, NDArray[Any]]]

MERGED = ("min", "max", "mean", "std", "count")

_ARROW = {name: pa.type_for_alias(name) for name in NUMBERS}


@dataclass(frozen=True)
class Clip:
    """Where an episode's frames of one camera are: file (chunk, file), and seconds in it, [from_s, to_s)."""

    chunk: int
    file: int
    from_s: float
    to_s: float


@dataclass(frozen=True)
class EpisodeMeta:
    """One episode as meta/episodes has it: its data are rows [from_index, to_index) of the dataset."""

    index: int
    tasks: tuple[str, ...]
    length: int
    chunk: int  # of its data
    file: int
    from_index: int
    to_index: int
    clips: Mapping[str, Clip]  # key of a video -> where its frames are
    metadata_chunk: int  # of its line in meta/episodes
    metadata_file: int

    @property
    def task(self) -> str:
        """What is to be done, in words."""
        return self.tasks[0] if self.tasks else ""


def data_schema(features: Features) -> pa.Schema:
    """Columns of data/: vectors as lists of fixed size, what has one value as it is; raises DatasetError.

    The key `huggingface` says the same to the library `datasets`.
    """
    fields: list[pa.Field] = []
    described: dict[str, Any] = {}
    for feature in (*features.columns, *DEFAULTS):
        value = _arrow(feature)
        name = {"dtype": feature.dtype, "_type": "Value"}
        if feature.shape == (1,):
            fields.append(pa.field(feature.key, value))
            described[feature.key] = name
        else:
            (length,) = feature.shape
            fields.append(pa.field(feature.key, pa.list_(pa.field("element", value), length)))
            described[feature.key] = {"feature": name, "length": length, "_type": "List"}
    return pa.schema(fields, {"huggingface": json.dumps({"info": {"features": described}})})


def data_table(features: Features, columns: Mapping[str, NDArray[Any]]) -> pa.Table:
    """Rows of data/; `columns`: key -> (T, N), or (T,) of what has one value, for all columns and `DEFAULTS`."""
    schema, arrays = data_schema(features), []
    for field in schema:
        values = np.ascontiguousarray(columns[field.name])
        if pa.types.is_fixed_size_list(field.type):
            flat = pa.array(values.reshape(-1), type=field.type.value_type)
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=field.type))
        else:
            arrays.append(pa.array(values.reshape(-1), type=field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def episodes_schema(features: Features) -> pa.Schema:
    """Columns of meta/episodes/: where an episode is, and its statistics."""
    whole, real = pa.int64(), pa.float64()
    fields = [
        pa.field("episode_index", whole),
        pa.field("tasks", _list(pa.string())),
        pa.field("length", whole),
        *(pa.field(name, whole) for name in ("data/chunk_index", "data/file_index")),
        *(pa.field(name, whole) for name in ("dataset_from_index", "dataset_to_index")),
    ]
    for feature in features.features:
        if feature.is_video:
            fields += [pa.field(f"videos/{feature.key}/{name}", whole) for name in ("chunk_index", "file_index")]
            fields += [pa.field(f"videos/{feature.key}/{name}", real) for name in ("from_timestamp", "to_timestamp")]
    for feature in (*features.features, *DEFAULTS):
        value = _list(_list(_list(real))) if feature.is_video else _list(real)
        for statistic in STATISTICS:
            kind = _list(whole) if statistic == "count" else value
            fields.append(pa.field(f"stats/{feature.key}/{statistic}", kind))
    fields += [pa.field(f"meta/episodes/{name}", whole) for name in ("chunk_index", "file_index")]
    return pa.schema(fields)


def episodes_table(features: Features, episodes: Sequence[tuple[EpisodeMeta, Stats]]) -> pa.Table:
    """Lines of meta/episodes/, one per episode."""
    schema = episodes_schema(features)
    return pa.Table.from_pylist([_episode_line(episode, stats) for episode, stats in episodes], schema=schema)


def tasks_table(tasks: Mapping[int, str]) -> pa.Table:
    """meta/tasks.parquet: number -> text, with what tells pandas that the text is the index."""
    unicode = {"pandas_type": "unicode", "numpy_type": "object"}
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [{"name": None, "field_name": None, **unicode, "metadata": {"encoding": "UTF-8"}}],
        "columns": [
            {
                "name": "task_index",
                "field_name": "task_index",
                "pandas_type": "int64",
                "numpy_type": "int64",
                "metadata": None,
            },
            {"name": "task", "field_name": "task", **unicode, "metadata": None},
        ],
        "attributes": {},
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.3.3",  # whose metadata this is
    }
    schema = pa.schema(
        [pa.field("task_index", pa.int64()), pa.field("task", pa.string())], {"pandas": json.dumps(pandas)}
    )
    return pa.table({"task_index": list(tasks), "task": list(tasks.values())}, schema=schema)


def parquet(table: pa.Table) -> bytes:
    """A table as a file: one row group, snappy, as LeRobot writes them; with checksums, by which damage is found."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=max(table.num_rows, 1), compression="snappy", write_page_checksum=True)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def new_info(features: Features) -> dict[str, Any]:
    """info.json of a dataset without episodes, keys in LeRobot's order."""
    described = {}
    for feature in (*features.features, *DEFAULTS):
        names = list(feature.names) if feature.names else None
        described[feature.key] = {"dtype": feature.dtype, "shape": list(feature.shape), "names": names}
    return {
        "codebase_version": VERSION,
        "fps": features.fps,
        "features": described,
        "total_episodes": 0,
        "total_frames": 0,
        "total_tasks": 0,
        "chunks_size": CHUNKS_SIZE,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if features.cameras else None,
        "robot_type": features.robot_type,
        "splits": {"train": "0:0"},
    }


def updated_info(
    info: Mapping[str, Any], episodes: int, frames: int, tasks: int, videos: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """info.json after an episode; `videos`: key -> what `video_info` says, kept where there is something already."""
    described = {
        key: {**entry, "info": dict(videos[key])} if key in videos and not entry.get("info") else entry
        for key, entry in info["features"].items()
    }
    return {
        **info,
        "features": described,
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": tasks,
        "splits": {"train": f"0:{episodes}"},
    }


def json_file(content: Any) -> bytes:
    """JSON as LeRobot writes it, ASCII, with numbers only that JSON has; raises DatasetError for others."""
    try:
        return json.dumps(content, indent=4, allow_nan=False).encode()
    except (ValueError, TypeError) as error:
        raise DatasetError(f"{str(content)[:80]} ... cannot be written as JSON: {error}") from error


def stats_file(stats: Stats) -> bytes:
    """meta/stats.json."""
    return json_file(
        {
            key: {name: entry[name].tolist() for name in STATISTICS if name in entry}  # in this order
            for key, entry in stats.items()
        }
    )


def stats_from_json(content: Any) -> Stats:
    """What meta/stats.json says; lists as arrays. Raises DatasetError for what are no numbers by feature and name."""
    if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
        raise DatasetError("statistics should be an object of each feature's, with min, max, mean, std and count")
    return {key: {name: statistic(key, name, value) for name, value in entry.items()} for key, entry in content.items()}


def statistic(key: str, name: str, value: Any) -> NDArray[Any]:
    """One statistic of the feature `key` as an array; raises DatasetError for what is no number."""
    try:
        return np.atleast_1d(np.asarray(value, dtype=np.int64 if name == "count" else np.float64))
    except (TypeError, ValueError, OverflowError) as error:
        raise DatasetError(f"{name} of {key} is {value}, which is not a number: {error}") from None


def fitting(stats: Mapping[str, NDArray[Any]], feature: Feature) -> str:
    """What keeps statistics from being those of a feature: some are missing, or of another size; else empty."""
    if missing := [name for name in MERGED if name not in stats]:
        return f"there is no {', '.join(missing)} of {feature.key}"
    size = feature.shape[-1] if feature.is_image else math.prod(feature.shape)
    for name in (name for name in STATISTICS if name in stats):
        wanted = 1 if name == "count" else size
        if stats[name].size != wanted:
            return f"{name} of {feature.key} has {stats[name].size} values, and there should be {wanted}"
    return "" if stats["count"].min() > 0 else f"count of {feature.key} is {stats['count'].min()}"


def _episode_line(episode: EpisodeMeta, stats: Stats) -> dict[str, Any]:
    line: dict[str, Any] = {
        "episode_index": episode.index,
        "tasks": list(episode.tasks),
        "length": episode.length,
        "data/chunk_index": episode.chunk,
        "data/file_index": episode.file,
        "dataset_from_index": episode.from_index,
        "dataset_to_index": episode.to_index,
    }
    for key, clip in episode.clips.items():
        line[f"videos/{key}/chunk_index"] = clip.chunk
        line[f"videos/{key}/file_index"] = clip.file
        line[f"videos/{key}/from_timestamp"] = clip.from_s
        line[f"videos/{key}/to_timestamp"] = clip.to_s
    for key, entry in stats.items():
        for name, value in entry.items():
            line[f"stats/{key}/{name}"] = value.tolist()
    line["meta/episodes/chunk_index"] = episode.metadata_chunk
    line["meta/episodes/file_index"] = episode.metadata_file
    return line


def is_storable(feature: Feature) -> bool:
    """Whether it can be a column: numbers, in one dimension."""
    return feature.is_number and len(feature.shape) == 1 and feature.shape[0] >= 1


def _arrow(feature: Feature) -> pa.DataType:
    if not is_storable(feature):
        raise DatasetError(
            f"{feature.key}: a column has a dtype of {', '.join(_ARROW)} and a shape (N,), got {feature.dtype} "
            f"{feature.shape}"
        )
    return _ARROW[feature.dtype]


def _list(value: pa.DataType) -> pa.DataType:
    return pa.list_(pa.field("element", value))
