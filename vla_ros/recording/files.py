"""Where a dataset's files are, how they are written so that a power cut tears none, and who may write."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import stat
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
RECORDING = ".recording"  # folder of what is not part of the dataset yet
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
CHUNKS_SIZE = 1000  # files in a folder
LONGEST_NAME: Final = 200  # a file's name has at most 255 bytes
MOST: Final = 10**9  # of anything that metadata counts, as rows, and seconds; a larger number is damage
_THREADS = 8  # that wait for the disk
_LONGEST_LINE: Final = 600  # characters of an error
_MOST_JSON_BYTES: Final = 64 * 1024**2
_PATTERN_NUMBERS: Final = ("chunk_index", "file_index", "episode_chunk", "episode_index")
_PATTERN_WIDTH: Final = re.compile(r"0?(1?[0-9])?d?")  # at most 19 digits

Item = TypeVar("Item")
Result = TypeVar("Result")


class DatasetError(ValueError):
    """What was asked of a dataset cannot be: one line of text says what was given and what would be right."""

    def __init__(self, text: str) -> None:
        super().__init__(in_a_line(text))


def in_a_line(text: str, longest: int = _LONGEST_LINE) -> str:
    """`text` as one line that a terminal can show: without control characters, the middle of a long one left out."""
    if len(text) > longest:
        half = longest // 2 - 4
        text = f"{text[:half]} [...] {text[-half:]}"
    return "".join(each if each.isprintable() else " " for each in text)


def inside(root: Path, name: str) -> Path:
    """The path `name` below `root`, where `name` comes from metadata; raises DatasetError where it leads elsewhere.

    Every reader and writer finds files by this. Links are followed in reading only, as a download may consist of them.
    """
    if not _is_inside(name):
        raise DatasetError(f"{name!r} is not a path inside {root}; it should be relative, without `..`")
    return root / name


def _is_inside(name: str) -> bool:
    return not name.startswith("/") and ".." not in name.split("/") and bool(name.strip("/.")) and name.isprintable()


def checked_name(name: str, what: str) -> str:
    """`name`, if a file can be called that; raises DatasetError. `what`: what it is the name of."""
    is_short = 0 < len(name.encode(errors="replace")) <= LONGEST_NAME
    if is_short and name.isprintable() and not name.startswith(".") and "/" not in name:
        return name
    raise DatasetError(
        f"{what} is called {name[:LONGEST_NAME]!r}; a name should have 1 to {LONGEST_NAME} printable "
        "characters, no slash, and no dot at the beginning"
    )


def ordinary(path: Path) -> Path:
    """`path`, if an ordinary file is there; raises OSError otherwise: to open a pipe would be to wait for ever."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    return path


def load_json(path: Path) -> Any:
    """The content of a JSON file; raises OSError, and ValueError for what is no JSON, or too large for metadata."""
    size = ordinary(path).stat().st_size
    if size > _MOST_JSON_BYTES:
        raise ValueError(f"it has {size} bytes; metadata should have at most {_MOST_JSON_BYTES}")
    try:
        return json.loads(path.read_bytes())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


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
            # Not through a link, which would lead to another file.
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(temporary, flags, 0o666), "wb") as file:
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
        for name, pattern in (("data_path", self.data_pattern), ("video_path", self.video_pattern)):
            if not _is_pattern(pattern):
                raise DatasetError(f"{name} in info.json is {pattern!r}; it should be a path like {DATA_PATH!r}")

    @classmethod
    def of(cls, root: Path, info: Mapping[str, Any]) -> Layout:
        """The layout that `info`, the content of info.json, describes; raises DatasetError."""
        size = info.get("chunks_size", CHUNKS_SIZE)
        if not isinstance(size, int) or not 1 <= size <= MOST:
            raise DatasetError(
                f"chunks_size in info.json is {size!r}; it should be a number of files, as {CHUNKS_SIZE}"
            )
        return cls(root, info["data_path"], info.get("video_path") or VIDEO_PATH, size)

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
        return self.root / RECORDING

    @property
    def lock(self) -> Path:
        """Locked by whoever writes."""
        return self.recording / "lock"

    @property
    def trash(self) -> Path:
        """Folder of saved episodes that are being recorded again."""
        return self.recording / "trash"

    @property
    def aside(self) -> Path:
        """Folder of what was found unfinished."""
        return self.recording / "aside"

    def place(self, episode: int) -> tuple[int, int]:
        """(chunk, file) of an episode that has files of its own."""
        return divmod(episode, self.chunks_size)

    def data_name(self, chunk: int, file: int) -> str:
        """`data_file`, as a path below the root."""
        return _fill(self.data_pattern, "", chunk, file)

    def video_name(self, key: str, chunk: int, file: int) -> str:
        """`video_file`, as a path below the root."""
        return _fill(self.video_pattern, key, chunk, file)

    def data_file(self, chunk: int, file: int) -> Path:
        """The columns of the episodes in one file."""
        return inside(self.root, self.data_name(chunk, file))

    def video_file(self, key: str, chunk: int, file: int) -> Path:
        """One camera's frames; `key` as in info.json ("observation.images.front")."""
        return inside(self.root, self.video_name(key, chunk, file))

    def episodes_file(self, chunk: int, file: int) -> Path:
        """The metadata of the episodes in one file."""
        return self.root / _fill(EPISODES_PATH, "", chunk, file)

    def details_file(self, episode: int) -> Path:
        """What is known of an episode beside LeRobot's metadata, as JSON."""
        return self.root / "meta" / "vla_ros" / "episodes" / f"episode-{episode:06d}.json"

    def open_episode(self, episode: int) -> Path:
        """Folder of an episode that is being recorded."""
        return self.recording / f"episode-{episode:06d}"


