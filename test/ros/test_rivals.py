"""Who counts as a second publisher, on a graph written by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("rclpy")

from vla_ros.ros import rivals
from vla_ros.ros.rivals import Rivals

ME, OTHER, POLICY = ("/vla", "controller"), ("/", "script"), ("/vla", "inference")
NAMELESS = ("_NODE_NAMESPACE_UNKNOWN_", "_NODE_NAME_UNKNOWN_")


class Graph:
    """What a node is told of who publishes what."""

    def __init__(self, **publishers: list[tuple[str, str]]) -> None:
        self.publishers = {f"/{topic}": nodes for topic, nodes in publishers.items()}
        self.told: list[str] = []
        self.rivals = Rivals(self, ["/target"], ["/chunk"], self.told.append)  # type: ignore[arg-type]

    def create_timer(self, *_: Any, **__: Any) -> None:
        """Time is moved by hand."""

    def get_fully_qualified_name(self) -> str:
        return "/vla/controller"

    def count_publishers(self, topic: str) -> int:
        return len(self.publishers.get(topic, []))

    def get_publishers_info_by_topic(self, topic: str) -> list[Any]:
        return [SimpleNamespace(node_namespace=space, node_name=name) for space, name in self.publishers[topic]]


@pytest.mark.parametrize(
    ("publishers", "told"),
    [
        ({}, []),
        ({"target": [ME], "chunk": [POLICY]}, []),
        ({"target": [ME, OTHER]}, ["/script on /target"]),
        ({"target": [ME, ME]}, ["/vla/controller on /target"]),
        ({"target": [ME, OTHER, POLICY]}, ["/script, /vla/inference on /target"]),
        ({"chunk": [POLICY, OTHER]}, ["/script, /vla/inference on /chunk"]),
        ({"chunk": [POLICY, POLICY]}, []),  # one was killed and started again
        ({"elsewhere": [POLICY, OTHER]}, []),
    ],
)
def test_a_rival_is_named_as_often_as_one_looks(publishers: dict[str, Any], told: list[str]) -> None:
    graph = Graph(**publishers)
    for _ in range(3):
        graph.rivals.look()
    assert graph.told == told * 3


@pytest.mark.parametrize(("topic", "known"), [("target", ME), ("chunk", POLICY)])
def test_one_without_a_name_has_three_seconds_to_get_one(topic: str, known: tuple[str, str]) -> None:
    graph = Graph(**{topic: [known, NAMELESS]})
    for _ in range(30):
        graph.rivals.look()
    graph.publishers[f"/{topic}"] = [known, known] if topic == "chunk" else [known]
    graph.rivals.look()
    assert graph.told == []
    graph.publishers[f"/{topic}"] = [known, NAMELESS]
    for _ in range(30):
        graph.rivals.look()
    assert graph.told == []
    graph.rivals.look()
    assert len(graph.told) == 1 and "a program without a name" in graph.told[0]


@pytest.mark.parametrize("publishers", [[], [ME], [ME, ME], [ME, NAMELESS]], ids=str)
def test_a_simulation_that_is_alone_runs(publishers: list[tuple[str, str]]) -> None:
    rivals.refuse_a_robot(Graph(joint_states=publishers), "/joint_states")  # type: ignore[arg-type]


def test_a_simulation_waits_for_a_robot_to_appear_and_then_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = Graph(joint_states=[ME])
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        graph.publishers["/joint_states"] = [ME, ("/", "joint_state_broadcaster")][: len(waits)]

    monkeypatch.setattr(rivals.time, "sleep", sleep)
    with pytest.raises(RuntimeError, match="^/joint_state_broadcaster publishes /joint_states: a robot is in this ROS"):
        rivals.refuse_a_robot(graph, "/joint_states", within_s=60.0)  # type: ignore[arg-type]
    assert len(waits) == 2
