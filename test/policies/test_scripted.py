"""The scripted expert: bounded and repeatable plans from any scene, and tasks done in the simulated world."""

from __future__ import annotations

from math import cos, pi, sin

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.control.arm import ArmConfig
from vla_ros.geometry import rotation_angle
from vla_ros.policies import registry
from vla_ros.policies.policy import Policy
from vla_ros.policies.scripted import Imagined, ScriptedExpert, grasp_yaw, load
from vla_ros.robots.panda import PANDA
from vla_ros.rollout.loop import Episode, Rollout, RolloutConfig
from vla_ros.simulation.tabletop import Tabletop
from vla_ros.simulation.tasks import COLORS, CUBE_SIZE_M
from vla_ros.simulation.world import WorldState
from vla_ros.values import Array, Committed, ModelChunk, Observation

DOWN = (1.0, 0.0, 0.0, 0.0)
INSTRUCTIONS = (
    "lift the red cube",
    "push the green cube to the left",
    "push the blue cube to the right",
    "stack the red cube on the blue cube",
)


def world_values(tcp: Array, width_m: float, cubes: dict[str, tuple[float, float, float]], success: float = 0) -> Array:
    """WorldState.values of a hand and of cubes (x, y, yaw) on the table."""
    poses = [(x, y, CUBE_SIZE_M / 2, 0.0, 0.0, sin(yaw / 2), cos(yaw / 2)) for x, y, yaw in map(cubes.get, COLORS)]
    return np.concatenate([tcp, [width_m], *poses, [success]])


def plan(instruction: str, values: Array, scheduled: Array | None = None) -> ModelChunk:
    expert = ScriptedExpert(PANDA)
    expert.reset(instruction)
    observation = Observation(1_000, {}, {"joints": np.zeros(7), "world": values})
    prefix = None if scheduled is None else ModelChunk(1_000, scheduled)
    return expert.infer([observation], Committed(prefix=prefix)).chunk


@st.composite
def scenes(draw: st.DrawFn) -> Array:
    """Any hand over the table, cubes anywhere, touching each other too."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    quaternion = DOWN + rng.normal(0.0, 0.15, 4)
    position = rng.uniform((0.3, -0.3, 0.02), (0.7, 0.3, 0.5))
    cubes = {color: (rng.uniform(0.3, 0.7), rng.uniform(-0.3, 0.3), rng.uniform(-pi, pi)) for color in COLORS}
    tcp = np.concatenate([position, quaternion / np.linalg.norm(quaternion)])
    return world_values(tcp, rng.uniform(0.0, 0.08), cubes, float(rng.random() < 0.2))


SCENE = world_values(
    np.array([0.45, 0.0, 0.30, *DOWN]),
    0.08,
    {"red": (0.5, 0.1, 0.3), "green": (0.4, -0.1, 1.0), "blue": (0.6, -0.1, 2.0)},
)


@given(scenes(), st.sampled_from(INSTRUCTIONS))
def test_plans_from_any_scene_are_smooth_and_stay_above_the_table(values: Array, instruction: str) -> None:
    rows = plan(instruction, values).actions
    assert rows.shape == (10, 8)
    velocities = np.diff(rows[:, :3], axis=0, prepend=rows[:1, :3]) / 0.1
    assert np.linalg.norm(velocities, axis=1).max() <= 0.26
    assert np.linalg.norm(np.diff(velocities, axis=0), axis=1).max() / 0.1 <= 0.71
    turns = [rotation_angle(before, after) for before, after in zip(rows[:-1, 3:7], rows[1:, 3:7], strict=True)]
    assert max(turns) <= 0.15
    np.testing.assert_allclose(np.linalg.norm(rows[:, 3:7], axis=1), 1.0)
    assert rows[:, 2].min() >= min(0.01, values[2])
    assert set(rows[:, 7]) <= {0.0, 0.08}


@given(scenes(), st.sampled_from(INSTRUCTIONS))
def test_the_same_scene_always_gives_the_same_plan(values: Array, instruction: str) -> None:
    np.testing.assert_array_equal(plan(instruction, values).actions, plan(instruction, values).actions)


def test_a_plan_starts_at_the_hand_and_at_rest() -> None:
    rows = plan(INSTRUCTIONS[0], SCENE).actions
    np.testing.assert_array_equal(rows[0, :7], SCENE[:7])
    assert np.linalg.norm(rows[1, :3] - rows[0, :3]) <= 0.011


def test_a_plan_goes_on_from_what_is_scheduled() -> None:
    ahead = np.tile([*SCENE[:7], 0.08], (3, 1))
    ahead[:, 1] += [0.02, 0.04, 0.06]
    rows = plan(INSTRUCTIONS[0], SCENE, ahead).actions
    np.testing.assert_allclose(rows[0], ahead[0])
    velocity = (rows[1, :3] - rows[0, :3]) / 0.1
    assert np.linalg.norm(velocity - (0.0, 0.2, 0.0)) <= 0.1  # not stopped, nor turned at once


def test_an_arm_that_is_far_from_what_is_scheduled_is_planned_for_where_it_is() -> None:
    ahead = np.tile([*SCENE[:7], 0.08], (3, 1))
    ahead[:, 0] += 0.15
    np.testing.assert_array_equal(plan(INSTRUCTIONS[0], SCENE, ahead).actions[0, :7], SCENE[:7])


def test_a_plan_holds_the_phases_to_come() -> None:
    """A hand a little above the cube goes down, closes, and has closed before it goes up: all in one chunk."""
    values = world_values(np.array([0.5, 0.1, 0.03, *DOWN]), 0.06, dict.fromkeys(COLORS, (0.5, 0.1, 0.0)))
    values[15:22][0] += 0.2  # the others lie elsewhere
    values[22:29][0] -= 0.2
    rows = plan("lift the red cube", values).actions
    assert rows[0, 7] == 0.08
    assert rows[-1, 7] == 0.0
    lowest = int(np.argmin(rows[:, 2]))
    closes = int(np.argmin(rows[:, 7]))
    assert closes <= lowest
    assert rows[closes, 2] < rows[lowest, 2] + 0.01
    assert rows[-1, 2] > rows[lowest, 2] + 0.005


def test_fingers_close_where_no_other_cube_is_in_their_way() -> None:
    """A neighbour at +y, then one at +x: the fingers, which open along the hand's y axis, go down beside it."""
    hand = np.array([0.5, 0.0, 0.3, *DOWN])
    for (x, y), across in (((0.0, 0.055), 1.0), ((0.055, 0.0), 0.0)):
        cubes = {"red": (0.5, 0.0, 0.0), "green": (0.5 + x, y, 0.0), "blue": (0.3, 0.3, 0.0)}
        yaw = grasp_yaw(Imagined.of(WorldState(0, world_values(hand, 0.08, cubes)), None, step_s=0.1), "red")
        assert abs(sin(yaw)) == pytest.approx(across, abs=1e-6)


