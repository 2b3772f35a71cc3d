"""What the model itself says of the recorded scenes after its first stage; its second stage acts on it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from vla_ros.models.up_vla import DESCRIBE, UpVla, conversation
from vla_ros.tokenizers.text import TextTokenizer
from vla_ros.tokenizers.vision import VisionEncoder
from vla_ros.training.distributed import Processes
from vla_ros.training.progress import Tell
from vla_ros.training.windows import ActionSamples


def described_samples(episodes: Sequence[range], every: int) -> list[int]:
    """Which samples get a description: each episode's first, and each `every`-th after it."""
    return [sample for episode in episodes for sample in episode[:: max(1, every)]]


def describe(
    model: UpVla,
    vision: VisionEncoder,
    text: TextTokenizer,
    samples: ActionSamples,
    every: int,
    path: Path,
    processes: Processes,
    tell: Tell,
) -> None:
    """Have the model describe each `every`-th sample; a line for each in `path` (and one more file per process).

    What is there already is not made again.
    """
    own = path if processes.world == 1 else path.with_suffix(f".{processes.rank}{path.suffix}")
    prompt = text.encode(conversation(DESCRIBE))
    asked = described_samples(samples.episodes, every)
    done = read_descriptions(path)
    todo = [sample for sample in asked if sample not in done][processes.rank :: processes.world]
    model.eval()
    own.parent.mkdir(parents=True, exist_ok=True)
    with own.open("a", encoding="utf-8") as file:
        for count, sample in enumerate(todo, start=1):
            frames = np.stack([samples.frame(sample, camera) for camera in samples.config.cameras])
            with torch.no_grad():
                features_BSF = vision.encode(torch.from_numpy(frames)[None].to(processes.device))
                ids = model.answer(features_BSF, prompt, model.config.max_description)
            said = text.decode(ids).strip()
            file.write(json.dumps({"sample": sample, "text": said}, ensure_ascii=False) + "\n")
            file.flush()
            tell("describe", count, len(todo), said)
    processes.wait()
    if processes.leads and own != path:
        lines = [
            line
            for rank in range(processes.world)
            for line in path.with_suffix(f".{rank}{path.suffix}").read_text(encoding="utf-8").splitlines(keepends=True)
        ]
        with path.open("a", encoding="utf-8") as file:
            file.writelines(lines)
        for rank in range(processes.world):
            path.with_suffix(f".{rank}{path.suffix}").unlink()
    processes.wait()


def read_descriptions(path: Path) -> dict[int, str]:
    """Sample -> what was said of it; none where there is no file; without a last line that was cut."""
    if not path.is_file():
        return {}
    found: dict[int, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            said = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[int(said["sample"])] = str(said["text"])
    return found


def carried_on(descriptions: dict[int, str], episodes: Sequence[range]) -> dict[int, str]:
    """Sample -> the newest description of its episode until then, as the policy has it between two."""
    carried: dict[int, str] = {}
    for episode in episodes:
        newest = ""
        for sample in episode:
            newest = descriptions.get(sample, newest)
            carried[sample] = newest
    return carried
