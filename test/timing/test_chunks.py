"""Schedule against closed forms and brute force: dropping by time, cross-fades, ensembles, ends, what was committed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.actions import ActionSpec, AnchorState, GripperConvention, Space, to_absolute
from vla_ros.timing.chunks import Schedule, ScheduleConfig, ScheduleMode
from vla_ros.values import POSE_DIMENSIONS, ActionChunk, Array, ModelChunk

MS = 1_000_000
STEP_NS = 100 * MS
T0 = 1_700_000_000_000_000_000
JOINTS = ("j1", "j2")
FEW = settings(max_examples=40, deadline=None)


def chunk(observed_ms: int, rows: Any, step_ns: int = STEP_NS, dimensions: tuple[str, ...] = JOINTS) -> ActionChunk:
    return ActionChunk(T0 + observed_ms * MS, step_ns, dimensions, np.asarray(rows, dtype=np.float64))


def schedule(mode: ScheduleMode = ScheduleMode.NEWEST, **more: Any) -> Schedule:
    return Schedule(ScheduleConfig(mode=mode, **more))


def at(plan: Schedule, now_ms: float) -> Array | None:
    target = plan.target(T0 + round(now_ms * MS))
    return None if target is None else target.values


def said(one: ActionChunk, time_ns: int) -> Array:
    """What a chunk of joints says about a time, by numpy."""
    due = [one.due_ns(row) - T0 for row in range(len(one))]
    return np.array([np.interp(time_ns - T0, due, column) for column in one.actions.T])


@st.composite
def plans(draw: st.DrawFn, dimensions: int = 2) -> list[tuple[ActionChunk, int]]:
    """Chunks with growing observation times and the times they are added at, in ms; steps and lengths differ."""
    added, observed = 0, 0
    result = []
    for _ in range(draw(st.integers(1, 6))):
        observed += draw(st.integers(1, 400))
        added = max(added, observed) + draw(st.integers(0, 300))
        shape = (draw(st.integers(1, 12)), dimensions)
        rows = np.random.default_rng(draw(st.integers(0, 999))).uniform(-1, 1, shape)
        step = draw(st.sampled_from([33, 50, 100])) * MS
        result.append((chunk(observed, rows, step, tuple(f"j{i}" for i in range(dimensions))), T0 + added * MS))
    return result


modes = st.sampled_from(list(ScheduleMode))

#: As an arm that is moving: chunks count by time.
MOVING = math.inf


# --- one chunk


@FEW
@given(plans(), st.integers(0, 2000), modes)
def test_one_chunk_is_its_rows_interpolated_kept_for_one_step(
    adds: list[tuple[ActionChunk, int]], after_ms: int, mode: ScheduleMode
) -> None:
    one, added_ns = adds[0]
    plan = schedule(mode)
    dropped = plan.add(one, added_ns, MOVING)
    assert dropped == sum(one.due_ns(row) < added_ns for row in range(len(one)))
    now_ns = added_ns + after_ms * MS
    target = plan.target(now_ns)
    if dropped == len(one) or now_ns >= one.end_ns + one.step_ns:
        assert target is None
    else:
        assert target is not None
        assert target.time_ns == now_ns
        assert np.allclose(target.values, said(one, now_ns), atol=1e-12)


def test_a_chunk_says_nothing_before_its_first_row_and_after_its_last_step() -> None:
    plan = schedule()
    assert plan.target(T0) is None
    assert plan.end_ns is None
    assert plan.add(chunk(50, [[0, 0], [1, 10]]), T0) == 0
    assert plan.end_ns == T0 + 150 * MS
    assert [None if v is None else v.tolist() for v in (at(plan, t) for t in (49, 50, 100, 150, 249.9, 250))] == [
        None, [0, 0], [0.5, 5], [1, 10], [1, 10], None,
    ]  # fmt: skip


@FEW
@given(plans(), st.integers(0, 1500), modes, st.floats(-9, 9))
def test_no_action_moves_the_target_before_the_row_before_it_is_due(
    adds: list[tuple[ActionChunk, int]], after_ms: int, mode: ScheduleMode, other: float
) -> None:
    """Rows that lie beyond the next row of their chunk are changed: the target does not notice."""
    now_ns = adds[0][1] + after_ms * MS
    plan, changed = schedule(mode), schedule(mode)
    for one, added_ns in adds:
        if added_ns <= now_ns:
            rows = np.array(one.actions)
            later = np.array([one.due_ns(row) >= now_ns + one.step_ns for row in range(len(one))])
            rows[later] = other
            plan.add(one, added_ns)
            changed.add(ActionChunk(one.observation_ns, one.step_ns, one.dimensions, rows), added_ns)
    first, second = plan.target(now_ns), changed.target(now_ns)
    assert (first is None) == (second is None)
    if first is not None and second is not None:
        assert np.array_equal(first.values, second.values)


@FEW
@given(
    st.lists(st.tuples(st.integers(1, 400), st.integers(0, 700)), min_size=1, max_size=8),
    modes,
    st.sampled_from([33, 100]),
    st.integers(1, 12),
    st.integers(0, 50),
)
def test_each_action_is_sent_at_its_time_and_time_goes_on(
    chunks: list[tuple[int, int]], mode: ScheduleMode, step_ms: int, rows: int, latency_ms: int
) -> None:
    """Every row says when it is due: so must every target, or say the end of what was planned; never more, never back.

    However late chunks come, in whatever order, and however they are joined.
    """
    plan = schedule(mode, actuation_latency_ms=latency_ms)
    observed_ms, adds = 0, []
    for gap_ms, delay_ms in chunks:
        observed_ms += gap_ms
        due_ms = observed_ms + step_ms * np.arange(rows)
        adds.append((observed_ms + delay_ms, chunk(observed_ms, np.stack([due_ms, -due_ms], 1), step_ms * MS)))
    adds.sort(key=lambda add: add[0])
    sent: list[float] = []
    for now_ms in range(adds[-1][0] + step_ms * rows + 100):
        while adds and adds[0][0] <= now_ms:
            added_ms, one = adds.pop(0)
            plan.add(one, T0 + added_ms * MS, MOVING)
        target = plan.target(T0 + now_ms * MS)
        if target is not None:
            assert target.time_ns == T0 + (now_ms + latency_ms) * MS
            told_ms = float(target.values[0])
            assert now_ms + latency_ms - step_ms * (rows + 1) < told_ms < now_ms + latency_ms + 1e-9
            assert target.values[1] == pytest.approx(-told_ms)
            sent.append(told_ms)
    assert (np.diff(sent) > -1e-9).all()


@FEW
@given(st.integers(0, 900), modes)
def test_dropping_late_rows_loses_no_displacement(delay_ms: int, mode: ScheduleMode) -> None:
    """A chunk of joint deltas is anchored at its observation: late or not, it leads to the same places."""
    spec = ActionSpec(space=Space.JOINT_DELTA, joint_names=JOINTS, gripper=GripperConvention.NONE)
    anchor = AnchorState(np.array([0.3, -0.2]), np.array([0, 0, 0, 0, 0, 0, 1.0]))
    deltas = np.random.default_rng(1).uniform(-0.1, 0.1, (10, 2))
    absolute = to_absolute(spec, ModelChunk(T0, deltas), anchor, 0.08)
    prompt, late = schedule(mode), schedule(mode)
    prompt.add(absolute, T0)
    assert late.add(absolute, T0 + delay_ms * MS, MOVING) == math.ceil(delay_ms / 100)
    for now_ms in range(delay_ms, 1000, 10):
        assert np.array_equal(at(prompt, now_ms), at(late, now_ms))  # type: ignore[arg-type]
    assert np.allclose(at(late, 950), anchor.joint_positions + deltas.sum(axis=0))  # type: ignore[arg-type]


# --- from standstill


@FEW
@given(st.integers(1, 3000), modes, st.integers(0, 80))
def test_a_late_first_chunk_begins_with_its_first_row(delay_ms: int, mode: ScheduleMode, latency_ms: int) -> None:
    """Also one that is later than it is long."""
    rows = [[0.1 * row, -row] for row in range(10)]
    prompt, late = schedule(mode), schedule(mode, actuation_latency_ms=latency_ms)
    prompt.add(chunk(0, rows), T0)
    assert late.add(chunk(0, rows), T0 + delay_ms * MS) == 0
    assert late.shift_ns == (delay_ms + latency_ms) * MS
    assert late.delay_ms == delay_ms + latency_ms
    for now_ms in range(0, 1100, 30):
        first, second = at(prompt, now_ms), at(late, delay_ms + now_ms)
        assert (first is None) == (second is None)
        assert first is None or np.allclose(first, second, atol=1e-12)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", list(ScheduleMode))
@pytest.mark.parametrize("observed_ms", [10, 690, 699])
def test_what_else_was_observed_in_the_standstill_begins_where_that_ended(mode: ScheduleMode, observed_ms: int) -> None:
    plan = schedule(mode)
    rows = [[0.1 * row, -row] for row in range(10)]
    plan.add(chunk(0, rows), T0 + 700 * MS)
    assert plan.add(chunk(observed_ms, rows), T0 + 1000 * MS) == 3
    for now_ms in range(1000, 1600, 10):  # the same plan, seen twice
        assert np.allclose(at(plan, now_ms), [0.001 * (now_ms - 700), -0.01 * (now_ms - 700)])  # type: ignore[arg-type]
    assert plan.add(chunk(710, rows), T0 + 1300 * MS) == 6, "observed in motion: by time"
    assert plan.shift_ns == 0


@pytest.mark.parametrize("observed_ms", [250, 299, 300, 500])
def test_after_the_end_of_the_schedule_it_is_a_standstill_again(observed_ms: int) -> None:
    plan = schedule()
    plan.add(chunk(0, [[0, 0], [1, 1], [2, 2]]), T0)
    late_rows = plan.add(chunk(observed_ms, [[2, 2], [3, 3], [4, 4], [5, 5], [6, 6]]), T0 + 620 * MS)
    if observed_ms < 300:  # the last row was being kept
        assert late_rows == math.ceil((620 - observed_ms) / 100)
    else:
        assert (late_rows, plan.shift_ns) == (0, (620 - observed_ms) * MS)
        assert np.array_equal(at(plan, 620), [2, 2])  # type: ignore[arg-type]
    assert plan.committed(T0 + 100 * MS, 1, STEP_NS) is not None, "what was sent before is still known"


@pytest.mark.parametrize("mode", list(ScheduleMode))
def test_an_arm_that_follows_nothing_stands_though_there_is_a_plan(mode: ScheduleMode) -> None:
    """One that is held, as its controller knows; what it did not follow has no say in what begins then."""
    for idle_since_ms, expected in ((100.0, 0.0), (250.0, 0.7)):
        plan = schedule(mode)
        plan.add(chunk(0, [[5, 5]] * 30), T0)
        plan.add(chunk(200, [[0.1 * row, 0] for row in range(30)]), T0 + 900 * MS, T0 + idle_since_ms * MS)
        if expected == 0.0:
            assert [at(plan, now_ms)[0] for now_ms in (900, 1000)] == pytest.approx([0.0, 0.1])  # type: ignore[index]
        else:
            assert plan.shift_ns == 0
            assert at(plan, 2900)[0] == pytest.approx(2.7, abs=1.2)  # type: ignore[index]


# --- chunks that overlap


@FEW
@given(
    plans(),
    st.sampled_from([ScheduleMode.BLEND, ScheduleMode.ENSEMBLE]),
    st.sampled_from([None, 1, 3, 8]),
    st.floats(0.0, 1.0),
)
def test_what_is_scheduled_never_jumps(
    adds: list[tuple[ActionChunk, int]], mode: ScheduleMode, blend_steps: int | None, m: float
) -> None:
    """Around every instant where something may begin or end, it moves as slowly as rows and fades of a step allow."""
    plan = schedule(mode, blend_steps=blend_steps, ensemble_m=m)
    ends_ns, instants_ns = [], []
    for one, added_ns in adds:
        plan.add(one, added_ns)
        ends_ns.append(one.end_ns + one.step_ns)
        row_ns = [one.due_ns(row) for row in range(len(one) + 1)]
        instants_ns += [*row_ns, *(added_ns + steps * one.step_ns for steps in range(12))]
    steepest_per_ns = 2.0 / (33 * MS)  # of rows; values are within -1..1, so of a fade over a step too
    bound = (1 + 4 * len(adds)) * steepest_per_ns * 2_000
    for now_ns in instants_ns:
        before, after = plan.target(now_ns - 1_000), plan.target(now_ns + 1_000)
        if before is not None and after is not None:
            assert np.abs(after.values - before.values).max() <= bound


def test_an_ensemble_does_not_jump_where_the_newest_chunk_ended_before_the_next_one_came() -> None:
    plan = schedule(ScheduleMode.ENSEMBLE)
    plan.add(chunk(0, [[0, 0], [1, 1], [2, 2], [3, 3]]), T0)
    plan.add(chunk(1, [[0, 0], [1, 1]]), T0 + MS)  # ends at 101 ms, and is kept until 201
    plan.add(chunk(2, [[0, 0], [1, 1], [2, 2], [3, 3]]), T0 + 190 * MS)
    values = np.array([at(plan, now_ms)[0] for now_ms in range(280)])  # type: ignore[index]
    assert np.abs(np.diff(values)).max() < 0.03  # 0.01 of the rows, and the fades


@FEW
@given(st.integers(0, 400), st.floats(-1, 1), st.floats(-1, 1), st.sampled_from([33, 50, 100]), st.integers(2, 5))
def test_a_splice_of_plans_that_drift_apart_is_no_faster_than_twice_their_drift(
    delay_ms: int, speed: float, other: float, step_ms: int, chunks: int
) -> None:
    """Each plan starts from where the one before was when it was observed, and goes at another speed from there."""
    delay_ms = max(1, delay_ms)
    plan, step_ns, period_ms = schedule(ScheduleMode.BLEND), step_ms * MS, 2 * delay_ms + 2 * step_ms
    place, pieces = 0.0, []
    for index in range(chunks):
        rate = (speed, other)[index % 2]
        seconds = step_ms * 1e-3 * np.arange(80)
        rows = np.tile((place + rate * seconds)[:, None], (1, 2))
        pieces.append((index * period_ms, rate))
        plan.add(chunk(index * period_ms, rows, step_ns), T0 + (index * period_ms + delay_ms) * MS, MOVING)
        assert plan.overlap_steps == (0 if index == 0 else math.ceil(delay_ms / step_ms))
        place += rate * period_ms * 1e-3
    times_ms = np.arange(delay_ms, (chunks - 1) * period_ms + 3 * delay_ms, 1.0)
    values = np.array([at(plan, time_ms)[0] for time_ms in times_ms])  # type: ignore[index]
    speeds = np.diff(values) / 1e-3
    slow, fast = min(speed, other), max(speed, other)
    assert (speeds >= slow - 2 * (fast - slow) - 1e-6).all()
    assert (speeds <= fast + 2 * (fast - slow) + 1e-6).all()


def test_the_overlap_is_as_long_as_chunks_are_late_and_forgets_what_was_slow_once() -> None:
    plan = schedule(ScheduleMode.BLEND, delay={"window": 3, "quantile": 0.5})
    overlaps = []
    for index, delay_ms in enumerate((20, 20, 20, 320, 20, 20, 120, 120, 820)):
        plan.add(chunk(1000 * index, [[0, 0]] * 40), T0 + (1000 * index + delay_ms) * MS)
        overlaps.append(plan.overlap_steps)
        assert plan.delay_steps(100 * MS) == math.ceil((plan.delay_ms or 0.0) / 100)
    # Its own delay counts as well: the one slow chunk is the worst splice.
    assert overlaps == [0, 1, 1, 4, 1, 1, 2, 2, 9]
    assert plan.delay_ms == 120.0


@pytest.mark.parametrize(
    ("delay_ms", "old_rows", "new_rows", "overlap_steps"),
    [
        (0, 30, 30, 1),  # no splice jumps
        (250, 30, 30, 3),
        (650, 30, 30, 7),
        (650, 11, 30, 3),  # the older one ends, its last step too, 350 ms after the splice
        (650, 8, 30, 1),  # ... 50 ms after the splice
        (650, 30, 15, 3),  # the newer one has 750 ms left
    ],
)
def test_the_overlap_is_bounded_by_what_is_left(
    delay_ms: int, old_rows: int, new_rows: int, overlap_steps: int
) -> None:
    plan = schedule(ScheduleMode.BLEND)
    plan.add(chunk(0, [[0, 0]] * old_rows), T0)
    plan.add(chunk(100, [[1, 1]] * new_rows), T0 + (100 + delay_ms) * MS)
    assert plan.overlap_steps == overlap_steps


@pytest.mark.parametrize("mode", list(ScheduleMode))
def test_where_a_chunk_takes_over_at_once_there_is_no_overlap(mode: ScheduleMode) -> None:
    plan = schedule(mode)
    assert (plan.overlap_steps, plan.delay_ms, plan.delay_steps(STEP_NS)) == (0, None, 0)
    plan.add(chunk(0, [[0, 0]]), T0 + 0 * MS)
    plan.add(chunk(300, [[1, 1]] * 9), T0 + 340 * MS)
    assert plan.overlap_steps == 0
    plan.add(chunk(500, [[1, 1]] * 9), T0 + 540 * MS)
    assert plan.overlap_steps == (0 if mode is ScheduleMode.NEWEST else 1)


@FEW
@given(plans(), st.integers(0, 1500))
def test_in_newest_only_the_newest_chunk_says_anything(adds: list[tuple[ActionChunk, int]], after_ms: int) -> None:
    """The jump is passed on; the arm's limits decide how it gets there."""
    now_ns = adds[0][1] + after_ms * MS
    plan = schedule(ScheduleMode.NEWEST)
    counting = [one for one, added_ns in adds if plan.add(one, added_ns, MOVING) < len(one) and added_ns <= now_ns]
    target = plan.target(now_ns)
    if counting and now_ns < counting[-1].end_ns + counting[-1].step_ns:
        assert target is not None
        assert np.allclose(target.values, said(counting[-1], now_ns), atol=1e-12)
    else:
        assert target is None


