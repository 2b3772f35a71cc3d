"""The graph as data: nodes and parameters, wiring that fits, wiring that does not, the Mermaid text."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from vla_ros import config, graph, topics
from vla_ros.config import ConfigError, SystemConfig, from_parameters
from vla_ros.graph import Graph, NodeSpec, Restarts
from vla_ros.robots.panda import PANDA
from vla_ros.robots.robot import Endpoint, EndpointKind


@pytest.fixture
def system() -> SystemConfig:
    return config.load("franka_upvla")


@pytest.fixture
def real(system: SystemConfig) -> SystemConfig:
    """The same with a policy that runs on a robot."""
    return config.override(system, policy="up_vla", checkpoint="w")


def by_name(built: Graph) -> dict[str, NodeSpec]:
    return {node.name: node for node in built.nodes}


def test_who_runs(system: SystemConfig, real: SystemConfig) -> None:
    assert [*by_name(graph.build(system))] == ["simulator", "inference", "controller"]
    assert [*by_name(graph.build(real, simulate=False))] == ["inference", "controller"]
    recorded = config.override(real, bag="bag")
    assert [*by_name(graph.build(recorded, simulate=False))] == ["inference", "bag", "controller"]


def test_the_controller_ends_first_so_that_the_arm_brakes_at_once(system: SystemConfig, real: SystemConfig) -> None:
    for chosen, simulate in ((system, True), (real, False)):
        recorded = graph.build(config.override(chosen, bag="bag"), simulate=simulate)
        assert recorded.nodes[-1].executable == "controller"


def test_only_a_simulated_arm_that_was_told_what_to_do_starts_by_itself(
    system: SystemConfig, real: SystemConfig
) -> None:
    told = {"instruction": "lift the red cube"}

    def mode(chosen: SystemConfig, simulate: bool) -> object:
        return by_name(graph.build(chosen, simulate=simulate))["controller"].params["mode"]

    assert mode(config.override(system, **told), simulate=True) == "policy"
    assert mode(system, simulate=True) == "hold"
    assert mode(config.override(real, **told), simulate=False) == "hold"


def test_the_expert_does_not_run_while_a_person_demonstrates(system: SystemConfig) -> None:
    demonstrated = system.model_copy(update={"instruction": "lift the red cube", "record": "data"})
    built = graph.build(demonstrated, by_hand=True)
    assert [node.name for node in built.nodes] == ["simulator", "recorder", "controller"]
    assert built.nodes[-1].params["mode"] == "teleop"
    assert built.nodes[1].params["source"] == "teleop"
    assert not graph.check(built)
    model = demonstrated.model_copy(update={"policy": demonstrated.policy.model_copy(update={"name": "up_vla"})})
    assert "inference" in [node.name for node in graph.build(model, by_hand=True).nodes], "a person may intervene"


@pytest.mark.parametrize("simulate", [True, False])
@pytest.mark.parametrize("command_interface", ["joint", "cartesian"])
def test_the_wiring_fits(real: SystemConfig, simulate: bool, command_interface: str) -> None:
    controller = real.controller.model_copy(update={"command_interface": command_interface})
    recorded = real.model_copy(update={"bag": "bag", "controller": controller})
    assert graph.check(graph.build(recorded, simulate=simulate)) == []


def test_parameters_are_the_nodes_configs(system: SystemConfig) -> None:
    nodes = by_name(graph.build(system, seed=7))
    given = {name: {k: v for k, v in node.params.items() if k != "use_sim_time"} for name, node in nodes.items()}
    simulator = from_parameters(config.SimulatorNodeConfig, given["simulator"])
    inference = from_parameters(config.InferenceNodeConfig, given["inference"])
    controller = from_parameters(config.ControllerNodeConfig, given["controller"])
    assert (simulator.seed, simulator.cameras, simulator.robot) == (7, system.cameras, "panda")
    assert (inference.policy, inference.cameras) == (system.policy, system.cameras)
    assert inference.schedule == controller.arm.schedule == system.controller.schedule
    assert controller.arm == system.controller


def test_only_those_who_follow_it_get_simulated_time(system: SystemConfig, real: SystemConfig) -> None:
    def use_sim_time(built: Graph) -> dict[str, object]:
        return {node.name: node.params.get("use_sim_time") for node in built.nodes}

    assert use_sim_time(graph.build(system)) == {"simulator": None, "inference": True, "controller": True}
    assert use_sim_time(graph.build(real, simulate=False)) == {"inference": False, "controller": False}


def test_the_world_renders_what_the_cameras_are_said_to_deliver(system: SystemConfig) -> None:
    front = system.cameras["front"].model_copy(update={"width": 320, "height": 240})
    changed = system.model_copy(update={"cameras": {"front": front}})
    params = by_name(graph.build(changed))["simulator"].params
    assert (params["world.cameras.front.width"], params["world.cameras.front.height"]) == (320, 240)
    assert not any(name.startswith("world.cameras.wrist") for name in params)


def test_the_world_gets_the_instruction_as_its_task(system: SystemConfig) -> None:
    told = config.override(system, instruction="lift the blue cube")
    assert by_name(graph.build(told))["simulator"].params["world.instruction"] == "lift the blue cube"
    with pytest.raises(ConfigError, match="instruction: no tabletop task: 'dance'; the forms are"):
        graph.build(config.override(system, instruction="dance"))
    dancing = config.override(system, instruction="dance", policy="up_vla")
    assert by_name(graph.build(dancing, simulate=False))["inference"].params["instruction"] == "dance"


def test_what_cannot_run_is_refused(system: SystemConfig, real: SystemConfig) -> None:
    with pytest.raises(ConfigError, match="simulation: asked for, but the system has no such section; add it, or run"):
        graph.build(real.model_copy(update={"simulation": None}), simulate=True)
    with pytest.raises(ConfigError, match="policy: scripted sees the simulated world's state; choose another one"):
        graph.build(system, simulate=False)


def test_the_recorder_is_told_what_the_system_is(real: SystemConfig) -> None:
    recorded = config.override(real, record="data", bag="bag", instruction="lift the red cube")
    built = graph.build(recorded, simulate=False)
    assert [*by_name(built)] == ["inference", "recorder", "bag", "controller"]
    recorder = by_name(built)["recorder"]
    given = {name: value for name, value in recorder.params.items() if name != "use_sim_time"}
    node = config.from_parameters(config.RecorderNodeConfig, given)
    assert (node.root, node.source, node.instruction, node.resume) == ("data", "up_vla", "lift the red cube", True)
    assert (node.cameras, node.recording) == (recorded.cameras, recorded.recording)
    assert recorder.restarts
    heard = {end.name for end in recorder.reads}
    assert {camera.topic for camera in real.cameras.values()} <= heard
    assert {topics.COMMAND, topics.REQUESTED, topics.CHUNK, topics.STATE, topics.INSTRUCTION} <= heard
    assert {topics.recorder(word) for word in topics.RECORDER_WORDS} <= heard


def test_the_bag_hears_everything_that_is_said(real: SystemConfig) -> None:
    built = graph.build(config.override(real, bag="bag"), simulate=False)
    heard = by_name(built)["bag"].params["topics"]
    assert isinstance(heard, list)
    said = {end.name for member in built.members for end in member.writes if end.kind is EndpointKind.TOPIC}
    assert set(heard) == said
    cameras = {camera.topic for camera in real.cameras.values()}
    assert {*cameras, topics.INSTRUCTION, topics.CHUNK, PANDA.endpoints["joint_states"].name} <= said


# --- wiring that does not fit ---------------------------------------------------------------------------------------

TEXT, NUMBER = Endpoint("/a", "std_msgs/msg/String"), Endpoint("/a", "std_msgs/msg/Int32")
SERVICE = Endpoint("/s", "std_srvs/srv/Trigger", EndpointKind.SERVICE)


@pytest.mark.parametrize(
    ("nodes", "told"),
    [
        ([NodeSpec("r", "reader", reads=(TEXT,))], "/a: reader reads it, but no node writes it"),
        ([NodeSpec("c", "caller", writes=(SERVICE,))], "/s: caller calls it, but no node serves it"),
        (
            [NodeSpec("w", "one", writes=(TEXT,)), NodeSpec("w", "two", writes=(TEXT,))],
            "/a: written by one and two; a command or a stream has one writer",
        ),
        (
            [NodeSpec("w", "writer", writes=(TEXT,)), NodeSpec("r", "reader", reads=(NUMBER,))],
            "/a: writer takes it for std_msgs/msg/String, but reader takes it for std_msgs/msg/Int32",
        ),
    ],
)
def test_wiring_problems_are_named(nodes: list[NodeSpec], told: str) -> None:
    assert graph.check(Graph("", tuple(nodes))) == [told]


def test_a_served_service_needs_no_caller_and_state_many_writers() -> None:
    state = Endpoint(topics.STATE, topics.TABLE[topics.STATE][0])
    nodes = (NodeSpec("a", "a", reads=(SERVICE,), writes=(state,)), NodeSpec("b", "b", writes=(state,)))
    assert graph.check(Graph("", nodes)) == []


def test_a_real_system_without_its_driver_does_not_fit(real: SystemConfig) -> None:
    built = graph.build(real, simulate=False)
    without = replace(built, externals=tuple(member for member in built.externals if member.name != "driver"))
    assert any(problem.startswith(PANDA.endpoints["joint_states"].name) for problem in graph.check(without))


# --- for people -----------------------------------------------------------------------------------------------------


def test_mermaid_shows_every_pair_that_talks(system: SystemConfig) -> None:
    built = graph.build(system)
    text = graph.mermaid(built)
    assert text.startswith("%% Franka Panda, tabletop\nflowchart LR\n")
    said = r' (\w+) (?:-->|-\.->)\|"([^"]*)"\| (\w+)$'
    drawn = {
        (writer, name, reader)
        for writer, names, reader in re.findall(said, text, re.MULTILINE)
        for name in names.split("<br/>")
    }
    expected = {
        (writer.name, end.name, reader.name)
        for writer in built.members
        for reader in built.members
        for end in writer.writes
        if writer is not reader and end.name in {other.name for other in reader.reads}
    }
    assert drawn == expected
    assert ("inference", "/vla/chunk", "controller") in drawn
    assert 'operator -.->|"/vla/start' in text


def test_every_topic_of_ours_is_in_the_table(real: SystemConfig) -> None:
    built = graph.build(config.override(real, bag="bag"), simulate=True)
    ours = {end.name: end.type for node in built.nodes for end in (*node.reads, *node.writes) if "/vla/" in end.name}
    table = {re.escape(name).replace("<camera>", r"\w+"): kind for name, (kind, _) in topics.TABLE.items()}
    for name, kind in ours.items():
        assert [k for pattern, k in table.items() if re.fullmatch(pattern, name)] == [kind], name


@pytest.mark.parametrize("file", sorted((Path(__file__).parents[1] / "config").glob("*.yaml")), ids=lambda f: f.stem)
def test_every_shipped_system_fits(file: Path) -> None:
    assert yaml.safe_load(file.read_text())["title"]
    assert graph.check(graph.build(config.load(str(file)))) == []


def test_a_camera_slower_than_the_rows_must_reach_across_its_gaps(real: SystemConfig) -> None:
    recorded = config.override(real, record="data")

    def build(rate_hz: float, tolerance_ms: float) -> Graph:
        front = recorded.cameras["front"].model_copy(update={"rate_hz": rate_hz, "tolerance_ms": tolerance_ms})
        cameras = {**recorded.cameras, "front": front}
        return graph.build(recorded.model_copy(update={"cameras": cameras}), simulate=False)

    with pytest.raises(ConfigError, match=r"cameras.front.tolerance_ms: .* at least 34, or recording.fps at most 15"):
        build(15.0, 20.0)
    for rate_hz, tolerance_ms in ((15.0, 34.0), (30.0, 10.0), (60.0, 5.0)):
        assert "recorder" in by_name(build(rate_hz, tolerance_ms))


def test_pauses_grow_until_enough_was_tried_and_begin_again_after_a_minute_of_life() -> None:
    restarts = Restarts(NodeSpec("inference", "inference", restarts=True))
    assert [restarts.pause_s(-9, lived_s=1.0) for _ in range(5)] == [0.5, 1.0, 2.0, 4.0, None]
    assert restarts.pause_s(-9, lived_s=60.0) == 0.5


def test_what_would_end_in_the_same_way_does_not_start_again() -> None:
    assert Restarts(NodeSpec("inference", "inference", restarts=True)).pause_s(graph.EXIT_CONFIG, 100.0) is None
    assert Restarts(NodeSpec("controller", "controller")).pause_s(-9, 100.0) is None
