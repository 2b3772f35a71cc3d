"""How a Panda behind multipanda_ros2 moves again after a reflex: error recovery, then its streaming controller anew.

The recovery stops the robot's control loop, and what the controller manager takes for an active controller no longer
moves anything. So it is deactivated and activated, in two calls: in one the mode would not change, and nothing start.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from builtin_interfaces.msg import Duration
from controller_manager_msgs.srv import SwitchController
from franka_msgs.srv import ErrorRecovery
from rclpy.client import Client
from rclpy.node import Node
from rclpy.task import Future

from vla_ros.ros.drivers.driver import OnDone

#: What error recovery says of a robot without errors: as good as recovered.
NO_ERRORS = "No errors"
#: A step that takes longer than this will have no answer, in wall time.
_LONGEST_STEP_S = 10.0
_SWITCH_WITHIN = Duration(sec=5)


class PandaRecovery:
    """The whole sequence, one at a time; every step that fails is named."""

    def __init__(
        self, node: Node, error_recovery: str, switch_controller: str, controller: str, follows: Callable[[float], bool]
    ) -> None:
        """`controller`: the name the controller manager knows the streaming controller by.

        `follows`: whether the robot has said since an instant (monotonic) that it follows. It does so some milliseconds
        after the activation.
        """
        self._recovery = node.create_client(ErrorRecovery, error_recovery)
        self._switch = node.create_client(SwitchController, switch_controller)
        self._controller = controller
        self._follows = follows
        self._activated_s: float | None = None
        self._on_done: OnDone | None = None
        self._step = ""
        self._client = self._recovery
        self._asked: Future | None = None
        self._deadline_s = 0.0

    def start(self, on_done: OnDone) -> None:
        """Begin; `on_done` is called once."""
        if self._on_done is not None:
            on_done(False, f"{self._step} is still in progress")
        elif not self._recovery.service_is_ready():
            on_done(False, f"the driver does not answer on {self._recovery.srv_name}")
        else:
            self._on_done = on_done
            self._ask("error recovery", self._recovery, ErrorRecovery.Request(), self._on_recovered)

    def poll(self) -> None:
        """End a step that has had no answer for too long, and the last one once the robot follows."""
        is_late = time.monotonic() > self._deadline_s
        if self._activated_s is not None:
            if self._follows(self._activated_s):
                self._finish(True, "")
            elif is_late:
                self._finish(False, f"the robot does not follow, {_LONGEST_STEP_S:g} s after the {self._step}")
        elif self._asked is not None and is_late:
            self._client.remove_pending_request(self._asked)
            self._finish(False, f"{self._step}: no answer in {_LONGEST_STEP_S:g} s")

    def _on_recovered(self, response: ErrorRecovery.Response) -> None:
        if not response.success and response.error != NO_ERRORS:
            self._finish(False, f"{self._step}: {response.error or 'refused'}")
        elif not self._switch.service_is_ready():
            # An arm that follows nobody must not be taken for one that follows: by hand, it would start with a jump.
            self._finish(False, f"no node answers on {self._switch.srv_name}, so {self._controller} stays inactive")
        else:
            request = SwitchController.Request(
                deactivate_controllers=[self._controller],
                strictness=SwitchController.Request.BEST_EFFORT,  # it may be inactive already
                timeout=_SWITCH_WITHIN,
            )
            self._ask(f"deactivation of {self._controller}", self._switch, request, self._on_deactivated)

    def _on_deactivated(self, response: SwitchController.Response) -> None:
        if not response.ok:
            self._finish(False, f"{self._step}: {_said(response)}")
            return
        request = SwitchController.Request(
            activate_controllers=[self._controller],
            strictness=SwitchController.Request.STRICT,
            timeout=_SWITCH_WITHIN,
        )
        self._ask(f"activation of {self._controller}", self._switch, request, self._on_activated)

    def _on_activated(self, response: SwitchController.Response) -> None:
        if not response.ok:
            self._finish(False, f"{self._step}: {_said(response)}")
            return
        self._asked, self._activated_s = None, time.monotonic()
        self._deadline_s = self._activated_s + _LONGEST_STEP_S

    def _ask(self, step: str, client: Client, request: Any, on_response: Callable[[Any], None]) -> None:
        self._step, self._client = step, client
        self._deadline_s = time.monotonic() + _LONGEST_STEP_S
        self._asked = client.call_async(request)
        self._asked.add_done_callback(lambda future: on_response(future.result()) if future is self._asked else None)

    def _finish(self, success: bool, message: str) -> None:
        on_done, self._on_done, self._asked, self._activated_s = self._on_done, None, None, None
        if on_done is not None:
            on_done(success, message)


def _said(response: SwitchController.Response) -> str:
    """Before Jazzy the controller manager gives no reason."""
    return getattr(response, "message", "") or "the controller manager refuses"
