"""SystemConfig: one YAML file is one runnable system; loaded strictly, with every error told at once."""

from __future__ import annotations

import difflib
import json
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails

from vla_ros.actions import ActionSpec
from vla_ros.control.arm import ArmConfig
from vla_ros.robots import catalogue
from vla_ros.simulation.world import TabletopConfig
from vla_ros.timing.chunks import ScheduleConfig
from vla_ros.timing.sync import CameraTiming
from vla_ros.values import Config

C = TypeVar("C", bound=Config)
Location = tuple[str | int, ...]
Parameter = bool | int | float | str | list[bool] | list[int] | list[float] | list[str]

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_TOPIC = re.compile(r"(/[A-Za-z][A-Za-z0-9_]*)+")

#: The one policy that looks at the world's state instead of at images.
SCRIPTED = "scripted"


class ConfigError(ValueError):
    """Everything that is wrong with a configuration; `problems` has one line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


# --- a system -------------------------------------------------------------------------------------------------------


class CameraConfig(CameraTiming):
    """One camera: where its images arrive, how large they are, and when they were taken."""

    topic: str
    width: int = Field(default=256, ge=16, le=4096)
    height: int = Field(default=256, ge=16, le=4096)

    @field_validator("topic")
    @classmethod
    def _topic_is_a_ros_name(cls, topic: str) -> str:
        if not _TOPIC.fullmatch(topic) or "__" in topic:
            raise ValueError("no valid ROS name; should be absolute, as /camera/front/image_raw")
        return topic


class PolicyConfig(Config):
    """Which policy decides, and from which weights ("" = none)."""

    name: str
    checkpoint: str = ""

    @field_validator("checkpoint")
    @classmethod
    def _scripted_has_no_weights(cls, checkpoint: str, others: ValidationInfo) -> str:
        if checkpoint and others.data.get("name") == SCRIPTED:
            raise ValueError(f"policy {SCRIPTED} takes no checkpoint (given {checkpoint!r}); leave it out")
        return checkpoint


class InferenceConfig(Config):
    """When a policy is asked, and how old what it sees may be."""

    max_rate_hz: float = Field(default=5.0, gt=0.0, le=100.0)
    max_observation_age_ms: float = Field(default=500.0, gt=0.0, le=10_000.0)
    history_s: float = Field(default=2.0, gt=0.0, le=60.0)  # how far back a window may reach


class SystemConfig(Config):
    """A robot, its cameras, a policy and a controller: what one YAML file says."""

    title: str
    robot: str
    instruction: str = ""  # "" = told later, or by the simulated task
    simulation: TabletopConfig | None = None  # None = a real robot only
    policy: PolicyConfig
    cameras: dict[str, CameraConfig]
    action: ActionSpec | None = None  # for policies that leave it open
    inference: InferenceConfig = InferenceConfig()
    controller: ArmConfig = ArmConfig()
    record: str = ""  # folder for the bags; "" = nothing is recorded

    @field_validator("robot")
    @classmethod
    def _robot_is_known(cls, name: str) -> str:
        return catalogue.find(name).name

    @field_validator("policy")
    @classmethod
    def _policy_sees_what_it_needs(cls, policy: PolicyConfig, others: ValidationInfo) -> PolicyConfig:
        if policy.name == SCRIPTED and others.data.get("simulation", ...) is None:
            raise ValueError(
                f"{SCRIPTED} sees the simulated world's state (given no section simulation); "
                "add that section, or choose another policy"
            )
        return policy

    @field_validator("cameras")
    @classmethod
    def _cameras_can_be_told_apart(
        cls, cameras: dict[str, CameraConfig], others: ValidationInfo
    ) -> dict[str, CameraConfig]:
        if not cameras:
            raise ValueError("no camera (given {}); should be at least one, as front: {topic: /camera/front/image_raw}")
        for name in cameras:
            if not _NAME.fullmatch(name):
                raise ValueError(f"no valid camera name (given {name!r}); should be lower case letters, digits and _")
        of_topic: dict[str, list[str]] = {}
        for name, camera in cameras.items():
            of_topic.setdefault(camera.topic, []).append(name)
        for topic, sharers in of_topic.items():
            if len(sharers) > 1:
                raise ValueError(f"{' and '.join(sharers)} share a topic (given {topic}); should be one topic each")
        world: TabletopConfig | None = others.data.get("simulation")
        missing = sorted(set(cameras) - set(world.cameras)) if world else []
        if world and missing:
            raise ValueError(
                f"the simulation has none of that name (given {', '.join(missing)}); "
                f"should be of {', '.join(world.cameras)}, or be described under simulation.cameras"
            )
        return cameras


# --- what each node declares as its ROS parameters ------------------------------------------------------------------


class InferenceNodeConfig(InferenceConfig):
    """Parameters of the inference node."""

    robot: str = "panda"
    policy: str = SCRIPTED
    checkpoint: str = ""
    instruction: str = ""
    cameras: dict[str, CameraConfig] = Field(default_factory=dict)
    action: ActionSpec | None = None
    schedule: ScheduleConfig = ScheduleConfig()  # the controller's, to know what is already committed


class ControllerNodeConfig(Config):
    """Parameters of the controller node."""

    robot: str = "panda"
    arm: ArmConfig = ArmConfig()


class SimulatorNodeConfig(Config):
    """Parameters of the simulator node."""

    robot: str = "panda"
    world: TabletopConfig = TabletopConfig()
    cameras: dict[str, CameraConfig] = Field(default_factory=dict)
    seed: int = Field(default=0, ge=0)
    clock_rate_hz: float = Field(default=200.0, gt=0.0, le=1000.0)
    real_time_factor: float = Field(default=1.0, gt=0.0, le=1.0)


class RecorderNodeConfig(Config):
    """Parameters of the recorder node: which topics go into the bag at `path`."""

    path: str
    topics: tuple[str, ...]


# --- files ----------------------------------------------------------------------------------------------------------


def folders() -> list[Path]:
    """Where named systems are looked up: the source tree's config/, else the share folder of the installation."""
    here = Path(__file__).resolve()
    candidates = [
        here.parents[1] / "config",
        *(parent / "share/vla_ros/config" for parent in here.parents),
    ]
    return [folder for folder in candidates if folder.is_dir()]


