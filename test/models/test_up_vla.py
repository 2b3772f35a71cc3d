"""UP-VLA beside transformers' Phi, its sequences and rules beside their words, its cache beside doing without."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vla_ros.checkpoints.up_vla import to_released
from vla_ros.models.up_vla import (
    IGNORED,
    SIZES,
    Sequence,
    UpVla,
    UpVlaConfig,
    Vocabulary,
    action_sequence,
    future_labels,
    understanding_sequence,
)

VOCABULARY = Vocabulary(text_size=20, end_of_text=0, codes=16)
PAPER = UpVlaConfig(
    vocabulary=VOCABULARY,
    layers=3,
    width=64,
    heads=4,
    mlp_width=96,
    conditioning="paper",
    max_text=8,
    image_codes=6,
    views=2,
    action_rows=4,
    action_dims=3,
    head_heads=2,
    head_mlp_width=40,
    feature_width=10,
    features=5,
    max_description=6,
    state_dims=3,
)
RELEASED = PAPER.model_copy(update={"conditioning": "released", "state_dims": 0})
TEXTS = st.lists(st.integers(1, 19), max_size=12)


def model_of(config: UpVlaConfig, seed: int = 0) -> UpVla:
    """A model whose every weight, biases and gains too, is random."""
    torch.manual_seed(seed)
    model = UpVla(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter) if parameter.ndim < 2 else 0)
        model.embedding.weight.normal_()
        model.lm_head.weight.normal_()
    return model


def batch_of(
    config: UpVlaConfig, instructions: list[list[int]], descriptions: list[list[int]] | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Codes, and what else the model sees."""
    batch, random = len(instructions), torch.Generator().manual_seed(1)
    codes_BN = torch.randint(0, config.vocabulary.codes, (batch, config.all_codes), generator=random)
    if config.conditioning == "released":
        return codes_BN, {}
    features_BSF = torch.randn(batch, config.features, config.feature_width, generator=random)
    return codes_BN, {
        "features_BSF": features_BSF,
        "state_BP": torch.randn(batch, config.state_dims, generator=random),
    }


@pytest.mark.parametrize("config", [PAPER, RELEASED], ids=["paper", "released"])
def test_the_backbone_is_phi_with_normed_queries_and_keys(config: UpVlaConfig) -> None:
    phi = pytest.importorskip("transformers").PhiModel
    configuration = pytest.importorskip("transformers").PhiConfig(
        vocab_size=VOCABULARY.size,
        hidden_size=config.width,
        intermediate_size=config.mlp_width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        qk_layernorm=True,
        hidden_act="gelu_new",
        partial_rotary_factor=0.5,
        rope_theta=10000.0,
        layer_norm_eps=1e-5,
        attn_implementation="eager",
    )
    model, reference = model_of(config), phi(configuration).eval()
    released = to_released(model.state_dict())
    prefix = "showo.model."
    reference.load_state_dict({n.removeprefix(prefix): w for n, w in released.items() if n.startswith(prefix)})
    codes_BN, seen = batch_of(config, [[1, 2, 3], [4]], None)
    sequence = action_sequence(config, [[1, 2, 3], [4]], codes_BN)
    with torch.inference_mode():
        embedded_BLW = model._embed(sequence, seen.get("features_BSF"), seen.get("state_BP"))
        additive = torch.where(sequence.attended_BLL, 0.0, torch.finfo(torch.float32).min)[:, None]
        expected_BLW = reference(inputs_embeds=embedded_BLW, attention_mask=additive).last_hidden_state
        torch.testing.assert_close(model(sequence, **seen), expected_BLW, atol=2e-5, rtol=2e-5)


@settings(max_examples=20)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3))
def test_an_action_sequence_holds_what_its_words_say(pairs: list[tuple[list[int], list[int]]]) -> None:
    instructions, descriptions = [text for text, _ in pairs], [text for _, text in pairs]
    codes_BN, _ = batch_of(PAPER, instructions, descriptions)
    sequence = action_sequence(PAPER, instructions, codes_BN, descriptions)
    v = VOCABULARY
    for row, (instruction, description), codes in zip(sequence.ids_BL.tolist(), pairs, codes_BN.tolist(), strict=True):
        text = [0, *instruction, 0]
        text = text if len(text) <= PAPER.max_text else [*text[: PAPER.max_text - 1], 0]
        before = [v.text_to_image, *[v.feature] * 5, *description[: PAPER.max_description], *text, v.state]
        image = [v.begin_image, *(code + v.first_code for code in codes), v.end_image]
        whole = [*before, *image, *[v.action] * PAPER.action_rows]
        assert row == [v.pad] * (len(row) - len(whole)) + whole
        assert row[sequence.image] == image
        assert row[sequence.actions] == [v.action] * PAPER.action_rows
    assert not (sequence.ids_BL == v.pad).all(0).any()  # no column of pads only


