"""Configs as flat ROS parameters, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from vla_ros.config.problems import ConfigError, problems, validate
from vla_ros.values import Config

C = TypeVar("C", bound=Config)
Parameter = bool | int | float | str | list[bool] | list[int] | list[float] | list[str]


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
        return validate(model, nested)
    except ValidationError as error:
        raise ConfigError([text for _, text in problems(error, model)]) from None


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
