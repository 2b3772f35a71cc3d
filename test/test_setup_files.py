"""What an installation brings along: nodes, launch files, systems, the transport profile, a valid package.xml."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
INTERFACES = sorted((ROOT / "interfaces").glob("*/package.xml"))


def copy_sources(target: Path) -> None:
    """A copy to build from, so that the tree stays as it is."""
    not_sources = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "runs", "build", "install", "log", "test")
    shutil.copytree(ROOT, target, ignore=not_sources)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """What pip installs."""
    folder = tmp_path_factory.mktemp("wheel")
    copy_sources(folder / "source")
    build = [sys.executable, "setup.py", "--quiet", "bdist_wheel", "--dist-dir", str(folder)]
    result = subprocess.run(build, cwd=folder / "source", capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def installed(wheel: zipfile.ZipFile, prefix: str) -> set[str]:
    """The files the wheel puts below `prefix` of the environment."""
    marker = f".data/data/{prefix}/"
    return {name.partition(marker)[2] for name in wheel.namelist() if marker in name}


@pytest.mark.parametrize("folder", ["launch", "config", "urdf"])
def test_every_file_a_user_names_is_installed(wheel: zipfile.ZipFile, folder: str) -> None:
    in_tree = {str(path.relative_to(ROOT / folder)) for path in (ROOT / folder).rglob("*") if path.is_file()}
    in_tree = {name for name in in_tree if "__pycache__" not in name}
    assert in_tree
    assert installed(wheel, f"share/vla_ros/{folder}") == in_tree


def test_the_model_that_comes_with_it_is_installed_whole(wheel: zipfile.ZipFile) -> None:
    folder = ROOT / "resource" / "up-vla-demo"
    in_tree = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert "model.safetensors" in in_tree
    assert installed(wheel, "share/vla_ros/up-vla-demo") == in_tree


def test_ros_finds_the_package(wheel: zipfile.ZipFile) -> None:
    assert installed(wheel, "share/ament_index/resource_index/packages") == {"vla_ros"}
    assert "package.xml" in installed(wheel, "share/vla_ros")


def test_every_node_is_an_executable_that_ros2_run_finds(wheel: zipfile.ZipFile) -> None:
    nodes = {path.stem for path in (ROOT / "vla_ros" / "ros" / "nodes").glob("*.py")} - {"__init__", "__main__"}
    assert installed(wheel, "lib/vla_ros") == nodes
    for entry in wheel.infolist():
        if "/lib/vla_ros/" in entry.filename:
            assert entry.external_attr >> 16 & 0o111 == 0o111, f"{entry.filename} is not executable"
            assert f'main("{Path(entry.filename).name}")' in wheel.read(entry).decode()


def test_colcon_builds_a_workspace_to_be_sourced(tmp_path: Path) -> None:
    colcon = shutil.which("colcon", path=str(Path(sys.executable).parent)) or shutil.which("colcon")
    if colcon is None:
        pytest.skip("colcon is not installed")
    copy_sources(tmp_path / "src" / "vla_ros")
    build = [colcon, "build", "--packages-select", "vla_ros"]
    result = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    prefix = tmp_path / "install" / "vla_ros"
    use = (
        f". {tmp_path}/install/setup.bash && echo $AMENT_PREFIX_PATH && command -v vla-ros && "
        f"{sys.executable} -c 'import vla_ros.config as c; print(c.__file__); print(c.find(\"franka_upvla\"))'"
    )
    said = subprocess.run(["bash", "-c", use], cwd="/", capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    ament_prefixes, command, module, system = said.stdout.splitlines()
    assert str(prefix) in ament_prefixes.split(":")
    assert command == str(prefix / "bin" / "vla-ros")
    assert module.startswith(f"{prefix}/")
    assert system == str(prefix / "share" / "vla_ros" / "config" / "franka_upvla.yaml")
    assert os.access(prefix / "lib" / "vla_ros" / "controller", os.X_OK)


def test_the_command_is_installed_and_its_type_hints_too(wheel: zipfile.ZipFile) -> None:
    entry_points = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "vla-ros = vla_ros.cli:main" in wheel.read(entry_points).decode()
    assert "vla_ros/py.typed" in wheel.namelist()


def test_both_kinds_of_metadata_agree() -> None:
    package = ET.parse(ROOT / "package.xml").getroot()
    setup = (ROOT / "setup.py").read_text()
    assert package.get("format") == "3"
    assert package.findtext("export/build_type") == "ament_python"
    for field in ("version", "license"):
        assert f'{field}="{package.findtext(field)}"' in setup
    assert package.findtext("name") == "vla_ros"


@pytest.mark.parametrize("path", [ROOT / "package.xml", *INTERFACES], ids=lambda path: path.parent.name)
def test_ros_tools_accept_the_package(path: Path) -> None:
    catkin_pkg = pytest.importorskip("catkin_pkg.package")
    package = catkin_pkg.parse_package(str(path))
    package.validate()


def test_everything_imported_from_ros_is_declared() -> None:
    declared = {entry.text for entry in ET.parse(ROOT / "package.xml").getroot().iter("exec_depend")}
    sources = "\n".join(path.read_text() for path in (ROOT / "vla_ros").rglob("*.py"))
    imported = set(
        re.findall(r"^\s*(?:from|import) (\w+_msgs|\w+_srvs|rclpy|launch|launch_ros|cv_bridge)\b", sources, re.M)
    )
    assert imported
    assert imported <= declared


@pytest.mark.parametrize("path", INTERFACES, ids=lambda path: path.parent.name)
def test_every_definition_is_built(path: Path) -> None:
    definitions = {
        str(file.relative_to(path.parent))
        for kind in ("msg", "srv", "action")
        for file in path.parent.glob(f"{kind}/*")
    }
    listed = set(re.findall(r'"((?:msg|srv|action)/\S+)"', (path.parent / "CMakeLists.txt").read_text()))
    assert listed == definitions


def test_the_transport_profile_keeps_udp_beside_shared_memory() -> None:
    tag = "{http://www.eprosima.com}"
    root = ET.parse(ROOT / "config" / "fastdds.xml").getroot()
    kinds = {
        entry.findtext(f"{tag}transport_id"): entry.findtext(f"{tag}type")
        for entry in root.iter(f"{tag}transport_descriptor")
    }
    participant = next(root.iter(f"{tag}participant"))
    used = [entry.text for entry in participant.iter(f"{tag}transport_id")]
    assert participant.get("is_default_profile") == "true"
    assert sorted(kinds[name] or "" for name in used) == ["SHM", "UDPv4"]


def test_the_lock_can_be_installed_anywhere() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()[1:]
    pinned = re.compile(r'[a-z0-9-]+==[A-Za-z0-9.!+]+( ; python_version (<|>=) "3\.11")?')
    assert [line for line in lines if not pinned.fullmatch(line)] == []
