"""What the README says to run runs, through the nodes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from readme_commands import ASKING, COMMANDS, DOCTOR, ROOT, UNTIL_INTERRUPTED, type_in


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in (UNTIL_INTERRUPTED, DOCTOR)], ids=" ".join)
def test_its_commands_run(command: list[str], tmp_path: Path) -> None:
    type_in(command, tmp_path)
    if command[1] == "run":
        (report,) = tmp_path.glob("runs/*/report.json")
        told = json.loads(report.read_text(encoding="utf-8"))
        assert told["episodes"] == int(command[command.index("--episodes") + 1])
        assert told["successes"] == told["episodes"], told
        assert (report.parent / "montage.png").stat().st_size > 10_000


def test_the_one_without_an_end_reports_in_plain_words(ros_domain_id: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vla_ros", *UNTIL_INTERRUPTED[1:]]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told: list[str] = []
    while not told or "vla-ros run franka_upvla --episodes 10" not in told[-1]:  # the last of what can be typed next
        told.append(process.stdout.readline())
        assert told[-1], (told, process.communicate())
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    for words in ("the arm moves: lift the red cube", "success: lift the red cube", "vla-ros doctor franka_upvla"):
        assert any(words in line for line in told), (words, told)
    assert "successes: 1, after " in rest
    assert not any("[vla.controller]" in line for line in (*told, rest, errors)), "no raw log lines"
    (log,) = tmp_path.glob("runs/*/nodes.log")
    assert "[controller] " in log.read_text()


@pytest.mark.full
def test_the_model_that_comes_with_it_answers_while_it_moves_the_arm(ros_domain_id: int, tmp_path: Path) -> None:
    run, ask = ([sys.executable, "-m", "vla_ros", *command[1:]] for command in ASKING)
    run[run.index("--checkpoint") + 1] = str(ROOT / run[run.index("--checkpoint") + 1])
    process = subprocess.Popen(run, cwd=tmp_path)
    try:
        until_s = time.monotonic() + 120.0
        answered = subprocess.run(ask, capture_output=True, text=True, check=False)
        while answered.returncode and time.monotonic() < until_s:  # until it is there, and has seen something
            answered = subprocess.run(ask, capture_output=True, text=True, check=False)
    finally:
        process.send_signal(signal.SIGINT)
        ended = process.wait(60)
    assert answered.returncode == 0, answered.stderr
    assert answered.stdout.strip().startswith(("on the ", "in the "))
    assert ended in (0, 130)
