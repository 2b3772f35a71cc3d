"""The whole graph over DDS: it lifts a cube, and is measured; a graph that is not there is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from vla_ros import config, graph, topics
from vla_ros.config import SystemConfig
from vla_ros.graph import NodeSpec
from vla_ros.robots.panda import PANDA
from vla_ros.ros.episodes import Unanswered, run_episodes

JOINT_STATES = PANDA.endpoints["joint_states"].name
StartNode = Callable[[NodeSpec], Any]


@pytest.fixture
def system() -> SystemConfig:
    return config.load("franka_upvla")


def start_all(system: SystemConfig, start_node: StartNode) -> dict[str, Any]:
    return {spec.name: start_node(spec) for spec in graph.build(system, seed=0).nodes}


def test_a_cube_is_lifted_and_measured(system: SystemConfig, start_node: StartNode) -> None:
    nodes = start_all(system, start_node)
    seen = []
    report, trace = run_episodes(system, 1, 0, seen.append)

    assert [row.success for row in seen] == [True], (seen, [node.output for node in nodes.values()])
    assert report.episodes == tuple(seen)
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
    # Down to the cube and up again.
    height_m = trace.executed[:, 2]
    assert height_m.min() < 0.06
    assert height_m[-1] > height_m.min() + 0.03
    assert {node.end() for node in nodes.values()} == {0}


def test_a_graph_that_is_not_there_is_named(
    system: SystemConfig, ros_domain_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vla_ros.ros.operating.APPEAR_S", 0.5)
    with pytest.raises(Unanswered, match="nobody serves /vla/simulation/reset: is the node simulator running?"):
        run_episodes(system, 1, 0, print)
