"""Filming an episode in process: where everything stood is kept, and drawn only once somebody wants to look at it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vla_ros.policies.policy import Imagine, Inference
from vla_ros.recording.config import VideoConfig
from vla_ros.recording.video import VideoEncoder
from vla_ros.rollout.loop import Episode, Watcher
from vla_ros.simulation.world import Snapshot, World
from vla_ros.timing.stamps import period_ns
from vla_ros.values import Image, Prediction, Window
from vla_ros.viewing.evaluation import Expected, Film, pictures

#: How the last picture of a film stays.
_LINGERS_S = 1.0


class Filming(Watcher):
    """Keeps where everything stood, `rate_hz` times a second, and what the policy expected to see."""

    def __init__(self, cameras: Sequence[str], rate_hz: float) -> None:
        self.cameras = tuple(cameras)
        self._period_ns = period_ns(rate_hz)
        self._snapshots: dict[int, Snapshot] = {}
        self._imagined: list[tuple[int, tuple[Prediction, ...], Imagine | None]] = []

    def begin(self, episode: Episode) -> None:
        """Nothing is left of the last one."""
        self._snapshots.clear()
        self._imagined.clear()
        self._due_ns = episode.start_ns

    def look(self, camera: str, stamp_ns: int, world: World) -> None:
        """Keep where everything stands, where a picture of the film is due; costs next to nothing."""
        if camera == self.cameras[0] and stamp_ns >= self._due_ns:
            self._due_ns += self._period_ns
            self._snapshots[stamp_ns] = world.snapshot()

    def hear(self, window: Window, inference: Inference) -> None:
        """Keep how the policy draws what it expects."""
        self._imagined.append((window[-1].instant_ns, inference.predictions, inference.imagine))

    def film(self, world: World, episode: Episode, asked: str = "") -> Film:
        """Draw the episode that was watched last, with the frames that were expected."""
        seen: dict[str, list[tuple[int, Image]]] = {
            camera: [(at, world.render(camera, snapshot)) for at, snapshot in self._snapshots.items()]
            for camera in self.cameras
        }
        expected = tuple(
            Expected(observed_ns, prediction)
            for observed_ns, given, imagine in self._imagined
            for prediction in (given or (imagine() if imagine is not None else ()))
        )
        return Film(
            episode.seed, episode.instruction, episode.success, episode.ended, episode.start_ns, seen, expected, asked
        )


def write_video(film: Film, rate_hz: float, path: Path) -> Path:
    """Write the film into the mp4 `path`, at the speed of the world, and give the path back; makes its folder.

    Raises EncoderError where it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    encoder: VideoEncoder | None = None
    try:
        for picture in pictures(film):
            if encoder is None:
                height, width, _ = picture.shape
                encoder = VideoEncoder(path, height, width, round(rate_hz), VideoConfig(gop=round(rate_hz)))
            encoder.add(picture)
        assert encoder is not None  # a film has a frame
        for _ in range(round(_LINGERS_S * rate_hz)):
            encoder.add(picture)
        encoder.close()
    except BaseException:
        if encoder is not None:
            encoder.abort()
        raise
    return path
