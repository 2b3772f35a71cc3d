"""A recording fed from ROS: topics and services into an inbox, a thread that turns what is in it into a dataset."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from vla_ros import messages, topics
from vla_ros.recording.assembling.intake import COMPRESSED_IMAGE, IMAGE, Intake
from vla_ros.recording.config import LONGEST_TASK
from vla_ros.recording.session import Answer, EpisodeState, Refused, Session, SessionStatus, seed_in
from vla_ros.ros import qos
from vla_ros.ros.instructing import Instructions
from vla_ros.ros.polling import PolledService, PolledSubscription
from vla_ros.timing.stamps import ns_to_s, s_to_ns

_CLASSES = {
    IMAGE: Image,
    COMPRESSED_IMAGE: CompressedImage,
    "sensor_msgs/msg/JointState": JointState,
    "trajectory_msgs/msg/JointTrajectory": JointTrajectory,
    "diagnostic_msgs/msg/DiagnosticArray": DiagnosticArray,
}
_PERIOD_S = 0.02
_STATUS_EVERY = 5  # ticks
_RATE_NS = s_to_ns(2.0)
#: Of one topic, so many may wait for the thread: of images two seconds at 50 Hz, for which an encoder may lag behind.
_MOST_IMAGES, _MOST_MESSAGES = 100, 5000
_PIXEL_BYTES = 8  # of the largest encoding
#: In the middleware: images while this process has no time for them, and a stream at 1 kHz between two ticks.
_IMAGES = QoSProfile(depth=60, reliability=ReliabilityPolicy.BEST_EFFORT)
_STREAM = QoSProfile(depth=500, reliability=ReliabilityPolicy.BEST_EFFORT)
_EVERY = QoSProfile(depth=500, reliability=ReliabilityPolicy.RELIABLE)
#: How long the thread has at the end to set aside what is open.
_CLOSE_S = 4.0
#: And an episode that was being saved, to be whole.
_SAVE_S = 30.0
_LONGEST_WORD = 100
#: A tick that comes so much later than it should is one of a process that stood still.
_LATE_S = 0.1
#: And so long, at most, it has to read what came meanwhile.
_LONGEST_CATCHING_UP_S = 1.0
#: ROS time that has not moved for so long stands still: a simulation that is paused, or gone.
_STANDSTILL_S = 2.0


class Inbox:
    """Work that waits for a thread: up to so many items of a kind, beyond which the next are refused and counted."""

    def __init__(self) -> None:
        self._items: deque[tuple[str, Callable[[], object]]] = deque()
        self._waiting: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._closed = False
        self._refused: Counter[str] = Counter()

    @property
    def refused(self) -> dict[str, int]:
        """kind -> items that were refused."""
        with self._changed:
            return dict(self._refused)

    def put(self, kind: str, most: int, work: Callable[[], object]) -> None:
        """Add `work`, unless `most` items of its kind wait already."""
        with self._changed:
            if self._waiting[kind] >= most:
                self._refused[kind] += 1
                return
            self._waiting[kind] += 1
            self._items.append((kind, work))
            self._changed.notify()

    def forget_refused(self) -> None:
        """Count anew what is refused."""
        with self._changed:
            self._refused.clear()

    def take(self) -> Callable[[], object] | None:
        """The oldest item, once there is one; None when the inbox is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed)
            if not self._items:
                return None
            kind, work = self._items.popleft()
            self._waiting[kind] -= 1
            return work

    def close(self) -> None:
        """Let the thread end when it has done what waits."""
        with self._changed:
            self._closed = True
            self._changed.notify()


class Rates:
    """How many messages of each stream a second came lately, by their counts now and then."""

    def __init__(self) -> None:
        self._counts: deque[tuple[int, dict[str, int]]] = deque()

    def see(self, now_ns: int, counts: dict[str, int]) -> dict[str, float]:
        """stream -> rate [Hz], with the number of messages of each stream so far."""
        if self._counts and now_ns < self._counts[-1][0]:  # a clock that jumped back
            self._counts.clear()
        self._counts.append((now_ns, counts))
        while len(self._counts) > 2 and self._counts[1][0] <= now_ns - _RATE_NS:
            self._counts.popleft()
        since_ns, before = self._counts[0]
        seconds = ns_to_s(now_ns - since_ns)
        return {name: (count - before.get(name, 0)) / seconds if seconds else 0.0 for name, count in counts.items()}


