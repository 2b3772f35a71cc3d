"""Checkpoints of a training in progress: everything that the next step depends on, in folders that appear whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vla_ros.checkpoints.files import CheckpointError, read_tensors, write_tensors
from vla_ros.recording.files import fsync_folder, make_folder, write_atomically
from vla_ros.training.distributed import Processes, fill, whole
from vla_ros.training.ema import MovingAverage

_WEIGHTS, _OPTIMIZER, _AVERAGES = "weights.safetensors", "optimizer.safetensors", "averages.safetensors"
_STATE = "state.json"
_PREFIX = "step-"


@dataclass(frozen=True)
class Saved:
    """What is kept of a training: trained parameters, AdamW's moments, averages. Batches follow from the step."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    average: MovingAverage | None = None

    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained ones, by name."""
        return {name: one for name, one in self.module.named_parameters() if one.requires_grad}


def save(folder: Path, saved: Saved, step: int, seconds: float, about: Mapping[str, str], processes: Processes) -> None:
    """Write the checkpoint of `step` updates, then remove older ones; all processes call it, the first one writes.

    Raises CheckpointError, DatasetError or OSError where it cannot be written; the one before it stays then.
    """
    parameters = saved.parameters()
    files = {_WEIGHTS: _whole(parameters), _OPTIMIZER: _whole(_moments(saved, parameters))}
    if saved.average is not None:
        files[_AVERAGES] = _whole(saved.average.averages)
    if processes.leads:
        final = folder / f"{_PREFIX}{step:08d}"
        temporary = folder / f".{final.name}.tmp"
        for torn in folder.glob(f".{_PREFIX}*.tmp"):  # what a kill has left of another
            shutil.rmtree(torn, ignore_errors=True)
        make_folder(temporary)
        for name, tensors in files.items():
            write_tensors(temporary / name, tensors)
        state = {"step": step, "seconds": round(seconds, 1), "about": dict(about)}
        write_atomically(temporary / _STATE, json.dumps(state, indent=1).encode())
        shutil.rmtree(final, ignore_errors=True)  # of a run that was trained anew
        temporary.replace(final)
        fsync_folder(folder)
        for older in _checkpoints(folder):
            if older != final:
                shutil.rmtree(older)
    processes.wait()


def load_newest(folder: Path, saved: Saved, about: Mapping[str, str]) -> tuple[int, float]:
    """Fill everything from the newest checkpoint; returns its step and the seconds spent until then, 0 without one.

    Raises CheckpointError where it is damaged, or belongs to another training (`about` differs).
    """
    found = _checkpoints(folder)
    if not found:
        return 0, 0.0
    newest = found[-1]
    state = read_state(newest)
    if differing := [
        f"{name} was {before}, is {about.get(name, 'not there')}"
        for name, before in state.about.items()
        if about.get(name) != before
    ]:
        raise CheckpointError(
            f"{newest} is of another training: {'; '.join(differing)}. Train as before, or into another folder"
        )
    parameters = saved.parameters()
    _fill(newest / _WEIGHTS, parameters)
    _make_moments(saved)
    _fill(newest / _OPTIMIZER, _moments(saved, parameters))
    if saved.average is not None:
        _fill(newest / _AVERAGES, saved.average.averages)
    return state.step, state.seconds


def steps_done(folder: Path) -> int:
    """How many updates the newest checkpoint in a folder has behind it; 0 without one."""
    found = _checkpoints(folder)
    return read_state(found[-1]).step if found else 0


class State(NamedTuple):
    """Where a training is: updates done, the time they took, and what may not differ when it goes on."""

    step: int
    seconds: float
    about: dict[str, str]


def read_state(checkpoint: Path) -> State:
    """What a checkpoint says of itself; raises CheckpointError."""
    try:
        state = json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
        return State(int(state["step"]), float(state["seconds"]), dict(state["about"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{checkpoint / _STATE} cannot be read: {error}") from error


def _checkpoints(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if path.is_dir())


def _whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: whole(tensor) for name, tensor in tensors.items()}


def _fill(file: Path, tensors: Mapping[str, Tensor]) -> None:
    given = read_tensors(file)
    if set(given) != set(tensors) or any(given[name].shape != one.shape for name, one in tensors.items()):
        raise CheckpointError(f"{file} does not hold the tensors of this training")
    for name, tensor in tensors.items():
        fill(tensor, given[name])


def _moments(saved: Saved, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """What AdamW remembers: `NAME/exp_avg`, `NAME/exp_avg_sq`, `NAME/step`."""
    return {
        f"{name}/{kind}": value
        for name, parameter in parameters.items()
        for kind, value in saved.optimizer.state[parameter].items()
    }


def _make_moments(saved: Saved) -> None:
    """Have AdamW make its memory, by a step of rate 0 without gradients; what it holds is filled after this."""
    for parameter in saved.parameters().values():
        parameter.grad = torch.zeros_like(parameter)
    rates = [group["lr"] for group in saved.optimizer.param_groups]
    for group in saved.optimizer.param_groups:
        group["lr"] = 0.0
    saved.optimizer.step()
    for group, rate in zip(saved.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    saved.optimizer.zero_grad()
