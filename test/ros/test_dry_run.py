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

from matplotlib import image
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from vla_ros import config, topics
from vla_ros.robots.panda import PANDA
from vla_ros.ros import convert, operating, qos
from vla_ros.ros.watching import CommandWatcher
from vla_ros.timing.stamps import s_to_ns
from vla_ros.values import Command

SECONDS = 2.0


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
        [*run, "--dry-run", "--seconds", str(SECONDS)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), **os.environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        watcher.until(lambda: process.poll() is not None, "the dry run to end by itself")
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


def test_a_dry_run_that_is_interrupted_before_it_commanded_says_so(ros_domain_id: int, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "vla_ros", "run", "franka_upvla", "--dry-run"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), **os.environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    said = ""
    while "holding: not started" not in said:
        said += process.stdout.readline()
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate()
    assert process.returncode == 0, said + rest
    assert "the arm holds until it hears a task on /vla/instruction and /vla/start is called" in said
    assert rest.endswith("commands   none: nothing was commanded, so there is nothing to draw\n")
    assert not (tmp_path / "runs").exists()


def test_the_watcher_forgets_what_is_old_and_counts_what_acted(
    ros_domain_id: int, make_watcher: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vla_ros.ros.watching._REMEMBERED_S", 1.0)
    system = config.load("franka_upvla")
    with operating.context() as context:
        watcher = CommandWatcher(system, context)
        home = np.array(PANDA.home_rad)
        for tick in range(150):
            command = Command(s_to_ns(1.0) + tick * 10_000_000, home, np.zeros(7), np.arange(7.0), None)
            watcher._on_command(convert.command_to_trajectory(command, PANDA.joint_names, PANDA.base_frame))
        trace = watcher.trace("", "")
        watcher.destroy_node()
    assert trace.commanded_ns[0] == s_to_ns(1.5)
    assert trace.duration_s == pytest.approx(0.99)
    assert trace.workspace_m.tolist() == [
        list(system.controller.limits.workspace_lower_m),
        list(system.controller.limits.workspace_upper_m),
    ]
    assert trace.interventions == []
