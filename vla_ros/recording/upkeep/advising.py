"""What helps a dataset: `repair` where that can make it whole, else a new one of its good episodes; only what works."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from vla_ros.recording.features import IMAGES
from vla_ros.recording.files import DatasetError
from vla_ros.recording.reader import DatasetReader
from vla_ros.recording.upkeep.checking_images import depth_keys
from vla_ros.recording.upkeep.findings import REPAIR, REPAIR_FRAMES, Finding, Kind, Severity, ranges
from vla_ros.recording.upkeep.rebuilding import usable_info
from vla_ros.recording.upkeep.salvaging import has_gap, salvage
from vla_ros.recording.upkeep.scanning import DETAILS, V21, Scan, scan

_LOST = "get the dataset again from its source: no command can repair this one"
#: What `convert` makes again.
_MADE_AGAIN = (Kind.INFO, Kind.STATISTICS, Kind.TIMESTAMP, Kind.ORPHAN, Kind.EPISODES)


def advised(found: Scan, findings: Sequence[Finding], decode: bool = False) -> list[Finding]:
    """`findings`, with another remedy in place of `repair` where that would refuse the dataset."""
    others = [each.remedy for each in findings if each.kind is Kind.TIMESTAMP and each.remedy != REPAIR]
    replaced = (REPAIR, REPAIR_FRAMES, *others)
    if not any(each.remedy in replaced for each in findings):
        return list(findings)
    if _can_be_repaired(found, decode):
        return [replace(each, remedy=REPAIR) if each.remedy in others else each for each in findings]
    remedy = others[0] if others else _conversion(found, findings)  # a wrong rate has to be corrected first
    return [replace(each, remedy=remedy) if each.remedy in replaced else each for each in findings]


def _can_be_repaired(found: Scan, decode: bool) -> bool:
    if found.version == V21:
        return False
    try:
        info, said = usable_info(found)
        whole = scan(found.root, info) if said else found
        saved = salvage(whole, False, decode)
    except DatasetError:
        return False
    return (bool(saved.whole) or not saved.broken) and not any(has_gap(whole, one) for one in saved.whole)


def _conversion(found: Scan, findings: Sequence[Finding]) -> str:
    """The command that makes a good dataset of the episodes and cameras that can be read."""
    bad: dict[str, set[int]] = {}  # camera, or "" for rows -> episodes
    for finding in findings:
        for key, index in _concerned(found, finding):
            bad.setdefault(key, set()).add(index)
    every = {episode.index for episode in found.episodes}
    cameras = [*depth_keys(found), *(key for key, those in bad.items() if key and those >= every)]
    try:
        reader = DatasetReader(found.root, without=cameras)
    except DatasetError:
        return _LOST
    lost = {index for key, those in bad.items() if key not in cameras for index in those}
    numbers = [episode.index for episode in reader.meta.episodes if reader.meta.stored_index(episode) not in lost]
    if not numbers:
        return _LOST
    words = ["vla-ros convert PATH PATH-new"]
    if len(numbers) < len(reader.meta.episodes):
        words.append(f"--episodes {ranges(numbers)}")
    return " ".join([*words, *(f"--without-camera {key.removeprefix(IMAGES)}" for key in cameras)])


def _concerned(found: Scan, finding: Finding) -> Iterator[tuple[str, int]]:
    """(camera, or "" for rows; episode) of what `convert` would refuse for this, or make no better."""
    counts_rows = finding.kind is Kind.INDEX and not finding.what.startswith("index ")
    is_damage = finding.severity is Severity.ERROR and finding.kind is not Kind.INDEX
    if finding.kind in _MADE_AGAIN or not (counts_rows or is_damage or finding.kind in (Kind.NAN, Kind.DETAILS)):
        return
    if finding.path.startswith(DETAILS) and finding.episode is None:
        yield "", int(PurePosixPath(finding.path).stem.removeprefix("episode-"))
    for episode in found.episodes:
        if finding.episode not in (None, episode.index):
            continue
        cameras = [key for key, segment in episode.videos.items() if segment.path == finding.path]
        if finding.kind is Kind.CAMERA:
            cameras = [finding.what.split()[0]]
        if cameras or finding.path == episode.data or finding.episode is not None:
            yield from ((key, episode.index) for key in cameras or [""])
