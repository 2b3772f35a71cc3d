from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pinocchio
import pytest
import xacro

from vla_ros.geometry import pose_matrix
from vla_ros.robots import description
from vla_ros.robots.catalogue import ROBOTS
from vla_ros.robots.fr3 import FR3
from vla_ros.robots.panda import PANDA
from vla_ros.robots.robot import Robot
from vla_ros.simulation.rendering import mujoco
from vla_ros.simulation.world import DEFAULT_CAMERAS, optical_frame

URDF = Path(__file__).parents[2] / "urdf"

ALL = {**ROBOTS, "fr3": FR3}
both = pytest.mark.parametrize("robot", ALL.values(), ids=ALL)


class Twins:
    """One arm in pinocchio, from the URDF, and in MuJoCo, from the MJCF, at the same configuration."""

    def __init__(self, robot: Robot, seed: int = 0) -> None:
        self.model = mujoco.MjModel.from_xml_string(ElementTree.tostring(description.mjcf(robot), encoding="unicode"))
        self.data = mujoco.MjData(self.model)
        self.pin_model = pinocchio.buildModelFromXML(description.urdf(robot))
        self.pin_data = self.pin_model.createData()
        self.rng = np.random.default_rng(seed)

    def move(self) -> np.ndarray:
        q = self.rng.uniform(self.pin_model.lowerPositionLimit, self.pin_model.upperPositionLimit)
        self.data.qpos[:] = q
        self.data.qvel[:] = 0.0
        mujoco.mj_forward(self.model, self.data)
        pinocchio.framesForwardKinematics(self.pin_model, self.pin_data, q)
        return q


@both
def test_every_frame_is_where_the_other_format_has_it(robot: Robot) -> None:
    twins = Twins(robot)
    names = [twins.model.body(i).name for i in range(1, twins.model.nbody)]
    assert robot.tcp_frame in names
    for _ in range(20):
        twins.move()
        for name in names:
            frame = twins.pin_data.oMf[twins.pin_model.getFrameId(name)]
            np.testing.assert_allclose(twins.data.body(name).xpos, frame.translation, atol=1e-9)
            np.testing.assert_allclose(twins.data.body(name).xmat.reshape(3, 3), frame.rotation, atol=1e-9)


@both
def test_mass_matrix_and_gravity_agree(robot: Robot) -> None:
    twins = Twins(robot, seed=1)
    size = twins.model.nv
    for _ in range(10):
        q = twins.move()
        mass = np.zeros((size, size))
        for column, unit in zip(mass.T, np.eye(size), strict=True):
            product = np.zeros(size)
            mujoco.mj_mulM(twins.model, twins.data, product, unit)
            column[:] = product
        mass -= np.diag(twins.model.dof_armature)  # of which URDF knows nothing
        upper = np.triu(pinocchio.crba(twins.pin_model, twins.pin_data, q))
        np.testing.assert_allclose(np.triu(mass), upper, atol=1e-9)
        gravity = pinocchio.computeGeneralizedGravity(twins.pin_model, twins.pin_data, q)
        np.testing.assert_allclose(twins.data.qfrc_bias, gravity, atol=1e-9)


@both
def test_limits_and_names_are_the_facts(robot: Robot) -> None:
    root = ElementTree.fromstring(description.urdf(robot))
    joints = {joint.get("name"): joint for joint in root.iter("joint")}
    for fact in robot.joints:
        limit = joints[fact.name].find("limit")
        assert limit is not None
        given = [float(limit.get(name, "nan")) for name in ("lower", "upper", "effort", "velocity")]
        assert given == [fact.lower_rad, fact.upper_rad, fact.torque_nm, fact.velocity_rad_s]
    first, second = robot.gripper.finger_joints
    mimic = joints[second].find("mimic")
    assert mimic is not None and mimic.get("joint") == first
    assert joints[first].find("mimic") is None


def test_links_are_called_as_the_vendor_calls_them() -> None:
    names = [link.get("name") for link in ElementTree.fromstring(description.urdf(PANDA)).iter("link")]
    expected = {
        *(f"panda_link{i}" for i in range(9)),
        "panda_hand",
        "panda_leftfinger",
        "panda_rightfinger",
        "panda_tcp",
    }
    assert set(names) == expected and len(names) == len(expected)


def test_the_ready_pose_is_where_the_vendor_shows_it() -> None:
    # Closed form: with joints 1, 3, 5 at zero the arm is planar; the TCP looks straight down in the ready pose.
    twins = Twins(PANDA)
    twins.data.qpos[:7] = PANDA.home_rad
    mujoco.mj_forward(twins.model, twins.data)
    s, c = np.sin(np.pi / 4), np.cos(np.pi / 4)
    upper = np.array([-0.316 * s + 0.0825 * c, 0.333 + 0.316 * c + 0.0825 * s])  # elbow, leaning back by 45 degrees
    elbow_to_wrist = np.array([0.384 + 0.0, 0.0])  # the forearm is level: -pi/4 + 3 pi/4 from upright
    offset = np.array([0.0, 0.0825])  # back from the axis of joint 4 to the forearm's own axis, which is above
    wrist = upper + elbow_to_wrist + offset
    tcp = wrist + np.array([0.088, -0.107 - 0.1034])
    np.testing.assert_allclose(twins.data.body("panda_tcp").xpos, [tcp[0], 0.0, tcp[1]], atol=1e-9)
    np.testing.assert_allclose(twins.data.body("panda_tcp").xmat.reshape(3, 3), np.diag([1.0, -1.0, -1.0]), atol=1e-9)


@both
def test_inertias_are_those_of_bodies(robot: Robot) -> None:
    for name, inertial in robot.inertials.items():
        xx, xy, xz, yy, yz, zz = inertial.inertia_kg_m2
        smallest, middle, largest = np.linalg.eigvalsh([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
        assert smallest > 0.0, name
        assert smallest + middle >= largest, name


def test_the_shipped_urdf_is_the_generated_one() -> None:
    shipped = (URDF / "panda.urdf").read_text()
    assert shipped == description.urdf(PANDA), "run: python -m vla_ros.robots.description panda > urdf/panda.urdf"


def test_the_table_with_its_cameras_is_a_robot_too() -> None:
    text = xacro.process_file(str(URDF / "tabletop.urdf.xacro")).toxml()
    model = pinocchio.buildModelFromXML(text)
    data = model.createData()
    pinocchio.framesForwardKinematics(model, data, pinocchio.neutral(model))
    for name, camera in DEFAULT_CAMERAS.items():
        parent = data.oMf[model.getFrameId(camera.frame or "panda_link0")]
        mounted = parent.inverse() * data.oMf[model.getFrameId(optical_frame(name))]
        pose = camera.optical_pose()
        np.testing.assert_allclose(mounted.translation, pose[:3], atol=1e-9)
        np.testing.assert_allclose(mounted.rotation, pose_matrix(pose)[:3, :3], atol=1e-6)


def test_xacro_takes_calibrated_mounts() -> None:
    document = xacro.process_file(str(URDF / "tabletop.urdf.xacro"), mappings={"front_xyz": "1 2 3"})
    assert 'xyz="1 2 3"' in document.toxml()
