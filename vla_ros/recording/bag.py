"""rosbag2 → LeRobot: a bag's messages through the same intake, assembler and session as those of a live recording.

bag_to_dataset(bag, destination, robot, cameras, recording, *, task="", split=Split.AUTO, save_anyway=False,
resume=False, on_progress=None, on_notice=None) -> list[SavedEpisode]
"""

from __future__ import annotations

import heapq
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vla_ros import messages, topics
from vla_ros.messages import Message
from vla_ros.recording import features
from vla_ros.recording.assembling.intake import COMPRESSED_IMAGE, IMAGE, Intake, image_type
from vla_ros.recording.assembling.rows import RowAssembler
from vla_ros.recording.bag_files import Bag, BagError
from vla_ros.recording.config import RecordingConfig
from vla_ros.recording.lerobot_v3 import DatasetWriter, EpisodeDetails, SavedEpisode
from vla_ros.recording.session import DECISION, EpisodeState, Refused, Session, seed_in
from vla_ros.recording.upkeep.findings import Progress
from vla_ros.robots.robot import Robot
from vla_ros.timing.stamps import ms_to_ns, ns_to_ms, ns_to_s, s_to_ns
from vla_ros.timing.sync import CameraTiming, StreamHealth
from vla_ros.timing.track import Drop
from vla_ros.values import Mode

_STRING = topics.TABLE[topics.INSTRUCTION][0]
_CLOCK = {"/clock": "rosgraph_msgs/msg/Clock"}
#: No camera is so late: what differs more goes by another clock.
_OTHER_CLOCK_NS = s_to_ns(30.0)
#: How often rows are asked for, as a live recording does.
_PERIOD_NS = ms_to_ns(20.0)
_END_NS = s_to_ns(2.0)  # before the others: a topic that ended so early is missing from then on
_AHEAD_NS = ms_to_ns(100.0)  # a stamp may be so much later than its receipt
#: What receipt minus stamp usually is: below, the stamps' clock is ahead (/clock is read in steps); above, behind.
_USUAL_NS = ms_to_ns(-20.0), ms_to_ns(50.0)
_USUAL_IMAGE_NS = ms_to_ns(-20.0), ms_to_ns(100.0)  # which takes time to be read out, encoded and sent
_EARLY_NS = s_to_ns(1.0)  # what was received first was taken before that
_LONGEST_SETTLING_NS = s_to_ns(6.0)  # more than `settle_ms` may be

#: Why a message is not used, by `Drop`; one that comes twice is no loss, nor one of more than are kept.
_WHY = {
    Drop.ZERO.value: "they have no stamp (it is 0)",
    Drop.FUTURE.value: "their stamps are later than their reception, so they come from another clock",
    Drop.LATE.value: "they arrived too late",
    Drop.INVALID.value: "their values are not finite, or cannot be read",
}

Stamped = tuple[str, int, Message]  # topic, when it was received [ns], message
Words = list[tuple[int, str]]  # when it was said [ns], one of topics.RECORDER_WORDS


class Split(str, Enum):
    """What begins and ends an episode."""

    AUTO = "auto"  # the first of these that the bag tells anything of
    RECORDER = "recorder"  # what a recorder was told while the bag was written
    MODE = "mode"  # the controller follows a policy or a person, until it holds again
    WHOLE = "whole"  # the bag


class CameraTopic(Protocol):
    """A camera: the topic of its images, and its timing as in `CameraTiming`."""

    @property
    def topic(self) -> str:
        """Of Image or CompressedImage."""

    @property
    def rate_hz(self) -> float:
        """As `CameraTiming`."""

    @property
    def latency_ms(self) -> float:
        """As `CameraTiming`."""

    @property
    def tolerance_ms(self) -> float:
        """As `CameraTiming`."""

    @property
    def frozen_after_ms(self) -> float:
        """As `CameraTiming`."""


