"""What a policy does that took a dead one's place, compared with what was done before."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy")

from vla_ros.ros.liveliness import TaskWatch

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
