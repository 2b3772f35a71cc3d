"""vla-ros record: episodes into a LeRobot dataset."""

from __future__ import annotations

from vla_ros.cli.common import refuse


def record() -> None:
    """Episodes into a lerobot dataset."""
    refuse("not there yet")
