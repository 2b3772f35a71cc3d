"""What a policy does while no action waits for it, on a thread of its own: answers, a description, predictions."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

from vla_ros.config import InferenceConfig
from vla_ros.policies.policy import AbsolutePolicy, Imagine
from vla_ros.ros.policy_worker import RATE_TOLERANCE_NS, Look, refuse_stale
from vla_ros.ros.worker import Worker
from vla_ros.timing.stamps import period_ns, s_to_ns
from vla_ros.timing.track import Misaligned
from vla_ros.values import Prediction, Window

Answer = Callable[[bool, str], None]  # whether it could be answered; the answer, or why not

#: On a busy machine the thread that gives the actions goes first.
_NICENESS = 10
#: More questions than this are refused while others wait.
_MOST_QUESTIONS = 8


class Thinker:
    """The slow side of a policy: nothing that gives actions ever waits for it.

    It takes turns: first every question, then the policy's reflection, then the frames that the newest inference
    expects. Rates are of the observations' time, so that they hold in a simulation, too. `see` and `ask` are called on
    the owner's thread, `expect` on any; `look` and `publish` are called on the thinker's.
    """

    def __init__(
        self,
        policy: AbsolutePolicy,
        config: InferenceConfig,
        now: Callable[[], int],
        look: Look,
        publish: Callable[[Prediction], None],
    ) -> None:
        self.counts = {"imagined": 0, "reflected": 0, "answered": 0}
        self._policy = policy
        self._now = now
        self._look = look
        self._publish = publish
        self._max_age_ms = config.max_observation_age_ms
        self._prediction_ns = period_ns(config.prediction_rate_hz) if config.prediction_rate_hz else None
        period_s = policy.reflective.reflection_period_s if policy.reflective else float("inf")
        self._reflection_ns = s_to_ns(period_s) if period_s < float("inf") else None
        self._problems: dict[str, str] = {}
        self._questions: deque[tuple[str, Answer]] = deque()
        self._seen: tuple[int, int | None] | None = None  # the newest instant; since when an instruction is followed
        self._reflected: tuple[int, int | None] | None = None  # the same, when it reflected last
        self._expected: deque[tuple[int, Imagine]] = deque(maxlen=1)  # the newest inference's instant, and its frames
        self._imagined_ns: int | None = None
        self._worker: Worker[None] = Worker(self._work, self._on_error, _NICENESS)

    @property
    def problem(self) -> str:
        """What went wrong last and has not gone well since; "" when all is well."""
        return "; ".join([*self._problems.values()])

    @property
    def description(self) -> str:
        """What the policy last said of the scene; "" of one that says nothing."""
        return self._policy.reflective.description if self._policy.reflective else ""

    def see(self, instant_ns: int, since_ns: int | None) -> None:
        """A newer instant is complete; the policy follows its instruction since then, or None."""
        self._seen = (instant_ns, since_ns)
        if self._reflection_is_due():
            self._worker.offer(None)

    def expect(self, observed_ns: int, imagine: Imagine | None) -> None:
        """An inference at `observed_ns` expects frames; they are drawn if their turn has come."""
        if imagine is not None and self._is_due(observed_ns, self._imagined_ns, self._prediction_ns):
            self._expected.append((observed_ns, imagine))
            self._worker.offer(None)

    def ask(self, question: str, answer: Answer) -> None:
        """Answer a question about the newest instant, later and on another thread; what cannot be answered, at once."""
        if not question.strip():
            answer(False, "no question was given")
        elif self._policy.reflective is None:
            answer(False, f"{self._policy.name} answers no questions")
        elif len(self._questions) >= _MOST_QUESTIONS:
            answer(False, f"{_MOST_QUESTIONS} questions wait already; ask again later")
        else:
            self._questions.append((question, answer))
            self._worker.offer(None)

    def close(self) -> None:
        """End the thread once its present thought is done; questions that wait are told so."""
        while waiting := self._next_question():  # first, or the thread would answer them all before it ends
            waiting[1](False, "the policy has ended")
        self._worker.close()

    # --- on the thinker's thread ---

    def _work(self, _: None) -> None:
        while waiting := self._next_question():
            question, answer = waiting
            self._try("answer", partial(answer, *self._answered(question)))
        if self._reflection_is_due():
            self._try("reflection", self._reflect)
        if self._expected:
            self._imagined_ns, imagine = self._expected.pop()
            self._try("prediction", lambda: self._imagine(imagine))

    def _next_question(self) -> tuple[str, Answer] | None:
        try:
            return self._questions.popleft()
        except IndexError:  # asked for on both threads
            return None

    def _answered(self, question: str) -> tuple[bool, str]:
        """Whether it could be answered; the answer, or why not."""
        reflective = self._policy.reflective
        assert reflective is not None  # or nobody could ask
        try:
            window = self._window(self._seen)
            refuse_stale(self._now(), window[-1].instant_ns, self._max_age_ms)
            said = reflective.answer(window, question)
        except (Misaligned, ValueError) as error:
            return False, str(error)
        except Exception as error:  # whoever asked is told; the next question may go well
            return False, f"{type(error).__name__}: {error}"
        self.counts["answered"] += 1
        return True, said

    def _reflect(self) -> None:
        reflective, seen = self._policy.reflective, self._seen
        assert reflective is not None  # or it is never due
        self._reflected = seen
        try:
            window = self._window(seen)
        except Misaligned:  # why, is said by the one that gives actions; its turn is still due
            self._reflected = None
            return
        reflective.reflect(window)
        self.counts["reflected"] += 1

    def _imagine(self, imagine: Imagine) -> None:
        for prediction in imagine():
            self._publish(prediction)
        self.counts["imagined"] += 1

    def _window(self, seen: tuple[int, int | None] | None) -> Window:
        if seen is None:
            raise Misaligned("nothing was seen yet")
        instant_ns, since_ns = seen
        spec = self._policy.window_spec
        # An instruction that came after the newest instant: of what is seen there is only that.
        earliest_ns = instant_ns if since_ns is None else min(instant_ns, since_ns)
        return self._look(instant_ns, spec.length, spec.step_ns, earliest_ns)

    def _reflection_is_due(self) -> bool:
        if self._reflection_ns is None or self._seen is None:
            return False
        instant_ns, since_ns = self._seen
        if since_ns is None or instant_ns < since_ns:
            return False
        if self._reflected is None or self._reflected[1] != since_ns:
            return True
        return self._is_due(instant_ns, self._reflected[0], self._reflection_ns)

    @staticmethod
    def _is_due(instant_ns: int, last_ns: int | None, period_ns: int | None) -> bool:
        """Whether a period has passed since the last turn, or time has jumped back."""
        if period_ns is None:
            return False
        return last_ns is None or not 0 <= instant_ns - last_ns < period_ns - RATE_TOLERANCE_NS

    def _try(self, what: str, work: Callable[[], None]) -> None:
        try:
            work()
            self._problems.pop(what, None)
        except Exception as error:  # the thread outlives any one thought; the node says what is wrong
            self._problems[what] = f"{what}: {type(error).__name__}: {error}"

    def _on_error(self, error: Exception) -> None:
        self._problems["thinking"] = f"{type(error).__name__}: {error}"
