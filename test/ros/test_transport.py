"""The user's transport comes first, domains are not shared, dead processes' memory goes and living ones' stays."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vla_ros.ros import transport

PROFILE = Path(__file__).parents[2] / "config" / "fastdds.xml"


def test_the_shipped_profile_is_applied() -> None:
    assert transport.environment({"HOME": "/h"}) == {"HOME": "/h", "FASTDDS_DEFAULT_PROFILES_FILE": str(PROFILE)}


def test_releases_before_fast_dds_3_are_told_in_their_words() -> None:
    humble = transport.local_environment({"ROS_DISTRO": "humble"}, 7)
    assert humble == {
        "ROS_DISTRO": "humble",
        "FASTRTPS_DEFAULT_PROFILES_FILE": str(PROFILE),
        "ROS_LOCALHOST_ONLY": "1",
        "ROS_DOMAIN_ID": "7",
    }


@pytest.mark.parametrize(
    "name", ["FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_BUILTIN_TRANSPORTS"]
)
def test_a_transport_the_user_chose_is_left_alone(name: str) -> None:
    chosen = {name: "mine"}
    assert transport.environment(chosen) == chosen


def test_a_simulation_is_heard_here_only_unless_the_user_says_more() -> None:
    assert transport.local_environment({}, 7)["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    wider = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET", "ROS_DOMAIN_ID": "0"}
    assert transport.local_environment(wider, 7) == transport.environment(
        {"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET", "ROS_DOMAIN_ID": "7"}
    )


def test_the_profile_is_found_beside_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "share" / "vla_ros" / "config" / transport.PROFILE
    monkeypatch.setattr(transport, "__file__", str(tmp_path / "lib/python3.11/site-packages/vla_ros/ros/transport.py"))
    with pytest.raises(FileNotFoundError, match="fastdds.xml"):
        transport.profile_path()
    shared.parent.mkdir(parents=True)
    shared.touch()
    assert transport.profile_path() == shared


def test_domains_are_not_shared_between_processes_and_come_back() -> None:
    with transport.locked_domain_id() as mine, transport.locked_domain_id() as second:
        assert mine != second
        ask = "from vla_ros.ros import transport\nwith transport.locked_domain_id() as domain_id: print(domain_id)"
        theirs = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout
        assert int(theirs) not in (mine, second)
        assert {mine, second, int(theirs)} <= set(range(1, 102))
    with transport.locked_domain_id() as again:
        assert again >= mine


def test_when_every_domain_is_taken_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_DOMAIN_IDS", range(1001, 1000, -1))  # one that only this test locks
    with contextlib.ExitStack() as held:
        held.enter_context(transport.locked_domain_id())
        with pytest.raises(RuntimeError, match="all 1 ROS domains are taken"):
            held.enter_context(transport.locked_domain_id())


def test_dead_segments_go_and_living_ones_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "SHARED_MEMORY", tmp_path)
    dead, living, young = "fastdds_00000000000000aa", "fastdds_00000000000000bb", "fastdds_00000000000000cc"
    others = "fastdds_port7400"
    for name in (dead, living, young, others):
        (tmp_path / name).touch()
        (tmp_path / f"{name}_el").touch()
        if name != young:
            os.utime(tmp_path / f"{name}_el", (time.time() - 60, time.time() - 60))
    hold = f"import fcntl, sys; file = open({str(tmp_path / living)!r} + '_el'); fcntl.flock(file, fcntl.LOCK_EX); "
    with subprocess.Popen(
        [sys.executable, "-c", hold + "print('held', flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert transport.remove_dead_segments() == 1
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.endswith("_el")) == [living, young, others]