@FEW
@given(st.integers(0, 5), st.integers(0, 250), st.sampled_from([40, 100, 130]), st.integers(0, 600))
def test_a_cross_fade_is_linear_in_time_on_any_grid(steps: int, added_ms: int, step_ms: int, after_ms: int) -> None:
    random = np.random.default_rng(steps)
    old, new = chunk(0, random.uniform(-1, 1, (12, 2))), chunk(20, random.uniform(-1, 1, (12, 2)), step_ms * MS)
    added_ms = max(added_ms, 20)
    plan = schedule(ScheduleMode.BLEND, blend_steps=steps)
    plan.add(old, T0)
    plan.add(new, T0 + added_ms * MS)
    now_ns = T0 + min(added_ms + after_ms, 400) * MS
    share = min(1.0, (now_ns - T0 - added_ms * MS) / (steps * step_ms * MS)) if steps else 1.0
    expected = (1 - share) * said(old, now_ns) + share * said(new, now_ns)
    target = plan.target(now_ns)
    assert target is not None
    assert np.allclose(target.values, expected, atol=1e-12)


def test_after_a_gap_there_is_nothing_to_fade_from() -> None:
    plan = schedule(ScheduleMode.BLEND)
    plan.add(chunk(0, [[0, 0]]), T0)
    plan.add(chunk(500, [[1, 1], [1, 1]]), T0 + 500 * MS)
    assert at(plan, 99) is not None
    assert at(plan, 100) is None
    assert np.array_equal(at(plan, 500), [1, 1])  # type: ignore[arg-type]


