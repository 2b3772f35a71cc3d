"""Texts come back from their ids; training repeats; folders of others are read, or named for what they lack."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from vla_ros.tokenizers.text import PHI_SIZE, TextTokenizer, TextTokenizerError

TEXTS = [
    f"{verb} the {color} cube {where}"
    for verb in ("pick up", "lift", "push")
    for color in ("red", "green", "blue")
    for where in ("to the left", "to the right", "on the table")
]
END = "<|endoftext|>"


@pytest.fixture(scope="module")
def trained() -> TextTokenizer:
    return TextTokenizer.train(TEXTS, 512)


def test_it_has_exactly_the_size_asked_for(trained: TextTokenizer) -> None:
    assert trained.size == 512  # more than these few words give cause for
    assert TextTokenizer.train(TEXTS, 260).size == 260


def test_known_words_are_short_and_unknown_ones_are_not_lost(trained: TextTokenizer) -> None:
    assert len(trained.encode("push the red cube to the left")) == 7
    assert trained.decode(trained.encode("žluťoučký kůň 🤖")) == "žluťoučký kůň 🤖"


def test_capitals_mean_the_same(trained: TextTokenizer) -> None:
    assert trained.encode("Pick up the RED cube") == trained.encode("pick up the red cube")


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=60).filter(lambda text: "<|" not in text))
def test_text_comes_back(trained: TextTokenizer, text: str) -> None:
    ids = trained.encode(text)
    assert all(0 <= number < 512 for number in ids) and trained.end_of_text not in ids
    small = trained.decode(ids)
    assert small == text.lower() or small == "".join(letter.lower() for letter in text)  # no rule for a final sigma


def test_the_end_of_text_is_one_entry_and_is_not_shown(trained: TextTokenizer) -> None:
    ids = [*trained.encode("lift the red cube"), trained.end_of_text]
    assert trained.encode(f"lift the red cube{END}") == ids
    assert trained.decode(ids) == "lift the red cube"
    assert trained.encode("") == [] and trained.decode([]) == ""


def test_unused_entries_show_as_nothing(trained: TextTokenizer) -> None:
    assert trained.decode([511, *trained.encode("cube"), 511]) == "cube"


def test_ids_of_images_are_no_text(trained: TextTokenizer) -> None:
    with pytest.raises(ValueError, match=r"ids of text are 0 to 511, got \[512, -1\]"):
        trained.decode([5, 512, -1])


def test_another_process_learns_the_same(trained: TextTokenizer, tmp_path: Path) -> None:
    program = (
        "import sys, json; from pathlib import Path; from vla_ros.tokenizers.text import TextTokenizer;"
        "TextTokenizer.train(json.loads(sys.argv[1]), 512, Path(sys.argv[2]))"
    )
    subprocess.run([sys.executable, "-c", program, json.dumps(TEXTS), str(tmp_path / "theirs")], check=True)
    trained.save(tmp_path / "ours")
    assert (tmp_path / "ours/tokenizer.json").read_bytes() == (tmp_path / "theirs/tokenizer.json").read_bytes()
    loaded = TextTokenizer.load(tmp_path / "theirs", 512)
    assert loaded.encode(TEXTS[0]) == trained.encode(TEXTS[0])


def test_too_little_to_learn_from_is_refused() -> None:
    with pytest.raises(TextTokenizerError, match="has 257 entries or more, 200 were asked for"):
        TextTokenizer.train(TEXTS, 200)
    with pytest.raises(TextTokenizerError, match="no texts"):
        TextTokenizer.train(["", "  "], 512)


def test_folders_that_lack_something_are_named(trained: TextTokenizer, tmp_path: Path) -> None:
    with pytest.raises(TextTokenizerError, match=f"{tmp_path}/nowhere is not there"):
        TextTokenizer.load(tmp_path / "nowhere")
    with pytest.raises(TextTokenizerError, match=r"tokenizer.json is missing, and so is vocab.json, merges.txt"):
        TextTokenizer.load(tmp_path)
    trained.save(tmp_path)
    with pytest.raises(TextTokenizerError, match=r"tokenizer.json is a file; a text tokenizer is a folder"):
        TextTokenizer.load(tmp_path / "tokenizer.json")
    with pytest.raises(TextTokenizerError, match="of 512 entries, and 50295 are needed: .*microsoft/phi-1_5"):
        TextTokenizer.load(tmp_path, PHI_SIZE)
    whole = (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(whole[: len(whole) // 2])
    with pytest.raises(TextTokenizerError, match=r"tokenizer.json is not a tokenizer"):
        TextTokenizer.load(tmp_path)
    Tokenizer(models.BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(TextTokenizerError, match=r"no entry <\|endoftext\|>"):
        TextTokenizer.load(tmp_path)


def test_padding_and_cutting_of_a_file_are_not_taken_over(trained: TextTokenizer, tmp_path: Path) -> None:
    trained.save(tmp_path)
    theirs = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    theirs.enable_padding(length=20)
    theirs.enable_truncation(3)
    theirs.save(str(tmp_path / "tokenizer.json"))
    assert TextTokenizer.load(tmp_path).encode(TEXTS[0]) == trained.encode(TEXTS[0])


def phi_folder(folder: Path, added: bool = True) -> Path:
    """A stand-in for phi-1_5's: 50256 entries of a BPE, the end of text, and 38 runs of white space added."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [f"{a} {b}" for a, b in product(letters, letters)][: 50256 - len(letters)]
    entries = [*letters, *(pair.replace(" ", "") for pair in pairs), END]
    (folder / "vocab.json").write_text(json.dumps({entry: number for number, entry in enumerate(entries)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs]) + "\n")
    runs = [" " * n for n in range(31, 1, -1)] + ["\t" * n for n in range(9, 1, -1)]
    if added:
        numbers = {run: 50257 + number for number, run in enumerate(runs)}
        (folder / "added_tokens.json").write_text(json.dumps(numbers))
    ends = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CodeGenTokenizer", **ends}))
    return folder


def test_published_folders_are_read_by_transformers(tmp_path: Path) -> None:
    phi = TextTokenizer.load(phi_folder(tmp_path), PHI_SIZE)
    assert (phi.size, phi.end_of_text) == (50295, 50256)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    assert phi.encode("a  b") == [letters.index("a"), 50286, letters.index("b")]  # two blanks: the last run of blanks
    assert phi.encode("\t\t") == [50294] and phi.encode(f"{END}") == [50256]
    assert phi.decode(phi.encode("pick up  the\t\tRED cube")) == "pick up  the\t\tRED cube"
    phi.save(tmp_path / "kept")
    again = TextTokenizer.load(tmp_path / "kept", PHI_SIZE)
    assert again.encode("lift  the Cube") == phi.encode("lift  the Cube") and again.end_of_text == 50256


def test_phi_without_its_added_entries_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TextTokenizerError, match=r"of 50257 entries, and 50295 are needed: .*added_tokens.json"):
        TextTokenizer.load(phi_folder(tmp_path, added=False), PHI_SIZE)
