"""ArmController: anchors, follows, refuses, holds with the reason, and comes back only when it may."""

from __future__ import annotations

import numpy as np
import pytest

from vla_ros.actions import ActionSpec, AnchorState, Space, to_absolute
from vla_ros.control.arm import ArmConfig, ArmController
from vla_ros.control.limits import LimitsConfig
from vla_ros.geometry import RotationForm, rotation_angle
from vla_ros.robots.panda import PANDA
from vla_ros.timing.chunks import ScheduleConfig, ScheduleMode
from vla_ros.values import (
    GRIPPER_DIMENSION,
    POSE_DIMENSIONS,
    ActionChunk,
    Array,
    Command,
    Mode,
    ModelChunk,
    SafetyState,
)

TICK_NS = 10_000_000
STEP_NS = 100_000_000
JOINTS = PANDA.joint_names
POSE = (*POSE_DIMENSIONS, GRIPPER_DIMENSION)


class Bench:
    """An arm that is where it is commanded, and a clock moved by hand."""

    def __init__(self, config: ArmConfig | None = None, start: Array | None = None) -> None:
        self.arm = ArmController(PANDA, config or ArmConfig())
        self.now_ns = 5_000_000_000
        self.measured = np.array(PANDA.home_rad) if start is None else start
        self.commands: list[Command] = []
        self.is_connected = True

    def started(self) -> Bench:
        self.run(0.05)
        self.arm.start(self.now_ns)
        self.run(0.05)
        return self

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds * 1e9 / TICK_NS)):
            self.now_ns += TICK_NS
            if self.is_connected:
                self.arm.on_joint_state(self.now_ns, self.measured, np.zeros(7))
            command = self.arm.step(self.now_ns)
            if command is not None:
                self.commands.append(command)
                self.measured = np.array(command.joint_positions)

    def send(self, rows: Array, dimensions: tuple[str, ...] = JOINTS, age_ns: int = 0) -> None:
        self.arm.on_chunk(ActionChunk(self.now_ns - age_ns, STEP_NS, dimensions, rows), self.now_ns)

    def send_joints(self, change: float = 0.02) -> None:
        """A chunk from here on, `change` rad a row."""
        self.send(self.measured + change * np.arange(10)[:, None])

    @property
    def reason(self) -> str:
        return self.arm.status(self.now_ns).reason

    @property
    def safety(self) -> SafetyState:
        return self.arm.safety

    @property
    def counters(self) -> dict[str, int]:
        return dict(self.arm.status(self.now_ns).counters)

    def path(self) -> Array:
        return np.array([command.joint_positions for command in self.commands])


def test_nothing_is_sent_before_the_pose_is_known_and_the_arm_started():
    bench = Bench()
    bench.is_connected = False
    bench.arm.start(bench.now_ns)
    bench.run(0.1)
    assert bench.commands == []
    assert bench.reason == "stale joint state: none yet"
    idle = Bench()
    idle.run(0.1)
    assert idle.commands == []
    assert idle.arm.status(idle.now_ns).mode is Mode.HOLD
    assert idle.reason == "not started"


def test_the_first_command_is_the_measured_pose(kinematics):
    bench = Bench(start=np.array(PANDA.home_rad) + 0.1).started()
    first = bench.commands[0]
    np.testing.assert_array_equal(first.joint_positions, np.array(PANDA.home_rad) + 0.1)
    assert (first.joint_velocities == 0.0).all()
    np.testing.assert_allclose(first.tcp_pose, kinematics.forward(first.joint_positions))
    assert bench.safety is SafetyState.HOLDING
    assert bench.reason == "waits for the first chunk"


def test_follows_joint_targets_at_their_time(limits, assert_keeps):
    bench = Bench().started()
    begin_ns, begin = bench.now_ns, bench.measured
    bench.send_joints(0.02)
    bench.run(0.9)
    assert bench.safety is SafetyState.RUNNING
    middle = bench.commands[-40]
    due = begin + 0.2 * (middle.time_ns - begin_ns) * 1e-9
    np.testing.assert_allclose(middle.joint_positions, due, atol=1e-4)
    assert_keeps(bench.path(), limits)


