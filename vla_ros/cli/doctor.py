"""vla-ros doctor: what keeps the machine, or a running system, from working; looks, and changes nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from vla_ros.cli.common import EXIT_FAILED, Simulate, build_graph, clear_errors, complete_system

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from vla_ros.config import SystemConfig
    from vla_ros.doctor.findings import Finding, Report
    from vla_ros.doctor.seen import Seen
    from vla_ros.graph import Graph

Answer = TypeVar("Answer")

_RECORDINGS = Path("runs")
_MACHINE = ("machine", "devices", "ROS")
#: Far more than a probe takes: beyond it a file system, a driver or the middleware hangs.
_MACHINE_S, _MORE_S = 90.0, 20.0
_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(
    system: Annotated[str, typer.Argument(help="Also check this running system.", autocompletion=complete_system)] = "",
    sim: Simulate = None,
    seconds: Annotated[float, typer.Option(min=0.5, max=300.0, help="How long to listen to the system.")] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print findings as JSON.")] = False,
) -> None:
    """Find out why a robot does not move: check this machine or the running SYSTEM. Exit code 1 if anything fails."""
    with clear_errors():
        from rich.console import Console

        from vla_ros.doctor.findings import Level, count, to_json

        chosen = _load(system) if system else None
        graph = build_graph(chosen, sim) if chosen else None
        with Console(stderr=True).status("starting") as status:
            report = dict(_examine(chosen, graph, system, seconds, lambda what: status.update(f"looking at {what}")))
        if as_json:
            typer.echo(json.dumps(to_json(report), indent=2))
        else:
            _show(report, Console(highlight=False), _MACHINE if system else ())
        if count(report, Level.FAIL):
            raise typer.Exit(EXIT_FAILED)


def _load(name: str) -> SystemConfig:
    """The system as its file has it: a checkpoint given to `vla-ros run` alone is not missed here."""
    from vla_ros import config
    from vla_ros.policies import registry

    return config.load(name, registry.names())


def _examine(
    system: SystemConfig | None, graph: Graph | None, name: str, seconds: float, say: Callable[[str], None]
) -> Iterator[tuple[str, list[Finding]]]:
    from vla_ros.doctor import machine, middleware, probing
    from vla_ros.doctor import system as running
    from vla_ros.ros.doctor import environment, loopback

    say("this machine")
    kept_in = (system.record or system.bag) if system else ""
    recordings = Path(kept_in) if kept_in else _RECORDINGS
    found = _limited("the machine", lambda: probing.machine(recordings), _MACHINE_S)
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
        seen = _limited("the ROS middleware", lambda: _observe(system, graph, seconds), seconds + _MORE_S)
        yield from running.judge(system, graph, seen, name).items()


def _limited(what: str, probe: Callable[[], Answer], timeout_s: float) -> Answer:
    from vla_ros.doctor.probing import limited

    try:
        return limited(probe, timeout_s)
    except TimeoutError as error:
        raise RuntimeError(f"{what}: {error}") from None


def _observe(system: SystemConfig, graph: Graph, seconds: float) -> Seen:
    from vla_ros.ros.doctor import observing

    return observing.observe(system, graph, seconds)


def _show(report: Report, console: Console, folded: Collection[str]) -> None:
    """What is as it should be, by groups; then the problems, the worst last, where a terminal stands."""
    from vla_ros.doctor.findings import Level, count

    fine = {group: [finding for finding in findings if finding.level is Level.OK] for group, findings in report.items()}
    if folded:
        hidden = sum(len(fine[group]) for group in folded)
        console.print(f"[bold]{', '.join(folded)}[/]: {hidden} ok [dim](vla-ros doctor shows them)[/]")
    for group, findings in fine.items():
        if findings and group not in folded:
            console.print(f"[bold]{group}[/]")
            console.print(_table(findings))
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
            lines.append(f"[dim]expected:[/] {escape(finding.right)}")
        if finding.remedy:
            lines.append(f"[dim]try:[/]      [cyan]{escape(finding.remedy)}[/]")
        table.add_row(_mark(finding), "\n".join(lines))
    return table


def _mark(finding: Finding) -> str:
    return f"[{_STYLES[finding.level.value]}]{finding.level.value}[/]"
