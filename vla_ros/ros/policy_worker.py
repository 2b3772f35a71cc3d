"""A policy at work on a thread of its own: it follows one instruction, and always looks at the newest instant."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from vla_ros import topics
from vla_ros.config import InferenceNodeConfig
from vla_ros.policies.policy import AbsolutePolicy, PolicyError
from vla_ros.ros.diagnostics import ERROR, OK, WARN, Percentiles
from vla_ros.ros.worker import Worker
from vla_ros.timing.chunks import Schedule
from vla_ros.timing.stamps import ClockWatch, ms_to_ns, ns_to_ms, period_ns
from vla_ros.timing.track import Misaligned
from vla_ros.values import ActionChunk, Prediction, Window

Look = Callable[[int, int, int, int | None], Window]  # instant_ns, length, step_ns, earliest_ns; raises Misaligned
Publish = Callable[[ActionChunk, tuple[Prediction, ...]], None]
Condition = tuple[bytes, str, str]  # level, state, reason

#: Stamps of a camera jitter; an instant this much too early for its turn is taken already.
RATE_TOLERANCE_NS = ms_to_ns(5.0)


@dataclass(frozen=True)
class _Task:
    """What the policy is asked to do, and since when: it acts on nothing that was seen before."""

    instruction: str
    since_ns: int


@dataclass(frozen=True)
class _Instant:
    """An instant that every stream can answer for, and when (steady clock) its last frame came."""

    instant_ns: int
    received_s: float


class PolicyWorker:
    """Follows the instruction given last; newer instants replace those it had no time for.

    It asks again as soon as it has an answer, but never sooner after the last instant than `max_rate_hz` allows: that
    is the operator's word, and holds where the chunks run out too. Then the condition says what would have to change.
    `look` and `publish` are called on the worker's thread, everything here on the owner's. What goes wrong is no
    exception but the `condition`, and nothing is published then.
    """

    def __init__(
        self, policy: AbsolutePolicy, config: InferenceNodeConfig, now: Callable[[], int], look: Look, publish: Publish
    ) -> None:
        self.latency_ms = Percentiles()  # wall time from an instant's last frame to its published chunk
        self.delay_ms: float | None = None  # from an observation to the time its chunk counts, of nearly all chunks
        self.counts = {"instructed": 0, "inferred": 0, "overtaken": 0, "failed": 0}
        self._policy = policy
        self._now = now
        self._look = look
        self._publish = publish
        self._period_ns = period_ns(config.max_rate_hz)
        self._max_age_ms = config.max_observation_age_ms
        self._schedule = Schedule(config.schedule)  # as the controller has it, for what is committed
        self._scheduled: tuple[ActionChunk, int] | None = None  # the last chunk, and when it was sent
        self._plan_since_ns = self._planned_since_ns = 0  # as the controller says; as the schedule is
        self._planned_until_ns: int | None = None
        self._clock = ClockWatch()
        self._wanted: _Task | None = None
        self._followed: _Task | None = None
        self._refused = False
        self._last_instant_ns: int | None = None
        self._condition: Condition = (OK, "waiting", f"no instruction on {topics.INSTRUCTION} yet")
        self._worker: Worker[_Instant | None] = Worker(self._work, self._on_error)

    @property
    def instruction(self) -> str:
        """The instruction it follows, or has refused; "" before the first."""
        return self._followed.instruction if self._followed else ""

    @property
    def since_ns(self) -> int | None:
        """Since when the policy follows its instruction, and is reset for it; None: it follows none."""
        task = self._followed
        return None if task is None or self._refused else task.since_ns

    @property
    def condition(self) -> Condition:
        """What it does and what keeps it from doing better."""
        return self._condition

    def instruct(self, instruction: str) -> None:
        """From now on follow `instruction`."""
        self._wanted = _Task(instruction, self._now())
        self._worker.offer(None)

    def begin_again(self) -> None:
        """Follow the same instruction, and act on nothing from before; a chunk that is being decided is not sent."""
        if self._wanted is not None:
            self._last_instant_ns = None
            self.instruct(self._wanted.instruction)

    def plan_since(self, time_ns: int | None) -> None:
        """The controller follows no chunk that was observed before `time_ns`; None: not known."""
        self._plan_since_ns = self._plan_since_ns if time_ns is None else time_ns

    @property
    def planned_until_ns(self) -> int | None:
        """When the last action that the policy takes for committed is due; None where none is."""
        return self._planned_until_ns if self._planned_since_ns == self._plan_since_ns else None

    def offer(self, instant_ns: int) -> None:
        """A newer instant is complete; it is looked at if the policy's next turn has come."""
        if self._clock.observe(self._now()):
            self.begin_again()  # what was decided before is in the future now
        last_ns = self._last_instant_ns
        if last_ns is None or instant_ns - last_ns >= self._period_ns - RATE_TOLERANCE_NS:
            replaced = self._worker.offer(_Instant(instant_ns, time.perf_counter()))
            self.counts["overtaken"] += replaced is not None

    def close(self) -> None:
        """End the thread."""
        self._worker.close()

    # --- on the worker's thread ---

    def _work(self, instant: _Instant | None) -> None:
        task = self._wanted
        if task is None:
            return
        if task is not self._followed:
            self._follow(task)
        if instant is not None and not self._refused and instant.instant_ns >= task.since_ns:
            self._infer(instant, task)

    def _follow(self, task: _Task) -> None:
        self._last_instant_ns = None
        self._schedule.clear()
        self._scheduled = self._planned_until_ns = None
        try:
            self._policy.reset(task.instruction)
            self._refused = False
            self._condition = (OK, "inferring", "")
        except ValueError as error:
            self._refused = True
            self._condition = (ERROR, "refusing", f"instruction {task.instruction!r}: {error}")
        self._followed = task
        self.counts["instructed"] += 1

    def _infer(self, instant: _Instant, task: _Task) -> None:
        self._last_instant_ns = instant_ns = instant.instant_ns
        refuse_stale(self._now(), instant_ns, self._max_age_ms)
        look, action = self._policy.window_spec, self._policy.action_spec
        window = self._look(instant_ns, look.length, look.step_ns, task.since_ns)
        self._follow_plan()
        scheduled = self._schedule.committed(instant_ns, action.horizon, action.step_ns)
        chunk, predictions = self._policy.infer(window, scheduled, self._schedule.delay_steps(action.step_ns))
        if task is not self._wanted:
            return  # told something else in the meantime
        self._publish(chunk, predictions)
        self._schedule_chunk(chunk, self._now())
        self.delay_ms = self._schedule.delay_ms
        self.latency_ms.add(1e3 * (time.perf_counter() - instant.received_s))
        self.counts["inferred"] += 1
        gap = self._gap()
        self._condition = (WARN, "late", gap) if gap else (OK, "inferring", "")

    def _follow_plan(self) -> None:
        """Drop what the controller has dropped."""
        if self._planned_since_ns == self._plan_since_ns:
            return
        self._planned_since_ns = self._plan_since_ns
        self._schedule.clear()
        last, self._scheduled, self._planned_until_ns = self._scheduled, None, None
        if last is not None:
            self._schedule_chunk(*last)

    def _schedule_chunk(self, chunk: ActionChunk, added_ns: int) -> None:
        self._scheduled = chunk, added_ns
        if chunk.observation_ns >= self._planned_since_ns:
            self._schedule.add(chunk, added_ns)
            self._planned_until_ns = self._schedule.end_ns

    def _gap(self) -> str:
        """Why the arm stops between two chunks, and what would help; "" where the next one comes in time.

        A chunk lasts to the end of its last step. The next is observed a period later, and counts after the delay.
        """
        action, delay_ms = self._policy.action_spec, self.delay_ms or 0.0
        step_ms, period_ms = ns_to_ms(action.step_ns), ns_to_ms(self._period_ns)
        covers_ms, needed_ms = action.horizon * step_ms, max(period_ms, delay_ms) + delay_ms
        if needed_ms <= covers_ms:
            return ""
        remedy = f"raise the horizon to {math.ceil(needed_ms / step_ms)} rows"
        if 2.0 * delay_ms < covers_ms:
            remedy += f" or max_rate_hz above {1e3 / (covers_ms - delay_ms):.1f}"
        return (
            f"delay {delay_ms:.0f} ms, asked every {needed_ms - delay_ms:.0f} ms, chunk covers {covers_ms:.0f} ms: "
            f"the arm may stop between chunks; {remedy}"
        )

    def _on_error(self, error: Exception) -> None:
        self.counts["failed"] += 1
        if isinstance(error, Misaligned):
            self._last_instant_ns = None  # the policy was not asked: its turn is still due
            self._condition = (WARN, "blind", str(error))
        elif isinstance(error, PolicyError):
            self._condition = (ERROR, "failing", str(error))
        else:
            self._condition = (ERROR, "failing", f"{type(error).__name__}: {error}")


def refuse_stale(now_ns: int, instant_ns: int, max_age_ms: float) -> None:
    """Raise Misaligned where the newest instant is older than that: it says nothing of what is there now."""
    age_ms = ns_to_ms(now_ns - instant_ns)
    if age_ms > max_age_ms:
        raise Misaligned(f"the newest observation is {age_ms:.0f} ms old, at most {max_age_ms:.0f} ms")
