"""ArmController: what it refuses, when it holds and why, and what brings it back."""

from __future__ import annotations

import numpy as np
import pytest

from vla_ros.actions import ActionSpec, AnchorState, GripperConvention, Space, to_absolute
from vla_ros.control.arm import ArmConfig
from vla_ros.robots.panda import PANDA
from vla_ros.timing.chunks import ScheduleConfig, ScheduleMode
from vla_ros.values import GRIPPER_DIMENSION, POSE_DIMENSIONS, ActionChunk, Mode, ModelChunk, SafetyState

TICK_NS = 10_000_000
JOINTS = PANDA.joint_names
POSE = (*POSE_DIMENSIONS, GRIPPER_DIMENSION)


def test_the_end_of_the_chunks_is_a_ramp_and_a_hold_with_the_reason(new_bench, limits, assert_keeps):
    bench = new_bench().started()
    bench.send_joints(0.05)
    bench.run(0.5)
    bench.arm.on_policy_lost(bench.now_ns, "killed")
    bench.run(0.01)
    assert bench.safety is SafetyState.RAMPING
    assert bench.reason == "policy lost: killed"
    bench.run(1.0)
    assert bench.safety is SafetyState.HOLDING
    held = bench.path()[-20:]
    assert (held == held[0]).all()
    assert_keeps(bench.path(), limits)
    bench.send_joints(0.02)
    bench.run(0.1)
    assert bench.safety is SafetyState.RUNNING


def test_chunks_that_run_out_hold_until_new_ones_come(new_bench, limits, assert_keeps):
    bench = new_bench().started()
    bench.send_joints()
    bench.run(0.98)
    assert bench.safety is SafetyState.RUNNING  # the last row is kept for one step
    bench.run(0.1)
    assert bench.safety is SafetyState.HOLDING
    assert bench.reason == "no action is due: the chunks ran out"
    bench.send_joints()
    bench.run(0.1)
    assert bench.safety is SafetyState.RUNNING
    assert_keeps(bench.path(), limits)


def test_chunks_that_must_not_be_followed_are_counted_by_name(new_bench):
    bench = new_bench()
    bench.run(0.05)
    bench.send_joints()
    bench.started()
    good = np.tile(bench.measured, (10, 1))
    bad = good.copy()
    bad[4, 2] = np.nan
    bench.send(bad)
    bench.send(good * 1e6)
    bench.send(good[:, :6], JOINTS[:6])
    bench.send(np.zeros((10, 8)), POSE)
    bench.send(good, age_ns=500_000_000)
    bench.send(good, age_ns=-500_000_000)
    bench.arm.on_chunk(ActionChunk(bench.now_ns, 2**62, JOINTS, good), bench.now_ns)
    bench.send(np.tile([0.3, 0, 0.5, 1, 0, 0, 0, 0.08], (10, 1)), POSE)
    assert bench.counters == {
        "chunk_not_started": 1,
        "chunk_not_finite": 1,
        "chunk_absurd": 1,
        "chunk_wrong_dimensions": 2,
        "chunk_no_rotation": 1,
        "chunk_before_start": 1,
        "chunk_in_the_future": 1,
        "chunks": 1,
        "late_rows": 0,
        "commands": 5,
        "gripper_failures": 0,
    }


def test_a_jump_is_refused_and_a_near_target_resumes(new_bench, limits, assert_keeps):
    bench = new_bench().started()
    bench.send_joints()
    bench.run(0.4)
    bench.send(np.tile(bench.measured + 1.0, (10, 1)))
    bench.run(0.6)
    assert bench.safety is SafetyState.HOLDING
    assert bench.reason.startswith("target refused: a target ")
    assert bench.counters["jump"] == 1
    bench.send_joints()
    bench.run(0.4)
    assert bench.safety is SafetyState.RUNNING
    assert_keeps(bench.path(), limits)


