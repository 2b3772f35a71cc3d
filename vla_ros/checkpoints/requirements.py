"""What a checkpoint needs of a system, by its manifest alone: robot, cameras, streams, words; no weights, no torch."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from pydantic import Field, ValidationError, model_validator

from vla_ros.actions import ActionSpec
from vla_ros.recording.files import load_json
from vla_ros.robots.robot import Robot
from vla_ros.values import Config, plain_instruction, problems_of

MANIFEST = "manifest.json"

#: Cameras whose width to height differs by less than this from the one trained with show the same.
_SAME_SHAPE = 0.01


class Normalization(Config):
    """real = offset + scale * model, dimension by dimension."""

    offset: tuple[float, ...]
    scale: tuple[float, ...]

    @model_validator(mode="after")
    def _one_scale_per_offset(self) -> Normalization:
        if len(self.offset) != len(self.scale):
            raise ValueError(f"as many offsets as scales, got {len(self.offset)} and {len(self.scale)}")
        if not all(self.scale):
            raise ValueError(f"no scale may be 0, as it could not be inverted; got {self.scale}")
        return self


class CameraInput(Config):
    """A camera and the size of its frames [pixels] in training."""

    name: str = Field(min_length=1)
    width: int = Field(gt=0, le=16_384)
    height: int = Field(gt=0, le=16_384)


class Requirements(Config):
    """The part of a manifest that the world has to fit; see `UpVlaManifest`. Its checks raise ValueError."""

    robot: str
    cameras: tuple[CameraInput, ...] = Field(min_length=1)
    pixels: int = Field(gt=0, le=8192)
    proprioception: tuple[str, ...] = ()
    state: Normalization | None = None
    action: ActionSpec
    instructions: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()

    def problems(
        self,
        robot: Robot,
        cameras: Mapping[str, tuple[int, int]],
        instruction: str = "",
        action: ActionSpec | None = None,
    ) -> list[str]:
        """Everything of a system that does not fit; `cameras`: name -> (width, height); `action`: the system's own."""
        checks: list[Callable[[], object]] = [
            lambda: self.check_robot(robot),
            lambda: self.check_cameras(cameras),
            lambda: self.check_action(action),
            *([lambda: self.check_instruction(instruction)] if instruction else []),
        ]
        found = []
        for check in checks:
            try:
                check()
            except ValueError as error:
                found.append(str(error))
        return found

    def check_robot(self, robot: Robot) -> None:
        """It is the robot trained with, and what is read of it is as long as it was then."""
        if self.robot != robot.name:
            raise ValueError(
                f"the checkpoint was trained for robot {self.robot}, and the system has a {robot.name}; "
                "choose that robot, or a checkpoint for this one"
            )
        lengths, names = robot.stream_lengths, self.proprioception
        unknown = [name for name in names if name not in lengths]
        if unknown:
            raise ValueError(f"the checkpoint needs {', '.join(unknown)}; a robot measures {', '.join(lengths)}")
        given, wanted = sum(lengths[name] for name in names), len(self.state.offset) if self.state else 0
        if given != wanted:
            raise ValueError(
                f"the checkpoint was trained with {wanted} values of proprioception, and "
                f"{', '.join(names) or 'no stream'} of a {robot.name} give{'s' if len(names) == 1 else ''} {given}"
            )

    def check_cameras(self, cameras: Mapping[str, tuple[int, int]]) -> None:
        """Its cameras are among `cameras`, in the shape they were trained in."""
        wanted = [camera.name for camera in self.cameras]
        missing = [name for name in wanted if name not in cameras]
        if missing:
            raise ValueError(
                f"cameras: the checkpoint sees {', '.join(wanted)}; "
                f"missing: {', '.join(missing)}; given: {', '.join(cameras) or 'none'}"
            )
        for name in wanted:
            self.check_size(name, *cameras[name])

    def check_size(self, name: str, width: int, height: int) -> None:
        """A camera shows what it did in training, in enough detail."""
        trained = next(camera for camera in self.cameras if camera.name == name)
        if not math.isclose(width / height, trained.width / trained.height, rel_tol=_SAME_SHAPE):
            why = "another shape shows another part of the scene"
        elif min(width, height) < min(self.pixels, trained.width, trained.height):
            why = f"the model sees {self.pixels} pixels of the shorter side"
        else:
            return
        raise ValueError(
            f"cameras: {name} has {width} x {height} pixels, and the checkpoint was trained with {trained.width} x "
            f"{trained.height}: {why}"
        )

    def check_action(self, action: ActionSpec | None) -> None:
        """The system leaves the action space to the checkpoint, or has the same."""
        if action is not None and action != self.action:
            own = self.action
            space = f"{own.space.value}, {own.frame.value}, {own.rotation.value}"
            rows = f"{own.rate_hz:g} Hz, {own.horizon} rows"
            raise ValueError(f"policy up_vla acts in its checkpoint's space ({space}, {rows}); leave action out")

    def check_instruction(self, instruction: str) -> str:
        """It is made of words that were read in training; gives it back as it was written there."""
        check_script(instruction)
        if not self.words:
            return instruction
        unknown = [word for word in words_of(instruction) if word not in self.words]
        if unknown:
            example = f", as in {self.instructions[0]!r}" if self.instructions else ""
            raise ValueError(f"the model does not know {listed(unknown)}; it knows {listed(self.words)}{example}")
        trained = {plain_instruction(text): text for text in self.instructions}
        return trained.get(plain_instruction(instruction), plain_instruction(instruction))

    def check_question(self, question: str) -> str:
        """It is among those that were taught, where these are known; gives it back as it was written there."""
        check_script(question)
        if not self.questions:
            return question.strip()
        taught = {" ".join(words_of(text)): text for text in self.questions}
        known = taught.get(" ".join(words_of(question)))
        if known is None:
            raise ValueError(f"the model was not taught that question; it was taught: {'; '.join(self.questions)}")
        return known


