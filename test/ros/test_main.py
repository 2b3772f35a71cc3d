"""A node process ends with 0 when asked to, with 2 and one line when its configuration is wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("rclpy")

PROGRAM = textwrap.dedent(
    """
    import gc
    import sys
    import time
    from rclpy.node import Node
    from vla_ros.ros.main import run

    class Told(Node):
        def __init__(self):
            super().__init__("told", automatically_declare_parameters_from_overrides=True)
            if self.has_parameter("wrong"):
                raise ValueError("wrong: given 1; should not be given")
            if self.has_parameter("slow"):
                print("making", flush=True)
                time.sleep(60.0)
            if self.has_parameter("file"):
                open(self.get_parameter("file").value)
            self.create_timer(0.01, self.on_timer)

        def on_timer(self):
            # What is there at the start is frozen: no later collection walks over it.
            print("ready" if gc.get_freeze_count() > 10_000 else "not frozen", flush=True)

        def destroy_node(self):
            self.get_logger().info("goodbye")  # the context is still valid
            super().destroy_node()

    sys.exit(run(Told))
    """
)


def start(ros_domain_id: int, *arguments: str, parent: int | None = None) -> subprocess.Popen[str]:
    added = {} if parent is None else {"VLA_ROS_PARENT": str(parent)}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "ROS_DOMAIN_ID": str(ros_domain_id), **added},
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_cleanly(ros_domain_id: int, number: signal.Signals) -> None:
    process = start(ros_domain_id)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "goodbye" in errors and "Traceback" not in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_what_is_still_being_made(ros_domain_id: int, number: signal.Signals) -> None:
    process = start(ros_domain_id, "--ros-args", "-p", "slow:=1")
    assert process.stdout is not None
    assert process.stdout.readline() == "making\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")


IMPORTING = """
import importlib, time
from vla_ros.ros.nodes.__main__ import main
importlib.import_module = lambda name: (print("importing", name, flush=True), time.sleep(60.0))
main("inference")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_imports_without_a_traceback(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", IMPORTING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "importing vla_ros.ros.nodes.inference\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")


def test_the_death_of_the_parent_ends_it(ros_domain_id: int) -> None:
    parent = subprocess.Popen(["sleep", "60"])
    process = start(ros_domain_id, parent=parent.pid)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    parent.kill()
    parent.wait()
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "goodbye" in errors and "Traceback" not in errors


HANGING = """
import signal, threading
from vla_ros.ros import ending
ending._LIMIT_S = 0.5
ending.heed()
print("ready", flush=True)
lock = threading.Lock()
lock.acquire()
while True:
    lock.acquire()
"""


def test_what_hangs_says_where_and_ends_all_the_same() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HANGING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert 'File "<string>", line' in errors


def test_a_wrong_configuration_is_one_line_and_2(ros_domain_id: int) -> None:
    process = start(ros_domain_id, "--ros-args", "-p", "wrong:=1")
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert errors.strip() == "error: wrong: given 1; should not be given"


def test_a_file_that_is_not_there_is_one_line_and_2(ros_domain_id: int) -> None:
    process = start(ros_domain_id, "--ros-args", "-p", "file:=nowhere")
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert errors.strip() == "error: [Errno 2] No such file or directory: 'nowhere'"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--params-file", "nowhere.yaml"), "error: --ros-args --params-file nowhere.yaml: "),
        (("--nope",), "error: --ros-args --nope: "),
        (("-p", "a"), "error: --ros-args -p a: "),
    ],
)
def test_wrong_ros_arguments_are_told_without_a_traceback_and_2(
    ros_domain_id: int, arguments: tuple[str, ...], told: str
) -> None:
    process = start(ros_domain_id, "--ros-args", *arguments)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert told in errors and "Traceback" not in errors
