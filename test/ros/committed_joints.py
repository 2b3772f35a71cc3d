"""A policy that starts from the commanded joints and looks at nothing else of the robot."""

from __future__ import annotations

import numpy as np

from vla_ros.actions import ActionSpec, Anchor, GripperConvention, Space
from vla_ros.policies.policy import Inference, WindowSpec
from vla_ros.robots.robot import Robot
from vla_ros.values import Committed, ModelChunk, Window


class CommittedJoints:
    """Stays where it was commanded to be."""

    name = "committed_joints"

    def __init__(self, robot: Robot) -> None:
        self.action_spec = ActionSpec(
            space=Space.JOINT_DELTA,
            anchor=Anchor.COMMANDED,
            gripper=GripperConvention.NONE,
            joint_names=robot.joint_names,
        )
        self.window_spec = WindowSpec(proprioception=())

    def reset(self, instruction: str) -> None:
        """Follows any."""

    def infer(self, window: Window, committed: Committed) -> Inference:
        """No change."""
        return Inference(ModelChunk(window[-1].instant_ns, np.zeros((10, len(self.action_spec.joint_names)))))


def load(robot: Robot, checkpoint: str, action: ActionSpec | None) -> CommittedJoints:
    """As the registry calls it."""
    return CommittedJoints(robot)
