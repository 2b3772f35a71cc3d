"""Graph -> child processes, for a machine without `launch`: started, restarted, stopped in order, never left behind."""

from __future__ import annotations

import collections
import contextlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import yaml

from vla_ros.graph import Graph, NodeSpec, Restarts, ending
from vla_ros.ros import transport

NODES = "vla_ros.ros.nodes"

#: What a node is sent when it shall end, and how long it may take before the next, stronger word.
_ESCALATION = ((signal.SIGINT, 5.0), (signal.SIGTERM, 2.0), (signal.SIGKILL, 2.0))
#: What ends the system: Ctrl-C, a service manager, a terminal that is closed.
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: What waits for a signal without end sleeps through one that comes just before it: of a dead controller, for ever.
_NOTICED_S = 0.1
_LAST_LINES = 15
_DRAIN_TIMEOUT_S = 1.0


class NodeDied(RuntimeError):
    """A node ended and does not start again; the message has its name, how it ended and its last lines."""


class Supervisor:
    """The processes of `graph`: `with Supervisor(graph, environment) as nodes: nodes.wait()`; in the main thread only.

    Nodes start in the graph's order and stop in the reverse one, so the controller brakes while its robot still
    listens. A node that ends by itself starts again where its NodeSpec permits, after a growing pause; when it may not,
    or does not live, NodeDied is raised in the main thread, wherever in the `with` block it is, and the others are
    stopped. SIGTERM and SIGHUP leave the block as SystemExit, SIGINT as KeyboardInterrupt.

    Nodes notice when this process is killed, brake and end (see `ending`). Shared memory of killed nodes is removed
    when the system starts, when one of them starts again, and when it stops.

    `log(name, line)` gets each line that the nodes print; `tell(text)` how a node ended that starts again.
    """

    def __init__(
        self,
        graph: Graph,
        environment: Mapping[str, str],
        log: Callable[[str, str], None] | None = None,
        tell: Callable[[str], None] | None = None,
        package: str = NODES,
    ) -> None:
        self._graph = graph
        self._environment = {**environment, "PYTHONUNBUFFERED": "1"}
        self._log = log or _print
        self._tell = tell or _print_alone
        self._package = package
        self._children: dict[str, _Child] = {}
        self._restarts = {node.name: Restarts(node) for node in graph.nodes}
        self._why_over = ""  # what NodeDied says
        self._leaving = False
        self._why_leaving: BaseException | None = None  # what a signal raised
        self._stopping = threading.Event()  # not set by a signal's handler: it could interrupt its own lock
        self._handlers: dict[int, Any] = {}
        self._to_start: queue.SimpleQueue[NodeSpec | None] = queue.SimpleQueue()
        self._starting = threading.Lock()
        # The kernel ties a child to the thread that made it, so what is started again needs one that stays.
        self._starter = threading.Thread(target=self._start_again, name="restarts", daemon=True)

    def __enter__(self) -> Supervisor:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("a Supervisor handles signals, so it must be used in the main thread")
        transport.remove_dead_segments()
        self._files = tempfile.TemporaryDirectory(prefix="vla_ros_")
        ending = [number for number in _ENDING if number != signal.SIGHUP or not _is_ignored(number)]  # nohup
        self._handlers = {number: signal.signal(number, self._on_signal) for number in ending}
        self._starter.start()
        try:
            for node in self._graph.nodes:
                self._children[node.name] = self._start(node)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        # A signal that is heard while an extension module makes an object is to that module an object it cannot make.
        if self._why_leaving is not None and type(value) in (RuntimeError, SystemError):
            raise self._why_leaving from value

    def wait(self, for_s: float | None = None) -> None:
        """Stay until a signal comes or a node is dead, which both raise, or for so long."""
        if for_s is not None:
            time.sleep(for_s)
            return
        while True:
            time.sleep(_NOTICED_S)

    def stop(self) -> None:
        """End every node, the last one started first: SIGINT, then SIGTERM, then SIGKILL."""
        self._leaving = True
        self._stopping.set()
        with self._starting:  # what is just being started must be stopped too
            children = list(self._children.values())
        for child in reversed(children):
            child.stop()
        self._to_start.put(None)
        self._starter.join()
        self._children.clear()
        self._files.cleanup()
        transport.remove_dead_segments()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def _start(self, node: NodeSpec, is_restarted: bool = False) -> _Child:
        file = Path(self._files.name) / f"{node.name}.yaml"
        file.write_text(params_file(node), encoding="utf-8")
        environment = {**self._environment, **transport.of_child(is_restarted)}
        return _Child(node, command(node, file, self._package), environment, self._log, self._on_end)

    def _on_end(self, child: _Child) -> None:
        """In the thread of a child that ended: see to it that it starts again, or that the others end."""
        if self._leaving:
            return
        pause_s = self._restarts[child.node.name].pause_s(child.exit_code, child.lived_s)
        if pause_s is None:
            self._give_up(child.epitaph())
            return
        with contextlib.suppress(OSError):
            self._tell(f"{child.epitaph()}\nnode {child.node.name} restarts in {pause_s:g} s")
        if not self._stopping.wait(pause_s):
            self._to_start.put(child.node)

    def _start_again(self) -> None:
        while (node := self._to_start.get()) is not None:
            transport.remove_dead_segments()
            with self._starting:
                if self._leaving:
                    continue
                try:
                    self._children[node.name] = self._start(node, is_restarted=True)
                except OSError as error:
                    self._give_up(f"node {node.name} cannot be restarted: {error}")

    def _give_up(self, why: str) -> None:
        """Tell the main thread by what interrupts whatever it does."""
        self._why_over = self._why_over or why
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Leave the `with` block once; whoever presses Ctrl-C again does not interrupt the stopping."""
        if self._leaving:
            return
        self._leaving = True
        if self._why_over:
            self._why_leaving = NodeDied(self._why_over)
        else:
            self._why_leaving = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
        raise self._why_leaving


def command(node: NodeSpec, params: Path, package: str = NODES) -> list[str]:
    """The command line of a node, with its parameters in the file `params`."""
    arguments = ["-r", f"__node:={node.name}", "-r", f"__ns:={node.namespace}"]
    for source, target in node.remappings:
        arguments += ["-r", f"{source}:={target}"]
    return [
        sys.executable,
        "-m",
        package,
        node.executable,
        "--ros-args",
        *arguments,
        "--params-file",
        str(params),
    ]


def params_file(node: NodeSpec) -> str:
    """A node's parameters as a ROS parameter file."""
    full_name = f"{node.namespace.rstrip('/')}/{node.name}"
    return yaml.dump({full_name: {"ros__parameters": dict(node.params)}}, Dumper=_Dumper, sort_keys=False)


