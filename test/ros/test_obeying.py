"""What is set with the mode: all of it is accepted and the arm obeys, or none of it and nothing happens."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

rclpy = pytest.importorskip("rclpy")

from rclpy.node import Node
from rclpy.parameter import Parameter

from vla_ros.ros.nodes.controller import ControllerNode

POLICY = Parameter("mode", value="policy")
REFUSED = (
    [Parameter("arm.rate_hz", value=5.0)],  # read once
    [Parameter("use_sim_time", value="yes")],  # of another type
    [Parameter("use_sim_time")],  # of none: rclpy's own callback refuses it, and is called last
    [Parameter("mode", value="autonomous")],
)


@pytest.fixture(params=["afterwards", "at once"])
def controller(request: pytest.FixtureRequest, ros_domain_id: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """With rclpy as it is, and as it was in Humble, where nothing is called once a set is accepted."""
    if request.param == "at once":
        monkeypatch.delattr(Node, "add_post_set_parameters_callback")
    rclpy.init()
    node = ControllerNode()
    yield node
    node.destroy_node()
    rclpy.try_shutdown()


def test_a_refused_set_of_parameters_starts_nothing(controller: ControllerNode) -> None:
    for others in REFUSED:
        for parameters in ([POLICY, *others], [*others, POLICY]):
            before = controller._arm.status()
            assert not controller.set_parameters_atomically(parameters).successful
            assert controller.get_parameter("mode").value == "hold"
            assert not controller.get_clock().ros_time_is_active
            assert controller._arm.status() == before
    assert controller.set_parameters_atomically([POLICY]).successful
    assert controller._arm.status().mode.value == controller.get_parameter("mode").value == "policy"
