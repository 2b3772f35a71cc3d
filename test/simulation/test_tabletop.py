from __future__ import annotations

import numpy as np
import pytest

from vla_ros.geometry import RotationForm, interpolate_pose, pose_matrix, rotation_angle, rotation_values
from vla_ros.robots.panda import PANDA
from vla_ros.simulation.tabletop import Tabletop
from vla_ros.simulation.tasks import COLORS
from vla_ros.simulation.world import TabletopConfig, World

SECOND_NS = 1_000_000_000
TICK_NS = 10_000_000


@pytest.fixture
def world() -> Tabletop:
    return Tabletop(PANDA)


def drive(world: Tabletop, goal: np.ndarray, seconds: float) -> None:
    """Stream TCP poses at 100 Hz along a straight line with a smooth beginning and end."""
    start = world.tcp_pose
    ticks = round(seconds * SECOND_NS / TICK_NS)
    for tick in range(1, ticks + 1):
        fraction = tick / ticks
        world.command_pose(interpolate_pose(start, goal, fraction**2 * (3 - 2 * fraction)))
        world.advance(TICK_NS)


def finish_gripper(world: Tabletop) -> bool:
    for _ in range(300):
        if not world.gripper_busy:
            break
        world.advance(TICK_NS)
    assert world.gripper_outcome is not None, "it should have ended within 3 s"
    return world.gripper_outcome.success


def above(world: Tabletop, color: str, height_m: float) -> np.ndarray:
    """A TCP pose that points down at a cube, fingers along two of its sides."""
    x, y, _, _, _, qz, qw = world.state().cube_pose(color)
    yaw = (2 * np.arctan2(qz, qw) + np.pi / 4) % (np.pi / 2) - np.pi / 4
    c, s = np.cos(yaw), np.sin(yaw)
    rotation = np.array([[c, s, 0.0], [s, -c, 0.0], [0.0, 0.0, -1.0]])
    return np.array([x, y, height_m, *rotation_values(rotation, RotationForm.QUATERNION)])


def grasp(world: Tabletop, color: str) -> None:
    drive(world, above(world, color, 0.12), 1.5)
    drive(world, above(world, color, 0.02), 1.0)
    world.grasp_gripper(0.04, 0.1, 40.0)
    assert finish_gripper(world)


def test_it_is_a_world(world: Tabletop) -> None:
    protocol: World = world
    assert protocol.state().names


# --- episodes ---------------------------------------------------------------------------------------------------------


