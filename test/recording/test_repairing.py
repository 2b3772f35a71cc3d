"""`repairing`: what is whole stays bit for bit, check has nothing more to say, nothing is lost."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import pyarrow.parquet as pq
import pytest
from damage import Damage, changed_json, changed_rows, changed_value, deleted, truncated
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from vla_ros.cli import app
from vla_ros.recording.config import RecordingConfig
from vla_ros.recording.files import DatasetError
from vla_ros.recording.lerobot_v3 import DatasetWriter
from vla_ros.recording.upkeep import staging
from vla_ros.recording.upkeep.checking import check
from vla_ros.recording.upkeep.compacting import compact
from vla_ros.recording.upkeep.findings import Kind, errors
from vla_ros.recording.upkeep.repairing import repair

FULL = os.environ.get("VLA_ROS_FULL") == "1"
DATA, VIDEO = "data/chunk-000/file-{:03d}.parquet", "videos/observation.images.wrist/chunk-000/file-{:03d}.mp4"
EPISODES, DETAILS = "meta/episodes/chunk-000/file-{:03d}.parquet", "meta/vla_ros/episodes/episode-{:06d}.json"
FRONT = "observation.images.front"
ALL = (0, 1, 2, 3)


def unfinished(root: Path) -> None:
    """As a crash leaves it that comes just before the last episode's line is written."""
    (root / EPISODES.format(3)).unlink()
    totals = {"total_episodes": 3, "total_frames": 19, "splits": {"train": "0:3"}}
    changed_json("meta/info.json", lambda info: info.update(totals))(root)


def without_column(root: Path) -> None:
    path = root / DATA.format(0)
    pq.write_table(pq.ParquetFile(path).read().drop_columns(["action"]), path)


#: Damage, and the episodes that are whole after repair.
DAMAGES: dict[str, tuple[Damage, tuple[int, ...]]] = {
    "rows torn at the end": (truncated(DATA.format(3)), (0, 1, 2)),
    "rows torn in the middle": (truncated(DATA.format(1)), (0, 2, 3)),
    "rows gone": (deleted(DATA.format(0)), (1, 2, 3)),
    "a row dropped": (changed_rows(DATA.format(1), lambda rows: rows.pop(3)), (0, 2, 3)),
    "NaN in a row": (changed_value(DATA.format(2), "action", [float("nan")] * 8), (0, 1, 3)),
    "rows out of count": (changed_value(DATA.format(2), "frame_index", 7), ALL),
    "rows out of time": (changed_rows(DATA.format(2), lambda rows: [row.update(timestamp=0) for row in rows]), ALL),
    "rows of another episode": (changed_value(DATA.format(2), "episode_index", 0), ALL),
    "rows numbered wrongly": (changed_rows(DATA.format(2), lambda rows: [row.update(index=0) for row in rows]), ALL),
    "video torn": (truncated(VIDEO.format(1)), (0, 2, 3)),
    "video gone": (deleted(VIDEO.format(3)), (0, 1, 2)),
    "video of another episode": (
        lambda root: shutil.copyfile(root / VIDEO.format(0), root / VIDEO.format(1)) and None, (0, 2, 3),
    ),
    "info gone": (deleted("meta/info.json"), ALL),
    "info torn": (truncated("meta/info.json"), ALL),
    "info without features": (changed_json("meta/info.json", lambda info: info.pop("features")), ALL),
    "info without a rate": (changed_json("meta/info.json", lambda info: info.update(fps=0)), ALL),
    "info with another rate": (changed_json("meta/info.json", lambda info: info.update(fps=25)), ALL),
    "info with another size": (
        changed_json("meta/info.json", lambda info: info["features"]["action"].update(shape=[7])), ALL,
    ),
    "info with another image": (
        changed_json("meta/info.json", lambda info: info["features"][FRONT].update(shape=[48, 60, 3])), ALL,
    ),
    "a column of the first gone": (without_column, (1, 2, 3)),
    "totals": (changed_json("meta/info.json", lambda info: info.update(total_frames=1, total_episodes=9)), ALL),
    "stats gone": (deleted("meta/stats.json"), ALL),
    "stats wrong": (changed_json("meta/stats.json", lambda stats: stats["action"].update(mean=[9.0] * 8)), ALL),
    "tasks gone": (deleted("meta/tasks.parquet"), ALL),
    "another text of a task": (changed_value("meta/tasks.parquet", "task", "x", 0), ALL),
    "metadata torn": (truncated(EPISODES.format(1)), ALL),
    "metadata of the last torn": (truncated(EPISODES.format(3)), ALL),
    "metadata gone": (deleted(EPISODES.format(1)), ALL),
    "all metadata of episodes gone": (lambda root: shutil.rmtree(root / "meta/episodes"), ALL),
    "length": (changed_value(EPISODES.format(1), "length", 3, 0), ALL),
    "statistics of an episode": (changed_value(EPISODES.format(1), "stats/action/mean", [9.0] * 8, 0), ALL),
    "statistics of a camera": (
        changed_value(EPISODES.format(1), "stats/observation.images.front/mean", [[[float("nan")]]] * 3, 0), ALL,
    ),
    "the last one's saving not finished": (unfinished, (0, 1, 2)),
    "details torn": (truncated(DETAILS.format(1)), ALL),
    "details gone": (deleted(DETAILS.format(2)), ALL),
}  # fmt: skip


