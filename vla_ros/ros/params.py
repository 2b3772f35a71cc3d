"""ROS parameters of a node, read as one validated config."""

from __future__ import annotations

from array import array
from typing import Any, TypeVar

from rclpy.node import Node

from vla_ros.config import from_parameters, to_parameters
from vla_ros.values import Config

C = TypeVar("C", bound=Config)

#: Parameters every ROS node may have, whatever it is for.
_OF_ROS = ("use_sim_time", "start_type_description_service")
_OF_ROS_PREFIXES = ("qos_overrides.",)


def read(node: Node, model: type[C]) -> C:
    """The parameters of `node` as `model`; those not given are declared with their defaults, for `ros2 param` to show.

    The node must have been created with `automatically_declare_parameters_from_overrides=True`. Raises ConfigError
    (a ValueError) with every unknown name and every wrong value.
    """
    given = {
        name: _plain(parameter.value)
        for name, parameter in node.get_parameters_by_prefix("").items()
        if parameter.value is not None and not _is_of_ros(name)
    }
    config = from_parameters(model, given)
    for name, value in to_parameters(config).items():
        if not node.has_parameter(name):
            node.declare_parameter(name, value)
    return config


def _is_of_ros(name: str) -> bool:
    return name in _OF_ROS or name.startswith(_OF_ROS_PREFIXES)


def _plain(value: Any) -> Any:
    """rclpy hands numeric arrays over as array.array; a config wants lists."""
    return value.tolist() if isinstance(value, array) else value