def ramp(now_ns: float, start_ns: float, duration_ns: float) -> float:
    return min(1.0, max(0.0, (now_ns - start_ns) / duration_ns))


@FEW
@given(plans(), st.floats(0.0, 2.0), st.integers(0, 1500))
def test_an_ensemble_is_the_exponentially_weighted_mean(
    adds: list[tuple[ActionChunk, int]], m: float, after_ms: int
) -> None:
    """Of those that speak; who comes does so over a step, who goes too, but no further than a newer one has come."""
    now_ns = adds[0][1] + after_ms * MS
    plan = schedule(ScheduleMode.ENSEMBLE, ensemble_m=m)
    kept: list[tuple[ActionChunk, float]] = []  # with its share
    for one, added_ns in adds:
        fades = plan.target(added_ns - 1) is not None
        if added_ns <= now_ns and plan.add(one, added_ns, MOVING) < len(one):
            kept.append((one, ramp(now_ns, added_ns, one.step_ns) if fades else 1.0))
    target = plan.target(now_ns)
    if not kept or now_ns >= kept[-1][0].end_ns + kept[-1][0].step_ns:
        assert target is None
        return
    shares = []
    for index, (one, come) in enumerate(kept):
        newer = max((share for _, share in kept[index + 1 :]), default=0.0)
        shares.append(come * max(1.0 - newer, ramp(now_ns, one.end_ns, -one.step_ns)))
    speaking = [(one, share) for (one, _), share in zip(kept, shares, strict=True) if share > 0.0]
    weights = [share * math.exp(-m * sum(shares[:index])) for index, share in enumerate(shares) if share > 0.0]
    mean = sum((w / sum(weights) * said(one, now_ns) for w, (one, _) in zip(weights, speaking, strict=True)), 0.0)
    assert target is not None
    assert np.allclose(target.values, mean, atol=1e-12)


