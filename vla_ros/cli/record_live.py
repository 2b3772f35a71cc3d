"""What `vla-ros record` shows while a person records, and the keys by which he does."""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vla_ros import topics

if TYPE_CHECKING:
    from rich.console import RenderableType

    from vla_ros.graph import Graph
    from vla_ros.ros.recording_desk import RecordingDesk

#: Key -> (word for the recorder, what it does); space, t and q are no words of the recorder's.
KEYS = {
    "s": ("save", "save"),
    "a": ("save_anyway", "save anyway"),
    "d": ("discard", "discard"),
    "r": ("rerecord", "re-record"),
    "y": ("success", "success"),
    "n": ("failure", "failure"),
}
_HELP = ("space start/pause", *(f"{key} {title}" for key, (_, title) in KEYS.items()), "t task", "q quit")
_STYLES = {
    "idle": "bold",
    "recording": "bold red",
    "paused": "bold yellow",
    "saving": "bold",
    "unsaved": "bold magenta",
}
_REFRESH_HZ = 10
_SHOWN = (("rate_hz", "rows per second"), ("repeated_in_a_row", "repeated in a row"), ("skew_ms", "skew ms"),
          ("lag_ms", "lag ms"), ("backlog", "encoder backlog"), ("disk_free_mb", "disk free MB"))  # fmt: skip
_SPIN_S = 0.02
_DIGITS = re.compile(r"[0-9]+")
#: What arrows and the like send, and a letter with Alt: no keys of ours, nor the letters in it.
_SEQUENCES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|O.|[^\[O\x1b])")
#: The recorder says how it is ten times a second.
_SILENT_S = 1.0
_SHOWN_NEWS = 6
_QUIT = "an episode is open: s saves it, d discards it; q again quits; `dataset repair --keep-open` restores it"


def run_live(graph: Graph, task: str, simulate: bool) -> None:
    """Run the graph with its recorder until q, Ctrl-C or a dead node; without a terminal lines are printed instead."""
    from vla_ros.ros import operating, transport
    from vla_ros.ros.recording_desk import RecordingDesk
    from vla_ros.ros.supervising import Supervisor

    log_file = Path("runs") / time.strftime("%Y%m%d-%H%M%S") / "nodes.log"
    log_file.parent.mkdir(parents=True, exist_ok=True)
    has_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    typer.echo(f"nodes' log {log_file}")
    if all(node.executable != "inference" for node in graph.nodes):
        typer.echo(f"no policy runs: the arm follows targets on {topics.TELEOP}")
    with log_file.open("w", encoding="utf-8", buffering=1) as log, operating.context() as context:
        desk = RecordingDesk(context, use_sim_time=simulate)
        news: deque[str] = deque(maxlen=_SHOWN_NEWS)  # from the threads of nodes that ended

        def tell(text: str) -> None:
            print(text, file=log if has_terminal else sys.stderr)
            news.append(text.splitlines()[-1])

        nodes = Supervisor(
            graph,
            transport.environment(os.environ),
            log=lambda name, line: print(f"[{name}] {line}", file=log),
            tell=tell,
        )
        try:
            with nodes:
                if task:
                    desk.instruct(task)
                if has_terminal:
                    _show(desk, news)
                else:
                    _print(desk)
        except KeyboardInterrupt:
            typer.echo("stopping", err=True)
        finally:
            desk.destroy_node()


def _print(desk: RecordingDesk) -> None:
    """Lines for a log: each change of the recorder's state, and what it answers."""
    message, count = "", 0
    while True:
        desk.spin(_SPIN_S)
        now = desk.recorder.get("message", "")
        if _DIGITS.sub("", now) != message:  # how long a camera has been silent is not worth a line each time
            typer.echo(f"recorder   {now}")
            message = _DIGITS.sub("", now)
        for text in list(desk.said)[len(desk.said) - (desk.count - count) :] if desk.count > count else ():
            typer.echo(f"           {text}")
        count = desk.count


