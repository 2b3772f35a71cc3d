"""Evaluation in closed loop: who succeeds and who must not, the same episodes for all, delays, films, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_up_vla
from pydantic import ValidationError

from vla_ros.control.arm import ArmConfig
from vla_ros.policies import registry
from vla_ros.policies.policy import Inference, Policy, WindowSpec
from vla_ros.policies.up_vla import UpVlaPolicy
from vla_ros.recording.video import VideoReader
from vla_ros.robots.panda import PANDA
from vla_ros.rollout.controls import Control
from vla_ros.rollout.evaluating import EvaluationConfig, Evaluator, Outcome, Setup, delay_ms_of
from vla_ros.rollout.filming import write_video
from vla_ros.rollout.loop import RolloutConfig
from vla_ros.simulation.world import DEFAULT_CAMERAS, TabletopConfig
from vla_ros.values import Committed, ModelChunk, Window
from vla_ros.viewing.evaluation import Film

SIZE = {"width": tiny_up_vla.WIDTH, "height": tiny_up_vla.HEIGHT}
CAMERAS = {name: camera.model_copy(update=SIZE) for name, camera in DEFAULT_CAMERAS.items()}


def setup(episode_s: float = 5.0) -> Setup:
    return Setup(PANDA, TabletopConfig(cameras=CAMERAS), ArmConfig(), RolloutConfig(episode_s=episode_s))


def expert() -> Policy:
    return registry.load("scripted", robot=PANDA)


class Seeing:
    """The expert, but it moves only while it sees something."""

    window_spec = WindowSpec(cameras=("front",), proprioception=("joints", "world"))

    def __init__(self) -> None:
        self._expert = expert()
        self.action_spec = self._expert.action_spec

    def reset(self, instruction: str) -> None:
        self._expert.reset(instruction)

    def infer(self, window: Window, committed: Committed) -> Inference:
        given = self._expert.infer(window, committed)
        if np.ptp(window[-1].images["front"]) > 0:
            return given
        here = window[-1].proprioception["world"][:8]  # pose and width
        return Inference(ModelChunk(given.chunk.observation_ns, np.tile(here, (len(given.chunk.actions), 1))))


def run(
    policy: Policy, config: EvaluationConfig, episode_s: float = 5.0
) -> tuple[Evaluator, list[Outcome], list[Film]]:
    with Evaluator(setup(episode_s), "tried", policy, config) as evaluator:
        found = list(evaluator.episodes())
    return evaluator, [outcome for outcome, _ in found], [film for _, film in found if film is not None]


def test_an_expert_succeeds_and_some_of_it_is_filmed(tmp_path: Path) -> None:
    evaluator, outcomes, films = run(expert(), EvaluationConfig(episodes=2, films=1))
    assert [outcome.row.seed for outcome in outcomes] == [1000, 1001]
    assert all(outcome.row.success for outcome in outcomes)
    assert [film.seed for film in films] == [1000], "one success was asked for"
    (film,) = films
    assert set(film.seen) == set(CAMERAS)
    assert len(film.times_ns) == pytest.approx(10.0 * outcomes[0].row.duration_s, abs=1.5)
    assert not film.expected
    evaluator.evaluation.write(tmp_path / "new" / "report.json")
    said = json.loads((tmp_path / "new" / "report.json").read_text())
    assert said["success"] == {"successes": 2, "of": 2, "rate": 1.0, "interval_95": [0.3424, 1.0]}
    assert said["injected_delay_ms"] % 10.0 == 0.0, "chunks arrive at ticks"
    assert said["injected_delay_ms"] == said["latency_ms"]["p50"]
    assert said["config"]["seed"] == 1000
    assert [row["instruction"] for row in said["rows"]] == [outcome.row.instruction for outcome in outcomes]
    assert sum(rate["of"] for rate in said["tasks"].values()) == 2


def test_a_policy_told_another_colour_fails_at_what_counts_and_does_what_it_was_told() -> None:
    config = EvaluationConfig(episodes=1, films=1, control=Control.WRONG_INSTRUCTION, tasks=("lift the red cube",))
    evaluator, (outcome,), (film,) = run(expert(), config)
    assert (outcome.row.instruction, outcome.asked) == ("lift the red cube", "lift the green cube")
    assert (outcome.row.success, outcome.asked_success) == (False, True)
    evaluation = evaluator.evaluation
    assert evaluation.asked_rate is not None
    assert (evaluation.rate.successes, evaluation.asked_rate.successes) == (0, 1)
    assert evaluation.as_dict()["rows"][0]["asked"] == film.asked == "lift the green cube"


def test_a_policy_that_needs_to_see_fails_with_blanked_images() -> None:
    config = EvaluationConfig(episodes=1, films=0, inference_delay_ms=50.0)
    _, (seeing,), _ = run(Seeing(), config)
    assert seeing.row.success
    blind = config.model_copy(update={"control": Control.BLANK_IMAGE})
    evaluator, (outcome,), films = run(Seeing(), blind, episode_s=1.0 + seeing.row.duration_s)
    assert (outcome.row.success, outcome.row.ended) == (False, "time limit")
    assert evaluator.evaluation.asked_rate is None
    assert not films


def test_every_policy_gets_the_same_episodes() -> None:
    config = EvaluationConfig(episodes=3, films=3, tasks=("lift", "stack"), inference_delay_ms=100.0)
    (_, first, begun), (_, second, begun_by_another) = (run(p, config, episode_s=0.2) for p in (expert(), Seeing()))
    assert [one.row.instruction for one in first] == [one.row.instruction for one in second]
    assert len({one.row.instruction for one in first}) > 1
    for film, other in zip(begun, begun_by_another, strict=True):
        np.testing.assert_array_equal(film.seen["front"][0][1], other.seen["front"][0][1])
    assert np.abs(begun[0].seen["front"][0][1].astype(int) - begun[1].seen["front"][0][1]).max() > 50


def test_a_delay_stands_for_three_of_four_at_a_whole_tick() -> None:
    assert (
        delay_ms_of([0.101] * 6 + [0.2] * 2, 10.0) == 130.0
    )  # between the sixth and the seventh, a quarter of the way
    assert delay_ms_of([0.101] * 7 + [3.0] * 2, 10.0) == 110.0
    assert delay_ms_of([0.1], 10.0) == 100.0
    assert delay_ms_of([0.1001], 10.0) == 110.0
    assert delay_ms_of([0.001], 8.0) == 8.0


def test_a_delay_is_found_where_frames_are_rarer_than_a_policy_may_be_asked() -> None:
    rollout = RolloutConfig(inference_hz=100.0, camera_hz=15.0, episode_s=0.1)
    rare = Setup(PANDA, TabletopConfig(cameras=CAMERAS), ArmConfig(), rollout)
    with Evaluator(rare, "tried", Seeing(), EvaluationConfig(episodes=1, films=0)) as evaluator:
        assert evaluator.delay_ms > 0.0


def test_a_given_delay_is_the_one_that_chunks_have() -> None:
    config = EvaluationConfig(episodes=1, films=0, inference_delay_ms=130.0)
    evaluator, _, _ = run(expert(), config, episode_s=1.0)
    assert evaluator.evaluation.delay_ms == evaluator.evaluation.report.latency_ms.p50 == 130.0


def test_what_a_model_expected_is_filmed_beside_what_was_seen(tmp_path: Path) -> None:
    policy = UpVlaPolicy(tiny_up_vla.bundle(), PANDA)
    config = EvaluationConfig(episodes=1, films=1, tasks=("lift the red cube",), inference_delay_ms=100.0)
    _, (outcome,), (film,) = run(policy, config, episode_s=1.6)
    assert not outcome.row.success, "random weights lift nothing"
    assert film.predicted_cameras == ("front",)
    assert {one.ahead_s for one in film.expected} == {1.0}
    assert film.expected_at("front", film.times_ns[0]) is None, "nothing was predicted for the first second"
    last_ns = film.times_ns[-1]
    expected = film.expected_at("front", last_ns)
    assert expected is not None
    # The very frame that the policy gives for what it saw a second before.
    assert abs(expected.observed_ns - (last_ns - 1_000_000_000)) <= 150_000_000
    path = write_video(film, config.film_hz, tmp_path / "new" / "film.mp4")
    reader = VideoReader(path)
    frames = reader.frames(range(len(film.times_ns) + 10))  # the last one stays for a second
    reader.close()
    height, width = tiny_up_vla.HEIGHT, tiny_up_vla.WIDTH
    assert frames.shape[2] == 2 * width + height, "both cameras, and the square that was predicted"
    shown = frames[len(film.times_ns) - 1, -height:].astype(int)
    assert np.abs(shown[:, :width] - film.seen_at("front", last_ns)).mean() < 8.0, "as far as a video keeps it"
    assert np.ptp(shown[:, width : width + height]) > 50
    assert np.ptp(frames[0, -height:, width : width + height]) < 16, "nothing was predicted for the first second"


def test_what_cannot_be_evaluated_is_refused_before_anything_moves() -> None:
    tiny = UpVlaPolicy(tiny_up_vla.bundle(), PANDA)
    with pytest.raises(ValueError, match="does not know green"):
        Evaluator(setup(), "tried", tiny, EvaluationConfig(tasks=("lift the green cube",)))
    one = replace(setup(), world=TabletopConfig(cameras={"front": CAMERAS["front"]}))
    with pytest.raises(ValueError, match="wrist"):
        Evaluator(one, "tried", tiny, EvaluationConfig(tasks=("lift the red cube",)))
    blind = replace(setup(), world=TabletopConfig(cameras={"wrist": CAMERAS["wrist"]}))
    with pytest.raises(ValueError, match="the policy looks at front; the system's cameras are wrist"):
        Evaluator(blind, "tried", Seeing(), EvaluationConfig())
    with pytest.raises(ValidationError, match="no tabletop task: 'sing'"):
        EvaluationConfig(tasks=("sing",))


@pytest.mark.full
def test_an_expert_succeeds_in_nearly_all_of_many() -> None:
    evaluator, _, _ = run(expert(), EvaluationConfig(episodes=100, films=0), episode_s=20.0)
    assert evaluator.evaluation.rate.interval[1] >= 0.99
    assert evaluator.evaluation.rate.successes >= 98
