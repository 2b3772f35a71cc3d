"""A running system as its graph has it, and one thing wrong at a time: what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from vla_ros import config, graph, topics
from vla_ros.config import SystemConfig
from vla_ros.doctor import system as running
from vla_ros.doctor.arrivals import Arrival
from vla_ros.doctor.findings import Finding, Level
from vla_ros.doctor.quality import Quality
from vla_ros.doctor.seen import Content, Peer, Seen, State, Topic
from vla_ros.graph import External, Graph
from vla_ros.robots.robot import EndpointKind

MS = 10**6
SECONDS = 5.0
START_NS = 1_700_000_000 * 10**9
WARN, FAIL = Level.WARN, Level.FAIL

FRONT, WRIST = "/camera/front/image_raw", "/camera/wrist/image_raw"
JOINTS, TARGETS = "/franka/joint_states", "/joint_impedance/joints_desired"
BEST_EFFORT = Quality("BEST_EFFORT")

REAL = """\
title: A real arm
robot: panda
policy: {name: up_vla}
cameras:
  front: {topic: /camera/front/image_raw, rate_hz: 30, width: 640, height: 480}
  wrist: {topic: /camera/wrist/image_raw, rate_hz: 30, width: 640, height: 480}
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> SystemConfig:
    file = tmp_path_factory.mktemp("config") / "real.yaml"
    file.write_text(REAL)
    return config.load(str(file))


@pytest.fixture(scope="module")
def built(system: SystemConfig) -> Graph:
    return graph.build(system)


@pytest.fixture(scope="module")
def fine(built: Graph) -> Seen:
    return as_it_should_be(built)


def as_it_should_be(built: Graph) -> Seen:
    """Everybody is there, says what the graph says at its rate, and 20 ms after its stamp."""
    seen: dict[str, Topic] = {}
    there: dict[EndpointKind, dict[str, tuple[str, ...]]] = {EndpointKind.SERVICE: {}, EndpointKind.ACTION: {}}
    for member in built.members:
        name = f"/{member.name}" if isinstance(member, External) else running.full_name(member)
        if name == "/operator":
            continue
        for end in member.writes:
            if end.kind is EndpointKind.TOPIC:
                topic = seen.get(end.name, Topic())
                publisher = Peer(name, end.type, id=f"{name} {end.name}")
                seen[end.name] = replace(
                    topic,
                    publishers=(*topic.publishers, publisher),
                    arrivals=stream(end.rate_hz or 10.0, sender=publisher.id),
                    content=content(end.name, end.type),
                )
        for end in member.reads:
            if end.kind is EndpointKind.TOPIC:
                topic = seen.get(end.name, Topic())
                seen[end.name] = replace(topic, subscribers=(*topic.subscribers, Peer(name, end.type, BEST_EFFORT)))
            else:
                there[end.kind][end.name] = (end.type,)
    return Seen(
        SECONDS,
        nodes=tuple(running.full_name(node) for node in built.nodes),
        topics=seen,
        services=there[EndpointKind.SERVICE],
        actions=there[EndpointKind.ACTION],
        states=tuple(State(node.name, Level.OK, "running") for node in built.nodes),
    )


def stream(rate_hz: float, age_ns: int = 20 * MS, sender: str = "", stamped: bool = True) -> tuple[Arrival, ...]:
    period_ns = round(10**9 / rate_hz)
    times_ns = [START_NS + i * period_ns for i in range(int(SECONDS * rate_hz))]
    return tuple(
        Arrival(time + age_ns, time, time if stamped else 0, sender, i, digest=i) for i, time in enumerate(times_ns)
    )


def content(name: str, kind: str) -> Content | None:
    if kind.endswith("/Image"):
        return Content(640, 480, "rgb8")
    return Content() if name.endswith("joint_states") else None


def problems(system: SystemConfig, built: Graph, seen: Seen) -> list[Finding]:
    report = running.judge(system, built, seen, "real")
    return [finding for findings in report.values() for finding in findings if finding.level is not Level.OK]


def with_topic(seen: Seen, name: str, change: Callable[[Topic], Topic]) -> Seen:
    return replace(seen, topics={**seen.topics, name: change(seen.topic(name))})


