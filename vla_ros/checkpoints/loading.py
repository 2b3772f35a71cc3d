"""Networks given their weights: strictly, one tensor after the other, on the device and in the type asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vla_ros.checkpoints.comparison import Shapes, beginnings, compare, shapes_of
from vla_ros.checkpoints.files import CheckpointError, Progress, read_tensors

#: Of weights, and int64 of the buffers beside them.
_TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64)

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
    if tensors and not any(name in expected for name in tensors):
        raise CheckpointError(
            f"{file} does not hold the weights of this {network}: it is another model's, none of its {len(tensors)} "
            f"weights has a name of this one ({beginnings(tensors)})"
        )
    if difference := compare(expected, shapes_of(tensors)):
        raise CheckpointError(
            "\n  ".join([f"{file} does not hold the weights of this {network}:", *difference.lines()])
        )


def require_finite(
    file: Path,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype | None = None,
    on_progress: Progress | None = None,
) -> None:
    """Raise CheckpointError for values of `file` that are no finite numbers, or would be none as `dtype`."""
    for done, (name, tensor) in enumerate(tensors.items(), 1):
        kept = tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor
        _require_finite(file, name, (tensor,), (kept,))
        if on_progress:
            on_progress(f"checks {file.name}", done, len(tensors))


def fill(
    file: Path,
    network: Network,
    parts: Mapping[str, Sequence[Tensor]],
    dtype: torch.dtype,
    device: torch.device | str,
) -> Network:
    """Give a `blank` network its weights, each of one part or of several below each other.

    Floating point becomes `dtype`. Raises CheckpointError for values that are no finite numbers, or none any more.
    """
    state = {}
    for name, each in parts.items():
        moved = [part.to(device, dtype if part.is_floating_point() else part.dtype, copy=True) for part in each]
        _require_finite(file, name, each, moved)
        state[name] = torch.cat(moved) if len(moved) > 1 else moved[0]
    network.load_state_dict(state, assign=True)
    return network.eval()


def _require_finite(file: Path, name: str, given: Sequence[Tensor], kept: Sequence[Tensor]) -> None:
    """Raise where a weight is of no type of ours, or as it is kept holds no finite numbers."""
    for part in given:
        if part.layout is not torch.strided or part.dtype not in _TYPES:
            wrong = str(part.dtype if part.layout is torch.strided else part.layout)
            raise CheckpointError(
                f"{file} holds weights of type {wrong.removeprefix('torch.')}, in {name}; they have to be plain "
                "tensors of floating point (a quantised model has to be unpacked first)"
            )
    if all(torch.isfinite(part).all() for part in kept):
        return
    if all(torch.isfinite(part).all() for part in given):
        kind = str(kept[0].dtype).removeprefix("torch.")
        raise CheckpointError(f"{file} holds values that are too large for {kind}, in {name}")
    raise CheckpointError(f"{file} holds values that are no finite numbers, in {name}")


class _NothingDrawn(TorchFunctionMode):
    """Start weights are not drawn: `meta` has nothing to fill, and torch would import half a compiler to find out."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)
