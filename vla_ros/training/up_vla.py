"""Datasets and conversations into a checkpoint of UP-VLA, in stages; each is done once, and gone on with if broken off.

text: a tokenizer of the words there are. image: the tokenizer whose codes are predicted. see: the vision encoder, from
measured pictures, where there are some. 1: predict the next frame and answer questions. describe: the model's own
words for the recorded scenes. 2: the same and act, on those words.
"""

from __future__ import annotations

import json
from dataclasses import replace
from enum import Enum
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from vla_ros.actions import GripperConvention
from vla_ros.checkpoints.manifest import Bundle, UpVlaManifest, save
from vla_ros.checkpoints.requirements import CameraInput, words_of
from vla_ros.models.up_vla import DESCRIBE, SIZES, UpVla, conversation
from vla_ros.tokenizers.magvit2 import Magvit2
from vla_ros.tokenizers.text import FILE, TextTokenizer
from vla_ros.tokenizers.vision import ClipVision, SmallVision, SmallVisionConfig
from vla_ros.training.batches import ActionBatches, ConversationBatches
from vla_ros.training.card import model_card
from vla_ros.training.config import Schedule, Stage
from vla_ros.training.describing import carried_on, describe, described_samples, read_descriptions
from vla_ros.training.distributed import Processes
from vla_ros.training.image_tokenizer import SUMMARY, Progress, load_image_tokenizer, train_image_tokenizer
from vla_ros.training.labels import EndRule
from vla_ros.training.measures import MeasuredBatches
from vla_ros.training.progress import Tell, best_precision, read_curves
from vla_ros.training.seeing import SeeingObjective, Sights, sights
from vla_ros.training.trainer import CURVES, Job, Trainer
from vla_ros.training.up_vla_batches import Preparation, chosen, longest, parts
from vla_ros.training.up_vla_material import Material, Request
from vla_ros.training.up_vla_objective import ACT, PREDICT, UNDERSTAND, Part, UpVlaObjective
from vla_ros.viewing.curves import render_curves

TEXT, IMAGE, SEE, DESCRIPTIONS, CHECKPOINT = "text", "image_tokenizer", "see", "descriptions.jsonl", "checkpoint"
PICTURE = "curves.png"
_FRAMES = 8000  # that an image tokenizer is trained on, at most
_HELD_OUT_PARTS = 6
_MEASURED_HELD_OUT = 25  # one of so many measured pictures


class Until(str, Enum):
    """The last stage that is done."""

    TEXT = "text"
    IMAGE = "image"
    SEE = "see"
    PREDICT = "1"
    DESCRIBE = "describe"
    ACT = "2"


