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

from vla_ros import config, topics
from vla_ros.recording import features
from vla_ros.recording.reader import DatasetReader

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
def test_without_a_terminal_it_prints_lines_and_obeys_services(
    ros_domain_id: int, make_watcher: Callable[..., Any], tmp_path: Path
) -> None:
    dataset = tmp_path / "dataset"
    command = [sys.executable, "-m", "vla_ros", "record", str(small_system(tmp_path)), "--dataset", str(dataset)]
    command += ["--task", "lift the red cube"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    watcher = make_watcher(use_sim_time=True)

    def is_done(word: str) -> bool:
        return bool(watcher.call(topics.recorder(word)).success)

    watcher.until(lambda: is_done("start"), "the recorder to begin")
    watcher.until(lambda: int(watcher.values["recorder"]["frames"]) >= 20, "20 frames")
    assert is_done("save")
    said = []
    while "save: episode 0: " not in "".join(said[-1:]):
        said.append(process.stdout.readline())
        assert said[-1], said
    assert [line for line in said if "recorder   recording" in line]
    assert [line for line in said if "start: lift the red cube" in line]
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert [episode.task for episode in DatasetReader(dataset).meta.episodes] == ["lift the red cube"]
