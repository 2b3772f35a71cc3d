"""vla-ros convert: datasets from one format to another, bags into datasets."""

from __future__ import annotations

from vla_ros.cli.common import refuse


def convert() -> None:
    """Datasets from one format to another, bags into datasets."""
    refuse("not there yet")
