"""Labels of recorded episodes, given back to a simulated arm when they are due, do the task: nothing lags or leads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vla_ros.actions import AnchorState, from_absolute, to_absolute
from vla_ros.control import kinematics
from vla_ros.control.arm import ArmConfig
from vla_ros.policies.policy import Inference, WindowSpec
from vla_ros.recording.config import RecordingConfig
from vla_ros.recording.dataset import DatasetMeta
from vla_ros.robots.panda import PANDA
from vla_ros.rollout.demonstrations import DemonstrationConfig, Setup, record_demonstrations
from vla_ros.rollout.loop import Rollout, RolloutConfig
from vla_ros.simulation.tabletop import Tabletop
from vla_ros.simulation.world import DEFAULT_CAMERAS, TabletopConfig
from vla_ros.training.windows import ActionSamples, DataConfig
from vla_ros.values import Committed, ModelChunk, Window

FORWARD = kinematics.for_robot(PANDA).forward
MAX_WIDTH_M = PANDA.gripper.max_width_m
SMALL = {name: camera.model_copy(update={"width": 32, "height": 32}) for name, camera in DEFAULT_CAMERAS.items()}
WORLD = TabletopConfig(cameras=SMALL)


def anchor(joints: np.ndarray) -> AnchorState:
    return AnchorState(joints, FORWARD(joints))


class Recalls:
    """A policy that looks for the row whose hand and fingers are nearest to what it sees, and wants what was wanted."""

    window_spec = WindowSpec(cameras=(), proprioception=("joints", "gripper"))

    def __init__(self, samples: ActionSamples, episode: int) -> None:
        self.action_spec = samples.action
        self._samples = samples
        self._rows = samples.episodes[episode]
        self._states = np.array([samples.state(index) for index in self._rows])
        self._hands = np.array([FORWARD(state[:7])[:3] for state in self._states])

    def reset(self, instruction: str) -> None:
        """It knows one only."""

    def infer(self, window: Window, committed: Committed) -> Inference:
        seen = window[-1].proprioception
        apart = np.linalg.norm(self._hands - FORWARD(seen["joints"])[:3], axis=1)
        nearest = int(np.argmin(apart + np.abs(self._states[:, 7] - seen["gripper"][0])))
        rows = ModelChunk(window[-1].instant_ns, self._samples.actions(self._rows[nearest])[0])
        # Steps from where that arm was: the same targets are other steps from where this one is.
        targets = to_absolute(self.action_spec, rows, anchor(self._states[nearest, :7]), MAX_WIDTH_M)
        return Inference(from_absolute(self.action_spec, targets, anchor(seen["joints"]), MAX_WIDTH_M))


@pytest.mark.full
@pytest.mark.parametrize("inference_hz", [5.0, 10.0])
def test_recalled_labels_lift_at_ten_hertz_with_a_tenth_of_a_second_of_delay(
    tmp_path: Path, inference_hz: float
) -> None:
    setup = Setup(PANDA, WORLD, ("front",), ArmConfig(), RecordingConfig(fps=10), inference_hz=5.0)
    shown = DemonstrationConfig(tasks=("lift",), mishaps=0.0)
    record_demonstrations(setup, tmp_path / "lifts", 6, 500, shown)
    samples = ActionSamples([tmp_path / "lifts"], DataConfig(cameras=("front",), pixels=32))
    meta = DatasetMeta.load(tmp_path / "lifts")
    lifted = []
    for episode in range(6):
        details = meta.details(meta.episodes[episode])
        config = RolloutConfig(inference_hz=inference_hz, inference_delay_ms=100.0)
        rollout = Rollout(Tabletop(PANDA, WORLD), PANDA, Recalls(samples, episode), ArmConfig(), config)
        lifted.append(rollout.run(details["seed"], details["task"]).success)
    assert sum(lifted) >= 5, lifted
