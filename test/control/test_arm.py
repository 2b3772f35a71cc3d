"""ArmController: anchors, follows joint and pose targets, keeps to the workspace, passes wishes to the gripper."""

from __future__ import annotations

import numpy as np
import pytest

from vla_ros.actions import ActionSpec, AnchorState, Space, to_absolute
from vla_ros.control.arm import ArmConfig, ArmController
from vla_ros.control.kinematics import for_robot
from vla_ros.control.limits import AxisLimits, LimitsConfig
from vla_ros.geometry import RotationForm, rotation_angle
from vla_ros.robots.fr3 import FR3
from vla_ros.robots.panda import PANDA
from vla_ros.timing.chunks import ScheduleConfig, ScheduleMode
from vla_ros.values import GRIPPER_DIMENSION, POSE_DIMENSIONS, ActionChunk, Array, Mode, ModelChunk, SafetyState

TICK_NS = 10_000_000
STEP_NS = 100_000_000
POSE = (*POSE_DIMENSIONS, GRIPPER_DIMENSION)


def test_nothing_is_sent_before_the_pose_is_known_and_the_arm_started(new_bench):
    bench = new_bench()
    bench.is_connected = False
    bench.arm.start(bench.now_ns)
    bench.run(0.1)
    assert bench.commands == []
    assert bench.reason == "stale joint state: none yet"
    idle = new_bench()
    idle.run(0.1)
    assert idle.commands == []
    assert idle.arm.status().mode is Mode.HOLD
    assert idle.reason == "not started"


def test_the_first_command_is_the_measured_pose(new_bench, kinematics):
    bench = new_bench(start=np.array(PANDA.home_rad) + 0.1).started()
    first = bench.commands[0]
    np.testing.assert_array_equal(first.joint_positions, np.array(PANDA.home_rad) + 0.1)
    assert (first.joint_velocities == 0.0).all()
    np.testing.assert_allclose(first.tcp_pose, kinematics.forward(first.joint_positions))
    assert bench.safety is SafetyState.HOLDING
    assert bench.reason == "waits for the first chunk"


def test_follows_joint_targets_at_their_time(new_bench, limits, assert_keeps):
    bench = new_bench().started()
    begin_ns, begin = bench.now_ns, bench.measured
    bench.send_joints(0.02)
    bench.run(0.9)
    assert bench.safety is SafetyState.RUNNING
    middle = bench.commands[-40]
    due = begin + 0.2 * (middle.time_ns - begin_ns) * 1e-9
    np.testing.assert_allclose(middle.joint_positions, due, atol=1e-4)
    assert_keeps(bench.path(), limits)


def test_follows_pose_targets_within_a_millimetre(new_bench, kinematics, limits, assert_keeps):
    bench = new_bench().started()
    start = kinematics.forward(bench.measured)
    begin_ns = bench.now_ns

    def due(time_ns: int) -> Array:
        phase = 2 * np.pi * (time_ns - begin_ns) * 1e-9 / 4.0
        wave = (1 - np.cos(phase)) / 2
        return start + np.array([0.1 * wave, 0.15 * wave * np.sin(phase), -0.2 * wave, 0, 0, 0, 0])

    for _ in range(20):
        rows = np.stack([np.append(due(bench.now_ns + row * STEP_NS), 0.08) for row in range(10)])
        bench.send(rows, POSE)
        bench.run(0.2)
    path = np.array([command.tcp_pose for command in bench.commands if command.time_ns > begin_ns + STEP_NS])
    wanted = np.array([due(command.time_ns) for command in bench.commands if command.time_ns > begin_ns + STEP_NS])
    assert (
        np.linalg.norm(path[:, :3] - wanted[:, :3], axis=1).max() < 1.5e-3
    )  # rows 100 ms apart are chords of the curve
    assert max(rotation_angle(pose[3:], start[3:]) for pose in path) < 2e-3
    assert_keeps(bench.path(), limits)
    assert "unreachable" not in bench.counters


@pytest.mark.parametrize("way", [(0.15, 0, 0), (0, 0.15, 0), (0, 0, -0.15), (0.1, 0.1, -0.1)])
def test_a_pose_that_steps_is_approached_straight(new_bench, kinematics, way):
    bench = new_bench().started()
    start = kinematics.forward(bench.measured)
    target = start + np.array([*way, 0, 0, 0, 0])
    for _ in range(8):
        bench.send(np.tile(np.append(target, 0.08), (10, 1)), POSE)
        bench.run(0.2)
    path = np.array([command.tcp_pose[:3] for command in bench.commands]) - start[:3]
    length = float(np.linalg.norm(way))
    along = path @ np.array(way) / length
    aside = np.linalg.norm(path - np.outer(along, way) / length, axis=1)
    assert aside.max() < 4e-3
    assert along.max() < length + 4e-3
    np.testing.assert_allclose(path[-1], way, atol=1e-4)