def sees(sequence: Sequence, row: int, i: int, j: int) -> bool:
    """Whether position i sees position j, in as many words as it takes."""
    ids, image = sequence.ids_BL[row].tolist(), sequence.image
    if ids[i] == VOCABULARY.pad:
        return j <= i
    if ids[j] == VOCABULARY.pad:
        return False
    if image is not None and image.start <= i < image.stop:
        return True
    if ids[i] == VOCABULARY.feature and ids[j] == VOCABULARY.feature:
        return True
    return j <= i


def test_each_position_sees_what_it_should() -> None:
    instructions, descriptions = [[1, 2], [3]], [[4], []]
    sequence = action_sequence(PAPER, instructions, batch_of(PAPER, instructions, descriptions)[0], descriptions)
    length = sequence.ids_BL.shape[1]
    expected = [[[sees(sequence, b, i, j) for j in range(length)] for i in range(length)] for b in range(2)]
    assert sequence.attended_BLL.tolist() == expected


def test_a_conversation_sees_its_features_and_the_past() -> None:
    sequence, labels_BL = understanding_sequence(PAPER, [[1, 2], [3]], [[4, 0], [5, 6, 7, 0]], system=[9, 9])
    v = VOCABULARY
    head = [v.understand, 9, 9, v.begin_image, *[v.feature] * 5, v.end_image]
    assert sequence.ids_BL.tolist() == [[*head, 1, 2, 4, 0, v.pad], [*head, 3, 5, 6, 7, 0]]
    assert labels_BL.tolist() == [[IGNORED] * 12 + [4, 0, IGNORED], [IGNORED] * 11 + [5, 6, 7, 0]]
    length = sequence.ids_BL.shape[1]
    expected = [[j <= i or 4 <= j < 9 for j in range(length)] for i in range(length)]
    assert sequence.attended_BLL.tolist() == [expected, expected]


@pytest.mark.parametrize("config", [PAPER, RELEASED], ids=["paper", "released"])
def test_pads_change_nothing(config: UpVlaConfig) -> None:
    instructions = [[1], [2, 3, 4, 5]]
    descriptions = [[6, 7], []] if config.conditioning == "paper" else None
    model = model_of(config)
    codes_BN, seen = batch_of(config, instructions, descriptions)
    with torch.inference_mode():
        together = action_sequence(config, instructions, codes_BN, descriptions, pad_to=64)
        hidden_BLW = model(together, **seen)
        for b, instruction in enumerate(instructions):
            alone = action_sequence(
                config, [instruction], codes_BN[b : b + 1], [descriptions[b]] if descriptions else None
            )
            hidden_1LW = model(alone, **{name: value[b : b + 1] for name, value in seen.items()})
            torch.testing.assert_close(model.act(hidden_1LW, alone)[0], model.act(hidden_BLW, together)[b])
            torch.testing.assert_close(model.imagine(hidden_1LW, alone)[0], model.imagine(hidden_BLW, together)[b])


