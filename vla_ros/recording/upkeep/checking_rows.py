"""Are an episode's rows what its metadata says: columns, counts, numbering, times, tasks, values, statistics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from vla_ros.recording import features as keys
from vla_ros.recording.columns import other_step_s
from vla_ros.recording.segments import first_rows
from vla_ros.recording.upkeep.findings import Finding, Kind, error, warning
from vla_ros.recording.upkeep.scanning import INFO, NUMBERS, Episode, Scan, column, is_number
from vla_ros.values import Array

TOLERANCE_S = 1e-4  # LeRobot's, between a row's time and its frame's
_PER_STATISTICS = ("min", "max", "mean", "std")
_ROUNDING = 1e-5  # of float32 in somebody's sums, relative to the largest value
_CONVERT = "record the episode again, or keep the dataset for what needs no such column"
_UNMARKED = 0.02  # share of rows that may show the frame before without being marked
#: Features whose statistics a policy is normalised by.
_NORMALISED = (keys.STATE, keys.ACTION)
#: Numbers of rows, episodes, tasks: nobody needs their statistics, which LeRobot leaves as they are where it renumbers.
COUNTED = ("episode_index", "index", "task_index")


def check_schema(found: Scan, path: str, schema: pa.Schema) -> Iterator[Finding]:
    """Columns against info.json."""
    wanted = {key: entry for key, entry in found.features.items() if entry.get("dtype") != "video"}
    for name in [name for name in schema.names if name not in wanted]:
        yield error(Kind.SCHEMA, path, f"column {name} is not among the features of info.json")
    for key, entry in wanted.items():
        if key not in schema.names:
            yield error(Kind.SCHEMA, path, f"column {key} is missing, but info.json has it", remedy=_CONVERT)
        elif is_number(entry) and not _fits(schema.field(key).type, entry):
            said = f"{entry['dtype']} {list(entry['shape'])}"
            yield error(Kind.SCHEMA, path, f"{key} is {schema.field(key).type}, info.json says {said}", remedy=_CONVERT)


def _fits(arrow: pa.DataType, feature: Mapping[str, Any]) -> bool:
    value, (size,) = NUMBERS[feature["dtype"]], feature["shape"]
    if pa.types.is_fixed_size_list(arrow):
        return bool(arrow.value_type == value and arrow.list_size == size)
    if pa.types.is_list(arrow) or pa.types.is_large_list(arrow):  # as the versions before v3.0 had them
        return bool(arrow.value_type == value)
    return bool(arrow == value and size == 1)


def check_rows(found: Scan, episode: Episode, rows: pa.Table) -> Iterator[Finding]:
    """One episode's rows against its metadata."""
    if rows.num_rows != episode.length:
        said = f"{rows.num_rows} rows where {episode.source} says {episode.length}"
        yield error(Kind.ROWS, episode.data, said, episode.index)
    count = rows.num_rows
    steps = np.arange(count)
    for key, expected in (
        ("frame_index", steps),
        ("episode_index", np.full(count, episode.index)),
        ("index", episode.first + steps),
    ):
        values = numbers(rows, key)
        if values is None or not np.array_equal(values.reshape(-1), expected):
            first = "" if values is None else _first_difference(values.reshape(-1), expected)
            yield error(Kind.INDEX, episode.data, f"{key} does not count the rows{first}", episode.index)
    times = numbers(rows, "timestamp")
    if times is None or times.size != count:
        yield error(Kind.TIMESTAMP, episode.data, "timestamp is not a number in every row", episode.index)
    else:
        yield from _check_times(found, episode, times.reshape(-1).astype(np.float64))
    yield from _check_tasks(found, episode, rows)
    yield from _check_values(found, episode, rows)
    yield from _check_statistics(found, episode, rows)


def _check_times(found: Scan, episode: Episode, times_s: Array) -> Iterator[Finding]:
    steps = np.arange(len(times_s))
    off_s = np.abs(times_s - steps / found.fps)
    if not (off_s > TOLERANCE_S).any():
        return  # NaN is reported as such
    row = int(np.nanargmax(off_s))
    said = f"timestamp is not frame_index / fps (fps {found.fps}) within {TOLERANCE_S} s"
    if (step_s := other_step_s(times_s, found.fps)) is not None:
        said += f", but rows are {step_s:.4g} s apart"
        rate = 1 / step_s if step_s > 0 else 0.0
        if abs(rate - round(rate)) < 0.01 * rate:
            remedy = f'write "fps": {round(rate)} in PATH/{INFO}, if that is the rate at which it was recorded'
            yield error(Kind.TIMESTAMP, episode.data, said, episode.index, remedy)
            return
    elif len(gaps := first_rows(times_s, steps, found.fps)) > 1 and keys.STAMP not in found.features:
        said += f": there is a gap before row {gaps[1]}, where `vla-ros convert` splits the episode"
    else:
        said += f", but up to {1000 * off_s[row]:.1f} ms off it (row {row})"
    yield error(Kind.TIMESTAMP, episode.data, said, episode.index)


