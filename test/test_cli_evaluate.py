"""vla-ros evaluate: what it refuses before anything runs, and what it leaves behind, in closed and in open loop."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import tiny_up_vla
import yaml
from typer.testing import CliRunner, Result

from vla_ros import config
from vla_ros.checkpoints import manifest
from vla_ros.cli.app import app
from vla_ros.cli.evaluate import _slowness
from vla_ros.cli.evaluate_dataset import read_mapping
from vla_ros.control.arm import ArmConfig
from vla_ros.policies import registry
from vla_ros.recording.config import RecordingConfig
from vla_ros.recording.features import Feature, Features, Row
from vla_ros.recording.lerobot_v3 import DatasetWriter, EpisodeDetails
from vla_ros.robots.panda import PANDA
from vla_ros.rollout.demonstrations import DemonstrationConfig, Setup, record_demonstrations
from vla_ros.rollout.evaluating import EvaluationConfig
from vla_ros.simulation.world import DEFAULT_CAMERAS, TabletopConfig
from vla_ros.training.open_loop import compare
from vla_ros.viewing.progress import Progress

REFERENCE = Path(__file__).parent / "reference" / "lerobot-0.6.1"
PNG = b"\x89PNG"


def evaluate(*arguments: str | Path | int) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A system of small cameras and short episodes, whose policy has no weights."""
    size = {"width": tiny_up_vla.WIDTH, "height": tiny_up_vla.HEIGHT}
    cameras = {name: {"topic": f"/camera/{name}/image_raw", **size} for name in DEFAULT_CAMERAS}
    file = tmp_path_factory.mktemp("system") / "small.yaml"
    content = {
        "title": "Small", "robot": "panda", "policy": {"name": "scripted"}, "cameras": cameras,
        "simulation": {"episode_s": 4.5},
    }  # fmt: skip
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    manifest.save(folder, tiny_up_vla.bundle())
    return folder


def test_help_says_the_defaults_that_hold() -> None:
    told = " ".join(CliRunner().invoke(app, ["evaluate", "--help"], env={"COLUMNS": "200"}).output.split())
    usual, samples = EvaluationConfig(), inspect.signature(compare).parameters["samples"].default
    for words, value in (
        ("Simulated episodes", usual.episodes), ("Of the first episode", usual.seed),
        ("Successes and failures to film, of each", usual.films), ("Rows of the dataset, evenly spaced", samples),
    ):  # fmt: skip
        assert f"{words}; default: {value}." in told


