"""A finding: one line about one thing, how bad it is, what would be right, and what to type or where to read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum


class Level(str, Enum):
    """How bad it is: `fail` keeps something from working, `warn` may."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


_NO_ANSWER = "no answer within"


@dataclass(frozen=True)
class Finding:
    """`subject`: what was looked at; `found`; `right`: what would be; `remedy`: what to type, or where to read."""

    level: Level
    subject: str
    found: str
    right: str = ""
    remedy: str = ""


#: Group -> what was found in it, in the order of looking.
Report = Mapping[str, Sequence[Finding]]


def ok(subject: str, found: str) -> Finding:
    """It is as it should be."""
    return Finding(Level.OK, subject, found)


def warn(subject: str, found: str, right: str, remedy: str = "") -> Finding:
    """It may be why something does not work."""
    return Finding(Level.WARN, subject, found, right, remedy)


def fail(subject: str, found: str, right: str, remedy: str = "") -> Finding:
    """Something does not work because of it."""
    return Finding(Level.FAIL, subject, found, right, remedy)


def no_answer(timeout_s: float) -> str:
    """A program was asked and has not answered; see `is_slow`."""
    return f"{_NO_ANSWER} {timeout_s:g} s"


def is_slow(problem: str) -> bool:
    """Whether nothing is known to be wrong, except that it took too long."""
    return _NO_ANSWER in problem


def slow(subject: str, found: str) -> Finding:
    """It did not answer in time: on a busy machine it may work all the same."""
    return warn(subject, found, "an answer: this machine is busy or its disk is slow", "top, then vla-ros doctor again")


def count(report: Report, level: Level) -> int:
    """How many findings of one level."""
    return sum(finding.level is level for finding in _all(report))


def to_json(report: Report) -> list[dict[str, str]]:
    """Every finding as a flat object, for machines."""
    return [
        {
            "group": group,
            "level": finding.level.value,
            "subject": finding.subject,
            "found": finding.found,
            "right": finding.right,
            "remedy": finding.remedy,
        }
        for group, findings in report.items()
        for finding in findings
    ]


def joined(words: Iterable[str], last: str = "and") -> str:
    """Words as a person lists them: a, b and c."""
    *others, final = words
    return f"{', '.join(others)} {last} {final}" if others else final


def _all(report: Report) -> Iterator[Finding]:
    for findings in report.values():
        yield from findings