def bag_to_dataset(
    bag: Path,
    destination: Path,
    robot: Robot,
    cameras: Mapping[str, CameraTopic],
    recording: RecordingConfig,
    *,
    task: str = "",
    split: Split = Split.AUTO,
    save_anyway: bool = False,
    resume: bool = False,
    on_progress: Progress | None = None,
    on_notice: Callable[[str], None] | None = None,
) -> list[SavedEpisode]:
    """Write the episodes of `bag` to the LeRobot v3.0 dataset `destination`; what was saved, in order.

    `task`: what they are about; "" = what the bag's /vla/instruction says. An episode beyond the health limits is left
    out, unless `save_anyway`. `resume`: add to a dataset that is there. `on_progress(what, done, total)` counts
    messages; `on_notice` gets, in words, what was left out or not as it should be.

    Raises:
        BagError: the bag cannot be read, lacks a topic or a task, or no episode of it could be saved.
        DatasetError: the dataset cannot be written.
    """
    notice = on_notice or (lambda _: None)
    with Bag(bag) as opened:
        stream = _Stream(opened, ms_to_ns(recording.settle_ms))
        image_topics = {name: camera.topic for name, camera in cameras.items()}
        sizes = {name: stream.image_size(name, topic) for name, topic in image_topics.items()}
        described = features.of_robot(robot, sizes, recording.fps)
        timings = {name: _timing(camera) for name, camera in cameras.items()}
        assembler = RowAssembler(robot, described, timings, recording, decode=messages.image_to_rgb)
        image_types = {topic: stream.image_type(topic) for topic in image_topics.values()}
        intake = Intake(assembler, robot, image_topics, image_types)
        sources = {
            **image_topics,
            "joints": robot.endpoints["joint_states"].name,
            "gripper": robot.endpoints["gripper_joint_states"].name,
        }
        stream.require(intake.types, dict.fromkeys(sources.values()))
        words = _words(stream, split)
        with closing(_Keeper(destination, described, recording, system={"bag": bag.name}, resume=resume)) as writer:
            session = Session(assembler, writer, recording, reason=lambda _: "", source=f"bag {bag.name}")
            session.task = task or stream.first_instruction()
            told = _Told(session, words, save_anyway, stream)
            heard = intake.types | dict.fromkeys(
                (topics.INSTRUCTION, topics.RECORDER_CONTROL, topics.RECORDER_NOTES), _STRING
            )
            total = sum(opened.counts[topic] for topic in heard)
            for count, (topic, now_ns, message) in enumerate(stream.messages(heard)):
                told.advance(now_ns)
                if topic in intake.types:
                    intake.take(topic, message, now_ns)
                elif topic != topics.INSTRUCTION or not task:
                    _hear(session, topic, str(message.data))
                if on_progress is not None:
                    on_progress("messages", count + 1, total)
            told.end()
        told.notices += _unused(assembler.streams(stream.last_ns), sources)
        for topic, unreadable in intake.unreadable.items():
            told.notices.append(f"{unreadable.count} messages of {topic} could not be read: {unreadable.reason}")
        for topic, count in opened.undecoded.items():
            told.notices.append(f"{count} messages of {topic} are not what their type says")
        for text in (*opened.notices, *stream.notices, *told.notices, *writer.notices):
            notice(text)
    if not writer.saved:
        raise BagError(f"no episode of {bag} was saved: {'; '.join(told.notices) or 'it tells of none'}")
    return writer.saved


@dataclass
class _Arrivals:
    """How a topic's messages came in, by the bag's clock: receipt minus stamp."""

    late_ns: array[int] = field(default_factory=lambda: array("q"))
    unstamped: int = 0
    first_ns: int = 0  # when the first was received, or captured, where they are ordered by stamps
    last_ns: int = 0

    @property
    def usual_ns(self) -> int:
        """The median."""
        return int(np.median(self.late_ns))


