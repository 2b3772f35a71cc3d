"""A camera's frames, compressed as they come on a thread of their own, in a file that a killed process leaves readable.

While it is written, the file is a fragmented mp4 (a fragment is whole on the disk or does not count); closing it makes
an ordinary one of it, its index at the end, without copying. Frame k is shown at exactly k/fps.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import av
import numpy as np

from vla_ros.recording.config import VideoConfig
from vla_ros.recording.files import DatasetError
from vla_ros.recording.video_reader import VideoInfo, VideoReader, concatenate, cut, probe
from vla_ros.values import Image

__all__ = ["EncoderError", "VideoEncoder", "VideoInfo", "VideoReader", "concatenate", "cut", "probe"]

#: How long `VideoEncoder.add` waits for room.
PATIENCE_S: Final = 2.0
#: A fragment of the unfinished file: what is lost, at most, when the process is killed, beside the frames waiting.
FRAGMENT_S: Final = 0.25

_PIXELS: Final = "yuv420p"
_LIMITED_RANGE: Final = 1  # AVCOL_RANGE_MPEG
_BT601: Final = 6  # SMPTE 170M, by which libswscale converts from rgb unless told otherwise


class EncoderError(DatasetError):
    """A camera's frames cannot be compressed, or not fast enough, or not be written."""


@dataclass(frozen=True)
class _Codec:
    """How an encoder of FFmpeg is told quality, speed and to keep the order of frames."""

    encoder: str
    stream: str  # what it writes
    preset: str
    worst_crf: int
    options: Callable[[int, int], Mapping[str, str]]  # crf, gop -> options


def _x264(crf: int, gop: int) -> Mapping[str, str]:
    # zerolatency: no frames are held back, which a kill would lose.
    rules = f"scenecut=0:open-gop=0:keyint={gop}:min-keyint=1"
    return {"crf": str(crf), "tune": "zerolatency", "x264-params": rules}


def _x265(crf: int, gop: int) -> Mapping[str, str]:
    rules = f"log-level=error:pools=none:frame-threads=1:scenecut=0:open-gop=0:keyint={gop}:min-keyint=1"
    return {"crf": str(crf), "tune": "zerolatency", "x265-params": rules}


def _svt(crf: int, gop: int) -> Mapping[str, str]:
    return {"crf": str(crf), "svtav1-params": "lp=1"}


def _nvenc(crf: int, gop: int) -> Mapping[str, str]:
    return {"rc": "vbr", "cq": str(crf), "b": "0", "delay": "0", "zerolatency": "1", "no-scenecut": "1"}


#: Name in the configuration -> encoder. The presets are the fastest ones that are worth their size; at 12, as LeRobot
#: has it, SVT-AV1 leaves sudden changes of colour out of the frames between key frames (10 dB PSNR where 10 has 43).
_CODECS: Final[Mapping[str, _Codec]] = {
    "h264": _Codec("libx264", "h264", "ultrafast", 51, _x264),
    "hevc": _Codec("libx265", "hevc", "ultrafast", 51, _x265),
    "libsvtav1": _Codec("libsvtav1", "av1", "10", 63, _svt),
    "h264_nvenc": _Codec("h264_nvenc", "h264", "p2", 51, _nvenc),
    "hevc_nvenc": _Codec("hevc_nvenc", "hevc", "p2", 51, _nvenc),
    "av1_nvenc": _Codec("av1_nvenc", "av1", "p2", 51, _nvenc),
}
_AUTO: Final = ("h264_nvenc", "h264")


