"""Samples, batches and scales of recorded datasets: ours, and those that LeRobot wrote, of both versions."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from vla_ros.actions import ActionSpec, AnchorState, GripperConvention, Space, to_absolute
from vla_ros.control import kinematics
from vla_ros.policies.images import square
from vla_ros.recording.config import RecordingConfig
from vla_ros.recording.convert import Conversion, convert
from vla_ros.recording.features import ACTION, REQUESTED, SENT, STAMP, STATE, Row, of_robot
from vla_ros.recording.files import DatasetError
from vla_ros.recording.lerobot_v3 import DatasetWriter, EpisodeDetails
from vla_ros.recording.reader import DatasetReader
from vla_ros.robots.panda import PANDA
from vla_ros.training import windows
from vla_ros.training.augmentation import AugmentationConfig
from vla_ros.training.batches import ActionBatches, Share, prefetched, shuffled
from vla_ros.training.labels import EndRule, RecordedAction
from vla_ros.training.stats import normalization, normalized, state_normalization
from vla_ros.training.windows import ActionSamples, DataConfig
from vla_ros.values import Array, ModelChunk

REFERENCE = Path(__file__).parents[1] / "reference"
FPS = 20
LENGTHS = (25, 9, 12)
TASKS = ("lift the red cube", "lift the blue cube", "lift the red cube")
CONFIG = DataConfig(pixels=16)
FORWARD = kinematics.for_robot(PANDA).forward
#: The reference datasets: eight numbers a row, of joints, in units of 1/128 rad; one camera of theirs that is here.
THEIRS = DataConfig(
    cameras=("hand",), code_cameras=("hand",), camera_keys={"hand": "observation.images.wrist"}, pixels=24,
    source="column", action=RecordedAction(
        space=Space.JOINT_POSITION, gripper=GripperConvention.NONE, rate_hz=30.0, rotation_scale_rad=1 / 128
    ),
    state_streams=("joints", "gripper"),
)  # fmt: skip


def command(episode: int, frame: int, ahead: float) -> Array:
    """Joints, pose and width: an arm on its way, `ahead` of where it is."""
    joints = np.array(PANDA.home_rad) + 0.01 * (frame + ahead) * np.cos(np.arange(7) + episode)
    return np.array([*joints, *FORWARD(joints), 0.08 if frame < 5 else 0.0])


def row(episode: int, frame: int) -> Row:
    features = of_robot(PANDA, {"front": (48, 64), "wrist": (48, 64)}, FPS)
    values = {feature.key: np.zeros(feature.shape[0]) for feature in features.columns}
    measured = command(episode, frame, 0.0)
    values |= {STATE: np.array([*measured[:7], 0.001 * frame]), SENT: command(episode, frame, 1.0)}
    values |= {REQUESTED: command(episode, frame, 2.0), ACTION: values[STATE]}
    ramp = np.linspace(0, 100, 64)[None, :, None] + 5 * frame + 20 * episode
    image = np.broadcast_to(ramp, (48, 64, 3)).astype(np.uint8)
    return Row(frame, {"front": image, "wrist": image[:, ::-1]}, values)


def record(root: Path, successes: tuple[bool, ...] = (True, True, False)) -> Path:
    features = of_robot(PANDA, {"front": (48, 64), "wrist": (48, 64)}, FPS)
    with DatasetWriter(root, features, RecordingConfig(fps=FPS)) as writer:
        for episode, success in enumerate(successes):
            writer.begin(TASKS[episode])
            for frame in range(LENGTHS[episode]):
                writer.add(row(episode, frame))
            writer.save(EpisodeDetails(TASKS[episode], success=success))
    return root


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("recorded") / "lifts")


@pytest.fixture(scope="module")
def samples(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> ActionSamples:
    return ActionSamples([recorded], CONFIG, tmp_path_factory.mktemp("cache"))


def test_a_sample_is_what_was_seen_and_asked_for_and_what_came_of_it(recorded: Path, samples: ActionSamples) -> None:
    """10 Hz chunks of rows at 20 Hz: every other row, and the future frame 20 rows later, or the last one."""
    assert len(samples) == sum(LENGTHS[:2]), "the failure is left out"
    assert samples.instructions == tuple(sorted(set(TASKS[:2])))
    assert samples.episodes == (range(25), range(25, 34))
    assert (samples.robot, samples.state_dims, samples.state_streams) == (PANDA, 8, ("joints", "gripper"))
    assert samples.frame_sizes == {"front": (64, 48), "wrist": (64, 48)}
    reader = DatasetReader(recorded)
    for index in (0, 3, 24, 25, 33):
        episode, frame = (0, index) if index < 25 else (1, index - 25)
        last = LENGTHS[episode] - 1
        sample, there = samples.sample(index), reader.row(index)
        assert (sample.index, sample.episode, sample.frame, sample.instruction) == (
            index,
            episode,
            frame,
            TASKS[episode],
        )
        np.testing.assert_array_equal(sample.state, there.values[STATE].astype(np.float64))
        for camera in ("front", "wrist"):
            np.testing.assert_array_equal(sample.images[camera], square(there.images[camera], 16))
        later = reader.images(episode, "front", [min(frame + 20, last)])[0]
        assert list(sample.future) == ["front"]
        np.testing.assert_array_equal(sample.future["front"], square(later, 16))
        joints = there.values[STATE][:7].astype(np.float64)
        back = to_absolute(samples.action, ModelChunk(0, sample.actions), AnchorState(joints, FORWARD(joints)), 0.08)
        wanted = np.array([command(episode, min(frame + 2 * k, last), 2.0) for k in range(10)])
        np.testing.assert_allclose(back.actions[:, :3], wanted[:, 7:10], atol=1e-6)
        np.testing.assert_allclose(back.actions[:, -1], wanted[:, -1], atol=1e-6)
        assert sample.action_is_pad.tolist() == [frame + 2 * k > last for k in range(10)]


def test_frames_are_kept_beside_the_run_once_and_are_the_same(recorded: Path, tmp_path: Path) -> None:
    asked = []
    kept = ActionSamples([recorded], CONFIG, tmp_path / "cache", lambda what, done, total: asked.append((done, total)))
    assert asked[-1] == (34, 34)
    files = sorted((tmp_path / "cache").iterdir())
    assert len(files) == 2, "one for each camera, and nothing unfinished"
    asked.clear()
    again = ActionSamples([recorded], CONFIG, tmp_path / "cache", lambda what, done, total: asked.append((done, total)))
    assert not asked
    decoded = ActionSamples([recorded], CONFIG)
    taken_along = pickle.loads(pickle.dumps(kept))
    for index in (0, 24, 33):
        expected = decoded.sample(index)
        for other in (kept, again, taken_along):
            found = other.sample(index)
            np.testing.assert_array_equal(found.images["wrist"], expected.images["wrist"])
            np.testing.assert_array_equal(found.future["front"], expected.future["front"])
            np.testing.assert_array_equal(found.actions, expected.actions)
    ActionSamples([recorded], CONFIG.model_copy(update={"pixels": 8}), tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_no_more_chunks_are_kept_than_allowed(samples: ActionSamples, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [samples.actions(index)[0] for index in range(12)]
    monkeypatch.setattr(windows, "_MOST_CHUNKS", 5)
    bounded = pickle.loads(pickle.dumps(samples))
    for index in [*range(12), 3, 11]:
        assert np.array_equal(bounded.actions(index)[0], expected[index])
        assert len(bounded._chunks) <= 5


def test_datasets_are_learnt_from_one_after_the_other(recorded: Path, tmp_path: Path) -> None:
    other = record(tmp_path / "more", (True,))
    both = ActionSamples([recorded, other], CONFIG.model_copy(update={"successes_only": False}), tmp_path / "cache")
    assert [len(episode) for episode in both.episodes] == [25, 9, 12, 25]
    first, second = both.sample(7), both.sample(46 + 7)
    assert (second.episode, second.frame) == (3, 7)
    np.testing.assert_array_equal(first.images["front"], second.images["front"])
    np.testing.assert_array_equal(first.actions, second.actions)


@pytest.mark.parametrize("version", ["0.4.4", "0.6.1"])
def test_what_lerobot_wrote_is_learnt_from_as_well(version: str, tmp_path: Path) -> None:
    """Row k of an episode there: state[j] = k + j, action[j] = j - k, every pixel 5 k before compression."""
    root = REFERENCE / f"lerobot-{version}"
    theirs = ActionSamples([root], THEIRS, tmp_path / "cache")
    assert (len(theirs), theirs.instructions) == (80, ("pick 0", "pick 1"))
    assert theirs.frame_sizes == {"hand": (320, 240)}
    sample = theirs.sample(40 + 35)
    assert (sample.episode, sample.frame, sample.instruction) == (1, 35, "pick 1")
    np.testing.assert_array_equal(sample.state, 35.0 + np.arange(8))
    rows = np.minimum(35 + np.arange(10), 39)
    np.testing.assert_array_equal(128 * sample.actions, np.arange(8)[None, :] - rows[:, None])
    assert sample.action_is_pad.tolist() == [False] * 5 + [True] * 5
    assert abs(float(sample.images["hand"].mean()) - 5 * 35) < 3
    assert abs(float(sample.future["hand"].mean()) - 5 * 39) < 3
    names = DatasetReader(root, []).meta.features.find(ACTION).names
    assert names is not None
    chosen = {
        "action": THEIRS.action.model_copy(update={"rate_hz": 10.0}), "action_names": (names[2], names[0]),
        "state_keys": (), "state_streams": (), "end": EndRule.RELEASED,
    }  # fmt: skip
    few = ActionSamples([root], THEIRS.model_copy(update=chosen))
    found = few.sample(30)
    assert found.state.shape == (0,)
    assert few.action.dimensions == (names[2], names[0])
    assert (128 * found.actions).tolist() == [[-28, -30], [-31, -33], [-34, -36], *[[0, 0]] * 7]
    with_gripper = THEIRS.action.model_copy(update={"gripper": GripperConvention.WIDTH_M})
    arm = ActionSamples([root], THEIRS.model_copy(update={"action": with_gripper}))
    assert arm.action.joint_names == PANDA.joint_names, "whatever they call them: its driver knows no others"


def test_an_older_format_gives_the_same_samples(recorded: Path, samples: ActionSamples, tmp_path: Path) -> None:
    convert(recorded, tmp_path / "older", Conversion(to="v2.1"))
    older = ActionSamples([tmp_path / "older"], CONFIG)
    for index in (0, 12, 30):
        expected, found = samples.sample(index), older.sample(index)
        np.testing.assert_array_equal(found.actions, expected.actions)
        np.testing.assert_array_equal(found.state, expected.state)
        np.testing.assert_array_equal(found.images["front"], expected.images["front"])
        assert found.instruction == expected.instruction


def change_column(root: Path, key: str, change: dict[int, float], episode: int = 0) -> None:
    """Add to a column's values, row -> so much, in an episode's file, whose first rows these are."""
    files = {pq.read_table(path)["episode_index"][0].as_py(): path for path in root.glob("data/**/*.parquet")}
    table = pq.read_table(files[episode])
    values = np.array(table[key].to_pylist(), dtype=np.float64)
    for number, more in change.items():
        values[number] += more
    field = table.schema.field(key)
    changed = pa.array(values.tolist(), field.type)
    pq.write_table(table.set_column(table.schema.get_field_index(key), field, changed), files[episode])


def test_nothing_is_learnt_across_a_pause(recorded: Path, tmp_path: Path) -> None:
    """Rows 0..9 and 10..24 of the first episode are 5 s apart: neither shows what becomes of the other."""
    root = shutil.copytree(recorded, tmp_path / "paused")
    change_column(root, STAMP, {frame: frame / FPS + 5.0 * (frame >= 10) for frame in range(25)})
    paused, whole = ActionSamples([root], CONFIG), ActionSamples([recorded], CONFIG)
    assert paused.episodes == whole.episodes
    assert paused.segments == (range(10), range(10, 25), range(25, 34))
    reader = DatasetReader(root)
    for frame in (0, 3, 8, 9, 10, 24):
        sample, last = paused.sample(frame), 9 if frame < 10 else 24
        assert sample.action_is_pad.tolist() == [frame + 2 * k > last for k in range(10)]
        joints = sample.state[:7]
        back = to_absolute(paused.action, ModelChunk(0, sample.actions), AnchorState(joints, FORWARD(joints)), 0.08)
        wanted = np.array([command(0, min(frame + 2 * k, last), 2.0) for k in range(10)])
        np.testing.assert_allclose(back.actions[:, :3], wanted[:, 7:10], atol=1e-6)
        future = reader.images(0, "front", [min(frame + 20, last)])[0]
        np.testing.assert_array_equal(sample.future["front"], square(future, 16))


@pytest.mark.parametrize("key", [ACTION, "timestamp", STATE])
def test_a_value_that_is_no_number_is_located_before_anything_is_decoded(key: str, tmp_path: Path) -> None:
    root = shutil.copytree(REFERENCE / "lerobot-0.6.1", tmp_path / "theirs")
    change_column(root, key, {47: np.nan})
    with pytest.raises(DatasetError, match=f"theirs: episode 1, row 7: .*of {key} is nan, where numbers"):
        ActionSamples([root], THEIRS, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_value_that_is_not_used_may_be_anything(tmp_path: Path) -> None:
    root = shutil.copytree(REFERENCE / "lerobot-0.6.1", tmp_path / "theirs")
    change_column(root, STATE, {47: np.inf})
    blind = {"state_keys": (), "state_streams": ()}
    assert len(ActionSamples([root], THEIRS.model_copy(update=blind))) == 80


def test_timestamps_of_others_tell_of_missing_rows(tmp_path: Path) -> None:
    """Their rows 20..39 are 0.2 s late: at 30 Hz six rows are not there."""
    root = shutil.copytree(REFERENCE / "lerobot-0.6.1", tmp_path / "theirs")
    change_column(root, "timestamp", dict.fromkeys(range(20, 40), 0.2))
    theirs = ActionSamples([root], THEIRS)
    assert theirs.segments == (range(20), range(20, 40), range(40, 80))
    actions, is_pad = theirs.actions(15)
    assert is_pad.tolist() == [False] * 5 + [True] * 5
    np.testing.assert_array_equal(128 * actions, np.arange(8)[None, :] - np.minimum(15 + np.arange(10), 19)[:, None])
    window = DatasetReader(root).window(21, {ACTION: [-3, -1, 0], "wrist": [0, -2]})
    assert window.values[ACTION][:, 0].tolist() == [-20, -20, -21]
    assert window.is_padded["wrist"].tolist() == [False, True]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"cameras": ("front", "side"), "code_cameras": ("front",)}, "no camera side"),
        ({"action": ActionSpec(rate_hz=15.0)}, "15 Hz do not fall on rows at 20 Hz"),
        ({"source": "column", "action_key": "act"}, "no feature 'act'"),
        ({"source": "column", "action": ActionSpec(rate_hz=20.0, rotation="axis_angle")}, "action has 8 values"),
        ({"source": "column", "action": ActionSpec(space=Space.JOINT_DELTA)}, "rate_hz must be that, not 10"),
        ({"state_keys": ("observation.force",)}, "no feature 'observation.force'"),
        ({"robot": "franka"}, "data.robot: 'franka' is not in the catalogue; .* by data.robot: panda"),
        ({"state_keys": (SENT,)}, "of a panda the state is .*data.state_streams: .joints, gripper.* data.state_keys: "),
        (
            {"state_streams": ("joints",)},
            r"for a panda: 7, but of data.state_keys \(observation.state\): 8",
        ),
        ({"state_streams": ("joints",), "state_keys": ()}, r"panda: 7, but of data.state_keys \(none\): 0"),
        (
            {"state_streams": ("joints", "force")},
            "each of joints, gripper, commanded_joints at most once, not joints, f",
        ),
        ({"state_streams": ("gripper", "gripper")}, "at most once, not gripper, gripper"),
    ],
)
def test_what_a_dataset_has_not_is_named(recorded: Path, change: dict[str, object], says: str) -> None:
    with pytest.raises(DatasetError, match=says):
        ActionSamples([recorded], CONFIG.model_copy(update=change))


@pytest.mark.parametrize("named", ["", "Franka Emika"])
def test_an_arm_that_a_dataset_does_not_name_as_we_do_is_asked_for(named: str, tmp_path: Path) -> None:
    root = tmp_path / "theirs"
    shutil.copytree(REFERENCE / "lerobot-0.6.1", root)
    change_info(root, robot_type=named)
    with pytest.raises(
        DatasetError, match=f"its robot_type '{named}' is not in the catalogue; .* by data.robot: panda"
    ):
        ActionSamples([root], THEIRS, tmp_path / "cache")
    assert not (tmp_path / "cache").exists(), "and before anything is decoded"
    assert ActionSamples([root], THEIRS.model_copy(update={"robot": "panda"})).robot is PANDA


def test_cameras_are_found_by_short_keys_and_with_channels_first(tmp_path: Path) -> None:
    root = tmp_path / "theirs"
    shutil.copytree(REFERENCE / "lerobot-0.6.1", root)
    change_info(root, **{"observation.images.wrist": [3, 240, 320]})
    short = ActionSamples([root], THEIRS.model_copy(update={"camera_keys": {"hand": "wrist"}}))
    assert short.frame_sizes == {"hand": (320, 240)}
    assert short.sample(0).images["hand"].shape == (24, 24, 3)


def change_info(root: Path, robot_type: str = "panda", **shapes: list[int]) -> None:
    """Write another robot, and other shapes of features, into a dataset's description."""
    path = root / "meta" / "info.json"
    info = json.loads(path.read_text())
    info["robot_type"] = robot_type
    for key, shape in shapes.items():
        info["features"][key]["shape"] = shape
    path.write_text(json.dumps(info))


