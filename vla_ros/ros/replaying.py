"""A recorded episode once more over ROS: its actions as chunks, in a policy's place, to the simulated robot."""

from __future__ import annotations

from functools import partial

import numpy as np
from rclpy.context import Context
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from vla_ros import messages, topics
from vla_ros.config import SystemConfig
from vla_ros.policies.policy import AbsolutePolicy
from vla_ros.robots import catalogue
from vla_ros.rollout.replaying import CHUNKS_HZ, LONGER_S, Recorded, RecordedActions, Replayed, judged
from vla_ros.rollout.report import EpisodeRow
from vla_ros.ros import convert, guard, operating, qos
from vla_ros.ros.operating import APPEAR_S, OperatorNode, Unanswered
from vla_ros.ros.polling import PolledSubscription
from vla_ros.simulation.world import WorldState
from vla_ros.timing.stamps import ns_to_s, period_ns, s_to_ns
from vla_ros.values import Array, Observation

_JOINT_STATES = QoSProfile(depth=5000, reliability=ReliabilityPolicy.BEST_EFFORT)


def replay(system: SystemConfig, recorded: Recorded) -> Replayed:
    """Replay an episode on a graph without a policy, made for its seed and task, in this ROS domain.

    Raises Unanswered where a node does not do its part, and where another one commands the arm.
    """
    with operating.context() as context:
        replayer = ReplayerNode(system, recorded, context)
        try:
            replayer.wait_for_graph()
            return replayer.replay()
        finally:
            replayer.destroy_node()


class ReplayerNode(OperatorNode):
    """Publishes chunks in a policy's place, so that every command passes the controller's safety stage."""

    def __init__(self, system: SystemConfig, recorded: Recorded, context: Context) -> None:
        super().__init__(context, use_sim_time=True, name="replayer")
        self._recorded = recorded
        self._robot = robot = catalogue.find(system.robot)
        self._policy = AbsolutePolicy(
            RecordedActions(robot, recorded), lambda _: np.zeros(7), robot.gripper.max_width_m
        )
        self._joint_reader = messages.JointReader(robot.joint_names)
        self._joints: list[tuple[int, Array]] = []
        self._widths: list[tuple[int, float]] = []
        self._world: WorldState | None = None
        self._began_ns = self._published_ns = 0  # the first chunk, the last one
        names = {key: endpoint.name for key, endpoint in robot.endpoints.items()}
        self._joint_states = PolledSubscription(self, JointState, names["joint_states"], _JOINT_STATES)
        self.create_subscription(Float64MultiArray, topics.SIMULATION_STATE, self._on_world, qos.SENSOR)

    def wait_for_graph(self) -> None:
        """Wait until controller and simulator are there; refuse where somebody else commands."""
        self.wait_for_services(topics.SIMULATION_RESET, topics.START, topics.STOP, topics.RESUME)
        self.wait_for_time()
        self.hear_from("controller")
        self.refuse_other_commanders()
        self.wait(self._sees_the_robot, APPEAR_S, f"nothing of the robot, or on {topics.SIMULATION_STATE}")

    def replay(self) -> Replayed:
        """Reset the world, follow the recording, and say what came of it."""
        recorded = self._recorded
        self.call(topics.STOP)
        task = self.call(topics.SIMULATION_RESET)
        if task != recorded.task:
            raise Unanswered(f"the simulator's task is {task!r}; recorded was {recorded.task!r}")
        self.call(topics.RESUME)
        self.hear_from("controller")
        self._chunks = self.create_publisher(JointTrajectory, topics.CHUNK, qos.COMMAND)
        self._policy.reset(task)
        try:
            self.call(topics.START)
            start_ns = self.now_ns()
            limit_ns = start_ns + s_to_ns(recorded.duration_s + LONGER_S)
            self.spin_until(partial(self._goes_on, start_ns, limit_ns))
        finally:
            self.ask(topics.STOP)
        success = self._succeeded_since(start_ns)
        duration_s = ns_to_s(self.now_ns() - start_ns)
        row = EpisodeRow(recorded.seed, task, success, duration_s, "success" if success else "time limit", {})
        return judged(recorded, self._robot, row, *self._seen_since(self._began_ns))

    def _goes_on(self, start_ns: int, limit_ns: int) -> bool:
        """Publish the next chunk where it is due; whether the episode is over."""
        now_ns = self.now_ns()
        self._take_joints()
        if now_ns - self._published_ns >= period_ns(CHUNKS_HZ):
            self._published_ns = now_ns
            self._began_ns = self._began_ns or now_ns
            seen = Observation(now_ns, {}, {"joints": self._joints[-1][1]})
            chunk, _ = self._policy.infer((seen,), None)
            self._chunks.publish(convert.chunk_to_trajectory(chunk, self._robot.base_frame))
            self.refuse_other_commanders()
        return now_ns >= limit_ns or self._succeeded_since(start_ns)

    def _succeeded_since(self, start_ns: int) -> bool:
        return self._world is not None and self._world.time_ns > start_ns and self._world.success

    def _seen_since(self, start_ns: int) -> tuple[Array, Array]:
        """Seconds since then (N,), joints and gripper (N, J + 1)."""
        self._take_joints()
        joints = [(stamp_ns, positions) for stamp_ns, positions in self._joints if stamp_ns >= start_ns]
        times_s = np.array([ns_to_s(stamp_ns - start_ns) for stamp_ns, _ in joints])
        stamps_s = np.array([ns_to_s(stamp_ns - start_ns) for stamp_ns, _ in self._widths])
        widths = np.interp(times_s, stamps_s, [width_m for _, width_m in self._widths])
        return times_s, np.column_stack([np.array([positions for _, positions in joints]), widths])

    def _sees_the_robot(self) -> bool:
        self._take_joints()
        return bool(self._joints) and self._world is not None

    def _take_joints(self) -> None:
        for message in self._joint_states.take_all():
            try:
                positions = self._joint_reader.positions(message)
            except ValueError as error:
                guard.of(self).refuse(self._joint_states.topic, error)
                continue
            self._joints.append((messages.stamp_to_ns(message.header.stamp), positions))

    def _on_world(self, message: Float64MultiArray) -> None:
        try:
            self._world = world = convert.array_to_world_state(message)
        except ValueError as error:
            guard.of(self).refuse(topics.SIMULATION_STATE, error)
            return
        self._widths.append((world.time_ns, world.gripper_width_m))
