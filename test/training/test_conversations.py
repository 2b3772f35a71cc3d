"""LLaVA's json, as others write it and as we do: every turn with its pictures; what is wrong is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vla_ros.training import pictures
from vla_ros.training.batches import ConversationBatches, Share
from vla_ros.training.conversations import Conversations, read
from vla_ros.training.pictures import Pictures

TURNS = [("what is it?", "a robot"), ("whose?", "nobody's")]


def said(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [
        {"from": speaker, "value": value}
        for turn in turns
        for speaker, value in zip(("human", "gpt"), turn, strict=True)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        Image.fromarray(np.full((24, 32, 3), 60 * number, np.uint8)).save(tmp_path / f"{number}.png")
    return tmp_path


def write(folder: Path, *entries: Any) -> Path:
    path = folder / "talk.json"
    path.write_text(json.dumps(entries))
    return path


def test_turns_come_with_their_pictures_and_what_was_said_before(folder: Path) -> None:
    path = write(
        folder,
        {"id": 0, "image": "1.png", "conversations": said(("<image>\nwhat is it?", "a robot"), TURNS[1])},
        {"id": 1, "conversations": said(("text alone", "is left out"))},
        {"id": 2, "image": ["0.png", "2.png"], "conversations": said(("two\n<image>", "views"))},
    )
    found = Conversations([path], Pictures(16), 2)
    assert len(found) == 3
    first, second, third = (found.turn(index) for index in range(3))
    assert (first.question, first.answer, first.before) == (*TURNS[0], ())
    assert (second.question, second.answer, second.before) == (*TURNS[1], (TURNS[0],))
    assert (third.question, third.answer) == ("two", "views")
    assert first.images.shape == (2, 16, 16, 3)
    assert np.unique(first.images).tolist() == [60], "one image stands for both views"
    assert [int(view.mean()) for view in third.images] == [0, 120]
    assert set(found.texts()) == {"what is it?", "a robot", "whose?", "nobody's", "two", "views"}


def test_batches_follow_from_the_step_and_are_shared_evenly(folder: Path) -> None:
    entries = [{"image": f"{k % 3}.png", "conversations": said((f"q{k}", f"a{k}"))} for k in range(7)]
    talks = Conversations([write(folder, *entries)], Pictures(8), 1)
    whole = ConversationBatches(talks, 4, seed=3)[5]
    parts = [ConversationBatches(talks, 4, seed=3, share=Share(rank, 2))[5] for rank in range(2)]
    assert whole.turns == parts[0].turns + parts[1].turns
    assert np.array_equal(whole.images, np.concatenate([part.images for part in parts]))
    for ((question, answer),), images in zip(whole.turns, whole.images, strict=True):
        assert question[1:] == answer[1:]
        assert images.unique().tolist() == [60 * (int(answer[1:]) % 3)]


def test_pictures_stay_in_memory_while_there_is_room(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "_ROOM_BYTES", 3 * 8 * 8)  # of one
    entries = [{"image": f"{k}.png", "conversations": said((f"q{k}", f"a{k}"))} for k in range(2)]
    talks = Conversations([write(folder, *entries)], Pictures(8), 1)
    before = [talks.turn(index).images for index in range(2)]
    assert np.array_equal(talks.turn(1).images, before[1])
    for number in range(2):
        (folder / f"{number}.png").unlink()
    assert np.array_equal(talks.turn(0).images, before[0])
    with pytest.raises(ValueError, match=r"1\.png is not a readable image"):
        talks.turn(1)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (5, "entry 0 should be an object"),
        ({"image": 3, "conversations": said(TURNS[0])}, "image should be a file"),
        ({"image": "../0.png", "conversations": said(TURNS[0])}, r"image '\.\./0\.png' is not a path inside"),
        ({"image": "0.png"}, "conversations should be a list"),
        ({"image": "0.png", "conversations": said(TURNS[0])[:1]}, "human and gpt should take turns"),
        ({"image": "0.png", "conversations": said(TURNS[0])[::-1]}, "human and gpt should take turns"),
    ],
)
def test_an_entry_that_is_wrong_is_named(folder: Path, entry: Any, says: str) -> None:
    with pytest.raises(ValueError, match=rf"talk.json: .*{says}"):
        read(write(folder, entry))


def test_files_that_are_not_there_or_nothing_are_named(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.json is not valid JSON"):
        read(folder / "none.json")
    (folder / "talk.json").write_text('{"image": 1}')
    with pytest.raises(ValueError, match="a list of entries, not dict"):
        read(folder / "talk.json")
    with pytest.raises(ValueError, match="no conversation about an image"):
        Conversations([write(folder)], Pictures(16), 1)
    with pytest.raises(ValueError, match="2 images; the model sees 3"):
        Conversations([write(folder, {"image": ["0.png", "1.png"], "conversations": said(TURNS[0])})], Pictures(16), 3)
    missing = [{"image": f"{number}.png", "conversations": said(TURNS[0])} for number in (0, 9, 8, 9)]
    with pytest.raises(ValueError, match=r"talk\.json: .*/9\.png is not there; missing are 2 of 3 images"):
        read(write(folder, *missing))
    (folder / "9.png").write_text("no picture")
    broken = Conversations([write(folder, missing[1])], Pictures(16), 1)
    with pytest.raises(ValueError, match=r"9\.png is not a readable image"):
        broken.turn(0)
