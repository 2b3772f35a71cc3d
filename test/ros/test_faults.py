"""Faults of the simulated robot, over DDS: the arm brakes within two periods, says why, and goes on afterwards.

Every node is real. A fault comes at a simulated time of the episode, while the arm is on its way to a cube; what is
asserted is read from what the nodes publish, in simulated time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("mujoco")

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Float64MultiArray, String
from tf2_msgs.msg import TFMessage
from trajectory_msgs.msg import JointTrajectory

from vla_ros import config, messages, topics
from vla_ros.config import SystemConfig
from vla_ros.robots.panda import PANDA
from vla_ros.ros import convert, qos
from vla_ros.simulation.world import EPISODE_S
from vla_ros.timing.stamps import s_to_ns

MS = 1_000_000
PERIOD_NS = 10 * MS  # of the controller
MAX_STATE_AGE_NS, MAX_CHUNK_AGE_NS = 100 * MS, 700 * MS
STOPS_WITHIN_NS = 500 * MS
INSTRUCTION = "lift the red cube"
VELOCITY_LIMIT_RAD_S = np.array([joint.velocity_rad_s for joint in PANDA.joints])
DEEP = QoSProfile(depth=2000, reliability=ReliabilityPolicy.BEST_EFFORT)

Fault = dict[str, Any]


def system(faults: dict[str, Fault]) -> SystemConfig:
    """The shipped system with small pictures, ages that count early, a gripper that is asked often, and faults."""
    values = config.load("franka_upvla").model_dump(mode="json")
    values["simulation"] |= {"instruction": INSTRUCTION, "faults": faults}
    values["controller"]["watchdog"] |= {"max_state_age_ms": 100.0, "max_chunk_age_ms": 700.0}
    values["controller"]["gripper"] |= {"max_retries": 20}
    for camera in values["cameras"].values():
        camera |= {"width": 64, "height": 64, "frozen_after_ms": 300.0}
    return SystemConfig.model_validate(values)


class Episode:
    """What the nodes say from the reset of the world on; times in simulated ns, without what the clock has jumped."""

    def __init__(self, watcher: Any, shift_ns: int) -> None:
        self.watcher = watcher
        self._shift_ns = shift_ns
        self._commands = watcher.hear(JointTrajectory, topics.COMMAND, DEEP)
        self._chunks = watcher.hear(JointTrajectory, topics.CHUNK, DEEP)
        self._states = watcher.hear(DiagnosticArray, topics.STATE, QoSProfile(depth=1000))
        self._worlds = watcher.hear(Float64MultiArray, topics.SIMULATION_STATE, DEEP)
        fixed = watcher.hear(TFMessage, "/tf_static", qos.LATCHED)
        instructions = watcher.create_publisher(String, topics.INSTRUCTION, qos.LATCHED)
        instructions.publish(String(data=INSTRUCTION))
        watcher.until_said("controller", "holding: not started")
        watcher.until(lambda: "inferring" in watcher.said.get("inference", []), "the policy to infer")
        resets = len(fixed)
        watcher.call(topics.SIMULATION_RESET)
        watcher.call(topics.START)
        watcher.until(lambda: len(fixed) > resets, "the frames of the new episode")
        #: The frames are stamped with the time of the reset, from which the faults count.
        self.start_ns = messages.stamp_to_ns(fixed[-1].transforms[0].header.stamp)

    def again(self) -> Episode:
        """The same from its beginning."""
        self.watcher.call(topics.STOP)
        return Episode(self.watcher, self._shift_ns)

    def at_ns(self, at_s: float) -> int:
        """The time `at_s` after the reset."""
        return self.start_ns + s_to_ns(at_s)

    def until_ns(self, time_ns: int) -> None:
        self.watcher.until(lambda: self.said()[-1][0] >= time_ns, f"the state of {time_ns} ns")

    def until_it_moves(self, since_ns: int) -> None:
        def moves() -> bool:
            return bool((self.speeds_rad_s[self.times_ns > since_ns] > 0.1).any())

        self.watcher.until(moves, "the arm to move")
        self.watcher.until_said("controller", "running")

    def until_it_succeeds(self) -> None:
        """Wait until the cube is lifted; as long as simulated time goes on, but not longer than an episode is."""

        def succeeds() -> bool:
            return any(convert.array_to_world_state(state).success for state in self._worlds[-1:])

        now_ns = self.times_ns[-1]
        while not succeeds():
            assert now_ns < self.at_ns(EPISODE_S), self.said()[-1]
            now_ns += s_to_ns(1.0)
            self.watcher.until(lambda: succeeds() or self.times_ns[-1] > now_ns, "a second to pass")  # noqa: B023

    @property
    def times_ns(self) -> np.ndarray:
        """Of the commands (N,)."""
        return self._without_jump([messages.stamp_to_ns(command.header.stamp) for command in self._commands])

    @property
    def speeds_rad_s(self) -> np.ndarray:
        """Commanded (N,), of the fastest joint."""
        return np.array([np.abs(command.points[0].velocities[:7]).max() for command in self._commands])

    def last_observed_ns(self, before_ns: int) -> int:
        """What the last chunk was inferred from that was observed before."""
        observed = (messages.stamp_to_ns(chunk.header.stamp) for chunk in self._chunks)
        return max(time_ns for time_ns in observed if time_ns < before_ns)

    def said(self, node: str = "controller") -> list[tuple[int, str]]:
        """Times and messages of a node."""
        heard = [(array.header.stamp, entry) for array in self._states for entry in array.status if entry.name == node]
        times_ns = self._without_jump([messages.stamp_to_ns(stamp) for stamp, _ in heard])
        return [(int(time_ns), entry.message) for time_ns, (_, entry) in zip(times_ns, heard, strict=True)]

    def _without_jump(self, stamps_ns: list[int]) -> np.ndarray:
        times_ns = np.array(stamps_ns, dtype=np.int64)
        if self._shift_ns and (after := np.abs(np.diff(times_ns)) > abs(self._shift_ns) / 2).any():
            times_ns[np.argmax(after) + 1 :] -= self._shift_ns
        return times_ns

    def braked(self, fault_ns: int, counts_ns: int, still_until_ns: int, cause: str) -> None:
        """Assert that the arm was on its way, said within two periods of `counts_ns` why not any more, and stood still.

        `counts_ns`: the fault, or when it has lasted for so long that it counts.
        """
        times_ns, speeds = self.times_ns, self.speeds_rad_s
        assert speeds[times_ns < fault_ns][-1] > 0.1, "it was on its way"
        first_ns, first = next(
            (time_ns, message)
            for time_ns, message in self.said()
            if time_ns >= fault_ns and not message.startswith("running")
        )
        assert first.startswith(("ramping: ", "holding: ")) and cause in first, first
        # A machine that has no time for the controller loses ticks: a few periods, in which it counts its own.
        ticks = np.count_nonzero((times_ns > counts_ns) & (times_ns < first_ns))
        assert ticks <= 2 and first_ns <= counts_ns + 5 * PERIOD_NS, (first, ticks, (first_ns - counts_ns) / MS)
        if cause.startswith("fault of the robot"):
            assert not np.count_nonzero((times_ns > first_ns) & (times_ns <= still_until_ns)), "nothing is sent"
            return
        braking = speeds[(times_ns >= max(first_ns, counts_ns)) & (times_ns <= still_until_ns)]
        assert (np.diff(braking) < 0.02).all(), "ever slower, but for the end of an acceleration"
        still = speeds[(times_ns > counts_ns + STOPS_WITHIN_NS) & (times_ns <= still_until_ns)]
        assert still.size and not still.any(), "it stands"

    def never_jumped(self) -> None:
        """Assert that what the driver was sent keeps the arm's limits from command to command, by their stamps.

        But for a robot in a fault, which follows nobody: it is sent nothing, and then where it is.
        """
        sent = np.array([command.points[0].positions[:7] for command in self._commands])
        fault_ns = next((time_ns for time_ns, message in self.said() if "fault of the robot" in message), 0)
        heeded = (self.times_ns[1:] < fault_ns) | (self.times_ns[:-1] > fault_ns)
        speeds = (np.abs(np.diff(sent, axis=0)) / (np.diff(self.times_ns)[:, None] * 1e-9))[heeded]
        assert len(speeds) > 100
        assert (speeds <= VELOCITY_LIMIT_RAD_S).all(), speeds.max(axis=0)


@pytest.fixture
def begin(start_graph: Callable[..., Any], make_watcher: Callable[..., Any]) -> Callable[..., Episode]:
    def begin(**faults: Fault) -> Episode:
        start_graph(system(faults))
        shift_s = sum(fault.get("shift_s", 0.0) for fault in faults.values())
        return Episode(make_watcher(use_sim_time=True), s_to_ns(shift_s))

    return begin


def test_without_good_joint_states_it_holds_and_goes_on_by_itself(begin: Callable[..., Episode]) -> None:
    episode = begin(
        none={"kind": "joint_dropout", "at_s": 1.2, "for_s": 0.8},
        old={"kind": "late_stamps", "at_s": 2.7, "for_s": 0.7, "shift_ms": -250.0},
    )
    for may_be_too_busy in (True, True, False):
        episode.until_it_moves(episode.at_ns(3.4))
        none_ns, old_ns = episode.at_ns(1.2), episode.at_ns(2.7)
        # Where the controller is behind, the first good joint state is there for a tick of before the fault's end.
        none_until_ns, old_until_ns = episode.at_ns(1.95), episode.at_ns(3.35)
        episode.braked(none_ns, none_ns + MAX_STATE_AGE_NS, none_until_ns, "stale joint state: 1")
        # A machine that loses the joint states of some ticks leaves nothing to notice but that they are missing.
        episode.braked(old_ns, old_ns + MAX_STATE_AGE_NS, old_until_ns, "stale joint state: ")
        episode.never_jumped()
        try:
            # Three of them are needed to be believed.
            episode.braked(old_ns, old_ns + 3 * PERIOD_NS, old_until_ns, "stale joint state: 2")
            return
        except AssertionError:
            if not may_be_too_busy:
                raise
        episode = episode.again()


@pytest.mark.parametrize(
    ("kind", "noticed_ns", "told"),
    [
        ("camera_stall", 0, "camera front: stalled, nothing usable for"),
        # It takes a moment to be noticed, in which the arm has to move.
        ("frozen_image", 600 * MS, "camera front: frozen, the same picture for"),
    ],
    ids=["camera_stall", "frozen_image"],
)
def test_without_new_pictures_it_holds_and_goes_on_by_itself(
    begin: Callable[..., Episode], kind: str, noticed_ns: int, told: str
) -> None:
    episode = begin(fault={"kind": kind, "camera": "front", "at_s": 1.2, "for_s": 1.8})
    fault_ns, over_ns = episode.at_ns(1.2), episode.at_ns(3.0)
    episode.until_it_moves(over_ns)
    assert any(told in message for time_ns, message in episode.said("inference") if time_ns > fault_ns)
    observed_ns = episode.last_observed_ns(over_ns)
    assert observed_ns < fault_ns + noticed_ns
    counts_ns = observed_ns + MAX_CHUNK_AGE_NS
    episode.braked(fault_ns, counts_ns, over_ns, "acted on is 7")
    episode.never_jumped()


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ({"kind": "reflex"}, "fault of the robot: reflex: joint_reflex"),
        ({"kind": "clock_jump", "shift_s": -1.0}, "clock jump"),
        pytest.param({"kind": "clock_jump", "shift_s": 20.0}, "clock jump", marks=pytest.mark.full),
    ],
    ids=["reflex", "clock_jump_back", "clock_jump_forward"],
)
def test_after_what_an_operator_has_to_know_it_holds_until_he_resumes(
    begin: Callable[..., Episode], fault: Fault, cause: str
) -> None:
    episode = begin(fault={"at_s": 1.2, **fault})
    fault_ns = episode.at_ns(1.2)
    stands_ns = fault_ns + STOPS_WITHIN_NS + 200 * MS
    episode.until_ns(stands_ns)
    episode.braked(fault_ns, fault_ns, stands_ns, cause)
    time_ns, message = episode.said()[-1]
    assert message.startswith(f"holding: {cause}")
    episode.watcher.call(topics.RESUME)
    episode.until_it_moves(time_ns)
    episode.never_jumped()


def test_what_is_no_reason_to_hold_does_not_keep_it_from_its_task(begin: Callable[..., Episode]) -> None:
    episode = begin(
        shuffled={"kind": "reordered_stamps", "camera": "front", "at_s": 0.5, "for_s": 1.0},
        radio={"kind": "message_loss", "at_s": 1.5, "for_s": 1.5, "probability": 0.3},
        stuck={"kind": "gripper_refusal", "at_s": 3.0, "for_s": 3.0},
    )
    seen = episode.watcher.hear(Image, "/camera/front/image_raw", DEEP)
    episode.watcher.until(lambda: "refused" in episode.watcher.values["controller"]["gripper"], "it to be told")
    episode.until_it_succeeds()
    assert episode.times_ns[-1] > episode.at_ns(6.0), "the gripper was asked again"
    controller = episode.watcher.values["controller"]
    assert controller["gripper"] == "" and int(controller["intervention.gripper_failures"]) >= 1
    stamps_ns = np.array([messages.stamp_to_ns(image.header.stamp) for image in seen])
    overtaken_ns = stamps_ns[1:][np.diff(stamps_ns) < 0]
    assert overtaken_ns.size and (overtaken_ns < episode.at_ns(1.6)).all()
    between = (stamps_ns > episode.at_ns(1.5)) & (stamps_ns < episode.at_ns(3.0))
    assert 20 <= between.sum() <= 42, "of 45 pictures"
    told = [message for time_ns, message in episode.said() if time_ns > episode.at_ns(0.5)]
    assert set(told) == {"running"}
    episode.never_jumped()
