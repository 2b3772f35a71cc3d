"""Measured pictures are read or refused by name; an encoder learns from them where things are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vla_ros.tokenizers.vision import SmallVision, SmallVisionConfig
from vla_ros.training.augmentation import AugmentationConfig
from vla_ros.training.batches import Share
from vla_ros.training.config import OptimizerConfig, RunConfig, Schedule
from vla_ros.training.distributed import Processes
from vla_ros.training.measures import Measured, MeasuredBatches
from vla_ros.training.pictures import Pictures
from vla_ros.training.seeing import SeeingObjective, sights
from vla_ros.training.trainer import Job, Trainer

SIDE, COUNT = 32, 400


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A red dot on one picture and a blue one on the other, somewhere, and where they are."""
    folder = tmp_path_factory.mktemp("dots")
    rng = np.random.default_rng(0)
    lines = []
    for number in range(COUNT):
        measures, names = {}, []
        for view, color in enumerate(("red", "blue")):
            x, y = rng.integers(3, SIDE - 3, 2)
            image = np.full((SIDE, SIDE, 3), 90, np.uint8)
            image[y - 3 : y + 3, x - 3 : x + 3] = [(220, 20, 20), (20, 20, 220)][view]
            names.append(f"{number}-{color}.png")
            Image.fromarray(image).save(folder / names[-1])
            measures |= {f"{color}.x": float(x), f"{color}.y": float(y)}
        lines.append(json.dumps({"images": names, "measures": measures}))
    written = folder / "measures.jsonl"
    written.write_text("\n".join(lines) + "\n")
    return written


def test_lines_come_with_their_pictures_and_scaled_values(path: Path) -> None:
    measured = Measured([path], Pictures(16), 2)
    assert len(measured) == COUNT
    assert measured.names == ("red.x", "red.y", "blue.x", "blue.y")
    assert measured.images(3).shape == (2, 16, 16, 3)
    values = np.stack([measured.values(line) for line in range(COUNT)])
    np.testing.assert_allclose(values.mean(axis=0), 0.0, atol=1e-6)
    np.testing.assert_allclose(values.std(axis=0), 1.0, atol=1e-6)
    told = [json.loads(line)["measures"]["red.x"] for line in path.read_text().splitlines()]
    assert np.corrcoef(told, values[:, 0])[0, 1] == pytest.approx(1.0)


def test_processes_share_a_batch_and_nothing_is_shifted(path: Path) -> None:
    measured, chosen = Measured([path], Pictures(SIDE), 2), np.arange(100)
    colours = AugmentationConfig(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, shift=0.4)
    whole = MeasuredBatches(measured, chosen, 8, seed=1, augmentation=colours)[5]
    halves = [MeasuredBatches(measured, chosen, 8, seed=1, share=Share(rank, 2))[5] for rank in range(2)]
    torch.testing.assert_close(whole.images, torch.cat([half.images for half in halves]))
    torch.testing.assert_close(whole.values, torch.cat([half.values for half in halves]))


def test_an_encoder_learns_where_things_are(path: Path, tmp_path: Path) -> None:
    """A few hundred pictures: the pictures that it has not seen are read far better than by their mean."""
    measured = Measured([path], Pictures(SIDE), 2)
    torch.manual_seed(0)
    objective = SeeingObjective(SmallVision(SmallVisionConfig(pixels=SIDE, cameras=2, width=32)), measured.names)
    optimizer = OptimizerConfig(learning_rate=3e-3, warmup_steps=10, clip_norm=1.0)
    schedule = Schedule(steps=150, batch=32, optimizer=optimizer)
    device = torch.device("cpu")
    learnt = MeasuredBatches(measured, np.arange(COUNT - 64), 32)
    unseen = MeasuredBatches(measured, np.arange(COUNT - 64, COUNT), 64)
    held_out = [part for _, parts in sights(unseen, device, range(1)) for part in parts]
    job = Job("see", tmp_path / "see", schedule, RunConfig(held_out_every=150), Processes())
    weights = Trainer(objective, job, lambda steps: sights(learnt, device, steps, pieces=2), held_out).run()
    lines = [json.loads(line) for line in (tmp_path / "see" / "curves.jsonl").read_text().splitlines()]
    of_the_mean = 0.78  # of a uniform distribution: half its spread of 2 * 3 ** 0.5, less half the knee of the loss
    assert lines[-1]["held_out_measure"] < 0.4 * of_the_mean
    assert {name.partition(".")[0] for name in weights} >= {"vision", "queries", "readings"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2 is not valid JSON"),
        ("[]", "line 2 should have a list of images, not None"),
        ('{"images": ["a.png"], "measures": {"red.x": 1}}', "line 2 has 1 images; the model sees 2"),
        ('{"images": ["a.png", "b.png"], "measures": {"red.x": NaN}}', "should have measures by name, each a number"),
        ('{"images": ["a.png", "b.png"], "measures": {"x": 1}}', "line 2 measures x, not red.x"),
        (
            '{"images": ["a.png", "../b.png"], "measures": {"red.x": 1}}',
            "line 2: image '../b.png' is not a path inside",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "measures.jsonl"
    path.write_text(f'{{"images": ["a.png", "b.png"], "measures": {{"red.x": 1.0}}}}\n{line}\n')
    with pytest.raises(ValueError, match=said):
        Measured([path], Pictures(SIDE), 2)


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.jsonl cannot be read"):
        Measured([tmp_path / "none.jsonl"], Pictures(SIDE), 2)
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ValueError, match="no measured picture in"):
        Measured([tmp_path / "empty.jsonl"], Pictures(SIDE), 2)
    (tmp_path / "one.jsonl").write_text('{"images": ["a.png", "b.png"], "measures": {"red.x": 1.0}}\n')
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"one\.jsonl: .*/b\.png is not there; missing are 1 of 2 images"):
        Measured([tmp_path / "one.jsonl"], Pictures(SIDE), 2)
    (tmp_path / "b.png").touch()
    with pytest.raises(ValueError, match=r"a\.png is not a readable image"):
        Measured([tmp_path / "one.jsonl"], Pictures(SIDE), 2).images(0)
