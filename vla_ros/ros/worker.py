"""A thread for slow work, beside the executor's: it always takes the newest item, older ones are dropped."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Worker(Generic[Item]):
    """Calls `work` on its own thread with the newest item offered; `on_error` gets what `work` raises.

    `niceness`: how far the thread, and those it starts, step back where others want the processor, too.
    """

    def __init__(self, work: Callable[[Item], None], on_error: Callable[[Exception], None], niceness: int = 0) -> None:
        self._work = work
        self._on_error = on_error
        self._niceness = niceness
        self._pending: list[Item] = []  # at most one
        self._closed = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def offer(self, item: Item) -> Item | None:
        """Give `item` to the thread in place of the one it had no time for yet, which is given back."""
        with self._wake:
            replaced = self._pending[0] if self._pending else None
            self._pending = [item]
            self._wake.notify()
        return replaced

    def close(self, timeout_s: float = 1.0) -> None:
        """End the thread once its present item is done, waiting for at most `timeout_s`."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        if self._niceness:
            own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), own + self._niceness)
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._pending or self._closed)
                if self._closed:
                    return
                item = self._pending.pop()
            try:
                self._work(item)
            except Exception as error:  # the thread outlives any one item; its owner decides what it means
                self._on_error(error)
