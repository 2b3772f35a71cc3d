"""MAGVIT-v2 equals the official one, whose numbers lie in `golden.FOLDER`; with a wrong weight it does not."""

from __future__ import annotations

import os
from collections.abc import Mapping

import pytest
import torch
from golden import Case, Result, cases, mutated
from torch import Tensor

from vla_ros.checkpoints.loading import blank
from vla_ros.tokenizers.magvit2 import Magvit2, Magvit2Config

FULL = os.environ.get("VLA_ROS_FULL") == "1"

CASES = cases("magvit2")


def config_of(case: Case) -> Magvit2Config:
    sizes = case.sizes
    return Magvit2Config(
        channels=sizes["ch"],
        multipliers=tuple(sizes["ch_mult"]),
        encoder_blocks=tuple(sizes["encoder_blocks"]),
        decoder_blocks=tuple(sizes["decoder_blocks_up0_to_up4"]),
        code_bits=sizes["z_channels"],
    )


def results(case: Case, model: Magvit2, grid: tuple[int, int]) -> dict[str, Result]:
    """Every output of a case; the stored codes are decoded, so that a code on the edge spoils nothing else."""
    image = case.given("image")
    with torch.inference_mode():
        latent = model.latent(image)
        return {
            "latent": latent,
            "codes": model.encode(image),
            "code_margin": latent.abs().amin(1).flatten(1),
            "decoded": model.decode(case.given_output("codes"), grid),
            "decoded_random": model.decode(case.given("random_codes"), grid),
        }


@pytest.fixture(scope="module", params=CASES, ids=str)
def network(request: pytest.FixtureRequest) -> tuple[Case, Magvit2, dict[str, Tensor]]:
    """A case, a model of its sizes, and the official weights."""
    case: Case = request.param
    model = blank(Magvit2, config_of(case))
    tables = Magvit2(config_of(case).model_copy(update={"channels": 32})).quantize  # what no rule fills
    return case, model, case.weights() | {f"quantize.{name}": buffer for name, buffer in tables.named_buffers()}


def load(model: Magvit2, official: Mapping[str, Tensor]) -> None:
    model.load_state_dict(official, assign=True)


def test_a_case_is_met_in_every_output(network: tuple[Case, Magvit2, dict[str, Tensor]]) -> None:
    case, model, official = network
    load(model, official)
    height, width = case.sizes["code_grid"]
    found = results(case, model, (height, width))
    assert set(found) == case.outputs
    assert case.differing(found) == []


def test_wrong_weights_are_noticed(network: tuple[Case, Magvit2, dict[str, Tensor]]) -> None:
    case, model, official = network
    height, width = case.sizes["code_grid"]
    for mutation in case.mutations()[:: 1 if FULL else 9]:
        load(model, mutated(official, mutation))
        assert case.differing(results(case, model, (height, width))), mutation
