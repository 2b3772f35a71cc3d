"""Our checkpoints: loaded as they were saved, whole whatever happens, refused with a reason where they are not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import tiny_up_vla
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from vla_ros.checkpoints import files
from vla_ros.checkpoints.files import CheckpointError, write_tensors
from vla_ros.checkpoints.inspecting import inspect
from vla_ros.checkpoints.manifest import Bundle, UpVlaManifest, load, load_manifest, save
from vla_ros.checkpoints.requirements import CameraInput
from vla_ros.recording.upkeep import staging
from vla_ros.tokenizers.text import TextTokenizer

FULL = os.environ.get("VLA_ROS_FULL") == "1"
SHIPPED = Path(__file__).parents[2] / "resource" / "up-vla-demo"
FILES = {"manifest.json", "model.safetensors", "image_tokenizer.safetensors", "vision.safetensors", "text", "README.md"}


@pytest.fixture
def saved(tiny: Bundle, tmp_path: Path) -> Path:
    save(tmp_path / "lifter", tiny, "# Lifts cubes")
    return tmp_path / "lifter"


def weights(bundle: Bundle) -> dict[str, torch.Tensor]:
    networks = (bundle.model, bundle.image_tokenizer, bundle.vision)
    return {f"{n}.{name}": each for n, net in enumerate(networks) if net for name, each in net.state_dict().items()}


def test_what_is_loaded_is_what_was_saved(tiny: Bundle, saved: Path) -> None:
    assert {path.name for path in saved.iterdir()} == FILES
    found = load(saved)
    assert found.manifest == tiny.manifest == load_manifest(saved)
    assert weights(found).keys() == weights(tiny).keys()
    for name, tensor in weights(tiny).items():
        assert torch.equal(weights(found)[name], tensor), name
    assert found.text.encode("lift the blue cube") == tiny.text.encode("lift the blue cube")
    images = torch.randint(0, 256, (1, 2, tiny_up_vla.PIXELS, tiny_up_vla.PIXELS, 3), dtype=torch.uint8)
    assert tiny.vision and found.vision
    assert torch.equal(found.vision.encode(images), tiny.vision.encode(images))
    assert not any(network.training for network in (found.model, found.image_tokenizer))
    assert (saved / "README.md").read_text() == "# Lifts cubes"


def test_codes_are_computed_in_full_whatever_the_model_is_in(saved: Path) -> None:
    found = load(saved, dtype=torch.bfloat16)
    assert {each.dtype for each in found.model.parameters()} == {torch.bfloat16}
    assert {each.dtype for each in found.image_tokenizer.parameters()} == {torch.float32}


def test_a_loaded_model_can_be_trained(saved: Path) -> None:
    found = load(saved)
    assert all(parameter.requires_grad and not parameter.is_meta for parameter in found.model.parameters())
    found.model.norm.weight.sum().backward()


def test_a_manifest_of_another_model_is_not_saved(tiny: Bundle, tmp_path: Path) -> None:
    other = tiny.manifest.model_copy(update={"vision": None})
    with pytest.raises(CheckpointError, match="the manifest's vision is not the one to be saved"):
        save(tmp_path / "a", Bundle(other, tiny.model, tiny.image_tokenizer, tiny.vision, tiny.text))
    assert not (tmp_path / "a").exists()


# --- a process that saves is killed


def steps_until_done_or_killed(work: Callable[[], None], step: int, told: Path) -> tuple[int, int]:
    """Run `work` in a process that is killed before its `step`-th step on the disk.

    Returns how many steps it came to, and at which the two folders were exchanged (-1: not yet).
    """
    child = os.fork()
    if child == 0:
        count, exchanged = 0, -1

        def counted(function: Callable[..., Any]) -> Callable[..., Any]:
            def then(*given: Any, **more: Any) -> Any:
                nonlocal count, exchanged
                if count == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                exchanged = count if function.__name__ == "_exchange" else exchanged
                count += 1
                return function(*given, **more)

            return then

        try:
            for name in ("fsync", "replace", "mkdir", "unlink", "rmdir"):
                setattr(os, name, counted(getattr(os, name)))
            staging._exchange = counted(staging._exchange)
            work()
            told.write_text(f"{count} {exchanged}")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    if not told.exists():
        return step, -1
    count, exchanged = map(int, told.read_text().split())
    told.unlink()
    return count, exchanged


def test_a_kill_leaves_the_old_checkpoint_or_the_new_one(tiny: Bundle, saved: Path, tmp_path: Path) -> None:
    """What is loaded is the one or the other as a whole, and the next save goes well."""
    new, told = tiny_up_vla.bundle(seed=1, trained={"steps": 7}), tmp_path / "told"
    count, exchanged = steps_until_done_or_killed(lambda: save(saved, new, "# Newer"), -1, told)
    assert 0 < exchanged < count
    steps = range(count) if FULL else [*range(0, count, 8), exchanged, exchanged + 1]
    for step in steps:
        save(saved, tiny, "# Lifts cubes")
        assert steps_until_done_or_killed(lambda: save(saved, new, "# Newer"), step, told) == (step, -1)
        found = load(saved)
        is_new = step > exchanged
        assert found.manifest == (new if is_new else tiny).manifest, step
        for name, tensor in weights(new if is_new else tiny).items():
            assert torch.equal(weights(found)[name], tensor), (step, name)
        assert (saved / "README.md").read_text() == ("# Newer" if is_new else "# Lifts cubes")
    save(saved, tiny)
    assert [path.name for path in tmp_path.iterdir()] == ["lifter"]


def test_an_error_leaves_the_old_checkpoint(tiny: Bundle, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fails)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save(saved, tiny_up_vla.bundle(seed=1))
    monkeypatch.undo()
    assert torch.equal(load(saved).model.norm.weight, tiny.model.norm.weight)
    assert [path.name for path in saved.parent.iterdir()] == ["lifter"]


def test_what_others_put_beside_is_kept(tiny: Bundle, saved: Path) -> None:
    (saved / "films").mkdir()
    (saved / "films" / "success.mp4").write_bytes(b"film")
    (saved / "notes.txt").write_text("works well")
    (saved / "clip").mkdir()  # of a checkpoint that had one
    save(saved, tiny)
    assert (saved / "films" / "success.mp4").read_bytes() == b"film"
    assert (saved / "notes.txt").read_text() == "works well"
    assert not (saved / "clip").exists() and not (saved / "README.md").exists()


def test_only_checkpoints_are_replaced(tiny: Bundle, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").write_text("all of it")
    (tmp_path / "file").write_text("something")
    for name in ("work", "file"):
        with pytest.raises(CheckpointError, match="exists, is not a checkpoint .* and is not replaced"):
            save(tmp_path / name, tiny)
    assert (tmp_path / "work" / "thesis.txt").read_text() == "all of it"
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    save(tmp_path / "link", tiny)
    save(tmp_path / "link", tiny)
    assert (tmp_path / "link").is_symlink() and load_manifest(tmp_path / "empty") == tiny.manifest


# --- what is not whole, or not ours


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as raised:
        load(folder)
    return str(raised.value)


@pytest.mark.parametrize("name", ["model.safetensors", "image_tokenizer.safetensors", "vision.safetensors"])
def test_a_truncated_file_is_refused(saved: Path, name: str) -> None:
    os.truncate(saved / name, (saved / name).stat().st_size - 4)
    assert refused(saved).startswith(f"{saved / name} is not a safetensors file, or is truncated")


@pytest.mark.parametrize("name", sorted(FILES - {"README.md"}))
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    shutil.rmtree(saved / name) if (saved / name).is_dir() else (saved / name).unlink()
    assert name in refused(saved)


def test_weights_of_another_size_are_refused(saved: Path) -> None:
    content = json.loads((saved / "manifest.json").read_text())
    content["model"]["layers"] = 3
    (saved / "manifest.json").write_text(json.dumps(content))
    assert "missing: blocks.2: 12 weights each (12), as " in refused(saved)


def test_another_text_tokenizer_is_refused(saved: Path) -> None:
    TextTokenizer.train(["pick up the cup"], 280, saved / "text")
    assert "has a text tokenizer of 280 entries, and 270 are needed" in refused(saved)


def test_a_vision_encoder_that_the_model_does_not_take_is_refused(tiny: Bundle, tmp_path: Path) -> None:
    cameras = (*tiny.manifest.cameras, CameraInput(name="top", width=64, height=48))
    other = tiny.manifest.model_copy(update={"cameras": cameras})
    with pytest.raises(CheckpointError, match="gives 12 features of 16 numbers for 3 cameras, and the model takes 8"):
        save(tmp_path / "a", Bundle(other, tiny.model, tiny.image_tokenizer, tiny.vision, tiny.text))
    save(tmp_path / "b", tiny)
    (tmp_path / "b" / "manifest.json").write_text(other.model_dump_json())
    assert [problem for problem in inspect(tmp_path / "b").problems if "gives 12 features" in problem]


def test_what_is_no_checkpoint_is_told(tmp_path: Path, saved: Path) -> None:
    assert refused(tmp_path / "nothing") == f"{tmp_path / 'nothing'}: there is no such folder"
    assert "a checkpoint of vla_ros is a folder" in refused(saved / "model.safetensors")
    assert "there is no manifest.json in it" in refused(tmp_path)
    release = tmp_path / "release" / "unwrapped_model" / "pytorch_model.bin"
    release.parent.mkdir(parents=True)
    torch.save({}, release)
    assert refused(tmp_path / "release").endswith("convert it with vla-ros checkpoint convert")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda m: m.update(format="vla_ros/up_vla/9"),
            "format 'vla_ros/up_vla/9'; 'vla_ros/up_vla/1' is",
        ),
        (lambda m: m.pop("robot"), "robot: Field required"),
        (lambda m: m.update(colour="red"), "colour: Extra inputs are not permitted"),
        (lambda m: m.pop("normalization"), "normalization: Field required"),
        (lambda m: m["normalization"]["scale"].__setitem__(2, 0.0), "no scale may be 0"),
        (lambda m: m["action"].update(horizon=9), "action.horizon: 9, but model.action_rows: 10"),
        (lambda m: m["model"].update(heads=3), "model: heads must divide width 32, got 3"),
        (lambda m: m["model"].update(layers=10**9), "model.layers: Input should be less than or equal to 512"),
        (
            lambda m: m["model"].update(width=10**9, heads=1),
            "model.width: Input should be less than or equal to 1000000",
        ),
        (lambda m: m["image_tokenizer"].update(encoder_blocks=[10**9] * 5), "image_tokenizer: "),
        (lambda m: m.update(pixels=10**9), "pixels: Input should be less than or equal to 8192"),
        (lambda m: m["action"].update(rate_hz=1e-300), "action.rate_hz: Input should be greater than or equal to 0.01"),
        (lambda m: m.update(robot="x" * 10_000_000), "robot: a text of 10000000 characters (given 'xxxxxxxxxx"),
    ],
)
def test_a_manifest_that_is_wrong_is_told(saved: Path, change: Callable[[Any], Any], said: str) -> None:
    content = json.loads((saved / "manifest.json").read_text())
    change(content)
    (saved / "manifest.json").write_text(json.dumps(content))
    assert said in refused(saved) and "manifest.json" in refused(saved)


JSON = st.recursive(
    st.none() | st.booleans() | st.sampled_from([0, -1, 10**9, 10**400, 0.5, 1e300, float("nan"), "", "x", "\ud800"]),
    lambda parts: st.lists(parts, max_size=2) | st.dictionaries(st.sampled_from(["a", "width"]), parts, max_size=2),
    max_leaves=3,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_to_any_part_of_a_manifest_is_told(saved: Path, data: st.DataObject) -> None:
    """Or does not matter; in any case the rest is looked at in no time."""
    whole = (saved / "manifest.json").read_text()
    content = part = json.loads(whole)
    while True:
        key = data.draw(st.sampled_from(sorted(part) if isinstance(part, dict) else range(len(part))))
        if not isinstance(part[key], (dict, list)) or not part[key] or data.draw(st.booleans()):
            break
        part = part[key]
    part[key] = data.draw(JSON)
    told = ""
    try:
        (saved / "manifest.json").write_text(json.dumps(content))
        inspect(saved)
    except CheckpointError as error:
        told = str(error)
    finally:
        (saved / "manifest.json").write_text(whole)
    assert not told or ("manifest.json" in told and len(told) < 5000)


@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors", "text/tokenizer.json"])
def test_a_pipe_is_not_waited_for(saved: Path, name: str) -> None:
    (saved / name).unlink()
    os.mkfifo(saved / name)
    assert name in refused(saved) and "it is not a regular file" in refused(saved)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[1]", b"null", b"[" * 100_000])
def test_a_manifest_that_is_none_is_told(saved: Path, content: bytes) -> None:
    (saved / "manifest.json").write_bytes(content)
    assert str(saved / "manifest.json") in refused(saved)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"code_cameras": ("top",)}, "code_cameras: top is none of the cameras ['front', 'wrist']"),
        ({"code_cameras": ("front", "wrist")}, "code_cameras: 2, but model.views: 1"),
        ({"pixels": 40}, "codes of a frame: 25, but model.image_codes: 16"),
        ({"pixels": 34}, "codes of a frame: 18.0625, but model.image_codes: 16"),
        ({"state": None}, "values in state: 0, but model.state_dims: 8"),
        ({"vision": None}, "conditioning `paper` needs a vision encoder"),
        ({"cameras": ({"name": "front", "width": 64, "height": 48},) * 2}, "cameras: a name stands twice"),
        ({"normalization": {"offset": (0.0,), "scale": (1.0,)}}, "values in normalization: 1, but of an action: 7"),
        ({"normalization": {"offset": (0.0,) * 7, "scale": (1.0,)}}, "as many offsets as scales, got 7 and 1"),
    ],
)
def test_parts_that_do_not_fit_are_told(tiny: Bundle, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as raised:
        UpVlaManifest(**{**tiny.manifest.model_dump(), **changes})
    assert said in str(raised.value)


def test_a_nan_in_the_weights_is_refused(saved: Path, tiny: Bundle) -> None:
    state = {name: tensor.clone() for name, tensor in tiny.model.state_dict().items()}
    state["blocks.1.norm.bias"][0] = float("inf")
    write_tensors(saved / "model.safetensors", state)
    assert refused(saved).endswith("holds values that are no finite numbers, in blocks.1.norm.bias")


def test_loading_weights_imports_no_compiler() -> None:
    """It takes two seconds of every start of the inference node."""
    program = f"""
import sys
from vla_ros.policies import registry
from vla_ros.robots.panda import PANDA
registry.load("up_vla", robot=PANDA, action=None, checkpoint={str(SHIPPED)!r})
assert "torch._dynamo" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
