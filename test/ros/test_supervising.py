"""Supervisor with real, tiny processes: order, parameters, logs, deaths, second lives, and nothing left behind."""

from __future__ import annotations

import _thread
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from vla_ros.graph import Graph, NodeSpec
from vla_ros.ros.supervising import NodeDied, Supervisor, command, params_file

FAKE_NODES = {
    # As ours does, whatever the node is: ends it when its parent has died.
    "__main__": """
import runpy, sys
from vla_ros.ros import ending
ending.heed()
runpy.run_module(f"fake_nodes.{sys.argv.pop(1)}", run_name="__main__")
""",
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
print("here I am", flush=True)
os.abort()
""",
    # Has shared memory as Fast DDS has it: a segment, and a lock on a second file as long as the process lives.
    "sharing": """
import fcntl, os, signal
signal.signal(signal.SIGINT, signal.SIG_DFL); signal.signal(signal.SIGTERM, signal.SIG_DFL)
segment = f"/dev/shm/fastdds_{os.getpid():016x}"
open(segment, "w")
lock = open(segment + "_el", "w")
fcntl.flock(lock, fcntl.LOCK_EX)
os.utime(segment + "_el", (0, 0))
print("alive", os.getpid(), segment, flush=True)
while True: signal.pause()
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

    def wait_for(self, name: str, start: str, times: int = 1) -> str:
        """The `times`-th line of that node that begins so."""
        while True:
            found = [line for who, line in list(self.lines) if who == name and line.startswith(start)]
            if len(found) >= times:
                return found[times - 1]
            os.read(self._read, 1)


def supervise(environment: dict[str, str], log: Log, *executables: str, restarts: bool = False) -> Supervisor:
    nodes = tuple(
        NodeSpec(executable, f"{executable}_{index}", restarts=restarts) for index, executable in enumerate(executables)
    )
    return Supervisor(Graph("test", nodes), environment, log, lambda text: log("told", text), package="fake_nodes")


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
    assert str(caught.value) == "node broken_1 ended with exit code 2; its last output:\n  error: no such camera"


def test_a_node_ended_by_a_signal_is_named_with_it(environment: dict[str, str]) -> None:
    with pytest.raises(NodeDied) as caught, supervise(environment, Log(), "aborting") as nodes:
        nodes.wait()
    assert str(caught.value) == "node aborting_0 was killed by SIGABRT; its last output:\n  here I am"


# --- second lives -----------------------------------------------------------------------------------------------------


@pytest.fixture
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vla_ros.graph.PAUSES_S", (0.01, 0.02))


@pytest.mark.usefixtures("_in_a_hurry")
def test_a_killed_node_starts_again_in_its_place_and_the_user_is_told(environment: dict[str, str]) -> None:
    log = Log()
    with supervise(environment, log, "obedient", "obedient", "obedient", restarts=True):
        others = [int(log.wait_for(f"obedient_{i}", "alive").split()[1]) for i in (0, 2)]
        first = log.wait_for("obedient_1", "alive")
        os.kill(int(first.split()[1]), signal.SIGKILL)
        second = log.wait_for("obedient_1", "alive", times=2)
        assert second.split()[1] != first.split()[1]
        assert second.split()[2:] == first.split()[2:]  # with the same parameters
        assert all(map(is_alive, others))
    assert [text for who, text in log.lines if who == "told"] == [
        f"node obedient_1 was killed by SIGKILL; its last output:\n  {first}\nnode obedient_1 restarts in 0.01 s"
    ]
    assert [name for name, line in log.lines if line == "ended by SIGINT"] == ["obedient_2", "obedient_1", "obedient_0"]
    assert not any(map(is_alive, [*others, int(second.split()[1])]))


@pytest.mark.usefixtures("_in_a_hurry")
def test_a_node_that_does_not_live_is_dead_after_a_few_attempts(environment: dict[str, str]) -> None:
    log = Log()
    supervisor = supervise(environment, log, "obedient", "aborting", restarts=True)
    with pytest.raises(NodeDied, match="node aborting_1 was killed by SIGABRT"), supervisor as nodes:
        nodes.wait()
    assert log.lines.count(("aborting_1", "here I am")) == 3
    assert ("obedient_0", "ended by SIGINT") in log.lines


def test_a_wrong_configuration_is_not_tried_again(environment: dict[str, str]) -> None:
    log = Log()
    with pytest.raises(NodeDied, match="no such camera"), supervise(environment, log, "broken", restarts=True) as nodes:
        nodes.wait()
    assert [who for who, _ in log.lines] == ["broken_0"]


def test_stopping_does_not_wait_for_a_node_that_would_start_again(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vla_ros.graph.PAUSES_S", (1000.0,))
    log = Log()
    with supervise(environment, log, "aborting", restarts=True):
        log.wait_for("told", "node aborting_0")
    assert log.lines.count(("aborting_0", "here I am")) == 1


# --- signals, and what is left ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit), (signal.SIGHUP, SystemExit)],
)
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


def test_what_an_extension_module_makes_of_a_signal_is_taken_for_the_signal(environment: dict[str, str]) -> None:
    with pytest.raises(KeyboardInterrupt) as caught, supervise(environment, Log()):  # noqa: PT012 - as pybind11 does
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise RuntimeError("Unable to convert call argument '0' to Python object") from None
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_an_error_without_a_signal_stays_one(environment: dict[str, str]) -> None:
    with pytest.raises(RuntimeError, match="of its own"), supervise(environment, Log()):
        raise RuntimeError("of its own")


def test_a_signal_that_comes_just_before_the_waiting_is_not_missed(environment: dict[str, str]) -> None:
    """Python then knows of the signal, and no system call is interrupted."""
    unheard = threading.Timer(0.3, _thread.interrupt_main, [signal.SIGTERM])
    begun_s = time.monotonic()
    late = threading.Timer(10.0, os.kill, [os.getpid(), signal.SIGINT])  # ends the waiting where that was missed
    with pytest.raises(SystemExit), supervise(environment, Log()) as nodes:  # noqa: PT012 - it is raised in wait
        unheard.start()
        late.start()
        nodes.wait()
    late.cancel()
    assert time.monotonic() - begun_s < 5.0


PARENT = """
from vla_ros.graph import Graph, NodeSpec
from vla_ros.ros.supervising import Supervisor
import os
with Supervisor(Graph("test", (NodeSpec("obedient", "a"), NodeSpec("obedient", "b"))), os.environ, package="fake_nodes",
                log=lambda name, line: print(line, flush=True)) as nodes:
    nodes.wait()
"""


def test_nodes_end_well_when_their_parent_is_killed(environment: dict[str, str]) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], env=environment, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    processes = [int(parent.stdout.readline().split()[1]) for _ in range(2)]
    ends = [os.pidfd_open(process) for process in processes]
    parent.kill()
    parent.wait()
    assert_ended(ends)


