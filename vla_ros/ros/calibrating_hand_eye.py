"""Takes the views of a hand-eye calibration: while a person moves the arm and lets it stand, or by moving it itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import degrees, radians
from pathlib import Path

import numpy as np
from rclpy.context import Context
from rclpy.publisher import Publisher
from sensor_msgs.msg import CameraInfo
from tf2_msgs.msg import TFMessage
from trajectory_msgs.msg import JointTrajectory

from vla_ros import topics
from vla_ros.calibration.board import Board
from vla_ros.calibration.detection import BoardNotSeen, detect
from vla_ros.calibration.hand_eye import Mounting, advice
from vla_ros.calibration.hand_eye_motion import around
from vla_ros.calibration.views import ViewFolder, ViewSet, as_seven
from vla_ros.config import SystemConfig
from vla_ros.control.kinematics import Kinematics, for_robot
from vla_ros.geometry import interpolate_pose, rotation_angle
from vla_ros.robots import catalogue, description
from vla_ros.ros import convert, operating, qos
from vla_ros.ros.operating import OperatorNode, Unanswered
from vla_ros.ros.streams import Streams
from vla_ros.timing.stamps import ns_to_s, s_to_ns
from vla_ros.timing.sync import HISTORY_S
from vla_ros.timing.track import Misaligned
from vla_ros.values import POSE_DIMENSIONS, ActionChunk, Array, Observation, SafetyState

#: The arm stands when its link was no farther than this from where it is now for so long. Its joints may go on: what
#: holds a pose with seven of them drifts in the null space.
_STILL_M, _STILL_RAD, _STILL_NS = 0.0005, 0.002, s_to_ns(0.4)
#: A person's next view is one from elsewhere.
_NEW_RAD, _NEW_M = radians(7.0), 0.04
#: How often a standing arm's picture is searched for the board.
_LOOK_NS = s_to_ns(0.3)
#: Chunks like a policy's: a second of rows, renewed in time.
_ROWS, _STEP_NS, _RENEWED_NS = 21, s_to_ns(0.05), s_to_ns(0.2)
_SPEED_M_S, _SPEED_RAD_S, _EASE_S = 0.10, 0.40, 0.5
#: How long an arm may take to stand, after the last row, and a controller to run.
_SETTLE_NS, _PATIENCE_NS = s_to_ns(4.0), s_to_ns(3.0)
_DISTORTION_MODELS = ("", "plumb_bob", "rational_polynomial")


@dataclass(frozen=True, eq=False)
class Plan:
    """What is to be seen: `count` views of `board` by `camera`, the one or the other carried by `link`.

    `auto`: the arm moves itself, about where it is, or about the TCP pose `viewpoint` (7,) where there is one.
    `estimates_intrinsics`: what camera_info says is not needed, and not used.
    """

    camera: str
    mounting: Mounting
    link: str
    board: Board
    count: int
    auto: bool
    viewpoint: Array | None = None
    estimates_intrinsics: bool = False


def take_views(
    system: SystemConfig,
    plan: Plan,
    folder: Path,
    *,
    simulate: bool,
    confirm: Callable[[str], bool],
    on_progress: Callable[[str], None],
) -> ViewSet | None:
    """Take the views of `plan` into `folder`, on a graph that is up, or coming up, in this ROS domain.

    `confirm` is told how the arm is going to move by itself; None where it says no. Raises Unanswered where somebody
    does not do his part.
    """
    with operating.context() as context:
        taker = ViewTaker(system, plan, folder, context, simulate, on_progress)
        try:
            taker.wait_for_streams()
            if not plan.auto:
                return taker.watch()
            if not confirm(taker.intention()):
                return None
            return taker.move()
        finally:
            taker.destroy_node()


class ViewTaker(OperatorNode):
    """Looks at each newest picture with the joints of its instant; publishes chunks in a policy's place, if at all."""

    def __init__(
        self,
        system: SystemConfig,
        plan: Plan,
        folder: Path,
        context: Context,
        simulate: bool,
        on_progress: Callable[[str], None],
    ) -> None:
        super().__init__(context, use_sim_time=simulate, name="calibrator")
        self._plan = plan
        self._folder = folder
        self._on_progress = on_progress
        self._camera = camera = system.cameras[plan.camera]
        self._robot = robot = catalogue.find(system.robot)
        self._tcp = for_robot(robot)
        self._link = Kinematics(description.urdf(robot), robot.joint_names, plan.link)
        self._instant_ns: int | None = None
        self._joints = np.array(robot.home_rad)  # at the newest instant
        self._stands: deque[tuple[int, Array]] = (
            deque()
        )  # instants and poses of the link, for as long as standing takes
        self._info: CameraInfo | None = None
        self._poses_in: dict[tuple[str, str], Array] = {}  # parent and child -> what TF says
        self._views: ViewFolder | None = None
        self._said = ""
        self._streams = Streams(self, robot, {plan.camera: camera}, ("joints",), HISTORY_S, self._on_instant)
        self.create_subscription(CameraInfo, camera.info_topic, self._on_info, qos.SENSOR)
        self.create_subscription(TFMessage, "/tf_static", self._on_frames, qos.LATCHED)

    def wait_for_streams(self) -> None:
        """Wait until pictures, joints and the camera's calibration come."""
        self.wait_for_time()
        why = f"no picture of camera {self._plan.camera} on {self._camera.topic} together with the arm's joints on "
        self.wait(self._has_seen, operating.APPEAR_S, why + self._robot.endpoints["joint_states"].name)
        if not self._plan.estimates_intrinsics:
            self.wait(
                lambda: self._info is not None,
                operating.ANSWER_S,
                f"no calibration of camera {self._plan.camera} on {self._camera.info_topic}; --intrinsics estimates it "
                "from the same views",
            )

    # --- a person moves the arm --------------------------------------------------------------------------------------

    def watch(self) -> ViewSet:
        """Take a view wherever the arm stands and the board is seen from anew, until there are enough.

        Ctrl-C ends it earlier, with the views so far.
        """
        self._say("move the arm, and let it stand where the board is seen; turn the hand about all its axes")
        looked_ns = 0
        try:
            while (taken := self._taken()) is None or len(taken.views) < self._plan.count:
                observation = self._standing()
                if observation is None or observation.instant_ns - looked_ns < _LOOK_NS:
                    self.spin()
                elif self._is_new(observation):
                    looked_ns = observation.instant_ns
                    self._take(observation)
        except KeyboardInterrupt:
            if (taken := self._taken()) is None:
                raise
            self._say(f"ended with {len(taken.views)} views")
        return taken

    def _is_new(self, observation: Observation) -> bool:
        pose = self._link.forward(observation.proprioception["joints"])
        taken = self._taken()
        return taken is None or not any(
            _are_near(pose, np.array(view.link_pose), _NEW_M, _NEW_RAD) for view in taken.views
        )

    # --- the arm moves itself ----------------------------------------------------------------------------------------

    def intention(self) -> str:
        """How the arm will move, from where it stands."""
        here, poses = self._here(), self._poses()
        far_m = max(float(np.linalg.norm(pose[:3] - here[:3])) for pose in poses)
        far_deg = max(degrees(rotation_angle(pose[3:], here[3:])) for pose in poses)
        return (
            f"the TCP of the {self._robot.title} moves by up to {1000 * far_m:.0f} mm and {far_deg:.0f} degrees, "
            f"to {len(poses)} poses, at {1000 * _SPEED_M_S:.0f} mm/s"
        )

    def move(self) -> ViewSet:
        """Go from pose to pose and take a view at each where the board is seen."""
        poses = self._poses()
        self.wait_for_services(topics.START, topics.STOP)
        self.hear_from("controller")
        self.refuse_other_commanders()  # before there is a second publisher, which stops a policy's arm
        chunks = self.create_publisher(JointTrajectory, topics.CHUNK, qos.COMMAND)
        try:
            self.call(topics.START)
            here = self._here()
            for pose in poses:
                observation = self._go(here, pose, chunks)
                here = pose
                if observation is None:
                    self._say("the arm does not come to stand here; on to the next pose")
                else:
                    self._take(observation)
        except BaseException:
            self.ask(topics.STOP)
            raise
        self.call(topics.STOP)
        taken = self._taken()
        if taken is None:
            raise Unanswered(f"the board was seen from none of {len(poses)} poses: {self._said}")
        return taken

    def _poses(self) -> list[Array]:
        middle = self._here() if self._plan.viewpoint is None else self._plan.viewpoint
        return around(middle, self._plan.mounting, self._plan.count)

    def _go(self, start: Array, end: Array, chunks: Publisher) -> Observation | None:
        """Move the TCP from one pose (7,) to the other, straight; what is seen there at rest, None without rest."""
        away_m, away_rad = float(np.linalg.norm(end[:3] - start[:3])), rotation_angle(start[3:], end[3:])
        duration_s = _EASE_S + 1.5 * max(away_m / _SPEED_M_S, away_rad / _SPEED_RAD_S)  # 1.5: it eases in and out
        start_ns = published_ns = ran_ns = self.now_ns()
        arrival_ns = start_ns + s_to_ns(duration_s)
        while (now_ns := self.now_ns()) < arrival_ns + _SETTLE_NS:
            if now_ns - published_ns >= _RENEWED_NS or now_ns == start_ns:
                published_ns = now_ns
                times_s = [ns_to_s(now_ns - start_ns + row * _STEP_NS) for row in range(_ROWS)]
                rows = np.stack([interpolate_pose(start, end, _eased(time_s / duration_s)) for time_s in times_s])
                chunk = ActionChunk(now_ns, _STEP_NS, POSE_DIMENSIONS, rows)
                chunks.publish(convert.chunk_to_trajectory(chunk, self._robot.base_frame))
                self.refuse_other_commanders()
            self.spin()
            ran_ns = now_ns if self._runs() else ran_ns
            if now_ns - ran_ns > _PATIENCE_NS:
                raise Unanswered(f"the controller does not move the arm: {self.states['controller']['message']}")
            observation = self._standing()
            if observation is not None and observation.instant_ns > arrival_ns + _STILL_NS:
                return observation
        return None

    def _runs(self) -> bool:
        return self.states["controller"].get("safety_state") == SafetyState.RUNNING.value

    def _here(self) -> Array:
        return self._tcp.forward(self._joints)

    # --- what is seen ------------------------------------------------------------------------------------------------

    def _take(self, observation: Observation) -> None:
        """Keep the view, if the board is in it, and say how far we are."""
        image = observation.images[self._plan.camera]
        try:
            corners = detect(self._plan.board, image)
        except BoardNotSeen as error:
            self._say(f"not taken: {error}")
            return
        if self._views is None:
            self._views = ViewFolder(self._folder, self._about(image.shape[1], image.shape[0]))
        if image.shape[1::-1] != (self._views.set.width, self._views.set.height):
            raise Unanswered(
                f"camera {self._plan.camera} changes the size of its pictures, which its calibration forbids"
            )
        joints = observation.proprioception["joints"]
        self._views.add(observation.stamps_ns[self._plan.camera], image, joints, self._link.forward(joints))
        views = self._views.set.views
        more = advice([np.array(view.link_pose) for view in views]) if len(views) < self._plan.count else ""
        self._say(f"{len(views)} of {self._plan.count} views ({len(corners.ids)} corners){'; ' if more else ''}{more}")

    def _about(self, width: int, height: int) -> ViewSet:
        info = None if self._plan.estimates_intrinsics else self._info
        if info is not None and (info.width, info.height) not in ((width, height), (0, 0)):
            raise Unanswered(
                f"{self._camera.info_topic} is of {info.width} x {info.height} pixels, and the pictures on "
                f"{self._camera.topic} are {width} x {height}; calibrate what is published, or use --intrinsics"
            )
        if info is not None and info.distortion_model not in _DISTORTION_MODELS:
            raise Unanswered(
                f"{self._camera.info_topic} says {info.distortion_model}, which is not understood; publish rectified "
                f"pictures, or one of {', '.join(_DISTORTION_MODELS[1:])}"
            )
        plan, base = self._plan, self._robot.base_frame
        frame_id = self._info.header.frame_id if self._info else ""
        about = ViewSet(
            robot=self._robot.name,
            camera=plan.camera,
            frame_id=frame_id,
            mounting=plan.mounting,
            base=base,
            link=plan.link,
            board=plan.board,
            width=width,
            height=height,
            matrix=() if info is None else tuple(info.k),
            distortion=() if info is None else tuple(info.d),
        )
        before = self._poses_in.get((about.parent, frame_id))
        return about if before is None else about.model_copy(update={"pose_in_tf": as_seven(before)})

    def _standing(self) -> Observation | None:
        """What was seen at the newest instant, if the arm has stood for long enough."""
        instant_ns = self._instant_ns
        if instant_ns is None or (self._stands and instant_ns <= self._stands[-1][0]):
            return None
        try:
            observation = self._streams.window(instant_ns, 1, _STEP_NS, None)[0]
        except Misaligned:
            return None
        self._joints = observation.proprioception["joints"]
        here = self._link.forward(self._joints)
        self._stands.append((instant_ns, here))
        # The first one kept is as old as that at least, however slow the camera.
        while len(self._stands) > 1 and self._stands[1][0] <= instant_ns - _STILL_NS:
            self._stands.popleft()
        if instant_ns - self._stands[0][0] < _STILL_NS:
            return None
        is_still = all(_are_near(pose, here, _STILL_M, _STILL_RAD) for _, pose in self._stands)
        return observation if is_still else None

    def _has_seen(self) -> bool:
        self._standing()
        return bool(self._stands)

    def _taken(self) -> ViewSet | None:
        return None if self._views is None else self._views.set

    def _say(self, text: str) -> None:
        """Tell it, once."""
        if text != self._said:
            self._said = text
            self._on_progress(text)

    def _on_instant(self, instant_ns: int) -> None:
        self._instant_ns = instant_ns

    def _on_info(self, message: CameraInfo) -> None:
        self._info = message

    def _on_frames(self, message: TFMessage) -> None:
        for frame in message.transforms:
            move, turn = frame.transform.translation, frame.transform.rotation
            pose = np.array([move.x, move.y, move.z, turn.x, turn.y, turn.z, turn.w])
            self._poses_in[frame.header.frame_id, frame.child_frame_id] = pose


def _are_near(pose: Array, other: Array, distance_m: float, angle_rad: float) -> bool:
    apart_m = float(np.linalg.norm(pose[:3] - other[:3]))
    return apart_m < distance_m and rotation_angle(pose[3:], other[3:]) < angle_rad


def _eased(share: float) -> float:
    """The share of the way at a share of the time, with no jump of velocity at either end."""
    x = min(max(share, 0.0), 1.0)
    return x * x * (3.0 - 2.0 * x)