def test_an_expert_in_closed_loop_leaves_a_report_pictures_and_a_film(system: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    result = evaluate(system, "--episodes", 1, "--films", 1, "--out", out, "--require-successes", 1)
    assert result.exit_code == 0, result.output
    assert "scripted: 1 of 1, 100% (95% in 21 to 100%)" in " ".join(result.output.split())
    assert "ms, measured here" in result.output
    said = json.loads((out / "report.json").read_text())
    assert (said["successes"], said["rows"][0]["seed"], said["config"]["control"]) == (1, 1000, None)
    assert (out / "episodes.png").read_bytes().startswith(PNG)
    assert [file.name for file in out.glob("*.mp4")] == ["success-seed-1000.mp4"]
    again = evaluate(system, "--episodes", 1, "--out", out)
    assert again.exit_code == 2
    assert "already has a report, which is not overwritten" in again.stderr


def test_a_checkpoint_alone_says_which_policy_is_meant_and_a_control_is_reported(
    system: Path, checkpoint: Path, tmp_path: Path
) -> None:
    content = yaml.safe_load(system.read_text())
    content["simulation"] |= {"episode_s": 0.5, "instruction": "lift the blue cube"}
    short = tmp_path / "short.yaml"
    short.write_text(yaml.safe_dump(content))
    told = ("--control", "wrong-instruction", "--tasks", "lift the blue cube")
    result = evaluate(
        short, "--checkpoint", checkpoint, "--episodes", 1, "--films", 0, "--out", tmp_path, "--seed", 5, *told,
        "--delay-ms", 0, "--require-successes", 1,
    )  # fmt: skip
    assert result.exit_code == 1, "none succeeded"
    assert "the task it was told instead" in result.output
    assert "longer than the injected delay" in result.output
    said = json.loads((tmp_path / "report.json").read_text())
    assert (said["policy"], said["config"]["control"]) == ("up_vla", "wrong-instruction")
    assert said["rows"][0]["asked"] == "lift the red cube"
    assert (said["system"], said["checkpoint"]) == ("Small", str(checkpoint))
    assert not (tmp_path / "episodes.png").exists()
    (card := checkpoint / "README.md").write_text("| success rate | not yet measured |\n")
    judged = ("--checkpoint", checkpoint, "--episodes", 1, "--films", 0, "--delay-ms", 100, "--card")
    result = evaluate(short, *judged, "--out", tmp_path / "card")
    assert result.exit_code == 0, result.output
    assert card.read_text() == (
        "| success rate | 0 of 1, 0% (95% in 0 to 79%); seeds 1000 to 1000, Small, inference delay 100 ms |\n"
    )


def test_a_model_against_a_dataset_leaves_a_report_and_pictures(system: Path, checkpoint: Path, tmp_path: Path) -> None:
    size = {"width": tiny_up_vla.WIDTH, "height": tiny_up_vla.HEIGHT}
    cameras = {name: camera.model_copy(update=size) for name, camera in DEFAULT_CAMERAS.items()}
    setup = Setup(PANDA, TabletopConfig(cameras=cameras), tuple(cameras), ArmConfig(), RecordingConfig(fps=10), 5.0)
    dataset, out = tmp_path / "lifts", tmp_path / "out"
    record_demonstrations(setup, dataset, 1, 11, DemonstrationConfig(tasks=("lift the red cube",), mishaps=0.0))
    result = evaluate(system, "--checkpoint", checkpoint, "--dataset", dataset, "--samples", 4, "--out", out)
    assert result.exit_code == 0, result.output
    for what in ("delta.tcp.x, mm", "TCP position, mm", "front: SSIM", "standing still"):
        assert what in result.output
    said = json.loads((out / "report.json").read_text())
    assert (said["samples"], said["policy"], said["checkpoint"]) == (4, "up_vla", str(checkpoint))
    assert {file.name for file in out.iterdir()} == {"report.json", "errors.png", "frames.png"}
    assert all(file.read_bytes().startswith(PNG) for file in out.glob("*.png"))
    assert said["notices"] == [] and "warning" not in result.stderr


def test_single_rows_that_no_arm_makes_are_warned_of(system: Path, checkpoint: Path, tmp_path: Path) -> None:
    size = (tiny_up_vla.HEIGHT, tiny_up_vla.WIDTH)
    images = (Feature(f"observation.images.{name}", "video", (*size, 3)) for name in DEFAULT_CAMERAS)
    columns = (Feature(key, "float32", (count,)) for key, count in (("action", 7), ("qpos", 7), ("width", 1)))
    features = Features(10, "panda", (*columns, *images))
    with DatasetWriter(tmp_path / "theirs", features, RecordingConfig(fps=10)) as writer:
        writer.begin("lift the red cube")
        for row in range(24):
            action = np.array([0.5 if row == 5 else 0.01, 0, 0, 0, 0, 0, 1.0])  # 5 m/s once
            shown = {name: np.full((*size, 3), 9 * row, np.uint8) for name in DEFAULT_CAMERAS}
            state = {"qpos": np.array(PANDA.home_rad), "width": np.zeros(1)}
            writer.add(Row(row, shown, {"action": action, **state}))
        writer.save(EpisodeDetails("lift the red cube", success=True))
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("data: {source: column, state_keys: [qpos, width], state_streams: [joints, gripper]}")
    arguments = ("--checkpoint", checkpoint, "--dataset", tmp_path / "theirs", "--config", mapping, "--samples", 2)
    result = evaluate(system, *arguments, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    told = "action: the TCP's speed of 1 rows is beyond 3 m/s, first in episode 0, row 5: 5 m/s"
    assert f"warning: {tmp_path / 'theirs'}: {told}\n" in result.stderr
    assert told in json.loads((tmp_path / "out" / "report.json").read_text())["notices"][0]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--tasks", "sing"), "tasks: no tabletop task: 'sing'"),
        (("--control", "dark"), "control: Input should be 'wrong-instruction' or 'blank-image'"),
        (("--dataset", "/nowhere", "--seed", "3", "--control", "dark"), "--seed, --control: cannot be combined"),
        (("--dataset", "/nowhere"), "/nowhere is not a LeRobot dataset"),
        (("--card",), "--card: needs --checkpoint"),
        (("--samples", "3"), "--samples, --config: need --dataset"),
        (("--out", "/etc/passwd/out"), "--out: /etc/passwd/out cannot be written to"),
        (("--policy", "dreamer"), "policy.name: unknown policy 'dreamer'"),
        (("--policy", "up_vla"), "policy.checkpoint: missing; policy up_vla needs weights; give their folder"),
        (("--checkpoint", "/nowhere"), "/nowhere"),
        (("--dataset", str(REFERENCE)), "does not hold what the policy looks at besides cameras: joints, world"),
        (("--dataset", str(REFERENCE), "--config", "/nowhere.yaml"), "--config: /nowhere.yaml cannot be read"),
    ],
)
def test_what_makes_no_sense_is_refused(system: Path, arguments: tuple[str, ...], told: str) -> None:
    result = evaluate(system, *arguments)
    assert result.exit_code == 2, result.output
    assert told in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"camera_keys": 3}, "--config: data.camera_keys: Input should be a valid "),
        ({"camera_keyss": {}}, "--config: data.camera_keyss: Extra inputs are not permitted"),
        ({"source": "rows"}, "--config: data.source: Input should be 'poses' or 'column'"),
        ({"camera_keys": {"top": "observation.images.top"}}, "--config: data: camera_keys: top not among cameras"),
        ("front", "should have a section data, with fields cameras, "),
    ],
)
def test_a_typo_in_what_is_said_of_a_dataset_is_refused(system: Path, tmp_path: Path, data: object, told: str) -> None:
    file = tmp_path / "data.yaml"
    file.write_text(yaml.safe_dump({"data": data}))
    result = evaluate(system, "--dataset", REFERENCE, "--config", file, "--out", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert told in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


@pytest.mark.parametrize("text", ["", "data:", "recipe: {held_out: 0.0}"])
def test_a_file_of_a_training_that_maps_nothing_is_taken_as_well(text: str, tmp_path: Path) -> None:
    (file := tmp_path / "data.yaml").write_text(text)
    assert read_mapping(file) == {}


def test_a_film_that_cannot_be_written_is_named(system: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(system.read_text())
    content["simulation"] |= {"episode_s": 0.5}
    (short := tmp_path / "short.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "failure-seed-1000.mp4").mkdir()
    result = evaluate(short, "--episodes", 1, "--films", 1, "--delay-ms", 0, "--out", tmp_path)
    assert result.exit_code == 1, result.output
    assert "failure-seed-1000.mp4" in result.stderr
    assert (tmp_path / "report.json").exists(), "what was found out is kept"
    assert isinstance(result.exception, SystemExit)


def test_words_that_a_model_never_read_are_refused_before_anything_moves(system: Path, checkpoint: Path) -> None:
    result = evaluate(system, "--checkpoint", checkpoint, "--tasks", "lift the green cube")
    assert result.exit_code == 2
    assert "does not know green" in result.stderr
    assert "seed 1000" not in result.output


def test_ctrl_c_leaves_the_report_of_the_episodes_that_were_run(
    system: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = yaml.safe_load(system.read_text())
    content["simulation"] |= {"episode_s": 0.5}
    (short := tmp_path / "short.yaml").write_text(yaml.safe_dump(content))
    shown: list[float] = []
    show = Progress.__call__

    def press(self: Progress, what: str, done: float, total: int, note: str = "") -> None:
        shown.append(done)
        show(self, what, done, total, note)
        if 2 < done < 3:  # in the third episode
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "__call__", press)
    result = evaluate(short, "--episodes", 9, "--films", 0, "--delay-ms", 30, "--out", tmp_path / "out")
    assert result.exit_code == 130, result.output
    assert json.loads((tmp_path / "out" / "report.json").read_text())["success"]["of"] == 2
    assert "the report has 2 of 9 episodes" in result.stderr
    assert "--episodes 7 --delay-ms 30 --films 0 --seed 1002" in " ".join(sorted_options(result.stderr))
    assert any(0 < done < 1 for done in shown) and shown == sorted(shown), "it moves within an episode"


def sorted_options(stderr: str) -> list[str]:
    """The options of the command that goes on, in the order of what the test asks for."""
    words = stderr.splitlines()[-1].split()
    return [f"{name} {words[words.index(name) + 1]}" for name in ("--episodes", "--delay-ms", "--films", "--seed")]


@pytest.mark.parametrize(("delay_ms", "load", "told"), [(2000.0, 0.0, 2), (2000.0, 99.0, 2), (40.0, 99.0, 0)])
def test_a_delay_that_is_the_machines_is_warned_of(
    delay_ms: float, load: float, told: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (load, load, load))
    action = registry.load("scripted", robot=PANDA).action_spec
    evaluator = SimpleNamespace(config=EvaluationConfig(), delay_ms=delay_ms, action=action)
    lines = _slowness(cast(Any, evaluator), config.load("franka_upvla"))
    assert len(lines) == told
    if told:
        assert "an inference takes 2000 ms on this machine, and a chunk lasts 1000 ms" in lines[0]
        assert ("other programs use this machine (load 99.0" in lines[0]) == (load > 0)
        assert "--delay-ms" in lines[1]
    given = EvaluationConfig(inference_delay_ms=delay_ms)
    assert not _slowness(cast(Any, SimpleNamespace(config=given)), config.load("franka_upvla"))
