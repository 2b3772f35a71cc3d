"""The learning rate of every step, what decays, and averages of weights, beside closed forms."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from vla_ros.training.config import OptimizerConfig
from vla_ros.training.ema import MovingAverage
from vla_ros.training.optimizer import learning_rate, make_optimizer


def test_the_rate_rises_in_a_line_and_falls_in_a_cosine() -> None:
    config = OptimizerConfig(learning_rate=2.0, warmup_steps=10, final_fraction=0.1)
    rates = [learning_rate(config, step, 110) for step in range(111)]
    assert rates[:11] == pytest.approx([0.2 * step for step in range(11)])
    assert rates[60] == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))
    assert rates[110] == pytest.approx(0.2)
    assert all(later < rate for rate, later in pairwise(rates[10:]))


@given(st.integers(0, 50), st.integers(1, 200), st.integers(0, 300))
def test_the_rate_is_never_above_the_highest_nor_negative(warmup: int, steps: int, step: int) -> None:
    rate = learning_rate(OptimizerConfig(learning_rate=1.0, warmup_steps=warmup), step, steps)
    assert 0.0 <= rate <= 1.0


@pytest.mark.parametrize(("decays", "decayed"), [("all", {"weight", "bias"}), ("matrices", {"weight"})])
def test_what_decays(decays: str, decayed: set[str]) -> None:
    layer = nn.Linear(3, 3)
    nn.init.ones_(layer.bias)
    before = {name: one.detach().clone() for name, one in layer.named_parameters()}
    optimizer = make_optimizer(layer, OptimizerConfig(learning_rate=0.5, weight_decay=0.1, decays=decays))
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in layer.named_parameters():
        factor = 0.95 if name in decayed else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor)


def test_what_is_frozen_is_not_optimised() -> None:
    layer = nn.Linear(3, 3).requires_grad_(False)
    with pytest.raises(ValueError, match="frozen"):
        make_optimizer(layer, OptimizerConfig())


def test_the_average_is_that_of_the_steps_and_gives_the_weights_back() -> None:
    layer = nn.Linear(1, 1, bias=False)
    average = MovingAverage(layer, decay=0.9)
    expected = layer.weight.item()
    for step in range(30):
        with torch.no_grad():
            layer.weight.fill_(float(step))
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
        average.update(step)
    with average.in_place():
        assert layer.weight.item() == pytest.approx(expected, rel=1e-5)
    assert layer.weight.item() == 29.0
