"""Functions as CUDA graphs: the same numbers as called, for every shape; on a CPU they are called."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from vla_ros.policies.replaying import Replayed


def scaled(x: torch.Tensor, y: torch.Tensor, *, by: float) -> tuple[torch.Tensor, torch.Tensor]:
    return by * x @ y, x.sum(0)


def on_gpu(number: int) -> object:
    missing = torch.cuda.device_count() <= number
    return pytest.param(f"cuda:{number}", marks=pytest.mark.skipif(missing, reason=f"no GPU {number}"))


DEVICES = ["cpu", on_gpu(0), on_gpu(1)]


@pytest.mark.parametrize("device", DEVICES)
def test_every_shape_gives_what_the_function_gives_and_results_are_kept(device: str) -> None:
    replayed = Replayed(scaled, torch.device(device))
    kept = []
    for seed in range(6):
        torch.manual_seed(seed)
        rows = 3 + seed % 2
        x, y = torch.randn(rows, 4, device=device), torch.randn(4, 5, device=device)
        kept.append((replayed(x, y, by=2.0), scaled(x, y, by=2.0)))
    for given, expected in kept:
        for tensor, wanted in zip(given, expected, strict=True):
            torch.testing.assert_close(tensor, wanted)
