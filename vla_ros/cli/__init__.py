"""The command line `vla-ros`: one file for each command."""

from vla_ros.cli.app import app, main

__all__ = ["app", "main"]
