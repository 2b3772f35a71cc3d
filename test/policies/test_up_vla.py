"""UP-VLA as a policy: what it sees, what it gives, what it thinks aside, and what it refuses before anything moves."""

from __future__ import annotations

import itertools
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import tiny_up_vla
from tiny_up_vla import HEIGHT, INSTRUCTIONS, PIXELS, STEP, WIDTH

from vla_ros.actions import ActionSpec, GripperConvention
from vla_ros.checkpoints import manifest as checkpoints
from vla_ros.checkpoints.manifest import Bundle
from vla_ros.checkpoints.requirements import MANIFEST, CameraInput, Normalization, words_of
from vla_ros.models.up_vla import action_sequence
from vla_ros.policies import registry
from vla_ros.policies.images import square
from vla_ros.policies.policy import Inference, PolicyError, Reflective, SeesCameras
from vla_ros.policies.up_vla import UpVlaPolicy
from vla_ros.robots.fr3 import FR3
from vla_ros.robots.panda import PANDA
from vla_ros.tokenizers.magvit2 import normalized
from vla_ros.values import Committed, Observation

SIZES = dict.fromkeys(("front", "wrist"), (WIDTH, HEIGHT))


def observation(seed: int = 0, **streams: Any) -> Observation:
    random = np.random.default_rng(seed)
    images = {name: random.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8) for name in SIZES}
    robot = {"joints": np.array(PANDA.home_rad), "gripper": np.array([0.04])}
    return Observation(7_000_000_000, images, {**robot, **streams})


def released() -> Bundle:
    """As the official code: one camera, no features, no proprioception."""
    told = tiny_up_vla.bundle().manifest
    model = told.model.model_copy(update={"conditioning": "released", "state_dims": 0})
    return tiny_up_vla.bundle(
        model=model,
        vision=None,
        cameras=(CameraInput(name="front", width=WIDTH, height=HEIGHT),),
        proprioception=(),
        state=None,
        action=told.action.model_copy(update={"gripper": GripperConvention.OPEN_SIGNED}),
    )


@pytest.fixture(scope="module", params=["paper", "released"])
def bundle(request: pytest.FixtureRequest) -> Bundle:
    return released() if request.param == "released" else tiny_up_vla.bundle()


@pytest.fixture(scope="module")
def paper() -> Bundle:
    return tiny_up_vla.bundle()


def infer(policy: UpVlaPolicy, seen: Observation | None = None) -> Inference:
    return policy.infer([seen or observation()], Committed())


def told(bundle: Bundle, instruction: str = INSTRUCTIONS[0]) -> UpVlaPolicy:
    policy = UpVlaPolicy(bundle, PANDA)
    policy.reset(instruction)
    return policy


def test_it_is_what_the_protocols_ask_for(bundle: Bundle) -> None:
    policy = UpVlaPolicy(bundle, PANDA)
    assert isinstance(policy, Reflective)
    assert isinstance(policy, SeesCameras)
    assert policy.action_spec == bundle.manifest.action


# --- what it sees ---


def test_it_sees_frames_instruction_and_proprioception_and_nothing_else(paper: Bundle) -> None:
    look = UpVlaPolicy(paper, PANDA).window_spec
    assert (look.cameras, look.proprioception, look.length) == (("front", "wrist"), ("joints", "gripper"), 1)
    actions = infer(told(paper)).chunk.actions
    # The world's state, the commands and a third camera are there to be looked at, and change nothing.
    more = observation(world=np.arange(29.0), commanded_joints=np.ones(7))
    more = Observation(more.instant_ns, {**more.images, "top": more.images["front"]}, more.proprioception)
    np.testing.assert_array_equal(infer(told(paper), more).chunk.actions, actions)
    # What it does see changes something, each by itself.
    front = Observation(7, {**observation().images, "front": observation(1).images["front"]}, more.proprioception)
    wrist = Observation(7, {**observation().images, "wrist": observation(1).images["wrist"]}, more.proprioception)
    for changed in (front, wrist, observation(joints=np.zeros(7)), observation(gripper=np.array([0.0]))):
        assert np.abs(infer(told(paper), changed).chunk.actions - actions).max() > 1e-8
    assert np.abs(infer(told(paper, INSTRUCTIONS[1])).chunk.actions - actions).max() > 1e-8


