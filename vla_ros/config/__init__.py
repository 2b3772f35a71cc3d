"""What runs and how: one YAML file is one runnable system; read strictly, every error told at once; knows no policy."""

from vla_ros.config.files import find, load, names, override
from vla_ros.config.nodes import (
    BagNodeConfig,
    ControllerNodeConfig,
    InferenceNodeConfig,
    RecorderNodeConfig,
    SimulatorNodeConfig,
    between_frames,
)
from vla_ros.config.parameters import Parameter, from_parameters, to_parameters
from vla_ros.config.problems import ConfigError
from vla_ros.config.system import SCRIPTED, CameraConfig, InferenceConfig, PolicyConfig, SystemConfig

__all__ = [
    "SCRIPTED",
    "BagNodeConfig",
    "CameraConfig",
    "ConfigError",
    "ControllerNodeConfig",
    "InferenceConfig",
    "InferenceNodeConfig",
    "Parameter",
    "PolicyConfig",
    "RecorderNodeConfig",
    "SimulatorNodeConfig",
    "SystemConfig",
    "between_frames",
    "find",
    "from_parameters",
    "load",
    "names",
    "override",
    "to_parameters",
]
