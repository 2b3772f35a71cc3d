"""What a recording hears: which topics, of which types, and how their messages go into a RowAssembler; live and bag."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vla_ros import messages, topics
from vla_ros.control.limits import NORMAL_COUNTS
from vla_ros.messages import JointReader, Message
from vla_ros.recording.assembling.rows import RowAssembler
from vla_ros.robots.robot import Robot

IMAGE, COMPRESSED_IMAGE = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


@dataclass(frozen=True)
class Unreadable:
    """Messages of one topic that could not be read: how many, and why not the last of them."""

    count: int
    reason: str


class Intake:
    """Takes messages, from rclpy or from a bag, into `assembler`; `cameras`: name -> topic of its images.

    `types`: topic -> type of all that is heard. What cannot be read is counted in `unreadable`, by topic.
    """

    def __init__(
        self,
        assembler: RowAssembler,
        robot: Robot,
        cameras: Mapping[str, str],
        image_types: Mapping[str, str] | None = None,
    ) -> None:
        """`image_types`: topic -> type of its images, where that is known; otherwise as `image_type` says."""
        self._assembler = assembler
        self._joint_names = robot.joint_names
        self._joints = JointReader(robot.joint_names)
        self._fingers = JointReader(robot.gripper.finger_joints)
        self.types: dict[str, str] = {}
        self.unreadable: dict[str, Unreadable] = {}
        self._takers: dict[str, list[Callable[[Message, int], None]]] = {}
        for camera, topic in cameras.items():
            self._hear(topic, (image_types or {}).get(topic, image_type(topic)), self._image_taker(camera))
        for key, take in (("joint_states", self._take_joints), ("gripper_joint_states", self._take_fingers)):
            endpoint = robot.endpoints[key]
            self._hear(endpoint.name, endpoint.type, take)
        for topic, take in {
            topics.COMMAND: self._take_command,
            topics.REQUESTED: self._take_requested,
            topics.CHUNK: self._take_chunk,
            topics.STATE: self._take_state,
        }.items():
            self._hear(topic, topics.TABLE[topic][0], take)

    def take(self, topic: str, message: Message, received_ns: int) -> None:
        """Take in a message of one of `types`."""
        for take in self._takers[topic]:
            try:
                take(message, received_ns)
            except ValueError as error:
                before = self.unreadable.get(topic)
                self.unreadable[topic] = Unreadable(before.count + 1 if before else 1, str(error))

    def _hear(self, topic: str, type_name: str, take: Callable[[Message, int], None]) -> None:
        if self.types.setdefault(topic, type_name) != type_name:
            raise ValueError(f"{topic} cannot carry both {self.types[topic]} and {type_name}")
        self._takers.setdefault(topic, []).append(take)

    def _image_taker(self, camera: str) -> Callable[[Message, int], None]:
        def take(message: Message, received_ns: int) -> None:
            self._assembler.add_image(camera, messages.stamp_to_ns(message.header.stamp), received_ns, message)

        return take

    def _take_joints(self, message: Message, received_ns: int) -> None:
        stamp_ns = messages.stamp_to_ns(message.header.stamp)
        self._assembler.add_joints(stamp_ns, received_ns, self._joints.positions(message))

    def _take_fingers(self, message: Message, received_ns: int) -> None:
        stamp_ns = messages.stamp_to_ns(message.header.stamp)
        self._assembler.add_gripper(stamp_ns, received_ns, float(self._fingers.positions(message).sum()))

    def _take_command(self, message: Message, received_ns: int) -> None:
        self._assembler.add_command(messages.trajectory_to_command(message, self._joint_names))

    def _take_requested(self, message: Message, received_ns: int) -> None:
        self._assembler.add_requested(messages.trajectory_to_target(message))

    def _take_chunk(self, message: Message, received_ns: int) -> None:
        self._assembler.add_chunk(messages.stamp_to_ns(message.header.stamp), received_ns)

    def _take_state(self, message: Message, received_ns: int) -> None:
        status = messages.status_to_controller(message)
        if status is not None:
            interventions = sum(count for name, count in status.counts.items() if name not in NORMAL_COUNTS)
            self._assembler.add_status(status.time_ns, status.mode, status.safety, interventions)


def image_type(topic: str) -> str:
    """What a topic of images carries, by the convention of image_transport."""
    return COMPRESSED_IMAGE if topic.endswith("/compressed") else IMAGE
