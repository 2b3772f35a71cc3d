"""One stream of stamped messages in order of capture time: bounded, and strict about which stamps it believes."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from enum import Enum
from typing import Generic, TypeVar

from vla_ros.timing.stamps import ms_to_ns, ns_to_ms
from vla_ros.values import NANOSECONDS_PER_SECOND

Item = TypeVar("Item")

#: A stream is believed to have jumped back once this many messages in a row, over this much time of receipt, stayed
#: behind its newest stamp. Fewer or briefer: messages that overtook each other on the network.
_JUMP_MESSAGES = 3
_JUMP_TIME_NS = ms_to_ns(250.0)


class Misaligned(ValueError):
    """A stream has nothing for the instant that was asked for; the text names the stream and the cause."""


class Drop(str, Enum):
    """Why a message was not kept."""

    ZERO = "zero"  # no stamp: the driver left it 0 (or negative)
    FUTURE = "future"  # stamped after it was received
    LATE = "late"  # older than the history reaches
    DUPLICATE = "duplicate"  # the same stamp again; the first message stays
    INVALID = "invalid"  # not finite, no rotation, or not decodable
    OVERFLOW = "overflow"  # more messages than the history should hold; the oldest goes


class Track(Generic[Item]):
    """The recent messages of one stream, oldest first, each at its capture time = stamp - latency.

    A message that arrives out of order is put in its place while the history reaches back to it, so the order of
    arrival never shows; an older one is dropped as late. A stream whose messages stay behind its newest stamp (see
    `_JUMP_TIME_NS`) has a clock that jumped back: what was kept is forgotten, and it starts again.

    `reach_ns`: a message farther than this from an instant does not stand for it. `silence_ns`: a stream from which
    nothing usable came for longer is stalled. Adding is O(1) in order and O(log n) to find the place otherwise.
    """

    def __init__(
        self, label: str, *, latency_ns: int, reach_ns: int, silence_ns: int, history_ns: int, capacity: int
    ) -> None:
        self.label = label
        self.latency_ns = latency_ns
        self.reach_ns = reach_ns
        self.silence_ns = silence_ns
        self.stamps_ns: list[int] = []
        self.items: list[Item] = []
        self.changed_after_ns = 0  # only instants later than this gained a near message by the one kept last
        self.received = 0
        self.dropped: Counter[str] = Counter()
        self.clock_jumps = 0
        self._history_ns = history_ns
        self._capacity = capacity
        self._kept_at_ns: int | None = None  # when the newest kept message was received
        self._behind = 0
        self._behind_since_ns = 0

    def add(self, stamp_ns: int, received_ns: int, item: Item) -> bool:
        """Keep a message, or count why not; whether the stream's clock turned out to have jumped back."""
        capture_ns = stamp_ns - self.latency_ns
        stamps = self.stamps_ns
        jumped_back = False
        if stamps and capture_ns <= stamps[-1]:
            jumped_back = self._stays_behind(capture_ns, received_ns)
            if jumped_back:
                self.restart()
            elif capture_ns < stamps[-1] - self._history_ns:
                self.drop(Drop.LATE)
                return False
            place = bisect_left(stamps, capture_ns)
            if place < len(stamps) and stamps[place] == capture_ns:
                self.drop(Drop.DUPLICATE)
                return False
        else:
            self._behind = 0
            place = len(stamps)
        stamps.insert(place, capture_ns)
        self.items.insert(place, item)
        self.changed_after_ns = capture_ns - self.reach_ns - 1
        if place:  # what the message before it reaches had one already; its own instant is new in any case
            self.changed_after_ns = min(capture_ns - 1, max(self.changed_after_ns, stamps[place - 1] + self.reach_ns))
        self._kept_at_ns = received_ns
        self._forget_oldest()
        return jumped_back

    def drop(self, why: Drop) -> None:
        """Count a message that is not kept."""
        self.dropped[why.value] += 1

    def discard(self, index: int) -> None:
        """Take out a kept message that turned out to be invalid."""
        del self.stamps_ns[index], self.items[index]
        self.drop(Drop.INVALID)

    def restart(self) -> None:
        """Forget what is kept because the clock jumped back; the counters stay."""
        self.clear()
        self.clock_jumps += 1

    def clear(self) -> None:
        """Forget what is kept; the counters stay."""
        self.stamps_ns.clear()
        self.items.clear()
        self._kept_at_ns = None
        self._behind = 0

    def forget_before(self, instant_ns: int) -> None:
        """Forget what is before an instant but for the last message, which may stand for it."""
        surplus = bisect_left(self.stamps_ns, instant_ns) - 1
        if surplus > 0:
            del self.stamps_ns[:surplus], self.items[:surplus]

    def nearest(self, instant_ns: int) -> int:
        """Index of the message nearest an instant, the earlier of two equally near; raises Misaligned."""
        stamps = self.stamps_ns
        if not stamps:
            raise Misaligned(self.emptiness())
        index = bisect_left(stamps, instant_ns)
        if index == len(stamps) or (index > 0 and instant_ns - stamps[index - 1] <= stamps[index] - instant_ns):
            index -= 1
        distance_ns = stamps[index] - instant_ns
        if abs(distance_ns) > self.reach_ns:
            raise Misaligned(
                f"{self.label}: nothing within {ns_to_ms(self.reach_ns):g} ms of the instant; the nearest is "
                f"{ns_to_ms(abs(distance_ns)):.1f} ms {'earlier' if distance_ns < 0 else 'later'}"
            )
        return index

    def emptiness(self) -> str:
        """Why nothing is kept, in words."""
        causes = [f"{count} dropped as {why}" for why, count in sorted(self.dropped.items())]
        if self.clock_jumps:
            causes.append(f"its clock jumped back {self.clock_jumps}x")
        return f"{self.label}: nothing usable yet" + (f" ({', '.join(causes)})" if causes else "")

    def silence(self, now_ns: int) -> str:
        """Why the stream counts as stalled at `now_ns`, in words; empty when it does not."""
        if self._kept_at_ns is None:
            return self.emptiness()
        silent_ns = now_ns - self._kept_at_ns
        if silent_ns <= self.silence_ns:
            return ""
        return f"{self.label}: stalled, nothing usable for {ns_to_ms(silent_ns):.0f} ms"

    def rate_hz(self) -> float:
        """Messages per second of capture time over what is kept; 0 with fewer than two."""
        if len(self.stamps_ns) < 2:
            return 0.0
        return (len(self.stamps_ns) - 1) * NANOSECONDS_PER_SECOND / (self.stamps_ns[-1] - self.stamps_ns[0])

    def _stays_behind(self, capture_ns: int, received_ns: int) -> bool:
        """Whether this message, not after the newest stamp, is one of enough to say that the clock jumped back."""
        if capture_ns == self.stamps_ns[-1]:
            return False
        if self._behind == 0:
            self._behind_since_ns = received_ns
        self._behind += 1
        return self._behind >= _JUMP_MESSAGES and received_ns - self._behind_since_ns >= _JUMP_TIME_NS

    def _forget_oldest(self) -> None:
        stamps = self.stamps_ns
        oldest_ns = stamps[-1] - self._history_ns
        surplus = bisect_left(stamps, oldest_ns) if stamps[0] < oldest_ns else 0
        if len(stamps) - surplus > self._capacity:
            overflow = len(stamps) - surplus - self._capacity
            self.dropped[Drop.OVERFLOW.value] += overflow
            surplus += overflow
        if surplus:
            del stamps[:surplus], self.items[:surplus]
