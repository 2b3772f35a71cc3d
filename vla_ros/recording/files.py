"""Where a dataset's files are, how they are written so that a power cut tears none, and who may write."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, TypeVar

DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
CHUNKS_SIZE = 1000  # files in a folder
_THREADS = 8  # that wait for the disk

Item = TypeVar("Item")
Result = TypeVar("Result")


class DatasetError(ValueError):
    """What was asked of a dataset cannot be: the text says what was given and what would be right."""


@contextmanager
def reported(what: str) -> Iterator[None]:
    """Turn an OSError into a DatasetError: `what` ("x cannot be written"), and why."""
    try:
        yield
    except OSError as error:
        raise DatasetError(f"{what}: {error.strerror or error}") from error


def fsync_file(path: Path) -> None:
    """Return when the content of `path` is on the disk; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_folder(path: Path) -> None:
    """Return when the names in `path` are on the disk: a file created or renamed there is found after a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def at_once(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """`function` of every item, on threads; all end before it returns, or raises what one has raised.

    A disk that is asked for many things to be synced does them together, one after another each takes its time.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(function, items))


def make_folder(path: Path) -> None:
    """Make `path` and what it lies in, where missing, so that a power cut does not take them back; raises OSError."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        fsync_folder(folder.parent)


def staged_path(path: Path) -> Path:
    """Where `stage` writes."""
    return path.with_name(f".{path.name}.tmp")


def stage(path: Path, content: bytes) -> Path:
    """Write a file beside `path`, on the disk when this returns; `publish` makes it `path`. Returns where it is.

    Raises DatasetError where the disk is full or may not be written; then nothing is left.
    """
    temporary = staged_path(path)
    with reported(f"{path} cannot be written"):
        try:
            make_folder(path.parent)
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            raise
    return temporary


def publish(moves: Sequence[tuple[Path, Path]]) -> None:
    """Rename files or folders (from, to) within a disk, for good when this returns; raises DatasetError.

    After an error it can be called again: what was renamed is left as it is.
    """
    for source, destination in moves:
        with reported(f"{source} cannot be moved to {destination}"):
            make_folder(destination.parent)
            if source.exists() or not destination.exists():
                source.replace(destination)
    folders = list(dict.fromkeys(destination.parent for _, destination in moves))
    with reported(f"{', '.join(map(str, folders))} cannot be written"):
        at_once(fsync_folder, folders)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file, whole and on the disk when this returns; what was there before stays until then.

    Raises DatasetError where the disk is full or may not be written.
    """
    staged = stage(path, content)
    try:
        publish([(staged, path)])
    finally:
        with suppress(OSError):
            staged.unlink(missing_ok=True)


def move(source: Path, destination: Path) -> None:
    """Rename a file or a folder within a disk, for good when this returns; raises DatasetError."""
    publish([(source, destination)])


