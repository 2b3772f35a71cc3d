"""The gripper's own controller, as the Franka hand's: move, grasp, stop; each with an end and a success."""

from __future__ import annotations

from math import isfinite

from vla_ros.robots.robot import Gripper
from vla_ros.simulation.world import GripperOutcome

STIFFNESS_N_M, DAMPING_N_S_M = 3000.0, 40.0  # of one finger
MOVE_FORCE_N = 40.0  # of one finger, while moving without a grasp
WIDTH_TOLERANCE_M = 0.002  # a move that ends this near has arrived
STILL_M_S = 0.002  # of one finger: slower than this is standstill
STILL_S = 0.06  # so long a standstill ends a command


class Hand:
    """Stepped by the world: measured finger in, force of each finger out.

    A reference runs from where the finger is to the goal at the speed asked for; the finger follows on a spring of
    limited force, and the reference never runs further ahead than that force. So a move and a grasp differ only in the
    goal, the force, and in what counts as success. The reference of a command begins to run `latency_ms` after it.
    """

    def __init__(self, gripper: Gripper, period_s: float, latency_ms: float = 0.0) -> None:
        self._gripper = gripper
        self._period_s = period_s
        self._latency_steps = round(0.001 * latency_ms / period_s)
        self.outcome: GripperOutcome | None = None
        self.reset(gripper.max_width_m)

    def reset(self, width_m: float) -> None:
        """Hold this width; no command was ever given."""
        self._reference_m = self._goal_m = 0.5 * width_m
        self._speed_m_s = self._gripper.speed_m_s
        self._force_n = MOVE_FORCE_N
        self._accepted_m: tuple[float, float] | None = None  # widths that are a success; None: nothing in progress
        self._verb = ""
        self._waits = 0  # steps until the command in progress is heeded
        self._still_s = 0.0
        self.outcome = None

    @property
    def busy(self) -> bool:
        """Whether a command is in progress."""
        return self._accepted_m is not None

    def move(self, width_m: float, speed_m_s: float) -> None:
        """Go to a width; raises ValueError outside 0 to the largest, as every command does for what cannot be."""
        self._check_width(width_m)
        accepted = (width_m - WIDTH_TOLERANCE_M, width_m + WIDTH_TOLERANCE_M)
        self._begin("move", 0.5 * width_m, speed_m_s, MOVE_FORCE_N, accepted)

    def grasp(self, width_m: float, speed_m_s: float, force_n: float, inner_m: float, outer_m: float) -> None:
        """Close until stopped, press on with `force_n`; success: the width is then from - inner to + outer of it."""
        self._check_width(width_m)
        if not (isfinite(force_n) and 0.0 < force_n <= self._gripper.force_n):
            raise ValueError(f"a grasp presses with more than 0 and at most {self._gripper.force_n} N, got {force_n}")
        if not (inner_m >= 0.0 and outer_m >= 0.0):
            raise ValueError(f"the epsilons of a grasp are 0 or more, got {inner_m} and {outer_m}")
        beyond = -force_n / STIFFNESS_N_M  # so far that even empty fingers end up pressing
        self._begin("grasp", beyond, speed_m_s, force_n, (width_m - inner_m, width_m + outer_m))

    def stop(self, position_m: float) -> None:
        """Hold the fingers where they are."""
        if self.busy:
            self._end(False, f"{self._verb} stopped at {2000.0 * position_m:.1f} mm")
        self._goal_m = self._reference_m = position_m
        self._force_n = MOVE_FORCE_N
        self._waits = 0

    def step(self, position_m: float, speed_m_s: float) -> float:
        """One period: where the first finger is and how fast it opens; gives the force on each finger, opening > 0."""
        reach = self._force_n / STIFFNESS_N_M
        stride = 0.0 if self._waits else self._speed_m_s * self._period_s
        reference = self._reference_m
        reference += min(max(self._goal_m - reference, -stride), stride)
        self._reference_m = reference = min(max(reference, position_m - reach), position_m + reach)
        force = STIFFNESS_N_M * (reference - position_m) - DAMPING_N_S_M * speed_m_s
        if self._waits:
            self._waits -= 1
        elif self._accepted_m is not None:
            self._judge(position_m, speed_m_s, reach)
        return min(max(force, -self._force_n), self._force_n)

    def _judge(self, position_m: float, speed_m_s: float, reach: float) -> None:
        """End the command when the reference can go no further and the fingers stand still."""
        ahead = abs(self._reference_m - position_m)
        finished = self._reference_m == self._goal_m or ahead >= 0.9 * reach
        self._still_s = self._still_s + self._period_s if finished and abs(speed_m_s) < STILL_M_S else 0.0
        if self._still_s < STILL_S or self._accepted_m is None:
            return
        narrowest, widest = self._accepted_m
        width = max(0.0, 2.0 * position_m)
        success = narrowest <= width <= widest
        accepted = f"{1000.0 * narrowest:.1f} to {1000.0 * widest:.1f} mm"
        word = "within" if success else "not within"
        self._end(success, f"{self._verb} ended at {1000.0 * width:.1f} mm, {word} {accepted}")
        if not success:
            self.stop(position_m)

    def _begin(
        self, verb: str, goal_m: float, speed_m_s: float, force_n: float, accepted_m: tuple[float, float]
    ) -> None:
        fastest = 2.0 * self._gripper.speed_m_s
        if not (isfinite(speed_m_s) and speed_m_s > 0.0):
            raise ValueError(f"a gripper speed is more than 0 m/s, got {speed_m_s}")
        if self.busy:
            self._end(False, f"{self._verb} preempted by {verb}")
        self._verb, self._goal_m, self._force_n, self._accepted_m = verb, goal_m, force_n, accepted_m
        self._speed_m_s = 0.5 * min(speed_m_s, fastest)
        self._waits = self._latency_steps
        self._still_s = 0.0
        self.outcome = None

    def _end(self, success: bool, message: str) -> None:
        self._accepted_m = None
        self.outcome = GripperOutcome(success, message)

    def _check_width(self, width_m: float) -> None:
        if not 0.0 <= width_m <= self._gripper.max_width_m:
            raise ValueError(f"a gripper width is 0 to {self._gripper.max_width_m} m, got {width_m}")
