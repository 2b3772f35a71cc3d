"""A function of tensors as CUDA graphs: on a GPU launched as a whole, on a CPU simply called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]
Shapes = tuple[tuple[torch.Size, torch.dtype], ...]

#: Runs before a capture, in which libraries choose kernels and make room.
_WARM_UPS = 3


@dataclass(frozen=True, eq=False)
class _Captured:
    """A graph, where it reads and where it writes."""

    graph: torch.cuda.CUDAGraph
    inputs: Tensors
    outputs: Tensors


class Replayed:
    """Calls `function` of tensors, and gives its tensors; one thread at a time.

    On a GPU each set of shapes is captured when it is first seen: hundreds of small kernels are then one launch, which
    the processor's speed no longer holds up. What is named (not a tensor) must follow from the shapes.
    """

    def __init__(self, function: Callable[..., Tensors], device: torch.device) -> None:
        self._function = function
        self._device = device
        self._captured: dict[Shapes, _Captured] = {}

    def __call__(self, *inputs: Tensor, **named: Any) -> Tensors:
        """The function's outputs, which are the caller's to keep."""
        if self._device.type != "cuda":
            return self._function(*inputs, **named)
        with torch.cuda.device(self._device):  # else a capture would be of the first GPU, where nothing happens
            return self._replay(inputs, named)

    def _replay(self, inputs: Tensors, named: dict[str, Any]) -> Tensors:
        shapes = tuple((tensor.shape, tensor.dtype) for tensor in inputs)
        if shapes not in self._captured:
            self._captured[shapes] = self._capture(inputs, named)
        captured = self._captured[shapes]
        for there, here in zip(captured.inputs, inputs, strict=True):
            there.copy_(here)
        captured.graph.replay()
        return tuple(output.clone() for output in captured.outputs)  # the next replay writes over its own

    def _capture(self, inputs: Tensors, named: dict[str, Any]) -> _Captured:
        held = tuple(tensor.clone() for tensor in inputs)
        aside = torch.cuda.Stream(inputs[0].device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UPS):
                self._function(*held, **named)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # The other thread, which describes and decodes, may go on meanwhile: what it does is not captured.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            outputs = self._function(*held, **named)
        return _Captured(graph, held, outputs)
