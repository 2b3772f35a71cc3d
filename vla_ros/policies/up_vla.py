"""UP-VLA on a robot: frames and an instruction in, actions out; its description and the future frame off that path."""

from __future__ import annotations

from collections.abc import Mapping

from vla_ros.actions import ActionSpec
from vla_ros.checkpoints.manifest import Bundle
from vla_ros.policies.policy import Inference, WindowSpec
from vla_ros.robots.robot import Robot
from vla_ros.values import Committed, Window


class UpVlaPolicy:
    """One checkpoint for one robot; see `policies.policy` for what each member is asked."""

    def __init__(self, bundle: Bundle, robot: Robot) -> None:
        raise NotImplementedError

    @classmethod
    def from_bundle(cls, bundle: Bundle, robot: Robot) -> UpVlaPolicy:
        """For weights that are in memory; raises ValueError where they are another robot's."""
        return cls(bundle, robot)

    @property
    def action_spec(self) -> ActionSpec:
        """What the checkpoint's rows mean."""
        raise NotImplementedError

    @property
    def window_spec(self) -> WindowSpec:
        """One instant: the checkpoint's cameras, and of the robot what the manifest names; never the world's state."""
        raise NotImplementedError

    @property
    def reflection_period_s(self) -> float:
        """How often the scene is described anew."""
        raise NotImplementedError

    def check_cameras(self, cameras: Mapping[str, tuple[int, int]]) -> None:
        """Raise ValueError unless the checkpoint's cameras are among `cameras`, in the shape they were trained in."""
        raise NotImplementedError

    def reset(self, instruction: str) -> None:
        """Follow `instruction`; raises ValueError for words or a script that the model never read."""
        raise NotImplementedError

    def infer(self, window: Window, committed: Committed) -> Inference:
        """Decide the next actions."""
        raise NotImplementedError

    def reflect(self, window: Window) -> None:
        """Describe what is seen, for the next inferences."""
        raise NotImplementedError

    def answer(self, window: Window, question: str) -> str:
        """Answer a question about what is seen."""
        raise NotImplementedError


def load(
    robot: Robot, checkpoint: str, action: ActionSpec | None, device: str = "auto", dtype: str = "auto"
) -> UpVlaPolicy:
    """For the registry: the checkpoint folder `checkpoint`, on `device` in `dtype`.

    The action space is the checkpoint's own. Raises ValueError saying what is wrong with the checkpoint, or what of
    the system does not fit it.
    """
    raise NotImplementedError
