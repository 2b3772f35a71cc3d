"""The Panda driver over real DDS: its traps against a listener, its gripper and faults against the simulated side."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")

from action_msgs.msg import GoalStatus
from control_msgs.action import GripperCommand
from controller_manager_msgs.srv import SwitchController
from franka_msgs.msg import FrankaState
from franka_msgs.srv import ErrorRecovery
from rclpy.action import ActionClient, ActionServer
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from vla_ros.control.gripper import GripperGoal
from vla_ros.control.watchdog import Condition, Following
from vla_ros.geometry import pose_matrix
from vla_ros.robots.panda import PANDA
from vla_ros.ros import convert, qos
from vla_ros.ros.drivers import panda_recovery
from vla_ros.ros.drivers.panda import ALMOST_ZERO, USER_STOP, PandaDriver, condition_of, joint_target, pose_target
from vla_ros.ros.drivers.panda_mirror import PandaMirror
from vla_ros.ros.drivers.panda_recovery import NO_ERRORS
from vla_ros.simulation.tabletop import Tabletop
from vla_ros.values import Array, Command

HOME = np.array(PANDA.home_rad)
POSE = np.array([0.4, 0.1, 0.3, 1.0, 0.0, 0.0, 0.0])
NAMES = {key: endpoint.name for key, endpoint in PANDA.endpoints.items()}
MOVE_OPEN = GripperGoal("move", 0.08, 0.1, 0.0)
MOVE_CLOSED = GripperGoal("move", 0.01, 0.1, 0.0)


@dataclass
class Heard:
    """What a driver told."""

    joints: list[tuple[int, Array, Array | None]] = field(default_factory=list)
    widths: list[float] = field(default_factory=list)
    conditions: list[Condition] = field(default_factory=list)  # repetitions left out

    def on_condition(self, condition: Condition) -> None:
        if self.conditions[-1:] != [condition]:
            self.conditions.append(condition)

    @property
    def following(self) -> Following | None:
        """What was reported last."""
        return self.conditions[-1].following if self.conditions else None


@dataclass
class Bench:
    """One node, one executor; `spin` runs `each` between spins until `condition` holds."""

    node: Node
    executor: SingleThreadedExecutor
    heard: Heard
    each: list[Callable[[], None]]

    def driver(self, command_interface: str = "joint") -> PandaDriver:
        heard = self.heard
        return PandaDriver(
            self.node,
            PANDA,
            on_joint_state=lambda *state: heard.joints.append(state),
            on_gripper_state=lambda _, width: heard.widths.append(width),
            on_condition=heard.on_condition,
            command_interface=command_interface,
        )

    def spin(self, condition: Callable[[], Any], what: str, timeout_s: float = 15.0) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, f"waited in vain until {what}"
            for action in self.each:
                action()
            self.executor.spin_once(timeout_sec=0.002)


@pytest.fixture
def bench(ros_domain_id: int) -> Iterator[Bench]:
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=ros_domain_id)
    node = Node("bench", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    yield Bench(node, executor, Heard(), [])
    executor.shutdown()
    for waitable in list(node.waitables):
        if isinstance(waitable, (ActionClient, ActionServer)):
            waitable.destroy()  # a node leaves them, and the next test would find their servers
    node.destroy_node()
    rclpy.shutdown(context=context)


@pytest.fixture
def simulated(bench: Bench) -> tuple[Tabletop, PandaMirror]:
    """A mirror whose world moves by some milliseconds for every spin."""
    world = Tabletop(PANDA)
    mirror = PandaMirror(bench.node, PANDA, world.faults)

    def step() -> None:
        for _ in range(10):
            mirror.apply(world)
            world.advance(1_000_000)
            mirror.publish(world)

    bench.each.append(step)
    return world, mirror


def command(joints: Array, pose: Array = POSE) -> Command:
    return Command(0, joints, np.zeros(7), pose)


# --- targets ---


def test_targets_avoid_what_the_driver_ignores() -> None:
    assert joint_target(np.zeros(7), 7) == [ALMOST_ZERO] + [0.0] * 6
    assert joint_target(np.full(7, -0.0), 7)[0] == ALMOST_ZERO
    assert joint_target(HOME + 0.5, 7) == (HOME + 0.5).tolist()
    for wrong in (np.zeros(6), np.full(7, np.nan), np.array([np.inf] + [0.0] * 6)):
        with pytest.raises(ValueError, match="a joint target is 7 finite values"):
            joint_target(wrong, 7)


def test_a_pose_target_is_twelve_values() -> None:
    target = pose_target(POSE)
    assert target[:3] == [0.4, 0.1, 0.3]
    np.testing.assert_allclose(np.reshape(target[3:], (3, 3)), np.diag([1.0, -1.0, -1.0]), atol=1e-12)
    assert pose_target(np.array([0.0, 0.1, 0.3, 0.0, 0.0, 0.0, 1.0]))[0] == ALMOST_ZERO
    with pytest.raises(ValueError, match="finite"):
        pose_target(np.full(7, np.nan))


@pytest.mark.parametrize(("interface", "endpoint"), [("joint", "joints_desired"), ("cartesian", "pose_desired")])
def test_what_the_robot_hears(bench: Bench, interface: str, endpoint: str) -> None:
    heard: list[list[float]] = []
    bench.node.create_subscription(
        Float64MultiArray, NAMES[endpoint], lambda message: heard.append(list(message.data)), qos.COMMAND
    )
    driver = bench.driver(interface)
    joints = np.array([0.0, *HOME[1:]])
    pose = np.array([0.0, *POSE[1:]])
    bench.each.append(lambda: driver.publish(command(joints, pose)))
    bench.spin(lambda: heard, "a target arrives")
    if interface == "joint":
        assert heard[0] == [ALMOST_ZERO, *HOME[1:].tolist()]
    else:
        assert len(heard[0]) == 12
        assert heard[0][0] == ALMOST_ZERO
        np.testing.assert_allclose(np.reshape(heard[0][3:], (3, 3)), pose_matrix(pose)[:3, :3])


def test_a_target_out_of_this_world_is_not_sent(bench: Bench) -> None:
    with pytest.raises(ValueError, match="7 finite values"):
        bench.driver().publish(command(np.full(7, np.nan)))
    with pytest.raises(ValueError, match="joint or cartesian, got 'torque'"):
        bench.driver("torque")


# --- states ---


def test_joint_states_are_read_by_name_and_the_newest_counts(bench: Bench) -> None:
    publisher = bench.node.create_publisher(JointState, NAMES["joint_states"], qos.STATE)
    driver = bench.driver()
    bench.spin(publisher.get_subscription_count, "the driver listens")
    reverse = list(PANDA.joint_names[::-1])
    for stamp_ns in (1, 2, 3):
        state = JointState(name=reverse, position=[7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0], velocity=[0.0] * 6 + [0.5])
        state.header.stamp = convert.ns_to_stamp(stamp_ns)
        publisher.publish(state)
    bench.each.append(driver.poll)
    bench.spin(lambda: bench.heard.joints and bench.heard.joints[-1][0] == 3, "the newest state arrives")
    _, positions, velocities = bench.heard.joints[-1]
    assert positions.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    assert velocities is not None and velocities.tolist() == [0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]


def test_a_joint_state_of_another_robot_is_none(bench: Bench) -> None:
    publisher = bench.node.create_publisher(JointState, NAMES["joint_states"], qos.STATE)
    driver = bench.driver()
    bench.spin(publisher.get_subscription_count, "the driver listens")
    publisher.publish(JointState(name=["fr3_joint1"], position=[1.0]))
    right = JointState(name=list(PANDA.joint_names), position=HOME.tolist())
    bench.each += [driver.poll, lambda: publisher.publish(right)]
    bench.spin(lambda: bench.heard.joints, "the right state arrives")
    assert all(len(positions) == 7 for _, positions, _ in bench.heard.joints)


def test_every_mode_says_whether_the_robot_follows(bench: Bench) -> None:
    publisher = bench.node.create_publisher(FrankaState, NAMES["robot_state"], qos.STATE)
    targets = bench.node.create_subscription(Float64MultiArray, NAMES["joints_desired"], lambda _: None, qos.COMMAND)
    driver = bench.driver()
    driver.poll()
    assert bench.heard.conditions == [Condition(Following.UNREACHABLE, f"nothing on {NAMES['robot_state']} yet")]
    state = FrankaState(robot_mode=FrankaState.ROBOT_MODE_REFLEX)
    state.current_errors.cartesian_reflex = True
    state.current_errors.power_limit_violation = True
    bench.each += [driver.poll, lambda: publisher.publish(state)]
    active = "it follows while joint_impedance_controller is active (mode move)"
    for mode, condition in (
        (FrankaState.ROBOT_MODE_REFLEX, (Following.FAULT, "reflex: cartesian_reflex, power_limit_violation")),
        (FrankaState.ROBOT_MODE_USER_STOPPED, (Following.FAULT, USER_STOP)),
        (FrankaState.ROBOT_MODE_MOVE, (Following.FOLLOWS, "")),
        (FrankaState.ROBOT_MODE_IDLE, (Following.INACTIVE, f"robot mode idle; {active}")),
        (FrankaState.ROBOT_MODE_GUIDING, (Following.INACTIVE, f"robot mode guided by hand; {active}")),
        (FrankaState.ROBOT_MODE_OTHER, (Following.INACTIVE, f"robot mode other; {active}")),
        (
            FrankaState.ROBOT_MODE_AUTOMATIC_ERROR_RECOVERY,
            (Following.INACTIVE, f"robot mode automatic error recovery; {active}"),
        ),
        (99, (Following.INACTIVE, f"robot mode 99; {active}")),
        (FrankaState.ROBOT_MODE_MOVE, (Following.FOLLOWS, "")),
    ):
        state.robot_mode = mode
        bench.spin(lambda condition=condition: bench.heard.conditions[-1] == Condition(*condition), condition[1])
    bench.node.destroy_subscription(targets)
    alone = Condition(
        Following.UNREACHABLE, f"no subscriber on {NAMES['joints_desired']}: load joint_impedance_controller"
    )
    bench.spin(lambda: bench.heard.conditions[-1] == alone, "the lack of a subscriber")
    bench.each.pop()  # no robot state any more
    silent = f"nothing on {NAMES['robot_state']} for 1"
    bench.spin(lambda: bench.heard.conditions[-1].reason.startswith(silent), "the robot state is missed")
    state = FrankaState(robot_mode=FrankaState.ROBOT_MODE_REFLEX)
    assert condition_of(state, "").reason == "reflex: no error reported"


# --- against the simulated side ---


def test_the_simulated_arm_follows(bench: Bench, simulated: tuple[Tabletop, PandaMirror]) -> None:
    world, mirror = simulated
    driver = bench.driver()
    goal = world.joint_positions + 0.1
    bench.each += [driver.poll, lambda: driver.publish(command(goal))]
    bench.spin(lambda: np.abs(world.joint_positions - goal).max() < 0.02, "the arm is there")
    bench.spin(lambda: bench.heard.joints, "its state is told")
    assert np.abs(bench.heard.joints[-1][1] - goal).max() < 0.05
    bench.spin(lambda: bench.heard.widths, "the width is told")
    assert bench.heard.widths[0] == pytest.approx(0.08, abs=1e-3)
    commanded_ns = mirror.commanded_ns
    assert commanded_ns is not None
    assert world.time_ns - commanded_ns < 50_000_000


def test_the_simulated_arm_follows_poses(bench: Bench, simulated: tuple[Tabletop, PandaMirror]) -> None:
    world, _ = simulated
    driver = bench.driver("cartesian")
    pose = world.state().tcp_pose + np.array([0.0, 0.03, 0.0, 0.0, 0.0, 0.0, 0.0])
    bench.each.append(lambda: driver.publish(command(HOME, pose)))
    bench.spin(lambda: np.linalg.norm(world.state().tcp_pose[:3] - pose[:3]) < 0.01, "the TCP is there")


def test_the_simulated_side_has_the_traps(bench: Bench, simulated: tuple[Tabletop, PandaMirror]) -> None:
    _, mirror = simulated
    publisher = bench.node.create_publisher(Float64MultiArray, NAMES["joints_desired"], qos.COMMAND)
    bench.spin(publisher.get_subscription_count, "the mirror listens")
    heard: list[Any] = []
    bench.node.create_subscription(Float64MultiArray, NAMES["joints_desired"], heard.append, qos.STATE)
    near = simulated[0].joint_positions
    for data in ([0.0, *near[1:]], near[:3], [np.nan] * 7):
        heard.clear()
        bench.each.append(lambda data=data: publisher.publish(Float64MultiArray(data=list(data))))
        bench.spin(lambda: len(heard) > 3, "the wrong target has arrived")
        bench.each.pop()
    assert mirror.commanded_ns is None
    bench.each.append(lambda: publisher.publish(Float64MultiArray(data=near.tolist())))
    bench.spin(lambda: mirror.commanded_ns is not None, "the right target is heeded")


def test_after_a_reset_old_targets_are_not_heeded(bench: Bench, simulated: tuple[Tabletop, PandaMirror]) -> None:
    world, mirror = simulated
    driver = bench.driver()
    before = world.joint_positions
    driver_target = [before]
    bench.each.append(lambda: driver.publish(command(driver_target[0])))
    bench.spin(lambda: mirror.commanded_ns is not None, "the arm is commanded")
    driver_target[0] = before + 0.25  # within what moves smoothly, but not where the arm is
    world.reset(1)
    mirror.reset(world)
    after, time_ns = world.joint_positions, world.time_ns
    bench.spin(lambda: world.time_ns > time_ns + 100_000_000, "the old target has been sent for a while")
    assert mirror.commanded_ns is None
    assert np.abs(world.joint_positions - after).max() < 0.02
    driver_target[0] = world.joint_positions
    bench.spin(lambda: mirror.commanded_ns is not None, "a target from where the arm is moves it again")


def test_a_reflex_and_the_way_out(bench: Bench, simulated: tuple[Tabletop, PandaMirror]) -> None:
    world, mirror = simulated
    driver = bench.driver()
    target = [world.joint_positions]
    bench.each += [driver.poll, lambda: driver.publish(command(target[0]))]
    bench.spin(lambda: mirror.commanded_ns is not None, "the arm is commanded")
    target[0] = world.joint_positions + 0.8  # no arm jumps
    bench.spin(lambda: bench.heard.following is Following.FAULT, "the reflex is told")
    assert bench.heard.conditions[-1].reason.startswith("reflex: joint_motion_generator_velocity_discontinuity")
    assert mirror.commanded_ns is None
    target[0] = world.joint_positions
    recovery = bench.node.create_client(ErrorRecovery, NAMES["error_recovery"])
    bench.spin(recovery.service_is_ready, "somebody recovers")
    recovery.call_async(ErrorRecovery.Request())
    bench.spin(lambda: bench.heard.following is Following.INACTIVE, "the fault is gone")
    time_ns = world.time_ns
    bench.spin(lambda: world.time_ns > time_ns + 100_000_000, "targets have been sent for a while")
    assert mirror.commanded_ns is None, "error recovery alone leaves the controller inactive"
    bench.spin(driver._recovery._switch.service_is_ready, "somebody switches controllers")
    done: list[tuple[bool, str]] = []
    driver.recover(lambda *answer: done.append(answer))
    driver.recover(lambda *answer: done.append(answer))
    assert done == [(False, "error recovery is still in progress")]
    bench.spin(lambda: len(done) == 2, "the whole sequence ends")
    assert done[1] == (True, "")
    assert bench.heard.following is Following.FOLLOWS
    bench.spin(lambda: mirror.commanded_ns is not None, "it is heeded again")


@pytest.mark.parametrize(
    ("error", "refused", "outcome"),
    [
        ("jammed", "", (False, "error recovery: jammed")),
        (NO_ERRORS, "", (True, "")),
        (
            "",
            "follow",
            (False, "the robot does not follow, 1 s after the activation of cartesian_impedance_controller"),
        ),
        ("", "deactivate", (False, "deactivation of cartesian_impedance_controller: not now")),
        ("", "activate", (False, "activation of cartesian_impedance_controller: not now")),
        (
            "",
            None,
            (
                False,
                "no node answers on /controller_manager/switch_controller, so cartesian_impedance_controller stays "
                "inactive",
            ),
        ),
    ],
)
def test_each_step_of_a_recovery_that_fails_is_named(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: str, refused: str | None, outcome: tuple[bool, str]
) -> None:
    monkeypatch.setattr(panda_recovery, "_LONGEST_STEP_S", 1.0)
    state = FrankaState(robot_mode=FrankaState.ROBOT_MODE_IDLE)
    states = bench.node.create_publisher(FrankaState, NAMES["robot_state"], qos.STATE)

    def recover(_: ErrorRecovery.Request, response: ErrorRecovery.Response) -> ErrorRecovery.Response:
        response.success, response.error = not error, error
        return response

    def switch(request: SwitchController.Request, response: SwitchController.Response) -> SwitchController.Response:
        step, strictness = ("activate", 2) if request.activate_controllers else ("deactivate", 1)
        response.ok = step != refused and request.strictness == strictness
        if step == "activate" and refused != "follow":
            state.robot_mode = FrankaState.ROBOT_MODE_MOVE
        response.message = "" if response.ok else "not now"
        return response

    services = [bench.node.create_service(ErrorRecovery, NAMES["error_recovery"], recover)]
    if refused is not None:
        services.append(bench.node.create_service(SwitchController, NAMES["switch_controller"], switch))
    driver = bench.driver("cartesian")
    bench.spin(driver._recovery._recovery.service_is_ready, "somebody recovers")
    bench.spin(lambda: refused is None or driver._recovery._switch.service_is_ready(), "somebody switches controllers")
    done: list[tuple[bool, str]] = []
    bench.each += [driver.poll, lambda: states.publish(state)]
    driver.recover(lambda *answer: done.append(answer))
    bench.spin(lambda: done, "the recovery ends")
    assert done == [outcome]
    for service in services:
        bench.node.destroy_service(service)


def test_a_step_without_an_answer_ends(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panda_recovery, "_LONGEST_STEP_S", 0.05)
    silent = Node("silent", context=bench.node.context)  # nobody spins it
    silent.create_service(ErrorRecovery, NAMES["error_recovery"], lambda request, response: response)
    driver = bench.driver()
    bench.spin(driver._recovery._recovery.service_is_ready, "somebody recovers")
    bench.each.append(driver.poll)
    done: list[tuple[bool, str]] = []
    driver.recover(lambda *answer: done.append(answer))
    bench.spin(lambda: done, "the recovery ends")
    assert done == [(False, "error recovery: no answer in 0.05 s")]
    silent.destroy_node()


def test_a_hand_on_the_stop_button_is_no_fault_for_software(bench: Bench) -> None:
    publisher = bench.node.create_publisher(FrankaState, NAMES["robot_state"], qos.STATE)
    driver = bench.driver()
    assert driver.can_recover
    pressed = FrankaState(robot_mode=FrankaState.ROBOT_MODE_USER_STOPPED)
    bench.each += [driver.poll, lambda: publisher.publish(pressed)]
    bench.spin(lambda: bench.heard.following is Following.FAULT, "the button is seen")
    assert not driver.can_recover
    done: list[tuple[bool, str]] = []
    driver.recover(lambda *answer: done.append(answer))
    assert done == [(False, USER_STOP)]


def test_gripper_goals(bench: Bench, simulated: tuple[Tabletop, PandaMirror]) -> None:
    world, _ = simulated
    driver = bench.driver()
    done: list[tuple[bool, str]] = []
    send_when_there(bench, driver)
    driver.send_gripper(MOVE_CLOSED, lambda *answer: done.append(answer))
    driver.send_gripper(MOVE_OPEN, lambda *answer: done.append(answer))
    assert done == [(False, "another gripper goal was in flight, and is being stopped")]
    bench.spin(lambda: len(done) == 2, "the first goal is stopped")
    assert not done[1][0]
    driver.send_gripper(MOVE_CLOSED, lambda *answer: done.append(answer))
    bench.spin(lambda: len(done) == 3, "it is sent again and ends")
    assert done[2] == (True, "")
    done.clear()
    assert world.gripper_width_m == pytest.approx(0.01, abs=2e-3)
    driver.send_gripper(MOVE_OPEN, lambda *answer: done.append(answer))
    bench.spin(lambda: len(done) == 1, "the second goal ends")
    assert done[0] == (True, "")
    assert world.gripper_width_m == pytest.approx(0.08, abs=2e-3)
    driver.send_gripper(GripperGoal("move", 0.2, 0.1, 0.0), lambda *answer: done.append(answer))
    bench.spin(lambda: len(done) == 2, "an impossible goal ends")
    assert not done[1][0]
    assert "0.2" in done[1][1]


def test_two_clients_do_not_share_the_gripper(bench: Bench, simulated: tuple[Tabletop, PandaMirror]) -> None:
    first, second = bench.driver(), bench.driver()
    done: list[tuple[str, bool, str]] = []
    send_when_there(bench, first)
    first.send_gripper(MOVE_CLOSED, lambda *answer: done.append(("first", *answer)))
    time_ns = simulated[0].time_ns
    bench.spin(lambda: simulated[0].gripper_busy or simulated[0].time_ns > time_ns + 10**9, "the fingers move")
    second.send_gripper(MOVE_OPEN, lambda *answer: done.append(("second", *answer)))
    bench.spin(lambda: len(done) == 2, "both have ended")
    assert done == [("second", False, "the gripper refused the goal"), ("first", True, "")]


def test_the_gripper_stops(bench: Bench, simulated: tuple[Tabletop, PandaMirror]) -> None:
    world, _ = simulated
    driver = bench.driver()
    done: list[tuple[str, bool, str]] = []
    send_when_there(bench, driver)
    driver.send_gripper(MOVE_CLOSED, lambda *answer: done.append(("move", *answer)))
    bench.spin(lambda: world.gripper_width_m < 0.07, "the fingers move")
    driver.stop_gripper(lambda *answer: done.append(("stop", *answer)))
    bench.spin(lambda: len(done) == 2, "both have ended")
    assert sorted(done) == [("move", False, "stopped"), ("stop", True, "")]
    assert world.gripper_width_m > 0.03
    driver.home_gripper(lambda *answer: done.append(("home", *answer)))
    bench.spin(lambda: len(done) == 3, "it is homed")
    assert done[2] == ("home", True, "")


def test_gripper_command_has_feedback_and_can_be_cancelled(
    bench: Bench, simulated: tuple[Tabletop, PandaMirror]
) -> None:
    world, _ = simulated
    client = ActionClient(bench.node, GripperCommand, NAMES["gripper_action"])
    bench.spin(client.server_is_ready, "the server is there")
    goal = GripperCommand.Goal()
    goal.command.position, goal.command.max_effort = 0.005, 20.0  # half the width
    feedback: list[float] = []
    sent = client.send_goal_async(goal, lambda message: feedback.append(message.feedback.position))
    bench.spin(lambda: sent.done() and len(feedback) > 2, "the fingers move")
    assert feedback == sorted(feedback, reverse=True)
    cancelled = sent.result().cancel_goal_async()
    result = sent.result().get_result_async()
    bench.spin(lambda: cancelled.done() and result.done(), "the goal is cancelled")
    assert result.result().status == GoalStatus.STATUS_CANCELED
    assert result.result().result.position == pytest.approx(world.gripper_width_m / 2, abs=2e-3)
    assert not result.result().result.reached_goal
    goal.command.position = 0.04
    sent = client.send_goal_async(goal)
    bench.spin(sent.done, "the goal is accepted")
    result = sent.result().get_result_async()
    bench.spin(result.done, "the hand is open")
    assert result.result().status == GoalStatus.STATUS_SUCCEEDED
    assert result.result().result.position == pytest.approx(0.04, abs=1e-3)


def test_no_driver_is_said(bench: Bench) -> None:
    driver = bench.driver()
    done: list[tuple[bool, str]] = []
    driver.send_gripper(MOVE_OPEN, lambda *answer: done.append(answer))
    driver.recover(lambda *answer: done.append(answer))
    driver.stop_gripper(lambda *answer: done.append(answer))
    assert done == [
        (False, "the gripper does not answer on /panda_gripper/move"),
        (False, "the driver does not answer on /panda_error_recovery_service_server/error_recovery"),
        (False, "the driver does not answer on /panda_gripper/stop"),
    ]


def send_when_there(bench: Bench, driver: PandaDriver) -> None:
    """Until discovery is done there is nobody to ask."""
    clients = [*driver._actions.values()]
    bench.spin(lambda: all(client.server_is_ready() for client in clients), "the gripper is there")
    bench.spin(driver._stop.service_is_ready, "its stop is there")
    bench.each.append(driver.poll)