def _is_pattern(pattern: object) -> bool:
    """Whether it is a path inside a dataset, with some of a pattern's fields, each of few characters."""
    if not isinstance(pattern, str):
        return False
    try:
        parts = list(string.Formatter().parse(pattern))
    except ValueError:
        return False
    known = all(
        field is None
        or (field == "video_key" and not width and not conversion)
        or (field in _PATTERN_NUMBERS and not conversion and _PATTERN_WIDTH.fullmatch(width or ""))
        for _, field, width, conversion in parts
    )
    return known and _is_inside(_fill(pattern, "key", 0, 0))


def _fill(pattern: str, key: str, chunk: int, file: int) -> str:
    """A path of v3.0 (chunk and file), or of v2.1 (chunk and episode: `file` is the episode's index there)."""
    return pattern.format(
        video_key=key, chunk_index=chunk, file_index=file, episode_chunk=chunk, episode_index=file
    )  # names that a pattern does not have are not missed


def links_out(root: Path) -> list[str]:
    """Folders of a dataset, as paths below `root`, that are links to somewhere else."""
    tops = [root / name for name in ("meta", "data", "videos", RECORDING)]
    found = [top for top in tops if _leads_out(root, top)]
    for top in tops:
        if top not in found:
            folders = (Path(at) / name for at, names, _ in os.walk(top) for name in names)
            found += [folder for folder in folders if _leads_out(root, folder)]
    return [folder.relative_to(root).as_posix() for folder in found]


def _leads_out(root: Path, folder: Path) -> bool:
    return folder.is_symlink() and not folder.resolve().is_relative_to(root.resolve())


class FolderLock:
    """The right to write to a folder; given up by `release`, and by the kernel when the process ends."""

    def __init__(self, root: Path, path: Path) -> None:
        """`path`: the file in `root` that is locked. Raises DatasetError where another process has it (named)."""
        with reported(f"{root} cannot be written"):
            make_folder(path.parent)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        self._root, self._path = root, path
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._descriptor, 1000, 0).decode(errors="replace") or "another process"
            os.close(self._descriptor)
            if not isinstance(error, BlockingIOError):
                raise DatasetError(f"{path} cannot be locked: {error.strerror}") from error
            raise DatasetError(f"{root} is being written by {holder}; one writer at a time") from None
        with suppress(OSError):  # on a full disk the lock holds, though it names nobody
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, _this_process().encode(), 0)

    def check(self) -> None:
        """Raise DatasetError where the folder was removed or replaced meanwhile: what is written would not be in it."""
        try:
            there, locked = self._path.stat(), os.fstat(self._descriptor)
        except OSError as error:
            raise DatasetError(
                f"{self._root} was removed or moved while it was being written ({self._path}: {error.strerror}); "
                "put it back, or begin another dataset"
            ) from error
        if (there.st_dev, there.st_ino) != (locked.st_dev, locked.st_ino):
            raise DatasetError(f"{self._root} was replaced by another folder while it was being written; put it back")

    def release(self) -> None:
        """Let others write; may be called again."""
        if self._descriptor >= 0:
            with suppress(OSError):
                os.ftruncate(self._descriptor, 0)
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # a forked child may have the file open, too
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


class WriteLock(FolderLock):
    """The right to write to a dataset."""

    def __init__(self, layout: Layout) -> None:
        """Raises DatasetError where another has it (named), the folder cannot be written, or a part lies elsewhere."""
        for link in links_out(layout.root):
            raise DatasetError(
                f"{layout.root / link} is a link to {(layout.root / link).resolve()}: nothing is written outside "
                "of the dataset's folder; move that folder into it"
            )
        super().__init__(layout.root, layout.lock)


def _this_process() -> str:
    """The number of this process, and how it was started."""
    try:
        started = " ".join(Path("/proc/self/cmdline").read_bytes().decode(errors="replace").replace("\0", " ").split())
    except OSError:
        started = ""
    return f"process {os.getpid()}" + (f" ({started[:200]})" if started else "")