def test_a_system_as_its_graph_has_it_has_no_problem(system: SystemConfig, built: Graph, fine: Seen) -> None:
    assert problems(system, built, fine) == []
    groups = running.judge(system, built, fine, "real")
    assert list(groups) == ["nodes", "connections", "streams", "state"]
    assert "30.0 Hz, 640x480 rgb8, 20 ms old on arrival" in [finding.found for finding in groups["streams"]]
    assert {(finding.subject, finding.found.partition(",")[0]) for finding in groups["streams"]} >= {
        (topics.CHUNK, "10.0 Hz"),
        (TARGETS, "10.0 Hz"),
    }
    assert any(finding.found.endswith("types and qualities of service match") for finding in groups["connections"])


def test_the_simulated_system_as_its_graph_has_it_has_no_problem() -> None:
    simulated = config.load("franka_upvla")
    built = graph.build(simulated)
    seen = as_it_should_be(built)
    small = {name: replace(seen.topic(name), content=Content(256, 256, "rgb8")) for name in (FRONT, WRIST)}
    ticks = tuple((START_NS + i * 5 * MS, START_NS - 20 * MS + i * 5 * MS) for i in range(1000))
    assert problems(simulated, built, replace(seen, topics={**seen.topics, **small}, ticks=ticks)) == []


STAMPS = {  # a topic's messages -> what is said
    "too slow": (FRONT, stream(14.0), FAIL, "14.0 Hz"),
    "slow": (FRONT, stream(25.0), WARN, "25.0 Hz"),
    "fast": (FRONT, stream(60.0), WARN, "60.0 Hz"),
    "silent": (FRONT, (), FAIL, "/camera_front publishes it, but no message arrived in 5 s"),
    "irregular": (FRONT, tuple(a for i, a in enumerate(stream(30.0)) if i % 30 > 3), WARN, ""),
    "no stamp": (JOINTS, stream(1000.0, stamped=False), FAIL, "5000 of 5000 messages have no time stamp (0)"),
    "future": (JOINTS, stream(1000.0, -300 * MS), FAIL, "stamped up to 300 ms in the future"),
    "a little ahead": (JOINTS, stream(1000.0, -30 * MS), WARN, "stamped up to 30 ms in the future"),
    "old images": (FRONT, stream(30.0, 700 * MS), FAIL, "700 ms old when it arrives"),
    "old joints": (JOINTS, stream(1000.0, 150 * MS), FAIL, "150 ms old when it arrives"),
    "repeated": (FRONT, tuple(a for a in stream(30.0) for _ in range(2))[:150], FAIL, "75 of 150 messages repeat"),
    "frozen": (FRONT, tuple(a._replace(digest=1) for a in stream(30.0)), FAIL, "every image is the same"),
    "back": (FRONT, (*stream(30.0)[:90], *stream(30.0)[60:90]), FAIL, "goes back 1 times"),
}


@pytest.mark.parametrize("case", STAMPS)
def test_what_comes(system: SystemConfig, built: Graph, fine: Seen, case: str) -> None:
    name, arrivals, level, told = STAMPS[case]
    found = problems(system, built, with_topic(fine, name, lambda topic: replace(topic, arrivals=arrivals)))
    found = [finding for finding in found if finding.subject == name]
    assert (level, True) in [(finding.level, finding.found.find(told) >= 0) for finding in found], found
    assert all(finding.right and finding.remedy for finding in found)


def test_messages_that_were_lost_are_not_called_a_slow_camera(system: SystemConfig, built: Graph, fine: Seen) -> None:
    arrivals = tuple(a for i, a in enumerate(stream(30.0, sender="f")) if i % 5 or i == 0)
    (found,) = problems(system, built, with_topic(fine, FRONT, lambda topic: replace(topic, arrivals=arrivals)))
    assert (found.level, found.subject) == (WARN, FRONT)
    assert found.found == "29 of 150 messages were lost in transport"


