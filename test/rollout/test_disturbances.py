"""Offsets are held, bounded and the same whoever asks; mishaps happen once; and the expert copes with them."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from vla_ros.control.arm import ArmConfig
from vla_ros.geometry import rotation_angle
from vla_ros.policies import registry
from vla_ros.robots.panda import PANDA
from vla_ros.rollout.disturbances import Disturbances, Mishap, NoiseConfig
from vla_ros.rollout.loop import Episode, Rollout, RolloutConfig
from vla_ros.simulation.tabletop import Tabletop
from vla_ros.values import GRIPPER_DIMENSION, POSE_DIMENSIONS, ActionChunk, Array, Observation

MS = 1_000_000
START_NS = 10**9
DIMENSIONS = (*POSE_DIMENSIONS, GRIPPER_DIMENSION)
DOWN = [1.0, 0.0, 0.0, 0.0]
CUBE = [0.5, 0.0, 0.02]
NO_NOISE = NoiseConfig(position_m=0.0, rotation_deg=0.0)


def window(time_ns: int, tcp: list[float], width_m: float = 0.08) -> tuple[Observation, ...]:
    """The red cube lies at CUBE, the others far away."""
    others = [0.9, 0.5, 0.02, 0.0, 0.0, 0.0, 1.0, 0.9, -0.5, 0.02, 0.0, 0.0, 0.0, 1.0]
    world = np.array([*tcp, *DOWN, width_m, *CUBE, 0.0, 0.0, 0.0, 1.0, *others, 0.0])
    return (Observation(time_ns, {}, {"world": world}),)


def chunk(time_ns: int, tcp: list[float], rows: int = 20, step_ms: int = 50) -> ActionChunk:
    return ActionChunk(time_ns, step_ms * MS, DIMENSIONS, np.tile([*tcp, *DOWN, 0.08], (rows, 1)))


def begun(noise: NoiseConfig, mishaps: float = 0.0, seed: int = 3, task: str = "lift the red cube") -> Disturbances:
    disturbances = Disturbances(noise, mishaps, 0.08)
    disturbances.begin(Episode(seed, task, START_NS))
    return disturbances


def offsets(disturbances: Disturbances, tcp: list[float], seconds: int = 12) -> Array:
    """Way of the TCP from where it was planned, every 50 ms."""
    pieces = []
    for second in range(seconds):
        time_ns = START_NS + second * 1000 * MS
        clean = chunk(time_ns, tcp)
        pieces.append(disturbances.disturb(clean, window(time_ns, tcp)).actions[:, :3] - clean.actions[:, :3])
    return np.concatenate(pieces)


def test_offsets_are_bounded_held_and_sometimes_nothing() -> None:
    noise = NoiseConfig(position_m=0.04, hold_s=(0.5, 1.0), ramp_s=0.25)
    found = offsets(begun(noise), [0.5, 0.0, 0.5])
    lengths = np.linalg.norm(found, axis=1)
    assert 0.01 < lengths.max() <= 0.04 + 1e-12
    assert (lengths < 1e-12).sum() >= 5
    stands = np.linalg.norm(np.diff(found, axis=0), axis=1) < 1e-12
    # It moves for 0.25 s of each 0.5 to 1 s: it stands in about two thirds of all steps, and never jumps.
    assert 0.5 < stands.mean() < 0.95
    assert np.abs(np.diff(found, axis=0)).max() <= 2 * 0.04 / 5 + 1e-9


def test_turns_are_bounded_and_quaternions_keep_their_sign() -> None:
    disturbances, tcp = begun(NoiseConfig(rotation_deg=8.0)), [0.5, 0.0, 0.5]
    rows = np.concatenate(
        [disturbances.disturb(chunk(at, tcp), window(at, tcp)).actions for at in range(START_NS, 10**10, 1000 * MS)]
    )
    angles = np.array([rotation_angle(row[3:7], np.array(DOWN)) for row in rows])
    assert np.radians(2.0) < angles.max() <= np.radians(8.0) + 1e-9
    assert (rows[:, 3:7] @ DOWN > 0.9).all()


def test_what_was_decided_later_has_the_same_offset_at_the_same_time() -> None:
    tcp = [0.5, 0.0, 0.5]
    one, other = begun(NoiseConfig()), begun(NoiseConfig())
    whole = one.disturb(chunk(START_NS, tcp, rows=40), window(START_NS, tcp)).actions
    later_ns = START_NS + 500 * MS
    other.disturb(chunk(START_NS, tcp, rows=4), window(START_NS, tcp))
    part = other.disturb(chunk(later_ns, tcp, rows=30), window(later_ns, tcp)).actions
    np.testing.assert_array_equal(part, whole[10:40])
    again = begun(NoiseConfig(), seed=4).disturb(chunk(START_NS, tcp, rows=40), window(START_NS, tcp)).actions
    assert np.abs(again - whole).max() > 0.005


def test_less_is_left_near_the_cube_and_all_of_it_far_away() -> None:
    noise = NoiseConfig(near=0.25, near_m=0.06, far_m=0.16)
    far = offsets(begun(noise), [0.5, 0.0, 0.02 + 0.17])
    np.testing.assert_allclose(offsets(begun(noise), [0.5, 0.0, 0.02 + 0.05]), 0.25 * far, atol=1e-12)
    np.testing.assert_allclose(offsets(begun(noise), [0.5, 0.0, 0.02 + 0.11]), 0.625 * far, atol=1e-12)


def test_fingers_are_left_alone_without_a_mishap() -> None:
    disturbances, tcp = begun(NoiseConfig()), [0.5, 0.0, 0.5]
    assert (disturbances.disturb(chunk(START_NS, tcp), window(START_NS, tcp)).actions[:, -1] == 0.08).all()
    assert disturbances.details == {}


@pytest.mark.parametrize("kind", list(Mishap))
def test_a_mishap_happens_once_for_a_while(kind: Mishap) -> None:
    held = kind is Mishap.DROP
    tcp, width_m = ([0.5, 0.0, 0.03], 0.04) if held else ([0.5, 0.05, 0.1], 0.08)
    for seed in range(50):
        disturbances = begun(NO_NOISE, mishaps=1.0, seed=seed)
        clean = chunk(START_NS, [0.5, 0.0, 0.2] if held else tcp, rows=80)
        clean = ActionChunk(
            START_NS, clean.step_ns, DIMENSIONS, np.column_stack([clean.actions[:, :7], [width_m] * 80])
        )
        got = disturbances.disturb(clean, window(START_NS, tcp, width_m)).actions
        if disturbances.details.get("mishap") == kind.value:
            break
    else:
        raise AssertionError("no seed has it")
    changed = np.abs(got - clean.actions).max(axis=1) > 1e-9
    assert 0.5 <= changed.sum() * 0.05 <= 0.95
    assert np.flatnonzero(changed)[-1] - np.flatnonzero(changed)[0] + 1 == changed.sum()
    if kind is Mishap.ASTRAY:
        apart_m = np.linalg.norm(got[changed, :3] - clean.actions[changed, :3], axis=1)
        assert ((apart_m >= 0.05) & (apart_m <= 0.08 + 1e-9)).all()
        assert (got[:, 2] >= clean.actions[:, 2] - 1e-9).all()  # never into the table
    else:
        assert set(got[changed, -1]) == {0.08 if kind is Mishap.DROP else 0.0}
    later_ns = START_NS + 4000 * MS
    after = chunk(later_ns, tcp, rows=80)
    np.testing.assert_allclose(disturbances.disturb(after, window(later_ns, tcp, width_m)).actions, after.actions)


def test_the_share_of_mishaps_is_as_asked() -> None:
    tcp, happened = [0.5, 0.05, 0.1], 0
    for seed in range(200):
        disturbances = begun(NO_NOISE, mishaps=0.3, seed=seed, task="push the red cube to the left")
        disturbances.disturb(chunk(START_NS, tcp), window(START_NS, tcp))
        happened += bool(disturbances.details)
    assert 40 <= happened <= 80  # 60 +- 3 standard deviations


def test_chunks_of_joints_are_refused() -> None:
    joints = ActionChunk(START_NS, 50 * MS, PANDA.joint_names, np.zeros((2, 7)))
    with pytest.raises(ValueError, match="only poses are disturbed, got chunks of panda_joint1"):
        begun(NoiseConfig()).disturb(joints, window(START_NS, [0.5, 0.0, 0.5]))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"hold_s": (0.5, 0.3)}, r"hold_s is \(shortest, longest\)"),
        ({"ramp_s": 0.5, "hold_s": (0.3, 1.0)}, "at least ramp_s 0.5"),
        ({"near_m": 0.2, "far_m": 0.1}, "near_m 0.2 must be less than far_m 0.1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, object], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        NoiseConfig.model_validate(settings)


@pytest.mark.full
def test_the_expert_copes_with_what_is_off() -> None:
    disturbances = Disturbances(NoiseConfig(), 0.1, PANDA.gripper.max_width_m)
    expert = registry.load("scripted", robot=PANDA)
    loop = Rollout(Tabletop(PANDA), PANDA, expert, ArmConfig(), RolloutConfig(), disturbance=disturbances)
    tasks = ("lift the red cube", "push the red cube to the left", "stack the red cube on the blue cube")
    successes = sum(loop.run(seed, tasks[seed % 3]).success for seed in range(100))
    assert successes >= 95
