"""Who counts as a second publisher, on a graph written by hand."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("rclpy")

from vla_ros.ros import rivals
from vla_ros.ros.presence import PROCESS, Presence
from vla_ros.ros.rivals import Rivals

Publisher = tuple[str, str, int]  # namespace, name, participant
ME, OTHER, POLICY = ("/vla", "controller", 1), ("/", "script", 2), ("/vla", "inference", 3)
TWIN, SECOND = ("/vla", "controller", 4), ("/vla", "inference", 5)
NAMELESS = ("_NODE_NAMESPACE_UNKNOWN_", "_NODE_NAME_UNKNOWN_", 6)


class Graph:
    """What a node is told of who publishes what."""

    def __init__(self, **publishers: list[Publisher]) -> None:
        self.publishers = {f"/{topic}": nodes for topic, nodes in publishers.items()}
        self.told: list[str] = []
        self.presence = Presence()
        self.rivals = Rivals(self, ["/target"], ["/chunk"], self.presence, self.told.append)  # type: ignore[arg-type]
        self.senders: list[bytes] = []  # of the messages on /chunk
        self._subscriptions: list[Any] = []

    def create_timer(self, *_: Any, **__: Any) -> None:
        """Time is moved by hand."""

    def get_fully_qualified_name(self) -> str:
        return "/vla/controller"

    def count_publishers(self, topic: str) -> int:
        return len(self.publishers.get(topic, []))

    def get_publishers_info_by_topic(self, topic: str) -> list[Any]:
        return [
            SimpleNamespace(
                node_namespace=space,
                node_name=name,
                endpoint_gid=[*participant.to_bytes(12, "big"), *number.to_bytes(4, "big")],
                topic_type="std_msgs/msg/String",
            )
            for number, (space, name, participant) in enumerate(self.publishers[topic])
        ]

    def create_subscription(self, *_: Any, **__: Any) -> Any:
        self._subscriptions.append(SimpleNamespace(handle=self, destroy=lambda: None))
        return self._subscriptions[-1]

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: Any) -> None:
        pass

    def take_message(self, *_: Any) -> Any:
        return (b"", {"publisher_gid": {"data": self.senders.pop()}}) if self.senders else None


@pytest.mark.parametrize(
    ("publishers", "told"),
    [
        ({}, []),
        ({"target": [ME], "chunk": [POLICY]}, []),
        ({"target": [ME, OTHER]}, ["/script on /target"]),
        ({"target": [ME, ME]}, []),  # one participant
        ({"target": [ME, TWIN]}, []),  # one was killed and started again
        ({"target": [ME, OTHER, POLICY]}, ["/script, /vla/inference on /target"]),
        ({"chunk": [POLICY, OTHER]}, ["/script, /vla/inference on /chunk"]),
        ({"chunk": [POLICY, SECOND]}, []),  # one was killed and started again
        ({"elsewhere": [POLICY, OTHER]}, []),
        (
            {"target": [ME, OTHER], "chunk": [POLICY, OTHER]},
            ["/script on /target; /script, /vla/inference on /chunk"],
        ),
    ],
)
def test_another_name_is_reported_at_every_look(publishers: dict[str, Any], told: list[str]) -> None:
    graph = Graph(**publishers)
    for _ in range(3):
        graph.rivals.look()
    assert graph.told == told * 3


def report(graph: Graph, name: str, process: str, now_s: float | None = None) -> None:
    graph.presence.see(name, process, time.monotonic() if now_s is None else now_s)


@pytest.mark.parametrize(
    ("topic", "name", "publishers"),
    [("target", "/vla/controller", [ME, TWIN]), ("chunk", "/vla/inference", [POLICY, SECOND])],
)
def test_two_processes_that_both_report_under_one_name_are_two(
    topic: str, name: str, publishers: list[Publisher]
) -> None:
    graph = Graph(**{topic: publishers})
    now_s = time.monotonic()
    for process in ("process 12 on a", "process 34 on b", "process 12 on a"):
        report(graph, name, process, now_s)
        now_s += 0.01
    graph.rivals.look()
    assert graph.told == [f"two nodes {name} (process 12 on a, process 34 on b) on /{topic}"]


@pytest.mark.parametrize("reports_again", [False, True])
def test_a_process_that_a_dead_one_made_place_for_is_alone(reports_again: bool) -> None:
    graph = Graph(chunk=[POLICY, SECOND])
    now_s = time.monotonic()
    report(graph, "/vla/inference", "process 12 on a", now_s - 0.2)
    report(graph, "/vla/inference", "process 34 on a", now_s - 0.1)
    if reports_again:
        report(graph, "/vla/inference", "process 12 on a", now_s)
    graph.rivals.look()
    assert bool(graph.told) is reports_again


def test_who_does_not_report_is_known_by_the_messages_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = Graph(chunk=[POLICY, SECOND])
    graph.rivals.look()
    for senders in ([b"second"], [b"second", b"second"]):
        graph.senders += senders
        graph.rivals.look()
    assert graph.told == []
    graph.senders += [b"first"]
    graph.rivals.look()
    assert graph.told == ["two nodes /vla/inference on /chunk"]
    graph.publishers["/chunk"] = [POLICY]
    graph.rivals.look()
    assert graph.rivals.found == ""
    graph.publishers["/chunk"] = [POLICY, SECOND]
    graph.rivals.look()
    assert graph.rivals.found == "", "what was heard before is of a dead one"


@pytest.mark.parametrize("publishers", [{"target": [ME, TWIN]}, {"chunk": [POLICY, SECOND]}])
def test_a_silent_one_that_stays_longer_than_a_dead_one_could_is_alive(publishers: dict[str, Any]) -> None:
    graph = Graph(**publishers)
    for _ in range(220):  # ten a second; a dead participant stays for 20 s
        graph.rivals.look()
    assert graph.told == []
    graph.rivals.look()
    assert len(graph.told) == 1


def test_a_process_knows_those_of_its_own_name() -> None:
    presence = Presence()
    for process in ("process 12 on a", PROCESS):
        presence.see("/vla/simulator", process, time.monotonic())
    assert presence.others("/vla/simulator") == []
    presence.see("/vla/simulator", "process 12 on a", time.monotonic())
    assert presence.others("/vla/simulator") == ["process 12 on a"]
    assert presence.processes("/vla/simulator", time.monotonic() + 1.1) == []


@pytest.mark.parametrize(("topic", "known"), [("target", ME), ("chunk", POLICY)])
def test_one_without_a_name_has_three_seconds_to_get_one(topic: str, known: Publisher) -> None:
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
def test_a_simulation_that_is_alone_runs(publishers: list[Publisher]) -> None:
    rivals.refuse_a_robot(Graph(joint_states=publishers), "/joint_states")  # type: ignore[arg-type]


def test_a_simulation_waits_for_a_robot_to_appear_and_then_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = Graph(joint_states=[ME])
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        graph.publishers["/joint_states"] = [ME, ("/", "joint_state_broadcaster", 7)][: len(waits)]

    monkeypatch.setattr(rivals.time, "sleep", sleep)
    with pytest.raises(RuntimeError, match="^/joint_state_broadcaster publishes /joint_states: a robot is in this ROS"):
        rivals.refuse_a_robot(graph, "/joint_states", within_s=60.0)  # type: ignore[arg-type]
    assert len(waits) == 2


def test_a_second_simulation_does_not_run() -> None:
    graph, reports = Graph(joint_states=[ME]), [[], ["process 12 on a"]]
    why = "^another simulator runs in this ROS domain: process 12 on a; end it, or choose another ROS_DOMAIN_ID$"
    with pytest.raises(RuntimeError, match=why):
        rivals.refuse_a_robot(graph, "/joint_states", 60.0, lambda: reports.pop(0))  # type: ignore[arg-type]
