"""A network that loses every fifth packet: the arm goes on or holds, never jumps, and does its task once it is better.

Loopback in a network namespace of its own, with UDP alone, so that every message is a packet that can be lost. It takes
root, and one of two things that a Linux kernel may have: the netem queue, or filters written in BPF.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("mujoco")

from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from vla_ros import config, messages, topics
from vla_ros.config import SystemConfig
from vla_ros.robots.panda import PANDA
from vla_ros.ros import convert
from vla_ros.timing.stamps import ns_to_s

ROOT = Path(__file__).parents[2]
ALONE = "VLA_ROS_TEST_ALONE"
CLONE_NEWNET = 0x40000000
LOSS = 0.2
#: Load a random number, and drop the packet if it is beyond: classic BPF, as `tcpdump -ddd` writes it.
LOSES = f"4,32 0 0 {2**32 - 0x1000 + 56},53 0 1 {round((1.0 - LOSS) * 2**32)},6 0 0 2,6 0 0 0"
#: name -> what begins the loss, what ends it
LOSSES = {
    "netem": (f"qdisc add dev lo root netem loss {100 * LOSS:g}% delay 5ms", "qdisc del dev lo root"),
    "bpf": (f'filter add dev lo ingress bpf da bytecode "{LOSES}"', "filter del dev lo ingress"),
}
VELOCITY_LIMIT_RAD_S = np.array([joint.velocity_rad_s for joint in PANDA.joints])
PERIOD_S = 0.01  # of the controller
EVERYTHING = QoSProfile(depth=2000, reliability=ReliabilityPolicy.BEST_EFFORT)


@pytest.fixture
def own_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A namespace with nothing but loopback, for this thread and what it starts."""
    if os.geteuid() != 0 or shutil.which("tc") is None or shutil.which("ip") is None:
        pytest.skip("needs root, and ip and tc (package iproute2)")
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", str(Path(__file__).with_name("fastdds_udp.xml")))
    # LOCALHOST would add shared memory again; there is nobody else in this subnet, and loopback has no multicast.
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    monkeypatch.setenv("ROS_STATIC_PEERS", "127.0.0.1")
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as outside:
        if libc.unshare(CLONE_NEWNET) != 0:
            pytest.skip(f"no network namespace: {os.strerror(ctypes.get_errno())}")
        try:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            yield
        finally:
            assert libc.setns(outside.fileno(), CLONE_NEWNET) == 0


def tc(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(f"tc {command}", shell=True, capture_output=True, text=True)


def begin_loss(kind: str) -> None:
    if kind == "bpf":
        tc("qdisc add dev lo clsact")
    done = tc(LOSSES[kind][0])
    if done.returncode != 0:
        pytest.skip(f"this kernel has no {kind}: {done.stderr.strip()}")


def system() -> SystemConfig:
    values = config.load("franka_upvla").model_dump(mode="json") | {"instruction": "lift the red cube"}
    for camera in values["cameras"].values():
        camera |= {"width": 64, "height": 64}
    return SystemConfig.model_validate(values)


def time_s(command: JointTrajectory) -> float:
    return ns_to_s(messages.stamp_to_ns(command.header.stamp))


@pytest.mark.parametrize("kind", sorted(LOSSES))
def test_the_arm_lives_with_a_bad_network(request: pytest.FixtureRequest, kind: str) -> None:
    if ALONE in os.environ:
        request.getfixturevalue("own_network")
        live_with(kind, request.getfixturevalue("start_graph"), request.getfixturevalue("make_watcher"))
    else:
        run_alone(request.node.nodeid)


def run_alone(test: str) -> None:
    """In a process of its own: Fast DDS reads its profile, and what networks there are, once in a process."""
    command = [sys.executable, "-m", "pytest", "-rs", test]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, ALONE: "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    if skipped := re.search(r"^SKIPPED \[1\] [^ ]+ (.*)", done.stdout, re.MULTILINE):
        pytest.skip(skipped[1])


def live_with(kind: str, start_graph: Callable[..., Any], make_watcher: Callable[..., Any]) -> None:
    begin_loss(kind)  # skips before anything is started
    tc(LOSSES[kind][1])
    start_graph(system())
    watcher = make_watcher()
    commands = watcher.hear(JointTrajectory, topics.COMMAND, EVERYTHING)
    worlds = watcher.hear(Float64MultiArray, topics.SIMULATION_STATE, EVERYTHING)

    def speed_rad_s() -> float:
        return float(np.abs(commands[-1].points[0].velocities).max()) if commands else 0.0

    watcher.until(lambda: speed_rad_s() > 0.1, "the arm to move")
    begin_loss(kind)
    begun_s = time_s(commands[-1])
    watcher.until(lambda: time_s(commands[-1]) > begun_s + 1.5, "1.5 s with losses")
    ended_s = time_s(commands[-1])
    assert tc(LOSSES[kind][1]).returncode == 0

    watcher.until(lambda: convert.array_to_world_state(worlds[-1]).success, "the cube to be lifted")
    times_s = np.array([time_s(command) for command in commands])
    heard = np.count_nonzero((times_s > begun_s) & (times_s < ended_s))
    assert heard < 0.95 * (ended_s - begun_s) / PERIOD_S, "some were lost"
    sent = np.array([command.points[0].positions[:7] for command in commands])
    # Each command is a period further than the last, though its tick may come half a period late.
    most = VELOCITY_LIMIT_RAD_S * (np.diff(times_s)[:, None] + PERIOD_S / 2)
    steps = np.abs(np.diff(sent, axis=0))
    assert (steps <= most).all(), (steps / most).max(axis=0)
    assert set(watcher.said["simulator"]) == {"running"}, "no reflex"
    told = {message.partition(":")[0] for message in watcher.said["controller"]}
    assert told <= {"running", "ramping", "holding"}