def test_the_seed_alone_decides_how_an_episode_goes() -> None:
    runs = []
    for disturbed in (False, True):
        world = Tabletop(PANDA)
        if disturbed:  # whatever was before
            world.reset(3)
            grasp(world, "blue")
        instruction = world.reset(11)
        world.command_joints(world.joint_positions + 0.05)
        world.move_gripper(0.02, 0.1)
        world.advance(SECOND_NS // 2)
        runs.append((instruction, world.state().values, world.joint_positions))
    assert runs[0][0] == runs[1][0]
    assert (runs[0][1] == runs[1][1]).all() and (runs[0][2] == runs[1][2]).all()


def test_time_never_jumps_back(world: Tabletop) -> None:
    world.advance(SECOND_NS)
    world.reset(1)
    assert world.time_ns == world.state().time_ns == world.snapshot().time_ns == SECOND_NS
    with pytest.raises(ValueError, match="1000000 ns, got 1500000 ns"):
        world.advance(1_500_000)
    with pytest.raises(ValueError, match="got 0 ns"):
        world.advance(0)


def test_the_instruction_is_the_one_asked_for_else_the_configured_else_a_seeded_lift() -> None:
    world = Tabletop(PANDA)
    assert {world.reset(seed) for seed in range(20)} == {f"lift the {color} cube" for color in COLORS}
    assert world.reset(0, "Push the blue cube  to the left") == "push the blue cube to the left" == world.instruction
    configured = Tabletop(PANDA, TabletopConfig(instruction="stack the red cube on the green cube"))
    assert configured.reset(5) == "stack the red cube on the green cube"
    assert configured.reset(5, "lift the red cube") == "lift the red cube"
    with pytest.raises(ValueError, match="no tabletop task"):
        world.reset(0, "dance")


def test_untouched_cubes_stay_where_the_reset_put_them(world: Tabletop) -> None:
    for seed in range(5):
        world.reset(seed)
        before = world.state().values
        world.advance(SECOND_NS)
        np.testing.assert_allclose(world.state().values, before, atol=2e-4)


# --- the arm ----------------------------------------------------------------------------------------------------------


def test_before_any_command_it_holds_its_pose_against_gravity(world: Tabletop) -> None:
    for seed in range(3):
        world.reset(seed)
        before = world.tcp_pose
        world.advance(2 * SECOND_NS)
        assert np.linalg.norm(world.tcp_pose[:3] - before[:3]) < 1e-3
        assert np.abs(world.joint_velocities).max() < 1e-3


@pytest.mark.parametrize("step_rad", [0.05, 0.25])
def test_a_step_of_every_joint_settles(world: Tabletop, step_rad: float) -> None:
    for joint in range(7):
        world.reset(0)
        start = world.joint_positions
        goal = start + step_rad * np.eye(7)[joint]
        world.command_joints(goal)
        progress = []
        for _ in range(100):
            world.advance(TICK_NS)
            progress.append((world.joint_positions - start)[joint] / step_rad)
        assert max(progress) < 1.12
        # What is left is what the spring cannot pull against friction.
        friction = PANDA.joints[joint].friction_nm / (600, 600, 600, 600, 250, 150, 50)[joint]
        assert np.abs(world.joint_positions - goal)[joint] < 1.3 * friction + 1e-4
        assert world.fault is None


def test_torques_stay_within_the_vendors_limits(world: Tabletop) -> None:
    world.reset(0)
    world.command_joints(world.joint_positions + 0.29)
    before = None
    for _ in range(300):
        world.advance(1_000_000)
        torques = world.joint_torques
        assert (np.abs(torques) <= [joint.torque_nm for joint in PANDA.joints]).all()
        if before is not None:
            assert np.abs(torques - before).max() <= 1.0 + 1e-9  # 1000 Nm/s at 1 kHz
        before = torques


def test_a_pose_command_arrives(world: Tabletop) -> None:
    world.reset(0)
    goal = above(world, "red", 0.25)
    drive(world, goal, 2.0)
    world.advance(SECOND_NS // 2)
    assert np.linalg.norm(world.tcp_pose[:3] - goal[:3]) < 4e-3
    assert rotation_angle(world.tcp_pose[3:], goal[3:]) < 0.02


def test_the_command_that_came_last_acts(world: Tabletop) -> None:
    world.reset(0)
    start = world.joint_positions
    drive(world, world.tcp_pose + np.array([0.0, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0]), 1.0)
    assert np.abs(world.joint_positions - start).max() > 0.1
    world.command_joints(start)
    world.advance(SECOND_NS)
    assert np.abs(world.joint_positions - start).max() < 0.01


@pytest.mark.parametrize("bad", [np.zeros(6), np.full(7, np.nan), np.zeros((1, 7))])
def test_commands_of_another_shape_or_not_finite_are_refused(world: Tabletop, bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a joint command has 7 finite values, got"):
        world.command_joints(bad)
    with pytest.raises(ValueError, match="a pose command has 7 finite values, got"):
        world.command_pose(bad)
    with pytest.raises(ValueError, match="unit quaternion"):
        world.command_pose(np.array([0.5, 0.0, 0.4, 0.0, 0.0, 0.0, 0.0]))
    assert world.fault is None


# --- reflexes ---------------------------------------------------------------------------------------------------------


def test_a_command_that_jumps_is_a_fault_until_recovered(world: Tabletop) -> None:
    world.reset(0)
    start = world.joint_positions
    world.command_joints(start + 0.4 * np.eye(7)[0])
    assert world.fault == "discontinuity: command for panda_joint1 jumped by 0.40 rad"
    world.command_joints(start + 0.1)  # ignored
    world.command_pose(world.tcp_pose)
    world.advance(SECOND_NS)
    assert np.abs(world.joint_positions - start).max() < 1e-3
    world.recover()
    assert world.fault is None
    world.command_joints(start + 0.1)
    world.advance(SECOND_NS)
    assert np.abs(world.joint_positions - start - 0.1).max() < 0.01


def test_a_pose_that_jumps_is_a_fault_and_a_reset_clears_it(world: Tabletop) -> None:
    world.reset(0)
    world.command_pose(world.tcp_pose + np.array([0.0, 0.2, 0.0, 0.0, 0.0, 0.0, 0.0]))
    assert world.fault is not None and "TCP jumped by 0.20 m" in world.fault
    world.reset(0)
    assert world.fault is None


def test_driving_into_the_table_is_a_collision_and_the_arm_stops_pushing(world: Tabletop) -> None:
    world.reset(0)
    goal = np.array([0.45, 0.3, 0.15, *above(world, "red", 0.15)[3:]])  # where no cube is
    drive(world, goal, 2.0)
    for _ in range(200):
        goal[2] -= 0.002
        world.command_pose(goal)
        world.advance(TICK_NS)
        if world.fault:
            break
    assert world.fault is not None and world.fault.startswith("collision: ")
    assert world.tcp_pose[2] > -0.03
    world.advance(SECOND_NS)
    assert np.abs(world.joint_velocities).max() < 0.05


# --- the gripper and what it holds ------------------------------------------------------------------------------------


def test_the_gripper_moves_to_a_width(world: Tabletop) -> None:
    world.reset(0)
    assert not world.gripper_busy and world.gripper_outcome is None
    world.move_gripper(0.03, 0.1)
    assert world.gripper_busy
    assert finish_gripper(world)
    assert world.gripper_width_m == pytest.approx(0.03, abs=1e-3)
    world.grasp_gripper(0.04, 0.1, 20.0)
    assert not finish_gripper(world), "there is nothing to grasp"


def test_fingers_closed_on_nothing_meet_and_do_not_pass(world: Tabletop) -> None:
    world.reset(0)
    world.grasp_gripper(0.0, 0.2, PANDA.gripper.force_n, 0.0, 0.08)
    assert finish_gripper(world)
    world.advance(SECOND_NS)
    fingers = world.snapshot().configuration[7:9]
    assert np.abs(fingers).max() < 1e-4, fingers
    assert 0.0 <= world.gripper_width_m < 1e-4
    assert world.gripper_outcome is not None and "ended at 0.0 mm" in world.gripper_outcome.message


def test_a_gripped_cube_stays_gripped_while_it_is_lifted_and_shaken(world: Tabletop) -> None:
    world.reset(0, "lift the green cube")
    grasp(world, "green")
    in_hand = np.linalg.inv(pose_matrix(world.tcp_pose)) @ pose_matrix(world.state().cube_pose("green"))
    assert not world.success()
    up = world.tcp_pose + np.array([0.0, 0.0, 0.2, 0.0, 0.0, 0.0, 0.0])
    drive(world, up, 1.0)
    for side in (0.1, -0.1, 0.1, 0.0):
        drive(world, up + np.array([0.0, side, 0.0, 0.0, 0.0, 0.0, 0.0]), 0.5)
    assert world.success() and world.state().success
    now = np.linalg.inv(pose_matrix(world.tcp_pose)) @ pose_matrix(world.state().cube_pose("green"))
    np.testing.assert_allclose(now, in_hand, atol=5e-3)
    assert world.gripper_width_m == pytest.approx(0.04, abs=1e-3)
    world.move_gripper(0.08, 0.2)
    assert finish_gripper(world)
    world.advance(SECOND_NS)
    assert not world.success()
    assert world.state().cube_pose("green")[2] < 0.05
