"""Frames of a video file by their numbers, exactly, in any order; what a file holds; copies of parts without loss.

Frame k is the one shown at k/fps; times are compared as numbers of frames, so that no rounding of a time picks another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from vla_ros.recording.features import LEAVE_OUT
from vla_ros.recording.files import DatasetError, ordinary

#: How far from k/fps a frame may be shown; LeRobot accepts as much.
TOLERANCE_S: Final = 1e-4
_LONGEST_GOP: Final = 300  # frames looked at to find the distance of key frames
_LARGEST_SHORT_BYTES: Final = 32 * 1024**2
_ENOUGH_FRAMES: Final = 8  # whose times tell the rate


@dataclass(frozen=True)
class VideoInfo:
    """What a video file holds: `codec` as the stream's name (h264, hevc, av1); crf None and preset "" if unknown."""

    frames: int
    codec: str
    pix_fmt: str
    height: int
    width: int
    fps: int
    gop: int  # frames from one key frame to the next; 0: there is one key frame only
    crf: int | None = None
    preset: str = ""


class VideoReader:
    """One video file, open. Not for use by two threads at a time; raises DatasetError for a file that is no video.

    Frames are found by time: of a dataset's video, `fps` is the rate of its rows. One of another rate is refused.
    """

    def __init__(self, path: Path, fps: int | None = None) -> None:
        self._path = path
        self._container, self._stream = _opened(path)
        self._stream.thread_type = "NONE"  # threads would hold frames back, and a single frame is what is wanted
        self._stream.codec_context.thread_count = 1  # nor dav1d's own, whose locks a fork would inherit for ever
        try:
            self._fps = fps or _rate(path, self._stream)
            self._ticks = 1 / (self._fps * self._stream.time_base)  # of the stream's clock, from frame to frame
            refuse_depth(path, self._stream)
            self._gop = self._look_ahead()
        except DatasetError:
            self._container.close()
            raise
        self._converter = VideoReformatter()  # one for all: each has to be set up
        self._decoded: Iterator[Any] = iter(())
        self._last: Any = None
        self._position = -1  # number of the frame decoded last; -1: none

    @property
    def fps(self) -> int:
        """Frames per second."""
        return self._fps

    def frames(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Frames `indices`, in that order, as (T, H, W, 3) rgb; raises DatasetError where there is no such frame."""
        return _images(indices, self._stream.codec_context, self._frame, self._converter)

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def short(self) -> ShortVideo | None:
        """The same frames for few bytes of memory; None of a large file, or one whose packets are not simply in it.

        Only for a video that nothing was read of yet. What it reads of the file is all of it.
        """
        if self._path.stat().st_size > _LARGEST_SHORT_BYTES:
            return None
        content, packets = self._path.read_bytes(), []
        self._container.seek(0, stream=self._stream)
        for packet in _packets(self._container, self._stream):
            number = round(packet.pts / self._ticks)
            is_off = abs(packet.pts * self._stream.time_base - Fraction(number, self._fps)) > TOLERANCE_S
            if is_off or content[packet.pos : packet.pos + packet.size] != bytes(packet):
                return None
            packets.append((number, packet.pos, packet.size, packet.is_keyframe))
        if not packets or not packets[0][3]:
            return None
        context = self._stream.codec_context
        coding = Coding(context.codec.name, context.extradata, context.width, context.height, context.pix_fmt)
        return ShortVideo(self._path, self._fps, self._gop, packets, coding)

    def _frame(self, index: int) -> Any:
        if index < 0:
            raise DatasetError(f"{self._path} has no frame {index}; numbers begin at 0")
        try:
            if not self._position <= index <= self._position + self._gop or self._position < 0:
                self._seek(index)
            while self._position < index:
                self._decode()
        except (StopIteration, av.FFmpegError) as error:
            self._position = -1
            what = "ends before it" if isinstance(error, StopIteration) else str(error)
            raise DatasetError(f"{self._path} has no readable frame {index}: {what}") from None
        if self._position != index:
            raise DatasetError(f"{self._path} has no frame {index} at {index}/{self._fps} s")
        return self._last

    def _seek(self, index: int) -> None:
        """Have the key frame at or before frame `index` decoded."""
        for target in (index, index - self._gop, 0):  # where frames are reordered, the first may lead behind the frame
            self._container.seek(round(max(target, 0) * self._ticks), stream=self._stream)
            self._decoded = self._container.decode(self._stream)
            self._decode()
            if self._position <= index:
                return

    def _decode(self) -> None:
        self._last = next(self._decoded)
        self._position = round(self._last.pts / self._ticks)
        shown_s = self._last.pts * self._stream.time_base
        if abs(shown_s - Fraction(self._position, self._fps)) > TOLERANCE_S:
            raise _time_error(self._path, self._stream, self._fps, shown_s)

    def _look_ahead(self) -> int:
        """The distance of key frames; raises DatasetError where the first frames are not 1/fps apart."""
        distance, shown_s = 0, []
        for number, packet in enumerate(_packets(self._container, self._stream)):
            shown_s.append(packet.pts * packet.time_base)
            distance = distance or (number if packet.is_keyframe else 0)
            if number == _LONGEST_GOP or (distance and number >= _ENOUGH_FRAMES):
                break
        shown_s.sort()  # they are stored in the order in which they are decoded
        steps_s = [after - before for before, after in pairwise(shown_s)]
        if steps_s and abs(min(steps_s) - Fraction(1, self._fps)) > 2 * TOLERANCE_S:
            raise _time_error(self._path, self._stream, self._fps, shown_s[1])
        return distance or _LONGEST_GOP


@dataclass(frozen=True)
class Coding:
    """What a decoder has to know before the first packet."""

    codec: str
    extradata: bytes | None
    width: int
    height: int
    pix_fmt: str


class ShortVideo:
    """A video of few megabytes, closed: known is where its packets are. `Decoders` reads its frames.

    To open a video takes longer than to read a frame of it, and open ones take megabytes: that counts in a dataset with
    a file per episode.
    """

    def __init__(
        self, path: Path, fps: int, gop: int, packets: Sequence[tuple[int, int, int, bool]], coding: Coding
    ) -> None:
        """`packets`: (frame, place in the file, bytes, whether it is a key frame) in the order of decoding."""
        self.path, self.fps, self.gop, self.coding = path, fps, gop, coding
        self._frames, self._places, self._sizes, is_key = (np.array(each) for each in zip(*packets, strict=True))
        self._keys = np.flatnonzero(is_key)

    def packets(self, frame: int) -> Iterator[Any]:
        """What is decoded for a frame, from the key frame before it to the file's end, and None."""
        earlier = self._keys[self._frames[self._keys] <= frame]
        with self.path.open("rb") as file:
            for number in range(earlier[-1] if len(earlier) else 0, len(self._frames)):
                file.seek(self._places[number])
                packet = av.Packet(file.read(self._sizes[number]))
                if packet.size != self._sizes[number]:
                    raise OSError("the file was shortened while it was read")
                packet.pts = int(self._frames[number])
                yield packet
        yield None  # what the decoder has held back


class Decoders:
    """Reads frames of short videos: those that are coded alike share a decoder. Not for two threads at a time."""

    def __init__(self) -> None:
        self._decoders: dict[Coding, _Decoder] = {}

    def frames(self, video: ShortVideo, indices: Sequence[int]) -> NDArray[np.uint8]:
        """As `VideoReader.frames`."""
        if video.coding not in self._decoders:
            self._decoders[video.coding] = _Decoder(video.coding)
        decoder = self._decoders[video.coding]
        return _images(indices, decoder.context, lambda index: decoder.frame(video, index), decoder.converter)


class _Decoder:
    """A codec context, and which frame of which video it has decoded last."""

    def __init__(self, coding: Coding) -> None:
        self.context = av.CodecContext.create(coding.codec, "r")
        self.context.extradata = coding.extradata
        self.context.width, self.context.height, self.context.pix_fmt = coding.width, coding.height, coding.pix_fmt
        self.context.thread_type, self.context.thread_count = "NONE", 1  # as in VideoReader
        self.converter = VideoReformatter()
        self._video: ShortVideo | None = None
        self._decoded: Iterator[Any] = iter(())
        self._last: Any = None
        self._position = -1  # number of the frame decoded last; -1: none

    def frame(self, video: ShortVideo, index: int) -> Any:
        """Raises DatasetError where there is no such frame."""
        if index < 0:
            raise DatasetError(f"{video.path} has no frame {index}; numbers begin at 0")
        try:
            if (
                self._video is not video
                or not self._position <= index <= self._position + video.gop
                or self._position < 0
            ):
                self._start(video, video.packets(index))
            while self._position < index:
                self._last = next(self._decoded)
                self._position = self._last.pts
        except (StopIteration, OSError, av.FFmpegError) as error:
            self._start(None, iter(()))
            what = "ends before it" if isinstance(error, StopIteration) else str(error)
            raise DatasetError(f"{video.path} has no readable frame {index}: {what}") from None
        if self._position != index:
            raise DatasetError(f"{video.path} has no frame {index} at {index}/{video.fps} s")
        return self._last

    def _start(self, video: ShortVideo | None, packets: Iterator[Any]) -> None:
        self.context.flush_buffers()
        self._video, self._position, self._last = video, -1, None
        self._decoded = chain.from_iterable(map(self.context.decode, packets))


def _images(
    indices: Sequence[int], context: Any, frame: Callable[[int], Any], converter: VideoReformatter
) -> NDArray[np.uint8]:
    """Frames `indices`, in that order, as (T, H, W, 3) rgb; forwards, so that each is decoded once."""
    images = np.empty((len(indices), context.height, context.width, 3), np.uint8)
    places: dict[int, list[int]] = {}
    for place, index in enumerate(indices):
        places.setdefault(int(index), []).append(place)
    for index in sorted(places):
        images[places[index]] = converter.reformat(frame(index), format="rgb24").to_ndarray()
    return images


def probe(path: Path, decode: bool = False) -> VideoInfo:
    """What `path` holds; of an unfinished or damaged file, the frames before the damage.

    `decode`: count only what can be decoded, too; slow. Raises DatasetError for a file that is no video, or whose
    frames are not at k/fps.
    """
    with _reading(path) as (container, stream):
        fps = _rate(path, stream)
        context = stream.codec_context
        numbers: list[int] = []
        keys: list[int] = []
        for packet in _packets(container, stream):
            shown_s = packet.pts * packet.time_base
            numbers.append(round(shown_s * fps))
            if abs(float(shown_s - Fraction(numbers[-1], fps))) > TOLERANCE_S:
                raise DatasetError(f"{path}: a frame is shown at {float(shown_s):.6f} s, no multiple of 1/{fps} s")
            if packet.is_keyframe:
                keys.append(numbers[-1])
        frames = len(numbers)
        if sorted(numbers) != list(range(frames)):
            raise DatasetError(f"{path}: its {frames} frames are not at 0/{fps}, 1/{fps}, ... {frames - 1}/{fps} s")
        gop = max((after - before for before, after in pairwise(keys)), default=0)
        info = VideoInfo(frames, _stream_name(stream), context.pix_fmt, context.height, context.width, fps, gop)
    return info if not decode else VideoInfo(**{**vars(info), "frames": _decodable(path)})


def has_text(path: Path) -> bool:
    """Whether what a video says of itself, as the program that wrote it, is UTF-8; if not, others refuse the file."""
    try:
        with av.open(str(ordinary(path))) as container:
            return all(stream.metadata is not None for stream in container.streams)
    except UnicodeDecodeError:
        return False


def cut(source: Path, destination: Path, frames: int) -> None:
    """Copy the first `frames` frames of `source`, which may be unfinished, without coding them anew.

    For videos whose frames are stored in the order in which they are shown. Raises DatasetError where there are fewer;
    then there is no `destination`.
    """
    if frames < 1:
        raise DatasetError(f"a video has at least one frame, and {frames} of {source} were asked for")
    _copy([source], destination, frames)


def concatenate(sources: Sequence[Path], destination: Path) -> None:
    """Copy `sources` one after the other without coding them anew; frame k of the whole is at exactly k/fps.

    Raises DatasetError for videos that differ in codec, its parameters, size or rate; then there is no `destination`.
    """
    if not sources:
        raise DatasetError(f"{destination} would be a video of nothing")
    _copy(sources, destination, None)


def _copy(sources: Sequence[Path], destination: Path, limit: int | None) -> None:
    written = 0
    try:
        with _reading(sources[0]) as (_, first), av.open(str(destination), "w", format="mp4") as output:
            kind = _kind(sources[0], first)
            copied = output.add_stream_from_template(first, opaque=True)  # no encoder is needed
            copied.time_base = first.time_base
            fps = _rate(sources[0], first)
            output.start_encoding()
            for source in sources:
                written += _append(source, output, copied, kind, fps, written, limit)
        if limit is not None and written < limit:
            raise DatasetError(f"{sources[0]} has {written} whole frames, and not {limit}")
    except (OSError, ValueError) as error:
        destination.unlink(missing_ok=True)
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"cannot write {destination}: {error}") from error


