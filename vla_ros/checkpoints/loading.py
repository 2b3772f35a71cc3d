"""Networks given their weights: strictly, one tensor after the other, on the device and in the type asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vla_ros.checkpoints.comparison import Shapes, compare, shapes_of
from vla_ros.checkpoints.files import CheckpointError, read_tensors

Network = TypeVar("Network", bound=nn.Module)
Sizes = TypeVar("Sizes")


def blank(network: Callable[[Sizes], Network], config: Sizes) -> Network:
    """A network on `meta`: shapes without weights, at once whatever its size."""
    with torch.device("meta"), _NothingDrawn():
        return network(config)


def load_network(file: Path, network: Network, dtype: torch.dtype, device: torch.device | str) -> Network:
    """Give a `blank` network the weights in a file, by its own names; in eval mode.

    Raises CheckpointError with what is missing, too much or of another shape, in groups.
    """
    tensors = read_tensors(file)
    require(file, shapes_of(network.state_dict()), tensors, type(network).__name__)
    return fill(file, network, {name: (tensor,) for name, tensor in tensors.items()}, dtype, device)


def require(file: Path, expected: Shapes, tensors: Mapping[str, Tensor], network: str) -> None:
    """Raise CheckpointError where the tensors of `file` are not exactly the ones `expected`."""
    if difference := compare(expected, shapes_of(tensors)):
        raise CheckpointError(
            "\n  ".join([f"{file} does not hold the weights of this {network}:", *difference.lines()])
        )


def fill(
    file: Path,
    network: Network,
    parts: Mapping[str, Sequence[Tensor]],
    dtype: torch.dtype,
    device: torch.device | str,
) -> Network:
    """Give a `blank` network its weights, each of one part or of several below each other.

    Floating point becomes `dtype`. Raises CheckpointError for values that are no finite numbers.
    """
    state = {}
    for name, each in parts.items():
        moved = [part.to(device, dtype if part.is_floating_point() else part.dtype, copy=True) for part in each]
        state[name] = torch.cat(moved) if len(moved) > 1 else moved[0]
        if not torch.isfinite(state[name]).all():
            raise CheckpointError(f"{file} holds values that are no finite numbers, in {name}")
    network.load_state_dict(state, assign=True)
    return network.eval()


class _NothingDrawn(TorchFunctionMode):
    """Start weights are not drawn: `meta` has nothing to fill, and torch would import half a compiler to find out."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)