def test_follows_pose_targets_within_a_millimetre(kinematics, limits, assert_keeps):
    bench = Bench().started()
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
def test_a_pose_that_steps_is_approached_straight(kinematics, way):
    bench = Bench().started()
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
def test_a_motion_that_ends_at_once_is_not_overshot(kinematics, direction):
    bench = Bench().started()
    start, begin_ns = kinematics.forward(bench.measured), bench.now_ns
    for _ in range(8):
        due_s = (bench.now_ns - begin_ns) * 1e-9 + 0.1 * np.arange(10)
        moved = np.minimum(0.2 * due_s, 0.15)[:, None] * np.array([*direction, 0, 0, 0, 0])
        bench.send(np.column_stack([start + moved, np.full(10, 0.08)]), POSE)
        bench.run(0.2)
    path = np.array([command.tcp_pose[:3] for command in bench.commands]) - start[:3]
    assert (path @ np.array(direction)).max() < 0.15 + 2e-3


def test_the_end_of_the_chunks_is_a_ramp_and_a_hold_with_the_reason(limits, assert_keeps):
    bench = Bench().started()
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


def test_chunks_that_run_out_hold_until_new_ones_come(limits, assert_keeps):
    bench = Bench().started()
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


def test_chunks_that_must_not_be_followed_are_counted_by_name():
    bench = Bench()
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


def test_a_chunk_of_nan_leaves_the_arm_on_the_last_good_one_until_that_ends():
    bench = Bench().started()
    bench.send_joints()
    bench.run(0.3)
    bench.send(np.full((10, 7), np.nan))
    bench.run(0.3)
    assert bench.safety is SafetyState.RUNNING
    bench.run(1.0)
    assert bench.safety is SafetyState.HOLDING
    assert bench.counters["chunk_not_finite"] == 1


def test_a_jump_is_refused_and_a_near_target_resumes(limits, assert_keeps):
    bench = Bench().started()
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


@pytest.mark.parametrize("interface", ["joint", "pose"])
def test_targets_outside_the_workspace_are_moved_to_its_edge(kinematics, interface):
    bench = Bench().started()
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


def test_a_stale_joint_state_holds_and_comes_back():
    bench = Bench().started()
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
def test_one_wrong_stamp_of_a_joint_state_does_no_harm_for_long(stamp_ns):
    bench = Bench().started()
    bench.send_joints()
    bench.run(0.3)
    bench.arm.on_joint_state(stamp_ns, bench.measured, None)
    bench.run(0.05)
    assert bench.safety is SafetyState.RUNNING


def test_wrong_joint_states_are_dropped():
    bench = Bench().started()
    for positions, velocities in ((np.zeros(6), None), (np.full(7, np.nan), None), (np.zeros(7), np.full(7, np.inf))):
        bench.arm.on_joint_state(bench.now_ns, positions, velocities)
    bench.arm.on_joint_state(bench.now_ns - 1, np.zeros(7), None)
    assert bench.counters["joint_state_refused"] == 3
    assert bench.counters["joint_state_out_of_order"] == 1


def test_an_emergency_stop_needs_resume_and_old_chunks_do_not_count(limits, assert_keeps):
    bench = Bench().started()
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


def test_a_fault_holds_at_the_measured_pose_until_cleared_and_resumed():
    bench = Bench().started()
    bench.send_joints(0.05)
    bench.run(0.5)
    bench.arm.on_fault("joint reflex", bench.now_ns)
    stopped_at = bench.measured.copy()
    for _ in range(60):  # the robot stopped at once, whatever is commanded
        bench.run(0.01)
        bench.measured = stopped_at
    assert bench.safety is SafetyState.HOLDING
    assert bench.reason == "fault of the robot: joint reflex"
    np.testing.assert_array_equal(bench.commands[-1].joint_positions, stopped_at)
    bench.arm.resume(bench.now_ns)
    assert bench.reason == "fault of the robot: joint reflex"
    bench.arm.on_fault("joint reflex", bench.now_ns)
    bench.arm.on_fault_cleared(bench.now_ns)
    assert bench.reason.startswith("waits for resume after a fault of the robot")
    bench.arm.resume(bench.now_ns)
    bench.send_joints()
    bench.run(0.1)
    assert bench.safety is SafetyState.RUNNING


