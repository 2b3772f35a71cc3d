"""The person who records, as a node: words to the recorder, what it answers, the task; nothing here waits for it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping

from rclpy.context import Context
from rclpy.task import Future
from std_msgs.msg import String

from vla_ros import topics
from vla_ros.ros import qos
from vla_ros.ros.operating import RECORDER, OperatorNode

_MOST_SAID = 6
_DEAD_S = 2.0


class RecordingDesk(OperatorNode):
    """Spin it again and again; `said` has what the recorder answered, the newest last, `count` how often it did."""

    def __init__(self, context: Context, *, use_sim_time: bool) -> None:
        super().__init__(context, use_sim_time=use_sim_time, services=RECORDER)
        self._instruction = self.create_publisher(String, topics.INSTRUCTION, qos.LATCHED)
        self._asked: dict[Future, str] = {}
        self._heard = ""
        self._heard_s = time.monotonic()
        self.said: deque[str] = deque(maxlen=_MOST_SAID)
        self.count = 0

    @property
    def recorder(self) -> Mapping[str, str]:
        """What the recorder says of itself; empty until it has said something."""
        return self.states.get("recorder", {})

    @property
    def state(self) -> str:
        """One word: idle, recording, paused, saving or unsaved; "" until the recorder has said something."""
        return self.recorder.get("message", "").partition(":")[0]

    @property
    def silent_s(self) -> float:
        """How long the recorder has said nothing, which it does ten times a second."""
        return time.monotonic() - self._heard_s

    def tell(self, word: str) -> None:
        """Have the recorder do one of topics.RECORDER_WORDS; `said` will have its answer."""
        if not self.recorder:
            self.note(f"{word}: the recorder is not running yet")
            return
        future = self.ask(topics.recorder(word))
        self._asked[future] = word
        future.add_done_callback(self._on_answer)

    def begin_or_pause(self) -> None:
        """What is next: start, pause or resume."""
        self.tell({"recording": "pause", "paused": "resume"}.get(self.state, "start"))

    def instruct(self, task: str) -> None:
        """Say what the next episode, and the policy, is about."""
        self._instruction.publish(String(data=task))
        self.note(f"task: {task}")

    def note(self, text: str) -> None:
        """Add a line to `said`, unless it is the same again."""
        if text and text != self._heard:
            self.said.append(text)
            self.count += 1
        self._heard = text

    def heard(self, node: str, state: Mapping[str, str], before: Mapping[str, str]) -> None:
        """Note what the recorder said to others (a pedal, a service called from elsewhere), or found when it began."""
        if node == "recorder":
            if self.silent_s > _DEAD_S:
                self._asked.clear()  # it will not answer what another life of it was asked
            self._heard_s = time.monotonic()
        if node == "recorder" and state.get("said", "") != before.get("said", "") and not self._asked:
            self.note(state["said"])

    def _on_answer(self, future: Future) -> None:
        word, answer = self._asked.pop(future, None), future.result()
        if word is not None:
            self.note(f"{word}: {answer.message}")
