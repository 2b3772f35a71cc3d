"""How a training goes: curves in a file, a bar on the terminal, frames a second, and how much of the machine's peak."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vla_ros.viewing.progress import Progress

#: Called with a name of what is going on, how much is done, of how much, and a note about it.
Tell = Callable[[str, int, int, str], None]


class Curves:
    """Numbers by step, a json object a line, in a file that is open until the end of its `with`.

    What is beyond `first` is dropped, as a resumed run makes it again.
    """

    def __init__(self, path: Path, first: int) -> None:
        self.path = path
        kept = [line for line in read_curves(path) if line["step"] <= first]
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        temporary.replace(path)
        self._file: TextIO = path.open("a", encoding="utf-8")

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Write the numbers of a step."""
        rounded = {name: float(f"{value:.6g}") for name, value in values.items() if math.isfinite(value)}
        self._file.write(json.dumps({"step": step, **rounded}) + "\n")
        self._file.flush()

    def __enter__(self) -> Curves:
        return self

    def __exit__(self, *raised: object) -> None:
        self._file.close()


def read_curves(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of curves, oldest first; none where there is no file; without a last one that was cut."""
    if not path.is_file():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines


@dataclass(frozen=True)
class Speed:
    """Over some steps."""

    frames_per_s: float
    model_flops_per_s: float
    of_peak: float  # model FLOP utilisation


class Meter:
    """Counts frames and the time they take."""

    def __init__(self, flops_per_frame: float, peak_flops_per_s: float, clock: Callable[[], float] = time.perf_counter):
        self._per_frame, self._peak, self._clock = flops_per_frame, peak_flops_per_s, clock
        self._since, self._frames = clock(), 0

    def add(self, frames: int) -> None:
        """So many more are done, by all processes."""
        self._frames += frames

    def restart(self) -> None:
        """Count from now on."""
        self._since, self._frames = self._clock(), 0

    def take(self) -> Speed:
        """Speed since the beginning, or the last time; counts from now on."""
        rate = self._frames / max(self._clock() - self._since, 1e-9)
        self.restart()
        flops = rate * self._per_frame
        return Speed(rate, flops, flops / self._peak)


def matmul_peak(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """FLOP/s of large matrix products here during `seconds`: what a training could reach at most.

    Their mean and not the best: processes that share cores measure at the same time, and what each gets adds up to
    what the machine has, however they take turns.
    """
    side = 8192 if device.type == "cuda" else 1024
    left = torch.randn(side, side, device=device).to(dtype)
    left @ left  # the first one prepares
    _finish(device)
    begin = time.perf_counter()
    runs = 0
    while runs < 3 or time.perf_counter() - begin < seconds:
        left @ left
        _finish(device)
        runs += 1
    return 2.0 * side**3 * runs / (time.perf_counter() - begin)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def training_flops(module: nn.Module, run: Callable[[nn.Module], object]) -> float:
    """FLOPs of a training step by the usual count: three times those of the forward pass, which `run` does."""
    ours = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}  # torch knows those of GPUs
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=ours) as counter:
        run(module)
    return 3.0 * float(counter.get_total_flops())


def _attention_flops(query: torch.Size, key: torch.Size, value: torch.Size, *rest: Any, **named: Any) -> int:
    """Of attention of these shapes (B, H, L, D): the scores, and the sums of values by them."""
    heads = query[0] * query[1]
    return 2 * heads * query[2] * key[2] * (query[3] + value[3])


def best_precision(device: torch.device, wanted: str) -> torch.dtype:
    """The type that products are computed in; auto: bfloat16 where the machine is made for it."""
    if wanted != "auto":
        return torch.bfloat16 if wanted == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if _has_bfloat16_tiles() else torch.float32


def _has_bfloat16_tiles() -> bool:
    """Whether the CPU multiplies matrices of bfloat16 in hardware: steps take half the time then."""
    told = Path("/proc/cpuinfo")
    return told.is_file() and "amx_bf16" in told.read_text(encoding="utf-8").split()


@contextmanager
def shown(is_wanted: bool = True) -> Iterator[Tell]:
    """Bars on the terminal or lines elsewhere, see `Progress`; nothing unless it is wanted."""
    if not is_wanted:
        yield lambda what, done, total, note: None
    else:
        with Progress() as progress:
            yield progress
