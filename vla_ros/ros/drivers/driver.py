"""What a robot's driver looks like from our side (Driver), and what a simulator puts in its place (Mirror)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from rclpy.node import Node

from vla_ros.control.gripper import GripperGoal
from vla_ros.control.watchdog import Condition
from vla_ros.robots.robot import Robot
from vla_ros.simulation.faults import Faults
from vla_ros.simulation.world import World
from vla_ros.values import Array, Command

OnJointState = Callable[[int, Array, Array | None], None]  # stamp_ns, positions (J,), velocities (J,) or None
OnGripperState = Callable[[int, float], None]  # stamp_ns, width_m
OnDone = Callable[[bool, str], None]  # success, what went wrong ("" when nothing)


class Driver(Protocol):
    """Our side of one arm's driver. Every call and every callback is on the node's executor thread."""

    def __init__(
        self,
        node: Node,
        robot: Robot,
        on_joint_state: OnJointState,
        on_gripper_state: OnGripperState,
        on_condition: Callable[[Condition], None],
        command_interface: str = "joint",
        max_state_age_ms: float = 100.0,
    ) -> None:
        """`command_interface` is `joint` or `cartesian`: which of the driver's controllers is running.

        `max_state_age_ms`: a robot whose own state is silent for longer is unreachable.
        """

    def poll(self) -> None:
        """Deliver the newest joint state, then whether the robot follows; call it at every tick, before deciding."""

    def publish(self, command: Command) -> None:
        """Send one target; raises ValueError for one that is not finite or not of this arm.

        A driver goes on following the last one for ever, so an arm whose controller is dead holds where that one was.
        """

    def send_gripper(self, goal: GripperGoal, on_done: OnDone) -> None:
        """Send one goal; `on_done` is called exactly once.

        One at a time: a second one fails at once, and stops the first, so that it can be sent again.
        """

    def stop_gripper(self, on_done: OnDone) -> None:
        """Stop the fingers where they are; the goal in flight ends in failure."""

    def home_gripper(self, on_done: OnDone) -> None:
        """Let the gripper find its range; counts as the one goal in flight."""

    def recover(self, on_done: OnDone) -> None:
        """Everything the driver needs to move again after a reflex; `on_done` is called exactly once.

        A second one while one goes on fails at once.
        """

    @property
    def can_recover(self) -> bool:
        """False while a person's hand stopped the robot: only that hand can let it go on."""

    @property
    def target_topic(self) -> str:
        """Where targets go, resolved: nobody else may publish there."""

    @property
    def state_topics(self) -> tuple[str, ...]:
        """Where the driver reports how the robot is, resolved: only one node may publish on each."""


class Mirror(Protocol):
    """The driver's side, answered by a simulated world; the node's executor hears, the simulation's thread acts."""

    def __init__(self, node: Node, robot: Robot, faults: Faults) -> None:
        """`faults` are the world's: what it publishes goes through them, and its gripper may refuse."""

    @property
    def commanded_ns(self) -> int | None:
        """Simulated time at which the last target was handed to the world; None before the first and after a reset."""

    def wait_for_target(self, timeout_s: float) -> bool:
        """Wait (wall time) until a target is there to be applied; whether there is one."""

    def apply(self, world: World) -> None:
        """Hand what was asked since the last call to the world, and answer what it has finished."""

    def publish(self, world: World) -> None:
        """Publish the robot's state at the driver's rates; call it after every millisecond of simulated time."""

    def reset(self, world: World) -> None:
        """The world jumped to a new episode: forget targets and goals, and heed no target far from the new pose."""
