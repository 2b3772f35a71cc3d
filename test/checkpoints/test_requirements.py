"""What a checkpoint needs of a system is found out from its manifest alone, all of it at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from vla_ros import config
from vla_ros.checkpoints.requirements import Requirements, read_requirements
from vla_ros.cli.app import app
from vla_ros.robots.panda import PANDA

SHIPPED = Path(__file__).parents[2] / "resource" / "up-vla-demo"
CAMERAS = {"front": (256, 256), "wrist": (256, 256)}


@pytest.fixture(scope="module")
def shipped() -> Requirements:
    return read_requirements(SHIPPED)


def check(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["check", *map(str, arguments)])


def test_a_system_that_fits_has_no_problem(shipped: Requirements) -> None:
    assert shipped.problems(PANDA, CAMERAS, " Lift  the RED cube. ") == []
    assert shipped.problems(PANDA, {**CAMERAS, "top": (640, 480)}) == []


def test_all_that_does_not_fit_is_told_at_once(tmp_path: Path) -> None:
    system = yaml.safe_load(config.find("franka_upvla").read_text())
    system["cameras"]["front"] |= {"width": 640, "height": 480}
    del system["cameras"]["wrist"]
    system |= {"action": {"space": "joint_position", "rate_hz": 10, "horizon": 5}}
    (file := tmp_path / "other.yaml").write_text(yaml.safe_dump(system))
    asked = ("--policy", "up_vla", "--checkpoint", SHIPPED, "--instruction", "stack the red cube on the blue cube")
    result = check(file, *asked)
    assert result.exit_code == 2
    *lines, last = result.stderr.splitlines()
    assert [line.partition("policy.checkpoint: ")[2].partition("; ")[0] for line in lines] == [
        "cameras: the checkpoint sees front, wrist",
        "policy up_vla acts in its checkpoint's space (ee_delta, base, axis_angle, 10 Hz, 10 rows)",
    ]
    assert "the model does not know stack, on; it knows blue, cube" in last
    system["cameras"]["wrist"] = {**system["cameras"]["front"], "topic": "/wrist"}
    file.write_text(yaml.safe_dump({**system, "action": None}))
    result = CliRunner().invoke(app, ["run", str(file), *map(str, asked[:4]), "--instruction", "Lift the red cube."])
    assert result.exit_code == 2, "before any node starts"
    assert "cameras: front has 640 x 480 pixels, and the checkpoint was trained with 256 x 256" in result.stderr


@pytest.mark.parametrize("typed", ["lift the red cube", "Lift the red cube.", "  LIFT the  red cube !"])
def test_an_instruction_is_read_as_it_was_trained(shipped: Requirements, typed: str) -> None:
    assert shipped.check_instruction(typed) == "lift the red cube"


def test_any_english_is_left_as_it_is(shipped: Requirements) -> None:
    free = shipped.model_copy(update={"words": (), "instructions": (), "questions": ()})
    assert free.check_instruction("Open the Drawer.") == "Open the Drawer."
    assert free.check_question(" What is it? ") == "What is it?"


def test_a_question_that_was_not_taught_is_answered_with_those_that_were(shipped: Requirements) -> None:
    assert shipped.check_question("Where is the RED cube") == "where is the red cube?"
    with pytest.raises(ValueError, match=r"was not taught that question; it was taught: .*what is in the gripper\?"):
        shipped.check_question("what colour is the table?")


def test_what_is_no_checkpoint_is_told(tmp_path: Path) -> None:
    for content, told in (
        ("[]", "is not a manifest"), ("{", "is not a manifest"), ('{"robot": 3}', "robot: "),
        ("[" * 100_000, "is not a manifest: it is nested too deeply"),
    ):  # fmt: skip
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(ValueError, match=told):
            read_requirements(tmp_path)
    training = tmp_path / "training"
    (training / "checkpoint").mkdir(parents=True)
    (training / "checkpoint" / "manifest.json").write_text(json.dumps({}))
    result = CliRunner().invoke(app, ["evaluate", "--checkpoint", str(training), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert f"it is the folder of a training, whose model is in {training / 'checkpoint'}" in result.stderr


def test_the_check_loads_no_torch() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from vla_ros.cli.app import app; "
        f"words = ['check', 'franka_upvla', '--policy', 'up_vla', '--checkpoint', {str(SHIPPED)!r}];"
        "r = CliRunner().invoke(app, words);"
        "print(r.exit_code, 'torch' in sys.modules, r.output)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("0 False franka_upvla: fine")
