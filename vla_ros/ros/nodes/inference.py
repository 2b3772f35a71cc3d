"""The inference node: aligned observations in, time-labelled action chunks and predicted frames out."""

from __future__ import annotations

import sys
import time
import traceback
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from vla_ros import topics
from vla_ros.config import CameraConfig, InferenceNodeConfig
from vla_ros.control import kinematics
from vla_ros.policies import registry
from vla_ros.policies.policy import AbsolutePolicy, PolicyError
from vla_ros.robots import catalogue
from vla_ros.ros import convert, params, qos
from vla_ros.ros.diagnostics import ERROR, OK, WARN, Percentiles, Status, StatusReporter
from vla_ros.ros.main import run
from vla_ros.ros.streams import Streams
from vla_ros.ros.worker import Worker
from vla_ros.timing.chunks import Schedule
from vla_ros.timing.stamps import ClockWatch, ms_to_ns, ns_to_ms, ns_to_s, period_ns
from vla_ros.timing.track import Misaligned
from vla_ros.values import Prediction

#: Streams may be silent for this long after the start before the node warns.
_PATIENCE_S = 3.0
#: Stamps of a camera jitter; an instant this much before the next inference is due is taken already.
_RATE_TOLERANCE_NS = ms_to_ns(5.0)


@dataclass(frozen=True)
class Task:
    """What the policy is asked to do, and since when."""

    instruction: str
    since_ns: int


