"""Every launch file starts exactly the graph: its nodes, parameters and remappings."""

from __future__ import annotations

import importlib.util
import os
import runpy
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
LAUNCH_FILES = sorted((ROOT / "launch").glob("*.launch.py"))

if importlib.util.find_spec("launch_ros") is None:  # never ask for `launch`: the folder of that name would answer
    sys.path.insert(0, str(ROOT / "test" / "fakes"))

from launch import LaunchContext
from vla_ros import config, graph
from vla_ros.graph import Graph, NodeSpec
from vla_ros.policies import registry
from vla_ros.ros import launching


class RecordedNode(launching.LaunchDescriptionEntity):  # type: ignore[misc]
    """Keeps what it is made with, which the real one hides."""

    def __init__(self, **given: Any) -> None:
        super().__init__()
        self.given = given

    def visit(self, context: LaunchContext) -> None:
        return None


class Typed(NamedTuple):
    """A value with its type, which the real one hides as well."""

    value: Any
    value_type: type


class Ends(NamedTuple):
    """A shutdown with its reason."""

    reason: str


@pytest.fixture(autouse=True)
def _recorded_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "Node", RecordedNode)
    monkeypatch.setattr(launching, "Shutdown", Ends)
    monkeypatch.setattr(launching, "ParameterValue", Typed)


def visit(entity: Any, context: LaunchContext) -> list[Any]:
    """The entity and everything it leads to, in order."""
    return [entity, *(later for inner in entity.visit(context) or [] for later in visit(inner, context))]


def launched(file: Path, **arguments: str) -> list[dict[str, Any]]:
    context = LaunchContext()
    context.launch_configurations.update(arguments)
    description = runpy.run_path(str(file))["generate_launch_description"]()
    return [entity.given for entity in visit(description, context) if isinstance(entity, RecordedNode)]


def expected(built: Graph) -> list[dict[str, Any]]:
    return [
        {
            "package": "vla_ros",
            "executable": node.executable,
            "name": node.name,
            "namespace": node.namespace,
            # launch_ros reads a bare text as YAML: "7" would become a number, "lift: now" a mapping
            "parameters": [
                {name: Typed(value, str) if isinstance(value, str) else value for name, value in node.params.items()}
            ],
            "remappings": list(node.remappings),
            "output": "screen",
            **(
                {"respawn": True, "respawn_delay": 2.0}
                if node.restarts
                else {"on_exit": Ends(f"node {node.name} has ended")}
            ),
        }
        for node in built.nodes
    ]


def system_name(file: Path) -> str:
    return file.name.removesuffix(".launch.py")


def test_there_are_launch_files() -> None:
    assert {system_name(file) for file in LAUNCH_FILES} <= set(config.names())
    assert LAUNCH_FILES


@pytest.mark.parametrize("file", LAUNCH_FILES, ids=system_name)
def test_a_launch_file_starts_the_graph(file: Path) -> None:
    assert launched(file) == expected(graph.build(config.load(system_name(file))))


@pytest.mark.parametrize("file", LAUNCH_FILES, ids=system_name)
def test_its_arguments_reach_the_graph(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.POLICIES, "another", registry.Entry("", needs_checkpoint=True))
    task = "lift the red cube"
    given = {
        "robot": "panda",
        "policy": "another",
        "checkpoint": "weights",
        "instruction": task,
        "bag": "bag",
        "record": "data",
    }
    system = config.override(config.load(system_name(file)), **given)
    for sim, simulate in (("true", True), ("False", False)):
        assert launched(file, sim=sim, **given) == expected(graph.build(system, simulate=simulate))


def test_what_may_start_again_does_and_the_end_of_another_ends_all() -> None:
    ends = {node["name"]: node for node in launched(LAUNCH_FILES[0], bag="bag", record="data")}
    assert {name for name, node in ends.items() if node.get("respawn")} == {"inference", "recorder", "bag"}
    assert {name for name, node in ends.items() if "on_exit" in node} == {"simulator", "controller"}


def test_a_dry_run_is_the_controllers() -> None:
    dry = {node["name"]: node["parameters"][0].get("dry_run") for node in launched(LAUNCH_FILES[0], dry_run="true")}
    assert dry == {"simulator": None, "inference": None, "controller": True}
    assert launched(LAUNCH_FILES[0], dry_run="false") == launched(LAUNCH_FILES[0])


def test_remappings_are_passed_on() -> None:
    node = NodeSpec("inference", "inference", remappings=(("/a", "/b"),))
    started = [entity for entity in launching.actions(Graph("", (node,))) if isinstance(entity, RecordedNode)]
    assert started[0].given["remappings"] == [("/a", "/b")]


def test_a_wrong_argument_is_refused() -> None:
    with pytest.raises(ValueError, match="argument sim: given 'maybe'; should be true, false, or left out"):
        launched(LAUNCH_FILES[0], sim="maybe")
    with pytest.raises(ValueError, match="argument dry_run: given '1'; should be true, false, or left out"):
        launched(LAUNCH_FILES[0], dry_run="1")
    with pytest.raises(config.ConfigError, match="policy.name: unknown policy 'scrited'; did you mean 'scripted'"):
        launched(LAUNCH_FILES[0], policy="scrited")
    with pytest.raises(config.ConfigError, match="robot: unknown robot 'pandaa'; there are: panda"):
        launched(LAUNCH_FILES[0], robot="pandaa")


def test_the_transport_is_set_unless_the_user_chose_one() -> None:
    nodes = Graph("", (NodeSpec("inference", "inference"),))
    base = {name: value for name, value in os.environ.items() if "FAST" not in name}
    assert len(launching.actions(nodes, base)) > 1
    assert len(launching.actions(nodes, {**base, "FASTDDS_BUILTIN_TRANSPORTS": "UDPv4"})) == 1
