"""From image to chunk and from an action's due time to its command, between processes, in bare hops of DDS.

A machine that is busy delays the hop as well, so that only the ratio says something of the nodes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from franka_msgs.msg import FrankaState
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from vla_ros import messages, topics
from vla_ros.actions import ActionSpec, GripperConvention, Space
from vla_ros.config import CameraConfig, ControllerNodeConfig, InferenceNodeConfig, PolicyConfig, to_parameters
from vla_ros.graph import NodeSpec
from vla_ros.policies import registry
from vla_ros.policies.policy import Inference, WindowSpec
from vla_ros.robots.panda import PANDA
from vla_ros.robots.robot import Robot
from vla_ros.ros import ending, qos, transport
from vla_ros.ros.main import run
from vla_ros.ros.supervising import params_file
from vla_ros.values import NANOSECONDS_PER_SECOND, Array, Committed, Config, ModelChunk, Window

HEIGHT, WIDTH, CAMERA_HZ, JOINTS_HZ = 480, 640, 30.0, 100.0
CAMERAS = {f"camera_{i}": f"/bench/camera_{i}/image_raw" for i in range(3)}
POLICY, ROWS, STEP_HZ = "instant", 10, 10.0
SWING_RAD = 0.05
#: The goals, of the bare hop in the same run: the chunk's median and p99, and the command's p99 beyond the period.
HOPS_P50, HOPS_P99, COMMAND_HOPS_P99 = 3.0, 3.0, 1.0
#: How long a process has to end; then it is killed, and what was measured is still reported.
_END_S = 10.0
WARM_UP_S = 2.0
HERE = Path(__file__)


# --- the processes ----------------------------------------------------------------------------------------------------


def swing(from_ns: int, rows: int) -> Array:
    """Joint positions (rows, J): the first joint swings slowly about home."""
    due_s = from_ns / NANOSECONDS_PER_SECOND + np.arange(rows) / STEP_HZ
    positions = np.tile(PANDA.home_rad, (rows, 1))
    positions[:, 0] += SWING_RAD * np.sin(due_s)
    return positions


class Instant:
    """A policy that looks at all cameras and answers at once: swing the first joint slowly about where it was."""

    def __init__(self, robot: Robot) -> None:
        self.action_spec = ActionSpec(
            space=Space.JOINT_POSITION,
            horizon=ROWS,
            rate_hz=STEP_HZ,
            gripper=GripperConvention.NONE,
            joint_names=robot.joint_names,
        )
        self.window_spec = WindowSpec()

    def reset(self, instruction: str) -> None:
        """Follows any."""

    def infer(self, window: Window, committed: Committed) -> Inference:
        """The same swing over time, whatever is seen."""
        return Inference(ModelChunk(window[-1].instant_ns, swing(window[-1].instant_ns, ROWS)))


def load(robot: Robot, checkpoint: str, action: ActionSpec | None) -> Instant:
    """As the registry calls it."""
    return Instant(robot)


def inference() -> int:
    """The real inference node, with that policy."""
    from vla_ros.ros.nodes.inference import InferenceNode

    sys.path.insert(0, str(HERE.parent))
    registry.POLICIES[POLICY] = registry.Entry(HERE.stem, needs_checkpoint=False)
    return run(InferenceNode)


def controller() -> int:
    """The real controller node."""
    from vla_ros.ros.nodes.controller import ControllerNode

    return run(ControllerNode)


class Cameras(Node):
    """Three cameras that see at the same instants, as hardware that is triggered; stamps are the instants."""

    def __init__(self) -> None:
        super().__init__("cameras")
        self._image = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=3 * WIDTH)
        noise = np.random.default_rng(0).integers(0, 256, 3 * WIDTH * HEIGHT, dtype=np.uint8)
        self._image.data = array("B", noise.tobytes())
        self._images = [self.create_publisher(Image, topic, qos.SENSOR) for topic in CAMERAS.values()]
        self.create_timer(1 / CAMERA_HZ, self._on_timer)

    def _on_timer(self) -> None:
        self._image.header.stamp = self.get_clock().now().to_msg()
        self._image.data[0] = (self._image.data[0] + 1) % 256  # one that stays the same would count as frozen
        for publisher in self._images:
            self._image.header.frame_id = str(self.get_clock().now().nanoseconds)  # when this one is published
            publisher.publish(self._image)


class Arm(Node):
    """A robot that is where it was commanded last."""

    def __init__(self, rate_hz: float = JOINTS_HZ) -> None:
        super().__init__("arm")
        self._state = JointState(name=list(PANDA.joint_names), position=list(PANDA.home_rad), velocity=[0.0] * 7)
        self._states = self.create_publisher(JointState, PANDA.endpoints["joint_states"].name, qos.STATE)
        self._faults = self.create_publisher(FrankaState, PANDA.endpoints["robot_state"].name, qos.STATE)
        self.create_subscription(JointTrajectory, topics.COMMAND, self._on_command, qos.COMMAND)
        self.create_timer(1 / rate_hz, self._on_timer)

    def _on_command(self, message: JointTrajectory) -> None:
        self._state.position = list(message.points[0].positions[:7])

    def _on_timer(self) -> None:
        self._state.header.stamp = self.get_clock().now().to_msg()
        self._states.publish(self._state)
        self._faults.publish(FrankaState(robot_mode=FrankaState.ROBOT_MODE_MOVE))


class Hop(Node):
    """The bare hop: takes the last camera's images and prints each one's stamp, when it was sent, how long it took."""

    def __init__(self) -> None:
        super().__init__("hop")
        self._lines: list[str] = []
        self.create_subscription(Image, list(CAMERAS.values())[-1], self._on_image, qos.SENSOR)

    def _on_image(self, message: Image) -> None:
        published_ns = int(message.header.frame_id)
        stamp_ns = messages.stamp_to_ns(message.header.stamp)
        self._lines.append(f"{stamp_ns} {published_ns} {self.get_clock().now().nanoseconds - published_ns}")

    def destroy_node(self) -> None:
        """Print what was taken."""
        print(*self._lines, sep="\n", flush=True)
        super().destroy_node()


class Observer(Node):
    """Takes the times at which chunks and commands arrive."""

    def __init__(self) -> None:
        super().__init__("observer")
        self.chunks: dict[int, int] = {}  # the instant it is of -> when it came [ns]
        self.commands_ms: list[float] = []
        self.counts: dict[str, int] = defaultdict(int)
        self._due_ns: list[int] = []
        self.create_subscription(JointTrajectory, topics.CHUNK, self._on_chunk, qos.STATE)
        self.create_subscription(JointTrajectory, topics.COMMAND, self._on_command, qos.STATE)

    def forget(self) -> None:
        """Begin to measure."""
        self.chunks.clear()
        self.commands_ms.clear()
        self.counts.clear()

    def _on_chunk(self, message: JointTrajectory) -> None:
        now_ns = self.get_clock().now().nanoseconds
        chunk = messages.trajectory_to_chunk(message)
        self.chunks[chunk.observation_ns] = now_ns
        # Rows that are due before the next chunk can be here.
        newest_ns = self._due_ns[-1] if self._due_ns else 0
        self._due_ns += [due for k in range(ROWS) if (due := chunk.due_ns(k)) > max(now_ns, newest_ns)][:1]

    def _on_command(self, message: JointTrajectory) -> None:
        self.counts["commands"] += 1
        stamp_ns = messages.stamp_to_ns(message.header.stamp)
        while self._due_ns and self._due_ns[0] <= stamp_ns:
            self.commands_ms.append((self.get_clock().now().nanoseconds - self._due_ns.pop(0)) * 1e-6)


ROLES: dict[str, Callable[[], int]] = {
    "cameras": partial(run, Cameras),
    "arm": partial(run, Arm),
    "hop": partial(run, Hop),
    "inference": inference,
    "controller": controller,
}


# --- the measurement --------------------------------------------------------------------------------------------------


def inference_config() -> InferenceNodeConfig:
    """All cameras, as often as they can."""
    cameras = {name: CameraConfig(topic=topic, width=WIDTH, height=HEIGHT) for name, topic in CAMERAS.items()}
    policy = PolicyConfig(name=POLICY)
    return InferenceNodeConfig(policy=policy, instruction="swing", cameras=cameras, max_rate_hz=100.0)


def controller_config(rate_hz: float) -> ControllerNodeConfig:
    """Defaults, at this rate."""
    return ControllerNodeConfig.model_validate({"arm": {"rate_hz": rate_hz}})


@contextmanager
def processes(roles: Mapping[str, Config | None], script: Path = HERE) -> Iterator[dict[str, str]]:
    """Each role of `script` in a process of its own; what they print is in the mapping after the block."""
    printed: dict[str, str] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        running = {}
        for role, config in roles.items():
            command = [sys.executable, str(script), "--role", role]
            if config is not None:
                file = folder / f"{role}.yaml"
                file.write_text(params_file(NodeSpec(role, role, params=to_parameters(config))))
                command += ["--ros-args", "-r", f"__ns:={topics.NAMESPACE}", "--params-file", str(file)]
            running[role] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            stack.callback(running[role].kill)
        yield printed
        for process in running.values():
            process.terminate()
        for role, process in running.items():
            try:
                printed[role] = process.communicate(timeout=_END_S)[0]
            except subprocess.TimeoutExpired:
                process.kill()
                printed[role] = process.communicate()[0]
                print(f"{role} had not ended {_END_S:g} s after SIGTERM, and was killed", file=sys.stderr)


def measure(seconds: float, rate_hz: float) -> dict[str, list[float]]:
    """Everything running, for `seconds` after a warm-up; times [ms] by what they are of."""
    rclpy.init()
    observer = Observer()
    executor = SingleThreadedExecutor()
    executor.add_node(observer)

    def spin(seconds: float, done: Callable[[], Any] = lambda: False) -> None:
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s and not done():
            executor.spin_once(timeout_sec=0.1)

    roles = {
        "cameras": None,
        "arm": None,
        "hop": None,
        "inference": inference_config(),
        "controller": controller_config(rate_hz),
    }
    with processes(roles) as printed:
        start = observer.create_client(Trigger, topics.START)
        spin(30.0, lambda: start.service_is_ready() and observer.chunks)
        start.call_async(Trigger.Request())
        spin(30.0, lambda: observer.counts["commands"] > rate_hz)
        spin(WARM_UP_S)
        observer.forget()
        spin(seconds)
    rclpy.shutdown()
    print(f"commands {observer.counts['commands'] / seconds:.1f} Hz of {rate_hz:g}")
    hops = {stamp: rest for stamp, *rest in (map(int, line.split()) for line in printed["hop"].splitlines())}
    both = [(hops[instant], came_ns) for instant, came_ns in observer.chunks.items() if instant in hops]
    return {
        "one bare hop of the last image": [hop_ns * 1e-6 for (_, hop_ns), _ in both],
        "last image published, chunk there": [(came_ns - sent_ns) * 1e-6 for (sent_ns, _), came_ns in both],
        "action due, its command there": observer.commands_ms,
    }


def quantiles(times_ms: list[float]) -> tuple[float, float, float]:
    """p50, p99 and the worst."""
    p50, p99 = np.quantile(times_ms, (0.5, 0.99))
    return float(p50), float(p99), max(times_ms)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate-hz", type=float, default=100.0, help="of the controller")
    parser.add_argument("--role", default="", help=argparse.SUPPRESS)
    given, _ = parser.parse_known_args()
    if given.role:
        ending.leave(ROLES[given.role]())
    with transport.locked_domain_id() as domain_id:
        os.environ.update(transport.local_environment(os.environ, domain_id))
        measured = measure(given.seconds, given.rate_hz)
    report(measured, given.seconds, given.rate_hz)


def report(measured: dict[str, list[float]], seconds: float, rate_hz: float) -> None:
    """What was measured, against the goals."""
    print(f"3 x {WIDTH}x{HEIGHT} rgb8 at {CAMERA_HZ:g} Hz, joints at {JOINTS_HZ:g} Hz, {seconds:g} s; in ms:")
    print(f"{'':34} {'p50':>6} {'p99':>6} {'worst':>6}")
    for what, times_ms in measured.items():
        if not times_ms:
            sys.exit(f"{what}: nothing came")
        p50, p99, worst = quantiles(times_ms)
        print(f"{what:34} {p50:6.1f} {p99:6.1f} {worst:6.1f}   of {len(times_ms)}")
    hop, chunk, command = map(quantiles, measured.values())
    for what, time_ms, hop_ms, limit in (
        ("chunk p50", chunk[0], hop[0], HOPS_P50),
        ("chunk p99", chunk[1], hop[1], HOPS_P99),
        ("command p99 beyond the period", max(0.0, command[1] - 1e3 / rate_hz), hop[1], COMMAND_HOPS_P99),
    ):
        hops = time_ms / hop_ms
        kept = "kept" if hops <= limit else "MISSED"
        print(f"{what:30} {time_ms:6.2f} ms is {hops:5.2f} of a hop's {hop_ms:.2f}, limit {limit:g}: {kept}")


if __name__ == "__main__":
    main()
