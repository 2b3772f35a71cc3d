"""Graph -> LaunchDescription: what a launch file of this package is made of."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from launch.actions import (
    DeclareLaunchArgument,
    LogInfo,
    OpaqueFunction,
    SetEnvironmentVariable,
    Shutdown,
    TimerAction,
)
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from vla_ros import config, graph
from vla_ros.config import Parameter
from vla_ros.config.problems import did_you_mean
from vla_ros.graph import Graph, NodeSpec, Restarts
from vla_ros.policies import registry
from vla_ros.ros import transport

#: Arguments of every launch file: name -> what it is. Empty means: as the system's YAML says.
ARGUMENTS = {
    "system": "a system: the path of your own .yaml, or the name of one of this package",
    "robot": "name of the robot",
    "policy": "name of the policy",
    "instruction": "the task in words",
    "checkpoint": "the policy's weights: a folder or a file",
    "sim": "true: in simulation; false: on the real robot",
    "record": "folder of a LeRobot dataset: a new one, or an existing one to append to",
    "bag": "folder of a new bag with every topic in it",
    "dry_run": "true: send nothing to the arm; `vla-ros run --dry-run` also draws what would have been sent",
}
#: Those that are no key of a system's YAML.
_SWITCHES = ("sim", "dry_run")
_SAID = {"": None, "true": True, "false": False}


def describe(system: str) -> LaunchDescription:
    """The launch description of the system called `system`, with the arguments `ARGUMENTS`."""

    def launch(context: LaunchContext) -> list[LaunchDescriptionEntity]:
        _refuse_unknown(context.argv, is_ours=f"{system}.launch.py" in (Path(word).name for word in sys.argv))
        given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
        return actions(_graph(given.pop("system") or system, given))

    declared = [DeclareLaunchArgument(name, default_value="", description=text) for name, text in ARGUMENTS.items()]
    return LaunchDescription([*declared, OpaqueFunction(function=launch)])


def actions(nodes: Graph, environment: Mapping[str, str] = os.environ) -> list[LaunchDescriptionEntity]:
    """The graph as launch actions: what the nodes need in the environment, then they in their order."""
    wanted = transport.environment(environment)
    added = {name: value for name, value in wanted.items() if name not in environment}
    started = [_node(node, Restarts(node)) for node in nodes.nodes]
    return [*(SetEnvironmentVariable(*item) for item in added.items()), *started]


def _refuse_unknown(argv: Iterable[str], is_ours: bool) -> None:
    """`ros2 launch` ignores arguments that nobody declares: a dry run that is misspelt would move the arm.

    A launch file that includes this one has arguments of its own: then only what resembles ours is refused.
    """
    given = [word.partition(":=")[0] for word in argv if ":=" in word]
    wrong = [name for name in given if name not in ARGUMENTS and (is_ours or did_you_mean(name, list(ARGUMENTS)))]
    if wrong:
        known = ", ".join(ARGUMENTS)
        raise config.ConfigError(
            [f"argument {name}: unknown{did_you_mean(name, list(ARGUMENTS))}; there are: {known}" for name in wrong]
        )


def _graph(system: str, given: Mapping[str, str]) -> Graph:
    overrides = {name: value for name, value in given.items() if name not in _SWITCHES}
    for name in _SWITCHES:
        if given[name].lower() not in _SAID:
            raise ValueError(f"argument {name}: given {given[name]!r}; should be true, false, or left out")
    sim, dry_run = (_SAID[given[name].lower()] for name in _SWITCHES)
    chosen = config.override(config.load(system), policies=registry.names(), **overrides)
    built = graph.build(chosen, simulate=sim, dry_run=bool(dry_run))
    problems = [*registry.problems(chosen.policy.name, chosen.policy.checkpoint), *graph.check(built)]
    if problems:
        raise config.ConfigError(problems)
    return built


def _node(node: NodeSpec, restarts: Restarts, again: bool = False) -> Node:
    """One life of a node; after it the next one, or the end of all."""
    begun_s = time.monotonic()

    def on_exit(event: Any, context: LaunchContext) -> list[LaunchDescriptionEntity] | None:
        if context.is_shutdown:
            return None
        how = graph.ending(node, event.returncode)
        pause_s = restarts.pause_s(event.returncode, time.monotonic() - begun_s)
        if pause_s is not None:
            next_life = OpaqueFunction(function=lambda _: [_node(node, restarts, again=True)])
            told = LogInfo(msg=f"{how}; it restarts in {pause_s:g} s")
            return [told, TimerAction(period=pause_s, actions=[next_life])]
        if event.returncode == 0:  # by a signal that somebody sent to it alone
            return [Shutdown(reason=how)]
        raise RuntimeError(f"{how}, so the system ends")  # what makes launch itself end with 1

    return Node(
        package=graph.PACKAGE,
        executable=node.executable,
        name=node.name,
        namespace=node.namespace,
        parameters=[{name: _value(value) for name, value in node.params.items()}],
        remappings=list(node.remappings),
        output="screen",
        additional_env=transport.of_child(is_restarted=again),
        on_exit=on_exit,
    )


def _value(value: Parameter) -> Parameter | ParameterValue:
    """A text as a text: launch_ros reads a bare one as YAML, and makes a number of "007" and nothing of "a: b"."""
    return ParameterValue(value, value_type=str) if isinstance(value, str) else value
