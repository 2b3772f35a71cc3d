"""UP-VLA on a robot: frames and an instruction in, actions out; its description and the future frame off that path."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vla_ros.actions import ActionSpec, GripperConvention
from vla_ros.checkpoints import manifest as checkpoints
from vla_ros.checkpoints.manifest import Bundle
from vla_ros.checkpoints.requirements import Normalization
from vla_ros.models.up_vla import DESCRIBE, Sequence, action_sequence, conversation
from vla_ros.policies.images import square
from vla_ros.policies.policy import Inference, PolicyError, WindowSpec
from vla_ros.policies.replaying import Replayed
from vla_ros.robots.robot import Robot
from vla_ros.tokenizers.magvit2 import normalized, pixels
from vla_ros.values import Array, Committed, ModelChunk, Observation, Prediction, Window

#: Ids of an answer to a person; a description for the model itself has its own measure.
_LONGEST_ANSWER = 96
#: For graphs and compiled code, which know one length each, sequences are padded to multiples of this: few serve all.
LENGTH_STEP = 32


class UpVlaPolicy:
    """One checkpoint on one robot: a chunk for each newest observation, nothing remembered but the own description.

    It sees the frames of the checkpoint's cameras, the instruction, and of the robot's own streams those that the
    manifest names. `reflect` and `answer` may run on another thread than the rest: they read the weights, and leave
    behind one value that the next `infer` picks up.
    """

    def __init__(self, bundle: Bundle, robot: Robot, *, compiled: bool = False) -> None:
        """Raises ValueError where the checkpoint is not for this robot."""
        self._bundle = bundle
        self._manifest = manifest = bundle.manifest
        self._config = manifest.model
        manifest.check_robot(robot)
        weight = bundle.model.lm_head.weight
        self._device, self._dtype = weight.device, weight.dtype
        self._cameras = tuple(camera.name for camera in manifest.cameras)
        self._code_cameras = [self._cameras.index(name) for name in manifest.code_cameras]
        self._instruction: list[int] = []
        self._description: list[int] = []
        self._resets = 0
        self._system = bundle.text.encode(self._config.system)
        self._request: list[int] = []  # what it asks itself for a description
        if self._config.conditioning == "paper":
            self._request = self._encode(conversation(DESCRIBE), "request for a description")
        self._describing = threading.Lock()  # held for the moment in which a description is put down, or forgotten
        # What no action waits for stands in no action's way on a GPU either.
        on_gpu = self._device.type == "cuda"
        self._aside = torch.cuda.Stream(self._device) if on_gpu else None  # type: ignore[no-untyped-call]
        self._see = Replayed(self._look_at, self._device)
        decide = torch.compile(self._decide, dynamic=False) if compiled else self._decide
        self._run = Replayed(decide, self._device)
        self._length_step = LENGTH_STEP if on_gpu or compiled else 1

    @property
    def action_spec(self) -> ActionSpec:
        """What the checkpoint's rows mean."""
        return self._manifest.action

    @property
    def window_spec(self) -> WindowSpec:
        """One instant: the checkpoint's cameras, and of the robot what the manifest names."""
        return WindowSpec(cameras=self._cameras, proprioception=self._manifest.proprioception)

    @property
    def reflection_period_s(self) -> float:
        """How often the scene is described anew; infinite where no description was in what it was trained on."""
        period_s = self._manifest.description_period_s
        return math.inf if period_s is None or self._config.conditioning == "released" else period_s

    @property
    def description(self) -> str:
        """See `Reflective`; written as it was read."""
        return self._bundle.text.decode(self._description)

    def check_cameras(self, cameras: Mapping[str, tuple[int, int]]) -> None:
        """Raise ValueError unless the checkpoint's cameras are among `cameras`, in the shape they were trained in."""
        self._manifest.check_cameras(cameras)

    def reset(self, instruction: str) -> None:
        """Follow `instruction`, forget the scene; raises ValueError for what the model cannot read."""
        self._instruction = self._encode(self._manifest.check_instruction(instruction), "instruction")
        with self._describing:
            self._resets += 1
            self._description = []
        self._prepare()

    @torch.inference_mode()
    def infer(self, window: Window, committed: Committed) -> Inference:
        """Actions from the newest observation; the frame expected at their end is drawn when somebody wants it."""
        observation = window[-1]
        codes, features = self._see(self._images(observation))
        state = self._state(observation) if self._config.state_dims else None
        raw, hidden, sequence = self._forward(codes, features, state, self._description)
        actions = _real(raw[0].double().cpu().numpy(), self._manifest.normalization)

        @torch.inference_mode()
        def imagine() -> tuple[Prediction, ...]:
            with torch.cuda.stream(self._aside):
                return self._imagine(hidden, sequence, observation.instant_ns)

        return Inference(ModelChunk(observation.instant_ns, actions), imagine=imagine)

    @torch.inference_mode()
    def reflect(self, window: Window) -> None:
        """Describe what is seen, for the next inferences; dropped where the policy was reset meanwhile."""
        resets = self._resets
        described = self._say(window, self._request, self._config.max_description)
        # As training reads descriptions: written out, and encoded as a text of its own.
        ids = self._bundle.text.encode(described)[: self._config.max_description]
        with self._describing:
            if resets == self._resets:
                self._description = ids

    @torch.inference_mode()
    def answer(self, window: Window, question: str) -> str:
        """Answer a question about what is seen; raises ValueError for one that it was not taught, or too long."""
        prompt = self._encode(conversation(self._manifest.check_question(question)), "question")
        answer = self._say(window, prompt, _LONGEST_ANSWER)
        if not answer:
            raise ValueError("the model has no answer to that")
        return answer

    # --- what it sees, decides and says ---

    @torch.inference_mode()
    def _prepare(self) -> None:
        """Where each length has code of its own: make now, before anything moves, what this instruction will need."""
        if self._length_step == 1:
            return
        size, config = self._manifest.pixels, self._config
        codes, features = self._see(
            torch.zeros(1, len(self._cameras), size, size, 3, dtype=torch.uint8).to(self._device)
        )
        longest = config.max_description if config.conditioning == "paper" else 0
        for words in {*range(0, longest, self._length_step), longest}:
            state = features.new_zeros(1, config.state_dims) if config.state_dims else None
            self._forward(codes, features, state, [config.vocabulary.end_of_text] * words)

    def _images(self, observation: Observation) -> Tensor:
        """The cameras' frames as the model takes them, (1, V, pixels, pixels, 3) uint8."""
        squares = []
        for name in self._cameras:
            image = observation.images[name]
            try:
                self._manifest.check_size(name, image.shape[1], image.shape[0])
            except ValueError as error:
                raise PolicyError(f"what arrived is not what was configured: {error}") from None
            squares.append(square(image, self._manifest.pixels))
        return torch.from_numpy(np.stack(squares)[None]).to(self._device)

    def _look_at(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Image codes (1, N) of the code cameras, one camera's after the other's; features (1, S, F) of all cameras."""
        coded = torch.stack([images[0, index] for index in self._code_cameras])  # an index list is no part of a graph
        codes = self._bundle.image_tokenizer.encode(normalized(coded)).reshape(1, -1)
        return codes, codes.new_zeros(0) if self._is_blind_to_features else self._features(images)

    @property
    def _is_blind_to_features(self) -> bool:
        return self._config.conditioning == "released"

    def _features(self, images: Tensor) -> Tensor:
        if self._bundle.vision is None:
            raise ValueError("the checkpoint has no vision encoder, so it describes nothing and answers no question")
        return self._bundle.vision.encode(images).to(self._dtype)

    def _forward(
        self, codes: Tensor, features: Tensor, state: Tensor | None, description: list[int]
    ) -> tuple[Tensor, Tensor, Sequence]:
        """Actions as trained (1, K, A) and hidden states (1, L, W), of a sequence with as few pads as may be."""
        is_released, step = self._is_blind_to_features, self._length_step
        descriptions = None if is_released else [description]
        sequence = action_sequence(self._config, [self._instruction], codes, descriptions)
        if over := sequence.ids_BL.shape[1] % step:
            pad_to = sequence.ids_BL.shape[1] + step - over
            sequence = action_sequence(self._config, [self._instruction], codes, descriptions, pad_to)
        seen = [] if is_released else [features]
        seen += [] if state is None else [state]
        places = {"image": sequence.image, "actions": sequence.actions}
        raw, hidden = self._run(sequence.ids_BL, sequence.attended_BLL, *seen, **places)
        return raw, hidden, sequence

    def _decide(
        self, ids: Tensor, attended: Tensor, *seen: Tensor, image: slice, actions: slice
    ) -> tuple[Tensor, Tensor]:
        here = Sequence(ids, attended, image, actions)
        features = None if self._is_blind_to_features else seen[0]
        hidden = self._bundle.model(here, features, seen[-1] if self._config.state_dims else None)
        raw = self._bundle.model.act(hidden, here).float()
        if self._config.conditioning == "paper" and self.action_spec.gripper is not GripperConvention.NONE:
            raw = torch.cat([raw[..., :-1], raw[..., -1:].sigmoid()], -1)  # trained as a probability
        return raw, hidden

    def _state(self, observation: Observation) -> Tensor:
        """The robot's own streams, normalised, (1, P)."""
        assert self._manifest.state is not None  # the manifest sees to that
        real = np.concatenate([observation.proprioception[name] for name in self._manifest.proprioception])
        offset, scale = np.array(self._manifest.state.offset), np.array(self._manifest.state.scale)
        return torch.from_numpy((real - offset) / scale)[None].to(self._device, self._dtype)

    def _imagine(self, hidden: Tensor, sequence: Sequence, observed_ns: int) -> tuple[Prediction, ...]:
        """The likeliest frame of each code camera a chunk after what was observed."""
        codes = self._bundle.model.imagine(hidden, sequence).argmax(-1)
        per_camera = codes.reshape(len(self._code_cameras), -1)
        frames = pixels(self._bundle.image_tokenizer.decode(per_camera)).cpu().numpy()
        time_ns = observed_ns + self.action_spec.horizon * self.action_spec.step_ns
        names = self._manifest.code_cameras
        return tuple(Prediction(name, time_ns, frame) for name, frame in zip(names, frames, strict=True))

    def _say(self, window: Window, prompt: list[int], max_tokens: int) -> str:
        with torch.cuda.stream(self._aside):
            features = self._features(self._images(window[-1]))
            answered = self._bundle.model.answer(features, prompt, max_tokens, self._system)
        return self._bundle.text.decode(answered).strip()

    # --- what is refused ---

    def _encode(self, text: str, what: str) -> list[int]:
        ids, most = self._bundle.text.encode(text.strip()), self._config.max_text - 2  # its begin and end
        if len(ids) > most:
            raise ValueError(f"the {what} is too long: {len(ids)} ids, and the model reads at most {most}")
        return ids


def load(
    robot: Robot,
    checkpoint: str,
    action: ActionSpec | None,
    device: str = "auto",
    dtype: str = "auto",
    compile: bool = False,
    image_tokenizer_dtype: str = "float32",
) -> UpVlaPolicy:
    """For the registry: the checkpoint folder `checkpoint`, on `device` in `dtype`, its kernels fused or not.

    The image tokenizer has a type of its own, as its codes are signs of small numbers; its convolutions are a tenth
    faster with channels last, and give the same codes.

    The action space is the checkpoint's own. Raises ValueError saying what is wrong with the checkpoint, or what of
    the system does not fit it.
    """
    place = _device(device)
    bundle = checkpoints.load(Path(checkpoint), place, _dtype(dtype, place))
    bundle.image_tokenizer.to(dtype=_dtype(image_tokenizer_dtype, place), memory_format=torch.channels_last)  # type: ignore[call-overload]
    policy = UpVlaPolicy(bundle, robot, compiled=compile)
    bundle.manifest.check_action(action)
    return policy


def _real(model: Array, normalization: Normalization) -> Array:
    """Values as the model gives them (..., D) in real units."""
    return np.asarray(normalization.offset) + np.asarray(normalization.scale) * model


def _device(wanted: str) -> torch.device:
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"policy.device: {wanted} is not there, torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} GPUs; choose auto or cpu"
        )
    return device


def _dtype(wanted: str, device: torch.device) -> torch.dtype:
    if wanted != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[wanted]
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
