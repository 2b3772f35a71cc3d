"""kill -9 of any node while the arm moves: it is held, by the simulator's own account, and nothing is left behind."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("mujoco")

from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from vla_ros import config, graph, messages, topics
from vla_ros.config import SystemConfig
from vla_ros.graph import Graph, NodeSpec
from vla_ros.robots.panda import PANDA
from vla_ros.ros import qos
from vla_ros.ros.polling import PolledSubscription
from vla_ros.ros.supervising import NodeDied, Supervisor
from vla_ros.timing.stamps import s_to_ns

KILLS = 5  # in one life of the graph; the last one ends it
LIMIT_RAD_S = np.array([joint.velocity_rad_s for joint in PANDA.joints])
STILL_RAD_S = 0.02

#: Simulated seconds after the kill, from which on the arm stands: what the last chunk has planned and braking; or,
#: where nobody commands any more, the way to the last target.
STANDS_AFTER_S = {"inference": 2.0, "controller": 1.0}
WATCHED_S = 0.4


class Truth:
    """Every joint state the simulator publishes, kept as (stamp, speed of each joint)."""

    def __init__(self, watcher: Any, asked: Node) -> None:
        self._watcher = watcher
        topic = PANDA.endpoints["joint_states"].name
        self._states = PolledSubscription(asked, JointState, topic, QoSProfile(depth=20_000))
        self._stamps_ns: list[int] = []
        self._speeds: list[Any] = []

    @property
    def now_ns(self) -> int:
        self._take()
        return self._stamps_ns[-1] if self._stamps_ns else 0

    @property
    def speed(self) -> float:
        """Of the fastest joint, now [rad/s]."""
        self._take()
        return float(self._speeds[-1].max()) if self._speeds else 0.0

    def speeds(self, from_ns: int, until_ns: int) -> Any:
        """(N, J), absolute."""
        self._take()
        return np.array(
            [speed for stamp, speed in zip(self._stamps_ns, self._speeds, strict=True) if from_ns < stamp <= until_ns]
        )

    def wait_until(self, time_ns: int) -> None:
        self._watcher.until(lambda: self.now_ns >= time_ns, "simulated time to pass")

    def _take(self) -> None:
        for state in self._states.take_all():
            self._stamps_ns.append(messages.stamp_to_ns(state.header.stamp))
            self._speeds.append(np.abs(state.velocity))


class Life:
    """One supervised graph in a world that outlives it, as a robot's driver does; somebody who makes the arm move."""

    def __init__(self, watcher: Any, seed: int, nodes: Graph, domain_id: int) -> None:
        self.watcher = watcher
        asked = rclpy.create_node("asked", context=watcher.context)  # never spun: a thousand messages a second
        self.truth = Truth(watcher, asked)
        self.commands = PolledSubscription(asked, JointTrajectory, topics.COMMAND, qos.COMMAND)
        self.told: list[str] = []
        self.killed_ns = 0
        self.may_restart = threading.Event()
        self._random = np.random.default_rng(seed)
        #: Who is killed, in this order; the controller last, as it ends the life.
        self.victims = [*self._random.permutation([*("inference", "bag") * ((KILLS - 1) // 2)]), "controller"]
        self._instruction = watcher.create_publisher(String, topics.INSTRUCTION, qos.LATCHED)
        self._nodes, self._domain_id = nodes, domain_id
        self.supervisor = Supervisor(nodes, os.environ, lambda name, line: None, self._tell)

    def until_recorded(self, times: int) -> None:
        """Wait until the bag node has begun its `times`-th bag."""
        name = "bag" if times == 1 else f"bag-{times}"
        self.watcher.until(lambda: self.watcher.values.get("bag", {}).get("path", "").endswith(name), name)

    def _tell(self, text: str) -> None:
        """A node is down; it starts again only when the arm was looked at."""
        self.told.append(text)
        self.may_restart.wait()
        self.may_restart.clear()

    def move(self) -> None:
        """Begin an episode and come to a random instant in which the arm moves."""
        watcher = self.watcher
        watcher.call(topics.STOP)
        watcher.until(lambda: not self.controller_said.startswith(("running", "ramping")), "the arm to stand")
        instruction = watcher.call(topics.SIMULATION_RESET).message
        self.truth.wait_until(self.truth.now_ns + s_to_ns(0.1))  # an arm that is elsewhere after the start would hold
        watcher.call(topics.RESUME)
        watcher.until(lambda: "instructed" in watcher.values.get("inference", {}), "inference to say how it is")
        self._instruction.publish(String(data=instruction))
        watcher.until(lambda: watcher.values["inference"]["instruction"] == instruction, "the instruction to be taken")
        watcher.call(topics.START)
        self.watch_it_move()
        self.truth.wait_until(self.truth.now_ns + s_to_ns(self._random.uniform(0.0, 1.5)))
        self.watch_it_move()

    def watch_it_move(self) -> None:
        self.watcher.until(lambda: self.is_let_go_on() and self.truth.speed > 0.1, "the arm to move")

    def is_let_go_on(self) -> bool:
        """A machine too busy to run the controller for half a second makes it wait for the operator: always true."""
        if "clock jump" in self.controller_said:
            self.watcher.call(topics.RESUME)
        return True

    @property
    def controller_said(self) -> str:
        return self.watcher.said.get("controller", [""])[-1]

    def survive(self, name: str) -> None:
        """Kill -9 that node, see that the arm stands or goes on as it should, and let the node start again."""
        process = self.processes()[name]
        self.killed_ns = self.truth.now_ns
        os.kill(process, signal.SIGKILL)
        if name == "inference":
            self.assert_held(name)
            lost = "holding: policy lost: no message from the inference node for 1 s"
            self.watcher.until(lambda: self.is_let_go_on() and self.controller_said == lost, lost)
            self.until_it_goes_on()
        elif name == "bag":
            self.may_restart.set()
            self.commands.take_all()
            self.truth.wait_until(self.killed_ns + s_to_ns(WATCHED_S))
            assert self.commands.take_newest() is not None  # the arm needs no bag
        else:
            self.supervisor.wait()

    def until_it_goes_on(self) -> None:
        """Let the inference node start again, and wait until the arm follows its chunks, by itself.

        That may take a second start: see `ros.hearing`.
        """
        self.watcher.values.pop("inference", None)
        self.may_restart.set()
        self.watcher.until(lambda: "inference" in self.watcher.values, "inference to be there again")
        self.may_restart.set()  # for the second start
        self.watcher.until(lambda: self.is_let_go_on() and self.controller_said == "running", "the arm to go on")
        self.may_restart.clear()

    def processes(self) -> dict[str, int]:
        """Our nodes, as the kernel knows them: by their command line and their ROS domain."""
        supervised = {node.name for node in self._nodes.nodes}
        return {name: process for process, name in node_processes(self._domain_id) if name in supervised}

    def assert_held(self, name: str) -> None:
        stands_ns = self.killed_ns + s_to_ns(STANDS_AFTER_S[name])
        until_ns = stands_ns + s_to_ns(WATCHED_S)
        self.truth.wait_until(until_ns)
        self.watcher.until(lambda: len(self.truth.speeds(stands_ns, self.truth.now_ns)) > 100, "states not to be lost")
        assert (self.truth.speeds(self.killed_ns, until_ns) <= LIMIT_RAD_S).all()
        assert self.truth.speeds(stands_ns, self.truth.now_ns).max() < STILL_RAD_S


def small_system(bag: str) -> SystemConfig:
    """With pictures that cost nothing, as here they only set the policy to work, and a task that takes its time."""
    system = config.load("franka_upvla")
    assert system.simulation is not None
    simulation = system.simulation.model_copy(update={"instruction": "stack the red cube on the blue cube"})
    front = system.cameras["front"].model_copy(update={"width": 32, "height": 32, "rate_hz": 10.0})
    return system.model_copy(update={"cameras": {"front": front}, "simulation": simulation, "bag": bag})


def node_processes(domain_id: int) -> list[tuple[int, str]]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            module = re.search(rb"vla_ros\.ros\.nodes\0(\w+)", (folder / "cmdline").read_bytes())
            if module and f"ROS_DOMAIN_ID={domain_id}\0".encode() in (folder / "environ").read_bytes():
                found.append((int(folder.name), module[1].decode()))
        except OSError:  # ended meanwhile
            continue
    return found


def segments_of(processes: list[int]) -> set[str]:
    """Shared memory that these processes have locked as their own."""
    inodes = {
        int(match[2])
        for match in re.finditer(r"FLOCK +ADVISORY +WRITE (\d+) \w+:\w+:(\d+)", Path("/proc/locks").read_text())
        if int(match[1]) in processes
    }
    locked = [path for path in Path("/dev/shm").glob("fastdds_*_el") if path.stat().st_ino in inodes]
    return {path.name.removesuffix("_el") for path in locked if "port" not in path.name}


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.full) for seed in range(1, 50 // KILLS))])
def test_the_arm_is_held_whoever_is_killed(
    seed: int,
    ros_domain_id: int,
    start_node: Callable[[NodeSpec], Any],
    make_watcher: Callable[..., Any],
    tmp_path: Path,
) -> None:
    simulator, inference, bag, controller = graph.build(small_system(str(tmp_path / "bag")), seed=seed).nodes
    bag = replace(bag, params={**bag.params, "topics": [topics.CHUNK]})
    start_node(simulator)
    life = Life(make_watcher(), seed, Graph("all but the robot", (inference, bag, controller)), ros_domain_id)
    segments: set[str] = set()

    def live() -> None:
        with life.supervisor:
            for name in life.victims:
                life.move()
                life.until_recorded(1 + sum("node bag" in text for text in life.told))
                segments.update(segments_of([*life.processes().values()]))
                life.survive(name)

    with pytest.raises(NodeDied, match="^node controller was killed by SIGKILL"):
        live()
    # What drives the arm goes on without us, with the last target it got.
    life.assert_held("controller")
    assert {text.split()[1] for text in life.told} == set(life.victims[:-1])
    assert life.processes() == {}
    assert segments
    assert not any(Path("/dev/shm", segment).exists() for segment in segments)


@pytest.mark.parametrize("killed", ["", pytest.param("simulator", marks=pytest.mark.full)])
def test_the_end_of_the_whole_graph_in_mid_motion(
    killed: str, ros_domain_id: int, make_watcher: Callable[..., Any], tmp_path: Path
) -> None:
    built = graph.build(small_system(""))
    life = Life(make_watcher(), 0, built, ros_domain_id)
    segments: set[str] = set()

    def live() -> None:
        with life.supervisor as nodes:
            life.move()
            segments.update(segments_of([*life.processes().values()]))
            if killed:
                os.kill(life.processes()[killed], signal.SIGKILL)
                nodes.wait()

    if killed:
        with pytest.raises(NodeDied, match="^node simulator was killed by SIGKILL"):
            live()
    else:
        live()
        # The controller brought the arm to rest before the robot it commands was gone.
        last = life.commands.take_newest()
        assert last is not None and not any(last.points[0].velocities)
        assert life.truth.speed < 0.1
    assert life.processes() == {}
    assert segments
    assert not any(Path("/dev/shm", segment).exists() for segment in segments)
