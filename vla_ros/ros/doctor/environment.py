"""Looks at ROS on this machine without joining any graph: installation, transport profile, shared memory, domains."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from vla_ros.doctor import middleware
from vla_ros.doctor.middleware import Middleware
from vla_ros.doctor.probing import ask_python
from vla_ros.ros import transport

_VARIABLES = (
    "ROS_DISTRO",
    "ROS_DOMAIN_ID",
    "ROS_AUTOMATIC_DISCOVERY_RANGE",
    "ROS_LOCALHOST_ONLY",
    "ROS_STATIC_PEERS",
    "ROS_DISCOVERY_SERVER",
    "RMW_IMPLEMENTATION",
    "FASTDDS_BUILTIN_TRANSPORTS",
)
_WHEEL = re.compile(r"ros-([a-z]+)-rclpy")
_RCLPY_TIMEOUT_S = 15.0
_DISTRO_FOLDER = re.compile(r"/opt/ros/([a-z]+)/")
_ASK_RCLPY = "import rclpy; print(rclpy.get_rmw_implementation_identifier())"


def look(base: Mapping[str, str]) -> Middleware:
    """What is there; `base` is the environment in which nodes would start."""
    spec = importlib.util.find_spec("rclpy")
    if spec is None or spec.origin is None:
        return Middleware("no module rclpy")
    rmw, problem = ask_python(_ASK_RCLPY, _RCLPY_TIMEOUT_S)
    if problem:
        return Middleware(f"rclpy in {spec.origin}: {problem}")
    location = Path(spec.origin).parent
    in_folder = _DISTRO_FOLDER.match(f"{location}/")
    wheel = _wheel_distro()
    profile = _profile(base) if rmw.startswith("rmw_fastrtps") else ""
    memory = shutil.disk_usage(transport.SHARED_MEMORY) if transport.SHARED_MEMORY.is_dir() else None
    dead = transport.dead_segments()
    return Middleware(
        location=str(location),
        distro=in_folder[1] if in_folder else wheel or base.get("ROS_DISTRO", ""),
        from_wheels=not in_folder and bool(wheel),
        rmw=rmw.strip(),
        variables={name: base[name] for name in _VARIABLES if base.get(name)},
        profile=profile,
        profile_exists=Path(profile).is_file(),
        profile_is_ours=bool(profile) and profile == str(transport.profile_path()),
        shared_memory_bytes=memory.total if memory else None,
        shared_memory_free_bytes=memory.free if memory else 0,
        dead_segments=len(dead),
        dead_bytes=sum(map(transport.segment_bytes, dead)),
    )


def other_domains(domain_id: int) -> tuple[int, ...]:
    """The ROS domains but `domain_id` in which somebody on this machine takes part."""
    ports: set[int] = set()
    for table in ("udp", "udp6"):
        try:
            lines = Path("/proc/net", table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        ports |= {int(line.split()[1].rpartition(":")[2], 16) for line in lines}
    return tuple(domain for domain in middleware.domains(ports) if domain != domain_id)


def _profile(base: Mapping[str, str]) -> str:
    """The Fast DDS profile that a node started by vla-ros has."""
    chosen = transport.environment(base)
    return next((chosen[name] for name in transport.PROFILE_VARIABLES if chosen.get(name)), "")


def _wheel_distro() -> str:
    names = (found.metadata["Name"] or "" for found in importlib.metadata.distributions())
    return next((match[1] for name in names if (match := _WHEEL.fullmatch(name))), "")
