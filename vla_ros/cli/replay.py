"""vla-ros replay: a recorded episode on the simulated robot, with the tracking error."""

from __future__ import annotations

from vla_ros.cli.common import refuse


def replay() -> None:
    """A recorded episode on the simulated robot, with the tracking error."""
    refuse("not there yet")