def names() -> list[str]:
    """Every system that can be given by name."""
    return sorted({file.stem for folder in folders() for file in folder.glob("*.yaml")})


def find(path_or_name: str) -> Path:
    """The file of a system given by name or by path; raises ConfigError listing the systems there are."""
    if path_or_name.endswith((".yaml", ".yml")):
        if Path(path_or_name).is_file():
            return Path(path_or_name)
        raise ConfigError([f"{path_or_name}: no such file; systems that can be given by name: {', '.join(names())}"])
    for folder in folders():
        if (file := folder / f"{path_or_name}.yaml").is_file():
            return file
    hint = _did_you_mean(path_or_name, names())
    known = ", ".join(names())
    raise ConfigError([f"{path_or_name}: no such system{hint}; there are: {known}; or give the path of a .yaml file"])


def load(path_or_name: str) -> SystemConfig:
    """Read a system by name or by the path of its .yaml; raises ConfigError, each problem as `file:line: path: ...`."""
    file = find(path_or_name)
    document = _Document(file)
    try:
        return _validate(SystemConfig, document.values)
    except ValidationError as error:
        raise ConfigError(
            [f"{file}:{document.line(at)}: {text}" for at, text in _problems(error, SystemConfig)]
        ) from None


def override(
    system: SystemConfig,
    *,
    robot: str = "",
    policy: str = "",
    checkpoint: str = "",
    instruction: str = "",
    record: str = "",
) -> SystemConfig:
    """`system` with what was given on a command line ("" = as it was); raises ConfigError with every problem.

    Another policy does not keep the checkpoint of the one it replaces.
    """
    values = system.model_dump(mode="json")
    given = {"robot": robot, "instruction": instruction, "record": record}
    values |= {key: value for key, value in given.items() if value}
    if policy and policy != system.policy.name:
        values["policy"] = {"name": policy}
    if checkpoint:
        values["policy"]["checkpoint"] = checkpoint
    try:
        return _validate(SystemConfig, values)
    except ValidationError as error:
        raise ConfigError([text for _, text in _problems(error, SystemConfig)]) from None


class _Loader(yaml.SafeLoader):
    """YAML with the scalars of version 1.2 only: `no` is a word and `1e-3` a number."""

    yaml_implicit_resolvers: typing.ClassVar[dict[Any, Any]] = {}


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(|~|null)$"), ["", "~", "n"])
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(true|false)$"), list("tf"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?$|[-+]?\.inf$|\.nan$"),
    list("-+.0123456789"),
)


class _Document:
    """A YAML file: its values, and the line on which each of them stands."""

    def __init__(self, file: Path) -> None:
        loader = _Loader(file.read_text(encoding="utf-8"))
        self._lines: dict[Location, int] = {(): 1}
        try:
            root = loader.get_single_node()
            duplicates = list(self._visit(root, ())) if root is not None else []
            self.values = loader.construct_document(root) if root is not None else {}
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise ConfigError([f"{file}:{line}: no valid YAML: {error.problem}"]) from None
        finally:
            loader.dispose()
        if duplicates:
            raise ConfigError([f"{file}:{line}: {path}: given twice; keep one" for line, path in duplicates])
        if not isinstance(self.values, dict):
            raise ConfigError([f"{file}:1: should be a mapping of keys to values, as title: ..., robot: ..."])

    def line(self, location: Location) -> int:
        """The line of what stands at `location`, or of the nearest thing around it."""
        while location not in self._lines:
            location = location[:-1]
        return self._lines[location]

    def _visit(self, node: yaml.Node, at: Location) -> Iterator[tuple[int, str]]:
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                line, here = key.start_mark.line + 1, (*at, str(key.value))
                if key.value in seen:
                    yield line, _dotted(here)
                seen.add(key.value)
                self._lines[here] = line
                yield from self._visit(value, here)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self._lines[(*at, index)] = value.start_mark.line + 1
                yield from self._visit(value, (*at, index))


