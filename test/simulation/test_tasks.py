from __future__ import annotations

from itertools import permutations

import pytest

from vla_ros.simulation.tasks import COLORS, FORMS, Side, Task, TaskKind, parse

TASKS = [
    *(Task(TaskKind.LIFT, color) for color in COLORS),
    *(Task(TaskKind.PUSH, color, side=side) for color in COLORS for side in Side),
    *(Task(TaskKind.STACK, color, target=target) for color, target in permutations(COLORS, 2)),
]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.instruction)
def test_words_and_task_are_one(task: Task) -> None:
    assert parse(task.instruction) == task
    assert parse(f"  {task.instruction.upper().replace(' ', '   ')}\n") == task


def test_the_words_are_these() -> None:
    assert Task(TaskKind.LIFT, "red").instruction == "lift the red cube"
    assert Task(TaskKind.PUSH, "green", side=Side.LEFT).instruction == "push the green cube to the left"
    assert Task(TaskKind.STACK, "blue", target="red").instruction == "stack the blue cube on the red cube"


@pytest.mark.parametrize(
    "words",
    [
        "",
        "lift",
        "lift the yellow cube",
        "push the red cube",
        "stack the red cube on the red cube",
        "lift the red cube now",
    ],
)
def test_other_words_are_refused_with_the_forms(words: str) -> None:
    with pytest.raises(ValueError, match="no tabletop task") as refusal:
        parse(words)
    assert repr(words) in str(refusal.value)
    assert all(form in str(refusal.value) for form in FORMS)
    assert "red, green, blue" in str(refusal.value)
