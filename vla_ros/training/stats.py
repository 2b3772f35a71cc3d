"""What a dataset's actions and states are scaled by: quantiles to -1..1."""

from __future__ import annotations

from vla_ros.checkpoints.manifest import Normalization
from vla_ros.training.windows import ActionSamples


def normalization(samples: ActionSamples) -> Normalization:
    """Of actions: the 1 % and 99 % quantiles of each dimension become -1 and 1; the gripper stays as it is."""
    raise NotImplementedError


def state_normalization(samples: ActionSamples) -> Normalization | None:
    """Of the proprioception, as that of actions; None without any."""
    raise NotImplementedError
