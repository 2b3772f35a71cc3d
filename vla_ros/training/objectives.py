"""What models learn: losses as sums with counts, so that parts of a batch, on one process or many, add up to one mean.

Shapes: B batch, L sequence, V vocabulary, K action rows, A action dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_ros.models.up_vla import IGNORED


class SizedPart(Protocol):
    """What is run at once."""

    @property
    def frames(self) -> int:
        """How many samples it has."""


Part = TypeVar("Part", bound=SizedPart)


class Objective(nn.Module, Generic[Part]):
    """A model as it is trained: its forward gives the sums of the losses of a part by name.

    `weights` says how much each matters. What none of them reaches has to be frozen.
    """

    weights: Mapping[str, float]

    def counts(self, part: Part) -> dict[str, Tensor]:
        """What each of `weights` is divided by for a part, known before it is run; float32 on the CPU."""
        raise NotImplementedError


@dataclass(frozen=True)
class Summed:
    """A loss before it is divided: the sum over what it counts, and how much that is."""

    total: Tensor
    count: Tensor

    @property
    def mean(self) -> Tensor:
        """The loss."""
        return self.total / self.count.clamp(min=1)


def prediction_loss(logits_BLV: Tensor, labels_BL: Tensor) -> Summed:
    """Cross entropy of labels at the SAME positions, over the whole vocabulary: loss_pre at the image's places."""
    return _cross_entropy(logits_BLV, labels_BL)


def understanding_loss(logits_BLV: Tensor, labels_BL: Tensor) -> Summed:
    """Cross entropy of the label that follows each position: loss_mmu."""
    return _cross_entropy(logits_BLV[:, :-1], labels_BL[:, 1:])


def action_loss(
    predicted_BKA: Tensor, actions_BKA: Tensor, is_pad_BK: Tensor | None = None, gripper_is_logit: bool = False
) -> Summed:
    """Mean squared error over rows and dimensions: loss_act.

    `gripper_is_logit`: the last dimension counts by binary cross entropy instead (the paper's), against a share of
    0..1; what a sensor says beyond counts as that end. Rows of `is_pad_BK` do not count; the release has them count.
    """
    predicted, actions = predicted_BKA.float(), actions_BKA.float()
    errors = (predicted - actions).square()
    if gripper_is_logit:
        share = actions[..., -1].clamp(0.0, 1.0)  # beyond, the loss would have no floor
        gripper = F.binary_cross_entropy_with_logits(predicted[..., -1], share, reduction="none")
        errors = torch.cat([errors[..., :-1], gripper[..., None]], -1)
    counted = torch.ones_like(errors) if is_pad_BK is None else (~is_pad_BK)[..., None].expand_as(errors).float()
    return Summed((errors * counted).sum(), counted.sum())


def _cross_entropy(logits_BLV: Tensor, labels_BL: Tensor) -> Summed:
    total = F.cross_entropy(
        logits_BLV.flatten(0, 1).float(), labels_BL.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return Summed(total, (labels_BL != IGNORED).sum().float())
