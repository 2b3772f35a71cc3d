"""A policy against a dataset: errors of policies that are known exactly, and what cannot be compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_up_vla

from vla_ros.actions import ActionSpec, GripperConvention, Space
from vla_ros.control.arm import ArmConfig
from vla_ros.policies.images import square
from vla_ros.policies.policy import Inference, WindowSpec
from vla_ros.policies.up_vla import UpVlaPolicy
from vla_ros.recording.config import RecordingConfig
from vla_ros.recording.features import STAMP, Feature, Features, Row
from vla_ros.recording.files import DatasetError
from vla_ros.recording.lerobot_v3 import DatasetWriter, EpisodeDetails
from vla_ros.recording.reader import DatasetReader
from vla_ros.robots.fr3 import FR3
from vla_ros.robots.panda import PANDA
from vla_ros.rollout.demonstrations import DemonstrationConfig, Setup, record_demonstrations
from vla_ros.simulation.world import DEFAULT_CAMERAS, TabletopConfig
from vla_ros.training.open_loop import OpenLoop, compare
from vla_ros.training.windows import TCP_STEPS, ActionSamples, DataConfig
from vla_ros.values import Array, Committed, ModelChunk, Observation, Prediction, Window

REFERENCE = Path(__file__).parent.parent / "reference" / "lerobot-0.6.1"
SIDE = 24


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One lift of some four seconds at 10 rows a second, with two cameras."""
    size = {"width": tiny_up_vla.WIDTH, "height": tiny_up_vla.HEIGHT}
    cameras = {name: camera.model_copy(update=size) for name, camera in DEFAULT_CAMERAS.items()}
    setup = Setup(PANDA, TabletopConfig(cameras=cameras), tuple(cameras), ArmConfig(), RecordingConfig(fps=10), 5.0)
    root = tmp_path_factory.mktemp("recorded") / "lifts"
    record_demonstrations(setup, root, 1, 11, DemonstrationConfig(tasks=("lift the red cube",), mishaps=0.0))
    return root


class Knowing:
    """Knows the only episode by heart: gives the recorded actions and the frame of a second later, off by `off`."""

    action_spec = TCP_STEPS
    window_spec = WindowSpec(cameras=("front",), proprioception=("joints", "gripper"))

    def __init__(self, root: Path, off: Array | float = 0.0) -> None:
        self._samples = ActionSamples([root], DataConfig(cameras=("front",), state_keys=()))
        self._frames = DatasetReader(root)
        self._off = off
        self.asked: list[int] = []
        self.told: list[str] = []

    def reset(self, instruction: str) -> None:
        self.told.append(instruction)

    def infer(self, window: Window, committed: Committed) -> Inference:
        now = window[-1]
        row = (now.instant_ns - 1_000_000_000) // 100_000_000
        self.asked.append(row)
        actions, is_pad = self._samples.actions(row)
        actions = actions + self._off
        actions[is_pad] = 9.0  # nobody may look at these
        return Inference(ModelChunk(now.instant_ns, actions), imagine=lambda: (self.frame(now, row),))

    def frame(self, now: Observation, row: int) -> Prediction:
        then = min(row + 10, len(self._frames) - 1)
        image = self._frames.images(0, "front", [then])[0]
        return Prediction("front", now.instant_ns + 1_000_000_000, square(image, SIDE))


class Standing(Knowing):
    """Stays where it is, and expects to see what it sees."""

    def infer(self, window: Window, committed: Committed) -> Inference:
        now = window[-1]
        row = [0.0] * 6 + [now.proprioception["gripper"][0] / PANDA.gripper.max_width_m]
        image = square(now.images["front"], SIDE)
        return Inference(
            ModelChunk(now.instant_ns, np.tile(row, (10, 1))),
            (Prediction("front", now.instant_ns + 1_000_000_000, image),),
        )


class Describing(Knowing):
    """Describes what it sees so often; infinite: never."""

    def __init__(self, root: Path, period_s: float) -> None:
        super().__init__(root)
        self.reflection_period_s = period_s
        self.described_s: list[float] = []
        self.description = ""

    def reflect(self, window: Window) -> None:
        self.described_s.append(window[-1].instant_ns * 1e-9)

    def answer(self, window: Window, question: str) -> str:
        raise AssertionError("nobody asked")


def compared(policy: Knowing, root: Path, samples: int = 12) -> OpenLoop:
    return compare("tried", policy, PANDA, root, samples)


