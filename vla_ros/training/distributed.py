"""One process or many: who this one is among them, sums over all, and a module that trains in step with the others.

`torchrun` starts the processes and says in the environment who they are; without it there is one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from vla_ros.training.batches import Share

#: The first process trains tokenizers while the others wait.
_PATIENCE = timedelta(hours=12)

Parallel = Literal["ddp", "fsdp"]


@dataclass(frozen=True)
class Processes:
    """All processes of a training, and which of them this is."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def leads(self) -> bool:
        """Whether this one writes files and talks."""
        return self.rank == 0

    @property
    def share(self) -> Share:
        """Its part of every batch."""
        return Share(self.rank, self.world)

    def sum(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Numbers, each summed over all processes; float64 on the CPU."""
        summed = torch.stack([value.detach().to(self.device, torch.float64).reshape(()) for value in values])
        if self.world > 1:
            dist.all_reduce(summed)
        return list(summed.cpu())

    def wait(self) -> None:
        """Return when all have called it."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def joined(device: str = "auto") -> Iterator[Processes]:
    """Be one of the processes that torchrun started, or the only one; raises ValueError for a device that is not there.

    `device` auto: a GPU where there is one (each process on the machine its own), otherwise the CPU.
    """
    world, rank, local = (int(os.environ.get(name, given)) for name, given in
                          (("WORLD_SIZE", 1), ("RANK", 0), ("LOCAL_RANK", 0)))  # fmt: skip
    chosen = _device(device, local)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if world == 1:
        yield Processes(device=chosen)
        return
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Processes(rank, world, chosen)
    finally:
        dist.destroy_process_group()


def _device(name: str, local: int) -> torch.device:
    if name == "auto":
        return torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device {name}: there is no such kind; auto, cpu, cuda or cuda:1 would do") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name}: this machine has {torch.cuda.device_count()} GPUs that torch can use")
    return torch.device("cuda", local) if device.type == "cuda" and device.index is None else device


class InBlocks(Protocol):
    """A module whose greatest part is a row of blocks, which are sharded one by one."""

    @property
    def blocks(self) -> nn.ModuleList:
        """Them."""


def sharded(module: nn.Module, processes: Processes, parallel: Parallel) -> nn.Module:
    """The module as it is called in training; with `fsdp` its parameters are divided among the processes, in place.

    Gradients are means over the processes either way. Make optimisers from the module's parameters after this.
    """
    if processes.world == 1:
        return module
    if parallel == "ddp":
        devices = [processes.device] if processes.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(module, device_ids=devices)
    mesh = init_device_mesh(processes.device.type, (processes.world,))
    for block in cast("InBlocks", module).blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh, reshard_after_forward=True)  # or a look without a backward pass would leave it whole
    return module


def without_sync(module: nn.Module, waits: bool) -> AbstractContextManager[None]:
    """Within it gradients stay this process's own if it `waits`; the last part of a batch does not."""
    if isinstance(module, nn.parallel.DistributedDataParallel):
        return module.no_sync() if waits else nullcontext()
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(not waits)
    return nullcontext()


def whole(tensor: Tensor) -> Tensor:
    """A tensor on the CPU, put together from all processes, each of which has to ask."""
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu()


@torch.no_grad()
def fill(tensor: Tensor, value: Tensor) -> None:
    """Put a whole value into a tensor, or this process's part of it."""
    if isinstance(tensor, DTensor):
        tensor.copy_(distribute_tensor(value.to(tensor.device), tensor.device_mesh, tensor.placements))
    else:
        tensor.copy_(value)
