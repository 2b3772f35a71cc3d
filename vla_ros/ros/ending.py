"""How a process is asked to end, by a signal or by the death of the one that started it, and that it does end."""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

#: In the environment of a node: the process whose end is the node's. Not of one that a user started alone.
PARENT = "VLA_ROS_PARENT"
#: What has not ended so long after it was asked to prints where each thread stands, and ends: later than launch kills.
_LIMIT_S = 20.0

_asked: list[int] = []
_interrupts = False
_is_watched = False


class Asked(BaseException):
    """Raised by a signal in what only prepares, such as imports; no error, so nothing that handles errors stops it."""


def heed() -> None:
    """Note from now on when this process is asked to end: SIGINT, SIGTERM, a closed terminal, the end of its parent."""
    global _is_watched  # noqa: PLW0603 - a process has one set of signal handlers, too
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _on_signal)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # under nohup
        signal.signal(signal.SIGHUP, _on_signal)
    if not _is_watched:
        _is_watched = True
        woken, wakes = os.pipe()
        os.set_blocking(wakes, False)
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        threading.Thread(target=_watch, args=(woken, os.environ.get(PARENT, "")), name="ending", daemon=True).start()


def asked() -> bool:
    """Whether this process was asked to end."""
    return bool(_asked)


@contextmanager
def interrupting() -> Iterator[None]:
    """Within it a signal raises Asked at once, here or before; a further one ends the process."""
    global _interrupts  # noqa: PLW0603
    _interrupts = True
    try:
        if _asked:
            raise Asked
        yield
    finally:
        _interrupts = False


def leave(code: int) -> NoReturn:
    """End the process now, with all its threads.

    The interpreter would first take apart what is loaded, for seconds where that is torch, while daemon threads and
    those of C++ libraries still run in it; that is where processes hung.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # nobody reads it any more
            continue
    os._exit(code)


def _on_signal(number: int, frame: FrameType | None) -> None:
    _asked.append(number)
    if _interrupts:
        if len(_asked) > 1:
            leave(0)
        raise Asked


def _watch(woken: int, parent: str) -> None:
    """On a thread: what is asked of the process when the main thread cannot look, and when nobody is left to ask."""
    watched = select.poll()
    watched.register(woken, select.POLLIN)
    born_of = _opened(parent)
    if born_of is not None:
        watched.register(born_of, select.POLLIN)
    while True:
        for fd, _ in watched.poll():
            if fd == woken:
                os.read(woken, 1)
                faulthandler.dump_traceback_later(_LIMIT_S, exit=True)
                return
            watched.unregister(fd)
            os.kill(os.getpid(), signal.SIGTERM)


def _opened(parent: str) -> int | None:
    """What becomes readable when that process ends."""
    if not parent.isdecimal():
        return None
    try:
        return os.pidfd_open(int(parent))
    except ProcessLookupError:
        os.kill(os.getpid(), signal.SIGTERM)
    except OSError:  # a kernel older than 5.3
        pass
    return None
