"""The simulator node: a tabletop world that answers on the robot's own topics, with cameras, TF, /clock and a reset."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Any

from rclpy.node import Node
from rclpy.publisher import Publisher
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage

from vla_ros import topics
from vla_ros.config import CameraConfig, SimulatorNodeConfig
from vla_ros.robots import catalogue
from vla_ros.ros import convert, frames, params, qos
from vla_ros.ros.diagnostics import ERROR, OK, Status, StatusReporter
from vla_ros.ros.drivers import catalogue as drivers
from vla_ros.ros.main import run
from vla_ros.ros.simulating import Simulation
from vla_ros.simulation.tabletop import Tabletop
from vla_ros.simulation.world import optical_frame
from vla_ros.timing.stamps import period_ns
from vla_ros.values import Image

_STATE_PERIOD_NS = period_ns(50.0)
_LINKS_PERIOD_NS = period_ns(30.0)


class SimulatorNode(Node):
    """Shell of a Tabletop; simulated time runs from the start, the k-th reset begins the episode of seed + k."""

    def __init__(self, **kwargs: Any) -> None:
        self._at_the_end = ExitStack()  # what was begun; a node may be destroyed half made
        super().__init__("simulator", automatically_declare_parameters_from_overrides=True, **kwargs)
        config = params.read(self, SimulatorNodeConfig)
        robot = catalogue.find(config.robot)
        self._base_frame = robot.base_frame
        self._links = frames.LinkFrames(robot)
        self._seed = config.seed
        self._resets = 0
        self._state_due_ns = self._links_due_ns = 0
        self._world = Tabletop(robot, config.world)
        self._world.reset(config.seed)
        self._mirror = drivers.find_mirror(robot)(self, robot)

        self._ticks = self.create_publisher(Clock, "/clock", qos.STATE)
        self._state = self.create_publisher(Float64MultiArray, topics.SIMULATION_STATE, qos.STATE)
        self._moving = self.create_publisher(TFMessage, "/tf", qos.STATE)
        self._fixed = self.create_publisher(TFMessage, "/tf_static", qos.LATCHED)
        self._cameras = {name: self._camera_publishers(camera) for name, camera in config.cameras.items()}
        self._calibrations = {name: frames.camera_info(name, self._world.cameras[name]) for name in config.cameras}
        self._publish_fixed_frames()
        self._simulation = Simulation(
            self._world,
            self._mirror,
            config.cameras,
            slice_ns=period_ns(config.clock_rate_hz),
            real_time_factor=config.real_time_factor,
            on_clock=lambda time_ns: self._ticks.publish(Clock(clock=convert.ns_to_stamp(time_ns))),
            on_slice=self._on_slice,
            on_frame=self._on_frame,
        )
        self._at_the_end.callback(self._simulation.close)
        self._reporter = StatusReporter(self, self._status)
        self.create_service(Trigger, topics.SIMULATION_RESET, self._on_reset)

    def destroy_node(self) -> None:
        """End the simulation first: its threads publish."""
        self._at_the_end.close()
        super().destroy_node()

    # --- the simulation's threads ---

    def _on_slice(self) -> None:
        now_ns = self._world.time_ns
        if now_ns >= self._state_due_ns:
            self._state_due_ns += _STATE_PERIOD_NS
            self._state.publish(convert.world_state_to_array(self._world.state()))
        if now_ns >= self._links_due_ns:
            self._links_due_ns += _LINKS_PERIOD_NS
            self._moving.publish(self._links.moving(self._world.joint_positions, now_ns))

    def _on_frame(self, camera: str, stamp_ns: int, picture: Image) -> None:
        images, calibrations = self._cameras[camera]
        write = convert.rgb_to_compressed if images.msg_type is CompressedImage else convert.rgb_to_image
        message = write(picture, stamp_ns, optical_frame(camera))
        calibration = self._calibrations[camera]
        calibration.header.stamp = message.header.stamp
        images.publish(message)
        calibrations.publish(calibration)

    def _reset(self) -> str:
        instruction = self._world.reset(self._seed + self._resets)
        self._resets += 1
        self._mirror.reset(self._world)
        self._simulation.forget_frames()
        self._publish_fixed_frames()
        return instruction

    def _publish_fixed_frames(self) -> None:
        now_ns = self._world.time_ns
        world, base = self._world, self._base_frame
        cameras = [
            frames.camera_transform(name, world.cameras[name], world.camera_pose(name), base, now_ns)
            for name in self._cameras
        ]
        self._fixed.publish(TFMessage(transforms=[*self._links.fixed(now_ns), *cameras]))

    # --- the executor's thread ---

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.message = self._simulation.call(self._reset)
        response.success = True
        return response

    def _camera_publishers(self, camera: CameraConfig) -> tuple[Publisher, Publisher]:
        """Of the images, and of the calibration."""
        images = self.create_publisher(
            CompressedImage if camera.is_compressed else ImageMessage, camera.topic, qos.SENSOR
        )
        return images, self.create_publisher(CameraInfo, camera.info_topic, qos.SENSOR)

    def _status(self) -> Status:
        self._simulation.check()
        fault = self._world.fault
        values = {"real_time_factor": self._simulation.speed, "resets": self._resets, "task": self._world.instruction}
        if fault is not None:
            return Status(ERROR, "fault", fault, values)
        return Status(OK, "running", "", values)


def main() -> int:
    """Run the node until it is told to end; the exit code."""
    return run(SimulatorNode)


if __name__ == "__main__":
    sys.exit(main())
