"""How models are trained: stages with their batches, loss weights and optimisers, and recipes by the model's size."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from vla_ros.training.augmentation import AugmentationConfig
from vla_ros.training.image_tokenizer import ImageTokenizerTraining
from vla_ros.values import Config


class OptimizerConfig(Config):
    """AdamW with a linear warm-up and a cosine down to `final_fraction`; the defaults are UP-VLA's."""

    learning_rate: float = Field(default=1e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    decays: Literal["all", "matrices"] = "all"  # UP-VLA decays norms, biases and embeddings as well
    warmup_steps: int = Field(default=1000, ge=0)
    final_fraction: float = Field(default=0.0, ge=0, le=1)
    clip_norm: float | None = Field(default=None, gt=0)


class Schedule(Config):
    """One training run: `batch` samples make one update, over all processes together.

    `parts` is how many pieces a process runs its share in, one after the other, where memory is short.
    """

    steps: int = Field(gt=0)
    batch: int = Field(gt=0)
    parts: int = Field(default=1, gt=0)
    optimizer: OptimizerConfig = OptimizerConfig()
    ema_decay: float | None = Field(default=None, gt=0, lt=1)


class Stage(Schedule):
    """A run of the whole model: `batch` windows and `conversations` make one update.

    A weight of 0 leaves a loss out, and what only that loss would train as it is.
    """

    conversations: int = Field(default=0, ge=0)
    predict: float = Field(default=1.0, ge=0)
    act: float = Field(default=1.0, ge=0)
    understand: float = Field(default=0.1, ge=0)
    vision_learns: bool = True  # a small vision encoder that has learnt to see before may stay as it is

    @model_validator(mode="after")
    def _divides(self) -> Stage:
        for name, count in (("batch", self.batch), ("conversations", self.conversations)):
            if count % self.parts:
                raise ValueError(f"{name} ({count}) cannot be run in {self.parts} equal parts")
        if not (self.predict or self.act or (self.understand and self.conversations)):
            raise ValueError("no loss has a weight: nothing would be learnt")
        return self


class Recipe(Config):
    """What turns datasets and conversations into a checkpoint of one size."""

    image_tokenizer: ImageTokenizerTraining | None = None  # None: it comes with the start weights
    see: Schedule | None = None  # of the small vision encoder, by measured pictures; None: it comes with the weights
    stage_1: Stage
    stage_2: Stage
    augmentation: AugmentationConfig | None = None
    pads_to_longest: bool = True  # of a batch; the release pads every sequence to the model's greatest length
    describe_every_s: float = Field(default=2.0, gt=0)
    description_dropout: float = Field(default=0.1, ge=0, le=1)
    state_dropout: float = Field(default=0.0, ge=0, le=1)  # the state replaced by zeros: its mean
    held_out: float = Field(default=0.04, ge=0, lt=1)  # of the episodes: they tell what is learnt by heart


class RunConfig(Config):
    """What does not change what is learnt, or only within rounding."""

    seed: int = Field(default=0, ge=0)
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    parallel: Literal["ddp", "fsdp"] = "ddp"
    recompute: bool = False  # gradient checkpointing: a third more work, a fraction of the memory
    log_every: int = Field(default=10, gt=0)  # steps
    save_every_s: float = Field(default=120.0, gt=0)
    held_out_every: int = Field(default=200, gt=0)  # steps


_DEMO = OptimizerConfig(learning_rate=1e-3, betas=(0.9, 0.95), decays="matrices", warmup_steps=100, clip_norm=1.0)

RECIPES: dict[str, Recipe] = {
    # As published: 64 windows and 64 conversations an update (4 GPUs, 4 + 4 each, 4 times), weights as released.
    "up-vla-release": Recipe(
        stage_1=Stage(steps=20_000, batch=64, conversations=64, parts=4, act=0.0),
        stage_2=Stage(steps=20_000, batch=64, conversations=64, parts=4),
        pads_to_longest=False,
        held_out=0.0,
    ),
    "up-vla-demo": Recipe(
        image_tokenizer=ImageTokenizerTraining(),
        see=Schedule(steps=5000, batch=32, optimizer=_DEMO),
        # Short and from nothing, so not the published weights of losses. The encoder has learnt to see before, and
        # learns on when its features begin to move an arm.
        stage_1=Stage(
            steps=600,
            batch=8,
            conversations=16,
            predict=0.5,
            act=0.0,
            understand=3.0,
            vision_learns=False,
            optimizer=_DEMO,
        ),
        stage_2=Stage(
            steps=3500,
            batch=16,
            conversations=4,
            predict=0.5,
            act=10.0,
            understand=0.5,
            optimizer=_DEMO,
            ema_decay=0.995,
        ),
        description_dropout=0.3,
        augmentation=AugmentationConfig(shift=0.0),  # its cameras stand where they stood, to the pixel
    ),
}
