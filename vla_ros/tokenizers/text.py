"""Text into ids and back: a byte-level BPE trained here, or a published tokenizer from a local folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from vla_ros.recording.files import ordinary, write_atomically

END_OF_TEXT: Final = "<|endoftext|>"
#: Entries of phi-1_5's: 50257 of its BPE and 38 runs of white space; ids of UP-VLA's own tokens begin behind them.
PHI_SIZE: Final = 50295
FILE: Final = "tokenizer.json"
_BYTES: Final = 256  # entries that a byte-level BPE has before it has learnt anything
_BPE_FILES: Final = ("vocab.json", "merges.txt")  # what older folders have in place of tokenizer.json


class TextTokenizerError(ValueError):
    """A text tokenizer that is not there, not whole, or another one; the text says what is missing."""


class TextTokenizer:
    """Text <-> ids in 0 .. size - 1. What begins and ends a sequence is the model's affair: no id is added here."""

    def __init__(self, tokenizer: Any) -> None:
        """`tokenizer`: a `tokenizers.Tokenizer`. Raises TextTokenizerError where it has no end of text."""
        end = tokenizer.token_to_id(END_OF_TEXT)
        if end is None:
            raise TextTokenizerError(f"the text tokenizer has no entry {END_OF_TEXT}, which begins and ends a text")
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self.size: int = tokenizer.get_vocab_size(with_added_tokens=True)
        self.end_of_text: int = end

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; the end of text is left out.

        Raises:
            ValueError: an id is not in 0 .. size - 1.
        """
        ids = list(ids)
        unknown = [number for number in ids if not 0 <= number < self.size]
        if unknown:
            raise ValueError(f"ids of text are 0 to {self.size - 1}, got {unknown[:5]}")
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text

    @classmethod
    def load(cls, folder: Path, size: int | None = None) -> TextTokenizer:
        """The tokenizer in a folder: `tokenizer.json`, else what transformers reads, from this disk only.

        `size`: the number of entries that it must have; for the released UP-VLA `PHI_SIZE`. Raises TextTokenizerError.
        """
        if not folder.is_dir():
            problem = "is a file" if folder.exists() else "is not there"
            raise TextTokenizerError(f"{folder} {problem}; a text tokenizer is a folder with {FILE}")
        tokenizer = cls(_read_file(folder / FILE) if (folder / FILE).exists() else _read_transformers(folder))
        if size is not None and tokenizer.size != size:
            raise TextTokenizerError(
                f"{folder} has a text tokenizer of {tokenizer.size} entries, and {size} are needed"
                + _why(tokenizer.size, size)
            )
        return tokenizer

    @classmethod
    def train(cls, texts: Iterable[str], size: int, folder: Path | None = None) -> TextTokenizer:
        """A byte-level BPE of exactly `size` entries, learnt from texts and kept in `folder` where one is given.

        The same texts in the same order give the same tokenizer. It writes in small letters only, so that an
        instruction means the same however it is typed. Entries that the texts give no cause for stay unused. Raises
        TextTokenizerError where `size` is too small for all bytes, or there are no texts.
        """
        if size < _BYTES + 1:
            raise TextTokenizerError(f"a byte-level tokenizer has {_BYTES + 1} entries or more, {size} were asked for")
        texts = [text for text in texts if text.strip()]
        if not texts:
            raise TextTokenizerError("there are no texts to learn a tokenizer from")
        tokenizer = Tokenizer(models.BPE())
        tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        missing = size - tokenizer.get_vocab_size()
        tokenizer.add_special_tokens([AddedToken(f"<|unused_{n}|>", special=True) for n in range(missing)])
        trained = cls(tokenizer)
        if folder is not None:
            trained.save(folder)
        return trained

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` into the folder, which `load` reads; raises DatasetError where it cannot."""
        write_atomically(folder / FILE, self._tokenizer.to_str(pretty=True).encode())


def _read_file(path: Path) -> Any:
    try:
        return Tokenizer.from_file(str(ordinary(path)))
    except Exception as error:  # the library raises nothing more special
        raise TextTokenizerError(f"{path} is not a tokenizer: {error}") from error


def _read_transformers(folder: Path) -> Any:
    """The fast tokenizer behind what transformers makes of a folder; nothing is fetched, no code in it is run."""
    missing = [name for name in _BPE_FILES if not (folder / name).is_file()]
    if missing:
        raise TextTokenizerError(f"{folder} has no text tokenizer: {FILE} is missing, and so is {', '.join(missing)}")
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise TextTokenizerError(f"{folder} has a text tokenizer that transformers does not read: {error}") from error
    if not getattr(found, "is_fast", False):
        raise TextTokenizerError(f"{folder} has a {type(found).__name__}, which has no fast form; {FILE} is missing")
    return found.backend_tokenizer


def _why(size: int, wanted: int) -> str:
    if wanted == PHI_SIZE and size < PHI_SIZE:
        return ": those of microsoft/phi-1_5; added_tokens.json (38 runs of white space) is missing"
    return ""
