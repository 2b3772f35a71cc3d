"""Losses beside closed forms; parts of a batch add up to the whole."""

from __future__ import annotations

import math

import pytest
import torch

from vla_ros.models.up_vla import IGNORED
from vla_ros.training.objectives import action_loss, prediction_loss, understanding_loss


def sure_of(labels: torch.Tensor, size: int, logit: float) -> torch.Tensor:
    return torch.nn.functional.one_hot(labels.clamp(min=0), size).float() * logit


def test_a_frame_is_predicted_at_its_own_places() -> None:
    labels = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
    loss = prediction_loss(sure_of(labels, 10, 5.0), labels)
    assert float(loss.mean) == pytest.approx(math.log(9 + math.exp(5)) - 5)
    assert float(loss.count) == 8
    assert float(prediction_loss(sure_of(labels, 10, 5.0).roll(1, 1), labels).mean) > 4


def test_an_answer_is_predicted_one_place_ahead() -> None:
    labels = torch.tensor([[IGNORED, IGNORED, 7, 2, 0, IGNORED]])
    ahead = sure_of(labels, 10, 5.0).roll(-1, 1)
    loss = understanding_loss(ahead, labels)
    assert float(loss.count) == 3
    assert float(loss.mean) == pytest.approx(math.log(9 + math.exp(5)) - 5)
    assert float(understanding_loss(sure_of(labels, 10, 5.0), labels).mean) > 4


def test_every_row_of_actions_counts_as_in_the_release() -> None:
    actions = torch.randn(3, 10, 7)
    predicted = actions + torch.tensor([0.1] * 6 + [0.3])
    loss = action_loss(predicted, actions)
    assert float(loss.mean) == pytest.approx((6 * 0.01 + 0.09) / 7, rel=1e-5)


def test_the_gripper_is_a_probability_and_padding_does_not_count() -> None:
    actions = torch.zeros(1, 4, 3)
    actions[..., -1] = torch.tensor([0.0, 1.0, 1.0, 0.0])
    predicted = torch.full((1, 4, 3), 0.5)
    is_pad = torch.tensor([[False, False, True, True]])
    predicted[is_pad] = 100.0
    loss = action_loss(predicted, actions, is_pad, gripper_is_logit=True)
    closed, opened = math.log1p(math.exp(0.5)), math.log1p(math.exp(-0.5))
    assert float(loss.count) == 6
    assert float(loss.total) == pytest.approx(4 * 0.25 + closed + opened, rel=1e-5)


def test_a_gripper_beyond_its_ends_is_at_its_end() -> None:
    predicted = torch.full((1, 1, 1), -3.0)
    at_end = action_loss(predicted, torch.zeros(1, 1, 1), gripper_is_logit=True)
    beyond = action_loss(predicted, torch.full((1, 1, 1), -0.2), gripper_is_logit=True)
    assert float(beyond.total) == float(at_end.total) > 0.0


def test_nothing_to_count_is_no_loss() -> None:
    assert float(prediction_loss(torch.randn(1, 2, 5), torch.full((1, 2), IGNORED)).mean) == 0.0
