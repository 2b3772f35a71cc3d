"""Supervisor with real, tiny processes: order, parameters, logs, deaths, and nobody left behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vla_ros.graph import Graph, NodeSpec
from vla_ros.ros.supervising import NodeDied, Supervisor, command, params_file

FAKE_NODES = {
    # Says its name and process, then waits for a signal, says which, and ends well.
    "obedient": """
import os, signal, sys
def end(number, frame):
    print("ended by", signal.Signals(number).name, flush=True)
    sys.exit(0)
signal.signal(signal.SIGINT, end); signal.signal(signal.SIGTERM, end)
print("alive", os.getpid(), *sys.argv[1:], flush=True)
while True: signal.pause()
""",
    # Ends only when killed, and has a child of its own.
    "stubborn": """
import os, signal, subprocess, sys
signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
print("alive", os.getpid(), child.pid, flush=True)
while True: signal.pause()
""",
    "broken": """
print("error: no such camera", flush=True)
raise SystemExit(2)
""",
    "aborting": """
import os
os.abort()
""",
}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    package = tmp_path / "fake_nodes"
    package.mkdir()
    (package / "__init__.py").write_text("")
    for name, text in FAKE_NODES.items():
        (package / f"{name}.py").write_text(text)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}


class Log:
    """Keeps what nodes print, and lets a test wait for a line."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self._read, self._write = os.pipe()

    def __call__(self, name: str, line: str) -> None:
        self.lines.append((name, line))
        os.write(self._write, b".")

    def wait_for(self, name: str, start: str) -> str:
        while True:
            found = [line for who, line in list(self.lines) if who == name and line.startswith(start)]
            if found:
                return found[0]
            os.read(self._read, 1)


def supervise(environment: dict[str, str], log: Log, *executables: str) -> Supervisor:
    nodes = tuple(NodeSpec(executable, f"{executable}_{index}") for index, executable in enumerate(executables))
    return Supervisor(Graph("test", nodes), environment, log, package="fake_nodes")


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_nodes_stop_in_reverse_order_and_end_well(environment: dict[str, str]) -> None:
    log = Log()
    with supervise(environment, log, "obedient", "obedient", "obedient"):
        processes = [int(log.wait_for(f"obedient_{i}", "alive").split()[1]) for i in range(3)]
    assert [name for name, line in log.lines if line == "ended by SIGINT"] == ["obedient_2", "obedient_1", "obedient_0"]
    assert not any(map(is_alive, processes))


def test_a_node_gets_its_name_namespace_and_parameters(environment: dict[str, str]) -> None:
    log = Log()
    with supervise(environment, log, "obedient"):
        words = log.wait_for("obedient_0", "alive").split()
        assert words[2:7] == ["--ros-args", "-r", "__node:=obedient_0", "-r", "__ns:=/vla"]
        assert Path(words[-1]).is_file()
    assert not Path(words[-1]).exists()


def test_a_stubborn_node_and_its_child_are_killed(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    impatient = ((signal.SIGINT, 0.2), (signal.SIGTERM, 0.2), (signal.SIGKILL, 5.0))
    monkeypatch.setattr("vla_ros.ros.supervising._ESCALATION", impatient)
    log = Log()
    with supervise(environment, log, "stubborn"):
        ends = [os.pidfd_open(int(word)) for word in log.wait_for("stubborn_0", "alive").split()[1:]]
    assert ("stubborn_0", "has not ended 0.2 s after SIGTERM") in log.lines
    assert_ended(ends)


def assert_ended(processes: list[int]) -> None:
    """Wait for the end of processes given by their pidfd, which becomes readable then."""
    for process in processes:
        assert select.select([process], [], [], 10.0)[0]
        os.close(process)


def test_a_node_that_fails_at_start_stops_the_rest_and_is_quoted(environment: dict[str, str]) -> None:
    log = Log()
    with pytest.raises(NodeDied) as caught, supervise(environment, log, "obedient", "broken") as nodes:
        nodes.wait()
    assert str(caught.value) == "node broken_1 ended with exit code 2; it said at last:\n  error: no such camera"


def test_a_node_ended_by_a_signal_is_named_with_it(environment: dict[str, str]) -> None:
    with pytest.raises(NodeDied) as caught, supervise(environment, Log(), "aborting") as nodes:
        nodes.wait()
    assert str(caught.value) == "node aborting_0 was ended by SIGABRT; it said at last:\n  (nothing)"


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_leaves_the_block_and_stops_the_nodes(
    environment: dict[str, str], number: signal.Signals, error: type[BaseException]
) -> None:
    log = Log()
    before = signal.getsignal(number)
    with pytest.raises(error), supervise(environment, log, "obedient") as nodes:  # noqa: PT012 - it is raised in wait
        process = int(log.wait_for("obedient_0", "alive").split()[1])
        signal.raise_signal(number)
        nodes.wait()
    assert ("obedient_0", "ended by SIGINT") in log.lines
    assert not is_alive(process)
    assert signal.getsignal(number) is before


PARENT = """
from vla_ros.graph import Graph, NodeSpec
from vla_ros.ros.supervising import Supervisor
import os
with Supervisor(Graph("test", (NodeSpec("obedient", "a"), NodeSpec("obedient", "b"))), os.environ, package="fake_nodes",
                log=lambda name, line: print(line, flush=True)) as nodes:
    nodes.wait()
"""


def test_killing_the_parent_leaves_no_node_behind(environment: dict[str, str]) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], env=environment, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    processes = [int(parent.stdout.readline().split()[1]) for _ in range(2)]
    ends = [os.pidfd_open(process) for process in processes]
    parent.kill()
    parent.wait()
    assert_ended(ends)


def test_the_command_line_has_remappings() -> None:
    node = NodeSpec("inference", "inference", remappings=(("/a", "/b"),))
    arguments = command(node, Path("p.yaml"))
    assert arguments[:3] == [sys.executable, "-m", "vla_ros.ros.nodes.inference"]
    assert arguments[-4:] == ["-r", "/a:=/b", "--params-file", "p.yaml"]


def test_texts_that_yaml_takes_for_something_else_are_quoted() -> None:
    node = NodeSpec("inference", "inference", params={"instruction": "y", "max_rate_hz": 5.0, "names": ["n", "1"]})
    text = params_file(node)
    assert '"instruction": "y"' in text
    assert yaml.safe_load(text) == {"/vla/inference": {"ros__parameters": dict(node.params)}}
