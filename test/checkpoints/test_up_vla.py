"""UP-VLA's weights: the released names, there and back; strict loading, and what is said when it fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from vla_ros.checkpoints.converting import Deployment, from_release, release_manifest
from vla_ros.checkpoints.files import CheckpointError, write_tensors
from vla_ros.checkpoints.loading import blank, load_network
from vla_ros.checkpoints.manifest import Bundle, UpVlaManifest, load
from vla_ros.checkpoints.starting import show_o_shapes
from vla_ros.checkpoints.up_vla import (
    find_weights,
    parts_of_ours,
    released_shapes,
    to_released,
)
from vla_ros.models.up_vla import SIZES, UpVla, UpVlaConfig
from vla_ros.tokenizers.magvit2 import MAGVIT2_SIZES, Magvit2

Tensors = dict[str, torch.Tensor]


def test_the_full_size_has_exactly_the_released_weights() -> None:
    """Names and shapes by the release: 18 for each of 24 layers, and 24 more; 1.526 billion numbers."""
    width, wide, vocabulary = 2048, 8192, 50295 + 10 + 8192 + 1
    linear = {"q_proj": (width, width), "k_proj": (width, width), "v_proj": (width, width), "dense": (width, width)}
    expected: dict[str, tuple[int, ...]] = {}

    def add(name: str, *shape: int, bias: bool = True) -> None:
        expected[f"{name}.weight"] = shape
        if bias:
            expected[f"{name}.bias"] = shape[:1]

    for layer in range(24):
        place = f"showo.model.layers.{layer}"
        for name, shape in linear.items():
            add(f"{place}.self_attn.{name}", *shape)
        add(f"{place}.self_attn.q_layernorm", 64)
        add(f"{place}.self_attn.k_layernorm", 64)
        add(f"{place}.mlp.fc1", wide, width)
        add(f"{place}.mlp.fc2", width, wide)
        add(f"{place}.input_layernorm", width)
    add("showo.model.embed_tokens", vocabulary, width, bias=False)
    add("showo.model.final_layernorm", width)
    add("showo.lm_head", vocabulary, width)
    add("mm_projector.0", width, 1024)
    add("mm_projector.2", width, width)
    expected |= {"token_learner.latents": (1, width)}
    expected |= {f"token_learner.{norm}.g": (width,) for norm in ("attn_norm", "mlp_norm")}
    add("token_learner.projection", width, width)
    add("token_learner.attn.q", width, width, bias=False)
    add("token_learner.attn.kv", 2 * width, width, bias=False)
    add("token_learner.attn.proj", width, width)
    add("token_learner.mlp.0.project", 2 * wide, width)
    add("token_learner.mlp.1", width, wide)
    add("to_logits.0", 70, width)
    found = released_shapes(SIZES["up-vla-release"])
    assert found == expected
    assert len(found) == 456
    assert sum(parameter.numel() for parameter in blank(UpVla, SIZES["up-vla-release"]).parameters()) == 1_525_947_592


def test_the_full_size_has_the_same_weights_in_the_papers_conditioning() -> None:
    """What Show-o has fills all but the action head; proprioception alone would bring weights that nobody published."""
    paper = release_manifest(Deployment(), has_clip=True, conditioning="paper")
    assert (paper.model.conditioning, paper.model.features, paper.model.feature_width) == ("paper", 576, 1024)
    assert released_shapes(paper.model) == released_shapes(SIZES["up-vla-release"])
    moved = paper.model.model_copy(update={"state_dims": 8})
    names = {f"state_projector.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")}
    assert released_shapes(moved).keys() - released_shapes(paper.model).keys() == names
    assert show_o_shapes(moved) == show_o_shapes(SIZES["up-vla-release"])


def test_the_image_tokenizer_has_the_released_names(golden: Path) -> None:
    table = json.loads((golden / "magvit2.json").read_text())["state_dict"]
    state = blank(Magvit2, MAGVIT2_SIZES["magvit2-release"]).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
        name: tuple(shape) for name, (shape, _) in table.items()
    }


def test_there_and_back_is_the_same_bit_for_bit(released: Tensors, renamed: Tensors) -> None:
    back = to_released(renamed)
    assert back.keys() == released.keys()
    for name, tensor in released.items():
        assert back[name].dtype == tensor.dtype and torch.equal(back[name], tensor), name


def test_every_weight_has_its_place(config: UpVlaConfig, released: Tensors, renamed: Tensors) -> None:
    """Queries, keys, values and the MLP's input below each other, in this order; of each layer its own."""
    for layer in range(config.layers):
        parts = [
            released[f"showo.model.layers.{layer}.{name}.weight"]
            for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.fc1")
        ]
        assert torch.equal(renamed[f"blocks.{layer}.project.weight"], torch.cat(parts))
    assert torch.equal(renamed["action_head.latent"], released["token_learner.latents"])


def test_nothing_is_copied_on_the_way(released: Tensors, renamed: Tensors) -> None:
    places = {tensor.data_ptr() for tensor in released.values()}
    assert {part.data_ptr() for parts in parts_of_ours(released).values() for part in parts} == places
    stored = {tensor.untyped_storage().data_ptr() for tensor in renamed.values()}
    assert {tensor.untyped_storage().data_ptr() for tensor in to_released(renamed).values()} == stored


def converted(sources: Path, release: Path, manifest: UpVlaManifest) -> Path:
    out = sources / "ours"
    from_release(release, out, manifest, image_tokenizer=sources / "magvitv2", text=sources / "phi")
    return out


