"""ROS on this machine as facts, and what of it keeps nodes from hearing each other: installation, transport, domain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from vla_ros.doctor.findings import Finding, fail, is_slow, ok, slow, warn

_FAST_DDS = "rmw_fastrtps"
_MOST_DOMAIN_ID = 232
#: Above it the ports of DDS lie in Linux's ephemeral range, where any connection may take them.
_SAFE_DOMAIN_ID = 101
_DDS_PORT, _PORTS_PER_DOMAIN = 7400, 250

_MEBIBYTE = 2**20
#: One participant's segment of shared memory, as the shipped profile has it, and room for a system of them.
_SEGMENT_BYTES, _ROOM_BYTES = 64 * _MEBIBYTE, 512 * _MEBIBYTE
_DEAD_BYTES = 256 * _MEBIBYTE

_DELIVERED, _MOSTLY_DELIVERED = 0.98, 0.8
_SLOW_HOP_MS = 20.0


@dataclass(frozen=True)
class Middleware:
    """What was found of ROS. `problem`: why rclpy cannot be used; "" when it can."""

    problem: str = ""
    location: str = ""  # of rclpy
    distro: str = ""
    from_wheels: bool = False
    rmw: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)  # of the environment, those that ROS reads
    profile: str = ""  # the transport profile in use; "" = none, or another transport than Fast DDS
    profile_exists: bool = True
    profile_is_ours: bool = False
    shared_memory_bytes: int | None = None  # /dev/shm; None: not there
    shared_memory_free_bytes: int = 0
    dead_segments: int = 0
    dead_bytes: int = 0


@dataclass(frozen=True)
class Loopback:
    """What became of images sent from one process to another; `problem`: why that could not be tried."""

    sent: int = 0
    received: int = 0
    median_ms: float | None = None
    problem: str = ""


def domains(ports: Iterable[int]) -> tuple[int, ...]:
    """ROS domains in which these UDP ports listen (DDSI-RTPS 2.5, 9.6.2.3: 7400 + 250 x domain, and a few on)."""
    offsets = ((port - _DDS_PORT) for port in ports if port >= _DDS_PORT)
    found = {divmod(offset, _PORTS_PER_DOMAIN)[0] for offset in offsets}
    return tuple(sorted(domain for domain in found if domain <= _SAFE_DOMAIN_ID))


def judge(middleware: Middleware) -> list[Finding]:
    """Installation, transport, shared memory, domain."""
    if is_slow(middleware.problem):
        return [slow("ROS 2", f"importing {middleware.problem}")]
    if middleware.problem:
        remedy = ". /opt/ros/<distro>/setup.bash, or make setup (ROS 2 as wheels into .venv)"
        return [fail("ROS 2", f"not usable: {middleware.problem}", "rclpy can be imported", remedy)]
    return [
        _installation(middleware),
        _transport(middleware),
        *_shared_memory(middleware),
        *_discovery(middleware.variables),
    ]


def judge_loopback(loopback: Loopback) -> Finding:
    """Whether images survive the transport."""
    subject = "640x480 images between two processes"
    if is_slow(loopback.problem):
        return slow(subject, loopback.problem)
    if loopback.problem:
        return fail(subject, f"could not be tried: {loopback.problem}", "two processes that find each other")
    hop = f", median {loopback.median_ms:.1f} ms" if loopback.median_ms is not None else ""
    found = f"{loopback.received} of {loopback.sent} arrived{hop}"
    share = loopback.received / loopback.sent if loopback.sent else 0.0
    if share < _DELIVERED:
        say = warn if share >= _MOSTLY_DELIVERED else fail
        remedy = "unset FASTDDS_BUILTIN_TRANSPORTS FASTDDS_DEFAULT_PROFILES_FILE, then vla-ros uses its own profile"
        return say(subject, found, "all of them, or cameras stutter", remedy)
    if loopback.median_ms is not None and loopback.median_ms > _SLOW_HOP_MS:
        return warn(subject, found, f"less than {_SLOW_HOP_MS:g} ms", "top, to see what keeps the machine busy")
    return ok(subject, found)


def _installation(middleware: Middleware) -> Finding:
    source = "wheels" if middleware.from_wheels else "installation"
    found = f"{middleware.distro or 'unknown distro'}, {source} in {middleware.location}; {middleware.rmw}"
    sourced = middleware.variables.get("ROS_DISTRO", "")
    if middleware.from_wheels and sourced and sourced != middleware.distro:
        right = f"one of the two: this shell has sourced {sourced}, and they cannot be mixed"
        return warn("ROS 2", found, right, "a new shell without setup.bash, or a Python without the wheels")
    return ok("ROS 2", found)


def _transport(middleware: Middleware) -> Finding:
    builtin = middleware.variables.get("FASTDDS_BUILTIN_TRANSPORTS", "")
    if not middleware.rmw.startswith(_FAST_DDS):
        return ok("transport", f"that of {middleware.rmw}; the bundled profile is for Fast DDS")
    if middleware.profile and not middleware.profile_exists:
        right = "an existing file; without it most best-effort images are lost"
        return fail(
            "transport", f"{middleware.profile}, which does not exist", right, "unset FASTDDS_DEFAULT_PROFILES_FILE"
        )
    if middleware.profile_is_ours:
        return ok("transport", "the bundled profile (shared memory, and UDP for other machines)")
    if middleware.profile:
        return ok("transport", f"your profile {middleware.profile}")
    return ok("transport", f"FASTDDS_BUILTIN_TRANSPORTS={builtin}, as you set it")


def _shared_memory(middleware: Middleware) -> Iterator[Finding]:
    total, free = middleware.shared_memory_bytes, middleware.shared_memory_free_bytes
    if total is None:
        right = "a tmpfs there: large images need it"
        yield warn("shared memory", "no /dev/shm", right, "in a container: docker run --shm-size=2g, or --ipc=host")
        return
    found = f"{free / _MEBIBYTE:.0f} MiB free of {total / _MEBIBYTE:.0f} in /dev/shm"
    if free < _ROOM_BYTES:
        say = fail if free < _SEGMENT_BYTES else warn
        right = f"{_ROOM_BYTES // _MEBIBYTE} MiB: each node has a segment of {_SEGMENT_BYTES // _MEBIBYTE} MiB"
        remedy = "docker run --shm-size=2g, or --ipc=host; else sudo mount -o remount,size=2g /dev/shm"
        yield say("shared memory", found, right, remedy)
    else:
        yield ok("shared memory", found)
    if middleware.dead_segments:
        dead = f"{middleware.dead_segments} of dead processes, {middleware.dead_bytes / _MEBIBYTE:.0f} MiB"
        if middleware.dead_bytes > _DEAD_BYTES:
            yield warn("segments", dead, "none; they only take up memory", "the next vla-ros run removes yours")
        else:
            yield ok("segments", f"{dead}; the next vla-ros run removes yours")


def _discovery(variables: Mapping[str, str]) -> Iterator[Finding]:
    domain = variables.get("ROS_DOMAIN_ID", "")
    if domain and not (domain.isdecimal() and int(domain) <= _MOST_DOMAIN_ID):
        right = f"a whole number from 0 to {_MOST_DOMAIN_ID}"
        yield fail("ROS_DOMAIN_ID", repr(domain), right, "export ROS_DOMAIN_ID=0")
    elif domain and int(domain) > _SAFE_DOMAIN_ID:
        right = f"at most {_SAFE_DOMAIN_ID}: the ports of higher ones may be taken by any connection"
        yield warn("ROS_DOMAIN_ID", domain, right, "export ROS_DOMAIN_ID=0 on every machine")
    else:
        yield ok("ROS_DOMAIN_ID", domain or "not set, so 0")
    yield _range(variables)


def _range(variables: Mapping[str, str]) -> Finding:
    reach = variables.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "")
    only_here = variables.get("ROS_LOCALHOST_ONLY", "")
    others = {name: value for name in ("ROS_STATIC_PEERS", "ROS_DISCOVERY_SERVER") if (value := variables.get(name))}
    also = "".join(f"; {name}={value}" for name, value in others.items())
    if reach == "OFF" and not only_here:
        return fail("discovery", f"OFF{also}", "SUBNET, or LOCALHOST", "unset ROS_AUTOMATIC_DISCOVERY_RANGE")
    if only_here == "1":
        return ok("discovery", f"this machine only (ROS_LOCALHOST_ONLY=1){also}")
    if reach == "LOCALHOST":
        return ok("discovery", f"this machine only (ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST){also}")
    return ok("discovery", f"{reach or 'SUBNET (not set)'}: this machine and those on its network{also}")