@FEW
@given(st.floats(0.0, 1.0), st.integers(2, 40))
def test_a_settled_ensemble_is_that_of_the_paper(m: float, chunks: int) -> None:
    """ACT, section IV-B: every chunk that covers the time, none just come or just going."""
    rows = np.random.default_rng(chunks).uniform(-1, 1, (chunks, 100, 2))
    plan = schedule(ScheduleMode.ENSEMBLE, ensemble_m=m)
    for index in range(chunks):
        plan.add(chunk(100 * index, rows[index]), T0 + 100 * index * MS)
    now_ms = 100 * chunks
    weights = np.exp(-m * np.arange(chunks))
    said_of_now = [rows[index, chunks - index] for index in range(chunks)]
    expected = np.average(said_of_now, axis=0, weights=weights)
    assert np.allclose(at(plan, now_ms), expected, atol=1e-12)  # type: ignore[arg-type]


@FEW
@given(st.floats(0.0, 1.0), st.integers(1, 20), st.floats(-1, 1))
def test_who_joins_an_ensemble_moves_it_no_faster_than_its_weight_over_a_step(
    m: float, chunks: int, apart: float
) -> None:
    plan = schedule(ScheduleMode.ENSEMBLE, ensemble_m=m)
    for index in range(chunks):
        plan.add(chunk(index, [[0, 0]] * 50), T0 + index * MS)
    plan.add(chunk(1000, [[apart, apart]] * 50), T0 + 1000 * MS)
    values = np.array([at(plan, 1000 + now_ms)[0] for now_ms in range(110)])  # type: ignore[index]
    others = sum(math.exp(-m * age) for age in range(chunks))
    own = math.exp(-m * chunks)
    assert np.abs(np.diff(values)).max() <= abs(apart) * own / others / 100 + 1e-12
    assert values[0] == 0.0
    assert values[-1] == pytest.approx(apart * own / (own + others))


