"""What is said of ROS on a machine, by tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from vla_ros.doctor import middleware
from vla_ros.doctor.findings import Level
from vla_ros.doctor.middleware import Loopback, Middleware

OK, WARN, FAIL = Level.OK, Level.WARN, Level.FAIL
MEBIBYTE = 2**20

FINE = Middleware(
    location="/opt/ros/jazzy/lib/python3.12/site-packages/rclpy",
    distro="jazzy",
    rmw="rmw_fastrtps_cpp",
    variables={"ROS_DISTRO": "jazzy"},
    profile="/share/config/fastdds.xml",
    profile_is_ours=True,
    shared_memory_bytes=8000 * MEBIBYTE,
    shared_memory_free_bytes=7000 * MEBIBYTE,
)


def problems(found: Middleware) -> list[tuple[Level, str]]:
    return [(finding.level, finding.subject) for finding in middleware.judge(found) if finding.level is not OK]


def test_a_fine_installation_has_no_problem() -> None:
    assert problems(FINE) == []


@pytest.mark.parametrize(
    ("change", "level", "subject"),
    [
        ({"problem": "no module rclpy"}, FAIL, "ROS 2"),
        ({"problem": "rclpy in /opt: no answer within 15 s"}, WARN, "ROS 2"),
        ({"from_wheels": True, "distro": "kilted"}, WARN, "ROS 2"),
        ({"profile_exists": False, "profile_is_ours": False}, FAIL, "transport"),
        ({"shared_memory_bytes": None}, WARN, "shared memory"),
        ({"shared_memory_bytes": 64 * MEBIBYTE, "shared_memory_free_bytes": 60 * MEBIBYTE}, FAIL, "shared memory"),
        ({"shared_memory_free_bytes": 300 * MEBIBYTE}, WARN, "shared memory"),
        ({"dead_segments": 9, "dead_bytes": 500 * MEBIBYTE}, WARN, "segments"),
        ({"variables": {"ROS_DOMAIN_ID": "233"}}, FAIL, "ROS_DOMAIN_ID"),
        ({"variables": {"ROS_DOMAIN_ID": "seven"}}, FAIL, "ROS_DOMAIN_ID"),
        ({"variables": {"ROS_DOMAIN_ID": "150"}}, WARN, "ROS_DOMAIN_ID"),
        ({"variables": {"ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF"}}, FAIL, "discovery"),
    ],
)
def test_one_thing_wrong_is_one_finding(change: dict[str, Any], level: Level, subject: str) -> None:
    assert problems(replace(FINE, **change)) == [(level, subject)]


@pytest.mark.parametrize(
    "change",
    [
        {"variables": {"ROS_DOMAIN_ID": "42", "ROS_LOCALHOST_ONLY": "1"}},
        {"variables": {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_STATIC_PEERS": "10.0.0.2"}},
        {"profile_is_ours": False, "profile": "/mine.xml"},
        {"profile_is_ours": False, "profile": "", "variables": {"FASTDDS_BUILTIN_TRANSPORTS": "UDPv4"}},
        {"rmw": "rmw_cyclonedds_cpp", "profile": "", "profile_exists": False},
        {"from_wheels": True, "variables": {}},
        {"dead_segments": 2, "dead_bytes": MEBIBYTE},
    ],
)
def test_what_a_user_chose_is_no_problem(change: dict[str, Any]) -> None:
    assert problems(replace(FINE, **change)) == []


@pytest.mark.parametrize(
    ("loopback", "level", "told"),
    [
        (Loopback(60, 60, 3.3), OK, "60 of 60 arrived, median 3.3 ms"),
        (Loopback(60, 60, 45.0), WARN, "median 45.0 ms"),
        (Loopback(60, 55, 3.3), WARN, "55 of 60"),
        (Loopback(60, 21, 3.3), FAIL, "21 of 60"),
        (Loopback(60, 0), FAIL, "0 of 60 arrived"),
        (Loopback(problem="they did not find each other"), FAIL, "could not be tried: they did not"),
        (Loopback(problem="no answer within 25 s"), WARN, "no answer within 25 s"),
    ],
)
def test_images_between_two_processes(loopback: Loopback, level: Level, told: str) -> None:
    finding = middleware.judge_loopback(loopback)
    assert finding.level is level
    assert told in finding.found


def test_domains_of_ports() -> None:
    # DDSI-RTPS: 7400 + 250 * domain, + 0 (multicast), + 10, 11, 12, 13 .. (unicast of participants 0, 1, ..)
    assert middleware.domains([7400, 7410, 7413]) == (0,)
    assert middleware.domains([53, 631, 17900, 17911, 32650]) == (42, 101)
    assert middleware.domains([40000, 60999]) == ()  # ephemeral