class Lateness:
    """Watches the ticks of a process that may have stood still: stopped, swapped out, on a busy machine.

    Its late tick comes before the messages that wait in the middleware, so it may not yet be said what is missing.
    """

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._ticked_s: float | None = None
        self._until_s: float | None = None

    def is_catching_up(self, now_s: float) -> bool:
        """At a tick: whether messages from before it may still wait; never for ever, however late all ticks are."""
        late_s = 0.0 if self._ticked_s is None else now_s - self._ticked_s - self._period_s
        self._ticked_s = now_s
        if self._until_s is not None:
            if now_s < self._until_s:
                return True
            self._until_s = None
        elif late_s > _LATE_S:
            self._until_s = now_s + min(late_s, _LONGEST_CATCHING_UP_S)
            return True
        return False


class Recording:
    """Between a node and a session, which belongs to a thread of its own: the executor waits for no encoder or disk.

    Images are kept as messages and decoded by that thread. Services and fast topics are looked at by a tick, and the
    services answered by it when the thread has done what was asked: saving takes its time.
    """

    def __init__(self, node: Node, intake: Intake, session: Session, images: Mapping[str, tuple[int, int]]) -> None:
        """`images`: topic -> height and width of those that will be recorded; much larger ones are not even kept."""
        self._node, self._intake, self._session = node, intake, session
        self._most_bytes = {topic: _PIXEL_BYTES * height * width for topic, (height, width) in images.items()}
        self._inbox = Inbox()
        self._too_large: dict[str, str] = {}
        self._answers: deque[Callable[[], None]] = deque()
        self._lateness = Lateness(_PERIOD_S)
        self._moved = (0, time.monotonic())  # the newest ROS time, and when it came
        self._ticks = 0
        self.said = ""  # to whoever spoke last
        self.failure = ""  # what the thread did not expect
        self.status = session.status(0)  # what it was lately
        self.rates_hz: dict[str, float] = {}
        self._rates = Rates()
        self._polled = {
            topic: subscription for topic in intake.types if (subscription := self._subscribe(topic)) is not None
        }
        self._services = {word: PolledService(node, Trigger, topics.recorder(word)) for word in topics.RECORDER_WORDS}
        Instructions(node, self._on_instruction)
        node.create_subscription(String, topics.RECORDER_CONTROL, self._on_control, qos.STATE)
        node.create_subscription(String, topics.RECORDER_NOTES, self._on_note, qos.STATE)
        self._thread = threading.Thread(target=self._work, name="recording", daemon=True)
        self._thread.start()
        node.create_timer(_PERIOD_S, self._on_tick, clock=Clock(clock_type=ClockType.STEADY_TIME))

    @property
    def problems(self) -> list[str]:
        """What is not well beside what the session says, in words."""
        crowded = [(topic, count) for topic, count in self._inbox.refused.items() if topic]
        return [
            *([self.failure] if self.failure else []),
            *self._too_large.values(),
            *(f"{count} messages of {topic} were dropped: too many were waiting" for topic, count in crowded),
            *(  # by ours alone: a robot may say on one topic what is no business of this one
                f"{unread.count} messages of {topic} cannot be read ({unread.reason})"
                for topic, unread in self._intake.unreadable.copy().items()
                if topic in topics.TABLE
            ),
        ]

    def close(self) -> list[str]:
        """End the thread, which saves what is being saved and sets another open episode aside; what it reports."""
        said: list[str] = []
        self._inbox.put("end", 1, lambda: said.extend(self._session.close(self._now_ns())))
        self._inbox.close()
        self._thread.join(_CLOSE_S)
        if self._session.state is EpisodeState.SAVING:
            self._thread.join(_SAVE_S)
        self._answer()
        return said

    # --- what comes in, on the executor's thread

    def _subscribe(self, topic: str) -> PolledSubscription[Any] | None:
        type_name = self._intake.types[topic]
        kind = _CLASSES[type_name]
        if type_name in (IMAGE, COMPRESSED_IMAGE):
            self._node.create_subscription(kind, topic, partial(self._take, topic, _MOST_IMAGES), _IMAGES)
        elif topic in (topics.CHUNK, topics.STATE):  # a chunk has come when it comes, not at a tick
            self._node.create_subscription(kind, topic, partial(self._take, topic, _MOST_MESSAGES), qos.STATE)
        else:
            return PolledSubscription(self._node, kind, topic, _EVERY if topic in topics.TABLE else _STREAM)
        return None

    def _take(self, topic: str, most: int, message: Any) -> None:
        if topic in self._most_bytes:
            size, most_bytes = len(message.data), self._most_bytes[topic]
            if size > most_bytes:
                self._too_large[topic] = f"images on {topic} have {size} bytes, and at most {most_bytes} are expected"
                return
            self._too_large.pop(topic, None)
        now_ns = self._now_ns()
        self._inbox.put(topic, most, partial(self._intake.take, topic, message, now_ns))
        if topic == topics.STATE and (reset_ns := messages.status_to_reset(message)) is not None:
            self._tell(partial(self._session.world_was_reset, reset_ns, now_ns))

    def _on_instruction(self, instruction: str) -> None:
        task = instruction[: LONGEST_TASK + 1]  # one too many, and an episode is refused
        self._tell(lambda: setattr(self._session, "task", task))

    def _on_control(self, message: String) -> None:
        word = message.data.strip()[:_LONGEST_WORD]
        if (seed := seed_in(word)) is not None:
            self._tell(lambda: setattr(self._session, "seed", seed))
        else:
            self._obey(word, partial(self._say, word))

    def _on_note(self, message: String) -> None:
        def note() -> None:
            try:
                self._session.note(message.data)
            except Refused as error:
                self._say("note", False, str(error))

        self._tell(note)

    def _on_tick(self) -> None:
        for topic, subscription in self._polled.items():
            for message in subscription.take_all():
                self._take(topic, _MOST_MESSAGES, message)
        for word, service in self._services.items():
            for _, respond in service.take_all():
                self._obey(word, partial(self._respond, word, respond))
        now_ns, now_s = self._now_ns(), time.monotonic()
        if now_ns != self._moved[0]:
            self._moved = now_ns, now_s
        if not self._lateness.is_catching_up(now_s):
            waits = now_s - self._moved[1] < _STANDSTILL_S
            self._tell(partial(self._advance, now_ns, waits, self._ticks % _STATUS_EVERY == 0))
            self._ticks += 1
        self._answer()

    def _answer(self) -> None:
        while self._answers:
            self._answers.popleft()()

    def _obey(self, word: str, answer: Answer) -> None:
        """Have the thread do what `word` means; `answer` is called on the executor's thread."""
        now_ns = self._now_ns()

        def answer_here(success: bool, said: str) -> None:
            try:
                self.status = self._session.status(now_ns)  # whoever is answered finds the state to be so
            finally:
                self._answers.append(lambda: answer(success, said))

        self._tell(lambda: self._session.obey(word, now_ns, answer_here))

    def _respond(self, word: str, send: Callable[[Any], None], success: bool, said: str) -> None:
        self._say(word, success, said)
        send(Trigger.Response(success=success, message=said))

    def _say(self, word: str, success: bool, said: str) -> None:
        self.said = f"{word}: {said}"
        if success:
            self._node.get_logger().info(self.said)
        else:
            self._node.get_logger().warning(self.said)

    def _tell(self, work: Callable[[], object]) -> None:
        self._inbox.put("", _MOST_MESSAGES, work)

    # --- on the thread

    def _advance(self, now_ns: int, waits: bool, tells: bool) -> None:
        self._session.advance(now_ns, waits)
        if self._session.state in (EpisodeState.IDLE, EpisodeState.SAVING):
            self._inbox.forget_refused()
        if tells:
            self.status = self._session.status(now_ns)
            received = {name: stream.received for name, stream in self.status.streams.items()}
            self.rates_hz = self._rates.see(now_ns, received)

    def _work(self) -> None:
        while (work := self._inbox.take()) is not None:
            try:
                work()
            except Exception as error:  # the thread outlives it: what is saved is saved, and the next may be
                self.failure = f"{type(error).__name__}: {error}"
                self._node.get_logger().error(f"recording: {self.failure}", throttle_duration_sec=1.0)

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)