def test_it_needs_no_stream_and_one_camera_as_released() -> None:
    policy = told(released())
    assert (policy.window_spec.cameras, policy.window_spec.proprioception) == (("front",), ())
    seen = observation()
    alone = Observation(7, {"front": seen.images["front"]}, {})
    np.testing.assert_array_equal(infer(policy, alone).chunk.actions, infer(policy, seen).chunk.actions)


def by_hand(bundle: Bundle, seen: Observation, pad_to: int | None = None, description: str | None = None) -> Any:
    """Hidden states and sequence, from the parts of a bundle one by one."""
    model, text, state = bundle.model, bundle.text, bundle.manifest.state
    is_paper = bundle.manifest.model.conditioning == "paper"
    views = torch.stack([torch.from_numpy(square(seen.images[c.name], PIXELS)) for c in bundle.manifest.cameras])
    with torch.no_grad():
        codes = bundle.image_tokenizer.encode(normalized(views[:1]))
        described = text.encode(description or "")[: model.config.max_description]
        sequence = action_sequence(
            model.config, [text.encode(INSTRUCTIONS[0])], codes, [described] if is_paper else None, pad_to
        )
        if not is_paper:
            return model(sequence), sequence
        real = np.concatenate([seen.proprioception["joints"], seen.proprioception["gripper"]])
        scaled = torch.tensor((real - np.array(state.offset)) / np.array(state.scale), dtype=torch.float32)[None]
        return model(sequence, bundle.vision.encode(views[None]), scaled), sequence


@pytest.mark.parametrize("pads", [0, 1, 37])
def test_dropped_pads_change_nothing(bundle: Bundle, pads: int) -> None:
    """Training pads on the left; nobody attends to pads, and only differences of positions count."""
    given = infer(told(bundle)).chunk.actions
    _, sequence = by_hand(bundle, observation())
    hidden, padded = by_hand(bundle, observation(), pad_to=sequence.ids_BL.shape[1] + pads)
    assert (padded.ids_BL == bundle.model.config.vocabulary.pad).sum() == pads
    with torch.no_grad():
        raw = bundle.model.act(hidden, padded)[0].double().numpy()
    if bundle.manifest.model.conditioning == "paper":
        raw[:, -1] = 1.0 / (1.0 + np.exp(-raw[:, -1]))
    np.testing.assert_allclose(given, raw * ([STEP] * 6 + [1.0]), atol=2e-6)


# --- what it gives ---


def test_actions_are_in_the_datasets_units_and_the_gripper_is_a_probability(paper: Bundle) -> None:
    raw = infer(told(paper)).chunk
    assert raw.observation_ns == observation().instant_ns
    assert raw.actions.shape == (10, 7)
    assert ((raw.actions[:, -1] > 0.0) & (raw.actions[:, -1] < 1.0)).all()
    offset, scale = (0.1, -0.2, 0.3, 0.0, 0.0, 0.0, 0.0), (0.5,) * 6 + (1.0,)
    other = tiny_up_vla.bundle(normalization=Normalization(offset=offset, scale=scale))
    expected = raw.actions / ([STEP] * 6 + [1.0]) * scale + offset
    np.testing.assert_allclose(infer(told(other)).chunk.actions, expected, atol=1e-12)


def test_the_future_frame_is_of_the_likeliest_codes_and_stamped_a_chunk_later(bundle: Bundle) -> None:
    inference = infer(told(bundle))
    assert inference.predictions == ()
    assert inference.imagine is not None
    (prediction,) = inference.imagine()
    assert (prediction.camera, prediction.time_ns) == ("front", observation().instant_ns + 1_000_000_000)
    hidden, sequence = by_hand(bundle, observation())
    vocabulary = bundle.model.config.vocabulary
    with torch.no_grad():
        of_codes = bundle.model.text_logits(hidden)[0, sequence.image][1:-1, vocabulary.first_code : vocabulary.mask]
        frame = bundle.image_tokenizer.decode(of_codes.argmax(-1)[None])[0].permute(1, 2, 0).numpy()
    expected = (np.clip((frame + 1.0) / 2.0, 0.0, 1.0) * 255.0).astype(np.uint8)
    np.testing.assert_allclose(prediction.image.astype(int), expected, atol=1)


def test_a_frame_may_be_drawn_after_the_next_inference(bundle: Bundle) -> None:
    policy = told(bundle)
    first = infer(policy)
    assert first.imagine is not None
    at_once = first.imagine()[0].image
    infer(policy, observation(1))
    np.testing.assert_array_equal(first.imagine()[0].image, at_once)