def test_an_arm_that_was_moved_is_not_pulled_back():
    bench = Bench().started()
    bench.send_joints()
    bench.run(0.5)
    bench.measured = bench.measured + np.array([0, 0.4, 0, 0, 0, 0, 0])
    moved_to = bench.measured.copy()
    bench.arm.on_joint_state(bench.now_ns + 1, bench.measured, np.zeros(7))
    bench.now_ns += TICK_NS
    bench.arm.step(bench.now_ns)
    assert bench.reason == "the arm is not where it was commanded: panda_joint2 is 0.40 rad off"
    for _ in range(50):
        bench.run(0.01)
        bench.measured = moved_to
    bench.send_joints()
    bench.run(0.05)
    assert bench.safety is SafetyState.HOLDING
    bench.measured = moved_to
    bench.arm.resume(bench.now_ns)
    bench.run(0.01)
    np.testing.assert_array_equal(bench.commands[-1].joint_positions, moved_to)


def test_start_waits_until_the_arm_stands():
    bench = Bench().started()
    bench.send_joints(0.05)
    bench.run(0.5)
    before = bench.path()[-1]
    bench.arm.start(bench.now_ns)
    bench.run(0.01)
    assert np.abs(bench.path()[-1] - before).max() > 0.001  # it cannot stop dead
    assert bench.reason == "takes the measured pose as its command"
    bench.run(0.5)
    assert bench.reason == "waits for the first chunk"


def test_stop_ends_in_silence():
    bench = Bench().started()
    bench.send_joints(0.05)
    bench.run(0.5)
    bench.arm.stop(bench.now_ns)
    bench.run(1.0)
    sent = len(bench.commands)
    assert bench.arm.status(bench.now_ns).mode is Mode.HOLD
    assert (bench.commands[-1].joint_velocities == 0.0).all()  # it ramped down before
    bench.run(1.0)
    assert len(bench.commands) == sent


def test_a_clock_that_jumps_back_holds_until_resume():
    bench = Bench().started()
    bench.send_joints(0.05)
    bench.run(0.5)
    bench.now_ns -= 3_000_000_000
    bench.run(0.5)
    assert bench.safety is SafetyState.HOLDING
    assert bench.reason == "clock jump"
    bench.arm.resume(bench.now_ns)
    bench.send_joints()
    bench.run(0.1)
    assert bench.safety is SafetyState.RUNNING


def test_hold_and_resume():
    bench = Bench().started()
    bench.send_joints(0.05)
    bench.run(0.5)
    bench.arm.hold(bench.now_ns)
    bench.run(0.5)
    assert bench.reason == "held by the operator"
    assert bench.arm.status(bench.now_ns).mode is Mode.HOLD
    bench.arm.resume(bench.now_ns)
    assert bench.arm.status(bench.now_ns).mode is Mode.POLICY
    bench.send_joints()
    bench.run(0.1)
    assert bench.safety is SafetyState.RUNNING
    bench.arm.resume(bench.now_ns)  # nothing to resume from: nothing changes
    bench.run(0.1)
    assert bench.safety is SafetyState.RUNNING


def test_ticks_that_catch_up_are_left_out():
    bench = Bench().started()
    bench.send_joints()
    bench.run(0.2)
    assert bench.arm.step(bench.now_ns + 1) is None
    assert bench.arm.step(bench.now_ns + TICK_NS) is not None


def test_an_observation_that_is_acted_on_for_too_long_is_stale():
    bench = Bench().started()
    bench.send(np.tile(bench.measured, (100, 1)))
    bench.run(1.9)
    assert bench.safety is SafetyState.RUNNING
    bench.run(0.3)
    assert bench.safety is SafetyState.HOLDING
    assert bench.reason.startswith("stale chunk: the observation acted on is 20")


def test_the_gripper_gets_goals_only_while_the_arm_runs(kinematics):
    bench = Bench().started()
    rows = np.tile(np.append(kinematics.forward(bench.measured), 0.0), (10, 1))
    assert bench.arm.gripper_goal(bench.now_ns) is None
    bench.send(rows, POSE)
    bench.run(0.02)
    goal = bench.arm.gripper_goal(bench.now_ns)
    assert goal is not None
    assert goal.kind == "grasp"
    assert bench.arm.gripper_goal(bench.now_ns) is None
    bench.arm.gripper_done(False, "refused")
    assert bench.arm.status(bench.now_ns).gripper == "gripper grasp failed: refused"
    bench.arm.hold(bench.now_ns)
    bench.run(1.0)
    assert bench.arm.gripper_goal(bench.now_ns) is None
    assert bench.commands[-1].gripper_width_m == 0.0


