"""What the README says is true: its commands run, its tables are the code's."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from vla_ros import topics
from vla_ros.cli import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = [
    [shlex.split(line, comments=True) for line in block.splitlines() if line.startswith(".venv/bin/vla-ros")]
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
]
#: Those of recording need what the ones before them left.
RECORDING = next(block for block in BLOCKS if any(command[1] == "replay" for command in block))
#: Those of training take an hour; training/test_up_vla.py and test_cli_evaluate.py go the same way with less.
TRAINING = next(block for block in BLOCKS if any(command[1] == "train" for command in block))
COMMANDS = [command for block in BLOCKS if block not in (RECORDING, TRAINING) for command in block]
#: The one that never ends by itself; test_supervising.py runs and interrupts it.
UNTIL_INTERRUPTED = [".venv/bin/vla-ros", "run", "franka_upvla", "--instruction", "lift the red cube"]


def type_in(command: list[str], folder: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ROS_DOMAIN_ID"}
    done = subprocess.run(
        [sys.executable, "-m", "vla_ros", *command[1:]],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_shows_the_commands_that_need_no_robot() -> None:
    assert {command[1] for command in COMMANDS} == {"check", "graph", "doctor", "run"}
    assert {command[1] for command in RECORDING} == {"record", "dataset", "replay", "convert"}


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != UNTIL_INTERRUPTED], ids=" ".join)
def test_its_commands_run(command: list[str], tmp_path: Path) -> None:
    type_in(command, tmp_path)
    if command[1] == "run":
        (report,) = tmp_path.glob("runs/*/report.json")
        told = json.loads(report.read_text(encoding="utf-8"))
        assert told["episodes"] == int(command[command.index("--episodes") + 1])
        assert told["successes"] == told["episodes"], told
        assert (report.parent / "montage.png").stat().st_size > 10_000


def test_its_way_from_a_demonstration_to_a_dataset_can_be_gone(tmp_path: Path) -> None:
    for command in RECORDING:
        type_in(command, tmp_path)
    told = json.loads((tmp_path / "data/large/meta/info.json").read_text(encoding="utf-8"))
    assert told["total_episodes"] == int(RECORDING[0][RECORDING[0].index("--episodes") + 1])
    assert (tmp_path / "data/older/meta/modality.json").exists()
    assert len([*(tmp_path / "data/pictures").glob("*.png")]) == 2


def test_its_way_from_a_dataset_to_a_model_is_spelt_right() -> None:
    known = typer.main.get_command(app)
    for _, *words in TRAINING:
        command: Any = known
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in words if word.startswith("--")} <= options


def test_its_table_of_topics_is_the_one_of_the_code() -> None:
    rows = re.findall(r"^\| `(/\S+)` \| (\S+/(?:msg|srv)/\S+) \| (.*) \|$", README, re.MULTILINE)
    assert {name: (kind, what) for name, kind, what in rows} == topics.TABLE


def test_it_says_where_everything_is() -> None:
    parts = [path.name for path in (ROOT / "vla_ros").iterdir() if not path.name.startswith(("_", "py.typed"))]
    assert [part for part in parts if part not in README] == []


def test_what_it_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert [link for link in links if not (ROOT / link).exists()] == []
