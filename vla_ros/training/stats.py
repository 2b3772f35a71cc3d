"""What a dataset's actions and states are scaled by: quantiles to -1..1."""

from __future__ import annotations

import numpy as np

from vla_ros.actions import GripperConvention
from vla_ros.checkpoints.requirements import Normalization
from vla_ros.training.windows import ActionSamples
from vla_ros.values import Array

_QUANTILES = (0.01, 0.99)
#: So many samples, evenly spread, tell quantiles well enough.
_ENOUGH = 5000
#: What varies less than this (a millimetre, a milliradian) is noise, and stays small: a value learnt as constant must
#: not become thousands where it is another for once.
_LEAST_SCALE = 1e-3
#: Of a state, of which a little more is seen on the robot than was recorded.
_LEAST_STATE_SCALE = 1e-2


def normalization(samples: ActionSamples, gripper_is_probability: bool = False) -> Normalization:
    """Of actions: the 1 % and 99 % quantiles of each dimension become -1 and 1; padding does not count.

    A gripper value that is a share of its opening (0..1 or -1..1) stays as it is; as a probability, each becomes 0..1.
    """
    rows = []
    for index in _spread(len(samples)):
        actions, is_pad = samples.actions(int(index))
        rows.append(actions[~is_pad])
    values, gripper = np.concatenate(rows), samples.action.gripper
    found = _between_quantiles(values)
    if gripper is GripperConvention.NONE or (gripper is GripperConvention.WIDTH_M and not gripper_is_probability):
        return found
    zero, one = _ends(gripper, values[:, -1]) if gripper_is_probability else (0.0, 1.0)
    return Normalization(offset=(*found.offset[:-1], zero), scale=(*found.scale[:-1], one - zero))


def state_normalization(samples: ActionSamples) -> Normalization | None:
    """Of the proprioception, as that of actions; None without any."""
    if not samples.state_dims:
        return None
    states = np.stack([samples.state(int(index)) for index in _spread(len(samples))])
    return _between_quantiles(states, _LEAST_STATE_SCALE)


def normalized(values: Array, by: Normalization) -> Array:
    """Real values (..., A) as the model has them."""
    return np.asarray((values - np.array(by.offset)) / np.array(by.scale), dtype=np.float64)


def _ends(gripper: GripperConvention, values: Array) -> tuple[float, float]:
    """The values of a gripper that are 0 and 1 as a probability; of widths [m] the least and the greatest there is."""
    if gripper is GripperConvention.WIDTH_M:
        least = float(values.min())
        return least, max(float(values.max()), least + _LEAST_SCALE)
    is_signed = gripper in (GripperConvention.OPEN_SIGNED, GripperConvention.CLOSED_SIGNED)
    return (-1.0 if is_signed else 0.0), 1.0


def _spread(length: int) -> Array:
    return np.unique(np.linspace(0, length - 1, _ENOUGH).astype(np.int64))


def _between_quantiles(values: Array, least: float = _LEAST_SCALE) -> Normalization:
    """The quantiles become -1 and 1; of what hardly varies between them but does beyond, the ends."""
    low, high = np.quantile(values, _QUANTILES, axis=0)
    is_still = 0.5 * (high - low) < least
    low, high = np.where(is_still, values.min(axis=0), low), np.where(is_still, values.max(axis=0), high)
    scale = np.maximum(0.5 * (high - low), least)
    return Normalization(offset=tuple((0.5 * (high + low)).tolist()), scale=tuple(scale.tolist()))
