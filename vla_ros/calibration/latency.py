"""How late a stream is against the motion it shows: cameras, joints, gripper; from series with stamps, to milliseconds.

What moves is the cause: a joint, or its command. What shows it later is the effect: the pixels of a camera, or the
measured joint. If stamps were when things happened, the effect would be a function of the cause at the same time: an
image shows where the arm was, the same on the way there and on the way back. So the delay is the shift at which a
smooth function of the cause explains most of the effect. That asks neither what the camera sees nor how the arm got
there, needs no speed of either, and is the same for a camera on the wall and one on the hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from vla_ros.timing.stamps import ms_to_ns, s_to_ns
from vla_ros.values import NANOSECONDS_PER_MILLISECOND, Array, Image

#: Delays that are looked for. The latest must be well below the time after which a motion repeats itself.
EARLIEST_MS, LATEST_MS = -100.0, 500.0
_COARSE_STEP_MS, _FINE_STEP_MS, _FINE_REACH_MS = 10.0, 1.0, 8.0
#: A part of the series is looked at near what the whole says.
_PART_REACH_MS = 60.0
_PARTS = 4
#: Degree of the smooth function: pixels at edges do not change in proportion, measured joints do.
_IMAGE_DEGREE, _JOINT_DEGREE = 3, 1
#: So much of an effect must be explained, or it is not one; and parts that differ by more do not show the same delay.
_LEAST_EXPLAINED = 0.6
_MOST_SPREAD_MS = 15.0
#: Fewest samples of an effect, for each part.
_FEWEST_SAMPLES = 10
#: As many as are of use of a joint that is measured a thousand times a second.
_ENOUGH = 1000
_LEAST_MOTION_RAD = 0.01
#: Nobody moves before he is told to; by so much the measurement, and stamps that jitter, can be wrong.
_MOST_EARLY_MS = 5.0
#: Pictures are compared at this width; and by so many patterns of change, the strongest.
_PICTURE_WIDTH = 32
_PATTERNS, _ITERATIONS = 5, 4
_TINY = 1e-12
#: The stretch of a gripper's travel where it surely runs, and the least that counts as having moved.
_RUNS_FROM, _RUNS_TO = 0.1, 0.9
_LEAST_TRAVEL_M = 0.005
_BEFORE_NS = s_to_ns(0.3)

#: Where a system's file has them.
ACTUATION_KEY = "controller.schedule.actuation_latency_ms"
GRIPPER_KEY = "controller.gripper.latency_ms"


class Unmeasurable(ValueError):
    """A delay that cannot be told from what was recorded; the text says why, and what to do about it."""


@dataclass(frozen=True, eq=False)
class Series:
    """What was sampled when: `stamps_ns` (N,) int64, rising; `values` (N, D) float64."""

    stamps_ns: NDArray[np.int64]
    values: Array

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.stamps_ns.shape != self.values.shape[:1]:
            raise ValueError(
                f"a series has stamps (N,) and values (N, D), got {self.stamps_ns.shape} and {self.values.shape}"
            )
        if (np.diff(self.stamps_ns) <= 0).any():
            raise ValueError("the stamps of a series rise")

    @classmethod
    def of(cls, samples: Sequence[tuple[int, Array]]) -> Series:
        """The series of (stamp_ns, values (D,)) in any order; of several with one stamp, the last."""
        rising = sorted(dict(samples).items())
        stamps = np.array([stamp for stamp, _ in rising], dtype=np.int64)
        return cls(stamps, np.stack([value for _, value in rising]) if rising else np.empty((0, 1)))

    def __len__(self) -> int:
        return len(self.stamps_ns)

    def column(self, index: int) -> Series:
        """One of the values."""
        return Series(self.stamps_ns, self.values[:, index : index + 1])

    def first(self, count: int) -> Series:
        """The first samples."""
        return Series(self.stamps_ns[:count], self.values[:count])

    def thinned(self, count: int) -> Series:
        """About so many samples, evenly, where there are more."""
        every = max(1, len(self) // count)
        return Series(self.stamps_ns[::every], self.values[::every])

    def between(self, from_ns: int, to_ns: int) -> Series:
        """The samples of a time."""
        inside = (self.stamps_ns >= from_ns) & (self.stamps_ns <= to_ns)
        return Series(self.stamps_ns[inside], self.values[inside])


@dataclass(frozen=True, eq=False)
class Recording:
    """What was seen while one joint swayed, and then while the gripper worked."""

    joint: int  # the one that swayed
    along: Array  # (J,) as `motion.along` gives: the others are shaken, and cameras see that too
    commands: Series  # of all joints (N, J) rad
    joints: Series  # measured (M, J) rad
    pictures: Mapping[str, Series]  # camera -> as `look` gives
    widths: Series  # of the gripper (K, 1) m
    goals_ns: tuple[int, ...] = ()  # when the gripper was sent each goal to shut; it stood open before

    @property
    def swayed(self) -> Series:
        """The joint that swayed (M, 1) rad, as measured."""
        return self.joints.column(self.joint)

    @property
    def hand(self) -> Series:
        """The hand's motion (M, 1), as so many radians of the joint that swayed."""
        return Series(self.joints.stamps_ns, (self.joints.values @ self.along)[:, None])


