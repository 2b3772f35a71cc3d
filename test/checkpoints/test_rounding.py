"""A checkpoint of ours rounded: every weight as torch rounds it, codes and all else as they were, and it still acts."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import numpy as np
import tiny_up_vla
from safetensors.torch import load_file, save_file

from vla_ros.checkpoints.files import DTYPES, CheckpointError, read_metadata, write_tensors
from vla_ros.checkpoints.manifest import Bundle, load, save
from vla_ros.checkpoints.rounding import round_checkpoint
from vla_ros.policies.up_vla import UpVlaPolicy
from vla_ros.robots.panda import PANDA
from vla_ros.tokenizers.vision import ClipVision
from vla_ros.values import Committed, Observation

SHIPPED = Path(__file__).parents[2] / "resource" / "up-vla-demo"
ROUNDED = ("model", "vision")


@pytest.fixture
def saved(tiny: Bundle, tmp_path: Path) -> Path:
    save(tmp_path / "lifter", tiny, "# Lifts cubes, mostly")
    (tmp_path / "lifter" / "films").mkdir()
    (tmp_path / "lifter" / "films" / "1000.mp4").write_bytes(b"a film")
    (tmp_path / "lifter" / ".git").mkdir()
    return tmp_path / "lifter"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_every_weight_is_rounded_as_torch_does(saved: Path, tmp_path: Path, dtype: str) -> None:
    round_checkpoint(saved, tmp_path / "small", dtype)
    for name in ROUNDED:
        files = [folder / f"{name}.safetensors" for folder in (saved, tmp_path / "small")]
        before, after = (load_file(file) for file in files)
        assert before.keys() == after.keys()
        for key, tensor in before.items():
            wanted = tensor.to(DTYPES[dtype]) if tensor.is_floating_point() else tensor
            assert after[key].dtype == wanted.dtype and torch.equal(after[key], wanted), key
        assert read_metadata(files[1]) == read_metadata(files[0])


def test_all_else_is_kept(saved: Path, tmp_path: Path) -> None:
    round_checkpoint(saved, tmp_path / "small", "bfloat16")
    found = {str(path.relative_to(tmp_path / "small")) for path in (tmp_path / "small").rglob("*") if path.is_file()}
    beside = {"manifest.json", "image_tokenizer.safetensors", "README.md", "text/tokenizer.json", "films/1000.mp4"}
    assert found == beside | {f"{name}.safetensors" for name in ROUNDED}
    assert all((tmp_path / "small" / name).read_bytes() == (saved / name).read_bytes() for name in beside)
    assert (saved / "model.safetensors").stat().st_size > 1.9 * (tmp_path / "small/model.safetensors").stat().st_size


def test_what_was_rounded_acts(saved: Path, tmp_path: Path) -> None:
    round_checkpoint(saved, tmp_path / "small", "bfloat16")
    image = np.random.default_rng(0).integers(0, 256, (tiny_up_vla.HEIGHT, tiny_up_vla.WIDTH, 3), dtype=np.uint8)
    robot = {"joints": np.array(PANDA.home_rad), "gripper": np.array([0.04])}
    actions = []
    for folder in (saved, tmp_path / "small"):
        policy = UpVlaPolicy(load(folder), PANDA)
        policy.reset(tiny_up_vla.INSTRUCTIONS[0])
        seen = [Observation(7, {"front": image, "wrist": image}, robot)]
        actions.append(policy.infer(seen, Committed()).chunk.actions)
    assert 0.0 < np.abs(actions[0] - actions[1]).max() < 0.05


def test_what_comes_with_the_package_is_rounded_already(tmp_path: Path) -> None:
    round_checkpoint(SHIPPED, tmp_path / "again", "bfloat16")
    for name in ROUNDED:
        shipped, again = (load_file(folder / f"{name}.safetensors") for folder in (SHIPPED, tmp_path / "again"))
        assert {tensor.dtype for tensor in shipped.values() if tensor.is_floating_point()} == {torch.bfloat16}
        assert shipped.keys() == again.keys() and all(torch.equal(shipped[key], again[key]) for key in shipped)


def test_clip_is_rounded_too(tiny: Bundle, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    tower = transformers.CLIPVisionConfig(**sizes, image_size=32, patch_size=16)
    transformers.CLIPVisionModel(tower).save_pretrained(tmp_path / "clip")
    told = tiny.manifest.model_copy(update={"vision": "clip"})
    vision = ClipVision(tmp_path / "clip")
    save(tmp_path / "ours", Bundle(told, tiny.model, tiny.image_tokenizer, vision, tiny.text))
    round_checkpoint(tmp_path / "ours", tmp_path / "small", "bfloat16")
    before, after = (load_file(tmp_path / name / "clip" / "model.safetensors") for name in ("ours", "small"))
    assert before.keys() == after.keys()
    assert all(torch.equal(after[key], tensor.bfloat16()) for key, tensor in before.items())
    assert load(tmp_path / "small").vision is not None


def test_what_cannot_be_rounded_leaves_nothing(saved: Path, tmp_path: Path) -> None:
    def refused(out: Path = tmp_path / "small") -> str:
        with pytest.raises(CheckpointError) as raised:
            round_checkpoint(saved, out, "float16")
        assert not out.exists() and {path.name for path in tmp_path.iterdir()} == {"lifter"}
        return str(raised.value)

    assert "lies in" in refused(saved / "small")
    for name, content, said in (
        ("manifest.json", b"", "unknown robot '../../etc'"),
        ("text/tokenizer.json", b"{}", "tokenizer.json is not a tokenizer"),
        ("text/tokenizer.json", None, "has no text tokenizer"),
    ):
        whole = (saved / name).read_bytes()
        if content is None:
            (saved / name).unlink()
        else:
            (saved / name).write_bytes(content or whole.replace(b'"robot": "panda"', b'"robot": "../../etc"'))
        assert said in refused()
        (saved / name).write_bytes(whole)
    weights = load_file(saved / "vision.safetensors")
    write_tensors(saved / "vision.safetensors", {**weights, "norm.weight": weights["norm.weight"] + 1e6})
    assert "values that are too large for float16, in norm.weight" in refused()
    del weights["norm.weight"]
    save_file(weights, saved / "vision.safetensors")
    assert refused().endswith("weights of this SmallVision:\n  missing: norm.weight")
    (saved / "vision.safetensors").unlink()
    assert "vision.safetensors cannot be read" in refused()
    (saved / "manifest.json").unlink()
    assert "is not a checkpoint of vla_ros" in refused()
