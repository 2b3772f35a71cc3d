"""Cameras, joints and commands of other processes into a dataset: rate, lost and shifted rows, cost, time to save."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from recorder_input import CAMERAS, HEIGHT, TASK, WIDTH, Clock, Pictures, read_number
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from vla_ros import topics
from vla_ros.config import CameraConfig, RecorderNodeConfig, to_parameters
from vla_ros.control import kinematics
from vla_ros.graph import NodeSpec
from vla_ros.recording.config import RecordingConfig
from vla_ros.recording.video_reader import VideoReader, probe
from vla_ros.robots.panda import PANDA
from vla_ros.ros import convert, ending, qos, transport
from vla_ros.ros.main import run
from vla_ros.ros.supervising import params_file
from vla_ros.values import Command

OURS = "vla_ros"
RATES_HZ = (30, 50)
STATES_HZ = 100.0
TOPICS = {name: f"/bench/{name}/image_raw" for name in CAMERAS}
WARM_UP_S = 2.0
PATIENCE_S = 60.0
#: The goals, at the highest rate.
SAVE_S = 0.2
#: Joints are where the frame shows them, as far as float32 tells.
SAME_NS = 1_000_000
BLOCK = 50  # frames decoded at once
DATA = "data/chunk-000/file-000.parquet"
HERE = Path(__file__)
HZ = "VLA_ROS_BENCHMARK_HZ"


# --- the processes ----------------------------------------------------------------------------------------------------


class Cameras(Node):
    """Three cameras that are triggered together; stamps are the triggers, numbers count them."""

    def __init__(self) -> None:
        super().__init__("cameras")
        self._frames = Clock(float(os.environ[HZ]))
        self._pictures = [Pictures(index) for index in range(len(CAMERAS))]
        self._messages = [Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=3 * WIDTH) for _ in CAMERAS]
        for message in self._messages:
            message.data = array("B", bytes(3 * WIDTH * HEIGHT))
        self._outputs = [self.create_publisher(Image, topic, qos.SENSOR) for topic in TOPICS.values()]
        self._due_ns = time.time_ns() // self._frames.period_ns * self._frames.period_ns
        self._latest_ms = 0.0
        self.create_timer(self._frames.period_ns * 1e-9 / 4, self._on_timer)

    def destroy_node(self) -> None:
        """Say how late a frame was published, at worst: on a busy machine that is not the recorder's doing."""
        print(f"; cameras late by up to {self._latest_ms:.0f} ms", end="")
        super().destroy_node()

    def _on_timer(self) -> None:
        if time.time_ns() < self._due_ns:
            return
        number = self._frames.number(self._due_ns)
        for publisher, message, pictures in zip(self._outputs, self._messages, self._pictures, strict=True):
            pictures.draw(number, np.frombuffer(message.data, dtype=np.uint8).reshape(HEIGHT, WIDTH, 3))
            message.header.stamp = convert.ns_to_stamp(self._due_ns)
            publisher.publish(message)
        self._latest_ms = max(self._latest_ms, (time.time_ns() - self._due_ns) * 1e-6)
        self._due_ns += self._frames.period_ns


class Arm(Node):
    """An arm whose first joint follows a ramp, and the commands that it follows."""

    def __init__(self) -> None:
        super().__init__("arm")
        self._frames = Clock(float(os.environ[HZ]))
        ends = PANDA.endpoints
        self._joints = self.create_publisher(JointState, ends["joint_states"].name, qos.STATE)
        self._fingers = self.create_publisher(JointState, ends["gripper_joint_states"].name, qos.STATE)
        self._commands = self.create_publisher(JointTrajectory, topics.COMMAND, qos.COMMAND)
        self._pose = kinematics.for_robot(PANDA).forward(np.array(PANDA.home_rad))
        self.create_timer(1.0 / STATES_HZ, self._on_timer)

    def _on_timer(self) -> None:
        now_ns = self.get_clock().now().nanoseconds
        positions = np.array(PANDA.home_rad)
        positions[0] = self._frames.joint(now_ns)
        joints = JointState(name=list(PANDA.joint_names), position=positions.tolist())
        fingers = JointState(name=list(PANDA.gripper.finger_joints), position=[0.02, 0.02])
        joints.header.stamp = fingers.header.stamp = convert.ns_to_stamp(now_ns)
        self._joints.publish(joints)
        self._fingers.publish(fingers)
        command = Command(now_ns, positions, np.zeros(len(positions)), self._pose, 0.04)
        self._commands.publish(convert.command_to_trajectory(command, PANDA.joint_names, PANDA.base_frame))


def recorder() -> int:
    """The real recorder node."""
    from vla_ros.ros.nodes.recorder import RecorderNode

    return run(RecorderNode)


ROLES: dict[str, Callable[[], int]] = {"cameras": partial(run, Cameras), "arm": partial(run, Arm), "recorder": recorder}


