"""All nodes end at once, in the middle of a motion, as Ctrl-C under `ros2 launch` makes them: the arm comes to rest."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")

from rclpy.qos import QoSProfile
from rosbags.highlevel import AnyReader
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from vla_ros import config, graph, topics
from vla_ros.config import SystemConfig
from vla_ros.robots.panda import PANDA

EVERY = QoSProfile(depth=2000)
PERIOD_S = 0.01
#: Of the commands, as they come one period after the other.
LIMIT_RAD_S = np.array([joint.velocity_rad_s for joint in PANDA.joints])
LIMIT_RAD_S2 = np.array([joint.acceleration_rad_s2 for joint in PANDA.joints])
MOVES_RAD_S = 0.2


@pytest.fixture
def system(tmp_path: Path) -> SystemConfig:
    """With pictures that cost little, a task that takes its time, and everything recorded."""
    shipped = config.load("franka_upvla")
    assert shipped.simulation is not None
    simulation = shipped.simulation.model_copy(update={"instruction": "stack the red cube on the blue cube"})
    front = shipped.cameras["front"].model_copy(update={"width": 32, "height": 32})
    small = shipped.model_copy(update={"cameras": {"front": front}, "simulation": simulation})
    recorded = {"instruction": simulation.instruction, "record": str(tmp_path / "data"), "bag": str(tmp_path / "bag")}
    return config.override(small, policy="scripted", **recorded)


class Observer:
    """Hears what the driver is told, and what the controller says it told it."""

    def __init__(self, watcher: Any) -> None:
        self._watcher = watcher
        self._targets = watcher.hear(Float64MultiArray, PANDA.endpoints["joints_desired"].name, EVERY)
        self._commands = watcher.hear(JointTrajectory, topics.COMMAND, EVERY)

    def until_it_moves(self) -> None:
        def moves() -> bool:
            return bool(self._commands) and self.speeds()[-1] > MOVES_RAD_S

        self._watcher.until(moves, "the arm to move")

    def until_gone(self, *topics: str) -> None:
        """Wait until nobody publishes there."""
        self._watcher.until(lambda: not any(map(self._watcher.count_publishers, topics)), f"the end of {topics}")

    def speeds(self) -> np.ndarray:
        return np.array([np.abs(command.points[0].velocities).max() for command in self._commands])

    def assert_it_came_to_rest(self) -> None:
        """By the targets alone: at the end they stand, and the way there keeps the limits."""
        targets = np.array([target.data for target in self._targets])
        velocities = np.diff(targets, axis=0) / PERIOD_S
        assert (np.abs(velocities) < 1.001 * LIMIT_RAD_S).all()
        assert (np.abs(np.diff(velocities, axis=0)) / PERIOD_S < 1.001 * LIMIT_RAD_S2).all()
        assert np.abs(velocities[-1]).max() < 0.01  # the last step into rest
        assert self.speeds()[-1] < 1e-3


def bagged_speeds(bag: str) -> list[float]:
    with AnyReader([Path(bag)]) as reader:
        connections = [connection for connection in reader.connections if connection.topic == topics.COMMAND]
        commands = [reader.deserialize(data, it.msgtype) for it, _, data in reader.messages(connections)]
    return [np.abs(command.points[0].velocities).max() for command in commands]


def test_nodes_that_are_asked_to_end_at_once_end_well(
    system: SystemConfig, start_graph: Callable[..., dict[str, Any]], make_watcher: Callable[..., Any]
) -> None:
    observer = Observer(make_watcher())
    nodes = start_graph(system)
    observer.until_it_moves()
    for node in nodes.values():
        os.kill(node.process_id, signal.SIGINT)
    observer.until_gone(topics.COMMAND, "/clock")
    assert {name: node.exit_code() for name, node in nodes.items()} == dict.fromkeys(nodes, 0)
    observer.assert_it_came_to_rest()
    assert bagged_speeds(system.bag)[-1] < 1e-3
    assert not any("Traceback" in node.output for node in nodes.values())


@pytest.fixture
def run_system(ros_domain_id: int, tmp_path: Path) -> Iterator[Callable[[SystemConfig], subprocess.Popen[bytes]]]:
    """Starts `vla-ros run`; it is killed at the end, if not before."""
    started: list[subprocess.Popen[bytes]] = []

    def run(system: SystemConfig) -> subprocess.Popen[bytes]:
        file = tmp_path / "system.yaml"
        file.write_text(yaml.safe_dump(system.model_dump(mode="json")))
        with (tmp_path / "said").open("w") as said:
            command = [sys.executable, "-m", "vla_ros", "run", str(file)]
            started.append(subprocess.Popen(command, stdout=said, stderr=said))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()


def test_nodes_whose_parent_is_killed_brake_and_end(
    system: SystemConfig, run_system: Callable[..., Any], make_watcher: Callable[..., Any]
) -> None:
    observer = Observer(make_watcher())
    parent = run_system(system)
    observer.until_it_moves()
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    ends = [os.pidfd_open(int(child)) for child in children]
    assert len(ends) == len(graph.build(system).nodes)
    parent.kill()
    observer.until_gone(topics.COMMAND, "/clock")
    for end in ends:
        assert select.select([end], [], [], 10.0)[0]
        os.close(end)
    observer.assert_it_came_to_rest()
    assert bagged_speeds(system.bag)[-1] < 1e-3


def test_an_arm_brakes_though_simulated_time_has_ended(
    system: SystemConfig, start_graph: Callable[..., dict[str, Any]], make_watcher: Callable[..., Any]
) -> None:
    observer = Observer(make_watcher())
    nodes = start_graph(system.model_copy(update={"bag": "", "record": ""}))
    observer.until_it_moves()
    os.kill(nodes["simulator"].process_id, signal.SIGKILL)
    os.kill(nodes["controller"].process_id, signal.SIGINT)
    observer.until_gone(topics.COMMAND)
    assert nodes["controller"].exit_code() == 0
    observer.assert_it_came_to_rest()
