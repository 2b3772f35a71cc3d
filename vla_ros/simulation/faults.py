"""Faults that a simulated world is made to have: which there are, when, and what they do to a stream of messages.

    simulation:
      faults:
        stall: {kind: camera_stall, camera: front, at_s: 3.0, for_s: 1.0}

Times are simulated and count from the last reset of the world, from its beginning before the first. What is random is
drawn from generators that are seeded with the stream's name: the same faults do the same again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import Enum
from random import Random
from typing import Generic, TypeVar

from pydantic import Field, model_validator

from vla_ros.timing.stamps import ms_to_ns, s_to_ns
from vla_ros.values import Config

Item = TypeVar("Item")

#: The source of a stream of joint states; a camera's is its name.
JOINTS = ""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


class FaultKind(str, Enum):
    """What can go wrong."""

    CAMERA_STALL = "camera_stall"  # frames are not delivered
    FROZEN_IMAGE = "frozen_image"  # the same picture again and again, with fresh stamps, as from a driver that hangs
    LATE_STAMPS = "late_stamps"  # stamps are wrong by shift_ms; of a camera, or of the joint states where none is given
    REORDERED_STAMPS = "reordered_stamps"  # now and then the next message comes first; of the same
    JOINT_DROPOUT = "joint_dropout"  # joint states are not published
    REFLEX = "reflex"  # the arm stops by itself, until it is recovered
    GRIPPER_REFUSAL = "gripper_refusal"  # goals are refused, and one under way is aborted
    CLOCK_JUMP = "clock_jump"  # /clock and every stamp jump by shift_s, forward or back, and stay there
    MESSAGE_LOSS = "message_loss"  # every topic loses the share `probability` of its messages, as by a bad network


_NEEDS: dict[FaultKind, frozenset[str]] = {
    FaultKind.CAMERA_STALL: frozenset({"for_s", "camera"}),
    FaultKind.FROZEN_IMAGE: frozenset({"for_s", "camera"}),
    FaultKind.LATE_STAMPS: frozenset({"for_s", "shift_ms"}),
    FaultKind.REORDERED_STAMPS: frozenset({"for_s"}),
    FaultKind.JOINT_DROPOUT: frozenset({"for_s"}),
    FaultKind.REFLEX: frozenset(),
    FaultKind.GRIPPER_REFUSAL: frozenset({"for_s"}),
    FaultKind.CLOCK_JUMP: frozenset({"shift_s"}),
    FaultKind.MESSAGE_LOSS: frozenset({"for_s", "probability"}),
}
_MAY_HAVE: dict[FaultKind, frozenset[str]] = {
    FaultKind.LATE_STAMPS: frozenset({"camera"}),
    FaultKind.REORDERED_STAMPS: frozenset({"camera"}),
}


class FaultConfig(Config):
    """One fault: from `at_s` on, for `for_s`. Which of the other fields it takes depends on its kind."""

    kind: FaultKind
    at_s: float = Field(ge=0.0)
    for_s: float | None = Field(default=None, gt=0.0)
    camera: str = ""
    shift_ms: float | None = None  # added to stamps: later than now above 0, old below
    shift_s: float | None = None
    probability: float | None = Field(default=None, gt=0.0, le=1.0)

    @model_validator(mode="after")
    def _has_the_fields_of_its_kind(self) -> FaultConfig:
        optional = set(type(self).model_fields) - {"kind", "at_s"}
        given = {name for name in optional if getattr(self, name) not in (None, "", 0.0)}
        needs = _NEEDS[self.kind]
        takes = needs | _MAY_HAVE.get(self.kind, frozenset())
        if lacking := sorted(needs - given):
            raise ValueError(f"{self.kind.value} needs {' and '.join(lacking)} (given {_listed(given)})")
        if beyond := sorted(given - takes):
            raise ValueError(
                f"{self.kind.value} takes no {' or '.join(beyond)}; besides at_s it takes {_listed(takes)}"
            )
        if self.shift_s is not None and self.at_s + self.shift_s < 0.0:
            raise ValueError(f"a clock cannot jump back to before 0 (given {self.shift_s:g} s at {self.at_s:g} s)")
        return self


def check(faults: Mapping[str, FaultConfig], cameras: Iterable[str]) -> None:
    """Raise ValueError where faults are badly named, concern a camera that is not among `cameras`, or jump below 0."""
    for name, fault in faults.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"no valid name of a fault (given {name!r}); should be lower case letters, digits and _")
        if fault.camera and fault.camera not in cameras:
            raise ValueError(f"{name}: no camera {fault.camera!r}; should be of {_listed(cameras)}")
    shifted_s = 0.0
    for jump in sorted(_of(faults, FaultKind.CLOCK_JUMP), key=lambda jump: jump.at_s):
        shifted_s += jump.shift_s or 0.0
        if jump.at_s + shifted_s < 0.0:
            raise ValueError(f"a clock cannot jump back to before 0 (the jump at {jump.at_s:g} s, with those before)")


class Faults:
    """What is wrong with one world at a simulated time."""

    def __init__(self, configs: Mapping[str, FaultConfig]) -> None:
        self._configs = tuple(configs.values())
        self._jumps = tuple(
            (s_to_ns(jump.at_s), s_to_ns(jump.shift_s or 0.0)) for jump in _of(configs, FaultKind.CLOCK_JUMP)
        )
        self._reflexes_ns = tuple(s_to_ns(reflex.at_s) for reflex in _of(configs, FaultKind.REFLEX))
        self._start_ns = 0
        self._shift_before_ns = 0  # of the jumps before the last reset: a reset does not mend a clock

    def reset(self, time_ns: int) -> None:
        """The world begins a new episode at `time_ns`."""
        self._shift_before_ns = self.clock_shift_ns(time_ns)
        self._start_ns = time_ns

    def is_active(self, fault: FaultConfig, time_ns: int) -> bool:
        """Whether `fault`, one that lasts, does."""
        since_ns = time_ns - self._start_ns - s_to_ns(fault.at_s)
        return 0 <= since_ns < s_to_ns(fault.for_s or 0.0)

    def has(self, kind: FaultKind, time_ns: int) -> bool:
        """Whether any fault of a kind that lasts is active."""
        return any(fault.kind is kind and self.is_active(fault, time_ns) for fault in self._configs)

    def trips(self, from_ns: int, to_ns: int) -> bool:
        """Whether a reflex is due from `from_ns` on, before `to_ns`."""
        return any(from_ns <= self._start_ns + at_ns < to_ns for at_ns in self._reflexes_ns)

    def clock_shift_ns(self, time_ns: int) -> int:
        """How far /clock, and what is stamped, is beside the world's time."""
        if not self._jumps:
            return 0
        elapsed_ns = time_ns - self._start_ns
        return self._shift_before_ns + sum(shift_ns for at_ns, shift_ns in self._jumps if at_ns <= elapsed_ns)

    def stream(self, name: str, source: str | None = None) -> Stream[Item]:
        """What they do to one stream of messages; `source`: the camera that it comes from, JOINTS, None for others."""
        concern = [
            fault
            for fault in self._configs
            if fault.kind is FaultKind.MESSAGE_LOSS or (fault.kind in _DELIVER and fault.camera == source)
        ]
        return Stream(self, concern, Random(name))