@pytest.mark.parametrize("mode", list(ScheduleMode))
def test_after_a_refused_jump_what_starts_at_the_arm_is_followed_and_what_stays_away_is_not(new_bench, mode):
    """As a policy replans it: deltas are anchored where the arm is measured, absolute targets may stay out of reach."""
    spec = ActionSpec(space=Space.JOINT_DELTA, gripper=GripperConvention.NONE, joint_names=JOINTS)
    bench = new_bench(ArmConfig(schedule=ScheduleConfig(mode=mode))).started()
    bench.send_joints()
    bench.run(0.4)
    away = bench.measured + 1.0
    for _ in range(15):
        bench.send(np.tile(away, (10, 1)))
        bench.run(0.2)
    held = bench.measured.copy()
    assert bench.safety is SafetyState.HOLDING
    assert bench.reason.startswith("target refused: a target ")
    assert bench.counters["jump"] == 1
    for _ in range(8):
        anchor = AnchorState(bench.measured, np.zeros(7))
        rows = ModelChunk(bench.now_ns, np.full((10, 7), 0.01))
        bench.arm.on_chunk(to_absolute(spec, rows, anchor, 0.08), bench.now_ns)
        bench.run(0.2)
    assert bench.safety is SafetyState.RUNNING
    assert (bench.measured > held + 0.03).all()


def test_a_stale_joint_state_holds_and_comes_back(new_bench):
    bench = new_bench().started()
    bench.send_joints()
    bench.run(0.3)
    bench.is_connected = False
    bench.run(0.3)
    assert bench.safety is not SafetyState.RUNNING
    assert bench.reason.startswith("stale joint state: ")
    bench.is_connected = True
    bench.run(0.1)
    assert bench.safety is SafetyState.RUNNING


@pytest.mark.parametrize("stamp_ns", [2**62, -(2**62), 0])
def test_one_wrong_stamp_of_a_joint_state_does_no_harm_for_long(new_bench, stamp_ns):
    bench = new_bench().started()
    bench.send_joints()
    bench.run(0.3)
    bench.arm.on_joint_state(stamp_ns, bench.measured, None)
    bench.run(0.05)
    assert bench.safety is SafetyState.RUNNING


def test_wrong_joint_states_are_dropped(new_bench):
    bench = new_bench().started()
    there = bench.measured
    for positions, velocities in (
        (there[:6], None),
        (np.full(7, np.nan), None),
        (there, np.full(7, np.inf)),
        (there + 4.0, None),
    ):
        bench.arm.on_joint_state(bench.now_ns, positions, velocities)
    bench.arm.on_joint_state(bench.now_ns - 1, there, None)
    bench.arm.on_joint_state(bench.now_ns, there + 0.01, None)
    assert bench.counters["joint_state_refused"] == 4
    assert bench.counters["joint_state_out_of_order"] == 2


def test_an_emergency_stop_needs_resume_and_old_chunks_do_not_count(new_bench, limits, assert_keeps):
    bench = new_bench().started()
    bench.send_joints(0.05)
    bench.run(0.5)
    bench.arm.estop(bench.now_ns)
    assert bench.safety is SafetyState.STOPPED
    bench.run(0.6)
    held = bench.path()[-10:]
    assert (held == held[0]).all()
    bench.send_joints()
    bench.run(0.2)
    bench.arm.start(bench.now_ns)
    bench.run(0.2)
    assert bench.safety is SafetyState.STOPPED
    assert bench.reason == "emergency stop"
    bench.arm.resume(bench.now_ns)
    bench.send(np.tile(bench.measured, (10, 1)), age_ns=1)
    bench.run(0.1)
    assert bench.reason == "waits for the first chunk"
    bench.send_joints()
    bench.run(0.1)
    assert bench.safety is SafetyState.RUNNING
    assert_keeps(bench.path(), limits)


def test_a_fault_commands_nothing_until_cleared_and_resumed(new_bench):
    bench = new_bench().started()
    bench.send_joints(0.05)
    bench.run(0.5)
    bench.arm.on_fault("joint reflex", bench.now_ns)
    sent = len(bench.commands)
    bench.run(0.5)
    assert len(bench.commands) == sent
    assert bench.safety is SafetyState.HOLDING
    assert bench.reason == "fault of the robot: joint reflex"
    bench.arm.resume(bench.now_ns)
    assert bench.reason == "fault of the robot: joint reflex"
    bench.arm.on_fault("joint reflex", bench.now_ns)
    bench.arm.on_fault_cleared(bench.now_ns)
    bench.arm.resume(bench.now_ns)
    assert bench.reason == "waits for resume after a fault of the robot: joint reflex"
    assert bench.arm.needs_recovery
    bench.arm.on_recovered(bench.now_ns)
    assert not bench.arm.needs_recovery
    bench.send(np.tile(bench.measured, (10, 1)), age_ns=1)
    bench.run(0.1)
    assert bench.reason == "waits for the first chunk", "what was observed before does not count"
    bench.send_joints()
    bench.run(0.1)
    assert bench.safety is SafetyState.RUNNING


