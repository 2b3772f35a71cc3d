"""Datasets of every kind that vla_ros makes, all of the same episodes, and what is in them: for load_ours.py.

python write_ours.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from pictures import picture

from vla_ros.recording.config import RecordingConfig, VideoConfig
from vla_ros.recording.convert import Conversion, convert
from vla_ros.recording.features import Row, of_robot
from vla_ros.recording.lerobot_v3 import DatasetWriter, EpisodeDetails
from vla_ros.recording.reader import DatasetReader
from vla_ros.recording.upkeep.compacting import compact
from vla_ros.robots.panda import PANDA

FPS = 30
SIZES = {"front": (64, 96), "wrist": (240, 320)}
LENGTHS = (45, 7, 64, 21)
TASKS = ("lift the red cube", "hebe den grünen Würfel · 拾起绿色方块 🤖", "lift the red cube", "lift the red cube")


def main(folder: Path) -> None:
    features = of_robot(PANDA, SIZES, FPS)
    random = np.random.default_rng(0)
    total = sum(LENGTHS)
    truth = {
        feature.key: random.integers(0, 3, (total, *feature.shape))
        if feature.dtype == "int64"
        else random.normal(size=(total, *feature.shape)).cumsum(axis=0).astype(feature.numpy)
        for feature in features.columns
    }
    originals = {name: np.stack([picture(k, *size) for k in range(total)]) for name, size in SIZES.items()}
    kinds = {"ours": VideoConfig(), "av1": VideoConfig(codec="libsvtav1")}
    for name, video in kinds.items():
        config = RecordingConfig(fps=FPS, video=video)
        index = 0
        for episode, (length, task) in enumerate(zip(LENGTHS, TASKS, strict=True)):
            # Every episode is another recording that goes on with the dataset.
            with DatasetWriter(folder / name, features, config, resume=episode > 0) as writer:
                writer.begin(task)
                for row in range(index, index + length):
                    images = {camera: originals[camera][row] for camera in SIZES}
                    writer.add(Row(row, images, {key: values[row] for key, values in truth.items()}))
                writer.save(EpisodeDetails(task, success=True))
            index += length
    compact(folder / "ours", folder / "compacted")
    convert(folder / "ours", folder / "v21", Conversion(to="v2.1"))
    convert(folder / "v21", folder / "there_and_back", Conversion(to="v3.0"))
    for name in ("ours", "av1", "compacted", "there_and_back", "v21"):
        reader = DatasetReader(folder / name)
        frames = [
            {f"image.{camera}": image for camera, image in reader.row(index).images.items()} for index in range(total)
        ]
        decoded = {key: np.stack([frame[key] for frame in frames]) for key in frames[0]}
        np.savez(folder / f"{name}.npz", **decoded)
    np.savez(
        folder / "truth.npz",
        lengths=np.array(LENGTHS),
        tasks=np.array(TASKS),
        fps=np.array(FPS),
        **truth,
        **{f"original.{camera}": images for camera, images in originals.items()},
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
