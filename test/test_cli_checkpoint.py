"""`vla-ros checkpoint`: what is told of weights, releases converted and back, and wrong requests refused."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner, Result

torch = pytest.importorskip("torch")

import tiny_up_vla
from safetensors.torch import save_file

from vla_ros.checkpoints.converting import Deployment, release_manifest
from vla_ros.checkpoints.files import DTYPES
from vla_ros.checkpoints.manifest import load_manifest, save
from vla_ros.checkpoints.starting import make_start
from vla_ros.checkpoints.up_vla import to_released
from vla_ros.cli import app
from vla_ros.cli.checkpoint import Conditioned, Kept
from vla_ros.models.up_vla import SIZES, Conditioning, UpVla
from vla_ros.tokenizers.magvit2 import MAGVIT2_SIZES


def run(*given: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["checkpoint", *map(str, given)])


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    trained = {
        "dataset": "lifts", "steps": 4000, "success": {"rate": 0.53, "of": 50},
        "stages": {"stage 1": {"loss": 6.5}, "stage 2": {"loss": 0.25}},
    }  # fmt: skip
    save(tmp_path / "lifter", tiny_up_vla.bundle(trained=trained))
    return tmp_path / "lifter"


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A release of a size called tiny, and the tokenizers that go with it, in folders as they are published."""
    tiny = tiny_up_vla.bundle()
    released = {"conditioning": "released", "state_dims": 0, "features": 4}
    monkeypatch.setitem(SIZES, "tiny", tiny.manifest.model.model_copy(update=released))
    monkeypatch.setitem(MAGVIT2_SIZES, "tiny", tiny.manifest.image_tokenizer)
    weights = to_released(UpVla(SIZES["tiny"]).state_dict())
    for name in ("unwrapped_model", "magvitv2", "show_o"):
        (tmp_path / name).mkdir()
    torch.save(weights, tmp_path / "unwrapped_model" / "pytorch_model.bin")
    show_o = {key: each.clone() for key, each in weights.items() if key.startswith(("showo.", "mm_projector."))}
    save_file(show_o, tmp_path / "show_o" / "model.safetensors")
    save_file(tiny.image_tokenizer.state_dict(), tmp_path / "magvitv2" / "pytorch_model.safetensors")
    tiny.text.save(tmp_path / "phi")
    return tmp_path


