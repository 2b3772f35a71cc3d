"""What is wrong with a dataset: one finding for each thing, where it is, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import groupby
from typing import Any

from vla_ros.recording.files import in_a_line

#: Called with what is being looked at, how much is done, and how much there is.
Progress = Callable[[str, int, int], None]


class Severity(str, Enum):
    """`error`: LeRobot cannot load the dataset, or something in it is false; `warning`: a reader may be misled."""

    ERROR = "error"
    WARNING = "warning"


class Kind(str, Enum):
    """What sort of thing is wrong."""

    MISSING = "missing"  # a file that the metadata names
    UNREADABLE = "unreadable"  # a file that is torn, or something else than its name says
    INFO = "info"  # info.json lacks something, or its totals are not those of the episodes
    SCHEMA = "schema"  # columns are others than info.json says
    EPISODES = "episodes"  # numbers, lengths and places of the episodes in the metadata
    ROWS = "rows"  # an episode has more or fewer rows than its length
    INDEX = "index"  # frame_index, episode_index or index do not count rows
    TIMESTAMP = "timestamp"  # timestamp is not frame_index / fps
    TASK = "task"  # a row's task is none of meta/tasks.parquet, or another than the episode's
    NAN = "nan"  # a value that is no number
    FRAMES = "frames"  # a video has more or fewer frames than the episode has rows
    VIDEO_TIME = "video time"  # frames are shown at other times than k / fps, or the episode's part lies between them
    VIDEO_FORMAT = "video format"  # size, codec or pixels are others than info.json says
    DECODING = "decoding"  # a video's packets are there, but frames cannot be decoded
    STATISTICS = "statistics"  # missing, no numbers, or not those of the rows
    ORPHAN = "orphan"  # a file that no episode needs
    OPEN_EPISODE = "open episode"  # rows and videos of an episode that was never saved
    LINK = "link"  # a folder that is a link to one outside of the dataset
    DETAILS = "details"  # what the recorder noted of an episode
    CAMERA = "camera"  # what it holds are no images that can be read
    OFFSET = "offset"  # a joint's action from its state, or a camera from the rows, steadily
    REPEATED = "repeated"  # frames are repeated, and not marked


@dataclass(frozen=True)
class Finding:
    """`path` is below the dataset's folder; `episode` is None where it concerns several; `what` says both sides."""

    severity: Severity
    kind: Kind
    path: str
    episode: int | None
    what: str
    remedy: str

    def __str__(self) -> str:
        episode = "" if self.episode is None else f", episode {self.episode}"
        return f"{self.severity.value}: {self.path}{episode}: {self.kind.value}: {self.what}"


REPAIR = "vla-ros dataset repair PATH"
REPAIR_FRAMES = f"{REPAIR} --decode"


def error(kind: Kind, path: str, what: str, episode: int | None = None, remedy: str = REPAIR) -> Finding:
    """Something that keeps the dataset from being loaded, or makes it false."""
    return Finding(Severity.ERROR, kind, in_a_line(path), episode, in_a_line(what), in_a_line(remedy))


def warning(kind: Kind, path: str, what: str, episode: int | None = None, remedy: str = REPAIR) -> Finding:
    """Something that may mislead a reader."""
    return Finding(Severity.WARNING, kind, in_a_line(path), episode, in_a_line(what), in_a_line(remedy))


def errors(findings: Iterable[Finding]) -> list[Finding]:
    """Only what is wrong for certain."""
    return [finding for finding in findings if finding.severity is Severity.ERROR]


def ranges(numbers: Sequence[int]) -> str:
    """Numbers in order as --episodes takes them: 0,3,5-9."""
    runs = [list(run) for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])]
    ends = [(run[0][1], run[-1][1]) for run in runs]
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ends)


def to_json(findings: Iterable[Finding]) -> list[Mapping[str, Any]]:
    """Every finding as a flat object, for machines."""
    return [
        {
            "severity": finding.severity.value,
            "kind": finding.kind.value,
            "path": finding.path,
            "episode": finding.episode,
            "what": finding.what,
            "remedy": finding.remedy,
        }
        for finding in findings
    ]
