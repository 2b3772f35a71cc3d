"""Conversations as the model is trained on them: the question whole, the answer ended, nothing longer than the rest."""

from __future__ import annotations

import tiny_up_vla
import torch

from vla_ros.models.up_vla import IGNORED, SIZES, conversation
from vla_ros.training.batches import ConversationBatch
from vla_ros.training.up_vla_batches import Preparation, longest
from vla_ros.training.up_vla_objective import Talks

BUNDLE = tiny_up_vla.bundle()
CONFIG, TEXT = BUNDLE.manifest.model, BUNDLE.text
PREPARATION = Preparation(CONFIG, TEXT, BUNDLE.image_tokenizer, torch.device("cpu"))


def talks(*turns: tuple[str, str], preparation: Preparation = PREPARATION) -> Talks:
    images = torch.zeros(1, 2, tiny_up_vla.PIXELS, tiny_up_vla.PIXELS, 3, dtype=torch.uint8)
    return preparation.talks(ConversationBatch(images, (turns,)))


def test_the_longest_sequence_is_the_release_s() -> None:
    assert longest(SIZES["up-vla-release"]) == 1613
    assert longest(SIZES["up-vla-release"].model_copy(update={"views": 2})) == 2637


def test_an_answer_follows_its_question_and_ends() -> None:
    found = talks(("what is it?", "a cube"))
    ids, labels = found.sequence.ids_BL[0], found.labels_BL[0]
    answered = [*TEXT.encode(" a cube"), TEXT.end_of_text]
    assert labels[labels != IGNORED].tolist() == answered
    assert ids.tolist()[-len(answered) :] == answered
    asked = TEXT.encode(conversation("what is it?"))
    assert ids.tolist()[-len(answered) - len(asked) : -len(answered)] == asked


def test_what_was_said_before_is_read_as_the_model_itself_would_have_said_it() -> None:
    found = talks(("what is it?", "a cube"), ("where?", "in the front"))
    answers = [[*TEXT.encode(f" {answer}"), TEXT.end_of_text] for answer in ("a cube", "in the front")]
    asked = [TEXT.encode(conversation(question)) for question in ("what is it?", "where?")]
    said = [*asked[0], *answers[0], *asked[1], *answers[1]]
    assert found.sequence.ids_BL[0].tolist()[-len(said) :] == said
    assert found.labels_BL[0][found.labels_BL[0] != IGNORED].tolist() == answers[1]


def test_a_conversation_begins_with_what_the_release_was_told() -> None:
    told = CONFIG.model_copy(update={"system": "the red cube"})
    system = TEXT.encode("the red cube")
    for turns in ([("what is it?", "a cube")], [("before " * 90, "a cube")]):
        preparation = Preparation(told, TEXT, BUNDLE.image_tokenizer, torch.device("cpu"))
        ids = talks(*turns, preparation=preparation).sequence.ids_BL[0].tolist()
        assert ids[: 2 + len(system)] == [CONFIG.vocabulary.understand, *system, CONFIG.vocabulary.begin_image]
        assert len(ids) <= longest(CONFIG)


def test_of_what_is_too_long_the_oldest_words_are_left_out_then_the_answer_s_last() -> None:
    room = longest(CONFIG) - CONFIG.features - 3
    found = talks((f"{'before ' * 90}and now?", "a cube"))
    assert found.sequence.ids_BL.shape == (1, longest(CONFIG))
    answered = [*TEXT.encode(" a cube"), TEXT.end_of_text]
    asked = TEXT.encode(conversation(f"{'before ' * 90}and now?"))
    assert found.sequence.ids_BL[0].tolist()[-room:] == [*asked[-(room - len(answered)) :], *answered]

    found = talks(("and now?", "a cube and " * 90))
    labels = found.labels_BL[0]
    assert labels[labels != IGNORED].tolist() == TEXT.encode(" " + "a cube and " * 90)[: room - 1]
    assert found.sequence.ids_BL.shape == (1, longest(CONFIG))