# --- ROS parameters -------------------------------------------------------------------------------------------------


def to_parameters(config: Config) -> dict[str, Parameter]:
    """The config as flat ROS parameters: nested names dotted; None and empty lists are left out, as ROS knows neither.

    Raises ValueError where leaving them out would change the meaning, and for lists that are not scalars of one type.
    """
    parameters: dict[str, Parameter] = {}
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        written = _flatten(value, name)
        if not written and (field.is_required() or field.get_default(call_default_factory=True) != value):
            raise ValueError(f"{name}: {value!r} cannot be a ROS parameter, and its default is another")
        parameters.update(written)
    return parameters


def from_parameters(model: type[C], parameters: Mapping[str, Any]) -> C:
    """The inverse of `to_parameters`; raises ConfigError with every problem, each with its dotted path."""
    nested: dict[str, Any] = {}
    for path, value in parameters.items():
        *around, last = path.split(".")
        place = nested
        for key in around:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise ConfigError([f"{path}: given, but so is {path[: path.index(key) + len(key)]}; keep one"])
        place[last] = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
    try:
        return _validate(model, nested)
    except ValidationError as error:
        raise ConfigError([text for _, text in _problems(error, model)]) from None


def _flatten(value: Any, path: str) -> dict[str, Parameter]:
    if isinstance(value, Config):
        return {f"{path}.{name}": item for name, item in to_parameters(value).items()}
    if isinstance(value, Mapping):
        return {name: item for key, part in value.items() for name, item in _flatten(part, f"{path}.{key}").items()}
    if value is None or value in ((), []):
        return {}
    plain = [_plain(item, path) for item in value] if isinstance(value, (tuple, list)) else _plain(value, path)
    if isinstance(plain, list) and len({type(item) for item in plain}) > 1:
        raise ValueError(f"{path}: {value!r} mixes types; a list of ROS parameters has one")
    return {path: plain}  # type: ignore[dict-item]


def _plain(value: Any, path: str) -> bool | int | float | str:
    if isinstance(value, str):
        return str(getattr(value, "value", value))
    if isinstance(value, (bool, int, float)):
        return value
    raise ValueError(f"{path}: {value!r} cannot be a ROS parameter; those are bool, int, float, str and lists of them")


# --- what is wrong, in words ----------------------------------------------------------------------------------------


def _validate(model: type[C], values: Mapping[str, Any]) -> C:
    """Strict, but with lists for tuples and words for enums: exactly pydantic's strict mode for JSON."""
    return model.model_validate_json(json.dumps(values, default=str), strict=True)


def _problems(error: ValidationError, model: type[Config]) -> Iterator[tuple[Location, str]]:
    for details in error.errors():
        location = tuple(part for part in details["loc"] if part != "[key]")
        path = _dotted(location)
        yield (
            location,
            f"{path}: {_problem(details, model)}" if path else _problem(details, model),
        )


def _problem(details: ErrorDetails, model: type[Config]) -> str:
    kind, given, context = details["type"], details["input"], details.get("ctx", {})
    location = details["loc"]
    if kind == "extra_forbidden":
        known = _keys_at(model, location[:-1])
        return f"unknown key{_did_you_mean(str(location[-1]), known)}; keys here: {', '.join(known)}"
    if kind == "missing":
        return "missing; it has no default"
    shown = "" if isinstance(given, (dict, list)) else f" (given {given!r})"
    if kind == "value_error":
        text = str(context["error"])
        return text if "given" in text or repr(given) in text else f"{text}{shown}"
    should = details["msg"].replace("Input should", "should", 1).replace("an object", "a mapping of keys to values")
    if kind == "enum":
        words = re.findall(r"'([^']*)'", str(context["expected"]))
        return f"unknown value{shown}{_did_you_mean(str(given), words)}; {should}"
    problem = "wrong type" if kind.endswith(("_type", "_parsing")) else "not allowed"
    return f"{problem}{shown or f' (given {given!r})'}; {should}"


def _keys_at(model: type[Config], location: Location) -> list[str]:
    """The keys of the config class that stands at `location` below `model`."""
    annotation: Any = model
    for part in location:
        inner = _without_none(annotation)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            annotation = inner.model_fields[str(part)].annotation
        else:
            annotation = typing.get_args(inner)[-1]
    inner = _without_none(annotation)
    return list(inner.model_fields) if isinstance(inner, type) and issubclass(inner, BaseModel) else []


def _without_none(annotation: Any) -> Any:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return next(item for item in typing.get_args(annotation) if item is not type(None))
    return annotation


def _dotted(location: Location) -> str:
    return ".".join(str(part) for part in location)


def _did_you_mean(given: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(given, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
