"""Questions about the scene over ROS: the service /vla/ask, from both of its sides."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

from diagnostic_msgs.srv import AddDiagnostics
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from vla_ros import topics
from vla_ros.ros import operating
from vla_ros.ros.polling import PolledService

#: How often the service is looked at [s]: a person does not notice, and an answer takes longer.
_PERIOD_S = 0.1
_LONGEST_QUESTION = 1000  # characters
#: How long a running system may take to be discovered [s].
_APPEAR_S = 10.0


class Questions:
    """Serves /vla/ask: hands every question on, with what its answer is to be given to, from whatever thread."""

    def __init__(self, node: Node, ask: Callable[[str, Callable[[bool, str], None]], None]) -> None:
        self._ask = ask
        self._service = PolledService(node, AddDiagnostics, topics.ASK)
        # On the steady clock: a person may ask while simulated time stands still.
        self._timer = node.create_timer(_PERIOD_S, self._on_tick, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def close(self) -> None:
        """Serve no longer."""
        self._timer.cancel()
        self._service.close()

    def _on_tick(self) -> None:
        for request, respond in self._service.take_all():
            question = request.load_namespace
            if len(question) > _LONGEST_QUESTION:
                _answer(respond, False, f"the question has {len(question)} characters; at most {_LONGEST_QUESTION}")
                continue
            self._ask(question, partial(_answer, respond))


def _answer(respond: Callable[[Any], None], success: bool, text: str) -> None:
    respond(AddDiagnostics.Response(success=success, message=text))


def ask(question: str, timeout_s: float) -> str:
    """What the running policy answers to a question; raises Unanswered, a RuntimeError, where it does not."""
    with operating.context() as context:
        person = operating.OperatorNode(context, use_sim_time=False, name="asker")
        try:
            client = person.create_client(AddDiagnostics, topics.ASK)
            domain = os.environ.get("ROS_DOMAIN_ID", "0")
            otherwise = f"no node serves {topics.ASK} in ROS domain {domain}: is a system running there?"
            person.wait(client.service_is_ready, min(_APPEAR_S, timeout_s), otherwise)
            future = client.call_async(AddDiagnostics.Request(load_namespace=question))
            person.wait(
                lambda: future.done() or not client.service_is_ready(), timeout_s, "the policy has not answered"
            )
            if not future.done():
                raise operating.Unanswered("the policy has ended, and has not answered")
            response = future.result()
        finally:
            person.destroy_node()
    if not response.success:
        raise operating.Unanswered(response.message)
    return str(response.message)