def hashes(root: Path) -> set[str]:
    """Of every file's content."""
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in root.rglob("*") if path.is_file()}


def clean(root: Path) -> None:
    assert [str(one) for one in check(root)] == []


def same(root: Path, contents: list[Any], episodes: tuple[int, ...], tools: Any) -> None:
    """These episodes are in the dataset, in order, with every value and pixel as it was."""
    found = tools.read(root)
    assert len(found) == len(episodes)
    for new, (old, now) in enumerate(zip(episodes, found, strict=True)):
        assert contents[old].is_same(now, tools.COUNTS if old != new else ("index",)), (old, new)


def some(damages: Mapping[str, object]) -> list[Any]:
    """Every second in the gate: neighbours are alike."""
    marks = ([], [pytest.mark.full])
    return [pytest.param(name, marks=marks[number % 2]) for number, name in enumerate(damages)]


@pytest.mark.parametrize("name", some(DAMAGES))
def test_what_is_whole_is_kept_and_the_rest_set_aside(
    name: str, dataset: Path, contents: list[Any], tools: Any
) -> None:
    damage, whole = DAMAGES[name]
    damage(dataset)
    before = hashes(dataset)
    done = repair(dataset)
    assert done
    clean(dataset)
    same(dataset, contents, whole, tools)
    assert before <= hashes(dataset), "nothing is deleted"
    assert not list(dataset.parent.glob(".dataset*"))


def test_a_good_dataset_stays_as_it_is(dataset: Path) -> None:
    before = {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file() and path.name != "lock"}
    assert repair(dataset) == []
    assert all(path.read_bytes() == content for path, content in before.items())


def test_later_episodes_get_new_numbers_and_details_follow(dataset: Path) -> None:
    truncated(DATA.format(1))(dataset)
    done = repair(dataset)
    assert repair(dataset) == [], "once is enough"
    assert any("episode 1 is quarantined" in line for line in done)
    assert "episodes 2 to 3 are now numbers 1 to 2" in done
    notes = [json.loads((dataset / DETAILS.format(index)).read_text())["notes"] for index in range(3)]
    assert notes == ["recorded as 0", "recorded as 2", "recorded as 3"]
    assert not (dataset / DETAILS.format(3)).exists()
    (aside,) = (dataset / ".recording/aside").iterdir()
    assert (aside / VIDEO.format(1)).is_file() and (aside / DATA.format(1)).is_file()


