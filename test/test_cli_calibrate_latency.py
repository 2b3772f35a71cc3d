"""`vla-ros calibrate latency`: what it shows, draws, writes and refuses; the measuring itself is tested elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from vla_ros import config
from vla_ros.calibration.latency import Recording, Series
from vla_ros.calibration.motion import Sway
from vla_ros.cli import app, calibrate_latency
from vla_ros.timing.stamps import s_to_ns
from vla_ros.values import Array

TIMES_S = np.arange(0.0, 9.0, 0.02)
GOAL_S = 10.0


def series(times_s: Array, values: Array) -> Series:
    return Series(np.round(times_s * 1e9).astype(np.int64), values.reshape(len(times_s), -1))


def recording(front_ms: float, wrist_sees: bool) -> Recording:
    """An arm that follows 50 ms late, a gripper that shuts 80 ms late, two cameras of three pixels."""
    sway = Sway()
    joints, commands = np.zeros((len(TIMES_S), 7)), np.zeros((len(TIMES_S), 7))
    joints[:, 0], commands[:, 0] = sway.offsets_rad(TIMES_S - 0.5), sway.offsets_rad(TIMES_S - 0.45)
    seen = sway.offsets_rad(TIMES_S - 0.5 - 0.001 * front_ms)[:, None] * np.array([100.0, -70.0, 5.0])
    noise = np.random.default_rng(0).standard_normal((len(TIMES_S), 3))
    widths_s = np.arange(9.5, 12.0, 1 / 15)
    widths = np.clip(0.08 - 0.1 * (widths_s - GOAL_S - 0.08), 0.0, 0.08)
    return Recording(
        joint=0,
        along=np.eye(7)[0],
        commands=series(TIMES_S, commands),
        joints=series(TIMES_S, joints),
        pictures={"front": series(TIMES_S, seen), "wrist": series(TIMES_S, seen if wrist_sees else noise)},
        widths=series(widths_s, widths),
        goals_ns=(s_to_ns(GOAL_S),),
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return Path(shutil.copy(config.find("franka_upvla"), tmp_path))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["calibrate", "latency", *arguments])


def test_what_was_measured_is_shown_drawn_and_written(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate_latency, "_record", lambda *_: recording(40.0, wrist_sees=True))
    plot = file.parent / "plots" / "delays.png"
    result = run(str(file), "--write", "--plot", str(plot))
    assert result.exit_code == 0, result.output
    rows = [line for line in result.stdout.splitlines() if line.startswith("│")]
    assert [" ".join(row.replace("│", " ").split()) for row in rows] == [
        "camera front 40.0 0.0 0.0 image against joint",
        "camera wrist 40.0 0.0 0.0 image against joint",
        "arm 50.0 0.0 0.0 joint against command",
        "gripper 80.0 0.0 0.0 goal to first motion",
    ]
    assert plot.read_bytes().startswith(b"\x89PNG")
    written = config.load(str(file))
    assert [camera.latency_ms for camera in written.cameras.values()] == [40.0, 40.0]
    assert written.controller.schedule.actuation_latency_ms == 50.0
    assert written.controller.gripper.latency_ms == 80.0


def test_nothing_is_written_unasked(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate_latency, "_record", lambda *_: recording(40.0, wrist_sees=True))
    before = file.read_text()
    assert run(str(file)).exit_code == 0
    assert file.read_text() == before


def test_what_cannot_be_told_is_said_and_left_alone(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate_latency, "_record", lambda *_: recording(40.0, wrist_sees=False))
    result = run(str(file), "--write")
    assert result.exit_code == 1
    assert "error: cameras.wrist.latency_ms: it saw no motion that goes with the arm's" in result.stderr
    cameras = config.load(str(file)).cameras
    assert (cameras["front"].latency_ms, cameras["wrist"].latency_ms) == (40.0, 0.0)


@pytest.mark.parametrize(
    ("arguments", "exit_code", "problem"),
    [
        (["--joint", "8"], 2, "--joint: panda has 7 joints (given 8)"),
        (["--plot", "delays.jpg"], 2, "--plot: delays.jpg should end in .png"),
        (["--filmed-stamp", "--sim"], 2, "--filmed-stamp: a simulated camera sees no screen"),
        (["--filmed-stamp"], 1, "error: a window needs "),
        (["--amplitude", "1"], 2, "Invalid value for '--amplitude'"),
    ],
)
def test_what_cannot_be_done_is_refused(
    arguments: list[str], exit_code: int, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    result = run("franka_upvla", *arguments)
    assert (result.exit_code, problem in result.stderr) == (exit_code, True), result.output
