"""Datasets and conversations into a checkpoint of UP-VLA, in stages; each is done once, and gone on with if broken off.

text: a tokenizer of the words there are. image: the tokenizer whose codes are predicted. 1: predict the next frame and
answer questions. describe: the model's own words for the recorded scenes. 2: the same and act, on those words.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_ros.checkpoints.manifest import Bundle, CameraInput, Normalization, UpVlaManifest, load, save
from vla_ros.models.up_vla import DESCRIBE, SIZES, UpVla, UpVlaConfig, conversation
from vla_ros.policies.up_vla import words_of
from vla_ros.recording.dataset import DatasetMeta
from vla_ros.recording.features import STATE
from vla_ros.tokenizers.magvit2 import MAGVIT2_SIZES, Magvit2
from vla_ros.tokenizers.text import FILE, TextTokenizer
from vla_ros.tokenizers.vision import ClipVision, SmallVision, SmallVisionConfig
from vla_ros.training.batches import ActionBatches, ConversationBatches
from vla_ros.training.card import model_card
from vla_ros.training.config import Recipe, RunConfig, Stage
from vla_ros.training.conversations import Conversations
from vla_ros.training.describing import carried_on, describe, described_samples, read_descriptions
from vla_ros.training.distributed import Processes
from vla_ros.training.image_tokenizer import SUMMARY, Progress, load_image_tokenizer, train_image_tokenizer
from vla_ros.training.progress import Tell, best_precision, read_curves
from vla_ros.training.stats import normalization, state_normalization
from vla_ros.training.trainer import CURVES, Job, Trainer
from vla_ros.training.up_vla_batches import Preparation, chosen, parts
from vla_ros.training.up_vla_objective import ACT, PREDICT, UNDERSTAND, Part, UpVlaObjective
from vla_ros.training.windows import ActionSamples, DataConfig, EndRule
from vla_ros.viewing.curves import render_curves

TEXT, IMAGE, DESCRIPTIONS, CHECKPOINT = "text", "image_tokenizer", "descriptions.jsonl", "checkpoint"
PICTURE = "curves.png"
_FRAMES = 8000  # that an image tokenizer is trained on, at most
_HELD_OUT_BATCHES = 4
_STREAMS = ("joints", "gripper")  # what the state of our datasets is put together from


class Until(str, Enum):
    """The last stage that is done."""

    TEXT = "text"
    IMAGE = "image"
    PREDICT = "1"
    DESCRIBE = "describe"
    ACT = "2"


@dataclass(frozen=True)
class Request:
    """What is asked for. `start`: a checkpoint whose weights and tokenizers are gone on from."""

    datasets: tuple[Path, ...]
    out: Path
    size: str
    recipe: Recipe
    conversations: tuple[Path, ...] = ()
    data: DataConfig = field(default_factory=DataConfig)
    run: RunConfig = field(default_factory=RunConfig)
    start: Path | None = None


class UpVlaTraining:
    """One training of UP-VLA in one folder; every process of it makes one of these and calls `run`."""

    def __init__(self, request: Request, processes: Processes, tell: Tell) -> None:
        """Raises ValueError for a size, a recipe or a start that do not go together with the data; DatasetError."""
        self.request, self.processes, self.tell = request, processes, tell
        self.recipe, self.out = request.recipe, request.out
        self.start = None if request.start is None else load(request.start)
        self._check()
        for leads_turn in (True, False):  # the first process makes the cache of frames, the others find it
            if leads_turn == processes.leads:
                self.samples = ActionSamples(
                    request.datasets, request.data, self.out / "frames", lambda *said: self.tell(*said, "")
                )
            processes.wait()
        self.dtype = best_precision(processes.device, request.run.precision)
        views = len(request.data.cameras)
        paths = request.conversations
        self.conversations = Conversations(paths, request.data.pixels, views) if paths else None

    def run(self, until: Until = Until.ACT) -> Path:
        """Do what is not yet done, up to `until`; returns what that made: a folder or a file.

        Raises Interrupted when asked to stop: all is saved. CheckpointError for a folder that holds another training.
        """
        stages = {
            Until.TEXT: self._make_text,
            Until.IMAGE: self._make_image_tokenizer,
            Until.PREDICT: self._learn_to_predict,
            Until.DESCRIBE: self._describe,
            Until.ACT: self._learn_to_act,
        }
        made = self.out
        for stage, do in stages.items():
            made = do()
            if stage == until:
                break
        return made

    # --- tokenizers

    def _make_text(self) -> Path:
        folder = self.out / TEXT
        if self.processes.leads and not (folder / FILE).exists():
            if self.start is not None:
                self.start.text.save(folder)
            else:
                said = () if self.conversations is None else self.conversations.texts()
                texts = [*self.samples.instructions, *said, conversation(DESCRIBE), *map(conversation, said)]
                TextTokenizer.train(texts, SIZES[self.request.size].vocabulary.text_size, folder)
        self.processes.wait()
        return folder

    def _make_image_tokenizer(self) -> Path:
        folder = self.out / IMAGE
        if self.start is None and self.processes.leads and not (folder / SUMMARY).exists():
            config = self.recipe.image_tokenizer
            assert config is not None  # see _check
            cameras = self.request.data.code_cameras
            rows = range(0, len(self.samples), max(1, len(self.samples) * len(cameras) // _FRAMES))
            frames = [self.samples.frame(row, camera) for camera in cameras for row in rows]

            def report(progress: Progress) -> None:
                said = "  ".join(f"{name} {value:.3f}" for name, value in progress.losses.items())
                self.tell("image tokenizer", progress.step + 1, progress.steps, said)

            train_image_tokenizer(np.stack(frames), config, folder, self.processes.device, report)
        self.processes.wait()
        return folder

    @cached_property
    def text(self) -> TextTokenizer:
        """The text tokenizer, once it is made."""
        return TextTokenizer.load(self.out / TEXT, self.config.vocabulary.text_size)

    @cached_property
    def image_tokenizer(self) -> Magvit2:
        """The image tokenizer, once it is made; frozen."""
        given = load_image_tokenizer(self.out / IMAGE).tokenizer if self.start is None else self.start.image_tokenizer
        return given.requires_grad_(False).eval().to(self.processes.device)

    # --- stages

    def _learn_to_predict(self) -> Path:
        self._weights_1 = self._train("stage 1", self.recipe.stage_1, None, {})
        return self.out / "stage-1"

    def _describe(self) -> Path:
        path = self.out / DESCRIPTIONS
        if self.config.conditioning == "released" or self.conversations is None:
            return path  # nothing is said in this conditioning, or there was nothing to learn speaking from
        asked = described_samples(self.samples.episodes, self.described_every)
        if set(asked) - set(read_descriptions(path)):
            objective = self._objective(self.recipe.stage_1)
            objective.load_state_dict(self._weights_1)
            objective.to(self.processes.device).eval()
            assert objective.vision is not None
            describe(
                objective.model, objective.vision, self.text, self.samples, self.described_every, path,
                self.processes, self.tell,
            )  # fmt: skip
        return path

    def _learn_to_act(self) -> Path:
        said = read_descriptions(self.out / DESCRIPTIONS)
        descriptions = carried_on(said, self.samples.episodes) if said else None
        weights = self._train("stage 2", self.recipe.stage_2, descriptions, self._weights_1)
        objective = self._objective(self.recipe.stage_2)
        objective.load_state_dict(weights)
        folder = self.out / CHECKPOINT
        if self.processes.leads:
            manifest = self._manifest(objective.vision)
            bundle = Bundle(manifest, objective.model, self.image_tokenizer.cpu(), objective.vision, self.text)
            save(folder, bundle, model_card(manifest, sum(one.numel() for one in objective.parameters())))
        self.processes.wait()
        return folder

    def _train(
        self, name: str, stage: Stage, descriptions: dict[int, str] | None, start: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Run a stage from weights (none: those that training begins with) to its end."""
        objective = self._objective(stage)
        if start:
            objective.load_state_dict(start)
        held_out, learnt = self._split
        talks = self._talks(stage)
        request, recipe = self.request, self.recipe
        batches = partial(
            ActionBatches, action=self.actions, state=self.state, seed=request.run.seed, share=self.processes.share
        )
        prepare = partial(
            Preparation,
            self.config,
            self.text,
            self.image_tokenizer,
            self.processes.device,
            descriptions,
            counts_pads=request.data.end is EndRule.RELEASED,
            pad_to=None if recipe.pads_to_longest else _longest(self.config),
            seed=request.run.seed,
        )
        preparation = prepare(description_dropout=recipe.description_dropout, state_dropout=recipe.state_dropout)
        actions = batches(chosen(self.samples, learnt), batch=stage.batch, augmentation=recipe.augmentation)
        looked_at: list[Part] = []
        if len(held_out):
            size = min(stage.batch * _HELD_OUT_BATCHES, len(held_out) // self.processes.world * self.processes.world)
            unseen = batches(chosen(self.samples, held_out), batch=size)
            looked_at = [Part(prepare().windows(unseen[0], 0))] if size else []
        folder = _folder(self.out, name)
        job = Job(
            name, folder, stage, request.run, self.processes, self.dtype, self.tell, self._about(stage), self._draw
        )  # fmt: skip
        trainer = Trainer(
            objective, job, lambda steps: parts(preparation, actions, talks, steps, stage.parts), looked_at
        )
        return trainer.run()

    def _talks(self, stage: Stage) -> ConversationBatches | None:
        if self.conversations is None or not (stage.conversations and stage.understand):
            return None
        seed, augmentation = self.request.run.seed, self.recipe.augmentation
        return ConversationBatches(self.conversations, stage.conversations, seed, augmentation, self.processes.share)

    def _objective(self, stage: Stage) -> UpVlaObjective:
        """The model with the weights that training begins with."""
        torch.manual_seed(self.request.run.seed)
        weights = {
            PREDICT: stage.predict,
            ACT: stage.act,
            UNDERSTAND: stage.understand if self._talks(stage) is not None else 0.0,
        }
        model, vision = UpVla(self.config), self._vision()
        if self.start is not None:
            model.load_state_dict(self.start.model.state_dict())
        model.recompute = self.request.run.recompute
        return UpVlaObjective(model, vision, weights)

    def _vision(self) -> SmallVision | ClipVision | None:
        """The vision encoder as training begins."""
        if self.start is not None and not isinstance(self.start.vision, SmallVision):
            return cast("ClipVision | None", self.start.vision)
        if self.config.conditioning == "released":
            return None
        data = self.request.data
        vision = SmallVision(
            SmallVisionConfig(pixels=data.pixels, cameras=len(data.cameras), width=self.config.feature_width)
        )
        if self.start is not None:
            vision.load_state_dict(cast("SmallVision", self.start.vision).state_dict())
        return vision

    # --- what it is made of

    @cached_property
    def config(self) -> UpVlaConfig:
        """The model's, of the size that was asked for, as the data needs it."""
        data, named = self.request.data, SIZES[self.request.size]
        if self.start is not None:
            return self.start.model.config
        tokenizer = MAGVIT2_SIZES[self.recipe.image_tokenizer.size] if self.recipe.image_tokenizer else None
        changed: dict[str, object] = {
            "action_rows": data.action.horizon,
            "action_dims": len(self.samples.action.dimensions),
            "views": len(data.code_cameras),
        }
        if tokenizer is not None:
            changed["image_codes"] = (data.pixels // tokenizer.pixels_per_code) ** 2
        if named.conditioning == "paper":
            changed |= {"features": len(data.cameras) * (data.pixels // 16) ** 2, "state_dims": self.samples.state_dims}
        return UpVlaConfig.model_validate({**named.model_dump(), **changed})

    @property
    def _held_out_episodes(self) -> list[int]:
        """Spread evenly over all."""
        count, of = round(self.recipe.held_out * len(self.samples.episodes)), len(self.samples.episodes)
        return [int((number + 0.5) * of / count) for number in range(count)]

    @cached_property
    def _split(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Samples of the episodes held out, and those of the others."""
        chosen = set(self._held_out_episodes)
        is_held_out = np.concatenate(
            [np.full(len(episode), number in chosen) for number, episode in enumerate(self.samples.episodes)]
        )
        return np.flatnonzero(is_held_out), np.flatnonzero(~is_held_out)

    @cached_property
    def actions(self) -> Normalization:
        """What actions are scaled by."""
        return normalization(self.samples) if self.start is None else self.start.manifest.normalization

    @cached_property
    def state(self) -> Normalization | None:
        """What proprioception is scaled by."""
        if not self.config.state_dims:
            return None
        return state_normalization(self.samples) if self.start is None else self.start.manifest.state

    @cached_property
    def described_every(self) -> int:
        """Rows from one description to the next."""
        return max(1, round(DatasetMeta.load(self.request.datasets[0]).fps * self.recipe.describe_every_s))

    def _manifest(self, vision: SmallVision | ClipVision | None) -> UpVlaManifest:
        request, samples, data = self.request, self.samples, self.request.data
        sizes = samples.frame_sizes
        of_ours = data.source == "poses" and data.state_keys == (STATE,)
        return UpVlaManifest(
            size=request.size,
            model=self.config,
            image_tokenizer=self.image_tokenizer.config,
            vision=vision.config if isinstance(vision, SmallVision) else None if vision is None else "clip",
            robot=samples.robot,
            cameras=tuple(CameraInput(name=name, width=sizes[name][0], height=sizes[name][1]) for name in data.cameras),
            code_cameras=data.code_cameras,
            pixels=data.pixels,
            proprioception=() if self.state is None else _STREAMS if of_ours else data.state_keys,
            state=self.state,
            action=samples.action,
            normalization=self.actions,
            instructions=samples.instructions,
            words=tuple(sorted({word for text in samples.instructions for word in words_of(text)})),
            trained=self._trained(),
        )

    def _trained(self) -> dict[str, Any]:
        """What the model card says of the training."""
        request, recipe = self.request, self.recipe
        stages = {}
        for name, stage in (("stage 1", recipe.stage_1), ("stage 2", recipe.stage_2)):
            lines = read_curves(_folder(self.out, name) / CURVES)
            last = {key: value for line in lines for key, value in line.items()}
            stages[name] = {"batch": stage.batch, "conversations": stage.conversations, **last}
        return {
            "datasets": [path.name for path in request.datasets],
            "conversations": [str(path.name) for path in request.conversations],
            "episodes": len(self.samples.episodes),
            "held_out_episodes": self._held_out_episodes,
            "rows": len(self.samples),
            "turns": 0 if self.conversations is None else len(self.conversations),
            "start": None if request.start is None else request.start.name,
            "seed": request.run.seed,
            "precision": str(self.dtype).removeprefix("torch."),
            "device": self.processes.device.type,
            "processes": self.processes.world,
            "stages": stages,
        }

    def _about(self, stage: Stage) -> dict[str, str]:
        """What may not change in the middle of a stage."""
        return {
            "the model": self.config.model_dump_json(),
            "the stage": stage.model_dump_json(exclude={"steps", "parts"}),
            "the seed": str(self.request.run.seed),
            "the precision": str(self.dtype),
            "the number of rows": str(len(self.samples)),
            "the number of conversations": str(0 if self.conversations is None else len(self.conversations)),
        }

    def _draw(self) -> None:
        """The curves so far, as a picture."""
        runs = {name: read_curves(_folder(self.out, name) / CURVES) for name in ("stage 1", "stage 2")}
        render_curves(runs, self.out / PICTURE, self.request.size)

    def _check(self) -> None:
        """Raise ValueError for what does not go together."""
        request = self.request
        if request.size not in SIZES:
            raise ValueError(f"size {request.size}: there is none; there are {', '.join(SIZES)}")
        if self.start is None and self.recipe.image_tokenizer is None:
            raise ValueError(
                f"size {request.size} has no tokenizers of its own to train: give a checkpoint to start from "
                "(vla-ros checkpoint convert makes one of published weights)"
            )
        if self.start is not None and self.start.manifest.size != request.size:
            raise ValueError(f"{request.start} is of size {self.start.manifest.size}, not {request.size}")
        if self.start is not None and (cameras := [one.name for one in self.start.manifest.cameras]) != [
            *request.data.cameras
        ]:
            raise ValueError(f"{request.start} sees {', '.join(cameras)}, not {', '.join(request.data.cameras)}")


def _longest(config: UpVlaConfig) -> int:
    """Of a released sequence: text, image codes between their ends, action queries."""
    return config.max_text + 1 + 1 + config.all_codes + 1 + config.action_rows


def _folder(out: Path, stage: str) -> Path:
    return out / stage.replace(" ", "-")
