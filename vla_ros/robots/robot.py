"""An arm as facts: joints, limits, inertias, gripper, and what its driver speaks; no behaviour, no ROS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

Vector3 = tuple[float, float, float]


@dataclass(frozen=True)
class Inertial:
    """Mass properties of a link, at its centre of mass, in the link frame's axes."""

    mass_kg: float
    center_of_mass_m: Vector3
    inertia_kg_m2: tuple[float, float, float, float, float, float]  # xx xy xz yy yz zz


class Finish(str, Enum):
    """What a shape looks like."""

    WHITE = "white"
    GREY = "grey"
    BLACK = "black"


@dataclass(frozen=True)
class Rod:
    """A cylinder from `start` to `end` in the link frame; `rounded`: with half a sphere beyond each end (a capsule)."""

    start_m: Vector3
    end_m: Vector3
    radius_m: float
    rounded: bool = True
    finish: Finish = Finish.WHITE


@dataclass(frozen=True)
class Box:
    """A box with edges along the axes of the link frame."""

    center_m: Vector3
    size_m: Vector3  # full edge lengths
    finish: Finish = Finish.WHITE


Shape = Rod | Box


@dataclass(frozen=True)
class VelocityEnvelope:
    """How fast a joint may move by where it is, slower towards the ends of its range; v is at most the joint's own V.

    Upwards at q: -offset + sqrt(slope (upper - q)); downwards: -offset + sqrt(slope (q - lower)); none below 0.
    """

    offset_rad_s: float
    slope_rad_s2: float
    lower_rad: float
    upper_rad: float


@dataclass(frozen=True)
class Joint:
    """A revolute joint about the z axis of its own frame, which stands at `origin` in the parent link."""

    name: str
    parent: str
    child: str
    origin_xyz_m: Vector3
    origin_rpy_rad: Vector3
    lower_rad: float
    upper_rad: float
    velocity_rad_s: float
    acceleration_rad_s2: float
    jerk_rad_s3: float
    torque_nm: float
    home_rad: float
    damping_nm_s: float
    friction_nm: float
    velocity_envelope: VelocityEnvelope | None = None


@dataclass(frozen=True)
class FixedFrame:
    """A frame that stands still in its parent."""

    name: str
    parent: str
    origin_xyz_m: Vector3
    origin_rpy_rad: Vector3


@dataclass(frozen=True)
class Gripper:
    """A parallel gripper: two fingers that open symmetrically; the width is between them."""

    frame: str
    finger_joints: tuple[str, str]
    finger_links: tuple[str, str]
    finger_origin_xyz_m: Vector3  # of both fingers at width 0, in `frame`; they open along +y and -y
    max_width_m: float
    speed_m_s: float  # limit of one finger
    force_n: float  # of one finger


@dataclass(frozen=True)
class Hull:
    """What an arm must not touch itself or its surroundings with: rounded rods (capsules) around the shapes of links.

    `self_pairs`: links that can come near each other, but not in every pose. `above_planes`: links that keep clear of
    the table and of planes; the others do not move, or are made to touch what lies there.
    """

    capsules: Mapping[str, tuple[Rod, ...]]
    self_pairs: tuple[tuple[str, str], ...]
    above_planes: tuple[str, ...]


@dataclass(frozen=True)
class CartesianLimits:
    """Limits of the TCP as the vendor states them."""

    linear_velocity_m_s: float
    linear_acceleration_m_s2: float
    linear_jerk_m_s3: float
    angular_velocity_rad_s: float
    angular_acceleration_rad_s2: float
    angular_jerk_rad_s3: float


class EndpointKind(str, Enum):
    """How two nodes talk."""

    TOPIC = "topic"
    SERVICE = "service"
    ACTION = "action"


@dataclass(frozen=True)
class Endpoint:
    """One topic, service or action of a driver, seen from us: we read those `from_driver`, write or call the others.

    One that is not `used` is offered by the driver, and by its simulated mirror, for others.
    """

    name: str
    type: str  # as `ros2 interface show` takes it
    kind: EndpointKind = EndpointKind.TOPIC
    from_driver: bool = False
    rate_hz: float | None = None
    used: bool = True


@dataclass(frozen=True)
class Robot:
    """One arm. Names as in the vendor's description; joint order is the order of every joint vector here."""

    name: str
    title: str
    base_frame: str
    tcp_frame: str
    joints: tuple[Joint, ...]
    fixed_frames: tuple[FixedFrame, ...]
    inertials: Mapping[str, Inertial]
    shapes: Mapping[str, tuple[Shape, ...]]  # of links: what is seen and what collides
    hull: Hull
    gripper: Gripper
    cartesian: CartesianLimits
    driver: str  # module in ros/drivers
    endpoints: Mapping[str, Endpoint]

    @cached_property
    def joint_names(self) -> tuple[str, ...]:
        """Names in order."""
        return tuple(joint.name for joint in self.joints)

    @property
    def stream_lengths(self) -> Mapping[str, int]:
        """What it measures of itself, and how many values each is; in radians, and the gripper's width in metres."""
        return {"joints": len(self.joints), "gripper": 1, "commanded_joints": len(self.joints)}

    @property
    def links(self) -> tuple[str, ...]:
        """Every link and frame, from the base to the fingers."""
        children = (joint.child for joint in self.joints)
        frames = (frame.name for frame in self.fixed_frames)
        return (self.base_frame, *children, *frames, *self.gripper.finger_links)

    @property
    def home_rad(self) -> tuple[float, ...]:
        """The ready pose."""
        return tuple(joint.home_rad for joint in self.joints)