class InferenceNode(Node):
    """Shell of `policies` for one robot: no tick; the camera frame that completes an instant sets it to work."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("inference", automatically_declare_parameters_from_overrides=True, **kwargs)
        self._worker: Worker[tuple[int, float] | None] = Worker(self._work, self._on_error)
        self._config = config = params.read(self, InferenceNodeConfig)
        self._robot = robot = catalogue.find(config.robot)
        policy = registry.load(config.policy, robot=robot, checkpoint=config.checkpoint, action=config.action)
        self._policy = AbsolutePolicy(policy, kinematics.for_robot(robot).forward, robot.gripper.max_width_m)
        self._schedule = Schedule(config.schedule)  # what the controller was sent, for Committed.scheduled
        self._wanted: Task | None = None
        self._followed: Task | None = None
        self._refusal = self._failure = ""
        self._last_instant_ns = 0
        self._clock_watch = ClockWatch()
        self._period_ns = period_ns(config.max_rate_hz) - _RATE_TOLERANCE_NS
        self._started_s = time.monotonic()
        self._latency_ms = Percentiles()
        self._counts = {"inferred": 0, "overtaken": 0, "failed": 0}

        cameras = self._cameras()
        self._chunk = self.create_publisher(JointTrajectory, topics.CHUNK, qos.COMMAND)
        self._predictions = {
            camera: self.create_publisher(CompressedImage, topics.prediction(camera), qos.SENSOR) for camera in cameras
        }
        look = self._policy.window_spec
        history_s = config.history_s + ns_to_s(look.length * look.step_ns)
        self._streams = Streams(self, robot, cameras, look.proprioception, history_s, self._on_instant)
        self._reporter = StatusReporter(self, self._status)
        self.create_subscription(String, topics.INSTRUCTION, self._on_instruction, qos.LATCHED)
        if config.instruction:
            self._on_instruction(String(data=config.instruction))

    def destroy_node(self) -> None:
        """End the worker before what it publishes to."""
        self._worker.close()
        super().destroy_node()

    def _cameras(self) -> dict[str, CameraConfig]:
        """Those that the policy looks at; where it looks at none, all: it is their frames that set it to work."""
        given = self._config.cameras
        wanted = self._policy.window_spec.cameras or tuple(given)
        missing = [name for name in wanted if name not in given]
        if missing or not wanted:
            lacking = ", ".join(missing) or "at least one"
            raise ValueError(f"cameras: {self._config.policy} needs {lacking}; given: {', '.join(given) or 'none'}")
        return {name: given[name] for name in wanted}

    # --- on the executor's thread: store, and set the worker to work -----------------------------------------------

    def _on_instruction(self, message: String) -> None:
        self._wanted = Task(message.data, self._now_ns())
        self._worker.offer(None)

    def _on_instant(self, instant_ns: int) -> None:
        if self._clock_watch.observe(self._now_ns()) and self._wanted is not None:
            self._wanted = Task(self._wanted.instruction, self._now_ns())  # what was decided before is in the future
        if instant_ns - self._last_instant_ns >= self._period_ns:
            self._counts["overtaken"] += self._worker.offer((instant_ns, time.perf_counter()))

    # --- on the worker's thread ------------------------------------------------------------------------------------

    def _work(self, item: tuple[int, float] | None) -> None:
        task = self._wanted
        if task is not self._followed and task is not None:
            self._follow(task)
        if item is not None and task is not None and not self._refusal and item[0] >= task.since_ns:
            self._infer(*item, task.since_ns)

    def _follow(self, task: Task) -> None:
        self._followed = task
        self._failure = self._refusal = ""
        self._last_instant_ns = 0
        self._schedule.clear()
        try:
            self._policy.reset(task.instruction)
        except ValueError as error:
            self._refusal = f"instruction {task.instruction!r}: {error}"

    def _infer(self, instant_ns: int, received_s: float, since_ns: int) -> None:
        self._last_instant_ns = instant_ns
        age_ms, limit_ms = ns_to_ms(self._now_ns() - instant_ns), self._config.max_observation_age_ms
        if age_ms > limit_ms:
            raise Misaligned(f"the newest observation is {age_ms:.0f} ms old, at most {limit_ms:.0f} ms")
        look, action = self._policy.window_spec, self._policy.action_spec
        window = self._streams.window(instant_ns, look.length, look.step_ns, since_ns)
        scheduled = self._schedule.committed(instant_ns, action.horizon, action.step_ns)
        chunk, predictions = self._policy.infer(window, scheduled)
        self._chunk.publish(convert.chunk_to_trajectory(chunk, self._robot.base_frame))
        self._latency_ms.add(1e3 * (time.perf_counter() - received_s))
        self._schedule.add(chunk, self._now_ns())
        self._publish_predictions(predictions)
        self._counts["inferred"] += 1
        self._failure = ""

    def _publish_predictions(self, predictions: tuple[Prediction, ...]) -> None:
        for prediction in predictions:
            message = convert.rgb_to_compressed(prediction.image, prediction.time_ns, prediction.camera)
            self._predictions[prediction.camera].publish(message)

    def _on_error(self, error: Exception) -> None:
        self._counts["failed"] += 1
        self._failure = str(error)
        if not isinstance(error, (Misaligned, PolicyError)):
            self.get_logger().error("".join(traceback.format_exception(error)))

    # --- what it says about itself ---------------------------------------------------------------------------------

    def _status(self) -> Status:
        now_ns = self._now_ns()
        values: dict[str, object] = {
            "policy": self._config.policy,
            "instruction": self._followed.instruction if self._followed else "",
            **self._counts,
            **self._latency_ms.values("latency_ms"),
            **self._streams.values(now_ns),
        }
        return Status(*self._condition(now_ns), values)

    def _condition(self, now_ns: int) -> tuple[bytes, str, str]:
        """Level, state, reason: the first thing that keeps it from inferring."""
        if now_ns == 0:
            return WARN, "waiting", "no time on /clock yet"
        if self._refusal:
            return ERROR, "refusing", self._refusal
        blind = self._streams.reason(now_ns)
        if blind:
            patient = time.monotonic() - self._started_s < _PATIENCE_S
            return (OK, "starting", blind) if patient else (WARN, "blind", blind)
        if self._followed is None:
            return OK, "waiting", f"no instruction on {topics.INSTRUCTION} yet"
        if self._failure:
            return ERROR, "failing", self._failure
        return OK, "inferring", ""

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)


def main() -> int:
    """Run the node until it is told to end; the exit code."""
    return run(InferenceNode)


if __name__ == "__main__":
    sys.exit(main())
