"""A dataset that LeRobot writes itself, and what it was given: runs where LeRobot is.

python write_theirs.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from pictures import picture

FPS = 30
SIZES = {"front": (64, 96), "wrist": (240, 320)}
LENGTHS = (20, 33, 12)
TASKS = ("lift the red cube", "hebe den grünen Würfel · 拾起绿色方块 🤖", "lift the red cube")


def main(folder: Path) -> None:
    features = {
        "observation.state": {"dtype": "float32", "shape": (8,), "names": [f"joint_{k}" for k in range(8)]},
        "action": {"dtype": "float32", "shape": (8,), "names": [f"joint_{k}" for k in range(8)]},
        "extra.stamp": {"dtype": "float64", "shape": (1,), "names": None},
        "extra.counts": {"dtype": "int64", "shape": (3,), "names": None},
        **{
            f"observation.images.{name}": {
                "dtype": "video",
                "shape": (*size, 3),
                "names": ["height", "width", "channels"],
            }
            for name, size in SIZES.items()
        },
    }
    random = np.random.default_rng(1)
    total = sum(LENGTHS)
    truth = {
        "observation.state": random.normal(size=(total, 8)).astype(np.float32),
        "action": random.normal(size=(total, 8)).astype(np.float32),
        "extra.stamp": random.normal(size=(total, 1)),
        "extra.counts": random.integers(-5, 5, (total, 3)),
    }
    dataset = LeRobotDataset.create("local/theirs", FPS, features, root=folder / "theirs", robot_type="panda")
    index = 0
    for length, task in zip(LENGTHS, TASKS, strict=True):
        for row in range(index, index + length):
            images = {f"observation.images.{name}": picture(row, *size) for name, size in SIZES.items()}
            dataset.add_frame({**{key: values[row] for key, values in truth.items()}, **images, "task": task})
        dataset.save_episode()
        index += length
    dataset.finalize()
    np.savez(folder / "theirs.npz", lengths=np.array(LENGTHS), tasks=np.array(TASKS), **truth)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
