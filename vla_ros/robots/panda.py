"""Franka Emika Panda (FER) with the Franka hand, driven through multipanda_ros2; franka_ros2 cannot drive it.

Kinematics, inertias and limits: the vendor's description package and FCI documentation. Topics: multipanda_ros2,
which builds on libfranka 0.9, the last that speaks to this arm.
"""

from __future__ import annotations

from math import pi

from vla_ros.robots.panda_shapes import HULL, SHAPES
from vla_ros.robots.robot import (
    CartesianLimits,
    Endpoint,
    EndpointKind,
    FixedFrame,
    Gripper,
    Inertial,
    Joint,
    Robot,
)

_ORIGINS = (
    ((0.0, 0.0, 0.333), (0.0, 0.0, 0.0)),
    ((0.0, 0.0, 0.0), (-pi / 2, 0.0, 0.0)),
    ((0.0, -0.316, 0.0), (pi / 2, 0.0, 0.0)),
    ((0.0825, 0.0, 0.0), (pi / 2, 0.0, 0.0)),
    ((-0.0825, 0.384, 0.0), (-pi / 2, 0.0, 0.0)),
    ((0.0, 0.0, 0.0), (pi / 2, 0.0, 0.0)),
    ((0.088, 0.0, 0.0), (pi / 2, 0.0, 0.0)),
)
_LOWER_RAD = (-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973)
_UPPER_RAD = (2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973)
_VELOCITY_RAD_S = (2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61)
_ACCELERATION_RAD_S2 = (15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0)
_JERK_RAD_S3 = (7500.0, 3750.0, 5000.0, 6250.0, 7500.0, 10000.0, 10000.0)
_TORQUE_NM = (87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0)
_HOME_RAD = (0.0, -pi / 4, 0.0, -3 * pi / 4, 0.0, pi / 2, pi / 4)

_JOINTS = tuple(
    Joint(
        name=f"panda_joint{i + 1}",
        parent=f"panda_link{i}",
        child=f"panda_link{i + 1}",
        origin_xyz_m=_ORIGINS[i][0],
        origin_rpy_rad=_ORIGINS[i][1],
        lower_rad=_LOWER_RAD[i],
        upper_rad=_UPPER_RAD[i],
        velocity_rad_s=_VELOCITY_RAD_S[i],
        acceleration_rad_s2=_ACCELERATION_RAD_S2[i],
        jerk_rad_s3=_JERK_RAD_S3[i],
        torque_nm=_TORQUE_NM[i],
        home_rad=_HOME_RAD[i],
        damping_nm_s=0.003,
        friction_nm=0.2,
    )
    for i in range(7)
)

_FINGER = Inertial(0.0291, (0.0, 0.01529, 0.02197), (8.5e-6, 0.0, 0.0, 8.5e-6, -1.1e-6, 1.8e-6))

_INERTIALS = {
    "panda_link0": Inertial(2.3966, (-0.0172, 0.0004, 0.0745), (0.0090, 0.0, 0.0020, 0.0115, 0.0, 0.0085)),
    "panda_link1": Inertial(
        2.7907, (0.00033, -0.02204, -0.04762), (0.015648, 0.0000053, -0.0000368, 0.014399, -0.002485, 0.005004)
    ),
    "panda_link2": Inertial(
        2.5420, (0.00038, -0.09211, 0.01908), (0.016624, 0.0000309, 0.0000084, 0.004625, 0.003559, 0.015451)
    ),
    "panda_link3": Inertial(
        2.2513, (0.05152, 0.01696, -0.02971), (0.006317, 0.000973, 0.002925, 0.008663, 0.000935, 0.006578)
    ),
    # No body has the vendor's numbers for link 4 (the largest principal moment exceeds the sum of the others); with the
    # products of inertia in the other sign convention, as here, one has.
    "panda_link4": Inertial(
        2.2037, (-0.05113, 0.05825, 0.01698), (0.007846, 0.003396, -0.001587, 0.006495, 0.001815, 0.010031)
    ),
    "panda_link5": Inertial(
        2.2855, (-0.00005, 0.03730, -0.09280), (0.022970, -0.0000095, -0.0000206, 0.020951, 0.003823, 0.004306)
    ),
    "panda_link6": Inertial(
        1.353, (0.06572, -0.00371, 0.00153), (0.000880, -0.000215, -0.000119, 0.002778, 0.0000127, 0.002867)
    ),
    "panda_link7": Inertial(
        0.35973, (0.00089, -0.00044, 0.05491), (0.000195, 0.0000017, 0.0000015, 0.000192, -0.0000013, 0.000179)
    ),
    "panda_hand": Inertial(0.6544, (-0.00004, 0.01191, 0.02073), (0.00186, 0.0, 0.0, 0.00030, -0.00002, 0.00174)),
    "panda_leftfinger": _FINGER,
    "panda_rightfinger": _FINGER,
}

