"""Latencies measured over DDS, on a simulated robot of which they are known, to +-5 ms; nobody else may command it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import Image
from trajectory_msgs.msg import JointTrajectory

from vla_ros import config, topics
from vla_ros.calibration.latency import ACTUATION_KEY, GRIPPER_KEY, Delay, camera_key, measure
from vla_ros.calibration.motion import Sway
from vla_ros.config import SystemConfig
from vla_ros.graph import build_without_policy
from vla_ros.ros import convert, qos
from vla_ros.ros.calibrating_latency import Plan, record
from vla_ros.ros.filming_stamp import film
from vla_ros.ros.operating import Unanswered
from vla_ros.simulation.hand import DAMPING_N_S_M, STIFFNESS_N_M
from vla_ros.simulation.impedance import JOINT_DAMPING, JOINT_STIFFNESS
from vla_ros.timing.stamps import ms_to_ns

FRONT_MS, WRIST_MS, ARM_MS, GRIPPER_MS = 60.0, 0.0, 40.0, 30.0
WITHIN_MS = 5.0
PLAN = Plan(sway=Sway(duration_s=4.0), strokes=1)


@pytest.fixture
def system() -> SystemConfig:
    """Small cameras, known latencies."""
    values = config.load("franka_upvla").model_dump(mode="json")
    for name, latency_ms in (("front", FRONT_MS), ("wrist", WRIST_MS)):
        values["cameras"][name] |= {"latency_ms": latency_ms, "width": 128, "height": 128}
    values["simulation"] |= {"actuation_latency_ms": ARM_MS, "gripper_latency_ms": GRIPPER_MS}
    return SystemConfig.model_validate(values)


def test_known_latencies_are_found(
    system: SystemConfig, start_node: Callable[..., Any], make_watcher: Callable[..., Any]
) -> None:
    for spec in build_without_policy(system).nodes:
        start_node(spec)
    said: list[str] = []

    watcher = make_watcher(use_sim_time=True)
    chunks = watcher.create_publisher(JointTrajectory, topics.CHUNK, 1)
    with pytest.raises(Unanswered, match="watcher publish /vla/chunk, but the arm follows one at a time"):
        record(system, simulate=True, plan=PLAN, confirm=lambda _: True, on_progress=said.append)
    watcher.destroy_publisher(chunks)
    assert not said

    intentions: list[str] = []
    assert record(system, simulate=True, plan=PLAN, confirm=intentions.append, on_progress=said.append) is None
    assert not said
    assert (
        "panda_joint1 of the Franka Emika Panda sways by 0.08 rad for 4 s, which moves the TCP up to 2" in intentions[0]
    )

    recording = record(system, simulate=True, plan=PLAN, confirm=lambda _: True, on_progress=said.append)
    assert said == ["panda_joint1 sways", "the gripper shuts and opens"]
    assert recording is not None
    measured = measure(recording)
    # What the arm's and the hand's springs and dampers add; and a command is 5 ms old on average.
    truth_ms = {
        camera_key("front"): FRONT_MS,
        camera_key("wrist"): WRIST_MS,
        ACTUATION_KEY: 1000.0 * JOINT_DAMPING[0] / JOINT_STIFFNESS[0] + 5.0 + ARM_MS,
        GRIPPER_KEY: 1000.0 * DAMPING_N_S_M / STIFFNESS_N_M + GRIPPER_MS,
    }
    assert {key: delay for key, delay in measured.items() if not isinstance(delay, Delay)} == {}
    found_ms = {key: delay.delay_ms for key, delay in measured.items() if isinstance(delay, Delay)}
    assert found_ms == pytest.approx(truth_ms, abs=WITHIN_MS)


def test_a_filmed_stamp_tells_the_latency_of_a_camera(
    ros_domain_id: int, system: SystemConfig, make_watcher: Callable[..., Any]
) -> None:
    watcher = make_watcher()
    camera = watcher.create_publisher(Image, system.cameras["front"].topic, qos.SENSOR)
    drawn: list[tuple[int, Any]] = []

    def show(picture: Any) -> None:
        """A screen, and the front camera before it: it takes its pictures half-way between two times."""
        now_ns = watcher.now_ns
        if drawn:
            before_ns, seen = drawn[-1]
            rgb = cv2.resize(np.repeat(seen[..., None], 3, axis=2), (160, 160), interpolation=cv2.INTER_AREA)
            stamp_ns = (before_ns + now_ns) // 2 + ms_to_ns(FRONT_MS)
            camera.publish(convert.rgb_to_image(rgb, stamp_ns, "front"))
        drawn.append((now_ns, picture))

    measured = film(system, 1.5, show)
    front, wrist = measured[camera_key("front")], measured[camera_key("wrist")]
    assert isinstance(front, Delay)
    assert front.delay_ms == pytest.approx(FRONT_MS, abs=WITHIN_MS)
    assert "could be read in 0 of 0 pictures" in str(wrist)
