"""AdamW, and the learning rate of every step: a linear warm-up, then a cosine."""

from __future__ import annotations

import math

import torch
from torch import nn

from vla_ros.training.config import OptimizerConfig


def make_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over the parameters that are trained; those of fewer than two dimensions decay with `decays` = all only."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError("nothing is to be trained: every parameter is frozen")
    decays_all = config.decays == "all"
    groups = [
        {"params": [one for one in trained if decays_all or one.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [one for one in trained if not decays_all and one.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.epsilon,
    )


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Of update `step`, 0 and on, of `steps`: 0 to full over the warm-up, then half a cosine to `final_fraction`."""
    if step < config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    done = min(1.0, (step - config.warmup_steps) / max(1, steps - config.warmup_steps))
    falling = 0.5 * (1.0 + math.cos(math.pi * done))
    return config.learning_rate * (config.final_fraction + (1.0 - config.final_fraction) * falling)