class UpVlaTraining:
    """One training of UP-VLA in one folder; every process of it makes one of these and calls `run`."""

    def __init__(self, request: Request, processes: Processes, tell: Tell) -> None:
        """Raises ValueError for a size, a recipe or a start that do not go together with the data; DatasetError."""
        self.request, self.processes, self.tell = request, processes, tell
        self.recipe, self.out = request.recipe, request.out
        self._seen: dict[str, Tensor] = {}  # weights of a vision encoder that has learnt to see
        self._check_shares()
        for leads_turn in (True, False):  # the first process makes the cache of frames, the others find it
            if leads_turn == processes.leads:
                material = Material(request, lambda what, done, total: tell(what, done, total, ""))
            processes.wait()
        self.material = material
        self.samples, self.conversations, self.start = material.samples, material.conversations, material.start
        self.config = material.config
        self.dtype = best_precision(processes.device, request.run.precision)

    def _check_shares(self) -> None:
        """Raise ValueError for batches that processes and their parts cannot share evenly."""
        schedules: dict[str, Schedule] = {"stage_1": self.recipe.stage_1, "stage_2": self.recipe.stage_2}
        if self.request.measures and self.recipe.see is not None:
            schedules[SEE] = self.recipe.see
        for name, stage in schedules.items():
            shares = {"batch": stage.batch}
            if isinstance(stage, Stage) and self.request.conversations:
                shares["conversations"] = stage.conversations
            for what, count in shares.items():
                if count % (self.processes.world * stage.parts):
                    raise ValueError(
                        f"{name}.{what}: {count} cannot be shared evenly by {self.processes.world} processes "
                        f"in {stage.parts} parts each"
                    )

    def run(self, until: Until = Until.ACT) -> Path:
        """Do what is not yet done, up to `until`; returns what that made: a folder or a file.

        Raises Interrupted when asked to stop: all is saved. CheckpointError for a folder that holds another training.
        """
        stages = {
            Until.TEXT: self._make_text,
            Until.IMAGE: self._make_image_tokenizer,
            Until.SEE: self._learn_to_see,
            Until.PREDICT: self._learn_to_predict,
            Until.DESCRIBE: self._describe,
            Until.ACT: self._learn_to_act,
        }
        made = self.out
        try:
            for stage, do in stages.items():
                made = do()
                if stage == until:
                    break
        finally:
            self._draw()
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
            config = config.model_copy(update={"pixels": self.request.data.pixels})
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

    def _learn_to_see(self) -> Path:
        measured, schedule = self.material.measured, self.recipe.see
        folder = _folder(self.out, SEE)
        torch.manual_seed(self.request.run.seed)  # every process begins with the same weights
        vision = self._vision()
        if measured is None or schedule is None or not isinstance(vision, SmallVision):
            return folder
        held_out = np.arange(len(measured)) % _MEASURED_HELD_OUT == 0
        unseen, learnt = np.flatnonzero(held_out), np.flatnonzero(~held_out)
        batches = partial(MeasuredBatches, measured, seed=self.request.run.seed, share=self.processes.share)
        taken = batches(learnt, schedule.batch, augmentation=self.recipe.augmentation)
        looked_at: list[Sights] = []
        if size := _even(min(schedule.batch, len(unseen)), self.processes.world):
            count = range(min(_HELD_OUT_PARTS, len(unseen) // size))
            looked_at = [
                part for _, parts in sights(batches(unseen, size), self.processes.device, count) for part in parts
            ]
        objective = SeeingObjective(vision, measured.names)
        about = self._about(schedule) | {"the measured pictures": str(len(measured))}
        learn = partial(sights, taken, self.processes.device, pieces=schedule.parts)
        weights = Trainer(objective, self._job(SEE, schedule, about), learn, looked_at).run()
        prefix = "vision."
        self._seen = {name.removeprefix(prefix): one for name, one in weights.items() if name.startswith(prefix)}
        return folder

    def _learn_to_predict(self) -> Path:
        self._weights_1 = self._train("stage 1", self.recipe.stage_1, None, {})
        return self.out / "stage-1"

    def _describe(self) -> Path:
        path = self.out / DESCRIPTIONS
        if self.config.conditioning == "released" or self.conversations is None:
            return path  # nothing is said in this conditioning, or there was nothing to learn speaking from
        asked = described_samples(self.samples.segments, self.material.described_every)
        if set(asked) - set(read_descriptions(path)):
            objective = self._objective(self.recipe.stage_1)
            objective.load_state_dict(self._weights_1)
            objective.to(self.processes.device).eval()
            assert objective.vision is not None
            describe(
                objective.model, objective.vision, self.text, self.samples, self.material.described_every, path,
                self.processes, self.tell,
            )  # fmt: skip
        return path

    def _learn_to_act(self) -> Path:
        said = read_descriptions(self.out / DESCRIPTIONS)
        descriptions = carried_on(said, self.samples.segments) if said else None
        weights = self._train("stage 2", self.recipe.stage_2, descriptions, self._weights_1)
        objective = self._objective(self.recipe.stage_2)
        objective.load_state_dict(weights)
        folder = self.out / CHECKPOINT
        if self.processes.leads:
            manifest = self._manifest(objective.vision, is_told=bool(said))
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
        held_out, learnt = self.material.split
        batches = partial(
            ActionBatches,
            action=self.material.actions,
            state=self.material.state,
            seed=self.request.run.seed,
            share=self.processes.share,
        )
        whole = self._preparation(descriptions)
        recipe = self.recipe
        partly = replace(whole, description_dropout=recipe.description_dropout, state_dropout=recipe.state_dropout)
        actions = batches(chosen(self.samples, learnt), batch=stage.batch, augmentation=recipe.augmentation)
        talks = self._talks(stage)
        looked_at: list[Part] = []
        if size := _even(min(stage.batch // stage.parts, len(held_out)), self.processes.world):
            unseen = batches(chosen(self.samples, held_out), batch=size)
            count = min(_HELD_OUT_PARTS, len(held_out) // size)
            looked_at = [Part(whole.windows(unseen[number], number)) for number in range(count)]
        about = self._about(stage)
        if descriptions is not None:  # of other words of its own it would go on as another training
            about["what it said itself"] = sha256(json.dumps(sorted(descriptions.items())).encode()).hexdigest()[:16]
        job = self._job(name, stage, about)
        return Trainer(objective, job, lambda steps: parts(partly, actions, talks, steps, stage.parts), looked_at).run()

    def _job(self, name: str, schedule: Schedule, about: dict[str, str]) -> Job:
        run, processes, folder = self.request.run, self.processes, _folder(self.out, name)
        return Job(name, folder, schedule, run, processes, self.dtype, self.tell, about, self._draw)

    def _preparation(self, descriptions: dict[int, str] | None) -> Preparation:
        return Preparation(
            self.config,
            self.text,
            self.image_tokenizer,
            self.processes.device,
            self.dtype,
            descriptions,
            counts_pads=self.request.data.end is EndRule.RELEASED,
            pad_to=None if self.recipe.pads_to_longest else longest(self.config),
            seed=self.request.run.seed,
        )

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
        has_gripper = self.samples.action.gripper is not GripperConvention.NONE
        sees_already = self.start is not None or bool(self._seen)
        return UpVlaObjective(model, vision, weights, has_gripper, stage.vision_learns or not sees_already)

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
        elif self._seen:
            vision.load_state_dict(self._seen)
        return vision

    # --- what is told of it

    def _manifest(self, vision: SmallVision | ClipVision | None, is_told: bool) -> UpVlaManifest:
        request, samples, data = self.request, self.samples, self.request.data
        sizes = samples.frame_sizes
        return UpVlaManifest(
            size=request.size,
            model=self.config,
            image_tokenizer=self.image_tokenizer.config,
            vision=vision.config if isinstance(vision, SmallVision) else None if vision is None else "clip",
            robot=samples.robot.name,
            cameras=tuple(CameraInput(name=name, width=sizes[name][0], height=sizes[name][1]) for name in data.cameras),
            code_cameras=data.code_cameras,
            pixels=data.pixels,
            proprioception=() if self.material.state is None else samples.state_streams,
            state=self.material.state,
            action=samples.action,
            normalization=self.material.actions,
            instructions=samples.instructions,
            words=tuple(sorted({word for text in samples.instructions for word in words_of(text)})),
            questions=() if self.conversations is None else self.conversations.questions(),
            description_period_s=self.recipe.describe_every_s if is_told else None,
            trained=self._trained(),
        )

    def _trained(self) -> dict[str, Any]:
        """What the model card says of the training."""
        request, recipe = self.request, self.recipe
        stages = {}
        for name, stage in ((SEE, recipe.see), ("stage 1", recipe.stage_1), ("stage 2", recipe.stage_2)):
            if stage is not None and (lines := read_curves(_folder(self.out, name) / CURVES)):
                last = {key: value for line in lines for key, value in line.items()}
                talks = stage.conversations if isinstance(stage, Stage) else 0
                stages[name] = {"batch": stage.batch, "conversations": talks, **last}
        return {
            "datasets": [path.name for path in request.datasets],
            "conversations": [str(path.name) for path in request.conversations],
            "episodes": len(self.samples.episodes),
            "held_out_episodes": self.material.held_out_episodes,
            "rows": len(self.samples),
            "measured": 0 if self.material.measured is None else len(self.material.measured),
            "turns": 0 if self.conversations is None else len(self.conversations),
            "start": None if request.start is None else request.start.name,
            "seed": request.run.seed,
            "precision": str(self.dtype).removeprefix("torch."),
            "device": self.processes.device.type,
            "processes": self.processes.world,
            "stages": stages,
        }

    def _about(self, stage: Schedule) -> dict[str, str]:
        """What may not change in the middle of a stage."""
        changing = {
            "augmentation", "pads_to_longest", "describe_every_s", "description_dropout", "state_dropout", "held_out",
        }  # fmt: skip
        return {
            "the model": self.config.model_dump_json(),
            "the stage": stage.model_dump_json(exclude={"steps", "parts"}),
            "the seed": str(self.request.run.seed),
            "the precision": str(self.dtype),
            "the number of rows": str(len(self.samples)),
            "the number of conversations": str(0 if self.conversations is None else len(self.conversations)),
            "the data": self.request.data.model_dump_json(),
            "the datasets": ", ".join(path.name for path in self.request.datasets),
            "the start": "none" if self.request.start is None else self.request.start.name,
            "the recipe": self.recipe.model_dump_json(include=changing),
        }

    def _draw(self) -> None:
        """The curves so far, as a picture, where there are some."""
        runs = {name: read_curves(_folder(self.out, name) / CURVES) for name in (SEE, "stage 1", "stage 2")}
        if self.processes.leads and any(runs.values()):
            render_curves({name: run for name, run in runs.items() if run}, self.out / PICTURE, self.request.size)


def _even(count: int, processes: int) -> int:
    """As many as can be shared evenly."""
    return count - count % processes


def _folder(out: Path, stage: str) -> Path:
    return out / stage.replace(" ", "-")
