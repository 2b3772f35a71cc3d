"""How our participants talk: the shipped transport profile, a ROS domain of one's own, memory that dead ones left."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from vla_ros.ros import ending

PROFILE = "fastdds.xml"

#: Where Fast DDS looks for its profile: the name of today, and the one it had before version 3.
_PROFILE_VARIABLE = "FASTDDS_DEFAULT_PROFILES_FILE"
_PROFILE_VARIABLE_BEFORE_3 = "FASTRTPS_DEFAULT_PROFILES_FILE"
PROFILE_VARIABLES = (_PROFILE_VARIABLE, _PROFILE_VARIABLE_BEFORE_3)
_DISTROS_BEFORE_3 = ("humble", "iron", "jazzy")
#: A user who set one of these has chosen a transport.
_TRANSPORT_VARIABLES = (*PROFILE_VARIABLES, "FASTDDS_BUILTIN_TRANSPORTS")

#: Domains whose ports lie below Linux's ephemeral range; 0 is everybody's default, and people pick small ones by hand.
_DOMAIN_IDS = range(101, 0, -1)

#: In the environment of a process that takes a dead one's place (see `hearing`).
RESTARTED = "VLA_ROS_RESTARTED"

_RANGE_LOCALHOST = ("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")

SHARED_MEMORY = Path("/dev/shm")
_SEGMENT_LOCK = re.compile(r"fastdds_[0-9a-f]{16}_el")
_YOUNG_S = 2.0  # a segment's lock file exists a moment before it is locked


def environment(base: Mapping[str, str]) -> dict[str, str]:
    """`base` with the shipped transport profile, unless it already says how to transport."""
    if any(name in base for name in _TRANSPORT_VARIABLES):
        return dict(base)
    # Only the name that is needed: today's release warns about the old one.
    old = base.get("ROS_DISTRO") in _DISTROS_BEFORE_3
    return dict(base) | {_PROFILE_VARIABLE_BEFORE_3 if old else _PROFILE_VARIABLE: str(profile_path())}


def local_environment(base: Mapping[str, str], domain_id: int) -> dict[str, str]:
    """`environment(base)` for a simulation in the given domain, heard on this machine only unless `base` says more."""
    only_here = ("ROS_LOCALHOST_ONLY", "1") if base.get("ROS_DISTRO") == "humble" else _RANGE_LOCALHOST
    return dict([only_here]) | environment(base) | {"ROS_DOMAIN_ID": str(domain_id)}


def of_child(is_restarted: bool) -> dict[str, str]:
    """What a node that this process starts has in its environment beside the rest."""
    return {ending.PARENT: str(os.getpid())} | ({RESTARTED: "1"} if is_restarted else {})


def profile_path() -> Path:
    """The shipped profile: in the source tree's config/, or in share/ of the prefix this package is installed in.

    Raises:
        FileNotFoundError: the package was installed without its data files.
    """
    here = Path(__file__).resolve()
    installed = (prefix / "share" / "vla_ros" / "config" / PROFILE for prefix in here.parents)
    for path in (here.parents[2] / "config" / PROFILE, *installed):
        if path.is_file():
            return path
    raise FileNotFoundError(f"config/{PROFILE} is neither next to {here.parents[1]} nor in a share/vla_ros above it")


@contextmanager
def locked_domain_id() -> Iterator[int]:
    """A ROS_DOMAIN_ID that nobody else who asks here has, for as long as the context is open.

    The lock is a bound abstract socket: the kernel frees it however the process ends, and it counts within one
    network namespace, as a domain does.

    Raises:
        RuntimeError: every domain is taken.
    """
    for domain_id in _DOMAIN_IDS:
        with socket.socket(socket.AF_UNIX) as lock:
            try:
                lock.bind(f"\0vla_ros/ros_domain_id/{domain_id}")
            except OSError:  # taken
                continue
            yield domain_id
            return
    raise RuntimeError(f"all {len(_DOMAIN_IDS)} ROS domains are taken by running systems")


def dead_segments() -> list[Path]:
    """This user's Fast DDS segments whose process is gone; a killed one cannot remove its own.

    Fast DDS keeps a lock on `<segment>_el` as long as the segment's process lives, so a lock that can be had is dead.
    """
    return [_segment_of(lock) for lock in _locks() if _while_free(lock)]


def segment_bytes(segment: Path) -> int:
    """What it takes of the memory; 0 where it is gone."""
    try:
        return segment.stat().st_blocks * 512
    except OSError:
        return 0


def remove_dead_segments() -> int:
    """Remove `dead_segments` and tell how many."""
    return sum(_while_free(lock, _remove) for lock in _locks())


def _locks() -> list[Path]:
    return [path for path in SHARED_MEMORY.glob("fastdds_*_el") if _SEGMENT_LOCK.fullmatch(path.name)]


def _segment_of(lock: Path) -> Path:
    return lock.with_name(lock.name.removesuffix("_el"))


def _remove(lock: Path) -> None:
    _segment_of(lock).unlink(missing_ok=True)
    lock.unlink(missing_ok=True)


def _while_free(lock: Path, act: Callable[[Path], None] = lambda _: None) -> bool:
    """Act while holding the lock of a dead segment; whether it is one."""
    try:
        found = lock.stat()
        if found.st_uid != os.getuid() or time.time() - found.st_mtime < _YOUNG_S:
            return False
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            act(lock)
    except OSError:  # alive, or gone in the meantime
        return False
    return True
