"""A guarded node lives on and reports what its callbacks raise; what is too large or unreadable never gets to them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter as NodeParameter
from rclpy.qos import qos_profile_parameters
from rosgraph_msgs.msg import Clock
from std_msgs.msg import String
from std_srvs.srv import Trigger

from vla_ros import messages, topics
from vla_ros.ros import guard, main, qos
from vla_ros.ros.diagnostics import ERROR, OK, Status, StatusReporter
from vla_ros.ros.guard import Failed, GuardedNode
from vla_ros.ros.polling import PolledSubscription

PATIENCE_S = 30.0


class Bench:
    """A guarded node with a peer that sends to it, both spun as a node's process spins its own."""

    def __init__(self, use_sim_time: bool = False) -> None:
        sim_time = [NodeParameter("use_sim_time", value=use_sim_time)]
        self.node = GuardedNode("guarded", parameter_overrides=sim_time)
        self.peer = rclpy.node.Node("peer")
        self.guard = guard.of(self.node)
        self.failures: list[str] = []
        self.guard.on_failure = self.failures.append
        self.executor = main._executor()
        for node in (self.node, self.peer):
            self.executor.add_node(node)

    def until(self, condition: Callable[[], Any], again: Callable[[], Any] = lambda: None) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline_s
            again()
            self.guard.spin(self.executor, 0.05)

    def call(self, kind: Any, name: str, request: Any) -> Any:
        client = self.peer.create_client(kind, name)
        self.until(client.service_is_ready)
        future = client.call_async(request)
        self.until(future.done)
        return future.result()


@pytest.fixture
def bench(ros_domain_id: int, request: pytest.FixtureRequest) -> Iterator[Bench]:
    rclpy.init()
    made = Bench(use_sim_time=getattr(request, "param", False))
    yield made
    made.executor.shutdown(timeout_sec=0)
    made.node.destroy_node()
    made.peer.destroy_node()
    rclpy.try_shutdown()


