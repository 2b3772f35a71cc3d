"""Faults: which fields belong to which kind, when each is active, and what a stream looks like that comes through."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vla_ros import config
from vla_ros.config import SimulatorNodeConfig, from_parameters, to_parameters
from vla_ros.robots.panda import PANDA
from vla_ros.simulation.faults import JOINTS, FaultConfig, FaultKind, Faults, Stream
from vla_ros.simulation.world import TabletopConfig

SECOND, MS = 1_000_000_000, 1_000_000

#: One of each kind.
EVERY_KIND: dict[str, dict[str, Any]] = {
    "stall": {"kind": "camera_stall", "camera": "front", "at_s": 3.0, "for_s": 1.0},
    "hung": {"kind": "frozen_image", "camera": "wrist", "at_s": 1.5, "for_s": 2.0},
    "late": {"kind": "late_stamps", "at_s": 1.0, "for_s": 0.5, "shift_ms": -150.0},
    "late_front": {"kind": "late_stamps", "camera": "front", "at_s": 1.0, "for_s": 0.5, "shift_ms": 40.0},
    "shuffled": {"kind": "reordered_stamps", "camera": "front", "at_s": 0.0, "for_s": 1.0},
    "deaf": {"kind": "joint_dropout", "at_s": 2.0, "for_s": 0.25},
    "hit": {"kind": "reflex", "at_s": 4.0},
    "stuck": {"kind": "gripper_refusal", "at_s": 4.0, "for_s": 1.0},
    "jump": {"kind": "clock_jump", "at_s": 5.0, "shift_s": -2.0},
    "radio": {"kind": "message_loss", "at_s": 6.0, "for_s": 1.0, "probability": 0.2},
}


def faults(**configs: dict[str, Any]) -> Faults:
    return Faults({name: FaultConfig(**fault) for name, fault in configs.items()})


def through(stream: Stream[int], times_ns: range) -> list[tuple[int, int]]:
    """What arrives of a stream whose items are the times at which they are sent: (stamp, item)."""
    return [message for time_ns in times_ns for message in stream.deliver(time_ns, time_ns)]


def test_every_kind_passes_through_flat_ros_parameters_both_ways() -> None:
    assert {fault["kind"] for fault in EVERY_KIND.values()} == {kind.value for kind in FaultKind}
    node = SimulatorNodeConfig(world=TabletopConfig.model_validate({"faults": EVERY_KIND}))
    flat = to_parameters(node)
    assert flat["world.faults.stall.kind"] == "camera_stall"
    assert flat["world.faults.late.shift_ms"] == -150.0
    assert "world.faults.hit.for_s" not in flat
    assert from_parameters(SimulatorNodeConfig, flat) == node


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ({"kind": "camera_stall", "at_s": 1.0}, "camera_stall needs camera and for_s (given none)"),
        ({"kind": "reflex", "at_s": 1.0, "for_s": 1.0}, "reflex takes no for_s; besides at_s it takes none"),
        (
            {"kind": "joint_dropout", "at_s": 1.0, "for_s": 1.0, "camera": "front", "probability": 0.5},
            "joint_dropout takes no camera or probability; besides at_s it takes for_s",
        ),
        ({"kind": "message_loss", "at_s": 1.0, "for_s": 1.0, "probability": 1.5}, "probability"),
        ({"kind": "joint_dropout", "at_s": -1.0, "for_s": 1.0}, "at_s"),
        ({"kind": "joint_dropout", "at_s": 1.0, "for_s": 0.0}, "for_s"),
        (
            {"kind": "late_stamps", "at_s": 1.0, "for_s": 1.0, "shift_ms": 0.0},
            "late_stamps needs shift_ms (given for_s)",
        ),
        ({"kind": "clock_jump", "at_s": 1.0, "shift_s": -1.5}, "cannot jump back to before 0 (given -1.5 s at 1 s)"),
        (
            {"kind": "frozen_image", "camera": "top", "at_s": 1.0, "for_s": 1.0},
            "no camera 'top'; should be of front, wr",
        ),
        ({"kind": "stal", "at_s": 1.0}, "camera_stall"),
    ],
)
def test_what_cannot_be_is_refused_in_words(fault: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as refused:
        TabletopConfig.model_validate({"faults": {"a": fault}})
    assert told in str(refused.value)


def test_names_and_jumps_that_add_up_are_checked() -> None:
    with pytest.raises(ValidationError, match="no valid name of a fault \\(given 'a.b'\\)"):
        TabletopConfig.model_validate({"faults": {"a.b": EVERY_KIND["hit"]}})
    jumps = {f"jump{at}": {"kind": "clock_jump", "at_s": at, "shift_s": -2.0} for at in (2, 3)}
    with pytest.raises(ValidationError, match="the jump at 3 s, with those before"):
        TabletopConfig.model_validate({"faults": jumps})


def test_a_system_without_the_camera_cannot_have_its_fault() -> None:
    values = config.load("franka_upvla").model_dump(mode="json")
    values["simulation"]["faults"] = {"hung": EVERY_KIND["hung"]}
    config.SystemConfig.model_validate(values)
    del values["cameras"]["wrist"]
    with pytest.raises(ValidationError, match="hung: no camera 'wrist'; should be of front"):
        config.SystemConfig.model_validate(values)


def test_times_count_from_the_last_reset() -> None:
    stuck = faults(stuck=EVERY_KIND["stuck"], hit=EVERY_KIND["hit"])
    refusing = [time_s for time_s in range(20) if stuck.has(FaultKind.GRIPPER_REFUSAL, time_s * SECOND)]
    assert refusing == [4]
    stuck.reset(10 * SECOND)
    refusing = [time_s for time_s in range(20) if stuck.has(FaultKind.GRIPPER_REFUSAL, time_s * SECOND)]
    assert refusing == [14]
    steps = [time_ns for time_ns in range(0, 20 * SECOND, 100 * MS) if stuck.trips(time_ns, time_ns + 100 * MS)]
    assert steps == [14 * SECOND]
    assert not stuck.has(FaultKind.JOINT_DROPOUT, 14 * SECOND)


def test_a_stall_and_a_dropout_silence_their_own_source_only() -> None:
    both = faults(stall=EVERY_KIND["stall"], deaf=EVERY_KIND["deaf"])
    times = range(0, 5 * SECOND, 50 * MS)
    everything = [(time_ns, time_ns) for time_ns in times]
    front = through(both.stream("front", "front"), times)
    assert front == [message for message in everything if not 3 * SECOND <= message[0] < 4 * SECOND]
    joints = through(both.stream("joint_states", JOINTS), times)
    assert joints == [message for message in everything if not 2 * SECOND <= message[0] < 2.25 * SECOND]
    assert through(both.stream("wrist", "wrist"), times) == through(both.stream("clock"), times) == everything


def test_a_frozen_camera_shows_its_last_picture_under_fresh_stamps() -> None:
    times = range(0, 5 * SECOND, 100 * MS)
    seen = through(faults(hung=EVERY_KIND["hung"]).stream("wrist", "wrist"), times)
    assert [stamp for stamp, _ in seen] == list(times)
    assert all(picture == (1400 * MS if 1.5 * SECOND <= stamp < 3.5 * SECOND else stamp) for stamp, picture in seen), (
        "what was delivered last before"
    )


def test_late_stamps_are_beside_the_time_of_what_they_stand_on() -> None:
    late = faults(late=EVERY_KIND["late"], late_front=EVERY_KIND["late_front"])
    times = range(0, 2 * SECOND, 10 * MS)
    for source, shift_ns in ((JOINTS, -150 * MS), ("front", 40 * MS), ("wrist", 0)):
        for stamp, sent in through(late.stream("any", source), times):
            assert stamp - sent == (shift_ns if SECOND <= sent < 1.5 * SECOND else 0)


def test_reordered_messages_all_come_each_at_most_one_place_late_and_the_same_each_time() -> None:
    times = range(0, 3 * SECOND, 10 * MS)
    shuffled = [faults(shuffled=EVERY_KIND["shuffled"]).stream("front", "front") for _ in range(2)]
    seen, again = (through(stream, times) for stream in shuffled)
    assert seen == again
    assert sorted(seen) == [(time_ns, time_ns) for time_ns in times]
    places = np.array([sorted(seen).index(message) - place for place, message in enumerate(seen)])
    assert set(places) == {-1, 0, 1}
    assert 20 < np.count_nonzero(places[:100]) < 90
    assert not places[102:].any(), "it ends with the fault"


def test_a_clock_that_jumped_stays_and_takes_every_stamp_along() -> None:
    jumping = faults(jump=EVERY_KIND["jump"])
    stream: Stream[int] = jumping.stream("clock")
    times = range(0, 10 * SECOND, SECOND)
    assert [stamp // SECOND for stamp, _ in through(stream, times)] == [0, 1, 2, 3, 4, 3, 4, 5, 6, 7]
    jumping.reset(10 * SECOND)
    assert jumping.clock_shift_ns(10 * SECOND) == -2 * SECOND, "a reset mends no clock"
    assert jumping.clock_shift_ns(15 * SECOND) == -4 * SECOND


@given(st.floats(0.05, 1.0))
def test_a_share_of_all_messages_is_lost(probability: float) -> None:
    radio = faults(radio={**EVERY_KIND["radio"], "probability": probability})
    arrived = len(through(radio.stream("clock"), range(6 * SECOND, 7 * SECOND, MS // 2)))
    assert abs(arrived - 2000 * (1 - probability)) <= 5 * np.sqrt(2000 * probability * (1 - probability))
    times = range(7 * SECOND, 8 * SECOND, 10 * MS)
    assert len(through(radio.stream("clock"), times)) == len(times)


def test_a_reflex_stops_the_arm_until_it_is_recovered() -> None:
    pytest.importorskip("mujoco")
    from vla_ros.simulation.tabletop import Tabletop

    world = Tabletop(PANDA, TabletopConfig(faults={"hit": FaultConfig(kind=FaultKind.REFLEX, at_s=0.02)}))
    world.reset(3)
    target = world.joint_positions + 0.2
    for _ in range(21):
        assert world.fault is None
        world.command_joints(target)
        world.advance(MS)
    assert world.fault == "collision: a fault of the simulation"
    world.recover()
    world.advance(100 * MS)
    assert world.fault is None, "once is enough"
    world.reset(3)
    world.advance(30 * MS)
    assert world.fault is not None, "each episode has it"
