"""vla-ros run --dry-run as a user types it: all is computed, nothing reaches the driver, and a picture is left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("mujoco")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from matplotlib import image
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from vla_ros import config, messages, topics
from vla_ros.cli import dry_run
from vla_ros.robots.panda import PANDA
from vla_ros.ros import convert, operating, qos
from vla_ros.ros.watching import CommandWatcher
from vla_ros.timing.stamps import s_to_ns
from vla_ros.values import ActionChunk, Command


def test_nothing_is_sent_and_what_would_have_been_is_drawn(
    ros_domain_id: int, make_watcher: Callable[[], Any], tmp_path: Path
) -> None:
    watcher = make_watcher()
    ends = PANDA.endpoints
    sent = [
        watcher.hear(Float64MultiArray, ends[key].name, QoSProfile(depth=1000))
        for key in ("joints_desired", "pose_desired")
    ]
    states = watcher.hear(JointState, ends["joint_states"].name, qos.NEWEST)
    commands = watcher.hear(JointTrajectory, topics.COMMAND, QoSProfile(depth=1000))
    run = [sys.executable, "-m", "vla_ros", "run", "franka_upvla", "--instruction", "lift the red cube"]
    process = subprocess.Popen(
        [*run, "--dry-run"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), **os.environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        watcher.until(lambda: len(commands) > 100, "a second of commands")
        process.send_signal(signal.SIGINT)
        watcher.until(lambda: process.poll() is not None, "the dry run to end", 90.0)  # simulated time may be slow
    finally:
        process.kill()
    output, _ = process.communicate()
    assert process.returncode == 0, output

    assert sent == [[], []]
    moves = np.ptp([message.points[0].positions[:7] for message in commands], axis=0)
    assert moves.max() > 0.1  # it would have moved
    assert np.abs([state.velocity for state in states]).max() < 1e-3  # and did not
    assert watcher.values["controller"]["dry_run"] == "True"
    assert "dry run: all of it runs, but nothing is sent to the arm or its gripper" in output
    match = re.search(r"^commands   (runs/\S+/commands\.png)$", output, re.MULTILINE)
    assert match, output
    assert image.imread(tmp_path / match[1]).shape[:2] == (1100, 1500)


def test_without_a_command_there_is_no_picture(
    ros_domain_id: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with operating.context() as context:
        watcher = CommandWatcher(config.load("franka_upvla"), context)
        dry_run.draw(watcher, "", tmp_path / "commands.png")
        watcher.destroy_node()
    assert capsys.readouterr().out == "commands   none: nothing was commanded, so there is nothing to draw\n"
    assert not (tmp_path / "commands.png").exists()


def test_the_watcher_forgets_what_is_old_and_notes_when_something_acted(
    ros_domain_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vla_ros.ros.watching._REMEMBERED_S", 1.0)
    system = config.load("franka_upvla")
    with operating.context() as context:
        watcher = CommandWatcher(system, context)
        watcher._on_state(said(0.5, "holding", workspace=3, commands=0))  # before the first command
        home = np.array(PANDA.home_rad)
        for tick in range(150):
            command = Command(s_to_ns(1.0) + tick * 10_000_000, home, np.zeros(7), np.arange(7.0), None)
            watcher._on_command(convert.command_to_trajectory(command, PANDA.joint_names, PANDA.base_frame))
        watcher._on_state(said(2.0, "running", workspace=3, commands=100))
        watcher._on_state(said(2.1, "running", workspace=5, commands=110, jump=1))
        watcher.watch(for_s=1.0)  # which is over already
        trace = watcher.trace("", "")
        watcher.destroy_node()
    assert trace.commanded_ns[0] == s_to_ns(1.5)
    assert trace.duration_s == pytest.approx(0.99)
    assert trace.workspace_m.tolist() == [
        list(system.controller.limits.workspace_lower_m),
        list(system.controller.limits.workspace_upper_m),
    ]
    assert trace.interventions == [(s_to_ns(2.1), "workspace"), (s_to_ns(2.1), "jump")]
    assert trace.states == [(s_to_ns(0.5), "holding"), (s_to_ns(2.0), "running")]


def test_the_watcher_survives_what_the_controller_refuses(ros_domain_id: int) -> None:
    with operating.context() as context:
        watcher = CommandWatcher(config.load("franka_upvla"), context)
        watcher._on_command(JointTrajectory())
        watcher._on_chunk(JointTrajectory())
        for names, value in ((PANDA.joint_names[:3], 0.0), (PANDA.joint_names, np.nan)):
            chunk = ActionChunk(s_to_ns(1.0), s_to_ns(0.1), names, np.full((2, len(names)), value))
            watcher._on_chunk(convert.chunk_to_trajectory(chunk, PANDA.base_frame))
        home = np.array(PANDA.home_rad)
        command = Command(s_to_ns(1.0), home, np.zeros(7), np.arange(7.0), None)
        watcher._on_command(convert.command_to_trajectory(command, PANDA.joint_names, PANDA.base_frame))
        assert watcher.trace("", "").planned == []
        good = ActionChunk(s_to_ns(1.0), s_to_ns(0.1), PANDA.joint_names, np.tile(home, (2, 1)))
        watcher._on_chunk(convert.chunk_to_trajectory(good, PANDA.base_frame))
        assert [path.shape for path in watcher.trace("", "").planned] == [(2, 3)]
        watcher.destroy_node()


def said(time_s: float, state: str, **counts: int) -> DiagnosticArray:
    values = {"mode": "policy", "safety_state": state}
    values |= {messages.INTERVENTION + name: str(count) for name, count in counts.items()}
    entries = [KeyValue(key=key, value=value) for key, value in values.items()]
    message = DiagnosticArray(status=[DiagnosticStatus(name="controller", values=entries)])
    message.header.stamp = convert.ns_to_stamp(s_to_ns(time_s))
    return message
