"""SystemConfig: a robot, its cameras, a policy and a controller; composed of the small configs of each part."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from vla_ros.actions import ActionSpec
from vla_ros.calibration.pose import Pose
from vla_ros.config.problems import did_you_mean
from vla_ros.control.arm import ArmConfig
from vla_ros.recording.config import LONGEST_TASK, RecordingConfig
from vla_ros.robots import catalogue
from vla_ros.simulation.faults import check as check_faults
from vla_ros.simulation.world import TabletopConfig
from vla_ros.timing.sync import HISTORY_S, CameraTiming
from vla_ros.values import Config

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_TOPIC = re.compile(r"(/[A-Za-z][A-Za-z0-9_]*)+")
_DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]+)?")

#: The one policy that looks at the world's state instead of at images.
SCRIPTED = "scripted"


class CameraConfig(CameraTiming):
    """One camera: where its images arrive, how large they are, when they were taken, and where it is fixed.

    `pose`, x y z [m] qx qy qz qw, is its optical frame's (z forward, y down) in `frame`: a link of the arm for a camera
    on the arm, else the arm's base. `vla-ros calibrate hand-eye` finds both; without them nothing is known.
    """

    topic: str
    width: int = Field(default=256, ge=16, le=4096)
    height: int = Field(default=256, ge=16, le=4096)
    frame: str = ""
    pose: Pose | None = None

    @property
    def is_compressed(self) -> bool:
        """Whether the topic carries CompressedImage, by the convention of image_transport; else Image."""
        return self.topic.endswith("/compressed")

    @property
    def info_topic(self) -> str:
        """Where the camera's calibration is, by the same convention: beside its images."""
        return f"{self.topic.removesuffix('/compressed').rpartition('/')[0]}/camera_info"

    @field_validator("topic")
    @classmethod
    def _topic_is_a_ros_name(cls, topic: str) -> str:
        if not _TOPIC.fullmatch(topic) or "__" in topic:
            raise ValueError(f"no valid ROS name (given {topic!r}); should be absolute, as /camera/front/image_raw")
        return topic

    @model_validator(mode="after")
    def _pose_is_in_a_frame(self) -> CameraConfig:
        if bool(self.frame) != (self.pose is not None):
            given = f"frame {self.frame!r} alone" if self.frame else "a pose alone"
            raise ValueError(f"a pose is in a frame (given {given}); should be both, or neither")
        return self


class PolicyConfig(Config):
    """Which policy decides, from which weights ("" = none), and where and how precisely they are computed.

    `device` auto: the first GPU, where there is one. `dtype` auto: bfloat16 on a GPU, float32 on a CPU. `compile`: fuse
    what the model computes, which takes a minute at each new instruction's first use, and saves time from then on.
    `image_tokenizer_dtype` bfloat16: faster where the processor or GPU computes in it (8 times slower where a CPU does
    not), but some image codes differ: 1.5 % of the shipped model's.
    """

    name: str
    checkpoint: str = ""
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = False
    image_tokenizer_dtype: Literal["float32", "bfloat16"] = "float32"

    @field_validator("name")
    @classmethod
    def _policy_is_known(cls, name: str, others: ValidationInfo) -> str:
        known = (others.context or {}).get("policies", ())
        if known and name not in known:
            raise ValueError(f"unknown policy {name!r}{did_you_mean(name, known)}; there are: {', '.join(known)}")
        return name

    @field_validator("device")
    @classmethod
    def _device_is_one(cls, device: str) -> str:
        if not _DEVICE.fullmatch(device):
            raise ValueError(f"no device (given {device!r}); should be auto, cpu, cuda, or cuda:1 for the second GPU")
        return device

    @field_validator("checkpoint")
    @classmethod
    def _scripted_has_no_weights(cls, checkpoint: str, others: ValidationInfo) -> str:
        if checkpoint and others.data.get("name") == SCRIPTED:
            raise ValueError(f"policy {SCRIPTED} takes no checkpoint (given {checkpoint!r}); leave it out")
        return checkpoint