class _Stream:
    """A bag's messages by the clock that their stamps are of: that of receipt, or the bag's own /clock.

    Messages that were written long after their stamps (a slow disk, a bag that was merged) come by their stamps:
    nothing has to be waited for.
    """

    def __init__(self, bag: Bag, settle_ns: int) -> None:
        self._bag = bag
        self._settle_ns = settle_ns
        self._late: dict[str, str] = {}  # topic -> type of those that come by their stamps
        self.notices: list[str] = []
        self.first_ns, self.last_ns = bag.span_ns
        self._by_clock, self._clock_ns = False, 0  # what /clock says first
        clock = next(bag.messages(_CLOCK), None)
        if clock is not None:
            _, received_ns, message = clock
            self._clock_ns = messages.stamp_to_ns(message.clock)
            self._by_clock = abs(received_ns - self._clock_ns) > _OTHER_CLOCK_NS

    def messages(self, wanted: Mapping[str, str]) -> Iterator[Stamped]:
        """Messages of `wanted`, topic -> type, at the time that it was then, or that they are of."""
        prompt = {topic: kind for topic, kind in wanted.items() if topic not in self._late}
        parts = [self._prompt(prompt)]
        parts += [self._by_stamp(topic, wanted[topic]) for topic in self._late if topic in wanted]
        return heapq.merge(*parts, key=lambda stamped: stamped[1])

    def _prompt(self, wanted: Mapping[str, str]) -> Iterator[Stamped]:
        if not self._by_clock:
            yield from self._bag.messages(wanted)
            return
        now_ns = self._clock_ns
        for topic, _, message in self._bag.messages({**wanted, **_CLOCK}):
            if topic in _CLOCK:
                now_ns = messages.stamp_to_ns(message.clock)
            else:
                yield topic, now_ns, message

    def _by_stamp(self, topic: str, kind: str) -> Iterator[Stamped]:
        """The messages of one topic at their stamps, in order but for those that are far out of it."""
        now_ns = 0
        for _, _, message in self._bag.messages({topic: kind}, apart=True):
            now_ns = max(now_ns, messages.stamp_to_ns(message.header.stamp))
            yield topic, now_ns, message

    def image_type(self, topic: str) -> str:
        """What the bag has on a topic of images; as the name says, where that is none."""
        there = self._bag.types.get(topic, "")
        return there if there in (IMAGE, COMPRESSED_IMAGE) else image_type(topic)

    def image_size(self, camera: str, topic: str) -> tuple[int, int]:
        """Height and width of the first image that can be read; raises BagError where there is none."""
        kind = self.image_type(topic)
        self._require(topic, kind, f"camera {camera}")
        reason = "none can be decoded"
        for _, _, message in self._bag.messages({topic: kind}):
            try:
                height, width = messages.image_to_rgb(message).shape[:2]
            except ValueError as error:
                reason = str(error)
                continue
            return height, width
        raise BagError(f"no image of {topic} (camera {camera}) can be read: {reason}")

    def first_instruction(self) -> str:
        """What was asked for first; a bag may hear it a moment after the arm has begun."""
        said = next(self.messages({topics.INSTRUCTION: _STRING}), None)
        return "" if said is None else str(said[2].data)

    def require(self, types: Mapping[str, str], needed: Iterable[str]) -> None:
        """Raises BagError where a topic that is `needed` is not there as its type; what else is not there is noted.

        From here on `first_ns` is when the last of those needed began, `last_ns` when the first of them ended.
        """
        for topic, type_name in types.items():
            if topic in needed:
                self._require(topic, type_name, "needed for every row")
            elif self._bag.types.get(topic) not in (None, type_name):
                count, other = self._bag.counts[topic], self._bag.types[topic]
                self.notices.append(f"{count} messages of {topic} are left out: {other}, should be {type_name}")
            elif not self._bag.counts[topic]:
                self.notices.append(f"the bag has nothing of {topic}")
        stamped = {topic: types[topic] for topic in (*needed, topics.COMMAND, topics.REQUESTED)}
        arrivals = self._arrivals(stamped)
        for topic, found in arrivals.items():
            self._judge(topic, found, stamped[topic])
        first_ns = [arrivals[topic].first_ns for topic in needed]
        last_ns = [arrivals[topic].last_ns for topic in needed]
        self.first_ns = max(first_ns, default=self.first_ns)
        # A topic that ended long before the others is one that is missing from then on.
        self.last_ns = min((end_ns for end_ns in last_ns if end_ns > max(last_ns) - _END_NS), default=self.last_ns)

    def _arrivals(self, stamped: Mapping[str, str]) -> dict[str, _Arrivals]:
        """How the messages of these topics (topic -> type) came in; all are looked at."""
        found: dict[str, _Arrivals] = {}
        now_ns = self._clock_ns
        for topic, received_ns, stamp_ns in self._bag.stamps({**stamped, **(_CLOCK if self._by_clock else {})}):
            if topic in _CLOCK:
                now_ns = stamp_ns  # which is all that it says
                continue
            if not self._by_clock:
                now_ns = received_ns
            arrivals = found.setdefault(topic, _Arrivals(first_ns=now_ns))
            arrivals.last_ns = now_ns
            if stamp_ns <= 0:
                arrivals.unstamped += 1
            else:
                arrivals.late_ns.append(now_ns - stamp_ns)
        return found

    def _judge(self, topic: str, found: _Arrivals, type_name: str) -> None:
        """Raise BagError for stamps that say nothing; have messages that came late come by their stamps."""
        if not found.late_ns:
            raise BagError(
                f"none of the {found.unstamped} messages of {topic} has a stamp (all are 0), so their capture "
                "times are unknown; have its driver set header.stamp, and record again"
            )
        if found.unstamped:
            self.notices.append(f"{found.unstamped} messages of {topic} have no stamp (it is 0), and are left out")
        usual_s, most_s = ns_to_s(found.usual_ns), ns_to_s(max(found.late_ns))
        if not -_AHEAD_NS <= found.usual_ns <= _OTHER_CLOCK_NS:
            apart = f"{abs(usual_s):.{0 if abs(usual_s) >= 10 else 1}f} s {'after' if usual_s > 0 else 'before'}"
            raise BagError(
                f"messages of {topic} were received {apart} their stamps, which come from another clock; in simulated "
                "time record with --use-sim-time, or record /clock too; otherwise synchronise the clocks of both "
                "computers (chrony, PTP)"
            )
        if 2 * max(found.late_ns) > self._settle_ns:
            self._late[topic] = type_name
            found.first_ns -= found.late_ns[0]
            found.last_ns -= found.late_ns[-1]
            self.notices.append(
                f"messages of {topic} were received up to {most_s:.2f} s after their stamps ({usual_s:.2f} s usually), "
                "and are taken in the order of their stamps; if they come from another clock, they do not match the "
                "other topics"
            )
            return
        least_ns, most_ns = _USUAL_IMAGE_NS if type_name in (IMAGE, COMPRESSED_IMAGE) else _USUAL_NS
        if not least_ns <= found.usual_ns <= most_ns:
            self.notices.append(
                f"messages of {topic} were received {ns_to_ms(abs(found.usual_ns)):.0f} ms "
                f"{'after' if usual_s > 0 else 'before'} their stamps (median; {ns_to_ms(least_ns):.0f} to "
                f"{ns_to_ms(most_ns):.0f} ms is usual); if they come from another clock, this topic is off by as much "
                "in every row: synchronise the clocks of both computers (chrony, PTP), and record again"
            )

    def _require(self, topic: str, type_name: str, what: str) -> None:
        there = self._bag.types.get(topic)
        if there not in (None, type_name):
            raise BagError(f"{topic} ({what}) is {there} in the bag, should be {type_name}")
        if not self._bag.counts[topic]:
            known = ", ".join(f"{name} ({self._bag.types[name]})" for name in sorted(self._bag.types)) or "none"
            raise BagError(f"the bag has no messages of {topic} ({what}); its topics: {known}")


