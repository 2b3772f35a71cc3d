"""What import-linter cannot see of the house: packages, sizes, first lines, and life without ROS or a simulator."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "vla_ros"
MODULES = sorted(PACKAGE.rglob("*.py"))
NODES = PACKAGE / "ros" / "nodes"

ROS = (
    "rclpy", "launch", "launch_ros", "ament_index_python", "rpyutils", "rosidl_runtime_py", "cv_bridge",
    "action_msgs", "builtin_interfaces", "control_msgs", "controller_manager_msgs", "diagnostic_msgs", "franka_msgs",
    "geometry_msgs", "rcl_interfaces", "rosgraph_msgs", "sensor_msgs", "std_msgs", "std_srvs", "tf2_msgs",
    "trajectory_msgs",
)  # fmt: skip
SIMULATOR = ("mujoco", "matplotlib", "rosbags")

# Refuses the modules named first, then imports the ones named second: absence is proven, not assumed.
IMPORT_WITHOUT = """
import importlib, sys
absent, wanted = (set(names.split(",")) for names in sys.argv[1:3])
class Sentinel:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"{name} is absent here", name=name)
sys.meta_path.insert(0, Sentinel())
for module in sorted(wanted):
    importlib.import_module(module)
"""


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def import_without(absent: tuple[str, ...], wanted: list[str]) -> None:
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_WITHOUT, ",".join(absent), ",".join(wanted)],
        cwd=ROOT,
        env={**os.environ, "MUJOCO_GL": "egl"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr


def test_every_folder_is_a_package() -> None:
    assert {path.parent for path in MODULES if not (path.parent / "__init__.py").exists()} == set()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_first_line_says_what_a_module_is(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring, f"{path} has no docstring"
    first_line = docstring.splitlines()[0]
    assert first_line.endswith("."), f"one sentence, to the point: {first_line}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_can_be_read_at_once(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    if path.parent == NODES:
        assert lines <= 150, "a node is a thin shell"
    elif path.parent != PACKAGE / "models":
        assert lines <= 600, "what is read together stands together, up to a length that can be read"


def test_the_core_lives_without_ros() -> None:
    core = [name_of(path) for path in MODULES if PACKAGE / "ros" not in path.parents]
    import_without(ROS, [name for name in core if name != "vla_ros.__main__"])


def test_a_robot_lives_without_simulator_and_bag() -> None:
    pytest.importorskip("rclpy")
    nodes = [name_of(path) for path in NODES.glob("*.py") if path.stem not in ("simulator", "bag")]
    import_without(SIMULATOR, ["vla_ros.cli", "vla_ros.graph", *nodes])