@pytest.mark.parametrize("direction", [(1, 0, 0), (0, 1, 0), (0, 0, -1)])
def test_a_motion_that_ends_at_once_is_not_overshot(new_bench, kinematics, direction):
    bench = new_bench().started()
    start, begin_ns = kinematics.forward(bench.measured), bench.now_ns
    for _ in range(8):
        due_s = (bench.now_ns - begin_ns) * 1e-9 + 0.1 * np.arange(10)
        moved = np.minimum(0.2 * due_s, 0.15)[:, None] * np.array([*direction, 0, 0, 0, 0])
        bench.send(np.column_stack([start + moved, np.full(10, 0.08)]), POSE)
        bench.run(0.2)
    path = np.array([command.tcp_pose[:3] for command in bench.commands]) - start[:3]
    assert (path @ np.array(direction)).max() < 0.15 + 2e-3


@pytest.mark.parametrize("interface", ["joint", "pose"])
def test_targets_outside_the_workspace_are_moved_to_its_edge(new_bench, kinematics, interface):
    bench = new_bench().started()
    for _ in range(20):
        below = kinematics.forward(bench.measured)
        below[2] -= 0.1
        if interface == "pose":
            bench.send(np.tile(np.append(below, 0.08), (10, 1)), POSE)
        else:
            home = np.array(PANDA.home_rad)
            q = kinematics.toward(
                bench.measured, below, period_s=1.0, home=home, lower=home - 3, upper=home + 3, velocity=np.full(7, 9.0)
            ).joint_positions
            bench.send(np.tile(q, (10, 1)))
        bench.run(0.4)
    assert bench.commands[-1].tcp_pose[2] == pytest.approx(0.005, abs=1e-3)
    assert min(command.tcp_pose[2] for command in bench.commands) > 0.0  # the table
    assert bench.counters["workspace"] >= 1


@pytest.mark.parametrize("kind", ["joints", "pose", "fr3"])
@pytest.mark.parametrize("jitter_ms", [1.0, 4.9])
def test_commands_keep_the_limits_by_their_stamps_however_unevenly_ticks_come(
    new_bench, kinematics, assert_keeps_by_stamps, kind, jitter_ms
):
    """Ticks 5 to 15 ms apart, and targets that use all the velocity there is."""
    config = ArmConfig(limits=LimitsConfig(tcp_velocity_m_s=0.7 if kind == "pose" else 1.7))
    bench = new_bench(config)
    if kind == "fr3":
        bench.arm, bench.measured = ArmController(FR3, config), np.array(FR3.home_rad)
        kinematics = for_robot(FR3)
    bench.started()
    robot = FR3 if kind == "fr3" else PANDA
    random, start = np.random.default_rng(3), bench.measured.copy()
    pose, begin_ns = kinematics.forward(start), bench.now_ns
    for tick in range(250):
        if tick % 20 == 0:
            phase = (bench.now_ns - begin_ns) * 1e-9 + 0.1 * np.arange(10)
            if kind == "pose":
                moved = 0.25 * np.sin(4.0 * phase)[:, None] * np.array([0, 1, 0, 0, 0, 0, 0])
                bench.send(np.column_stack([pose + moved, np.full(10, 0.08)]), POSE)
            else:
                bench.send(start + 0.45 * np.sin(5.0 * phase)[:, None], robot.joint_names)
        due_ns = begin_ns + (tick + 1) * TICK_NS + round(1e6 * random.uniform(-jitter_ms, jitter_ms) / 2)
        bench.pass_time(due_ns - bench.now_ns)
        bench.arm.on_joint_state(bench.now_ns, bench.measured, np.zeros(7))
        bench.step()
    assert len(bench.commands) == 255
    assert_keeps_by_stamps(bench.commands, AxisLimits.of_joints(robot, config.limits))
    times_s = np.array([command.time_ns for command in bench.commands]) * 1e-9
    tcp = np.array([command.tcp_pose[:3] for command in bench.commands])
    speed = np.linalg.norm(np.diff(tcp, axis=0), axis=1) / np.diff(times_s)
    # Its speed is looked at between ticks a period apart, so that between two nearer ones it may be a little higher.
    assert speed.max() < config.limits.tcp_velocity_m_s * 1.03
    joints = np.diff(bench.path(), axis=0) / np.diff(times_s)[:, None]
    used = np.abs(joints / AxisLimits.of_joints(robot, config.limits).velocity).max()
    assert (speed.max() / config.limits.tcp_velocity_m_s if kind == "pose" else used) > 0.5, "the limits were tried"


