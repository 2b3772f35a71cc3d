"""Ctrl-C keeps what is whole, and the command that is printed continues from there."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

pytest.importorskip("mujoco")

from vla_ros import config
from vla_ros.cli.app import app
from vla_ros.recording.dataset import DatasetMeta
from vla_ros.viewing.progress import Progress


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Path:
    content = yaml.safe_load(config.find("franka_upvla").read_text())
    for camera in content["cameras"].values():
        camera |= {"width": 64, "height": 64}
    (file := tmp_path_factory.mktemp("system") / "small.yaml").write_text(yaml.safe_dump(content))
    return file


def vla_ros(*words: object) -> Result:
    return CliRunner().invoke(app, [*map(str, words)])


def the_rest(result: Result) -> list[str]:
    """The words of the command that is printed last, without the program's name."""
    assert result.exit_code == 130, result.output
    words = shlex.split(result.stderr.splitlines()[-1].partition(": ")[2])
    return words[next(i for i, word in enumerate(words) if word in ("record", "scenes", "replay")) :]


@pytest.fixture
def pressed(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, float]]:
    """Ctrl-C as soon as so much of something is shown to be done; once."""
    at: dict[str, float] = {}
    show = Progress.__call__

    def press(self: Progress, what: str, done: float, *rest: Any) -> None:
        show(self, what, done, *rest)
        if what in at and done >= at[what]:
            del at[what]
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "__call__", press)
    yield at
    assert not at, "it was pressed"


def test_demonstrations_and_their_replay(system: Path, tmp_path: Path, pressed: dict[str, float]) -> None:
    dataset = tmp_path / "lifts"
    asked = ("--dataset", dataset, "--no-ros", "--fps", "10", "--tasks", "lift", "--mishaps", "0", "--seed", "50")
    pressed["recorded"] = 1
    stopped = vla_ros("record", system, *asked, "--episodes", 2)
    assert "1 of 2 episodes are kept" in stopped.stderr
    rest = vla_ros(*the_rest(stopped))
    assert rest.exit_code == 0, rest.output
    assert len(DatasetMeta.load(dataset).seeds()) == len(DatasetMeta.load(dataset).episodes) == 2

    pressed["replayed"] = 1
    report = tmp_path / "replay.json"
    stopped = vla_ros("replay", system, dataset, "--report", report)
    assert "the report has 1 of 2 episodes" in stopped.stderr
    assert all(unit in stopped.stdout for unit in ("[mrad]", "[mm]", "[ms]"))
    assert re.search(r'"episode": 0\b', report.read_text())
    assert the_rest(stopped)[-2:] == ["--episode", "1"]


def test_after_the_last_episode_there_is_no_rest(system: Path, tmp_path: Path, pressed: dict[str, float]) -> None:
    asked = ("--dataset", tmp_path / "lift", "--no-ros", "--fps", "10", "--tasks", "lift", "--mishaps", "0")
    pressed["recorded"] = 1
    stopped = vla_ros("record", system, *asked, "--seed", 50, "--episodes", 1)
    assert stopped.exit_code == 130, stopped.output
    assert stopped.stderr.endswith("1 of 1 episodes are kept\n")


def test_scenes_are_whole_and_can_be_learnt_from(system: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import signal

    show = Progress.__call__

    def press(self: Progress, what: str, done: float, *rest: Any) -> None:
        show(self, what, done, *rest)
        if done == 2:
            signal.raise_signal(signal.SIGINT)  # heard by the writer, after the scene

    monkeypatch.setattr(Progress, "__call__", press)
    out = tmp_path / "scenes"
    stopped = vla_ros("scenes", system, "--out", out, "--count", 3, "--seed", 7)
    assert "2 of 3 scenes are kept" in stopped.stderr
    assert len((out / "measures.jsonl").read_text().splitlines()) == 2
    images = {name for entry in json.loads((out / "conversations.json").read_text()) for name in entry["image"]}
    assert images == {f"images/{file.name}" for file in (out / "images").iterdir()}
    assert the_rest(stopped)[-6:] == ["--out", f"{out}-9", "--count", "1", "--seed", "9"]
