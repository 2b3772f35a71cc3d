"""Demonstrations in process: what is recorded is what was done and wanted, and a seed gives it again."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from vla_ros.control import kinematics
from vla_ros.control.arm import ArmConfig
from vla_ros.policies import registry
from vla_ros.recording.config import RecordingConfig
from vla_ros.recording.files import DatasetError
from vla_ros.robots.panda import PANDA
from vla_ros.rollout.demonstrations import TASK_GROUPS, DemonstrationConfig, Setup, record_demonstrations, task_of
from vla_ros.rollout.disturbances import Disturbances, NoiseConfig
from vla_ros.rollout.loop import Episode, Rollout, RolloutConfig, Watcher
from vla_ros.simulation.tabletop import Tabletop
from vla_ros.simulation.world import DEFAULT_CAMERAS, TabletopConfig
from vla_ros.values import Array, Target

FPS = 10
SMALL = {name: camera.model_copy(update={"width": 64, "height": 48}) for name, camera in DEFAULT_CAMERAS.items()}
QUIET = DemonstrationConfig(noise=NoiseConfig(position_m=0.0, rotation_deg=0.0), mishaps=0.0, tasks=("push left",))
NOISY = DemonstrationConfig(tasks=("push right", "Lift the  red cube"))


def setup(**world: object) -> Setup:
    return Setup(
        PANDA,
        TabletopConfig.model_validate({"cameras": SMALL, **world}),
        ("front", "wrist"),
        ArmConfig(),
        RecordingConfig(fps=FPS),
        inference_hz=5.0,
        system={"title": "small"},
    )


def column(root: Path, key: str, episode: int = 0) -> Array:
    """As pyarrow reads it."""
    table = pq.read_table(root / f"data/chunk-000/file-{episode:03d}.parquet")
    return np.array(table[key].to_pylist(), dtype=np.float64)


def details(root: Path, episode: int) -> dict[str, object]:
    return json.loads((root / f"meta/vla_ros/episodes/episode-{episode:06d}.json").read_text())


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("noisy") / "dataset"
    summary = record_demonstrations(setup(), root, 2, 40, NOISY)
    assert len(summary.kept) == 2
    assert summary.per_minute > 0.0
    return root


class Wanted(Watcher):
    """Keeps the pose and the gripper's width that the expert wants, by the time since the start."""

    def begin(self, episode: Episode) -> None:
        self.start_ns = episode.start_ns
        self.wishes: dict[int, Array] = {}

    def on_wanted(self, now_ns: int, target: Target) -> None:
        self.wishes[now_ns - self.start_ns] = target.values


