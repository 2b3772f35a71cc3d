"""What is trained is what acts: the policy on a recorded row gives what the objective was given a loss for."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tiny_up_vla
import torch
from tiny_up_vla import HEIGHT, PIXELS, WIDTH

from vla_ros.actions import GripperConvention
from vla_ros.checkpoints.manifest import Bundle
from vla_ros.checkpoints.requirements import CameraInput, Normalization
from vla_ros.policies.policy import Inference
from vla_ros.policies.up_vla import UpVlaPolicy
from vla_ros.recording.config import RecordingConfig
from vla_ros.recording.features import REQUESTED, SENT, STATE, Row, of_robot
from vla_ros.recording.lerobot_v3 import DatasetWriter, EpisodeDetails
from vla_ros.recording.reader import DatasetReader
from vla_ros.robots.panda import PANDA
from vla_ros.tokenizers.magvit2 import pixels
from vla_ros.training.batches import ActionBatch, ActionBatches
from vla_ros.training.config import RECIPES
from vla_ros.training.describing import carried_on, describe, read_descriptions
from vla_ros.training.distributed import Processes
from vla_ros.training.labels import EndRule
from vla_ros.training.stats import normalization, state_normalization
from vla_ros.training.up_vla_batches import Preparation
from vla_ros.training.up_vla_objective import Part, UpVlaObjective, Windows
from vla_ros.training.windows import ActionSamples, DataConfig
from vla_ros.values import Committed, Observation

#: Of unequal lengths, so that some are padded in a batch; typed as people type.
INSTRUCTIONS = ("lift the red cube", " lift the blue cube, the blue cube ")
FRAMES = 13
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes of blurred noise, seen by an arm that is behind what it is asked for."""
    root, rng = tmp_path_factory.mktemp("recorded") / "lifts", np.random.default_rng(0)
    features = of_robot(PANDA, {"front": (HEIGHT, WIDTH), "wrist": (HEIGHT, WIDTH)}, 10)
    with DatasetWriter(root, features, RecordingConfig(fps=10)) as writer:
        for task in INSTRUCTIONS:
            writer.begin(task)
            for frame in range(FRAMES):
                values = {feature.key: np.zeros(feature.shape[0]) for feature in features.columns}
                measured = np.array(PANDA.home_rad) + rng.uniform(-0.1, 0.1, 7)
                asked = [*measured, 0.4 + 0.01 * frame, *rng.uniform(0.1, 0.3, 2), 1, 0, 0, 0, 0.08 * (frame < 6)]
                values |= {STATE: np.array([*measured, rng.uniform(0, 0.08)]), SENT: np.array(asked)}
                values[REQUESTED] = np.array(asked)
                coarse = rng.integers(0, 256, (2, HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
                front, wrist = coarse.repeat(8, axis=1).repeat(8, axis=2)
                writer.add(Row(frame, {"front": front, "wrist": wrist}, values))
            writer.save(EpisodeDetails(task, success=True))
    return root


def released() -> Bundle:
    told = tiny_up_vla.bundle().manifest
    return tiny_up_vla.bundle(
        model=told.model.model_copy(update={"conditioning": "released", "state_dims": 0}), vision=None, state=None,
        cameras=(CameraInput(name="front", width=WIDTH, height=HEIGHT),), proprioception=(),
        action=told.action.model_copy(update={"gripper": GripperConvention.OPEN_SIGNED}),
    )  # fmt: skip


def with_gripper(gripper: GripperConvention) -> Bundle:
    told = tiny_up_vla.bundle().manifest
    action = told.action.model_copy(update={"gripper": gripper})
    scale = Normalization(offset=(0.0,) * len(action.dimensions), scale=(1.0,) * len(action.dimensions))
    model = told.model.model_copy(update={"action_dims": len(action.dimensions)})
    return tiny_up_vla.bundle(model=model, action=action, normalization=scale)


GRIPPERS = ("none", "open_unit", "closed_signed", "width_m")
BUNDLES = {"released": released, **{one: partial(with_gripper, GripperConvention(one)) for one in GRIPPERS}}


@pytest.mark.parametrize("kind", BUNDLES)
def test_a_policy_gives_what_was_trained(kind: str, dataset: Path, tmp_path: Path) -> None:
    """Frames, codes, features, description, instruction, state: all through the code of either, black box by box."""
    bundle = BUNDLES[kind]()
    manifest, config = bundle.manifest, bundle.manifest.model
    is_paper = config.conditioning == "paper"
    data = DataConfig(
        cameras=tuple(camera.name for camera in manifest.cameras), code_cameras=manifest.code_cameras, pixels=PIXELS,
        action=manifest.action, end=EndRule.HOLD if is_paper else EndRule.RELEASED,
    )  # fmt: skip
    samples = ActionSamples([dataset], data, tmp_path / "cache")
    scales = {
        "normalization": normalization(samples, is_paper),
        "state": state_normalization(samples) if is_paper else None,
    }
    manifest = manifest.model_copy(update=scales)
    bundle = replace(bundle, manifest=manifest)
    said = {}
    if is_paper:
        assert bundle.vision is not None
        path = tmp_path / "said.jsonl"
        describe(bundle.model, bundle.vision, bundle.text, samples, 1, path, Processes(), lambda *_: None)
        said = carried_on(read_descriptions(path), samples.segments)
    preparation = Preparation(
        config, bundle.text, bundle.image_tokenizer, CPU, descriptions=said, counts_pads=not is_paper,
        pad_to=None if is_paper else 90,
    )  # fmt: skip
    batch = ActionBatches(samples, manifest.normalization, manifest.state, 6)[0]
    assert len(set(batch.instructions)) == 2, "some are padded"
    windows = preparation.windows(batch, 0)
    inferences = [acted(bundle, dataset, samples, index, said.get(index, "")) for index in batch.samples.tolist()]

    objective = UpVlaObjective(bundle.model, bundle.vision, {"predict": 1.0, "act": 1.0}, has_gripper=kind != "none")
    with torch.no_grad():
        trained = objective(Part(windows))
        hidden_BLW = objective.model(
            windows.sequence,
            None if windows.images_BVHW3 is None else bundle.vision.encode(windows.images_BVHW3),
            windows.state_BP,
        )
        codes_BN = objective.model.imagine(hidden_BLW, windows.sequence).argmax(-1)
        expected = pixels(bundle.image_tokenizer.decode(codes_BN)).numpy()
    assert float(trained["act"]) == pytest.approx(loss(bundle, windows, batch, inferences), rel=1e-4)
    for inference, frame in zip(inferences, expected, strict=True):
        assert inference.imagine is not None
        (prediction,) = inference.imagine()
        np.testing.assert_array_equal(prediction.image, frame)
    assert len(np.unique(expected.reshape(len(expected), -1), axis=0)) > 1, "frames tell the rows apart"


def acted(bundle: Bundle, dataset: Path, samples: ActionSamples, index: int, said: str) -> Inference:
    """The policy at a recorded row, when it has looked about."""
    row = DatasetReader(dataset).row(index)
    joints, width = np.split(row.values[STATE].astype(np.float64), [7])
    seen = Observation(0, row.images, {"joints": joints, "gripper": width})
    policy = UpVlaPolicy(bundle, PANDA)
    policy.reset(samples.sample(index).instruction)
    if bundle.manifest.model.conditioning == "paper":
        policy.reflect([seen])
        assert policy.description == bundle.text.decode(
            bundle.text.encode(said)[: bundle.manifest.model.max_description]
        )
    return policy.infer([seen], Committed())


def loss(bundle: Bundle, windows: Windows, batch: ActionBatch, inferences: list[Inference]) -> float:
    """The action loss of what a policy said, from the paper's and the release's formulas."""
    offset, scale = np.array(bundle.manifest.normalization.offset), np.array(bundle.manifest.normalization.scale)
    given_BKA = (np.stack([one.chunk.actions for one in inferences]) - offset) / scale
    wanted_BKA = batch.actions.numpy().astype(np.float64)
    error_BKA = (given_BKA - wanted_BKA) ** 2
    if bundle.manifest.model.conditioning == "released":
        assert windows.is_pad_BK is None, "the release has its padding count"
        return float(error_BKA.sum())
    if bundle.manifest.action.gripper is GripperConvention.NONE:
        return float(error_BKA[~batch.is_pad.numpy()].sum())
    assert set(np.unique(wanted_BKA[..., -1].round(6))) == {0.0, 1.0}, "open and closed, whatever the convention"
    open_BK, p_BK = wanted_BKA[..., -1], given_BKA[..., -1]
    error_BKA[..., -1] = -open_BK * np.log(p_BK) - (1 - open_BK) * np.log(1 - p_BK)
    return float(error_BKA[~batch.is_pad.numpy()].sum())


def test_the_loss_weights_are_the_release_s() -> None:
    stages = RECIPES["up-vla-release"].stage_1, RECIPES["up-vla-release"].stage_2
    assert [(one.predict, one.act, one.understand) for one in stages] == [(1.0, 0.0, 0.1), (1.0, 1.0, 0.1)]
    assert all(one.batch == one.conversations == 64 for one in stages)
