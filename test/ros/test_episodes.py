"""The whole graph over DDS: it lifts a cube; when the policy is killed in mid-motion, the arm holds and says why."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from vla_ros import config, graph, topics
from vla_ros.config import SystemConfig
from vla_ros.graph import NodeSpec
from vla_ros.robots.panda import PANDA
from vla_ros.ros import convert, qos
from vla_ros.ros.episodes import Unanswered, run_episodes
from vla_ros.values import NANOSECONDS_PER_SECOND

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


def test_when_the_policy_is_killed_the_arm_stops_where_it_is_and_says_why(
    system: SystemConfig, start_node: StartNode, make_watcher: Callable[..., Any]
) -> None:
    nodes = start_all(system, start_node)
    watcher = make_watcher(use_sim_time=True)
    states = watcher.hear(JointState, JOINT_STATES, qos.SENSOR)
    commands = watcher.hear(JointTrajectory, topics.COMMAND)
    instruction = watcher.call(topics.SIMULATION_RESET).message
    watcher.create_publisher(String, topics.INSTRUCTION, qos.LATCHED).publish(String(data=instruction))
    watcher.until_said("inference", "inferring")
    watcher.call(topics.START)
    watcher.until(lambda: states and speed(states[-1]) > 0.2, "the arm to move")

    nodes["inference"].end(signal.SIGKILL)
    killed_ns = watcher.now_ns
    assert speed(states[-1]) > 0.1
    watcher.until(lambda: speed(states[-1]) < 0.01, "the arm to stand")
    stood_ns = convert.stamp_to_ns(states[-1].header.stamp)
    # It moves on for what the last chunk has planned (1 s, and one step more), then brakes.
    assert stood_ns - killed_ns < 2 * NANOSECONDS_PER_SECOND
    watcher.until_said("controller", "holding: ")
    watcher.until_said("controller", "policy lost: the inference node has said nothing for 1 s")

    held_at = np.array(states[-1].position)
    later_ns = watcher.now_ns + NANOSECONDS_PER_SECOND
    watcher.until(lambda: watcher.now_ns > later_ns, "a second to pass")
    assert np.abs(np.array(states[-1].position) - held_at).max() < 0.01
    assert speed(states[-1]) < 0.01
    assert convert.stamp_to_ns(commands[-1].header.stamp) > later_ns - NANOSECONDS_PER_SECOND // 10
    assert not any(commands[-1].points[0].velocities)


def speed(message: JointState) -> float:
    """The fastest joint [rad/s]."""
    return float(np.abs(message.velocity).max())


def test_a_graph_that_is_not_there_is_named(
    system: SystemConfig, ros_domain_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vla_ros.ros.operating.APPEAR_S", 0.5)
    with pytest.raises(Unanswered, match="nobody serves /vla/simulation/reset: is the node simulator running?"):
        run_episodes(system, 1, 0, print)
