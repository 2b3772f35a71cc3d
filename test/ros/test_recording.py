"""What waits for the recording's thread is bounded by its kind; rates are counts over time."""

from __future__ import annotations

import threading

import pytest

pytest.importorskip("rclpy")

from vla_ros.ros.recording import Inbox, Lateness, Rates
from vla_ros.timing.stamps import s_to_ns


def test_a_crowd_of_one_kind_keeps_no_other_out() -> None:
    inbox = Inbox()
    done: list[str] = []
    for number in range(5):
        inbox.put("image", 3, lambda number=number: done.append(f"image {number}"))
        inbox.put("joints", 3 + number, lambda number=number: done.append(f"joints {number}"))
    assert inbox.refused == {"image": 2}
    inbox.close()
    while (work := inbox.take()) is not None:
        work()
    assert done == ["image 0", "joints 0", "image 1", "joints 1", "image 2", "joints 2", "joints 3", "joints 4"]


def test_there_is_room_again_for_what_was_taken() -> None:
    inbox = Inbox()
    inbox.put("image", 1, int)
    inbox.put("image", 1, int)
    assert inbox.take() is int
    inbox.put("image", 1, float)
    assert inbox.take() is float
    assert inbox.refused == {"image": 1}
    inbox.forget_refused()
    assert not inbox.refused


def test_a_thread_that_waits_gets_what_comes_and_the_end() -> None:
    inbox = Inbox()
    taken: list[object] = []

    def take_all() -> None:
        while (work := inbox.take()) is not None:
            taken.append(work)

    thread = threading.Thread(target=take_all)
    thread.start()
    inbox.put("", 10, int)
    inbox.put("", 10, float)
    inbox.close()
    thread.join(10.0)
    assert not thread.is_alive()
    assert taken == [int, float]


def test_rates_are_counts_over_the_last_two_seconds() -> None:
    rates = Rates()
    assert rates.see(0, {"front": 7}) == {"front": 0.0}
    for tenth in range(1, 31):  # 30 Hz for three seconds
        seen = rates.see(s_to_ns(tenth / 10), {"front": 7 + 3 * tenth})
    assert seen == {"front": pytest.approx(30.0)}
    for tenth in range(31, 51):  # and nothing for two
        seen = rates.see(s_to_ns(tenth / 10), {"front": 97})
    assert seen == {"front": 0.0}
    assert rates.see(s_to_ns(1.0), {"front": 3}) == {"front": 0.0}  # the clock jumped back
    assert rates.see(s_to_ns(2.0), {"front": 13}) == {"front": pytest.approx(10.0)}


def ticks(lateness: Lateness, *times_s: float) -> list[bool]:
    return [lateness.is_catching_up(time_s) for time_s in times_s]


def test_a_process_that_stood_still_first_reads_what_came_meanwhile() -> None:
    lateness = Lateness(0.02)
    assert ticks(lateness, 5.0, 5.02, 5.11) == [False, False, False]
    assert ticks(lateness, 5.51, 5.52, 5.7, 5.88, 5.9) == [True, True, True, True, False]  # it was 0.38 s late
    assert ticks(lateness, 95.0, 95.9, 96.1, 96.12) == [True, True, False, False]  # a second at most


def test_one_that_is_always_late_goes_on_all_the_same() -> None:
    lateness = Lateness(0.02)
    assert ticks(lateness, *(0.2 * tick for tick in range(7))) == [False, True, False, True, False, True, False]
