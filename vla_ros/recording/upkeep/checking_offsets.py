"""Steady offsets within episodes: of a joint's action from its state, of a camera's frames from their rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from vla_ros.recording import features as keys
from vla_ros.recording.segments import first_rows
from vla_ros.recording.upkeep.findings import Finding, Kind, ranges, warning
from vla_ros.recording.upkeep.scanning import Episode, Scan, column
from vla_ros.values import Array

_LEAST_RAD = 0.05  # more than a position controller leaves between target and measurement
_STEADY = (10, 90)  # percentiles that must agree
_FOLLOWS = 0.9  # least correlation of a measurement with the target that it follows
_MOVES_RAD = 0.02  # standard deviation of a joint that moves
_FEWEST_ROWS = 10
_LONGEST_DELAY_S, _DELAYS = 0.5, 16  # between target and measurement: the longest, and how many are tried
_SHORTEST_PAUSE_S = 0.5
_LARGEST_RAD = 7.0  # joints that go further are in degrees
#: Parts of the names of what is no joint's angle. A gripper that holds something stays open by its size.
_NO_ANGLES = ("gripper", "finger", "width", "jaw", "tcp", "quat", "vel", "effort", "torque", "current")


@dataclass(frozen=True, eq=False)
class _Apart:
    """Action minus state over an episode: (J,) of each joint; `least` and `most` are between which it usually lies."""

    episode: int
    middle: Array
    least: Array
    most: Array


@dataclass(eq=False)
class Offsets:
    """Of all episodes of a dataset: `add` one after the other, then `findings`."""

    found: Scan
    _joints: Mapping[str, tuple[int, int]] = field(init=False)  # name -> place in the state, in the action
    _cameras: Sequence[str] = field(init=False)
    _apart: list[_Apart] = field(default_factory=list)
    _largest: float = 0.0
    _late: dict[str, dict[int, float]] = field(default_factory=dict)  # camera -> episode -> seconds

    def __post_init__(self) -> None:
        states, actions, self._cameras = (_names(self.found, key) for key in (keys.STATE, keys.ACTION, keys.STAMP))
        self._joints = {name: (states.index(name), actions.index(name)) for name in states if name in actions}
        self._joints = {name: places for name, places in self._joints.items() if _is_angle(name)}

    def add(self, episode: Episode, rows: pa.Table) -> None:
        """Take the rows of an episode; what cannot be read is reported elsewhere."""
        if rows.num_rows < _FEWEST_ROWS:
            return
        state, action, stamps, steps = (
            _values(rows, key) for key in (keys.STATE, keys.ACTION, keys.STAMP, keys.SOURCE_FRAME)
        )
        if state is not None and action is not None and self._joints:
            self._compare(episode.index, state, action)
        if stamps is not None and stamps.shape[1] == len(self._cameras):
            counts = np.arange(len(stamps), dtype=np.float64) if steps is None else steps[:, 0] - steps[0, 0]
            self._look(episode.index, stamps, counts)

    def findings(self) -> Iterator[Finding]:
        """A warning for each joint and each camera, with its episodes."""
        yield from self._of_joints()
        for camera, late_s in self._late.items():
            usual_s = float(np.median([*late_s.values()]))
            said = f"frames of {camera} were taken {1000 * abs(usual_s):.0f} ms {'after' if usual_s > 0 else 'before'} "
            said += f"the instants of their rows, throughout episodes {ranges(sorted(late_s))}"
            remedy = f"synchronise the clocks of {camera} and of the robot (chrony, PTP), measure the camera's latency "
            remedy += "(vla-ros calibrate latency), and record again"
            yield warning(Kind.OFFSET, "data", said, remedy=remedy)

    def _of_joints(self) -> Iterator[Finding]:
        in_degrees = self._largest > _LARGEST_RAD
        scale = np.pi / 180 if in_degrees else 1.0
        for number, name in enumerate(self._joints):
            off = {apart.episode: apart.middle[number] for apart in self._apart if _is_off(apart, number, scale)}
            if not off:
                continue
            usual = float(np.median([*off.values()])) * scale
            said = f"action of {name} is {usual:+.3f} rad ({np.degrees(usual):+.1f} degrees) off {keys.STATE}, "
            said += f"although the state follows its motion, in episodes {ranges(sorted(off))}"
            said += ", if its values are degrees" if in_degrees else ""
            remedy = (
                "compare the zero positions of leader and follower, and record these episodes again, or subtract it "
            )
            remedy += f"from their {keys.ACTION}: otherwise a policy begins with a jump of that size"
            yield warning(Kind.OFFSET, "data", said, remedy=remedy)

    def _compare(self, episode: int, state: Array, action: Array) -> None:
        """Action against the state as much later as it follows; nothing where no joint follows its action."""
        at, to = np.array([*self._joints.values()]).T
        if at.max() >= state.shape[1] or to.max() >= action.shape[1]:
            return
        state, action = state[:, at], action[:, to]
        self._largest = max(self._largest, float(np.abs(state).max()))
        longest = int(min(_LONGEST_DELAY_S * self.found.fps, len(state) // 3))
        delays = np.unique(np.linspace(0, longest, _DELAYS).round().astype(int))
        spreads = [(action[: len(action) - delay] - state[delay:]).std(axis=0) for delay in delays]
        best = delays[np.argmin(spreads, axis=0)]
        apart, follows = [], []
        for joint, delay in enumerate(best):
            ahead, behind = action[: len(action) - delay, joint], state[delay:, joint]
            apart.append(np.percentile(ahead - behind, (50, *_STEADY)))
            if min(ahead.std(), behind.std()) > _MOVES_RAD:
                follows.append(np.corrcoef(ahead, behind)[0, 1])
        if follows and np.median(follows) >= _FOLLOWS:
            self._apart.append(_Apart(episode, *np.array(apart).T))

    def _look(self, episode: int, stamps_s: Array, steps: Array) -> None:
        """When frames were taken against the instants of their rows, up to the first gap: a new grid begins there."""
        firsts = first_rows(stamps_s, steps.astype(np.int64), self.found.fps)
        end = int(firsts[1]) if len(firsts) > 1 else len(stamps_s)
        if end < _FEWEST_ROWS:
            return
        late_s = stamps_s[:end] - steps[:end, None] / self.found.fps
        pause_s = float(np.median(late_s, axis=0).min())
        if pause_s > _SHORTEST_PAUSE_S:  # the rows before a pause were left out: all that follow are later by it
            late_s = late_s - pause_s
        for camera, late, stamps in zip(self._cameras, late_s.T, stamps_s[:end].T, strict=True):
            moved = np.diff(stamps)
            period_s = max(1 / self.found.fps, float(np.median(moved[moved > 0])) if (moved > 0).any() else 0.0)
            middle, least, most = np.percentile(late, (50, *_STEADY))
            if abs(middle) > period_s >= most - least:
                self._late.setdefault(camera, {})[episode] = float(middle)


def _is_off(apart: _Apart, joint: int, scale: float) -> bool:
    least, most = apart.least[joint] * scale, apart.most[joint] * scale
    is_one_sided = least > _LEAST_RAD or most < -_LEAST_RAD
    return bool(is_one_sided and most - least < abs(apart.middle[joint]) * scale)


def _is_angle(name: str) -> bool:
    lower = name.lower()
    return not lower.endswith("_m") and lower not in "xyz" and not any(part in lower for part in _NO_ANGLES)


def _names(found: Scan, key: str) -> Sequence[str]:
    entry = found.features.get(key)
    try:
        return () if entry is None else keys.feature_of(key, entry).names or ()
    except (TypeError, ValueError):
        return ()  # info.json is damaged there


def _values(rows: pa.Table, key: str) -> Array | None:
    """A column's rows (T, N) as float64, or None where they are not there, or not all finite numbers."""
    try:
        values = column(rows, key)
        values = values.reshape(len(values), -1).astype(np.float64)
    except (KeyError, ValueError, TypeError, pa.ArrowException):
        return None
    return values if np.isfinite(values).all() else None
