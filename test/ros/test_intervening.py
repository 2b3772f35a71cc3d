"""What is told of interventions: each name with its count, at most once a second, and the last count in the end."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy")

from vla_ros.ros.intervening import News


def test_a_limit_is_told_at_once_then_once_a_second_and_then_no_more():
    news = News()
    counters = {"velocity": 0, "commands": 0, "chunks": 0, "late_rows": 0, "teleop_targets": 0}
    told: list[tuple[float, str]] = []
    for tick in range(60):
        counters = {name: count + (tick < 25 or name != "velocity") for name, count in counters.items()}
        told += [(tick / 10, line) for _, line in news.of(counters, tick / 10)]
    assert told == [
        (0.0, "intervention velocity: 1 so far"),
        (1.0, "intervention velocity: 11 so far"),
        (2.0, "intervention velocity: 21 so far"),
        (3.0, "intervention velocity: 25 so far"),
    ]


def test_each_name_has_its_own_second():
    news = News()
    assert [line for _, line in news.of({"jump": 1}, 0.0)] == ["intervention jump: 1 so far"]
    assert [line for _, line in news.of({"jump": 2, "workspace": 3}, 0.5)] == ["intervention workspace: 3 so far"]
    assert [line for _, line in news.of({"jump": 2, "workspace": 3}, 1.0)] == ["intervention jump: 2 so far"]
