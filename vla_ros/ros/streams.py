"""Cameras and proprioception of one robot, fed from their topics into an Aligner that other threads may ask."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from vla_ros import messages, topics
from vla_ros.config import CameraConfig, InferenceNodeConfig
from vla_ros.messages import shortened
from vla_ros.robots.robot import Robot
from vla_ros.rollout.loop import STREAMS
from vla_ros.ros import convert, guard, qos
from vla_ros.ros.polling import PolledSubscription
from vla_ros.simulation.world import STATE_NAMES
from vla_ros.timing.frozen import FrozenWatch
from vla_ros.timing.stamps import ms_to_ns
from vla_ros.timing.sync import Aligner, AlignerConfig, CameraTiming
from vla_ros.values import Array, Observation

Sample = tuple[int, Array]  # stamp [ns], values (D,)

#: Room for what a stream at 1 kHz brings while no camera frame comes and the status looks ten times a second.
_DEEP = QoSProfile(depth=200, reliability=ReliabilityPolicy.BEST_EFFORT)
#: An image of 4096 x 3072 pixels in 16 bits has 75 MB.
_MOST_IMAGE_BYTES = 100_000_000
#: The stream that tells whether the robot moves.
_MOTION = "joints"


class Streams:
    """Subscribes to `cameras` (name -> topic and timing) and to the streams `proprioception` of `robot`.

    `on_instant(instant_ns)` is called, on the executor's thread, when the last camera completes a newer instant, and
    no camera was frozen then.
    Frames are kept as messages and decoded by the thread that asks for them: only `window` is for other threads.
    """

    def __init__(
        self,
        node: Node,
        robot: Robot,
        cameras: Mapping[str, CameraConfig],
        proprioception: Iterable[str],
        history_s: float,
        on_instant: Callable[[int], None],
    ) -> None:
        self._node = node
        self._on_instant = on_instant
        self._newest_ns = 0
        self._unreadable: dict[str, str] = {}
        self._lock = threading.Lock()
        self._frozen = {name: FrozenWatch(camera.frozen_after_ms) for name, camera in cameras.items()}
        self._joint_positions: Array | None = None  # measured last
        self._proprioception = tuple(proprioception)
        sources = _sources(robot)
        self._topics = {name: camera.topic for name, camera in cameras.items()}
        self._topics |= {name: sources[name][1] for name in {*self._proprioception, _MOTION}}
        self._aligner = Aligner(
            AlignerConfig(
                cameras={name: _timing(camera) for name, camera in cameras.items()},
                proprioception={name: STREAMS[name] for name in self._proprioception},
                history_s=history_s,
            ),
            decode=messages.image_to_rgb,
        )
        for name, camera in cameras.items():
            self._subscribe_camera(name, camera)
        self._polled: dict[str, tuple[PolledSubscription[Any], Callable[[Any], Sample]]] = {
            name: (PolledSubscription(node, kind, topic, _DEEP), read)
            for name in {*self._proprioception, _MOTION}
            for kind, topic, read in (sources[name],)
        }

    @property
    def topics(self) -> tuple[str, ...]:
        """Where all of it comes from."""
        return tuple(self._topics.values())

    def window(self, instant_ns: int, length: int, step_ns: int, earliest_ns: int | None) -> tuple[Observation, ...]:
        """As `Aligner.window`; raises Misaligned. Frames are decoded while others may come in."""
        with self._lock:
            frames = self._aligner.frames(instant_ns, length, step_ns, earliest_ns)
        with suppress(ValueError):  # the aligner says below which frame could not be decoded, and drops it
            for frame in frames:
                frame.image()
        with self._lock:
            return self._aligner.window(instant_ns, length, step_ns, earliest_ns)

    def reason(self, now_ns: int) -> str:
        """Why there is nothing (new) to look at, with the topics to look into; empty when all is well."""
        self._take_samples()
        with self._lock:
            reason = self._aligner.reason(now_ns)
        told = "; ".join(filter(None, (reason, *(self._frozen_reason(name) for name in self._frozen))))
        if not told:
            return ""
        concerned = [f"{name} is {topic}" for name, topic in self._topics.items() if f" {name}:" in told]
        return "; ".join([told, *concerned, *self._unreadable.values()])

    def values(self, now_ns: int) -> dict[str, object]:
        """Per stream, for diagnostics: rate, age, skew, messages received and dropped, what is wrong."""
        with self._lock:
            health = self._aligner.health(now_ns)
        return {
            f"{name}.{key}": value
            for name, stream in health.items()
            for key, value in {**vars(stream), "dropped": sum(stream.dropped.values()), **stream.dropped}.items()
        } | {f"{name}.problem": frozen for name in self._frozen if (frozen := self._frozen_reason(name))}

    def _subscribe_camera(self, name: str, camera: CameraConfig) -> None:
        def on_image(message: Any) -> None:
            if len(message.data) > _MOST_IMAGE_BYTES:
                why = f"its image has {len(message.data)} bytes, and at most {_MOST_IMAGE_BYTES} are accepted"
                guard.of(self._node).refuse(camera.topic, why)
                return
            stamp_ns = messages.stamp_to_ns(message.header.stamp)
            self._take_samples()
            self._frozen[name].see(stamp_ns - ms_to_ns(camera.latency_ms), message.data, self._joint_positions)
            with self._lock:
                self._aligner.add_image(name, stamp_ns, self._now_ns(), message)
                instant_ns = self._aligner.newest_complete_instant()
            frozen_until_ns = max(watch.frozen_until_ns for watch in self._frozen.values())
            if instant_ns is not None and instant_ns != self._newest_ns and instant_ns > frozen_until_ns:
                self._newest_ns = instant_ns
                self._on_instant(instant_ns)

        kind = CompressedImage if camera.is_compressed else Image
        self._node.create_subscription(kind, camera.topic, on_image, qos.SENSOR)

    def _take_samples(self) -> None:
        """Take in what the proprioceptive topics brought since the last time."""
        now_ns = self._now_ns()
        for name, (subscription, read) in self._polled.items():
            for message in subscription.take_all():
                try:
                    stamp_ns, values = read(message)
                except ValueError as error:
                    self._unreadable[name] = shortened(f"on {self._topics[name]}: {error}")
                    guard.of(self._node).refuse(self._topics[name], error)
                    continue
                self._unreadable.pop(name, None)
                if name == _MOTION:
                    self._joint_positions = values
                if name in self._proprioception:
                    with self._lock:
                        self._aligner.add_sample(name, stamp_ns, now_ns, values)

    def _frozen_reason(self, camera: str) -> str:
        reason = self._frozen[camera].reason
        return f"camera {camera}: {reason}" if reason else ""

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)


def _timing(camera: CameraConfig) -> CameraTiming:
    return CameraTiming(**camera.model_dump(include=set(CameraTiming.model_fields)))


def needed_cameras(config: InferenceNodeConfig, wanted: tuple[str, ...] | None) -> dict[str, CameraConfig]:
    """Those that the policy looks at; where it looks at none, all: it is their frames that set it to work.

    Raises ValueError where one is missing.
    """
    given = config.cameras
    names = wanted or tuple(given)
    missing = [name for name in names if name not in given]
    if missing or not names:
        lacking = ", ".join(missing) or "at least one"
        raise ValueError(f"cameras: {config.policy.name} needs {lacking}; given: {', '.join(given) or 'none'}")
    return {name: given[name] for name in names}


def _sources(robot: Robot) -> dict[str, tuple[type, str, Callable[[Any], Sample]]]:
    """stream -> message type, topic, and how a message is read (ValueError: it cannot be)."""
    joints = messages.JointReader(robot.joint_names)
    fingers = messages.JointReader(robot.gripper.finger_joints)

    def read_joints(message: JointState) -> Sample:
        return messages.stamp_to_ns(message.header.stamp), joints.positions(message)

    def read_width(message: JointState) -> Sample:
        return messages.stamp_to_ns(message.header.stamp), fingers.positions(message).sum(keepdims=True)

    def read_command(message: JointTrajectory) -> Sample:
        command = messages.trajectory_to_command(message, robot.joint_names)
        return command.time_ns, command.joint_positions

    def read_world(message: Float64MultiArray) -> Sample:
        state = convert.array_to_world_state(message)
        if state.names != STATE_NAMES:
            raise ValueError(f"a world state has the values {', '.join(STATE_NAMES)}, got {', '.join(state.names)}")
        return state.time_ns, state.values

    return {
        "joints": (JointState, robot.endpoints["joint_states"].name, read_joints),
        "gripper": (JointState, robot.endpoints["gripper_joint_states"].name, read_width),
        "commanded_joints": (JointTrajectory, topics.COMMAND, read_command),
        "world": (Float64MultiArray, topics.SIMULATION_STATE, read_world),
    }
