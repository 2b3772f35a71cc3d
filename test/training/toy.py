"""A toy that is trained as the real models are; run as a script it is one process of several, or one that is killed."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vla_ros.models.up_vla import UpVla, UpVlaConfig, Vocabulary, action_sequence, future_labels, understanding_sequence
from vla_ros.tokenizers.vision import SmallVision, SmallVisionConfig
from vla_ros.training.batches import ALONE, Share
from vla_ros.training.config import OptimizerConfig, RunConfig, Stage
from vla_ros.training.distributed import Processes, joined
from vla_ros.training.trainer import Job, Trainer
from vla_ros.training.up_vla_objective import Part, Talks, UpVlaObjective, Windows

CONFIG = UpVlaConfig(
    vocabulary=Vocabulary(text_size=20, end_of_text=0, codes=8), layers=2, width=16, heads=2, mlp_width=32,
    conditioning="paper", max_text=8, image_codes=4, action_rows=3, action_dims=2, head_heads=2, head_mlp_width=16,
    feature_width=16, features=2, state_dims=3,
)  # fmt: skip
BATCH, TALKS = 8, 4


@dataclass(frozen=True)
class Batches:
    """Drawn from the step; of unequal lengths, with padding, so that parts count unequally."""

    share: Share = ALONE
    pieces: int = 1
    killed_at: int = -1

    def __call__(self, steps: range) -> Iterator[tuple[int, Sequence[Part]]]:
        for step in steps:
            if step == self.killed_at:
                os.kill(os.getpid(), signal.SIGKILL)
            yield step, [self.part(step, piece) for piece in range(self.pieces)]

    def part(self, step: int, piece: int) -> Part:
        draws = torch.Generator().manual_seed(step)
        chunks = self.share.world * self.pieces
        own = self.share.rank * self.pieces + piece
        windows = slice(own * BATCH // chunks, (own + 1) * BATCH // chunks)
        talks = slice(own * TALKS // chunks, (own + 1) * TALKS // chunks)
        instructions = [[1 + (step + place) % 18] * (1 + place % 4) for place in range(BATCH)][windows]
        codes, future = (torch.randint(0, 8, (BATCH, 4), generator=draws)[windows] for _ in range(2))
        images = torch.randint(0, 256, (BATCH, 2, 16, 16, 3), generator=draws, dtype=torch.uint8)
        state, actions = torch.randn(BATCH, 3, generator=draws), torch.rand(BATCH, 3, 2, generator=draws)
        is_pad = torch.arange(3)[None] >= torch.randint(1, 4, (BATCH, 1), generator=draws)
        sequence = action_sequence(CONFIG, instructions, codes, [[5, 6]] * len(instructions))
        assert sequence.image is not None
        labels = future_labels(CONFIG, sequence, future)[:, sequence.image]
        asked, answers = [[1, 2]] * TALKS, [[3 + place] * (1 + 2 * place) for place in range(TALKS)]
        said, said_labels = understanding_sequence(CONFIG, asked[talks], answers[talks])
        return Part(
            Windows(sequence, images[windows], state[windows], labels, actions[windows], is_pad[windows]),
            Talks(said, images[:TALKS][talks], said_labels),
        )


def objective() -> UpVlaObjective:
    torch.manual_seed(3)
    vision = SmallVision(SmallVisionConfig(pixels=16, cameras=2, width=16))
    return UpVlaObjective(UpVla(CONFIG), vision, {"predict": 1.0, "act": 1.0, "understand": 0.1})


def stage(steps: int, **changes: object) -> Stage:
    optimizer = OptimizerConfig(learning_rate=3e-3, warmup_steps=2, clip_norm=1.0)
    return Stage.model_validate(
        {"steps": steps, "batch": BATCH, "conversations": TALKS, "optimizer": optimizer, "ema_decay": 0.9, **changes}
    )


def train(
    folder: Path,
    steps: int,
    batches: Batches,
    processes: Processes | None = None,
    until: int | None = None,
    **run: object,
) -> dict[str, Tensor]:
    """`until`: broken off there, though the learning rate is that of `steps`."""
    settings = RunConfig.model_validate({"log_every": 1, "save_every_s": 1e-9, "held_out_every": 3, **run})
    held_out = [Batches(batches.share).part(1000, 0)]
    job = Job("toy", folder, stage(steps), settings, processes or Processes(), about={"toy": "1"})
    return Trainer(objective(), job, batches, held_out).run()


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "curves.jsonl").read_text().splitlines()]
    return [line[name] for line in lines for name in ("predict", "act", "understand")]


def held_out(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "curves.jsonl").read_text().splitlines()]
    return [value for line in lines for name, value in line.items() if name.startswith("held_out")]


def main() -> None:
    what, folder = sys.argv[1], Path(sys.argv[2])
    if what == "killed":
        train(folder, 6, Batches(killed_at=3))
    with joined("cpu") as processes:
        for parallel in ("ddp", "fsdp"):
            weights = train(folder / parallel, 4, Batches(processes.share, pieces=2), processes, parallel=parallel)
            # Goes on from what was saved, in the same way: all steps are done, so these are the same weights.
            again = train(folder / parallel, 4, Batches(processes.share, pieces=2), processes, parallel=parallel)
            assert all(torch.equal(weights[name], again[name]) for name in weights)
            if processes.leads:
                torch.save(weights, folder / f"{parallel}.pt")


if __name__ == "__main__":
    main()