@pytest.mark.parametrize("mode", list(ScheduleMode))
def test_the_gripper_has_no_width_between_two_rows(mode: ScheduleMode) -> None:
    plan = schedule(mode)
    plan.add(chunk(0, [[0.0, 0.08], [1.0, 0.0], [2.0, 0.08]], dimensions=("j1", "gripper")), T0)
    for at_ms in range(0, 300, 10):
        target = plan.target(T0 + at_ms * MS)
        assert target is not None
        assert target.gripper_width_m == (0.0 if 100 <= at_ms < 200 else 0.08)


@pytest.mark.parametrize("mode", list(ScheduleMode))
def test_the_gripper_follows_the_newest_chunk(mode: ScheduleMode) -> None:
    plan = schedule(mode)
    for observed_ms, width in ((0, 0.08), (100, 0.0), (200, 0.04)):
        plan.add(chunk(observed_ms, [[1.0, width]] * 10, dimensions=("j1", "gripper")), T0 + observed_ms * MS)
        target = plan.target(T0 + observed_ms * MS)
        assert target is not None
        assert target.gripper_width_m == width


# --- poses


def turning(observed_ms: int, offset_rad: float, sign: float, rows: int = 10, rate_rad_s: float = 1.0) -> ActionChunk:
    """A TCP that turns about z at a constant rate, `offset_rad` ahead; the sign of a quaternion means nothing."""
    poses = []
    for row in range(rows):
        half = 0.5 * (rate_rad_s * (observed_ms + 100 * row) * 1e-3 + offset_rad)
        poses.append([0.5, 0, 0.3, 0, 0, sign * math.sin(half), sign * math.cos(half), 0.04])
    return chunk(observed_ms, poses, dimensions=(*POSE_DIMENSIONS, "gripper"))