def numbers(rows: pa.Table, key: str) -> Array | None:
    """A column's values, or None where they are not there, or no numbers."""
    if key not in rows.column_names:
        return None
    try:
        values = column(rows, key)
    except (ValueError, TypeError, pa.ArrowException):
        return None
    return values if values.dtype.kind in "biuf" else None


def bad_values(found: Scan, rows: pa.Table) -> Mapping[str, int]:
    """Column of numbers -> how many rows have one that is none."""
    bad: dict[str, int] = {}
    for key, entry in found.features.items() if rows.num_rows else ():
        if not is_number(entry) or key not in rows.column_names:
            continue
        values = numbers(rows, key)
        if values is None or len(values) != rows.num_rows:
            bad[key] = rows.num_rows
        elif wrong := int(np.sum(~np.isfinite(values.astype(np.float64).reshape(len(values), -1)).all(axis=1))):
            bad[key] = wrong
    return bad


def _first_difference(values: Array, expected: Array) -> str:
    at = int(np.argmax(values != expected)) if values.shape == expected.shape and values.size else 0
    return f": row {at} has {values[at]}, not {expected[at]}" if values.size else ""


def _check_tasks(found: Scan, episode: Episode, rows: pa.Table) -> Iterator[Finding]:
    used = numbers(rows, "task_index")
    if used is None:
        yield error(Kind.TASK, episode.data, "task_index has no whole numbers", episode.index)
        return
    texts = [found.tasks.get(int(number)) for number in np.unique(used)]
    if found.tasks and None in texts:
        unknown = [int(number) for number in np.unique(used) if int(number) not in found.tasks]
        yield error(Kind.TASK, episode.data, f"tasks {unknown} are not in meta/tasks.parquet", episode.index)
    elif found.tasks and set(texts) != set(episode.tasks):
        said = f"its rows have the tasks {texts}, {episode.source} says {list(episode.tasks)}"
        yield error(Kind.TASK, episode.data, said, episode.index)


def _check_values(found: Scan, episode: Episode, rows: pa.Table) -> Iterator[Finding]:
    for key, count in bad_values(found, rows).items():
        if numbers(rows, key) is None and rows.num_rows:
            said = f"{key} has rows of unequal length, or without a value"
            yield error(Kind.SCHEMA, episode.data, said, episode.index, _CONVERT)
            continue
        said = f"{key} has values that are not finite in {count} rows"
        severe = error if key in _NORMALISED else warning
        yield severe(Kind.NAN, episode.data, said, episode.index)
    stamps, repeated = numbers(rows, keys.STAMP), numbers(rows, keys.REPEATED)
    if stamps is None or repeated is None or len(stamps) < 2:
        return
    cameras = [key.removeprefix(keys.IMAGES) for key in found.video_keys]
    stamps, repeated = stamps.reshape(len(stamps), -1), repeated.reshape(len(repeated), -1)
    for number, camera in enumerate(cameras[: min(stamps.shape[1], repeated.shape[1])]):
        unmarked = (np.diff(stamps[:, number]) == 0) & (repeated[1:, number] == 0)
        if unmarked.sum() > max(1, _UNMARKED * len(stamps)):
            said = f"{unmarked.sum()} rows repeat the previous frame of {camera}, but {keys.REPEATED} does not mark it"
            remedy = f"record at a lower rate than the camera's, or find out why {camera} was slow"
            yield warning(Kind.REPEATED, episode.data, said, episode.index, remedy)


def _check_statistics(found: Scan, episode: Episode, rows: pa.Table) -> Iterator[Finding]:
    for key, entry in found.features.items():
        values = numbers(rows, key) if is_number(entry) else None
        if key not in episode.statistics:
            severe = error if key in _NORMALISED else warning
            yield severe(Kind.STATISTICS, episode.source, f"statistics of {key} are missing", episode.index)
        elif values is not None and len(values) and is_finite(values):
            yield from compare(episode.source, key, episode.statistics[key], summary(values), episode.index)
        elif not is_number(entry):
            yield from check_image_statistics(episode.source, key, episode.statistics[key], episode.index)


