"""Episodes over ROS that are recorded: each as `vla-ros run` does it, from its start to its end into the dataset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from rclpy.context import Context
from std_msgs.msg import String

from vla_ros import topics
from vla_ros.config import SystemConfig
from vla_ros.rollout.report import EpisodeRow
from vla_ros.ros import operating, qos
from vla_ros.ros.episodes import Operator, Progress, within
from vla_ros.ros.operating import APPEAR_S, RECORDER, Unanswered
from vla_ros.timing.stamps import s_to_ns

#: So many episodes may fail for each that is kept, and some more: beyond, something is wrong.
_TRIES_PER_EPISODE, _SPARE_TRIES = 2, 10
#: A command from longer before an episode is none of its labels (see recording.assembling.labels), and some more.
_FORGOTTEN_NS = s_to_ns(1.2)


@dataclass(frozen=True)
class RecordedEpisode:
    """One try: how it went, and what the recorder said of it; `is_saved`: it is in the dataset."""

    row: EpisodeRow
    is_saved: bool
    said: str


def record_episodes(
    system: SystemConfig,
    count: int,
    seed: int,
    keeps_failures: bool,
    on_episode: Callable[[RecordedEpisode], None],
    on_progress: Progress = lambda done, note: None,
) -> None:
    """Record `count` episodes on a graph with a recorder that is up, or coming up, in this ROS domain.

    `seed` is the first one's; one that is not kept is followed by the next seed, up to some limit. `on_episode` gets
    each try as it ends. Raises Unanswered.
    """
    most = _TRIES_PER_EPISODE * count + _SPARE_TRIES
    with operating.context() as context:
        operator = RecordingOperator(system, context)
        tries: list[RecordedEpisode] = []
        try:
            operator.wait_for_graph()
            while (saved := sum(one.is_saved for one in tries)) < count and len(tries) < most:
                operator.on_progress = partial(within, on_progress, saved)
                tries.append(operator.record_episode(seed + len(tries), keeps_failures))
                on_episode(tries[-1])
                on_progress(saved + tries[-1].is_saved, "")
        finally:
            operator.destroy_node()


class RecordingOperator(Operator):
    """Has the recorder begin with the arm, pause when the episode is over, and save once the arm was told to stop."""

    def __init__(self, system: SystemConfig, context: Context) -> None:
        super().__init__(system, context, services=RECORDER)
        self._control = self.create_publisher(String, topics.RECORDER_CONTROL, qos.STATE)

    def wait_for_graph(self) -> None:
        """Wait for the recorder, too."""
        super().wait_for_graph()
        self.wait_for_services(*RECORDER)
        self.hear_from("recorder")

    def record_episode(self, seed: int, keeps_failures: bool) -> RecordedEpisode:
        """One episode, saved if it succeeded or failures are kept, and if it is within the recorder's health limits."""
        row = self.run_episode(seed)
        self.call(topics.recorder("success" if row.success else "failure"))
        if not row.success and not keeps_failures:
            return RecordedEpisode(row, False, self.call(topics.recorder("discard")))
        is_saved, said = self.call_or_not(topics.recorder("save"))
        if not is_saved:
            self.call(topics.recorder("discard"))
        return RecordedEpisode(row, is_saved, said)

    def before_start(self, seed: int, instruction: str) -> None:
        """Begin to record, once the recorder knows what, and has everything that it needs."""
        self.hear_from("recorder")
        if not self.states["recorder"]["message"].startswith("idle"):
            self.call(topics.recorder("discard"))  # of an operator who went away
        self._control.publish(String(data=f"seed {seed}"))
        try:
            self.wait(lambda: self._recorder_is(seed, instruction), APPEAR_S, "the recorder is not ready")
        except Unanswered as error:
            raise Unanswered(f"{error}; it says {self.states['recorder']['message']!r}") from None
        # What was sent before the world was reset is where the arm was then: no label for where it is now.
        reset_ns = self.now_ns()
        self.spin_until(lambda: self.last_command_ns > reset_ns or self.now_ns() - self.last_command_ns > _FORGOTTEN_NS)
        self.call(topics.recorder("start"))

    def after_end(self, success: bool) -> None:
        """What comes now belongs to no episode."""
        self.call(topics.recorder("pause"))

    def _recorder_is(self, seed: int, instruction: str) -> bool:
        state = self.states["recorder"]
        return (state["message"], state["seed"], state["task"]) == ("idle", str(seed), instruction)