@dataclass(frozen=True)
class Delay:
    """A delay; `spread_ms`: standard deviation over parts of the record; `explained`: share of the effect."""

    delay_ms: float
    spread_ms: float
    explained: float = 1.0


def measure(recording: Recording) -> dict[str, Delay | Unmeasurable]:
    """Every latency by its key in a system's file, or why it cannot be told."""
    measured: dict[str, Delay | Unmeasurable] = {}
    for name, pictures in recording.pictures.items():
        measured[camera_key(name)] = _or_why(camera_latency, recording.hand, pictures)
    measured[ACTUATION_KEY] = _or_why(
        actuation_latency, recording.commands.column(recording.joint), recording.swayed.thinned(_ENOUGH)
    )
    if recording.goals_ns:
        measured[GRIPPER_KEY] = _or_why(gripper_latency, recording.goals_ns, recording.widths)
    return measured


def camera_key(name: str) -> str:
    """Where a system's file has the latency of a camera."""
    return f"cameras.{name}.latency_ms"


def _or_why(measuring: Callable[..., Delay], *given: object) -> Delay | Unmeasurable:
    try:
        return measuring(*given)
    except Unmeasurable as why:
        return why


def camera_latency(motion: Series, pictures: Series) -> Delay:
    """Stamp minus capture of a camera that sees the arm: `motion` (N, 1) rad as measured, `pictures` as `look` gives.

    Raises Unmeasurable, as the two below.
    """
    delay = _delay(motion, patterns(pictures), _IMAGE_DEGREE, "the camera")
    if delay is None:
        raise Unmeasurable(
            "it saw no motion that goes with the arm's: does it look at the arm, is it sharp and light enough there, "
            "does something else move?"
        )
    return delay


def actuation_latency(command: Series, joint: Series) -> Delay:
    """By how much a measured joint (N, 1) follows its command (M, 1) rad."""
    delay = _delay(command, Series(joint.stamps_ns, joint.values - joint.values.mean()), _JOINT_DEGREE, "the joint")
    if delay is None:
        raise Unmeasurable("the measured joint does not follow its command: is the driver's controller running?")
    return _after(delay, "the joint")