def angle(values: Array | None) -> float:
    assert values is not None
    assert float(np.linalg.norm(values[3:7])) == pytest.approx(1.0, abs=1e-12)
    assert np.allclose(values[[3, 4]], 0.0)
    return 2.0 * math.atan2(values[5], values[6]) % (2 * math.pi)


@FEW
@given(modes, st.sampled_from([-1.0, 1.0]), st.sampled_from([-1.0, 1.0]), st.integers(200, 850))
def test_orientations_are_mixed_on_the_circle(mode: ScheduleMode, sign: float, other: float, now_ms: int) -> None:
    """Two plans 0.2 rad apart: the newest, their fade by time, or their mean as angles."""
    plan = schedule(mode, ensemble_m=0.0)
    plan.add(turning(0, 0.0, sign), T0)
    plan.add(turning(100, 0.2, other), T0 + 200 * MS)
    come, going = ramp(now_ms, 200, 100), ramp(now_ms, 900, -100)
    share = {
        ScheduleMode.NEWEST: 1.0,
        ScheduleMode.BLEND: come,  # the second is 100 ms late
        ScheduleMode.ENSEMBLE: come / (come + max(going, 1.0 - come)),
    }[mode]
    tolerance = 1e-4 if mode is ScheduleMode.ENSEMBLE else 1e-9  # a mean of quaternions is one of chords, not of arcs
    assert angle(at(plan, now_ms)) == pytest.approx(now_ms * 1e-3 + 0.2 * share, abs=tolerance)


