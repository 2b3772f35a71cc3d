"""Episodes on a word: what is refused and why, what is kept, what a failing writer leaves; in simulated time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from vla_ros.recording import features
from vla_ros.recording.assembling.rows import RowAssembler
from vla_ros.recording.config import GapRule, HealthConfig, RecordingConfig
from vla_ros.recording.dataset import DatasetMeta
from vla_ros.recording.files import DatasetError
from vla_ros.recording.lerobot_v3 import DatasetWriter
from vla_ros.recording.reader import DatasetReader
from vla_ros.recording.session import EpisodeState, Session
from vla_ros.robots.panda import PANDA
from vla_ros.timing.sync import CameraTiming

FPS = 25
SIZE = (32, 48)
TICK_NS = 10_000_000
SECOND_NS = 1_000_000_000
TASK = "fold the cloth"
NO_SUCH_DISK_MB = 1e9


class Studio:
    """A session with everything that comes in, in its own time."""

    def __init__(self, root: Path, health: HealthConfig | None = None, **recording: object) -> None:
        chosen = {"fps": FPS, "health": health or HealthConfig(min_disk_free_mb=0.0), **recording}
        config = RecordingConfig.model_validate(chosen)
        described = features.of_robot(PANDA, {"front": SIZE}, FPS)
        self.assembler = RowAssembler(PANDA, described, {"front": CameraTiming(rate_hz=FPS)}, config)
        self.writer = DatasetWriter(root, described, config)
        self.session = Session(self.assembler, self.writer, config, source="teleop")
        self.session.task = TASK
        self.now_ns = SECOND_NS
        self.has_camera = True
        self.position_rad, self.speed_rad_s = 0.0, 0.1
        self.answers: list[tuple[bool, str]] = []

    def pass_time(self, seconds: float) -> None:
        until_ns = self.now_ns + round(seconds * SECOND_NS)
        while self.now_ns < until_ns:
            self.now_ns += TICK_NS
            self.position_rad += self.speed_rad_s * TICK_NS / SECOND_NS
            joints = np.array([self.position_rad, *PANDA.home_rad[1:]])
            self.assembler.add_joints(self.now_ns, self.now_ns, joints)
            self.assembler.add_gripper(self.now_ns, self.now_ns, 0.04)
            if self.has_camera and self.now_ns % (SECOND_NS // FPS) == 0:
                picture = np.full((*SIZE, 3), self.now_ns // TICK_NS % 200, dtype=np.uint8)
                self.assembler.add_image("front", self.now_ns, self.now_ns, picture)
            self.session.advance(self.now_ns)

    def tell(self, word: str) -> tuple[bool, str]:
        """Obey, and let time pass until it is answered."""
        asked = len(self.answers)
        self.session.obey(word, self.now_ns, lambda success, said: self.answers.append((success, said)))
        for _ in range(100):
            if len(self.answers) > asked:
                break
            self.pass_time(0.01)
        (answer,) = self.answers[asked:]
        return answer

    def tell_now(self, word: str) -> tuple[bool, str]:
        """Obey a word that is answered at once."""
        self.session.obey(word, self.now_ns, lambda success, said: self.answers.append((success, said)))
        return self.answers[-1]

    @property
    def state(self) -> EpisodeState:
        return self.session.state


@pytest.fixture
def open_studio(tmp_path: Path) -> Iterator[Callable[..., Studio]]:
    studios: list[Studio] = []

    def make(health: HealthConfig | None = None, **recording: object) -> Studio:
        studios.append(Studio(tmp_path / "dataset", health, **recording))
        studios[-1].pass_time(1.0)
        return studios[-1]

    yield make
    for studio in studios:
        studio.writer.close()


def test_an_episode_from_start_to_save(open_studio: Callable[..., Studio], tmp_path: Path) -> None:
    studio = open_studio()
    assert studio.tell("start") == (True, TASK)
    assert studio.session.status(studio.now_ns).problem == ""
    studio.session.task = "what comes next"
    status = studio.session.status(studio.now_ns)
    assert (status.task, status.problem) == (TASK, "the task is now 'what comes next', the episode keeps its own")
    assert not status.grave
    studio.session.seed = 5
    studio.pass_time(2.0)
    assert studio.tell("pause")[0]
    studio.pass_time(3.0)
    assert studio.tell("resume") == (True, TASK)
    studio.pass_time(1.0)
    studio.session.note("one")
    studio.session.note("two")
    assert studio.tell("success") == (True, "success")
    assert studio.session.status(studio.now_ns).success is True
    success, said = studio.tell("save")
    assert success and said.startswith("episode 0: 7")  # three seconds at 25 Hz, and none of the pause
    assert studio.state is EpisodeState.IDLE
    meta = DatasetMeta.load(tmp_path / "dataset")
    (episode,) = meta.episodes
    details = meta.details(episode)
    assert episode.task == TASK and 74 <= episode.length <= 77
    assert [details[key] for key in ("notes", "success", "source", "seed")] == ["one\ntwo", True, "teleop", 5]
    assert details["extra"]["problems"] == []
    assert details["extra"]["health"]["rows"] == episode.length
    assert json.dumps(details)
    assert studio.session.status(studio.now_ns).task == "what comes next"


def test_an_episode_in_which_nothing_moved_is_saved_after_confirmation(open_studio: Callable[..., Studio]) -> None:
    studio = open_studio()
    studio.speed_rad_s = 0.001
    studio.tell("start")
    studio.pass_time(2.0)
    assert studio.session.status(studio.now_ns).problem == "", "more may come"
    success, said = studio.tell("save")
    assert not success and "nothing moved: no joint by more than 0.00" in said and "gripper by 0.0 mm" in said
    assert studio.tell("save_anyway")[0]
    studio.tell("start")
    studio.pass_time(1.0)
    studio.speed_rad_s = 0.1
    studio.pass_time(1.0)
    assert studio.tell("save")[0]


def test_nothing_is_late_while_recording_is_paused(open_studio: Callable[..., Studio]) -> None:
    studio = open_studio()
    studio.tell("start")
    studio.pass_time(1.0)
    studio.tell("pause")
    studio.pass_time(1.0)
    lag_ms = studio.session.status(studio.now_ns).health.lag_ms
    assert lag_ms < 500.0
    studio.pass_time(5.0)
    assert studio.session.status(studio.now_ns).health.lag_ms == lag_ms
    studio.tell("save")
    studio.pass_time(5.0)
    assert studio.session.status(studio.now_ns).health.lag_ms == lag_ms


def test_a_pause_may_end_the_episode(open_studio: Callable[..., Studio], tmp_path: Path) -> None:
    """So that no episode has a gap, whoever learns from it; one that is not well is not left without a decision."""
    studio = open_studio(pause_ends_episode=True)
    studio.tell("start")
    studio.pass_time(1.0)
    studio.tell("pause")
    studio.pass_time(2.0)
    success, said = studio.tell("resume")
    assert success and said.startswith("episode 0: 2") and said.endswith(f"; {TASK}")
    assert studio.state is EpisodeState.RECORDING
    studio.pass_time(0.1)
    studio.tell("pause")
    success, said = studio.tell("resume")
    assert not success and "at least 10 make an episode" in said
    assert studio.state is EpisodeState.UNSAVED
    studio.tell("save_anyway")
    reader = DatasetReader(tmp_path / "dataset")
    assert [len(reader.segments(episode)) for episode in range(2)] == [1, 1]


def test_a_pause_within_an_episode_is_a_gap_to_readers(open_studio: Callable[..., Studio], tmp_path: Path) -> None:
    studio = open_studio()
    studio.tell("start")
    studio.pass_time(1.0)
    studio.tell("pause")
    studio.pass_time(0.5)
    studio.tell("resume")
    studio.pass_time(1.0)
    studio.tell("save")
    first, second = DatasetReader(tmp_path / "dataset").segments(0)
    assert abs(len(first) - FPS) <= 1 and abs(len(second) - FPS) <= 1


def test_words_at_the_wrong_time_change_nothing(open_studio: Callable[..., Studio]) -> None:
    studio = open_studio()
    no_episode = "no episode is open; to begin one: start"
    for word in ("save", "save_anyway", "discard", "success", "failure"):
        assert studio.tell(word) == (False, no_episode)
    assert studio.tell("pause") == (False, "nothing is being recorded, the state is idle")
    assert studio.tell("resume") == (False, "no episode is paused, the state is idle")
    assert studio.tell("rerecord")[1].startswith("no episode is open, and none was saved by this recorder")
    assert studio.tell("strat")[1].startswith("unknown command 'strat'; there are: save, save_anyway, start, discard, ")
    studio.tell("start")
    assert studio.tell("start") == (False, "an episode is recording: save or discard it first")
    assert studio.tell("resume") == (False, "no episode is paused, the state is recording")
    studio.pass_time(1.0)
    studio.session.obey("save", studio.now_ns, lambda *answer: studio.answers.append(answer))
    for word in ("save", "discard", "failure"):  # while the last rows settle
        assert studio.tell_now(word) == (False, "the episode is being saved; wait until it is")
    studio.pass_time(0.5)
    assert [said for success, said in studio.answers if success and said.startswith("episode 0: ")]


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ("  ", "there is no task"),
        ("x" * 1001, "the task has 1001 characters; at most 1000"),
        ("half a \ud800 pair", "is not Unicode text"),
    ],
)
def test_no_episode_without_a_task_that_can_be_kept(open_studio: Callable[..., Studio], task: str, told: str) -> None:
    studio = open_studio()
    studio.session.task = task
    success, said = studio.tell("start")
    assert not success and told in said
    assert studio.state is EpisodeState.IDLE
    studio.session.task = "ein Würfel 🎲"
    assert studio.tell("start") == (True, "ein Würfel 🎲")


def test_no_episode_without_every_stream_or_on_a_full_disk(open_studio: Callable[..., Studio]) -> None:
    studio = open_studio(HealthConfig(min_disk_free_mb=NO_SUCH_DISK_MB))
    success, said = studio.tell("start")
    assert not success and said.startswith("the disk is nearly full: ")
    assert f"at least {NO_SUCH_DISK_MB:.0f} MB are needed" in said
    assert studio.session.status(studio.now_ns).grave
    studio.has_camera = False
    studio.pass_time(1.0)
    success, said = studio.tell("start")
    assert not success and said.startswith("not everything is ready: camera front: stalled")


def test_what_is_beyond_the_limits_waits_for_a_decision(open_studio: Callable[..., Studio], tmp_path: Path) -> None:
    studio = open_studio()
    for decision in ("save_anyway", "discard", "rerecord"):
        studio.tell("start")
        studio.pass_time(1.0)
        studio.has_camera = False
        studio.pass_time(1.0)
        status = studio.session.status(studio.now_ns)
        assert status.grave and "rows on end repeat one source (front" in status.problem
        studio.has_camera = True
        studio.pass_time(1.0)
        success, said = studio.tell("save")
        assert not success and said.startswith("not saved: ")
        assert studio.state is EpisodeState.UNSAVED
        rows = studio.writer.frames
        studio.pass_time(1.0)
        assert studio.writer.frames == rows  # it is over
        assert studio.tell("resume") == (False, "no episode is paused, the state is unsaved")
        assert studio.tell("save") == (False, said)
        assert studio.tell(decision)[0]
    assert studio.state is EpisodeState.RECORDING  # anew
    studio.tell("discard")
    (episode,) = DatasetMeta.load(tmp_path / "dataset").episodes
    assert DatasetMeta.load(tmp_path / "dataset").details(episode)["extra"]["problems"]


def test_an_episode_in_which_the_simulation_was_reset_is_refused(open_studio: Callable[..., Studio]) -> None:
    studio = open_studio()
    assert studio.tell_now("start")[0]
    studio.session.world_was_reset(studio.now_ns - 1, studio.now_ns)  # before it: what an episode begins with
    assert studio.state is EpisodeState.RECORDING
    studio.pass_time(1.0)
    studio.session.world_was_reset(studio.now_ns, studio.now_ns)
    assert studio.state is EpisodeState.UNSAVED
    assert studio.session.status(studio.now_ns).problem == "the simulation was reset during this episode"
    success, said = studio.tell("save")
    assert not success and said.startswith("not saved: the simulation was reset during this episode. ")
    assert studio.tell("discard")[0]


@pytest.mark.parametrize("gaps", GapRule)
def test_a_gap_does_what_the_rule_says(open_studio: Callable[..., Studio], gaps: GapRule) -> None:
    generous = HealthConfig(min_disk_free_mb=0.0, max_repeated=1.0, max_repeated_in_a_row=1000)
    studio = open_studio(generous, gaps=gaps)
    studio.tell("start")
    studio.pass_time(1.0)
    studio.has_camera = False
    studio.pass_time(0.3)
    studio.has_camera = True
    studio.pass_time(1.0)
    success, said = studio.tell("save")
    assert success is (gaps is GapRule.REPEAT)
    assert success or (said.startswith("not saved: row 2") and "camera front: nothing within 20 ms" in said)
    assert studio.session.status(studio.now_ns).health.repeated["front"] >= 6


def test_rerecord_takes_back_what_was_saved_last_and_no_more(
    open_studio: Callable[..., Studio], tmp_path: Path
) -> None:
    studio = open_studio()
    for task in ("one", "two"):
        studio.session.task = task
        studio.tell("start")
        studio.pass_time(1.0)
        assert studio.tell("save")[0]
    studio.session.task = "three"
    assert studio.tell("rerecord") == (True, "three"), "the task is the one that is shown"
    assert [episode.task for episode in DatasetMeta.load(tmp_path / "dataset").episodes] == ["one"]
    studio.pass_time(0.5)
    assert studio.tell("rerecord") == (True, "three")  # the open one
    assert [episode.task for episode in DatasetMeta.load(tmp_path / "dataset").episodes] == ["one"]
    studio.pass_time(0.5)
    success, said = studio.tell("discard")
    assert success and said.endswith("; episode 1 is restored in the dataset")
    assert not studio.tell("rerecord")[0]
    assert [episode.task for episode in DatasetMeta.load(tmp_path / "dataset").episodes] == ["one", "two"]


def test_rerecord_that_cannot_begin_leaves_what_was_saved(
    open_studio: Callable[..., Studio], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    studio = open_studio()
    studio.tell("start")
    studio.pass_time(1.0)
    studio.tell("save")

    def fail(task: str) -> None:
        raise DatasetError("the disk is full")

    monkeypatch.setattr(studio.writer, "begin", fail)
    assert studio.tell("rerecord") == (False, "the disk is full")
    assert len(DatasetMeta.load(tmp_path / "dataset").episodes) == 1
    monkeypatch.undo()
    assert studio.tell("rerecord")[0], "and it can be asked for again"


def test_notes_have_a_size(open_studio: Callable[..., Studio]) -> None:
    studio = open_studio()
    with pytest.raises(ValueError, match="no episode is open"):
        studio.session.note("too early")
    studio.tell("start")
    studio.session.note("x" * 999)
    with pytest.raises(ValueError, match="at most 1000 characters; these have 1001"):
        studio.session.note("y")


def test_a_writer_that_fails_leaves_the_episode_to_a_person(
    open_studio: Callable[..., Studio], monkeypatch: pytest.MonkeyPatch
) -> None:
    studio = open_studio()
    studio.tell("start")
    studio.pass_time(1.0)
    rows = studio.writer.frames

    def fail(row: features.Row) -> None:
        raise DatasetError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(studio.writer, "add", fail)
        studio.pass_time(0.5)
    studio.pass_time(0.5)
    assert studio.state is EpisodeState.UNSAVED
    assert studio.writer.frames == rows  # rows after a lost one would be shifted
    assert "recording ended: the disk is full" in studio.session.status(studio.now_ns).problem
    assert studio.tell("pause")[1].endswith("the state is unsaved: recording ended: the disk is full")
    assert "recording ended: the disk is full" in studio.tell("save")[1]
    success, said = studio.tell("save_anyway")
    assert success and said.startswith(f"episode 0: {rows} frames")


def test_the_end_saves_what_is_being_saved(open_studio: Callable[..., Studio], tmp_path: Path) -> None:
    studio = open_studio()
    studio.tell("start")
    studio.pass_time(1.0)
    studio.session.obey("save", studio.now_ns, lambda *answer: studio.answers.append(answer))
    assert studio.session.close(studio.now_ns) == []
    assert studio.answers[-1][0] and studio.answers[-1][1].startswith("episode 0: 2")
    (episode,) = DatasetMeta.load(tmp_path / "dataset").episodes
    assert abs(episode.length - FPS) <= 2


def test_the_end_sets_an_open_episode_aside(open_studio: Callable[..., Studio], tmp_path: Path) -> None:
    studio = open_studio()
    studio.tell("start")
    studio.pass_time(1.0)
    (notice,) = studio.session.close(studio.now_ns)
    (folder,) = (tmp_path / "dataset" / ".recording" / "aside").iterdir()
    assert str(folder) in notice
    assert not DatasetMeta.load(tmp_path / "dataset").episodes


def test_what_was_discarded_is_recorded_again_at_no_other_episodes_cost(open_studio: Callable[..., Studio]) -> None:
    studio = open_studio()
    studio.tell("start")
    studio.pass_time(1.0)
    assert studio.tell("save")[0]
    studio.tell("start")
    assert studio.tell("discard")[0]
    success, said = studio.tell("rerecord")
    assert not success and "none was saved by this recorder since the last start" in said
    assert studio.writer.episodes == 1


def test_a_clock_that_stands_still_keeps_no_episode_from_being_saved(open_studio: Callable[..., Studio]) -> None:
    studio = open_studio()
    studio.tell("start")
    studio.pass_time(1.0)
    studio.session.obey("save", studio.now_ns, lambda *answer: studio.answers.append(answer))
    for waits in (True, True, False):
        studio.session.advance(studio.now_ns, waits)
    success, said = studio.answers[-1]
    assert success and said.startswith("episode 0: 2")
    assert studio.state is EpisodeState.IDLE
