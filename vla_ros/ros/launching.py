"""Graph -> LaunchDescription: what a launch file of this package is made of."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from vla_ros import config, graph
from vla_ros.config import Parameter
from vla_ros.graph import Graph, NodeSpec
from vla_ros.policies import registry
from vla_ros.ros import transport

#: Arguments of every launch file: name -> what it is. Empty means: as the system's YAML says.
ARGUMENTS = {
    "robot": "the arm, by name",
    "policy": "the policy, by name",
    "instruction": "what to do, in words",
    "checkpoint": "the policy's weights: a folder or a file",
    "sim": "true: in simulation; false: on the real robot",
    "record": "folder of a LeRobot dataset: a new one, or one to go on with",
    "bag": "folder of a new bag with every topic in it",
    "dry_run": "true: send nothing to the arm; `vla-ros run --dry-run` also draws what would have been sent",
}
#: Those that are no key of a system's YAML.
_SWITCHES = ("sim", "dry_run")
_SAID = {"": None, "true": True, "false": False}

_RESPAWN_DELAY_S = 2.0


def describe(system: str) -> LaunchDescription:
    """The launch description of the system called `system`, with the arguments `ARGUMENTS`."""

    def launch(context: LaunchContext) -> list[LaunchDescriptionEntity]:
        given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
        return actions(_graph(system, given))

    declared = [DeclareLaunchArgument(name, default_value="", description=text) for name, text in ARGUMENTS.items()]
    return LaunchDescription([*declared, OpaqueFunction(function=launch)])


def actions(nodes: Graph, environment: Mapping[str, str] = os.environ) -> list[LaunchDescriptionEntity]:
    """The graph as launch actions: what the transport needs in the environment, then the nodes in their order."""
    added = {name: value for name, value in transport.environment(environment).items() if name not in environment}
    return [*(SetEnvironmentVariable(*item) for item in added.items()), *map(_node, nodes.nodes)]


def _graph(system: str, given: Mapping[str, str]) -> Graph:
    overrides = {name: value for name, value in given.items() if name not in _SWITCHES}
    for name in _SWITCHES:
        if given[name].lower() not in _SAID:
            raise ValueError(f"argument {name}: given {given[name]!r}; should be true, false, or left out")
    sim, dry_run = (_SAID[given[name].lower()] for name in _SWITCHES)
    chosen = config.override(config.load(system), policies=registry.names(), **overrides)
    built = graph.build(chosen, simulate=sim, dry_run=bool(dry_run))
    problems = graph.check(built)
    if problems:
        raise config.ConfigError(problems)
    return built


def _node(node: NodeSpec) -> Node:
    after_its_end: dict[str, Any] = (
        {"respawn": True, "respawn_delay": _RESPAWN_DELAY_S}
        if node.restarts
        else {"on_exit": Shutdown(reason=f"node {node.name} has ended")}
    )
    return Node(
        package=graph.PACKAGE,
        executable=node.executable,
        name=node.name,
        namespace=node.namespace,
        parameters=[{name: _value(value) for name, value in node.params.items()}],
        remappings=list(node.remappings),
        output="screen",
        **after_its_end,
    )


def _value(value: Parameter) -> Parameter | ParameterValue:
    """A text as a text: launch_ros reads a bare one as YAML, and makes a number of "007" and nothing of "a: b"."""
    return ParameterValue(value, value_type=str) if isinstance(value, str) else value