def test_an_arm_that_was_moved_is_not_pulled_back(new_bench):
    bench = new_bench().started()
    bench.send_joints()
    bench.run(0.5)
    held = bench.measured
    for moved in np.linspace(0.0, 0.4, 41):  # pushed
        bench.measured = held + np.array([0, moved, 0, 0, 0, 0, 0])
        bench.run(0.01)
    moved_to = held + np.array([0, 0.4, 0, 0, 0, 0, 0])
    assert bench.reason == "the arm is not where it was commanded: panda_joint2 is 0.31 rad off"
    for _ in range(50):
        bench.measured = moved_to
        bench.run(0.01)
    bench.send_joints()
    bench.measured = moved_to
    bench.run(0.01)
    assert bench.safety is SafetyState.HOLDING
    bench.measured = moved_to
    bench.arm.resume(bench.now_ns)
    bench.run(0.01)
    np.testing.assert_array_equal(bench.commands[-1].joint_positions, moved_to)


def test_a_driver_that_is_sent_poses_may_turn_the_elbow_but_not_leave_the_tcp(new_bench, kinematics):
    config = ArmConfig(command_interface="cartesian")
    home = np.array(PANDA.home_rad)
    elbow = kinematics.toward(
        home + np.array([0.9, 0, 0, 0, 0, 0, 0]),
        kinematics.forward(home),
        period_s=1.0,
        home=home + 1.0,
        lower=home - 3,
        upper=home + 3,
        velocity=np.full(7, 9.0),
        iterations=20,
    ).joint_positions
    assert np.abs(elbow - home).max() > 0.3
    tilted = home + np.array([0, 0.35, 0, 0, 0, 0, 0])
    for measured, reason in (
        (elbow, ""),
        (tilted, "the arm is not where it was commanded: the TCP is 0.10 m and 0.30"),
    ):
        bench = new_bench(config).started()
        bench.send_joints(0.0)
        bench.run(0.05)
        for share in np.linspace(0.0, 1.0, 60):
            bench.pass_time(TICK_NS)
            bench.arm.on_joint_state(bench.now_ns, home + share * (measured - home), np.zeros(7))
            bench.arm.step(bench.now_ns, bench.steady_ns)
        assert bench.reason.startswith(reason) and bool(bench.reason) == bool(reason), bench.reason


def test_start_waits_until_the_arm_stands(new_bench):
    bench = new_bench().started()
    bench.send_joints(0.05)
    bench.run(0.5)
    before = bench.path()[-1]
    bench.arm.start(bench.now_ns)
    bench.run(0.01)
    assert np.abs(bench.path()[-1] - before).max() > 0.001  # it cannot stop dead
    assert bench.reason == "re-anchoring to the measured pose"
    bench.run(0.5)
    assert bench.reason == "waits for the first chunk"


def test_stop_ends_in_silence(new_bench):
    bench = new_bench().started()
    bench.send_joints(0.05)
    bench.run(0.5)
    bench.arm.stop(bench.now_ns)
    bench.run(1.0)
    sent = len(bench.commands)
    assert bench.arm.status().mode is Mode.HOLD
    assert (bench.commands[-1].joint_velocities == 0.0).all()  # it ramped down before
    bench.run(1.0)
    assert len(bench.commands) == sent


def test_a_clock_that_jumps_back_holds_until_resume(new_bench):
    bench = new_bench().started()
    bench.send_joints(0.05)
    bench.run(0.5)
    bench.now_ns -= 3_000_000_000
    bench.run(0.5)
    assert bench.safety is SafetyState.HOLDING
    assert bench.reason == "clock jump: 2.99 s back"
    bench.arm.resume(bench.now_ns)
    bench.send_joints()
    bench.run(0.1)
    assert bench.safety is SafetyState.RUNNING