# --- what is refused or ignored


@pytest.mark.parametrize("mode", list(ScheduleMode))
def test_an_older_or_wholly_past_chunk_is_ignored(mode: ScheduleMode) -> None:
    plan = schedule(mode)
    plan.add(chunk(100, [[0, 0]] * 10), T0 + 100 * MS)
    assert plan.add(chunk(99, [[5, 5]] * 10), T0 + 100 * MS) == 10
    assert plan.add(chunk(100, [[5, 5]] * 10), T0 + 100 * MS) == 10
    assert plan.add(chunk(101, [[5, 5]] * 3), T0 + 302 * MS) == 3
    assert plan.end_ns == T0 + 1000 * MS
    for now_ms in range(100, 1100, 50):
        assert np.array_equal(at(plan, now_ms), [0, 0])  # type: ignore[arg-type]


def test_dimensions_do_not_mix() -> None:
    plan = schedule()
    plan.add(chunk(0, [[0, 0]]), T0)
    with pytest.raises(ValueError, match=r"holds chunks of \('j1', 'j2'\), got one of \('j2', 'j1'\); clear it first"):
        plan.add(chunk(10, [[0, 0]], dimensions=("j2", "j1")), T0)
    plan.clear()
    assert plan.target(T0) is None
    assert plan.add(chunk(10, [[0, 0]], dimensions=("j2", "j1")), T0) == 0


