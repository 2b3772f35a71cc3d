"""Time as integer nanoseconds: conversions from milliseconds, seconds, hertz; a watch for a clock that jumps back."""

from __future__ import annotations

from vla_ros.values import NANOSECONDS_PER_MILLISECOND, NANOSECONDS_PER_SECOND


def ms_to_ns(milliseconds: float) -> int:
    """Milliseconds, rounded to the nearest nanosecond."""
    return round(milliseconds * NANOSECONDS_PER_MILLISECOND)


def s_to_ns(seconds: float) -> int:
    """Seconds, rounded to the nearest nanosecond."""
    return round(seconds * NANOSECONDS_PER_SECOND)


def ns_to_ms(nanoseconds: int) -> float:
    """Nanoseconds as milliseconds; for reports, never for arithmetic on stamps."""
    return nanoseconds / NANOSECONDS_PER_MILLISECOND


def ns_to_s(nanoseconds: int) -> float:
    """Nanoseconds as seconds; for durations: a stamp since 1970 loses its last 100 ns or so in a float."""
    return nanoseconds / NANOSECONDS_PER_SECOND


def period_ns(rate_hz: float) -> int:
    """The period of a rate; raises ValueError unless the rate is positive."""
    if not rate_hz > 0.0:
        raise ValueError(f"a rate is positive, got {rate_hz} Hz")
    return round(NANOSECONDS_PER_SECOND / rate_hz)


#: A clock that is set right goes back a little: by nanoseconds where it is slewed, by milliseconds where it is stepped.
_CORRECTION_NS = ms_to_ns(100.0)


class ClockWatch:
    """Tells when a clock that should only go forward has jumped back: a simulation restarted, a recording looped.

    Readings up to `tolerance_ns` behind the newest one are taken for a clock that is being corrected, or for callbacks
    that overtook each other.
    """

    def __init__(self, tolerance_ns: int = _CORRECTION_NS) -> None:
        if tolerance_ns < 0:
            raise ValueError(f"tolerance_ns is not negative, got {tolerance_ns}")
        self._tolerance_ns = tolerance_ns
        self._newest_ns: int | None = None

    def observe(self, now_ns: int) -> bool:
        """Whether the clock jumped back with this reading; from then on the reading is the new reference."""
        if self._newest_ns is None:
            self._newest_ns = now_ns
            return False
        jumped_back = now_ns < self._newest_ns - self._tolerance_ns
        self._newest_ns = now_ns if jumped_back else max(self._newest_ns, now_ns)
        return jumped_back
