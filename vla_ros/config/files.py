"""Systems as YAML files: found by name or path, read strictly, with the line of everything that is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from vla_ros.config.problems import ConfigError, Location, did_you_mean, dotted, problems, validate
from vla_ros.config.system import SystemConfig


def folders() -> list[Path]:
    """Where named systems are looked up: the source tree's config/, else the share folder of the installation."""
    here = Path(__file__).resolve()
    candidates = [
        here.parents[2] / "config",
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
    hint = did_you_mean(path_or_name, names())
    known = ", ".join(names())
    raise ConfigError([f"{path_or_name}: no such system{hint}; there are: {known}; or give the path of a .yaml file"])


def load(path_or_name: str, policies: Sequence[str] = ()) -> SystemConfig:
    """Read a system by name or by the path of its .yaml; raises ConfigError, each problem as `file:line: path: ...`.

    `policies` are the names there are; empty: any will do (this module knows no policy).
    """
    file = find(path_or_name)
    document = _Document(file)
    try:
        return validate(SystemConfig, document.values, policies)
    except ValidationError as error:
        raise ConfigError(
            [f"{file}:{document.line(at)}: {text}" for at, text in problems(error, SystemConfig)]
        ) from None


def override(
    system: SystemConfig,
    *,
    robot: str = "",
    policy: str = "",
    checkpoint: str = "",
    instruction: str = "",
    record: str = "",
    bag: str = "",
    policies: Sequence[str] = (),
) -> SystemConfig:
    """`system` with what was given on a command line ("" = as it was); raises ConfigError with every problem.

    Another policy does not keep the checkpoint of the one it replaces. `policies` as in `load`.
    """
    values = system.model_dump(mode="json")
    given = {"robot": robot, "instruction": instruction, "record": record, "bag": bag}
    values |= {key: value for key, value in given.items() if value}
    if policy and policy != system.policy.name:
        values["policy"] |= {"name": policy, "checkpoint": ""}
    if checkpoint:
        values["policy"]["checkpoint"] = checkpoint
    try:
        return validate(SystemConfig, values, policies)
    except ValidationError as error:
        raise ConfigError([text for _, text in problems(error, SystemConfig)]) from None


_DEEPEST = 20


class _Loader(yaml.SafeLoader):
    """YAML with the scalars of version 1.2 only: `no` is a word and `1e-3` a number."""

    def fetch_flow_collection_start(self, kind: type) -> None:
        """The scanner's, whose time grows with the square of the depth."""
        if self.flow_level > _DEEPEST:
            raise yaml.MarkedYAMLError(problem="brackets are nested too deeply", problem_mark=self.get_mark())
        super().fetch_flow_collection_start(kind)


_Loader.yaml_implicit_resolvers = {}
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(|~|null)$"), ["", "~", "n"])
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(true|false)$"), list("tf"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?$|[-+]?\.inf$|\.nan$"),
    list("-+.0123456789"),
)


#: Beyond, a file is no system, or one of aliases of aliases of aliases, which stand for more values than there is room.
_MOST_BYTES, _MOST_NODES = 50_000, 10_000


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for; those of an alias count wherever it stands."""
    if id(node) not in known:
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_count(part, known) for part in parts if isinstance(part, yaml.Node))
    return known[id(node)]


def _tag(node: yaml.Node) -> str:
    """The tag that a node has where none is written."""
    if isinstance(node, yaml.ScalarNode):
        return str(_RESOLVER.resolve(yaml.ScalarNode, node.value, (node.style is None, node.style is not None)))
    return str(_RESOLVER.resolve(type(node), node.value, True))


_RESOLVER: Any = _Loader("")


class _Document:
    """A YAML file: its values, and the line on which each of them stands."""

    def __init__(self, file: Path) -> None:
        self._lines: dict[Location, int] = {(): 1}
        try:
            if file.stat().st_size > _MOST_BYTES:
                raise ConfigError([f"{file}: has {file.stat().st_size} bytes; a system has at most {_MOST_BYTES}"])
            loader = _Loader(file.read_text(encoding="utf-8"))
            root = loader.get_single_node()
            if root is not None and _count(root, {}) > _MOST_NODES:
                raise ConfigError(
                    [f"{file}: more than {_MOST_NODES} values, with every use of an alias counted; a system has fewer"]
                )
            wrong = list(self._visit(root, ())) if root is not None else []
            if wrong:
                raise ConfigError([f"{file}:{line}: {text}" for line, text in wrong])
            self.values = loader.construct_document(root) if root is not None else {}
        except ConfigError:
            raise
        except OSError as error:
            raise ConfigError([f"{file}: cannot be read: {error.strerror}"]) from None
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            raise ConfigError([f"{file}:{line}: no UTF-8 text; save it as such"]) from None
        except yaml.reader.ReaderError as error:
            raise ConfigError([f"{file}: no valid YAML: control character #x{error.character:02x}"]) from None
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise ConfigError([f"{file}:{line}: no valid YAML: {error.problem}"]) from None
        except (RecursionError, ValueError) as error:  # an alias inside what it stands for; 2026-13-45
            raise ConfigError([f"{file}: no valid YAML: {error}"]) from None
        if not isinstance(self.values, dict):
            raise ConfigError([f"{file}:1: should be a mapping of keys to values, as title: ..., robot: ..."])

    def line(self, location: Location) -> int:
        """The line of what stands at `location`, or of the nearest thing around it."""
        while location not in self._lines:
            location = location[:-1]
        return self._lines[location]

    def _visit(self, node: yaml.Node, at: Location) -> Iterator[tuple[int, str]]:
        """Note the line of every value; what is wrong with a node itself, with its line."""
        if node.tag != _tag(node):
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            yield node.start_mark.line + 1, f"{dotted(at)}: has the tag {tag}; write the value without one"
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                line, here = key.start_mark.line + 1, (*at, str(key.value))
                if key.value in seen:
                    yield line, f"{dotted(here)}: given twice; keep one"
                seen.add(key.value)
                self._lines[here] = line
                yield from self._visit(value, here)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self._lines[(*at, index)] = value.start_mark.line + 1
                yield from self._visit(value, (*at, index))
