"""How far calibrated latencies are from those that a simulated robot is given, over DDS; the limit: 5 ms."""

from __future__ import annotations

import argparse
import os
import sys

import numpy as np

from vla_ros import config
from vla_ros.calibration.latency import ACTUATION_KEY, GRIPPER_KEY, Delay, camera_key, measure
from vla_ros.config import SystemConfig
from vla_ros.graph import build_without_policy
from vla_ros.ros import transport
from vla_ros.ros.calibrating_latency import Plan, record
from vla_ros.ros.supervising import Supervisor
from vla_ros.simulation.hand import DAMPING_N_S_M, STIFFNESS_N_M
from vla_ros.simulation.impedance import JOINT_DAMPING, JOINT_STIFFNESS

LIMIT_MS = 5.0
#: What the springs and dampers of arm and hand add; and a command is half its period old on average.
ARM_MS = 1000.0 * JOINT_DAMPING[0] / JOINT_STIFFNESS[0] + 5.0
GRIPPER_MS = 1000.0 * DAMPING_N_S_M / STIFFNESS_N_M


def system(front_ms: float, wrist_ms: float, arm_ms: float, gripper_ms: float) -> SystemConfig:
    """The shipped system with these latencies in its simulation."""
    values = config.load("franka_upvla").model_dump(mode="json")
    values["cameras"]["front"]["latency_ms"] = front_ms
    values["cameras"]["wrist"]["latency_ms"] = wrist_ms
    values["simulation"] |= {"actuation_latency_ms": arm_ms, "gripper_latency_ms": gripper_ms}
    return SystemConfig.model_validate(values)


def errors_ms(front_ms: float, wrist_ms: float, arm_ms: float, gripper_ms: float) -> dict[str, float]:
    """Measured minus true, of one calibration with everything as a user has it by default."""
    chosen = system(front_ms, wrist_ms, arm_ms, gripper_ms)
    with transport.locked_domain_id() as domain_id:
        os.environ.update(environment := transport.local_environment(os.environ, domain_id))
        with Supervisor(build_without_policy(chosen), environment, lambda name, line: None):
            recording = record(chosen, simulate=True, plan=Plan(), confirm=lambda _: True, on_progress=lambda _: None)
    assert recording is not None
    measured = measure(recording)
    truth = {
        camera_key("front"): front_ms,
        camera_key("wrist"): wrist_ms,
        ACTUATION_KEY: ARM_MS + arm_ms,
        GRIPPER_KEY: GRIPPER_MS + gripper_ms,
    }
    return {
        key: float(delay.delay_ms - truth[key]) if isinstance(delay, Delay) else float("nan")
        for key, delay in measured.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random = np.random.default_rng(arguments.seed)
    rows = []
    for _ in range(arguments.runs):
        true_ms = random.uniform(0.0, 150.0, 4).round().tolist()
        rows.append(errors_ms(*true_ms))
        print(true_ms, {key: round(error, 1) for key, error in rows[-1].items()}, flush=True)
    worst_ms = max(abs(error) if np.isfinite(error) else float("inf") for row in rows for error in row.values())
    for key in rows[0]:
        errors = [row[key] for row in rows]
        print(f"{key}: mean error {np.mean(errors):+.1f} ms, worst {max(errors, key=abs):+.1f} ms")
    print(f"worst {worst_ms:.1f} ms, {worst_ms / LIMIT_MS:.2f} of the limit")
    return 0 if worst_ms <= LIMIT_MS else 1


if __name__ == "__main__":
    sys.exit(main())