@pytest.mark.full
def test_compiled_it_gives_the_same() -> None:
    bundle = released()
    policy = UpVlaPolicy(bundle, PANDA, compiled=True)
    policy.reset(INSTRUCTIONS[0])
    np.testing.assert_allclose(infer(policy).chunk.actions, infer(told(bundle)).chunk.actions, atol=1e-6)


def test_half_precision_gives_nearly_the_same(paper: Bundle) -> None:
    exact = infer(told(paper)).chunk.actions
    halved = tiny_up_vla.bundle()
    halved.model.to(torch.bfloat16)
    halved.vision.to(torch.bfloat16)
    half = infer(told(halved)).chunk.actions
    scale = np.array([STEP] * 6 + [1.0])
    assert 0.0 < np.abs((half - exact) / scale).max() < 0.1


# --- what it thinks aside ---


def test_its_description_conditions_the_next_inferences(paper: Bundle) -> None:
    policy = told(paper)
    without = infer(policy).chunk.actions
    policy.reflect([observation()])
    assert policy.description
    conditioned = infer(policy).chunk.actions
    assert np.abs(conditioned - without).max() > 1e-8
    hidden, sequence = by_hand(paper, observation(), description=policy.description)
    with torch.no_grad():
        expected = paper.model.act(hidden, sequence)[0].numpy()[:, :-1] * STEP
    np.testing.assert_allclose(conditioned[:, :-1], expected, atol=1e-7)
    policy.reset(INSTRUCTIONS[0])
    assert policy.description == ""
    np.testing.assert_array_equal(infer(policy).chunk.actions, without)