def is_finite(values: Array) -> bool:
    """Whether all are numbers."""
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())


def summary(values: Array) -> dict[str, Array]:
    """min, max, mean, std (N,) and count (1,) of rows (T,) or (T, N), in float64."""
    block = values.reshape(len(values), -1).astype(np.float64)
    return {
        "min": block.min(axis=0),
        "max": block.max(axis=0),
        "mean": block.mean(axis=0),
        "std": block.std(axis=0),
        "count": np.array([len(block)]),
    }


def compare(
    path: str, key: str, said: Mapping[str, Array], true: Mapping[str, Array], episode: int | None = None
) -> Iterator[Finding]:
    """Statistics that are written against those of the rows."""
    missing = [name for name in (*_PER_STATISTICS, "count") if name not in said]
    if missing:
        yield error(Kind.STATISTICS, path, f"{key} has no {', '.join(missing)}", episode)
        return
    if any(not np.isfinite(values).all() for values in said.values()):
        yield error(Kind.STATISTICS, path, f"{key} has values that are not finite", episode)
        return
    if any(said[name].reshape(-1).shape != true[name].shape for name in (*_PER_STATISTICS, "count")):
        yield error(Kind.STATISTICS, path, f"{key} has statistics of another size than its rows", episode)
        return
    scale = np.maximum(np.abs(true["min"]), np.abs(true["max"])) + 1e-9
    for name in (*_PER_STATISTICS, "count"):
        given = said[name].reshape(-1)
        off = np.abs(given - true[name])
        allowed = _ROUNDING * scale if name in ("min", "max", "mean") else 1e-3 * true[name] + 1e-7 * scale
        wrong = off > (allowed if name != "count" else 0.5)
        # E[x²] - E[x]² of large values that hardly differ: what LeRobot does up to 0.6.1.
        lost = (given < true[name] / 2) & (true[name] > 1e-12 * scale) if name == "std" else np.zeros_like(wrong)
        if not (wrong | lost).any():
            continue
        at = int(np.argmax(wrong | lost))
        text = f"{name} of {key}[{at}] is {given[at]:.9g}, that of the rows {true[name][at]:.9g}"
        if wrong.any():
            yield (warning if key in COUNTED else error)(Kind.STATISTICS, path, text, episode)
        else:
            yield warning(Kind.STATISTICS, path, f"{text} (LeRobot's std is inexact for large values)", episode)
    if not _quantiles_in_order(said, _ROUNDING * scale):
        yield error(Kind.STATISTICS, path, f"the quantiles of {key} are not in order", episode)


def check_image_statistics(
    path: str, key: str, said: Mapping[str, Array], episode: int | None = None
) -> Iterator[Finding]:
    """Statistics of a camera, which are not computed again: that would be to decode every video."""
    missing = [name for name in (*_PER_STATISTICS, "count") if name not in said]
    if missing:
        yield error(Kind.STATISTICS, path, f"{key} has no {', '.join(missing)}", episode)
    elif any(not np.isfinite(values).all() for values in said.values()):
        yield error(Kind.STATISTICS, path, f"{key} has values that are not finite", episode)
    elif said["min"].min() < 0 or said["max"].max() > 1 or not _quantiles_in_order(said, np.array(0.02)):
        yield error(Kind.STATISTICS, path, f"{key} has values beyond 0 to 1, or out of order", episode)
    elif (said["std"] < 1e-3).any() and (said["max"] - said["min"] > 0.05)[said["std"] < 1e-3].all():
        text = (
            f"std of {key} is {_short(said['std'])} though its pixels differ: a bug of LeRobot 0.4.4 (bytes overflow)"
        )
        yield warning(Kind.STATISTICS, path, text, episode, "do not normalise images by it; LeRobot 0.6 computes it")


def _quantiles_in_order(said: Mapping[str, Array], tolerance: Array) -> bool:
    names = [name for name in ("min", "q01", "q10", "q50", "q90", "q99", "max") if name in said]
    values = [said[name].reshape(-1) for name in names]
    if any(value.shape != values[0].shape for value in values):
        return False
    # LeRobot estimates quantiles of few rows from a histogram: within one width of the range they may cross.
    slack = np.asarray(tolerance).reshape(-1) + 1e-6
    return all((low <= high + slack).all() for low, high in pairwise(values))


def _short(values: Array) -> str:
    flat = values.reshape(-1)
    text = ", ".join(f"{value:.6g}" for value in flat[:4])
    return f"[{text}{', ...' if flat.size > 4 else ''}]"