def _append(
    source: Path, output: Any, copied: Any, kind: tuple[Any, ...], fps: int, offset: int, limit: int | None
) -> int:
    """Copy a file's frames behind the `offset` frames before; return how many."""
    count = 0
    with _reading(source) as (container, stream):
        if (this := _kind(source, stream)) != kind:
            there, here = (" ".join(each[:-1]) for each in (kind, this))
            here = here if here != there else f"{here} with other parameters of the codec"
            raise DatasetError(f"{source} cannot follow the others without re-encoding: they are {there}, it is {here}")
        ticks = 1 / (fps * copied.time_base)
        for packet in _packets(container, stream):
            if limit is not None and count == limit:
                break
            shown = round(packet.pts * packet.time_base * fps) + offset
            decoded = round(packet.dts * packet.time_base * fps) + offset
            packet.pts, packet.dts, packet.duration = round(shown * ticks), round(decoded * ticks), round(ticks)
            packet.time_base = copied.time_base
            packet.stream = copied
            output.mux(packet)
            count += 1
    return count


def _kind(path: Path, stream: Any) -> tuple[Any, ...]:
    """All in which videos must agree to become one."""
    context = stream.codec_context
    size = f"{context.width} x {context.height}"
    return _stream_name(stream), context.pix_fmt, size, f"{_rate(path, stream)} Hz", context.extradata


