"""What each node declares as its ROS parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pydantic import Field, model_validator

from vla_ros.actions import ActionSpec
from vla_ros.config.system import SCRIPTED, CameraConfig, InferenceConfig, PolicyConfig
from vla_ros.control.arm import ArmConfig
from vla_ros.recording.config import RecordingConfig
from vla_ros.simulation.world import TabletopConfig
from vla_ros.timing.chunks import ScheduleConfig
from vla_ros.values import Config, Mode


class InferenceNodeConfig(InferenceConfig):
    """Parameters of the inference node."""

    robot: str = "panda"
    policy: PolicyConfig = PolicyConfig(name=SCRIPTED)
    instruction: str = ""
    cameras: dict[str, CameraConfig] = Field(default_factory=dict)
    action: ActionSpec | None = None
    schedule: ScheduleConfig = ScheduleConfig()  # the controller's, to know what is already committed


class ControllerNodeConfig(Config):
    """Parameters of the controller node. `mode` to begin in: only a simulated arm may move before it is told to.

    `dry_run`: all is computed and published but what the driver would hear.
    """

    robot: str = "panda"
    arm: ArmConfig = ArmConfig()
    mode: Mode = Mode.HOLD
    dry_run: bool = False


class SimulatorNodeConfig(Config):
    """Parameters of the simulator node."""

    robot: str = "panda"
    world: TabletopConfig = TabletopConfig()
    cameras: dict[str, CameraConfig] = Field(default_factory=dict)
    seed: int = Field(default=0, ge=0)
    clock_rate_hz: float = Field(default=200.0, ge=1.0, le=1000.0)
    real_time_factor: float = Field(default=1.0, ge=0.01, le=1.0)

    @model_validator(mode="after")
    def _world_has_the_cameras(self) -> SimulatorNodeConfig:
        if missing := sorted(set(self.cameras) - set(self.world.cameras)):
            raise ValueError(
                f"cameras: the world has none of that name (given {', '.join(missing)}); "
                f"should be of {', '.join(self.world.cameras)}"
            )
        return self


class RecorderNodeConfig(Config):
    """Parameters of the recorder node: the dataset at `root`, and what goes into it.

    `resume`: go on with the dataset that is there, or begin one; else there must be none. `source`: who shows the
    episodes, for their details.
    """

    root: str
    robot: str = "panda"
    cameras: dict[str, CameraConfig]
    recording: RecordingConfig = RecordingConfig()
    instruction: str = ""
    source: str = ""
    resume: bool = True


def between_frames(cameras: Mapping[str, CameraConfig], fps: int) -> list[str]:
    """Which cameras have nothing for some of `fps` rows a second, as a ConfigError says it; none where all is well."""
    return [
        f"cameras.{name}.tolerance_ms: of {fps} rows a second some lie between two frames at {camera.rate_hz:g} Hz, "
        f"beyond its reach (given {camera.tolerance_ms:g}); should be at least {math.ceil(500.0 / camera.rate_hz)}, "
        f"or recording.fps at most {math.floor(camera.rate_hz)}"
        for name, camera in cameras.items()
        if camera.rate_hz < fps and camera.tolerance_ms < 500.0 / camera.rate_hz
    ]


class BagNodeConfig(Config):
    """Parameters of the bag node: which topics go into the bag at `path`."""

    path: str
    topics: tuple[str, ...]