@pytest.mark.parametrize(
    ("content", "level", "told"),
    [
        (Content(1280, 720, "rgb8"), WARN, "1280x720 rgb8"),
        (Content(encoding="16UC1", problem="image encoding '16UC1' is not one of rgb8"), FAIL, "16UC1"),
    ],
)
def test_what_an_image_is(
    system: SystemConfig, built: Graph, fine: Seen, content: Content, level: Level, told: str
) -> None:
    (found,) = problems(system, built, with_topic(fine, FRONT, lambda topic: replace(topic, content=content)))
    assert (found.level, found.subject) == (level, FRONT)
    assert told in found.found


def test_joints_of_another_arm(system: SystemConfig, built: Graph, fine: Seen) -> None:
    other = Content(problem="a joint state lacks panda_joint1; it has fr3_joint1")
    (found,) = problems(system, built, with_topic(fine, JOINTS, lambda topic: replace(topic, content=other)))
    assert (found.level, found.subject, found.found) == (FAIL, JOINTS, other.problem)


@pytest.mark.parametrize(("subscriber", "level"), [("/x", WARN), ("/vla/inference", FAIL)])
def test_qualities_of_service_that_do_not_match(
    system: SystemConfig, built: Graph, fine: Seen, subscriber: str, level: Level
) -> None:
    image = "sensor_msgs/msg/Image"

    def change(topic: Topic) -> Topic:
        reader = Peer(subscriber, image, Quality("RELIABLE"))
        return replace(topic, publishers=(Peer("/realsense", image, BEST_EFFORT),), subscribers=(reader,))

    (found,) = problems(system, built, with_topic(fine, FRONT, change))
    assert (found.level, found.subject) == (level, FRONT)
    assert found.found == f"/realsense offers BEST_EFFORT, {subscriber} requests RELIABLE: incompatible"
    assert found.right == f"RELIABLE from /realsense, or BEST_EFFORT requested by {subscriber}"
    assert found.remedy == f"ros2 topic info --verbose {FRONT}"


def test_a_driver_that_asks_more_than_is_offered(system: SystemConfig, built: Graph, fine: Seen) -> None:
    def change(topic: Topic) -> Topic:
        (reader,) = topic.subscribers
        return replace(topic, subscribers=(replace(reader, quality=Quality("RELIABLE", "TRANSIENT_LOCAL")),))

    (found,) = problems(system, built, with_topic(fine, TARGETS, change))
    assert (found.level, found.subject) == (FAIL, TARGETS)
    assert found.found == "/vla/controller offers VOLATILE, /driver requests TRANSIENT_LOCAL: incompatible"
    (found,) = problems(system, built, with_topic(fine, topics.COMMAND, change))
    assert found.level is FAIL  # the inference node reads it


def test_types_that_differ(system: SystemConfig, built: Graph, fine: Seen) -> None:
    other = Peer("/realsense", "sensor_msgs/msg/CompressedImage")
    (found,) = problems(system, built, with_topic(fine, FRONT, lambda topic: replace(topic, publishers=(other,))))
    assert found == Finding(
        FAIL,
        FRONT,
        "/realsense publishes sensor_msgs/msg/CompressedImage",
        "sensor_msgs/msg/Image",
        f"ros2 topic info --verbose {FRONT}",
    )


def test_one_type_by_two_definitions(system: SystemConfig, built: Graph, fine: Seen) -> None:
    name = "/franka_robot_state_broadcaster/robot_state"

    def change(topic: Topic) -> Topic:
        theirs = tuple(replace(peer, definition="RIHS01_a") for peer in topic.publishers)
        return replace(
            topic, publishers=theirs, subscribers=tuple(replace(p, definition="RIHS01_b") for p in topic.subscribers)
        )

    (found,) = problems(system, built, with_topic(fine, name, change))
    assert (found.level, found.subject) == (FAIL, name)
    assert found.found == "two definitions of franka_msgs/msg/FrankaState: /driver against /vla/controller"


def test_who_has_no_name_is_not_to_be_ended(system: SystemConfig, built: Graph, fine: Seen) -> None:
    kind = "std_msgs/msg/Float64MultiArray"
    both = (Peer("_NODE_NAMESPACE_UNKNOWN_/_NODE_NAME_UNKNOWN_", kind), Peer("/teleop", kind))
    (found,) = problems(system, built, with_topic(fine, TARGETS, lambda topic: replace(topic, publishers=both)))
    assert found.found == "2 publishers: a program without a name and /teleop"
    assert found.remedy == "end /teleop"


