"""PolicyWorker without ROS: when it looks, at what, and what it does with an answer that comes too late."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("rclpy")

from vla_ros.actions import ActionSpec, GripperConvention, Space
from vla_ros.config import InferenceNodeConfig
from vla_ros.control.arm import ArmConfig, ArmController
from vla_ros.policies.policy import AbsolutePolicy, Inference, WindowSpec
from vla_ros.robots.panda import PANDA
from vla_ros.ros.policy_worker import PolicyWorker
from vla_ros.ros.worker import Worker
from vla_ros.timing.track import Misaligned
from vla_ros.values import ActionChunk, Committed, Mode, ModelChunk, Observation, Prediction, Window

MS = 1_000_000
PATIENCE_S = 10.0


class Desk:
    """A policy that thinks until it is let go on, a clock moved by hand, and a place for what is published."""

    action_spec = ActionSpec(space=Space.JOINT_POSITION, joint_names=("a", "b"), gripper=GripperConvention.NONE)
    window_spec = WindowSpec(length=2, step_ns=100 * MS)

    def __init__(self, max_rate_hz: float = 5.0) -> None:
        self.now_ns = 0
        self.delay_steps: list[int] = []
        self.is_blind = False
        self.resets: list[str] = []
        self.looked: list[tuple[int, int, int, int]] = []
        self.published: list[int] = []
        self.thinking = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)
        policy = AbsolutePolicy(self, lambda joints: np.zeros(7), 0.08)
        config = InferenceNodeConfig(max_rate_hz=max_rate_hz, max_observation_age_ms=500.0)
        self.worker = PolicyWorker(policy, config, lambda: self.now_ns, self._look, self._publish)

    def reset(self, instruction: str) -> None:
        self.resets.append(instruction)

    def infer(self, window: Window, committed: Committed) -> Inference:
        self.delay_steps.append(committed.delay_steps)
        self.thinking.release()
        assert self.go_on.acquire(timeout=PATIENCE_S)
        return Inference(ModelChunk(window[-1].instant_ns, np.zeros((10, 2))))

    def _look(self, instant_ns: int, length: int, step_ns: int, earliest_ns: int) -> Window:
        self.looked.append((instant_ns, length, step_ns, earliest_ns))
        if self.is_blind:
            raise Misaligned("camera front is silent")
        return [Observation(instant_ns, {}, {"joints": np.zeros(2)})] * length

    def _publish(self, chunk: ActionChunk, predictions: tuple[Prediction, ...]) -> None:
        self.published.append(chunk.observation_ns)

    def see(self, instant_ns: int) -> None:
        """Time goes on to an instant, which is complete then."""
        self.now_ns = instant_ns
        self.worker.offer(instant_ns)

    def answer(self, observed_ms: int, delay_ms: int) -> None:
        """See an instant, and give the answer to it so much later."""
        self.see(observed_ms * MS)
        self.wait_until_thinking()
        self.now_ns = (observed_ms + delay_ms) * MS
        inferred = self.worker.counts["inferred"]
        self.go_on.release()
        self.wait_for(lambda: self.worker.counts["inferred"] > inferred)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline_s
            threading.Event().wait(0.001)

    def wait_until_thinking(self) -> None:
        assert self.thinking.acquire(timeout=PATIENCE_S)

    def finish(self) -> None:
        """Let the thought go on, and wait until the thread has ended after it."""
        self.go_on.release(10)
        self.worker.close()


def test_only_the_newest_instant_is_looked_at_and_nothing_from_before_the_instruction() -> None:
    desk = Desk()
    desk.now_ns = 1000 * MS
    desk.worker.instruct("wave")
    desk.see(1100 * MS)
    desk.wait_until_thinking()
    for instant_ms in (1133, 1300, 1333, 1366):  # 1133: less than 200 ms after 1100; the others replace each other
        desk.see(instant_ms * MS)
    desk.go_on.release()
    desk.wait_until_thinking()
    desk.finish()
    assert desk.resets == ["wave"]
    assert desk.looked == [(instant * MS, 2, 100 * MS, 1000 * MS) for instant in (1100, 1366)]
    assert desk.published == [1100 * MS, 1366 * MS]
    assert desk.worker.counts == {"instructed": 1, "inferred": 2, "overtaken": 2, "failed": 0}


def test_what_was_thought_for_another_instruction_is_not_published() -> None:
    desk = Desk()
    desk.worker.instruct("wave")
    desk.see(100 * MS)
    desk.wait_until_thinking()
    desk.now_ns = 150 * MS
    desk.worker.instruct("bow")
    desk.go_on.release()
    while desk.worker.instruction != "bow":
        threading.Event().wait(0.001)
    desk.see(140 * MS)  # seen before it was said
    desk.see(160 * MS)
    desk.wait_until_thinking()
    desk.finish()
    assert desk.resets == ["wave", "bow"]
    assert desk.published == [160 * MS]


def test_after_a_clock_jumped_back_it_begins_anew() -> None:
    desk = Desk()
    desk.worker.instruct("wave")
    desk.see(9000 * MS)
    desk.wait_until_thinking()
    desk.go_on.release()
    desk.see(50 * MS)
    desk.wait_until_thinking()
    desk.finish()
    assert desk.resets == ["wave", "wave"]
    assert desk.published[-1] == 50 * MS


def test_what_is_too_old_is_not_looked_at() -> None:
    desk = Desk()
    desk.worker.instruct("wave")
    desk.now_ns = 1000 * MS
    desk.worker.offer(499 * MS)
    while not desk.worker.counts["failed"]:
        threading.Event().wait(0.001)
    desk.finish()
    assert not desk.looked
    assert desk.worker.condition[1:] == ("blind", "the newest observation is 501 ms old, at most 500 ms")


def test_the_policy_is_told_how_many_of_its_rows_will_be_past() -> None:
    desk = Desk()
    desk.worker.instruct("wave")
    for index, delay_ms in enumerate((150, 150, 210, 1500)):  # ten rows, 100 ms apart
        desk.answer(2000 * index, delay_ms)
    desk.answer(10_000, 100)
    desk.finish()
    assert desk.delay_steps == [0, 2, 2, 3, 10]
    assert desk.worker.delay_ms == 1500.0


@pytest.mark.parametrize(
    ("max_rate_hz", "delay_ms", "condition"),
    [
        (5.0, 500, ("inferring", "")),
        (
            5.0,
            820,
            (
                "late",
                "delay 820 ms, asked every 820 ms, chunk covers 1000 ms: the arm may stop between chunks; "
                "raise the horizon to 17 rows",
            ),
        ),
        (
            1.0,
            300,
            (
                "late",
                "delay 300 ms, asked every 1000 ms, chunk covers 1000 ms: the arm may stop between chunks; "
                "raise the horizon to 13 rows or max_rate_hz above 1.4",
            ),
        ),
    ],
)
def test_it_says_when_the_next_chunk_comes_after_the_last_has_ended(
    max_rate_hz: float, delay_ms: int, condition: tuple[str, str]
) -> None:
    desk = Desk(max_rate_hz)
    desk.worker.instruct("wave")
    desk.answer(1000, delay_ms)
    desk.wait_for(lambda: desk.worker.condition[1:] == condition)
    desk.finish()


class Driven(Desk):
    """A policy whose chunks an arm takes, at the same times: both have to have the same plan."""

    action_spec = ActionSpec(space=Space.JOINT_POSITION, joint_names=PANDA.joint_names, gripper=GripperConvention.NONE)
    home = np.array(PANDA.home_rad)

    def __init__(self) -> None:
        super().__init__(max_rate_hz=10.0)
        self.go_on.release(1000)
        self.arm = ArmController(PANDA, ArmConfig(), Mode.POLICY)
        self.worker.instruct("wave")

    def infer(self, window: Window, committed: Committed) -> Inference:
        super().infer(window, committed)
        rows = self.home + 0.01 * np.sin(window[-1].instant_ns) * np.arange(10)[:, None]
        return Inference(ModelChunk(window[-1].instant_ns, rows))

    def _look(self, instant_ns: int, *_: int) -> Window:
        return [Observation(instant_ns, {}, {"joints": self.home})] * 2

    def _publish(self, chunk: ActionChunk, predictions: tuple[Prediction, ...]) -> None:
        self.arm.on_chunk(chunk, self.now_ns)

    def tell_plan(self) -> None:
        self.worker.plan_since(self.arm.status().plan_since_ns)

    def chunk(self, observed_ms: int) -> None:
        inferred = self.worker.counts["inferred"]
        self.see(observed_ms * MS)
        self.wait_for(lambda: self.worker.counts["inferred"] > inferred)

    def plans(self) -> tuple[list[object], list[object]]:
        """What is committed from now on, row by row: by the arm, and by the policy at its next turn."""
        self.worker._follow_plan()
        plans = [
            schedule.committed(self.now_ns, 20, 50 * MS)
            for schedule in (self.arm._intake._schedule, self.worker._schedule)
        ]
        arm, policy = ([] if plan is None else plan.actions.tolist() for plan in plans)
        return arm, policy


@pytest.mark.parametrize("word", ["hold", "resume", "start", "stop", "estop"])
def test_the_policy_drops_the_plan_when_the_controller_does(word: str) -> None:
    desk = Driven()
    for observed_ms in (1000, 1100, 1200):
        desk.chunk(observed_ms)
        desk.tell_plan()
    arm, policy = desk.plans()
    assert len(arm) > 10
    np.testing.assert_allclose(policy, arm, atol=1e-9)
    desk.now_ns += 10 * MS
    if word == "resume":
        desk.arm.hold(desk.now_ns - 5 * MS)
    getattr(desk.arm, word)(desk.now_ns)
    desk.tell_plan()
    assert desk.worker.planned_until_ns is None
    assert desk.plans() == ([], [])
    if word == "stop":
        desk.chunk(1300)
        assert desk.plans() == ([], []), "what the controller refuses is no plan"
    if word in ("hold", "stop", "estop"):
        desk.now_ns += 10 * MS
        desk.arm.resume(desk.now_ns)
        desk.arm.start(desk.now_ns)
        desk.tell_plan()
    desk.chunk(1400)
    desk.chunk(1500)
    arm, policy = desk.plans()
    assert len(arm) > 10
    np.testing.assert_allclose(policy, arm, atol=1e-9)
    desk.finish()


def test_what_was_scheduled_since_the_controller_dropped_its_plan_is_kept() -> None:
    """Its message takes its time: the next chunk may be sent before it comes, and is what the controller follows."""
    desk = Driven()
    desk.chunk(1000)
    desk.arm.stop(1050 * MS)
    desk.tell_plan()
    desk.arm.start(1060 * MS)
    desk.chunk(1100)
    desk.tell_plan()
    arm, policy = desk.plans()
    assert len(arm) > 10
    np.testing.assert_allclose(policy, arm, atol=1e-9)
    desk.finish()


def test_a_turn_at_which_nothing_could_be_seen_is_not_lost() -> None:
    """Once a second at most; it was its turn, so it looks again at the next frame, and then not for a second."""
    desk = Desk(max_rate_hz=1.0)
    desk.worker.instruct("wave")
    desk.is_blind = True
    desk.see(1000 * MS)
    desk.wait_for(lambda: desk.worker.condition[1:] == ("blind", "camera front is silent"))
    desk.is_blind = False
    desk.answer(1033, 100)
    desk.see(1966 * MS)
    desk.answer(2033, 100)
    desk.finish()
    assert [looked[0] // MS for looked in desk.looked] == [1000, 1033, 2033]


@pytest.mark.parametrize("niceness", [0, 10])
def test_a_worker_steps_back_as_far_as_it_is_told(niceness: int) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    seen: list[int] = []
    met = threading.Event()

    def work(_: None) -> None:
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        met.set()

    worker: Worker[None] = Worker(work, lambda error: None, niceness)
    worker.offer(None)
    assert met.wait(PATIENCE_S)
    worker.close()
    assert seen == [min(own + niceness, 19)]
    assert os.getpriority(os.PRIO_PROCESS, 0) == own


def test_a_worker_outlives_what_it_stumbles_over() -> None:
    done: list[int] = []
    errors: list[Exception] = []
    met = threading.Semaphore(0)

    def work(item: int) -> None:
        try:
            done.append(1 // item)
        finally:
            met.release()

    worker: Worker[int] = Worker(work, errors.append)
    for item in (0, 1):
        assert worker.offer(item) is None
        assert met.acquire(timeout=PATIENCE_S)
    worker.close()
    assert done == [1]
    assert [type(error) for error in errors] == [ZeroDivisionError]
