"""What the graph says of the nodes is what they do: their topics, services and actions, seen over DDS."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("mujoco")

from rclpy.action import get_action_client_names_and_types_by_node, get_action_server_names_and_types_by_node
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor

from vla_ros import config, graph
from vla_ros.graph import Graph, NodeSpec
from vla_ros.robots.panda import PANDA
from vla_ros.robots.robot import Endpoint, EndpointKind
from vla_ros.ros.supervising import Supervisor

DISCOVERY_S, OBSERVERS = 20.0, 3
#: The simulated robot listens on both of its command topics, as the real one does; the graph names the one in use.
UNUSED = PANDA.endpoints["pose_desired"]
#: What every ROS node has.
COMMON = ("/rosout", "/parameter_events")
OF_EVERY_NODE = (
    "describe_parameters",
    "get_parameter_types",
    "get_parameters",
    "list_parameters",
    "set_parameters",
    "set_parameters_atomically",
    "get_type_description",
)

Said = set[tuple[str, str]]  # names and types


def said(ends: Iterable[Endpoint], kind: EndpointKind) -> Said:
    return {(end.name, end.type) for end in ends if end.kind is kind}


def seen(found: list[tuple[str, list[str]]], node: NodeSpec) -> Said:
    own = {f"{node.namespace}/{node.name}/{service}" for service in OF_EVERY_NODE}
    return {
        (name, types[0]) for name, types in found if name not in COMMON and "/_action/" not in name and name not in own
    }


def differences(observer: Any, node: NodeSpec) -> dict[str, Said]:
    """What the graph says of `node` and DDS does not, or the other way round."""
    topic, service, action = EndpointKind.TOPIC, EndpointKind.SERVICE, EndpointKind.ACTION
    who = (node.name, node.namespace)
    pairs = {
        "publishes": (observer.get_publisher_names_and_types_by_node, said(node.writes, topic)),
        "subscribes": (observer.get_subscriber_names_and_types_by_node, said(node.reads, topic)),
        "serves": (observer.get_service_names_and_types_by_node, said(node.reads, service)),
        "calls": (observer.get_client_names_and_types_by_node, said(node.writes, service)),
        "performs": (partial(get_action_server_names_and_types_by_node, observer), said(node.reads, action)),
        "requests": (partial(get_action_client_names_and_types_by_node, observer), said(node.writes, action)),
    }
    return {verb: difference for verb, (ask, ends) in pairs.items() if (difference := seen(ask(*who), node) ^ ends)}


def all_differences(built: Graph, within_s: float) -> dict[str, dict[str, Said]]:
    """Of each node, as one observer sees them; of one that it does not see, that it is absent."""
    context = Context()
    rclpy.init(context=context)
    observer = rclpy.create_node("observer", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(observer)
    try:
        deadline_s = time.monotonic() + within_s
        while True:
            present = set(observer.get_node_names_and_namespaces())
            found = {
                node.name: differences(observer, node)
                if (node.name, node.namespace) in present
                else {"is absent": {(node.name, node.namespace)}}
                for node in built.nodes
            }
            if found["simulator"].get("subscribes") == {(UNUSED.name, UNUSED.type)}:
                del found["simulator"]["subscribes"]
            if not any(found.values()) or time.monotonic() > deadline_s:
                return found
            executor.spin_once(timeout_sec=0.1)  # discovery does not report when it is complete
    finally:
        observer.destroy_node()
        rclpy.try_shutdown(context=context)


def test_the_nodes_do_what_the_graph_says(ros_domain_id: int, tmp_path: Path) -> None:
    recorded = config.override(config.load("franka_upvla"), record=str(tmp_path / "dataset"))
    built = graph.build(recorded)
    with Supervisor(built, os.environ):
        # A process that starts at the same time as another may never learn of its topics (see `ros.hearing`).
        for _ in range(OBSERVERS):
            found = all_differences(built, DISCOVERY_S)
            if not any(found.values()):
                break
    assert not any(found.values()), found