class _Dumper(yaml.SafeDumper):
    """Quotes every text: rcl takes an unquoted `y` for a bool."""


_Dumper.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


class _Child:
    """One process, in a group of its own, so that a Ctrl-C in the terminal does not reach it before its turn."""

    def __init__(
        self,
        node: NodeSpec,
        arguments: list[str],
        environment: Mapping[str, str],
        log: Callable[[str, str], None],
        on_end: Callable[[_Child], None],
    ) -> None:
        self.node = node
        self._log = log
        self._on_end = on_end
        self._lines: collections.deque[str] = collections.deque(maxlen=_LAST_LINES)
        self._born_s = time.monotonic()
        self._process = subprocess.Popen(
            arguments,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._ended = threading.Event()
        self._reader = threading.Thread(target=self._read, name=f"log of {node.name}", daemon=True)
        self._waiter = threading.Thread(target=self._wait, name=f"end of {node.name}", daemon=True)
        self._reader.start()
        self._waiter.start()

    @property
    def lived_s(self) -> float:
        """Since its start."""
        return time.monotonic() - self._born_s

    @property
    def exit_code(self) -> int:
        """Of a process that has ended."""
        return self._process.returncode

    def stop(self) -> None:
        """End the process and whatever it started."""
        for number, patience_s in _ESCALATION:
            if self._ended.is_set():
                break
            self._signal(number)
            if not self._ended.wait(patience_s):
                self._say(f"has not ended {patience_s:g} s after {signal.Signals(number).name}")
        self._waiter.join(_DRAIN_TIMEOUT_S)

    def epitaph(self) -> str:
        """How it ended, and its last lines."""
        last = "\n".join(f"  {line}" for line in self._lines) or "  (nothing)"
        return f"{ending(self.node, self.exit_code)}; its last output:\n{last}"

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line.rstrip("\n"))
            self._say(self._lines[-1])

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError):  # a terminal that is closed must not keep a node from being read and stopped
            self._log(self.node.name, line)

    def _wait(self) -> None:
        # Seen before it is reaped: until then nobody else gets its number, and what is left of its group can be killed.
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        self._signal(signal.SIGKILL)
        self._reader.join(_DRAIN_TIMEOUT_S)
        self._process.wait()
        self._ended.set()
        self._on_end(self)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # ended in the meantime
            os.killpg(self._process.pid, number)


def _is_ignored(number: int) -> bool:
    return signal.getsignal(number) is signal.SIG_IGN


def _print(name: str, line: str) -> None:
    _print_alone(f"[{name}] {line}")


def _print_alone(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