def test_what_was_described_before_a_reset_is_dropped(paper: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = told(paper)
    answer = paper.model.answer

    def reset_meanwhile(*arguments: Any) -> list[int]:
        policy.reset(INSTRUCTIONS[1])
        return answer(*arguments)

    monkeypatch.setattr(paper.model, "answer", reset_meanwhile)
    policy.reflect([observation()])
    assert policy.description == ""


def test_thoughts_on_another_thread_change_nothing_but_the_description(paper: Bundle) -> None:
    """While it describes and answers without a pause, every chunk is one of the two that it gives undisturbed."""
    policy = UpVlaPolicy(paper, PANDA)
    expected = {}
    for instruction in INSTRUCTIONS:
        policy.reset(instruction)
        without = infer(policy).chunk.actions
        policy.reflect([observation()])
        expected[instruction] = (without, infer(policy).chunk.actions)
    ended, thought = threading.Event(), []

    def think() -> None:
        while not ended.is_set():
            policy.reflect([observation()])
            thought.append(policy.answer([observation(1)], "where is the red cube?"))

    found = set()
    with ThreadPoolExecutor(1) as other, ExitStack() as at_end:
        at_end.callback(ended.set)
        thinking = other.submit(think)
        for number in itertools.count():
            instruction = INSTRUCTIONS[number % 2]
            policy.reset(instruction)
            for _ in range(5):
                inference = infer(policy)
                apart = [np.abs(inference.chunk.actions - one).max() for one in expected[instruction]]
                assert min(apart) < 1e-7
                found.add(int(np.argmin(apart)))
                inference.imagine()
            if thinking.done() or (number >= 8 and len(found) == 2 and len(thought) > 2):
                break
    thinking.result()
    assert len(set(thought)) == 1


def test_it_answers_by_what_it_sees(paper: Bundle) -> None:
    policy = told(paper)
    answers = {policy.answer([observation(seed)], "where is the red cube?") for seed in range(3)}
    assert len(answers) > 1  # random weights say nothing, but of each scene another nothing
    assert policy.answer([observation()], "where is the red cube?") in answers
    assert policy.description == ""  # an answer conditions nothing


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_it_acts_as_on_a_processor(bundle: Bundle, tmp_path: Path) -> None:
    checkpoints.save(tmp_path / "checkpoint", bundle)
    here, there = (
        registry.load("up_vla", robot=PANDA, checkpoint=str(tmp_path / "checkpoint"), device=device, dtype="float32")
        for device in ("cpu", "cuda")
    )
    for seed in range(3):  # the graphs are captured once, and are to follow what is seen
        inferences = []
        for policy in (here, there):
            policy.reset(INSTRUCTIONS[seed % 2])
            if policy.reflection_period_s < float("inf"):
                policy.reflect([observation(seed)])
            inferences.append(infer(policy, observation(seed)))
        on_cpu, on_gpu = inferences
        np.testing.assert_allclose(on_gpu.chunk.actions, on_cpu.chunk.actions, atol=1e-3 * STEP)
        for frame, expected in zip(on_gpu.imagine(), on_cpu.imagine(), strict=True):
            apart = np.abs(frame.image.astype(int) - expected.image.astype(int))
            assert np.quantile(apart, 0.9) <= 2, "a code or two of random weights may fall the other way"


def test_it_is_asked_as_it_was_taught_to_answer(paper: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    config = paper.manifest.model.model_copy(update={"system": "the red cube"})
    policy = UpVlaPolicy(replace(paper, manifest=paper.manifest.model_copy(update={"model": config})), PANDA)
    told_first = []

    def answer(features: torch.Tensor, prompt: list[int], most: int, system: list[int]) -> list[int]:
        told_first.append(system)
        return prompt

    monkeypatch.setattr(paper.model, "answer", answer)
    policy.reset(INSTRUCTIONS[0])
    policy.answer([observation()], "where is the red cube?")
    policy.reflect([observation()])
    assert told_first == [paper.text.encode("the red cube")] * 2


def test_as_released_it_neither_describes_nor_answers() -> None:
    policy = told(released())
    assert policy.reflection_period_s == float("inf")
    with pytest.raises(ValueError, match="no vision encoder, so it describes nothing and answers no question"):
        policy.answer([observation()], "where is the red cube?")


# --- what it refuses ---


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        ("lift the grey cube", r"the model does not know grey; it knows blue, cube, lift, red, the, as in 'lift the"),
        ("hebe den roten Würfel", "the model does not know hebe, den, roten, würfel; it knows blue"),
        ("подними красный куб", r"not written in Latin letters \(абдийкмн\); the model reads English"),
        ("举起红色方块", "not written in Latin letters"),
        ("", "there is no word in ''"),
        ("  ?! ", "there is no word in"),
        ("lift " * 40, r"the instruction is too long: \d+ ids, and the model reads at most 30"),
    ],
)
def test_an_instruction_that_it_cannot_read_is_refused(paper: Bundle, instruction: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UpVlaPolicy(paper, PANDA).reset(instruction)


def test_a_checkpoint_that_lists_no_words_reads_any_english() -> None:
    policy = UpVlaPolicy(tiny_up_vla.bundle(words=()), PANDA)
    policy.reset("Don't touch the café's cup!")
    with pytest.raises(ValueError, match="Latin letters"):
        policy.reset("поднять")
    with pytest.raises(ValueError, match="Latin letters"):
        policy.answer([observation()], "где куб?")


def test_words_are_what_stands_between_the_rest() -> None:
    words = words_of("Lift the RED cube, don't drop_it (2 cm)!")
    assert words == ["lift", "the", "red", "cube", "don't", "drop", "it", "2", "cm"]


@pytest.mark.parametrize(
    ("cameras", "message"),
    [
        ({"front": (64, 48)}, "the checkpoint sees front, wrist; missing: wrist; given: front"),
        ({"top": (64, 48), "hand": (64, 48)}, "missing: front, wrist; given: top, hand"),
        ({}, "missing: front, wrist; given: none"),
        (SIZES | {"wrist": (64, 64)}, "wrist has 64 x 64 pixels, and the checkpoint was trained with 64 x 48: another"),
        (SIZES | {"front": (32, 24)}, "front has 32 x 24 pixels, .*the model sees 32 pixels of the shorter side"),
    ],
)
def test_wrong_cameras_are_refused(paper: Bundle, cameras: dict[str, tuple[int, int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UpVlaPolicy(paper, PANDA).check_cameras(cameras)


def test_larger_frames_of_the_same_shape_and_other_cameras_are_welcome(paper: Bundle) -> None:
    policy = UpVlaPolicy(paper, PANDA)
    policy.check_cameras(SIZES | {"front": (640, 480), "top": (16, 16)})


def test_frames_of_another_shape_than_configured_are_not_acted_on(paper: Bundle) -> None:
    seen = observation()
    images = {**seen.images, "front": np.zeros((64, 64, 3), np.uint8)}
    with pytest.raises(PolicyError, match="what arrived is not what was configured: cameras: front has 64 x 64 pixels"):
        infer(told(paper), Observation(7, images, seen.proprioception))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"robot": "fr3"}, "trained for robot fr3, and the system has a panda; choose that robot, or"),
        ({"proprioception": ("joints", "world")}, "the checkpoint needs world; a robot measures joints, gripper"),
        ({"proprioception": ("joints",)}, "trained with 8 values of proprioception, and joints of a panda gives 7"),
        ({"proprioception": ()}, "trained with 8 values of proprioception, and no stream of a panda give 0"),
    ],
)
def test_a_checkpoint_for_another_robot_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UpVlaPolicy(tiny_up_vla.bundle(**changes), PANDA)


