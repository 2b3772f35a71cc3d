"""The recorder node over DDS: what was published is recorded row for row; nothing unwell is kept silently."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from vla_ros import messages, topics
from vla_ros.config import CameraConfig, RecorderNodeConfig, to_parameters
from vla_ros.control import kinematics
from vla_ros.graph import NodeSpec
from vla_ros.recording import features
from vla_ros.recording.config import RecordingConfig
from vla_ros.recording.reader import DatasetReader
from vla_ros.robots.panda import PANDA
from vla_ros.ros import convert, qos
from vla_ros.ros.recording_desk import RecordingDesk
from vla_ros.timing.stamps import period_ns
from vla_ros.values import ActionChunk, Command, Target

FPS = 20
SETTLE_MS = 1500.0  # on a busy machine the robot of this test is late, though its stamps are exact
TASK = "put the cube on the plate"

CAMERA_HZ, JOINTS_HZ = 30.0, 100.0
HEIGHT, WIDTH = 48, 64
BITS = 8
CAMERA_PERIOD_S = 1.0 / CAMERA_HZ
CAMERAS = {
    name: CameraConfig(topic=f"/camera/{name}/image_raw", rate_hz=CAMERA_HZ, height=HEIGHT, width=WIDTH)
    for name in ("front", "wrist")
}
REQUESTED_OFFSET_RAD = 0.01
SPEED_RAD_S = 0.02  # of joint 1: within its range for two minutes


def picture(number: int) -> Any:
    """(H, W, 3): the number's bits as broad stripes, which survive compression."""
    bits = [255 * (number >> bit & 1) for bit in range(BITS)]
    row = np.repeat(np.array(bits, dtype=np.uint8), WIDTH // BITS)
    return np.ascontiguousarray(np.broadcast_to(row[None, :, None], (HEIGHT, WIDTH, 3)))


def number_in(image: Any) -> int:
    """The number of a picture."""
    levels = np.asarray(image, dtype=float).mean(axis=(0, 2)).reshape(BITS, -1).mean(axis=1)
    return sum(1 << bit for bit, level in enumerate(levels) if level > 127.0)


class RecordedRobot(Node):
    """Frame k of each camera is taken k/30 s after `start_ns` and shows k (modulo 256); joint 1 is the time since then.

    All stamps are on exact grids, whenever the test's process finds the time to publish. `silent`: names of cameras
    that publish nothing.
    """

    def __init__(self, context: Any) -> None:
        super().__init__("robot", context=context)
        self.start_ns = self.get_clock().now().nanoseconds
        self.silent: set[str] = set()
        self.size = (HEIGHT, WIDTH)
        self._frames = self._samples = 0
        self._forward = kinematics.for_robot(PANDA).forward
        self._cameras = {
            name: self.create_publisher(Image, camera.topic, qos.SENSOR) for name, camera in CAMERAS.items()
        }
        ends = PANDA.endpoints
        self._joints = self.create_publisher(JointState, ends["joint_states"].name, 100)
        self._gripper = self.create_publisher(JointState, ends["gripper_joint_states"].name, 100)
        self._command = self.create_publisher(JointTrajectory, topics.COMMAND, 100)
        self._requested = self.create_publisher(JointTrajectory, topics.REQUESTED, 100)
        self._chunk = self.create_publisher(JointTrajectory, topics.CHUNK, 10)
        self._state = self.create_publisher(DiagnosticArray, topics.STATE, 10)
        self._instruction = self.create_publisher(String, topics.INSTRUCTION, qos.LATCHED)
        self._control = self.create_publisher(String, topics.RECORDER_CONTROL, 10)
        self._notes = self.create_publisher(String, topics.RECORDER_NOTES, 10)
        self.create_timer(0.004, self._publish_what_is_due)

    def instruct(self, task: str) -> None:
        self._instruction.publish(String(data=task))

    def control(self, word: str) -> None:
        self._control.publish(String(data=word))

    def note(self, text: str) -> None:
        self._notes.publish(String(data=text))

    def babble(self) -> None:
        """A command that is none of this arm."""
        self._command.publish(JointTrajectory(joint_names=["elbow"]))

    def positions(self, stamp_ns: int) -> Any:
        home = np.array(PANDA.home_rad)
        home[0] = SPEED_RAD_S * (stamp_ns - self.start_ns) / 1e9
        return home

    def _publish_what_is_due(self) -> None:
        now_ns = self.get_clock().now().nanoseconds
        while (stamp_ns := self.start_ns + self._samples * period_ns(JOINTS_HZ)) <= now_ns:
            self._publish_sample(stamp_ns)
            self._samples += 1
        while (stamp_ns := self.start_ns + round(self._frames * 1e9 / CAMERA_HZ)) <= now_ns:
            for name, publisher in self._cameras.items():
                if name not in self.silent:
                    image = np.resize(picture(self._frames % (1 << BITS)), (*self.size, 3))
                    publisher.publish(convert.rgb_to_image(image, stamp_ns, name))
            self._frames += 1

    def reset_the_simulation(self) -> None:
        """As a simulator says that it did."""
        entry = KeyValue(key=messages.RESET, value=str(self.get_clock().now().nanoseconds))
        self._state.publish(DiagnosticArray(status=[DiagnosticStatus(name="simulator", values=[entry])]))

    def _publish_sample(self, stamp_ns: int) -> None:
        positions = self.positions(stamp_ns)
        stamp = convert.ns_to_stamp(stamp_ns)
        joints = JointState(name=list(PANDA.joint_names), position=positions.tolist(), velocity=[0.0] * 7)
        fingers = JointState(name=list(PANDA.gripper.finger_joints), position=[0.02, 0.02])
        joints.header.stamp = fingers.header.stamp = stamp
        self._joints.publish(joints)
        self._gripper.publish(fingers)
        command = Command(stamp_ns, positions, np.zeros(7), self._forward(positions), 0.04)
        self._command.publish(convert.command_to_trajectory(command, PANDA.joint_names, "base"))
        wanted = np.append(positions + REQUESTED_OFFSET_RAD, 0.04)
        target = Target(stamp_ns, (*PANDA.joint_names, "gripper"), wanted)
        self._requested.publish(convert.target_to_trajectory(target, "base"))
        if self._samples % 10 == 0:
            self._publish_state(stamp, ("mode", "policy"), ("safety_state", "running"), ("intervention.velocity", "3"))
            chunk = ActionChunk(stamp_ns - 80_000_000, 100_000_000, PANDA.joint_names, np.stack([positions] * 2))
            self._chunk.publish(convert.chunk_to_trajectory(chunk, "base"))

    def _publish_state(self, stamp: Any, *values: tuple[str, str]) -> None:
        entries = [KeyValue(key=key, value=value) for key, value in values]
        status = DiagnosticStatus(name="controller", message="running", values=entries)
        message = DiagnosticArray(status=[status])
        message.header.stamp = stamp
        self._state.publish(message)


StartNode = Callable[[NodeSpec], Any]


def spec(root: Path) -> NodeSpec:
    recording = RecordingConfig(fps=FPS, settle_ms=SETTLE_MS)
    config = RecorderNodeConfig(root=str(root), cameras=CAMERAS, recording=recording, source="teleop")
    return NodeSpec("recorder", "recorder", params=to_parameters(config))


class Desk:
    """The test's side: a robot, a watcher who calls the recorder's services."""

    def __init__(self, watcher: Any) -> None:
        self.watcher = watcher
        self.robot = RecordedRobot(watcher.context)
        watcher.spin_too(self.robot)

    def tell(self, word: str) -> tuple[bool, str]:
        answer = self.watcher.call(topics.recorder(word))
        return answer.success, answer.message

    def value(self, key: str) -> str:
        return str(self.watcher.values.get("recorder", {}).get(key, ""))

    def until(self, condition: Callable[[], bool], what: str) -> None:
        self.watcher.until(condition, what)

    def is_at(self, episode: int) -> bool:
        return self.value("episode") == str(episode)

    def begin(self, task: str = TASK) -> None:
        self.robot.instruct(task)
        self.until(lambda: self.value("task") == task, "the task to be taken")
        # On a busy machine a stream may pause just then, and the recorder refuses.
        self.until(lambda: self.said == "idle" and self.tell("start") == (True, task), "the recorder to begin")

    @property
    def said(self) -> str:
        return str(self.watcher.said.get("recorder", [""])[-1])

    def record(self, frames: int, task: str = TASK) -> None:
        self.begin(task)
        self.until(lambda: int(self.value("frames")) >= frames, f"{frames} frames")


@pytest.fixture
def desk(make_watcher: Callable[[], Any]) -> Desk:
    return Desk(make_watcher())


def assert_rows_are_true(root: Path, episode: int, robot: RecordedRobot) -> None:
    """Every row's pictures, joints and commands are those of its instant, as the robot's clock has them."""
    reader = DatasetReader(root)
    columns = reader.columns(episode, [features.STATE, features.ACTION, features.STAMP, features.REQUESTED])
    first = reader.meta.episodes[episode].from_index
    seconds = columns[features.STATE][:, 0] / SPEED_RAD_S  # joint 1 since the robot's start
    assert np.allclose(np.diff(seconds), 1.0 / FPS, atol=1e-3)
    for row, second in enumerate(seconds):
        images = reader.row(first + row).images
        for name, stamp_s in zip(CAMERAS, columns[features.STAMP][row], strict=True):
            number = number_in(images[name])
            taken_s = number * CAMERA_PERIOD_S + 256 * CAMERA_PERIOD_S * round((second * CAMERA_HZ - number) / 256)
            assert abs(taken_s - second) < 0.5 * CAMERA_PERIOD_S + 2e-3
            assert taken_s - seconds[0] == pytest.approx(stamp_s, abs=2e-3)
    sent_s = columns[features.ACTION][:, 0] / SPEED_RAD_S  # held since it was sent, at most a tick ago
    assert (seconds - sent_s < 1.0 / JOINTS_HZ + 1e-3).all() and (seconds - sent_s > -1e-3).all()
    assert np.allclose(
        columns[features.REQUESTED][:, 1] - columns[features.ACTION][:, 1], REQUESTED_OFFSET_RAD, atol=1e-5
    )


def test_what_was_published_is_recorded_row_for_row(desk: Desk, start_node: StartNode, tmp_path: Path) -> None:
    root = tmp_path / "new" / "dataset"
    desk.robot.silent.add("wrist")
    node = start_node(spec(root))
    assert desk.tell("start") == (False, "there is no task: describe in words what the episode will show")
    assert desk.tell("save") == (False, "no episode is open; to begin one: start")
    desk.robot.instruct(TASK)
    desk.until(lambda: desk.value("task") == TASK, "the task to be taken")
    success, why = desk.tell("start")
    assert not success and "wrist is /camera/wrist/image_raw" in why and "front" not in why
    desk.robot.size = (HEIGHT, 10 * WIDTH)
    desk.until(lambda: "images on /camera/front/image_raw have 92160 bytes, and at most 24576" in desk.said, "the size")
    desk.robot.size = (HEIGHT, WIDTH)
    desk.robot.silent.clear()

    desk.record(30)
    desk.robot.note("gripper squeaks")
    assert desk.tell("success") == (True, "success")
    assert desk.tell("start")[1] == "an episode is recording: save or discard it first"
    success, said = desk.tell("save")
    assert success and said.startswith("episode 0: ")

    desk.robot.control("seed 7")
    desk.until(lambda: desk.value("seed") == "7", "the seed to be taken")
    desk.until(lambda: desk.said == "recording" or desk.robot.control("start"), "a pedal to be heard")
    desk.until(lambda: int(desk.value("frames")) >= 10, "10 frames")
    assert desk.tell("pause")[0]
    desk.until(lambda: desk.said == "paused", "the pause")
    frames = int(desk.value("frames"))
    assert desk.tell("resume")[0]
    desk.until(lambda: int(desk.value("frames")) >= frames + 10, "10 frames more")
    assert desk.tell("discard")[0]

    second = start_node(NodeSpec("recorder", "another", params=spec(root).params))
    assert second.exit_code() == 2
    assert f"is being written by process {node.process_id}" in second.output

    desk.record(15, "the other task")
    assert node.end(signal.SIGINT) == 0
    assert "an episode of" in node.output and "was not saved" in node.output

    reader = DatasetReader(root)
    assert [*reader.meta.tasks.values()] == [TASK]
    assert len(reader.meta.episodes) == 1
    assert len(reader) == reader.meta.episodes[0].length >= 30
    details = reader.meta.details(reader.meta.episodes[0])
    assert (details["success"], details["notes"], details["source"]) == (True, "gripper squeaks", "teleop")
    columns = reader.columns(0, [features.MODE, features.SAFETY, features.LATENCY, features.REPEATED])
    assert (columns[features.MODE] == features.MODES.index("policy")).all()
    assert (columns[features.SAFETY] == features.SAFETY_STATES.index("running")).all()
    assert (columns[features.LATENCY][5:] > 0.08).all() and (columns[features.LATENCY] < 5.0).all()
    assert not columns[features.REPEATED].any()
    assert_rows_are_true(root, 0, desk.robot)


def test_what_is_not_well_is_kept_on_a_word_only(desk: Desk, start_node: StartNode, tmp_path: Path) -> None:
    root = tmp_path / "dataset"
    node = start_node(spec(root))
    desk.record(20)
    desk.robot.silent.add("wrist")
    desk.until(lambda: int(desk.value("repeated.wrist")) >= 8, "a camera that is repeated")
    desk.until(lambda: "camera wrist: stalled" in desk.said, "the recorder to say so")
    assert "wrist is /camera/wrist/image_raw" in desk.said
    desk.robot.silent.clear()
    success, why = desk.tell("save")
    assert not success
    assert why.startswith("not saved: ") and "rows on end repeat one source (wrist " in why
    desk.until(lambda: desk.said.startswith("unsaved: "), "the refusal in its state")
    success, why = desk.tell("resume")
    assert (success, why) == (False, "no episode is paused, the state is unsaved")
    assert desk.tell("save_anyway")[0]

    desk.record(20, "another task")
    assert desk.tell("save")[0]
    assert [episode.task for episode in DatasetReader(root).meta.episodes] == [TASK, "another task"]
    desk.until(lambda: desk.tell("rerecord") == (True, "another task"), "that one again")
    assert len(DatasetReader(root).meta.episodes) == 1
    desk.until(lambda: int(desk.value("frames")) >= 25, "25 frames")
    assert desk.tell("failure")[0]
    assert desk.tell("save")[0]

    desk.record(20)
    desk.robot.reset_the_simulation()
    desk.until(
        lambda: desk.said.startswith("unsaved: the simulation was reset during this episode"), "the reset to be seen"
    )
    assert desk.tell("discard")[0]

    desk.robot.size = (32, 64)  # what a camera sends is not what it was said to be
    desk.begin()
    what = "camera front: what is recorded has shape (48, 64, 3)"
    desk.until(lambda: what in desk.said, what)
    assert desk.tell("discard")[0]
    assert node.end(signal.SIGTERM) == 0
    assert "set aside" not in node.output

    reader = DatasetReader(root)
    first, second = reader.meta.episodes
    repeated = reader.columns(0, [features.REPEATED])[features.REPEATED]
    assert repeated.sum(axis=0)[1] >= 8 and repeated.sum(axis=0)[0] == 0
    assert second.task == "another task" and second.length >= 25
    assert reader.meta.details(second)["success"] is False
    assert reader.meta.details(first)["extra"]["problems"]
    assert_rows_are_true(root, 1, desk.robot)
    assert not any((root / ".recording").glob("episode-*"))
    assert not any((root / ".recording" / "aside").glob("*"))


def test_a_person_leads_it_from_a_desk(desk: Desk, start_node: StartNode, tmp_path: Path) -> None:
    person = RecordingDesk(desk.watcher.context, use_sim_time=False)

    def until(condition: Callable[[], bool], what: str) -> None:
        desk.until(lambda: person.spin(0.0) or condition(), what)

    def press_until(state: str) -> None:
        """Press the key for what is next, again where that was refused: on a busy machine a stream may pause."""
        while person.state != state:
            answers = person.count
            person.begin_or_pause()
            until(partial(is_answered, answers), "an answer")
            until(lambda: person.state == state or "not everything" in person.said[-1], state)

    def is_answered(answers: int) -> bool:
        return person.count > answers

    person.tell("start")
    assert list(person.said) == ["start: the recorder is not running yet"]
    node = start_node(spec(tmp_path / "dataset"))
    until(lambda: person.recorder.get("message") == "idle", "the recorder")
    person.instruct(TASK)
    until(lambda: person.recorder["task"] == TASK, "the task")
    press_until("recording")
    until(lambda: int(person.recorder["frames"]) >= 12, "12 frames")
    press_until("paused")
    press_until("recording")
    person.tell("save")
    until(lambda: person.said[-1].startswith("save: episode 0: "), "an episode")
    desk.robot.control("discard")  # somebody else's word is told, too
    until(lambda: person.said[-1] == "discard: no episode is open; to begin one: start", "what was said to a pedal")
    desk.robot.control("seed " + 500 * "9")
    until(lambda: "unknown command 'seed 999" in person.said[-1], "a number beyond reason to be refused")
    desk.robot.babble()
    unread = "1 messages of /vla/command cannot be read (a command has the dimensions panda_joint1"
    until(lambda: unread in person.recorder["message"], "what nobody can read to be told")
    person.destroy_node()
    assert node.end() == 0


def test_an_episode_that_is_being_saved_when_the_node_is_ended_is_saved(
    desk: Desk, start_node: StartNode, tmp_path: Path
) -> None:
    node = start_node(spec(tmp_path / "dataset"))
    desk.until(partial(desk.is_at, 0), "the recorder")
    desk.record(12)
    desk.robot.silent.add("wrist")  # so that the last rows are waited for
    desk.watcher.create_client(Trigger, topics.recorder("save")).call_async(Trigger.Request())
    desk.until(lambda: desk.said == "saving" or desk.is_at(1), "the saving to begin")
    assert node.end() == 0
    episodes = DatasetReader(tmp_path / "dataset").meta.episodes
    assert len(episodes) == 1, node.output
    assert episodes[0].length >= 12
    assert_rows_are_true(tmp_path / "dataset", 0, desk.robot)


def test_a_kill_takes_no_saved_episode(desk: Desk, start_node: StartNode, tmp_path: Path) -> None:
    root = tmp_path / "dataset"
    random = np.random.default_rng(0)
    kills = 10 if os.environ.get("VLA_ROS_FULL") else 1
    for life in range(kills):
        node = start_node(NodeSpec("recorder", "recorder", params=spec(root).params))
        desk.until(partial(desk.is_at, life), "a recorder that goes on")
        desk.record(12)
        assert desk.tell("save")[0]
        desk.record(int(random.integers(5, 25)))
        node.end(signal.SIGKILL)
        desk.watcher.values.clear()
        desk.watcher.said.clear()
        reader = DatasetReader(root)
        assert [episode.index for episode in reader.meta.episodes] == [*range(life + 1)]
        assert_rows_are_true(root, life, desk.robot)
    node = start_node(spec(root))
    desk.until(partial(desk.is_at, kills), "the last recorder")
    assert node.end() == 0
    assert "was found and quarantined in" in node.output
    assert len([*(root / ".recording" / "aside").iterdir()]) == kills
