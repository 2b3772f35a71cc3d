"""The image tokenizer learns what pictures show, goes on where it was broken off, and refuses what is not its own."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from vla_ros.checkpoints.files import CheckpointError
from vla_ros.tokenizers.magvit2 import normalized, pixels
from vla_ros.training.augmentation import AugmentationConfig
from vla_ros.training.image_tokenizer import (
    CURVES,
    PICTURE,
    STATE,
    ImageTokenizerTraining,
    Progress,
    Trained,
    load_image_tokenizer,
    losses,
    psnr_db,
    train_image_tokenizer,
)
from vla_ros.viewing.progress import Interrupted

AS_THEY_ARE = AugmentationConfig(shift=0, brightness=0, contrast=0, saturation=0, hue=0)
SETTINGS = ImageTokenizerTraining(
    pixels=16, steps=6, batch=4, warm_up=2, save_every=3, bfloat16=False, augmentation=AS_THEY_ARE
)


@pytest.fixture(scope="module")
def frames() -> NDArray[np.uint8]:
    """Two halves, each red or blue; one code for both."""
    colors = np.array([[220, 30, 30], [30, 30, 220]], np.uint8)
    halves = np.random.default_rng(0).integers(0, 2, (80, 2, 1))
    return np.kron(colors[halves], np.ones((1, 8, 16, 1), np.uint8))


def test_it_learns(frames: NDArray[np.uint8], tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"steps": 65, "warm_up": 5, "save_every": 1000})
    trained = train_image_tokenizer(frames, settings, tmp_path)
    one_colour = np.broadcast_to(frames.mean((0, 1, 2)).astype(np.uint8), held_out(frames).shape)
    assert trained.psnr_db > psnr_db(held_out(frames), one_colour) + 2
    with torch.inference_mode():
        shown = pixels(trained.tokenizer.decode(codes_of(trained, held_out(frames)))).numpy()
    assert not trained.tokenizer.training
    assert trained.psnr_db == pytest.approx(psnr_db(held_out(frames), shown), abs=0.05)
    assert trained.codes_used == len(np.unique(codes_of(trained, held_out(frames))))
    picture = np.asarray(Image.open(tmp_path / PICTURE))
    assert (picture[34 + 64, 104 + 8 + 132 * np.arange(4)] == held_out(frames)[:, 8, 1]).all(), "a column for each"
    assert (picture[:34] < 128).any() and (picture[-20:] < 200).any(), "with words above and below"
    curve = [json.loads(line) for line in (tmp_path / CURVES).read_text().splitlines()]
    assert [point["step"] for point in curve] == [*range(0, 65, 10)]
    assert curve[-1]["pixels"] < curve[0]["pixels"]
    loaded = load_image_tokenizer(tmp_path)
    assert (loaded.psnr_db, loaded.codes_used) == (trained.psnr_db, trained.codes_used)
    assert torch.equal(codes_of(loaded, frames[:5]), codes_of(trained, frames[:5]))


def held_out(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Of 80 frames: blocks 10, 30 and 50 of 60 are rows 14, 40 and 41, 67 (and none of their neighbours)."""
    return frames[[14, 40, 41, 67]]


def codes_of(trained: Trained, frames: NDArray[np.uint8]) -> torch.Tensor:
    return trained.tokenizer.encode(normalized(torch.from_numpy(frames)))


def test_ctrl_c_saves_what_was_learnt_and_it_is_continued_from_there(frames: NDArray[np.uint8], tmp_path: Path) -> None:
    def press(progress: Progress) -> None:
        if progress.step == 1:  # far from the next step that is saved
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted, match="image tokenizer stopped after step 2 of 6; saved in"):
        train_image_tokenizer(frames, SETTINGS, tmp_path / "stopped", report=press)
    assert (tmp_path / "stopped" / STATE).is_file()
    steps: list[int] = []
    continued = train_image_tokenizer(frames, SETTINGS, tmp_path / "stopped", report=lambda one: steps.append(one.step))
    assert steps == [2, 3, 4, 5]
    straight = train_image_tokenizer(frames, SETTINGS, tmp_path / "straight")
    assert torch.equal(codes_of(continued, frames), codes_of(straight, frames))
    assert continued.psnr_db == straight.psnr_db