IN_TERMINAL = """
import fcntl, sys, termios
from pathlib import Path
from vla_ros.graph import Graph, NodeSpec
from vla_ros.ros.supervising import Supervisor
import os
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
def log(name, line):
    with open(sys.argv[1], "a") as kept:
        print(name, line, file=kept)
    print(name, line, flush=True)  # raises once the terminal is gone
nodes = (NodeSpec("obedient", "a"), NodeSpec("obedient", "b"))
with Supervisor(Graph("test", nodes), os.environ, log, package="fake_nodes") as nodes:
    nodes.wait()
"""


def test_a_closed_terminal_stops_the_nodes_in_order(environment: dict[str, str], tmp_path: Path) -> None:
    terminal, theirs = pty.openpty()
    command = [sys.executable, "-c", IN_TERMINAL, str(tmp_path / "kept")]
    parent = subprocess.Popen(
        command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    said = b""
    while said.count(b"alive") < 2:
        said += os.read(terminal, 1000)
    os.close(terminal)
    assert parent.wait(30.0) == 128 + signal.SIGHUP
    kept = (tmp_path / "kept").read_text()
    assert [line for line in kept.splitlines() if "ended" in line] == ["b ended by SIGINT", "a ended by SIGINT"]


@pytest.mark.usefixtures("_in_a_hurry")
def test_shared_memory_of_killed_nodes_is_removed(environment: dict[str, str]) -> None:
    log = Log()
    with supervise(environment, log, "sharing", "sharing", restarts=True):
        lives = [log.wait_for(f"sharing_{index}", "alive").split() for index in range(2)]
        os.kill(int(lives[0][1]), signal.SIGKILL)
        lives.append(log.wait_for("sharing_0", "alive", times=2).split())
        segments = [Path(life[2]) for life in lives]
        # That of the first life has gone before the second began.
        assert [segment.exists() for segment in segments] == [False, True, True]
    # A signal ended the last ones, which tidy up no more than a kill -9 would let them.
    assert not any(path.exists() for segment in segments for path in (segment, Path(f"{segment}_el")))


def test_what_a_killed_parent_leaves_is_removed_at_the_next_start(environment: dict[str, str]) -> None:
    program = PARENT.replace("obedient", "sharing")
    parent = subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    lives = [parent.stdout.readline().split() for _ in range(2)]
    ends = [os.pidfd_open(int(life[1])) for life in lives]
    parent.kill()
    parent.wait()
    assert_ended(ends)
    assert all(Path(life[2]).exists() for life in lives)
    with supervise(environment, Log()):
        assert not any(Path(life[2]).exists() for life in lives)


def test_the_command_line_has_remappings() -> None:
    node = NodeSpec("inference", "inference", remappings=(("/a", "/b"),))
    arguments = command(node, Path("p.yaml"))
    assert arguments[:4] == [sys.executable, "-m", "vla_ros.ros.nodes", "inference"]
    assert arguments[-4:] == ["-r", "/a:=/b", "--params-file", "p.yaml"]


def test_texts_that_yaml_takes_for_something_else_are_quoted() -> None:
    node = NodeSpec("inference", "inference", params={"instruction": "y", "max_rate_hz": 5.0, "names": ["n", "1"]})
    text = params_file(node)
    assert '"instruction": "y"' in text
    assert yaml.safe_load(text) == {"/vla/inference": {"ros__parameters": dict(node.params)}}
