"""One person's recording: episodes begun, paused, kept or forgotten on a word; nothing unwell is kept silently."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import Enum

from vla_ros.recording.assembling.row_health import RowHealth
from vla_ros.recording.assembling.rows import RowAssembler
from vla_ros.recording.config import RecordingConfig
from vla_ros.recording.features import Row
from vla_ros.recording.files import DatasetError
from vla_ros.recording.lerobot_v3 import DatasetWriter, EpisodeDetails
from vla_ros.timing.stamps import s_to_ns
from vla_ros.timing.sync import StreamHealth

_OBEYED = 16  # last words that are told
MOST_CHARACTERS = 1000  # of an episode's notes
#: How late simulated time may come: an episode that begins after a reset must not seem to be before it.
_CLOCK_LAG_NS = s_to_ns(0.2)
#: What there is to decide of an episode that is not saved.
DECISION = ". save_anyway keeps the episode as it is, discard deletes it"
_SEED, _MOST_DIGITS = "seed ", 90

#: Gets whether what was asked for was done, and what there is to say of it.
Answer = Callable[[bool, str], None]


class EpisodeState(str, Enum):
    """How the open episode is; idle: there is none."""

    IDLE = "idle"
    RECORDING = "recording"
    PAUSED = "paused"
    SAVING = "saving"
    UNSAVED = "unsaved"  # over, but not well enough: to be saved anyway, discarded, or recorded anew


class Refused(ValueError):
    """What was asked for cannot be done now; the text says why, and what would help."""


@dataclass(frozen=True)
class SessionStatus:
    """How a session is at one instant; `episode`: the number of the open episode, or else of the next.

    `obeyed`: the last words, each with its time: "start@1000000000"; by them a bag is recorded anew, row for row.
    `problem`: what is not well, in words; it is `grave` where what is being recorded will not be saved unasked.
    """

    state: EpisodeState
    episode: int
    task: str
    frames: int
    health: RowHealth
    backlog: int
    disk_free_mb: float
    success: bool | None
    seed: int | None
    problem: str
    grave: bool
    streams: Mapping[str, StreamHealth]
    obeyed: tuple[str, ...]


class Session:
    """Owns `assembler` and `writer`, for one thread: `advance` it again and again, and have it `obey` a word.

    The words are start, save, save_anyway, discard, rerecord, pause, resume, success and failure. `task` is what the
    next episode will be about, an open one keeps its own; `seed` of a simulated episode and `source`, who shows it
    ("teleop", a policy's name), go into its details.
    """

    def __init__(
        self,
        assembler: RowAssembler,
        writer: DatasetWriter,
        config: RecordingConfig,
        reason: Callable[[int], str] | None = None,
        source: str = "",
    ) -> None:
        """`reason(now_ns)`: why rows cannot be recorded now, "" when they can; otherwise the assembler's."""
        self._assembler, self._writer, self._config = assembler, writer, config
        self._reason = reason or assembler.reason
        self._source = source
        self.task = ""
        self.seed: int | None = None
        self.state = EpisodeState.IDLE
        self._task = ""  # of the open episode, or of the last
        self._success: bool | None = None
        self._notes: list[str] = []
        self._failure = ""  # why the open episode cannot go on
        self._begun_ns = 0
        self._has_saved = False
        self._now_ns = 0
        self._save: tuple[bool, Answer] | None = None  # what is asked for while rows settle: whether as it is, by whom
        self._obeyed: deque[str] = deque(maxlen=_OBEYED)
        self._words: dict[str, Callable[[int], str]] = {
            "start": self._start,
            "discard": self._discard,
            "rerecord": self._rerecord,
            "pause": self._pause,
            "resume": self._resume,
            "success": lambda _: self._mark(True),
            "failure": lambda _: self._mark(False),
        }

    def obey(self, word: str, now_ns: int, answer: Answer) -> None:
        """Do what `word` means; `answer` is called once that is done: for save, in an `advance` to come."""
        try:
            if word in ("save", "save_anyway"):
                self._begin_saving(now_ns, word == "save_anyway", answer)
                self._obeyed.append(f"{word}@{now_ns}")
                return
            if word == "resume" and self._config.pause_ends_episode and self.state is EpisodeState.PAUSED:
                self._begin_saving(now_ns, False, lambda is_done, said: self._begin_next(is_done, said, answer))
                self._obeyed.append(f"{word}@{now_ns}")
                return
            if word not in self._words:
                raise Refused(f"unknown command {word!r}; there are: save, save_anyway, {', '.join(self._words)}")
            said = self._words[word](now_ns)
            self._obeyed.append(f"{word}@{now_ns}")
        except Exception as error:  # whoever asked is told; the next word may be obeyed
            answer(False, _why(error))
        else:
            answer(True, said)

    def advance(self, now_ns: int, waits: bool = True) -> None:
        """Record the rows that are settled at `now_ns`, and save what was asked for once there are no more to come.

        Not `waits`: save now, without rows that have not settled, for time stands still and they never will.
        """
        self._now_ns = now_ns
        self._add(self._assembler.rows(now_ns))
        if self._save is not None and not (waits and self._assembler.is_settling):
            as_it_is, answer = self._save
            self._save = None
            try:
                said = self._finish(now_ns, as_it_is)
            except Exception as error:  # whatever it is, the episode is still there, and whoever asked is told
                self.state = EpisodeState.UNSAVED
                answer(False, _why(error))
            else:
                answer(True, said)

    def world_was_reset(self, reset_ns: int, now_ns: int) -> None:
        """A simulated world jumped at `reset_ns`: an episode that was open then shows what no robot could do."""
        if self.state in (EpisodeState.RECORDING, EpisodeState.PAUSED) and reset_ns > self._begun_ns + _CLOCK_LAG_NS:
            self._failure = "the simulation was reset during this episode"
            self._assembler.stop(now_ns)
            self.state = EpisodeState.UNSAVED

    def note(self, text: str) -> None:
        """Add a line to the open episode's notes; raises Refused where there is none, or it gets too long."""
        self._require_open()
        length = len("\n".join([*self._notes, text]))
        if length > MOST_CHARACTERS:
            raise Refused(f"notes of an episode have at most {MOST_CHARACTERS} characters; these have {length}")
        self._notes.append(text)

    def close(self, now_ns: int) -> list[str]:
        """The end: what is being saved is saved, another open episode is set aside. What there is to report of that."""
        self.advance(now_ns, waits=False)
        if self.state is not EpisodeState.IDLE:
            self._add(self._assembler.stop(now_ns))
        before = len(self._writer.notices)
        self._writer.close()
        return self._writer.notices[before:]

    def status(self, now_ns: int) -> SessionStatus:
        """How it is."""
        health, is_open = self._assembler.health, self.state is not EpisodeState.IDLE
        grave = [text for text in (self._failure, self._low_disk()) if text]
        if is_open and health.rows:
            so_far = {"min_frames": 1, "min_motion_rad": 0.0}  # more may come
            grave += health.problems(self._config.health.model_copy(update=so_far))
        lacking = self._reason(now_ns)
        if self.state is EpisodeState.RECORDING and self.task != self._task:
            lacking = "; ".join(filter(None, [f"the task is now {self.task!r}, the episode keeps its own", lacking]))
        return SessionStatus(
            state=self.state,
            episode=self._writer.episodes,
            task=self._task if is_open else self.task,
            frames=self._writer.frames if is_open else 0,
            health=health,
            backlog=self._writer.backlog if is_open else 0,
            disk_free_mb=self._writer.disk_free_mb,
            success=self._success,
            seed=self.seed,
            problem="; ".join([*grave, *([lacking] if lacking else [])]),
            grave=bool(grave),
            streams=self._assembler.streams(now_ns),
            obeyed=tuple(self._obeyed),
        )

    # --- words

    def _start(self, now_ns: int) -> str:
        if self.state is not EpisodeState.IDLE:
            raise Refused(f"an episode is {self.state.value}: save or discard it first")
        self._require_startable(now_ns, self.task)
        return self._begin(now_ns, self.task)

    def _rerecord(self, now_ns: int) -> str:
        if self.state is EpisodeState.SAVING:
            raise Refused("an episode is being saved; wait until it is")
        if self.state is EpisodeState.IDLE and not self._has_saved:
            raise Refused(
                "no episode is open, and none was saved by this recorder since the last start; to begin one: start"
            )
        task = self.task if self.task.strip() else self._task
        self._require_startable(now_ns, task)
        if self.state is EpisodeState.IDLE:
            self._writer.drop_last()
        else:
            self._discard(now_ns, is_repeated=True)
        try:
            return self._begin(now_ns, task)
        except Exception:
            self._writer.put_back()
            raise

    def _begin(self, now_ns: int, task: str) -> str:
        self._writer.begin(task)
        self._assembler.start(now_ns)
        self._begun_ns = now_ns
        self._task, self._success, self._notes, self._failure = task, None, [], ""
        self._has_saved = False  # from here on, what was recorded last is this one
        self.state = EpisodeState.RECORDING
        return task

    def _begin_next(self, is_saved: bool, said: str, answer: Answer) -> None:
        """After a pause that ended an episode."""
        if not is_saved:
            answer(False, said)
            return
        try:
            task = self._start(self._now_ns)
        except Exception as error:
            answer(False, f"{said}; the next one did not begin: {_why(error)}")
        else:
            answer(True, f"{said}; {task}")

    def _pause(self, now_ns: int) -> str:
        if self.state is not EpisodeState.RECORDING:
            why = f": {self._failure}" if self._failure else ""
            raise Refused(f"nothing is being recorded, the state is {self.state.value}{why}")
        self._assembler.pause(now_ns)
        self.state = EpisodeState.PAUSED
        return f"paused after {self._writer.frames} frames"

    def _resume(self, now_ns: int) -> str:
        if self.state is not EpisodeState.PAUSED:
            raise Refused(f"no episode is paused, the state is {self.state.value}")
        self._assembler.resume(now_ns)
        self.state = EpisodeState.RECORDING
        return self._task

    def _mark(self, success: bool) -> str:
        self._require_open()
        self._success = success
        return "success" if success else "failure"

    def _discard(self, now_ns: int, is_repeated: bool = False) -> str:
        self._require_open()
        frames, saved = self._writer.frames, self._writer.episodes
        self._assembler.stop(now_ns)
        self._writer.discard(is_repeated)
        self.state, self._failure = EpisodeState.IDLE, ""
        back = f"; episode {saved} is restored in the dataset" if self._writer.episodes > saved else ""
        return f"{frames} frames discarded{back}"

    def _begin_saving(self, now_ns: int, as_it_is: bool, answer: Answer) -> None:
        self._require_open()
        self._assembler.pause(now_ns)
        self._save = as_it_is, answer
        self.state = EpisodeState.SAVING

    # --- how it is done

    def _finish(self, now_ns: int, as_it_is: bool) -> str:
        """Save the episode, all of whose rows are there; raises Refused where it is not well, or DatasetError."""
        self._add(self._assembler.stop(now_ns))
        problems = [text for text in (self._failure, *self._assembler.health.problems(self._config.health)) if text]
        if problems and not as_it_is:
            raise Refused(f"not saved: {'; '.join(problems)}{DECISION}")
        details = EpisodeDetails(
            task=self._task,
            success=self._success,
            notes="\n".join(self._notes),
            source=self._source,
            seed=self.seed,
            extra={"health": asdict(self._assembler.health), "problems": problems},
        )
        saved = self._writer.save(details)
        self.state, self._failure, self._has_saved = EpisodeState.IDLE, "", True
        return f"episode {saved.index}: {saved.frames} frames, {saved.duration_s:.1f} s, saved in {saved.save_s:.2f} s"

    def _add(self, rows: Iterable[Row]) -> None:
        try:
            for row in rows:
                self._writer.add(row)
        except Exception as error:  # a full disk, an encoder that ended: what is there stays until somebody decides
            self._failure = self._failure or f"recording ended: {_why(error)}"
            self._assembler.stop(row.instant_ns)
            if self.state is not EpisodeState.SAVING:
                self.state = EpisodeState.UNSAVED

    def _require_open(self) -> None:
        if self.state is EpisodeState.IDLE:
            raise Refused("no episode is open; to begin one: start")
        if self.state is EpisodeState.SAVING:
            raise Refused("the episode is being saved; wait until it is")

    def _require_startable(self, now_ns: int, task: str) -> None:
        if not task.strip():
            raise Refused("there is no task: describe in words what the episode will show")
        if lacking := self._reason(now_ns):
            raise Refused(f"not everything is ready: {lacking}")
        if full := self._low_disk():
            raise Refused(full)

    def _low_disk(self) -> str:
        free_mb, least_mb = self._writer.disk_free_mb, self._config.health.min_disk_free_mb
        if free_mb >= least_mb:
            return ""
        return f"the disk is nearly full: {free_mb:.0f} MB are free, at least {least_mb:.0f} MB are needed"


def _why(error: Exception) -> str:
    """What is expected to go wrong now and then is said in a sentence, the rest with its name."""
    return str(error) if isinstance(error, (Refused, DatasetError)) else repr(error)


def seed_in(word: str) -> int | None:
    """The seed that a word of the control topic, `seed N`, gives the next episode; None for any other word."""
    said = word.strip().removeprefix(_SEED).strip()
    is_seed = word.strip().startswith(_SEED) and said.isdecimal() and len(said) < _MOST_DIGITS
    return int(said) if is_seed else None
