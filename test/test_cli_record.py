"""vla-ros record: what it refuses before anything runs, what it shows, and a recording without ROS from end to end."""

from __future__ import annotations

import os
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from vla_ros.cli import record_live
from vla_ros.cli.app import app
from vla_ros.cli.record_live import view

STATE = {
    "message": "recording: camera front: stalled, nothing usable for 200 ms",
    "root": "/data/cups",
    "episode": "3",
    "task": "stack the cups",
    "frames": "127",
    "rate_hz": "29.750",
    "repeated.front": "2",
    "repeated_in_a_row": "1",
    "skew_ms": "4.250",
    "lag_ms": "61.200",
    "backlog": "5",
    "disk_free_mb": "65243",
    "success": "True",
    "front.rate_hz": "30.000",
    "front.age_ms": "12.000",
    "front.received": "400",
    "front.dropped": "7",
}


def record(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["record", "franka_upvla", *map(str, arguments)])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--resume",), "error: --resume: {dataset} contains no dataset to continue\n"),
        (("--no-ros",), "error: --no-ros needs --episodes\n"),
        (("--episodes", "2", "--noise", "0"), "error: --tasks, --noise and --mishaps need --no-ros\n"),
        (("--episodes", "2", "--tasks", "lift"), "error: --tasks, --noise and --mishaps need --no-ros\n"),
        (("--keep-failures",), "error: --keep-failures and --seed need --episodes\n"),
        (("--seed", "3"), "error: --keep-failures and --seed need --episodes\n"),
        (("--policy", "another"), "error: policy.name: unknown policy 'another'"),
        (("--episodes", "2", "--no-sim"), "error: policy: scripted sees the simulated world's state"),
        (("--episodes", "2", "--task", "sing"), "error: instruction: "),
        (("--episodes", "2", "--no-ros", "--tasks", "sing"), "error: tasks: "),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    dataset = tmp_path / "dataset"
    result = record("--dataset", dataset, *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(told.format(dataset=dataset)), result.stderr
    assert not dataset.exists()


def test_a_dataset_must_be_named() -> None:
    assert record().exit_code == 2


@pytest.mark.parametrize("how", [(), ("--no-ros",)])
@pytest.mark.parametrize(
    ("there", "told"),
    [
        ("meta/info.json", "is already a dataset; --resume appends to it"),
        ("photo.jpg", "is not empty and not a dataset; give a new folder"),
        ("", "cannot be made: it is a file"),
    ],
)
def test_nothing_is_overwritten(tmp_path: Path, there: str, told: str, how: tuple[str, ...]) -> None:
    dataset = tmp_path / "dataset"
    file = dataset / there if there else dataset
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("precious")
    result = record("--dataset", dataset, "--episodes", "1", *how)
    assert result.exit_code == 2
    assert result.stderr == f"error: --dataset: {dataset} {told}\n"
    assert file.read_text() == "precious"


def shown(typed: str | None = None, **changes: str) -> str:
    return printed(view({**STATE, **changes}, ["start: stack the cups"], typed))


def printed(what: Any) -> str:
    file = StringIO()
    Console(width=120, file=file).print(what)
    return file.getvalue()


def test_the_view_says_how_the_recording_is() -> None:
    text = shown()
    for what in (
        "/data/cups",
        "recording   episode 3   127 frames   success",
        "stack the cups",
        "encoder backlog 5",
        "disk free MB 65243",
        "lag ms 61.2",
        "camera front: stalled, nothing usable for 200 ms",
        "start: stack the cups",
        "s save",
    ):
        assert what in text
    (stream,) = [line for line in text.splitlines() if " front  " in line]
    assert stream.strip("│ ").split() == ["front", "30.0", "12.0", "7", "2"]
    assert "new task (Enter, Esc): cups_" in shown(typed="cups")
    assert "failure" in shown(success="False").splitlines()[1]
    assert "(none: press t)" in shown(task="")


@pytest.mark.parametrize("width", [80, 110])
def test_no_figure_and_no_key_is_broken_at_a_lines_end(width: int) -> None:
    file = StringIO()
    Console(width=width, file=file).print(view(STATE, [], None))
    lines = file.getvalue().splitlines()
    for what in ("disk free MB 65243", "repeated in a row 1", "a save anyway", "space start/pause", "q quit"):
        assert any(what in line for line in lines), what


def test_the_view_waits_for_a_recorder() -> None:
    assert "waiting for the recorder" in printed(view({}, [], None))


def test_the_view_does_not_show_what_was_as_if_it_were() -> None:
    text = printed(view(STATE, ["node recorder restarts in 0.5 s"], None, silent_s=3.0))
    assert "no message from the recorder for 3 s; its last state was recording" in text
    assert "127 frames" not in text
    assert "node recorder restarts in 0.5 s" in text


def test_the_view_takes_a_folders_name_as_it_is() -> None:
    assert "/data/[/cups]" in shown(root="/data/[/cups]")


@pytest.mark.parametrize(
    ("sent", "keys"),
    [
        (b"sd", "sd"),
        (b"\x1b[A\x1b[3~\x1bOd\x1b[1;5D", ""),  # arrows, delete
        (b"s\x1bdn", "sn"),  # Alt and d
        (b"\x1b", "\x1b"),
        ("ü".encode(), "ü"),
    ],
)
def test_no_letter_of_an_arrow_is_taken_for_a_key(sent: bytes, keys: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, writes = os.pipe()
    with os.fdopen(reads) as stdin, os.fdopen(writes, "wb") as terminal:
        terminal.write(sent)
        terminal.flush()
        monkeypatch.setattr(record_live.sys, "stdin", stdin)
        assert record_live._pressed() == keys
        assert record_live._pressed() == ""