def test_callbacks_that_fail_are_counted_and_reported_and_the_node_lives_on(bench: Bench) -> None:
    taken, states = [], []

    def take(message: String) -> None:
        taken.append(int(message.data))

    def serve(request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        raise KeyError("joints")

    def tick() -> None:
        raise ZeroDivisionError("no time")

    def later(future: Any) -> None:
        raise TypeError("an answer that nobody expects")

    StatusReporter(bench.node, lambda: Status(OK, "running", "", {"rows": 3}), "panda")
    bench.peer.create_subscription(DiagnosticArray, topics.STATE, states.append, qos.STATE)
    bench.node.create_subscription(String, "heard", take, qos.STATE)
    bench.node.create_service(Trigger, "served", serve)
    timer = bench.node.create_timer(0.01, tick)
    words = bench.peer.create_publisher(String, "heard", qos.STATE)
    bench.until(lambda: states and states[-1].status[0].level == ERROR)
    timer.cancel()
    bench.until(lambda: bench.guard.failed["heard"] == 2, lambda: words.publish(String(data="9" * 5000)))
    words.publish(String(data="7"))
    bench.until(lambda: taken == [7])
    answer = bench.call(Trigger, "served", Trigger.Request())
    assert not answer.success and "callback failed on served: KeyError: 'joints' (test_guard.py:" in answer.message

    states.clear()
    bench.until(lambda: states)
    status = states[-1].status[0]
    assert status.level == ERROR and status.message.startswith("running: callback failed on served: KeyError")
    values = {entry.key: entry.value for entry in status.values}
    assert values["rows"] == "3" and values["failed.heard"] == "2" and values["failed.served"] == "1"
    assert (
        int(
            values[
                "failed.the timer of test_callbacks_that_fail_are_counted_and_reported_and_the_node_lives_on."
                "<locals>.tick"
            ]
        )
        > 0
    )
    assert all(len(why) <= 300 for why in bench.failures)

    client = bench.node.create_client(Trigger, "answered")
    bench.peer.create_service(Trigger, "answered", lambda request, response: response)
    bench.until(client.service_is_ready)
    client.call_async(Trigger.Request()).add_done_callback(later)
    bench.until(lambda: bench.guard.failed["the executor"] == 1)
    states.clear()
    bench.until(lambda: states)  # the executor goes on
    assert not bench.guard.end


def test_what_is_too_large_or_no_message_never_comes_to_the_callback(bench: Bench) -> None:
    taken: list[str] = []
    bench.node.create_subscription(String, topics.INSTRUCTION, lambda message: taken.append(message.data), qos.STATE)
    polled: PolledSubscription[String] = PolledSubscription(bench.node, String, "/polled", qos.NEWEST)
    words = bench.peer.create_publisher(String, topics.INSTRUCTION, qos.STATE)
    bench.until(words.get_subscription_count)
    words.publish(String(data="x" * 1_000_000))
    words.publish(b"\x00\x01\x00\x00\xff\xff\xff\xff")  # type: ignore[arg-type]
    words.publish(String(data="lift"))
    bench.until(lambda: taken)
    assert taken == ["lift"] and bench.guard.refused == {topics.INSTRUCTION: 2} and not bench.guard.failed
    to_polled = bench.peer.create_publisher(String, "/polled", qos.NEWEST)
    large = String(data="x" * 1_000_000)
    bench.until(lambda: polled.take_newest() or bench.guard.refused["/polled"], lambda: to_polled.publish(large))
    heard: list[String] = []
    small = String(data="small")
    bench.until(lambda: heard, lambda: (to_polled.publish(small), heard.extend(polled.take_all())))
    assert heard[0].data == "small"


@pytest.mark.parametrize("bench", [True], indirect=True)
def test_a_negative_time_on_the_clock_and_parameters_of_no_type_are_survived(bench: Bench) -> None:
    ticks = bench.peer.create_publisher(Clock, "/clock", qos.STATE)
    negative, good = Clock(), Clock()
    negative.clock.sec, good.clock.sec = -5, 7
    bench.until(lambda: bench.guard.refused["/clock"], lambda: ticks.publish(negative))
    bench.until(lambda: bench.node.get_clock().now().nanoseconds == 7 * 10**9, lambda: ticks.publish(good))
    broken = Parameter(name="use_sim_time", value=ParameterValue(type=200))
    bench.call(SetParameters, "guarded/set_parameters", SetParameters.Request(parameters=[broken]))
    assert bench.guard.refused["guarded/set_parameters"] == 1
    assert not bench.failures  # nothing was done, so nothing is half done


def test_every_one_of_many_calls_at_once_is_answered(bench: Bench) -> None:
    names = [f"served_{number}" for number in range(3)]
    for name in names:
        bench.node.create_service(Trigger, name, lambda request, response: response)
    clients = [bench.peer.create_client(Trigger, name, qos_profile=qos_profile_parameters) for name in names]
    bench.until(lambda: all(client.service_is_ready() for client in clients))
    answers = [client.call_async(Trigger.Request()) for client in clients for _ in range(300)]
    bench.until(lambda: all(answer.done() for answer in answers))


def test_a_callback_can_end_its_node_and_that_is_no_failure(bench: Bench) -> None:
    def tick() -> None:
        raise Failed("a robot is in this ROS domain")

    bench.node.create_timer(0.01, tick)
    bench.until(lambda: bench.guard.end)
    assert bench.guard.end == "a robot is in this ROS domain" and not bench.failures


def test_an_executor_that_never_works_ends_the_node(bench: Bench) -> None:
    class Broken:
        def spin_once(self, timeout_sec: float) -> None:
            raise RuntimeError("the context is gone")

    for _ in range(100):
        assert not bench.guard.end
        bench.guard.spin(Broken(), 0.0)  # type: ignore[arg-type]
    assert "the executor failed 100 times in a row" in bench.guard.end


def test_lines_are_short_and_one(bench: Bench) -> None:
    assert messages.shortened("a\nb\tc") == "a b c"
    assert messages.shortened("x" * 10**6) == "x" * 297 + "..."