def test_a_training_broken_off_ends_as_one_that_was_not(frames: NDArray[np.uint8], tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.step == 4:  # saved after step 2
            raise Stopped

    whole = train_image_tokenizer(frames, SETTINGS, tmp_path / "whole")
    with pytest.raises(Stopped):
        train_image_tokenizer(frames, SETTINGS, tmp_path / "broken", report=stop)
    with pytest.raises(CheckpointError, match="no finished image tokenizer"):
        load_image_tokenizer(tmp_path / "broken")
    steps: list[int] = []
    resumed = train_image_tokenizer(
        frames, SETTINGS, tmp_path / "broken", report=lambda progress: steps.append(progress.step)
    )
    assert steps == [3, 4, 5]
    for name, tensor in whole.tokenizer.state_dict().items():
        assert torch.equal(tensor, resumed.tokenizer.state_dict()[name]), name
    assert (tmp_path / "whole" / CURVES).read_text() == (tmp_path / "broken" / CURVES).read_text()
    assert not (tmp_path / "broken" / STATE).exists()


def test_a_training_with_other_settings_is_not_gone_on_with(frames: NDArray[np.uint8], tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.step == 3:
            raise Stopped

    with pytest.raises(Stopped):
        train_image_tokenizer(frames, SETTINGS, tmp_path, report=stop)
    with pytest.raises(CheckpointError, match=r"with other settings: .*take another folder"):
        train_image_tokenizer(frames, SETTINGS.model_copy(update={"batch": 2}), tmp_path)


def test_frames_are_changed_as_the_policy_sees_them_changed(frames: NDArray[np.uint8], tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"steps": 1, "augmentation": AugmentationConfig(brightness=0.5)})
    plain, changed = ([], [])
    for one, seen in ((SETTINGS.model_copy(update={"steps": 1}), plain), (settings, changed)):
        train_image_tokenizer(
            frames, one, tmp_path / str(len(plain)), report=lambda p, seen=seen: seen.append(p.losses)
        )
    assert plain[0]["pixels"] != changed[0]["pixels"]


def test_terms_of_the_objective_are_what_they_say() -> None:
    images = torch.zeros(2, 3, 20, 20)
    rebuilt = images.clone()
    rebuilt[:, :, 4:6, 4:8] = 0.5  # 8 of 400 pixels: the hardest 2 %
    latent = torch.full((2, 3, 2, 2), 1.5)
    terms = losses(images, rebuilt, latent)
    assert terms["squared"] == pytest.approx(0.25 * 8 / 400)
    assert terms["pixels"] == pytest.approx(0.5 * 8 / 400)
    assert terms["hardest"] == pytest.approx(0.5)
    assert terms["commitment"] == pytest.approx(0.25)
    rows = 0.5 * 2 * 4 / (19 * 20)  # above and below, over all neighbours
    columns = 0.5 * 2 * 2 / (20 * 19)
    halved = 0.5 * 2 * 2 / (9 * 10) + 0.5 * 2 * 1 / (10 * 9)
    assert terms["edges"] == pytest.approx((rows + columns + halved) / 4)


def test_entropy_wants_sure_codes_and_all_of_them() -> None:
    nothing = torch.zeros(1, 3, 4, 4)
    every = torch.tensor([[(code >> bit & 1) * 2.0 - 1 for bit in range(3)] for code in range(8)]).T.reshape(1, 3, 2, 4)

    def entropy(latent: torch.Tensor) -> float:
        return losses(nothing, nothing, latent)["entropy"].item()

    assert entropy(every * 9) == pytest.approx(-1.0, abs=1e-4)  # sure, and all eight
    assert entropy(torch.full_like(every, 9.0)) == pytest.approx(0.0, abs=1e-4)  # sure, and always the same
    assert entropy(every * 0) == pytest.approx(0.0, abs=1e-4)  # unsure
    one = 1 / (1 + math.exp(-4 * 0.3))
    each = -(one * math.log2(one) + (1 - one) * math.log2(1 - one))
    assert entropy(every * 0.3) == pytest.approx(each - 1.0, abs=1e-4)


def test_psnr_by_hand() -> None:
    black = np.zeros((2, 4, 4, 3), np.uint8)
    other = black.copy()
    other[0] += 10
    assert psnr_db(black[:1], other[:1]) == pytest.approx(20 * math.log10(25.5))
    assert psnr_db(black, other) == pytest.approx((20 * math.log10(25.5) + 100) / 2)


def test_frames_of_another_size_or_too_few_are_refused(frames: NDArray[np.uint8], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"frames are \(N, 128, 128, 3\) with N >= 60, got \(80, 16, 16, 3\)"):
        train_image_tokenizer(frames, ImageTokenizerTraining(), tmp_path)
    with pytest.raises(ValueError, match=r"N >= 60, got \(59, 16, 16, 3\)"):
        train_image_tokenizer(frames[:59], SETTINGS, tmp_path)
    with pytest.raises(ValueError, match="size is one of magvit2-release, magvit2-demo, got 'magvit2-huge'"):
        ImageTokenizerTraining(size="magvit2-huge")


def test_a_damaged_tokenizer_is_refused(frames: NDArray[np.uint8], tmp_path: Path) -> None:
    train_image_tokenizer(frames, SETTINGS.model_copy(update={"steps": 1}), tmp_path)
    summary = json.loads((tmp_path / "image_tokenizer.json").read_text())
    changed = {**summary, "config": {**summary["config"], "code_bits": 9}}
    (tmp_path / "image_tokenizer.json").write_text(json.dumps(changed))
    with pytest.raises(CheckpointError, match="image_tokenizer.safetensors holds another image tokenizer"):
        load_image_tokenizer(tmp_path)
    (tmp_path / "image_tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is not a summary of an image tokenizer"):
        load_image_tokenizer(tmp_path)
