"""Aligner: cameras and proprioception of unequal rate and latency, answered at one instant of capture time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from math import isfinite
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from vla_ros.geometry import interpolate_pose
from vla_ros.timing.frame import Frame, as_given
from vla_ros.timing.stamps import ClockWatch, ms_to_ns, ns_to_ms, period_ns, s_to_ns
from vla_ros.timing.track import Drop, Misaligned, Track
from vla_ros.values import Array, Config, Image, Observation

#: How far back messages are kept, if nobody says otherwise.
HISTORY_S = 2.0
#: A camera is stalled when this many of its periods passed without a frame.
_STALLED_PERIODS = 3
#: A camera's buffer holds this many times the frames its configured rate would give.
_FRAMES_MARGIN = 2.0
#: Most samples kept of one proprioceptive stream, whatever its rate.
_MOST_SAMPLES = 20_000
_BESIDE_NS = ms_to_ns(10.0)  # a sample so near stands for an instant by itself
_POSE_SIZE = 7
_SMALLEST_QUATERNION_NORM = 1e-6
_BEFORE_ALL_NS = -(2**63)


class CameraTiming(Config):
    """When a camera's frames were taken, and how far a frame may lie from the instant it stands for."""

    rate_hz: float = Field(default=30.0, ge=0.01, le=1000.0)
    latency_ms: float = 0.0  # capture = header stamp - latency
    tolerance_ms: float = Field(default=20.0, ge=0.0)  # more than half a period, or instants between frames have none
    # The same picture for longer, while the robot moves: it hangs (see timing/frozen.py). 0 = never.
    frozen_after_ms: float = Field(default=1000.0, ge=0.0)


class Interpolation(str, Enum):
    """How a proprioceptive stream is answered between two samples."""

    LINEAR = "linear"  # each value by itself: joint positions, widths
    POSE = "pose"  # (7,) position linear, orientation slerp
    NEAREST = "nearest"  # the nearest sample as it is: flags, states of a simulation


class StreamTiming(Config):
    """When a proprioceptive stream was sampled, and how it is answered in between.

    Samples farther than `max_gap_ms` from the instant are not used: between two near ones it is interpolated, beside
    one near one that one is given, and nothing is ever extrapolated.
    """

    interpolation: Interpolation = Interpolation.LINEAR
    latency_ms: float = 0.0
    max_gap_ms: float = Field(default=100.0, ge=0.0)


class AlignerConfig(Config):
    """The streams of one system; `history_s` must reach as far back as the policy's window."""

    cameras: dict[str, CameraTiming]
    proprioception: dict[str, StreamTiming]
    history_s: float = Field(default=HISTORY_S, gt=0.0)
    future_tolerance_ms: float = Field(default=100.0, ge=0.0)  # a stamp may be this much later than its receipt

    @model_validator(mode="after")
    def _names_are_clear(self) -> AlignerConfig:
        if not self.cameras and not self.proprioception:
            raise ValueError("nothing to align: cameras and proprioception are both empty")
        both = sorted(set(self.cameras) & set(self.proprioception))
        if both:
            raise ValueError(f"a name is either a camera or a proprioceptive stream, these are both: {both}")
        return self


@dataclass(frozen=True)
class StreamHealth:
    """How one stream is doing: `received` counts every message, `dropped` those not kept, by `Drop`."""

    rate_hz: float  # 0 when stalled
    age_ms: float | None  # now - newest capture; None while nothing is kept
    skew_ms: float | None  # what stands for the newest complete instant, minus that instant
    received: int
    dropped: Mapping[str, int]
    clock_jumps: int
    problem: str  # "" when all is well


