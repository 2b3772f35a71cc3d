"""Datasets as other programs write them, by pyarrow and PyAV alone; frame k of episode e has the grey `grey(e, k)`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
from pyarrow import parquet

FPS, ROWS, SIZE = 10, 12, (32, 48)
FRONT = "observation.images.front"
STATE = {"dtype": "float32", "shape": [2], "names": ["a", "b"]}
_COUNTS = {"timestamp": "float32", **dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), "int64")}

Column = Callable[[int, int], Any]  # episode, rows -> values


def grey(episode: int, frame: int) -> int:
    return 20 + (60 * episode + 6 * frame) % 200


def encode(
    path: Path, greys: Sequence[int], fps: float = FPS, options: Mapping[str, str] = {"g": "4", "bf": "0"}
) -> None:
    """A video with a frame of each grey, by the options of libx264: `bf` is how many B-frames there may be in a row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        rate = Fraction(fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate, options={"crf": "12", **options})
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for level in greys:
            frame = av.VideoFrame.from_ndarray(np.full((*SIZE, 3), level, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write(
    root: Path,
    *,
    version: str = "v3.0",
    fps: Any = FPS,
    numbers: Sequence[int] = (0, 1),
    columns: Mapping[str, tuple[Mapping[str, Any], Column]] = {},
    cameras: Sequence[str] = (FRONT,),
    video: Callable[[Path, int], None] | None = None,
    times: Column | None = None,
    line: Callable[[dict[str, Any]], object] = lambda line: None,
    tasks: pa.Table | None = None,
) -> Path:
    """Episodes `numbers` of `ROWS` rows, each in files of its own; `line` changes an episode's line of metadata."""
    is_v21 = version != "v3.0"
    rate = fps if isinstance(fps, int) and 0 < fps < 1000 else FPS
    state: tuple[Mapping[str, Any], Column] = (
        STATE,
        lambda episode, rows: (episode + np.arange(2 * rows).reshape(rows, 2) / 100).astype(np.float32),
    )
    described = {"observation.state": state, "action": state, **columns}
    features = {key: dict(feature) for key, (feature, _) in described.items()}
    features |= {
        key: {"dtype": "video", "shape": [*SIZE, 3], "names": ["height", "width", "channels"]} for key in cameras
    }
    features |= {key: {"dtype": kind, "shape": [1], "names": None} for key, kind in _COUNTS.items()}
    lines: list[dict[str, Any]] = []
    for place, number in enumerate(numbers):
        steps = np.arange(ROWS)
        values = {key: make(number, ROWS) for key, (_, make) in described.items()}
        values |= {
            "timestamp": (steps / rate if times is None else times(number, ROWS)).astype(np.float32),
            "frame_index": steps, "episode_index": np.full(ROWS, number), "index": ROWS * place + steps,
            "task_index": np.zeros(ROWS, np.int64),
        }  # fmt: skip
        name = f"episode_{number:06d}" if is_v21 else f"file-{number:03d}"
        path = root / f"data/chunk-000/{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pa.table({key: _arrow(value) for key, value in values.items()}), path)
        entry: dict[str, Any] = {"episode_index": number, "tasks": ["pick"], "length": ROWS}
        if not is_v21:
            entry |= {"data/chunk_index": 0, "data/file_index": number}
            entry |= {"dataset_from_index": ROWS * place, "dataset_to_index": ROWS * (place + 1)}
        for key in cameras:
            folder = f"videos/chunk-000/{key}" if is_v21 else f"videos/{key}/chunk-000"
            make_video = video or (lambda path, number: encode(path, [grey(number, k) for k in range(ROWS)], rate))
            make_video(root / folder / f"{name}.mp4", number)
            if not is_v21:
                entry |= {f"videos/{key}/chunk_index": 0, f"videos/{key}/file_index": number}
                entry |= {f"videos/{key}/from_timestamp": 0.0, f"videos/{key}/to_timestamp": ROWS / rate}
        line(entry)
        lines.append(entry)
    meta = root / "meta"
    meta.mkdir()
    if is_v21:
        (meta / "episodes.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
        (meta / "tasks.jsonl").write_text('{"task_index": 0, "task": "pick"}\n')
        data, films = "data/chunk-{episode_chunk:03d}/", "videos/chunk-{episode_chunk:03d}/{video_key}/"
        paths = [f"{folder}episode_{{episode_index:06d}}" for folder in (data, films)]
    else:
        (meta / "episodes/chunk-000").mkdir(parents=True)
        parquet.write_table(pa.Table.from_pylist(lines), meta / "episodes/chunk-000/file-000.parquet")
        tasks = tasks or pa.table({"task_index": [0], "__index_level_0__": ["pick"]})
        parquet.write_table(tasks, meta / "tasks.parquet")
        data, films = "data/chunk-{chunk_index:03d}/", "videos/{video_key}/chunk-{chunk_index:03d}/"
        paths = [f"{folder}file-{{file_index:03d}}" for folder in (data, films)]
    info = {
        "codebase_version": version, "robot_type": "panda", "fps": fps, "features": features, "chunks_size": 1000,
        "total_episodes": len(numbers), "total_frames": ROWS * len(numbers), "total_tasks": 1,
        "splits": {"train": f"0:{len(numbers)}"}, "data_path": f"{paths[0]}.parquet", "video_path": f"{paths[1]}.mp4",
    }  # fmt: skip
    (meta / "info.json").write_text(json.dumps(info))
    return root


def _arrow(values: Any) -> pa.Array:
    if isinstance(values, pa.Array):
        return values
    return pa.array(values if values.ndim == 1 else values.tolist(), _list_of(values))


def _list_of(values: np.ndarray) -> pa.DataType:
    kind = pa.from_numpy_dtype(values.dtype)
    for _ in values.shape[1:]:
        kind = pa.list_(kind)
    return kind
