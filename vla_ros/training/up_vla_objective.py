"""UP-VLA as it is trained: the next frame, the chunk of actions and answers about images, all by one module.

Shapes: B batch, L sequence, V cameras (or vocabulary, for logits), N image codes, K action rows, A action dimensions,
P proprioception.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vla_ros.models.up_vla import IGNORED, Sequence, UpVla
from vla_ros.tokenizers.vision import VisionEncoder
from vla_ros.training.objectives import Objective, action_loss, prediction_loss, understanding_loss

PREDICT, ACT, UNDERSTAND = "predict", "act", "understand"


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows ready for the model. `labels_BL` are those of the image's positions only; `images` None: no features."""

    sequence: Sequence
    images_BVHW3: Tensor | None
    state_BP: Tensor | None
    labels_BL: Tensor
    actions_BKA: Tensor
    is_pad_BK: Tensor | None


@dataclass(frozen=True, eq=False)
class Talks:
    """Conversations ready for the model."""

    sequence: Sequence
    images_BVHW3: Tensor
    labels_BL: Tensor


@dataclass(frozen=True, eq=False)
class Part:
    """What is run at once: windows, conversations, or both."""

    windows: Windows | None = None
    talks: Talks | None = None

    @property
    def frames(self) -> int:
        """How many windows and conversations it has."""
        return sum(len(one.sequence.ids_BL) for one in (self.windows, self.talks) if one is not None)


class UpVlaObjective(Objective[Part]):
    """The model with its vision encoder, as one module whose forward gives the sums of the losses that have a weight.

    What no weighted loss reaches is frozen, and the vision encoder unless `vision_learns`. With conditioning `paper`
    the last value of an action, where there is a gripper (`has_gripper`), is learnt as a probability.
    """

    def __init__(
        self,
        model: UpVla,
        vision: VisionEncoder | None,
        weights: Mapping[str, float],
        has_gripper: bool = True,
        vision_learns: bool = True,
    ) -> None:
        super().__init__()
        self.model = model
        self._gripper_is_logit = has_gripper and model.config.conditioning == "paper"
        self.vision = vision if isinstance(vision, nn.Module) else None
        self.weights = {name: weight for name, weight in weights.items() if weight}
        sees = model.config.conditioning == "paper" or UNDERSTAND in self.weights
        model.requires_grad_(True)
        if ACT not in self.weights:
            model.action_head.requires_grad_(False)
        if PREDICT not in self.weights and UNDERSTAND not in self.weights:
            model.lm_head.requires_grad_(False)
        if not sees:
            model.projector.requires_grad_(False)
        if self.vision is not None and not (sees and vision_learns):
            self.vision.requires_grad_(False)

    @property
    def blocks(self) -> nn.ModuleList:
        """What is sharded piece by piece."""
        return self.model.blocks

    def counts(self, part: Part) -> dict[str, Tensor]:
        """What each loss counts in a part, known before it is run: 0 where it has none."""
        counts = dict.fromkeys(self.weights, torch.zeros(()))
        if part.windows is not None:
            labels, actions, is_pad = part.windows.labels_BL, part.windows.actions_BKA, part.windows.is_pad_BK
            if PREDICT in counts:
                counts[PREDICT] = (labels != IGNORED).sum().float().cpu()
            if ACT in counts:
                rows = actions[..., 0].numel() if is_pad is None else int((~is_pad).sum())
                counts[ACT] = torch.tensor(float(rows * actions.shape[-1]))
        if part.talks is not None and UNDERSTAND in counts:
            counts[UNDERSTAND] = (part.talks.labels_BL[:, 1:] != IGNORED).sum().float().cpu()
        return counts

    def forward(self, part: Part) -> dict[str, Tensor]:
        """The sum of each loss over a part."""
        totals: dict[str, Tensor] = {}
        if part.windows is not None:
            totals |= self._act(part.windows)
        if part.talks is not None and UNDERSTAND in self.weights:
            talks = part.talks
            hidden_BLW = self.model(talks.sequence, self._features(talks.images_BVHW3))
            answered = _positions_before(talks.labels_BL)
            logits_BLV = self.model.text_logits(hidden_BLW[:, answered])
            totals[UNDERSTAND] = understanding_loss(logits_BLV, talks.labels_BL[:, answered]).total
        return totals

    def _act(self, windows: Windows) -> dict[str, Tensor]:
        """Losses of windows."""
        sequence = windows.sequence
        features_BSF = None if windows.images_BVHW3 is None else self._features(windows.images_BVHW3)
        hidden_BLW = self.model(sequence, features_BSF, windows.state_BP)
        totals: dict[str, Tensor] = {}
        if PREDICT in self.weights:
            logits_BLV = self.model.text_logits(hidden_BLW[:, sequence.image])
            totals[PREDICT] = prediction_loss(logits_BLV, windows.labels_BL).total
        if ACT in self.weights:
            predicted_BKA = self.model.act(hidden_BLW, sequence)
            actions_BKA, is_pad_BK = windows.actions_BKA, windows.is_pad_BK
            totals[ACT] = action_loss(predicted_BKA, actions_BKA, is_pad_BK, self._gripper_is_logit).total
        return totals

    def _features(self, images_BVHW3: Tensor) -> Tensor:
        assert self.vision is not None, "conversations need a vision encoder"
        features_BSF: Tensor = self.vision.encode(images_BVHW3)
        return features_BSF


def _positions_before(labels_BL: Tensor) -> slice:
    """From the position before the first label of a batch on: what stands earlier predicts nothing that counts."""
    labelled = (labels_BL != IGNORED).any(0).nonzero()
    return slice(max(0, int(labelled[0]) - 1), labels_BL.shape[1]) if len(labelled) else slice(0, labels_BL.shape[1])
