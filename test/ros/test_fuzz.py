"""Every subscription and service of every node takes what nobody should send: no callback fails, and the node works on.

What there is to send to is asked of the node itself, so that what is added to it is attacked as well.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")

import committed_joints
from adversary import HOME, Adversary
from franka_msgs.msg import FrankaState
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from vla_ros import config, topics
from vla_ros.config import BagNodeConfig, CameraConfig, RecorderNodeConfig, to_parameters
from vla_ros.policies import registry
from vla_ros.recording.config import RecordingConfig
from vla_ros.robots.panda import PANDA
from vla_ros.ros import convert, guard
from vla_ros.ros.polling import PolledService, PolledSubscription

FULL = os.environ.get("VLA_ROS_FULL") == "1"
CAMERAS = {"front": CameraConfig(topic="/camera/front/image_raw", width=16, height=16)}
FRONT = {f"cameras.front.{name}": value for name, value in to_parameters(CAMERAS["front"]).items()}
MESSAGES = 20_000 if FULL else 400
TICK_NS = 10_000_000
PATIENCE_S = 20.0


class Subject:
    """A node in this process whose messages, requests and time are given by hand, as they come over the wire."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.polled: list[PolledSubscription[Any]] = []
        self.asked: list[PolledService] = []
        self.waiting: dict[int, deque[Any]] = {}
        self.answers: list[Any] = []
        made, served = PolledSubscription.__init__, PolledService.__init__

        def subscribe(polled: PolledSubscription[Any], *arguments: Any) -> None:
            made(polled, *arguments)
            self.polled.append(polled)
            self.waiting[id(polled)] = deque(maxlen=polled._depth)

        def serve(asked: PolledService, *arguments: Any) -> None:
            served(asked, *arguments)
            self.asked.append(asked)
            self.waiting[id(asked)] = deque()

        def take(polled: Any) -> list[Any]:
            queue, taken = self.waiting[id(polled)], []
            while queue:
                taken.append(queue.popleft())
            return taken

        monkeypatch.setattr(PolledSubscription, "__init__", subscribe)
        monkeypatch.setattr(PolledSubscription, "_take", take)
        monkeypatch.setattr(PolledService, "__init__", serve)
        monkeypatch.setattr(PolledService, "take_all", take)
        self.node: Any = None
        self.now_ns = 10**18

    def begin(self, node: Node) -> None:
        self.node = node
        self.guard = guard.of(node)
        self.adversary = Adversary(7, lambda: self.now_ns)
        self.clocks = [sub for sub in node._subscriptions if sub.topic_name == "/clock"]
        self.tick()

    def send(self, topic: str, message: Any) -> None:
        """To whatever of this node listens there."""
        data = serialize_message(message)
        for polled in self.polled:
            if polled.topic == topic:
                self.waiting[id(polled)].append(data)
        for subscription in self.node._subscriptions:
            if subscription.topic_name == topic:
                subscription.callback(data if subscription.raw else message)

    def call(self, name: str) -> Any:
        """A Trigger service of this node."""
        (service,) = (service for service in self.node._services if service.srv_name == name)
        return service.callback(Trigger.Request(), Trigger.Response())

    def tick(self) -> None:
        """Ten milliseconds pass, and every timer is due."""
        self.now_ns += TICK_NS
        for subscription in self.clocks:
            data = serialize_message(Clock(clock=convert.ns_to_stamp(self.now_ns)))
            subscription.callback(data)
        for timer in [*self.node._timers]:
            timer.callback()

    def attack(self) -> None:
        """One message or request that nobody should send, to any of those that take any."""
        adversary = self.adversary
        end = adversary.pick([*self.node._subscriptions, *self.polled, *self.node._services, *self.asked])
        if isinstance(end, PolledSubscription):
            self.waiting[id(end)].append(adversary.serialized(end._type))
        elif isinstance(end, PolledService):
            request = adversary.anything(end._service.srv_type.Request)
            self.waiting[id(end)].append((request, self.answers.append))
        elif hasattr(end, "srv_type"):
            request = adversary.anything(end.srv_type.Request)
            self.guard.call(f"type of {end.srv_name}", end.callback, request, end.srv_type.Response())
        else:
            end.callback(adversary.serialized(end.msg_type) if end.raw else adversary.message(end.msg_type))

    def is_attacked(self, times: int = MESSAGES) -> None:
        for end in [*self.node._subscriptions, *self.polled]:
            kind = end._type if isinstance(end, PolledSubscription) else end.msg_type
            for number, message in enumerate(self.adversary.known(kind)):
                self.send(end.topic if isinstance(end, PolledSubscription) else end.topic_name, message)
                if number % 5 == 0:
                    self.tick()
        for number in range(times):
            self.attack()
            if number % 5 == 0:
                self.tick()
        for _ in range(3):
            self.tick()

    def until(
        self, condition: Callable[[], Any], again: Callable[[], Any], why: Callable[[], Any] = lambda: ""
    ) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline_s, f"{why()}; {self.guard.values}"
            again()

    def robot(self) -> None:
        """What an arm at home says, and its gripper."""
        joints, fingers = self.adversary.good(JointState)
        joints.position = HOME.tolist()
        self.send(PANDA.endpoints["joint_states"].name, joints)
        self.send(PANDA.endpoints["gripper_joint_states"].name, fingers)
        following = FrankaState(robot_mode=FrankaState.ROBOT_MODE_MOVE)
        following.header.stamp = convert.ns_to_stamp(self.now_ns)
        self.send(PANDA.endpoints["robot_state"].name, following)


