"""Releases made checkpoints of ours and back, what training starts from, and what is told of any of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file

from vla_ros.actions import GripperConvention, Space
from vla_ros.checkpoints.converting import Deployment, from_release, release_manifest, to_release
from vla_ros.checkpoints.files import CheckpointError
from vla_ros.checkpoints.inspecting import inspect
from vla_ros.checkpoints.manifest import Bundle, UpVlaManifest, load, save
from vla_ros.checkpoints.starting import from_show_o, make_start
from vla_ros.models.up_vla import SIZES, Conditioning, UpVla, UpVlaConfig
from vla_ros.tokenizers.text import TextTokenizer
from vla_ros.tokenizers.vision import ClipVision

Tensors = dict[str, torch.Tensor]


def convert(sources: Path, manifest: UpVlaManifest, out: Path, dtype: str | None = None) -> Path:
    from_release(
        sources / "release",
        out,
        manifest,
        image_tokenizer=sources / "magvitv2",
        text=sources / "phi",
        dtype=dtype,
    )
    return out


def test_the_default_is_calvin() -> None:
    found = release_manifest(Deployment())
    action = found.action
    assert (action.space, action.rate_hz, action.horizon) == (Space.EE_DELTA, 30.0, 10)
    assert (action.frame, action.rotation, action.gripper) == ("base", "euler_xyz", GripperConvention.OPEN_SIGNED)
    assert found.normalization.scale == (0.02, 0.02, 0.02, 0.05, 0.05, 0.05, 1.0)
    assert set(found.normalization.offset) == {0.0}
    assert (found.pixels, found.model.layers, found.image_tokenizer.codes) == (512, 24, 8192)


@pytest.mark.parametrize(
    ("deployment", "size", "said"),
    [
        (Deployment(), "up-vla-huge", "up-vla-huge: unknown size; there are up-vla-release, up-vla-demo"),
        (Deployment(rotation="quaternion"), "up-vla-release", "values of an action: 8, but model.action_dims: 7"),
        (Deployment(gripper="none"), "up-vla-release", "values of an action: 6, but model.action_dims: 7"),
    ],
)
@pytest.mark.parametrize("conditioning", ["released", "paper"])
def test_actions_that_the_release_does_not_have_are_refused(
    deployment: Deployment, size: str, said: str, conditioning: Conditioning
) -> None:
    with pytest.raises(ValueError, match=said):
        release_manifest(deployment, size, has_clip=True, conditioning=conditioning)


@pytest.mark.parametrize(
    ("gripper", "ends"),
    [("open_unit", (0.0, 1.0)), ("closed_unit", (0.0, 1.0)), ("open_signed", (-1.0, 1.0)), ("width_m", (0.0, 0.08))],
)
def test_a_probability_becomes_what_the_gripper_is_told(gripper: str, ends: tuple[float, float]) -> None:
    found = release_manifest(Deployment(gripper=gripper), has_clip=True, conditioning="paper").normalization
    assert found.scale[:-1] == (0.02, 0.02, 0.02, 0.05, 0.05, 0.05) and set(found.offset[:-1]) == {0.0}
    assert (found.offset[-1], found.offset[-1] + found.scale[-1]) == ends


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_release_and_back_is_the_same_bit_for_bit(
    sources: Path, manifest: UpVlaManifest, released: Tensors, kind: torch.dtype
) -> None:
    released = {name: tensor.to(kind) for name, tensor in released.items()}
    torch.save(released, sources / "release" / "unwrapped_model" / "pytorch_model.bin")
    ours = convert(sources, manifest, sources / "ours")
    to_release(ours, sources / "back")
    back = torch.load(sources / "back" / "unwrapped_model" / "pytorch_model.bin", weights_only=True)
    assert back.keys() == released.keys()
    for name, tensor in released.items():
        assert back[name].dtype == kind and torch.equal(back[name], tensor), name
    images = [load_file(sources / name / "pytorch_model.safetensors") for name in ("magvitv2", "back/magvitv2")]
    assert images[0].keys() == images[1].keys()
    assert all(torch.equal(images[0][name], images[1][name]) for name in images[0])


def test_a_converted_release_is_a_checkpoint(sources: Path, manifest: UpVlaManifest, renamed: Tensors) -> None:
    found = load(convert(sources, manifest, sources / "ours"))
    assert all(torch.equal(each, renamed[name]) for name, each in found.model.state_dict().items())
    assert found.manifest.action == manifest.action and found.vision is None
    card = " ".join((sources / "ours" / "README.md").read_text().split())
    for said in ("no licence", "CALVIN", "0.02 m, 0.05 rad", "30 Hz", "`front`", "float32"):
        assert said in card


def test_weights_are_rounded_where_that_is_asked(sources: Path, manifest: UpVlaManifest, released: Tensors) -> None:
    found = load_file(convert(sources, manifest, sources / "ours", "bfloat16") / "model.safetensors")
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    assert torch.equal(found["norm.weight"], released["showo.model.final_layernorm.weight"].bfloat16())
    assert load_file(sources / "ours" / "image_tokenizer.safetensors")["decoder.conv_in.bias"].dtype == torch.float32


def test_what_cannot_be_converted_leaves_nothing(sources: Path, manifest: UpVlaManifest, released: Tensors) -> None:
    before = sorted(path.name for path in sources.iterdir())

    def refused() -> str:
        with pytest.raises(CheckpointError) as raised:
            convert(sources, manifest, sources / "ours")
        assert sorted(path.name for path in sources.iterdir()) == before
        return str(raised.value)

    file = sources / "release" / "unwrapped_model" / "pytorch_model.bin"
    torch.save({name: each for name, each in released.items() if name != "to_logits.0.bias"}, file)
    assert refused().endswith("the weights of this tiny under the released names:\n  missing: to_logits.0.bias")
    file.write_bytes((sources / "show_o" / "model.safetensors").read_bytes())
    assert "truncated" in refused()
    torch.save(load_file(sources / "show_o" / "model.safetensors"), file)
    assert "is Show-o, without UP-VLA's action head: training starts from it (--start)" in refused()
    torch.save(released, file)
    save_file({"a": torch.zeros(1)}, sources / "magvitv2" / "pytorch_model.safetensors")
    assert "does not hold the weights of this MAGVIT-v2" in refused()


def test_numbers_that_are_none_are_not_converted(sources: Path, manifest: UpVlaManifest, released: Tensors) -> None:
    file = sources / "release" / "unwrapped_model" / "pytorch_model.bin"
    released["showo.lm_head.bias"][3] = 1e6
    torch.save(released, file)
    with pytest.raises(CheckpointError, match="values that are too large for float16, in showo.lm_head.bias"):
        convert(sources, manifest, sources / "ours", "float16")
    convert(sources, manifest, sources / "rough", "bfloat16")
    released["showo.lm_head.bias"][3] = float("nan")
    torch.save(released, file)
    with pytest.raises(CheckpointError, match="values that are no finite numbers, in showo.lm_head.bias"):
        convert(sources, manifest, sources / "ours")
    assert not (sources / "ours").exists()


def test_what_is_ours_already_is_not_converted(sources: Path, manifest: UpVlaManifest) -> None:
    ours = convert(sources, manifest, sources / "ours")
    with pytest.raises(CheckpointError, match="is a checkpoint of vla_ros already; --to released converts it"):
        from_release(ours, sources / "again", manifest, image_tokenizer=sources / "magvitv2", text=sources / "phi")


@pytest.mark.parametrize("state_dims", [8, 0])
def test_what_the_official_code_does_not_know_is_not_released(tiny: Bundle, tmp_path: Path, state_dims: int) -> None:
    """Even where every weight has a released name."""
    model = UpVla(tiny.manifest.model.model_copy(update={"state_dims": state_dims}))
    state = tiny.manifest.state if state_dims else None
    manifest = tiny.manifest.model_copy(update={"model": model.config, "state": state})
    save(tmp_path / "ours", Bundle(manifest, model, tiny.image_tokenizer, tiny.vision, tiny.text))
    with pytest.raises(CheckpointError, match="conditioned as in the paper, .* the official code does not know"):
        to_release(tmp_path / "ours", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_clip_goes_along(sources: Path, config: UpVlaConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    size = {"image_size": 32, "patch_size": 16, "hidden_size": 16, "intermediate_size": 32}
    tower = transformers.CLIPVisionConfig(**size, num_hidden_layers=2, num_attention_heads=2)
    transformers.CLIPVisionModel(tower).save_pretrained(sources / "clip")
    given = {"image_tokenizer": sources / "magvitv2", "text": sources / "phi", "clip": sources / "clip"}
    with pytest.raises(CheckpointError, match="gives 4 features of 16 numbers for 1 cameras, and the model takes 8"):
        from_release(sources / "release", sources / "other", release_manifest(Deployment(), "tiny", True), **given)
    assert not (sources / "other").exists()
    monkeypatch.setitem(SIZES, "tiny", config.model_copy(update={"features": 4}))
    manifest = release_manifest(Deployment(), "tiny", True)
    from_release(sources / "release", sources / "ours", manifest, **given)
    assert not inspect(sources / "ours").problems
    images = torch.randint(0, 256, (1, 1, 48, 64, 3), dtype=torch.uint8)
    seen = load(sources / "ours").vision
    assert seen and torch.equal(seen.encode(images), ClipVision(sources / "clip").encode(images))
    with pytest.raises(CheckpointError, match=f"^{sources / 'phi'} has no CLIP vision tower: config.json"):
        from_release(sources / "release", sources / "third", manifest, **{**given, "clip": sources / "phi"})
    os.truncate(sources / "ours" / "clip" / "model.safetensors", 5000)
    assert "has a CLIP that cannot be read" in inspect(sources / "ours").problems[0]


# --- to start from


def test_training_starts_from_show_o(sources: Path, manifest: UpVlaManifest, renamed: Tensors) -> None:
    folders = (sources / "show_o", sources / "magvitv2", sources / "phi")
    one, same, other = (from_show_o(manifest, *folders, seed=seed) for seed in (3, 3, 4))
    state = one.model.state_dict()
    published = {name: tensor for name, tensor in renamed.items() if not name.startswith("action_head.")}
    assert all(torch.equal(state[name], tensor) for name, tensor in published.items())
    drawn = state.keys() - published.keys()
    assert drawn and all(name.startswith("action_head.") for name in drawn)
    assert not any(torch.equal(state[name], renamed[name]) for name in drawn if state[name].std() > 0)
    assert all(torch.equal(state[name], same.model.state_dict()[name]) for name in drawn)
    assert not torch.equal(state["action_head.query.weight"], other.model.state_dict()["action_head.query.weight"])
    assert 0.05 < state["action_head.query.weight"].std() < 1.0  # drawn, not what lay in the memory


def test_what_show_o_has_beside_is_told(sources: Path, manifest: UpVlaManifest, show_o: Tensors) -> None:
    beside = {**show_o, "showo.model.rotary_emb.inv_freq": torch.zeros(4)}
    save_file({name: each.contiguous() for name, each in beside.items()}, sources / "show_o" / "model.safetensors")
    found = from_show_o(manifest, sources / "show_o", sources / "magvitv2", sources / "phi")
    assert found.manifest.start["left out"] == ["showo.model.rotary_emb.inv_freq"]


def test_a_trained_action_head_is_not_dropped(sources: Path, manifest: UpVlaManifest) -> None:
    with pytest.raises(CheckpointError, match="has an action head: it is UP-VLA's and not Show-o's; convert it"):
        from_show_o(manifest, sources / "release", sources / "magvitv2", sources / "phi")


def test_a_start_is_a_checkpoint(sources: Path, manifest: UpVlaManifest) -> None:
    make_start(sources / "start", manifest, sources / "show_o", sources / "magvitv2", sources / "phi", None, 3)
    found = load(sources / "start").manifest
    assert found.start["seed"] == 3
    assert not found.trained  # it has not learnt to act: what an action means is training's to find out
    assert "it has to be trained" in " ".join((sources / "start" / "README.md").read_text().split())


def test_everything_that_is_missing_is_named_at_once(tmp_path: Path, manifest: UpVlaManifest) -> None:
    (tmp_path / "phi").mkdir()
    (tmp_path / "magvitv2").mkdir()
    with_clip = manifest.model_copy(update={"vision": "clip"})
    with pytest.raises(CheckpointError) as raised:
        from_show_o(with_clip, tmp_path / "show_o", tmp_path / "magvitv2", tmp_path / "phi")
    assert str(raised.value).splitlines() == [
        "what training starts from is not all there:",
        f"  {tmp_path}/show_o: there is no such file or folder; a local copy of Show-o 512 with CLIP, "
        "showlab/show-o-w-clip-vit-512x512 is needed",
        f"  {tmp_path}/magvitv2: holds no weights; there should be unwrapped_model/pytorch_model.bin, "
        "pytorch_model.bin, model.safetensors or one other .safetensors in it; a local copy of MAGVIT-v2, "
        "showlab/magvitv2 is needed",
        f"  {tmp_path}/phi: there is no tokenizer.json in it, and no vocab.json; a local copy of the text tokenizer of "
        "Phi-1.5, microsoft/phi-1_5 is needed",
        "  CLIP: not given; a local copy of CLIP, openai/clip-vit-large-patch14-336 is needed",
    ]


def test_a_file_in_place_of_a_folder_is_told(sources: Path, manifest: UpVlaManifest) -> None:
    with pytest.raises(
        CheckpointError, match=r"tokenizer\.json: it is a file, and a folder is needed; a local copy of"
    ):
        from_show_o(manifest, sources / "show_o", sources / "magvitv2", sources / "phi" / "tokenizer.json")


# --- what is told


def test_what_a_file_holds_is_found_out(sources: Path, manifest: UpVlaManifest) -> None:
    convert(sources, manifest, sources / "ours")
    for path, what in (
        ("release", "tiny, released names"),
        ("release/unwrapped_model/pytorch_model.bin", "tiny, released names"),
        ("ours/model.safetensors", "tiny, names of vla_ros"),
        ("magvitv2", "image tokenizer tiny"),
    ):
        (weights,) = inspect(sources / path).weights
        assert weights.what == what and weights.is_known
    whole = inspect(sources / "ours")
    assert [weights.what for weights in whole.weights] == ["tiny", "image tokenizer"] and not whole.problems
    assert whole.other_files.keys() == {"manifest.json", "README.md", "text/tokenizer.json"}


def test_numbers_are_those_of_the_file(sources: Path, released: Tensors) -> None:
    mixed = {**released, "to_logits.0.bias": released["to_logits.0.bias"].bfloat16()}
    file = sources / "release" / "unwrapped_model" / "pytorch_model.bin"
    torch.save(mixed, file)
    (weights,) = inspect(sources / "release").weights
    numbers = sum(tensor.numel() for tensor in released.values())
    assert (weights.tensors, weights.parameters) == (len(released), numbers)
    assert weights.dtypes == {"float32": numbers - 70, "bfloat16": 70}
    assert weights.size_bytes == file.stat().st_size


def test_what_is_nearest_is_told_with_what_lies_between(sources: Path, released: Tensors, tmp_path: Path) -> None:
    file = sources / "release" / "unwrapped_model" / "pytorch_model.bin"
    released["to_logits.0.weight"] = torch.zeros(140, 32)
    torch.save(released, file)
    (weights,) = inspect(file).weights
    assert weights.what == "tiny, released names" and not weights.is_known
    assert weights.difference.lines() == ["of another shape: to_logits.0.weight: (140, 32) instead of (70, 32)"]
    shallow = {name: each for name, each in released.items() if "layers.2" not in name}
    torch.save({**shallow, "to_logits.0.weight": torch.zeros(70, 32)}, file)
    lines = inspect(file).weights[0].difference.lines()
    assert len(lines) == 1 and lines[0].startswith("missing: showo.model.layers.2: 18 weights each (18), as ")
    save_file({"some.weight": torch.zeros(3), "other.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    (weights,) = inspect(tmp_path / "other.safetensors").weights
    assert weights.what == "unknown weights (1 of other, 1 of some)" and not weights.is_known
    save_file({}, tmp_path / "other.safetensors")
    assert inspect(tmp_path / "other.safetensors").what == "unknown weights (no tensor at all)"


def test_what_keeps_a_checkpoint_from_loading_is_told(sources: Path, manifest: UpVlaManifest) -> None:
    ours = convert(sources, manifest, sources / "ours")
    TextTokenizer.train(["pick up the cup"], 280, ours / "text")
    save_file({"a": torch.zeros(1)}, ours / "image_tokenizer.safetensors")
    (ours / "model.safetensors").unlink()
    problems = inspect(ours).problems
    assert problems[0].startswith(f"{ours}/model.safetensors cannot be read")
    assert "image_tokenizer.safetensors: unexpected: a" in problems
    assert "280 entries" in problems[-1]