def test_everything_that_is_seen_moves_the_actions_and_the_next_frame() -> None:
    model = model_of(PAPER)
    codes_BN, seen = batch_of(PAPER, [[1, 2]], [[3]])

    def results(codes: Tensor, text: list[int], description: list[int], **inputs: Tensor) -> tuple[Tensor, Tensor]:
        sequence = action_sequence(PAPER, [text], codes, [description])
        with torch.inference_mode():
            hidden_BLW = model(sequence, **inputs)
            return model.act(hidden_BLW, sequence), model.imagine(hidden_BLW, sequence)

    usual = results(codes_BN, [1, 2], [3], **seen)
    others = [
        results((codes_BN + 1) % 16, [1, 2], [3], **seen),
        results(codes_BN, [1, 4], [3], **seen),
        results(codes_BN, [1, 2], [5], **seen),
        *(results(codes_BN, [1, 2], [3], **{**seen, name: value + 0.5}) for name, value in seen.items()),
    ]
    for other in others:
        assert all((a - b).abs().max() > 1e-3 for a, b in zip(usual, other, strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_answers_with_a_cache_are_those_without(seed: int) -> None:
    model = model_of(PAPER, seed)
    _, seen = batch_of(PAPER, [[]], None)
    features_1SF = seen["features_BSF"]
    prompt, most, expected = [3, 4, 5], 12, list[int]()
    while len(expected) < most:
        sequence, _ = understanding_sequence(PAPER, [[*prompt, *expected]], system=[7])
        with torch.inference_mode():
            logits = model.text_logits(model(sequence, features_1SF))[0, -1, : VOCABULARY.text_size]
        if (token := int(logits.argmax())) == VOCABULARY.end_of_text:
            break
        expected.append(token)
    assert model.answer(features_1SF, prompt, most, system=[7]) == expected
    assert model.answer(features_1SF, prompt, 0) == []


def test_an_answer_ends_with_the_text_and_holds_no_other_ids() -> None:
    model = model_of(PAPER)
    features_1SF = batch_of(PAPER, [[]], None)[1]["features_BSF"]
    with torch.no_grad():
        model.lm_head.bias[VOCABULARY.text_size :] = 100.0  # whatever is no text
        assert all(token < VOCABULARY.text_size for token in model.answer(features_1SF, [1], 5))
        model.lm_head.bias[VOCABULARY.end_of_text] = 50.0
    assert model.answer(features_1SF, [1], 5) == []


def test_the_next_frame_is_part_of_the_whole_vocabulary_and_its_labels_are_its_codes() -> None:
    model = model_of(RELEASED)
    codes_BN, _ = batch_of(RELEASED, [[1], [2, 3]], None)
    sequence = action_sequence(RELEASED, [[1], [2, 3]], codes_BN)
    assert sequence.image is not None
    with torch.inference_mode():
        hidden_BLW = model(sequence)
        whole_BLV = model.text_logits(hidden_BLW)[:, sequence.image][:, 1:-1]
        torch.testing.assert_close(
            model.imagine(hidden_BLW, sequence), whole_BLV[..., VOCABULARY.first_code : VOCABULARY.mask]
        )
    future_BN = (codes_BN + 3) % 16
    labels_BL = future_labels(RELEASED, sequence, future_BN)
    changed = labels_BL != sequence.ids_BL
    assert torch.equal(labels_BL[:, sequence.image][:, 1:-1], future_BN + VOCABULARY.first_code)
    assert (labels_BL[changed] == IGNORED).sum() == (sequence.ids_BL == VOCABULARY.pad).sum() == 1
    assert not changed[:, sequence.actions].any()


def test_recomputed_gradients_are_the_same() -> None:
    model = model_of(PAPER).train()
    codes_BN, seen = batch_of(PAPER, [[1], [2]], None)
    sequence = action_sequence(PAPER, [[1], [2]], codes_BN)
    gradients = []
    for recompute in (False, True):
        model.recompute = recompute
        model.zero_grad()
        model.act(model(sequence, **seen), sequence).square().sum().backward()
        gradients.append(model.blocks[0].get_parameter("project.weight").grad)
    assert gradients[0] is not None and gradients[1] is not None
    torch.testing.assert_close(gradients[0], gradients[1])


def test_bfloat16_is_near_float32() -> None:
    config = SIZES["up-vla-demo"]
    torch.manual_seed(0)
    model = UpVla(config).eval()
    codes_BN, seen = batch_of(config, [[1, 2]], None)
    sequence = action_sequence(config, [[1, 2]], codes_BN)
    with torch.inference_mode():
        exact_BLW = model(sequence, **seen)
        rough_BLW = model.bfloat16()(sequence, **{name: value.bfloat16() for name, value in seen.items()})
    assert rough_BLW.dtype == torch.bfloat16
    error = (rough_BLW.float() - exact_BLW).norm() / exact_BLW.norm()
    assert error < 0.03, f"relative error {error:.3f}"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heads": 3}, "heads must divide width 64, got 3"),
        ({"rotary_fraction": 1.5}, "rotary_fraction"),
        ({"conditioning": "released"}, "no proprioception"),
        ({"vocabulary": {"text_size": 20, "end_of_text": 20, "codes": 16}}, "end_of_text is an id below"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        UpVlaConfig.model_validate({**PAPER.model_dump(), **changes})


def test_inputs_that_do_not_fit_are_refused() -> None:
    codes_BN, seen = batch_of(PAPER, [[1]], None)
    with pytest.raises(ValueError, match=r"codes of shape \(1, 12\), got \(1, 11\)"):
        action_sequence(PAPER, [[1]], codes_BN[:, 1:])
    one_for_both = action_sequence(PAPER, [[1], [2]], codes_BN.expand(2, -1))
    with pytest.raises(ValueError, match=r"codes of the next frame have shape \(2, 12\), got \(1, 12\)"):
        future_labels(PAPER, one_for_both, codes_BN)
    with pytest.raises(ValueError, match="as many descriptions, got 2"):
        action_sequence(PAPER, [[1]], codes_BN, [[], []])
    with pytest.raises(ValueError, match="takes no description"):
        action_sequence(RELEASED, [[1]], codes_BN, [[2]])
    with pytest.raises(ValueError, match=r"more than pad_to \(20\)"):
        action_sequence(PAPER, [[1]], codes_BN, pad_to=20)
    model, sequence = model_of(PAPER), action_sequence(PAPER, [[1]], codes_BN)
    with pytest.raises(ValueError, match=r"features: this sequence needs \(1, 5, 10\), got None"):
        model(sequence)
    with pytest.raises(ValueError, match=r"state: this sequence needs \(1, 3\), got \(1, 2\)"):
        model(sequence, seen["features_BSF"], seen["state_BP"][:, :2])
    with pytest.raises(ValueError, match="features: this sequence takes none"):
        model_of(RELEASED)(action_sequence(RELEASED, [[1]], codes_BN), seen["features_BSF"])
    talk, _ = understanding_sequence(PAPER, [[1]])
    hidden_BLW = model(talk, seen["features_BSF"])
    with pytest.raises(ValueError, match="holds no actions"):
        model.act(hidden_BLW, talk)
    with pytest.raises(ValueError, match="predicts no frame"):
        model.imagine(hidden_BLW, talk)
