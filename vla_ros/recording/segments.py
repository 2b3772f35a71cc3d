"""The segments of an episode: rows without a gap in time between them; a gap is no step from one row to the next."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vla_ros.values import Array

#: Rows farther apart than 1 + this many row periods have a gap between them. Frames stand for instants up to half a
#: camera's period away, so less than this is the usual jitter of capture times.
_EXCESS = 0.75


def first_rows(times_s: Array, steps: NDArray[np.int64], fps: float) -> NDArray[np.int64]:
    """The first row of every segment of an episode, the row 0 among them.

    `times_s` (T,): when each row was captured, or (T, N) by each camera; `steps` (T,): where the rows stand on a grid
    of 1/fps seconds, 0, 1, 2 and so on unless rows were left out on purpose.

    A row begins a segment when it is later, against that grid, than all before it: a camera that stalls and comes back
    is late in between and opens no gap. Where rows are fewer a second than `fps` says, or frames fewer than rows, the
    usual distance counts.
    """
    newest_s = times_s.max(axis=1) if times_s.ndim == 2 else times_s
    if len(newest_s) < 2:
        return np.zeros(min(1, len(newest_s)), dtype=np.int64)
    taken_s, counts = np.diff(newest_s), np.diff(steps)
    period_s = max(1.0 / fps, float(np.median(taken_s / np.maximum(counts, 1))))
    moved = taken_s[taken_s > 0.0]
    usual_s = max(period_s, float(np.median(moved))) if len(moved) and (counts == 1).all() else period_s
    late_s = newest_s - (steps - steps[0]) * period_s
    excess_s = late_s[1:] - np.maximum.accumulate(late_s)[:-1]
    return np.concatenate([[0], 1 + np.flatnonzero(excess_s > _EXCESS * usual_s)]).astype(np.int64)
