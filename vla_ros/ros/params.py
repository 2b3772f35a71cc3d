"""ROS parameters of a node, read as one validated config."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Sequence
from typing import Any, TypeVar

from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from vla_ros.config import from_parameters, to_parameters
from vla_ros.values import Config

C = TypeVar("C", bound=Config)

#: Parameters every ROS node may have, whatever it is for.
_OF_ROS = ("use_sim_time", "start_type_description_service")
_OF_ROS_PREFIXES = ("qos_overrides.",)


def read(node: Node, model: type[C], changeable: Collection[str] = ()) -> C:
    """The parameters of `node` as `model`; those not given are declared with their defaults, for `ros2 param` to show.

    They are read this once, so later changes of all but `changeable` are refused: nobody shall believe that the limit
    he has just lowered is kept. The node must have been created with
    `automatically_declare_parameters_from_overrides=True`. Raises ConfigError (a ValueError) with every unknown name
    and every wrong value.
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
    fixed = set(to_parameters(config)) - set(changeable)

    def refuse_changes(parameters: Sequence[Parameter]) -> SetParametersResult:
        changed = [parameter.name for parameter in parameters if parameter.name in fixed]
        reason = f"{', '.join(changed)}: read once, at the start; change the system's file and start it again"
        return SetParametersResult(successful=not changed, reason=reason if changed else "")

    node.add_on_set_parameters_callback(refuse_changes)
    return config


def _is_of_ros(name: str) -> bool:
    return name in _OF_ROS or name.startswith(_OF_ROS_PREFIXES)


def _plain(value: Any) -> Any:
    """rclpy hands numeric arrays over as array.array; a config wants lists."""
    return value.tolist() if isinstance(value, array) else value
