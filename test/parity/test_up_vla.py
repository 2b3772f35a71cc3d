"""UP-VLA equals the official modules, whose numbers lie in `golden.FOLDER`; with a wrong weight it does not."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import Case, Result, cases, mutated
from torch import Tensor

from vla_ros.checkpoints.loading import blank, fill
from vla_ros.checkpoints.up_vla import parts_of_ours
from vla_ros.models.up_vla import (
    SIZES,
    Sequence,
    UpVla,
    UpVlaConfig,
    Vocabulary,
    action_sequence,
    future_labels,
    understanding_sequence,
)
from vla_ros.training.objectives import action_loss, prediction_loss

FULL = os.environ.get("VLA_ROS_FULL") == "1"
LAYOUTS = cases("upvla_layout")
NETWORKS = cases("upvla", "upvla_layout")


def config_of(case: Case) -> UpVlaConfig:
    """The released model in the sizes of a case; a layout has no width, and its own stays."""
    sizes, release = case.sizes, SIZES["up-vla-release"]
    names = {
        "layers": "layers",
        "hidden": "width",
        "heads": "heads",
        "intermediate": "mlp_width",
        "partial_rotary_factor": "rotary_fraction",
        "rope_theta": "rotary_base",
        "layer_norm_eps": "norm_epsilon",
        "max_text_len": "max_text",
        "num_vq_tokens": "image_codes",
        "act_step": "action_rows",
        "action_dim": "action_dims",
        "map_heads": "head_heads",
        "map_mlp_inner": "head_mlp_width",
    }
    given = {ours: sizes[theirs] for theirs, ours in names.items() if theirs in sizes}
    vocabulary = Vocabulary(text_size=sizes["text_vocab"], end_of_text=sizes["endoftext"], codes=sizes["codebook"])
    return UpVlaConfig.model_validate({**release.model_dump(), **given, "vocabulary": vocabulary})


def padded_length(config: UpVlaConfig) -> int:
    """As the release trains: the longest text, its task, the image between its ends, the action queries."""
    return config.max_text + 1 + config.all_codes + 2 + config.action_rows


def packed(sequence: Sequence) -> Result:
    return np.packbits(sequence.attended_BLL.numpy())


def results(case: Case, model: UpVla) -> dict[str, Result]:
    """Every output of a case."""
    config = model.config
    sequence = action_sequence(config, case.texts(), case.given("image_codes"), pad_to=padded_length(config))
    labels_BL = future_labels(config, sequence, case.given("future_codes"))
    assert sequence.image is not None
    with torch.inference_mode():
        hidden_BLW = model(sequence)
        actions_BKA, logits_BNC = model.act(hidden_BLW, sequence), model.imagine(hidden_BLW, sequence)
        whole_BLV = model.text_logits(hidden_BLW)
        best_BN2 = logits_BNC.topk(2).values
        predicted = prediction_loss(whole_BLV[:, sequence.image], labels_BL[:, sequence.image])
        acted = action_loss(actions_BKA, case.given("target_actions"))
        alone = [without_pads(case, model, sample) for sample in range(len(case.texts()))]
        return {
            "input_ids": sequence.ids_BL,
            "labels": labels_BL,
            "mask_packed": packed(sequence),
            "actions": actions_BKA,
            "future_tokens": logits_BNC.argmax(-1),
            "future_margin": best_BN2[..., 0] - best_BN2[..., 1],
            "logits_pos": case.expected("logits_pos"),  # where the logits were taken, no result
            "logits": whole_BLV[:, case.given_output("logits_pos")],
            "loss_pre": predicted.mean,
            "loss_act": acted.mean,
            "nopad_actions": torch.cat([actions for actions, _ in alone]),
            "nopad_future_tokens": torch.cat([tokens for _, tokens in alone]),
            "head_actions": model.action_head(case.given("head_in")),
            "mm_out": model.project(case.given("mm_in")),
        }


def without_pads(case: Case, model: UpVla, sample: int) -> tuple[Tensor, Tensor]:
    """Actions (1, K, A) and codes (1, N) of one sample alone, as a policy runs it."""
    sequence = action_sequence(model.config, [case.texts()[sample]], case.given("image_codes")[sample : sample + 1])
    assert not (sequence.ids_BL == model.config.vocabulary.pad).any()
    hidden_BLW = model(sequence)
    return model.act(hidden_BLW, sequence), model.imagine(hidden_BLW, sequence).argmax(-1)


def quick_results(case: Case, model: UpVla) -> dict[str, Result]:
    """What shows any wrong weight soonest: the head and the projector alone, the first sample without pads."""
    with torch.inference_mode():
        actions, tokens = without_pads(case, model, 0)
        found = {
            "nopad_actions": torch.cat([actions, case.given_output("nopad_actions")[1:]]),
            "nopad_future_tokens": torch.cat([tokens, case.given_output("nopad_future_tokens")[1:]]),
            "head_actions": model.action_head(case.given("head_in")),
            "mm_out": model.project(case.given("mm_in")),
        }
    return {name: result for name, result in found.items() if name in case.outputs}


def load(model: UpVla, official: Mapping[str, Tensor]) -> None:
    fill(Path("official"), model, parts_of_ours(official), torch.float32, "cpu")


@pytest.fixture(scope="module", params=NETWORKS, ids=str)
def network(request: pytest.FixtureRequest) -> tuple[Case, UpVla, dict[str, Tensor]]:
    """A case, a model of its sizes without weights, and the official weights."""
    case: Case = request.param
    return case, blank(UpVla, config_of(case)), case.weights()


def test_a_case_is_met_in_every_output(network: tuple[Case, UpVla, dict[str, Tensor]]) -> None:
    case, model, official = network
    assert config_of(case).vocabulary.size == case.sizes["ids"]["vocab"]
    load(model, official)
    found = results(case, model)
    assert set(found) == case.outputs
    assert case.differing(found) == []


def test_a_permuted_weight_is_noticed(network: tuple[Case, UpVla, dict[str, Tensor]]) -> None:
    case, model, official = network
    key = f"showo.model.layers.{model.config.layers - 1}.self_attn.v_proj.weight"
    order = torch.randperm(len(official[key]), generator=torch.Generator().manual_seed(0))
    load(model, {**official, key: official[key][order]})
    assert case.differing(quick_results(case, model))
    load(model, official)
    assert not case.differing(quick_results(case, model))


def test_wrong_weights_are_noticed(network: tuple[Case, UpVla, dict[str, Tensor]]) -> None:
    case, model, official = network
    for mutation in case.mutations()[:: 1 if FULL else 5]:
        load(model, mutated(official, mutation))
        assert case.differing(quick_results(case, model)), mutation


@pytest.mark.parametrize("case", LAYOUTS, ids=str)
def test_ids_labels_and_masks_are_the_released_ones(case: Case) -> None:
    config, sizes = config_of(case), case.sizes
    assert {name: getattr(config.vocabulary, ours) for name, ours in OURS.items()} == {n: sizes["ids"][n] for n in OURS}
    sequence = action_sequence(config, case.texts(), case.given("image_codes"), pad_to=padded_length(config))
    both = config.model_copy(update={"views": 2})
    views = action_sequence(both, case.texts()[:1], case.given("two_view_codes"), pad_to=padded_length(both))
    system = [0] * sizes["mmu_system_prompt_len"]
    rest = sizes["mmu_len"] - (1 + len(system) + 1 + config.features + 1)
    talk, _ = understanding_sequence(config, [[0] * rest], system=system)
    found = {
        "input_ids": sequence.ids_BL,
        "labels": future_labels(config, sequence, case.given("future_codes")),
        "mask_packed": packed(sequence),
        "mask_row_sums": sequence.attended_BLL.sum(-1),
        "two_view_ids": views.ids_BL,
        "two_view_mask_packed": packed(views),
        "mmu_mask_packed": packed(talk),
    }
    assert set(found) == case.outputs
    assert case.differing(found) == []


OURS = {
    "pad": "pad",
    "soi": "begin_image",
    "eoi": "end_image",
    "sov": "begin_video",
    "eov": "end_video",
    "t2i": "text_to_image",
    "mmu": "understand",
    "t2v": "state",
    "v2v": "feature",
    "lvg": "action",
    "bos": "end_of_text",
    "eos": "end_of_text",
    "code0": "first_code",
    "mask_token": "mask",
    "vocab": "size",
}