_ACTION, _SERVICE = EndpointKind.ACTION, EndpointKind.SERVICE

#: What multipanda_ros2 offers, from our side.
_ENDPOINTS = {
    "joint_states": Endpoint("/franka/joint_states", "sensor_msgs/msg/JointState", from_driver=True, rate_hz=1000.0),
    "gripper_joint_states": Endpoint(
        "/panda_gripper/joint_states", "sensor_msgs/msg/JointState", from_driver=True, rate_hz=15.0
    ),
    "robot_state": Endpoint(
        "/franka_robot_state_broadcaster/robot_state", "franka_msgs/msg/FrankaState", from_driver=True, rate_hz=1000.0
    ),
    "joints_desired": Endpoint("/joint_impedance/joints_desired", "std_msgs/msg/Float64MultiArray"),
    "pose_desired": Endpoint("/cartesian_impedance/pose_desired", "std_msgs/msg/Float64MultiArray"),
    "gripper_homing": Endpoint("/panda_gripper/homing", "franka_msgs/action/Homing", _ACTION),
    "gripper_move": Endpoint("/panda_gripper/move", "franka_msgs/action/Move", _ACTION),
    "gripper_grasp": Endpoint("/panda_gripper/grasp", "franka_msgs/action/Grasp", _ACTION),
    "gripper_action": Endpoint(
        "/panda_gripper/gripper_action", "control_msgs/action/GripperCommand", _ACTION, used=False
    ),
    "gripper_stop": Endpoint("/panda_gripper/stop", "std_srvs/srv/Trigger", _SERVICE),
    "error_recovery": Endpoint(
        "/panda_error_recovery_service_server/error_recovery", "franka_msgs/srv/ErrorRecovery", _SERVICE
    ),
    "switch_controller": Endpoint(
        "/controller_manager/switch_controller", "controller_manager_msgs/srv/SwitchController", _SERVICE
    ),
}

PANDA = Robot(
    name="panda",
    title="Franka Emika Panda",
    base_frame="panda_link0",
    tcp_frame="panda_tcp",
    joints=_JOINTS,
    fixed_frames=(
        FixedFrame("panda_link8", "panda_link7", (0.0, 0.0, 0.107), (0.0, 0.0, 0.0)),
        FixedFrame("panda_hand", "panda_link8", (0.0, 0.0, 0.0), (0.0, 0.0, -pi / 4)),
        FixedFrame("panda_tcp", "panda_hand", (0.0, 0.0, 0.1034), (0.0, 0.0, 0.0)),
    ),
    inertials=_INERTIALS,
    shapes=SHAPES,
    hull=HULL,
    gripper=Gripper(
        frame="panda_hand",
        finger_joints=("panda_finger_joint1", "panda_finger_joint2"),
        finger_links=("panda_leftfinger", "panda_rightfinger"),
        finger_origin_xyz_m=(0.0, 0.0, 0.0584),
        max_width_m=0.08,
        speed_m_s=0.2,
        force_n=100.0,
    ),
    cartesian=CartesianLimits(1.7, 13.0, 6500.0, 2.5, 25.0, 12500.0),
    driver="panda",
    endpoints=_ENDPOINTS,
)
