"""What benchmarks/recorder.py has recorded, and LeRobot's writer fed with the same: needs numpy, and there LeRobot."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH = 480, 640
CAMERAS = ("camera_0", "camera_1", "camera_2")
TASK = "swing"
JOINTS = 8  # of the state that LeRobot is given: seven joints and a gripper
_BITS, _SQUARE = 16, WIDTH // 16
_PICTURES = 16  # different ones per camera
_SPEED_RAD_S = 5e-4


class Clock:
    """Frame numbers and the first joint's position at a time: both say it again in what was recorded."""

    def __init__(self, hz: float) -> None:
        self.period_ns = round(1e9 / hz)
        self.cycle_ns = self.period_ns << _BITS

    def number(self, time_ns: int) -> int:
        """Of the newest frame."""
        return time_ns // self.period_ns % (1 << _BITS)

    def joint(self, time_ns: int) -> float:
        """Position of the first joint [rad]: a ramp as long as the numbers."""
        return time_ns % self.cycle_ns * 1e-9 * _SPEED_RAD_S

    def lateness_ns(self, joints: NDArray[Any], numbers: NDArray[Any]) -> NDArray[np.float64]:
        """How much later than the frames of these numbers the joints were here, to about 0.3 ms."""
        apart = joints.astype(np.float64) / (_SPEED_RAD_S * 1e-9) - numbers.astype(np.float64) * self.period_ns
        return np.asarray((apart + self.cycle_ns / 2) % self.cycle_ns - self.cycle_ns / 2, dtype=np.float64)


class Pictures:
    """A pattern that moves, with the noise of a sensor, and a frame's number in squares along its upper edge."""

    def __init__(self, camera: int) -> None:
        random = np.random.default_rng(camera)
        y, x = np.mgrid[:HEIGHT, :WIDTH]
        self._pictures = []
        for turn in np.arange(_PICTURES) / _PICTURES:
            waves = [np.sin(2 * np.pi * (x / 160 + y / (80 + 40 * color) + turn)) for color in range(3)]
            clean = 128 + 80 * np.stack(waves, axis=-1)
            self._pictures.append(clean.astype(np.uint8) + random.integers(0, 11, clean.shape, dtype=np.uint8))

    def draw(self, number: int, into: NDArray[np.uint8]) -> None:
        """Frame `number`, into (H, W, 3) uint8."""
        np.copyto(into, self._pictures[number % _PICTURES])
        for bit in range(_BITS):
            into[:_SQUARE, bit * _SQUARE : (bit + 1) * _SQUARE] = 255 if number >> bit & 1 else 0


def read_number(image: NDArray[np.uint8]) -> int:
    """The number of a frame (H, W, 3), however it was compressed."""
    middle = image[_SQUARE // 2, _SQUARE // 2 :: _SQUARE].mean(axis=-1)
    return sum(1 << bit for bit in range(_BITS) if middle[bit] > 127)


def feed_lerobot(root: Path, hz: int, seconds: float, codec: str) -> dict[str, float]:
    """LeRobot's writer, encoding as it goes, in a loop as its own recorder's: newest frames, add, sleep to the next."""
    import lerobot
    from lerobot.configs.video import RGBEncoderConfig
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    names = [f"joint{index + 1}" for index in range(JOINTS)]
    vector = {"dtype": "float32", "shape": (JOINTS,), "names": names}
    video = {"dtype": "video", "shape": (HEIGHT, WIDTH, 3), "names": ["height", "width", "channels"]}
    dataset = LeRobotDataset.create(
        "vla_ros/benchmark",
        hz,
        {"observation.state": vector, "action": vector, **{f"observation.images.{name}": video for name in CAMERAS}},
        root=root,
        # h264 as we write it; else as it comes
        rgb_encoder=RGBEncoderConfig(vcodec="h264", preset="ultrafast", crf=23) if codec == "h264" else None,
        streaming_encoding=True,
    )
    clock, pictures = Clock(hz), [Pictures(index) for index in range(len(CAMERAS))]
    cpu_s = time.process_time()
    start_s = time.monotonic()
    rows = 0
    while (now_s := time.monotonic()) < start_s + seconds:
        time_ns = time.time_ns() // clock.period_ns * clock.period_ns
        images = {}
        for camera, drawn in zip(CAMERAS, pictures, strict=True):
            images[f"observation.images.{camera}"] = image = np.empty((HEIGHT, WIDTH, 3), dtype=np.uint8)
            drawn.draw(clock.number(time_ns), image)
        state = np.full(JOINTS, clock.joint(time_ns), dtype=np.float32)
        dataset.add_frame({"observation.state": state, "action": state, **images, "task": TASK})
        rows += 1
        time.sleep(max(0.0, now_s + 1.0 / hz - time.monotonic()))
    elapsed_s = time.monotonic() - start_s
    cpu_s = time.process_time() - cpu_s
    save_s = time.monotonic()
    dataset.save_episode()
    save_s = time.monotonic() - save_s
    dataset.finalize()
    return {
        "version": lerobot.__version__,
        "seconds": elapsed_s,
        "cpu_percent": 100.0 * cpu_s / elapsed_s,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "save_s": save_s,
    }


if __name__ == "__main__":
    given = sys.argv[1:]
    print(json.dumps(feed_lerobot(Path(given[0]), int(given[1]), float(given[2]), given[3])))