# --- the measurement --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """One recording: what it cost, and what is in it; `rate_hz`: of rows that have frames of their own.

    `lost`: frames that were taken in the meantime and are in no row, of the camera that lacks most, or rows marked as
    repeating something. `shifted`: other rows whose frame is not of their joints' instant.
    """

    who: str
    hz: int
    rows: int
    rate_hz: float
    lost: int
    shifted: int
    cpu_percent: float  # of one core
    peak_mb: float
    save_s: float
    said: str = ""


class Operator(Node):
    """Tells the recorder what to do, while that lives."""

    def __init__(self, recorder: subprocess.Popen) -> None:
        super().__init__("operator")
        self._recorder = recorder
        self._spinner = SingleThreadedExecutor()
        self._spinner.add_node(self)

    def spin(self, seconds: float, done: Callable[[], Any] = lambda: False) -> None:
        """Until it is done, at most so long."""
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s and not done() and self._recorder.poll() is None:
            self._spinner.spin_once(timeout_sec=0.05)

    def tell(self, word: str) -> tuple[bool, str, float]:
        """Whether it did, what it answered, and how long that took [s]."""
        client = self.create_client(Trigger, topics.recorder(word))
        self.spin(PATIENCE_S, client.service_is_ready)
        start_s = time.monotonic()
        future = client.call_async(Trigger.Request())
        self.spin(PATIENCE_S, future.done)
        self.destroy_client(client)
        if not future.done():
            return False, f"no answer to {word}", time.monotonic() - start_s
        return future.result().success, future.result().message, time.monotonic() - start_s


def cpu_s(process_id: int) -> float:
    """Processor time that a process has had."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mb(process_id: int) -> float:
    """The most memory that a process has had at once."""
    lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


@contextmanager
def processes(root: Path, hz: int, folder: Path) -> Iterator[dict[str, subprocess.Popen]]:
    """Each of ROLES in a process of its own; what they say goes into `folder`."""
    cameras = {
        name: CameraConfig(topic=topic, width=WIDTH, height=HEIGHT, rate_hz=hz) for name, topic in TOPICS.items()
    }
    config = RecorderNodeConfig(root=str(root), cameras=cameras, recording=RecordingConfig(fps=hz), instruction=TASK)
    params = folder / "recorder.yaml"
    params.write_text(params_file(NodeSpec("recorder", "recorder", params=to_parameters(config))))
    running: dict[str, subprocess.Popen] = {}
    try:
        for role in ROLES:
            command = [sys.executable, str(HERE), "--role", role]
            if role == "recorder":
                command += ["--ros-args", "-r", f"__ns:={topics.NAMESPACE}", "--params-file", str(params)]
            with (folder / f"{role}.log").open("w") as log:
                running[role] = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, HZ: str(hz)})
        yield running
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            try:
                process.wait(10.0)
            except subprocess.TimeoutExpired:
                process.kill()


def record(hz: int, seconds: float) -> Result:
    """One episode of our recorder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = folder / "dataset"
        with processes(root, hz, folder) as running:
            operator = Operator(running["recorder"])
            recorder_id = running["recorder"].pid
            deadline_s = time.monotonic() + PATIENCE_S
            while not (started := operator.tell("start"))[0]:
                if time.monotonic() > deadline_s or running["recorder"].poll() is not None:
                    logs = (f"{role}: {(folder / f'{role}.log').read_text()[-2000:]}" for role in ROLES)
                    sys.exit("\n".join((f"no recording: {started[1]}", *logs)))
                operator.spin(0.5)
            begun_s = time.monotonic()
            operator.spin(WARM_UP_S)
            used_s, start_s = cpu_s(recorder_id), time.monotonic()
            operator.spin(seconds)
            end_s = time.monotonic()
            used_s = cpu_s(recorder_id) - used_s
            saved, said, save_s = operator.tell("save")
            if not saved:
                said = f"{said}; {operator.tell('save_anyway')[1]}"
            memory_mb = peak_mb(recorder_id)
        said += (folder / "cameras.log").read_text()
        operator.destroy_node()
        if not (root / DATA).exists():
            sys.exit(f"nothing was saved: {said}")
        audit = look(root, hz)
    return Result(
        OURS, hz, audit.rows, (audit.rows - audit.lost) / (end_s - begun_s), audit.lost, audit.shifted,
        100.0 * used_s / (end_s - start_s), memory_mb, save_s, said,
    )  # fmt: skip


def feed_lerobot(python: str, hz: int, seconds: float, codec: str) -> Result:
    """The same frames into LeRobot's writer, made in its own process: no transport."""
    hidden = ("LD_LIBRARY_PATH", "PYTHONPATH", "AMENT_PREFIX_PATH", "_ROS_WHEELS_BOOTSTRAP_COMPLETE")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "dataset"
        environment = {key: value for key, value in os.environ.items() if key not in hidden}
        environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": name}
        command = [python, str(HERE.with_name("recorder_input.py")), str(root), str(hz), str(seconds), codec]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"LeRobot failed:\n{done.stderr[-2000:]}")
        told = json.loads(done.stdout.splitlines()[-1])
        audit = look(root, hz)
    return Result(
        f"LeRobot {told['version']} {codec}", hz, audit.rows, audit.rows / told["seconds"],
        max(audit.lost, round(hz * told["seconds"]) - audit.rows), audit.shifted,
        told["cpu_percent"], told["peak_mb"], told["save_s"],
    )  # fmt: skip


