"""Pictures with what can be measured in them, a json line each: {"images": [front, wrist], "measures": {"red.x": 0.5}}.

Simulators write them (`vla-ros scenes`); so could whoever tracks real objects by other means. A policy never sees them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_ros.training.augmentation import AugmentationConfig, augment
from vla_ros.training.batches import ALONE, Order, Share
from vla_ros.training.pictures import Pictures, check_there, paths_of
from vla_ros.values import Array

_LEAST_SPREAD = 1e-6


@dataclass(frozen=True, eq=False)
class MeasuredBatch:
    """`images` (B, V, S, S, 3) uint8 and `values` (B, M) float32: by name, with mean 0 and standard deviation 1."""

    images: Tensor
    values: Tensor


class Measured:
    """The lines of files, in order; every line measures the same."""

    def __init__(self, paths: Sequence[Path], pictures: Pictures, views: int) -> None:
        """`views`: how many images the model sees. Raises ValueError naming the file and what is wrong there."""
        self._pictures = pictures
        self._images: list[tuple[Path, ...]] = []
        self.names: tuple[str, ...] = ()
        rows: list[list[float]] = []
        for path in paths:
            before = len(self._images)
            for number, line in enumerate(_lines(path), start=1):
                images, measures = _read(line, views, f"{path}: line {number}")
                self.names = self.names or tuple(measures)
                if tuple(measures) != self.names:
                    raise ValueError(f"{path}: line {number} measures {_said(measures)}, not {_said(self.names)}")
                self._images.append(paths_of(path.parent, images, f"{path}: line {number}"))
                rows.append(list(measures.values()))
            check_there((image for images in self._images[before:] for image in images), str(path))
        if not rows:
            raise ValueError(f"no measured picture in {', '.join(map(str, paths)) or 'no file'}")
        values: Array = np.array(rows)
        spread = np.maximum(values.std(axis=0), _LEAST_SPREAD)
        self._values: NDArray[np.float32] = ((values - values.mean(axis=0)) / spread).astype(np.float32)

    def __len__(self) -> int:
        return len(self._images)

    def images(self, index: int) -> NDArray[np.uint8]:
        """(V, S, S, 3) of line `index`, from 0 on; raises ValueError for an image that cannot be read."""
        return np.stack([self._pictures.read(path) for path in self._images[index]])

    def values(self, index: int) -> NDArray[np.float32]:
        """(M,) of line `index`: means are 0, standard deviations 1."""
        found: NDArray[np.float32] = self._values[index]
        return found


class MeasuredBatches:
    """`MeasuredBatch` by step; `batch` is the global size, `chosen` the lines that are taken."""

    def __init__(
        self,
        measured: Measured,
        chosen: NDArray[np.int64],
        batch: int,
        seed: int = 0,
        augmentation: AugmentationConfig | None = None,
        share: Share = ALONE,
    ) -> None:
        """Raises ValueError for a batch that is not of as many lines for each process."""
        self._measured, self._chosen = measured, chosen
        self._order = Order(len(chosen), batch, seed, share)
        # Shifted pictures would show things elsewhere than they are.
        self._augmentation = augmentation and augmentation.model_copy(update={"shift": 0.0})

    def __getitem__(self, step: int) -> MeasuredBatch:
        lines = self._chosen[self._order.indices(step)].tolist()
        images = torch.from_numpy(np.stack([self._measured.images(line) for line in lines]))
        if self._augmentation is not None:
            images = augment(images, self._augmentation, self._order.draws(step))
        return MeasuredBatch(images, torch.from_numpy(np.stack([self._measured.values(line) for line in lines])))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def _read(line: str, views: int, where: str) -> tuple[list[str], dict[str, float]]:
    try:
        entry: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not valid JSON: {error}") from None
    images = entry.get("images") if isinstance(entry, dict) else None
    measures = entry.get("measures") if isinstance(entry, dict) else None
    if not isinstance(images, list) or not all(isinstance(name, str) and name for name in images):
        raise ValueError(f"{where} should have a list of images, not {str(images)[:80]}")
    if len(images) != views:
        raise ValueError(f"{where} has {len(images)} images; the model sees {views}")
    numbers = isinstance(measures, dict) and all(
        isinstance(one, float | int) and math.isfinite(one) for one in measures.values()
    )
    if not measures or not numbers:
        raise ValueError(f"{where} should have measures by name, each a number, not {str(measures)[:80]}")
    return images, {name: float(one) for name, one in measures.items()}


def _said(names: Any) -> str:
    return ", ".join(list(names)[:3]) + (" and so on" if len(names) > 3 else "")
