"""vla-ros doctor: what keeps the machine, or a running system, from working; looks, and changes nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vla_ros.cli.common import EXIT_FAILED, Simulate, build_graph, clear_errors, complete_system, load_system

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from vla_ros.config import SystemConfig
    from vla_ros.doctor.findings import Finding, Report
    from vla_ros.doctor.seen import Seen
    from vla_ros.graph import Graph

_RECORDINGS = Path("runs")
_MACHINE = ("machine", "devices", "ROS")
_MORE_S = 20.0  # for discovery and for what is slow; beyond it the middleware hangs
_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(
    system: Annotated[
        str, typer.Argument(help="Look at this system as it runs, too.", autocompletion=complete_system)
    ] = "",
    sim: Simulate = None,
    seconds: Annotated[float, typer.Option(min=0.5, max=300.0, help="Listen to the system so long.")] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print findings as JSON.")] = False,
) -> None:
    """Find out why a robot does not move: this machine, or SYSTEM as it runs. Exit code 1 if anything fails."""
    with clear_errors():
        from rich.console import Console

        from vla_ros.doctor.findings import Level, count, to_json

        chosen = load_system(system) if system else None
        graph = build_graph(chosen, sim) if chosen else None
        with Console(stderr=True).status("starting") as status:
            report = dict(_examine(chosen, graph, system, seconds, lambda what: status.update(f"looking at {what}")))
        if as_json:
            typer.echo(json.dumps(to_json(report), indent=2))
        else:
            _show(report, Console(highlight=False), _MACHINE if system else ())
        if count(report, Level.FAIL):
            raise typer.Exit(EXIT_FAILED)


def _examine(
    system: SystemConfig | None, graph: Graph | None, name: str, seconds: float, say: Callable[[str], None]
) -> Iterator[tuple[str, list[Finding]]]:
    from vla_ros.doctor import machine, middleware, probing
    from vla_ros.doctor import system as running
    from vla_ros.ros.doctor import environment, loopback

    say("this machine")
    found = probing.machine(Path(system.record) if system and system.record else _RECORDINGS)
    of_machine, of_devices, of_middleware = _MACHINE
    yield of_machine, machine.judge(found)
    yield of_devices, machine.judge_devices(found)
    say("ROS")
    of_ros = environment.look(os.environ)
    judged = middleware.judge(of_ros)
    if of_ros.problem:
        yield of_middleware, judged
    elif system is None or graph is None:
        say("the transport: sending images from one process to another")
        yield of_middleware, [*judged, middleware.judge_loopback(loopback.measure(os.environ))]
    else:
        yield of_middleware, judged
        say(f"{name}, for {seconds:g} s")
        yield from running.judge(system, graph, _observe(system, graph, seconds), name).items()


def _observe(system: SystemConfig, graph: Graph, seconds: float) -> Seen:
    from vla_ros.doctor.probing import limited
    from vla_ros.ros.doctor import observing

    try:
        return limited(lambda: observing.observe(system, graph, seconds), seconds + _MORE_S)
    except TimeoutError as error:
        raise RuntimeError(f"the ROS middleware hangs: {error}; vla-ros doctor (without a system) tests it") from None


def _show(report: Report, console: Console, folded: Iterable[str]) -> None:
    """What is as it should be, by groups; then the problems, the worst last, where a terminal stands."""
    from vla_ros.doctor.findings import Level, count

    for group, findings in report.items():
        fine = [finding for finding in findings if finding.level is Level.OK]
        if fine and group in folded:
            console.print(f"[bold]{group}[/] [dim]{len(fine)} ok; vla-ros doctor shows them[/]")
        elif fine:
            console.print(f"[bold]{group}[/]")
            console.print(_table(fine))
    for level in (Level.WARN, Level.FAIL):
        rows = [finding for findings in report.values() for finding in findings if finding.level is level]
        if rows:
            console.print()
            console.print(_list(rows))
    counts = ", ".join(f"[{_STYLES[level]}]{count(report, level)} {level.value}[/]" for level in reversed(Level))
    console.print(f"\n{counts}")


def _table(findings: Iterable[Finding]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=4)
    table.add_column(max_width=40, overflow="fold")
    table.add_column(overflow="fold")
    for finding in findings:
        table.add_row(_mark(finding), escape(finding.subject), escape(finding.found))
    return table


def _list(findings: Iterable[Finding]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=4)
    table.add_column(overflow="fold")
    for finding in findings:
        lines = [f"[bold]{escape(finding.subject)}[/]: {escape(finding.found)}"]
        if finding.right:
            lines.append(f"[dim]right:[/] {escape(finding.right)}")
        if finding.remedy:
            lines.append(f"[dim]try:[/]   [cyan]{escape(finding.remedy)}[/]")
        table.add_row(_mark(finding), "\n".join(lines))
    return table


def _mark(finding: Finding) -> str:
    return f"[{_STYLES[finding.level.value]}]{finding.level.value}[/]"
