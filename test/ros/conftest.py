"""What tests over real DDS share: nodes as processes of their own, and somebody who watches and calls them."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from std_srvs.srv import Trigger

from vla_ros import graph, topics
from vla_ros.config import SystemConfig
from vla_ros.graph import NodeSpec
from vla_ros.ros import transport
from vla_ros.ros.supervising import command, params_file

#: Long enough for a machine that is busy with other things; a test that passes never waits for it.
PATIENCE_S = 30.0


class NodeProcess:
    """One node, as `vla-ros run` would start it; what it prints goes into a file."""

    def __init__(self, spec: NodeSpec, folder: Path) -> None:
        params = folder / f"{spec.name}.yaml"
        params.write_text(params_file(spec))
        self._log = folder / f"{spec.name}.log"
        environment = {**os.environ, **transport.of_child(is_restarted=False)}  # a test that is killed takes it along
        with self._log.open("w") as log:
            self._process = subprocess.Popen(command(spec, params), env=environment, stdout=log, stderr=log)

    @property
    def process_id(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        return self._log.read_text()

    def exit_code(self) -> int:
        """Wait until it has ended by itself."""
        return self._process.wait(PATIENCE_S)

    def end(self, number: int = signal.SIGINT) -> int:
        """Send a signal and wait for the end; the exit code."""
        self._process.send_signal(number)
        return self.exit_code()

    def kill(self) -> None:
        """As if the machine had none of its memory left."""
        self._process.kill()
        self._process.wait()

    def clean_up(self) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(6.0)  # longer than one that waits for a controller
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Watcher(Node):
    """A node in the test's process: hears every state, calls services, spins until something is so."""

    def __init__(self, context: Context, use_sim_time: bool) -> None:
        parameters = [Parameter("use_sim_time", value=use_sim_time)]
        super().__init__("watcher", context=context, parameter_overrides=parameters)
        self._spinner = SingleThreadedExecutor(context=context)
        self._spinner.add_node(self)
        self.said: dict[str, list[str]] = {}  # node -> every message it gave, repetitions left out
        self.values: dict[str, dict[str, str]] = {}  # node -> what it said last
        self.create_subscription(DiagnosticArray, topics.STATE, self._on_state, QoSProfile(depth=100))

    def _on_state(self, message: DiagnosticArray) -> None:
        for status in message.status:
            said = self.said.setdefault(status.name, [])
            if said[-1:] != [status.message]:
                said.append(status.message)
            self.values[status.name] = {entry.key: entry.value for entry in status.values}

    def spin_too(self, node: Node) -> None:
        """Spin `node` together with this one."""
        self._spinner.add_node(node)

    def hear(self, kind: type, topic: str, qos: QoSProfile | int = 10) -> list[Any]:
        """A list into which every message of `topic` goes from now on."""
        heard: list[Any] = []
        self.create_subscription(kind, topic, heard.append, qos)
        return heard

    def until(self, condition: Callable[[], Any], what: str, within_s: float = PATIENCE_S) -> None:
        """Spin until `condition` holds; fail saying `what` did not come."""
        deadline_s = time.monotonic() + within_s
        while not condition():
            if time.monotonic() > deadline_s:
                pytest.fail(f"waited {within_s:.0f} s for {what}; said so far: {self.said}")
            self._spinner.spin_once(timeout_sec=0.05)

    def until_said(self, node: str, text: str) -> str:
        """Spin until `node` says something with `text` in it, and give that."""

        def matching() -> list[str]:
            return [said for said in self.said.get(node, [])[-1:] if text in said]

        self.until(matching, f"{node} to say {text!r}")
        return matching()[0]

    def call(self, name: str) -> Any:
        """Call a Trigger service and give the answer."""
        client = self.create_client(Trigger, name)
        self.until(client.service_is_ready, f"somebody who serves {name}")
        future = client.call_async(Trigger.Request())
        self.until(future.done, f"an answer to {name}")
        self.destroy_client(client)
        return future.result()

    @property
    def now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)


@pytest.fixture
def start_node(ros_domain_id: int, tmp_path: Path) -> Iterator[Callable[..., NodeProcess]]:
    """Starts a node; whatever still runs when the test ends is killed."""
    started: list[NodeProcess] = []

    def start(spec: NodeSpec, folder: Path = tmp_path) -> NodeProcess:
        started.append(NodeProcess(spec, folder))
        return started[-1]

    yield start
    for process in reversed(started):  # a simulation last, without which an arm has no time to brake in
        process.clean_up()


@pytest.fixture
def start_again(start_node: Callable[..., NodeProcess], tmp_path: Path) -> Callable[[NodeSpec], NodeProcess]:
    """As `start_node`, for another node of a name that is in use, or was."""

    def start(spec: NodeSpec) -> NodeProcess:
        return start_node(spec, Path(tempfile.mkdtemp(dir=tmp_path)))

    return start


@pytest.fixture
def start_graph(start_node: Callable[[NodeSpec], NodeProcess]) -> Callable[..., dict[str, NodeProcess]]:
    """Starts every node of a system; gives them by name."""

    def start(system: SystemConfig, seed: int = 0) -> dict[str, NodeProcess]:
        return {spec.name: start_node(spec) for spec in graph.build(system, seed=seed).nodes}

    return start


@pytest.fixture
def make_watcher(ros_domain_id: int) -> Iterator[Callable[..., Watcher]]:
    """Makes the test's own node, on simulated time or not."""
    context = Context()
    rclpy.init(context=context)
    watchers: list[Watcher] = []

    def make(use_sim_time: bool = False) -> Watcher:
        watchers.append(Watcher(context, use_sim_time))
        return watchers[-1]

    yield make
    for watcher in watchers:
        watcher.destroy_node()
    rclpy.try_shutdown(context=context)
