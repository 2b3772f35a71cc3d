"""Controls: what a policy is told and sees under them, and that a policy under none notices nothing."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_up_vla

from vla_ros.policies import registry
from vla_ros.policies.policy import Reflective
from vla_ros.policies.up_vla import UpVlaPolicy
from vla_ros.robots.panda import PANDA
from vla_ros.rollout.controls import Control, blanked, controlled, wrap, wrong_instruction
from vla_ros.rollout.demonstrations import TASK_GROUPS
from vla_ros.simulation.tasks import COLORS, parse
from vla_ros.values import Committed, Observation, Window


def window(seed: int = 0) -> Window:
    rng = np.random.default_rng(seed)
    images = {name: rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for name in ("front", "wrist")}
    return (Observation(7, images, {"joints": rng.normal(size=7), "gripper": np.array([0.08])}, {"front": 5}),)


@pytest.mark.parametrize("group", TASK_GROUPS.values(), ids=TASK_GROUPS)
def test_another_colour_is_asked_for_and_nothing_else(group: tuple[object, ...]) -> None:
    asked = []
    for task in group:
        told = parse(wrong_instruction(task.instruction))  # type: ignore[attr-defined]
        assert (told.kind, told.side, told.target) == (task.kind, task.side, task.target)  # type: ignore[attr-defined]
        assert told.color not in (task.color, task.target)  # type: ignore[attr-defined]
        asked.append(told.color)
    assert all(asked.count(color) * len(COLORS) == len(group) for color in COLORS), "each as often as before"
    with pytest.raises(ValueError, match="no tabletop task: 'dance'"):
        wrong_instruction("dance")


def test_a_blanked_window_has_grey_images_and_all_else() -> None:
    before = window()
    (after,) = blanked(before)
    for camera, image in before[0].images.items():
        assert after.images[camera].shape == image.shape
        assert set(after.images[camera].ravel()) == {128}
        assert image.std() > 50.0
    np.testing.assert_array_equal(after.proprioception["joints"], before[0].proprioception["joints"])
    assert (after.instant_ns, after.stamps_ns) == (7, {"front": 5})


def actions(policy: object, instruction: str = "lift the red cube") -> np.ndarray:
    policy.reset(instruction)  # type: ignore[attr-defined]
    return policy.infer(window(), Committed()).chunk.actions  # type: ignore[attr-defined,no-any-return]


def test_a_model_decides_by_what_it_is_told_and_sees() -> None:
    policy = UpVlaPolicy(tiny_up_vla.bundle(words=()), PANDA)
    plain = actions(policy)
    np.testing.assert_array_equal(actions(wrap(policy)), plain)
    told = actions(controlled(policy, Control.WRONG_INSTRUCTION))
    np.testing.assert_array_equal(told, actions(policy, "lift the green cube"))
    assert np.abs(told - plain).max() > 0.0
    blind = actions(controlled(policy, Control.BLANK_IMAGE))
    assert np.abs(blind - plain).max() > 0.0
    policy.reset("lift the red cube")
    np.testing.assert_array_equal(blind, policy.infer(blanked(window()), Committed()).chunk.actions)


def test_what_is_thought_slowly_is_under_control_as_well() -> None:
    policy = UpVlaPolicy(tiny_up_vla.bundle(), PANDA)
    blind = controlled(policy, Control.BLANK_IMAGE)
    assert isinstance(blind, Reflective)
    assert blind.reflection_period_s == policy.reflection_period_s
    thought = []
    for seed in (0, 1):
        policy.reset("lift the red cube")
        blind.reflect(window(seed))
        thought.append(policy.description)
    assert thought[0] == thought[1], "it cannot tell two scenes apart"
    assert not isinstance(wrap(registry.load("scripted", robot=PANDA)), Reflective)


def test_what_was_decided_and_how_long_it_took_is_heard() -> None:
    heard = []
    policy = wrap(UpVlaPolicy(tiny_up_vla.bundle(), PANDA), heard=lambda *said: heard.append(said))
    given = actions(policy)
    ((seen, inference, wall_s),) = heard
    assert seen[0].instant_ns == 7
    np.testing.assert_array_equal(inference.chunk.actions, given)
    assert 0.0 < wall_s < 60.0
