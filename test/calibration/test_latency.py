"""Delays are found to +-5 ms, whatever the camera sees and how the stamps jitter; what cannot be told is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.calibration.latency import (
    ACTUATION_KEY,
    GRIPPER_KEY,
    Delay,
    Recording,
    Series,
    Unmeasurable,
    actuation_latency,
    camera_latency,
    gripper_latency,
    look,
    measure,
    onset_ms,
)
from vla_ros.calibration.motion import Sway
from vla_ros.robots.panda import PANDA
from vla_ros.simulation.impedance import JOINT_DAMPING, JOINT_STIFFNESS
from vla_ros.simulation.tabletop import Tabletop
from vla_ros.simulation.world import TabletopConfig
from vla_ros.timing.stamps import ms_to_ns, period_ns
from vla_ros.values import NANOSECONDS_PER_MILLISECOND, NANOSECONDS_PER_SECOND, Array, Image

EPOCH_NS = 1_790_000_000 * NANOSECONDS_PER_SECOND + 123_456_789
SWAY = Sway(duration_s=5.0)
END_S = 6.2  # with rest before and after
WIDTH, HEIGHT = 64, 48
WITHIN_MS = 5.0


def joint_at(times_s: Array) -> Array:
    """The truth: where the joint is; it sways from 0.6 s on."""
    return 0.3 + SWAY.offsets_rad(times_s - 0.6)


def stamps(times_s: Array) -> np.ndarray:
    return EPOCH_NS + np.round(times_s * 1e9).astype(np.int64)


def measured_joint() -> Series:
    times_s = np.arange(0.0, END_S, 0.001)
    return Series(stamps(times_s), joint_at(times_s)[:, None])


def scene(position_rad: float) -> Array:
    """A bar and a disc (H, W) that the joint moves sideways by some pixels, before a wall with a pattern."""
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    moved = 40.0 * (position_rad - 0.3)
    bar = 1.0 / (1.0 + np.exp(np.abs(x - 32.0 - moved) - 4.0))
    disc = 1.0 / (1.0 + np.exp(np.hypot(x - 14.0 - 1.4 * moved, y - 33.0) - 5.0))
    grey = (90.0 + 30.0 * np.sin(0.7 * x + 0.3 * y)) * (1.0 - bar) + 200.0 * bar
    return grey * (1.0 - disc) + 20.0 * disc


def photo(grey: Array) -> Image:
    """Grey values (H, W) as a picture."""
    return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def film(
    delay_ms: float, rate_hz: float = 30.0, jitter_ms: float = 0.0, noise: float = 0.0, seed: int = 0, sees: bool = True
) -> Series:
    """What a camera delivers whose stamps are `delay_ms` after the moment it saw, give or take `jitter_ms`."""
    random = np.random.default_rng(seed)
    taken_s = np.arange(0.01, END_S - 0.3, 1.0 / rate_hz)
    stamped_s = taken_s + 0.001 * (delay_ms + jitter_ms * random.uniform(-1.0, 1.0, len(taken_s)))
    positions = joint_at(taken_s) if sees else np.full(len(taken_s), 0.3)
    pictures = (scene(at) + noise * random.standard_normal((HEIGHT, WIDTH)) for at in positions.tolist())
    return Series(stamps(stamped_s), np.array([look(photo(picture)) for picture in pictures]))


@settings(max_examples=settings.default.max_examples // 2)
@given(
    delay_ms=st.floats(-40.0, 300.0),
    rate_hz=st.floats(15.0, 40.0),
    jitter_ms=st.floats(0.0, 8.0),
    noise=st.floats(0.0, 12.0),
    seed=st.integers(0, 999),
)
def test_the_latency_of_a_camera_is_found(
    delay_ms: float, rate_hz: float, jitter_ms: float, noise: float, seed: int
) -> None:
    found = camera_latency(measured_joint(), film(delay_ms, rate_hz, jitter_ms, noise, seed))
    assert found.delay_ms == pytest.approx(delay_ms, abs=WITHIN_MS)
    assert found.spread_ms < WITHIN_MS


def test_a_steady_camera_without_noise_is_found_to_a_tenth_of_a_millisecond() -> None:
    found = camera_latency(measured_joint(), film(47.0))
    assert found.delay_ms == pytest.approx(47.0, abs=0.1)
    assert found.explained > 0.99


def test_automatic_exposure_and_a_flickering_lamp_in_view_change_nothing() -> None:
    clean = film(80.0)
    random = np.random.default_rng(1)
    lamp = np.zeros(clean.values.shape[1])
    lamp[:200] = 5.0
    lit = clean.values + random.standard_normal((len(clean), 1)) * lamp
    assert camera_latency(measured_joint(), Series(clean.stamps_ns, lit)).delay_ms == pytest.approx(80.0, abs=1.0)
    assert look(photo(0.5 * scene(0.31))) == pytest.approx(look(photo(scene(0.31))), abs=0.1)


@pytest.mark.parametrize("noise", [0.0, 5.0])
def test_a_camera_that_does_not_see_the_arm_is_refused(noise: float) -> None:
    with pytest.raises(Unmeasurable, match=r"it saw no motion that goes with the arm's: does it look at the arm"):
        camera_latency(measured_joint(), film(50.0, noise=noise, sees=False))


def test_a_camera_that_sees_something_else_move_is_refused() -> None:
    pictures = film(50.0, sees=False)
    walk = np.cumsum(np.random.default_rng(3).standard_normal((len(pictures), 1)), axis=0)
    walker = walk * np.linspace(0.0, 1.0, pictures.values.shape[1])
    with pytest.raises(Unmeasurable, match="it saw no motion"):
        camera_latency(measured_joint(), Series(pictures.stamps_ns, pictures.values + walker))


def test_what_is_missing_or_too_late_is_named() -> None:
    joint, pictures = measured_joint(), film(50.0)
    with pytest.raises(Unmeasurable, match="the camera gave only 0 samples while the arm moved"):
        camera_latency(joint, Series.of([]))
    with pytest.raises(Unmeasurable, match="the arm did not move"):
        camera_latency(Series(joint.stamps_ns, np.full_like(joint.values, 0.3)), pictures)
    with pytest.raises(Unmeasurable, match="later than 500 ms or earlier than -100 ms"):
        camera_latency(joint, film(-120.0))


def test_a_latency_that_changes_is_refused() -> None:
    early, late = film(20.0), film(90.0)
    half = len(early) // 2
    both = Series(
        np.concatenate([early.stamps_ns[:half], late.stamps_ns[half:]]),
        np.concatenate([early.values[:half], late.values[half:]]),
    )
    with pytest.raises(Unmeasurable, match=r"delay is not steady: parts of the record say \d+, \d+, \d+, \d+ ms"):
        camera_latency(measured_joint(), both)


@given(delay_ms=st.floats(0.0, 300.0), gain=st.floats(0.5, 1.5), noise=st.floats(0.0, 0.0005), seed=st.integers(0, 99))
def test_the_latency_of_an_arm_is_found(delay_ms: float, gain: float, noise: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    sent_s, measured_s = np.arange(0.0, END_S, 0.01), np.arange(0.0, END_S, 0.005)
    there = gain * joint_at(measured_s - 0.001 * delay_ms) + noise * random.standard_normal(len(measured_s))
    found = actuation_latency(
        Series(stamps(sent_s), joint_at(sent_s)[:, None]), Series(stamps(measured_s), there[:, None])
    )
    assert found.delay_ms == pytest.approx(delay_ms, abs=1.0)


def test_nothing_moves_before_it_is_told_to() -> None:
    """A system's file takes no latency below 0: one that is a little wrong is 0, one that is very wrong is refused."""
    times_s = np.arange(0.0, END_S, 0.005)
    command = Series(stamps(times_s), joint_at(times_s)[:, None])
    assert actuation_latency(command, Series(stamps(times_s - 0.002), command.values)).delay_ms == 0.0
    with pytest.raises(
        Unmeasurable, match="the joint moved 30 ms before it was told to: do the clocks of the driver's"
    ):
        actuation_latency(command, Series(stamps(times_s - 0.030), command.values))
    widths_m = np.clip(0.08 - 0.1 * (times_s - 1.0), 0.0, 0.08)[:, None]
    sent_ns = EPOCH_NS + NANOSECONDS_PER_SECOND
    assert gripper_latency([sent_ns], Series(stamps(times_s - 0.002), widths_m)).delay_ms == 0.0
    with pytest.raises(Unmeasurable, match="the gripper moved 40 ms before"):
        gripper_latency([sent_ns], Series(stamps(times_s - 0.040), widths_m))


