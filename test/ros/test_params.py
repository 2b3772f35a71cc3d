"""ROS parameters become one config: nested names, defaults made visible, every mistake told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

rclpy = pytest.importorskip("rclpy")

from pydantic import Field
from rclpy.node import Node
from rclpy.parameter import Parameter

from vla_ros.config import ConfigError
from vla_ros.ros import params
from vla_ros.values import Config


class Inner(Config):
    gain: float = 2.0
    steps: int = Field(default=3, ge=1)


class Outer(Config):
    name: str = "a name"
    box: tuple[float, float, float] = (0.0, 1.0, 2.0)
    inner: Inner = Inner()
    each: dict[str, Inner] = Field(default_factory=dict)


@pytest.fixture
def context(ros_domain_id: int) -> Iterator[rclpy.Context]:
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=ros_domain_id)
    yield context
    rclpy.shutdown(context=context)


def node_with(context: rclpy.Context, **values: object) -> Node:
    return Node(
        "configured",
        context=context,
        automatically_declare_parameters_from_overrides=True,
        parameter_overrides=[Parameter(name.replace("__", "."), value=value) for name, value in values.items()],
    )


def test_what_is_given_is_read_and_the_rest_is_declared(context: rclpy.Context) -> None:
    node = node_with(context, inner__gain=5, box=[1.0, 2.0, 3.0], each__left__steps=7, use_sim_time=True)
    config = params.read(node, Outer)
    assert config == Outer(box=(1.0, 2.0, 3.0), inner=Inner(gain=5.0), each={"left": Inner(steps=7)})
    assert node.get_parameter("inner.steps").value == 3
    assert node.get_parameter("name").value == "a name"
    assert node.get_parameter("each.left.gain").value == 2.0


def test_mistakes_are_told_all_at_once(context: rclpy.Context) -> None:
    node = node_with(context, inner__steps=0, box=[1.0], inner__gian=5.0)
    with pytest.raises(ConfigError) as caught:
        params.read(node, Outer)
    told = str(caught.value)
    assert "inner.steps" in told and "box" in told and "inner.gian" in told


def test_a_change_that_nobody_would_heed_is_refused(context: rclpy.Context) -> None:
    node = node_with(context, each__left__steps=7, box=[1.0, 2.0, 3.0])
    params.read(node, Outer, changeable=("name",))
    for name, value in (("inner.gain", 1.0), ("each.left.steps", 9), ("box", [0.0, 0.0, 0.0])):
        (refused,) = node.set_parameters([Parameter(name, value=value)])
        assert (refused.successful, refused.reason) == (
            False,
            f"{name}: read once, at the start; change the system's file and start it again",
        )
    both = node.set_parameters_atomically([Parameter("name", value="new"), Parameter("inner.gain", value=1.0)])
    assert not both.successful and node.get_parameter("name").value == "a name"
    assert all(result.successful for result in node.set_parameters([Parameter("name", value="new")]))
    assert node.get_parameter("inner.gain").value == 2.0