def test_latency_of_chunks():
    bench = Bench().started()
    assert bench.arm.status(bench.now_ns).chunk_latency_p50_ms is None
    for latency_ms in (10, 20, 30):
        bench.run(0.1)
        bench.send(np.tile(bench.measured, (10, 1)), age_ns=latency_ms * 1_000_000)
    status = bench.arm.status(bench.now_ns)
    assert (status.chunk_latency_ms, status.chunk_latency_p50_ms) == (30.0, 20.0)
    assert status.chunk_latency_p99_ms == pytest.approx(29.8)


@pytest.mark.parametrize("mode", list(ScheduleMode))
@pytest.mark.parametrize("space", [Space.EE_DELTA, Space.JOINT_DELTA])
def test_a_delta_chunk_that_arrives_late_loses_no_displacement(kinematics, mode, space):
    """The conformance test: 300 ms late, the same final pose as in time."""
    reached = []
    for delay_s in (0.0, 0.3):
        bench = Bench(ArmConfig(schedule=ScheduleConfig(mode=mode))).started()
        is_joint = space is Space.JOINT_DELTA
        spec = ActionSpec(
            space=space, rotation=RotationForm.AXIS_ANGLE, joint_names=PANDA.joint_names if is_joint else ()
        )
        motion = np.full(7, 0.015) if is_joint else np.array([0.01, 0.008, -0.012, 0.02, 0.0, 0.03])
        rows = np.tile(np.append(motion, 0.08), (10, 1))
        anchor = AnchorState(bench.measured, kinematics.forward(bench.measured))
        chunk = to_absolute(spec, ModelChunk(bench.now_ns, rows), anchor, PANDA.gripper.max_width_m)
        bench.run(delay_s)
        bench.arm.on_chunk(chunk, bench.now_ns)
        bench.run(1.6 - delay_s)
        assert bench.counters["late_rows"] == round(delay_s * 10)
        reached.append(bench.commands[-1].tcp_pose)
        wanted = kinematics.forward(chunk.actions[-1, :7]) if is_joint else chunk.actions[-1, :7]
        np.testing.assert_allclose(reached[-1][:3], wanted[:3], atol=5e-4)
        assert rotation_angle(reached[-1][3:], wanted[3:]) < 2e-3
    np.testing.assert_allclose(reached[0], reached[1], atol=5e-4)


def test_half_the_limits_are_half_the_limits(limits):
    bench = Bench(ArmConfig(limits=LimitsConfig(velocity_scale=0.05))).started()
    bench.send_joints(0.04)
    bench.run(0.9)
    speed = np.abs(np.diff(bench.path(), axis=0)).max(axis=0) / 0.01
    assert (speed <= limits.velocity * 0.05 / LimitsConfig().velocity_scale * (1 + 1e-6)).all()
    assert bench.counters["velocity"] >= 1


def test_resume_does_not_let_the_arm_sag_but_start_takes_what_is_measured():
    bench = Bench().started()
    bench.send_joints()
    bench.run(0.5)
    bench.arm.hold(bench.now_ns)
    bench.run(0.5)
    held = bench.measured.copy()
    sagged = held + np.array([0, 0.01, 0, 0.005, 0, 0, 0])
    for word in (bench.arm.resume, bench.arm.start):
        word(bench.now_ns)
        bench.now_ns += TICK_NS
        bench.arm.on_joint_state(bench.now_ns, sagged, np.zeros(7))
        command = bench.arm.step(bench.now_ns)
        assert command is not None
        wanted = held if word == bench.arm.resume else sagged
        np.testing.assert_array_equal(command.joint_positions, wanted)


def test_an_anchor_is_measured_after_the_word_and_while_the_arm_stands():
    bench = Bench()
    bench.run(0.05)
    bench.now_ns += TICK_NS // 2
    bench.arm.start(bench.now_ns)
    bench.arm.on_joint_state(bench.now_ns - 1_000_000, bench.measured + 0.5, np.zeros(7))  # before: of another place
    bench.now_ns += TICK_NS
    assert bench.arm.step(bench.now_ns) is not None
    assert bench.reason == "takes the measured pose as its command"
    bench.arm.on_joint_state(bench.now_ns, bench.measured + 0.5, np.full(7, 0.3))
    bench.now_ns += TICK_NS
    bench.arm.step(bench.now_ns)
    assert bench.reason == "takes the measured pose as its command"
    bench.arm.on_joint_state(bench.now_ns, bench.measured + 0.4, np.zeros(7))
    bench.now_ns += TICK_NS
    command = bench.arm.step(bench.now_ns)
    assert command is not None
    np.testing.assert_array_equal(command.joint_positions, bench.measured + 0.4)