def _show(desk: RecordingDesk, news: deque[str]) -> None:
    """A view that is drawn again and again, and single keys; `news` of the nodes is shown as it comes."""
    from rich.console import Console
    from rich.live import Live

    typed: str | None = None  # a task that is being typed
    is_warned = False  # of the end, which the next q brings
    with _single_keys(), Live(console=Console(), refresh_per_second=_REFRESH_HZ, auto_refresh=False) as live:
        drawn_s = 0.0
        while True:
            desk.spin(_SPIN_S)
            while news:
                desk.note(news.popleft())
            for key in _pressed():
                is_warned, was_warned = key == "q" and typed is None, is_warned
                if typed is not None:
                    typed = _type(desk, typed, key)
                elif key == "q":
                    if was_warned or desk.state in ("", "idle") or desk.silent_s > _SILENT_S:
                        return
                    desk.note(_QUIT)
                elif key == "t":
                    typed = ""
                elif key == " ":
                    desk.begin_or_pause()
                elif key in KEYS:
                    desk.tell(KEYS[key][0])
                elif key.isprintable():
                    desk.note(f"{key} is not a valid key; the keys are: {', '.join(_HELP)}")
            if time.monotonic() - drawn_s > 1.0 / _REFRESH_HZ:
                drawn_s = time.monotonic()
                live.update(view(desk.recorder, desk.said, typed, desk.silent_s), refresh=True)


def _type(desk: RecordingDesk, typed: str, key: str) -> str | None:
    """The text after one more key; None when it is done."""
    if key in "\r\n":
        if typed.strip():
            desk.instruct(typed.strip())
        return None
    if key == "\x1b":
        return None
    if key in "\x7f\b":
        return typed[:-1]
    return typed + key if key.isprintable() else typed


def view(values: Mapping[str, str], said: Sequence[str], typed: str | None, silent_s: float = 0.0) -> RenderableType:
    """The recorder's state (`values`, as on /vla/state), what it answered, a task being typed: as a panel.

    `silent_s`: how old the state is; what is old is not shown as if it were so.
    """
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    if not values:
        return Panel(Text("waiting for the recorder"), title="recorder")
    if silent_s > _SILENT_S:
        told = Text(
            f"no message from the recorder for {silent_s:.0f} s; its last state was {values['message']}",
            style="bold red",
        )
        lines = [told, *(Text(text, style="dim") for text in said), Text("q quit", style="cyan")]
        return Panel(Group(*lines), title=Text(values.get("root", "recorder")), title_align="left")
    word, _, problem = values["message"].partition(": ")
    head = Text(word, style=_STYLES.get(word, "bold"))
    head.append(f"   episode {values['episode']}   {values['frames']} frames", style="default")
    if values.get("success"):
        head.append("   success" if values["success"] == "True" else "   failure")
    streams = Table("stream", "Hz", "age ms", "dropped", "repeated", box=None, padding=(0, 2))
    for name in (key.removesuffix(".received") for key in values if key.endswith(".received")):
        columns = (f"{name}.rate_hz", f"{name}.age_ms", f"{name}.dropped", f"repeated.{name}")
        streams.add_row(name, *(_short(values.get(column, "")) for column in columns))
    figures = _flowing(f"{title} {_short(values[key])}" for key, title in _SHOWN if key in values)
    task = Text(f"task  {values['task'] or '(none: press t)'}")
    parts: list[RenderableType] = [head, task, streams, figures]
    if problem:
        parts.append(Text(problem, style="red"))
    parts += [Text(text, style="dim") for text in said]
    parts.append(_flowing(_HELP, "cyan") if typed is None else Text(f"new task (Enter, Esc): {typed}_", style="cyan"))
    return Panel(Group(*parts), title=Text(values.get("root", "recorder")), title_align="left")


def _flowing(texts: Iterable[str], style: str = "") -> RenderableType:
    """Short texts next to each other, in as many lines as they need: none is broken."""
    from rich.columns import Columns
    from rich.text import Text

    return Columns([Text(text, style=style) for text in texts], padding=(0, 3))


def _short(value: str) -> str:
    """A number with one digit after its point, if it has any."""
    return f"{float(value):.1f}" if "." in value else value


@contextlib.contextmanager
def _single_keys() -> Iterator[None]:
    """Keys arrive as they are pressed, unseen; Ctrl-C stays what it is."""
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _pressed() -> str:
    """The keys pressed since the last call, without those that are no character."""
    ready, _, _ = select.select([sys.stdin], [], [], 0.0)
    return _SEQUENCES.sub("", os.read(sys.stdin.fileno(), 256).decode(errors="ignore")) if ready else ""
