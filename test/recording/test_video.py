"""Videos: frames carry their number as a picture, so that no frame can stand for another."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

av = pytest.importorskip("av")

from vla_ros.recording import video
from vla_ros.recording.config import VideoConfig
from vla_ros.recording.files import DatasetError
from vla_ros.recording.video import EncoderError, VideoEncoder, VideoReader, concatenate, cut, probe
from vla_ros.recording.video_reader import Decoders

FULL = os.environ.get("VLA_ROS_FULL") == "1"
REFERENCE = Path(__file__).parents[1] / "reference"
HEIGHT, WIDTH, BLOCK, BITS = 64, 96, 16, 12

#: The same in a process of its own, to be killed or to be given little disk.
CHILD = """
    import sys, resource
    from pathlib import Path
    import numpy as np
    from vla_ros.recording.config import VideoConfig
    from vla_ros.recording.video import VideoEncoder
    def picture(number):
        bits = np.array([number >> bit & 1 for bit in range(12)], np.uint8).reshape(2, 6) * 200 + 28
        image = np.kron(bits, np.ones((16, 16), np.uint8))
        return np.stack([np.pad(image, ((0, 32), (0, 0)), constant_values=90)] * 3, axis=-1)
"""


def picture(number: int) -> Any:
    """(64, 96, 3): twelve black or white blocks, the binary digits of the number."""
    bits = np.array([number >> bit & 1 for bit in range(BITS)], np.uint8).reshape(2, 6) * 200 + 28
    image = np.kron(bits, np.ones((BLOCK, BLOCK), np.uint8))
    return np.stack([np.pad(image, ((0, 32), (0, 0)), constant_values=90)] * 3, axis=-1)


def number_in(image: Any) -> int:
    """What `picture` was given."""
    blocks = image[: 2 * BLOCK, :, 1].reshape(2, BLOCK, 6, BLOCK).mean((1, 3)).ravel()
    assert np.all(np.abs(blocks - 128) > 60), "blocks are black or white"
    return sum(1 << bit for bit, value in enumerate(blocks) if value > 128)


def encode(path: Path, numbers: Any, fps: int = 30, **config: Any) -> video.VideoInfo:
    encoder = VideoEncoder(path, HEIGHT, WIDTH, fps, VideoConfig(**config))
    for number in numbers:
        encoder.add(picture(number))
    return encoder.close()


def numbers_in(path: Path) -> list[int]:
    """By plain decoding, from the beginning to the end."""
    with av.open(str(path)) as container:
        return [number_in(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def times_in(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [packet.pts * stream.time_base for packet in container.demux(stream) if packet.pts is not None]


def boxes_in(path: Path) -> list[str]:
    """Names of the mp4's outermost boxes."""
    data, names, at = path.read_bytes(), [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        names.append(data[at + 4 : at + 8].decode())
        at += size if size > 1 else int.from_bytes(data[at + 8 : at + 16], "big")
    assert at == len(data)
    return names


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """name -> a video of frames 0, 1, 2, ..."""
    folder = tmp_path_factory.mktemp("videos")
    kinds: dict[str, dict[str, Any]] = {
        "pairs": {},
        "long": {"gop": 25, "preset": "veryfast"},
        "every": {"gop": 1},
        "av1": {"codec": "libsvtav1"},
        "hevc": {"codec": "hevc"},
    }
    paths = {name: folder / f"{name}.mp4" for name in kinds}
    for name, config in kinds.items():
        encode(paths[name], range(60), **config)
    return paths


@pytest.mark.parametrize("fps", [15, 24, 30, 50, 60])
def test_frame_k_is_shown_at_k_over_fps(tmp_path: Path, fps: int) -> None:
    info = encode(tmp_path / "a.mp4", range(2 * fps + 1), fps=fps)
    assert info == video.VideoInfo(2 * fps + 1, "h264", "yuv420p", HEIGHT, WIDTH, fps, 2, 23, "ultrafast")
    assert times_in(tmp_path / "a.mp4") == [Fraction(k, fps) for k in range(2 * fps + 1)]
    assert numbers_in(tmp_path / "a.mp4") == list(range(2 * fps + 1))
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.frames == 2 * fps + 1 and stream.average_rate == fps and stream.start_time == 0
        assert stream.duration * stream.time_base == Fraction(2 * fps + 1, fps)


def test_a_closed_file_is_an_ordinary_mp4(files: dict[str, Path]) -> None:
    assert boxes_in(files["pairs"]) == ["ftyp", "free", "mdat", "moov"]


@pytest.mark.parametrize(("name", "gop"), [("pairs", 2), ("long", 25), ("every", 1), ("av1", 2), ("hevc", 2)])
def test_key_frames_are_where_they_are_asked_for_and_nothing_is_reordered(
    files: dict[str, Path], name: str, gop: int
) -> None:
    with av.open(str(files[name])) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.pts is not None]
        assert stream.codec_context.color_range == 1, "limited"
        assert [packet.pts for packet in packets] == [packet.dts for packet in packets]
        assert [k for k, packet in enumerate(packets) if packet.is_keyframe] == list(range(0, 60, gop))
    info = probe(files[name], decode=True)
    assert (info.frames, info.gop, info.pix_fmt) == (60, gop, "yuv420p")