class Taken:
    """Stands for a publisher: keeps what is published."""

    def __init__(self, sent: list[Any]) -> None:
        self._sent = sent

    def publish(self, message: Any) -> None:
        """To nobody."""
        self._sent.append(message)

    def get_subscription_count(self) -> int:
        """Or to one that is there."""
        return 1


@pytest.fixture
def subject(ros_domain_id: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Subject]:
    rclpy.init()
    made = Subject(monkeypatch)
    yield made
    if made.node is not None:
        made.node.destroy_node()
    rclpy.try_shutdown()


def options(**values: Any) -> dict[str, Any]:
    given = {"use_sim_time": True, **values}
    return {
        "namespace": topics.NAMESPACE,
        "parameter_overrides": [Parameter(name.replace("__", "."), value=value) for name, value in given.items()],
    }


def test_the_controller(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    from vla_ros.ros.nodes.controller import ControllerNode

    node = ControllerNode(**options())
    subject.begin(node)
    monkeypatch.setattr(node, "_command", Taken(commands := []))
    monkeypatch.setattr(node._driver, "_targets", Taken(targets := []))
    subject.robot()
    assert subject.call(topics.START).success
    subject.is_attacked()
    assert not subject.guard.failed and subject.guard.refused
    for sent in targets:
        assert np.isfinite(sent.data).all() and len(sent.data) == 7

    assert subject.call(topics.RESUME).success and subject.call(topics.START).success
    monkeypatch.setattr(node, "count_publishers", lambda topic: 1)  # a policy is there

    def follow() -> None:
        subject.robot()
        chunk, *_ = subject.adversary.good(JointTrajectory)
        subject.send(topics.CHUNK, chunk)
        subject.tick()
        said.append(node._arm.status().reason)
        if len(said) % 50 == 0:  # whatever it was that held it
            node._arm.on_recovered(subject.now_ns)
            assert subject.call(topics.RESUME).success

    said: list[str] = []
    commands.clear()
    subject.until(lambda: commands and node._arm.status().safety.value == "running", follow, lambda: said[-3:])


@pytest.mark.parametrize("policy", ["scripted", "committed_joints"])
def test_inference(subject: Subject, monkeypatch: pytest.MonkeyPatch, policy: str) -> None:
    from vla_ros.ros.nodes.inference import InferenceNode

    monkeypatch.setitem(registry.POLICIES, "committed_joints", registry.Entry(committed_joints.__name__, False))
    node = InferenceNode(**options(policy__name=policy, **{key.replace(".", "__"): v for key, v in FRONT.items()}))
    subject.begin(node)
    subject.send(topics.INSTRUCTION, String(data="lift the red cube"))
    subject.is_attacked()
    assert not subject.guard.failed and subject.guard.refused

    subject.send(topics.INSTRUCTION, String(data="lift the red cube"))
    monkeypatch.setattr(node, "_chunk", Taken(chunks := []))

    def see() -> None:
        subject.robot()
        state, *_ = subject.adversary.good(Float64MultiArray)
        subject.send(topics.SIMULATION_STATE, state)
        *_, command = subject.adversary.good(JointTrajectory)
        subject.send(topics.COMMAND, command)
        subject.send(CAMERAS["front"].topic, subject.adversary.good(Image)[0])
        subject.tick()
        time.sleep(0.002)  # for the policy's thread

    subject.until(lambda: chunks, see)


def test_the_recorder(subject: Subject, tmp_path: Path) -> None:
    from vla_ros.ros.nodes.recorder import RecorderNode

    parameters = RecorderNodeConfig(root=str(tmp_path / "set"), cameras=CAMERAS, recording=RecordingConfig(fps=10))
    node = RecorderNode(
        **options(**{key.replace(".", "__"): value for key, value in to_parameters(parameters).items()})
    )
    subject.begin(node)
    subject.is_attacked()
    assert not subject.guard.failed and not node._recording.failure and subject.guard.refused
    subject.until(lambda: len(subject.answers) > 3, subject.tick)


def test_the_bag(subject: Subject, tmp_path: Path) -> None:
    from vla_ros.ros.nodes.bag import BagNode

    parameters = BagNodeConfig(path=str(tmp_path / "bag"), topics=(topics.CHUNK,))
    peer = rclpy.node.Node("peer")
    peer.create_publisher(JointTrajectory, topics.CHUNK, 10)
    node = BagNode(**options(**to_parameters(parameters)))
    subject.begin(node)
    subject.until(lambda: any(sub.topic_name == topics.CHUNK for sub in node._subscriptions), subject.tick)
    subject.is_attacked(MESSAGES // 4)
    assert not subject.guard.failed
    before = node._bag.counts[topics.CHUNK]
    subject.send(topics.CHUNK, JointTrajectory())
    assert node._bag.counts[topics.CHUNK] == before + 1 > 1
    peer.destroy_node()


def test_the_simulator(subject: Subject) -> None:
    pytest.importorskip("mujoco")
    from vla_ros.ros.nodes.simulator import SimulatorNode

    node = SimulatorNode(**{**options(use_sim_time=False), "namespace": topics.NAMESPACE})
    subject.begin(node)
    subject.is_attacked()
    assert not subject.guard.failed and not subject.guard.end
    node._simulation.check()
    assert subject.call(topics.SIMULATION_RESET).success
    before_ns = node._world.time_ns
    subject.until(lambda: node._world.time_ns > before_ns, lambda: time.sleep(0.01))


@pytest.mark.parametrize("program", ["episodes", "dry run", "recording"])
def test_what_an_operator_runs(subject: Subject, program: str) -> None:
    from vla_ros.ros.episodes import Operator
    from vla_ros.ros.recording_desk import RecordingDesk
    from vla_ros.ros.watching import CommandWatcher

    system, context = config.load("franka_upvla"), rclpy.get_default_context()
    node = {
        "episodes": lambda: Operator(system, context),
        "dry run": lambda: CommandWatcher(system, context),
        "recording": lambda: RecordingDesk(context, use_sim_time=True),
    }[program]()
    subject.begin(node)
    subject.is_attacked(MESSAGES // 4)
    assert not subject.guard.failed and subject.guard.refused
