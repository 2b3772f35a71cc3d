"""What the model itself says of the recorded scenes after its first stage; its second stage acts on it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from vla_ros.models.up_vla import DESCRIBE, UpVla, conversation
from vla_ros.recording.files import write_atomically
from vla_ros.tokenizers.text import TextTokenizer
from vla_ros.tokenizers.vision import VisionEncoder
from vla_ros.training.distributed import Processes
from vla_ros.training.progress import Tell
from vla_ros.training.windows import ActionSamples
from vla_ros.viewing.progress import Interrupted, interruptible


def described_samples(segments: Sequence[range], every: int) -> list[int]:
    """Which samples get a description: each segment's first, and each `every`-th after it."""
    return [sample for segment in segments for sample in segment[:: max(1, every)]]


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
    """Have the model describe each `every`-th sample, a line for each in `path`; those described already are skipped.

    Each of several processes writes a file of its own, which the first one puts together in the end. Raises Interrupted
    when asked to stop; what was described until then is kept.
    """
    prompt, system = text.encode(conversation(DESCRIBE)), text.encode(model.config.system)
    said = {**read_descriptions(path), **_read_all(_shards(path))}
    processes.wait()  # nobody writes before all have read
    missing = [sample for sample in described_samples(samples.segments, every) if sample not in said]
    own = missing[processes.rank :: processes.world]
    path.parent.mkdir(parents=True, exist_ok=True)
    model.eval()
    tell("describe", 0, len(own), "")
    shard = path.with_suffix(f".{processes.rank}{path.suffix}")
    with shard.open("a", encoding="utf-8") as file, interruptible() as asked:
        file.write("\n")  # after a line that a kill has cut
        for count, sample in enumerate(own, start=1):
            frames = np.stack([samples.frame(sample, camera) for camera in samples.config.cameras])
            with torch.no_grad():
                features_BSF = vision.encode(torch.from_numpy(frames)[None].to(processes.device))
                ids = model.answer(features_BSF, prompt, model.config.max_description, system)
            answer = text.decode(ids).strip()
            file.write(json.dumps({"sample": sample, "text": answer}, ensure_ascii=False) + "\n")
            file.flush()
            tell("describe", count, len(own), answer)
            if asked.is_set() and count < len(own):
                raise Interrupted(f"describe stopped after {count} of {len(own)} scenes; saved in {path.parent}")
    processes.wait()
    if processes.leads:
        shards = _shards(path)
        said = {**read_descriptions(path), **_read_all(shards)}
        lines = (json.dumps({"sample": sample, "text": said[sample]}, ensure_ascii=False) for sample in sorted(said))
        write_atomically(path, "".join(f"{line}\n" for line in lines).encode())
        for shard in shards:
            shard.unlink()
    processes.wait()


def _shards(path: Path) -> list[Path]:
    """What single processes have written."""
    return sorted(path.parent.glob(f"{path.stem}.*{path.suffix}"))


def _read_all(paths: Sequence[Path]) -> dict[int, str]:
    return {sample: text for path in paths for sample, text in read_descriptions(path).items()}


def read_descriptions(path: Path) -> dict[int, str]:
    """Sample -> what was said of it; none where there is no file; without a last line that was cut."""
    if not path.is_file():
        return {}
    found: dict[int, str] = {}
    for line in path.read_text(encoding="utf-8").split("\n"):  # splitlines() knows others, which a text may hold
        try:
            said = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[int(said["sample"])] = str(said["text"])
    return found


def carried_on(descriptions: dict[int, str], segments: Sequence[range]) -> dict[int, str]:
    """Sample -> the newest description of its segment until then, as the policy has it between two."""
    carried: dict[int, str] = {}
    for segment in segments:
        newest = ""
        for sample in segment:
            newest = descriptions.get(sample, newest)
            carried[sample] = newest
    return carried
