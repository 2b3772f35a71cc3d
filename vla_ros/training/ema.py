"""A moving average of weights, which acts and predicts better than the weights of any one step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """float32 averages of the trained parameters; early on of fewer steps, so that the start weights fade."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self._parameters = {name: one for name, one in module.named_parameters() if one.requires_grad}
        self.averages = {name: one.detach().float().clone() for name, one in self._parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after update `step`, 0 and on: decay is (1 + step) / (10 + step) at most."""
        decay = min(self.decay, (1 + step) / (10 + step))
        now: list[Tensor] = [one.detach().float() for one in self._parameters.values()]
        torch._foreach_lerp_(list(self.averages.values()), now, 1.0 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The module has the averages as its weights within this context, and its own again after it."""
        own = {name: one.detach().clone() for name, one in self._parameters.items()}
        self._put(self.averages)
        try:
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])
