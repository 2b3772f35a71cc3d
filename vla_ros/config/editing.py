"""Values written into a system's file: comments and order stay, and what does not load is never written."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ruamel.yaml import YAML, CommentToken
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from vla_ros.config.files import load
from vla_ros.config.problems import ConfigError

#: Lines are kept as they are, however long.
_NEVER_WRAP = 1_000_000


def set_values(file: Path, values: Mapping[str, object]) -> None:
    """Set dotted keys (`cameras.front.latency_ms`: 42.0) in a system's YAML; sections that are missing are made.

    All or nothing: raises ConfigError, and leaves the file alone, where it cannot be read or written, does not load, or
    would not load with these values.
    """
    load(str(file))  # what is wrong already is told with its own lines
    file = file.resolve()
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = _NEVER_WRAP
    document = yaml.load(file.read_text(encoding="utf-8"))
    for key, value in values.items():
        _set(document, key, value)
    text = io.StringIO()
    yaml.dump(document, text)
    _replace(file, text.getvalue())


def _set(document: CommentedMap, key: str, value: object) -> None:
    place, (*sections, name) = document, key.split(".")
    while sections and place.get(sections[0]) is not None:
        section = sections.pop(0)
        if not isinstance(place[section], CommentedMap):
            given = place[section]
            raise ConfigError([f"{key}: cannot be set: {section} is {given!r}; should be a mapping of keys to values"])
        place = place[section]
    if isinstance(value, list):
        value = _on_one_line(value)
    for section in reversed(sections):  # those that are missing
        name, value = section, CommentedMap({name: value})
    _put(place, name, value)


def _put(place: CommentedMap, key: str, value: object) -> None:
    """Set `key`; after a new one comes what came after the last: an empty line, the comment of the next section."""
    holder, last = _last_leaf(place)
    comments = None if key in place else holder.ca.items.get(last)
    place[key] = value
    if comments and comments[2]:
        same_line, _, below = comments[2].value.partition("\n")
        comments[2].value = same_line + "\n"
        if below:
            holder, last = _last_leaf(place)
            holder.ca.items[last] = [None, None, CommentToken("\n" + below, comments[2].start_mark), None]


def _on_one_line(values: list[object]) -> CommentedSeq:
    """A pose is read as [x, y, z, ...], not as a line for each number."""
    line = CommentedSeq(values)
    line.fa.set_flow_style()
    return line


def _last_leaf(place: CommentedMap) -> tuple[CommentedMap, object]:
    """Where the parser keeps what comes after a mapping: at the last key of the last mapping in it."""
    last = next(reversed(place), None)
    inner = place.get(last)
    if isinstance(inner, CommentedMap) and inner and not inner.fa.flow_style():
        return _last_leaf(inner)
    return place, last


def _replace(file: Path, text: str) -> None:
    """Put `text` in the place of `file` at once, if it loads as a system."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=file.parent, prefix=".", suffix=file.suffix, delete=False
        ) as new:
            new.write(text)
    except OSError as error:
        raise ConfigError([f"{file}: cannot be written: {error.strerror}"]) from None
    try:
        load(new.name)
        shutil.copymode(file, new.name)
        os.replace(new.name, file)  # noqa: PTH105
    except ConfigError as error:
        raise ConfigError([problem.replace(new.name, str(file)) for problem in error.problems]) from None
    finally:
        Path(new.name).unlink(missing_ok=True)