def test_colours_come_back(tmp_path: Path) -> None:
    colours = np.array([[255, 255, 255], [0, 0, 0], [220, 20, 30], [30, 200, 40], [20, 40, 230], [128, 128, 128]])
    image = np.kron(colours.reshape(2, 3, 3), np.ones((32, 32, 1), int)).astype(np.uint8)
    encoder = VideoEncoder(tmp_path / "a.mp4", *image.shape[:2], 30, VideoConfig(crf=10))
    encoder.add(image)
    encoder.close()
    (decoded,) = VideoReader(tmp_path / "a.mp4").frames([0])
    assert np.abs(decoded[16::32, 16::32].astype(int) - image[16::32, 16::32]).max() <= 4


class Short:
    """The same file as a short video, read as a `VideoReader` is."""

    decoders = Decoders()  # shared, as a dataset's videos share them

    def __init__(self, path: Path) -> None:
        opened = VideoReader(path)
        video = opened.short()
        opened.close()
        assert video is not None
        self.video = video

    def frames(self, indices: list[int]) -> Any:
        return self.decoders.frames(self.video, indices)

    def close(self) -> None:
        pass


READERS = pytest.mark.parametrize("read", [VideoReader, Short], ids=["open", "short"])


@READERS
@given(
    indices=st.lists(st.integers(0, 59), max_size=8),
    more=st.lists(st.integers(0, 59), max_size=4),
    name=st.sampled_from(["pairs", "long", "every", "av1", "hevc"]),
)
def test_any_frames_in_any_order(
    files: dict[str, Path], read: Any, indices: list[int], more: list[int], name: str
) -> None:
    reader = read(files[name])
    for wanted in (indices, more):  # the second begins where the first has left the decoder
        images = reader.frames(wanted)
        assert images.shape == (len(wanted), HEIGHT, WIDTH, 3) and images.dtype == np.uint8
        assert [number_in(image) for image in images] == wanted
    reader.close()


@READERS
@pytest.mark.parametrize("version", ["0.4.4", "0.6.1"])
def test_lerobots_own_videos_frame_for_frame(version: str, read: Any) -> None:
    (path,) = (REFERENCE / f"lerobot-{version}").rglob("*.mp4")
    with av.open(str(path)) as container:
        plain = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    reader = read(path)
    order = random.Random(0).sample(range(len(plain)), len(plain))
    assert all((image == plain[index]).all() for index, image in zip(order, reader.frames(order), strict=True))
    assert all((reader.frames([index])[0] == plain[index]).all() for index in order)
    assert probe(path).codec == "av1"


