"""What `vla-ros run` does without an end: the nodes run, and what happens is reported in plain words."""

from __future__ import annotations

import os
import shlex
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vla_ros.cli.common import console, obstacle, refuse

if TYPE_CHECKING:
    from vla_ros.config import SystemConfig
    from vla_ros.graph import Graph

_POLL_S = 0.2
_CONDITION = ("safety_state", "reason", "mode", "message")
#: Until then a node that waits for the others is no news; nor is what lasts for less than this.
_STARTING_S, _LASTING_S = 20.0, 0.5


def run_until_interrupted(system: SystemConfig, graph: Graph, name: str, verbose: bool) -> None:
    """Run the nodes until Ctrl-C; what they log goes into a file, or with `verbose` to the terminal."""
    from vla_ros.ros import transport
    from vla_ros.ros.supervising import Supervisor

    environment = transport.environment(os.environ)
    if not verbose:
        _report(system, graph, name, environment)
        return
    with Supervisor(graph, environment) as nodes:
        try:
            nodes.wait()
        except KeyboardInterrupt:
            typer.echo("stopping", err=True)


def _report(system: SystemConfig, graph: Graph, name: str, environment: Mapping[str, str]) -> None:
    from vla_ros.ros import operating
    from vla_ros.ros.happenings import Happenings
    from vla_ros.ros.supervising import Supervisor

    log_file = Path("runs") / time.strftime("%Y%m%d-%H%M%S") / "nodes.log"
    if why := obstacle(log_file):
        refuse(f"{log_file}: cannot be written: {why}; --verbose writes no file")
    log_file.parent.mkdir(parents=True, exist_ok=True)
    out, story = console(), Story(name, system.policy.name, time.monotonic())

    def say(line: str) -> None:
        out.print(f"{time.strftime('%H:%M:%S')}  {line}", soft_wrap=True)

    say(f"starting {system.title} with policy {system.policy.name}; Ctrl-C ends it")
    say(f"nodes' log {log_file}")
    with log_file.open("w", encoding="utf-8", buffering=1) as log, operating.context() as context:
        heard = Happenings(context, graph.is_simulated)
        try:
            with Supervisor(
                graph, environment, log=lambda node, line: print(f"[{node}] {line}", file=log), tell=say
            ) as nodes:
                while True:
                    nodes.wait(_POLL_S)
                    now_s = time.monotonic()
                    for node, state in heard.states():
                        for line in story.see(node, state, now_s):
                            say(line)
                    if (world := heard.world()) is not None:
                        for line in story.see_world(world.time_ns, world.success):
                            say(line)
        except KeyboardInterrupt:
            for line in story.summary(time.monotonic()):
                say(line)
            say(f"nodes' log {log_file}")
        finally:
            heard.close()


