"""Tiny episodes whose content follows from their number: made, recorded by a process of its own, and checked.

Read back with pyarrow and PyAV alone, not with the code under test. Run as a program it waits for lines on its standard
input and answers each with a process that records (it forks, so that imports are paid for once): see `record`.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
import threading
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq

from vla_ros.recording.config import RecordingConfig
from vla_ros.recording.features import Row, of_robot
from vla_ros.recording.lerobot_v3 import DatasetWriter, EpisodeDetails, is_dataset
from vla_ros.robots.panda import PANDA

FPS = 30
CAMERAS = ("front", "wrist")
FEATURES = of_robot(PANDA, dict.fromkeys(CAMERAS, (48, 64)), FPS)
CONFIG = RecordingConfig(fps=FPS)


def length(episode: int) -> int:
    return 3 + 7 * episode % 11


def task(episode: int) -> str:
    return f"task {episode % 3}"


def grey(episode: int, frame: int, camera: str) -> int:
    return 20 + (31 * episode + 7 * frame + 90 * CAMERAS.index(camera)) % 200


def values(episode: int, frame: int) -> dict[str, Any]:
    """Whole numbers where the type asks for them, thousandths elsewhere."""
    start = 100 * episode + frame
    return {
        feature.key: start + np.arange(feature.shape[0]) * (1 if feature.dtype == "int64" else 0.001)
        for feature in FEATURES.columns
    }


def row(episode: int, frame: int) -> Row:
    images = {camera: np.full((48, 64, 3), grey(episode, frame, camera), np.uint8) for camera in CAMERAS}
    return Row(1_000_000_000 + frame * 33_333_333, images, values(episode, frame))


def add_rows(writer: DatasetWriter, episode: int) -> None:
    for frame in range(length(episode)):
        writer.add(row(episode, frame))


def record_one(writer: DatasetWriter) -> int:
    """The next episode, saved; returns its number."""
    episode = writer.episodes
    writer.begin(task(episode))
    add_rows(writer, episode)
    return writer.save(EpisodeDetails(task(episode))).index


def lines(root: Path) -> list[dict[str, Any]]:
    """What meta/episodes says, without the statistics."""
    found = []
    for path in sorted((root / "meta" / "episodes").glob("*/*.parquet")):
        table = pq.ParquetFile(path).read()
        found += table.select([name for name in table.column_names if not name.startswith("stats/")]).to_pylist()
    return found


def check_episode(root: Path, line: dict[str, Any]) -> None:
    """The episode is there whole: as many rows as frames, all of the right content."""
    episode = line["episode_index"]
    count = length(episode)
    assert line["length"] == count == line["dataset_to_index"] - line["dataset_from_index"]
    assert line["tasks"] == [task(episode)]
    rows = (
        pq.ParquetFile(root / f"data/chunk-{line['data/chunk_index']:03d}/file-{line['data/file_index']:03d}.parquet")
        .read()
        .to_pylist()
    )
    assert [one["frame_index"] for one in rows] == list(range(count))
    assert [one["index"] for one in rows] == list(range(line["dataset_from_index"], line["dataset_to_index"]))
    tasks = pq.ParquetFile(root / "meta/tasks.parquet").read().to_pylist()
    assert {one["task_index"]: one["task"] for one in tasks}[rows[0]["task_index"]] == task(episode)
    for frame, one in enumerate(rows):
        assert one["episode_index"] == episode
        assert abs(one["timestamp"] - frame / FPS) < 1e-6
        for key, value in values(episode, frame).items():
            np.testing.assert_allclose(np.ravel(one[key]), value, rtol=1e-6, err_msg=key)
    for camera in CAMERAS:
        key = f"videos/observation.images.{camera}"
        path = root / f"{key}/chunk-{line[key + '/chunk_index']:03d}/file-{line[key + '/file_index']:03d}.mp4"
        with av.open(str(path)) as container:
            frames = list(container.decode(container.streams.video[0]))
        assert [float(frame.pts * frame.time_base) for frame in frames] == [k / FPS for k in range(count)]
        for k, frame in enumerate(frames):
            assert abs(frame.to_ndarray(format="rgb24").mean() - grey(episode, k, camera)) < 4, (episode, k, camera)


def check_dataset(root: Path, first: int = 0) -> int:
    """Every episode from `first` on is whole, and what sums up all agrees; returns how many there are."""
    found = lines(root)
    assert [line["episode_index"] for line in found] == list(range(len(found)))
    for line in found[first:]:
        check_episode(root, line)
    frames = sum(length(episode) for episode in range(len(found)))
    info = json.loads((root / "meta/info.json").read_text())
    assert (info["total_episodes"], info["total_frames"]) == (len(found), frames)
    assert info["total_tasks"] == len(pq.ParquetFile(root / "meta/tasks.parquet").read()) if found else True
    assert info["splits"] == {"train": f"0:{len(found)}"}
    stats = json.loads((root / "meta/stats.json").read_text()) if found else {}
    if found:
        states = np.array([values(e, k)["observation.state"] for e in range(len(found)) for k in range(length(e))])
        assert stats["observation.state"]["count"] == [frames]
        for name, expected in (("mean", states.mean(0)), ("std", states.std(0)), ("max", states.max(0))):
            np.testing.assert_allclose(stats["observation.state"][name], expected, rtol=1e-5)
    return len(found)


def record(root: Path, die_at: int, image: Path | None = None) -> None:
    """Record episodes for ever, saying the number of each on standard output once it is saved.

    `die_at`: at that change of a name, or end of writing a file, the process is gone, as if killed; -1: never. `image`:
    as if the power went then; that folder gets what is on the disk for certain.
    """
    Disk(root, die_at, image)
    with DatasetWriter(root, FEATURES, CONFIG, resume=is_dataset(root)) as writer:
        while True:
            print(record_one(writer), flush=True)


WATCHED = (
    *((os, name) for name in ("fsync", "fdatasync")),
    *((Path, name) for name in ("replace", "unlink", "mkdir")),
    (shutil, "rmtree"),
)


class Disk:
    """Counts what changes names or ends the writing of a file, and keeps what a power cut would leave at least.

    That is, for each folder the names that it had when it was last synced, and of each file the content that it had
    when it was. No file system forgets more.
    """

    def __init__(self, root: Path, die_at: int, image: Path | None = None) -> None:
        self.steps = 0
        self._one = threading.Lock()
        self._root, self._die_at, self._image = root, die_at, image
        self._held: dict[int, int] = {}  # inode -> descriptor
        self._content: dict[int, bytes] = {}  # inode -> content
        self._names: dict[int, dict[str, tuple[int, bool]]] = {}  # of a folder -> name -> inode, whether a folder
        if die_at >= 0:
            for owner, name in WATCHED:
                watched = getattr(owner, name)
                setattr(owner, name, self._synced(watched) if owner is os else self._step(watched))

    def _step(self, function: Any) -> Any:
        def step(*args: Any, **kwargs: Any) -> Any:
            self._count()
            return function(*args, **kwargs)

        return step

    def _synced(self, function: Any) -> Any:
        def sync(descriptor: int) -> None:
            self._count()
            function(descriptor)
            status = os.fstat(descriptor)
            if status.st_ino not in self._held:
                self._held[status.st_ino] = os.dup(descriptor)  # or its number would go to another file later
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            if stat.S_ISDIR(status.st_mode):
                entries = list(os.scandir(path))
                self._names[status.st_ino] = {one.name: (one.inode(), one.is_dir()) for one in entries}
            else:
                self._content[status.st_ino] = path.read_bytes()

        return sync

    def _count(self) -> None:
        with self._one:
            self.steps += 1
            if self.steps > self._die_at:
                if self._image is not None:
                    self.cut(self._image)
                os._exit(9)

    def cut(self, image: Path) -> None:
        """Make `image` of what is on the disk for certain."""
        self._build(image, self._root.stat().st_ino)

    def close(self) -> None:
        """Let files go that are deleted."""
        for descriptor in self._held.values():
            os.close(descriptor)

    def _build(self, folder: Path, inode: int) -> None:
        os.mkdir(folder)  # noqa: PTH102 - Path's is counted
        for name, (number, is_folder) in self._names.get(inode, {}).items():
            if is_folder:
                self._build(folder / name, number)
            else:
                (folder / name).write_bytes(self._content.get(number, b""))


def main() -> None:
    """Lines `<root> <die_at> [<image>]`: that process's own lines until its end, after its number."""
    for line in sys.stdin:
        root, die_at, *image = line.split()
        sys.stdout.flush()
        child = os.fork()
        if not child:
            print(f"process {os.getpid()}", flush=True)
            record(Path(root), int(die_at), Path(image[0]) if image else None)
        os.waitpid(child, 0)
        print("ended", flush=True)


if __name__ == "__main__":
    main()
