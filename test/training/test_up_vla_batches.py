"""Conversations as the model is trained on them: the question whole, the answer ended, nothing longer than the rest."""

from __future__ import annotations

import tiny_up_vla
import torch

from vla_ros.models.up_vla import IGNORED, SIZES, conversation
from vla_ros.training.batches import ConversationBatch
from vla_ros.training.up_vla_batches import Preparation, longest
from vla_ros.training.up_vla_objective import Talks


def talks(question: str, answer: str) -> Talks:
    images = torch.zeros(1, 2, tiny_up_vla.PIXELS, tiny_up_vla.PIXELS, 3, dtype=torch.uint8)
    return PREPARATION.talks(ConversationBatch(images, (question,), (answer,)))


BUNDLE = tiny_up_vla.bundle()
CONFIG, TEXT = BUNDLE.manifest.model, BUNDLE.text
PREPARATION = Preparation(CONFIG, TEXT, BUNDLE.image_tokenizer, torch.device("cpu"))


def test_the_longest_sequence_is_the_release_s() -> None:
    assert longest(SIZES["up-vla-release"]) == 1613
    assert longest(SIZES["up-vla-release"].model_copy(update={"views": 2})) == 2637


def test_an_answer_follows_its_question_and_ends() -> None:
    found = talks("what is it?", "a cube")
    ids, labels = found.sequence.ids_BL[0], found.labels_BL[0]
    answered = [*TEXT.encode(" a cube"), TEXT.end_of_text]
    assert labels[labels != IGNORED].tolist() == answered
    assert ids.tolist()[-len(answered) :] == answered
    asked = TEXT.encode(conversation("what is it?"))
    assert ids.tolist()[-len(answered) - len(asked) : -len(answered)] == asked


def test_of_what_is_too_long_the_oldest_words_are_left_out_then_the_answer_s_last() -> None:
    room = longest(CONFIG) - CONFIG.features - 3
    found = talks(f"{'before ' * 90}and now?", "a cube")
    assert found.sequence.ids_BL.shape == (1, longest(CONFIG))
    answered = [*TEXT.encode(" a cube"), TEXT.end_of_text]
    asked = TEXT.encode(conversation(f"{'before ' * 90}and now?"))
    assert found.sequence.ids_BL[0].tolist()[-room:] == [*asked[-(room - len(answered)) :], *answered]

    found = talks("and now?", "a cube and " * 90)
    labels = found.labels_BL[0]
    assert labels[labels != IGNORED].tolist() == TEXT.encode(" " + "a cube and " * 90)[: room - 1]
    assert found.sequence.ids_BL.shape == (1, longest(CONFIG))
