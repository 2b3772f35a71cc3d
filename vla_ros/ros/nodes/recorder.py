"""The recorder node: what happens, as rows on a grid of time, into a LeRobot dataset; an episode begins on a word."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from vla_ros import messages, topics
from vla_ros.config import RecorderNodeConfig
from vla_ros.recording import features
from vla_ros.recording.assembling.intake import Intake
from vla_ros.recording.assembling.rows import RowAssembler
from vla_ros.recording.lerobot_v3 import DatasetWriter, is_dataset
from vla_ros.recording.session import EpisodeState, Session
from vla_ros.robots import catalogue
from vla_ros.ros import params, recording
from vla_ros.ros.diagnostics import ERROR, OK, WARN, Status, StatusReporter
from vla_ros.ros.guard import GuardedNode
from vla_ros.ros.main import OUTLASTS_CONTROLLER_S, run
from vla_ros.ros.recording import Recording


class RecorderNode(GuardedNode):
    """Shell of a recording session: services, or words on a topic, lead it; its state tells how it is."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("recorder", automatically_declare_parameters_from_overrides=True, **kwargs)
        self._at_end = ExitStack()
        config = params.read(self, RecorderNodeConfig)
        robot, root = catalogue.find(config.robot), Path(config.root)
        sizes = {name: (camera.height, camera.width) for name, camera in config.cameras.items()}
        described = features.of_robot(robot, sizes, config.recording.fps)
        writer = DatasetWriter(
            root,
            described,
            config.recording,
            system=config.model_dump(mode="json", exclude={"root", "resume", "recording"}),
            resume=config.resume and is_dataset(root),
        )
        self._at_end.callback(writer.close)
        for notice in writer.notices:
            self.get_logger().warning(notice)
        decode = messages.image_to_rgb
        assembler = RowAssembler(robot, described, config.cameras, config.recording, decode=decode)
        cameras = {name: camera.topic for name, camera in config.cameras.items()}
        intake = Intake(assembler, robot, cameras)
        sources = {
            **cameras,
            "joints": robot.endpoints["joint_states"].name,
            "gripper": robot.endpoints["gripper_joint_states"].name,
        }
        session = Session(
            assembler,
            writer,
            config.recording,
            reason=lambda now_ns: recording.reason(assembler.reason(now_ns), sources, intake),
            source=config.source,
        )
        session.task = config.instruction
        self._root = root
        self._recording = Recording(self, intake, session, {cameras[name]: size for name, size in sizes.items()})
        self._recording.said = "; ".join(writer.notices)
        self._at_end.callback(self._end_recording)
        self._reporter = StatusReporter(self, self._status, config.robot)

    def destroy_node(self) -> None:
        """Set an open episode aside, whatever ended the node."""
        self._at_end.close()
        super().destroy_node()

    def wind_down(self) -> bool:
        """The end is seen, too: the controller brakes."""
        return self.count_publishers(topics.COMMAND) == 0

    def _end_recording(self) -> None:
        for notice in self._recording.close():
            self.get_logger().warning(notice)

    def _status(self) -> Status:
        status, problems = self._recording.status, self._recording.problems
        problem = "; ".join(filter(None, [status.problem, *problems]))
        level = WARN if problem else OK
        if status.grave or status.state is EpisodeState.UNSAVED or self._recording.failure:
            level = ERROR
        values = {
            "root": self._root,
            **recording.values(status, self._recording.rates_hz),
            "said": self._recording.said,
        }
        return Status(level, status.state.value, problem, values)


def main() -> int:
    """Run the node until it is told to end; the exit code."""
    return run(RecorderNode, wind_down_s=OUTLASTS_CONTROLLER_S)