def test_one_who_knows_it_all_has_no_error(dataset: Path, tmp_path: Path) -> None:
    policy = Knowing(dataset)
    found = compared(policy, dataset)
    assert set(policy.told) == {"lift the red cube"}
    rows = len(DatasetReader(dataset))
    assert policy.asked == sorted({round(place) for place in np.linspace(0, rows - 1, 12)}), "evenly, to the last row"
    assert np.abs(found.actions.policy).max() == 0.0
    assert found.path is not None
    assert np.nanmax(np.abs(found.path.policy)) < 1e-4  # millimetres, degrees
    assert found.predicted["front"].ssim == pytest.approx(1.0)
    assert found.copied["front"].ssim < 0.95
    assert found.predicted["front"].frames == sum(row + 10 < rows for row in policy.asked)
    assert all(len(one.seen) == len(one.current) == SIDE for one in found.examples)
    assert 3 <= len(found.examples) <= 5
    found.write(tmp_path / "new" / "report.json")
    said = json.loads((tmp_path / "new" / "report.json").read_text())
    assert said["actions"]["delta.tcp.x"]["by_row"] == [0.0] * 10
    assert said["future_frames"]["front"]["predicted"]["psnr_db"] is None, "infinite"
    assert said["future_frames"]["front"]["copied"]["psnr_db"] > 10.0


