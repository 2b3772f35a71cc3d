"""What came on a system's topics, against what it needs: rates, sizes, names, stamps, losses, clocks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from vla_ros import topics
from vla_ros.config import CameraConfig, SystemConfig
from vla_ros.doctor.arrivals import Stream, merged
from vla_ros.doctor.findings import Finding, fail, joined, ok, warn
from vla_ros.doctor.seen import Content, Seen, Topic
from vla_ros.graph import Graph
from vla_ros.robots import catalogue
from vla_ros.robots.robot import Endpoint
from vla_ros.timing.stamps import ms_to_ns, ns_to_ms, period_ns
from vla_ros.timing.sync import AlignerConfig

_SLOW, _TOO_SLOW, _FAST = 0.9, 0.5, 1.5  # of the rate expected
_SLOW_TIME = 0.5  # of real time
_LATE_PERIODS = 2.5  # a gap so long is at least one message left out
_MOVED_RAD = 0.05  # enough to be seen
_LOST, _TOO_MANY_LOST = 0.05, 0.5  # of those published
_FUTURE_TOLERANCE_NS = ms_to_ns(AlignerConfig.model_fields["future_tolerance_ms"].default)
#: Clocks that differ by less are as good as NTP makes them on a local network, or the machine was busy.
_CLOCKS_DIFFER_NS = ms_to_ns(5.0)
_DELIVERY_NS = ms_to_ns(100.0)

_RAW_ENCODING = re.compile(r"\d+[USF]C[234]")  # as cv_bridge writes a matrix that it knows nothing about

_SYNCHRONISE = "chronyc tracking on both machines; chrony or ntp on each, from one server"


def judge(system: SystemConfig, graph: Graph, written: Iterable[Endpoint], seen: Seen) -> Iterator[Finding]:
    """Of each stream that should come at a rate, and of what commands; `written`: what those who are there publish."""
    simulated = graph.is_simulated
    if simulated:
        yield _simulated_time(seen)
    cameras = {camera.topic: (name, camera) for name, camera in system.cameras.items()}
    oldest_ns = {topic: ms_to_ns(system.inference.max_observation_age_ms) for topic in cameras}
    robot = catalogue.find(system.robot)
    joints = robot.endpoints["joint_states"].name
    oldest_ns[joints] = ms_to_ns(system.controller.watchdog.max_state_age_ms)
    commands = [topics.CHUNK, topics.COMMAND, *(end.name for end in robot.endpoints.values() if not end.from_driver)]
    joint_content = seen.topic(joints).content
    moved_rad = joint_content.moved_rad if joint_content else 0.0
    for end in written:
        topic = seen.topic(end.name)
        if not any(peer.type == end.type for peer in topic.publishers):
            continue
        if end.rate_hz is None:
            yield from [ok(end.name, _summary(topic, seen))] if end.name in commands else []
            continue
        problems = list(_stream(end.name, end.rate_hz, topic, seen, oldest_ns.get(end.name), simulated))
        if end.name in cameras and topic.content:
            problems += _picture(end.name, *cameras[end.name], topic.content)
            is_at_rest = simulated and moved_rad < _MOVED_RAD
            problems += _frozen(end.name, Stream(topic.arrivals, seen.clock), is_at_rest)
        elif topic.content and topic.content.problem:
            problems.append(
                fail(end.name, topic.content.problem, "the joints of the system's robot", "robot: in its file")
            )
        yield from problems or [ok(end.name, _summary(topic, seen))]
    yield from _clocks(seen)


def _simulated_time(seen: Seen) -> Finding:
    speed = seen.clock.speed
    if speed is None:
        return fail("/clock", f"no simulated time in {seen.seconds:g} s", "the simulation's time", "restart it")
    found = f"simulated time runs at {speed:.2f} of real time"
    if speed < _SLOW_TIME:
        return warn("/clock", found, "1; below it the robot moves slower", "top, to see what keeps the machine busy")
    return ok("/clock", found)


def _stream(
    name: str, expected_hz: float, topic: Topic, seen: Seen, oldest_ns: int | None, simulated: bool
) -> Iterator[Finding]:
    stream = Stream(topic.arrivals, seen.clock)
    rate_hz = stream.rate_hz
    who = joined(sorted({peer.node for peer in topic.publishers}))
    if rate_hz is None:
        found = f"{who} publishes it, but {len(stream) or 'no'} message{'s' if len(stream) > 1 else ''} arrived"
        yield fail(
            name, f"{found} in {seen.seconds:g} s", f"{expected_hz:g} Hz", f"ros2 topic hz {name}; look at {who}"
        )
        return
    yield from _rate(name, rate_hz, expected_hz, stream, bool(topic.content and topic.content.encoding))
    yield from _stamps(name, stream, who)
    yield from _ages(name, stream, who, oldest_ns, simulated)


def _rate(name: str, rate_hz: float, expected_hz: float, stream: Stream, is_camera: bool) -> Iterator[Finding]:
    found, right = f"{rate_hz:.1f} Hz", f"{expected_hz:g} Hz"
    gap_ns = stream.gap_ns(99.0)
    if rate_hz < _SLOW * expected_hz:
        say = fail if rate_hz < _TOO_SLOW * expected_hz else warn
        cause = "exposure time, USB 3, bandwidth, frame rate" if is_camera else "its rate"
        yield say(name, found, right, f"{cause}, in the driver's settings; ros2 topic hz {name}")
    elif rate_hz > _FAST * expected_hz:
        yield warn(name, found, right, "rate_hz in the system's file, or the driver's rate")
    elif gap_ns is not None and gap_ns > _LATE_PERIODS * period_ns(expected_hz) and not stream.lost[0]:
        found += f", but 1 % of its messages arrive {ns_to_ms(gap_ns):.0f} ms after the previous one"
        yield warn(name, found, f"every {1000.0 / expected_hz:.0f} ms", "top on its machine, to see what keeps it busy")
    lost, published = stream.lost
    if lost > _LOST * published:
        say = fail if lost > _TOO_MANY_LOST * published else warn
        found = f"{lost} of {published} messages were lost in transport"
        yield say(name, found, "none", "vla-ros doctor (without a system) tests this machine's transport")


def _stamps(name: str, stream: Stream, who: str) -> Iterator[Finding]:
    remedy = f"the time stamp settings of {who}"
    count = len(stream)
    if stream.zero_stamps:
        found = f"{stream.zero_stamps} of {count} messages have no time stamp (0)"
        yield fail(name, found, "the time of capture in header.stamp: without it they are dropped", remedy)
    if stream.repeated_stamps:
        found = f"{stream.repeated_stamps} of {count} messages repeat the previous stamp"
        yield fail(name, found, "a new stamp for each: repeated stamps are dropped", remedy)
    if stream.backward_stamps:
        found = f"the stamp goes back {stream.backward_stamps} times in {count} messages"
        yield fail(name, found, "stamps that advance; are there two publishers, or was a clock set?", remedy)


def _ages(name: str, stream: Stream, who: str, oldest_ns: int | None, simulated: bool) -> Iterator[Finding]:
    ages_ns = sorted(stream.ages_ns.tolist())
    if not ages_ns:
        return
    median_ns = ages_ns[len(ages_ns) // 2]
    # Simulated time is told in steps, and heard late by a busy machine: single stamps are ahead of what was told.
    least_ns = median_ns if simulated else ages_ns[0]
    if least_ns < (-_FUTURE_TOLERANCE_NS if simulated else -_CLOCKS_DIFFER_NS):
        say = fail if least_ns < -_FUTURE_TOLERANCE_NS else warn
        found = f"stamped up to {ns_to_ms(-least_ns):.0f} ms in the future"
        right = (
            f"never; more than {ns_to_ms(_FUTURE_TOLERANCE_NS):.0f} ms ahead is dropped: the clock of {who} is ahead"
        )
        yield say(name, found, right, _SYNCHRONISE)
    if oldest_ns is not None and median_ns > oldest_ns:
        found = f"{ns_to_ms(median_ns):.0f} ms old when it arrives (median)"
        right = f"less than {ns_to_ms(oldest_ns):.0f} ms: older ones are not used (or a clock is behind)"
        yield fail(name, found, right, _SYNCHRONISE)


def _picture(name: str, camera: str, expected: CameraConfig, content: Content) -> Iterator[Finding]:
    if content.problem:
        yield fail(name, content.problem, "a colour image", "the driver's encoding, as rgb8")
    elif _RAW_ENCODING.fullmatch(content.encoding):
        found = f"encoding {content.encoding}, which does not state the order of the colours"
        yield warn(name, found, "rgb8 or bgr8, or red and blue may be swapped", "the driver's encoding, as rgb8")
    if content.width and (content.width, content.height) != (expected.width, expected.height):
        found = f"{content.width}x{content.height} {content.encoding}"
        remedy = f"cameras.{camera} in the system's file, or the driver's profile"
        yield warn(name, found, f"{expected.width}x{expected.height}", remedy)


def _frozen(name: str, stream: Stream, is_at_rest: bool) -> Iterator[Finding]:
    """Of a real camera, which has noise; or of a simulated one while the robot moves."""
    if stream.is_frozen and not is_at_rest:
        yield fail(name, "every image is the same", "sensor noise at least", "the driver repeats a frame: restart it")


def _clocks(seen: Seen) -> Iterator[Finding]:
    """Of each node: by its messages' times of sending, which DDS brings along, its clock against ours."""
    nodes = {peer.id: peer.node for topic in seen.topics.values() for peer in topic.publishers}
    by_topic = (Stream(topic.arrivals, seen.clock).offsets_ns for topic in seen.topics.values())
    offsets = merged({nodes[sender]: ns for sender, ns in of.items() if sender in nodes} for of in by_topic)
    problems = []
    for node, offset_ns in sorted(offsets.items()):
        if offset_ns < -_CLOCKS_DIFFER_NS:
            found = f"its clock is at least {ns_to_ms(-offset_ns):.0f} ms ahead of this machine's"
            problems.append(warn(node, found, "less than 5 ms", _SYNCHRONISE))
        elif offset_ns > _DELIVERY_NS:
            found = f"its messages take at least {ns_to_ms(offset_ns):.0f} ms, or its clock is behind by that much"
            problems.append(warn(node, found, "less than 5 ms", _SYNCHRONISE))
    yield from problems
    if offsets and not problems:
        yield ok(
            "clocks",
            f"{len(offsets)} nodes within {ns_to_ms(max(map(abs, offsets.values()))):.1f} ms of this machine's",
        )


def _summary(topic: Topic, seen: Seen) -> str:
    stream = Stream(topic.arrivals, seen.clock)
    ages_ns = sorted(stream.ages_ns.tolist())
    if stream.rate_hz is None:
        return "no messages" if not len(stream) else "one message"
    parts = [f"{stream.rate_hz:.1f} Hz"]
    if topic.content and topic.content.width:
        parts.append(f"{topic.content.width}x{topic.content.height} {topic.content.encoding}")
    if ages_ns:
        parts.append(f"{max(0.0, ns_to_ms(ages_ns[len(ages_ns) // 2])):.0f} ms old on arrival")
    return ", ".join(parts)
