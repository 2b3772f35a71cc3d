"""Episodes of what was recorded and never saved: as many rows as every camera has whole frames for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.recording import dataset, schemas
from vla_ros.recording.features import IMAGES
from vla_ros.recording.files import DatasetError, fsync_file, make_folder, move, reported
from vla_ros.recording.storing import journal
from vla_ros.recording.storing.catalogue import Catalogue, Finished
from vla_ros.recording.storing.open_episode import ABOUT, ROWS
from vla_ros.recording.upkeep.checking import RECOVERED, open_episodes
from vla_ros.recording.upkeep.rebuilding import image_statistics
from vla_ros.recording.upkeep.scanning import UNKNOWN_TASK
from vla_ros.recording.video import VideoInfo, cut, probe

_SOURCE = "recovered"


def recover(root: Path, keep: bool) -> list[str]:
    """Make an episode of every open one left at `root`, or, without `keep`, say that they are there.

    What an episode was made of is kept below .recording/aside. Only for who holds the `WriteLock`; raises DatasetError.
    """
    said = []
    for folder in open_episodes(root):
        name = folder.relative_to(root).as_posix()
        if keep:
            said.append(_recovered(root, folder, name))
        else:
            said.append(f"{name} is an episode that was never saved; repair with --keep-open turns it into an episode")
    return said


def _recovered(root: Path, folder: Path, name: str) -> str:
    notices: list[str] = []
    catalogue = Catalogue.open(root, notices)
    about = _about(folder)
    if _is_recovered(catalogue, folder, about):
        move(folder, catalogue.layout.aside / f"{folder.name}{RECOVERED}")
        return f"{name} is episode {catalogue.episodes - 1} already: an earlier repair was interrupted"
    try:
        rows = journal.read(folder / ROWS)
    except DatasetError as error:
        return f"{name} is left unchanged: {error}"
    columns = journal.columns(rows)
    if reason := _other_columns(catalogue, columns):
        return f"{name} is left unchanged: {reason}"
    frames: dict[str, int] = {}
    for camera in catalogue.features.cameras:
        try:
            frames[camera] = probe(folder / f"{camera}.mp4", decode=True).frames
        except DatasetError:
            frames[camera] = 0
    length = min([len(rows), *frames.values()])
    if not length:
        return f"{name} is left unchanged: it has {len(rows)} rows, and frames: {frames}"
    work = catalogue.layout.recording / "recovering"
    with reported(f"{work} cannot be made"):
        if work.exists():
            shutil.rmtree(work)
        make_folder(work)
    videos: dict[str, VideoInfo] = {}
    for camera in catalogue.features.cameras:
        path = work / f"{camera}.mp4"
        cut(folder / path.name, path, length)
        fsync_file(path)
        videos[IMAGES + camera] = probe(path)
    images = {key: image_statistics(work / f"{key.removeprefix(IMAGES)}.mp4", 0, length) for key in videos}
    finished = Finished(work, {key: values[:length] for key, values in columns.items()}, videos, images)
    index = catalogue.episodes
    catalogue.add(finished, about.get("task") or UNKNOWN_TASK, _details(about, folder, name, len(rows), frames))
    with reported(f"{work} cannot be removed"):
        shutil.rmtree(work)
    move(folder, catalogue.layout.aside / f"{folder.name}{RECOVERED}")
    lost = max([len(rows), *frames.values()]) - length
    return f"{name} is episode {index} now, {length} frames" + (f" (the last {lost} were torn)" if lost else "")


def _other_columns(catalogue: Catalogue, columns: Mapping[str, NDArray[Any]]) -> str:
    wanted = {each.key: (each.shape, np.dtype(each.numpy)) for each in catalogue.features.columns}
    there = {key: (values.shape[1:] or (1,), values.dtype) for key, values in columns.items()}
    return "" if there == wanted else "its columns are not those of the dataset"


def _is_recovered(catalogue: Catalogue, folder: Path, about: Mapping[str, Any]) -> bool:
    """Whether the last episode was made of it: a kill came before the folder was moved."""
    last = catalogue.episodes - 1
    details = dataset.read_details(catalogue.layout, last) if last >= 0 else {}
    return details.get("source") == _SOURCE and details.get("extra") == _origin(folder, about)


def _origin(folder: Path, about: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"folder": folder.name, "started_at": about.get("started_at")}


def _about(folder: Path) -> Mapping[str, Any]:
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def _details(about: Mapping[str, Any], folder: Path, name: str, rows: int, frames: Mapping[str, int]) -> bytes:
    said = {
        "task": about.get("task") or UNKNOWN_TASK,
        "success": None,
        "notes": f"recovered from {name}: {rows} rows, frames {dict(frames)}",
        "source": _SOURCE,
        "seed": None,
        "extra": _origin(folder, about),
        "saved_at": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
    }
    return schemas.json_file(said)