class _Keeper(DatasetWriter):
    """Remembers what it has saved."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.saved: list[SavedEpisode] = []
        self._dropped: SavedEpisode | None = None

    def save(self, details: EpisodeDetails) -> SavedEpisode:
        """As the writer."""
        self.saved.append(super().save(details))
        return self.saved[-1]

    def drop_last(self) -> int:
        """As the writer."""
        self._dropped = self.saved.pop()
        return super().drop_last()

    def discard(self, is_repeated: bool = False) -> None:
        """As the writer, which puts back what was dropped."""
        before = self.episodes
        super().discard(is_repeated)
        if self.episodes > before and self._dropped is not None:
            self.saved.append(self._dropped)


class _Told:
    """Tells a session its words at their times; what is not saved, and why, is in `notices`."""

    def __init__(self, session: Session, words: Words, save_anyway: bool, stream: _Stream) -> None:
        self._session = session
        self._words = deque(words)
        self._save = "save_anyway" if save_anyway else "save"
        self._first_ns, self._last_ns = stream.first_ns, stream.last_ns
        self._next_ns = self._first_ns
        self._refusal = ""
        self.notices: list[str] = []

    def advance(self, now_ns: int) -> None:
        """It is `now_ns`, and what was received before has been taken in."""
        while self._words and self._words[0][0] <= now_ns and self._session.state is not EpisodeState.SAVING:
            self._say(*self._words.popleft())
        if not 0 <= self._next_ns - now_ns <= _PERIOD_NS:
            self._session.advance(now_ns)
            self._next_ns = now_ns + _PERIOD_NS

    def end(self) -> None:
        """Nothing more comes: what is open ends here."""
        now_ns = self._last_ns
        while self._words:
            now_ns, word = self._words.popleft()
            self._say(now_ns, word)
            self._settle(now_ns)
        if self._session.state in (EpisodeState.RECORDING, EpisodeState.PAUSED):
            self.notices.append("the bag ends within an episode")
            self._say(now_ns, "save")
        self._settle(now_ns)
        self._leave_out(now_ns)

    def _settle(self, now_ns: int) -> None:
        if self._session.state is EpisodeState.SAVING:
            self._session.advance(now_ns + _LONGEST_SETTLING_NS)

    def _say(self, time_ns: int, word: str) -> None:
        self._session.advance(time_ns)
        if word == "start":
            self._leave_out(time_ns)
        word = self._save if word == "save" else word
        self._session.obey(word, time_ns, lambda is_done, said: self._on_answer(time_ns, word, is_done, said))

    def _on_answer(self, time_ns: int, word: str, is_done: bool, said: str) -> None:
        if is_done:
            self._refusal = ""
        elif word == "rerecord" and self._session.state is EpisodeState.IDLE:  # what it was to replace was left out
            self._say(time_ns, "start")
        elif word == "start":
            raise BagError(f"no episode can begin: {said}")
        elif word in ("save", "save_anyway"):
            self._refusal = said
        else:
            self.notices.append(f"{word}: {said}")

    def _leave_out(self, time_ns: int) -> None:
        """Forget an episode that was refused, and say so."""
        if self._session.state is EpisodeState.UNSAVED:
            why = self._refusal.removesuffix(DECISION) or "it could not be recorded to its end"
            self.notices.append(f"the episode up to {ns_to_s(time_ns - self._first_ns):.1f} s is left out: {why}")
            self._session.obey("discard", time_ns, lambda *_: None)


def _unused(streams: Mapping[str, StreamHealth], sources: Mapping[str, str]) -> list[str]:
    """Messages of each source (name -> topic) that were not used, and why, in words."""
    return [
        f"{count} of {streams[name].received} messages of {topic} ({name}) were not used: {_WHY[why]}"
        for name, topic in sources.items()
        for why, count in streams[name].dropped.items()
        if why in _WHY
    ]


def _hear(session: Session, topic: str, text: str) -> None:
    if topic == topics.INSTRUCTION:
        session.task = text
    elif topic == topics.RECORDER_NOTES:
        with suppress(Refused):
            session.note(text)
    elif (seed := seed_in(text)) is not None:
        session.seed = seed


@dataclass
class _Heard:
    """What a bag tells of when episodes began and ended."""

    obeyed: set[tuple[int, str]]
    control: Words
    modes: list[tuple[int, Mode]]


def _words(stream: _Stream, split: Split) -> Words:
    """What is to be told the session; raises BagError where the bag knows nothing of `split`."""
    heard = _listen(stream)
    told: dict[Split, Words] = {
        Split.RECORDER: sorted(heard.obeyed) or heard.control,
        Split.MODE: _words_of_modes(heard.modes),
        Split.WHOLE: [(stream.first_ns - _EARLY_NS, "start"), (stream.last_ns, "save")],
    }
    for way, words in told.items():
        if split in (way, Split.AUTO) and any(word == "start" for _, word in words):
            return words
    lacking = {
        Split.RECORDER: f"no recorder was started, neither on {topics.STATE} nor on {topics.RECORDER_CONTROL}",
        Split.MODE: f"on {topics.STATE} no controller follows anybody",
    }
    raise BagError(f"the bag does not tell of episodes by {split.value}: {lacking[split]}; its whole may be one")


def _listen(stream: _Stream) -> _Heard:
    heard = _Heard(set(), [], [])
    types = {topics.STATE: topics.TABLE[topics.STATE][0], topics.RECORDER_CONTROL: _STRING}
    for topic, now_ns, message in stream.messages(types):
        if topic == topics.RECORDER_CONTROL:
            if (word := message.data.strip()) in topics.RECORDER_WORDS:
                heard.control.append((now_ns, word))
            continue
        with suppress(ValueError):  # what no recorder and no controller reports is passed over
            said = messages.status_values(message, "recorder") or {}
            for entry in said.get("obeyed", "").split():
                word, _, time_ns = entry.partition("@")
                heard.obeyed.add((int(time_ns), word))
            status = messages.status_to_controller(message)
            if status is not None:
                heard.modes.append((now_ns, status.mode))
    return heard


def _words_of_modes(modes: Iterable[tuple[int, Mode]]) -> Words:
    words: Words = []
    before = Mode.HOLD
    for time_ns, mode in modes:
        if (mode is Mode.HOLD) != (before is Mode.HOLD):
            words.append((time_ns, "save" if mode is Mode.HOLD else "start"))
        before = mode
    return words


def _timing(camera: CameraTopic) -> CameraTiming:
    return CameraTiming(**{name: getattr(camera, name) for name in CameraTiming.model_fields})