def test_a_gap_in_time_is_compared_as_an_end(dataset: Path, tmp_path: Path) -> None:
    """Rows from 20 on came 5 s later: no window looks back beyond them, no frame or action beyond counts before."""
    root = shutil.copytree(dataset, tmp_path / "paused")
    (path,) = root.glob("data/**/*.parquet")
    table = pq.read_table(path)
    stamps = [[stamp + 5.0 * (row >= 20) for stamp in each] for row, each in enumerate(table[STAMP].to_pylist())]
    field = table.schema.field(STAMP)
    pq.write_table(table.set_column(table.schema.get_field_index(STAMP), field, pa.array(stamps, field.type)), path)

    class Remembering(Knowing):
        window_spec = WindowSpec(cameras=("front",), proprioception=("joints",), length=4, step_ns=100_000_000)
        windows: list[list[int]] = []  # noqa: RUF012

        def infer(self, window: Window, committed: Committed) -> Inference:
            self.windows.append([(one.instant_ns - 1_000_000_000) // 100_000_000 for one in window])
            return super().infer(window, committed)

    rows = len(DatasetReader(root))
    policy = Remembering(root)
    found = compared(policy, root, rows)
    assert np.nanmax(np.abs(found.actions.policy)) == 0.0, "what is padding here is padding there"
    assert policy.windows[18:23] == [[15, 16, 17, 18], [16, 17, 18, 19], [20] * 4, [20, 20, 20, 21], [20, 20, 21, 22]]
    assert found.predicted["front"].frames == (20 - 10) + (rows - 20 - 10)
    assert len(policy.told) == 3, "what it follows is asked first, and each side of the gap begins again"


def test_a_known_error_is_found_in_its_unit_and_adds_up_along_the_way(dataset: Path) -> None:
    off = np.array([0.001, 0.0, 0.0, 0.0, 0.0, np.deg2rad(0.5), 0.0])
    found = compared(Knowing(dataset, off), dataset)
    errors = dict(zip(found.actions.names, found.actions.policy.T, strict=True))
    units = dict(zip(found.actions.names, found.actions.units, strict=True))
    assert (units["delta.tcp.x"], units["delta.tcp.rz"], units["gripper"]) == ("mm", "deg", "")
    np.testing.assert_allclose(errors["delta.tcp.x"], 1.0, atol=1e-9)
    np.testing.assert_allclose(errors["delta.tcp.rz"], 0.5, atol=1e-9)
    np.testing.assert_allclose(errors["delta.tcp.y"], 0.0, atol=1e-9)
    assert found.path is not None
    np.testing.assert_allclose(found.path.policy[:, 0], np.arange(1.0, 11.0), atol=1e-6)
    # Turns about nearly the same axis add up nearly.
    assert found.path.policy[-1, 1] == pytest.approx(5.0, rel=0.1)


def test_one_who_stands_still_is_as_good_as_standing_still_and_as_a_copy(dataset: Path) -> None:
    found = compared(Standing(dataset), dataset)
    assert found.actions.still is not None
    np.testing.assert_allclose(found.actions.policy, found.actions.still, atol=1e-6)
    assert found.path is not None
    np.testing.assert_allclose(found.path.policy, np.asarray(found.path.still), atol=1e-6)
    assert found.path.policy[-1, 0] > 20.0, "the arm moved on"
    assert found.predicted == found.copied


def test_a_scene_is_described_when_it_is_new_and_then_as_often_as_the_policy_says(dataset: Path) -> None:
    never, often = Describing(dataset, inf), Describing(dataset, 1.0)
    compared(never, dataset)
    assert never.described_s == []
    compared(often, dataset, 1000)
    assert often.described_s == pytest.approx([1.0, 2.0, 3.0, 4.0, 5.0][: len(often.described_s)])
    assert len(often.described_s) >= 3


def test_a_model_is_compared_like_anyone(dataset: Path) -> None:
    found = compare("up_vla", UpVlaPolicy(tiny_up_vla.bundle(), PANDA), PANDA, dataset, 4)
    assert found.predicted["front"].psnr_db < found.copied["front"].psnr_db, "random weights"
    assert found.actions.policy.shape == (10, 7)
    of_others = UpVlaPolicy(tiny_up_vla.bundle(words=("lift", "the", "blue", "cube")), PANDA)
    with pytest.raises(ValueError, match="does not know red"):
        compare("up_vla", of_others, PANDA, dataset, 4)


def test_rows_of_others_are_compared_as_they_are() -> None:
    class Copying:
        action_spec = ActionSpec(
            space=Space.JOINT_POSITION, rate_hz=10.0, horizon=4, gripper=GripperConvention.NONE, joint_names=tuple("ab")
        )
        window_spec = WindowSpec(cameras=("eye",), proprioception=())

        def reset(self, instruction: str) -> None:
            assert instruction.startswith("pick")

        def infer(self, window: Window, committed: Committed) -> Inference:
            assert window[-1].images["eye"].shape == (240, 320, 3)
            return Inference(ModelChunk(window[-1].instant_ns, np.zeros((4, 2))))

    mapping = {
        "source": "column",
        "action_names": ("j2", "j5"),
        "action": {"rotation_scale_rad": 0.01},
        "camera_keys": {"eye": "observation.images.wrist"},
    }
    found = compare("tried", Copying(), PANDA, REFERENCE, 2, mapping)  # the first row, and the last
    reader = DatasetReader(REFERENCE)
    column = 0.01 * reader.columns(0, ["action"])["action"][:, [2, 5]]
    last = 0.01 * reader.columns(1, ["action"])["action"][-1, [2, 5]]
    expected = np.abs(np.rad2deg(column[[0, 3, 6, 9]]))
    expected[0] = (expected[0] + np.abs(np.rad2deg(last))) / 2.0
    np.testing.assert_allclose(found.actions.policy, expected, rtol=1e-5)
    assert (found.path, found.actions.still, found.actions.units) == (None, None, ("deg", "deg"))


class Looking:
    """Keeps what it is shown, and wants the arm to stay at zero."""

    action_spec = ActionSpec(
        space=Space.JOINT_POSITION, rate_hz=10.0, horizon=4, gripper=GripperConvention.WIDTH_M,
        joint_names=PANDA.joint_names,
    )  # fmt: skip
    window_spec = WindowSpec(cameras=("front",), proprioception=("joints", "gripper"))

    def __init__(self) -> None:
        self.seen: list[Observation] = []
        self.sizes: Mapping[str, tuple[int, int]] = {}

    def check_cameras(self, cameras: Mapping[str, tuple[int, int]]) -> None:
        self.sizes = cameras

    def reset(self, instruction: str) -> None:
        """It knows no words."""

    def infer(self, window: Window, committed: Committed) -> Inference:
        self.seen.append(window[-1])
        return Inference(ModelChunk(window[-1].instant_ns, np.zeros((4, 8))))


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A dataset of a robot and of columns that nobody here knows by name: row k has joints k + 0 .. 6, the width k."""
    names = tuple(f"motor{number}" for number in range(8))
    features = Features(
        10, "franka",
        (
            Feature("width", "float32", (1,)), Feature("qpos", "float32", (7,)),
            Feature("action", "float32", (8,), names),
            Feature("observation.images.eye", "video", (48, 64, 3), ("height", "width", "channels")),
        ),
    )  # fmt: skip
    with DatasetWriter(tmp_path / "theirs", features, RecordingConfig(fps=10)) as writer:
        writer.begin("wave")
        for frame in range(6):
            values = {"width": np.array([frame]), "qpos": frame + np.arange(7.0), "action": np.zeros(8)}
            writer.add(Row(frame, {"eye": np.full((48, 64, 3), 9 * frame, np.uint8)}, values))
        writer.save(EpisodeDetails("wave", success=True))
    info = tmp_path / "theirs" / "meta" / "info.json"
    told = json.loads(info.read_text())
    told["features"]["observation.images.eye"]["shape"] = [3, 48, 64]
    info.write_text(json.dumps(told))
    return tmp_path / "theirs"


THEIRS = {"source": "column", "camera_keys": {"front": "eye"}}
OF_STATE = {"state_keys": ["width", "qpos"], "state_streams": ["gripper", "joints"]}


@pytest.mark.parametrize("robot", [{}, {"robot": "panda"}])
def test_the_state_of_others_is_shown_by_the_streams_that_it_is_said_to_be(theirs: Path, robot: dict[str, str]) -> None:
    policy = Looking()
    found = compare("tried", policy, PANDA, theirs, 2, {**THEIRS, **OF_STATE, **robot})
    assert policy.sizes == {"front": (64, 48)}, "whoever wrote it put channels first"
    last = policy.seen[-1].proprioception
    assert (last["joints"].tolist(), last["gripper"].tolist()) == ([5, 6, 7, 8, 9, 10, 11], [5])
    assert found.path is not None
    np.testing.assert_allclose(found.actions.policy[0], 0.0)


@pytest.mark.parametrize(
    ("mapping", "says"),
    [
        ({}, "joints, gripper; it holds nothing of a panda, as far as its names, or data.state_streams, tell"),
        (
            {**OF_STATE, "state_streams": ["gripper"]},
            r"data.state_streams \(gripper\) for a panda: 1, but .*: 8",
        ),
        ({**OF_STATE, "state_keys": ["angles"]}, "no feature 'angles'"),
        ({**OF_STATE, "robot": "fr3"}, "was recorded with a fr3, the policy is for a panda"),
    ],
)
def test_a_state_that_nothing_says_enough_of_is_refused(theirs: Path, mapping: dict[str, object], says: str) -> None:
    with pytest.raises(DatasetError, match=says):
        compare("tried", Looking(), PANDA, theirs, 2, {**THEIRS, **mapping})


def test_joints_that_are_not_the_arms_lead_nowhere() -> None:
    """Eight joints of theirs: rows are compared, but nobody knows where they would take an arm of seven."""
    policy = Looking()
    names = tuple(f"j{number}" for number in range(8))
    policy.action_spec = policy.action_spec.model_copy(  # type: ignore[misc]
        update={"joint_names": names, "gripper": GripperConvention.NONE}
    )
    mapping = {
        "source": "column", "camera_keys": {"front": "wrist"}, "state_streams": ["joints", "gripper"],
        "action": {"rotation_scale_rad": 0.01},
    }  # fmt: skip
    found = compare("tried", policy, PANDA, REFERENCE, 2, mapping)
    assert (found.path, found.actions.still) == (None, None)


def test_what_cannot_be_compared_is_refused(dataset: Path, tmp_path: Path) -> None:
    known = Knowing(dataset)
    with pytest.raises(DatasetError, match="is not a LeRobot dataset"):
        compare("tried", known, PANDA, tmp_path)
    known.window_spec = replace(known.window_spec, cameras=("front", "rear"))  # type: ignore[misc]
    with pytest.raises(DatasetError, match="has no camera rear, at which the policy looks; there are: front, wrist"):
        compare("tried", known, PANDA, dataset)
    known.window_spec = replace(known.window_spec, cameras=("front",), proprioception=("world",))  # type: ignore[misc]
    with pytest.raises(DatasetError, match="besides cameras: world; it holds joints, gripper, commanded_joints"):
        compare("tried", known, PANDA, dataset)
    with pytest.raises(DatasetError, match="it holds nothing of a fr3"):
        compare("tried", Knowing(dataset), FR3, dataset)
    failed = tmp_path / "failed"
    shutil.copytree(dataset, failed)
    (file,) = (failed / "meta/vla_ros/episodes").glob("*.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "success": False}))
    with pytest.raises(DatasetError, match="has no episode that was a success, of 1"):
        compare("tried", Knowing(dataset), PANDA, failed)
