"""EpisodeIndex: the lines of all files of meta/episodes in one file, so that thousands of them open at once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vla_ros.recording.files import DatasetError, Layout, load_json, write_atomically

Line = Mapping[str, Any]


class EpisodeIndex:
    """A cache in the recorder's own folder: a file counts as known while its size and time of change are the same.

    What is missing or wrong in it is read from the files again. Datasets without that folder, as of other programs,
    have none: nothing is added to them, and they hold many episodes in a file.
    """

    def __init__(self, layout: Layout, columns: Sequence[str]) -> None:
        """`columns`: those that lines have."""
        self._folder, self._path, self._columns = layout.recording, layout.recording / "episodes.json", list(columns)

    def read(self, files: Iterable[Path]) -> dict[Path, list[Line]]:
        """The lines of those of `files` that are known."""
        try:
            content = load_json(self._path)
            if content["columns"] != self._columns:
                return {}
            found = ((path, content["files"].get(_name(path))) for path in files)
            return {
                path: [dict(zip(self._columns, line, strict=True)) for line in entry[1]]
                for path, entry in found
                if entry and entry[0] == _state(path)
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
            return {}

    def write(self, lines: Mapping[Path, Sequence[Line]]) -> None:
        """Keep the lines of these files, and no others; nothing happens where that is not possible."""
        if self._folder.is_symlink() or not self._folder.is_dir():
            return
        with suppress(OSError, TypeError, ValueError, DatasetError):
            files = {
                _name(path): [_state(path), [[line[name] for name in self._columns] for line in of_file]]
                for path, of_file in lines.items()
            }
            write_atomically(self._path, json.dumps({"columns": self._columns, "files": files}).encode())


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _state(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]
