"""Steady offsets of actions and of cameras are found with their size, and nothing where there is none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.recording.config import RecordingConfig
from vla_ros.recording.features import ACTION, STAMP, STATE, Feature, Features, Row
from vla_ros.recording.lerobot_v3 import DatasetWriter, EpisodeDetails
from vla_ros.recording.upkeep.checking import check
from vla_ros.recording.upkeep.findings import Kind

FPS, ROWS, EPISODES = 20, 60, 3
JOINTS = ("base", "elbow", "wrist", "gripper")
CAMERAS = ("front", "wrist_camera")
FEATURES = Features(
    FPS,
    "arm",
    (
        Feature(STATE, "float32", (4,), JOINTS),
        Feature(ACTION, "float32", (3,), ("elbow", "gripper", "base")),  # as the state's, but in another order
        Feature(STAMP, "float64", (2,), CAMERAS),
    ),
)


def swung(joint: str, at_s: float, episode: int) -> float:
    place = JOINTS.index(joint)
    return float((0.4 + 0.1 * place) * np.sin((1.2 + 0.3 * place) * at_s + episode))


def record(
    root: Path,
    *,
    off: Mapping[str, float] = {},
    early_s: Mapping[str, float] = {},
    delay_s: float = 0.15,
    scale: float = 1.0,
    follows: float = 1.0,
    only: int | None = None,
    pause_s: float = 0.0,
) -> Path:
    """A leader swings each joint, the follower is there `delay_s` later; `off` [rad] and `early_s` are what is wrong.

    `scale` of all angles; `follows`: how much of the motion the follower makes; `only`: the episode that is wrong.
    """
    with DatasetWriter(root, FEATURES, RecordingConfig(fps=FPS)) as writer:
        for episode in range(EPISODES):
            wrong = only in (None, episode)
            writer.begin("swing")
            for row in range(ROWS):
                due_s, now_s = row / FPS, row / FPS + pause_s * (row >= ROWS // 2)
                state = [scale * follows * swung(joint, due_s - delay_s, episode) for joint in JOINTS]
                action = [
                    scale * swung(joint, due_s, episode) + wrong * off.get(joint, 0.0)
                    for joint in FEATURES.find(ACTION).names or ()
                ]
                jitter_s = 0.004 * np.sin(7.0 * row)
                stamps = [now_s + jitter_s - wrong * early_s.get(camera, 0.0) for camera in CAMERAS]
                writer.add(Row(row, {}, {STATE: np.array(state), ACTION: np.array(action), STAMP: np.array(stamps)}))
            writer.save(EpisodeDetails("swing"))
    return root


def offsets(root: Path) -> list[str]:
    findings = check(root)
    assert {one.kind for one in findings} <= {Kind.OFFSET}, [str(one) for one in findings]
    assert all(one.severity.value == "warning" and one.remedy for one in findings)
    return [one.what for one in findings]


def test_an_action_that_leads_its_state_is_no_offset(tmp_path: Path) -> None:
    assert offsets(record(tmp_path / "prompt", delay_s=0.0)) == []
    assert offsets(record(tmp_path / "usual")) == []
    assert offsets(record(tmp_path / "late", delay_s=0.4)) == []
    assert offsets(record(tmp_path / "small", off={"elbow": 0.03})) == []


@pytest.mark.parametrize("joint", ["base", "elbow"])
def test_a_leader_that_stood_17_degrees_off_is_found(joint: str, tmp_path: Path) -> None:
    (said,) = offsets(record(tmp_path / "set", off={joint: np.radians(17.0)}, delay_s=0.15))
    assert said.startswith(f"action of {joint} is +0.297 rad (+17.0 degrees) off observation.state")
    assert said.endswith("in episodes 0-2")


def test_the_episode_is_named_in_which_it_was_so(tmp_path: Path) -> None:
    (said,) = offsets(record(tmp_path / "set", off={"elbow": -0.2}, only=1))
    assert "action of elbow is -0.200 rad" in said and said.endswith("in episodes 1")


def test_angles_in_degrees_are_known_by_their_size(tmp_path: Path) -> None:
    (said,) = offsets(record(tmp_path / "set", off={"base": 17.0}, scale=np.degrees(1.0)))
    assert "action of base is +0.297 rad (+17.0 degrees)" in said and said.endswith("if its values are degrees")
    assert offsets(record(tmp_path / "none", off={"base": 2.0}, scale=np.degrees(1.0))) == []


def test_what_is_no_followed_angle_has_no_offset(tmp_path: Path) -> None:
    assert offsets(record(tmp_path / "gripper", off={"gripper": 0.3})) == []  # it holds something
    assert offsets(record(tmp_path / "steps", off={"base": 0.3}, follows=0.0)) == []
    assert offsets(record(tmp_path / "against", off={"base": 0.3}, follows=-1.0)) == []


@settings(max_examples=settings().max_examples // 5)  # each records a dataset
@given(size=st.floats(0.1, 3.0), sign=st.sampled_from([-1, 1]), delay=st.integers(0, 8))
def test_an_offset_is_found_with_its_size(
    size: float, sign: int, delay: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = record(tmp_path_factory.mktemp("offset") / "set", off={"elbow": sign * size}, delay_s=delay / FPS)
    (said,) = offsets(root)
    assert abs(float(said.split()[4]) - sign * size) < 0.01


@pytest.mark.parametrize("early_ms", [120, -80])
def test_a_camera_of_another_clock_is_found(early_ms: int, tmp_path: Path) -> None:
    (said,) = offsets(record(tmp_path / "set", early_s={"front": early_ms / 1000}))
    order = "before" if early_ms > 0 else "after"
    assert said.startswith(f"frames of front were taken {abs(early_ms)} ms {order} the instants of their rows")
    assert said.endswith("episodes 0-2")


def test_a_frame_near_its_row_and_a_pause_are_no_clock_offset(tmp_path: Path) -> None:
    assert offsets(record(tmp_path / "near", early_s={"front": 0.03})) == []
    assert offsets(record(tmp_path / "pause", pause_s=5.0)) == []
    trimmed = dict.fromkeys(CAMERAS, -5.0)  # what `convert --trim-static` leaves of a pause at the head
    assert offsets(record(tmp_path / "trimmed", early_s=trimmed)) == []
    (said,) = offsets(record(tmp_path / "both", early_s={**trimmed, "front": -5.2}))
    assert said.startswith("frames of front were taken 200 ms after")