class InferenceConfig(Config):
    """When a policy is asked, and how old what it sees may be."""

    max_rate_hz: float = Field(default=5.0, ge=0.01, le=100.0)
    prediction_rate_hz: float = Field(default=2.0, ge=0.0, le=100.0)  # at most, of predicted frames; 0 = none
    max_observation_age_ms: float = Field(default=500.0, gt=0.0, le=10_000.0)
    history_s: float = Field(default=HISTORY_S, gt=0.0, le=60.0)  # how far back a window may reach


class SystemConfig(Config):
    """A robot, its cameras, a policy and a controller: what one YAML file says."""

    title: str
    robot: str
    instruction: str = Field(default="", max_length=LONGEST_TASK)  # "" = told later, or by the simulated task
    simulation: TabletopConfig | None = None  # None = a real robot only
    policy: PolicyConfig
    cameras: dict[str, CameraConfig]
    action: ActionSpec | None = None  # for policies that leave it open
    inference: InferenceConfig = InferenceConfig()
    controller: ArmConfig = ArmConfig()
    recording: RecordingConfig = RecordingConfig()
    record: str = ""  # folder of the LeRobot dataset that episodes go into; "" = no recorder
    bag: str = ""  # folder of a new bag with every topic in it; "" = none

    @property
    def world(self) -> TabletopConfig | None:
        """The simulated world with the system's cameras, and its task if it has one; None for a real robot only.

        One resolution, written once: what a camera of the system is said to deliver is what the world renders.
        """
        if self.simulation is None:
            return None
        cameras = {
            name: model.model_copy(update={"width": camera.width, "height": camera.height})
            for name, model in self.simulation.cameras.items()
            if (camera := self.cameras.get(name)) is not None
        }
        task = self.simulation.instruction or self.instruction
        return self.simulation.model_copy(update={"cameras": cameras, "instruction": task})

    @field_validator("robot")
    @classmethod
    def _robot_is_known(cls, name: str) -> str:
        return catalogue.find(name).name

    @field_validator("policy")
    @classmethod
    def _policy_sees_what_it_needs(cls, policy: PolicyConfig, others: ValidationInfo) -> PolicyConfig:
        if policy.name == SCRIPTED and others.data.get("simulation", ...) is None:
            raise ValueError(
                f"{SCRIPTED} sees the simulated world's state (given no section simulation); "
                "add that section, or choose another policy"
            )
        return policy

    @field_validator("cameras")
    @classmethod
    def _cameras_can_be_told_apart(
        cls, cameras: dict[str, CameraConfig], others: ValidationInfo
    ) -> dict[str, CameraConfig]:
        if not cameras:
            raise ValueError("no camera (given {}); should be at least one, as front: {topic: /camera/front/image_raw}")
        for name in cameras:
            if not _NAME.fullmatch(name):
                raise ValueError(f"no valid camera name (given {name!r}); should be lower case letters, digits and _")
        of_topic: dict[str, list[str]] = {}
        for name, camera in cameras.items():
            of_topic.setdefault(camera.topic, []).append(name)
        for topic, sharers in of_topic.items():
            if len(sharers) > 1:
                raise ValueError(f"{' and '.join(sharers)} share a topic (given {topic}); should be one topic each")
        if "robot" in others.data:
            _refuse_unknown_frames(cameras, others.data["robot"])
        world: TabletopConfig | None = others.data.get("simulation")
        missing = sorted(set(cameras) - set(world.cameras)) if world else []
        if world and missing:
            raise ValueError(
                f"the simulation has none of that name (given {', '.join(missing)}); "
                f"should be of {', '.join(world.cameras)}, or be described under simulation.cameras"
            )
        if world:
            check_faults(world.faults, cameras)
        return cameras


def _refuse_unknown_frames(cameras: Mapping[str, CameraConfig], robot: str) -> None:
    links = catalogue.find(robot).links
    for name, camera in cameras.items():
        if camera.frame and camera.frame not in links:
            raise ValueError(
                f"{name}.frame is not a link of the {robot} (given {camera.frame!r}"
                f"{did_you_mean(camera.frame, links)}); should be of {', '.join(links)}"
            )
