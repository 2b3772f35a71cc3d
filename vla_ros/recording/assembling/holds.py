"""Zero-order hold: what was said last, by an instant."""

from __future__ import annotations

from bisect import bisect_right
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Hold(Generic[Item]):
    """Stamped items, each of which holds from its stamp until the next; in order of their stamps, however they came.

    Kept are the items of the last `history_ns` and the one before them. Of two with one stamp the later holds.
    """

    def __init__(self, history_ns: int) -> None:
        self._history_ns = history_ns
        self._stamps_ns: list[int] = []
        self._items: list[Item] = []

    def add(self, stamp_ns: int, item: Item) -> None:
        """Hold `item` from `stamp_ns` on."""
        place = bisect_right(self._stamps_ns, stamp_ns)
        self._stamps_ns.insert(place, stamp_ns)
        self._items.insert(place, item)
        self.forget_before(self._stamps_ns[-1] - self._history_ns)

    def at(self, instant_ns: int) -> tuple[int, Item] | None:
        """The last item with a stamp up to `instant_ns`, and its stamp; None where there is none."""
        index = bisect_right(self._stamps_ns, instant_ns) - 1
        return None if index < 0 else (self._stamps_ns[index], self._items[index])

    def newest_ns(self) -> int | None:
        """The newest stamp."""
        return self._stamps_ns[-1] if self._stamps_ns else None

    def forget_before(self, instant_ns: int) -> None:
        """Forget what does not hold any more at `instant_ns`."""
        surplus = bisect_right(self._stamps_ns, instant_ns) - 1
        if surplus > 0:
            del self._stamps_ns[:surplus], self._items[:surplus]

    def drop_before(self, instant_ns: int) -> None:
        """Drop every item from before `instant_ns`, also the one that would hold then."""
        surplus = bisect_right(self._stamps_ns, instant_ns - 1)
        del self._stamps_ns[:surplus], self._items[:surplus]

    def clear(self) -> None:
        """Forget everything."""
        self._stamps_ns.clear()
        self._items.clear()
