"""The driver's controller is deactivated in motion: nothing is sent until it follows again, and there is no jump."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("mujoco")

from controller_manager_msgs.srv import SwitchController
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from vla_ros import config, messages, topics
from vla_ros.config import SystemConfig
from vla_ros.control.limits import AxisLimits
from vla_ros.robots.panda import PANDA
from vla_ros.ros import qos
from vla_ros.timing.stamps import s_to_ns

PERIOD_S = 0.01
CONTROLLER = "joint_impedance_controller"
SINCE, UNTIL = messages.PLAN_SINCE, "planned_until_ns"
NAMES = {key: endpoint.name for key, endpoint in PANDA.endpoints.items()}


def system() -> SystemConfig:
    values = config.load("franka_upvla").model_dump(mode="json") | {"instruction": "lift the red cube"}
    for camera in values["cameras"].values():
        camera |= {"width": 64, "height": 64}
    return SystemConfig.model_validate(values)


def test_an_inactive_controller_is_sent_nothing_and_begins_without_a_jump(
    start_graph: Callable[..., Any], make_watcher: Callable[..., Any]
) -> None:
    start_graph(system())
    watcher = make_watcher(use_sim_time=True)
    targets = watcher.hear(Float64MultiArray, NAMES["joints_desired"], QoSProfile(depth=2000))
    commands = watcher.hear(JointTrajectory, topics.COMMAND, QoSProfile(depth=2000))
    measured = watcher.hear(JointState, NAMES["joint_states"], qos.SENSOR)
    switch = watcher.create_client(SwitchController, NAMES["switch_controller"])

    def switch_to(**controllers: list[str]) -> None:
        future = switch.call_async(SwitchController.Request(strictness=1, **controllers))
        watcher.until(future.done, "the controller manager")
        assert future.result().ok

    def moves(sent: list[Float64MultiArray]) -> bool:
        return len(sent) > 2 and bool(np.abs(np.subtract(sent[-1].data, sent[-2].data)).max() > 0.1 * PERIOD_S)

    def let_pass(seconds: float) -> None:
        until_ns = watcher.now_ns + s_to_ns(seconds)
        watcher.until(lambda: watcher.now_ns > until_ns, "time to pass")

    watcher.until(lambda: moves(targets), "the arm to move")
    switch_to(deactivate_controllers=[CONTROLLER])
    watcher.until_said("controller", "holding: the robot does not follow: robot mode idle; it follows while")
    targets.clear()
    commands.clear()
    let_pass(0.5)
    assert watcher.call(topics.RESUME).message.startswith("mode policy, holding: ")
    let_pass(0.3)
    switch_to(activate_controllers=[CONTROLLER])
    watcher.until_said("controller", "holding: waits for resume, as the robot did not follow: robot mode idle")
    let_pass(0.3)
    assert targets == [] and commands == []

    stood = np.array(measured[-1].position)
    watcher.call(topics.RESUME)
    watcher.until(lambda: moves(targets), "the arm to move again")
    watcher.until_said("controller", "running")
    assert np.abs(np.array(targets[0].data) - stood).max() < 1e-3
    limits = AxisLimits.of_joints(PANDA, system().controller.limits)
    sent = np.array([command.points[0].positions[:7] for command in commands])
    steps_s = np.diff([messages.stamp_to_ns(command.header.stamp) for command in commands])[:, None] * 1e-9
    assert np.abs(sent[0] - stood).max() < 1e-3
    velocities = np.concatenate([np.zeros((1, 7)), np.diff(sent, axis=0) / steps_s])  # from rest
    between_s = np.concatenate([steps_s[:1], (steps_s[1:] + steps_s[:-1]) / 2])
    assert (np.abs(velocities) <= limits.velocity * (1 + 1e-6)).all()
    assert (np.abs(np.diff(velocities, axis=0)) <= limits.acceleration * between_s * (1 + 1e-6)).all()
    assert set(watcher.said["simulator"]) == {"running"}, "no reflex"

    def plans() -> dict[str, int]:
        return {
            node: int(watcher.values[node].get(key, 0)) for node, key in (("controller", SINCE), ("inference", UNTIL))
        }

    watcher.call(topics.STOP)
    watcher.until(lambda: plans()["inference"] == 0, "the policy to drop its plan, as the controller did")
    let_pass(0.5)
    assert plans()["inference"] == 0, "the controller follows none of what is sent meanwhile"
    watcher.call(topics.START)
    watcher.until(lambda: plans()["inference"] > plans()["controller"], "a plan since the start")
