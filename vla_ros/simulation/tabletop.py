"""The tabletop world in MuJoCo: an arm under impedance control, a gripper, three cubes on a table, cameras."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

import numpy as np

from vla_ros.geometry import rotation_angle
from vla_ros.robots.robot import Robot
from vla_ros.simulation import layout
from vla_ros.simulation.board import PICTURE, cubes_aside_m, picture
from vla_ros.simulation.faults import Faults
from vla_ros.simulation.hand import Hand
from vla_ros.simulation.impedance import JointImpedance, PoseImpedance, TorqueLimiter
from vla_ros.simulation.referee import Referee
from vla_ros.simulation.reflex import Reflex
from vla_ros.simulation.rendering import MujocoRenderer, mujoco, place_looks
from vla_ros.simulation.scene import TIMESTEP_S, scene
from vla_ros.simulation.tasks import COLORS, CUBE_SIZE_M, parse
from vla_ros.simulation.world import CameraModel, GripperOutcome, Snapshot, TabletopConfig, WorldState, checked
from vla_ros.timing.stamps import ms_to_ns
from vla_ros.values import NANOSECONDS_PER_SECOND, Array, Image

TIMESTEP_NS = round(TIMESTEP_S * NANOSECONDS_PER_SECOND)
_REFEREE_STEPS = 10  # the referee looks every 10 ms


class Tabletop:
    """A `World`: `robot` on a table whose top is z = 0 of its base frame; episodes as `layout.draw` says.

    The arm is controlled by torque at 1 kHz: impedance toward the last joint or pose command, gravity and Coriolis
    compensated (of the arm and hand, not of what they hold), within the torque and torque rate limits. Until a first
    command, and in a fault, it holds where it was.
    """

    def __init__(self, robot: Robot, config: TabletopConfig | None = None) -> None:
        self.robot = robot
        self.config = config or TabletopConfig()
        self.faults = Faults(self.config.faults)
        board = self.config.board
        assets = {} if board is None else {PICTURE: picture(board.board)}
        self._model = mujoco.MjModel.from_xml_string(scene(robot, self.cameras, board), assets)
        self._data = mujoco.MjData(self._model)
        self._tcp = self._model.body(robot.tcp_frame).id
        self._cubes = [self._model.joint(color).qposadr[0] for color in COLORS]
        self._finger = len(robot.joints)  # joints come first in every vector, then the two fingers
        self._joint_impedance = JointImpedance(robot, TIMESTEP_S)
        self._pose_impedance = PoseImpedance(robot, TIMESTEP_S)
        self._follows_pose = False  # which of the two acts
        self._limiter = TorqueLimiter(robot, TIMESTEP_S)
        self._reflex = Reflex(robot, TIMESTEP_S)
        self._hand = Hand(robot.gripper, TIMESTEP_S, self.config.gripper_latency_ms)
        self._latency_ns = ms_to_ns(self.config.actuation_latency_ms)
        self._underway: deque[tuple[int, Callable[[Array], None], Array]] = deque()  # due_ns, who heeds it, command
        self._jacobian = np.zeros((6, self._model.nv))
        self._time_ns = 0
        self._steps = 0
        self._own_renderer: MujocoRenderer | None = None
        self.reset(0)

    # --- episodes -----------------------------------------------------------------------------------------------------

    def reset(self, seed: int, instruction: str = "") -> str:
        """Begin the episode `seed`; gives its instruction. Same seed and instruction, same world, whatever was before.

        An empty instruction means the configured one, or else to lift a cube of a colour drawn with the seed.
        """
        drawn = layout.draw(seed, self.robot.home_rad, self.cameras, self.config.variety)
        words = instruction or self.config.instruction
        task = parse(words) if words else drawn.task
        data = self._data
        mujoco.mj_resetData(self._model, data)
        arm = len(self.robot.joints)
        data.qpos[:arm] = drawn.joint_positions
        data.qpos[arm : arm + 2] = self.robot.gripper.max_width_m / 2
        for color, start in zip(COLORS, self._cubes, strict=True):
            x, y, yaw = drawn.cubes[color]
            y += cubes_aside_m(self.config.board)
            data.qpos[start : start + 7] = (x, y, CUBE_SIZE_M / 2, np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2))
        self._layout = drawn
        place_looks(self._model, self.snapshot())
        mujoco.mj_forward(self._model, data)
        self._limiter.reset()
        self._reflex.clear()
        self._underway.clear()
        self._hand.reset(self.robot.gripper.max_width_m)
        self._hold()
        self.faults.reset(self._time_ns)
        self._referee: Referee | None = None
        self._referee = Referee(task, self.state())
        self._steps = 0
        return task.instruction

    @property
    def instruction(self) -> str:
        """The task of this episode."""
        assert self._referee is not None
        return self._referee.task.instruction

    def success(self) -> bool:
        """Whether the task is done, and has been for the time that counts."""
        return self._referee is not None and self._referee.success

    # --- time ---------------------------------------------------------------------------------------------------------

    @property
    def time_ns(self) -> int:
        """Simulated time since the world was made; a reset does not touch it."""
        return self._time_ns

    def advance(self, duration_ns: int) -> None:
        """Let time pass; raises ValueError unless it is a positive multiple of the physics step, 1 ms."""
        steps, rest = divmod(duration_ns, TIMESTEP_NS)
        if steps < 1 or rest:
            raise ValueError(f"time passes in steps of {TIMESTEP_NS} ns, got {duration_ns} ns")
        for _ in range(steps):
            self._step()
        mujoco.mj_kinematics(self._model, self._data)  # what is asked for next is of now, not of before the last step

    def _step(self) -> None:
        model, data, arm = self._model, self._data, self._finger
        self._heed_what_arrived()
        mujoco.mj_step1(model, data)
        positions, velocities = data.qpos[:arm], data.qvel[:arm]
        trips = self.faults.trips(self._time_ns, self._time_ns + TIMESTEP_NS)
        if trips:
            self._reflex.trip("collision: a fault of the simulation")
        if self._reflex.watch(velocities, data.qfrc_constraint[:arm]) or trips:
            self._hold()
        data.ctrl[:arm] = self._limiter.limit(self._wanted_torques(positions, velocities) + data.qfrc_bias[:arm])
        data.ctrl[arm:] = self._hand.step(float(data.qpos[arm]), float(data.qvel[arm]))
        mujoco.mj_step2(model, data)
        self._time_ns += TIMESTEP_NS
        self._steps += 1
        if self._steps % _REFEREE_STEPS == 0 and self._referee is not None:
            mujoco.mj_kinematics(model, data)
            self._referee.watch(self.state())

    # --- the arm ------------------------------------------------------------------------------------------------------

    def command_joints(self, joint_positions: Array) -> None:
        """Joint impedance toward these positions (J,) rad, until another command; ignored in a fault.

        Raises ValueError for another shape and for values that are not finite; a jump is a fault.
        """
        self._send(self._heed_joints, checked("a joint command", joint_positions, len(self.robot.joints)))

    def _heed_joints(self, wanted: Array) -> None:
        if self._follows_pose and self.fault is None:
            self._hold()
        self._reflex.watch_joint_command(self._joint_impedance.target, wanted)
        if self.fault is None:
            self._joint_impedance.target = wanted

    def command_pose(self, tcp_pose: Array) -> None:
        """Cartesian impedance toward this TCP pose (7,) in the base frame, until another command; ignored in a fault.

        Raises ValueError for another shape, values that are not finite, a quaternion that is not of unit length; a jump
        is a fault.
        """
        wanted = checked("a pose command", tcp_pose, 7)
        if abs(np.linalg.norm(wanted[3:]) - 1.0) > 1e-3:
            raise ValueError(f"a pose command has a unit quaternion qx qy qz qw, got {wanted[3:].tolist()}")
        self._send(self._heed_pose, wanted)

    def _heed_pose(self, wanted: Array) -> None:
        before = self._pose_impedance.target if self._follows_pose else self.tcp_pose
        self._reflex.watch_pose_command(
            float(np.linalg.norm(wanted[:3] - before[:3])), rotation_angle(wanted[3:], before[3:])
        )
        if self.fault is None:
            if not self._follows_pose:
                self._pose_impedance.hold(before, self.joint_positions)
                self._follows_pose = True
            self._pose_impedance.target = wanted

    def _send(self, heed: Callable[[Array], None], wanted: Array) -> None:
        self._underway.append((self._time_ns + self._latency_ns, heed, wanted))
        self._heed_what_arrived()

    def _heed_what_arrived(self) -> None:
        while self._underway and self._underway[0][0] <= self._time_ns:
            _, heed, wanted = self._underway.popleft()
            heed(wanted)

    def _wanted_torques(self, positions: Array, velocities: Array) -> Array:
        if not self._follows_pose:
            return self._joint_impedance.torques(positions, velocities)
        mujoco.mj_jacBody(self._model, self._data, self._jacobian[:3], self._jacobian[3:], self._tcp)
        jacobian = self._jacobian[:, : self._finger]
        return self._pose_impedance.torques(self.tcp_pose, jacobian, positions, velocities)

    def _hold(self) -> None:
        self._joint_impedance.hold(self.joint_positions)
        self._follows_pose = False

    @property
    def fault(self) -> str | None:
        """Why the arm stopped by reflex and ignores commands, or None."""
        return self._reflex.fault

    def recover(self) -> None:
        """Leave a fault: hold where the arm is, and accept commands again."""
        self._underway.clear()
        self._reflex.clear()
        self._hold()

    @property
    def joint_positions(self) -> Array:
        """Measured (J,) rad."""
        return np.array(self._data.qpos[: self._finger])

    @property
    def joint_velocities(self) -> Array:
        """Measured (J,) rad/s."""
        return np.array(self._data.qvel[: self._finger])

    @property
    def joint_torques(self) -> Array:
        """Applied (J,) Nm."""
        return np.array(self._data.qfrc_actuator[: self._finger])

    @property
    def tcp_pose(self) -> Array:
        """The pose (7,) of the TCP in the base frame."""
        return self._body_pose(self._tcp)

    # --- the gripper --------------------------------------------------------------------------------------------------

    def move_gripper(self, width_m: float, speed_m_s: float) -> None:
        """Open or close to a width; succeeds when it is reached. Raises ValueError for what the gripper cannot do."""
        self._hand.move(width_m, speed_m_s)

    def grasp_gripper(
        self,
        width_m: float,
        speed_m_s: float,
        force_n: float,
        epsilon_inner_m: float = 0.005,
        epsilon_outer_m: float = 0.005,
    ) -> None:
        """Close until something stops the fingers; succeeds when the width is then within the epsilons of `width_m`."""
        self._hand.grasp(width_m, speed_m_s, force_n, epsilon_inner_m, epsilon_outer_m)

    def stop_gripper(self) -> None:
        """Stop where the fingers are; a command in progress fails."""
        self._hand.stop(0.5 * self.gripper_width_m)

    @property
    def gripper_busy(self) -> bool:
        """Whether a gripper command is in progress."""
        return self._hand.busy

    @property
    def gripper_outcome(self) -> GripperOutcome | None:
        """How the last gripper command ended; None while one is in progress and before the first."""
        return self._hand.outcome

    @property
    def gripper_width_m(self) -> float:
        """Measured opening between the fingers; never negative, as the hand's own encoder says."""
        return max(0.0, float(self._data.qpos[self._finger] + self._data.qpos[self._finger + 1]))

    # --- what stands where --------------------------------------------------------------------------------------------

    def state(self) -> WorldState:
        """What stands where, now."""
        cubes = np.concatenate([self._body_pose(self._model.body(color).id) for color in COLORS])
        values = np.array([*self.tcp_pose, self.gripper_width_m, *cubes, float(self.success())])
        return WorldState(self._time_ns, values)

    def _body_pose(self, body: int) -> Array:
        w, x, y, z = self._data.xquat[body]
        return np.array([*self._data.xpos[body], x, y, z, w])

    # --- pictures -----------------------------------------------------------------------------------------------------

    @property
    def cameras(self) -> Mapping[str, CameraModel]:
        """The cameras by name."""
        return self.config.cameras

    def camera_pose(self, camera: str) -> Array:
        """The pose (7,) of the camera's optical frame in its `frame`, as this episode has it."""
        if camera not in self.cameras:
            raise ValueError(f"no camera {camera!r}; there are {', '.join(self.cameras)}")
        return np.array(self._layout.camera_poses[camera])

    def snapshot(self) -> Snapshot:
        """A copy of all that pictures depend on."""
        return Snapshot(self._time_ns, np.array(self._data.qpos), self._layout.camera_poses, self._layout.light)

    def renderer(self) -> MujocoRenderer:
        """A renderer for the calling thread; raises RuntimeError saying what to install where nothing can draw."""
        return MujocoRenderer(self._model, self.cameras)

    def render(self, camera: str, snapshot: Snapshot | None = None) -> Image:
        """The picture of a snapshot, else of now, drawn by the thread that moves the world."""
        if self._own_renderer is None:
            self._own_renderer = self.renderer()
        return self._own_renderer.render(camera, snapshot or self.snapshot())

    def close(self) -> None:
        """Free what `render` made."""
        if self._own_renderer is not None:
            self._own_renderer.close()
            self._own_renderer = None