def test_an_instruction_it_cannot_follow_is_answered_with_the_forms() -> None:
    expert = ScriptedExpert(PANDA)
    with pytest.raises(ValueError, match=r"no tabletop task: 'dance'; the forms are .*lift the <colour> cube"):
        expert.reset("dance")
    with pytest.raises(ValueError, match="has no instruction yet"):
        ScriptedExpert(PANDA).infer([Observation(0, {}, {"world": SCENE})], Committed())


def test_its_action_space_is_its_own() -> None:
    action = ScriptedExpert.action_spec
    assert load(PANDA, "", action).action_spec == action
    with pytest.raises(ValueError, match="scripted has its own action space"):
        load(PANDA, "", action.model_copy(update={"rate_hz": 5.0}))


# --- in the simulated world ---


@pytest.fixture(scope="module")
def expert() -> Policy:
    return registry.load("scripted", robot=PANDA)


@pytest.fixture(scope="module")
def rollout(expert: Policy) -> Rollout:
    return Rollout(Tabletop(PANDA), PANDA, expert, ArmConfig(), RolloutConfig())


def assert_done(episode: Episode, within_s: float) -> None:
    assert episode.success, episode.row
    assert episode.row.duration_s < within_s


@pytest.mark.parametrize("seed", [1000, 1001, 1002])
def test_it_lifts(rollout: Rollout, seed: int) -> None:
    assert_done(rollout.run(seed), within_s=6.0)


def test_it_pushes(rollout: Rollout) -> None:
    assert_done(rollout.run(1003, "push the red cube to the left"), within_s=6.0)


def test_it_stacks(rollout: Rollout) -> None:
    assert_done(rollout.run(1004, "stack the blue cube on the green cube"), within_s=8.0)


class Slippery(Tabletop):
    """A tabletop whose first lifted cube falls: somebody opens the hand."""

    fallen = False

    def advance(self, duration_ns: int) -> None:
        if not self.fallen and self.state().cube_pose("red")[2] > 0.06:
            self.fallen = True
            self.move_gripper(0.08, 0.2)
        super().advance(duration_ns)


def test_it_grasps_again_what_fell(expert: Policy) -> None:
    world = Slippery(PANDA)
    episode = Rollout(world, PANDA, expert, ArmConfig(), RolloutConfig()).run(1005, "lift the red cube")
    assert world.fallen
    assert_done(episode, within_s=12.0)


@pytest.mark.full
@pytest.mark.parametrize("instruction", ["", *INSTRUCTIONS[1:]])
def test_it_succeeds_99_times_of_100(rollout: Rollout, instruction: str) -> None:
    assert sum(rollout.run(seed, instruction).success for seed in range(100)) >= 99