def test_an_arm_moves_at_the_lowest_rate_that_may_be_configured(new_bench):
    [lowest_hz] = [bound.ge for bound in ArmConfig.model_fields["rate_hz"].metadata if hasattr(bound, "ge")]
    bench, start = new_bench(ArmConfig(rate_hz=lowest_hz)), np.array(PANDA.home_rad)
    for tick in range(int(2 * lowest_hz)):
        bench.pass_time(round(1e9 / lowest_hz))
        bench.arm.on_joint_state(bench.now_ns, bench.measured, np.zeros(7))
        if tick == 5:
            bench.arm.start(bench.now_ns)
        if tick == 10:
            bench.send_joints()
        bench.step()
    assert bench.measured - start == pytest.approx(0.18, abs=1e-3)


def test_ticks_that_catch_up_are_left_out(new_bench):
    bench = new_bench().started()
    bench.send_joints()
    bench.run(0.2)
    assert bench.arm.step(bench.now_ns + 1) is None
    assert bench.arm.step(bench.now_ns + TICK_NS) is not None


def test_the_gripper_gets_goals_only_while_the_arm_runs(new_bench, kinematics):
    bench = new_bench().started()
    rows = np.tile(np.append(kinematics.forward(bench.measured), 0.0), (10, 1))
    assert bench.arm.gripper_goal(bench.now_ns) is None
    bench.send(rows, POSE)
    bench.run(0.02)
    goal = bench.arm.gripper_goal(bench.now_ns)
    assert goal is not None
    assert goal.kind == "grasp"
    assert bench.arm.gripper_goal(bench.now_ns) is None
    bench.arm.gripper_done(False, "refused")
    assert bench.arm.status().gripper == "gripper grasp failed: refused"
    bench.arm.hold(bench.now_ns)
    bench.run(1.0)
    assert bench.arm.gripper_goal(bench.now_ns) is None
    assert bench.commands[-1].gripper_width_m == 0.0


def test_latency_of_chunks(new_bench):
    bench = new_bench().started()
    assert bench.arm.status().chunks.latency_p50_ms is None
    for latency_ms in (10, 20, 30):
        bench.run(0.1)
        bench.send(np.tile(bench.measured, (10, 1)), age_ns=latency_ms * 1_000_000)
    chunks = bench.arm.status().chunks
    assert (chunks.latency_ms, chunks.latency_p50_ms) == (30.0, 20.0)
    assert chunks.latency_p99_ms == pytest.approx(29.8)
    assert chunks.delay_ms == pytest.approx(30.0, abs=1.5)


@pytest.mark.parametrize("mode", list(ScheduleMode))
@pytest.mark.parametrize("space", [Space.EE_DELTA, Space.JOINT_DELTA])
def test_a_delta_chunk_that_arrives_late_loses_no_displacement(new_bench, kinematics, mode, space):
    """The conformance test: 300 ms late, the same final pose as in time."""
    reached = []
    for delay_s in (0.0, 0.3):
        bench = new_bench(ArmConfig(schedule=ScheduleConfig(mode=mode))).started()
        is_joint = space is Space.JOINT_DELTA
        spec = ActionSpec(
            space=space, rotation=RotationForm.AXIS_ANGLE, joint_names=PANDA.joint_names if is_joint else ()
        )
        motion = np.full(7, 0.015) if is_joint else np.array([0.01, 0.008, -0.012, 0.02, 0.0, 0.03])
        rows = np.tile(np.append(motion, 0.08), (13, 1))
        rows[10:, :-1] = 0.0
        anchor = AnchorState(bench.measured, kinematics.forward(bench.measured))
        stay = np.zeros((5, rows.shape[1]))
        stay[:, -1] = 0.08
        for values, late_s in ((stay, 0.0), (rows, delay_s)):  # not from standstill, where it would begin later
            chunk = to_absolute(spec, ModelChunk(bench.now_ns, values), anchor, PANDA.gripper.max_width_m)
            bench.run(late_s)
            bench.arm.on_chunk(chunk, bench.now_ns)
            bench.run(0.02)
        bench.run(1.9 - delay_s)
        assert bench.counters["late_rows"] == round(delay_s * 10)
        reached.append(bench.commands[-1].tcp_pose)
        wanted = kinematics.forward(chunk.actions[-1, :7]) if is_joint else chunk.actions[-1, :7]
        np.testing.assert_allclose(reached[-1][:3], wanted[:3], atol=5e-4)
        assert rotation_angle(reached[-1][3:], wanted[3:]) < 2e-3
    np.testing.assert_allclose(reached[0], reached[1], atol=5e-4)


