"""The person at the desk, as a node: calls the services, hears how the nodes are, waits for them with patience."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.client import Client
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rclpy.task import Future
from std_srvs.srv import Trigger

from vla_ros import topics
from vla_ros.ros import guard, transport
from vla_ros.ros.guard import GuardedNode
from vla_ros.ros.presence import Presence

#: Wall time that the nodes have to appear, and that one of them has to answer.
APPEAR_S, ANSWER_S = 60.0, 20.0
#: A node reports ten times a second, also while its simulated time stands still.
SILENT_S = 10.0
_OWNERS = {
    topics.SIMULATION_RESET: "simulator",
    topics.START: "controller",
    topics.STOP: "controller",
    topics.RESUME: "controller",
}
#: For those who record; see the argument `services` of an OperatorNode.
RECORDER = {topics.recorder(word): "recorder" for word in topics.RECORDER_WORDS}
DEEP = QoSProfile(depth=100)


class Unanswered(RuntimeError):
    """A node does not do its part; the text names it, what was asked of it, and how long it was waited for."""


class Silent(dict[str, str]):
    """The state of a node that has stopped reporting: what it said last, such as that it runs, is not known to be so.

    A message says that; to ask for anything else raises Unanswered.
    """

    def __init__(self, node: str) -> None:
        super().__init__(message=f"silent: nothing on {topics.STATE} for {SILENT_S:g} s")
        self._node = node

    def __missing__(self, key: str) -> str:
        raise Unanswered(f"{self._node} is {self['message']}: has it ended?")


@contextmanager
def context() -> Iterator[Context]:
    """A ROS context of its own, with our transport."""
    os.environ.update(transport.environment(os.environ))
    made = Context()
    rclpy.init(context=made)
    try:
        yield made
    finally:
        rclpy.try_shutdown(context=made)


class OperatorNode(GuardedNode):
    """Spins itself, while it waits: nothing arrives in between."""

    def __init__(
        self, context: Context, *, use_sim_time: bool, name: str = "operator", services: Mapping[str, str] | None = None
    ) -> None:
        """`services`: others that will be called, name -> the node that serves it."""
        sim_time = Parameter("use_sim_time", value=use_sim_time)
        super().__init__(name, namespace=topics.NAMESPACE, context=context, parameter_overrides=[sim_time])
        self._spinner = SingleThreadedExecutor(context=context)
        self._spinner.add_node(self)
        self.states: dict[str, dict[str, str]] = {}  # node -> key -> value, "message" included; see `Silent`
        self._states_heard_s: dict[str, float] = {}  # node -> when it said that, monotonic
        self._owners = {**_OWNERS, **(services or {})}
        self._callable = {name: self.create_client(Trigger, name) for name in self._owners}
        self._presence = Presence()
        self.create_subscription(DiagnosticArray, topics.STATE, self._on_state, DEEP)

    def heard(self, node: str, state: Mapping[str, str], before: Mapping[str, str]) -> None:
        """A hook for subclasses: `node` reports `state` after `before`; raises ValueError for one that is malformed."""

    def now_ns(self) -> int:
        """The ROS time."""
        return int(self.get_clock().now().nanoseconds)

    def spin(self, timeout_s: float = 0.1) -> None:
        """Take in one thing, at most."""
        self._spinner.spin_once(timeout_sec=timeout_s)
        silent_since_s = time.monotonic() - SILENT_S
        for node, heard_s in self._states_heard_s.items():
            if heard_s < silent_since_s and node in self.states:
                self.states[node] = Silent(node)

    def spin_until(self, done: Callable[[], bool]) -> None:
        """Spin until `done`; raises Unanswered when simulated time stands still meanwhile."""
        newest_ns, seen_s = self.now_ns(), time.monotonic()
        while not done():
            self.spin()
            if self.now_ns() > newest_ns:
                newest_ns, seen_s = self.now_ns(), time.monotonic()
            elif time.monotonic() - seen_s > ANSWER_S:
                raise Unanswered(f"time on /clock has stood still for {ANSWER_S:.0f} s: is the simulator running?")

    def wait(self, done: Callable[[], bool], within_s: float, otherwise: str) -> None:
        """Spin until `done`; raises Unanswered, saying `otherwise`, after so much wall time."""
        deadline_s = time.monotonic() + within_s
        while not done():
            if time.monotonic() > deadline_s:
                raise Unanswered(f"{otherwise} (waited {within_s:g} s)")
            self.spin()

    def wait_for_time(self) -> None:
        """Wait until time runs: at once, unless it is simulated."""
        self.wait(lambda: self.now_ns() > 0, APPEAR_S, "no time on /clock: is the simulator running?")

    def hear_from(self, node: str) -> None:
        """Wait until a node says anew how it is."""
        self.states.pop(node, None)
        self.wait(partial(self.states.__contains__, node), APPEAR_S, f"{node} reports nothing on {topics.STATE}")

    def call(self, name: str) -> str:
        """Call a Trigger service; what it answered. Raises Unanswered where it refused."""
        success, said = self.call_or_not(name)
        if not success:
            raise Unanswered(f"{self._owners[name]} refused {name}: {said}")
        return said

    def call_or_not(self, name: str) -> tuple[bool, str]:
        """Call a Trigger service; whether it did what it is for, and what it answered."""
        client = self._callable[name]
        self.wait_for_service(client)
        future = client.call_async(Trigger.Request())
        self.wait(future.done, ANSWER_S, f"{self._owners[name]} does not answer the call of {name}")
        response = future.result()
        return bool(response.success), str(response.message)

    def ask(self, name: str) -> Future:
        """Call a Trigger service, and do not wait for the answer."""
        return self._callable[name].call_async(Trigger.Request())

    def wait_for_services(self, *names: str) -> None:
        """Wait until each of them is served."""
        for name in names:
            self.wait_for_service(self._callable[name])

    def wait_for_service(self, client: Client) -> None:
        """Wait until somebody serves it."""
        name = client.srv_name
        self.wait(
            client.service_is_ready, APPEAR_S, f"no node serves {name}: is the node {self._owners[name]} running?"
        )

    def refuse_other_commanders(self) -> None:
        """The arm follows one, or none: raises Unanswered where somebody else publishes chunks or commands."""
        for topic, ours in ((topics.CHUNK, self.get_name()), (topics.COMMAND, "controller")):
            # A publisher is discovered a moment before the name of its node.
            named = partial(self._are_named, topic)
            self.wait(named, ANSWER_S, f"a program without a name publishes {topic}: end what else runs here")
            publishers = self._publisher_names(topic)
            # A controller that was killed is listed next to its successor, for 20 s.
            reporting = self._presence.processes(f"{topics.NAMESPACE}/{ours}")
            twins = len(reporting) > 1 or (ours == self.get_name() and publishers.count(ours) > 1)
            if twins or set(publishers) - {ours}:
                raise Unanswered(
                    f"{' and '.join(sorted(publishers))} publish {topic}, but the arm follows one at a time: end what "
                    "else runs in this ROS domain"
                )

    def _publisher_names(self, topic: str) -> list[str]:
        return [info.node_name for info in self.get_publishers_info_by_topic(topic)]

    def _are_named(self, topic: str) -> bool:
        return not topics.NAMELESS & set(self._publisher_names(topic))

    def _on_state(self, message: DiagnosticArray) -> None:
        self._presence.hear(message)
        for status in message.status:
            state = {"message": status.message, **{entry.key: entry.value for entry in status.values}}
            before = self.states.get(status.name, {})
            self.states[status.name] = state
            self._states_heard_s[status.name] = time.monotonic()
            try:
                self.heard(status.name, state, before)
            except ValueError as error:
                guard.of(self).refuse(topics.STATE, error)
