"""Progress of long work, as bars or lines: how much is done, of how much, the time left; and how it is interrupted."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Task

_EVERY_S = 10.0  # between two lines where there is no terminal
_LONGEST_NAME, _BAR = 20, 14  # columns of a terminal
_REFRESH_HZ = 4.0
_LEAST_PART = 0.1  # of one of many, by which the time of all is estimated


class Pace:
    """How long the rest takes, from what was done since the first call: what lay there before took no time."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None  # when, and how much was done already

    def left_s(self, now_s: float, done: float, total: float) -> float | None:
        """Seconds to the end; None as long as too little was done. Parts count only until a whole one is done."""
        if self._first is None or done <= self._first[1]:  # what comes before any progress is preparation
            self._first = (now_s, done)
        first_s, first = self._first
        whole = math.floor(done) - first
        passed = whole if whole >= 1 else done - first
        if passed < _LEAST_PART:
            return None
        return max(0.0, (now_s - first_s) * (total - done) / passed)


class Progress:
    """Shows each thing that is going on: `with Progress() as show: show("episodes", 3, 10, "lift the red cube")`.

    `done` may be a fraction: a bar moves within an episode. Never wider than the terminal: the note is cut off.
    Bars go to the terminal that there is, the standard output first, and vanish at the end; lines to the standard
    error output.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        from rich.console import Console

        self._clock = clock
        self._paces: dict[str, Pace] = {}
        self._told_s: dict[str, float] = {}
        self._tasks: dict[str, Any] = {}
        self.console: Console = Console(highlight=False, markup=False)  # of results
        shown_on = next((one for one in (self.console, Console(stderr=True)) if _is_terminal(one)), None)
        self._bars = None if shown_on is None else _bars(shown_on, clock)

    def __enter__(self) -> Progress:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, what: str, done: float, total: int, note: str = "") -> None:
        """So much of `what` is done; `note` is what else to know of it now."""
        now_s = self._clock()
        left_s = self._paces.setdefault(what, Pace()).left_s(now_s, done, total)
        if self._bars is not None:
            if what not in self._tasks:
                self._tasks[what] = self._bars.add_task(what, total=total, completed=done, note="", end_s=None)
            end_s = None if left_s is None else now_s + left_s
            self._bars.update(self._tasks[what], completed=done, total=total, note=_one_line(note), end_s=end_s)
        elif done >= total or now_s - self._told_s.get(what, -math.inf) >= _EVERY_S:
            self._told_s[what] = now_s
            self._write(what, done, total, left_s, note)

    def print(self, line: RenderableType) -> None:
        """A result, above the bars, on the standard output."""
        self.console.print(line, soft_wrap=True)

    @staticmethod
    def _write(what: str, done: float, total: int, left_s: float | None, note: str) -> None:
        left = f", {_duration(left_s)} left" if left_s is not None and done < total else ""
        rest = f"  {_one_line(note)}" if note else ""
        print(f"{time.strftime('%H:%M:%S')} {what} {math.floor(done)}/{total}{left}{rest}", file=sys.stderr, flush=True)


class Interrupted(RuntimeError):
    """The user asked for the end (Ctrl-C, or SIGTERM); what was done is saved."""


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, instead of ending the program at once; a second Ctrl-C does."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_terminal(console: Console) -> bool:
    return console.file.isatty() and os.environ.get("TERM") != "dumb"


def _bars(console: Console, clock: Callable[[], float]) -> Any:
    from rich.progress import BarColumn, ProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars
    from rich.table import Column
    from rich.text import Text

    class Left(ProgressColumn):
        """The time left, by the last report."""

        def render(self, task: Task) -> Text:
            end_s = task.fields["end_s"]
            return Text("" if end_s is None or task.finished else f"{_duration(max(0.0, end_s - clock()))} left")

    class Count(ProgressColumn):
        """How many of how many."""

        def render(self, task: Task) -> Text:
            return Text(f"{math.floor(task.completed)}/{math.floor(task.total or 0)}")

    cut: Any = {"no_wrap": True, "overflow": "ellipsis"}
    return Bars(
        TextColumn("{task.description}", markup=False, table_column=Column(max_width=_LONGEST_NAME, **cut)),
        BarColumn(_BAR),
        Count(table_column=Column(no_wrap=True)),
        TimeElapsedColumn(table_column=Column(no_wrap=True)),
        Left(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[note]}", markup=False, table_column=Column(ratio=1, **cut)),
        console=console,
        transient=True,
        expand=True,
        refresh_per_second=_REFRESH_HZ,
        redirect_stdout=sys.stdout.isatty(),  # or what is piped away would be written to the terminal
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _one_line(text: str) -> str:
    """Without line breaks and control characters, which would tear a bar."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