@dataclass(frozen=True)
class Layout:
    """Paths of a dataset at `root`, by the patterns of its info.json."""

    root: Path
    data_pattern: str = DATA_PATH
    video_pattern: str = VIDEO_PATH
    chunks_size: int = CHUNKS_SIZE

    def __post_init__(self) -> None:
        for pattern in (self.data_pattern, self.video_pattern):
            try:
                path = PurePosixPath(_fill(pattern, "key", 0, 0))
            except (KeyError, IndexError, ValueError, AttributeError):
                path = PurePosixPath("/")
            if path.is_absolute() or ".." in path.parts:
                raise DatasetError(f"{pattern!r} in info.json is no path in a dataset; it should be like {DATA_PATH!r}")
        if self.chunks_size < 1:
            raise DatasetError(f"chunks_size must be at least 1, got {self.chunks_size}")

    @classmethod
    def of(cls, root: Path, info: Mapping[str, Any]) -> Layout:
        """The layout that `info`, the content of info.json, describes."""
        video = info.get("video_path")
        return cls(root, str(info["data_path"]), str(video or VIDEO_PATH), int(info.get("chunks_size", CHUNKS_SIZE)))

    @property
    def info(self) -> Path:
        """Features, rate and totals, as JSON."""
        return self.root / "meta" / "info.json"

    @property
    def stats(self) -> Path:
        """Statistics over all episodes, as JSON."""
        return self.root / "meta" / "stats.json"

    @property
    def tasks(self) -> Path:
        """Task texts and their numbers."""
        return self.root / "meta" / "tasks.parquet"

    @property
    def episodes(self) -> Path:
        """Folder of the episodes' metadata."""
        return self.root / "meta" / "episodes"

    @property
    def system(self) -> Path:
        """What recorded the dataset, as JSON; LeRobot does not read it."""
        return self.root / "meta" / "vla_ros" / "system.json"

    @property
    def recording(self) -> Path:
        """Folder of what is not part of the dataset yet."""
        return self.root / ".recording"

    @property
    def lock(self) -> Path:
        """Locked by whoever writes."""
        return self.recording / "lock"

    @property
    def aside(self) -> Path:
        """Folder of what was found unfinished."""
        return self.recording / "aside"

    def place(self, episode: int) -> tuple[int, int]:
        """(chunk, file) of an episode that has files of its own."""
        return divmod(episode, self.chunks_size)

    def data_file(self, chunk: int, file: int) -> Path:
        """The columns of the episodes in one file."""
        return self.root / _fill(self.data_pattern, "", chunk, file)

    def video_file(self, key: str, chunk: int, file: int) -> Path:
        """One camera's frames; `key` as in info.json ("observation.images.front")."""
        return self.root / _fill(self.video_pattern, key, chunk, file)

    def episodes_file(self, chunk: int, file: int) -> Path:
        """The metadata of the episodes in one file."""
        return self.root / _fill(EPISODES_PATH, "", chunk, file)

    def details_file(self, episode: int) -> Path:
        """What is known of an episode beside LeRobot's metadata, as JSON."""
        return self.root / "meta" / "vla_ros" / "episodes" / f"episode-{episode:06d}.json"

    def open_episode(self, episode: int) -> Path:
        """Folder of an episode that is being recorded."""
        return self.recording / f"episode-{episode:06d}"


def _fill(pattern: str, key: str, chunk: int, file: int) -> str:
    """A path of v3.0 (chunk and file), or of v2.1 (chunk and episode: `file` is the episode's index there)."""
    return pattern.format(
        video_key=key, chunk_index=chunk, file_index=file, episode_chunk=chunk, episode_index=file
    )  # names that a pattern does not have are not missed


class WriteLock:
    """The right to write to a dataset; given up by `release`, and by the kernel when the process ends."""

    def __init__(self, layout: Layout) -> None:
        """Raises DatasetError where another has it (named), or where the folder cannot be written."""
        with reported(f"{layout.root} cannot be written"):
            make_folder(layout.recording)
            self._descriptor = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._descriptor, 1000, 0).decode(errors="replace") or "another process"
            os.close(self._descriptor)
            if not isinstance(error, BlockingIOError):
                raise DatasetError(f"{layout.lock} cannot be locked: {error.strerror}") from error
            raise DatasetError(f"{layout.root} is being written by {holder}; one writer at a time") from None
        with suppress(OSError):  # on a full disk the lock holds, though it names nobody
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, _this_process().encode(), 0)

    def release(self) -> None:
        """Let others write; may be called again."""
        if self._descriptor >= 0:
            with suppress(OSError):
                os.ftruncate(self._descriptor, 0)
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # a forked child may have the file open, too
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> WriteLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


def _this_process() -> str:
    """The number of this process, and how it was started."""
    try:
        started = " ".join(Path("/proc/self/cmdline").read_bytes().decode(errors="replace").replace("\0", " ").split())
    except OSError:
        started = ""
    return f"process {os.getpid()}" + (f" ({started[:200]})" if started else "")
