"""What a training of UP-VLA is made of: the request, samples and conversations, and what follows from them alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.checkpoints.manifest import Bundle, UpVlaManifest, load
from vla_ros.checkpoints.requirements import Normalization
from vla_ros.models.up_vla import SIZES, UpVlaConfig
from vla_ros.tokenizers.magvit2 import MAGVIT2_SIZES
from vla_ros.tokenizers.vision import PIXELS_PER_FEATURE
from vla_ros.training.config import Recipe, RunConfig
from vla_ros.training.conversations import Conversations
from vla_ros.training.labels import EndRule
from vla_ros.training.measures import Measured
from vla_ros.training.pictures import Pictures
from vla_ros.training.stats import normalization, state_normalization
from vla_ros.training.windows import ActionSamples, DataConfig


@dataclass(frozen=True)
class Request:
    """What is asked for. `start`: a checkpoint whose weights and tokenizers are gone on from."""

    datasets: tuple[Path, ...]
    out: Path
    size: str
    recipe: Recipe
    conversations: tuple[Path, ...] = ()
    measures: tuple[Path, ...] = ()
    data: DataConfig = field(default_factory=DataConfig)
    run: RunConfig = field(default_factory=RunConfig)
    start: Path | None = None


def data_of(manifest: UpVlaManifest) -> dict[str, Any]:
    """What of a `DataConfig` a checkpoint settles: cameras, sizes, actions, the rule at an episode's end."""
    settled: dict[str, Any] = {
        "cameras": tuple(camera.name for camera in manifest.cameras),
        "code_cameras": manifest.code_cameras,
        "pixels": manifest.pixels,
        "action": manifest.action,
        "end": EndRule.RELEASED if manifest.model.conditioning == "released" else EndRule.HOLD,
    }
    return settled if manifest.state is not None else {**settled, "state_keys": ()}


