"""Who moves the arm: policy, teleoperator, nobody; switched while it moves, without a jump; and what else holds it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.control.arm import ArmConfig, ArmController
from vla_ros.control.watchdog import WatchdogConfig
from vla_ros.robots.panda import PANDA
from vla_ros.values import GRIPPER_DIMENSION, POSE_DIMENSIONS, Array, Mode, SafetyState, Target

TICK_NS = 10_000_000
JOINTS = PANDA.joint_names
HOME = np.array(PANDA.home_rad)
SAG = np.array([0.0, 0.004, 0.0, 0.006, 0.0, 0.0, 0.0])  # what an arm hangs below its command [rad]


def teleoperate(bench, values: Array, dimensions: tuple[str, ...] = JOINTS, age_ms: float = 0.0) -> None:
    bench.arm.on_teleop(Target(bench.now_ns - round(age_ms * 1e6), dimensions, values), bench.now_ns)


def in_teleop(bench):
    bench.run(0.05)
    bench.arm.set_mode(Mode.TELEOP, bench.now_ns)
    bench.run(0.05)
    assert bench.reason == "waits for the first target of the teleoperator"
    return bench


def hold_still(bench, seconds: float, every: int = 2) -> None:
    """A teleoperator who wants the arm where it is."""
    for tick in range(round(seconds * 100)):
        if tick % every == 0:
            teleoperate(bench, bench.measured)
        bench.run(0.01)


def test_a_teleoperator_is_followed_through_every_limit(new_bench, limits, assert_keeps):
    bench = in_teleop(new_bench())
    begin_ns, begin = bench.now_ns, bench.measured.copy()

    def wanted(time_ns: int) -> Array:
        return begin + 0.3 * (1.0 - np.cos((time_ns - begin_ns) * 1e-9 * np.pi / 2.0)) / 2.0

    lags = []
    for tick in range(400):
        if tick % 2 == 0:  # 50 Hz
            teleoperate(bench, wanted(bench.now_ns))
        bench.run(0.01)
        lags.append(np.abs(bench.commands[-1].joint_positions - wanted(bench.now_ns)).max())
    assert bench.safety is SafetyState.RUNNING
    assert bench.arm.status().mode is Mode.TELEOP
    assert max(lags) < 0.235 * 0.06, "at 0.235 rad/s never more than 60 ms behind"
    assert_keeps(bench.path(), limits)
    np.testing.assert_allclose(bench.measured, begin, atol=2e-3)
    jumped = bench.measured + 1.0
    for _ in range(10):
        teleoperate(bench, jumped)
        bench.run(0.01)
    assert bench.reason.startswith("target refused: a target ")
    hold_still(bench, 0.3)
    assert bench.safety is SafetyState.RUNNING
    assert_keeps(bench.path(), limits)


def test_a_command_says_what_was_asked_for_at_its_tick(new_bench):
    bench = in_teleop(new_bench())
    bench.commands.clear()
    wanted = bench.measured + 0.02
    teleoperate(bench, wanted)
    bench.run(0.05)
    assert len(bench.commands) == 5
    for command in bench.commands:  # one wish, asked for at every tick until there is another
        assert command.requested.time_ns == command.time_ns
        np.testing.assert_array_equal(command.requested.values, wanted)
    bench.arm.set_mode(Mode.HOLD, bench.now_ns)
    bench.run(0.05)
    assert bench.commands[-1].requested is None


def test_a_teleoperator_may_want_a_pose_and_a_gripper_width(new_bench, kinematics, limits, assert_keeps):
    bench = in_teleop(new_bench())
    start = kinematics.forward(bench.measured)
    for tick in range(200):
        pose = start + np.array([0.0, 0.08 * min(1.0, tick / 100.0), 0, 0, 0, 0, 0])
        teleoperate(bench, np.append(pose, 0.0), (*POSE_DIMENSIONS, GRIPPER_DIMENSION))
        bench.run(0.01)
    reached = bench.commands[-1]
    np.testing.assert_allclose(reached.tcp_pose[:3], start[:3] + np.array([0.0, 0.08, 0.0]), atol=1e-3)
    assert reached.gripper_width_m == 0.0
    goal = bench.arm.gripper_goal(bench.now_ns)
    assert goal is not None and goal.kind == "grasp"
    assert_keeps(bench.path(), limits)
    teleoperate(bench, bench.measured)
    assert bench.counters["teleop_wrong_dimensions"] == 1, "joints after poses: not before the mode is set anew"


def test_targets_that_stop_coming_hold_the_arm_until_they_come_again(new_bench, limits, assert_keeps):
    bench = in_teleop(new_bench())
    hold_still(bench, 0.2)
    teleoperate(bench, bench.measured + 0.05)
    bench.run(0.15)
    assert bench.safety is SafetyState.RUNNING
    bench.run(0.1)
    assert bench.safety is not SafetyState.RUNNING
    assert bench.reason == "stale target of the teleoperator: 210 ms old"
    bench.arm.on_policy_lost(bench.now_ns, "no matter here")
    hold_still(bench, 0.1)
    assert bench.safety is SafetyState.RUNNING
    assert_keeps(bench.path(), limits)


def test_what_a_teleoperator_sends_in_vain_is_counted_by_name(new_bench):
    bench = new_bench()
    bench.run(0.05)
    teleoperate(bench, bench.measured)
    bench.started()
    teleoperate(bench, bench.measured)
    in_teleop(bench)
    bench.run(0.3)
    bench.send_joints()
    teleoperate(bench, np.full(7, np.nan))
    teleoperate(bench, np.full(7, 1e6))
    teleoperate(bench, bench.measured[:6], JOINTS[:6])
    teleoperate(bench, np.zeros(7), POSE_DIMENSIONS)
    teleoperate(bench, bench.measured, age_ms=500.0)
    teleoperate(bench, bench.measured, age_ms=201.0)
    teleoperate(bench, bench.measured, age_ms=-101.0)
    teleoperate(bench, bench.measured)
    teleoperate(bench, bench.measured, age_ms=1.0)
    bench.arm.on_malformed("teleop")
    told = {name: count for name, count in bench.counters.items() if name.startswith(("teleop", "chunk"))}
    assert told == {
        "teleop_not_started": 1,
        "teleop_other_mode": 1,
        "chunk_other_mode": 1,
        "teleop_not_finite": 1,
        "teleop_absurd": 1,
        "teleop_wrong_dimensions": 1,
        "teleop_no_rotation": 1,
        "teleop_before_start": 1,
        "teleop_too_old": 1,
        "teleop_in_the_future": 1,
        "teleop_out_of_order": 1,
        "teleop_malformed": 1,
        "teleop_targets": 1,
    }


def test_resume_goes_on_in_the_mode_there_was(new_bench):
    bench = in_teleop(new_bench())
    hold_still(bench, 0.1)
    bench.arm.hold(bench.now_ns)
    hold_still(bench, 0.5)
    assert bench.reason == "held by the operator"
    bench.arm.resume(bench.now_ns)
    bench.run(0.05)
    assert bench.reason == "waits for the first target of the teleoperator"
    hold_still(bench, 0.1)
    assert bench.safety is SafetyState.RUNNING


def hanging(bench_class: type) -> type:
    """An arm that follows its command as one does: late by 30 ms, and hanging a little below it."""

    class Hanging(bench_class):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.true = self.measured.copy()

        def run(self, seconds: float) -> None:
            for _ in range(round(seconds * 100)):
                super().run(0.01)
                wanted = (self.commands[-1].joint_positions if self.commands else HOME) - SAG
                self.true = self.true + (wanted - self.true) * (1.0 - np.exp(-0.01 / 0.03))
                self.measured = self.true

    return Hanging


@settings(deadline=None, max_examples=8)
@given(
    words=st.lists(
        st.tuples(st.sampled_from([*Mode, "hold", "resume"]), st.integers(3, 45), st.integers(0, 2**16)),
        min_size=4,
        max_size=8,
    )
)
def test_no_word_makes_the_command_jump(new_bench: type, limits, assert_keeps: Callable, words) -> None:
    """Both sources want to move all the time; whoever is not asked is not heard."""
    bench = hanging(new_bench)().started()
    for word, ticks, seed in (*((mode, 40, 0) for mode in (Mode.POLICY, Mode.TELEOP)), *words):
        if isinstance(word, Mode):
            bench.arm.set_mode(word, bench.now_ns)
        else:
            getattr(bench.arm, word)(bench.now_ns)
        random = np.random.default_rng(seed)
        to = HOME + random.uniform(-0.2, 0.2, 7)
        for tick in range(ticks):
            if tick % 10 == 0:
                bench.send(np.linspace(bench.measured, to, 10))
            teleoperate(bench, HOME + 0.2 * np.sin(bench.now_ns * 1e-9 * np.arange(1, 8)))
            bench.run(0.01)
    assert_keeps(bench.path(), limits)
    assert bench.counters["chunk_other_mode"] > 0
    assert bench.counters["teleop_other_mode"] > 0
    assert np.abs(bench.path() - HOME).max() > 0.02, "it moved"


def test_every_pair_of_modes_is_switched_while_the_arm_moves(new_bench, limits, assert_keeps):
    bench = hanging(new_bench)().started()
    bench.arm.set_mode(Mode.HOLD, bench.now_ns)
    speeds: dict[tuple[Mode, Mode], float] = {}
    before = Mode.HOLD
    for after in (Mode.POLICY, Mode.TELEOP, Mode.POLICY, Mode.HOLD, Mode.TELEOP, Mode.HOLD, Mode.POLICY):
        speeds[before, after] = float(np.abs(bench.commands[-1].joint_velocities).max()) if bench.commands else 0.0
        bench.arm.set_mode(after, bench.now_ns)
        for tick in range(60):
            away = HOME + (0.3 if after is Mode.POLICY else -0.3)
            if tick % 10 == 0:
                bench.send(np.linspace(bench.measured, away, 10))
            teleoperate(bench, bench.measured + np.clip(away - bench.measured, -0.1, 0.1))
            bench.run(0.01)
        before = after
    assert len(speeds) == 6
    assert all(speed > 0.1 for (before, _), speed in speeds.items() if before is not Mode.HOLD), speeds
    assert_keeps(bench.path(), limits)


# --- what holds it besides ---


def test_a_released_or_silent_dead_man_switch_brakes(new_bench, limits, assert_keeps):
    bench = new_bench(ArmConfig(watchdog=WatchdogConfig(requires_deadman=True))).started()
    assert bench.reason == "dead-man switch: not heard of"
    bench.send_joints(0.03)
    bench.arm.on_deadman(True, bench.now_ns)
    bench.run(0.25)
    assert bench.safety is SafetyState.RUNNING
    bench.run(0.02)
    assert bench.safety is SafetyState.RAMPING
    assert bench.reason == "dead-man switch: silent for 260 ms"
    bench.arm.on_deadman(True, bench.now_ns)
    bench.run(0.05)
    assert bench.safety is SafetyState.RUNNING
    bench.arm.on_deadman(False, bench.now_ns)
    bench.run(0.01)
    assert bench.reason == "dead-man switch: released"
    bench.run(0.6)
    assert bench.safety is SafetyState.HOLDING
    assert_keeps(bench.path(), limits)


def test_a_second_publisher_holds_until_the_operators_word_and_again_while_it_is_there(new_bench):
    bench = new_bench().started()
    bench.send_joints()
    bench.run(0.2)
    for word in (bench.arm.resume, bench.arm.start):
        bench.arm.on_second_publisher("/other on /command", bench.now_ns)
        bench.run(0.5)
        assert bench.reason == "second publisher: /other on /command"
        word(bench.now_ns)
        bench.send_joints()
        bench.run(0.1)
        assert bench.safety is SafetyState.RUNNING


@pytest.mark.parametrize("moves", [True, False])
def test_a_clock_that_jumps_ahead_holds_an_arm_that_moves_where_its_last_command_was(new_bench, moves):
    bench = new_bench().started()
    bench.send_joints(0.05 if moves else 0.0)
    bench.run(0.3)
    if not moves:
        bench.arm.hold(bench.now_ns)
        bench.run(0.3)
    last = bench.commands[-1].joint_positions
    bench.pass_time(600_000_000)
    bench.run(0.01)
    if not moves:
        assert bench.reason == "held by the operator"
        return
    assert bench.reason == "clock jump: 0.61 s ahead, as the process was paused"
    np.testing.assert_array_equal(bench.commands[-1].joint_positions, last)
    bench.run(0.2)
    assert bench.safety is SafetyState.HOLDING
    bench.arm.resume(bench.now_ns)
    bench.send_joints()
    bench.run(0.1)
    assert bench.safety is SafetyState.RUNNING


@pytest.mark.parametrize(("gap_ms", "jumps"), [(500, False), (501, True)])
@pytest.mark.parametrize("does", ["runs and stands", "brakes"])
def test_a_jump_ahead_is_one_of_more_than_half_a_second_for_an_arm_that_runs_or_moves(new_bench, does, gap_ms, jumps):
    bench = new_bench().started()
    bench.send_joints(0.05 if does == "brakes" else 0.0)
    bench.run(0.3)
    if does == "brakes":
        bench.arm.hold(bench.now_ns)
        bench.run(0.02)
    assert bench.arm.is_at_rest is (does != "brakes")
    bench.now_ns += gap_ms * 1_000_000
    bench.step()
    assert bench.reason.startswith("clock jump: ") is jumps


def test_after_half_a_second_without_a_tick_the_arm_goes_on_from_rest(new_bench, limits, assert_keeps):
    bench = new_bench().started()
    bench.send_joints()
    bench.run(0.2)
    assert bench.commands[-1].joint_velocities.max() > 0.1
    at_rest = bench.commands[-1]
    bench.pass_time(480_000_000)
    bench.is_connected = False
    bench.commands = [at_rest]
    for _ in range(20):
        bench.pass_time(TICK_NS)
        bench.arm.on_joint_state(bench.now_ns, bench.measured, np.zeros(7))
        bench.step()
    assert bench.safety is SafetyState.RUNNING
    assert_keeps(bench.path(), limits)


def test_a_robot_that_is_not_commanded_is_not_expected_to_follow(new_bench):
    bench = new_bench()
    bench.arm = ArmController(PANDA, ArmConfig(), Mode.POLICY, is_obeyed=False)
    stands = bench.measured.copy()
    for tick in range(200):
        bench.measured = stands
        if tick % 50 == 5:
            bench.send(stands + 0.1 * np.arange(10)[:, None])
        bench.run(0.01)
    assert bench.safety is SafetyState.RUNNING
    assert np.abs(bench.path() - stands).max() > 0.35


def test_the_first_command_is_where_somebody_moved_the_arm_meanwhile(new_bench) -> None:
    bench = new_bench()
    bench.run(0.1)  # not started: nothing is sent, and the arm may be moved by hand
    assert not bench.commands
    bench.measured = moved = HOME + 0.015
    bench.arm.start(bench.now_ns)
    bench.run(0.1)
    assert bench.commands
    assert (bench.path() == moved).all()
