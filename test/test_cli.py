"""vla-ros as a user types it: what it prints, what it refuses, its exit codes."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from vla_ros.cli import app

WRONG = """\
title: A test
robot: pandaa
policy: {name: scrited}
cameras: {}
simulation: {}
controler: {}
"""


def vla_ros(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_help_lists_the_commands() -> None:
    result = vla_ros("--help")
    assert result.exit_code == 0
    assert all(word in result.output for word in ("run", "graph", "check", "--install-completion"))


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from vla_ros import cli; print(sorted({name.split('.')[0] for name in sys.modules}"
        "& {'numpy', 'pydantic', 'yaml', 'rclpy', 'pinocchio', 'mujoco', 'matplotlib', 'cv2'}))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_version() -> None:
    assert vla_ros("--version").output == f"vla-ros {version('vla_ros')}\n"


def test_completion_names_systems_policies_and_robots() -> None:
    from vla_ros.cli import common

    assert "franka_upvla" in common.complete_system("franka")
    assert common.complete_system("nothing") == []
    assert common.complete_policy("scr") == ["scripted"]
    assert common.complete_robot("") == ["panda"]


def test_graph_prints_mermaid_and_nothing_else() -> None:
    result = vla_ros("graph", "franka_upvla")
    assert result.exit_code == 0
    assert result.stdout.startswith("%% Franka Panda, tabletop\nflowchart LR\n")
    assert result.stderr == ""


def test_check_of_a_good_system() -> None:
    result = vla_ros("check", "franka_upvla")
    assert result.exit_code == 0
    assert result.stdout == (
        "franka_upvla: fine (Franka Panda, tabletop; robot panda, policy scripted; "
        "nodes simulator, inference, controller)\n"
    )


def test_check_tells_every_problem_of_every_file(tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(WRONG)
    result = vla_ros("check", str(file), "franka_upvla", "frank")
    assert result.exit_code == 2
    assert "franka_upvla: fine" in result.stdout
    errors = result.stderr.splitlines()
    assert [error.split(";")[0] for error in errors] == [
        f"error: {file}:2: robot: unknown robot 'pandaa'",
        f"error: {file}:3: policy.name: unknown policy 'scrited'",
        f"error: {file}:4: cameras: no camera (given {{}})",
        f"error: {file}:6: controler: unknown key",
        "error: frank: no such system",
    ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("frank",), "error: frank: no such system; "),
        (("franka_upvla", "--robot", "x"), "error: robot: unknown robot 'x'; there are: panda\n"),
        (("franka_upvla", "--robot", "fr3"), "error: robot: robot 'fr3' has no driver here yet, only its limits are "),
        (("franka_upvla", "--policy", "x"), "error: policy.name: unknown policy 'x'; there are: scripted, up_vla\n"),
        (
            ("franka_upvla", "--checkpoint", "w"),
            "error: policy.checkpoint: policy scripted takes no checkpoint (given 'w'",
        ),
        (
            ("franka_upvla", "--policy", "up_vla", "--checkpoint", "nowhere"),
            "error: policy.checkpoint: nowhere does not exist\n",
        ),
        (("franka_upvla", "--no-sim"), "error: policy: scripted sees the simulated world's state; choose another one"),
        (("franka_upvla", "--instruction", "dance"), "error: instruction: no tabletop task: 'dance'; the forms are "),
        (("franka_upvla", "--seconds", "3"), "error: --seconds needs --dry-run\n"),
        (("franka_upvla", "--dry-run", "--episodes", "1"), "error: --dry-run and --episodes: a dry run sends "),
        (
            ("franka_upvla", "--report", "r.json"),
            "error: --report, --montage and --require-successes need --episodes\n",
        ),
    ],
)
def test_run_refuses_with_exit_code_2(arguments: tuple[str, ...], told: str) -> None:
    result = vla_ros("run", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(told)
    assert "Traceback" not in result.output


@pytest.mark.parametrize("option", ["--report", "--montage", "--bag"])
@pytest.mark.parametrize("where", ["folder.png", "file/below/new.png"])
def test_what_cannot_be_written_is_refused_before_anything_runs(tmp_path: Path, option: str, where: str) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    path = str(tmp_path / where)
    result = vla_ros("run", "franka_upvla", "--episodes", "1", "--report", str(tmp_path / "r.json"), option, path)
    assert result.exit_code == 2
    assert path in result.stderr and result.stderr.startswith("error: ")
    assert "Traceback" not in result.output


def test_an_unknown_option_is_refused_with_exit_code_2() -> None:
    assert vla_ros("run", "franka_upvla", "--episode", "3").exit_code == 2


WITHOUT_ROS = """
import sys
sys.modules["rclpy"] = None
from vla_ros.cli import main
main()
"""


def test_without_ros_it_says_how_to_get_it() -> None:
    command = [sys.executable, "-c", WITHOUT_ROS, "run", "franka_upvla", "--episodes", "1"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == (
        "error: ROS 2 is not to be found here (no module rclpy). Source an installation "
        "(. /opt/ros/<distro>/setup.bash), or let `make setup` put it into .venv.\n"
    )
