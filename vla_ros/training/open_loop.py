"""Judging a policy on a dataset, nothing moving: its actions against the recorded ones, its future frames the seen."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import degrees, isfinite
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros.actions import ActionSpec, AnchorState, GripperConvention, from_absolute, to_absolute
from vla_ros.control import kinematics
from vla_ros.geometry import rotation_angle
from vla_ros.policies.images import square
from vla_ros.policies.policy import ANCHOR_STREAMS, Policy, Reflective
from vla_ros.recording.files import write_atomically
from vla_ros.robots.robot import Robot
from vla_ros.timing.stamps import s_to_ns
from vla_ros.training.recorded import Recorded
from vla_ros.training.similarity import mean_squared_error, psnr_db, ssim
from vla_ros.values import NANOSECONDS_PER_SECOND, ActionChunk, Array, Committed, Image, ModelChunk, Prediction
from vla_ros.viewing.open_loop import Errors, Example
from vla_ros.viewing.progress import interruptible

#: Pairs of frames that are kept to look at, of each camera.
_EXAMPLES = 5
_PATH = ("TCP position", "TCP rotation", "gripper width")
_PATH_UNITS = ("mm", "deg", "mm")


@dataclass(frozen=True)
class FrameScore:
    """How like the seen future frames some others are, over `frames` of them: PSNR of the mean error, mean SSIM."""

    frames: int
    psnr_db: float
    ssim: float


@dataclass(frozen=True, eq=False)
class OpenLoop:
    """What a policy's answers to `samples` rows of a dataset were like; rows of a chunk are `step_s` apart.

    `actions`: as the policy writes them. `path`: as the arm would go, integrated from where it was; None where nobody
    knows that. `predicted` and `copied`: camera -> how like the seen future the predicted, and the current, frame is.
    `notices`: what is odd about the recorded actions, in words.
    """

    policy: str
    dataset: str
    samples: int
    step_s: float
    actions: Errors
    path: Errors | None
    predicted: Mapping[str, FrameScore] = field(default_factory=dict)
    copied: Mapping[str, FrameScore] = field(default_factory=dict)
    examples: Sequence[Example] = ()
    notices: Sequence[str] = ()

    def as_dict(self) -> dict[str, Any]:
        """What stands in the JSON file."""
        frames = {
            camera: {"predicted": _finite(vars(score)), "copied": _finite(vars(self.copied[camera]))}
            for camera, score in self.predicted.items()
        }
        return {
            "policy": self.policy,
            "dataset": self.dataset,
            "samples": self.samples,
            "notices": list(self.notices),
            "step_s": self.step_s,
            "actions": self.actions.as_dict(),
            "path": None if self.path is None else self.path.as_dict(),
            "future_frames": frames,
        }

    def write(self, path: Path, **about: str) -> None:
        """Write the JSON file, `about` what first, at once or not at all; makes its folder.

        Raises DatasetError where it cannot be written.
        """
        content = {**about, **self.as_dict()}
        write_atomically(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def compare(
    name: str,
    policy: Policy,
    robot: Robot,
    root: Path,
    samples: int = 500,
    mapping: Mapping[str, Any] | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> OpenLoop:
    """Ask `policy`, called `name`, about `samples` rows, evenly over the episodes that did not fail, and compare.

    `mapping`: what `DataConfig` is told of a dataset of others (source, action_key, camera_keys and so on). Raises
    DatasetError for a dataset that is none, or lacks what the policy looks at; ValueError for words it cannot follow.
    Ctrl-C ends it with the rows that were compared until then.
    """
    recorded = Recorded(policy, robot, root, mapping or {})
    chosen = recorded.chosen(samples)
    for instruction in sorted({recorded.instruction(index) for index in chosen}):
        policy.reset(instruction)  # what it cannot follow is said before anything is compared
    score = _Score(policy.action_spec, robot)
    segment, due_ns = (-1, 0), 0  # when the policy is to think slowly next
    with interruptible() as asked:
        for done, index in enumerate(chosen, start=1):
            window = recorded.window(index)
            is_new, now_ns = recorded.segment(index) != segment, window[-1].instant_ns
            segment = recorded.segment(index)
            if is_new:
                policy.reset(recorded.instruction(index))
            if isinstance(policy, Reflective) and (is_new or now_ns >= due_ns) and isfinite(policy.reflection_period_s):
                policy.reflect(window)
                due_ns = now_ns + s_to_ns(policy.reflection_period_s)
            inference = policy.infer(window, Committed())
            score.add_actions(inference.chunk, *recorded.samples.actions(index), recorded.known(index))
            for prediction in inference.predictions or (inference.imagine() if inference.imagine is not None else ()):
                ahead_s = (prediction.time_ns - now_ns) / NANOSECONDS_PER_SECOND
                seen = recorded.later(index, prediction.camera, ahead_s)
                if seen is not None:
                    current = window[-1].images[prediction.camera]
                    score.add_frame(prediction, recorded.locate(index), ahead_s, current, seen)
            on_progress(done, len(chosen))
            if asked.is_set():
                break
    return score.result(name, str(root), recorded.samples.notices)


class _Score:
    """Gathers errors and likenesses."""

    def __init__(self, spec: ActionSpec, robot: Robot) -> None:
        self._spec = spec
        self._forward = kinematics.for_robot(robot).forward
        self._max_width_m = robot.gripper.max_width_m
        self._actions: list[Array] = []
        self._still: list[Array] = []
        self._path: list[Array] = []
        self._path_still: list[Array] = []
        self._frames: dict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
        self._examples: dict[str, _Examples] = defaultdict(_Examples)

    def add_actions(self, chunk: ModelChunk, recorded: Array, is_pad: Any, known: Mapping[str, Array]) -> None:
        """Compare a chunk with the recorded (K, A); `is_pad` (K,): rows that do not count; `known`: of the robot."""
        spec = self._spec
        given = np.asarray(chunk.actions)
        if given.shape != recorded.shape:
            raise ValueError(f"the policy gave actions of shape {given.shape}, the dataset has {recorded.shape}")
        self._actions.append(_masked(np.abs(given - recorded), is_pad))
        joints, width_m = known.get(ANCHOR_STREAMS[spec.anchor]), known.get("gripper")
        if joints is None or (spec.is_joint and len(spec.joint_names) != len(joints)):
            return  # nobody knows where such rows would take the arm
        anchor = AnchorState(joints, self._forward(joints))
        wanted = to_absolute(spec, ModelChunk(0, recorded), anchor, self._max_width_m)
        went = to_absolute(spec, ModelChunk(0, given), anchor, self._max_width_m)
        stood = self._standing(anchor, wanted, width_m)
        self._path.append(_masked(self._apart(went, wanted), is_pad))
        self._path_still.append(_masked(self._apart(stood, wanted), is_pad))
        still = from_absolute(spec, stood, anchor, self._max_width_m).actions
        self._still.append(_masked(np.abs(still - recorded), is_pad))

    def _standing(self, anchor: AnchorState, wanted: ActionChunk, width_m: Array | None) -> ActionChunk:
        """A chunk of an arm that stays where it is; its gripper too, or as it is wanted first where nobody knows."""
        row = anchor.joint_positions if self._spec.is_joint else anchor.tcp_pose
        if self._spec.gripper is not GripperConvention.NONE:
            row = np.append(row, wanted.actions[0, -1] if width_m is None else width_m)
        return ActionChunk(0, wanted.step_ns, wanted.dimensions, np.tile(row, (len(wanted), 1)))

    def _apart(self, one: ActionChunk, other: ActionChunk) -> Array:
        """(K, 2 or 3): how far the TCP is apart [mm, deg], and the gripper [mm] where there is one."""
        rows = []
        for a, b in zip(one.actions, other.actions, strict=True):
            pose, wanted = (self._forward(r[: len(self._spec.joint_names)]) if self._spec.is_joint else r[:7]
                            for r in (a, b))  # fmt: skip
            apart = [1e3 * float(np.linalg.norm(pose[:3] - wanted[:3])), degrees(rotation_angle(pose[3:], wanted[3:]))]
            if self._spec.gripper is not GripperConvention.NONE:
                apart.append(1e3 * abs(a[-1] - b[-1]))
            rows.append(apart)
        return np.array(rows)

    def add_frame(
        self, prediction: Prediction, place: tuple[int, int], ahead_s: float, current: Image, seen: Image
    ) -> None:
        """Compare a predicted frame, and the current one in its place, with the one seen then; in its size."""
        camera, predicted = prediction.camera, prediction.image
        current, seen = square(current, len(predicted)), square(seen, len(predicted))
        alike, copied_alike = ssim(predicted, seen), ssim(current, seen)
        self._frames[camera].append(
            (mean_squared_error(predicted, seen), mean_squared_error(current, seen), alike, copied_alike)
        )
        self._examples[camera].add(Example(camera, *place, ahead_s, current, predicted, seen, alike, copied_alike))

    def result(self, name: str, dataset: str, notices: Sequence[str]) -> OpenLoop:
        """What has been gathered."""
        spec = self._spec
        units, factors = zip(*(_unit(dimension, spec) for dimension in spec.dimensions), strict=True)
        still = _mean(self._still) * np.array(factors) if self._still else None
        actions = Errors(spec.dimensions, units, _mean(self._actions) * np.array(factors), still)
        path = None
        if self._path:
            policy = _mean(self._path)
            width = policy.shape[1]
            path = Errors(_PATH[:width], _PATH_UNITS[:width], policy, _mean(self._path_still))
        means = {camera: np.mean(values, axis=0) for camera, values in self._frames.items()}
        counts = {camera: len(values) for camera, values in self._frames.items()}
        predicted = {c: FrameScore(counts[c], psnr_db(m[0]), float(m[2])) for c, m in means.items()}
        copied = {c: FrameScore(counts[c], psnr_db(m[1]), float(m[3])) for c, m in means.items()}
        examples = tuple(one for those in self._examples.values() for one in those.spread())
        step_s = spec.step_ns / NANOSECONDS_PER_SECOND
        return OpenLoop(name, dataset, len(self._actions), step_s, actions, path, predicted, copied, examples, notices)


class _Examples:
    """Some of many, evenly, however many there will be: every second one is dropped when there are too many."""

    def __init__(self) -> None:
        self._kept: list[Example] = []
        self._seen, self._every = 0, 1

    def add(self, example: Example) -> None:
        """The next one."""
        if self._seen % self._every == 0:
            self._kept.append(example)
        self._seen += 1
        if len(self._kept) == 2 * _EXAMPLES:
            self._kept = self._kept[::2]
            self._every *= 2

    def spread(self) -> list[Example]:
        """At most `_EXAMPLES` of them."""
        places = sorted({round(place) for place in np.linspace(0, len(self._kept) - 1, _EXAMPLES)})
        return [self._kept[place] for place in places]


def _unit(dimension: str, spec: ActionSpec) -> tuple[str, float]:
    """What a value is shown in, and how much of that one is."""
    last = dimension.rpartition(".")[2]
    if dimension == "gripper":
        return ("mm", 1e3) if spec.gripper is GripperConvention.WIDTH_M else ("", 1.0)
    if spec.is_joint or last in ("rx", "ry", "rz", "roll", "pitch", "yaw"):
        return "deg", degrees(1.0)
    return ("mm", 1e3) if last in ("x", "y", "z") else ("", 1.0)


def _masked(errors: Array, is_pad: Any) -> Array:
    return np.where(np.asarray(is_pad)[:, None], np.nan, errors)


def _mean(errors: Sequence[Array]) -> Array:
    """(K, D) of many; NaN where nothing counts."""
    stacked = np.stack(errors)
    counts = np.isfinite(stacked).sum(axis=0)
    return np.where(counts > 0, np.nansum(stacked, axis=0) / np.maximum(counts, 1), np.nan)


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: round(value, 4) if np.isfinite(value) else None for name, value in values.items()}
