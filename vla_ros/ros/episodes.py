"""Episodes over ROS: reset the world, say the instruction, start, watch, stop; gives a report and a trace."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from rclpy.context import Context
from rosgraph_msgs.msg import Clock
from std_msgs.msg import Float64MultiArray, String
from trajectory_msgs.msg import JointTrajectory

from vla_ros import messages, topics
from vla_ros.config import SystemConfig
from vla_ros.control.limits import NORMAL_COUNTS
from vla_ros.robots import catalogue
from vla_ros.rollout.report import EpisodeRow, Percentiles, Report
from vla_ros.ros import convert, guard, operating, qos
from vla_ros.ros.operating import ANSWER_S, DEEP, OperatorNode, Unanswered
from vla_ros.ros.tracing import Tracer
from vla_ros.simulation.world import WorldState
from vla_ros.timing.stamps import ns_to_ms, ns_to_s, period_ns, s_to_ns
from vla_ros.viewing.montage import EpisodeTrace

#: What the controller counts that is no intervention: its work, and chunks observed while the arm was not started.
_NORMAL = (*NORMAL_COUNTS, "chunk_not_started", "chunk_before_start")
_SHOWN_EVERY_NS = s_to_ns(0.5)

#: Called with how many episodes are done, the present one in part, and a note about it.
Progress = Callable[[float, str], None]


def run_episodes(
    system: SystemConfig,
    count: int,
    seed: int,
    on_episode: Callable[[Report, EpisodeTrace | None], None],
    on_progress: Progress = lambda done, note: None,
) -> None:
    """Run `count` episodes on a graph that is up, or coming up, in this ROS domain; `seed` is the first one's.

    `on_episode` gets the report of all that have ended each time one ends, and the trace of the first successful one,
    or else of the first. Raises Unanswered.
    """
    if system.simulation is None:
        raise ValueError("episodes are run in simulation, and the system has no section simulation")
    with operating.context() as context:
        operator = Operator(system, context)
        try:
            operator.wait_for_graph()
            rows = []
            for index in range(count):
                operator.on_progress = partial(within, on_progress, index)
                rows.append(operator.run_episode(seed + index))
                on_episode(operator.report(rows), operator.tracer.trace)
                on_progress(index + 1, "")
        finally:
            operator.destroy_node()


def within(on_progress: Progress, before: int, share: float, note: str) -> None:
    """`share` of an episode is done, after `before` others."""
    on_progress(before + share, note)


class Operator(OperatorNode):
    """Runs episodes: calls the services, watches the states, measures what goes by."""

    def __init__(self, system: SystemConfig, context: Context, services: Mapping[str, str] | None = None) -> None:
        super().__init__(context, use_sim_time=True, services=services)
        assert system.simulation is not None
        self._system = system
        self._limit_ns = s_to_ns(system.simulation.episode_s)
        self._period_ns = period_ns(system.controller.rate_hz)
        self._world: WorldState | None = None
        self._measuring = False
        self._measured_ns = 0
        self._counts: Counter[str] = Counter()
        self._acted: Counter[str] = Counter()  # what the safety stage counts, by name, as the controller said last
        self._instructed = 0  # how many instructions inference has taken, as it said last
        self._stream_rates_hz: dict[str, list[float]] = defaultdict(list)
        self._latencies_ms: list[float] = []
        self._jitters_ms: list[float] = []
        self._shown_ns = 0
        self._task = ""
        self.last_command_ns = 0
        self.on_progress: Progress = lambda share, note: None
        self.tracer = Tracer(self, {name: camera.topic for name, camera in system.cameras.items()})

        self._instruction = self.create_publisher(String, topics.INSTRUCTION, qos.LATCHED)
        self.create_subscription(Float64MultiArray, topics.SIMULATION_STATE, self._on_world, qos.SENSOR)
        self.create_subscription(JointTrajectory, topics.CHUNK, self._on_chunk, DEEP)
        self.create_subscription(JointTrajectory, topics.COMMAND, self._on_command, DEEP)
        self.create_subscription(Clock, "/clock", lambda _: self._count("/clock"), qos.SENSOR, raw=True)

    # --- for those who do more with an episode

    def before_start(self, seed: int, instruction: str) -> None:
        """The world and the policy are ready; the arm is about to start."""

    def after_end(self, success: bool) -> None:
        """It has ended; the arm is about to stop."""

    # --- one episode -----------------------------------------------------------------------------------------------

    def wait_for_graph(self) -> None:
        """Wait until every node is there and simulated time runs."""
        self.wait_for_services(topics.SIMULATION_RESET, topics.START, topics.STOP, topics.RESUME)
        self.wait_for_time()
        for node in ("controller", "inference"):
            self.hear_from(node)

    def run_episode(self, seed: int) -> EpisodeRow:
        """One episode from reset to stop; `seed` is written into its row."""
        self.call(topics.STOP)
        instruction = self.call(topics.SIMULATION_RESET)
        self.call(topics.RESUME)  # whatever stopped the arm belongs to the episode before
        self._instruct(instruction)
        self._task = instruction
        self.hear_from("controller")
        before = self._acted
        self.before_start(seed, instruction)
        self.tracer.begin(instruction)
        self.call(topics.START)
        start_ns = self.now_ns()
        success = self._watch(start_ns)
        duration_ns = self.now_ns() - start_ns
        ended = "success" if success else self._why_not()
        self.after_end(success)
        self.call(topics.STOP)
        self.tracer.end(success)
        self._measured_ns += duration_ns
        self.hear_from("controller")
        acted = {name: count - before[name] for name, count in self._acted.items() if count > before[name]}
        return EpisodeRow(seed, instruction, success, ns_to_s(duration_ns), ended, acted)

    def _instruct(self, instruction: str) -> None:
        """Say the instruction and wait until the policy has taken it."""
        self.hear_from("inference")
        taken_before = self._instructed
        self._instruction.publish(String(data=instruction))
        # Counted, as the same words may be said again, and the policy has to begin anew then too.
        self.wait(
            lambda: self._instructed > taken_before,
            ANSWER_S,
            f"inference did not receive {instruction!r} on {topics.INSTRUCTION}",
        )
        message = self.states["inference"]["message"]
        if message.startswith("refusing"):
            raise Unanswered(f"inference is {message}")

    def _watch(self, start_ns: int) -> bool:
        """Spin until the world says success or the time is over; whether it was success."""
        self._measuring, self.last_command_ns = True, 0
        try:
            self.spin_until(lambda: self._succeeded_since(start_ns) or self._elapsed_ns(start_ns) >= self._limit_ns)
            return self._succeeded_since(start_ns)
        finally:
            self._measuring = False

    def _elapsed_ns(self, start_ns: int) -> int:
        """Since the start; shown now and then, as a share of the time limit."""
        now_ns = self.now_ns()
        if abs(now_ns - self._shown_ns) >= _SHOWN_EVERY_NS:
            self._shown_ns = now_ns
            elapsed_ns = now_ns - start_ns
            seconds = f"{ns_to_s(elapsed_ns):.1f} of at most {ns_to_s(self._limit_ns):g} s"
            self.on_progress(min(0.99, elapsed_ns / self._limit_ns), f"{seconds}: {self._task}")
        return now_ns - start_ns

    def _succeeded_since(self, start_ns: int) -> bool:
        return self._world is not None and self._world.time_ns > start_ns and self._world.success

    def _why_not(self) -> str:
        """Why an episode ran into its time limit, as far as the nodes say."""
        said = [f"{node} {state['message']}" for node, state in self.states.items() if ":" in state["message"]]
        return "; ".join([f"time limit of {ns_to_s(self._limit_ns):g} s", *said])

    # --- what was measured -----------------------------------------------------------------------------------------

    def report(self, rows: list[EpisodeRow]) -> Report:
        """The episodes `rows` with everything measured while they ran."""
        seconds = ns_to_s(self._measured_ns)
        rates = {name: count / seconds for name, count in self._counts.items()} if seconds else {}
        rates |= {topic: float(np.mean(values)) for topic, values in self._stream_rates_hz.items()}
        return Report(
            policy=self._system.policy.name,
            episodes=tuple(rows),
            latency_ms=Percentiles.of(self._latencies_ms),
            jitter_ms=Percentiles.of(self._jitters_ms),
            topics={name: round(rate, 2) for name, rate in sorted(rates.items())},
        )

    def heard(self, node: str, state: Mapping[str, str], before: Mapping[str, str]) -> None:
        """Note what is measured while an episode runs."""
        if node == "controller":
            counts = {key: int(value) for key, value in state.items() if key.startswith(messages.INTERVENTION)}
            names = {key.removeprefix(messages.INTERVENTION): count for key, count in counts.items()}
            self._acted = Counter({name: count for name, count in names.items() if name not in _NORMAL})
            latency = state.get("chunk_latency_ms")
            if self._measuring and latency is not None and latency != before.get("chunk_latency_ms"):
                self._latencies_ms.append(float(latency))
        elif node == "inference":
            self._instructed = int(state.get("instructed", self._instructed))
            if self._measuring:
                self._note_streams(state)

    def _note_streams(self, state: Mapping[str, str]) -> None:
        """The rates at which the inference node receives what it looks at, in its (simulated) time."""
        for name, topic in self._stream_topics().items():
            if f"{name}.rate_hz" in state:
                self._stream_rates_hz[topic].append(float(state[f"{name}.rate_hz"]))

    def _stream_topics(self) -> dict[str, str]:
        robot = catalogue.find(self._system.robot)
        cameras = {name: camera.topic for name, camera in self._system.cameras.items()}
        return {**cameras, "joints": robot.endpoints["joint_states"].name}

    def _on_world(self, message: Float64MultiArray) -> None:
        try:
            self._world = convert.array_to_world_state(message)
        except ValueError as error:
            guard.of(self).refuse(topics.SIMULATION_STATE, error)
            return
        self._count(topics.SIMULATION_STATE)
        self.tracer.on_world(self._world)

    def _on_chunk(self, message: JointTrajectory) -> None:
        try:
            chunk = messages.trajectory_to_chunk(message)
        except ValueError as error:
            guard.of(self).refuse(topics.CHUNK, error)
            return
        self._count(topics.CHUNK)
        self.tracer.on_chunk(chunk)

    def _on_command(self, message: JointTrajectory) -> None:
        self._count(topics.COMMAND)
        time_ns = messages.stamp_to_ns(message.header.stamp)
        if self._measuring and self.last_command_ns:
            self._jitters_ms.append(ns_to_ms(abs(time_ns - self.last_command_ns - self._period_ns)))
        self.last_command_ns = time_ns

    def _count(self, topic: str) -> None:
        self._counts[topic] += self._measuring