def _decodable(path: Path) -> int:
    """How many frames can be decoded before the first that cannot."""
    count = 0
    with _reading(path) as (container, stream):
        context = stream.codec_context
        context.options = {"err_detect": "explode"}
        try:
            for packet in chain(_packets(container, stream), [None]):  # the last: what the decoder has held back
                for frame in context.decode(packet):
                    if frame.is_corrupt:
                        return count
                    count += 1
        except av.FFmpegError:
            pass
    return count


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """The whole packets of a stream, until its end or the first damage."""
    try:
        for packet in container.demux(stream):
            if packet.size == 0 or packet.is_corrupt or packet.pts is None:
                return
            if not any(memoryview(packet)[-4:]):  # no codec ends a frame so: a power cut left zeros
                return
            yield packet
    except av.FFmpegError:
        return


@contextmanager
def _reading(path: Path) -> Iterator[tuple[Any, Any]]:
    container, stream = _opened(path)
    try:
        yield container, stream
    finally:
        container.close()


def _opened(path: Path) -> tuple[Any, Any]:
    try:
        container = av.open(str(ordinary(path)), metadata_errors="replace")
    except (OSError, av.FFmpegError) as error:
        container = _opened_up_to_damage(path)
        if container is None:
            raise DatasetError(f"{path} cannot be read as a video: {error}") from error
    if not container.streams.video or container.streams.video[0].codec_context is None:
        container.close()
        raise DatasetError(f"{path} cannot be read as a video: there is none in it")
    return container, container.streams.video[0]


