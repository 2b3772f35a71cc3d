"""What a topic's messages tell by their stamps alone: rate, gaps, age, losses on the way, clocks that differ."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vla_ros.values import NANOSECONDS_PER_SECOND


class Arrival(NamedTuple):
    """One message. Times in ns: of receipt here, of sending by the sender's clock (0: not told), of its header.

    `stamp_ns` is None for a type without a header. `sender` tells publishers apart, `number` counts one publisher's
    messages, `digest` is the same for the same content (None: not looked at).
    """

    received_ns: int
    sent_ns: int = 0
    stamp_ns: int | None = None
    sender: str = ""
    number: int | None = None
    digest: int | None = None


class Clock:
    """What time it was: the machine's, or the simulation's as told on /clock."""

    def __init__(self, ticks: Sequence[tuple[int, int]] = ()) -> None:
        """`ticks`: (received_ns, time_ns) of every message of /clock; empty: the machine's."""
        self._received_ns = [received for received, _ in ticks]
        self._time_ns = [time for _, time in ticks]

    def at(self, received_ns: int) -> int | None:
        """The time at a receipt; None before the first tick."""
        if not self._time_ns:
            return received_ns
        index = bisect_right(self._received_ns, received_ns) - 1
        return self._time_ns[index] if index >= 0 else None

    @property
    def speed(self) -> float | None:
        """Simulated seconds per second; None for the machine's clock, or where there are too few ticks."""
        if len(self._time_ns) < 2 or self._received_ns[-1] <= self._received_ns[0]:
            return None
        return (self._time_ns[-1] - self._time_ns[0]) / (self._received_ns[-1] - self._received_ns[0])


class Stream:
    """The arrivals of one topic, judged against `clock`."""

    def __init__(self, arrivals: Sequence[Arrival], clock: Clock) -> None:
        self._arrivals = arrivals
        self._clock = clock
        self._stamps_ns = np.array([a.stamp_ns for a in arrivals if a.stamp_ns is not None], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._arrivals)

    @property
    def zero_stamps(self) -> int:
        """Messages whose header says no time."""
        return int(np.count_nonzero(self._stamps_ns == 0))

    @property
    def repeated_stamps(self) -> int:
        """Messages with the same time as the one before."""
        return int(np.count_nonzero(np.diff(self._set_stamps_ns) == 0))

    @property
    def backward_stamps(self) -> int:
        """Messages with an earlier time than the one before."""
        return int(np.count_nonzero(np.diff(self._set_stamps_ns) < 0))

    @property
    def ages_ns(self) -> NDArray[np.int64]:
        """Receipt minus stamp of each stamped message; negative: stamped in the future."""
        timed = ((self._clock.at(a.received_ns), a.stamp_ns) for a in self._arrivals if a.stamp_ns)
        return np.array([now - stamp for now, stamp in timed if now is not None], dtype=np.int64)

    @property
    def is_frozen(self) -> bool:
        """Whether every message has the same content; False where there are fewer than three."""
        digests = [a.digest for a in self._arrivals if a.digest is not None]
        return len(digests) > 2 and len(set(digests)) == 1

    @property
    def lost(self) -> tuple[int, int]:
        """(messages that were published between those received but did not come, messages published)."""
        lost = published = 0
        for numbers in self._numbers().values():
            span = max(numbers) - min(numbers) + 1
            published += span
            lost += span - len(set(numbers))
        return lost, published

    @property
    def rate_hz(self) -> float | None:
        """Messages published in a second of the clock; None for fewer than two."""
        times_ns = self._times_ns()
        if len(times_ns) < 2 or times_ns[-1] <= times_ns[0]:
            return None
        lost, _ = self.lost
        return float((len(times_ns) - 1 + lost) * NANOSECONDS_PER_SECOND / (times_ns[-1] - times_ns[0]))

    def gap_ns(self, percentile: float) -> int | None:
        """So long is it at most from one message to the next, in so many of 100 cases; None for fewer than two."""
        times_ns = self._times_ns()
        return int(np.percentile(np.diff(times_ns), percentile)) if len(times_ns) > 1 else None

    @property
    def offsets_ns(self) -> dict[str, int]:
        """Sender -> least time from sending, by its clock, to receipt by ours: negative where its clock is ahead."""
        least: dict[str, int] = {}
        for arrival in self._arrivals:
            if arrival.sent_ns:
                offset = arrival.received_ns - arrival.sent_ns
                least[arrival.sender] = min(offset, least.get(arrival.sender, offset))
        return least

    @property
    def _set_stamps_ns(self) -> NDArray[np.int64]:
        return self._stamps_ns[self._stamps_ns > 0]

    def _times_ns(self) -> NDArray[np.int64]:
        """When each was made: by its stamp, which nothing on the way disturbs; where those are no use, by receipt."""
        stamps = self._stamps_ns
        if len(stamps) == len(self._arrivals) and len(stamps) > 1 and stamps[0] > 0 and np.all(np.diff(stamps) > 0):
            return stamps
        times = (self._clock.at(arrival.received_ns) for arrival in self._arrivals)
        return np.array(sorted(time for time in times if time is not None), dtype=np.int64)

    def _numbers(self) -> dict[str, list[int]]:
        numbers: dict[str, list[int]] = {}
        for arrival in self._arrivals:
            if arrival.number is not None:
                numbers.setdefault(arrival.sender, []).append(arrival.number)
        return numbers


def merged(offsets: Iterable[dict[str, int]]) -> dict[str, int]:
    """The least of each sender over several streams."""
    least: dict[str, int] = {}
    for mapping in offsets:
        for sender, offset in mapping.items():
            least[sender] = min(offset, least.get(sender, offset))
    return least
