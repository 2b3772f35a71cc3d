"""Are the videos what the metadata says: frames for rows, shown at k / fps, of size and codec as described."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import av
import numpy as np

from vla_ros.recording.upkeep.checking_rows import TOLERANCE_S
from vla_ros.recording.upkeep.findings import REPAIR_FRAMES, Finding, Kind, error, warning
from vla_ros.recording.upkeep.scanning import Episode, Scan, Segment, Video, is_shown_at, video

_EVEN_RUN = 5  # frames alike in a row before it is said


def check_clip(found: Scan, episode: Episode, key: str, segment: Segment) -> Iterator[Finding]:
    """An episode's part of a video: in the file, as long as its rows, at the times of its frames."""
    read = video(found, segment.path)
    if read is None or not found.fps:
        return  # said of the file
    first, length = segment.from_s * found.fps, (segment.to_s - segment.from_s) * found.fps
    if abs(first - round(first)) > TOLERANCE_S * found.fps or segment.from_s < 0:
        said = f"from_timestamp {segment.from_s} of {key} lies between frames (fps {found.fps})"
        yield error(Kind.VIDEO_TIME, segment.path, said, episode.index)
    if abs(length - episode.length) > TOLERANCE_S * found.fps:
        said = f"from_timestamp to to_timestamp of {key} are {length:.3f} frames, the episode has {episode.length}"
        yield error(Kind.VIDEO_TIME, segment.path, said, episode.index)
    start = max(0, round(first))
    there = read.pts[start : start + episode.length]
    if len(there) < episode.length:
        said = f"{len(there)} frames of {key} for {episode.length} rows"
        yield error(Kind.FRAMES, segment.path, said, episode.index)
    if not all(is_shown_at(pts, start + number, found.fps) for number, pts in enumerate(there)):
        said = f"frames of {key} are not shown at k / {found.fps} s"
        yield error(Kind.VIDEO_TIME, segment.path, said, episode.index)


def check_video(found: Scan, key: str, path: str, clips: list[tuple[Episode, Segment]]) -> Iterator[Finding]:
    """A video file as a whole; `clips`: the episodes in it."""
    read = video(found, path)
    if read is None or not found.fps:
        return
    episode = clips[0][0].index if len(clips) == 1 else None
    if read.promised > read.frames:
        said = f"it has {read.frames} complete frames, but its index lists {read.promised}: it is truncated"
        yield error(Kind.UNREADABLE, path, said, episode)
    if not read.has_text:
        said = "its tags are not UTF-8, so LeRobot's reader refuses it; the frames are not affected"
        yield error(Kind.VIDEO_FORMAT, path, said, episode)
    parts = sorted((round(segment.from_s * found.fps), one.length) for one, segment in clips)
    for (first, length), (following, _) in pairwise(parts):
        if first + length > following:
            yield error(Kind.VIDEO_TIME, path, f"episodes overlap at frame {following}")
    needed = sum(length for _, length in parts)
    if read.frames > needed:
        said = f"{read.frames} frames for {needed} rows"
        if len(clips) == 1:
            yield error(Kind.FRAMES, path, said, episode)
        else:
            yield warning(Kind.FRAMES, path, f"{said}: some belong to no episode")
    yield from _check_format(found, key, path, read, episode)


def _check_format(found: Scan, key: str, path: str, read: Video, episode: int | None) -> Iterator[Finding]:
    if not read.can_decode:
        remedy = "install an FFmpeg (PyAV) that has its decoder"
        yield error(Kind.VIDEO_FORMAT, path, f"no decoder for its codec {read.codec!r} is installed", episode, remedy)
    feature = found.features[key]
    if list(feature.get("shape") or ())[:2] != [read.height, read.width]:
        said = f"frames are {read.height} x {read.width}, info.json says {feature.get('shape')}"
        yield error(Kind.VIDEO_FORMAT, path, said, episode)
    described = feature.get("info")
    described = described if isinstance(described, dict) else {}
    for name, actual in (("video.codec", read.codec), ("video.pix_fmt", read.pix_fmt)):
        if described.get(name) not in (None, actual):
            yield warning(Kind.VIDEO_FORMAT, path, f"{name} is {actual}, info.json says {described[name]}", episode)


def decode(found: Scan, path: str, clips: list[tuple[Episode, Segment]]) -> Iterator[Finding]:
    """Decode every frame: damage inside of packets, and frames that stand still for longer than a scene does."""
    read = video(found, path)
    if read is None:
        return
    episode = clips[0][0].index if len(clips) == 1 else None
    count, before, alike, longest, reason = 0, None, 0, 0, ""
    try:
        with av.open(str(found.root / path), metadata_errors="replace") as container:
            stream = container.streams.video[0]
            stream.codec_context.options = {"err_detect": "explode"}
            for frame in container.decode(stream):
                count += 1
                if frame.is_corrupt:
                    raise ValueError(f"frame {count - 1} is damaged")
                image = frame.to_ndarray()
                alike = alike + 1 if before is not None and np.array_equal(image, before) else 0
                longest, before = max(longest, alike), image
    except (av.FFmpegError, OSError, ValueError, IndexError) as failure:
        reason = f": {failure}"
    if reason or count != read.frames:
        yield error(
            Kind.DECODING, path, f"{count} of {read.frames} frames could be decoded{reason}", episode, REPAIR_FRAMES
        )
    elif longest > _EVEN_RUN:
        remedy = "look at it: the camera may have been frozen (or simulated without noise)"
        yield warning(Kind.REPEATED, path, f"{longest + 1} frames in a row are the same", episode, remedy)
