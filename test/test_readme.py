"""What the README says is true: its commands run, its tables are the code's."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import typer
from readme_commands import ASKING, COMMANDS, README, RECORDING, ROOT, TRAINING, type_in

from vla_ros import topics
from vla_ros.cli import app


def test_it_shows_the_commands_that_need_no_robot() -> None:
    assert {command[1] for command in COMMANDS} == {"check", "graph", "doctor", "run"}
    assert {command[1] for command in RECORDING} == {"record", "dataset", "replay", "convert"}


def test_its_way_from_a_demonstration_to_a_dataset_can_be_gone(tmp_path: Path) -> None:
    for command in RECORDING:
        type_in(command, tmp_path)
    told = json.loads((tmp_path / "data/large/meta/info.json").read_text(encoding="utf-8"))
    assert told["total_episodes"] == int(RECORDING[0][RECORDING[0].index("--episodes") + 1])
    assert (tmp_path / "data/older/meta/modality.json").exists()
    assert len([*(tmp_path / "data/pictures").glob("*.png")]) == 2


def test_its_way_from_a_dataset_to_a_model_is_spelt_right() -> None:
    known = typer.main.get_command(app)
    for _, *words in [*ASKING, *TRAINING]:
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
