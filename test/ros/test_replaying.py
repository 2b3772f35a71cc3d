"""A recorded episode through the nodes: the same world, the recorded actions as chunks, success again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vla_ros.cli.app import app
from vla_ros.control.arm import ArmConfig
from vla_ros.recording.config import RecordingConfig
from vla_ros.robots.panda import PANDA
from vla_ros.rollout.demonstrations import DemonstrationConfig, Setup, record_demonstrations
from vla_ros.simulation.world import DEFAULT_CAMERAS, TabletopConfig


@pytest.mark.usefixtures("ros_domain_id")  # what the command sets in the environment does not outlive the test
def test_what_was_recorded_is_done_again_over_ros(tmp_path: Path) -> None:
    cameras = {"wrist": DEFAULT_CAMERAS["wrist"].model_copy(update={"width": 32, "height": 32})}
    setup = Setup(PANDA, TabletopConfig(cameras=cameras), ("wrist",), ArmConfig(), RecordingConfig(fps=20), 5.0)
    demonstrations = DemonstrationConfig(tasks=("push left",), mishaps=0.0)
    record_demonstrations(setup, tmp_path / "dataset", 1, 21, demonstrations)
    report = tmp_path / "report.json"
    options = ["--ros", "--report", str(report), "--require-successes", "1"]
    result = CliRunner().invoke(app, ["replay", "franka_upvla", str(tmp_path / "dataset"), *options])
    assert result.exit_code == 0, result.output
    assert "1 of 1 succeeded again" in result.output
    tracking = json.loads(report.read_text())["episodes"][0]
    # The nodes are late by what their messages take; the motion is the same.
    assert abs(tracking["shift_ms"]) < 100.0
    assert tracking["shifted_rms_rad"] < 0.02
