"""The recorder is killed, or the power goes: every episode that was reported saved is there whole, and it goes on."""

from __future__ import annotations

import json
import os
import random
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import tiny

from vla_ros.recording.files import DatasetError
from vla_ros.recording.lerobot_v3 import DatasetWriter, is_dataset
from vla_ros.recording.storing import journal

FULL = bool(os.environ.get("VLA_ROS_FULL"))
PATIENCE_S = 60.0
LAST_STEP = 150  # in the third episode


class Recorder:
    """A process that records for ever into a folder, and what it has said so far."""

    def __init__(self) -> None:
        self._program = subprocess.Popen(
            [sys.executable, str(Path(tiny.__file__))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self._selector = selectors.DefaultSelector()
        assert self._program.stdout is not None
        self._selector.register(self._program.stdout, selectors.EVENT_READ)
        self._heard = b""
        self.process = 0
        self.saved: list[int] = []
        self.has_ended = False

    def start(self, root: Path, die_at: int = -1, image: Path | None = None) -> None:
        self.saved, self.has_ended, self.process = [], False, 0
        assert self._program.stdin is not None
        self._program.stdin.write(f"{root} {die_at} {image or ''}\n".encode())
        self.listen(lambda: self.process)

    def listen(self, until: object, seconds: float = PATIENCE_S) -> bool:
        """Take what it says until `until()`, or until so many seconds are over; returns which."""
        deadline = time.monotonic() + seconds
        assert self._program.stdout is not None
        while not until():  # type: ignore[operator]
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if self._selector.select(left):
                heard = os.read(self._program.stdout.fileno(), 65536)
                assert heard, "the program that records is gone"
                *lines, self._heard = (self._heard + heard).split(b"\n")
                for line in lines:
                    self._take(line.decode())
        return True

    def _take(self, line: str) -> None:
        if line == "ended":
            self.has_ended = True
        elif line.startswith("process "):
            self.process = int(line.removeprefix("process "))
        else:
            self.saved.append(int(line))

    def kill(self) -> None:
        os.kill(self.process, signal.SIGKILL)
        assert self.listen(lambda: self.has_ended)

    def close(self) -> None:
        assert self._program.stdin is not None
        self._program.stdin.close()
        try:
            self._program.wait(PATIENCE_S)
        finally:
            self._program.kill()
            self._program.wait()


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.close()


def go_on(root: Path, saved: int, first: int = 0, told: bool = True, torn: bool = False) -> int:
    """What was saved is whole before anything is repaired; a new writer finds it, sets aside, and goes on.

    `first`: from which episode on frames are looked at; `told`: all that was recorded is set aside; `torn`: files of
    an episode may be of different instants, and some belong to none. Returns how many episodes there are in the end.
    """
    there = tiny.lines(root) if saved else []
    assert len(there) >= saved
    for line in there[first:saved]:
        tiny.check_episode(root, line)
    if saved:
        assert json.loads((root / "meta/info.json").read_text())["total_episodes"] >= saved
    with DatasetWriter(root, tiny.FEATURES, tiny.CONFIG, resume=is_dataset(root)) as writer:
        assert writer.episodes >= saved
        assert tiny.check_dataset(root, first=saved) == writer.episodes
        episode = tiny.record_one(writer)
        for folder in (root / ".recording").glob("aside/*"):  # nothing that was recorded is thrown away
            if torn and folder.name.endswith("files-of-no-episode"):
                assert str(folder) in "".join(writer.notices)
                shutil.rmtree(folder)
                continue
            assert not told or len(journal.read(folder / "rows.bin")) > 0
            assert not told or f"({folder.name[16:]}) was found and quarantined" in "".join(writer.notices)
            shutil.rmtree(folder)
    assert tiny.check_dataset(root, first=episode) == episode + 1
    assert not list(root.rglob("*.tmp"))
    return episode + 1


def test_a_killed_recorder_loses_no_saved_episode(recorder: Recorder, tmp_path: Path) -> None:
    """SIGKILL at random instants, again and again into one dataset."""
    chance = random.Random(7)
    root, count = tmp_path / "dataset", 0
    for kill in range(100 if FULL else 5):
        recorder.start(root)
        recorder.listen(lambda: len(recorder.saved) >= 1)
        recorder.listen(lambda: False, chance.uniform(0, 0.4))
        recorder.kill()
        assert recorder.saved == list(range(count, count + len(recorder.saved)))
        count = go_on(root, count + len(recorder.saved), first=count)
        if count > 30:
            assert tiny.check_dataset(root) == count
            root, count = tmp_path / f"dataset{kill}", 0
    assert not count or tiny.check_dataset(root) == count


@pytest.mark.parametrize("power", [False, True], ids=["killed", "power cut"])
def test_a_recorder_may_die_at_any_step(recorder: Recorder, tmp_path: Path, power: bool) -> None:
    """Before each change of a name and each end of writing: beginning, recording and saving the first two episodes.

    A power cut leaves no more than was synced.
    """
    most = 0
    for step in range(int(power) * 4, LAST_STEP, 1 if FULL else 17):
        root, image = tmp_path / f"dataset{step}", tmp_path / f"image{step}"
        root.mkdir()
        recorder.start(root, step, image if power else None)
        assert recorder.listen(lambda: recorder.has_ended)
        most = max(most, len(recorder.saved))
        go_on(image if power else root, len(recorder.saved), told=not power)
        shutil.rmtree(root)
    assert most >= 2


@pytest.mark.parametrize("seed", range(40 if FULL else 3))
def test_the_power_goes(recorder: Recorder, tmp_path: Path, seed: int) -> None:
    """A copy of the files as they are while they are written: what had been reported before it began is in it."""
    chance = random.Random(seed)
    root, copy = tmp_path / "dataset", tmp_path / "copy"
    recorder.start(root)
    recorder.listen(lambda: len(recorder.saved) >= 2)
    recorder.listen(lambda: False, chance.uniform(0, 0.2))
    saved = len(recorder.saved)
    copy_while_written(root, copy, chance)
    recorder.kill()
    go_on(copy, saved, torn=True)


def copy_while_written(root: Path, copy: Path, chance: random.Random) -> None:
    """File by file, in any order in which names can come to a disk: an episode's line after what it needs."""
    found = [path for path in root.rglob("*") if path.is_file() and path.suffix != ".tmp"]
    chance.shuffle(found)
    found.sort(key=lambda path: "episodes/chunk" not in str(path))  # taken first: what it needs was there before
    for path in found:
        to = copy / path.relative_to(root)
        to.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(path, to)
        except FileNotFoundError:  # renamed meanwhile: an open episode's file that became part of the dataset
            assert ".recording" in path.parts


def test_a_power_cut_takes_little_of_an_open_episode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """About the last second: what is older is synced while recording."""
    for owner, name in tiny.WATCHED:
        monkeypatch.setattr(owner, name, getattr(owner, name))  # put back in the end
    root, image = tmp_path / "dataset", tmp_path / "image"
    root.mkdir()
    disk = tiny.Disk(root, die_at=1_000_000)
    writer = DatasetWriter(root, tiny.FEATURES, tiny.CONFIG)
    tiny.record_one(writer)
    writer.begin(tiny.task(1))
    for frame in range(60):
        writer.add(tiny.row(1, frame))
    deadline = time.monotonic() + 20
    left = image / ".recording/episode-000001"
    while not (whole_rows(left) == 60 and all(len(greys(left / f"{camera}.mp4")) >= 45 for camera in tiny.CAMERAS)):
        assert time.monotonic() < deadline
        shutil.rmtree(image, ignore_errors=True)
        disk.cut(image)
    with DatasetWriter(image, tiny.FEATURES, tiny.CONFIG, resume=True) as other:
        assert "(episode-000001) was found and quarantined" in other.notices[0]
        assert tiny.check_dataset(image) == 1
    (aside,) = (image / ".recording/aside").iterdir()
    assert whole_rows(aside) == 60
    for camera in tiny.CAMERAS:
        frames = greys(aside / f"{camera}.mp4")  # of a fragment that is not whole nothing counts
        np.testing.assert_allclose(frames, [tiny.grey(1, k, camera) for k in range(len(frames))], atol=4)
    writer.discard()
    writer.close()
    disk.close()


def whole_rows(folder: Path) -> int:
    try:
        return len(journal.read(folder / "rows.bin"))
    except DatasetError:
        return 0


def greys(path: Path) -> list[float]:
    try:
        with av.open(str(path)) as container:
            return [float(frame.to_ndarray(format="rgb24").mean()) for frame in container.decode(video=0)]
    except (OSError, ValueError):
        return []


def test_what_a_dead_recorder_left_is_told(recorder: Recorder, tmp_path: Path) -> None:
    """Totals that are behind are made again; files of no episode are moved away."""
    root = tmp_path / "dataset"
    with DatasetWriter(root, tiny.FEATURES, tiny.CONFIG) as writer:
        tiny.record_one(writer)
        before = {name: (root / "meta" / name).read_bytes() for name in ("info.json", "stats.json")}
        tiny.record_one(writer)
    for name, content in before.items():  # as if it had died after the commit of the second
        (root / "meta" / name).write_bytes(content)
    orphan = root / "data/chunk-000/file-002.parquet"
    orphan.write_bytes(b"half")
    with DatasetWriter(root, tiny.FEATURES, tiny.CONFIG, resume=True) as writer:
        behind, orphans = writer.notices
        assert "rebuilt from its 2 episodes, 13 frames" in behind
        assert "1 files that belong to no episode were quarantined in" in orphans
        assert not orphan.exists()
        assert tiny.check_dataset(root) == 2
        assert tiny.record_one(writer) == 2
    assert tiny.check_dataset(root) == 3
