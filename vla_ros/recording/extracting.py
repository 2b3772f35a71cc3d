"""An episode's video, made for another dataset: copied without loss where its rows stay whole, else coded anew."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from vla_ros.recording.config import VideoConfig
from vla_ros.recording.features import Feature
from vla_ros.recording.files import DatasetError
from vla_ros.recording.reader import DatasetReader, camera_name
from vla_ros.recording.schemas import STATISTICS
from vla_ros.recording.statistics import ImageStatistics, enough
from vla_ros.recording.video import VideoEncoder, VideoInfo, probe
from vla_ros.recording.video_reader import rate_error

_AT_ONCE = 32  # frames decoded at a time


@dataclass(frozen=True)
class Extract:
    """One camera's frames of an episode: what the file holds, its statistics, and whether frames are coded anew."""

    info: VideoInfo
    stats: Mapping[str, NDArray[Any]]
    is_recoded: bool


def extract(
    reader: DatasetReader,
    episode: int,
    feature: Feature,
    rows: NDArray[np.int64] | None,
    destination: Path,
    fps: int,
    video: VideoConfig,
) -> Extract:
    """Write the frames `rows` of an episode to `destination`; None: all of them, and the packets as they are.

    A part of a file that several episodes share is cut out where it begins with a key frame and frames are stored in
    the order in which they are shown; else, and for `rows`, frames are coded anew, by `video`.

    Raises:
        DatasetError: the episode's frames cannot be read, or are not at k/fps, or are fewer than its rows.
    """
    found = reader.meta.episodes[episode]
    if rows is None and feature.is_video:
        first = reader.meta.first_frame(found, feature.key)
        path = reader.meta.video_path(found, feature.key)
        if (rate := _probe(path).fps) != reader.meta.fps:
            raise rate_error(path, rate, reader.meta.fps)
        info = _copy(path, first, found.length, destination)
        if info is not None:
            stats = reader.stats(episode).get(feature.key, {})
            return Extract(
                _known(info, reader.meta.info, feature),
                stats if _is_whole(stats) else _measure(reader, episode, feature),
                False,
            )
    kept = np.arange(found.length) if rows is None else rows
    return _recode(reader, episode, feature, kept, destination, fps, video)


def codec_of(reader: DatasetReader, episode: int) -> str | None:
    """The name in `VideoConfig` of the codec of an episode's videos; None: it has none, or of another codec."""
    features = [reader.meta.features.find(key) for key in reader.camera_keys]
    video = next((feature for feature in features if feature.is_video), None)
    if video is None:
        return None
    codec = _probe(reader.meta.video_path(reader.meta.episodes[episode], video.key)).codec
    return {"h264": "h264", "hevc": "hevc", "av1": "libsvtav1"}.get(codec)


def _probe(path: Path) -> VideoInfo:
    """What a video holds, looked at once for all episodes that are in it."""
    status = path.stat()
    return _probe_state(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=32)
def _probe_state(path: Path, _size: int, _changed_ns: int) -> VideoInfo:
    return probe(path)


def _known(info: VideoInfo, said: Mapping[str, Any], feature: Feature) -> VideoInfo:
    """`info` with what only the dataset's info.json still knows of how the video was made."""
    made = said["features"][feature.key].get("info") or {}
    return replace(info, crf=made.get("video.crf"), preset=str(made.get("video.preset") or ""))


def _copy(source: Path, first: int, frames: int, destination: Path) -> VideoInfo | None:
    """Copy frames [first, first + frames) to a file of their own; None where that cannot be done without coding."""
    whole = _probe(source)
    if whole.frames < first + frames:
        raise DatasetError(f"{source} has {whole.frames} frames; the episode's are {first} to {first + frames - 1}")
    if (first, frames) == (0, whole.frames):
        with _reported(source, destination):
            shutil.copyfile(source, destination)
        return whole
    with _reported(source, destination), av.open(str(source), metadata_errors="replace") as container:
        stream = container.streams.video[0]
        tick = 1 / (whole.fps * stream.time_base)  # of the stream's clock, from frame to frame
        container.seek(round(first * tick), stream=stream)
        packets: list[Any] = []
        for packet in container.demux(stream):
            if packet.pts is None or len(packets) == frames:
                break
            number = round(packet.pts / tick)
            if packet.dts != packet.pts or (not packets and number == first and not packet.is_keyframe):
                return None
            if number >= first:
                packets.append(packet)
        if len(packets) < frames or round(packets[0].pts / tick) != first:
            return None
        _write(packets, stream, destination, tick)
    return replace(whole, frames=frames)


@contextmanager
def _reported(source: Path, destination: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, av.FFmpegError) as error:
        raise DatasetError(f"{source} cannot be copied to {destination}: {error}") from error


def _write(packets: list[Any], stream: Any, destination: Path, tick: Any) -> None:
    """Packets, in the order in which they are shown, as a file that begins with the first of them at 0 s."""
    with av.open(str(destination), "w", format="mp4") as output:
        copied = output.add_stream_from_template(stream, opaque=True)  # no encoder is needed
        copied.time_base = stream.time_base
        for number, packet in enumerate(packets):
            packet.pts = packet.dts = round(number * tick)
            packet.duration = round(tick)
            packet.stream = copied
            output.mux(packet)


def _recode(
    reader: DatasetReader,
    episode: int,
    feature: Feature,
    rows: NDArray[np.int64],
    destination: Path,
    fps: int,
    video: VideoConfig,
) -> Extract:
    stats, encoder = ImageStatistics(), None
    try:
        for start in range(0, len(rows), _AT_ONCE):
            for image in reader.images(episode, camera_name(feature.key), rows[start : start + _AT_ONCE]):
                if encoder is None:
                    encoder = VideoEncoder(destination, image.shape[0], image.shape[1], fps, video)
                encoder.add(image)
                stats.add(image)
        if encoder is None:
            raise DatasetError(f"no frames of {feature.key} are left of episode {episode}")
        return Extract(encoder.close(), stats.stats(), True)
    except BaseException:
        if encoder is not None:
            encoder.abort()
        raise


def _measure(reader: DatasetReader, episode: int, feature: Feature) -> Mapping[str, NDArray[Any]]:
    """The statistics of an episode's frames, of as many as LeRobot takes, evenly spread."""
    stats, length = ImageStatistics(), reader.meta.episodes[episode].length
    count = enough(length)
    rows = np.round(np.linspace(0, length - 1, count)).astype(np.int64)
    for start in range(0, count, _AT_ONCE):
        for image in reader.images(episode, camera_name(feature.key), rows[start : start + _AT_ONCE]):
            stats.add(image)
    return stats.stats()


def _is_whole(stats: Mapping[str, NDArray[Any]]) -> bool:
    """Whether statistics of images are all there, and their deviation is not the 0 that LeRobot 0.4 wrote."""
    is_whole = set(STATISTICS) <= set(stats) and all(
        stats[name].shape == ((1,) if name == "count" else (3, 1, 1)) for name in STATISTICS
    )
    return is_whole and (bool(np.any(stats["std"] > 0)) or np.array_equal(stats["min"], stats["max"]))
