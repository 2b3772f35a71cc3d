"""How the small vision encoder learns to see: a light head reads measures from its features, and is thrown away.

Five times as many images go through it in a second as through the whole model, which would otherwise have to learn
what is where in them and what to do about it at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from vla_ros.tokenizers.vision import SmallVision
from vla_ros.training.batches import prefetched
from vla_ros.training.measures import MeasuredBatches
from vla_ros.training.objectives import Objective

MEASURE = "measure"
_LAYERS, _HEADS = 2, 4
_KNEE = 0.5  # in standard deviations: what is nearer counts by its square, what is farther by its distance


@dataclass(frozen=True, eq=False)
class Sights:
    """Images (B, V, S, S, 3) uint8 with their measures (B, M)."""

    images_BVHW3: Tensor
    values_BM: Tensor

    @property
    def frames(self) -> int:
        """How many samples it has."""
        return len(self.values_BM)


class SeeingObjective(Objective[Sights]):
    """The encoder, and a query for each thing that is measured (what stands before the last dot of a name)."""

    def __init__(self, vision: SmallVision, names: tuple[str, ...]) -> None:
        super().__init__()
        self.weights = {MEASURE: 1.0}
        self.vision = vision
        width = vision.width
        things = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
        self._thing_of = [things.index(name.rpartition(".")[0]) for name in names]
        self.queries = nn.Parameter(torch.randn(len(things), width) * 0.02)
        self.blocks = nn.ModuleList(
            nn.TransformerDecoderLayer(
                width, _HEADS, 4 * width, dropout=0.0, activation=functional.gelu, batch_first=True, norm_first=True
            )
            for _ in range(_LAYERS)
        )
        self.norm = nn.LayerNorm(width)
        self.readings = nn.Parameter(torch.randn(len(names), width) * width**-0.5)
        self.offsets = nn.Parameter(torch.zeros(len(names)))

    def counts(self, part: Sights) -> dict[str, Tensor]:
        """As many as there are measures."""
        return {MEASURE: torch.tensor(float(part.values_BM.numel()))}

    def forward(self, part: Sights) -> dict[str, Tensor]:
        """The sum of what the readings are off by."""
        features_BSF = self.vision(part.images_BVHW3)
        x_BTF = self.queries + features_BSF.new_zeros(len(features_BSF), 1, 1)
        for block in self.blocks:
            x_BTF = block(x_BTF, features_BSF)
        of_measures_BMF = self.norm(x_BTF)[:, self._thing_of]
        read_BM = (of_measures_BMF * self.readings).sum(-1) + self.offsets
        return {MEASURE: functional.smooth_l1_loss(read_BM.float(), part.values_BM, reduction="sum", beta=_KNEE)}


def sights(
    batches: MeasuredBatches, device: torch.device, steps: range, pieces: int = 1
) -> Iterator[tuple[int, list[Sights]]]:
    """(step, its parts) for each of the steps, in `pieces` parts each; a thread loads ahead."""
    for step, batch in prefetched(batches, steps.start, steps.stop):
        images, values = (one.to(device).chunk(pieces) for one in (batch.images, batch.values))
        yield step, [Sights(*both) for both in zip(images, values, strict=True)]
