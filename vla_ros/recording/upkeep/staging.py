"""A dataset's folder made anew beside the old one, and put in its place in one step: a crash leaves the old or the new.

Files that stay as they are become further names of the same content, so that a large dataset is not copied.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from datetime import datetime, timezone
from pathlib import Path

from vla_ros.recording.files import DatasetError, fsync_file, fsync_folder, reported, write_atomically

RECORDING = ".recording"
ASIDE = f"{RECORDING}/aside"
_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)
_HERE = -100  # AT_FDCWD


class Staging:
    """A folder beside `root` that becomes `root` by `swap`; until then nothing of `root` changes.

    What `root` had and the new folder has not is set aside in it, below .recording/aside: nothing is lost by a swap.
    Raises DatasetError where the folder cannot be written.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        if self._root.is_mount():
            raise DatasetError(
                f"{self._root} is a mount point and cannot be replaced; work on a folder in it, or on a copy"
            )
        self.path = _beside(self._root)
        with reported(f"{self.path} cannot be made"):
            _remove(self.path)
            self.path.mkdir()
            shutil.copystat(self._root, self.path)

    def keep(self, path: str, as_path: str | None = None) -> None:
        """Have the file `path` of the old folder in the new one, under this name or another."""
        with reported(f"{path} cannot be kept"):
            _link(self._root / path, self.path / (as_path or path))

    def write(self, path: str, content: bytes) -> None:
        """Have a file with this content."""
        write_atomically(self.path / path, content)

    def swap(self, reason: str) -> list[str]:
        """Take the place of `root`; returns the paths set aside, as they were there. `reason` names their new folder.

        With an empty `reason` nothing is set aside: what the new folder does not have is gone.
        """
        with reported(f"{self._root} cannot be rebuilt"):
            aside = self._set_aside(f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S%f}-{reason}" if reason else "")
            _sync(self.path)  # before the old one goes, or a power cut would leave neither
            _exchange(self.path, self._root)
            fsync_folder(self._root.parent)
            _remove(self.path)  # the old one: everything in it has a name in the new one
        return aside

    def abandon(self) -> None:
        """Forget it."""
        _remove(self.path)

    def _set_aside(self, name: str) -> list[str]:
        aside = []
        for path in sorted(path for path in self._root.rglob("*") if path.is_symlink() or not path.is_dir()):
            relative = path.relative_to(self._root).as_posix()
            new = self.path / relative
            if relative.startswith((f"{RECORDING}/", ".")) or not relative.startswith(("data/", "meta/", "videos/")):
                if not new.exists():
                    _link(path, new)  # what is no part of the dataset stays where it is
            elif name and not _is_same(path, new):
                _link(path, self.path / ASIDE / name / relative)
                aside.append(relative)
        return aside


def remove_leftover(root: Path) -> None:
    """Remove what a run that was killed left beside `root`: all that is in it has a name in `root` as well."""
    with reported(f"{_beside(root)} cannot be removed"):
        _remove(_beside(root))


def stage_new(destination: Path) -> Path:
    """An empty folder beside `destination`, to be renamed to it when it is whole; raises DatasetError."""
    folder = _beside(destination)
    with reported(f"{folder} cannot be made"):
        _remove(folder)
        folder.mkdir(parents=True)
    return folder


def publish(folder: Path, destination: Path) -> None:
    """Rename a whole folder to `destination`, its content on the disk before; raises DatasetError."""
    with reported(f"{destination} cannot be written"):
        _sync(folder)
        folder.replace(destination)
        fsync_folder(destination.parent)


def replace(folder: Path, destination: Path) -> None:
    """As `publish`, in the place of the folder that is there: a crash leaves the old one or the new one."""
    if not destination.exists():
        publish(folder, destination)
        return
    with reported(f"{destination} cannot be replaced"):
        _sync(folder)
        _exchange(folder, destination)
        fsync_folder(destination.parent)
        _remove(folder)


def _sync(folder: Path) -> None:
    """Return when everything in `folder` is on the disk."""
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            fsync_folder(path)
        elif path.is_file():
            fsync_file(path)


def _beside(root: Path) -> Path:
    return root.parent / f".{root.name}.new"


def _link(source: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, destination, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV):
            raise
        shutil.copy2(source, destination, follow_symlinks=False)  # a disk without hard links
        if not destination.is_symlink():
            fsync_file(destination)


def _is_same(one: Path, other: Path) -> bool:
    try:
        is_file = one.is_file() and not one.is_symlink()  # a pipe would be waited for
        return one.samefile(other) or (is_file and one.read_bytes() == other.read_bytes())
    except OSError:
        return False


def _exchange(one: Path, other: Path) -> None:
    """Each gets the other's name, in one step where the disk can."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is not None:
        if renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0:
            return
        number = ctypes.get_errno()
        if number not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(number, os.strerror(number))
    between = one.with_name(f"{one.name}.old")
    other.rename(between)
    one.rename(other)
    between.rename(one)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
