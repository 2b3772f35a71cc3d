"""The whole graph over DDS: it lifts a cube, and is measured; a graph that is not there is named."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vla_ros import config, graph, topics
from vla_ros.config import SystemConfig
from vla_ros.graph import NodeSpec
from vla_ros.robots.panda import PANDA
from vla_ros.rollout.report import Report
from vla_ros.ros.episodes import Unanswered, run_episodes
from vla_ros.viewing.montage import EpisodeTrace

JOINT_STATES = PANDA.endpoints["joint_states"].name
StartNode = Callable[[NodeSpec], Any]


@pytest.fixture
def system() -> SystemConfig:
    return config.load("franka_upvla")


def start_all(system: SystemConfig, start_node: StartNode) -> dict[str, Any]:
    return {spec.name: start_node(spec) for spec in graph.build(system, seed=0).nodes}


def test_a_cube_is_lifted_and_measured(system: SystemConfig, start_node: StartNode) -> None:
    nodes = start_all(system, start_node)
    seen: list[tuple[Report, EpisodeTrace | None]] = []
    shown: list[tuple[float, str]] = []
    run_episodes(system, 1, 0, lambda *both: seen.append(both), lambda *both: shown.append(both))

    ((report, trace),) = seen
    assert [row.success for row in report.episodes] == [True], (seen, [node.output for node in nodes.values()])
    within = [done for done, note in shown if " of at most 20 s: lift the " in note]
    assert len(within) > 3 and within == sorted(within) and 0.0 <= within[0] < within[-1] < 1.0, "within the episode"
    assert shown[-1] == (1, "")
    assert report.successes == 1
    assert report.policy == "scripted"
    assert report.latency_ms.p50 is not None
    assert 0.0 < report.latency_ms.p50 < 500.0
    cameras = [camera.topic for camera in system.cameras.values()]
    expected_hz = {**dict.fromkeys(cameras, 30.0), topics.CHUNK: 5.0, topics.COMMAND: 100.0, JOINT_STATES: 1000.0}
    for topic, rate_hz in expected_hz.items():
        assert report.topics[topic] == pytest.approx(rate_hz, rel=0.3), topic

    assert trace is not None
    assert trace.success
    assert set(trace.frames) == set(system.cameras)
    assert all(len(frames) > 3 for frames in trace.frames.values())
    assert len(trace.planned) > 3
    before, after = ({color: corners.mean(axis=0) for color, corners in cubes.items()} for cubes in trace.cubes)
    moved = {color: after[color][2] - before[color][2] for color in before}
    lifted = report.episodes[0].instruction.split()[2]
    assert {color for color, rise in moved.items() if rise > 0.03} == {lifted}
    # Down to the cube and up again.
    height_m = trace.executed[:, 2]
    assert height_m.min() < 0.06
    assert height_m[-1] > height_m.min() + 0.03
    assert {node.end() for node in nodes.values()} == {0}


def test_a_graph_that_is_not_there_is_named(
    system: SystemConfig, ros_domain_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vla_ros.ros.operating.APPEAR_S", 0.5)
    with pytest.raises(Unanswered, match="no node serves /vla/simulation/reset: is the node simulator running?"):
        run_episodes(system, 1, 0, print)


def test_ctrl_c_leaves_the_report_of_what_was_done(ros_domain_id: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vla_ros", "run", "franka_upvla", "--episodes", "40", "--seed", "3"]
    report = tmp_path / "report.json"
    process = subprocess.Popen(
        [*command, "--instruction", "Lift the red cube.", "--report", str(report)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    while "  seed 3 " not in (line := process.stdout.readline()):
        assert line, process.communicate()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    said = json.loads(report.read_text())
    assert process.returncode == 130, err
    assert 1 <= said["episodes"] < 40 and said["rows"][0]["seed"] == 3
    assert said["rows"][0]["instruction"] == "lift the red cube"
    assert f"the report has {said['episodes']} of 40 episodes" in err
    assert f"--episodes {40 - said['episodes']} --seed {3 + said['episodes']}" in " ".join(err.split())
    assert (tmp_path / "montage.png").is_file()
    assert "Traceback" not in out + err