def test_what_is_wanted_is_the_label_and_not_what_was_sent(noisy: Path) -> None:
    action, wanted, sent = (column(noisy, key) for key in ("action", "command.requested", "command.sent"))
    np.testing.assert_array_equal(action, np.column_stack([wanted[:, :7], wanted[:, -1]]))
    apart_m = np.linalg.norm(wanted[:, 7:10] - sent[:, 7:10], axis=1)
    assert apart_m.max() > 0.015  # the offsets, on top of an arm that is a little late
    forward = kinematics.for_robot(PANDA).forward
    is_wanted = column(noisy, "command.is_requested").ravel() > 0
    assert is_wanted[3:].all()
    watcher = Wanted()  # of the same episode anew
    disturbances = Disturbances(NOISY.noise, NOISY.mishaps, PANDA.gripper.max_width_m)
    expert = registry.load("scripted", robot=PANDA)
    Rollout(
        Tabletop(PANDA), PANDA, expert, ArmConfig(), RolloutConfig(), watcher=watcher, disturbance=disturbances
    ).run(40, task_of(40, NOISY.tasks))
    for row in np.flatnonzero(is_wanted):
        wish = watcher.wishes[row * 1_000_000_000 // FPS]
        np.testing.assert_allclose(wanted[row, [7, 8, 9, 14]], wish[[0, 1, 2, 7]], atol=1e-6)
        np.testing.assert_allclose(forward(action[row, :7])[:3], wanted[row, 7:10], atol=1e-3)


def test_rows_are_whole_and_on_time(noisy: Path) -> None:
    for episode in range(2):
        rows = len(column(noisy, "action", episode))
        assert rows > 20
        for camera in ("front", "wrist"):
            with av.open(str(noisy / f"videos/observation.images.{camera}/chunk-000/file-{episode:03d}.mp4")) as video:
                assert sum(1 for _ in video.decode(video=0)) == rows
        stamps = column(noisy, "timing.stamp", episode)
        # Pictures are taken when they are due, to the millisecond of the physics.
        np.testing.assert_allclose(stamps, np.tile(np.arange(rows)[:, None] / FPS, 2), atol=0.001)
        assert not column(noisy, "timing.repeated", episode).any()
        assert not np.isnan(column(noisy, "observation.state", episode)).any()
    latency = column(noisy, "policy.latency").ravel()
    assert 0.1 <= latency[-1] < 0.12


def test_details_say_what_was_done(noisy: Path) -> None:
    for episode in range(2):
        said = details(noisy, episode)
        assert said["seed"] == 40 + episode
        assert said["source"] == "scripted"
        assert said["success"] is True
        assert said["task"] == task_of(40 + episode, NOISY.tasks)
        assert said["extra"]["noise"]["position_m"] == NoiseConfig().position_m
    session = json.loads((noisy / "meta/vla_ros/system.json").read_text())["sessions"][0]
    assert session["recording"]["action"] == "requested"
    assert session["system"]["title"] == "small"
    assert session["system"]["demonstrations"]["seed"] == 40


def test_the_same_seed_gives_the_same_columns(noisy: Path, tmp_path: Path) -> None:
    record_demonstrations(setup(), tmp_path / "again", 1, 40, NOISY)
    for key in pq.read_table(noisy / "data/chunk-000/file-000.parquet").column_names:
        assert column(tmp_path / "again", key).tobytes() == column(noisy, key).tobytes(), key
    other = column(noisy, "action", 1)
    assert other.shape != column(noisy, "action").shape or np.abs(other - column(noisy, "action")).max() > 0.01


def test_without_noise_the_label_is_what_was_sent_and_a_dataset_is_gone_on_with(tmp_path: Path) -> None:
    root = tmp_path / "dataset"
    record_demonstrations(setup(), root, 1, 7, QUIET)
    sent = column(root, "command.sent")
    np.testing.assert_array_equal(column(root, "action"), np.column_stack([sent[:, :7], sent[:, -1]]))
    assert "noise" not in details(root, 0)["extra"]
    with pytest.raises(DatasetError, match="is not empty"):
        record_demonstrations(setup(), root, 1, 7, QUIET)
    with pytest.raises(DatasetError, match="action is what was sent, these would be what was requested"):
        record_demonstrations(setup(), root, 1, 7, NOISY, resume=True)
    more = record_demonstrations(setup(), root, 1, 7, QUIET, resume=True)
    assert [one.seed for one in more.kept] == [8]
    assert details(root, 1)["seed"] == 8


def test_failures_are_left_out_or_kept_as_such(tmp_path: Path) -> None:
    short = setup(episode_s=0.3)  # nobody can do it
    short = replace(short, recording=RecordingConfig.model_validate({"fps": FPS, "health": {"min_frames": 2}}))
    root = tmp_path / "none"
    with pytest.raises(RuntimeError, match="only 0 of 6 tries could be kept; the last ended: time limit"):
        record_demonstrations(short, root, 1, 0, QUIET)
    assert json.loads((root / "meta/info.json").read_text())["total_episodes"] == 0
    assert not list(root.glob(".recording/episode-*"))
    keeping = QUIET.model_copy(update={"keeps_failures": True})
    summary = record_demonstrations(short, tmp_path / "kept", 1, 0, keeping)
    assert summary.success_rate == 0.0
    assert (details(tmp_path / "kept", 0)["success"], details(tmp_path / "kept", 0)["extra"]["ended"]) == (
        False,
        "time limit",
    )


def test_who_stops_it_leaves_no_half_episode(tmp_path: Path) -> None:
    def stop(_: object) -> None:
        raise KeyboardInterrupt

    summary = record_demonstrations(setup(), tmp_path / "dataset", 5, 7, QUIET, stop)
    assert (len(summary.tries), summary.is_interrupted) == (1, True)
    assert json.loads((tmp_path / "dataset/meta/info.json").read_text())["total_episodes"] == 1
    assert not list((tmp_path / "dataset").glob(".recording/episode-*"))


def test_every_task_is_drawn_and_none_that_was_not_asked_for() -> None:
    drawn = Counter(task_of(seed) for seed in range(600))
    assert set(drawn) == {task.instruction for group in TASK_GROUPS.values() for task in group}
    for group in TASK_GROUPS.values():
        assert 100 <= sum(drawn[task.instruction] for task in group) <= 200  # 150 +- 5 standard deviations
    assert {task_of(seed, ("stack",)).split()[0] for seed in range(20)} == {"stack"}
    assert {task_of(seed, NOISY.tasks[1:]) for seed in range(5)} == {"lift the red cube"}
    assert task_of(5) == task_of(5)


def test_what_nobody_can_show_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="no tabletop task: 'dance'.*or a group of them: lift, push left"):
        DemonstrationConfig(tasks=("dance",))
    with pytest.raises(ValueError, match=r"one or more cameras of front, wrist are recorded, got \('side',\)"):
        record_demonstrations(replace(setup(), cameras=("side",)), tmp_path / "dataset", 1, 0, QUIET)
    assert not (tmp_path / "dataset").exists()


@pytest.mark.full
def test_nearly_all_of_many_succeed(tmp_path: Path) -> None:
    summary = record_demonstrations(setup(), tmp_path / "dataset", 60, 1000, DemonstrationConfig())
    assert summary.success_rate >= 0.95
    assert {one.details.get("mishap") for one in summary.kept} >= {None, "early", "astray"}


def test_a_dataset_that_is_removed_meanwhile_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="dataset was removed or moved while it was being written"):
        record_demonstrations(
            setup(), tmp_path / "dataset", 2, 40, QUIET, lambda _: shutil.rmtree(tmp_path / "dataset")
        )
    assert not (tmp_path / "dataset").exists()
