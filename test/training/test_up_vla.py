"""One command makes a checkpoint of datasets, ours and others', and conversations; wrong asks are named."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner, Result

from vla_ros.checkpoints import manifest, requirements
from vla_ros.cli.app import app
from vla_ros.cli.train import _given, _read, _request
from vla_ros.models import up_vla as model
from vla_ros.policies import registry
from vla_ros.recording.convert import Conversion, convert
from vla_ros.recording.files import FolderLock
from vla_ros.robots.panda import PANDA
from vla_ros.tokenizers import magvit2
from vla_ros.tokenizers.text import TextTokenizer
from vla_ros.training import config
from vla_ros.training.card import record_success
from vla_ros.training.describing import carried_on, described_samples, read_descriptions
from vla_ros.training.distributed import Processes
from vla_ros.training.image_tokenizer import ImageTokenizerTraining
from vla_ros.training.up_vla import UpVlaTraining
from vla_ros.training.up_vla_material import Request
from vla_ros.training.windows import TCP_STEPS
from vla_ros.values import Committed, Observation
from vla_ros.viewing.curves import render_curves

REFERENCE = Path(__file__).parents[1] / "reference" / "lerobot-0.6.1"
INSTRUCTIONS = ("lift the red cube", "lift the blue cube")
#: What `data` says of the reference, whose names are not ours; but for its state.
THEIRS: dict[str, Any] = {
    "cameras": ["hand"], "code_cameras": ["hand"], "camera_keys": {"hand": "wrist"}, "pixels": 32, "source": "column",
    "action": {"space": "joint_position", "gripper": "width_m", "rate_hz": 30.0, "horizon": 5,
               "rotation_scale_rad": 0.01},
}  # fmt: skip
FAST = config.OptimizerConfig(learning_rate=1e-3, warmup_steps=0, clip_norm=1.0)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = magvit2.Magvit2Config(
        channels=8, multipliers=(1, 1), encoder_blocks=(1, 1), decoder_blocks=(1, 1), code_bits=4, groups=4, patch=4
    )
    monkeypatch.setitem(magvit2.MAGVIT2_SIZES, "tiny", tokenizer)
    sizes = {
        "vocabulary": model.Vocabulary(text_size=300, end_of_text=0, codes=16), "layers": 1, "width": 16, "heads": 2,
        "mlp_width": 16, "head_heads": 2, "head_mlp_width": 16, "feature_width": 16, "max_description": 4,
    }  # fmt: skip
    tiny = model.SIZES["up-vla-demo"].model_copy(update=sizes)
    monkeypatch.setitem(model.SIZES, "tiny", tiny)
    recipe = config.Recipe(
        image_tokenizer=ImageTokenizerTraining(size="tiny", steps=2, batch=2),
        see=config.Schedule(steps=2, batch=4, optimizer=FAST),
        stage_1=config.Stage(steps=2, batch=4, conversations=2, act=0.0, optimizer=FAST),
        stage_2=config.Stage(steps=3, batch=4, conversations=2, parts=2, optimizer=FAST, ema_decay=0.9),
        describe_every_s=1.0,
        held_out=0.34,
    )
    monkeypatch.setitem(config.RECIPES, "tiny", recipe)


def train(*words: object) -> Result:
    return CliRunner().invoke(app, ["train", "up_vla", "--size", "tiny", "--device", "cpu", *map(str, words)])


def test_one_command_makes_a_checkpoint(
    dataset: Path, conversations: Path, measures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    written = tmp_path / "config.yaml"
    written.write_text(yaml.safe_dump({"data": {"pixels": 32}, "run": {"log_every": 1}}))
    said = ("--conversations", conversations, "--measures", measures)
    words = ("--dataset", dataset, *said, "--out", out, "--config", written)
    first = train(*words, "--stage", "1")
    assert first.exit_code == 0, first.output
    assert not (out / "checkpoint").exists()
    assert train(*words).exit_code == 2, "a training is there, and --resume was not given"

    before = (out / "stage-1" / "curves.jsonl").stat().st_mtime_ns
    (out / "descriptions.1.jsonl").write_text('{"sample": 30, "text": "as\u2028before"}\n{"sam')
    with monkeypatch.context() as patched:
        answer = model.UpVla.answer
        patched.setattr(model.UpVla, "answer", lambda *said: signal.raise_signal(signal.SIGINT) or answer(*said))
        stopped = train(*words, "--resume")
    assert stopped.exit_code == 130, stopped.output
    assert "describe stopped after 1 of 5 scenes; saved in" in stopped.stderr
    assert re.search(rf"to continue: .*train up_vla .*--out {out} .*--resume", stopped.stderr)
    assert len(read_descriptions(out / "descriptions.0.jsonl")) == 1
    rest = train(*words, "--resume")
    assert rest.exit_code == 0, rest.output
    assert "describe 4/4" in rest.stderr, "those that were missing"
    assert (out / "stage-1" / "curves.jsonl").stat().st_mtime_ns == before, "what is done is not done again"
    bundle = manifest.load(out / "checkpoint")
    told = bundle.manifest
    assert told.robot == "panda"
    assert told.instructions == ("lift the blue cube", "lift the red cube")
    assert told.words == ("blue", "cube", "lift", "red", "the")
    assert told.proprioception == ("joints", "gripper")
    assert (told.cameras[0].width, told.cameras[0].height) == (64, 48)
    assert told.trained["held_out_episodes"] == [1]
    assert told.questions == ("describe this image",)
    assert told.description_period_s == 1.0, "as often as it was described in training"
    assert told.trained["stages"]["stage 2"]["step"] == 3
    assert told.trained["stages"]["see"]["step"] == 2
    assert "held_out_measure" in told.trained["stages"]["see"]
    lines = [json.loads(line) for line in (out / "stage-2" / "curves.jsonl").read_text().splitlines()]
    assert {"predict", "act", "understand", "held_out_act", "frames_per_s", "mfu"} <= set(lines[-1])
    asked = described_samples([range(20), range(20, 40), range(40, 60)], 10)
    assert sorted(read_descriptions(out / "descriptions.jsonl")) == asked == [0, 10, 20, 30, 40, 50]
    assert read_descriptions(out / "descriptions.jsonl")[30] == "as\u2028before", "no new line"
    assert not list(out.glob("descriptions.*.jsonl"))
    assert Image.open(out / "curves.png").width > 500
    card = out / "checkpoint" / "README.md"
    assert "60 rows" in card.read_text()
    record_success(out / "checkpoint", "23 of 50")
    assert "| success rate | 23 of 50 |\n" in card.read_text()

    other = tmp_path / "other.yaml"
    known = yaml.safe_load(written.read_text())
    for change in ({"state_dropout": 0.5}, {"describe_every_s": 9.0}):
        other.write_text(yaml.safe_dump({**known, "recipe": {**known.get("recipe", {}), **change}}))
        refused = train(*words[:-1], other, "--resume")
        assert refused.exit_code == 1
        assert "is of another training: the recipe was" in refused.output

    descriptions = (out / "descriptions.jsonl").read_text()
    (out / "descriptions.jsonl").write_text(descriptions.replace("before", "after"))
    refused = train(*words, "--resume")
    assert refused.exit_code == 1
    assert "is of another training: what it said itself was" in refused.output
    (out / "descriptions.jsonl").write_text(descriptions)

    other.write_text(yaml.safe_dump({"data": {"state_keys": []}}))
    blind = ("--dataset", dataset, "--out", tmp_path / "blind", "--start", out / "checkpoint", "--config", other)
    refused = train(*blind)
    assert refused.exit_code == 1
    assert "takes 8 values of proprioception, and the data has 0" in refused.output

    refused = train(*blind[:2], "--out", tmp_path / "seen", "--start", out / "checkpoint", "--measures", measures)
    assert refused.exit_code == 1
    assert "a start brings one that sees" in refused.output

    for data, said in (
        ({"state_streams": ["gripper", "joints"]}, "takes joints, gripper for proprioception, and the data has gr"),
        ({"pixels": 48}, "sees 32 pixels, not data.pixels: 48"),
    ):
        other.write_text(yaml.safe_dump({"data": data}))
        refused = train(*blind[:2], "--out", tmp_path / "other", "--start", out / "checkpoint", "--config", other)
        assert refused.exit_code == 1
        assert said in refused.output
        assert not (tmp_path / "other").exists(), "before frames are decoded"

    again = train("--dataset", dataset, "--out", tmp_path / "more", "--start", out / "checkpoint", "--config", written)
    assert again.exit_code == 0, again.output
    more = manifest.load(tmp_path / "more" / "checkpoint")
    assert more.manifest.normalization == told.normalization
    assert all(
        torch.equal(tensor, more.image_tokenizer.state_dict()[name])
        for name, tensor in bundle.image_tokenizer.state_dict().items()
    ), "the image tokenizer is frozen"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_it_is_trained_and_judged_as_well(
    dataset: Path, conversations: Path, measures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    said = ("--conversations", conversations, "--measures", measures)
    done = train("--dataset", dataset, *said, "--out", out, "--device", "cuda")
    assert done.exit_code == 0, done.output
    last = json.loads((out / "stage-2" / "curves.jsonl").read_text().splitlines()[-1])
    assert "held_out_act" in last


@pytest.mark.parametrize(
    ("of_state", "streams"),
    [({"state_streams": ["joints", "gripper"]}, ("joints", "gripper")), ({"state_keys": []}, ())],
)
def test_datasets_of_others_train_as_well(
    of_state: dict[str, list[str]], streams: tuple[str, ...], tmp_path: Path
) -> None:
    """And what comes of it is a checkpoint as any: it can be loaded for the arm, and judged with the same file."""
    written = tmp_path / "config.yaml"
    written.write_text(yaml.safe_dump({"data": {**THEIRS, **of_state}, "recipe": {"held_out": 0.0}}))
    result = train("--dataset", REFERENCE, "--out", tmp_path / "out", "--config", written, "--steps", 1)
    assert result.exit_code == 0, result.output
    checkpoint = tmp_path / "out" / "checkpoint"
    told = manifest.load_manifest(checkpoint)
    assert told.model.action_rows == 5
    assert (told.robot, told.action.joint_names) == ("panda", PANDA.joint_names)
    assert told.proprioception == streams
    assert told.description_period_s is None, "it never learnt to speak"

    policy = registry.load("up_vla", robot=PANDA, checkpoint=str(checkpoint))
    policy.reset("pick 0")
    state = {"joints": np.array(PANDA.home_rad), "gripper": np.array([0.04])}
    seen = {"hand": np.zeros((240, 320, 3), np.uint8)}
    chunk = policy.infer((Observation(1, seen, {name: state[name] for name in streams}),), Committed()).chunk
    assert np.asarray(chunk.actions).shape == (5, 8)

    judged = ("--checkpoint", checkpoint, "--dataset", REFERENCE, "--config", written, "--samples", 2)
    result = CliRunner().invoke(app, ["evaluate", *map(str, judged), "--out", str(tmp_path / "judged")])
    assert result.exit_code == 0, result.output
    said = json.loads((tmp_path / "judged" / "report.json").read_text())
    assert said["samples"] == 2
    assert (said["path"] is not None) is bool(streams), "where the arm would go is known where its joints are"


def test_an_older_format_trains_with_conversations(dataset: Path, conversations: Path, tmp_path: Path) -> None:
    convert(dataset, tmp_path / "older", Conversion(to="v2.1"))
    said = ("--conversations", conversations, "--steps", 1)
    result = train("--dataset", tmp_path / "older", *said, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert manifest.load_manifest(tmp_path / "out" / "checkpoint").description_period_s is not None


def test_a_folder_has_one_training_at_a_time(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with FolderLock(out, out / ".lock"):
        result = train("--dataset", REFERENCE, "--out", out)
    assert result.exit_code == 1
    assert f"{out} is being written by process {os.getpid()}" in result.output
    assert "one writer at a time" in result.output


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "which streams of a panda the state is (observation.state: j0, j1, "),
        (
            {"state_streams": ["joints"]},
            "(joints) for a panda: 7, but of data.state_keys (observation.state): 8",
        ),
        ({"state_keys": [], "robot": "arm"}, "data.robot: 'arm' is not in the catalogue; say which arm it is by"),
        (
            {"state_keys": [], "action": {**THEIRS["action"], "gripper": "none"}},
            "of joints j0, j1, j2, j3, j4, j5, j6, j7, and a panda has panda_joint1, ",
        ),
        ({"state_keys": [], "pixels": 100}, "data.pixels: 100 is not a multiple of 16, which the encoders"),
    ],
)
def test_what_others_did_not_say_is_asked_for_before_anything_takes_time(
    change: dict[str, object], said: str, tmp_path: Path
) -> None:
    written = tmp_path / "config.yaml"
    written.write_text(yaml.safe_dump({"data": {**THEIRS, **change}}))
    result = train("--dataset", REFERENCE, "--out", tmp_path / "out", "--config", written)
    assert result.exit_code == 1, result.output
    assert said in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("has_acted", [True, False])
def test_a_release_is_trained_further_as_it_was(dataset: Path, tmp_path: Path, has_acted: bool) -> None:
    """Conditioning `released`: one view, no features, no state; its rule at the end of episodes, all its pads.

    Weights that have not acted, as Show-o's, bring no scale of actions.
    """
    tokenizer = magvit2.Magvit2(magvit2.MAGVIT2_SIZES["tiny"])
    text = TextTokenizer.train(INSTRUCTIONS, 300)
    sizes = {"conditioning": "released", "image_codes": 4, "max_text": 10, "state_dims": 0}
    network = model.UpVla(model.UpVlaConfig.model_validate({**model.SIZES["tiny"].model_dump(), **sizes}))
    told = manifest.UpVlaManifest(
        size="tiny", model=network.config, image_tokenizer=tokenizer.config, robot="panda",
        cameras=(requirements.CameraInput(name="front", width=64, height=48),), code_cameras=("front",), pixels=16,
        action=TCP_STEPS, normalization=requirements.Normalization(offset=(0.0,) * 7, scale=(0.01,) * 7),
        **{"trained" if has_acted else "start": {"on": "x"}},
    )  # fmt: skip
    start = tmp_path / "start"
    manifest.save(start, manifest.Bundle(told, network, tokenizer, None, text))
    written = tmp_path / "config.yaml"
    written.write_text(yaml.safe_dump({"recipe": {"pads_to_longest": False}, "run": {"log_every": 1}}))
    words = ("--dataset", dataset, "--out", tmp_path / "out", "--config", written, "--start", start)
    refused = train(*words, "--conversations", REFERENCE / "meta" / "info.json")
    assert refused.exit_code == 1
    assert "no vision encoder" in refused.output
    shorter = {"data": {"action": TCP_STEPS.model_copy(update={"horizon": 5}).model_dump(mode="json")}}
    (tmp_path / "shorter.yaml").write_text(yaml.safe_dump(shorter))
    refused = train(*words, "--config", tmp_path / "shorter.yaml", "--out", tmp_path / "shorter")
    assert refused.exit_code == 1
    assert ("gives actions" if has_acted else "gives 10 rows of 7 values, and the data has 5 of 7") in refused.output
    result = train(*words)
    assert result.exit_code == 0, result.output
    trained = manifest.load(tmp_path / "out" / "checkpoint")
    assert (trained.manifest.normalization == told.normalization) is has_acted
    assert trained.manifest.state is None
    assert not torch.equal(trained.model.action_head.actions.weight, network.action_head.actions.weight)
    assert torch.equal(trained.model.projector[0].weight, network.projector[0].weight), "nothing trains it here"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--stage", "3"), "--stage: unknown stage 3"),
        (("--size", "up-vla-giant"), "unknown size up-vla-giant; should be one of"),
        (("--size", "up-vla-release"), "give a checkpoint to start from"),
        (("--precision", "half"), "precision"),
        (("--device", "tpu9"), "tpu9"),
        (("--start", "nowhere"), "nowhere"),
        (("--conversations", "nowhere.json"), "nowhere.json"),
        (("--config", "nowhere.yaml"), "--config: nowhere.yaml cannot be read"),
        (("--resume",), "contains no training to continue"),
        (("--batch", "5"), "parts"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(dataset: Path, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    result = train("--dataset", dataset, "--out", tmp_path / "out", *words)
    assert result.exit_code in (1, 2)
    assert isinstance(result.exception, SystemExit), result.exception
    assert said in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists(), "and before anything takes time"


@pytest.mark.parametrize(("world", "what"), [(8, "stage_1.batch: 4"), (4, "stage_1.conversations: 2")])
def test_what_processes_cannot_share_is_said_before_anything_is_read(tmp_path: Path, world: int, what: str) -> None:
    request = Request((), tmp_path, "tiny", config.RECIPES["tiny"], conversations=(tmp_path / "talk.json",))
    with pytest.raises(ValueError, match=f"{what} cannot be shared evenly by {world} processes in 1 parts"):
        UpVlaTraining(request, Processes(0, world), lambda what, done, total, said: None)


def test_a_description_holds_until_the_next_within_an_episode() -> None:
    carried = carried_on({0: "a", 2: "b", 5: "c"}, [range(4), range(4, 7)])
    assert carried == {0: "a", 1: "a", 2: "b", 3: "b", 4: "", 5: "c", 6: "c"}


def test_curves_without_a_line_are_no_picture(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no curves"):
        render_curves({"stage 1": []}, tmp_path / "curves.png")


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("recipe: 3", "recipe should be sections"),
        ("- 1", "found list"),
        ("model: {}", "found model"),
        ("data: {", "read"),
    ],
)
def test_a_config_of_another_form_is_refused(dataset: Path, tmp_path: Path, written: str, said: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(written)
    result = train("--dataset", dataset, "--out", tmp_path / "out", "--config", path)
    assert result.exit_code == 2
    assert said in result.output


def test_the_file_goes_over_the_size_and_options_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    file = {
        "recipe": {"held_out": 0.0, "augmentation": None, "pads_to_longest": False, "stage_1": {"batch": 2}},
        "run": {"recompute": True, "seed": 5}, "data": None,
    }  # fmt: skip
    path.write_text(yaml.safe_dump(file))
    options = _given({"recipe": {"stage_1": {"steps": 9, "batch": 0}}, "run": {"seed": 0, "recompute": False}})
    where = {"datasets": (), "out": tmp_path, "start": None}
    request = _request(where, "up-vla-demo", options, _read(path))
    assert (request.recipe.held_out, request.recipe.augmentation, request.recipe.pads_to_longest) == (0.0, None, False)
    assert (request.recipe.stage_1.steps, request.recipe.stage_1.batch) == (9, 2)
    assert request.recipe.stage_2 == config.RECIPES["up-vla-demo"].stage_2
    assert (request.run.seed, request.run.recompute) == (0, True)