def test_a_config_out_of_range_is_refused() -> None:
    for name in ("blend_steps", "ensemble_m", "actuation_latency_ms"):
        with pytest.raises(ValueError, match=name):
            ScheduleConfig.model_validate({name: -1})


# --- what was committed, and replay


@FEW
@given(plans(), modes, st.integers(0, 250))
def test_actuation_latency_only_shifts_time(
    adds: list[tuple[ActionChunk, int]], mode: ScheduleMode, latency_ms: int
) -> None:
    ahead, plain = schedule(mode, actuation_latency_ms=latency_ms), schedule(mode)
    for one, added_ns in adds:
        assert ahead.add(one, added_ns) == plain.add(one, added_ns + latency_ms * MS)
    for after_ms in range(0, 1500, 70):
        now_ns = adds[0][1] + after_ms * MS
        first, second = ahead.target(now_ns), plain.target(now_ns + latency_ms * MS)
        assert (first is None) == (second is None)
        if first is not None and second is not None:
            assert first.time_ns == second.time_ns
            assert np.array_equal(first.values, second.values)


@FEW
@given(plans(), plans(), modes)
def test_what_was_sent_is_what_is_committed_afterwards_and_what_a_replay_sends(
    before: list[tuple[ActionChunk, int]], adds: list[tuple[ActionChunk, int]], mode: ScheduleMode
) -> None:
    """Also after an episode before that one, which leaves nothing behind but how late its chunks were."""
    live, replay = schedule(mode), schedule(mode)
    for plan in (live, replay):
        for one, added_ns in before:
            plan.add(one, added_ns)
        plan.clear()
        assert plan.end_ns is None
    start_ns, end_ns, tick_ns = adds[0][1], adds[-1][1], 10 * MS
    pending, sent = list(adds), []
    for now_ns in range(start_ns, end_ns + tick_ns, tick_ns):
        while pending and pending[0][1] <= now_ns:
            live.add(*pending.pop(0))
        target = live.target(now_ns)
        sent.append(None if target is None else target.values.tolist())
        if target is not None:
            live.committed(now_ns, 3, STEP_NS)  # looking changes nothing
    for one, added_ns in adds:
        replay.add(one, added_ns)
    for index, now_ns in enumerate(range(start_ns, end_ns + tick_ns, tick_ns)):
        for plan in (live, replay):
            past = plan.committed(now_ns, 1, tick_ns)
            assert (None if past is None else past.actions[0].tolist()) == sent[index]
    assert live.delay_ms == replay.delay_ms


def test_committed_is_on_the_grid_asked_for_and_ends_with_the_schedule() -> None:
    plan = schedule()
    assert plan.committed(T0, 3, STEP_NS) is None
    plan.add(chunk(0, [[row, -row] for row in range(5)]), T0)
    ahead = plan.committed(T0 + 50 * MS, 3, 50 * MS)
    assert ahead is not None
    assert (ahead.observation_ns, ahead.step_ns, ahead.dimensions) == (T0 + 50 * MS, 50 * MS, JOINTS)
    assert np.allclose(ahead.actions, np.array([[0.5, -0.5], [1, -1], [1.5, -1.5]]))
    short = plan.committed(T0 + 300 * MS, 10, 100 * MS)
    assert short is not None
    assert np.allclose(short.actions, np.array([[3, -3], [4, -4]]))
    assert plan.committed(T0 + 500 * MS, 1, STEP_NS) is None
    with pytest.raises(ValueError, match="expected rows >= 1 and step_ns > 0, got rows 0, step_ns 1"):
        plan.committed(T0, 0, 1)


def test_many_chunks_are_bounded() -> None:
    plan = schedule(ScheduleMode.ENSEMBLE, ensemble_m=0.0)
    for index in range(1000):
        plan.add(chunk(index, [[index, 0]] * 100), T0 + index * MS)
    mean = at(plan, 1099)  # the last one has come
    assert mean is not None
    assert mean[0] == pytest.approx(np.mean(range(1000 - 128, 1000)))
