"""What all tests share: a ROS domain of one's own, how many examples are tried, where pictures are rendered."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from vla_ros.ros import transport

FULL = os.environ.get("VLA_ROS_FULL") == "1"

settings.register_profile("quick", max_examples=50, deadline=None)
settings.register_profile("full", max_examples=1000, deadline=None)
settings.load_profile("full" if FULL else "quick")

os.environ.setdefault("MUJOCO_GL", "egl")  # no display is needed


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the long tests to `make test-full`."""
    for item in items:
        if "full" in item.keywords and not FULL:
            item.add_marker(pytest.mark.skip(reason="long; set VLA_ROS_FULL=1 (make test-full)"))


def pytest_sessionfinish() -> None:
    """Tests kill processes, and the killed leave shared memory."""
    transport.remove_dead_segments()


@pytest.fixture
def ros_domain_id(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A ROS domain that no other test or demo has; this process and its children are set to it."""
    with transport.locked_domain_id() as domain_id:
        for name, value in transport.local_environment(os.environ, domain_id).items():
            monkeypatch.setenv(name, value)
        yield domain_id
