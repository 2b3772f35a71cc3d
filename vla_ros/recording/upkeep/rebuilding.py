"""A dataset's info.json from what else there is, and statistics of what lost them: for repair and compaction."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vla_ros.recording import features as feature_sets
from vla_ros.recording import schemas
from vla_ros.recording.features import DEFAULTS, Feature, Features
from vla_ros.recording.files import DATA_PATH, VIDEO_PATH, DatasetError
from vla_ros.recording.statistics import ImageStatistics, of_rows
from vla_ros.recording.storing.catalogue import video_info
from vla_ros.recording.upkeep.checking_rows import COUNTED, check_image_statistics, check_schema, compare, summary
from vla_ros.recording.upkeep.findings import errors
from vla_ros.recording.upkeep.scanning import INFO, SYSTEM, V30, Scan, column, is_number, schema_of, table, video
from vla_ros.recording.video import VideoReader, probe

_ENOUGH = 5  # files that are looked at to tell what all are like
_AT_ONCE = 16  # frames decoded at a time
_VERSION = re.compile(r"v\d+\.\d+")


def usable_info(found: Scan) -> tuple[Mapping[str, Any], str]:
    """info.json, or what it must have said, with what was wrong with it; raises DatasetError where nothing tells."""
    wrong = _wrong_info(found)
    return (found.info, "") if not wrong else (_rebuilt_info(found), f"info.json {wrong}")


def refuse_version(found: Scan) -> None:
    """Raise DatasetError for a dataset of another version than is repaired."""
    said = found.info.get("codebase_version")
    if said != V30 and isinstance(said, str) and _VERSION.fullmatch(said):
        raise DatasetError(
            f"{found.root} has version {said}; only {V30} can be repaired. `vla-ros dataset check` lists what "
            "helps this one"
        )


def _wrong_info(found: Scan) -> str:
    if not found.info:
        return f"could not be read ({next((each.reason for each in found.broken if each.path == INFO), 'it is empty')})"
    refuse_version(found)
    said = found.info.get("codebase_version")
    if said != V30:
        return f"had the version {said!r}"
    if not found.fps:
        return f"had the rate {found.info.get('fps')!r}"
    try:
        described = feature_sets.from_info(found.info)
        keys = {feature.key for feature in (*described.columns, *DEFAULTS)}
        schemas.data_schema(described)
    except (ValueError, KeyError) as error:
        return f"could not be understood ({error})"
    videos = {path.split("/")[1] for path in found.files("videos", ".mp4")}
    if videos - set(found.video_keys):
        return f"did not name the videos {', '.join(sorted(videos - set(found.video_keys)))}"
    for name, pattern in (("data_path", DATA_PATH), ("video_path", VIDEO_PATH)):
        if found.info.get(name) != pattern and (name == "data_path" or videos):
            return f"had the {name} {found.info.get(name)!r}"
    schemas_there = [schema for _, schema in _schemas(found)]
    if not set(found.features) >= keys or (schemas_there and not any(_is_of(found, one) for one in schemas_there)):
        return "had other columns than every file of data"
    # One file that differs is damaged; where all do, it is info.json.
    rates, sizes = _of_videos(found)
    rates = rates or [rate for rate in map(_rate, _tables(found)) if rate][:_ENOUGH]
    if rates and found.fps not in rates:
        return f"had a rate of {found.fps} Hz, which no file has"
    for key, there in sizes.items():
        if tuple(found.features[key]["shape"][:2]) not in there:
            return f"had another size of {key} than every video"
    return ""


def _schemas(found: Scan) -> Iterator[tuple[str, pa.Schema]]:
    for path in found.files("data", ".parquet"):
        schema = schema_of(found, path)
        if schema is not None:
            yield path, schema


def _is_of(found: Scan, schema: pa.Schema) -> bool:
    return not errors(check_schema(found, "", schema))


def _of_videos(found: Scan) -> tuple[list[int], dict[str, set[tuple[int, int]]]]:
    """Rates, and key -> sizes, of some videos that can be read."""
    rates: list[int] = []
    sizes: dict[str, set[tuple[int, int]]] = {}
    for key in found.video_keys:
        paths = [path for path in found.files(f"videos/{key}", ".mp4") if video(found, path) is not None][:_ENOUGH]
        for path in paths:
            with suppress(DatasetError):  # another rate in the middle
                info = probe(found.root / path)
                rates.append(info.fps)
                sizes.setdefault(key, set()).add((info.height, info.width))
    return rates, sizes


def _rebuilt_info(found: Scan) -> dict[str, Any]:
    counted = Counter(columns for columns in (_columns(schema) for _, schema in _schemas(found)) if columns)
    columns = counted.most_common(1)[0][0] if counted else ()
    if not columns:
        raise DatasetError(f"{found.root}: neither info.json nor any file below data can be read")
    videos, described = [], {}
    rate = 0
    for key in sorted({path.split("/")[1] for path in found.files("videos", ".mp4")}):
        for path in found.files(f"videos/{key}", ".mp4"):
            if video(found, path) is not None:
                info = probe(found.root / path)
                rate = rate or info.fps
                videos.append(Feature(key, "video", (info.height, info.width, 3), ("height", "width", "channels")))
                described[key] = video_info(info)
                break
    rate = rate or next((_rate(rows) for rows in _tables(found)), 0)
    if not rate:
        raise DatasetError(f"{found.root}: neither info.json nor videos nor rows show the frame rate")
    try:
        features = feature_sets.from_info({**_noted(found), "fps": rate})
    except ValueError:
        features = Features(rate, "", ())
    shapes = {feature.key: feature.shape for feature in (*columns, *videos)}
    if {feature.key: feature.shape for feature in features.features} != shapes:  # names are lost
        features = Features(rate, features.robot_type, (*columns, *videos))
    return schemas.updated_info(schemas.new_info(features), 0, 0, 0, described)


def _tables(found: Scan) -> Iterator[pa.Table]:
    for path in found.files("data", ".parquet"):
        rows = table(found, path)
        if rows is not None and rows.num_rows > 1:
            yield rows


def _columns(schema: pa.Schema) -> tuple[Feature, ...]:
    features, others = [], {feature.key for feature in DEFAULTS}
    names = {str(pa.type_for_alias(name)): name for name in feature_sets.NUMBERS}
    for field in schema:
        is_list = pa.types.is_fixed_size_list(field.type)
        name = names.get(str(field.type.value_type if is_list else field.type))
        if name is None:
            return ()
        if field.name not in others:
            features.append(Feature(field.name, name, (field.type.list_size if is_list else 1,)))
    return tuple(features)


def _rate(rows: pa.Table) -> int:
    times = rows.column("timestamp").to_numpy() if "timestamp" in rows.column_names else np.zeros(2)
    step_s = float(times[1] - times[0])
    return round(1 / step_s) if step_s > 0 else 0


def _noted(found: Scan) -> Mapping[str, Any]:
    """What a recorder noted of its last session; empty where none did."""
    try:
        session = json.loads((found.root / SYSTEM).read_text(encoding="utf-8"))["sessions"][-1]
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return {}
    return session if isinstance(session, dict) else {}


def better_statistics(
    found: Scan,
    key: str,
    said: Mapping[str, NDArray[Any]] | None,
    rows: pa.Table,
    clip: tuple[str, int] | None,
) -> tuple[Mapping[str, NDArray[Any]], bool]:
    """An episode's statistics of a feature, and whether they had to be made again, of its rows or its frames."""
    if is_number(found.features[key]):
        values = column(rows, key).reshape(rows.num_rows, -1)
        if (
            said is not None
            and set(schemas.STATISTICS) <= set(said)
            and not [each for each in compare("", key, said, summary(values)) if key in COUNTED or errors([each])]
        ):
            return said, False
        return of_rows(values), True
    if said is not None and set(schemas.STATISTICS) <= set(said) and not errors(check_image_statistics("", key, said)):
        return said, False
    if clip is None:
        raise DatasetError(f"{key} has no video, and no statistics")
    return image_statistics(found.root / clip[0], clip[1], rows.num_rows), True


def image_statistics(path: Path, first: int, length: int) -> Mapping[str, NDArray[Any]]:
    """Statistics of `length` frames of a video from frame `first` on, decoded; raises DatasetError."""
    images = ImageStatistics()
    reader = VideoReader(path)
    try:
        for start in range(first, first + length, _AT_ONCE):
            for image in reader.frames(range(start, min(start + _AT_ONCE, first + length))):
                images.add(image)
    finally:
        reader.close()
    return images.stats()