def onset_ms(sent_ns: int, widths: Series) -> float:
    """From sending a goal until the fingers move: where the line of their even run meets the width before (N, 1) m."""
    width = widths.values[:, 0]
    before = width[widths.stamps_ns <= sent_ns]
    if not len(before):
        raise Unmeasurable("the gripper said nothing before its goal")
    start = float(np.median(before))
    furthest = int(np.argmax(np.abs(width - start)))  # what comes after is another goal's
    widths, width = widths.first(furthest + 1), width[: furthest + 1]
    travel = float(width[-1]) - start
    if abs(travel) < _LEAST_TRAVEL_M:
        raise Unmeasurable(f"the gripper did not move (from {1000 * start:.1f} mm by {1000 * travel:.1f} mm)")
    share = (width - start) / travel
    runs = (share > _RUNS_FROM) & (share < _RUNS_TO) & (widths.stamps_ns > sent_ns)
    if runs.sum() < 2:
        raise Unmeasurable(f"only {runs.sum()} samples while the gripper moved: it moves too fast for its state's rate")
    time_ms = (widths.stamps_ns[runs] - sent_ns) / NANOSECONDS_PER_MILLISECOND
    slope, at_sending = np.polyfit(time_ms, share[runs], 1)
    return float(-at_sending / slope)


def gripper_latency(goals_ns: Sequence[int], widths: Series) -> Delay:
    """From sending a goal until the fingers move: the mean of several goals; `widths` (N, 1) m of all of them."""
    ends_ns = [*goals_ns[1:], int(widths.stamps_ns[-1]) if len(widths) else 0]
    spans = zip(goals_ns, ends_ns, strict=True)
    onsets_ms = [onset_ms(sent_ns, widths.between(sent_ns - _BEFORE_NS, end_ns)) for sent_ns, end_ns in spans]
    return _after(Delay(float(np.mean(onsets_ms)), float(np.std(onsets_ms))), "the gripper")


def _after(delay: Delay, who: str) -> Delay:
    """The delay, but none below 0, which a system's file does not take."""
    if delay.delay_ms < -_MOST_EARLY_MS:
        raise Unmeasurable(
            f"{who} moved {-delay.delay_ms:.0f} ms before it was told to: do the clocks of the driver's machine and of "
            "this one agree? vla-ros doctor tells"
        )
    return replace(delay, delay_ms=max(0.0, delay.delay_ms))


def look(picture: Image) -> Array:
    """What is compared of a picture (H, W, 3): small, grey, flat (D,), without its brightness and contrast.

    Automatic exposure follows what is seen, late, and would be taken for motion.
    """
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    width = min(_PICTURE_WIDTH, grey.shape[1])
    small = cv2.resize(
        grey, (width, max(1, round(width * grey.shape[0] / grey.shape[1]))), interpolation=cv2.INTER_AREA
    )
    flat = small.astype(np.float64).ravel()
    flat -= flat.mean()
    return np.asarray(flat / max(float(flat.std()), _TINY))


def patterns(pictures: Series) -> Series:
    """How strongly each picture shows each of the few strongest patterns of change, strongest first (N, K)."""
    if len(pictures) < 2:
        return Series(pictures.stamps_ns, np.zeros((len(pictures), 1)))
    changes = pictures.values - pictures.values.mean(axis=0)
    # By subspace iteration: a full decomposition of some hundred pictures takes longer than all the rest.
    directions = np.random.default_rng(0).standard_normal((changes.shape[1], 2 * _PATTERNS))
    for _ in range(_ITERATIONS):
        directions, _ = np.linalg.qr(changes.T @ (changes @ directions))
    vectors, strengths, _ = np.linalg.svd(changes @ directions, full_matrices=False)
    return Series(pictures.stamps_ns, (vectors * strengths)[:, :_PATTERNS])


