"""How episodes are recorded: rate, videos, what a missing frame does, and what an episode must be to be kept."""

from __future__ import annotations

from enum import Enum
from typing import Final, Literal

from pydantic import Field

from vla_ros.values import Config

LONGEST_TASK: Final = 1000  # characters


class VideoConfig(Config):
    """How a camera's frames are compressed. Every second frame is a key frame: training reads rows in random order."""

    codec: Literal["h264", "hevc", "libsvtav1", "h264_nvenc", "hevc_nvenc", "av1_nvenc", "auto"] = "h264"
    gop: int = Field(default=2, ge=1, le=300)  # frames from one key frame to the next
    crf: int = Field(default=23, ge=0, le=63)  # constant quality; lower is better and larger
    # Of the encoder; "" = the fastest: a 640x480 frame costs one thread of h264 1.6 ms at its ultrafast, and 3.4 ms at
    # veryfast, whose files are a third smaller and about 1 dB worse.
    preset: str = ""
    max_backlog: int = Field(default=60, ge=2, le=1000)  # frames that may wait for the encoder


class GapRule(str, Enum):
    """What happens where a camera (or the joints) has nothing near an instant."""

    REPEAT = "repeat"  # the last frame again, marked in `timing.repeated`
    REJECT = "reject"  # the episode is not kept


class ActionSource(str, Enum):
    """What is the label of a frame."""

    SENT = "sent"  # the command that the driver got, after every limit
    REQUESTED = "requested"  # what the policy or the person asked for, before the limits


class HealthConfig(Config):
    """What an episode must be to be saved without a person's word."""

    min_frames: int = Field(default=10, ge=1)
    max_repeated: float = Field(default=0.02, ge=0.0, le=1.0)  # share of rows in which any source is repeated
    max_repeated_in_a_row: int = Field(default=5, ge=0)
    max_skew_ms: float = Field(default=50.0, gt=0.0)  # largest distance between two cameras' capture times
    min_disk_free_mb: float = Field(default=500.0, ge=0.0)
    # An episode shows nothing in which no joint and no finger went further from where it began; 0: that may be.
    min_motion_rad: float = Field(default=0.005, ge=0.0)
    min_motion_m: float = Field(default=0.001, ge=0.0)


class RecordingConfig(Config):
    """One row every 1/fps seconds of capture time, beginning at an instant that every stream can answer."""

    fps: int = Field(default=30, ge=1, le=240)
    settle_ms: float = Field(default=300.0, ge=0.0, le=5000.0)  # what has not come so long after an instant is missing
    gaps: GapRule = GapRule.REPEAT
    pause_ends_episode: bool = False  # resume saves what was before the pause, and begins the next episode
    action: ActionSource = ActionSource.SENT
    video: VideoConfig = VideoConfig()
    health: HealthConfig = HealthConfig()
