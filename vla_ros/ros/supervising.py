"""Graph -> child processes, for a machine without `launch`: started, watched, stopped in order, never left behind."""

from __future__ import annotations

import collections
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import yaml

from vla_ros.graph import Graph, NodeSpec

NODES = "vla_ros.ros.nodes"

#: What a node is sent when it shall end, and how long it may take before the next, stronger word.
_ESCALATION = ((signal.SIGINT, 5.0), (signal.SIGTERM, 2.0), (signal.SIGKILL, 2.0))
_LAST_LINES = 15
_DRAIN_TIMEOUT_S = 1.0


class NodeDied(RuntimeError):
    """A node ended by itself; the message has its name, how it ended and its last lines."""


class Supervisor:
    """The processes of `graph`: `with Supervisor(graph, environment) as nodes: nodes.wait()`; in the main thread only.

    Nodes start in the graph's order and stop in the reverse one. When one ends by itself, NodeDied is raised in the
    main thread, wherever in the `with` block it is, and the others are stopped. SIGTERM leaves the block as SystemExit,
    SIGINT as KeyboardInterrupt. A parent that is killed takes the nodes with it. `log(name, line)` gets each line that
    they print.
    """

    def __init__(
        self,
        graph: Graph,
        environment: Mapping[str, str],
        log: Callable[[str, str], None] | None = None,
        package: str = NODES,
    ) -> None:
        self._graph = graph
        self._environment = {**environment, "PYTHONUNBUFFERED": "1"}
        self._log = log or _print
        self._package = package
        self._children: list[_Child] = []
        self._dead: _Child | None = None
        self._leaving = False
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Supervisor:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("a Supervisor handles signals, so it must be used in the main thread")
        self._files = tempfile.TemporaryDirectory(prefix="vla_ros_")
        self._handlers = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            for node in self._graph.nodes:
                self._children.append(self._start(node))
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def wait(self) -> None:
        """Stay until a signal comes or a node ends; both raise."""
        while True:
            signal.pause()

    def stop(self) -> None:
        """End every node, the last one started first: SIGINT, then SIGTERM, then SIGKILL."""
        self._leaving = True
        for child in reversed(self._children):
            child.stop()
        self._children.clear()
        self._files.cleanup()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def _start(self, node: NodeSpec) -> _Child:
        file = Path(self._files.name) / f"{node.name}.yaml"
        file.write_text(params_file(node), encoding="utf-8")
        return _Child(node.name, command(node, file, self._package), self._environment, self._log, self._on_end)

    def _on_end(self, child: _Child) -> None:
        """In the thread of a child that ended: tell the main thread by what interrupts whatever it does."""
        if not self._leaving:
            self._dead = self._dead or child
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Leave the `with` block once; whoever presses Ctrl-C again does not interrupt the stopping."""
        if self._leaving:
            return
        self._leaving = True
        if self._dead is not None:
            raise NodeDied(self._dead.epitaph())
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)


def command(node: NodeSpec, params: Path, package: str = NODES) -> list[str]:
    """The command line of a node, with its parameters in the file `params`."""
    arguments = ["-r", f"__node:={node.name}", "-r", f"__ns:={node.namespace}"]
    for source, target in node.remappings:
        arguments += ["-r", f"{source}:={target}"]
    return [
        sys.executable,
        "-m",
        f"{package}.{node.executable}",
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
        name: str,
        arguments: list[str],
        environment: Mapping[str, str],
        log: Callable[[str, str], None],
        on_end: Callable[[_Child], None],
    ) -> None:
        self._name = name
        self._log = log
        self._on_end = on_end
        self._lines: collections.deque[str] = collections.deque(maxlen=_LAST_LINES)
        self._process = subprocess.Popen(
            [*_dying_with_parent(), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._ended = threading.Event()
        self._reader = threading.Thread(target=self._read, name=f"log of {name}", daemon=True)
        self._waiter = threading.Thread(target=self._wait, name=f"end of {name}", daemon=True)
        self._reader.start()
        self._waiter.start()

    def stop(self) -> None:
        """End the process and whatever it started."""
        for number, patience_s in _ESCALATION:
            if self._ended.is_set():
                break
            self._signal(number)
            if not self._ended.wait(patience_s):
                self._log(self._name, f"has not ended {patience_s:g} s after {signal.Signals(number).name}")
        self._waiter.join(_DRAIN_TIMEOUT_S)

    def epitaph(self) -> str:
        """How it ended, and its last lines."""
        code = self._process.returncode
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        last = "\n".join(f"  {line}" for line in self._lines) or "  (nothing)"
        return f"node {self._name} {how}; it said at last:\n{last}"

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line.rstrip("\n"))
            self._log(self._name, self._lines[-1])

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


def _dying_with_parent() -> list[str]:
    """The kernel kills a child whose parent is gone, however that went; a pipe would need the child's co-operation."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise RuntimeError("setpriv is missing, so nodes could outlive a killed parent; install util-linux")
    return [setpriv, "--pdeathsig", "KILL"]


def _print(name: str, line: str) -> None:
    print(f"[{name}] {line}", file=sys.stderr, flush=True)