@dataclass(frozen=True)
class Audit:
    """What is in a recording of one episode."""

    rows: int
    lost: int
    shifted: int


def look(root: Path, hz: int) -> Audit:
    """Read every frame's number, and hold it against its row's joints: they were the same instant's."""
    clock = Clock(hz)
    table = pq.read_table(root / DATA)
    joints = np.array(table["observation.state"].to_pylist())[:, 0]
    ages_ns, marked = np.zeros((len(joints), len(CAMERAS))), np.zeros(len(joints), dtype=bool)
    if "timing.stamp" in table.column_names:  # a frame stands for its row, though taken a little before or after
        times = np.array(table["timestamp"].to_pylist())[:, None]
        ages_ns = (times - np.array(table["timing.stamp"].to_pylist())) * 1e9
        marked = np.array(table["timing.repeated"].to_pylist()).any(axis=1)  # which says that it repeats something
    lost, shifted = int(marked.sum()), np.zeros(len(joints), dtype=bool)
    for index, camera in enumerate(CAMERAS):
        path = root / f"videos/observation.images.{camera}/chunk-000/file-000.mp4"
        there = min(len(joints), probe(path).frames)  # a video that has lost frames has none for the last rows
        reader = VideoReader(path)
        blocks = np.array_split(np.arange(there), 1 + there // BLOCK)
        numbers = np.array([read_number(image) for block in blocks for image in reader.frames(block.tolist())])
        reader.close()
        seen = np.unwrap(numbers, period=1 << 16)
        lost = max(lost, int(seen.max() - seen.min()) + 1 - len(set(seen)) + len(joints) - there)
        late_ns = clock.lateness_ns(joints[:there], numbers) - ages_ns[:there, index]
        shifted[:there] |= np.abs(late_ns) > SAME_NS
    return Audit(len(joints), lost, int((shifted & ~marked).sum()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--hz", type=int, nargs="+", default=RATES_HZ)
    parser.add_argument("--lerobot", default="", metavar="PYTHON", help="an interpreter that imports lerobot 0.6")
    parser.add_argument("--role", default="", help=argparse.SUPPRESS)
    given, _ = parser.parse_known_args()
    if given.role:
        ending.leave(ROLES[given.role]())
    results = []
    for hz in given.hz:
        with transport.locked_domain_id() as domain_id:
            os.environ.update(transport.local_environment(os.environ, domain_id))
            rclpy.init()
            results.append(record(hz, given.seconds))
            rclpy.shutdown()
        for codec in ("h264", "libsvtav1") if given.lerobot else ():
            results.append(feed_lerobot(given.lerobot, hz, given.seconds, codec))
    report(results, given.seconds)


def report(results: list[Result], seconds: float) -> None:
    """What was measured, against the goals."""
    print(f"3 x {WIDTH}x{HEIGHT} rgb8, joints, gripper and commands at {STATES_HZ:g} Hz, {seconds:g} s:")
    print(f"{'':24} asked    got   rows  lost shifted  CPU %     MB  save s")
    for it in results:
        print(
            f"{it.who:24} {it.hz:5d} {it.rate_hz:6.1f} {it.rows:6d} {it.lost:5d} {it.shifted:7d} "
            f"{it.cpu_percent:6.0f} {it.peak_mb:6.0f} {it.save_s:7.3f} {it.said}"
        )
    ours = [result for result in results if result.who == OURS]
    for mine in ours:
        for other in results:
            if other.who != OURS and other.hz == mine.hz:
                print(
                    f"beside {other.who} at {mine.hz} Hz: rate {mine.rate_hz / other.rate_hz:.2f}, "
                    f"CPU {mine.cpu_percent / other.cpu_percent:.2f}, save {mine.save_s / other.save_s:.3f}"
                )
    hardest = max(ours, key=lambda result: result.hz)
    for what, kept in (
        (f"{hardest.hz} Hz", hardest.rate_hz > 0.99 * hardest.hz),
        ("0 lost, 0 shifted", not any(result.lost or result.shifted for result in ours)),
        (f"save within {SAVE_S:g} s", all(result.save_s <= SAVE_S for result in ours)),
    ):
        print(f"{what}: {'kept' if kept else 'MISSED'}")


if __name__ == "__main__":
    main()