def _opened_up_to_damage(path: Path) -> Any:
    """An mp4 that breaks off within the description of a fragment, as if it ended before that; None if it cannot be."""
    if not path.is_file():
        return None
    size, at, ends = path.stat().st_size, 0, []
    with path.open("rb") as file:
        while at + 8 <= size:
            file.seek(at)
            length, name = int.from_bytes(file.read(4), "big"), file.read(4)
            if length < 8 or (at + length > size and name != b"mdat"):
                break
            at = min(at + length, size)
            ends.append(at)
    for end in reversed(ends[-2:]):  # the last description may be whole in length, and zeros in part
        with suppress(OSError, av.FFmpegError):
            return av.open(f"subfile,,start,0,end,{end},,:{path}", metadata_errors="replace")
    return None


def rate_error(path: Path, rate: float, fps: int) -> DatasetError:
    """What is wrong with a video of `rate` frames a second in a dataset of `fps` rows."""
    return DatasetError(
        f"{path} has {rate:.4g} frames a second, and its dataset {fps} rows; make it again with a frame for every row "
        f"(ffmpeg -i OLD -vf fps={fps} NEW), or correct fps in info.json"
    )


def _time_error(path: Path, stream: Any, fps: int, shown_s: Fraction) -> DatasetError:
    rate = stream.average_rate or stream.base_rate or 0
    if abs(rate - fps) > 0.01:
        return rate_error(path, float(rate), fps)
    return DatasetError(
        f"{path} shows a frame at {float(shown_s):.6f} s, which is not a multiple of 1/{fps} s; make it again with a "
        f"frame for every row (ffmpeg -i OLD -vf fps={fps} NEW)"
    )


def refuse_depth(path: Path, stream: Any) -> None:
    """Raises DatasetError where pixels are single numbers of more than 8 bits: distances, and no colour."""
    if is_depth(stream.codec_context.format):
        raise DatasetError(f"{path} holds depth ({stream.codec_context.pix_fmt}), not colour images; {LEAVE_OUT}")


def is_depth(pixels: Any) -> bool:
    """Whether a pixel of this format is one number of more than 8 bits."""
    return pixels is not None and len(pixels.components) == 1 and pixels.components[0].bits > 8


def _rate(path: Path, stream: Any) -> int:
    """Frames per second, a whole number."""
    rate: Fraction | None = stream.average_rate or stream.base_rate
    if not rate or round(rate) < 1:
        raise DatasetError(f"{path} does not say how many frames a second it has")
    return round(rate)


def _stream_name(stream: Any) -> str:
    """The codec of the stream, whichever library decodes it."""
    return str(stream.codec_context.codec.canonical_name)
