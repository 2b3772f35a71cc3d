"""Images talked about, from LLaVA's json: [{image, conversations: [{from, value}, ...]}, ...]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Conversation:
    """One image, or one of each camera, and what is asked and answered about it, in order."""

    images: tuple[Path, ...]
    turns: tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False)
class Turn:
    """One question about images (V, S, S, 3) uint8 rgb, with its answer.

    `question` has the turns before it in front, as "first question ASSISTANT: first answer USER: question".
    """

    images: NDArray[np.uint8]
    question: str
    answer: str


def read(path: Path, images: Path | None = None) -> tuple[Conversation, ...]:
    """The conversations of a json file; `images`: the folder its images are named from, its own without one.

    Text alone, without an image, is left out. Raises ValueError naming the file and the entry that is wrong.
    """
    raise NotImplementedError


class Conversations:
    """Every turn of json files as a `Turn`, in order."""

    def __init__(self, paths: Sequence[Path], pixels: int, views: int) -> None:
        """`views`: as many images as the model sees; one image alone stands for all. Raises ValueError as `read`."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def turn(self, index: int) -> Turn:
        """Turn `index`; raises IndexError; ValueError for an image that cannot be read."""
        raise NotImplementedError

    def texts(self) -> tuple[str, ...]:
        """All questions and answers, each once, as a tokenizer is trained on."""
        raise NotImplementedError
