"""The slow side of a policy without ROS: it holds nobody up, keeps its rates, answers or says why not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("rclpy")

from vla_ros.actions import ActionSpec, GripperConvention, Space
from vla_ros.config import InferenceNodeConfig
from vla_ros.policies.policy import AbsolutePolicy, Inference, WindowSpec
from vla_ros.ros.policy_worker import PolicyWorker
from vla_ros.ros.thinking import Thinker
from vla_ros.timing.track import Misaligned
from vla_ros.values import ActionChunk, Committed, Image, ModelChunk, Observation, Prediction, Window

MS = 1_000_000
PATIENCE_S = 10.0
FRAME: Image = np.zeros((2, 2, 3), np.uint8)


class Slow:
    """Infers at once; reflects, answers and draws only when it is let."""

    action_spec = ActionSpec(space=Space.JOINT_POSITION, joint_names=("a", "b"), gripper=GripperConvention.NONE)
    window_spec = WindowSpec()

    def __init__(self, reflection_period_s: float = 2.0) -> None:
        self.reflection_period_s = reflection_period_s
        self.description = ""
        self.reflected: list[int] = []
        self.drawn: list[int] = []
        self.let = threading.Event()
        self.error: Exception | None = None

    def reset(self, instruction: str) -> None:
        pass

    def infer(self, window: Window, committed: Committed) -> Inference:
        observed_ns = window[-1].instant_ns

        def imagine() -> tuple[Prediction, ...]:
            self._wait()
            self.drawn.append(observed_ns)
            return (Prediction("front", observed_ns + 1000 * MS, FRAME),)

        return Inference(ModelChunk(observed_ns, np.zeros((10, 2))), imagine=imagine)

    def reflect(self, window: Window) -> None:
        self.reflected.append(window[-1].instant_ns)
        self.description = f"seen at {window[-1].instant_ns // MS} ms"
        self._wait()

    def answer(self, window: Window, question: str) -> str:
        self._wait()
        return f"{question} at {window[-1].instant_ns // MS} ms"

    def _wait(self) -> None:
        assert self.let.wait(PATIENCE_S)
        if self.error is not None:
            raise self.error


class Desk:
    """A policy with both of its threads, a clock moved by hand, and what came of it."""

    def __init__(self, policy: Slow | None = None, prediction_rate_hz: float = 2.0) -> None:
        self.policy = policy or Slow()
        self.now_ns = 0
        self.is_blind = False
        self.chunks: list[int] = []
        self.shown: list[int] = []
        self.answers: list[tuple[bool, str]] = []
        self.absolute = AbsolutePolicy(self.policy, lambda joints: np.zeros(7), 0.08)
        config = InferenceNodeConfig(max_rate_hz=10.0, prediction_rate_hz=prediction_rate_hz)
        self.worker = PolicyWorker(self.absolute, config, lambda: self.now_ns, self._look, self._publish)
        self.thinker = Thinker(self.absolute, config, lambda: self.now_ns, self._look, self._show)

    def _look(self, instant_ns: int, length: int, step_ns: int, earliest_ns: int | None) -> Window:
        if self.is_blind:
            raise Misaligned("camera front is silent")
        if earliest_ns is not None and earliest_ns > instant_ns:  # as the aligner
            raise ValueError(f"a window at {instant_ns} cannot start at {earliest_ns}, which is later")
        return [Observation(instant_ns, {}, {"joints": np.zeros(2)})]

    def _publish(self, chunk: ActionChunk, predictions: tuple[Prediction, ...]) -> None:
        self.chunks.append(chunk.observation_ns)
        self.thinker.expect(chunk.observation_ns, self.absolute.imagine)

    def _show(self, prediction: Prediction) -> None:
        self.shown.append(prediction.time_ns)

    def instruct(self, now_ms: int) -> None:
        self.now_ns = now_ms * MS
        instructed = self.worker.counts["instructed"]
        self.worker.instruct("wave")
        self.wait_for(lambda: self.worker.counts["instructed"] > instructed)

    def see(self, *instants_ms: int) -> None:
        """Instants come one by one; each brings its chunk before the next."""
        for instant_ms in instants_ms:
            self.now_ns = instant_ms * MS
            given = len(self.chunks)
            self.worker.offer(self.now_ns)
            self.thinker.see(self.now_ns, self.worker.since_ns)
            self.wait_for(lambda given=given: len(self.chunks) > given)

    def ask(self, question: str) -> None:
        self.thinker.ask(question, lambda *answer: self.answers.append(answer))

    def wait_for(self, condition: Callable[[], object]) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline_s
            threading.Event().wait(0.001)

    def close(self) -> None:
        self.policy.let.set()
        self.thinker.close()
        self.worker.close()


def test_actions_wait_for_no_thought() -> None:
    """The policy is held in its reflection from the first frame on: chunks come as ever, and nothing else does."""
    desk = Desk()
    desk.instruct(1000)
    desk.see(1100)
    desk.wait_for(lambda: desk.policy.reflected)
    desk.ask("where?")
    desk.see(*range(1200, 9000, 100))
    assert len(desk.chunks) == 79
    assert desk.policy.reflected == [1100 * MS]
    assert (desk.shown, desk.answers) == ([], [])
    desk.policy.let.set()
    desk.wait_for(lambda: desk.answers and desk.shown and len(desk.policy.reflected) == 2)
    desk.close()
    assert desk.answers == [(True, "where? at 8900 ms")]
    assert desk.policy.reflected == [1100 * MS, 8900 * MS]


def test_each_thought_has_its_own_rate_in_the_observations_time() -> None:
    desk = Desk()
    desk.policy.let.set()
    desk.instruct(1000)
    for instant_ms in range(1100, 7000, 100):
        desk.see(instant_ms)
        desk.wait_for(lambda: not desk.thinker._worker._pending)
    desk.close()
    # A frame twice a second, stamped with the time it predicts; a reflection every other second.
    np.testing.assert_array_equal(desk.shown, np.arange(1100, 7000, 500) * MS + 1000 * MS)
    assert desk.policy.reflected == [1100 * MS, 3100 * MS, 5100 * MS]
    assert desk.thinker.description == "seen at 5100 ms"
    assert desk.thinker.counts == {"imagined": 12, "reflected": 3, "answered": 0}
    assert desk.thinker.problem == ""


def test_only_the_newest_frame_is_drawn_when_drawing_is_slow() -> None:
    desk = Desk(Slow(reflection_period_s=float("inf")), prediction_rate_hz=10.0)
    desk.instruct(1000)
    desk.see(*range(1100, 3000, 100))
    desk.policy.let.set()
    desk.wait_for(lambda: len(desk.policy.drawn) == 2)
    desk.close()
    assert desk.policy.drawn in ([1100 * MS, 2900 * MS], [1200 * MS, 2900 * MS])


def test_at_a_rate_of_zero_no_frame_is_drawn() -> None:
    desk = Desk(prediction_rate_hz=0.0)
    desk.policy.let.set()
    desk.instruct(1000)
    desk.see(*range(1100, 3000, 100))
    desk.ask("where?")
    desk.wait_for(lambda: desk.answers)  # whatever was to be done before it has been done
    desk.close()
    assert desk.policy.drawn == []


def test_it_reflects_at_once_on_a_new_instruction_and_when_time_begins_anew() -> None:
    desk = Desk()
    desk.policy.let.set()
    desk.thinker.see(900 * MS, None)  # nobody has said what to do: nothing to reflect for
    desk.instruct(1000)
    desk.see(1100)
    desk.wait_for(lambda: len(desk.policy.reflected) == 1)
    desk.instruct(1500)
    desk.thinker.see(1400 * MS, 1500 * MS)  # seen before it was said
    desk.see(1600)
    desk.wait_for(lambda: len(desk.policy.reflected) == 2)
    desk.see(50, 150)  # with the first of them time begins anew, which the thread that acts has to notice
    desk.wait_for(lambda: len(desk.policy.reflected) == 3)
    desk.close()
    assert desk.policy.reflected in ([1100 * MS, 1600 * MS, first_ms * MS] for first_ms in (50, 150))
    assert desk.thinker.problem == ""


def test_what_cannot_be_answered_is_said() -> None:
    desk = Desk()
    desk.policy.let.set()
    desk.ask("  ")
    desk.ask("where?")
    desk.wait_for(lambda: len(desk.answers) == 2)
    desk.instruct(1000)
    desk.see(1100)
    desk.is_blind = True
    desk.ask("where?")
    desk.wait_for(lambda: len(desk.answers) == 3)
    desk.is_blind = False
    for error in (ValueError("it is not written in Latin letters"), RuntimeError("out of memory")):
        desk.policy.error = error
        desk.ask("где?")
        answered = len(desk.answers)
        desk.wait_for(lambda answered=answered: len(desk.answers) > answered)
    desk.close()
    assert desk.answers == [
        (False, "no question was given"),
        (False, "nothing was seen yet"),
        (False, "camera front is silent"),
        (False, "it is not written in Latin letters"),
        (False, "RuntimeError: out of memory"),
    ]


def test_a_question_is_about_what_is_there_now() -> None:
    """One that comes right after an instruction is answered all the same; none is where nothing new is seen."""
    desk = Desk()
    desk.policy.let.set()
    desk.instruct(1000)
    desk.see(1100)
    desk.thinker.see(1100 * MS, 1200 * MS)  # an instruction that came after the newest frame
    desk.now_ns = 1600 * MS
    desk.ask("where?")
    desk.wait_for(lambda: len(desk.answers) == 1)
    desk.now_ns = 1601 * MS
    desk.ask("where?")
    desk.wait_for(lambda: len(desk.answers) == 2)
    desk.close()
    assert desk.answers == [
        (True, "where? at 1100 ms"),
        (False, "the newest observation is 501 ms old, at most 500 ms"),
    ]


def test_whoever_asked_and_has_gone_holds_nothing_up() -> None:
    desk = Desk()
    desk.policy.let.set()
    desk.instruct(1000)
    desk.see(1100)

    def gone(is_answer: bool, text: str) -> None:
        raise RuntimeError("the client is gone")

    desk.thinker.ask("where?", gone)
    desk.wait_for(lambda: desk.thinker.problem == "answer: RuntimeError: the client is gone")
    desk.ask("where?")
    desk.wait_for(lambda: desk.answers and desk.thinker.problem == "")
    desk.close()
    assert desk.answers == [(True, "where? at 1100 ms")]


def test_too_many_questions_are_refused_and_none_stays_without_an_answer() -> None:
    desk = Desk()
    desk.instruct(1000)
    desk.see(1100)
    desk.wait_for(lambda: desk.policy.reflected)
    for number in range(10):
        desk.ask(str(number))
    assert desk.answers == [(False, "8 questions wait already; ask again later")] * 2
    ending = threading.Thread(target=desk.thinker.close)
    ending.start()
    desk.wait_for(lambda: len(desk.answers) == 10)  # though a thought goes on
    desk.policy.let.set()
    ending.join()
    desk.close()
    assert desk.answers[2:] == [(False, "the policy has ended")] * 8


def test_a_policy_that_only_acts_answers_nothing() -> None:
    class Mute:
        action_spec, window_spec = Slow.action_spec, Slow.window_spec
        reset, infer = Slow.reset, Slow.infer

    answers: list[tuple[bool, str]] = []
    absolute = AbsolutePolicy(Mute(), lambda joints: np.zeros(7), 0.08)  # type: ignore[arg-type]
    thinker = Thinker(absolute, InferenceNodeConfig(), lambda: 0, lambda *_: [], lambda _: None)
    thinker.see(1000 * MS, 900 * MS)
    thinker.ask("where?", lambda *answer: answers.append(answer))
    thinker.close()
    assert answers == [(False, "Mute answers no questions")]


@pytest.mark.parametrize("what", ["reflection", "prediction"])
def test_what_goes_wrong_is_said_until_it_goes_well(what: str) -> None:
    desk = Desk(Slow(reflection_period_s=2.0 if what == "reflection" else float("inf")))
    desk.policy.let.set()
    desk.policy.error = RuntimeError("out of memory")
    desk.instruct(1000)
    desk.see(1100)
    desk.wait_for(lambda: desk.thinker.problem.startswith(f"{what}: RuntimeError: out of memory"))
    desk.policy.error = None
    desk.see(*range(1200, 4000, 100))
    desk.wait_for(lambda: desk.thinker.problem == "")
    desk.close()
