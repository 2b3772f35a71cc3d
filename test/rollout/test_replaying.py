"""Replaying: the same world, the recorded actions, and how far the motion is from the recorded one."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from vla_ros.cli.app import app
from vla_ros.control.arm import ArmConfig
from vla_ros.recording.config import RecordingConfig
from vla_ros.recording.features import STAMP
from vla_ros.recording.files import DatasetError
from vla_ros.recording.reader import DatasetReader
from vla_ros.robots.fr3 import FR3
from vla_ros.robots.panda import PANDA
from vla_ros.rollout.demonstrations import DemonstrationConfig, Setup, record_demonstrations
from vla_ros.rollout.replaying import RecordedActions, Replayer, at_times, best_shift, load
from vla_ros.simulation.tabletop import Tabletop
from vla_ros.simulation.world import DEFAULT_CAMERAS, TabletopConfig
from vla_ros.values import Committed, Observation

SMALL = {"wrist": DEFAULT_CAMERAS["wrist"].model_copy(update={"width": 32, "height": 32})}


def recorded(root: Path, episodes: int, tasks: tuple[str, ...]) -> DatasetReader:
    setup = Setup(PANDA, TabletopConfig(cameras=SMALL), ("wrist",), ArmConfig(), RecordingConfig(fps=20), 5.0)
    record_demonstrations(setup, root, episodes, 11, DemonstrationConfig(tasks=tasks))
    return DatasetReader(root, cameras=())


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DatasetReader:
    return recorded(tmp_path_factory.mktemp("recorded") / "dataset", 1, ("lift the green cube",))


def test_what_was_done_is_done_again(dataset: DatasetReader) -> None:
    replayed = Replayer(Tabletop(PANDA), PANDA, ArmConfig()).replay(load(dataset, 0, PANDA))
    assert replayed.success
    assert replayed.recorded.success is True
    assert abs(replayed.duration_s - replayed.recorded.duration_s) < 0.3
    assert replayed.tracking.joint_rms_rad < 0.005
    assert replayed.tracking.tcp_rms_mm < 5.0
    assert abs(replayed.tracking.shift_ms) < 30.0


def test_actions_that_do_something_else_are_seen_to(dataset: DatasetReader) -> None:
    known = load(dataset, 0, PANDA)
    still = replace(known, actions=np.tile(known.actions[0], (len(known.actions), 1)))
    replayed = Replayer(Tabletop(PANDA), PANDA, ArmConfig()).replay(still)
    assert (replayed.success, replayed.ended) == (False, "time limit")
    assert replayed.tracking.joint_max_rad > 0.3
    # The arm stood: the differences are those of the recorded motion itself.
    moved = known.measured[:, :7] - known.measured[0, :7]
    assert replayed.tracking.joint_rms_rad == pytest.approx(np.sqrt(np.mean(moved**2)), rel=0.02)


def test_a_policy_of_recorded_actions_goes_on_in_absolute_time(dataset: DatasetReader) -> None:
    known = load(dataset, 0, PANDA, "action")
    policy = RecordedActions(PANDA, known)
    policy.reset("")
    start_ns = 7_000_000_000
    nothing = Committed()
    first = policy.infer((Observation(start_ns, {}, {}),), nothing).chunk
    np.testing.assert_allclose(first.actions, known.actions[: policy.action_spec.horizon])
    later = policy.infer((Observation(start_ns + 500_000_000, {}, {}),), nothing).chunk  # ten rows
    np.testing.assert_allclose(later.actions[:5], known.actions[10:15], atol=1e-9)
    ended = policy.infer((Observation(start_ns + 60_000_000_000, {}, {}),), nothing).chunk
    np.testing.assert_allclose(ended.actions, np.tile(known.actions[-1], (len(ended.actions), 1)))


def test_joints_are_interpolated_and_fingers_held() -> None:
    rows = np.array([[0.0, 0.08], [1.0, 0.0], [3.0, 0.04]])
    found = at_times(rows, 10, np.array([-1.0, 0.05, 0.1, 0.175, 0.2, 9.0]))
    np.testing.assert_allclose(found[:, 0], [0.0, 0.5, 1.0, 2.5, 3.0, 3.0])
    np.testing.assert_allclose(found[:, 1], [0.08, 0.08, 0.0, 0.0, 0.04, 0.04])


def test_a_motion_that_is_late_is_said_to_be_so_late() -> None:
    times_s = np.arange(0.0, 4.0, 0.01)
    rows_s = np.arange(0.0, 3.5, 0.05)
    swings = np.array([1.0, 2.0])
    late = np.sin(2.0 * (times_s[:, None] - 0.06) * swings)
    shift_s, left_rad = best_shift(times_s, late, rows_s, np.sin(2.0 * rows_s[:, None] * swings))
    assert shift_s == pytest.approx(0.06, abs=0.002)
    assert left_rad < 1e-3


def test_what_cannot_be_replayed_is_refused(dataset: DatasetReader, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="there is no episode 3; the dataset has 1, from 0"):
        load(dataset, 3, PANDA)
    with pytest.raises(DatasetError, match=r"command.sent or action can be replayed, got 'observation.state'"):
        load(dataset, 0, PANDA, "observation.state")
    with pytest.raises(DatasetError, match=r"command.sent of a fr3 is fr3_joint1_rad.*its names are .'panda_joint1"):
        load(dataset, 0, FR3)
    unknown = tmp_path / "unknown"
    shutil.copytree(dataset.meta.root, unknown)
    (unknown / "meta/vla_ros/episodes/episode-000000.json").unlink()
    with pytest.raises(DatasetError, match="episode 0 has no seed"):
        load(DatasetReader(unknown, cameras=()), 0, PANDA)
    paused = shutil.copytree(dataset.meta.root, tmp_path / "paused")
    (path,) = paused.glob("data/**/*.parquet")
    table = pq.read_table(path)
    stamps = [stamp + 5.0 * (row >= 30) for row, stamp in enumerate(table[STAMP].to_pylist())]
    column = table.schema.get_field_index(STAMP)
    pq.write_table(
        table.set_column(column, table.schema.field(STAMP), pa.array(stamps, table.schema.field(STAMP).type)), path
    )
    with pytest.raises(DatasetError, match="episode 0 has a gap in time after row 29"):
        load(DatasetReader(paused, cameras=()), 0, PANDA)


def test_the_command_writes_a_report_and_a_picture(dataset: DatasetReader, tmp_path: Path) -> None:
    report, picture = tmp_path / "out/report.json", tmp_path / "out/picture.png"
    root = str(dataset.meta.root)
    options = ["--episode", "0", "--report", str(report), "--picture", str(picture), "--require-successes", "1"]
    result = CliRunner().invoke(app, ["replay", "franka_upvla", root, *options])
    assert result.exit_code == 0, result.output
    assert "1 of 1 succeeded again" in result.output
    said = json.loads(report.read_text())
    assert (said["successes"], said["episodes"][0]["task"]) == (1, "lift the green cube")
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["franka_upvla", "/nowhere"], "is not a LeRobot dataset"),
        (["franka_upvla", "/nowhere", "--picture", "a.jpg"], "a.jpg should end in .png"),
        (["franka_upvla", "/nowhere", "--report", "/etc/passwd/report.json"], "is not a folder"),
    ],
)
def test_the_command_says_what_is_wrong(arguments: list[str], text: str) -> None:
    result = CliRunner().invoke(app, ["replay", *arguments])
    assert result.exit_code == 2
    assert text in result.output
    assert "Traceback" not in result.output


@pytest.mark.full
def test_nearly_all_of_many_succeed_again(tmp_path: Path) -> None:
    reader = recorded(tmp_path / "dataset", 24, ())
    replayer = Replayer(Tabletop(PANDA), PANDA, ArmConfig())
    assert sum(replayer.replay(load(reader, episode, PANDA)).success for episode in range(24)) >= 23