def test_two_who_command(system: SystemConfig, built: Graph, fine: Seen) -> None:
    second = Peer("/teleop", "std_msgs/msg/Float64MultiArray")
    (found,) = problems(
        system, built, with_topic(fine, TARGETS, lambda topic: replace(topic, publishers=(*topic.publishers, second)))
    )
    assert (found.level, found.subject) == (FAIL, TARGETS)
    assert found.found == "2 publishers: /vla/controller and /teleop"
    assert found.remedy == "end /teleop"


def test_a_driver_whose_controller_is_not_active(system: SystemConfig, built: Graph, fine: Seen) -> None:
    (found,) = problems(system, built, with_topic(fine, TARGETS, lambda topic: replace(topic, subscribers=())))
    assert (found.level, found.subject, found.found) == (FAIL, TARGETS, "no node subscribes")
    assert "ros2 control list_controllers" in found.remedy


def test_a_camera_that_is_not_there_is_one_finding(system: SystemConfig, built: Graph, fine: Seen) -> None:
    silent = with_topic(fine, WRIST, lambda topic: replace(topic, publishers=(), arrivals=(), content=None))
    silent = replace(silent, others={"/camera/camera/color/image_raw": "sensor_msgs/msg/Image", "/map": "x/msg/Y"})
    (found,) = problems(system, built, silent)
    assert (found.level, found.subject) == (FAIL, "camera wrist")
    assert found.found == (f"not found: no node publishes on {WRIST}; images are on /camera/camera/color/image_raw")


def test_a_driver_that_is_not_there_is_one_finding(system: SystemConfig, built: Graph, fine: Seen) -> None:
    (driver,) = (external for external in built.externals if external.name == "driver")
    gone = replace(
        fine,
        topics={
            name: replace(topic, publishers=()) if name in {end.name for end in driver.writes} else topic
            for name, topic in fine.topics.items()
        },
        services={name: kind for name, kind in fine.services.items() if name.startswith("/vla/")},
        actions={},
    )
    (found,) = problems(system, built, gone)
    assert (found.level, found.subject) == (FAIL, "driver of the Franka Emika Panda")


def test_a_service_that_is_not_there_or_of_another_type(system: SystemConfig, built: Graph, fine: Seen) -> None:
    move = "/panda_gripper/move"
    (found,) = problems(system, built, replace(fine, actions={k: v for k, v in fine.actions.items() if k != move}))
    driver = "driver of the Franka Emika Panda"
    assert (found.level, found.subject, found.found) == (FAIL, driver, f"lacks the action {move}")
    (found,) = problems(system, built, replace(fine, actions={**fine.actions, move: ("franka_msgs/action/Grasp",)}))
    assert (found.level, found.found) == (FAIL, "the action has type franka_msgs/action/Grasp")


def test_nodes_that_do_not_run(system: SystemConfig, built: Graph, fine: Seen) -> None:
    names = [running.full_name(node) for node in built.nodes]
    assert names == ["/vla/inference", "/vla/controller"]
    (found,) = problems(system, built, replace(fine, nodes=(), domain_id=3, other_domains=(0, 42)))
    assert found.found == (
        "none of inference or controller runs in ROS domain 3 (other nodes of this machine are in 0 and 42)"
    )
    found, *_ = problems(system, built, replace(fine, nodes=("/vla/controller",)))
    assert found.subject == "/vla/inference"
    assert found.found.startswith(f"does not run, so there are no messages on {topics.CHUNK}")
    found, *_ = problems(system, built, replace(fine, nodes=(*names, "/vla/controller")))
    assert (found.subject, found.found) == ("/vla/controller", "runs 2 times")


