"""Text into ids and back: a byte-level BPE trained here, or a published tokenizer from a local folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

END_OF_TEXT: Final = "<|endoftext|>"
PHI_SIZE: Final = 50295  # phi-1_5: 50257 entries of the BPE and 38 runs of white space


class TextTokenizerError(ValueError):
    """A tokenizer's folder that is not there, not whole, or another's."""


class TextTokenizer:
    """Text <-> ids in 0 .. size - 1; the begin and end of a sequence are the model's affair."""

    size: int
    end_of_text: int

    def encode(self, text: str) -> list[int]:
        """Ids of a text; none are added."""
        raise NotImplementedError

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, without the end of text."""
        raise NotImplementedError

    @classmethod
    def load(cls, folder: Path, size: int | None = None) -> TextTokenizer:
        """From a folder; `size`: how many entries it must have (the release: PHI_SIZE). Raises TextTokenizerError."""
        raise NotImplementedError

    @classmethod
    def train(cls, texts: Iterable[str], size: int, folder: Path | None = None) -> TextTokenizer:
        """Byte-level BPE of exactly `size` entries; the same texts give the same; kept in `folder` where one is given."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` into the folder."""
        raise NotImplementedError