@READERS
def test_a_video_with_reordered_frames(tmp_path: Path, read: Any) -> None:
    path, count = tmp_path / "a.mp4", 100
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"x264-params": "keyint=12:bframes=3:b-adapt=0"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert probe(path).frames == count
    reader = read(path)
    order = random.Random(0).sample(range(count), count)
    assert [number_in(image) for image in reader.frames(order)] == order
    assert [number_in(reader.frames([index])[0]) for index in order] == order
    concatenate([path, path], tmp_path / "b.mp4")
    assert numbers_in(tmp_path / "b.mp4") == [*range(count), *range(count)]
    assert sorted(times_in(tmp_path / "b.mp4")) == [Fraction(k, 25) for k in range(2 * count)]


def test_videos_that_share_a_decoder_do_not_mix(files: dict[str, Path], tmp_path: Path) -> None:
    encode(tmp_path / "other.mp4", range(100, 160))
    one, other = Short(files["pairs"]), Short(tmp_path / "other.mp4")
    assert one.video.coding == other.video.coding
    for index in random.Random(1).sample(range(60), 60):
        assert number_in(one.frames([index])[0]) == index
        assert number_in(other.frames([index])[0]) == 100 + index


def test_a_short_video_that_changes_is_refused(tmp_path: Path) -> None:
    encode(tmp_path / "a.mp4", range(60))
    short = Short(tmp_path / "a.mp4")
    os.truncate(tmp_path / "a.mp4", 2000)
    with pytest.raises(DatasetError, match=r"a\.mp4 has no readable frame 59: the file was shortened"):
        short.frames([59])


def test_a_large_video_is_not_a_short_one(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vla_ros.recording.video_reader._LARGEST_SHORT_BYTES", files["pairs"].stat().st_size - 1)
    reader = VideoReader(files["pairs"])
    assert reader.short() is None
    assert number_in(reader.frames([7])[0]) == 7


@READERS
@pytest.mark.parametrize("index", [60, 1000, -1])
def test_a_frame_that_is_not_there(files: dict[str, Path], index: int, read: Any) -> None:
    reader = read(files["pairs"])
    with pytest.raises(DatasetError, match=re.escape(f"frame {index}")):
        reader.frames([3, index])
    assert number_in(reader.frames([59])[0]) == 59, "the reader goes on"


@pytest.mark.parametrize("name", ["pairs", "long", "av1", "hevc"])
def test_parts_and_wholes_are_copies(files: dict[str, Path], tmp_path: Path, name: str) -> None:
    part, whole = tmp_path / "part.mp4", tmp_path / "whole.mp4"
    cut(files[name], part, 33)
    assert numbers_in(part) == list(range(33)) and times_in(part) == [Fraction(k, 30) for k in range(33)]
    concatenate([part, files[name], part], whole)
    assert numbers_in(whole) == [*range(33), *range(60), *range(33)]
    assert times_in(whole) == [Fraction(k, 30) for k in range(126)]
    reader, source = VideoReader(whole), VideoReader(files[name])
    assert (reader.frames(range(33, 93)) == source.frames(range(60))).all()
    assert boxes_in(whole).count("moov") == 1 and probe(whole).frames == 126


def test_what_cannot_be_copied_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    destination = tmp_path / "no.mp4"
    with pytest.raises(DatasetError, match="has 60 whole frames, and not 61"):
        cut(files["pairs"], destination, 61)
    with pytest.raises(DatasetError, match="at least one frame"):
        cut(files["pairs"], destination, 0)
    with pytest.raises(DatasetError, match="they are h264 yuv420p 96 x 64 30 Hz, it is av1"):
        concatenate([files["pairs"], files["av1"]], destination)
    with pytest.raises(DatasetError, match="other parameters of the codec"):
        concatenate([files["pairs"], files["long"]], destination)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(DatasetError, match=r"text\.mp4 cannot be read as a video"):
        probe(tmp_path / "text.mp4")
    assert not destination.exists()


def test_frames_at_other_times_are_found_out(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"tune": "zerolatency"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in (0, 1, 3):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(DatasetError, match=r"not at|no multiple"):
        probe(path)


def child(tmp_path: Path, code: str) -> subprocess.Popen[str]:
    script = textwrap.dedent(CHILD) + textwrap.dedent(code)
    return subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "a.mp4")], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("seed", range(30 if FULL else 3))
