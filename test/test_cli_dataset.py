"""`vla-ros dataset show`: what it tells of our datasets and of LeRobot's, what it draws, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

pytest.importorskip("matplotlib")

from matplotlib import image

from vla_ros.cli import app
from vla_ros.recording import features as keys
from vla_ros.recording.config import RecordingConfig
from vla_ros.recording.features import Row, of_robot
from vla_ros.recording.lerobot_v3 import DatasetWriter, EpisodeDetails
from vla_ros.recording.reader import DatasetReader
from vla_ros.recording.summary import summarize
from vla_ros.robots.panda import PANDA

REFERENCE = Path(__file__).parent / "reference" / "lerobot-0.6.1"
FPS = 20
CAMERAS = {"front": (48, 64), "wrist": (48, 64)}
SHADES = {"front": 200, "wrist": 40}
LENGTHS = (30, 12)
TASKS = ("stack the blocks", "wipe [bold]the[/] table\nwith care")


def row(frame: int, length: int) -> Row:
    """The wrist camera misses rows 5 to 7; the cameras drift apart by a millisecond a row, ten where one is missing."""
    is_missing = 5 <= frame < 8
    features = of_robot(PANDA, CAMERAS, FPS)
    values = {feature.key: np.zeros(feature.shape) for feature in features.columns}
    values[keys.STATE] = np.full(8, 0.1 * frame)
    values[keys.ACTION] = np.full(8, -0.1 * frame)
    values[keys.REPEATED][1] = is_missing
    values[keys.SKEW][0] = 0.5 if is_missing else 0.001 * frame
    values[keys.MODE][0] = keys.MODES.index("policy" if frame < length // 2 else "teleop")
    values[keys.INTERVENED][0] = frame >= length // 2
    values[keys.INTERVENTIONS][0] = frame // 4
    images = {
        camera: np.full((*size, 3), 200 if camera == "front" else 40, np.uint8) for camera, size in CAMERAS.items()
    }
    return Row(frame * 50_000_000, images, values)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recorded") / "blocks"
    with DatasetWriter(root, of_robot(PANDA, CAMERAS, FPS), RecordingConfig(fps=FPS)) as writer:
        for task, length, success in zip(TASKS, LENGTHS, (True, None), strict=True):
            writer.begin(task)
            for frame in range(length):
                writer.add(row(frame, length))
            notes = "" if success else "the lamp flickered"
            writer.save(EpisodeDetails(task, success=success, notes=notes, source="teleop", seed=7))
    return root


def show(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["dataset", "show", *map(str, arguments)])


def test_episodes_are_summed_up(recorded: Path) -> None:
    summary = summarize(DatasetReader(recorded).meta)
    assert (summary.frames, summary.length_s, summary.fps, summary.version) == (42, 2.1, 20, "v3.0")
    first, second = summary.episodes
    assert (first.task, first.frames, first.success, first.source, first.seed) == (TASKS[0], 30, True, "teleop", 7)
    assert (second.task, second.length_s, second.success, second.notes) == (TASKS[1], 0.6, None, "the lamp flickered")
    assert first.repeated_rows == second.repeated_rows == 3
    assert first.max_skew_ms == pytest.approx(29.0), "where nothing is repeated"
    files = [file for file in recorded.rglob("*") if file.is_file()]
    assert summary.size_bytes == sum(file.stat().st_size for file in files)
    assert {"data", "meta", "videos"} <= set(summary.sizes_bytes)
    found = {(one.key, one.name): one for one in summary.ranges}
    assert len(found) == 16
    state = found[keys.STATE, "panda_joint1_rad"]
    values = np.concatenate([0.1 * np.arange(length) for length in LENGTHS])
    assert (state.low, state.high) == pytest.approx((0.0, 2.9))
    assert (state.mean, state.deviation) == pytest.approx((values.mean(), values.std()))
    assert found[keys.ACTION, "gripper_m"].low == pytest.approx(-2.9)


def test_the_table_tells_it_line_by_line(recorded: Path) -> None:
    result = show(recorded)
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    assert "# length rows task success repeated skew source seed notes" in lines
    assert "0 1.5 s 30 stack the blocks success 3 (10.0%) 29.0 ms teleop 7" in lines
    assert "1 0.6 s 12 wipe [bold]the[/] table with care - 3 (25.0%) 11.0 ms teleop 7 the lamp flickered" in lines, (
        "brackets are not taken for markup"
    )
    values = np.concatenate([0.1 * np.arange(length) for length in LENGTHS])
    assert f"observation.state panda_joint1_rad 0 2.9 {values.mean():.4g} {values.std():.4g}" in lines
    assert "2 episodes, 42 rows, 2.1 s" in result.output
    assert "1 of 1 judged are successes" in result.output
    assert not list(Path.cwd().glob("blocks_pictures")), "nothing is drawn unasked"


def test_every_episode_is_drawn_and_put_on_a_page(recorded: Path, tmp_path: Path) -> None:
    result = show(recorded, "--out", tmp_path / "new", "--html", "--moments", "4")
    assert result.exit_code == 0, result.output
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == [
        "episode-000000-cameras.png",
        "episode-000000-joints.png",
        "episode-000001-cameras.png",
        "episode-000001-joints.png",
        "index.html",
    ]
    sheet = (image.imread(tmp_path / "new" / "episode-000000-cameras.png")[..., :3] * 255).round()
    greys = sheet[:, sheet.shape[1] // 8 * 3]  # through the second of four pictures, clear of the labels
    seen = [int(value[0]) for value in greys if np.ptp(value) <= 6]
    for shade in SHADES.values():
        assert sum(abs(value - shade) <= 6 for value in seen) > 80, "both cameras"
    text = (tmp_path / "new" / "index.html").read_text()
    assert text.count("data:image/png;base64,") == 4
    assert "the lamp flickered" in text
    assert "wipe [bold]the[/] table" in text


def test_chosen_episodes_only(recorded: Path, tmp_path: Path) -> None:
    result = show(recorded, "--episode", 1, "--episode", 1, "--camera", "wrist", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert [file.name for file in sorted(tmp_path.iterdir())] == [
        "episode-000001-cameras.png",
        "episode-000001-joints.png",
    ]
    assert TASKS[0] not in result.output


def test_the_marks_of_an_episode_are_those_of_its_rows(recorded: Path) -> None:
    from vla_ros.cli.dataset_show import _recorded

    reader = DatasetReader(recorded)
    drawn = _recorded(reader, summarize(reader.meta).episodes[0], 5)
    assert np.flatnonzero(drawn.repeated["wrist"]).tolist() == [5, 6, 7]
    assert [source for source, rows in drawn.repeated.items() if rows.any()] == ["wrist"]
    assert np.flatnonzero(drawn.acted["a person leads"]).tolist() == [*range(15, 30)]
    assert np.flatnonzero(drawn.acted["a limit acts"]).tolist() == [4, 8, 12, 16, 20, 24, 28]
    assert [*drawn.modes] == ["policy"] * 15 + ["teleop"] * 15
    assert drawn.shown_rows == [0, 7, 14, 22, 29]
    assert drawn.state is not None
    np.testing.assert_allclose(drawn.state.values[:, 3], 0.1 * np.arange(30), atol=1e-6)


def test_what_lerobot_wrote_is_shown_as_far_as_it_says(tmp_path: Path) -> None:
    result = show(REFERENCE, "--camera", "wrist", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    assert "# length rows task" in lines, "no columns of which nothing is known"
    assert "0 1.3 s 40 pick 0" in lines
    assert "observation.state j7 7 46 26.5 11.54" in lines
    assert "success is not said" in result.output
    assert len(list(tmp_path.iterdir())) == 4


def test_many_episodes_are_listed_at_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    from vla_ros.cli import dataset_show

    for name, value in {"_MOST_LISTED": 1, "_FIRST": 1, "_LAST": 0}.items():
        monkeypatch.setattr(dataset_show, name, value)
    output = show(REFERENCE).output
    assert "pick 0" in output
    assert "pick 1" not in output
    assert "and 1 more in between" in output


def test_what_is_not_there_is_said(recorded: Path, tmp_path: Path) -> None:
    for arguments, code, told in (
        ((tmp_path,), 1, f"error: {tmp_path} is not a LeRobot dataset: it has no meta/info.json"),
        ((recorded, "--episode", 2), 2, f"error: {recorded} has no episode 2; it has 2, from 0"),
        ((recorded, "--episode", -1), 2, f"error: {recorded} has no episode -1; it has 2, from 0"),
        ((recorded, "--camera", "rear"), 1, f"error: {recorded} has no camera rear; there are: front, wrist"),
        ((recorded, "--out", recorded / "meta" / "info.json"), 2, "error: no pictures can be written to "),
    ):
        result = show(*arguments)
        assert result.exit_code == code, result.output
        assert told in result.output
    assert json.loads((recorded / "meta" / "info.json").read_text())["total_episodes"] == 2