def save_clip(folder: Path) -> None:
    """A tiny CLIP's tower of 4 features of 16 numbers."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.CLIPVisionConfig(**sizes, image_size=32, patch_size=16)
    transformers.CLIPVisionModel(config).save_pretrained(folder)


def with_tokenizers(sources: Path) -> tuple[object, ...]:
    return ("--image-tokenizer", sources / "magvitv2", "--text", sources / "phi", "--size", "tiny")


def test_a_checkpoint_is_told_about(ours: Path) -> None:
    result = run("inspect", ours)
    assert result.exit_code == 0, result.output
    for said in (
        "UP-VLA, tiny, a checkpoint of vla_ros", "model.safetensors", "text/tokenizer.json", "float32",
        "front 64x48 (predicted), wrist 64x48; resized to 32 pixels, 16 codes", "joints, gripper",
        "10 rows at 10 Hz: ee_delta, frame base, axis_angle, gripper open_unit", "lift the red cube",
        "delta.tcp.rx", "0.002", "steps", "4000", "rate 0.53, of 50", "stage 2",
        "loss 0.25",
    ):  # fmt: skip
        assert said in result.output, said


def test_a_release_is_told_about(sources: Path) -> None:
    result = run("inspect", sources)
    assert result.exit_code == 0, result.output
    assert "tiny, released names" in result.output and "image tokenizer tiny" in result.output


def test_what_differs_is_told(sources: Path) -> None:
    file = sources / "unwrapped_model" / "pytorch_model.bin"
    torch.save({**torch.load(file), "to_logits.0.bias": torch.zeros(140)}, file)
    result = run("inspect", file)
    assert result.exit_code == 0, result.output
    assert "nearest to tiny, released names" in result.output
    assert "of another shape: to_logits.0.bias: (140,) instead of (70,)" in result.output


def test_a_checkpoint_that_cannot_be_loaded_fails(ours: Path) -> None:
    os.truncate(ours / "model.safetensors", 1000)
    result = run("inspect", ours)
    assert result.exit_code == 1
    assert "problem:" in result.output and "truncated" in result.output


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "there is no such file or folder"), (b"no weights", "is not a weights file, is truncated")],
)
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content:
        (tmp_path / "a.bin").write_bytes(content)
    result = run("inspect", tmp_path / "a.bin")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ") and str(tmp_path / "a.bin") in result.stderr and said in result.stderr


def test_a_release_is_converted_and_back(sources: Path) -> None:
    out, back = sources / "ours", sources / "back"
    result = run("convert", sources, out, *with_tokenizers(sources))
    assert result.exit_code == 0, result.output
    assert "an action of 1.0 is 0.02 m and 0.05 rad, 30 a second" in result.output
    assert run("inspect", out).exit_code == 0
    result = run("convert", out, back, "--to", "released")
    assert result.exit_code == 0, result.output
    assert "set in the official code: layers: 2 instead of 24" in result.output
    assert "conditioning" not in result.output  # it is the release's
    assert "scale: 0.02, 0.02, 0.02, 0.05, 0.05, 0.05, 1\n" in result.output
    one, other = (torch.load(folder / "unwrapped_model" / "pytorch_model.bin") for folder in (sources, back))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_what_an_action_means_is_as_told(sources: Path) -> None:
    result = run(
        "convert", sources, sources / "ours", *with_tokenizers(sources), "--rate-hz", 15, "--position-scale-m", 0.01,
        "--rotation-scale-rad", 0.1, "--rotation", "axis_angle", "--frame", "tool", "--gripper", "closed_signed",
        "--anchor", "commanded", "--camera", "static", "--camera-size", "640x480",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    found = load_manifest(sources / "ours")
    assert found.normalization.scale == (0.01,) * 3 + (0.1,) * 3 + (1.0,)
    action = found.action
    assert (action.rate_hz, action.rotation, action.frame) == (15.0, "axis_angle", "tool")
    assert (action.gripper, action.anchor) == ("closed_signed", "commanded")
    assert found.cameras[0].model_dump() == {"name": "static", "width": 640, "height": 480}
    assert found.code_cameras == ("static",)


def test_training_starts_from_show_o(sources: Path) -> None:
    given = [sources / "show_o", sources / "start", *with_tokenizers(sources)]
    result = run("convert", *given, "--start")
    assert result.exit_code == 2 and "--clip: missing" in result.stderr
    result = run("convert", *given, "--start", "--clip", sources / "clip")
    assert result.exit_code == 1
    assert f"{sources / 'clip'}: there is no such folder; a local copy of CLIP" in result.stderr
    save_clip(sources / "clip")
    result = run("convert", *given, "--start", "--clip", sources / "clip", "--seed", 3)
    assert result.exit_code == 0 and "an action head of seed 3" in result.output, result.output
    assert load_manifest(sources / "start").start["seed"] == 3
    assert "seed 3, left out nothing" in " ".join(run("inspect", sources / "start").output.split())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--robot", "r2d2"), "unknown robot 'r2d2'"),
        (("--camera-size", "200"), "--camera-size: '200' is not a size; it should be like 200x200"),
        (("--rate-hz", "0"), "rate_hz: Input should be greater than 0"),
        (("--rotation", "matrix"), "rotation: Input should be 'euler_xyz'"),
        (("--rotation", "quaternion"), "error: values of an action: 8, but model.action_dims: 7"),
        (("--gripper", "wide"), "gripper: Input should be 'none'"),
        (("--size", "up-vla-demo"), "error: values in state: 0, but model.state_dims: 8; vision: conditioning"),
        (("--size", "huge"), "huge: unknown size; there are up-vla-release"),
        (("--to", "released"), "--image-tokenizer, --text, --size: cannot be combined with --to released"),
        (("--seed", "4"), "--seed: needs --start"),
        (("--conditioning", "paper"), "--conditioning: needs --start; that of released"),
        (("--conditioning", "paper", "--to", "released"), "--size, --conditioning: cannot be combined with"),
        (("--conditioning", "both"), "Invalid value for '--conditioning'"),
        (("--camera", ""), "camera.name: String should have at least 1 character"),
    ],
)
def test_wrong_requests_are_refused(sources: Path, options: tuple[str, ...], said: str) -> None:
    result = run("convert", sources, sources / "ours", *with_tokenizers(sources), *options)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert not (sources / "ours").exists()


def test_weights_of_ours_are_rounded(ours: Path, tmp_path: Path) -> None:
    given = ("convert", ours, tmp_path / "small")
    for options, said in (
        ((), "is already a checkpoint of vla_ros, so there is nothing to convert; --dtype rounds"),
        (("--dtype", "bfloat16", "--seed", 3, "--text", tmp_path), "--text, --seed: "),
        (("--start", "--conditioning", "paper"), "--start, --conditioning: "),
    ):
        result = run(*given, *options)
        assert result.exit_code == 2 and said in result.stderr, result.output
        assert not (tmp_path / "small").exists()
    assert run(*given, "--dtype", "bfloat16").exit_code == 0
    told = run("inspect", tmp_path / "small")
    assert told.exit_code == 0 and "bfloat16" in told.output
    assert load_manifest(tmp_path / "small") == load_manifest(ours)
    again = run(*given, "--dtype", "float16")
    assert again.exit_code == 2 and "already exists; give a new folder" in again.stderr


def test_nothing_that_is_there_is_overwritten(sources: Path) -> None:
    result = run("convert", sources, sources / "phi", *with_tokenizers(sources))
    assert result.exit_code == 2 and "already exists; give a new folder" in result.stderr


def test_tokenizers_have_to_be_given(sources: Path) -> None:
    result = run("convert", sources, sources / "ours")
    assert result.exit_code == 2 and "--image-tokenizer, --text: missing" in result.stderr


def test_defaults_are_told_as_they_are() -> None:
    told = " ".join(run("convert", "--help").output.replace("│", " ").split())
    default = Deployment()
    for value in (
        default.robot, default.camera.name, f"{default.camera.width}x{default.camera.height}",
        f"{default.rate_hz:g}, CALVIN's", f"{default.position_scale_m:g}, CALVIN's",
        f"{default.rotation_scale_rad:g}, CALVIN's", f"{default.rotation.value}, CALVIN's",
        f"{default.frame.value}, CALVIN's", default.anchor.value, f"{default.gripper.value}, CALVIN's",
        parameter(release_manifest, "size"), parameter(make_start, "seed"),
        parameter(release_manifest, "conditioning"),
    ):  # fmt: skip
        assert f"[default: ({value})]" in told, value
    assert f"otherwise they stay (--start: {parameter(make_start, 'dtype')})" in told
    assert [kept.value for kept in Kept] == list(DTYPES)
    assert [conditioned.value for conditioned in Conditioned] == list(get_args(Conditioning))


def parameter(function: Callable[..., object], name: str) -> object:
    return inspect.signature(function).parameters[name].default


def test_help_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; from vla_ros.cli.app import app; app(['checkpoint', '--help'])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0 and "inspect" in result.stdout, result.stderr