def reason(why: str, sources: Mapping[str, str], intake: Intake) -> str:
    """`why` no rows can be recorded, with the topics concerned (`sources`: name -> topic) and what is wrong there."""
    if not why:
        return ""
    concerned = {name: topic for name, topic in sources.items() if f" {name}:" in why}
    unread = {
        topic: f" ({intake.unreadable[topic].reason})" for topic in concerned.values() if topic in intake.unreadable
    }
    return "; ".join([why, *(f"{name} is {topic}{unread.get(topic, '')}" for name, topic in concerned.items())])


def values(status: SessionStatus, rates_hz: Mapping[str, float]) -> dict[str, object]:
    """A session's status as diagnostics have it, and how many messages of each stream come in a second."""
    health = status.health
    return {
        "episode": status.episode,
        "task": status.task,
        "frames": status.frames,
        "obeyed": " ".join(status.obeyed),
        "rate_hz": health.rate_hz,
        **{f"repeated.{source}": count for source, count in health.repeated.items()},
        "repeated_in_a_row": health.longest_run,
        "skew_ms": health.max_skew_ms,
        "lag_ms": health.lag_ms,
        "backlog": status.backlog,
        "disk_free_mb": round(status.disk_free_mb),
        "success": "" if status.success is None else status.success,
        "seed": "" if status.seed is None else status.seed,
        **{
            f"{name}.{key}": value
            for name, stream in status.streams.items()
            for key, value in {
                "rate_hz": rates_hz.get(name),
                "age_ms": stream.age_ms,
                "received": stream.received,
                "dropped": sum(stream.dropped.values()),
            }.items()
        },
    }
