"""Reports: sums, percentiles and the file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vla_ros.rollout.report import EpisodeRow, Percentiles, Report

ROWS = (
    EpisodeRow(7, "lift the red cube", True, 4.2, "success", {"velocity": 2}),
    EpisodeRow(8, "lift the blue cube", False, 20.0, "time limit", {"velocity": 1, "workspace": 1}),
)


def test_a_report_adds_up_its_episodes() -> None:
    report = Report("scripted", ROWS)
    assert report.successes == 1
    assert report.interventions == {"velocity": 3, "workspace": 1}


def test_percentiles_are_those_of_the_values() -> None:
    values = np.random.default_rng(0).permutation(np.arange(101.0)).tolist()
    assert Percentiles.of(values) == Percentiles(50.0, 99.0)
    assert Percentiles.of([]) == Percentiles(None, None)


def test_the_file_says_what_the_report_says(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.json"
    Report("scripted", ROWS, Percentiles.of([100.0]), topics={"/vla/chunk": 5.0}).write(path)
    written = json.loads(path.read_text())
    assert written["policy"] == "scripted"
    assert (written["episodes"], written["successes"]) == (2, 1)
    assert written["latency_ms"] == {"p50": 100.0, "p99": 100.0}
    assert written["jitter_ms"] == {"p50": None, "p99": None}
    assert written["topics"] == {"/vla/chunk": 5.0}
    assert written["interventions"] == {"velocity": 3, "workspace": 1}
    assert written["rows"][1] == {
        "seed": 8,
        "instruction": "lift the blue cube",
        "success": False,
        "duration_s": 20.0,
        "ended": "time limit",
        "interventions": {"velocity": 1, "workspace": 1},
    }


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    Report("scripted", ROWS).write(path)
    assert json.loads(path.read_text())["episodes"] == 2
    with pytest.raises(ValueError, match="Out of range float"):
        Report("scripted", (EpisodeRow(0, "", False, float("nan"), ""),)).write(path)
    assert json.loads(path.read_text())["episodes"] == 2
    assert list(tmp_path.iterdir()) == [path]