def _delay(cause: Series, effect: Series, degree: int, who: str) -> Delay | None:
    """The shift at which a polynomial of the cause (N, 1) explains most of the effect (M, K); None where little of it.

    Columns of the effect that no shift explains are left out: they show something else.
    """
    if len(cause) < _FEWEST_SAMPLES or np.ptp(cause.values) < _LEAST_MOTION_RAD:
        raise Unmeasurable("the arm did not move: see what the controller says")
    reach = (cause.stamps_ns[0] + ms_to_ns(LATEST_MS), cause.stamps_ns[-1] + ms_to_ns(EARLIEST_MS))
    effect = effect.between(*reach)
    if len(effect) < _PARTS * _FEWEST_SAMPLES:
        raise Unmeasurable(f"{who} gave only {len(effect)} samples while the arm moved")
    coarse_ms = np.arange(EARLIEST_MS, LATEST_MS + _COARSE_STEP_MS / 2, _COARSE_STEP_MS)
    energy = (effect.values**2).sum(axis=0)
    explained = np.array([_explained(cause, effect, degree, shift_ms) for shift_ms in coarse_ms])
    shows = explained.max(axis=0) > _LEAST_EXPLAINED * np.maximum(energy, _TINY)
    if not shows.any():
        return None
    effect, total = Series(effect.stamps_ns, effect.values[:, shows]), float(energy[shows].sum())
    nearest_ms = float(coarse_ms[np.argmax(explained[:, shows].sum(axis=1))])
    if nearest_ms in (coarse_ms[0], coarse_ms[-1]):
        raise Unmeasurable(f"{who} is later than {LATEST_MS:.0f} ms or earlier than {EARLIEST_MS:.0f} ms")
    delay_ms = _peak(cause, effect, degree, nearest_ms)
    parts_ms = []
    for part in np.array_split(np.arange(len(effect)), _PARTS):
        shown = Series(effect.stamps_ns[part], effect.values[part] - effect.values[part].mean(axis=0))
        near_ms = np.arange(delay_ms - _PART_REACH_MS, delay_ms + _PART_REACH_MS, _COARSE_STEP_MS)
        best = np.argmax([_explained(cause, shown, degree, shift_ms).sum() for shift_ms in near_ms])
        parts_ms.append(_peak(cause, shown, degree, float(near_ms[best])))
    spread_ms = float(np.std(parts_ms))
    if spread_ms > _MOST_SPREAD_MS:
        said = ", ".join(f"{part_ms:.0f}" for part_ms in parts_ms)
        raise Unmeasurable(f"{who}'s delay is not steady: parts of the record say {said} ms")
    return Delay(delay_ms, spread_ms, float(_explained(cause, effect, degree, delay_ms).sum() / total))


def _explained(cause: Series, effect: Series, degree: int, shift_ms: float) -> Array:
    """Sums of squares (K,) of the effect that a polynomial of the cause explains, were the effect so much later."""
    origin_ns = cause.stamps_ns[0]  # seconds since 1970 would lose nanoseconds as floats
    then = np.interp(
        (effect.stamps_ns - origin_ns - ms_to_ns(shift_ms)).astype(np.float64),
        (cause.stamps_ns - origin_ns).astype(np.float64),
        cause.values[:, 0],
    )
    middle, half = 0.5 * (then.max() + then.min()), max(0.5 * np.ptp(then), _TINY)
    basis, _ = np.linalg.qr(np.polynomial.chebyshev.chebvander((then - middle) / half, degree))
    return np.asarray(((basis.T @ effect.values) ** 2).sum(axis=0))


def _peak(cause: Series, effect: Series, degree: int, near_ms: float) -> float:
    """Where most is explained, between the grid's points: the vertex of a parabola through the points around."""
    offsets_ms = np.arange(-_FINE_REACH_MS, _FINE_REACH_MS + _FINE_STEP_MS / 2, _FINE_STEP_MS)
    explained = [_explained(cause, effect, degree, near_ms + offset_ms).sum() for offset_ms in offsets_ms]
    curvature, slope, _ = np.polyfit(offsets_ms, explained, 2)
    if curvature >= 0.0:
        return near_ms
    return near_ms + float(np.clip(-slope / (2.0 * curvature), -_FINE_REACH_MS, _FINE_REACH_MS))
