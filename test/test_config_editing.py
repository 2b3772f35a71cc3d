"""Values are written into a system's file without touching anything else; what would not load is not written."""

from __future__ import annotations

import difflib
import shutil
import stat
from pathlib import Path

import pytest

from vla_ros import config
from vla_ros.config import ConfigError
from vla_ros.config.editing import set_values

TEXT = """\
# The bench in the corner.
title: A bench      # its name
robot: panda
policy: {name: scripted}    # acts at 10 Hz

cameras:
  front: {topic: /camera/front/image_raw, rate_hz: 30}   # opposite the arm
  wrist:
    # on the hand
    topic: "/camera/wrist/image_raw"
    latency_ms: 12.5  # as measured in May

# Without the next line the system runs on a real robot only.
simulation: {}  # the tabletop world; and so that this line is longer than others, what it is used for, which is a lot
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "bench.yaml"
    path.write_text(TEXT)
    return path


def test_only_the_values_change(file: Path) -> None:
    file.chmod(0o640)
    set_values(file, {"cameras.wrist.latency_ms": 41.5, "cameras.front.latency_ms": 60.0})
    changed = [line for line in difflib.ndiff(TEXT.splitlines(), file.read_text().splitlines()) if line[0] in "+-"]
    assert changed == [
        "-   front: {topic: /camera/front/image_raw, rate_hz: 30}   # opposite the arm",
        "+   front: {topic: /camera/front/image_raw, rate_hz: 30, latency_ms: 60.0} # opposite the arm",
        "-     latency_ms: 12.5  # as measured in May",
        "+     latency_ms: 41.5  # as measured in May",
    ]
    system = config.load(str(file))
    assert (system.cameras["front"].latency_ms, system.cameras["wrist"].latency_ms) == (60.0, 41.5)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert list(file.parent.iterdir()) == [file]


def test_sections_that_are_missing_are_made(file: Path) -> None:
    set_values(file, {"controller.schedule.actuation_latency_ms": 40.0, "controller.gripper.latency_ms": 30.0})
    controller = config.load(str(file)).controller
    assert (controller.schedule.actuation_latency_ms, controller.gripper.latency_ms) == (40.0, 30.0)
    section = "controller:\n  schedule:\n    actuation_latency_ms: 40.0\n  gripper:\n    latency_ms: 30.0\n"
    assert file.read_text() == TEXT + section


def test_a_pose_is_one_line(file: Path) -> None:
    pose = [0.08, 0.004, 0.032, 0.0, 0.0, 0.0, 1.0]
    set_values(file, {"cameras.wrist.frame": "panda_hand", "cameras.wrist.pose": pose})
    assert "    frame: panda_hand\n    pose: [0.08, 0.004, 0.032, 0.0, 0.0, 0.0, 1.0]\n" in file.read_text()
    assert config.load(str(file)).cameras["wrist"].pose == tuple(pose)


def test_what_comes_after_a_section_stays_after_it(file: Path) -> None:
    before = TEXT.replace("# Without", "controller:\n  rate_hz: 100\n\n# Without")
    file.write_text(before)
    set_values(
        file,
        {
            "cameras.wrist.width": 128,
            "cameras.wrist.height": 96,
            "controller.gripper.latency_ms": 30.0,
            "controller.gripper.force_n": 20.0,
        },
    )
    expected = before.replace("# as measured in May\n", "# as measured in May\n    width: 128\n    height: 96\n")
    section = "rate_hz: 100\n  gripper:\n    latency_ms: 30.0\n    force_n: 20.0\n"
    assert file.read_text() == expected.replace("rate_hz: 100\n", section)


@pytest.mark.parametrize("name", config.names())
def test_the_systems_that_come_along_survive_it(name: str, tmp_path: Path) -> None:
    file = Path(shutil.copy(config.find(name), tmp_path))
    before = file.read_text()
    set_values(file, {"title": config.load(str(file)).title})
    assert file.read_text() == before


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (
            {"cameras.front.latency": 1.0},
            r"bench.yaml:7: cameras.front.latency: unknown key; did you mean 'latency_ms'",
        ),
        ({"cameras.front.latency_ms": "late"}, r"bench.yaml:7: cameras.front.latency_ms: wrong type"),
        ({"cameras.side.latency_ms": 1.0}, r"cameras.side.topic: missing"),
        ({"title.front": 1.0}, r"title.front: cannot be set: title is 'A bench'"),
    ],
)
def test_what_would_not_load_is_not_written(file: Path, values: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        set_values(file, values)
    assert file.read_text() == TEXT
    assert list(file.parent.iterdir()) == [file]


def test_a_file_that_is_wrong_already_says_where(file: Path) -> None:
    file.write_text(TEXT.replace("panda", "pando"))
    with pytest.raises(ConfigError, match=r"bench.yaml:3: robot: "):
        set_values(file, {"title": "Another"})


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.yaml: no such file"):
        set_values(tmp_path / "none.yaml", {"title": "Another"})
