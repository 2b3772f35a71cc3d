"""The inference node over DDS: chunks from what cameras and robot say, and a clear word about what is in the way."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_up_vla
from diagnostic_msgs.srv import AddDiagnostics
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Float64MultiArray, String
from trajectory_msgs.msg import JointTrajectory

from vla_ros import messages, topics
from vla_ros.actions import ActionSpec, GripperConvention, Space
from vla_ros.checkpoints import manifest as checkpoints
from vla_ros.graph import NodeSpec
from vla_ros.policies.policy import Inference, WindowSpec
from vla_ros.robots.panda import PANDA
from vla_ros.ros import asking, convert, qos
from vla_ros.ros.nodes.inference import InferenceNode
from vla_ros.ros.polling import PolledService
from vla_ros.simulation.world import STATE_NAMES, WorldState
from vla_ros.values import NANOSECONDS_PER_MILLISECOND, Committed, ModelChunk, Window

CAMERAS = {"front": "/camera/front/image_raw", "wrist": "/camera/wrist/image_raw"}
PARAMS = {f"cameras.{name}.topic": topic for name, topic in CAMERAS.items()}
StartNode = Callable[[NodeSpec], Any]


class Surroundings:
    """Publishes cameras, robot and a world with a red cube in it, 30 times a second, stamped `delay_ms` ago."""

    def __init__(
        self,
        node: Node,
        delay_ms: float = 0.0,
        cameras: tuple[str, ...] = tuple(CAMERAS),
        size: tuple[int, int] = (16, 16),
    ) -> None:
        self._node = node
        self._image = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        self._delay_ns = round(delay_ms * NANOSECONDS_PER_MILLISECOND)
        self._cameras = [node.create_publisher(Image, CAMERAS[name], qos.SENSOR) for name in cameras]
        self._joints = node.create_publisher(JointState, PANDA.endpoints["joint_states"].name, qos.SENSOR)
        self._fingers = node.create_publisher(JointState, PANDA.endpoints["gripper_joint_states"].name, qos.SENSOR)
        self._world = node.create_publisher(Float64MultiArray, topics.SIMULATION_STATE, qos.STATE)
        self._stamps_ns: list[int] = []
        node.create_timer(1.0 / 30.0, self._publish)

    @property
    def stamps_ns(self) -> list[int]:
        """When what was published was seen."""
        return self._stamps_ns

    def _publish(self) -> None:
        stamp_ns = self._node.get_clock().now().nanoseconds - self._delay_ns
        self._stamps_ns.append(stamp_ns)
        joints = JointState(name=list(PANDA.joint_names), position=list(PANDA.home_rad))
        joints.header.stamp = convert.ns_to_stamp(stamp_ns)
        self._joints.publish(joints)
        fingers = JointState(name=list(PANDA.gripper.finger_joints), position=[0.02, 0.02])
        fingers.header.stamp = joints.header.stamp
        self._fingers.publish(fingers)
        values = np.zeros(len(STATE_NAMES))
        values[:8] = (0.3, 0.0, 0.5, 1.0, 0.0, 0.0, 0.0, 0.08)
        values[8:29] = np.tile((0.5, 0.1, 0.02, 0.0, 0.0, 0.0, 1.0), 3)
        self._world.publish(convert.world_state_to_array(WorldState(stamp_ns, values)))
        for camera in self._cameras:
            camera.publish(convert.rgb_to_image(self._image, stamp_ns, "camera"))


def tell(watcher: Any, instruction: str) -> None:
    watcher.create_publisher(String, topics.INSTRUCTION, qos.LATCHED).publish(String(data=instruction))


def test_it_waits_for_an_instruction_refuses_a_wrong_one_and_infers_on_a_good_one(
    start_node: StartNode, make_watcher: Callable[[], Any]
) -> None:
    watcher = make_watcher()
    surroundings = Surroundings(watcher)
    chunks = watcher.hear(JointTrajectory, topics.CHUNK, qos.COMMAND)
    process = start_node(NodeSpec("inference", "inference", params=PARAMS))
    watcher.until_said("inference", "waiting: no instruction on /vla/instruction yet")

    tell(watcher, "make coffee")
    refusal = watcher.until_said("inference", "refusing: instruction 'make coffee': ")
    assert "lift the <colour> cube" in refusal
    assert not chunks

    told_ns = watcher.now_ns
    tell(watcher, "lift the red cube")
    watcher.until(lambda: len(chunks) >= 5, "five chunks")
    watcher.until_said("inference", "inferring")
    observed_ns = [messages.stamp_to_ns(chunk.header.stamp) for chunk in chunks]
    assert set(observed_ns) <= set(surroundings.stamps_ns)
    assert observed_ns[0] >= told_ns
    # At most 5 Hz: of frames at 30 Hz every sixth, give or take the jitter of stamps.
    assert np.diff(observed_ns).min() > 190 * NANOSECONDS_PER_MILLISECOND
    assert chunks[0].header.frame_id == PANDA.base_frame
    # It heads for the cube from where the TCP is.
    chunk = messages.trajectory_to_chunk(chunks[0])
    assert np.linalg.norm(chunk.actions[0, :2] - (0.3, 0.0)) < np.linalg.norm(chunk.actions[-1, :2] - (0.3, 0.0))
    values = watcher.values["inference"]
    assert values["instruction"] == "lift the red cube"
    assert 0.0 < float(values["latency_ms_p50"]) <= float(values["latency_ms_p99"]) < 1000.0
    assert float(values["front.rate_hz"]) == pytest.approx(30.0, rel=0.3)
    assert process.end() == 0


def test_a_missing_camera_is_named_with_its_topic(start_node: StartNode, make_watcher: Callable[[], Any]) -> None:
    watcher = make_watcher()
    chunks = watcher.hear(JointTrajectory, topics.CHUNK, qos.COMMAND)
    surroundings = Surroundings(watcher, cameras=("front",))
    start_node(NodeSpec("inference", "inference", params={**PARAMS, "instruction": "lift the red cube"}))
    watcher.until_said("inference", "blind: camera wrist: nothing usable yet; wrist is /camera/wrist/image_raw")
    assert len(surroundings.stamps_ns) > 30
    assert not chunks


def test_it_does_not_act_on_what_is_too_old(start_node: StartNode, make_watcher: Callable[[], Any]) -> None:
    watcher = make_watcher()
    chunks = watcher.hear(JointTrajectory, topics.CHUNK, qos.COMMAND)
    surroundings = Surroundings(watcher, delay_ms=300.0)
    params = {**PARAMS, "max_observation_age_ms": 100.0}
    start_node(NodeSpec("inference", "inference", params=params))
    watcher.until_said("inference", "waiting: no instruction")
    tell(watcher, "lift the red cube")
    watcher.until_said("inference", "blind: the newest observation is 3")
    assert surroundings.stamps_ns
    assert not chunks


class Erring:
    """Looks at three frames; its second answer has a NaN in it, its third is one row short, the rest are good."""

    action_spec = ActionSpec(space=Space.JOINT_POSITION, joint_names=PANDA.joint_names, gripper=GripperConvention.NONE)
    window_spec = WindowSpec(length=3, step_ns=100 * NANOSECONDS_PER_MILLISECOND)

    def __init__(self) -> None:
        self.windows: list[Window] = []
        self.committed: list[Committed] = []

    def reset(self, instruction: str) -> None:
        pass

    def infer(self, window: Window, committed: Committed) -> Inference:
        self.windows.append(window)
        self.committed.append(committed)
        rows = np.tile(window[-1].proprioception["joints"], (self.action_spec.horizon, 1))
        if len(self.windows) == 2:
            rows[4, 3] = np.nan
        return Inference(ModelChunk(window[-1].instant_ns, rows[1:] if len(self.windows) == 3 else rows))


def test_what_a_policy_gets_wrong_is_not_published_but_said(
    make_watcher: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = Erring()
    monkeypatch.setattr("vla_ros.ros.nodes.inference.registry.load", lambda *_, **__: policy)
    watcher = make_watcher()
    Surroundings(watcher)
    chunks = watcher.hear(JointTrajectory, topics.CHUNK, qos.COMMAND)
    node = in_process(watcher, {**PARAMS, "instruction": "wave"})
    watcher.spin_too(node)
    watcher.until(lambda: len(chunks) >= 2, "two chunks")
    node.destroy_node()

    errors = [said for said in watcher.said["inference"] if said.startswith("failing")]
    assert len(errors) == 2
    assert "not finite: nan in row 4, panda_joint4" in errors[0]
    assert "shape (9, 7), expected (10, 7)" in errors[1]
    assert len(policy.windows) >= 4
    observed_ns = [messages.stamp_to_ns(chunk.header.stamp) for chunk in chunks]
    assert observed_ns[:2] == [policy.windows[0][-1].instant_ns, policy.windows[3][-1].instant_ns]
    steps_ns = np.diff([observation.instant_ns for observation in policy.windows[3]])
    assert steps_ns.tolist() == [100 * NANOSECONDS_PER_MILLISECOND] * 2
    assert policy.windows[3][0].images["wrist"].shape == (16, 16, 3)
    # What the first chunk has scheduled is still there for the fourth inference; nothing is for the first.
    assert policy.committed[0].scheduled is None
    scheduled = policy.committed[3].scheduled
    assert scheduled is not None
    assert np.allclose(scheduled.actions, PANDA.home_rad)


UP_VLA = {
    **PARAMS,
    **{f"cameras.{name}.width": tiny_up_vla.WIDTH for name in CAMERAS},
    **{f"cameras.{name}.height": tiny_up_vla.HEIGHT for name in CAMERAS},
    "policy.name": "up_vla",
    "policy.device": "cpu",
}


def in_process(watcher: Any, params: dict[str, Any]) -> InferenceNode:
    """A node in the test's process, which has loaded torch already."""
    parameters = [Parameter(name, value=value) for name, value in params.items()]
    return InferenceNode(context=watcher.context, parameter_overrides=parameters)


