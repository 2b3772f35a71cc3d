"""What a training needs, as small as it can be: a dataset, conversations and measured pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vla_ros.recording.config import RecordingConfig
from vla_ros.recording.features import REQUESTED, SENT, STATE, Row, of_robot
from vla_ros.recording.lerobot_v3 import DatasetWriter, EpisodeDetails
from vla_ros.robots.panda import PANDA

INSTRUCTIONS = ("lift the red cube", "lift the blue cube", "lift the red cube")
FRAMES = 20  # of an episode


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three short episodes of an arm that moves along x; a picture that tells how far."""
    root, fps = tmp_path_factory.mktemp("data") / "lifts", 10
    features = of_robot(PANDA, {"front": (48, 64), "wrist": (48, 64)}, fps)
    with DatasetWriter(root, features, RecordingConfig(fps=fps)) as writer:
        for task in INSTRUCTIONS:
            writer.begin(task)
            for frame in range(FRAMES):
                values = {feature.key: np.zeros(feature.shape[0]) for feature in features.columns}
                joints = np.array(PANDA.home_rad)
                ahead = np.array([*joints, 0.4 + 0.01 * frame, 0.0, 0.3, 1.0, 0.0, 0.0, 0.0, 0.08 * (frame < 7)])
                values |= {STATE: np.array([*joints, 0.08]), SENT: ahead, REQUESTED: ahead}
                image = np.full((48, 64, 3), 10 * frame, np.uint8)
                writer.add(Row(frame, {"front": image, "wrist": image}, values))
            writer.save(EpisodeDetails(task, success=True))
    return root


@pytest.fixture
def conversations(tmp_path: Path) -> Path:
    Image.fromarray(np.full((48, 64, 3), 90, np.uint8)).save(tmp_path / "scene.png")
    said = [{"from": "human", "value": "<image>\ndescribe this image"}, {"from": "gpt", "value": "a red cube"}]
    path = tmp_path / "talk.json"
    path.write_text(json.dumps([{"image": "scene.png", "conversations": said}] * 3))
    return path


@pytest.fixture
def measures(conversations: Path) -> Path:
    path = conversations.with_name("measures.jsonl")
    lines = [{"images": ["scene.png"] * 2, "measures": {"red.x": 0.1 * n, "red.y": 0.5}} for n in range(10)]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path
