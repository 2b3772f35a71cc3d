"""A system as its graph says it should be, against what was seen of it: who is there, and who hears whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from vla_ros import topics
from vla_ros.config import SystemConfig
from vla_ros.doctor import streams
from vla_ros.doctor.findings import Finding, Level, fail, joined, ok, warn
from vla_ros.doctor.quality import differences
from vla_ros.doctor.seen import Peer, Seen, State
from vla_ros.graph import SHARED, External, Graph, NodeSpec
from vla_ros.robots.robot import Endpoint, EndpointKind

_IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
_PERSON = "operator"  # talks when there is something to say
_NAMELESS = "a program without a name"
_ASK_WHO = "ros2 topic info --verbose "

Member = NodeSpec | External


def judge(system: SystemConfig, graph: Graph, seen: Seen, name: str) -> dict[str, list[Finding]]:
    """Every finding in groups; `name` is how the user calls the system."""
    present = [member for member in graph.members if is_present(member, seen)]
    has_ours = any(isinstance(member, NodeSpec) for member in present)
    nodes = _nodes(graph, seen, name) if has_ours else _absent_system(graph, seen, name)
    report = {"nodes": [*nodes, *_externals(graph, seen)]}
    # Drivers and cameras are judged before any node of ours is started, too.
    if any(member.name != _PERSON for member in present):
        report["connections"] = list(_connections(system, graph, present, seen))
        report["streams"] = list(streams.judge(system, graph, _written(present), seen))
    if has_ours:
        report["state"] = list(_states(present, seen))
    return report


def full_name(node: NodeSpec) -> str:
    """As /vla/controller."""
    return f"{node.namespace.rstrip('/')}/{node.name}"


def is_present(member: Member, seen: Seen) -> bool:
    """Whether a node runs; whether of somebody outside anything is there."""
    if isinstance(member, NodeSpec):
        return full_name(member) in seen.nodes
    return any(seen.topic(end.name).publishers for end in _topics(member.writes)) or any(
        end.name in seen.services or end.name in seen.actions for end in member.reads
    )


# --- who is there ---------------------------------------------------------------------------------------------------


def _absent_system(graph: Graph, seen: Seen, name: str) -> Iterator[Finding]:
    found = f"none of {joined((node.name for node in graph.nodes), 'or')} runs in ROS domain {seen.domain_id}"
    if seen.other_domains:
        found += f" (other nodes of this machine are in {joined(map(str, seen.other_domains))})"
    remedy = f"vla-ros run {name}; if it is already running, export the same ROS_DOMAIN_ID"
    yield fail("nodes", found, "all of them, in the same domain", remedy)


def _nodes(graph: Graph, seen: Seen, name: str) -> Iterator[Finding]:
    times = Counter(seen.nodes)
    for node in graph.nodes:
        full = full_name(node)
        if times[full] == 0:
            said = [end.name for end in _topics(node.writes) if end.name not in SHARED]
            silent = f", so there are no messages on {joined(said)}" if said else ""
            yield fail(full, f"does not run{silent}", "running", f"see the output of vla-ros run {name}")
        elif times[full] > 1:
            right = "once: two nodes would send conflicting commands"
            yield fail(full, f"runs {times[full]} times", right, "end all but one of them, also on other machines")
    running = [node.name for node in graph.nodes if times[full_name(node)] == 1]
    if running:
        yield ok("nodes", f"{joined(running)} run")


def _externals(graph: Graph, seen: Seen) -> Iterator[Finding]:
    for external in graph.externals:
        if external.name == _PERSON:
            continue
        if is_present(external, seen):
            yield ok(external.title, "found")
            continue
        expected = [end.name for end in _topics(external.writes)]
        images = [name for name, kind in seen.others.items() if kind in _IMAGE_TYPES]
        is_camera = any(end.type in _IMAGE_TYPES for end in external.writes)
        elsewhere = f"; images are on {joined(images)}" if is_camera and images else ""
        remedy = "start it, or correct its topic in the system's file (cameras)" if is_camera else "start it"
        found = f"not found: no node publishes on {joined(expected, 'or')}{elsewhere}"
        yield fail(external.title, found, "running, in the same ROS domain", remedy)


# --- who hears whom -------------------------------------------------------------------------------------------------


def _connections(system: SystemConfig, graph: Graph, present: list[Member], seen: Seen) -> Iterator[Finding]:
    ours = {full_name(node) for node in graph.nodes}
    ends = {end.name: end for member in present for end in (*member.reads, *member.writes)}
    said = [end for end in ends.values() if end.kind is EndpointKind.TOPIC]
    problems = [
        *(_missing_type(name) for name in seen.missing_types),
        *(finding for end in said for finding in _types(end, seen)),
        *_silent(system, present, seen),
        *_deaf(present, seen),
        *(finding for end in said for finding in _crowd(end, graph, seen)),
        *(finding for end in said for finding in _qualities(end, ours, seen)),
        *_servers(present, seen),
    ]
    yield from problems
    pairs = sum(len(seen.topic(end.name).publishers) * len(seen.topic(end.name).subscribers) for end in said)
    asked = [end for end in _served(present) if end.used]
    if not problems:
        yield ok("topics", f"{len(said)} topics, {pairs} connections: types and qualities of service match")
        yield ok("services", f"{len(asked)} services and actions are available")


def _missing_type(name: str) -> Finding:
    remedy = f"install the package {name.partition('/')[0]}, or source the workspace that has it"
    return fail(name, "not installed here, so its topics were not checked", "installed", remedy)


def _types(end: Endpoint, seen: Seen) -> Iterator[Finding]:
    topic = seen.topic(end.name)
    for verb, peers in (("publishes", topic.publishers), ("expects", topic.subscribers)):
        for peer in peers:
            if peer.type != end.type:
                yield fail(end.name, f"{peer.node} {verb} {peer.type}", end.type, _ASK_WHO + end.name)
    users: dict[str, list[str]] = {}
    for peer in (*topic.publishers, *topic.subscribers):
        if peer.type == end.type and peer.definition:
            users.setdefault(peer.definition, []).append(peer.node)
    if len(users) > 1:
        found = (
            f"two definitions of {end.type}: {' against '.join(joined(sorted(set(nodes))) for nodes in users.values())}"
        )
        package = end.type.partition("/")[0]
        yield fail(end.name, found, "one", f"build both against the same package {package} (branch and version)")


def _silent(system: SystemConfig, present: list[Member], seen: Seen) -> Iterator[Finding]:
    """Topics of somebody who is there, but does not publish them."""
    # A policy may look at some of the cameras only, and predicts no others.
    optional = {topics.prediction(camera) for camera in system.cameras}
    for member in present:
        wanted = (end.name for end in _topics(member.writes) if end.used and end.name not in optional)
        silent = [name for name in wanted if not seen.topic(name).publishers]
        if silent and member.name != _PERSON:
            found = f"is running, but does not publish {joined(silent)}"
            yield fail(_title(member), found, "published", "ros2 topic list; is it renamed or remapped?")


def _deaf(present: list[Member], seen: Seen) -> Iterator[Finding]:
    """Command topics to which nobody listens; our own nodes listen to what their policy needs."""
    remedy = "ros2 control list_controllers; the controller that subscribes to this topic must be active"
    for member in present:
        if isinstance(member, NodeSpec):
            continue
        for end in _topics(member.reads):
            if end.used and not seen.topic(end.name).subscribers:
                yield fail(end.name, "no node subscribes", f"a subscriber: the {member.title}", remedy)


def _crowd(end: Endpoint, graph: Graph, seen: Seen) -> Iterator[Finding]:
    """Several who publish what one should."""
    of_person = any(end in member.writes for member in graph.externals if member.name == _PERSON)
    publishers = [_name(peer.node) for peer in seen.topic(end.name).publishers]
    if end.name in SHARED or of_person or len(publishers) < 2:
        return
    expected = [full_name(node) for node in graph.nodes if end in node.writes]
    # One without a name may be the one that is expected, which just appeared.
    strangers = [name for name in publishers if name not in (*expected, _NAMELESS)]
    found = f"{len(publishers)} publishers: {joined(publishers)}"
    remedy = f"end {joined(sorted(set(strangers)))}" if expected and strangers else _ASK_WHO + end.name
    yield fail(end.name, found, "one; messages of several are mixed", remedy)


def _name(node: str) -> str:
    return _NAMELESS if node.rpartition("/")[2] in topics.NAMELESS else node


def _qualities(end: Endpoint, ours: set[str], seen: Seen) -> Iterator[Finding]:
    topic = seen.topic(end.name)
    for publisher in topic.publishers:
        for subscriber in topic.subscribers:
            if publisher.type != subscriber.type:
                continue
            for offered, asked in differences(publisher.quality, subscriber.quality):
                found = f"{publisher.node} offers {offered}, {subscriber.node} requests {asked}: incompatible"
                # A stranger who does not hear us, or somebody else, is no reason why the robot stands.
                matters = subscriber.node in ours or (publisher.node in ours and end.name not in topics.TABLE)
                say = fail if matters else warn
                yield say(end.name, found, _right(publisher, subscriber, offered, asked), _ASK_WHO + end.name)


def _right(publisher: Peer, subscriber: Peer, offered: str, asked: str) -> str:
    return f"{asked} from {publisher.node}, or {offered} requested by {subscriber.node}"


def _servers(present: list[Member], seen: Seen) -> Iterator[Finding]:
    for member in present:
        for kind, there in ((EndpointKind.SERVICE, seen.services), (EndpointKind.ACTION, seen.actions)):
            command = f"ros2 {kind.value} list --show-types"
            ends = [end for end in _served([member]) if end.kind is kind]
            absent = [end.name for end in ends if end.used and end.name not in there]
            if absent:
                yield fail(_title(member), f"lacks the {kind.value} {joined(absent)}", "available", command)
            for end in ends:
                types = there.get(end.name, (end.type,))
                if end.type not in types:
                    yield fail(end.name, f"the {kind.value} has type {joined(types)}", end.type, command)


# --- what they say --------------------------------------------------------------------------------------------------


#: A node reports ten times a second; what it said longer ago is not known to be so.
_SILENT_S = 1.5


def _states(present: list[Member], seen: Seen) -> Iterator[Finding]:
    said = {state.node: state for state in seen.states}
    for member in present:
        if isinstance(member, External) or not any(end.name == topics.STATE for end in member.writes):
            continue
        state = said.get(member.name)
        if state is None or state.age_s > _SILENT_S:
            right = f"10 messages per second on {topics.STATE}"
            silence = f"silent for {state.age_s if state else seen.seconds:.3g} s"
            yield fail(full_name(member), silence, right, "restart it")
            continue
        yield _state(full_name(member), state)
        if state.values.get("dry_run") == "True":
            remedy = "end it, then vla-ros run without --dry-run"
            yield warn(full_name(member), "dry run: nothing is sent to the robot", "a real run, to move it", remedy)


def _state(node: str, state: State) -> Finding:
    remedy = _remedy(state)
    if state.level is Level.OK and not remedy:
        return ok(node, state.message)
    say = fail if state.level is Level.FAIL else warn
    return say(node, state.message, "working", remedy or f"ros2 topic echo {topics.STATE}")


def _remedy(state: State) -> str:
    """What an operator types to make an arm move that stands because it was told to, or not told otherwise."""
    call = "ros2 service call {} std_srvs/srv/Trigger"
    if state.values.get("safety_state") == "stopped":
        return "find the cause, then " + call.format(topics.RESUME)
    if state.values.get("mode") == "hold":
        return "to let it move: " + call.format(topics.START)
    if state.values.get("instruction") == "":
        of_topic = f"--qos-durability transient_local {topics.INSTRUCTION} {topics.TABLE[topics.INSTRUCTION][0]}"
        return f"ros2 topic pub --once {of_topic} 'data: lift the red cube'"
    return ""


# --- helpers --------------------------------------------------------------------------------------------------------


def _topics(ends: Iterable[Endpoint]) -> list[Endpoint]:
    return [end for end in ends if end.kind is EndpointKind.TOPIC]


def _served(members: Iterable[Member]) -> list[Endpoint]:
    return [end for member in members for end in member.reads if end.kind is not EndpointKind.TOPIC]


def _written(members: Iterable[Member]) -> list[Endpoint]:
    return [end for member in members for end in _topics(member.writes)]


def _title(member: Member) -> str:
    return full_name(member) if isinstance(member, NodeSpec) else member.title