@pytest.mark.parametrize("place", ["unwrapped_model/pytorch_model.bin", "pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("is_folder", [True, False])
def test_weights_are_loaded_from_where_they_are_published(
    sources: Path, manifest: UpVlaManifest, released: Tensors, renamed: Tensors, place: str, is_folder: bool
) -> None:
    file = sources / "published" / place
    file.parent.mkdir(parents=True)
    torch.save(released, file) if place.endswith("bin") else write_tensors(file, released)
    model = load(converted(sources, sources / "published" if is_folder else file, manifest)).model
    assert all(torch.equal(tensor, renamed[name]) for name, tensor in model.state_dict().items())
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_weights_are_loaded_in_the_type_asked_for(sources: Path, manifest: UpVlaManifest, released: Tensors) -> None:
    model = load(converted(sources, sources / "release", manifest), dtype=torch.bfloat16).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert torch.equal(model.norm.weight, released["showo.model.final_layernorm.weight"].bfloat16())


def refused(sources: Path, tensors: Tensors, manifest: UpVlaManifest, **changes: Any) -> list[str]:
    """What is said of these weights as the release of a model with `changes`."""
    torch.save(tensors, sources / "pytorch_model.bin")
    model = manifest.model.model_copy(update=changes)
    with pytest.raises(CheckpointError) as raised:
        converted(sources, sources / "pytorch_model.bin", manifest.model_copy(update={"model": model}))
    assert not (sources / "ours").exists()
    return str(raised.value).splitlines()


def test_what_is_missing_and_too_much_is_told_in_groups(
    sources: Path, manifest: UpVlaManifest, released: Tensors
) -> None:
    for layer in range(manifest.model.layers):
        del released[f"showo.model.layers.{layer}.self_attn.k_proj.weight"]
    released["showo.model.layers.1.self_attn.rotary_emb.inv_freq"] = torch.zeros(4)
    assert refused(sources, released, manifest) == [
        f"{sources}/pytorch_model.bin does not hold the weights of this tiny under the released names:",
        "  missing: showo.model.layers.{0-2}.self_attn.k_proj.weight (3)",
        "  unexpected: showo.model.layers.1.self_attn.rotary_emb.inv_freq",
    ]


def test_other_shapes_are_told(sources: Path, manifest: UpVlaManifest, released: Tensors) -> None:
    assert refused(sources, released, manifest, mlp_width=96) == [
        f"{sources}/pytorch_model.bin does not hold the weights of this tiny under the released names:",
        "  of another shape: showo.model.layers.{0-2}.mlp.fc1.weight (3): (64, 32) instead of (96, 32)",
        "  of another shape: showo.model.layers.{0-2}.mlp.fc1.bias (3): (64,) instead of (96,)",
        "  of another shape: showo.model.layers.{0-2}.mlp.fc2.weight (3): (32, 64) instead of (32, 96)",
    ]


def test_another_conditioning_and_depth_are_told(sources: Path, manifest: UpVlaManifest, released: Tensors) -> None:
    lines = refused(sources, released, manifest, layers=5, conditioning="paper", state_dims=8)
    assert any(line.startswith("  missing: showo.model.layers.{3-4}: 18 weights each (36), as ") for line in lines)
    assert "  missing: state_projector.{0,2}.weight (2)" in lines


def test_another_models_checkpoint_is_refused(
    sources: Path, manifest: UpVlaManifest, tiny: Bundle, released: Tensors
) -> None:
    (line,) = refused(sources, tiny.image_tokenizer.state_dict(), manifest)
    assert "weights of this tiny under the released names: it is another model's, none of its 106 weights has " in line
    assert " of decoder" in line and " of encoder" in line
    del released["token_learner.latents"]
    assert refused(sources, released, manifest)[1:] == ["  missing: token_learner.latents"]


def test_numbers_that_are_none_are_refused(sources: Path, manifest: UpVlaManifest, released: Tensors) -> None:
    released["showo.lm_head.bias"][3] = float("nan")
    assert refused(sources, released, manifest) == [
        f"{sources}/pytorch_model.bin holds values that are no finite numbers, in showo.lm_head.bias"
    ]


@pytest.mark.parametrize("kind", ["int8", "float8_e4m3fn", "sparse_coo"])
def test_quantised_and_sparse_weights_are_refused(
    sources: Path, manifest: UpVlaManifest, released: Tensors, kind: str
) -> None:
    head = released["showo.lm_head.weight"]
    released["showo.lm_head.weight"] = head.to_sparse() if kind == "sparse_coo" else head.to(getattr(torch, kind))
    (line,) = refused(sources, released, manifest)
    assert f"holds weights of type {kind}, in showo.lm_head.weight; they have to be plain tensors" in line


def test_an_image_tokenizer_is_loaded_strictly(tmp_path: Path, tiny: Bundle) -> None:
    state = tiny.image_tokenizer.state_dict()
    state["decoder.conv_out.bias"] = torch.zeros(7)
    write_tensors(tmp_path / "a.safetensors", state)
    network = blank(Magvit2, tiny.manifest.image_tokenizer)
    with pytest.raises(CheckpointError, match=r"this Magvit2:\n  of another shape: decoder.conv_out.bias: \(7,\)"):
        load_network(tmp_path / "a.safetensors", network, torch.float32, "cpu")


def test_where_there_are_no_weights_it_is_told(tmp_path: Path) -> None:
    for path, said in (
        (tmp_path / "missing", "there is no such file or folder"),
        (tmp_path, "holds no weights; there should be unwrapped_model/pytorch_model.bin, "),
    ):
        with pytest.raises(CheckpointError, match=said):
            find_weights(path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="in several files"):
        find_weights(tmp_path)
