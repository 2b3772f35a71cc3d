"""The table of docs/safety.md, row by row: what comes in, after how many ticks the arm brakes, what lets it go on.

The arm moves, and has a plan for two seconds more; whatever happens, every command keeps the limits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vla_ros.control.arm import ArmConfig, ArmController
from vla_ros.control.watchdog import WatchdogConfig
from vla_ros.robots.panda import PANDA
from vla_ros.values import ActionChunk, Mode, SafetyState, Target

TICK_NS = 10_000_000
STEP_NS = 100_000_000
JOINTS = PANDA.joint_names
TABLE = Path(__file__).parents[2] / "docs" / "safety.md"
Bench = Any


def plan(bench: Bench, rows: int = 25, change: float = 0.012) -> ActionChunk:
    return ActionChunk(bench.now_ns, STEP_NS, JOINTS, bench.measured + change * np.arange(rows)[:, None])


def follow(bench: Bench) -> None:
    bench.arm.on_chunk(plan(bench), bench.now_ns)


def chunk(bench: Bench, *, observed_s: float = 0.0, offset: float = 0.0, names: tuple[str, ...] = JOINTS) -> None:
    rows = bench.measured + np.full((10, 1), offset)
    observed_ns = bench.now_ns + round(observed_s * 1e9)
    bench.arm.on_chunk(ActionChunk(observed_ns, STEP_NS, names, rows), bench.now_ns)


def state(bench: Bench, *, stamp_s: float = 0.0, offset: Any = 0.0) -> None:
    bench.arm.on_joint_state(bench.now_ns + round(stamp_s * 1e9), bench.measured + offset, np.zeros(7))


def frozen(bench: Bench) -> None:
    """The same stamp again and again."""
    stamp_ns = bench.commands[19].time_ns
    bench.arm.on_joint_state(stamp_ns, bench.measured, np.zeros(7))


RANDOM = np.random.default_rng(5)


def wild(bench: Bench) -> None:
    state(bench, offset=0.3 * RANDOM.normal(size=7))


def nothing(bench: Bench) -> None:
    pass


def sent_at(observed_s: float) -> Callable[[Bench], None]:
    return lambda bench: chunk(bench, observed_s=observed_s)


def jump(bench: Bench, by_ns: int) -> None:
    bench.now_ns += by_ns


def held(bench: Bench, is_held: bool) -> None:
    bench.arm.on_deadman(is_held, bench.now_ns)


def second_publisher(bench: Bench) -> None:
    bench.arm.on_second_publisher("/other on /command", bench.now_ns)


@dataclass(frozen=True)
class Row:
    """One row of the table. `feed_once` is called before the first tick, `feed` before every one."""

    name: str  # as in the table
    reason: str
    brakes_after: tuple[int, int]  # ticks
    goes_on: str = "by itself"  # or by the operator
    feed: Callable[[Bench], None] = state
    feed_once: Callable[[Bench], None] = nothing
    config: WatchdogConfig | None = None


ENDED = "no action is due"
ELSEWHERE = "the arm is not where it was commanded: panda_joint"
DEADMAN = WatchdogConfig(requires_deadman=True)
PATIENT = WatchdogConfig(max_chunk_age_ms=2900.0)  # so that the plan ends first
OTHER = tuple(f"j{index}" for index in range(7))
MEANINGLESS = "meaningless input: "
FAILED = "a callback of the controller failed: /vla/state"
CANNOT_BE = "implausible joint states: "
ROWS = [
    Row("meaningless", MEANINGLESS + "a chunk with values", (1, 1), feed_once=lambda b: chunk(b, offset=np.nan)),
    Row("meaningless", MEANINGLESS + "a chunk with a value", (1, 1), feed_once=lambda b: chunk(b, offset=1e6)),
    Row("meaningless", MEANINGLESS + "a chunk of ('j0'", (1, 1), feed_once=lambda b: chunk(b, names=OTHER)),
    Row("meaningless", MEANINGLESS + "an invalid chunk", (1, 1), feed_once=lambda b: b.arm.on_malformed("chunk")),
    *(
        Row("out of place", ENDED, (230, 231), feed_once=sent_at(observed_s), config=PATIENT)
        for observed_s in (-3.0, 0.5, -0.2)  # too old; of the future; as old as the plan, a duplicate
    ),
    Row("too far", "target refused: a target ", (1, 2), feed_once=lambda b: chunk(b, offset=2.0)),
    Row("too long ago", "stale observation: ", (180, 181)),
    Row("cannot be", CANNOT_BE + "values", (3, 3), feed=lambda b: state(b, offset=np.nan)),
    Row("cannot be", CANNOT_BE + "panda_joint", (3, 3), feed=wild),
    Row("cannot be", CANNOT_BE + "panda_joint7 at 4", (3, 3), feed=lambda b: state(b, offset=4.0)),
    Row("silent", "stale joint state: 110 ms old", (11, 11), feed=nothing),
    Row("silent", "stale joint state: 110 ms old", (11, 12), feed=frozen),
    Row("silent", "stale joint state: ", (3, 11), feed=lambda b: state(b, stamp_s=-0.5)),
    Row("silent", "stale joint state: ", (3, 11), feed=lambda b: state(b, stamp_s=0.5)),
    Row("elsewhere", ELSEWHERE, (3, 3), "operator", feed=lambda b: state(b, offset=0.2)),
    Row("jumps", "clock jump: ", (1, 1), "operator", feed_once=lambda b: jump(b, 10**9)),
    Row("jumps", "clock jump: ", (1, 1), "operator", feed_once=lambda b: jump(b, -(10**8))),
    Row("dead-man", "dead-man switch: silent", (26, 26), feed_once=lambda b: held(b, True), config=DEADMAN),
    Row("dead-man", "dead-man switch: released", (1, 1), feed_once=lambda b: held(b, False), config=DEADMAN),
    Row("second publisher", "second publisher: /other", (1, 1), "operator", feed_once=second_publisher),
    Row("policy lost", "policy lost: killed", (1, 1), feed_once=lambda b: b.arm.on_policy_lost(b.now_ns, "killed")),
    Row("callback failed", FAILED, (1, 1), "operator", feed_once=lambda b: b.arm.on_failure("/vla/state", b.now_ns)),
    Row("emergency stop", "emergency stop", (1, 1), "operator", feed_once=lambda b: b.arm.estop(b.now_ns)),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.name}: {row.reason}")
def test_row(new_bench, limits, assert_keeps, row):
    bench = new_bench(ArmConfig(watchdog=row.config or WatchdogConfig())).started()
    bench.arm.on_deadman(True, bench.now_ns)
    follow(bench)
    bench.run(0.2)
    assert bench.safety is SafetyState.RUNNING
    assert bench.commands[-1].joint_velocities.max() > 0.1
    row.feed_once(bench)
    ticks = 0
    while ticks == 0 or (bench.safety is SafetyState.RUNNING and ticks < 300):
        bench.pass_time(TICK_NS)
        row.feed(bench)
        bench.step()
        ticks += 1
    assert bench.reason.startswith(row.reason)
    assert row.brakes_after[0] <= ticks <= row.brakes_after[1]
    for _ in range(40):
        bench.pass_time(TICK_NS)
        row.feed(bench)
        bench.step()
    assert bench.safety in (SafetyState.HOLDING, SafetyState.STOPPED)
    for after_words in (False, True):  # all is well again, and then the operator says so
        for _ in range(4):
            bench.arm.on_deadman(True, bench.now_ns)
            bench.run(0.06)
            if after_words and bench.safety is not SafetyState.RUNNING:
                bench.arm.resume(bench.now_ns)
                bench.run(0.02)
            follow(bench)
            bench.run(0.06)
        assert (bench.safety is SafetyState.RUNNING) is (after_words or row.goes_on == "by itself")
    assert_keeps(bench.path(), limits)


def test_every_row_is_in_the_table():
    text = TABLE.read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    for name in {row.name for row in ROWS}:
        assert sum(f"**{name}**" in line for line in rows) == 1, name
    tested = {row.name for row in ROWS} | {"does not follow", "paused", "teleoperation", "too large"}
    assert {line.split("**")[1] for line in rows if "**" in line} == tested, "those not here are tested elsewhere"


@pytest.mark.parametrize(
    ("values", "reason", "ticks"),
    [
        (np.full(7, np.nan), "meaningless input: a chunk with values", 1),
        (None, "stale target of the teleoperator: 210 ms old", 21),
    ],
)
def test_teleoperation(new_bench, values, reason, ticks):
    bench = new_bench()
    bench.arm = ArmController(PANDA, ArmConfig(), Mode.TELEOP)
    bench.run(0.05)
    bench.arm.on_teleop(Target(bench.now_ns, JOINTS, bench.measured + 0.1), bench.now_ns)
    bench.run(0.1)
    bench.arm.on_teleop(Target(bench.now_ns, JOINTS, bench.measured + 0.1), bench.now_ns)
    assert bench.safety is SafetyState.RUNNING
    if values is not None:
        bench.arm.on_teleop(Target(bench.now_ns, JOINTS, values), bench.now_ns)
    bench.run(0.01 * ticks)
    assert bench.safety is SafetyState.RAMPING
    assert bench.reason.startswith(reason)
    bench.arm.on_teleop(Target(bench.now_ns, JOINTS, bench.measured), bench.now_ns)
    bench.run(0.02)
    assert bench.safety is SafetyState.RUNNING
