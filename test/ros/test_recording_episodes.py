"""`vla-ros record` over ROS: simulated episodes recorded by themselves, and what a person's desk makes of the words."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")
pytest.importorskip("mujoco")

from trajectory_msgs.msg import JointTrajectory

from vla_ros import config, topics
from vla_ros.recording import features
from vla_ros.recording.reader import DatasetReader
from vla_ros.robots.panda import PANDA
from vla_ros.ros import convert, qos
from vla_ros.values import Target

EPISODES = 20 if os.environ.get("VLA_ROS_FULL") else 2
FPS = 15
SIZE = 96


def small_system(folder: Path) -> Path:
    """The shipped system with small pictures."""
    system = yaml.safe_load(config.find("franka_upvla").read_text())
    for camera in system["cameras"].values():
        camera |= {"width": SIZE, "height": SIZE}
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump(system))
    return file


def test_episodes_are_recorded_with_the_arm_that_does_them(tmp_path: Path) -> None:
    dataset = tmp_path / "dataset"
    command = [sys.executable, "-m", "vla_ros", "record", str(small_system(tmp_path)), "--dataset", str(dataset)]
    # The second begins where the first left off, but for the reset of the world.
    options = ["--episodes", str(EPISODES), "--seed", "3", "--fps", str(FPS)]
    within_s = 60 * EPISODES + 60
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, timeout=within_s)
    assert done.returncode == 0, done.stdout + done.stderr
    reader = DatasetReader(dataset)
    assert len(reader.meta.episodes) == EPISODES
    assert reader.meta.fps == FPS
    for episode in reader.meta.episodes:
        details = reader.meta.details(episode)
        assert details["success"] is True
        assert details["source"] == "scripted"
        assert details["seed"] >= 3
        assert episode.task.startswith("lift the ")
        columns = reader.columns(episode.index, [features.STATE, features.ACTION, features.MODE, features.REPEATED])
        state, action = columns[features.STATE], columns[features.ACTION]
        assert len(state) == episode.length > 2 * FPS
        assert (columns[features.MODE][-5:] == features.MODES.index("policy")).all()
        assert columns[features.REPEATED].mean() <= 0.02
        # It moved, the gripper closed on a cube, and the arm was where it was sent, a moment later.
        assert np.ptp(state[:, :-1], axis=0).max() > 0.1
        assert state[:, -1].min() < 0.06 < state[:, -1].max()
        assert np.abs(state[1:, :-1] - action[:-1, :-1]).max() < 0.3
        images = reader.row(episode.from_index).images
        assert {image.shape for image in images.values()} == {(SIZE, SIZE, 3)}


@pytest.mark.full
def test_a_person_demonstrates_in_simulation(
    ros_domain_id: int, make_watcher: Callable[..., Any], tmp_path: Path
) -> None:
    """Without a terminal, by services: the expert stands still, a teleoperator leads; without motion `save` asks."""
    dataset = tmp_path / "dataset"
    command = [sys.executable, "-m", "vla_ros", "record", str(small_system(tmp_path)), "--dataset", str(dataset)]
    command += ["--task", "lift the red cube"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    watcher = make_watcher(use_sim_time=True)

    def is_done(word: str) -> bool:
        return bool(watcher.call(topics.recorder(word)).success)

    def record(frames: int) -> None:
        watcher.until(lambda: is_done("start"), "the recorder to begin")
        watcher.until(lambda: int(watcher.values["recorder"]["frames"]) >= frames, f"{frames} frames")

    try:
        record(20)
        refused = watcher.call(topics.recorder("save"))
        assert not refused.success and "nothing moved" in refused.message
        assert is_done("discard")
        targets = watcher.create_publisher(JointTrajectory, topics.TELEOP, qos.COMMAND)
        began_ns = watcher.now_ns

        def teleoperate() -> None:
            swing = 0.1 * np.sin((watcher.now_ns - began_ns) * 1e-9)
            target = Target(watcher.now_ns, PANDA.joint_names, np.array(PANDA.home_rad) + swing * np.eye(7)[0])
            targets.publish(convert.target_to_trajectory(target, PANDA.base_frame))

        watcher.create_timer(0.02, teleoperate)
        watcher.until_said("controller", "running")
        record(40)
        assert is_done("save")
        said = []
        while "save: episode 0: " not in "".join(said[-1:]):
            said.append(process.stdout.readline())
            assert said[-1], said
        assert [line for line in said if "no policy runs: the arm follows targets on /vla/teleop" in line]
        assert [line for line in said if "recorder   recording" in line]
        assert [line for line in said if "start: lift the red cube" in line]
    finally:
        process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    reader = DatasetReader(dataset)
    assert [episode.task for episode in reader.meta.episodes] == ["lift the red cube"]
    columns = reader.columns(0, [features.MODE, features.STATE])
    assert (columns[features.MODE] == features.MODES.index("teleop")).all()
    assert np.ptp(columns[features.STATE][:, 0]) > 0.05
    assert reader.meta.details(reader.meta.episodes[0])["source"] == "teleop"