def test_up_vla_acts_shows_what_it_expects_and_answers(make_watcher: Callable[[], Any], tmp_path: Path) -> None:
    """From its checkpoint's folder, over DDS: chunks, the frame it expects with its time, refusals and an answer."""
    bundle = tiny_up_vla.bundle(description_period_s=0.5)
    checkpoints.save(tmp_path / "checkpoint", bundle)
    watcher = make_watcher()
    surroundings = Surroundings(watcher, size=(tiny_up_vla.WIDTH, tiny_up_vla.HEIGHT))
    chunks = watcher.hear(JointTrajectory, topics.CHUNK, qos.COMMAND)
    frames = watcher.hear(CompressedImage, topics.prediction("front"), qos.SENSOR)
    params = {**UP_VLA, "policy.checkpoint": str(tmp_path / "checkpoint"), "prediction_rate_hz": 2.0}
    node = in_process(watcher, params)
    watcher.spin_too(node)
    watcher.until_said("inference", "waiting: no instruction")
    tell(watcher, "lift the grey cube")
    refusal = "refusing: instruction 'lift the grey cube': the model does not know grey; it knows blue, cube, lift"
    watcher.until_said("inference", refusal)
    assert not chunks
    tell(watcher, tiny_up_vla.INSTRUCTIONS[0])
    watcher.until(lambda: len(frames) >= 3 and len(chunks) >= 5, "three frames and five chunks")
    watcher.until(lambda: int(watcher.values["inference"]["reflected"]) >= 2, "two reflections")
    observed_ns = [messages.stamp_to_ns(chunk.header.stamp) for chunk in chunks]
    assert set(observed_ns) <= set(surroundings.stamps_ns)
    # Its first rows are where the arm is: random weights that are trained for millimetres.
    home = messages.trajectory_to_chunk(chunks[0]).actions[0, :3]
    assert np.linalg.norm(home - messages.trajectory_to_chunk(chunks[-1]).actions[-1, :3]) < 0.1
    predicted_ns = np.array([messages.stamp_to_ns(frame.header.stamp) for frame in frames])
    second_ns = 1000 * NANOSECONDS_PER_MILLISECOND  # ten rows at 10 Hz
    assert set(predicted_ns - second_ns) <= {*observed_ns}
    assert np.diff(predicted_ns).min() >= 490 * NANOSECONDS_PER_MILLISECOND
    assert messages.image_to_rgb(frames[0]).shape == (tiny_up_vla.PIXELS, tiny_up_vla.PIXELS, 3)
    answers: list[str] = []

    def ask_two() -> None:
        answers.append(asking.ask("where is the red cube?", 20.0))
        with pytest.raises(RuntimeError, match="no question was given"):
            asking.ask(" ", 20.0)
        answers.append("refused")

    person = threading.Thread(target=ask_two)
    person.start()
    watcher.until(lambda: len(answers) == 2 or not person.is_alive(), "two answers")
    person.join()
    assert answers[0]
    assert answers[1] == "refused"
    node.destroy_node()


