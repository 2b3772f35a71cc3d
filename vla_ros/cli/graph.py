"""vla-ros graph: the nodes and topics of a system as a chart."""

from __future__ import annotations

import typer

from vla_ros.cli.common import Simulate, System, build_graph, clear_errors, load_system


def graph(system: System, sim: Simulate = None) -> None:
    """Print the graph of nodes and topics as a Mermaid flowchart."""
    with clear_errors():
        from vla_ros.graph import mermaid

        typer.echo(mermaid(build_graph(load_system(system), sim)), nl=False)
