"""The facts of an arm written as URDF and as MJCF: `python -m vla_ros.robots.description panda > urdf/panda.urdf`.

Both formats have the same frames, joints and inertias, and draw and collide the same shapes. The second finger stands
turned by pi about z in the hand, so that both fingers open along their own +y and share one set of facts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from math import atan2, hypot, pi
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from vla_ros.geometry import RotationForm, rotation_matrix, rotation_values
from vla_ros.robots import catalogue
from vla_ros.robots.robot import Box, Finish, Inertial, Robot, Shape, Vector3

#: Red, green, blue, alpha of each finish.
RGBA = {
    Finish.WHITE: (0.93, 0.94, 0.95, 1.0),
    Finish.GREY: (0.48, 0.50, 0.53, 1.0),
    Finish.BLACK: (0.12, 0.12, 0.13, 1.0),
}

#: Inertia of the motors seen at the joints; the vendor publishes none. Large enough that 1 kHz control is well damped.
JOINT_ARMATURE_KG_M2 = 0.1
FINGER_ARMATURE_KG = 0.1

#: MuJoCo bits: the arm (2) collides with the world (1) and not with itself; things of the world with both.
ARM_COLLISION = {"contype": "2", "conaffinity": "1"}
WORLD_COLLISION = {"contype": "1", "conaffinity": "3"}

#: Where a finger's way ends: MuJoCo's own stops give way by millimetres, and closed fingers would pass each other.
_HARD_STOP = {"solreflimit": "0.002 1", "solimplimit": "0.99 0.999 0.0001"}

_ZERO: Vector3 = (0.0, 0.0, 0.0)
_FINGER_YAWS_RAD = (0.0, pi)


def urdf(robot: Robot) -> str:
    """The arm as URDF: inertias, limits, hand, two fingers of which the second mimics the first, TCP frame."""
    root = Element("robot", name=robot.name)
    for finish, rgba in RGBA.items():
        SubElement(SubElement(root, "material", name=finish.value), "color", rgba=_numbers(rgba))
    for link in robot.links:
        _add_urdf_link(root, robot, link)
    for joint in robot.joints:
        element = _add_urdf_joint(root, joint.name, "revolute", joint.parent, joint.child)
        _add_urdf_origin(element, joint.origin_xyz_m, joint.origin_rpy_rad)
        SubElement(element, "axis", xyz="0 0 1")
        _add_urdf_limit(element, joint.lower_rad, joint.upper_rad, joint.torque_nm, joint.velocity_rad_s)
        SubElement(element, "dynamics", damping=_number(joint.damping_nm_s), friction=_number(joint.friction_nm))
    for frame in robot.fixed_frames:
        element = _add_urdf_joint(root, f"{frame.name}_joint", "fixed", frame.parent, frame.name)
        _add_urdf_origin(element, frame.origin_xyz_m, frame.origin_rpy_rad)
    gripper = robot.gripper
    for name, link, yaw in zip(gripper.finger_joints, gripper.finger_links, _FINGER_YAWS_RAD, strict=True):
        element = _add_urdf_joint(root, name, "prismatic", gripper.frame, link)
        _add_urdf_origin(element, gripper.finger_origin_xyz_m, (0.0, 0.0, yaw))
        SubElement(element, "axis", xyz="0 1 0")
        _add_urdf_limit(element, 0.0, gripper.max_width_m / 2, gripper.force_n, gripper.speed_m_s)
        if name != gripper.finger_joints[0]:
            SubElement(element, "mimic", joint=gripper.finger_joints[0])
    return _document(root)


def mjcf(robot: Robot) -> Element:
    """The arm as a complete MJCF `mujoco` element, to load as it is or to put into a world.

    Bodies and joints are named as in the URDF, the base body stands at the world's origin. Every joint and finger has a
    torque (force) motor of its name, limited as the facts say; the second finger follows the first by an equality.
    """
    root = Element("mujoco", model=robot.name)
    SubElement(root, "compiler", angle="radian", autolimits="true")
    # Fingers grip by Coulomb friction, also against turning; their coefficients win over those of what they touch.
    finger = SubElement(SubElement(SubElement(root, "default"), "default", {"class": "finger"}), "geom")
    finger.attrib.update(friction="1.2 0.02 0.0002", priority="1", condim="4")
    finger.attrib.update(solref="0.004 1", solimp="0.95 0.99 0.001")
    bodies = {robot.base_frame: SubElement(SubElement(root, "worldbody"), "body", name=robot.base_frame)}
    _fill_body(bodies[robot.base_frame], robot, robot.base_frame)
    actuators = Element("actuator")
    for joint in robot.joints:
        body = _add_body(bodies, joint.parent, joint.child, joint.origin_xyz_m, joint.origin_rpy_rad)
        dynamics = {
            "damping": _number(joint.damping_nm_s),
            "frictionloss": _number(joint.friction_nm),
            "armature": _number(JOINT_ARMATURE_KG_M2),
        }
        limits = _numbers((joint.lower_rad, joint.upper_rad))
        SubElement(body, "joint", dynamics, name=joint.name, axis="0 0 1", range=limits)
        _add_motor(actuators, joint.name, joint.torque_nm)
        _fill_body(body, robot, joint.child)
    for frame in robot.fixed_frames:
        body = _add_body(bodies, frame.parent, frame.name, frame.origin_xyz_m, frame.origin_rpy_rad)
        _fill_body(body, robot, frame.name)
    gripper = robot.gripper
    for name, link, yaw in zip(gripper.finger_joints, gripper.finger_links, _FINGER_YAWS_RAD, strict=True):
        body = _add_body(bodies, gripper.frame, link, gripper.finger_origin_xyz_m, (0.0, 0.0, yaw))
        dynamics = {"armature": _number(FINGER_ARMATURE_KG), **_HARD_STOP}
        limits = _numbers((0.0, gripper.max_width_m / 2))
        SubElement(body, "joint", dynamics, name=name, type="slide", axis="0 1 0", range=limits)
        _add_motor(actuators, name, gripper.force_n)
        _fill_body(body, robot, link, geom_class="finger")
    first, second = gripper.finger_joints
    SubElement(SubElement(root, "equality"), "joint", joint1=second, joint2=first, solref="0.002 1")
    root.append(actuators)
    return root


# --- URDF -------------------------------------------------------------------------------------------------------------


def _add_urdf_link(root: Element, robot: Robot, name: str) -> None:
    link = SubElement(root, "link", name=name)
    inertial = robot.inertials.get(name)
    if inertial is not None:
        element = SubElement(link, "inertial")
        _add_urdf_origin(element, inertial.center_of_mass_m, _ZERO)
        SubElement(element, "mass", value=_number(inertial.mass_kg))
        moments = zip(("ixx", "ixy", "ixz", "iyy", "iyz", "izz"), inertial.inertia_kg_m2, strict=True)
        SubElement(element, "inertia", {moment: _number(value) for moment, value in moments})
    for role in ("visual", "collision"):
        for shape in robot.shapes.get(name, ()):
            for center, rpy, geometry in _urdf_geometries(shape):
                element = SubElement(link, role)
                _add_urdf_origin(element, center, rpy)
                SubElement(element, "geometry").append(geometry)
                if role == "visual":
                    SubElement(element, "material", name=shape.finish.value)


def _urdf_geometries(shape: Shape) -> Iterator[tuple[Vector3, Vector3, Element]]:
    """Centre, roll-pitch-yaw and URDF geometry of what a shape is made of; URDF has no capsules."""
    if isinstance(shape, Box):
        yield shape.center_m, _ZERO, Element("box", size=_numbers(shape.size_m))
        return
    start, end = shape.start_m, shape.end_m
    across = (end[0] - start[0], end[1] - start[1], end[2] - start[2])
    center = (start[0] + across[0] / 2, start[1] + across[1] / 2, start[2] + across[2] / 2)
    length = hypot(*across)
    rpy = (0.0, atan2(hypot(across[0], across[1]), across[2]), atan2(across[1], across[0]))
    yield center, rpy, Element("cylinder", radius=_number(shape.radius_m), length=_number(length))
    if shape.rounded:
        for tip in (start, end):
            yield tip, _ZERO, Element("sphere", radius=_number(shape.radius_m))


def _add_urdf_joint(root: Element, name: str, kind: str, parent: str, child: str) -> Element:
    joint = SubElement(root, "joint", name=name, type=kind)
    SubElement(joint, "parent", link=parent)
    SubElement(joint, "child", link=child)
    return joint


def _add_urdf_origin(element: Element, xyz_m: Vector3, rpy_rad: Vector3) -> None:
    SubElement(element, "origin", xyz=_numbers(xyz_m), rpy=_numbers(rpy_rad))


def _add_urdf_limit(joint: Element, lower: float, upper: float, effort: float, velocity: float) -> None:
    names = ("lower", "upper", "effort", "velocity")
    SubElement(joint, "limit", dict(zip(names, map(_number, (lower, upper, effort, velocity)), strict=True)))


# --- MJCF -------------------------------------------------------------------------------------------------------------


def _add_body(bodies: dict[str, Element], parent: str, name: str, xyz_m: Vector3, rpy_rad: Vector3) -> Element:
    body = SubElement(bodies[parent], "body", name=name, pos=_numbers(xyz_m), quat=quaternion_wxyz(rpy_rad))
    bodies[name] = body
    return body


def _fill_body(body: Element, robot: Robot, link: str, geom_class: str | None = None) -> None:
    """Mass and shapes; a frame that has neither stays empty."""
    inertial = robot.inertials.get(link)
    if inertial is not None:
        SubElement(body, "inertial", _mjcf_inertial(inertial))
    for shape in robot.shapes.get(link, ()):
        attributes = {**ARM_COLLISION, "rgba": _numbers(RGBA[shape.finish]), **_mjcf_geometry(shape)}
        SubElement(body, "geom", {"class": geom_class, **attributes} if geom_class else attributes)


def _mjcf_inertial(inertial: Inertial) -> dict[str, str]:
    xx, xy, xz, yy, yz, zz = inertial.inertia_kg_m2
    return {
        "pos": _numbers(inertial.center_of_mass_m),
        "mass": _number(inertial.mass_kg),
        "fullinertia": _numbers((xx, yy, zz, xy, xz, yz)),
    }


def _mjcf_geometry(shape: Shape) -> dict[str, str]:
    if isinstance(shape, Box):
        half = tuple(edge / 2 for edge in shape.size_m)
        return {"type": "box", "pos": _numbers(shape.center_m), "size": _numbers(half)}
    kind = "capsule" if shape.rounded else "cylinder"
    return {"type": kind, "fromto": _numbers((*shape.start_m, *shape.end_m)), "size": _number(shape.radius_m)}


def _add_motor(actuators: Element, joint: str, force: float) -> None:
    SubElement(actuators, "motor", name=joint, joint=joint, ctrlrange=_numbers((-force, force)))


def quaternion_wxyz(rpy_rad: Vector3) -> str:
    """Roll, pitch, yaw about fixed axes as MJCF writes a rotation."""
    x, y, z, w = rotation_values(rotation_matrix(rpy_rad, RotationForm.EULER_XYZ), RotationForm.QUATERNION)
    return _numbers((w, x, y, z))


# --- both -------------------------------------------------------------------------------------------------------------


def _number(value: float) -> str:
    return f"{float(value)!r}".removesuffix(".0")


def _numbers(values: Iterable[float]) -> str:
    return " ".join(_number(value) for value in values)


def _document(root: Element) -> str:
    ElementTree.indent(root)
    return f'<?xml version="1.0"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python -m {__spec__.name} {{{','.join(sorted(catalogue.ROBOTS))}}}")
    sys.stdout.write(urdf(catalogue.find(sys.argv[1])))
