"""Measures latencies on a graph without a policy: sways the arm, works the gripper, records what shows it, and when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from action_msgs.msg import GoalStatus, GoalStatusArray
from numpy.typing import NDArray
from rclpy.context import Context
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, JointState
from trajectory_msgs.msg import JointTrajectory

from vla_ros import messages, topics
from vla_ros.calibration.latency import Recording, Series, look
from vla_ros.calibration.motion import Sway, along
from vla_ros.config import SystemConfig
from vla_ros.control import kinematics
from vla_ros.robots import catalogue
from vla_ros.robots.robot import EndpointKind
from vla_ros.ros import convert, operating, qos
from vla_ros.ros.operating import APPEAR_S, OperatorNode, Unanswered
from vla_ros.ros.polling import PolledSubscription
from vla_ros.timing.stamps import s_to_ns
from vla_ros.values import GRIPPER_DIMENSION, ActionChunk, Array, SafetyState

_JOINT_STATES = QoSProfile(depth=5000, reliability=ReliabilityPolicy.BEST_EFFORT)
#: Chunks like a policy's: a second of rows, renewed in time.
_ROWS, _STEP_NS, _RENEWED_NS = 51, s_to_ns(0.02), s_to_ns(0.2)
#: A controller that does not run for longer is not going to.
_PATIENCE_NS = s_to_ns(1.0)
#: The arm stands so long before and after it moves.
_REST_NS = s_to_ns(0.6)
#: A gripper whose width changed by less for so long has come to rest; one that takes longer is not waited for.
_STILL_M, _STILL_NS, _STROKE_NS = 0.0005, s_to_ns(0.3), s_to_ns(4.0)
_OPEN_FROM = 0.9  # of the largest width: need not be opened first
_UNDERWAY = (GoalStatus.STATUS_ACCEPTED, GoalStatus.STATUS_EXECUTING, GoalStatus.STATUS_CANCELING)


Rows = Callable[[NDArray[np.int64]], Array]  # times_ns (K,) -> what the arm is to do then (K, D)


@dataclass(frozen=True)
class Plan:
    """What is going to move: `joint` (an index) as `sway` says, then the gripper, shut and open, so many times."""

    joint: int = 0
    sway: Sway = field(default_factory=Sway)
    strokes: int = 3


def record(
    system: SystemConfig,
    *,
    simulate: bool,
    plan: Plan,
    confirm: Callable[[str], bool],
    on_progress: Callable[[str], None],
) -> Recording | None:
    """Move the arm of a graph that is up, or coming up, in this ROS domain, and give what was seen meanwhile.

    `confirm` is told what will move how far; None where it says no. Raises Unanswered where a node does not do its
    part, and where another one commands the arm.
    """
    with operating.context() as context:
        calibrator = Calibrator(system, plan, context, simulate)
        try:
            calibrator.wait_for_graph()
            if not confirm(calibrator.intention()):
                return None
            return calibrator.record(on_progress)
        finally:
            calibrator.destroy_node()


class Calibrator(OperatorNode):
    """Publishes chunks in a policy's place, so that every command passes the controller's safety stage."""

    def __init__(self, system: SystemConfig, plan: Plan, context: Context, simulate: bool) -> None:
        super().__init__(context, use_sim_time=simulate, name="calibrator")
        self._plan = plan
        self._robot = robot = catalogue.find(system.robot)
        self._arm_reader = messages.JointReader(robot.joint_names)
        self._finger_reader = messages.JointReader(robot.gripper.finger_joints)
        self._joints: list[tuple[int, Array]] = []
        self._commands: list[tuple[int, Array]] = []
        self._wishes: list[tuple[int, float]] = []  # the gripper's part of commands
        self._widths: list[tuple[int, Array]] = []
        self._pictures: dict[str, list[tuple[int, Array]]] = {name: [] for name in system.cameras}
        self._underway: dict[str, bool] = {}  # action of the gripper -> whether a goal is
        self._published_ns = self._ran_ns = 0

        self._chunks: Any = None  # not before the arm is ours: a second publisher stops a policy's arm
        names = {key: endpoint.name for key, endpoint in robot.endpoints.items()}
        self._joint_states = PolledSubscription(self, JointState, names["joint_states"], _JOINT_STATES)
        self.create_subscription(JointState, names["gripper_joint_states"], self._on_fingers, qos.SENSOR)
        self.create_subscription(JointTrajectory, topics.COMMAND, self._on_command, operating.DEEP)
        for name, camera in system.cameras.items():
            kind = CompressedImage if camera.is_compressed else Image
            self.create_subscription(kind, camera.topic, partial(self._on_picture, name), qos.SENSOR)
        for endpoint in robot.endpoints.values():
            if endpoint.kind is EndpointKind.ACTION and not endpoint.from_driver:
                topic = f"{endpoint.name}/_action/status"
                self.create_subscription(GoalStatusArray, topic, partial(self._on_goals, topic), qos.LATCHED)

    def wait_for_graph(self) -> None:
        """Wait until the controller, the robot and the cameras are there; refuse where somebody else commands."""
        self.wait_for_services(topics.START, topics.STOP)
        self.wait_for_time()
        self.hear_from("controller")
        self.refuse_other_commanders()
        endpoints = self._robot.endpoints
        for key, arrived in (("joint_states", self._joints), ("gripper_joint_states", self._widths)):
            self.wait(partial(self._has_arrived, arrived), APPEAR_S, f"nothing on {endpoints[key].name}")

    def intention(self) -> str:
        """What will move, and how far, from where the arm stands."""
        plan, chain = self._plan, kinematics.for_robot(self._robot)
        home = self._joints[-1][1]
        joint = self._robot.joints[plan.joint]
        ends = home[plan.joint] + np.array([-plan.sway.amplitude_rad, plan.sway.amplitude_rad])
        if ends[0] < joint.lower_rad or ends[1] > joint.upper_rad:
            raise Unanswered(
                f"{joint.name} stands at {home[plan.joint]:.2f} rad, from where it cannot sway by "
                f"{plan.sway.amplitude_rad:g} rad: its range is {joint.lower_rad:g} to {joint.upper_rad:g} rad; "
                "move the arm, or choose another joint"
            )
        middle = chain.forward(home)[:3]
        ways_m = [float(np.linalg.norm(chain.forward(self._swayed(home, end))[:3] - middle)) for end in ends]
        gripper = f", then the gripper shuts and opens {plan.strokes} times" if plan.strokes else ""
        return (
            f"{joint.name} of the {self._robot.title} sways by {plan.sway.amplitude_rad:g} rad for "
            f"{plan.sway.duration_s:g} s, which moves the TCP up to {1000 * max(ways_m):.0f} mm to either side{gripper}"
        )

    def record(self, on_progress: Callable[[str], None]) -> Recording:
        """Move, and give what was seen."""
        self._take_joints()
        home = self._joints[-1][1]
        goals: list[int] = []
        self._chunks = self.create_publisher(JointTrajectory, topics.CHUNK, qos.COMMAND)
        try:
            on_progress(f"{self._robot.joint_names[self._plan.joint]} sways")
            self.call(topics.START)
            start_ns, end_ns = self._sway(home)
            if self._plan.strokes:
                on_progress("the gripper shuts and opens")
                self.call(topics.START)  # from here on chunks have a gripper
                goals = self._work_gripper(self._joints[-1][1])
        except BaseException:
            self.ask(topics.STOP)
            raise
        self.call(topics.STOP)
        return Recording(
            joint=self._plan.joint,
            along=along(kinematics.for_robot(self._robot).jacobian(home), self._plan.joint),
            commands=Series.of(self._commands).between(start_ns, end_ns),
            joints=Series.of(self._joints).between(start_ns, end_ns),
            pictures={name: Series.of(shown).between(start_ns, end_ns) for name, shown in self._pictures.items()},
            goals_ns=tuple(goals),
            widths=Series.of(self._widths),
        )

    # --- the arm -----------------------------------------------------------------------------------------------------

    def _sway(self, home: Array) -> tuple[int, int]:
        """Sway, and give from when to when, with some rest before and after."""
        start_ns = self.now_ns() + _REST_NS
        end_ns = start_ns + s_to_ns(self._plan.sway.duration_s) + _REST_NS

        def rows(times_ns: NDArray[np.int64]) -> Array:
            positions = np.tile(home, (len(times_ns), 1))
            positions[:, self._plan.joint] += self._plan.sway.offsets_rad((times_ns - start_ns) * 1e-9)
            return positions

        self._follow(rows, self._robot.joint_names, lambda: self.now_ns() >= end_ns)
        return start_ns - _REST_NS, end_ns

    def _follow(self, rows: Rows, dimensions: tuple[str, ...], done: Callable[[], bool]) -> None:
        """Publish chunks of what `rows` says until `done`."""
        self._published_ns, self._ran_ns = 0, self.now_ns()

        def goes_on() -> bool:
            self._go_on(rows, dimensions)
            return done()

        self.spin_until(goes_on)

    def _go_on(self, rows: Rows, dimensions: tuple[str, ...]) -> None:
        now_ns = self.now_ns()
        self._take_joints()
        if now_ns - self._published_ns >= _RENEWED_NS:
            self._published_ns = now_ns
            chunk = ActionChunk(now_ns, _STEP_NS, dimensions, rows(now_ns + _STEP_NS * np.arange(_ROWS)))
            self._chunks.publish(convert.chunk_to_trajectory(chunk, self._robot.base_frame))
            self.refuse_other_commanders()
        controller = self.states["controller"]
        if controller["safety_state"] == SafetyState.RUNNING.value:
            self._ran_ns = now_ns
        elif now_ns - self._ran_ns > _PATIENCE_NS:
            raise Unanswered(f"the controller does not move the arm: {controller['message']}")

    # --- the gripper -------------------------------------------------------------------------------------------------

    def _work_gripper(self, home: Array) -> list[int]:
        """Shut and open; when each goal to shut was sent.

        To open says little: a gripper that holds on gives up its force first.
        """
        widest_m = self._robot.gripper.max_width_m
        if self._width_m() < _OPEN_FROM * widest_m:
            self._stroke(home, widest_m)
        goals_ns = []
        for _ in range(self._plan.strokes):
            goals_ns.append(self._stroke(home, 0.0))
            self._stroke(home, widest_m)
        return goals_ns

    def _stroke(self, home: Array, width_m: float) -> int:
        """Wish for a width until the gripper has come to rest; when that became a goal."""
        self._wishes.clear()
        began_ns = self.now_ns()
        row = np.array([*home, width_m])
        dimensions = (*self._robot.joint_names, GRIPPER_DIMENSION)
        self._follow(
            lambda times_ns: np.tile(row, (len(times_ns), 1)),
            dimensions,
            lambda: self._has_come_to_rest(began_ns, width_m),
        )
        return next(stamp_ns for stamp_ns, wish_m in self._wishes if wish_m == width_m)

    def _has_come_to_rest(self, began_ns: int, width_m: float) -> bool:
        now_ns = self.now_ns()
        wished_ns = next((stamp_ns for stamp_ns, wish_m in self._wishes if wish_m == width_m), None)
        if now_ns - began_ns > _STROKE_NS and wished_ns is not None:
            return True
        if wished_ns is None or now_ns - wished_ns < 2 * _STILL_NS or any(self._underway.values()):
            return False
        lately = [width for stamp_ns, (width,) in self._widths[-50:] if stamp_ns > now_ns - _STILL_NS]
        return len(lately) > 1 and float(np.ptp(lately)) < _STILL_M

    def _width_m(self) -> float:
        return float(self._widths[-1][1][0])

    # --- what arrives ------------------------------------------------------------------------------------------------

    def _has_arrived(self, arrived: list[Any]) -> bool:
        self._take_joints()
        return bool(arrived)

    def _take_joints(self) -> None:
        for message in self._joint_states.take_all():
            self._joints.append((messages.stamp_to_ns(message.header.stamp), self._arm_reader.positions(message)))

    def _on_command(self, message: JointTrajectory) -> None:
        command = messages.trajectory_to_command(message, self._robot.joint_names)
        self._commands.append((command.time_ns, command.joint_positions))
        if command.gripper_width_m is not None:
            self._wishes.append((command.time_ns, command.gripper_width_m))

    def _on_fingers(self, message: JointState) -> None:
        width_m = self._finger_reader.positions(message).sum()
        self._widths.append((messages.stamp_to_ns(message.header.stamp), np.array([width_m])))

    def _on_picture(self, camera: str, message: Any) -> None:
        self._pictures[camera].append(
            (messages.stamp_to_ns(message.header.stamp), look(messages.image_to_rgb(message)))
        )

    def _on_goals(self, topic: str, message: GoalStatusArray) -> None:
        self._underway[topic] = any(goal.status in _UNDERWAY for goal in message.status_list)

    def _swayed(self, home: Array, position_rad: float) -> Array:
        positions = np.array(home)
        positions[self._plan.joint] = position_rad
        return positions