class Aligner:
    """Aligns N cameras and M proprioceptive streams; knows no clock and no threads (lock around it if there are some).

    The *newest complete instant* is the newest stamp (capture time) of any camera's frame that is no later than any
    camera's newest frame, for which every camera has a frame within its tolerance and every proprioceptive stream can
    be answered. Mostly that is the newest frame of the camera that lags most: its arrival completes the instant. As
    every camera already has a frame at or after it, no later frame can be nearer: what its images show is settled.
    Where several instants would show the same frames (cameras out of phase), it is the earliest of them.
    It never goes back, and stands still while a camera or stream is stalled: compare it with the one used before.
    Without cameras the proprioceptive streams set the pace in the same way.

    Stamps: see `Track` for late ones, duplicates and a stream whose clock jumps back. If the clock of *receipt* jumps
    back by more than the future tolerance (a simulation restarted), every stream starts again.
    """

    def __init__(self, config: AlignerConfig, decode: Callable[[Any], Image] = as_given) -> None:
        history_ns = s_to_ns(config.history_s)
        self._decode = decode
        self._future_tolerance_ns = ms_to_ns(config.future_tolerance_ms)
        self._receipt_clock = ClockWatch(self._future_tolerance_ns)
        self._cameras: dict[str, Track[Frame]] = {
            name: Track(
                f"camera {name}",
                latency_ns=ms_to_ns(timing.latency_ms),
                reach_ns=ms_to_ns(timing.tolerance_ms),
                silence_ns=_STALLED_PERIODS * period_ns(timing.rate_hz),
                history_ns=history_ns,
                capacity=2 + int(_FRAMES_MARGIN * timing.rate_hz * config.history_s),
            )
            for name, timing in config.cameras.items()
        }
        self._streams: dict[str, Track[Array]] = {
            name: Track(
                f"stream {name}",
                latency_ns=ms_to_ns(timing.latency_ms),
                reach_ns=ms_to_ns(timing.max_gap_ms),
                silence_ns=ms_to_ns(timing.max_gap_ms),
                history_ns=history_ns,
                capacity=_MOST_SAMPLES,
            )
            for name, timing in config.proprioception.items()
        }
        self._interpolations = {name: timing.interpolation for name, timing in config.proprioception.items()}
        self._sizes: dict[str, int] = {name: _POSE_SIZE for name in self._streams if self._is_pose(name)}
        self._tracks: dict[str, Track[Any]] = {**self._cameras, **self._streams}
        self._pace: list[Track[Any]] = list((self._cameras or self._streams).values())
        self._instant_ns: int | None = None
        # Between the newest complete candidate and this one none is complete: searching is linear, whatever stalls.
        self._searched_ns = _BEFORE_ALL_NS
        self._failure = ""  # why the newest candidate is not complete

    def add_image(self, camera: str, stamp_ns: int, received_ns: int, frame: Any) -> None:
        """Store a frame as it came; raises ValueError for an unknown camera. A bad stamp is counted, not raised."""
        track = _known(self._cameras, camera, "camera")
        if self._stamp_is_usable(track, stamp_ns, received_ns):
            self._add(track, stamp_ns, received_ns, Frame(frame, self._decode))

    def add_sample(self, stream: str, stamp_ns: int, received_ns: int, values: Array) -> None:
        """Store a copy of a sample (D,); raises ValueError for an unknown stream or another D than before."""
        track = _known(self._streams, stream, "proprioceptive stream")
        sample = np.array(values, dtype=np.float64)
        size = self._sizes.setdefault(stream, sample.size)
        if sample.shape != (size,):
            raise ValueError(f"a sample of stream {stream} has shape ({size},), got {sample.shape}")
        if not self._stamp_is_usable(track, stamp_ns, received_ns):
            return
        is_pose = self._is_pose(stream)
        norm = float(np.linalg.norm(sample[3:])) if is_pose else 1.0
        if not all(map(isfinite, sample.tolist())) or norm < _SMALLEST_QUATERNION_NORM:
            track.drop(Drop.INVALID)
            return
        if is_pose:
            sample[3:] /= norm
        self._add(track, stamp_ns, received_ns, sample)

    def newest_complete_instant(self) -> int | None:
        """The newest capture time at which every stream can be answered (see the class), or None; see `reason`."""
        empty = next((track for track in self._tracks.values() if not track.stamps_ns), None)
        if empty is not None:
            self._failure = empty.emptiness()
            return self._instant_ns
        newest_ns = min(track.stamps_ns[-1] for track in self._pace)
        if newest_ns <= self._searched_ns:
            return self._instant_ns
        self._failure = ""
        for candidate_ns in self._candidates(newest_ns):
            try:
                complete_ns = self._complete(candidate_ns)
            except Misaligned as error:
                self._failure = self._failure or str(error)
                continue
            self._instant_ns = complete_ns if self._instant_ns is None else max(self._instant_ns, complete_ns)
            break
        self._searched_ns = newest_ns
        return self._instant_ns

    def reason(self, now_ns: int | None = None) -> str:
        """Why there is no complete instant; with `now_ns` also why it does not advance. Empty when all is well."""
        instant_ns = self.newest_complete_instant()
        if now_ns is None:
            return self._failure if instant_ns is None else ""
        stalled = [silence for silence in (track.silence(now_ns) for track in self._tracks.values()) if silence]
        return "; ".join(stalled) or self._failure

    def sample(self, instant_ns: int) -> Observation:
        """Every stream at an instant of capture time; raises Misaligned where one has nothing near enough."""
        images: dict[str, Image] = {}
        proprioception: dict[str, Array] = {}
        stamps_ns: dict[str, int] = {}
        for name, camera in self._cameras.items():
            index = camera.nearest(instant_ns)
            stamps_ns[name] = camera.stamps_ns[index]
            images[name] = self._decoded(camera, index)
        for name, stream in self._streams.items():
            stamps_ns[name] = stream.stamps_ns[stream.nearest(instant_ns)]
            proprioception[name] = _interpolated(stream, instant_ns, self._interpolations[name])
        return Observation(instant_ns, images, proprioception, stamps_ns)

    def window(
        self, instant_ns: int, length: int, step_ns: int, earliest_ns: int | None = None
    ) -> tuple[Observation, ...]:
        """`length` observations `step_ns` apart, oldest first, the last at `instant_ns`; raises Misaligned as `sample`.

        Instants before the first complete one since `earliest_ns` (an episode's start) are answered by that one: an
        episode's first observation stands for what was before it.
        """
        instants = self._instants(instant_ns, length, step_ns, earliest_ns)
        observations = {instant: self.sample(instant) for instant in instants}
        return tuple(observations[instant] for instant in instants)

    def frames(self, instant_ns: int, length: int, step_ns: int, earliest_ns: int | None = None) -> tuple[Frame, ...]:
        """The frames that `window` looks at, in its order: to decode them before, where no lock is held."""
        instants = self._instants(instant_ns, length, step_ns, earliest_ns)
        cameras = self._cameras.values()
        return tuple(camera.items[camera.nearest(instant)] for instant in instants for camera in cameras)

    def frame(self, camera: str, instant_ns: int) -> tuple[int, Frame]:
        """A camera's frame nearest an instant, and its capture time; raises Misaligned where none is near enough."""
        track = _known(self._cameras, camera, "camera")
        index = track.nearest(instant_ns)
        return track.stamps_ns[index], track.items[index]

    def value(self, stream: str, instant_ns: int) -> Array:
        """A proprioceptive stream (D,) at an instant, between two samples or right beside one; raises Misaligned."""
        track, how = _known(self._streams, stream, "proprioceptive stream"), self._interpolations[stream]
        index, found = track.nearest(instant_ns), _interpolated(track, instant_ns, how)
        off_ns = abs(track.stamps_ns[index] - instant_ns)
        if found is track.items[index] and off_ns > _BESIDE_NS and how is not Interpolation.NEAREST:
            raise Misaligned(f"{track.label}: not between two samples; the nearest is {ns_to_ms(off_ns):.1f} ms off")
        return found

    def covers(self, instant_ns: int) -> bool:
        """Whether every camera and stream has something at or after an instant: nothing nearer comes, unless late."""
        return all(track.stamps_ns and track.stamps_ns[-1] >= instant_ns for track in self._tracks.values())

    def candidates(self, from_ns: int) -> list[int]:
        """The stamps from `from_ns` on at which there may be a complete instant, oldest first."""
        return sorted({stamp for track in self._pace for stamp in track.stamps_ns if stamp >= from_ns})

    def forget_before(self, instant_ns: int) -> None:
        """Forget what no instant from `instant_ns` on needs; frames are large."""
        for track in self._tracks.values():
            track.forget_before(instant_ns)

    @property
    def clock_jumps(self) -> dict[str, int]:
        """camera or stream -> how often its clock jumped back."""
        return {name: track.clock_jumps for name, track in self._tracks.items()}

    def health(self, now_ns: int) -> dict[str, StreamHealth]:
        """How every camera and stream is doing at `now_ns`."""
        self.newest_complete_instant()
        return {name: self._health_of(track, now_ns) for name, track in self._tracks.items()}

    def clear(self) -> None:
        """Forget everything kept (the counters stay): nothing from before is ever answered again."""
        for track in self._tracks.values():
            track.clear()
        self._forget_instant()

    def _is_pose(self, stream: str) -> bool:
        return self._interpolations[stream] is Interpolation.POSE

    def _stamp_is_usable(self, track: Track[Any], stamp_ns: int, received_ns: int) -> bool:
        track.received += 1
        if self._receipt_clock.observe(received_ns):
            for other in self._tracks.values():
                other.restart()
            self._forget_instant()
        if stamp_ns <= 0:
            track.drop(Drop.ZERO)
            return False
        if stamp_ns > received_ns + self._future_tolerance_ns:
            track.drop(Drop.FUTURE)
            return False
        return True

    def _add(self, track: Track[Any], stamp_ns: int, received_ns: int, item: Any) -> None:
        if track.add(stamp_ns, received_ns, item):
            self._forget_instant()
        self._searched_ns = min(self._searched_ns, track.changed_after_ns)

    def _forget_instant(self) -> None:
        self._instant_ns = None
        self._searched_ns = _BEFORE_ALL_NS

    def _candidates(self, newest_ns: int) -> Iterator[int]:
        """`newest_ns`, and if that is not taken, the frames before it that were not searched yet, newest first.

        Only those that the newest message of every stream reaches: a stalled stream has nothing for later ones.
        """
        yield newest_ns
        after_ns = self._searched_ns if self._instant_ns is None else max(self._searched_ns, self._instant_ns)
        reached_ns = min(track.stamps_ns[-1] + track.reach_ns for track in self._tracks.values())
        earlier: set[int] = set()
        for track in self._pace:
            stamps = track.stamps_ns
            last = bisect_right(stamps, min(newest_ns - 1, reached_ns))
            earlier.update(stamps[bisect_right(stamps, after_ns, hi=last) : last])
        yield from sorted(earlier, reverse=True)

    def _instants(self, instant_ns: int, length: int, step_ns: int, earliest_ns: int | None) -> list[int]:
        """The instants of a window, oldest first."""
        if length < 1 or (length > 1 and step_ns <= 0):
            raise ValueError(f"a window has length >= 1 and a positive step, got length {length}, step_ns {step_ns}")
        if earliest_ns is not None and earliest_ns > instant_ns:
            raise ValueError(f"a window at {instant_ns} cannot start at {earliest_ns}, which is later")
        oldest_ns = instant_ns - (length - 1) * step_ns
        if earliest_ns is not None and oldest_ns < earliest_ns:
            oldest_ns = self._first_complete(earliest_ns, instant_ns)
        return [max(oldest_ns, instant_ns - back * step_ns) for back in reversed(range(length))]

    def _first_complete(self, from_ns: int, to_ns: int) -> int:
        """The first frame's stamp between two instants that is complete; the last instant where none before it is."""
        stamps = {stamp for track in self._pace for stamp in track.stamps_ns if from_ns <= stamp < to_ns}
        for stamp in sorted(stamps):
            try:
                self._frames_at(stamp)
            except Misaligned:
                continue
            return stamp
        return to_ns

    def _complete(self, candidate_ns: int) -> int:
        """The earliest frame's stamp that is complete with the candidate's frames; raises Misaligned if it is not."""
        frames = self._frames_at(candidate_ns)
        for earlier_ns in sorted(stamp for stamp in frames if stamp < candidate_ns):
            try:
                if self._frames_at(earlier_ns) == frames:
                    return earlier_ns
            except Misaligned:
                continue  # out of some tolerance there, though not at the candidate
        return candidate_ns

    def _frames_at(self, instant_ns: int) -> list[int]:
        """Stamps of the frames that stand for an instant; raises Misaligned where any camera or stream has nothing."""
        frames = [camera.stamps_ns[camera.nearest(instant_ns)] for camera in self._cameras.values()]
        for stream in self._streams.values():
            stream.nearest(instant_ns)
        return frames

    def _decoded(self, camera: Track[Frame], index: int) -> Image:
        try:
            return camera.items[index].image()
        except ValueError as error:
            camera.discard(index)
            self._searched_ns = _BEFORE_ALL_NS
            raise Misaligned(f"{camera.label}: the frame of the instant cannot be decoded: {error}") from error

    def _health_of(self, track: Track[Any], now_ns: int) -> StreamHealth:
        silence = track.silence(now_ns)
        skew_ms = None
        problem = silence
        if self._instant_ns is not None:
            try:
                skew_ms = ns_to_ms(track.stamps_ns[track.nearest(self._instant_ns)] - self._instant_ns)
            except Misaligned as error:
                problem = problem or str(error)
        return StreamHealth(
            rate_hz=0.0 if silence else track.rate_hz(),
            age_ms=ns_to_ms(now_ns - track.stamps_ns[-1]) if track.stamps_ns else None,
            skew_ms=skew_ms,
            received=track.received,
            dropped=dict(track.dropped),
            clock_jumps=track.clock_jumps,
            problem=problem,
        )


def _known(tracks: Mapping[str, Track[Any]], name: str, kind: str) -> Track[Any]:
    track = tracks.get(name)
    if track is None:
        raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(sorted(tracks)) or 'none'}")
    return track


def _interpolated(stream: Track[Array], instant_ns: int, interpolation: Interpolation) -> Array:
    """The value of a stream at an instant for which `stream.nearest` has found a sample."""
    stamps = stream.stamps_ns
    nearest = stream.nearest(instant_ns)
    if interpolation is Interpolation.NEAREST or stamps[nearest] == instant_ns:
        return stream.items[nearest]
    before = nearest if stamps[nearest] < instant_ns else nearest - 1
    after = before + 1
    is_bracketed = before >= 0 and after < len(stamps)
    if not is_bracketed or max(instant_ns - stamps[before], stamps[after] - instant_ns) > stream.reach_ns:
        return stream.items[nearest]
    fraction = (instant_ns - stamps[before]) / (stamps[after] - stamps[before])
    start, end = stream.items[before], stream.items[after]
    if interpolation is Interpolation.POSE:
        return interpolate_pose(start, end, fraction)
    return start + fraction * (end - start)
