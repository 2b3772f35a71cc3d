"""Every launch file starts exactly the graph: its nodes, parameters and remappings."""

from __future__ import annotations

import importlib.util
import os
import runpy
import sys
from collections.abc import Iterator
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


class Exited(NamedTuple):
    """The event of a process that has ended."""

    returncode: int


@pytest.fixture(autouse=True)
def _recorded_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "Node", RecordedNode)
    monkeypatch.setattr(launching, "ParameterValue", Typed)


def visit(entity: Any, context: LaunchContext) -> list[Any]:
    """The entity and everything it leads to, in order."""
    return [entity, *(later for inner in entity.visit(context) or [] for later in visit(inner, context))]


def launched(file: Path, **arguments: str) -> list[dict[str, Any]]:
    """What `ros2 launch FILE name:=value ...` starts."""
    context = LaunchContext(argv=[f"{name}:={value}" for name, value in arguments.items()])
    context.launch_configurations.update(arguments)
    description = runpy.run_path(str(file))["generate_launch_description"]()
    return [given(entity) for entity in visit(description, context) if isinstance(entity, RecordedNode)]


def given(node: RecordedNode) -> dict[str, Any]:
    assert callable(node.given["on_exit"])
    return {name: value for name, value in node.given.items() if name != "on_exit"}


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
            "additional_env": {"VLA_ROS_PARENT": str(os.getpid())},
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
def test_its_arguments_reach_the_graph(file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(registry.POLICIES, "another", registry.Entry("", needs_checkpoint=True))
    task = "lift the red cube"
    given = {
        "robot": "panda",
        "policy": "another",
        "checkpoint": str(tmp_path),
        "instruction": task,
        "bag": "bag",
        "record": "data",
    }
    system = config.override(config.load(system_name(file)), **given)
    for sim, simulate in (("true", True), ("False", False)):
        assert launched(file, sim=sim, **given) == expected(graph.build(system, simulate=simulate))


def test_a_system_of_ones_own_is_started(tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text(config.find("franka_upvla").read_text().replace("rate_hz: 30", "rate_hz: 15"))
    system = config.load(str(own))
    assert system != config.load("franka_upvla")
    assert launched(LAUNCH_FILES[0], system=str(own)) == expected(graph.build(system))
    with pytest.raises(config.ConfigError, match="nowhere.yaml: no such file"):
        launched(LAUNCH_FILES[0], system="nowhere.yaml")


# --- the end of a node ------------------------------------------------------------------------------------------------


def lives(node: NodeSpec) -> Iterator[RecordedNode]:
    """Each life of a node that is killed again and again, as long as launch starts it."""
    context = LaunchContext()
    (life,) = (entity for entity in launching.actions(Graph("", (node,))) if isinstance(entity, RecordedNode))
    while True:
        yield life
        after = life.given["on_exit"](Exited(-9), context)
        (timer,) = (entity for entity in after if isinstance(entity, launching.TimerAction))
        (life,) = (entity for inner in timer.actions for entity in visit(inner, context)[1:])


def test_what_may_start_again_does_so_by_the_supervisors_rules() -> None:
    nodes = lives(NodeSpec("inference", "inference", restarts=True))
    first = next(nodes)
    assert first.given["additional_env"] == {"VLA_ROS_PARENT": str(os.getpid())}
    for _ in graph.PAUSES_S:
        again = next(nodes)
        assert again.given["additional_env"] == {"VLA_ROS_PARENT": str(os.getpid()), "VLA_ROS_RESTARTED": "1"}
        assert given(again) | {"additional_env": {}} == given(first) | {"additional_env": {}}
    with pytest.raises(RuntimeError, match="node inference was killed by SIGKILL, so the system ends"):
        next(nodes)


@pytest.mark.parametrize(
    ("executable", "restarts", "code", "how"),
    [("controller", False, -9, "was killed by SIGKILL"), ("inference", True, 2, "ended with exit code 2")],
)
def test_the_end_of_another_ends_all_with_a_failure(executable: str, restarts: bool, code: int, how: str) -> None:
    """Launch ends with 1 where an event's handler raises, and with 0 after a Shutdown."""
    node = next(lives(NodeSpec(executable, executable, restarts=restarts)))
    with pytest.raises(RuntimeError, match=f"node {executable} {how}, so the system ends"):
        node.given["on_exit"](Exited(code), LaunchContext())


def test_a_node_that_is_asked_to_end_ends_all_without_a_failure() -> None:
    node = next(lives(NodeSpec("controller", "controller")))
    (end,) = node.given["on_exit"](Exited(0), LaunchContext())
    assert isinstance(end, launching.Shutdown)


@pytest.mark.parametrize("code", [0, -2, 1, 2])
def test_nothing_follows_the_end_of_a_node_while_all_end(code: int) -> None:
    context = LaunchContext()
    context._set_is_shutdown(True)
    for restarts in (True, False):
        node = next(lives(NodeSpec("inference", "inference", restarts=restarts)))
        assert node.given["on_exit"](Exited(code), context) is None


def test_a_dry_run_is_the_controllers() -> None:
    dry = {node["name"]: node["parameters"][0].get("dry_run") for node in launched(LAUNCH_FILES[0], dry_run="true")}
    assert dry == {"simulator": None, "inference": None, "controller": True}
    assert launched(LAUNCH_FILES[0], dry_run="false") == launched(LAUNCH_FILES[0])


def test_remappings_are_passed_on() -> None:
    node = NodeSpec("inference", "inference", remappings=(("/a", "/b"),))
    started = [entity for entity in launching.actions(Graph("", (node,))) if isinstance(entity, RecordedNode)]
    assert started[0].given["remappings"] == [("/a", "/b")]


def test_a_wrong_argument_is_refused(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError, match="policy.checkpoint: .*/weights does not exist"):
        launched(LAUNCH_FILES[0], policy="up_vla", checkpoint=str(tmp_path / "weights"))
    with pytest.raises(
        config.ConfigError, match="policy.checkpoint: missing; policy up_vla needs weights; give their folder"
    ):
        launched(LAUNCH_FILES[0], policy="up_vla")
    with pytest.raises(ValueError, match="argument sim: given 'maybe'; should be true, false, or left out"):
        launched(LAUNCH_FILES[0], sim="maybe")
    with pytest.raises(ValueError, match="argument dry_run: given '1'; should be true, false, or left out"):
        launched(LAUNCH_FILES[0], dry_run="1")
    with pytest.raises(config.ConfigError, match="policy.name: unknown policy 'scrited'; did you mean 'scripted'"):
        launched(LAUNCH_FILES[0], policy="scrited")
    with pytest.raises(config.ConfigError, match="robot: unknown robot 'pandaa'; there are: panda"):
        launched(LAUNCH_FILES[0], robot="pandaa")


def test_an_argument_that_nobody_declares_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["ros2", "launch", "vla_ros", LAUNCH_FILES[0].name, "dryrun:=true"])
    with pytest.raises(config.ConfigError, match="argument dryrun: unknown; did you mean 'dry_run'"):
        launched(LAUNCH_FILES[0], dryrun="true")
    with pytest.raises(config.ConfigError, match="argument log_level: unknown; there are: system, robot, policy"):
        launched(LAUNCH_FILES[0], log_level="debug")
    with pytest.raises(config.ConfigError, match="polcy: unknown; did you mean 'policy'.*\n.*instruktion: unknown"):
        launched(LAUNCH_FILES[0], polcy="scripted", instruktion="lift")


def test_a_launch_file_that_includes_this_one_has_arguments_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["ros2", "launch", "cell", "cell.launch.py", "robot_ip:=10.0.0.2"])
    assert launched(LAUNCH_FILES[0], gripper_force="20") == launched(LAUNCH_FILES[0])
    with pytest.raises(config.ConfigError, match="argument dryrun: unknown; did you mean 'dry_run'"):
        launched(LAUNCH_FILES[0], dryrun="true")


def test_the_transport_is_set_unless_the_user_chose_one() -> None:
    nodes = Graph("", (NodeSpec("inference", "inference"),))
    base = {name: value for name, value in os.environ.items() if "FAST" not in name}
    assert len(launching.actions(nodes, base)) > 1
    assert len(launching.actions(nodes, {**base, "FASTDDS_BUILTIN_TRANSPORTS": "UDPv4"})) == 1
