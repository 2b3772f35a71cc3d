"""Hosts that know nothing of our transport profile still exchange images with ours: two network namespaces, by UDP."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from vla_ros.ros import transport

pytest.importorskip("rclpy")
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="making network namespaces needs root and `ip` (iproute2)"
)

PEER = Path(__file__).with_name("image_peer.py")
IMAGES = 5
IMAGE_BYTES = 256 * 256 * 3
TIMEOUT_S = 40  # generous: a loaded machine starts slowly; nothing waits for it to pass

# A host has shared memory of its own; two namespaces of one machine do not, so each is given an empty one.
OWN_SHARED_MEMORY = 'mount -t tmpfs tmpfs /dev/shm && exec "$@"'


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def in_host(host: str, *arguments: str) -> list[str]:
    """The command line that runs the peer in the namespace `host`."""
    shell = ["unshare", "--mount", "sh", "-c", OWN_SHARED_MEMORY, "sh"]
    return ["ip", "netns", "exec", host, *shell, sys.executable, str(PEER), *arguments]


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[str, str]]:
    """Two network namespaces joined by a cable."""
    names = (f"vla{os.getpid()}a", f"vla{os.getpid()}b")
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
        for number, name in enumerate(names, start=1):
            ip("-n", name, "address", "add", f"10.99.0.{number}/24", "dev", "cable")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", "cable", "up")
        deadline_s = time.monotonic() + TIMEOUT_S
        while not all("state UP" in ip("-n", name, "link", "show", "cable") for name in names):
            # Fast DDS never looks again at an interface that was not running when the participant started.
            assert time.monotonic() < deadline_s, "the cable between the namespaces does not come up"
        yield names
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this machine makes no network namespaces: {error.stderr.strip()}")
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


@pytest.mark.parametrize("ours", ["publish", "receive"])
def test_a_peer_with_default_settings_on_another_host(hosts: tuple[str, str], ros_domain_id: int, ours: str) -> None:
    others = {name: value for name, value in os.environ.items() if name != "FASTDDS_DEFAULT_PROFILES_FILE"}
    others["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "SUBNET"
    profiled = transport.environment(others)
    assert profiled != others

    def environment(role: str) -> Mapping[str, str]:
        return profiled if role == ours else others

    with subprocess.Popen(in_host(hosts[0], "publish"), env=environment("publish")) as publisher:
        try:
            receive = in_host(hosts[1], "receive", str(IMAGES))
            result = subprocess.run(
                receive, env=environment("receive"), capture_output=True, text=True, timeout=TIMEOUT_S
            )
        finally:
            publisher.kill()
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [str(IMAGE_BYTES)] * IMAGES