class Story:
    """States of nodes and of the world into lines for a person: what changed, and what can be typed next."""

    def __init__(self, system: str, policy: str, now_s: float) -> None:
        self._system, self._policy, self._begun_s = system, policy, now_s
        self._before: dict[str, dict[str, str]] = {}
        self._pending: dict[str, tuple[float, list[str]]] = {}  # node -> since when, what will be news if it lasts
        self._told: dict[str, list[str]] = {}
        self._has_moved = False
        self._world_ns: int | None = None
        self._started_ns: int | None = None  # the world's time when the arm began to move
        self._is_success = False
        self._successes: list[float] = []  # how long each took
        self._holds: Counter[str] = Counter()

    def see(self, node: str, state: Mapping[str, str], now_s: float) -> list[str]:
        """`node` reported how it is."""
        before, self._before[node] = self._before.get(node, {}), dict(state)
        events = self._events(node, state, before)
        if node in ("controller", "inference") and any(state.get(key) != before.get(key) for key in _CONDITION):
            condition = self._controller if node == "controller" else self._inference
            self._pending[node] = (now_s, condition(state, now_s))
        since_s, lines = self._pending.get(node, (now_s, []))
        if not lines or now_s - since_s < _LASTING_S:
            return events
        del self._pending[node]
        is_new = lines != self._told.get(node)
        self._told[node] = lines
        return [*events, *(lines if is_new else [])]

    def see_world(self, time_ns: int, success: bool) -> list[str]:
        """The simulated world is so far, and its task is done or not."""
        if self._world_ns is not None and time_ns < self._world_ns:
            self._started_ns = None
        self._world_ns = time_ns
        was, self._is_success = self._is_success, success
        if was or not success:
            return []
        took_s = (time_ns - (self._started_ns or 0)) * 1e-9
        self._successes.append(took_s)
        task = self._before.get("simulator", {}).get("task", "the task")
        lines = [f"success: {task}, {took_s:.1f} s (simulated) after the arm was started"]
        return lines + (self._next_commands() if len(self._successes) == 1 else [])

    def summary(self, now_s: float) -> list[str]:
        """What there was until now."""
        lines = [f"stopped after {now_s - self._begun_s:.0f} s"]
        if self._successes:
            lines.append(f"successes: {len(self._successes)}, after {', '.join(f'{s:.1f} s' for s in self._successes)}")
        elif self._world_ns is not None:
            lines.append("no success" if self._has_moved else "the arm never moved")
        lines += [f"held {times} x: {reason}" for reason, times in self._holds.most_common()]
        return lines

    # --- node by node

    def _events(self, node: str, state: Mapping[str, str], before: Mapping[str, str]) -> list[str]:
        """What happened at once, however short."""
        if not before:
            return []
        if node == "inference" and state.get("instruction") != before.get("instruction"):
            return [f"instruction: {state.get('instruction', '')}"]
        if node == "simulator" and state.get("resets") != before.get("resets"):
            self._started_ns = None
            self._told.pop("controller", None)
            return [f"the world was reset: {state.get('task', '')}"]
        return []

    def _controller(self, state: Mapping[str, str], now_s: float) -> list[str]:
        now, reason = state.get("safety_state", ""), state.get("reason", "")
        if now == "running":
            self._has_moved = True
            if self._started_ns is None:
                self._started_ns = self._world_ns
            task = self._before.get("inference", {}).get("instruction", "")
            return [f"the arm moves: {task}" if task else "the arm moves"]
        if now == "ramping":  # to a hold, which is told when it is reached
            return []
        if state.get("mode") == "hold":
            return [f"the arm holds: {reason}", *([] if self._has_moved else self._ways_to_start())]
        if not self._has_moved and now_s - self._begun_s < _STARTING_S:
            return []
        self._holds[reason] += 1
        if now == "stopped":
            return [f"the arm is stopped: {reason}", f"  to continue: {_call('/vla/resume')}"]
        return [f"the arm holds: {reason}"]

    def _inference(self, state: Mapping[str, str], now_s: float) -> list[str]:
        message, is_starting = state["message"], now_s - self._begun_s < _STARTING_S
        if message.startswith("inferring") or (is_starting and not message.startswith("refusing")):
            return []
        return [f"policy {self._policy}: {message}"]

    # --- what can be typed

    def _ways_to_start(self) -> list[str]:
        return [
            "  to set a task: ros2 topic pub --once --qos-durability transient_local /vla/instruction "
            "std_msgs/msg/String 'data: lift the red cube'",
            f"  to let it move: {_call('/vla/start')}",
        ]

    def _next_commands(self) -> list[str]:
        name = shlex.quote(self._system)
        asks = [] if self._policy == "scripted" else ['  to ask about the scene: vla-ros ask "where is the red cube?"']
        return [
            *asks,
            f"  to run the next episode: {_call('/vla/simulation/reset')}, then {_call('/vla/start')}",
            f"  to see status and faults: vla-ros doctor {name}",
            f"  to measure it, with a report and a picture: vla-ros run {name} --episodes 10",
        ]


def _call(service: str) -> str:
    return f"ros2 service call {service} std_srvs/srv/Trigger"