@pytest.mark.parametrize("jump_s", [-3.0, -0.2, 0.2, 0.7, 1.0, 3600.0])
@pytest.mark.parametrize("has_steady", [True, False])
@pytest.mark.parametrize("stamps_follow", [True, False])
def test_a_clock_that_jumps_in_motion_makes_no_command_jump(
    new_bench, assert_keeps, limits, jump_s, has_steady, stamps_follow
):
    """With the robot's stamps, or without: then its driver runs on another computer."""
    bench = new_bench().started()
    bench.send_joints(0.05)
    bench.run(0.5)
    assert bench.commands[-1].joint_velocities.max() > 0.2
    jump_ns = round(jump_s * 1e9)
    bench.now_ns += jump_ns
    for _ in range(25):
        bench.pass_time(TICK_NS)
        stamp_ns = bench.now_ns if stamps_follow else bench.now_ns - jump_ns
        bench.arm.on_joint_state(stamp_ns, bench.measured, np.zeros(7))
        command = bench.arm.step(bench.now_ns, bench.steady_ns if has_steady else None)
        assert command is not None
        bench.commands.append(command)
        bench.measured = command.joint_positions
    assert_keeps(bench.path(), limits)
    if jump_s == 0.2:  # no longer than a busy machine may take
        assert bench.reason == "" if stamps_follow else bench.reason.startswith("stale joint state: ")
    else:
        assert bench.reason.startswith(f"clock jump: {abs(jump_s) + (0.01 if jump_s > 0 else -0.01):.2f} s ")


def test_a_process_that_paused_in_motion_begins_where_the_robot_came_to_rest(new_bench):
    bench = new_bench().started()
    bench.send_joints(0.05)
    bench.run(0.5)
    last = bench.commands[-1].joint_positions
    bench.pass_time(690_000_000)
    bench.commands = []
    bench.run(0.5)
    assert bench.safety is SafetyState.HOLDING
    assert bench.reason.startswith("clock jump: 0.70 s ahead, as the process")
    assert (bench.path() == last).all()


def test_a_clock_that_is_slewed_back_a_little_is_no_matter(new_bench, limits, assert_keeps_by_stamps):
    bench = new_bench().started()
    bench.send_joints(0.02)
    for tick in range(80):
        bench.run(0.01)
        bench.now_ns -= (1, 0, 1000, 4_000_000)[tick % 4]
        assert bench.step() is None
    assert bench.safety is SafetyState.RUNNING
    assert_keeps_by_stamps(bench.commands, limits)


def test_hold_and_resume(new_bench):
    bench = new_bench().started()
    bench.send_joints(0.05)
    bench.run(0.5)
    bench.arm.hold(bench.now_ns)
    bench.run(0.5)
    assert bench.reason == "held by the operator"
    assert bench.arm.status().mode is Mode.HOLD
    bench.arm.resume(bench.now_ns)
    assert bench.arm.status().mode is Mode.POLICY
    bench.send_joints()
    bench.run(0.1)
    assert bench.safety is SafetyState.RUNNING
    bench.arm.resume(bench.now_ns)  # nothing to resume from: nothing changes
    bench.run(0.1)
    assert bench.safety is SafetyState.RUNNING


def test_an_observation_that_is_acted_on_for_too_long_is_stale(new_bench):
    bench = new_bench().started()
    bench.send(np.tile(bench.measured, (100, 1)))
    bench.run(1.9)
    assert bench.safety is SafetyState.RUNNING
    bench.run(0.3)
    assert bench.safety is SafetyState.HOLDING
    assert bench.reason.startswith("stale observation: the one that is acted on is 20")


@pytest.mark.parametrize("word", ["resume", "start"])
def test_no_word_lets_the_arm_sag_but_it_is_taken_where_it_was_moved_to(new_bench, word):
    bench = new_bench().started()
    bench.send_joints()
    bench.run(0.5)
    bench.arm.hold(bench.now_ns)
    bench.run(0.5)
    held = bench.measured.copy()
    sagged = held + np.array([0, 0.01, 0, 0.005, 0, 0, 0])
    moved = held + np.array([0, 0.01, 0, 0.05, 0, 0, 0])
    for measured, wanted in ((sagged, held), (moved, moved)):
        bench.arm.hold(bench.now_ns)
        for tick in range(10):
            if tick == 5:
                getattr(bench.arm, word)(bench.now_ns)
            bench.pass_time(TICK_NS)
            bench.arm.on_joint_state(bench.now_ns, measured, np.zeros(7))
            command = bench.step()
        assert command is not None
        np.testing.assert_array_equal(command.joint_positions, wanted)
