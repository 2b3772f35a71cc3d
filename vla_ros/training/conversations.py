"""Images talked about, from LLaVA's json: [{image, conversations: [{from, value}, ...]}, ...]."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.training.pictures import Pictures, check_there, paths_of

_IMAGE = "<image>"  # where in a question LLaVA has its image; a model of ours always has it in front
_HUMAN, _MODEL = "human", "gpt"
_MOST_QUESTIONS = 40


@dataclass(frozen=True)
class Conversation:
    """One image, or one of each camera, and what is asked and answered about it, in order."""

    images: tuple[Path, ...]
    turns: tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False)
class Turn:
    """One question about images (V, S, S, 3) uint8 rgb, with its answer; `before`: those that came before it."""

    images: NDArray[np.uint8]
    question: str
    answer: str
    before: tuple[tuple[str, str], ...] = ()


def read(path: Path, images: Path | None = None) -> tuple[Conversation, ...]:
    """The conversations of a json file; `images`: the folder its images are named from, its own without one.

    `image` is a file, or a list of one of each camera. Text alone, without an image, is left out. Raises ValueError
    naming the file and the entry that is wrong, or the first image that is not there.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(entries, list):
        raise ValueError(f"{path}: conversations in LLaVA's form are a list of entries, not {type(entries).__name__}")
    folder = path.parent if images is None else images
    found = tuple(
        _conversation(entry, folder, f"{path}: entry {number}")
        for number, entry in enumerate(entries)
        if not (isinstance(entry, dict) and "image" not in entry)
    )
    check_there((image for one in found for image in one.images), str(path))
    return found


def _conversation(entry: Any, folder: Path, where: str) -> Conversation:
    if not isinstance(entry, dict):
        raise ValueError(f"{where} should be an object with image and conversations, not {str(entry)[:80]}")
    image = entry["image"]
    names = image if isinstance(image, list) else [image]
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"{where}: image should be a file, or a list of them, not {str(image)[:80]}")
    said = entry.get("conversations")
    if not isinstance(said, list) or not all(
        isinstance(one, dict) and isinstance(one.get("value"), str) for one in said
    ):
        raise ValueError(f"{where}: conversations should be a list of {{from, value}}, not {str(said)[:80]}")
    speakers = [one.get("from") for one in said]
    if not said or speakers != [_HUMAN, _MODEL] * (len(said) // 2):
        raise ValueError(f"{where}: {_HUMAN} and {_MODEL} should take turns, {_HUMAN} first, not {speakers}")
    words = [" ".join(one["value"].replace(_IMAGE, " ").split()) for one in said]
    return Conversation(paths_of(folder, names, where), tuple(zip(words[::2], words[1::2], strict=True)))


class Conversations:
    """Every turn of json files as a `Turn`, in order; resized pictures stay in memory while there is room."""

    def __init__(self, paths: Sequence[Path], pictures: Pictures, views: int, images: Path | None = None) -> None:
        """`views`: how many images the model sees; one image alone stands for all. Raises ValueError as `read`."""
        self._pictures = pictures
        self._views = views
        self._conversations = tuple(one for path in paths for one in read(path, images))
        self._turns = [(one, number) for one in self._conversations for number in range(len(one.turns))]
        if not self._turns:
            raise ValueError(f"no conversation about an image in {', '.join(map(str, paths)) or 'no file'}")
        for one in self._conversations:
            if len(one.images) not in (1, views):
                raise ValueError(f"{one.images[0]} and so on: {len(one.images)} images; the model sees {views}")

    def __len__(self) -> int:
        return len(self._turns)

    def turn(self, index: int) -> Turn:
        """Turn `index`; raises IndexError; ValueError for an image that cannot be read."""
        if not 0 <= index < len(self):
            raise IndexError(f"turn {index} of {len(self)}")
        conversation, number = self._turns[index]
        images = np.stack([self._pictures.read(path) for path in conversation.images])
        question, answer = conversation.turns[number]
        views = np.broadcast_to(images, (self._views, *images.shape[1:]))
        return Turn(views, question, answer, conversation.turns[:number])

    def questions(self) -> tuple[str, ...]:
        """All questions, each once; none where there are so many that they are free language, and no list of forms."""
        asked = dict.fromkeys(question for one in self._conversations for question, _ in one.turns)
        return tuple(asked) if len(asked) <= _MOST_QUESTIONS else ()

    def texts(self) -> tuple[str, ...]:
        """All questions and answers, each once, as a tokenizer is trained on."""
        return tuple(dict.fromkeys(text for one in self._conversations for turn in one.turns for text in turn))
