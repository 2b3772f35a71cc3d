"""What a policy does that took a dead one's place, compared with what was done before."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from vla_ros import topics
from vla_ros.ros import operating, qos
from vla_ros.ros.liveliness import TaskWatch
from vla_ros.ros.operating import OperatorNode, Unanswered

LIFT, PUSH = "lift the red cube", "push the blue cube to the left"


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        ([("", 0), (LIFT, 1), (LIFT, 1), (PUSH, 2), (PUSH, 2)], ""),  # told so by the operator
        ([(LIFT, 1), (LIFT, 2), ("", 0), (LIFT, 1)], ""),  # the same as before
        ([(LIFT, 1), (PUSH, 2), ("", 0), ("", 0)], ""),  # waits to be told
        ([(LIFT, 1), (PUSH, 2), ("", 0), (LIFT, 1)], f"{LIFT!r}, which was {PUSH!r}"),  # back to its parameter
        ([(LIFT, 1), (PUSH, 2), (LIFT, 1)], f"{LIFT!r}, which was {PUSH!r}"),
        ([(LIFT, 1), (PUSH, 2), (LIFT, 1), (LIFT, 1)], ""),  # said once
        ([("", 0), ("", 0), (LIFT, 1)], ""),
    ],
)
def test_only_another_task_after_a_new_beginning_is_told(seen: list[tuple[str, int]], told: str) -> None:
    watch = TaskWatch()
    assert [watch.see(*each) for each in seen][-1] == told


def test_what_a_node_said_that_reports_no_more_is_not_taken_for_true(
    ros_domain_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operating, "SILENT_S", 0.3)
    running = DiagnosticStatus(name="controller", message="running")
    running.values = [KeyValue(key="safety_state", value="running")]
    with operating.context() as context:
        operator = OperatorNode(context, use_sim_time=False)
        controller = Node("controller", context=context)
        states = controller.create_publisher(DiagnosticArray, topics.STATE, qos.STATE)

        def hear() -> None:
            states.publish(DiagnosticArray(status=[running]))
            operator.spin()

        while "controller" not in operator.states:
            hear()
        assert operator.states["controller"]["safety_state"] == "running"
        operator.wait(lambda: operator.states["controller"]["message"] != "running", 10.0, "silence is not noticed")
        assert operator.states["controller"].get("safety_state") is None
        with pytest.raises(Unanswered, match="^controller is silent: nothing on /vla/state for 0.3 s: has it ended"):
            operator.states["controller"]["safety_state"]
        while operator.states["controller"]["message"] != "running":
            hear()
        operator.destroy_node()
        controller.destroy_node()
