"""What a recorder left that died: its open episode, and files of an episode that is not in the dataset."""

from __future__ import annotations

import shutil
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from vla_ros.recording.files import DatasetError, Layout, move, reported
from vla_ros.recording.storing import journal
from vla_ros.recording.storing.catalogue import Catalogue
from vla_ros.recording.storing.open_episode import ROWS


def clear(catalogue: Catalogue) -> list[str]:
    """Move it aside, all that has a row; returns what was found, in words. Raises DatasetError."""
    layout, notices = catalogue.layout, []
    for folder in sorted(layout.recording.glob("episode-*")):
        number = folder.name.removeprefix("episode-")
        is_saved = number.isdecimal() and int(number) < catalogue.episodes and not any(folder.glob("*.mp4"))
        if is_saved or not _has_rows(folder):  # it died before it had cleaned up, or before the first row
            with reported(f"{folder} cannot be removed"):
                shutil.rmtree(folder)
            continue
        if number.isdecimal() and int(number) == catalogue.episodes:
            catalogue.take_back(folder)
        where = move_aside(layout, folder)
        notices.append(
            f"an episode that was not saved ({folder.name}) was found and quarantined in {where}; "
            "`vla-ros dataset repair` makes an episode of it"
        )
    notices += _put_back(catalogue)
    orphans = layout.aside / f"{_now()}-files-of-no-episode"
    if moved := catalogue.take_back(orphans):
        notices.append(f"{len(moved)} files that belong to no episode were quarantined in {orphans}")
    return notices


def take_back(root: Path) -> list[str]:
    """Give an open episode back what its saving, which broke off, had put in place; returns what was done, in words.

    Only for who holds the `WriteLock`. Nothing is done where the dataset is damaged otherwise.
    """
    notices: list[str] = []
    with suppress(DatasetError):
        if any(Layout(root).recording.glob("episode-*")) or Layout(root).trash.exists():
            catalogue = Catalogue.open(root, notices)
            folder = catalogue.layout.open_episode(catalogue.episodes)
            if (folder / ROWS).is_file() and (moved := catalogue.take_back(folder)):
                notices.append(f"{len(moved)} files of an episode whose saving broke off are back in {folder}")
            notices += _put_back(catalogue)
    return notices


def _put_back(catalogue: Catalogue) -> list[str]:
    """Give the dataset back an episode that was to be recorded again, which broke off; what was done, in words."""
    layout = catalogue.layout
    notices = [
        f"episode {index} was being recorded again, which was not finished; the dataset keeps the previous one"
        for index in catalogue.put_back()
    ]
    for folder in sorted(layout.trash.glob("episode-*")):  # recorded again, as far as it went
        notices.append(f"the previous recording of {folder.name} is in {move_aside(layout, folder)}")
    return notices


def move_aside(layout: Layout, folder: Path) -> Path:
    """Move the folder of an open episode where no writer touches it; returns where that is. Raises DatasetError."""
    where = layout.aside / f"{_now()}-{folder.name}"
    attempt = 1
    while where.exists():
        attempt += 1
        where = layout.aside / f"{_now()}-{folder.name}-{attempt}"
    move(folder, where)
    return where


def _has_rows(folder: Path) -> bool:
    """Whether anything was recorded there; so it is where that cannot be told."""
    path = folder / ROWS
    try:
        return path.exists() and len(journal.read(path)) > 0
    except DatasetError:
        return path.stat().st_size > 0


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S")
