"""Two nodes where one may be: a second publisher, a second node of one name, and a successor, which is no second."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("mujoco")

from rclpy.context import Context
from rclpy.node import Node
from sensor_msgs.msg import JointState
from test_controller import HOME, chunk_of, send, watch
from trajectory_msgs.msg import JointTrajectory

from vla_ros import config, graph, topics
from vla_ros.graph import NodeSpec
from vla_ros.robots.panda import PANDA
from vla_ros.ros import convert, qos

JOINT_STATES = PANDA.endpoints["joint_states"].name
CONTROLLER = NodeSpec("controller", "controller")


@pytest.fixture
def make_node(ros_domain_id: int) -> Iterator[Callable[..., Node]]:
    """Makes nodes, each a participant of its own."""
    made: list[tuple[Context, Node]] = []

    def make(name: str, namespace: str) -> Node:
        context = Context()
        rclpy.init(context=context)
        made.append((context, Node(name, namespace=namespace, context=context)))
        return made[-1][1]

    yield make
    for context, node in made:
        node.destroy_node()
        rclpy.try_shutdown(context=context)


def run(watcher: Any) -> None:
    """Have the controller follow a chunk."""
    watcher.call(topics.RESUME)
    watcher.call(topics.START)
    send(watcher, chunk_of(HOME, watcher.now_ns, rows=100))
    watcher.until_said("controller", "running")


def test_a_second_publisher_is_named_and_a_successor_is_none(
    make_watcher: Callable[..., Any],
    start_node: Callable[..., Any],
    start_again: Callable[..., Any],
    make_node: Callable[..., Node],
) -> None:
    watcher = watch(make_watcher(), start_node)
    run(watcher)
    rival = make_node("rival", "/")
    states = rival.create_publisher(JointState, JOINT_STATES, qos.SENSOR)
    watcher.until_said("controller", f"holding: second publisher: /rival, /watcher on {JOINT_STATES}")
    rival.destroy_publisher(states)
    watcher.until(lambda: watcher.count_publishers(JOINT_STATES) == 1, "it to be gone")
    run(watcher)

    watcher.process.kill()
    watcher.said["controller"].clear()
    successor = start_again(CONTROLLER)
    watcher.until_said("controller", "holding: not started")
    run(watcher)
    process = watcher.values["controller"]["process"]
    assert process.startswith(f"process {successor.process_id} on ")
    assert not any("second" in said or "another" in said for said in watcher.said["controller"])

    third = start_again(CONTROLLER)
    for number in (successor.process_id, third.process_id):
        both = rf": two nodes /vla/controller \(.*process {number} on .*\) on {topics.COMMAND}"
        watcher.until(lambda both=both: re.search(both, watcher.said["controller"][-1]), "both processes to be named")
    for process, other in ((successor, third), (third, successor)):
        named = f"another /vla/controller runs: process {other.process_id} on "
        watcher.until(lambda process=process, named=named: named in process.output, "the other one in the log")


def test_two_policies_of_one_name_are_told_by_their_chunks(
    make_watcher: Callable[..., Any], start_node: Callable[..., Any], make_node: Callable[..., Node]
) -> None:
    watcher = watch(make_watcher(), start_node)
    watcher.destroy_publisher(watcher.chunks)
    policies = [
        make_node("inference", topics.NAMESPACE).create_publisher(JointTrajectory, topics.CHUNK, qos.COMMAND)
        for _ in range(2)
    ]
    watcher.call(topics.START)

    def plan() -> None:
        for policy in policies:
            chunk = chunk_of(HOME + np.random.default_rng().normal(size=7) * 1e-3, watcher.now_ns)
            policy.publish(convert.chunk_to_trajectory(chunk, PANDA.base_frame))

    watcher.create_timer(0.2, plan)
    watcher.until_said("controller", f"second publisher: two nodes /vla/inference on {topics.CHUNK}")


def test_a_second_simulator_does_not_start(
    make_watcher: Callable[..., Any], start_node: Callable[..., Any], start_again: Callable[..., Any]
) -> None:
    (simulator,) = [spec for spec in graph.build(config.load("franka_upvla")).nodes if spec.name == "simulator"]
    watcher = make_watcher()
    first = start_node(simulator)
    watcher.until_said("simulator", "running")
    second = start_again(simulator)
    assert second.exit_code() == 2
    named = f"error: another simulator runs in this ROS domain: process {first.process_id} on "
    assert second.output.startswith(named)
    first.kill()
    process = f"process {start_again(simulator).process_id} on "
    watcher.until(lambda: watcher.values["simulator"]["process"].startswith(process), "its successor")