class Stream(Generic[Item]):
    """One stream of messages on its way through the faults that concern it; called by one thread."""

    def __init__(self, faults: Faults, concern: Iterable[FaultConfig], random: Random) -> None:
        self._faults = faults
        self._concern = tuple(concern)
        self._random = random
        self._last: Item | None = None  # delivered last, which a frozen source repeats
        self._held: tuple[int, Item] | None = None  # waits until the next one has overtaken it

    def deliver(self, time_ns: int, item: Item) -> list[tuple[int, Item]]:
        """What arrives when `item` is sent at `time_ns`: stamps and items in the order of their arrival."""
        stamp_ns = time_ns + self._faults.clock_shift_ns(time_ns)
        if not self._concern:
            return [(stamp_ns, item)]
        active = {fault.kind: fault for fault in self._concern if self._faults.is_active(fault, time_ns)}
        if FaultKind.CAMERA_STALL in active or FaultKind.JOINT_DROPOUT in active:
            return []
        if FaultKind.FROZEN_IMAGE in active and self._last is not None:
            item = self._last
        self._last = item
        if FaultKind.LATE_STAMPS in active:
            stamp_ns += ms_to_ns(active[FaultKind.LATE_STAMPS].shift_ms or 0.0)
        arriving = self._reordered((stamp_ns, item), FaultKind.REORDERED_STAMPS in active)
        if FaultKind.MESSAGE_LOSS in active:
            share = active[FaultKind.MESSAGE_LOSS].probability or 0.0
            arriving = [message for message in arriving if self._random.random() >= share]
        return arriving

    def _reordered(self, message: tuple[int, Item], shuffling: bool) -> list[tuple[int, Item]]:
        held, self._held = self._held, None
        if held is not None:
            return [message, held]
        if shuffling and self._random.random() < 0.5:
            self._held = message
            return []
        return [message]


#: Kinds that act on what one source sends.
_DELIVER = frozenset(
    {
        FaultKind.CAMERA_STALL,
        FaultKind.FROZEN_IMAGE,
        FaultKind.LATE_STAMPS,
        FaultKind.REORDERED_STAMPS,
        FaultKind.JOINT_DROPOUT,
    }
)


def _of(faults: Mapping[str, FaultConfig], kind: FaultKind) -> list[FaultConfig]:
    return [fault for fault in faults.values() if fault.kind is kind]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
