"""RowAssembler: everything that comes in while recording, through the aligner, into rows on a grid of time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla_ros.recording import features as keys
from vla_ros.recording.assembling.labels import Labels
from vla_ros.recording.assembling.row_health import RowHealth, Tally
from vla_ros.recording.config import ActionSource, GapRule, RecordingConfig
from vla_ros.recording.features import PROPRIOCEPTION, Features, Row
from vla_ros.robots.robot import Robot
from vla_ros.timing.frame import as_given
from vla_ros.timing.frozen import FrozenWatch
from vla_ros.timing.stamps import ClockWatch, ms_to_ns, ns_to_ms, ns_to_s, s_to_ns
from vla_ros.timing.sync import Aligner, AlignerConfig, CameraTiming, StreamHealth, StreamTiming
from vla_ros.timing.track import Misaligned
from vla_ros.values import NANOSECONDS_PER_SECOND, Array, Command, Image, Mode, SafetyState, Target

_JOINTS, _GRIPPER = PROPRIOCEPTION
#: What comes in another order than it was stamped is waited for so long.
_REORDERED_NS = ms_to_ns(30.0)
#: Who has sent a command so shortly before an instant will send more: they are waited for, as far as `settle_ms`.
_SENDING_NS = ms_to_ns(100.0)
#: Messages are kept for longer than they may be late by this much, should nobody ask for rows for a while.
_SPARE_S = 2.0
#: And before an episode, this much longer.
_SPARE_IDLE_NS = ms_to_ns(200.0)
#: A clock may step back by this much: callbacks that overtake each other.
_CLOCK_TOLERANCE_NS = ms_to_ns(100.0)
#: Time that passes at once is a clock that jumped ahead, or a computer that slept, from here on.
_LONGEST_SILENCE_NS = s_to_ns(10.0)
#: Without a command for so long, though the arm is led, an episode's actions are not what was done.
_UNHEARD_NS = s_to_ns(0.5)
#: Of two pictures with a sensor's noise, so much tells them apart.
_FIRST_WORDS = 256
_STREAMS = {_JOINTS: StreamTiming(), _GRIPPER: StreamTiming()}


@dataclass(frozen=True, eq=False)
class _Seen:
    """What there is at an instant: camera -> (capture time, image), stream -> (D,), and source -> why there is not."""

    images: dict[str, tuple[int, Image]]
    values: dict[str, Array]
    missing: dict[str, str]


@dataclass
class _Stretch:
    """A part of the episode without a pause; its grid begins at `first_ns`, once that is known."""

    from_ns: int
    end_ns: int | None = None
    first_ns: int | None = None
    rows: int = 0

    def next_ns(self, fps: int) -> int:
        """The instant of its next row; counted from the first, so that it never drifts."""
        first_ns = self.from_ns if self.first_ns is None else self.first_ns
        return first_ns + round(self.rows * NANOSECONDS_PER_SECOND / fps)


class RowAssembler:
    """Rows of one episode after the other; knows no clock and no threads (lock around it if there are some).

    An episode begins at the first instant, at or after its start, that every camera and stream can answer, and has a
    row every 1/fps seconds from there: row k shows the frames nearest its instant, joints and gripper interpolated, and
    what was sent, asked for and said last by then. Where a source has nothing near enough (or an image that cannot be
    read) its last value stands again, marked in `timing.repeated`: a row never shows what belongs to another.

    A row comes once its instant is settled: every source has something at or after it and whoever sends commands has
    sent another, or `settle_ms` have passed. After a pause the grid begins anew, at a complete instant.

    What was sent or asked for longer than a second before an episode is not its business; without any command what was
    measured is what was sent. Nobody said anything of mode and safety: "hold" and "holding".
    """

    def __init__(
        self,
        robot: Robot,
        features: Features,
        cameras: Mapping[str, CameraTiming],
        config: RecordingConfig,
        decode: Callable[[Any], Image] = as_given,
    ) -> None:
        """`decode`: a frame, as it is given to `add_image`, to rgb (H, W, 3) uint8; ValueError where it cannot be.

        Raises ValueError where the features are of other cameras or another rate.
        """
        if sorted(features.cameras) != sorted(cameras):
            raise ValueError(f"features are of the cameras {[*features.cameras]}, got {[*cameras]}")
        if features.fps != config.fps:
            raise ValueError(f"features are of {features.fps} rows a second, the recording of {config.fps}")
        self._features = features
        self._config = config
        self._settle_ns = ms_to_ns(config.settle_ms)
        history_s = ns_to_s(self._settle_ns) + _SPARE_S
        self._aligner = Aligner(
            AlignerConfig(cameras={name: cameras[name] for name in features.cameras}, proprioception=_STREAMS,
                          history_s=history_s),
            decode,
        )  # fmt: skip
        self._frozen_after_ms = {name: timing.frozen_after_ms for name, timing in cameras.items()}
        self._labels = Labels(robot, s_to_ns(history_s))
        self._clock = ClockWatch(_CLOCK_TOLERANCE_NS)
        self._now_ns: int | None = None
        self._stretches: deque[_Stretch] = deque()
        self._is_started = False
        self._begin()

    # --- what comes in

    def add_image(self, camera: str, stamp_ns: int, received_ns: int, frame: Any) -> None:
        """A frame as it came; raises ValueError for an unknown camera."""
        self._see_clock(received_ns)
        self._aligner.add_image(camera, stamp_ns, received_ns, frame)
        if not self._stretches:
            self._aligner.forget_before(received_ns - self._settle_ns - _SPARE_IDLE_NS)

    def add_joints(self, stamp_ns: int, received_ns: int, positions: Array) -> None:
        """Measured joint positions (J,) [rad]; raises ValueError for another number of joints."""
        self._see_clock(received_ns)
        self._aligner.add_sample(_JOINTS, stamp_ns, received_ns, self._labels.checked(positions, "joint positions"))

    def add_gripper(self, stamp_ns: int, received_ns: int, width_m: float) -> None:
        """The measured opening of the gripper."""
        self._see_clock(received_ns)
        self._aligner.add_sample(_GRIPPER, stamp_ns, received_ns, np.array([width_m]))

    def add_command(self, command: Command) -> None:
        """What was sent to the driver, with what was requested where it says so; ValueError: no command of this arm."""
        self._labels.add_command(command)

    def add_requested(self, target: Target) -> None:
        """What was asked for at the tick `target.time_ns`, before the limits; ValueError: not of this arm."""
        self._labels.add_requested(target.time_ns, target)

    def add_status(self, stamp_ns: int, mode: Mode, safety: SafetyState, interventions: int) -> None:
        """Who moves the arm from `stamp_ns` on, whether it may, and how often a limit has acted since it runs."""
        self._labels.add_status(stamp_ns, mode, safety, interventions)

    def add_chunk(self, observation_ns: int, received_ns: int) -> None:
        """A policy's chunk for what it observed at `observation_ns` arrived."""
        self._see_clock(received_ns)
        self._labels.add_chunk(observation_ns, received_ns)

    # --- an episode

    def start(self, now_ns: int) -> None:
        """Begin an episode: its first row is the first complete instant at or after `now_ns`."""
        self._stretches.clear()
        self._see_clock(now_ns)
        self._begin()
        self._labels.begin(now_ns)
        self._is_started = True
        self._stretches.append(_Stretch(now_ns))

    def pause(self, now_ns: int) -> None:
        """No rows for what comes after `now_ns`; those up to it still come as they settle (see `is_settling`)."""
        if self._stretches and self._stretches[-1].end_ns is None:
            self._stretches[-1].end_ns = now_ns

    def resume(self, now_ns: int) -> None:
        """Go on after a pause, from the first complete instant at or after `now_ns`."""
        if not self._is_started:
            raise RuntimeError("no episode is being recorded, so none can go on")
        if not self._stretches or self._stretches[-1].end_ns is not None:
            self._stretches.append(_Stretch(max(now_ns, self._last_ns + 1)))

    def stop(self, now_ns: int) -> list[Row]:
        """End the episode: its last rows, as far as they are settled at `now_ns`.

        To have those too that are not: pause, and take rows until nothing `is_settling`.
        """
        self.pause(now_ns)
        rows = self.rows(now_ns)
        self._stretches.clear()
        self._is_started = False
        return rows

    def rows(self, now_ns: int) -> list[Row]:
        """All rows that are settled and were not given yet, in order."""
        self._see_clock(now_ns)
        rows: list[Row] = []
        while self._stretches:
            stretch = self._stretches[0]
            if stretch.first_ns is None:
                self._find_first(stretch, now_ns)
            instant_ns = stretch.next_ns(self._config.fps)
            is_over = stretch.end_ns is not None and instant_ns > stretch.end_ns
            if stretch.first_ns is None and not is_over:
                is_over = stretch.end_ns is not None and self._is_settled(stretch.end_ns, now_ns)
                if not is_over:
                    break
            if is_over:
                self._stretches.popleft()
                continue
            if not self._is_settled(instant_ns, now_ns):
                break
            rows.append(self._row(instant_ns))
            stretch.rows += 1
        if self._stretches:
            self._aligner.forget_before(self._stretches[0].next_ns(self._config.fps))
        is_open = bool(self._stretches) and self._stretches[-1].end_ns is None
        if is_open and self._tally.rows:  # while paused nothing is late
            self._tally.lag_ms = ns_to_ms(now_ns - self._last_ns)
        return rows

    @property
    def is_settling(self) -> bool:
        """Whether rows from before a pause are still to come."""
        return any(stretch.end_ns is not None for stretch in self._stretches)

    @property
    def health(self) -> RowHealth:
        """How the episode is doing, or how the last one did."""
        return self._tally.health(self._config.fps)

    def reason(self, now_ns: int) -> str:
        """Why no row comes, or a source has nothing; empty when all is well."""
        return self._aligner.reason(now_ns) or self._failure

    def streams(self, now_ns: int) -> dict[str, StreamHealth]:
        """How every camera, the joints and the gripper are doing at `now_ns`."""
        return self._aligner.health(now_ns)

    # --- how a row comes to be

    def _begin(self) -> None:
        self._tally = Tally((*self._features.cameras, *PROPRIOCEPTION))
        self._failure = ""
        self._first_ns: int | None = None
        self._last_ns = 0
        self._last: _Seen | None = None
        self._jumps = self._aligner.clock_jumps
        self._frozen = {name: FrozenWatch(after_ms) for name, after_ms in self._frozen_after_ms.items()}

    def _see_clock(self, now_ns: int) -> None:
        """Notice a clock that jumped, with this reading."""
        ahead_ns = 0 if self._now_ns is None else now_ns - self._now_ns
        if self._clock.observe(now_ns):
            self._now_ns = now_ns
            self._labels.clear()
            self._abandon(f"the clock jumped back by {-ns_to_s(ahead_ns):.1f} s")
        elif ahead_ns > _LONGEST_SILENCE_NS:
            self._abandon(f"nothing came for {ns_to_s(ahead_ns):.1f} s, or the clock jumped ahead")
        self._now_ns = max(now_ns, self._now_ns or now_ns)

    def _abandon(self, why: str) -> None:
        """No more rows for this episode: there is no telling which instants they would be of."""
        if self._stretches:
            self._tally.reject(why)
            self._stretches.clear()

    def _is_settled(self, instant_ns: int, now_ns: int) -> bool:
        if now_ns >= instant_ns + self._settle_ns:
            return True
        if now_ns < instant_ns + _REORDERED_NS or not self._aligner.covers(instant_ns):
            return False
        return not self._labels.awaits_command(instant_ns, _SENDING_NS)

    def _find_first(self, stretch: _Stretch, now_ns: int) -> None:
        """Where the grid begins, as soon as it can be said."""
        for candidate_ns in self._aligner.candidates(stretch.from_ns):
            if (stretch.end_ns is not None and candidate_ns > stretch.end_ns) or not self._is_settled(
                candidate_ns, now_ns
            ):
                return
            missing = self._look(candidate_ns).missing
            self._failure = "; ".join(missing.values())
            if not missing:
                stretch.first_ns = candidate_ns
                return
            stretch.from_ns = candidate_ns + 1

    def _look(self, instant_ns: int) -> _Seen:
        seen = _Seen({}, {}, {})
        for camera, size in self._features.cameras.items():
            try:
                stamp_ns, frame = self._aligner.frame(camera, instant_ns)
                seen.images[camera] = stamp_ns, _of_size(camera, frame.image(), size)
            except ValueError as error:  # there is none, or it cannot be read
                seen.missing[camera] = str(error)
        for stream in PROPRIOCEPTION:
            try:
                seen.values[stream] = self._aligner.value(stream, instant_ns)
            except Misaligned as error:
                seen.missing[stream] = str(error)
        return seen

    def _row(self, instant_ns: int) -> Row:
        found = self._look(instant_ns)
        last = found if self._last is None else self._last
        seen = _Seen({**last.images, **found.images}, {**last.values, **found.values}, found.missing)
        if self._first_ns is None:
            self._first_ns = instant_ns
        self._judge(found, seen)
        self._last, self._last_ns = seen, instant_ns
        cameras = self._features.cameras
        stamps_ns = [seen.images[camera][0] for camera in cameras]
        joints, gripper = seen.values[_JOINTS], seen.values[_GRIPPER]
        label = self._labels.at(instant_ns, joints, float(gripper[0]))
        if label.unheard_ns > _UNHEARD_NS:
            self._tally.reject("the arm is led, but nothing comes of what is sent to it: is its topic heard?")
        followed = label.sent if self._config.action is ActionSource.SENT else label.requested
        values = {
            keys.STATE: np.concatenate([joints, gripper]),
            keys.ACTION: np.append(followed[: len(joints)], followed[-1]),
            keys.STAMP: np.array([ns_to_s(stamp_ns - self._first_ns) for stamp_ns in stamps_ns]),
            keys.SKEW: np.array([ns_to_s(max(stamps_ns) - min(stamps_ns)) if stamps_ns else 0.0]),
            keys.REPEATED: np.array([float(source in seen.missing) for source in (*cameras, *PROPRIOCEPTION)]),
            **label.columns(),
        }
        images = {camera: seen.images[camera][1] for camera in cameras}
        return Row(instant_ns, images, {feature.key: values[feature.key] for feature in self._features.columns})

    def _judge(self, found: _Seen, seen: _Seen) -> None:
        """Take this row into the episode's health."""
        fresh_ns = [stamp_ns for stamp_ns, _ in found.images.values()]
        self._tally.see_motion(seen.values[_JOINTS], float(seen.values[_GRIPPER][0]))
        self._tally.add(found.missing, max(fresh_ns) - min(fresh_ns) if fresh_ns else 0)
        if found.missing and self._config.gaps is GapRule.REJECT:
            self._tally.reject(f"row {self._tally.rows - 1}: {'; '.join(found.missing.values())}")
        for name, count in self._aligner.clock_jumps.items():
            if count > self._jumps[name]:
                self._tally.reject(f"{name}: its clock jumped back")
        for camera, (stamp_ns, image) in found.images.items():
            watch = self._frozen[camera]
            watch.see(stamp_ns, _Picture(image), seen.values[_JOINTS])
            if watch.reason:
                self._tally.reject(f"camera {camera}: {watch.reason}")


class _Picture:
    """An image that says whether it is the same as another; 0.1 ms where it is, for 640 x 480, and else at once."""

    __slots__ = ("_words",)

    def __init__(self, image: Image) -> None:
        flat = np.ascontiguousarray(image).reshape(-1)
        self._words = flat.view(np.uint64) if flat.size % 8 == 0 else flat

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Picture):
            return NotImplemented
        mine, others = self._words, other._words
        return np.array_equal(mine[:_FIRST_WORDS], others[:_FIRST_WORDS]) and np.array_equal(mine, others)

    __hash__ = None  # type: ignore[assignment]


def _of_size(camera: str, image: Image, size: tuple[int, int]) -> Image:
    if image.shape != (*size, 3) or image.dtype != np.uint8:
        got = f"{image.shape} {image.dtype}"
        raise ValueError(f"camera {camera}: what is recorded has shape {(*size, 3)} and type uint8, got {got}")
    return image
