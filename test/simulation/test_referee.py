from __future__ import annotations

import numpy as np

from vla_ros.simulation.referee import Referee
from vla_ros.simulation.tasks import COLORS, parse
from vla_ros.simulation.world import STATE_NAMES, WorldState

STEP_NS = 10_000_000
AT_REST = {"red": (0.5, 0.0, 0.02), "green": (0.4, 0.1, 0.02), "blue": (0.6, -0.1, 0.02)}


def state(step: int, gripper: float = 0.08, **cubes: tuple[float, float, float]) -> WorldState:
    poses = [[*{**AT_REST, **cubes}[color], 0.0, 0.0, 0.0, 1.0] for color in COLORS]
    values = [0.5, 0.0, 0.4, 1.0, 0.0, 0.0, 0.0, gripper, *np.concatenate(poses), 0.0]
    return WorldState(step * STEP_NS, np.array(values))


def first_success(referee: Referee, states: list[WorldState]) -> int | None:
    """The number of the state at which the task counts as done."""
    return next((k for k, each in enumerate(states) if referee.watch(each)), None)


def test_a_lift_counts_after_300_ms_at_height() -> None:
    low = [state(k, red=(0.5, 0.0, 0.099)) for k in range(100)]
    high = [state(k, red=(0.5, 0.0, 0.101)) for k in range(100)]
    assert first_success(Referee(parse("lift the red cube"), state(0)), low) is None
    assert first_success(Referee(parse("lift the red cube"), state(0)), high) == 30
    assert first_success(Referee(parse("lift the green cube"), state(0)), high) is None


def test_the_time_counts_without_interruption() -> None:
    heights = [0.15] * 29 + [0.05] + [0.15] * 31
    states = [state(k, red=(0.5, 0.0, z)) for k, z in enumerate(heights)]
    assert first_success(Referee(parse("lift the red cube"), state(0)), states) == 60


def test_success_ends_when_the_cube_falls() -> None:
    referee = Referee(parse("lift the red cube"), state(0))
    for k in range(40):
        referee.watch(state(k, red=(0.5, 0.0, 0.2)))
    assert referee.success
    assert not referee.watch(state(40))


def test_left_is_plus_y() -> None:
    left = [state(k, red=(0.5, 0.101, 0.02)) for k in range(60)]
    right = [state(k, red=(0.5, -0.101, 0.02)) for k in range(60)]
    little = [state(k, red=(0.5, 0.099, 0.02)) for k in range(60)]
    assert first_success(Referee(parse("push the red cube to the left"), state(0)), left) == 30
    assert first_success(Referee(parse("push the red cube to the left"), state(0)), right) is None
    assert first_success(Referee(parse("push the red cube to the left"), state(0)), little) is None
    assert first_success(Referee(parse("push the red cube to the right"), state(0)), right) == 30


def test_a_cube_that_was_carried_or_fell_off_is_not_pushed() -> None:
    there = [state(k, red=(0.5, 0.12, 0.02)) for k in range(1, 60)]
    carried = [state(0, red=(0.5, 0.05, 0.08)), *there]
    fallen = [state(k, red=(0.5, 0.9, -0.73)) for k in range(60)]
    assert first_success(Referee(parse("push the red cube to the left"), state(0)), carried) is None
    assert first_success(Referee(parse("push the red cube to the left"), state(0)), fallen) is None


def test_a_stack_is_released_still_and_centred() -> None:
    task = parse("stack the red cube on the green cube")

    def stacked(gripper: float = 0.08, dx: float = 0.0, dz: float = 0.0) -> list[WorldState]:
        return [state(k, gripper, red=(0.4 + dx, 0.1, 0.06 + dz)) for k in range(60)]

    assert first_success(Referee(task, state(0)), stacked()) == 30
    assert first_success(Referee(task, state(0)), stacked(dx=0.018)) == 30
    assert first_success(Referee(task, state(0)), stacked(dx=0.022)) is None
    assert first_success(Referee(task, state(0)), stacked(dz=0.01)) is None
    assert first_success(Referee(task, state(0)), stacked(gripper=0.041)) is None
    slides = [state(k, red=(0.4 + 0.0002 * k, 0.1, 0.06)) for k in range(60)]  # 2 cm/s
    assert first_success(Referee(task, state(0)), slides) is None


def test_the_layout_of_the_state_is_fixed() -> None:
    assert STATE_NAMES[:8] == ("tcp.x", "tcp.y", "tcp.z", "tcp.qx", "tcp.qy", "tcp.qz", "tcp.qw", "gripper")
    assert STATE_NAMES[8:15] == ("red.x", "red.y", "red.z", "red.qx", "red.qy", "red.qz", "red.qw")
    assert STATE_NAMES[15] == "green.x" and STATE_NAMES[22] == "blue.x" and STATE_NAMES[29:] == ("success",)
    shown = state(0)
    for color in COLORS:
        assert tuple(shown.cube_pose(color)[:3]) == AT_REST[color]