def test_where_nobody_answers_questions_that_is_said(ros_domain_id: int) -> None:
    told = f"no node serves /vla/ask in ROS domain {ros_domain_id}: is a system running there"
    with pytest.raises(RuntimeError, match=told):
        asking.ask("where is the red cube?", 0.2)


def test_who_asks_a_policy_that_ends_need_not_wait(make_watcher: Callable[[], Any]) -> None:
    watcher = make_watcher()
    service = PolledService(watcher, AddDiagnostics, topics.ASK)
    with ThreadPoolExecutor(1) as person:
        answer = person.submit(asking.ask, "where is the red cube?", 30.0)
        watcher.until(service.take_all, "a question")
        service.close()
        watcher.until(answer.done, "what is said instead of an answer")
    with pytest.raises(RuntimeError, match="the policy has ended, and has not answered"):
        answer.result()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"policy.checkpoint": "nowhere"}, "nowhere: there is no such folder"),
        ({"cameras.wrist.topic": None}, "cameras: up_vla needs wrist; given: front"),
        ({"cameras.front.height": 64}, "front has 64 x 64 pixels, and the checkpoint was trained with 64 x 48"),
        ({"action.rate_hz": 5.0}, "policy up_vla acts in its checkpoint's space .* leave action out"),
        ({"policy.device": "gpu"}, r"policy\.device: no device \(given 'gpu'\); should be auto, cpu, cuda"),
    ],
)
def test_up_vla_is_not_started_in_a_system_that_it_does_not_fit(
    make_watcher: Callable[[], Any], tmp_path: Path, params: dict[str, Any], message: str
) -> None:
    checkpoints.save(tmp_path / "checkpoint", tiny_up_vla.bundle())
    given = {**UP_VLA, "policy.checkpoint": str(tmp_path / "checkpoint"), **params}
    dropped = [name.rpartition(".")[0] for name, value in given.items() if value is None]
    given = {name: value for name, value in given.items() if name.rpartition(".")[0] not in dropped}
    with pytest.raises(ValueError, match=message):
        in_process(make_watcher(), given)


@pytest.mark.parametrize(
    ("params", "line"),
    [
        (PARAMS | {"policy.name": "skripted"}, "unknown policy 'skripted'; there are: scripted"),
        (PARAMS | {"robot": "fr9"}, "unknown robot 'fr9'; there are: panda"),
        ({}, "cameras: scripted needs at least one; given: none"),
    ],
)
def test_wrong_parameters_end_it_with_one_clear_line(start_node: StartNode, params: dict[str, Any], line: str) -> None:
    process = start_node(NodeSpec("inference", "inference", params=params))
    assert process.exit_code() == 2
    assert process.output.startswith(f"error: {line}")
    assert process.output.count("\n") == 1
