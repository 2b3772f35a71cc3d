"""All nodes end at once, in the middle of a motion, as Ctrl-C under `ros2 launch` makes them: the arm comes to rest."""

from __future__ import annotations

import os
import platform
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

rclpy = pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import QoSProfile
from rosbags.highlevel import AnyReader
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from vla_ros import config, graph, messages, topics
from vla_ros.config import SystemConfig
from vla_ros.robots.panda import PANDA
from vla_ros.ros.polling import PolledSubscription

EVERY = QoSProfile(depth=2000)
PERIOD_S = 0.01
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
        asked = rclpy.create_node("observer", context=watcher.context)  # never spun: hundreds of messages a second
        self._of_targets = PolledSubscription(asked, Float64MultiArray, PANDA.endpoints["joints_desired"].name, EVERY)
        self._of_commands = PolledSubscription(asked, JointTrajectory, topics.COMMAND, EVERY)
        self._targets: list[Float64MultiArray] = []
        self._commands: list[JointTrajectory] = []
        self._diagnostics = watcher.hear(DiagnosticArray, topics.DIAGNOSTICS, EVERY)

    def until_it_moves(self) -> None:
        def moves() -> bool:
            self._take()
            return bool(self._commands) and max(map(abs, self._commands[-1].points[0].velocities)) > MOVES_RAD_S

        self._watcher.until(moves, "the arm to move")

    def until_gone(self, *names: str) -> None:
        """Wait until no node publishes there."""

        def are_gone() -> bool:
            self._take()
            return not any(map(self._watcher.count_publishers, names))

        self._watcher.until(are_gone, f"the end of {names}")
        self._take()

    def _take(self) -> None:
        self._targets += self._of_targets.take_all()
        self._commands += self._of_commands.take_all()

    def diagnosed(self, nodes: Iterable[str]) -> dict[str, str]:
        """The hardware of each status by its name, once all these nodes have said how they are."""
        self._watcher.until(lambda: len(self._statuses()) == len(list(nodes)), "diagnostics of all nodes")
        last_s = [message.header.stamp.sec for message in self._diagnostics]
        assert max(last_s) < 1000  # of the simulation, all of them
        return self._statuses()

    def _statuses(self) -> dict[str, str]:
        return {message.status[0].name: message.status[0].hardware_id for message in self._diagnostics}

    def assert_it_came_to_rest(self) -> None:
        """Within the limits, as far as was heard: a target that a busy machine did not deliver is no jump.

        Where the machine did not run the controller for a while, the arm rests at the last command, however fast.
        """
        was_paused = any("as the process was paused" in said for said in self._watcher.said["controller"])
        velocities = np.array([command.points[0].velocities[:7] for command in self._commands])
        stamps_s = np.array([messages.stamp_to_ns(command.header.stamp) for command in self._commands]) * 1e-9
        periods_s = np.maximum(np.diff(stamps_s), PERIOD_S)
        assert (np.abs(velocities) < 1.001 * LIMIT_RAD_S).all()
        assert (np.abs(np.diff(velocities, axis=0)) < 1.001 * LIMIT_RAD_S2 * periods_s[:, None]).all()
        assert was_paused or np.abs(velocities[-1]).max() < 1e-3
        np.testing.assert_array_equal(self._targets[-1].data, self._commands[-1].points[0].positions[:7])


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
    arms = ("simulator", "inference", "recorder", "controller")
    hardware = {f"vla/{name}": "panda" for name in arms} | {"vla/bag": platform.node()}
    assert observer.diagnosed(nodes) == hardware
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
