"""What is said of a state is true of it, judged from the words alone; and every caption can be read back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.robots.panda import PANDA
from vla_ros.simulation.describing import HELD, PLACES, describe, questions, read
from vla_ros.simulation.tabletop import Tabletop
from vla_ros.simulation.tasks import COLORS
from vla_ros.simulation.world import WorldState

X, Y = st.floats(0.36, 0.62), st.floats(-0.19, 0.19)
DOWN = [1.0, 0.0, 0.0, 0.0]


def state(tcp: tuple[float, ...], width_m: float, *cubes: tuple[float, ...]) -> WorldState:
    values = [*tcp, *DOWN, width_m]
    for cube in cubes:
        values += [*cube, 0.0, 0.0, 0.0, 1.0]
    return WorldState(0, np.array([*values, 0.0]))


def is_at(position: np.ndarray, place: str) -> bool:
    """The area, 26 x 38 cm about (0.49, 0), in two halves and three thirds."""
    depth, side = place.split()
    middle = abs(position[1]) <= 0.38 / 6 + 1e-9
    sides = {"left": position[1] > 0 and not middle, "middle": middle, "right": position[1] < 0 and not middle}
    return (position[0] > 0.49) == (depth == "far") and bool(sides[side])


@given(
    cubes=st.lists(st.tuples(X, Y), min_size=3, max_size=3),
    tcp=st.tuples(X, Y, st.floats(0.01, 0.5)),
    width_m=st.floats(0.0, 0.08),
    held=st.sampled_from([None, *range(3)]),
)
def test_a_caption_is_true_word_by_word(
    cubes: list[tuple[float, float]], tcp: tuple[float, float, float], width_m: float, held: int | None
) -> None:
    places = [(x, y, 0.02) for x, y in cubes]
    if held is not None:
        places[held], width_m = tcp, 0.04
    given = state(tcp, width_m, *places)
    said = read(describe(given).caption)
    assert said == describe(given)
    assert said.gripper_is_open == (width_m > 0.05)
    assert said.gripper_is_high == (tcp[2] > 0.1)
    for color, where in said.cubes.items():
        position = given.cube_pose(color)[:3]
        if where == HELD:
            assert np.linalg.norm(position - given.tcp_pose[:3]) < 0.03
        elif where.startswith("on the table, "):
            assert position[2] < 0.04
            assert is_at(position, where.removeprefix("on the table, "))
        elif where.startswith("on the "):
            below = given.cube_pose(where.split()[2])[:3]
            assert position[2] - below[2] == pytest.approx(0.04, abs=0.006)
        else:
            assert where == "in the air"
            assert position[2] > 0.03
    if said.gripper_place in PLACES:
        assert is_at(given.tcp_pose, said.gripper_place)
    else:
        color = said.gripper_place.split()[2]
        assert np.linalg.norm((given.cube_pose(color) - given.tcp_pose)[:2]) <= 0.025
        assert said.cubes[color] != HELD
    if held is not None:
        assert said.cubes[COLORS[held]] == HELD
        assert f"The {COLORS[held]} cube is in the gripper." in said.caption


def test_a_scene_in_words() -> None:
    """Red on blue, green in the gripper above them."""
    given = state((0.40, 0.15, 0.20), 0.04, (0.401, 0.15, 0.06), (0.40, 0.15, 0.20), (0.40, 0.15, 0.02))
    assert describe(given).caption == (
        "The red cube is on the blue cube. The green cube is in the gripper. "
        "The blue cube is on the table, near left. The gripper is closed, high, over the red cube."
    )
    answers = dict(questions(given))
    assert answers["where is the green cube?"] == "in the gripper"
    assert answers["what is in the gripper?"] == "the green cube"
    assert answers["is the gripper open or closed?"] == "closed"
    falling = state((0.5, 0.0, 0.4), 0.08, (0.5, 0.0, 0.2), (0.4, 0.1, 0.02), (0.6, -0.1, 0.02))
    assert describe(falling).cubes["red"] == "in the air"
    assert describe(falling).gripper_is_open


@given(cubes=st.lists(st.tuples(X, Y), min_size=3, max_size=3), tcp=st.tuples(X, Y, st.floats(0.05, 0.5)))
def test_answers_are_true(cubes: list[tuple[float, float]], tcp: tuple[float, float, float]) -> None:
    given = state(tcp, 0.08, *((x, y, 0.02) for x, y in cubes))
    answers = dict(questions(given))
    assert len(answers) == 9
    assert answers["what is in the gripper?"] == "nothing"
    by_color = dict(zip(COLORS, cubes, strict=True))
    leftmost = by_color[answers["which cube is the leftmost?"].split()[1]]
    assert leftmost[1] == max(y for _, y in cubes)
    farthest = by_color[answers["which cube is the farthest?"].split()[1]]
    assert farthest[0] == max(x for x, _ in cubes)
    nearest = by_color[answers["which other cube is the nearest to the gripper?"].split()[1]]
    assert np.hypot(nearest[0] - tcp[0], nearest[1] - tcp[1]) == pytest.approx(
        min(np.hypot(x - tcp[0], y - tcp[1]) for x, y in cubes)
    )


def test_the_world_as_it_begins_has_every_cube_on_the_table() -> None:
    world = Tabletop(PANDA)
    for seed in range(20):
        world.reset(seed)
        said = read(describe(world.state()).caption)
        assert all(where.startswith("on the table") for where in said.cubes.values())
        assert said.gripper_is_open
        assert said.gripper_is_high


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The red cube is on the table, far left.",
        "The red cube is on the red cube. The green cube is in the air. The blue cube is in the air. "
        "The gripper is open, high, far left.",
        "The red cube is in the air. The green cube is in the air. The blue cube is in the air. "
        "The gripper is open, high, far left. And so on.",
    ],
)
def test_what_is_no_caption_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no caption of the tabletop"):
        read(text)
