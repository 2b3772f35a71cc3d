"""Every policy by name, loaded only when asked for: the one table, besides the CLI's, of imports that happen late."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import cast

from vla_ros.actions import ActionSpec
from vla_ros.checkpoints.requirements import read_requirements
from vla_ros.policies.policy import Policy
from vla_ros.robots.robot import Robot


@dataclass(frozen=True)
class Entry:
    """Where a policy lives, and what can be known of it without importing it."""

    module: str  # has `load(robot, checkpoint, action) -> Policy`; with weights also what `load` below computes with
    needs_checkpoint: bool


POLICIES: dict[str, Entry] = {
    "scripted": Entry("vla_ros.policies.scripted", needs_checkpoint=False),
    "up_vla": Entry("vla_ros.policies.up_vla", needs_checkpoint=True),
}


def names() -> tuple[str, ...]:
    """Every policy there is, sorted."""
    return tuple(sorted(POLICIES))


def problems(name: str, checkpoint: str) -> list[str]:
    """What can be known, before anything is loaded, to keep the policy `name` from its weights at `checkpoint`."""
    if checkpoint and not Path(checkpoint).exists():
        return [f"policy.checkpoint: {checkpoint} does not exist"]
    if _find(name).needs_checkpoint and not checkpoint:
        return [f"policy.checkpoint: missing; policy {name} needs weights; give their folder"]
    return []


def misfits(
    name: str,
    *,
    robot: Robot,
    checkpoint: str,
    cameras: Mapping[str, tuple[int, int]],
    instruction: str = "",
    action: ActionSpec | None = None,
) -> list[str]:
    """What of a system does not fit the checkpoint of policy `name`, as far as its manifest tells; loads no weights.

    `cameras`: name -> (width, height).
    """
    if not _find(name).needs_checkpoint:
        return []
    try:
        needed = read_requirements(Path(checkpoint))
    except ValueError as error:
        return [str(error)]
    return needed.problems(robot, cameras, instruction, action)


def load(
    name: str,
    *,
    robot: Robot,
    checkpoint: str = "",
    action: ActionSpec | None = None,
    device: str = "auto",
    dtype: str = "auto",
    compile: bool = False,
    image_tokenizer_dtype: str = "float32",
) -> Policy:
    """The policy `name` for `robot`, with the weights at `checkpoint`, computed on `device` in `dtype`.

    `device`, `dtype`, `compile` and `image_tokenizer_dtype` are as in a system's `policy` section. `action` is for
    policies that leave their action space open; it gets the robot's joint names. Raises ValueError for an unknown name,
    a missing checkpoint, one given to a policy that has no weights, one that cannot be used, and for libraries that are
    not installed.
    """
    entry = _find(name)
    if entry.needs_checkpoint and not checkpoint:
        raise ValueError(f"policy {name} needs a checkpoint, got none")
    if checkpoint and not entry.needs_checkpoint:
        raise ValueError(f"policy {name} takes no checkpoint, got {checkpoint!r}; leave it out")
    if action is not None and action.is_joint and not action.joint_names:
        action = action.model_copy(update={"joint_names": robot.joint_names})
    if not entry.needs_checkpoint:
        return cast(Policy, _module(name, entry).load(robot, checkpoint, action))
    computed = {"device": device, "dtype": dtype, "compile": compile, "image_tokenizer_dtype": image_tokenizer_dtype}
    return cast(Policy, _module(name, entry).load(robot, checkpoint, action, **computed))


def _module(name: str, entry: Entry) -> ModuleType:
    try:
        return importlib.import_module(entry.module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("vla_ros"):
            raise
        raise ValueError(
            f"policy {name} needs {error.name}, which is not installed: pip install 'vla_ros[models]'"
        ) from error


def _find(name: str) -> Entry:
    try:
        return POLICIES[name]
    except KeyError:
        raise ValueError(f"unknown policy {name!r}; there are: {', '.join(names())}") from None