def test_datasets_that_do_not_fit_are_refused(recorded: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no column .*give source: column"):
        ActionSamples([REFERENCE / "lerobot-0.6.1"], THEIRS.model_copy(update={"source": "poses"}))
    failed = record(tmp_path / "failed", (False,))
    with pytest.raises(DatasetError, match="no episode that was a success"):
        ActionSamples([failed], CONFIG)
    column = CONFIG.model_copy(update={"source": "column", "action": RecordedAction(space=Space.JOINT_POSITION)})
    with pytest.raises(DatasetError, match="no episode that was a success"):
        ActionSamples([failed], column)
    with pytest.raises(ValueError, match="code_cameras: side not among cameras front, wrist"):
        DataConfig(code_cameras=("side",))


def test_scales_put_quantiles_at_one_and_leave_a_share_of_an_opening(recorded: Path, samples: ActionSamples) -> None:
    found = normalization(samples)
    rows = np.concatenate([actions[~is_pad] for actions, is_pad in map(samples.actions, range(len(samples)))])
    low, high = np.quantile(rows[:, :6], (0.01, 0.99), axis=0)
    np.testing.assert_allclose(normalized(np.stack([[*low, 0.0], [*high, 1.0]]), found)[:, 6], [0.0, 1.0])
    wide = high - low > 2.2e-3  # what varies less is noise
    assert wide.any()
    model = normalized(np.stack([[*low, 0.0], [*high, 1.0]]), found)[:, :6]
    np.testing.assert_allclose(model[:, wide], [[-1.0] * wide.sum(), [1.0] * wide.sum()], atol=1e-9)
    np.testing.assert_allclose(np.array(found.offset) + np.array(found.scale) * normalized(rows, found), rows)
    state = state_normalization(samples)
    assert state is not None
    assert len(state.offset) == len(state.scale) == samples.state_dims
    blind = ActionSamples([recorded], CONFIG.model_copy(update={"state_keys": ()}))
    assert (blind.state_dims, state_normalization(blind)) == (0, None)


class Still:
    """Chunks of one row whose first value never changes, the second hardly, the third once; the fourth swings."""

    action = ActionSpec(space=Space.JOINT_DELTA, gripper=GripperConvention.NONE, joint_names=tuple("abcd"))

    def __len__(self) -> int:
        return 1000

    def actions(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return np.array([[0.3, 1e-5 * np.sin(index), 0.5 * (index == 500), 0.1 * np.sin(index)]]), np.zeros(1, bool)


def test_what_hardly_varies_is_not_blown_up() -> None:
    samples = Still()
    found = normalization(samples)  # type: ignore[arg-type]
    rows = np.concatenate([samples.actions(index)[0] for index in range(len(samples))])
    model = normalized(rows, found)
    assert np.abs(model[:, :2]).max() < 0.02, "a tenth of a milliradian is noise"
    np.testing.assert_allclose([model[:, 2].min(), model[:, 2].max()], [-1.0, 1.0])
    assert 0.99 < np.abs(model[:, 3]).max() < 1.1
    assert np.abs(normalized(np.array([0.31, 0.01, 0.5, 0.1]), found)).max() < 11, "nor where it is another for once"


def test_every_sample_comes_once_in_a_round_in_an_order_of_its_own() -> None:
    taken = np.concatenate([shuffled(10, 4, step, seed=5) for step in range(5)])
    first, second = taken[:10], taken[10:]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first.tolist() != second.tolist()
    assert shuffled(10, 4, 3, seed=5).tolist() == taken[12:16].tolist(), "a step is the same whatever came before"
    assert shuffled(10, 4, 3, seed=6).tolist() != taken[12:16].tolist()
    assert len(shuffled(3, 8, 0, seed=0)) == 8, "a batch may be more than there is"


def test_batches_are_samples_scaled_and_shared_among_processes(samples: ActionSamples) -> None:
    scale, state = normalization(samples), state_normalization(samples)
    whole = ActionBatches(samples, scale, state, 6, seed=1)[7]
    assert whole.images.shape == (6, 2, 16, 16, 3)
    assert (whole.now.shape, whole.future.shape) == ((6, 1, 16, 16, 3), (6, 1, 16, 16, 3))
    for place, number in enumerate(whole.samples.tolist()):
        sample = samples.sample(number)
        np.testing.assert_array_equal(whole.images[place, 1], sample.images["wrist"])
        np.testing.assert_array_equal(whole.now[place, 0], sample.images["front"])
        np.testing.assert_array_equal(whole.future[place, 0], sample.future["front"])
        np.testing.assert_allclose(whole.actions[place], normalized(sample.actions, scale), rtol=1e-5, atol=1e-6)
        assert whole.is_pad[place].tolist() == sample.action_is_pad.tolist()
        assert whole.instructions[place] == sample.instruction
    changed = ActionBatches(samples, scale, state, 6, 1, AugmentationConfig())[7]
    assert not torch.equal(changed.images, whole.images)
    assert torch.equal(changed.now, changed.images[:, :1])
    parts = [ActionBatches(samples, scale, state, 6, 1, AugmentationConfig(), Share(rank, 3))[7] for rank in range(3)]
    for name in ("images", "now", "future", "actions", "is_pad", "state", "samples"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(changed, name)), name
    with pytest.raises(ValueError, match="a batch of 6 cannot be shared evenly by 4"):
        ActionBatches(samples, scale, state, 6, share=Share(0, 4))


def test_batches_made_ahead_come_in_order_and_errors_reach_who_asks(samples: ActionSamples) -> None:
    batches = ActionBatches(samples, normalization(samples), None, 2)
    found = list(prefetched(batches, 3, 9, ahead=3))
    assert [step for step, _ in found] == list(range(3, 9))
    assert all(torch.equal(batch.samples, batches[step].samples) and batch.state is None for step, batch in found)

    class Broken:
        def __getitem__(self, step: int) -> int:
            if step == 2:
                raise OSError("the disk is gone")
            return step

    steps = prefetched(Broken(), 0, 5)
    assert [next(steps), next(steps)] == [(0, 0), (1, 1)]
    with pytest.raises(OSError, match="the disk is gone"):
        next(steps)