def read_requirements(folder: Path) -> Requirements:
    """Of the checkpoint in a folder; raises ValueError where there is none."""
    path = folder / MANIFEST
    try:
        content = load_json(path)
        known = {name: value for name, value in dict(content).items() if name in Requirements.model_fields}
        return Requirements.model_validate_json(json.dumps(known))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(why_no_checkpoint(folder)) from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValidationError as error:
        raise ValueError(f"{path} is not a manifest: {'; '.join(problems_of(error))}") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a manifest: {error}") from error


def why_no_checkpoint(folder: Path) -> str:
    """What a folder without a manifest is, and where one may be."""
    if not folder.exists():
        return f"{folder}: there is no such folder"
    if not folder.is_dir():
        return f"{folder} is a file; a checkpoint of vla_ros is a folder with {MANIFEST} in it"
    below = folder / "checkpoint"  # as a training leaves it
    hint = f"; it is the folder of a training, whose model is in {below}" if (below / MANIFEST).is_file() else ""
    return f"{folder} is not a checkpoint of vla_ros: there is no {MANIFEST} in it{hint}"


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case and without what stands between them: what a manifest's `words` are."""
    return re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", text.lower())


def check_script(text: str) -> None:
    """Raise ValueError for a text that is not English by its letters, or has no word."""
    foreign = sorted({letter for letter in text if letter.isalpha() and "LATIN" not in unicodedata.name(letter, "")})
    if foreign:
        raise ValueError(f"it is not written in Latin letters ({''.join(foreign[:8])}); the model reads English")
    if not words_of(text):
        raise ValueError(f"there is no word in {text!r}")


def listed(words: Collection[str], most: int = 40) -> str:
    """Words with commas between them, the first ones of many."""
    shown = ", ".join([*words][:most])
    return shown if len(words) <= most else f"{shown} and {len(words) - most} others"
