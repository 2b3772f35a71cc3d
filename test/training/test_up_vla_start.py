"""Published weights into a policy that acts as the paper has it: on features and on what it says of the scene."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from vla_ros.actions import GripperConvention
from vla_ros.checkpoints import manifest
from vla_ros.checkpoints.up_vla import to_released
from vla_ros.cli.app import app
from vla_ros.models import up_vla as model
from vla_ros.policies import registry
from vla_ros.robots.panda import PANDA
from vla_ros.tokenizers import magvit2
from vla_ros.tokenizers.text import TextTokenizer
from vla_ros.tokenizers.vision import ClipVision
from vla_ros.training import config
from vla_ros.training.labels import EndRule
from vla_ros.training.up_vla_material import data_of
from vla_ros.values import Committed, Observation

PIXELS = 64  # of the squares that frames become; CLIP's are half as wide


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Show-o, MAGVIT-v2, a text tokenizer and CLIP of a size called tiny, in folders as they are published."""
    tokenizer = magvit2.Magvit2Config(
        channels=8, multipliers=(1, 1), encoder_blocks=(1, 1), decoder_blocks=(1, 1), code_bits=4, groups=4, patch=4
    )
    sizes = {
        "vocabulary": model.Vocabulary(text_size=300, end_of_text=0, codes=16), "layers": 1, "width": 16, "heads": 2,
        "mlp_width": 16, "head_heads": 2, "head_mlp_width": 16, "feature_width": 16, "features": 4, "max_text": 64,
        "max_description": 4, "image_codes": (PIXELS // tokenizer.pixels_per_code) ** 2,
    }  # fmt: skip
    monkeypatch.setitem(magvit2.MAGVIT2_SIZES, "tiny", tokenizer)
    monkeypatch.setitem(model.SIZES, "tiny", model.SIZES["up-vla-release"].model_copy(update=sizes))
    recipe = config.RECIPES["up-vla-release"]
    fast = config.OptimizerConfig(learning_rate=1e-3, warmup_steps=0)
    few = {"steps": 1, "batch": 2, "conversations": 2, "parts": 1, "optimizer": fast}
    stages = {name: getattr(recipe, name).model_copy(update=few) for name in ("stage_1", "stage_2")}
    monkeypatch.setitem(config.RECIPES, "tiny", recipe.model_copy(update=stages))

    torch.manual_seed(0)
    weights = to_released(model.UpVla(model.SIZES["tiny"]).state_dict())
    show_o = {name: each.clone() for name, each in weights.items() if name.startswith(("showo.", "mm_projector."))}
    for name, tensors in (("show_o", show_o), ("magvitv2", magvit2.Magvit2(tokenizer).state_dict())):
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
    said = ("lift the red cube", "lift the blue cube", model.conversation(model.DESCRIBE), "a red cube")
    TextTokenizer.train(said, 300).save(tmp_path / "phi")
    save_clip(tmp_path / "clip", PIXELS // 2)
    return tmp_path


def save_clip(folder: Path, pixels: int) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    tower = transformers.CLIPVisionConfig(**sizes, image_size=pixels, patch_size=16)
    transformers.CLIPVisionModel(tower).save_pretrained(folder)


def run(*words: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(word) for word in words])


def make_start(published: Path, *words: object) -> Result:
    parts = ("--image-tokenizer", published / "magvitv2", "--text", published / "phi", "--clip", published / "clip")
    return run(
        "checkpoint", "convert", published / "show_o", published / "start", "--start", "--size", "tiny", *parts,
        "--camera-size", "64x48", "--rate-hz", 10, *words,
    )  # fmt: skip


def test_a_start_in_the_papers_conditioning_is_trained_and_acts(
    published: Path, dataset: Path, conversations: Path
) -> None:
    made = make_start(published, "--conditioning", "paper")
    assert made.exit_code == 0, made.output
    assert f"vla-ros train up_vla --size tiny --start {published / 'start'}" in made.output.replace("\n", " ")
    start = manifest.load(published / "start")
    sizes = start.manifest.model
    assert (sizes.conditioning, sizes.features, sizes.state_dims) == ("paper", 4, 0)
    assert (start.manifest.vision, start.manifest.pixels) == ("clip", PIXELS)
    assert isinstance(start.vision, ClipVision) and start.vision.pixels == PIXELS // 2
    assert data_of(start.manifest)["end"] is EndRule.HOLD
    assert "on CLIP's features, its own description" in (published / "start" / "README.md").read_text()
    assert "conditioning: paper instead of released" in run("checkpoint", "inspect", published / "start").output

    written = published / "config.yaml"
    written.write_text(yaml.safe_dump({"recipe": {"describe_every_s": 1.0}, "run": {"log_every": 1}}))
    out = published / "out"
    trained = run(
        "train", "up_vla", "--size", "tiny", "--start", published / "start", "--dataset", dataset, "--out", out,
        "--conversations", conversations, "--config", written, "--device", "cpu",
    )  # fmt: skip
    assert trained.exit_code == 0, trained.output
    losses = [json.loads((out / f"stage-{n}" / "curves.jsonl").read_text().splitlines()[-1]) for n in (1, 2)]
    assert {"predict", "understand"} <= set(losses[0]) and "act" not in losses[0]
    assert {"predict", "understand", "act"} <= set(losses[1])
    found = manifest.load(out / "checkpoint")
    told = found.manifest
    assert (told.model, told.vision, told.description_period_s) == (sizes, "clip", 1.0)
    assert (told.normalization.offset[-1], told.normalization.scale[-1]) == (-1.0, 2.0), "a probability, as -1..1"
    before, after = start.model.state_dict(), found.model.state_dict()
    assert not any(torch.equal(before[name], after[name]) for name in ("projector.0.weight", "action_head.latent"))
    assert all(torch.equal(each, found.vision.state_dict()[name]) for name, each in start.vision.state_dict().items())

    policy = registry.load("up_vla", robot=PANDA, checkpoint=str(out / "checkpoint"), device="cpu", dtype="float32")
    assert (policy.window_spec.cameras, policy.window_spec.proprioception) == (("front",), ())
    policy.reset("lift the red cube")
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    seen = [Observation(7_000_000_000, {"front": image}, {})]
    policy.reflect(seen)
    inference = policy.infer(seen, Committed())
    actions = inference.chunk.actions
    assert actions.shape == (10, 7) and np.isfinite(actions).all()
    assert (np.abs(actions[:, -1]) < 1.0).all() and policy.action_spec.gripper is GripperConvention.OPEN_SIGNED
    assert inference.imagine()[0].image.shape == (PIXELS, PIXELS, 3)
    other = [Observation(7_000_000_000, {"front": 255 - image}, {})]
    assert np.abs(policy.infer(other, Committed()).chunk.actions - actions).max() > 0.0


@pytest.mark.parametrize("words", [(), ("--conditioning", "released")])
def test_a_start_is_as_the_official_code_has_it_unless_that_is_asked(published: Path, words: tuple[str, ...]) -> None:
    assert make_start(published, *words).exit_code == 0
    told = manifest.load_manifest(published / "start")
    assert told.model == model.SIZES["tiny"]
    assert (told.normalization.offset[-1], told.normalization.scale[-1]) == (0.0, 1.0)
    assert data_of(told)["end"] is EndRule.RELEASED


def test_another_clip_is_refused_before_any_weights_are_read(published: Path) -> None:
    save_clip(published / "clip", PIXELS)
    (published / "show_o" / "model.safetensors").write_bytes(b"not looked at")
    made = make_start(published, "--conditioning", "paper")
    assert made.exit_code == 1
    assert "gives 16 features of 16 numbers for 1 cameras, and the model takes 4 of 16" in made.stderr
    assert not (published / "start").exists()