def test_a_killed_process_loses_a_quarter_of_a_second(tmp_path: Path, seed: int) -> None:
    process = child(
        tmp_path,
        """
        encoder = VideoEncoder(Path(sys.argv[1]), 64, 96, 50, VideoConfig(max_backlog=2))
        for number in range(4000):
            encoder.add(picture(number))
            print(encoder.frames, flush=True)
        """,
    )
    assert process.stdout is not None
    encoded, enough = 0, random.Random(seed).randint(20, 800)
    while encoded < enough:
        encoded = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.wait()
    encoded = int([encoded, *process.stdout.read().split("\n")[:-1]][-1])
    path, saved = tmp_path / "a.mp4", tmp_path / "saved.mp4"
    frames = probe(path, decode=True).frames
    assert frames >= encoded - video.FRAGMENT_S * 50 - 2
    assert numbers_in(path)[:frames] == list(range(frames))
    cut(path, saved, frames)
    assert numbers_in(saved) == list(range(frames)) and boxes_in(saved).count("moov") == 1
    assert times_in(saved) == [Fraction(k, 50) for k in range(frames)]


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of an encoder that has not been closed: frames 0, 1, 2, ... at 50 Hz."""
    path = tmp_path_factory.mktemp("unfinished") / "a.mp4"
    encoder = VideoEncoder(path, HEIGHT, WIDTH, 50, VideoConfig())
    for number in range(60):
        encoder.add(picture(number))
    while encoder.backlog:
        encoder.sync()
    content = path.read_bytes()
    encoder.abort()
    assert not path.exists()
    return content


@given(share=st.floats(0.3, 1.0), zeros=st.sampled_from([0, 0, 50, 5000]))
def test_of_a_file_that_breaks_off_the_whole_frames_are_kept(
    tmp_path_factory: pytest.TempPathFactory, unfinished: bytes, share: float, zeros: int
) -> None:
    folder = tmp_path_factory.mktemp("broken")
    broken, saved = folder / "broken.mp4", folder / "saved.mp4"
    kept = unfinished[: int(share * len(unfinished))]
    whole = kept.count(b"moof")  # the fragment before each is whole; 12 or 13 frames are in each
    assume(whole)
    broken.write_bytes(kept + bytes(zeros))  # a power cut may leave zeros
    frames = probe(broken, decode=True).frames
    assert 12 * whole <= frames <= 13 * (whole + 1)
    cut(broken, saved, frames)
    assert numbers_in(saved) == list(range(frames))


def test_a_full_disk_is_told_at_the_next_frame_and_at_the_end(tmp_path: Path) -> None:
    process = child(
        tmp_path,
        """
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
        noise = np.random.default_rng(0)
        encoder = VideoEncoder(Path(sys.argv[1]), 64, 96, 50, VideoConfig())
        try:
            for number in range(3000):
                encoder.add(noise.integers(0, 255, (64, 96, 3), dtype=np.uint8))
            print("nothing said")
        except Exception as error:
            print(type(error).__name__, error)
        try:
            encoder.close()
            print("nothing said")
        except Exception as error:
            print(type(error).__name__, error)
        """,
    )
    said = process.communicate(timeout=60)[0].splitlines()
    assert len(said) == 2 and said[0] == said[1]
    assert re.match(r"EncoderError a\.mp4: encoding failed after \d+ frames: .*File too large", said[0])


def test_frames_wait_for_the_encoder_and_none_is_lost(tmp_path: Path) -> None:
    encoder = VideoEncoder(tmp_path / "a.mp4", HEIGHT, WIDTH, 30, VideoConfig(max_backlog=2, preset="slower"))
    for number in range(100):
        encoder.add(picture(number))
        assert encoder.backlog <= 2
    assert encoder.close().frames == encoder.frames == 100
    assert numbers_in(tmp_path / "a.mp4") == list(range(100))
    with pytest.raises(EncoderError, match="closed"):
        encoder.add(picture(0))


def test_an_encoder_that_does_not_keep_up_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "PATIENCE_S", 0.01)
    goes_on = threading.Event()

    class Slow(VideoEncoder):
        def _write(self, frame: Any) -> None:
            goes_on.wait()
            super()._write(frame)

    encoder = Slow(tmp_path / "a.mp4", HEIGHT, WIDTH, 30, VideoConfig(max_backlog=2))
    encoder.add(picture(0))
    encoder.add(picture(1))
    with pytest.raises(EncoderError, match="2 frames behind"):
        encoder.add(picture(2))
    goes_on.set()
    with pytest.raises(EncoderError, match="2 frames behind"):
        encoder.close()


def test_what_cannot_be_encoded_is_refused(tmp_path: Path) -> None:
    def made(height: int = HEIGHT, width: int = WIDTH, folder: str = "", **config: Any) -> VideoEncoder:
        return VideoEncoder(tmp_path / folder / "a.mp4", height, width, 30, VideoConfig(**config))

    with pytest.raises(EncoderError, match=r"even sizes, got 63 x 97 .* to 62 x 96"):
        made(63, 97)
    with pytest.raises(EncoderError, match="crf of h264 is 0 to 51, got 60"):
        made(crf=60)
    with pytest.raises(EncoderError, match=r"preset 'nonsense' here .*; those that work: .*h264"):
        made(preset="nonsense")
    with pytest.raises(EncoderError, match=r"cannot write .*missing/a\.mp4"):
        made(folder="missing")
    encoder = made()
    for image in (np.zeros((HEIGHT, WIDTH), np.uint8), np.zeros((HEIGHT, WIDTH, 3), np.float32)):
        with pytest.raises(ValueError, match=r"takes \(64, 96, 3\) uint8 images"):
            encoder.add(image)  # type: ignore[arg-type]
    encoder.abort()
    assert threading.active_count() == 1 or not any("encoder" in thread.name for thread in threading.enumerate())


def test_an_encoder_without_frames_ends_as_well(tmp_path: Path) -> None:
    for end in (VideoEncoder.close, VideoEncoder.abort):
        end(VideoEncoder(tmp_path / "a.mp4", HEIGHT, WIDTH, 30, VideoConfig()))
    info = VideoEncoder(tmp_path / "a.mp4", HEIGHT, WIDTH, 30, VideoConfig()).close()
    assert info.frames == 0 and (tmp_path / "a.mp4").stat().st_size == 0


def test_auto_is_a_codec_that_works_here(tmp_path: Path) -> None:
    assert encode(tmp_path / "a.mp4", range(10), codec="auto").codec == "h264"
    assert numbers_in(tmp_path / "a.mp4") == list(range(10))


def test_damage_to_what_nobody_needs_costs_no_frame(files: dict[str, Path], tmp_path: Path) -> None:
    """The name of the program that wrote a file, and of the kind of file, are no text any more."""
    for name in (b"isom", b"Lavf"):
        content = files["pairs"].read_bytes()
        damaged = tmp_path / f"{name.decode()}.mp4"
        damaged.write_bytes(content.replace(name, bytes(255 - byte for byte in name), 1))
        assert probe(damaged, decode=True).frames == 60
        assert [number_in(image) for image in VideoReader(damaged).frames(range(60))] == list(range(60))