def test_a_joint_that_stays_where_it_is_does_not_follow() -> None:
    stays = 0.3 + 0.001 * np.random.default_rng(0).standard_normal((2000, 1))
    with pytest.raises(Unmeasurable, match="the measured joint does not follow its command"):
        actuation_latency(measured_joint(), Series(stamps(np.linspace(0.0, END_S, 2000)), stays))


@given(
    delay_ms=st.floats(5.0, 400.0),
    phase=st.floats(0.0, 1.0),
    speed_m_s=st.floats(0.04, 0.15),
    opens=st.booleans(),
)
def test_the_onset_of_a_gripper_is_found_between_the_samples_of_its_state(
    delay_ms: float, phase: float, speed_m_s: float, opens: bool
) -> None:
    times_s = (np.arange(60) + phase) / 15.0
    closed_m = np.clip(speed_m_s * (times_s - 1.0 - 0.001 * delay_ms), 0.0, 0.08)
    widths = Series(stamps(times_s), (closed_m if opens else 0.08 - closed_m)[:, None])
    assert onset_ms(EPOCH_NS + NANOSECONDS_PER_SECOND, widths) == pytest.approx(delay_ms, abs=0.1)


def test_a_gripper_that_does_not_move_or_says_nothing_is_refused() -> None:
    still = Series(stamps(np.arange(20) / 15.0), np.full((20, 1), 0.08))
    with pytest.raises(Unmeasurable, match=r"the gripper did not move \(from 80.0 mm by 0.0 mm\)"):
        gripper_latency([EPOCH_NS + NANOSECONDS_PER_SECOND], still)
    with pytest.raises(Unmeasurable, match="said nothing before its goal"):
        gripper_latency([EPOCH_NS - NANOSECONDS_PER_SECOND], still)
    jumps = Series(still.stamps_ns, np.where(np.arange(20) > 16, 0.0, 0.08)[:, None])
    with pytest.raises(Unmeasurable, match="only 0 samples while the gripper moved"):
        gripper_latency([EPOCH_NS + NANOSECONDS_PER_SECOND], jumps)