@pytest.mark.parametrize("mode", list(ScheduleMode))
def test_a_late_first_chunk_is_followed_from_its_first_row(new_bench, limits, assert_keeps, mode):
    bench = new_bench(ArmConfig(schedule=ScheduleConfig(mode=mode))).started()
    start, observed_ns = bench.measured.copy(), bench.now_ns
    bench.run(0.7)
    bench.arm.on_chunk(
        ActionChunk(observed_ns, STEP_NS, PANDA.joint_names, start + 0.05 * np.arange(10)[:, None]), bench.now_ns
    )
    begin_ns, sent = bench.now_ns, len(bench.commands)
    bench.run(1.2)
    assert bench.counters["chunk_shifted"] == 1
    assert bench.counters["late_rows"] == 0
    for command in bench.commands[sent:]:  # never ahead of the plan as if it had begun now
        assert (command.joint_positions - start <= 0.5 * (command.time_ns - begin_ns) * 1e-9 + 0.01).all()
    np.testing.assert_allclose(bench.measured, start + 0.45, atol=2e-3)
    assert_keeps(bench.path(), limits)


def test_a_policy_that_is_slower_than_its_chunk_moves(new_bench, limits, assert_keeps):
    """Half a second of plan, for which it needs 0.8 s: every second one is of a standstill."""
    bench = new_bench().started()
    start = bench.measured.copy()
    for _ in range(6):
        observed, observed_ns = bench.measured.copy(), bench.now_ns
        bench.run(0.8)
        rows = observed + 0.02 * np.arange(5)[:, None]
        bench.arm.on_chunk(ActionChunk(observed_ns, STEP_NS, PANDA.joint_names, rows), bench.now_ns)
        bench.run(0.02)
    bench.run(0.8)
    assert bench.counters["chunk_shifted"] == 3
    assert bench.counters["chunk_late"] == 3
    np.testing.assert_allclose(bench.measured - start, 3 * 0.08, atol=0.02)
    assert_keeps(bench.path(), limits)


def test_an_arm_that_is_held_while_chunks_come_goes_on_from_the_first_row_of_the_last(new_bench):
    bench = new_bench().started()
    bench.send_joints(0.03)
    bench.run(0.5)
    bench.is_connected = False
    for _ in range(10):
        bench.run(0.1)
        bench.send_joints(0.03)
    bench.is_connected = True
    held = bench.measured.copy()
    observed_ns = bench.now_ns
    bench.run(0.03)
    bench.arm.on_chunk(
        ActionChunk(observed_ns, STEP_NS, PANDA.joint_names, held + 0.03 * np.arange(20)[:, None]), bench.now_ns
    )
    begin_ns = bench.now_ns
    bench.run(0.3)
    assert bench.safety is SafetyState.RUNNING
    ahead = bench.measured - held - 0.3 * (bench.now_ns - begin_ns) * 1e-9
    assert (ahead < 0.01).all()


def test_half_the_limits_are_half_the_limits(new_bench, limits):
    bench = new_bench(ArmConfig(limits=LimitsConfig(velocity_scale=0.05))).started()
    bench.send_joints(0.04)
    bench.run(0.9)
    speed = np.abs(np.diff(bench.path(), axis=0)).max(axis=0) / 0.01
    assert (speed <= limits.velocity * 0.05 / LimitsConfig().velocity_scale * (1 + 1e-6)).all()
    assert bench.counters["velocity"] >= 1


def test_an_arm_made_in_a_mode_waits_for_its_first_chunk_only(new_bench):
    bench = new_bench()
    bench.arm = ArmController(PANDA, ArmConfig(), Mode.POLICY)
    bench.run(0.1)
    assert bench.arm.status().mode is Mode.POLICY
    assert bench.reason == "waits for the first chunk"
