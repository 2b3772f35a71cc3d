"""How evenly the controller commands, and at what cost: jitter of its commands as the driver receives them, CPU time.

A machine that is busy delays both, so that only their ratio says something of the controller.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from graph_latency import STEP_HZ, Arm, controller_config, processes, swing
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from vla_ros import topics
from vla_ros.robots.panda import PANDA
from vla_ros.ros import convert, qos, transport
from vla_ros.ros.main import run
from vla_ros.values import NANOSECONDS_PER_SECOND, ActionChunk

#: Of the bare timer's, in the same run: its p99, and its worst tick.
LIMIT_P99, LIMIT_WORST = 5.0, 5.0
#: Of a core, at 100 Hz: CPU time per command, which a slow machine sends fewer of.
LIMIT_CORE = 0.20
BARE = "/bench/bare"
ROLES = {"controller": "controller", "bare timer": "bare_timer"}
ROWS, CHUNKS_HZ = 10, 5.0
HERE = Path(__file__)


class BareTimer(Node):
    """Publishes a target at the controller's rate, and does nothing else."""

    def __init__(self) -> None:
        super().__init__("bare_timer")
        publisher = self.create_publisher(Float64MultiArray, BARE, qos.COMMAND)
        message = Float64MultiArray(data=list(PANDA.home_rad))
        self.create_timer(1.0 / float(os.environ["VLA_ROS_BENCH_HZ"]), lambda: publisher.publish(message))


class FastArm(Arm):
    """The arm at 1 kHz, as the real driver."""

    def __init__(self) -> None:
        super().__init__(rate_hz=1000.0)


class Driver(Node):
    """Where targets arrive; also says, as the inference node would, that the policy lives, and sends its chunks."""

    def __init__(self) -> None:
        super().__init__("driver")
        self.times_s: dict[str, list[float]] = {"controller": [], "bare timer": []}
        target = PANDA.endpoints["joints_desired"].name
        for topic, name in ((target, "controller"), (BARE, "bare timer")):
            times_s = self.times_s[name]
            self.create_subscription(
                Float64MultiArray, topic, lambda _, into=times_s: into.append(time.perf_counter()), qos.STATE
            )
        self._states = self.create_publisher(DiagnosticArray, topics.STATE, qos.STATE)
        self._chunks = self.create_publisher(JointTrajectory, topics.CHUNK, qos.COMMAND)
        self.create_timer(0.1, self._say)
        self.create_timer(1.0 / CHUNKS_HZ, self._send)

    def _say(self) -> None:
        self._states.publish(DiagnosticArray(status=[DiagnosticStatus(name="inference")]))

    def _send(self) -> None:
        now_ns = self.get_clock().now().nanoseconds
        chunk = ActionChunk(now_ns, round(NANOSECONDS_PER_SECOND / STEP_HZ), PANDA.joint_names, swing(now_ns, ROWS))
        self._chunks.publish(convert.chunk_to_trajectory(chunk, PANDA.base_frame))


def cpu_s(role: str) -> float:
    """CPU time of this process's child that has the role, so far."""
    for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        if f"--role\0{role}\0" in Path(f"/proc/{pid}/cmdline").read_text():
            user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
            return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    raise LookupError(role)


def measure(seconds: float, rate_hz: float) -> tuple[dict[str, Any], dict[str, float]]:
    """By who sent targets: distance of each interval between two from the period [ms], CPU time for each [ms]."""
    rclpy.init()
    driver = Driver()
    executor = SingleThreadedExecutor()
    executor.add_node(driver)

    def spin(seconds: float, done: Callable[[], Any] = lambda: False) -> None:
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s and not done():
            executor.spin_once(timeout_sec=0.1)

    with processes({"fast_arm": None, "bare_timer": None}, HERE), processes({"controller": controller_config(rate_hz)}):
        start = driver.create_client(Trigger, topics.START)
        spin(30.0, start.service_is_ready)
        start.call_async(Trigger.Request())
        spin(30.0, lambda: all(len(times_s) > rate_hz for times_s in driver.times_s.values()))
        for times_s in driver.times_s.values():
            times_s.clear()
        before_s = {name: cpu_s(role) for name, role in ROLES.items()}
        spin(seconds)
        cpu_ms = {
            name: 1e3 * (cpu_s(role) - before_s[name]) / len(driver.times_s[name]) for name, role in ROLES.items()
        }
    rclpy.shutdown()
    return {name: np.abs(1e3 * np.diff(times_s) - 1e3 / rate_hz) for name, times_s in driver.times_s.items()}, cpu_ms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate-hz", type=float, default=100.0, help="of the controller")
    parser.add_argument("--role", default="", help=argparse.SUPPRESS)
    given, _ = parser.parse_known_args()
    if given.role:
        sys.exit(run({"fast_arm": FastArm, "bare_timer": BareTimer}[given.role]))
    os.environ["VLA_ROS_BENCH_HZ"] = str(given.rate_hz)
    with transport.locked_domain_id() as domain_id:
        os.environ.update(transport.local_environment(os.environ, domain_id))
        jitters_ms, cpu_ms = measure(given.seconds, given.rate_hz)
    print(f"targets at {given.rate_hz:g} Hz for {given.seconds:g} s, joint states at 1 kHz; |interval - period| in ms:")
    figures = {}
    for name, jitter_ms in jitters_ms.items():
        p50, p99, worst = (*np.quantile(jitter_ms, (0.5, 0.99)), jitter_ms.max())
        figures[name] = p99, worst
        rate_hz = len(jitter_ms) / given.seconds
        print(
            f"{name:12} p50 {p50:6.2f}  p99 {p99:6.2f}  worst {worst:6.2f}   {rate_hz:.1f} Hz, "
            f"CPU {cpu_ms[name]:.2f} ms per target"
        )
    for what, limit, ours_ms, bare_ms in zip(
        ("p99", "worst tick"), (LIMIT_P99, LIMIT_WORST), figures["controller"], figures["bare timer"], strict=True
    ):
        kept = "kept" if ours_ms <= limit * bare_ms else "MISSED"
        ratio = f"{ours_ms:.2f} ms is {ours_ms / bare_ms:.2f} of the bare timer's {bare_ms:.2f}"
        print(f"{what}: {ratio}, limit {limit:g}: {kept}")
    core = cpu_ms["controller"] / 1e3 * given.rate_hz
    kept = "kept" if core <= LIMIT_CORE else "MISSED"
    ratio = f"{core:.1%} of a core is {cpu_ms['controller'] / cpu_ms['bare timer']:.1f} times the bare timer's"
    print(f"CPU: {ratio}, limit {LIMIT_CORE:.0%}: {kept}")


if __name__ == "__main__":
    main()