def test_drivers_and_cameras_are_judged_before_our_nodes_run(system: SystemConfig, built: Graph, fine: Seen) -> None:
    drivers = replace(fine, nodes=(), states=())
    unstamped = with_topic(drivers, FRONT, lambda topic: replace(topic, arrivals=stream(30.0, stamped=False)))
    found = problems(system, built, with_topic(unstamped, WRIST, lambda t: replace(t, content=Content(problem="8UC3"))))
    assert [(one.subject, one.found.partition(" (")[0]) for one in found[1:]] == [
        (FRONT, "150 of 150 messages have no time stamp"),
        (WRIST, "8UC3"),
    ]
    assert found[0].found.startswith("none of inference or controller runs")
    deaf = with_topic(drivers, TARGETS, lambda topic: replace(topic, subscribers=()))
    assert (FAIL, TARGETS, "no node subscribes") in [
        (f.level, f.subject, f.found) for f in problems(system, built, deaf)
    ]


def test_colours_of_unknown_order_are_a_warning(system: SystemConfig, built: Graph, fine: Seen) -> None:
    raw = with_topic(fine, FRONT, lambda topic: replace(topic, content=Content(640, 480, "8UC3")))
    (found,) = problems(system, built, raw)
    assert (found.level, found.subject) == (WARN, FRONT)
    assert found.found.startswith("encoding 8UC3, which does not state")


@pytest.mark.parametrize(
    ("state", "level", "told"),
    [
        (State("controller", Level.FAIL, "stopped: emergency stop", {"safety_state": "stopped"}), FAIL, topics.RESUME),
        (State("controller", Level.OK, "holding: not started", {"mode": "hold"}), WARN, topics.START),
        (State("controller", Level.WARN, "ramping: stale chunk", {"mode": "policy"}), WARN, topics.STATE),
        (State("controller", Level.OK, "waiting", {"instruction": ""}), WARN, "transient_local /vla/instruction"),
    ],
)
def test_what_a_node_says(
    system: SystemConfig, built: Graph, fine: Seen, state: State, level: Level, told: str
) -> None:
    others = tuple(other for other in fine.states if other.node != state.node)
    (found,) = problems(system, built, replace(fine, states=(*others, state)))
    assert (found.level, found.subject, found.found) == (level, "/vla/controller", state.message)
    assert told in found.remedy
    (found,) = problems(system, built, replace(fine, states=others))
    assert (found.level, found.subject, found.found) == (FAIL, "/vla/controller", "silent for 5 s")
    running_once = State("controller", Level.OK, "running", age_s=2.5)
    states = tuple(running_once if state.node == "controller" else state for state in fine.states)
    (found,) = problems(system, built, replace(fine, states=states))
    assert (found.level, found.subject, found.found) == (FAIL, "/vla/controller", "silent for 2.5 s")


def test_a_dry_run_is_told(system: SystemConfig, built: Graph, fine: Seen) -> None:
    dry = State("controller", Level.OK, "running", {"mode": "policy", "dry_run": "True"})
    others = tuple(state for state in fine.states if state.node != "controller")
    (found,) = problems(system, built, replace(fine, states=(*others, dry)))
    assert (found.level, found.found) == (WARN, "dry run: nothing is sent to the robot")


@pytest.mark.parametrize(("offset_ms", "told"), [(-200, "at least 200 ms ahead"), (400, "behind by that")])
def test_clocks_of_machines_that_differ(
    system: SystemConfig, built: Graph, fine: Seen, offset_ms: int, told: str
) -> None:
    def change(topic: Topic) -> Topic:
        arrivals = (a._replace(sent_ns=a.received_ns - offset_ms * MS) for a in topic.arrivals)
        return replace(topic, arrivals=tuple(arrivals))

    (found,) = problems(system, built, with_topic(fine, WRIST, change))
    assert (found.level, found.subject) == (WARN, "/camera_wrist")
    assert told in found.found and "chronyc" in found.remedy


def test_a_simulation_whose_time_stands_still() -> None:
    simulated = config.load("franka_upvla")
    built = graph.build(simulated)
    seen = replace(as_it_should_be(built), ticks=())
    assert [f.subject for f in problems(simulated, built, seen) if f.level is FAIL] == ["/clock"]


def test_a_message_package_that_is_not_installed(system: SystemConfig, built: Graph, fine: Seen) -> None:
    (found,) = problems(system, built, replace(fine, missing_types=("franka_msgs/msg/FrankaState",)))
    assert (found.level, found.subject) == (FAIL, "franka_msgs/msg/FrankaState")
    assert "package franka_msgs" in found.remedy
