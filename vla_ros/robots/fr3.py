"""Franka Research 3 with the Franka hand: its limits, by position too, on the Panda's kinematics.

Limits: the vendor's FCI documentation and libfranka's rate limiting; later firmware may state others. Frames are the
Panda's, and so are inertias and shapes: the vendor publishes none of its own that we have. No driver of ours speaks to
it yet, so a system cannot be built with it; its limits can be tried.
"""

from __future__ import annotations

from dataclasses import replace

from vla_ros.robots.panda import PANDA
from vla_ros.robots.robot import CartesianLimits, Hull, VelocityEnvelope

_LOWER_RAD = (-2.7437, -1.7837, -2.9007, -3.0421, -2.8065, 0.5445, -3.0159)
_UPPER_RAD = (2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159)
_VELOCITY_RAD_S = (2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26)
_ENVELOPES = (
    VelocityEnvelope(0.30, 12.0, -2.75010, 2.75010),
    VelocityEnvelope(0.20, 5.17, -1.79180, 1.79180),
    VelocityEnvelope(0.20, 7.00, -2.90650, 2.90650),
    VelocityEnvelope(0.30, 8.00, -3.04810, -0.1458),
    VelocityEnvelope(0.35, 34.0, -2.81010, 2.81010),
    VelocityEnvelope(0.35, 11.0, 0.54092, 4.52050),
    VelocityEnvelope(0.35, 34.0, -3.01960, 3.01960),
)


def _named(name: str) -> str:
    return name.replace("panda_", "fr3_")


FR3 = replace(
    PANDA,
    name="fr3",
    title="Franka Research 3",
    base_frame=_named(PANDA.base_frame),
    tcp_frame=_named(PANDA.tcp_frame),
    joints=tuple(
        replace(
            joint,
            name=_named(joint.name),
            parent=_named(joint.parent),
            child=_named(joint.child),
            lower_rad=_LOWER_RAD[i],
            upper_rad=_UPPER_RAD[i],
            velocity_rad_s=_VELOCITY_RAD_S[i],
            acceleration_rad_s2=10.0,
            jerk_rad_s3=5000.0,
            velocity_envelope=_ENVELOPES[i],
        )
        for i, joint in enumerate(PANDA.joints)
    ),
    fixed_frames=tuple(
        replace(frame, name=_named(frame.name), parent=_named(frame.parent)) for frame in PANDA.fixed_frames
    ),
    inertials={_named(link): inertial for link, inertial in PANDA.inertials.items()},
    shapes={_named(link): shapes for link, shapes in PANDA.shapes.items()},
    hull=Hull(
        capsules={_named(link): capsules for link, capsules in PANDA.hull.capsules.items()},
        self_pairs=tuple((_named(one), _named(other)) for one, other in PANDA.hull.self_pairs),
        above_planes=tuple(_named(link) for link in PANDA.hull.above_planes),
    ),
    gripper=replace(
        PANDA.gripper,
        frame=_named(PANDA.gripper.frame),
        finger_joints=("fr3_finger_joint1", "fr3_finger_joint2"),
        finger_links=("fr3_leftfinger", "fr3_rightfinger"),
    ),
    cartesian=CartesianLimits(3.0, 9.0, 4500.0, 2.5, 17.0, 8500.0),
    driver="",
    endpoints={},
)
