"""The inference node: aligned observations in, time-labelled action chunks, predicted frames and answers out."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from typing import Any

from sensor_msgs.msg import CompressedImage
from trajectory_msgs.msg import JointTrajectory

from vla_ros import messages, topics
from vla_ros.config import InferenceNodeConfig
from vla_ros.control import kinematics
from vla_ros.policies import registry
from vla_ros.policies.policy import AbsolutePolicy
from vla_ros.robots import catalogue
from vla_ros.ros import convert, guard, params, qos
from vla_ros.ros.asking import Questions
from vla_ros.ros.diagnostics import ERROR, OK, WARN, Status, StatusReporter
from vla_ros.ros.guard import GuardedNode
from vla_ros.ros.instructing import Instructions
from vla_ros.ros.main import run
from vla_ros.ros.policy_worker import Condition, PolicyWorker
from vla_ros.ros.presence import Presence
from vla_ros.ros.rivals import Rivals, clock_topics
from vla_ros.ros.streams import Streams, needed_cameras
from vla_ros.ros.thinking import Thinker
from vla_ros.timing.stamps import ns_to_s
from vla_ros.values import ActionChunk, Prediction

#: Streams may be silent for this long after the start before the node warns.
_PATIENCE_S = 3.0


class InferenceNode(GuardedNode):
    """Shell of `policies` for one robot: no tick; the camera frame that completes an instant sets it to work."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("inference", automatically_declare_parameters_from_overrides=True, **kwargs)
        self._at_end = ExitStack()
        self._config = config = params.read(self, InferenceNodeConfig)
        robot = catalogue.find(config.robot)
        weights = config.policy.model_dump(exclude={"name"})
        policy = registry.load(config.policy.name, robot=robot, action=config.action, **weights)
        self._policy = AbsolutePolicy(policy, kinematics.for_robot(robot).forward, robot.gripper.max_width_m)
        look = self._policy.window_spec
        cameras = needed_cameras(config, look.cameras)
        self._policy.check_cameras({name: (camera.width, camera.height) for name, camera in config.cameras.items()})
        self._base_frame = robot.base_frame
        self._started_s = time.monotonic()
        self._chunk = self.create_publisher(JointTrajectory, topics.CHUNK, qos.COMMAND)
        self._predictions = {
            camera: self.create_publisher(CompressedImage, topics.prediction(camera), qos.SENSOR) for camera in cameras
        }
        history_s = config.history_s + ns_to_s(look.length * look.step_ns)
        self._streams = Streams(self, robot, cameras, look.proprioception, history_s, self._on_instant)
        see, show = self._streams.window, self._show
        self._worker = PolicyWorker(self._policy, config, self._now_ns, see, self._publish)
        self._thinker = Thinker(self._policy, config, self._now_ns, see, show)
        questions = Questions(self, self._thinker.ask)
        for part in (questions, self._thinker, self._worker):  # the last one first
            self._at_end.callback(part.close)
        guard.of(self).on_failure = lambda why: self._worker.begin_again()
        presence = Presence(self)
        presence.listen(lambda message: self._worker.plan_since(messages.status_to_plan_since(message)))
        self._rivals = Rivals(self, [topics.CHUNK], [*self._streams.topics, *clock_topics(self)], presence)
        self._reporter = StatusReporter(self, self._status, config.robot, presence=presence)
        Instructions(self, self._worker.instruct)
        if config.instruction:
            self._worker.instruct(config.instruction)

    def destroy_node(self) -> None:
        """End the threads before what they publish to."""
        self._at_end.close()
        super().destroy_node()

    def _on_instant(self, instant_ns: int) -> None:
        if guard.of(self).problem or self._rivals.found:  # what was seen, or told, may be incomplete
            return
        self._worker.offer(instant_ns)
        self._thinker.see(instant_ns, self._worker.since_ns)

    def _publish(self, chunk: ActionChunk, predictions: tuple[Prediction, ...]) -> None:
        """On the worker's thread."""
        self._chunk.publish(convert.chunk_to_trajectory(chunk, self._base_frame))
        for prediction in predictions:
            self._show(prediction)
        self._thinker.expect(chunk.observation_ns, self._policy.imagine)

    def _show(self, prediction: Prediction) -> None:
        """On the thinker's thread, or the worker's."""
        message = convert.rgb_to_compressed(prediction.image, prediction.time_ns, prediction.camera)
        self._predictions[prediction.camera].publish(message)

    def _status(self) -> Status:
        now_ns = self._now_ns()
        values: dict[str, object] = {
            "policy": self._config.policy.name,
            "instruction": self._worker.instruction,
            **self._worker.counts,
            **self._thinker.counts,
            "description": self._thinker.description,
            **self._worker.latency_ms.values("latency_ms"),
            "delay_ms": self._worker.delay_ms,
            "planned_until_ns": self._worker.planned_until_ns,
            **self._streams.values(now_ns),
        }
        return Status(*self._condition(now_ns), values)

    def _condition(self, now_ns: int) -> Condition:
        """The first thing that keeps it from inferring."""
        at_work = self._worker.condition
        if self._rivals.found:
            return ERROR, "blind", f"second publisher: {self._rivals.found}"
        if now_ns == 0:
            return WARN, "waiting", "no time on /clock yet"
        unseen = self._streams.reason(now_ns)
        if at_work[0] == OK and not unseen and self._thinker.problem:
            return WARN, at_work[1], self._thinker.problem
        if at_work[0] == ERROR or not unseen:
            return at_work
        patient = time.monotonic() - self._started_s < _PATIENCE_S
        return (OK, "starting", unseen) if patient else (WARN, "blind", unseen)

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)


def main() -> int:
    """Run the node until it is told to end; the exit code."""
    # Read when torch is loaded. Threads that spin while they wait for each other take up to ten times as long as one
    # where other nodes want the same cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return run(InferenceNode)
