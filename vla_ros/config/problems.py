"""What is wrong with a configuration, in words: what was given, where, and what would be right."""

from __future__ import annotations

import difflib
import json
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from vla_ros.values import Config

C = TypeVar("C", bound=Config)
Location = tuple[str | int, ...]


class ConfigError(ValueError):
    """Everything that is wrong with a configuration; `problems` has one line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


def validate(model: type[C], values: Mapping[str, Any], policies: Sequence[str] = ()) -> C:
    """Strict, but with lists for tuples and words for enums: exactly pydantic's strict mode for JSON."""
    return model.model_validate_json(json.dumps(values, default=str), strict=True, context={"policies": policies})


def problems(error: ValidationError, model: type[Config]) -> Iterator[tuple[Location, str]]:
    """Where each problem found in a `model` is, and its line of text: `dotted.path: what; what would be right`."""
    for details in error.errors():
        location = tuple(part for part in details["loc"] if part != "[key]")
        path = dotted(location)
        yield (
            location,
            f"{path}: {_problem(details, model)}" if path else _problem(details, model),
        )


def _problem(details: ErrorDetails, model: type[Config]) -> str:
    kind, given, context = details["type"], details["input"], details.get("ctx", {})
    location = details["loc"]
    if kind == "extra_forbidden":
        known = _keys_at(model, location[:-1])
        return f"unknown key{did_you_mean(str(location[-1]), known)}; keys here: {', '.join(known)}"
    if kind == "missing":
        return "missing; it has no default"
    shown = "" if isinstance(given, (dict, list)) else f" (given {_short(given)})"
    if kind == "value_error":
        text = str(context["error"])
        return text if "given" in text or repr(given) in text else f"{text}{shown}"
    should = details["msg"].replace("Input should", "should", 1).replace("an object", "a mapping of keys to values")
    if kind in ("enum", "literal_error"):
        words = re.findall(r"'([^']*)'", str(context["expected"]))
        return f"unknown value{shown}{did_you_mean(str(given), words)}; {should}"
    problem = "wrong type" if kind.endswith(("_type", "_parsing")) else "not allowed"
    return f"{problem}{shown or f' (given {_short(given)})'}; {should}"


def _short(given: Any) -> str:
    text = repr(given)
    return text if len(text) <= 200 else f"{text[:200]}..."


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


def dotted(location: Location) -> str:
    """A location as people write it: a.b.0."""
    return ".".join(str(part) for part in location)


def did_you_mean(given: str, known: Sequence[str]) -> str:
    """A question that names the nearest of `known`, to be put after a statement; empty if none is near."""
    close = difflib.get_close_matches(given, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