def test_a_checkpoint_that_cannot_ask_itself_for_a_description_is_refused(paper: Bundle) -> None:
    short = paper.manifest.model.model_copy(update={"max_text": 8})
    with pytest.raises(ValueError, match=r"request for a description is too long: \d+ ids, .* at most 6"):
        UpVlaPolicy(tiny_up_vla.bundle(model=short), PANDA)


def test_a_checkpoint_is_loaded_by_name_for_its_own_robot_and_space(tmp_path: Path, paper: Bundle) -> None:
    checkpoints.save(tmp_path / "c", paper)
    given = {"checkpoint": str(tmp_path / "c"), "device": "cpu", "dtype": "float32"}
    policy = registry.load("up_vla", robot=PANDA, **given)
    assert registry.load("up_vla", robot=PANDA, action=policy.action_spec, **given).action_spec == tiny_up_vla.ACTION
    with pytest.raises(ValueError, match=r"space \(ee_delta, base, axis_angle, 10 Hz, 10 rows\); leave"):
        registry.load("up_vla", robot=PANDA, action=ActionSpec(), **given)
    with pytest.raises(ValueError, match="trained for robot panda, and the system has a fr3"):
        registry.load("up_vla", robot=FR3, **given)
    with pytest.raises(ValueError, match="policy up_vla needs a checkpoint, got none"):
        registry.load("up_vla", robot=PANDA)
    with pytest.raises(ValueError, match=r"policy\.device: cuda:99 is not there, torch .* sees \d+ GPUs"):
        registry.load("up_vla", robot=PANDA, **{**given, "device": "cuda:99"})


def test_the_image_tokenizer_has_a_type_of_its_own(tmp_path: Path, paper: Bundle) -> None:
    """As it is loaded for a robot it gives the codes of the checkpoint; in bfloat16 most of them."""
    checkpoints.save(tmp_path / "c", paper)
    given = {"checkpoint": str(tmp_path / "c"), "device": "cpu", "dtype": "float32"}
    images = torch.rand(8, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = checkpoints.load(tmp_path / "c").image_tokenizer.encode(images)
    equal = {}
    for dtype in ("float32", "bfloat16"):
        policy = registry.load("up_vla", robot=PANDA, **given, image_tokenizer_dtype=dtype)
        policy.reset(INSTRUCTIONS[0])
        inference = policy.infer([observation()], Committed())
        assert np.isfinite(inference.chunk.actions).all()
        assert [prediction.image.dtype for prediction in inference.imagine()] == [np.uint8]
        equal[dtype] = float((policy._bundle.image_tokenizer.encode(images) == expected).float().mean())
    assert equal["float32"] == 1.0
    assert 0.8 < equal["bfloat16"] < 1.0


def truncate(folder: Path) -> None:
    path = folder / checkpoints.MODEL
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def drop(*keys: str) -> Any:
    def change(folder: Path) -> None:
        path = folder / MANIFEST
        values = json.loads(path.read_text())
        path.write_text(json.dumps({name: value for name, value in values.items() if name not in keys}))

    return change


def exchange(folder: Path) -> None:
    """The weights of another model under this one's name."""
    (folder / checkpoints.IMAGE_TOKENIZER).replace(folder / checkpoints.MODEL)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, r"c/model\.safetensors"),
        (exchange, r"c/model\.safetensors"),
        (drop("normalization"), "normalization: Field required"),
        (drop("state"), "values in state: 0, but model.state_dims: 8"),
        (drop("format"), "of format None"),
        (lambda folder: (folder / MANIFEST).unlink(), "is not a checkpoint of vla_ros"),
    ],
)
def test_a_damaged_checkpoint_is_named(tmp_path: Path, paper: Bundle, damage: Any, message: str) -> None:
    checkpoints.save(tmp_path / "c", paper)
    damage(tmp_path / "c")
    with pytest.raises(ValueError, match=message) as error:
        registry.load("up_vla", robot=PANDA, checkpoint=str(tmp_path / "c"), device="cpu")
    assert str(tmp_path / "c") in str(error.value)