class VideoEncoder:
    """One camera's video; `add` gives a frame to the encoder's thread, `close` ends it.

    Raises `EncoderError` where the codec does not work here (with those that do), the size is not even, or the file
    cannot be made. A failure of the thread (a full disk, say) is told by the next `add`, and by `close`; no frame is
    dropped without an error.
    """

    def __init__(self, path: Path, height: int, width: int, fps: int, config: VideoConfig) -> None:
        if height % 2 or width % 2:
            raise EncoderError(
                f"{path.name}: videos (yuv420p) need even sizes, got {height} x {width} (height x width); crop or "
                f"scale the camera's images to {height - height % 2} x {width - width % 2}"
            )
        self._path = path
        self._shape = (height, width, 3)
        self._fps = fps
        self._max_backlog = config.max_backlog
        name = _choose(height, width, fps, config)
        codec = _CODECS[name]
        self._info = VideoInfo(
            0, codec.stream, _PIXELS, height, width, fps, config.gop, config.crf, config.preset or codec.preset
        )
        try:
            self._container = av.open(
                str(path),
                "w",
                format="mp4",
                options={
                    "movflags": "+hybrid_fragmented",
                    "frag_duration": str(round(FRAGMENT_S * 1e6)),
                    "flush_packets": "1",  # a fragment goes to the kernel when it is whole
                },
            )
            self._stream = self._container.add_stream(codec.encoder, rate=fps)
            _set_up(self._stream, height, width, config, codec)
            self._stream.codec_context.time_base = Fraction(1, fps)
            # The header is written with the first frame: ending a file that has a header only crashes FFmpeg 8.1.
            self._descriptor = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_RDWR | os.O_CLOEXEC, 0o666)
        except (OSError, ValueError, av.FFmpegError) as error:
            raise EncoderError(f"cannot write {path}: {error}") from error
        self._changed = threading.Condition()
        self._waiting: deque[Image] = deque()
        self._added = 0
        self._encoded = 0
        self._written = 0
        self._failure: EncoderError | None = None
        self._ending = False
        self._thread = threading.Thread(target=self._run, name=f"encoder {path.stem}", daemon=True)
        self._thread.start()

    @property
    def backlog(self) -> int:
        """Frames added and not encoded yet."""
        return self._added - self._encoded

    @property
    def frames(self) -> int:
        """Frames encoded."""
        return self._encoded

    def add(self, image: Image) -> None:
        """Encode (H, W, 3) uint8 rgb, which must not change any more; waits, up to 2 s, while the backlog is full.

        Raises `EncoderError` if the encoder has failed or does not keep up, ValueError for an image of another kind.
        """
        if image.shape != self._shape or image.dtype != np.uint8:
            raise ValueError(f"{self._path.name} takes {self._shape} uint8 images, got {image.shape} {image.dtype}")
        with self._changed:
            if self._ending:
                raise EncoderError(f"{self._path.name} is closed")
            deadline = time.monotonic() + PATIENCE_S
            while self._failure is None and self._added - self._encoded >= self._max_backlog:
                left = deadline - time.monotonic()
                if left <= 0:
                    self._failure = EncoderError(
                        f"{self._path.name}: the encoder is {self.backlog} frames behind and has made no "
                        f"room in {PATIENCE_S:.0f} s; a faster preset or codec, a lower rate or smaller images help"
                    )
                else:
                    self._changed.wait(left)
            if self._failure is not None:
                raise self._failure
            self._waiting.append(image)
            self._added += 1
            self._changed.notify_all()

    def sync(self) -> None:
        """Have what is written so far on the disk, so that little is left to do at the end."""
        os.fdatasync(self._descriptor)

    def close(self) -> VideoInfo:
        """Encode what waits, make the file an ordinary mp4, and say what it holds; without a frame it stays empty.

        Raises `EncoderError` if a frame could not be encoded or written; the file then holds what could be.
        """
        self._end(drop=False)
        if self._failure is not None:
            raise self._failure
        if not self._added == self._encoded == self._written:
            raise EncoderError(f"{self._path.name}: {self._added} frames were added and {self._written} written")
        return replace(self._info, frames=self._written)

    def abort(self) -> None:
        """End without what waits, and delete the file."""
        self._end(drop=True)
        self._path.unlink(missing_ok=True)

    def _end(self, drop: bool) -> None:
        with self._changed:
            self._ending = True
            if drop:
                self._waiting.clear()
            self._changed.notify_all()
        self._thread.join()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    # On the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while (image := self._next()) is not None:
                self._write(self._frame(image))
                with self._changed:
                    self._encoded += 1
                    self._changed.notify_all()
            self._write(None)
        except Exception as error:  # whatever it is: told at the next `add`
            self._fail(error)
        finally:
            try:
                self._container.close()
            except Exception as error:
                self._fail(error)

    def _next(self) -> Image | None:
        with self._changed:
            while not self._waiting and not self._ending:
                self._changed.wait()
            return self._waiting.popleft() if self._waiting else None

    def _frame(self, image: Image) -> Any:
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts = self._encoded
        frame.time_base = Fraction(1, self._fps)
        return frame

    def _write(self, frame: Any) -> None:
        for packet in self._stream.encode(frame):
            self._container.mux(packet)
            self._written += 1

    def _fail(self, error: Exception) -> None:
        with self._changed:
            self._failure = self._failure or EncoderError(
                f"{self._path.name}: encoding failed after {self._encoded} frames: {error}"
            )
            self._waiting.clear()
            self._changed.notify_all()


def _set_up(target: Any, height: int, width: int, config: VideoConfig, codec: _Codec) -> None:
    """Size, pixels and rules of a stream or of a bare codec context; options that are unknown are errors."""
    context = getattr(target, "codec_context", target)
    context.width, context.height, context.pix_fmt = width, height, _PIXELS
    context.gop_size = config.gop
    context.max_b_frames = 0
    context.thread_count = 1  # cameras run side by side; within a frame threads cost more than they bring
    context.color_range = _LIMITED_RANGE
    context.colorspace = _BT601
    context.options = {**codec.options(config.crf, config.gop), "preset": config.preset or codec.preset}


@lru_cache
def _choose(height: int, width: int, fps: int, config: VideoConfig) -> str:
    """The codec of `config` that works here; raises EncoderError naming those that do."""
    reasons: dict[str, str] = {}
    for name in _AUTO if config.codec == "auto" else (config.codec,):
        codec = _CODECS[name]
        if config.crf > codec.worst_crf:
            raise EncoderError(f"crf of {name} is 0 to {codec.worst_crf}, got {config.crf}")
        try:
            return _tried(name, height, width, fps, config)
        except (OSError, ValueError, av.FFmpegError) as error:
            reasons[name] = str(error)
    working = []
    for name in _CODECS:
        with contextlib.suppress(OSError, ValueError, av.FFmpegError):
            working.append(_tried(name, height, width, fps, VideoConfig()))
    said = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    raise EncoderError(
        f"no {width} x {height} video by codec {config.codec!r} and preset {config.preset!r} here ({said}); those that "
        f"work: {', '.join(working) or 'none'}"
    )


def _tried(name: str, height: int, width: int, fps: int, config: VideoConfig) -> str:
    """`name`, if its encoder can be opened here; raises what it raises."""
    codec = _CODECS[name]
    if codec.encoder == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")  # errors only: the library writes to the terminal itself
    context = av.CodecContext.create(codec.encoder, "w")
    _set_up(context, height, width, config, codec)
    context.time_base = Fraction(1, fps)
    context.framerate = Fraction(fps)
    context.open()
    return name