def record_world(config: TabletopConfig, duration_s: float = 5.0) -> Recording:
    """A simulated arm that is sent a sway at 100 Hz, and then a gripper that is told to shut; no pictures."""
    world = Tabletop(PANDA, config)
    home = world.joint_positions
    sway = Sway(duration_s=duration_s)
    commands, joints, widths = [], [], []
    for millisecond in range(round(1000 * (duration_s + 1.2))):
        if millisecond % 10 == 0:
            offset = sway.offsets_rad(np.array([0.001 * millisecond - 0.6]))
            command = home + np.array([*offset, 0, 0, 0, 0, 0, 0])
            commands.append((world.time_ns, command))
            world.command_joints(command)
        world.advance(NANOSECONDS_PER_MILLISECOND)
        joints.append((world.time_ns, world.joint_positions))
    goal_ns = world.time_ns + ms_to_ns(400)
    while world.time_ns < goal_ns + ms_to_ns(1200):
        if world.time_ns == goal_ns:
            world.grasp_gripper(0.0, 0.1, 40.0, 0.08, 0.08)
        world.advance(NANOSECONDS_PER_MILLISECOND)
        if world.time_ns % period_ns(15.0) < NANOSECONDS_PER_MILLISECOND:
            widths.append((world.time_ns, np.array([world.gripper_width_m])))
    return Recording(0, np.eye(7)[0], Series.of(commands), Series.of(joints), {}, Series.of(widths), (goal_ns,))


@pytest.mark.parametrize("extra_ms", [0.0, 40.0])
def test_the_lag_of_a_simulated_arm_and_gripper_is_that_of_their_springs_and_dampers(extra_ms: float) -> None:
    measured = measure(record_world(TabletopConfig(actuation_latency_ms=extra_ms, gripper_latency_ms=extra_ms)))
    actuation, gripper = measured[ACTUATION_KEY], measured[GRIPPER_KEY]
    assert isinstance(actuation, Delay) and isinstance(gripper, Delay)
    # A damper behind a spring lags by d / k; a command is 5 ms old on average, as the next one comes 10 ms later.
    assert actuation.delay_ms == pytest.approx(1000.0 * JOINT_DAMPING[0] / JOINT_STIFFNESS[0] + 5.0 + extra_ms, abs=2.0)
    assert gripper.delay_ms == pytest.approx(1000.0 * 40.0 / 3000.0 + extra_ms, abs=2.0)


def test_a_series_is_checked_and_sorted() -> None:
    with pytest.raises(ValueError, match="stamps of a series rise"):
        Series(np.array([2, 1]), np.zeros((2, 1)))
    with pytest.raises(ValueError, match=r"values \(N, D\), got \(2,\) and \(2,\)"):
        Series(np.array([1, 2]), np.zeros(2))
    mixed = Series.of([(3, np.array([3.0])), (1, np.array([1.0])), (3, np.array([4.0]))])
    assert mixed.stamps_ns.tolist() == [1, 3] and mixed.values.tolist() == [[1.0], [4.0]]