class Material:
    """A request with what it names, read."""

    def __init__(self, request: Request, on_progress: Callable[[str, int, int], None]) -> None:
        """Raises ValueError for what does not go together; DatasetError, CheckpointError for what cannot be read."""
        self.request = request
        self.start: Bundle | None = None if request.start is None else load(request.start)
        self._check()
        pictures, views = Pictures(request.data.pixels), len(request.data.cameras)
        self.conversations = Conversations(request.conversations, pictures, views) if request.conversations else None
        self.measured = Measured(request.measures, pictures, views) if request.measures else None
        self.samples = ActionSamples(request.datasets, request.data)
        self._check_joints()
        self._check_start()
        self.samples.keep(request.out / "frames", on_progress)  # takes long, so that all that can be wrong comes before

    @cached_property
    def config(self) -> UpVlaConfig:
        """The model's, of the size that was asked for, as the data needs it."""
        data, named = self.request.data, SIZES[self.request.size]
        if self.start is not None:
            return self.start.model.config
        trained = self.request.recipe.image_tokenizer
        changed: dict[str, object] = {
            "action_rows": data.action.horizon,
            "action_dims": len(self.samples.action.dimensions),
            "views": len(data.code_cameras),
        }
        if trained is not None:
            changed["image_codes"] = (data.pixels // MAGVIT2_SIZES[trained.size].pixels_per_code) ** 2
        if named.conditioning == "paper":
            changed["features"] = len(data.cameras) * (data.pixels // PIXELS_PER_FEATURE) ** 2
            changed["state_dims"] = self.samples.state_dims
        return UpVlaConfig.model_validate({**named.model_dump(), **changed})

    @property
    def held_out_episodes(self) -> list[int]:
        """Spread evenly over all."""
        count, of = round(self.request.recipe.held_out * len(self.samples.episodes)), len(self.samples.episodes)
        return [int((number + 0.5) * of / count) for number in range(count)]

    @cached_property
    def split(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Samples of the episodes held out, and those of the others."""
        chosen = set(self.held_out_episodes)
        is_held_out = np.concatenate(
            [np.full(len(episode), number in chosen) for number, episode in enumerate(self.samples.episodes)]
        )
        return np.flatnonzero(is_held_out), np.flatnonzero(~is_held_out)

    @cached_property
    def actions(self) -> Normalization:
        """What actions are scaled by: as the start was trained, otherwise by their statistics."""
        if self.trained_start is not None:
            return self.trained_start.normalization
        return normalization(self.samples, gripper_is_probability=self.config.conditioning == "paper")

    @cached_property
    def state(self) -> Normalization | None:
        """What proprioception is scaled by; None without any."""
        if not self.config.state_dims:
            return None
        return state_normalization(self.samples) if self.trained_start is None else self.trained_start.state

    @property
    def trained_start(self) -> UpVlaManifest | None:
        """What the start is, if it has learnt to act here; weights of others bring no scale of actions."""
        return self.start.manifest if self.start is not None and self.start.manifest.trained else None

    @cached_property
    def described_every(self) -> int:
        """Rows from one description to the next."""
        return max(1, round(self.samples.fps * self.request.recipe.describe_every_s))

    def _check(self) -> None:
        """Raise ValueError for what does not go together."""
        request = self.request
        if request.size not in SIZES:
            raise ValueError(f"size {request.size}: there is none; there are {', '.join(SIZES)}")
        if self.start is None and self.request.recipe.image_tokenizer is None:
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
        self._check_pixels()
        if request.measures and (self.start is not None or request.recipe.see is None):
            raise ValueError("measures are what a small vision encoder begins with; a start brings one that sees")
        if self.start is not None and self.start.vision is None and request.conversations:
            raise ValueError(f"{request.start} has no vision encoder, which conversations need; convert it with --clip")

    def _check_pixels(self) -> None:
        """Raise ValueError for frames of a size that the start does not take, or small encoders cannot divide."""
        request, pixels = self.request, self.request.data.pixels
        if self.start is not None:
            if pixels != self.start.manifest.pixels:
                raise ValueError(f"{request.start} sees {self.start.manifest.pixels} pixels, not data.pixels: {pixels}")
            return
        trained = request.recipe.image_tokenizer
        step = 1 if trained is None else MAGVIT2_SIZES[trained.size].pixels_per_code
        if SIZES[request.size].conditioning == "paper":
            step = math.lcm(step, PIXELS_PER_FEATURE)
        if pixels % step:
            below = pixels // step * step
            raise ValueError(
                f"data.pixels: {pixels} is not a multiple of {step}, which the encoders that are trained here divide "
                f"frames by; give {below + step}" + (f" or {below}" if below else "")
            )

    def _check_joints(self) -> None:
        """Raise ValueError for actions of joints that the arm has not: its controller would refuse every chunk."""
        action, robot = self.samples.action, self.samples.robot
        if action.is_joint and action.joint_names != robot.joint_names:
            raise ValueError(
                f"actions are of joints {', '.join(action.joint_names)}, and a {robot.name} has "
                f"{', '.join(robot.joint_names)}: data.action_names says which values are they, in order, "
                "data.action.gripper what the last one is"
            )

    def _check_start(self) -> None:
        """Raise ValueError for a start that acts or feels otherwise than the data."""
        request = self.request
        if (before := self.trained_start) is not None and before.action != self.samples.action:
            raise ValueError(f"{request.start} gives actions {before.action}, and the data has {self.samples.action}")
        rows, dims = self.samples.action.horizon, len(self.samples.action.dimensions)
        if (rows, dims) != (self.config.action_rows, self.config.action_dims):
            raise ValueError(
                f"{request.start} gives {self.config.action_rows} rows of {self.config.action_dims} values, and the "
                f"data has {rows} of {dims}"
            )
        if self.start is not None and self.config.state_dims not in (0, self.samples.state_dims):
            raise ValueError(
                f"{request.start} takes {self.config.state_dims} values of proprioception, and the data has "
                f"{self.samples.state_dims} (data.state_keys: {', '.join(request.data.state_keys) or 'none'})"
            )
        if before is not None and before.state is not None and before.proprioception != self.samples.state_streams:
            raise ValueError(
                f"{request.start} takes {', '.join(before.proprioception)} for proprioception, and the data has "
                f"{', '.join(self.samples.state_streams)}"
            )
