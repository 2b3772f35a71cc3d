"""Recovery: when a robot is asked to leave a reflex: on the operator's word, or by itself, a few times."""

from __future__ import annotations

from vla_ros.timing.stamps import ns_to_s, s_to_ns

#: Attempts in a row without the operator's word, the time between two of them, and how long all has to be well before
#: the next one is no longer in a row with them.
_MOST_ATTEMPTS = 3
_PAUSE_S = 2.0
_WELL_FOR_S = 10.0


class Recovery:
    """Decides, tick by tick, whether to ask now. An attempt goes on from `due` being True until `done`.

    An arm whose stop button was pressed waits for the operator, even where it recovers by itself.
    """

    def __init__(self, by_itself: bool) -> None:
        self._by_itself = by_itself
        self._is_asked_for = False
        self._goes_on = False
        self._was_stopped_by_hand = False
        self._attempts = 0  # by itself, in a row
        self._ended_ns: int | None = None  # the last attempt
        self._well_since_ns: int | None = None
        self._said = ""

    @property
    def said(self) -> str:
        """How it goes, or went the last time; "" where there was nothing to recover from."""
        return self._said

    def ask(self) -> None:
        """The operator wants it: as soon as the arm stands, and whatever failed before."""
        self._is_asked_for = True
        self._attempts = 0
        self._was_stopped_by_hand = False

    def due(self, now_ns: int, is_needed: bool, can_recover: bool, is_at_rest: bool) -> bool:
        """Whether to ask the robot now, which `can_recover` unless a person stopped it."""
        if not is_needed:
            self._all_is_well(now_ns)
            return False
        self._well_since_ns = None
        self._was_stopped_by_hand |= not can_recover
        if self._goes_on or not is_at_rest or not (self._is_asked_for or self._is_due_by_itself(now_ns)):
            return False
        if self._is_asked_for:
            self._said = "recovers on the operator's word"
        else:
            self._attempts += 1
            self._said = f"automatic recovery, attempt {self._attempts} of {_MOST_ATTEMPTS}"
        self._is_asked_for, self._goes_on = False, True
        return True

    def done(self, success: bool, message: str, now_ns: int) -> None:
        """How the attempt ended; a `message` may come with a success too."""
        self._goes_on, self._ended_ns = False, now_ns
        self._said = ("recovered" if success else "does not recover") + (f": {message}" if message else "")

    def _is_due_by_itself(self, now_ns: int) -> bool:
        if not self._by_itself or self._was_stopped_by_hand or self._attempts >= _MOST_ATTEMPTS:
            return False
        return self._ended_ns is None or ns_to_s(abs(now_ns - self._ended_ns)) >= _PAUSE_S

    def _all_is_well(self, now_ns: int) -> None:
        self._is_asked_for = self._was_stopped_by_hand = False
        if self._well_since_ns is None:
            self._well_since_ns = now_ns
        elif now_ns - self._well_since_ns >= s_to_ns(_WELL_FOR_S):
            self._attempts = 0
