"""The simulator node: a tabletop world that answers on the robot's own topics, with cameras, TF, /clock and a reset."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from rosgraph_msgs.msg import Clock
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage

from vla_ros import messages, topics
from vla_ros.config import SimulatorNodeConfig
from vla_ros.robots import catalogue
from vla_ros.ros import convert, frames, params, qos, rivals
from vla_ros.ros.diagnostics import ERROR, OK, Status, StatusReporter
from vla_ros.ros.drivers import catalogue as drivers
from vla_ros.ros.guard import Failed, GuardedNode
from vla_ros.ros.main import OUTLASTS_CONTROLLER_S, run
from vla_ros.ros.presence import Presence
from vla_ros.ros.simulated_camera import SimulatedCamera
from vla_ros.ros.simulating import Simulation
from vla_ros.simulation.faults import Stream
from vla_ros.simulation.tabletop import Tabletop
from vla_ros.simulation.world import WorldState
from vla_ros.timing.stamps import period_ns
from vla_ros.values import Array

_STATE_PERIOD_NS, _LINKS_PERIOD_NS = period_ns(50.0), period_ns(30.0)


class SimulatorNode(GuardedNode):
    """Shell of a Tabletop; simulated time runs from the start, the k-th reset begins the episode of seed + k."""

    def __init__(self, **kwargs: Any) -> None:
        self._at_the_end = ExitStack()  # what was begun; a node may be destroyed half made
        super().__init__("simulator", automatically_declare_parameters_from_overrides=True, **kwargs)
        config = params.read(self, SimulatorNodeConfig)
        robot = catalogue.find(config.robot)
        self._base_frame = robot.base_frame
        self._links = frames.LinkFrames(robot)
        self._seed = config.seed
        self._resets = self._reset_ns = 0
        self._state_due_ns = self._links_due_ns = 0
        self._world = Tabletop(robot, config.world)
        self._world.reset(config.seed)
        faults = self._world.faults
        self._mirror = drivers.find_mirror(robot)(self, robot, faults)

        self._ticks = self.create_publisher(Clock, "/clock", qos.STATE)
        self._state = self.create_publisher(Float64MultiArray, topics.SIMULATION_STATE, qos.STATE)
        self._moving = self.create_publisher(TFMessage, "/tf", qos.STATE)
        self._fixed = self.create_publisher(TFMessage, "/tf_static", qos.LATCHED)
        self._tick_stream: Stream[None] = faults.stream("clock")
        self._state_stream: Stream[WorldState] = faults.stream("state")
        self._link_stream: Stream[Array] = faults.stream("tf")
        self._cameras = {
            name: SimulatedCamera(self, name, camera, frames.camera_info(name, self._world.cameras[name]), faults)
            for name, camera in config.cameras.items()
        }
        self._publish_fixed_frames()
        self._joint_states, presence = robot.endpoints["joint_states"].name, Presence(self)
        # Before time runs, and commands come.
        rivals.refuse_a_robot(self, self._joint_states, rivals.DISCOVERED_WITHIN_S, presence.polled(self))
        self._simulation = Simulation(
            self._world,
            self._mirror,
            config.cameras,
            slice_ns=period_ns(config.clock_rate_hz),
            real_time_factor=config.real_time_factor,
            on_clock=self._on_clock,
            on_slice=self._on_slice,
            on_frame=lambda camera, time_ns, picture: self._cameras[camera].deliver(time_ns, picture),
        )
        self._at_the_end.callback(self._simulation.close)
        self._reporter = StatusReporter(self, self._status, config.robot, self._now_ns, presence)
        self.create_service(Trigger, topics.SIMULATION_RESET, self._on_reset)

    def destroy_node(self) -> None:
        """End the simulation first: its threads publish."""
        self._at_the_end.close()
        super().destroy_node()

    def wind_down(self) -> bool:
        """Time runs on until the controller has ended: its arm has to brake in it."""
        return self.count_publishers(topics.COMMAND) == 0

    # --- the simulation's threads ---

    def _on_clock(self, time_ns: int) -> None:
        for stamp_ns, _ in self._tick_stream.deliver(time_ns, None):
            self._ticks.publish(Clock(clock=convert.ns_to_stamp(stamp_ns)))

    def _on_slice(self) -> None:
        now_ns = self._world.time_ns
        if now_ns >= self._state_due_ns:
            self._state_due_ns += _STATE_PERIOD_NS
            for stamp_ns, state in self._state_stream.deliver(now_ns, self._world.state()):
                self._state.publish(convert.world_state_to_array(replace(state, time_ns=stamp_ns)))
        if now_ns >= self._links_due_ns:
            self._links_due_ns += _LINKS_PERIOD_NS
            for stamp_ns, joint_positions in self._link_stream.deliver(now_ns, self._world.joint_positions):
                self._moving.publish(self._links.moving(joint_positions, stamp_ns))

    def _reset(self) -> str:
        instruction = self._world.reset(self._seed + self._resets)
        self._resets += 1
        self._reset_ns = self._now_ns()
        self._mirror.reset(self._world)
        self._simulation.forget_frames()
        self._publish_fixed_frames()
        return instruction

    def _publish_fixed_frames(self) -> None:
        world, base, now_ns = self._world, self._base_frame, self._now_ns()
        cameras = [
            frames.camera_transform(name, world.cameras[name], world.camera_pose(name), base, now_ns)
            for name in self._cameras
        ]
        self._fixed.publish(TFMessage(transforms=[*self._links.fixed(now_ns), *cameras]))

    def _now_ns(self) -> int:
        return self._world.time_ns + self._world.faults.clock_shift_ns(self._world.time_ns)

    # --- the executor's thread ---

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.message = self._simulation.call(self._reset)
        response.success = True
        return response

    def _status(self) -> Status:
        try:
            self._simulation.check()
            rivals.refuse_a_robot(self, self._joint_states)
        except Exception as error:  # a world that has ended, or a robot that would follow its commands
            raise Failed(str(error) if isinstance(error, RuntimeError) else repr(error)) from error
        fault = self._world.fault
        resets: dict[str, object] = {"resets": self._resets, messages.RESET: self._reset_ns}
        values = resets | {"real_time_factor": self._simulation.speed, "task": self._world.instruction}
        if fault is not None:
            return Status(ERROR, "fault", fault, values)
        return Status(OK, "running", "", values)


def main() -> int:
    """Run the node until it is told to end; the exit code."""
    return run(SimulatorNode, wind_down_s=OUTLASTS_CONTROLLER_S)
