"""What the README says to run runs, through the nodes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from readme_commands import COMMANDS, UNTIL_INTERRUPTED, type_in


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != UNTIL_INTERRUPTED], ids=" ".join)
def test_its_commands_run(command: list[str], tmp_path: Path) -> None:
    type_in(command, tmp_path)
    if command[1] == "run":
        (report,) = tmp_path.glob("runs/*/report.json")
        told = json.loads(report.read_text(encoding="utf-8"))
        assert told["episodes"] == int(command[command.index("--episodes") + 1])
        assert told["successes"] == told["episodes"], told
        assert (report.parent / "montage.png").stat().st_size > 10_000