def test_a_lost_info_is_made_again_with_names_and_rate(dataset: Path) -> None:
    before = json.loads((dataset / "meta/info.json").read_text())
    deleted("meta/info.json")(dataset)
    repair(dataset)
    after = json.loads((dataset / "meta/info.json").read_text())
    for info in (before, after):
        for feature in info["features"].values():
            for unknown in ("video.crf", "video.preset", "video.g"):  # of which no file tells
                feature.get("info", {}).pop(unknown, None)
    assert after == before


@pytest.mark.parametrize("name", ["rows torn in the middle", "info gone", "all metadata of episodes gone"])
def test_recording_goes_on_after_repair(name: str, dataset: Path, contents: list[Any], tools: Any) -> None:
    damage, whole = DAMAGES[name]
    damage(dataset)
    repair(dataset)
    tools.record(dataset, range(2), resume=True)
    clean(dataset)
    same(dataset, contents, (*whole, 0, 1), tools)


def test_an_unfinished_last_episode_is_kept_on_request(dataset: Path, contents: list[Any], tools: Any) -> None:
    damage, _ = DAMAGES["the last one's saving not finished"]
    damage(dataset)
    repair(dataset, keep_open=True)
    clean(dataset)
    same(dataset, contents, ALL, tools)


@pytest.fixture(scope="module")
def compacted(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All four episodes in one file of rows and one of each camera."""
    destination = tmp_path_factory.mktemp("compacted") / "dataset"
    compact(recorded, destination)
    return destination


COMPACTED_DAMAGES: dict[str, tuple[Damage, tuple[int, ...]]] = {
    "info gone": (deleted("meta/info.json"), ALL),
    "all metadata of episodes gone": (lambda root: shutil.rmtree(root / "meta/episodes"), ALL),
    "metadata torn": (truncated(EPISODES.format(0)), ALL),
    "stats gone": (deleted("meta/stats.json"), ALL),
    "NaN in episode 1": (changed_value(DATA.format(0), "action", [float("nan")] * 8, 6), (0, 2, 3)),
    "a row of the last dropped": (changed_rows(DATA.format(0), lambda rows: rows.pop()), (0, 1, 2)),
    "a row of the first dropped": (changed_rows(DATA.format(0), lambda rows: rows.pop(0)), (1, 2, 3)),
}


@pytest.mark.parametrize("name", some(COMPACTED_DAMAGES))
def test_files_of_many_episodes(name: str, compacted: Path, tmp_path: Path, contents: list[Any], tools: Any) -> None:
    dataset = Path(shutil.copytree(compacted, tmp_path / "dataset"))
    damage, whole = COMPACTED_DAMAGES[name]
    damage(dataset)
    repair(dataset)
    assert errors(check(dataset)) == []
    same(dataset, contents, whole, tools)
    tools.record(dataset, range(1), resume=True)
    assert errors(check(dataset)) == []
    same(dataset, contents, (*whole, 0), tools)


@pytest.fixture
def interrupted(dataset: Path, tmp_path: Path, tools: Any) -> Path:
    """The folder as a kill leaves it after 40 rows of an episode: a copy while the writer lives."""
    with DatasetWriter(dataset, tools.features(), RecordingConfig(fps=tools.FPS), resume=True) as writer:
        writer.begin("fold the towel")
        for frame in range(40):
            writer.add(tools.row(9, frame))
        deadline = time.monotonic() + 20
        while writer.backlog and time.monotonic() < deadline:
            time.sleep(0.01)
        return Path(shutil.copytree(dataset, tmp_path / "interrupted"))


def test_an_open_episode_is_said_and_left_alone(interrupted: Path, contents: list[Any], tools: Any) -> None:
    (said,) = repair(interrupted)
    assert ".recording/episode-000004 is an episode that was never saved" in said and "--keep-open" in said
    assert [one.kind for one in check(interrupted)] == [Kind.OPEN_EPISODE]
    same(interrupted, contents, ALL, tools)


def test_an_open_episode_becomes_an_episode_as_far_as_rows_and_frames_go(interrupted: Path, tools: Any) -> None:
    rows = interrupted / ".recording/episode-000004/rows.bin"
    rows.write_bytes(rows.read_bytes()[:-3])  # 39 whole rows
    (said,) = repair(interrupted, keep_open=True)
    clean(interrupted)
    episode = tools.read(interrupted)[4]
    length = len(episode.columns["index"])
    assert 30 <= length <= 39, "what is missing is less than the fragment that was not written yet"
    assert f"is episode 4 now, {length} frames" in said
    assert episode.task == ("fold the towel",)
    for frame in range(length):
        row = tools.row(9, frame)
        assert episode.columns["observation.state"][frame] == row.values["observation.state"].tolist()
        for camera, image in row.images.items():
            decoded = episode.frames[tools.IMAGES + camera][frame].astype(float)
            other = tools.row(9, frame + 1).images[camera].astype(float)
            assert abs(decoded - image).mean() < abs(decoded - other).mean(), "a frame of this very row"
    details = json.loads((interrupted / DETAILS.format(4)).read_text())
    assert details["success"] is None and "recovered" in details["notes"]
    assert repair(interrupted, keep_open=True) == []
    tools.record(interrupted, range(1), resume=True)
    clean(interrupted)


def test_an_episode_that_a_later_writer_set_aside_becomes_one_too(interrupted: Path, tools: Any) -> None:
    tools.record(interrupted, range(2), resume=True)
    assert [one.kind for one in check(interrupted)] == [Kind.OPEN_EPISODE]
    (said,) = repair(interrupted, keep_open=True)
    assert "is episode 6 now" in said
    clean(interrupted)
    assert [one.task[0] for one in tools.read(interrupted)][6] == "fold the towel"


def test_an_episode_whose_saving_broke_off_becomes_one_too(interrupted: Path, tools: Any) -> None:
    opened = interrupted / ".recording/episode-000004"
    (opened / "front.mp4").rename(interrupted / f"videos/{FRONT}/chunk-000/file-004.mp4")
    said = repair(interrupted)
    assert "1 files of an episode whose saving broke off are back in" in said[0] and (opened / "front.mp4").exists()
    (said,) = [repair(interrupted, keep_open=True)[-1]]
    assert "is episode 4 now" in said
    clean(interrupted)
    assert tools.read(interrupted)[4].task == ("fold the towel",)


def test_every_number_has_a_task_though_its_episode_is_lost(dataset: Path) -> None:
    """LeRobot finds texts by their place in the table."""
    used = [pq.read_table(dataset / DATA.format(k)).column("task_index")[0].as_py() for k in ALL]
    lost = next(k for k in ALL if used.count(used[k]) == 1 and used[k] < max(used))
    (dataset / "meta/tasks.parquet").unlink()
    truncated(DATA.format(lost))(dataset)
    repair(dataset)
    clean(dataset)
    table = pq.ParquetFile(dataset / "meta/tasks.parquet").read()
    assert table["task_index"].to_pylist() == list(range(max(used) + 1))
    assert table["task"][used[lost]].as_py() == f"unknown task {used[lost]}"


@pytest.mark.parametrize("number", [-1, 2**40])
def test_a_task_that_cannot_be_sets_its_episode_aside(
    number: int, dataset: Path, contents: list[Any], tools: Any
) -> None:
    changed_rows(DATA.format(1), lambda rows: [row.update(task_index=number) for row in rows])(dataset)
    assert "episode 1 is quarantined" in repair(dataset)[0]
    clean(dataset)
    same(dataset, contents, (0, 2, 3), tools)


def test_an_open_episode_is_made_one_episode_however_often_repair_is_killed(interrupted: Path, tools: Any) -> None:
    """A kill after the episode was saved leaves its folder where it was."""
    opened = interrupted / ".recording/episode-000004"
    there = shutil.copytree(opened, interrupted.parent / "there")
    assert "is episode 4 now" in repair(interrupted, keep_open=True)[-1]
    assert not opened.exists()
    shutil.rmtree(interrupted / ".recording/aside")
    there.rename(opened)
    (said,) = repair(interrupted, keep_open=True)
    assert "is episode 4 already" in said and not opened.exists()
    clean(interrupted)
    assert len(tools.read(interrupted)) == 5


def test_an_open_episode_without_rows_stays(interrupted: Path) -> None:
    rows = interrupted / ".recording/episode-000004/rows.bin"
    rows.write_bytes(b"no rows")
    (said,) = repair(interrupted, keep_open=True)
    assert "is left unchanged" in said and rows.exists()


def test_a_dataset_that_is_being_written_is_refused(dataset: Path, tools: Any) -> None:
    with (
        DatasetWriter(dataset, tools.features(), RecordingConfig(fps=tools.FPS), resume=True),
        pytest.raises(DatasetError, match="is being written by process"),
    ):
        repair(dataset)


def test_a_repair_that_fails_leaves_everything(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truncated(DATA.format(1))(dataset)
    before = {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file() and path.name != "lock"}

    def full(one: Path, other: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(staging, "_exchange", full)
    with pytest.raises(DatasetError, match="No space left on device"):
        repair(dataset)
    after = {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file() and path.name != "lock"}
    assert after == before
    assert not list(dataset.parent.glob(".dataset*"))


def test_what_a_killed_repair_left_is_in_nobodys_way(dataset: Path, contents: list[Any], tools: Any) -> None:
    left = dataset.parent / ".dataset.new"
    shutil.copytree(dataset / "meta", left / "meta")
    assert repair(dataset) == [] and not left.exists()
    shutil.copytree(dataset / "meta", left / "meta")
    truncated(DATA.format(1))(dataset)
    repair(dataset)
    clean(dataset)
    same(dataset, contents, (0, 2, 3), tools)


class Killed(BaseException):
    """The process is gone: what catches exceptions does not run."""


@pytest.mark.parametrize("at", range(0, 130, 10 if FULL else 30))
def test_a_repair_that_is_killed_anywhere_leaves_the_old_or_the_new(
    at: int, dataset: Path, contents: list[Any], tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    truncated(DATA.format(1))(dataset)
    before = hashes(dataset)
    steps = itertools.count()

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            if next(steps) >= at:
                raise Killed
            return function(*arguments, **options)

        return step

    with monkeypatch.context() as dying, suppress(Killed):
        dying.setattr(staging.Staging, "abandon", lambda self: None)
        dying.setattr(staging, "_exchange", counted(staging._exchange))
        dying.setattr(staging, "_remove", counted(staging._remove))
        for name in ("fsync", "link", "replace"):
            dying.setattr(os, name, counted(getattr(os, name)))
        repair(dataset)
    assert before - hashes(dataset) == set(), "nothing is lost"
    repair(dataset)
    clean(dataset)
    same(dataset, contents, (0, 2, 3), tools)
    assert not list(dataset.parent.glob(".dataset*"))


def test_frames_that_cannot_be_decoded_are_set_aside_on_request(dataset: Path, contents: list[Any], tools: Any) -> None:
    content = bytearray((dataset / VIDEO.format(1)).read_bytes())
    start = content.find(b"mdat") + 2000
    content[start : start + 600] = bytes(600)
    (dataset / VIDEO.format(1)).write_bytes(content)
    assert repair(dataset) == []
    assert any("cannot be decoded" in line for line in repair(dataset, decode=True))
    assert check(dataset, decode=True) == []
    same(dataset, contents, (0, 2, 3), tools)


def test_other_files_stay_where_they_are(dataset: Path) -> None:
    (dataset / "README.md").write_text("mine")
    (dataset / "meta/modality.json").write_text("{}")
    truncated(DATA.format(1))(dataset)
    repair(dataset)
    assert (dataset / "README.md").read_text() == "mine" and (dataset / "meta/modality.json").read_text() == "{}"


def test_where_no_episode_is_whole_everything_stays(dataset: Path) -> None:
    for episode in ALL:
        truncated(DATA.format(episode))(dataset)
    before = hashes(dataset)
    with pytest.raises(DatasetError, match="no episode is intact, so nothing was changed"):
        repair(dataset)
    assert hashes(dataset) >= before and not (dataset / ".recording/aside").exists()


def test_versions_that_are_not_known_are_refused(dataset: Path, tmp_path: Path) -> None:
    changed_json("meta/info.json", lambda info: info.update(codebase_version="v2.1"))(dataset)
    with pytest.raises(DatasetError, match=r"version v2\.1; only v3\.0 can be repaired"):
        repair(dataset)
    with pytest.raises(DatasetError, match="is not a LeRobot dataset"):
        repair(tmp_path / "nothing")


def test_the_command_says_what_it_did(dataset: Path) -> None:
    assert "nothing to mend" in CliRunner().invoke(app, ["dataset", "repair", str(dataset)]).output
    truncated(DATA.format(1))(dataset)
    result = CliRunner().invoke(app, ["dataset", "repair", str(dataset)])
    assert result.exit_code == 0 and "episode 1 is quarantined" in result.output
    nothing = CliRunner().invoke(app, ["dataset", "repair", str(dataset / "data")])
    assert nothing.exit_code == 1 and "is not a LeRobot dataset" in nothing.output


def files_of(episode: int) -> Iterator[str]:
    """Those that hold what an episode is."""
    yield DATA.format(episode)
    yield VIDEO.format(episode)
    yield VIDEO.format(episode).replace("wrist", "front")


@settings(max_examples=100 if FULL else 8, suppress_health_check=list(HealthCheck), derandomize=not FULL)
@given(data=st.data())
def test_random_damage_costs_no_other_episode(
    data: st.DataObject, recorded: Path, contents: list[Any], tools: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    dataset = Path(shutil.copytree(recorded, tmp_path_factory.mktemp("damaged") / "dataset"))
    names = sorted(path.relative_to(dataset).as_posix() for path in dataset.rglob("*.*") if path.is_file())
    damaged = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True))
    for name in damaged:
        content = bytearray((dataset / name).read_bytes())
        how = data.draw(st.sampled_from(["truncate", "delete", "flip", "zero"]))
        at = data.draw(st.integers(0, len(content) - 1))
        if how == "truncate":
            (dataset / name).write_bytes(content[:at])
        elif how == "delete":
            (dataset / name).unlink()
        else:
            end = at + (1 if how == "flip" else 64)
            content[at:end] = bytes(255 - byte if how == "flip" else 0 for byte in content[at:end])
            (dataset / name).write_bytes(content)
    before = hashes(dataset)
    check(dataset)
    repair(dataset, keep_open=True, decode=True)
    assert errors(check(dataset, decode=True)) == []
    assert before <= hashes(dataset) | {hashlib.sha256(b"").hexdigest()}
    found = tools.read(dataset)
    whole = [index for index in ALL if not set(files_of(index)) & set(damaged)]
    for index in whole:
        assert any(contents[index].is_same(now, (*tools.COUNTS, "task_index")) for now in found), (index, damaged)


def test_a_video_whose_tags_are_damaged_keeps_its_frames(
    recorded: Path, contents: list[Any], tools: Any, tmp_path: Path
) -> None:
    """LeRobot opens it no more, for a name that nobody needs; repaired it does, and no frame differs."""
    dataset = Path(shutil.copytree(recorded, tmp_path / "dataset"))
    video = dataset / VIDEO.format(1)
    video.write_bytes(video.read_bytes().replace(b"isom", b"\xb3som", 1))
    with pytest.raises(UnicodeDecodeError):
        av.open(str(video))
    assert [(found.path, found.kind.value) for found in errors(check(dataset))] == [(VIDEO.format(1), "video format")]
    repair(dataset)
    assert errors(check(dataset, decode=True)) == []
    found = tools.read(dataset)
    assert all(contents[index].is_same(now, (*tools.COUNTS, "task_index")) for index, now in enumerate(found))
