"""Golden cases: sizes, weights by rule, inputs, expected outputs, and what differs from them."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

OURS = Path(__file__).parents[1] / "golden"
FOLDER = Path(os.environ.get("VLA_ROS_GOLDEN") or OURS)

Result = Tensor | NDArray[Any]


def cases(kind: str, *others: str) -> list[Case]:
    """Every case of this kind that lies in the folder: its name begins with `kind`, and not with one of `others`.

    Another folder than ours need not hold any: tests of none are skipped.
    """
    found = [Case(path) for path in sorted(FOLDER.glob(f"{kind}*.json")) if not path.name.startswith(others)]
    if not found and (FOLDER == OURS or not FOLDER.is_dir()):
        raise FileNotFoundError(f"no golden case {kind}* lies in {FOLDER}")
    return found


def weight(seed: int, key: str, shape: list[int], kind: str) -> Tensor:
    """The weight that the rule gives an official key."""
    random = np.random.RandomState(zlib.crc32(f"{seed}:{key}".encode()) & 0xFFFFFFFF)
    n = random.standard_normal(shape).astype(np.float32)
    match kind:
        case "matrix":
            n *= np.float32(1.0 / np.sqrt(np.prod(shape[1:])))
        case "table":
            n *= np.float32(0.5)
        case "norm":
            n = np.float32(1) + np.float32(0.1) * n
        case "bias":
            n *= np.float32(0.05)
        case _:
            raise ValueError(f"no rule for weights of kind {kind!r} ({key})")
    return torch.from_numpy(n)


@dataclass(frozen=True)
class Case:
    """One case: `NAME.json` and `NAME.npz`."""

    path: Path

    def __str__(self) -> str:
        return self.path.stem

    @cached_property
    def description(self) -> dict[str, Any]:
        return json.loads(self.path.read_text())  # type: ignore[no-any-return]

    @property
    def sizes(self) -> dict[str, Any]:
        return self.description["config"]  # type: ignore[no-any-return]

    @cached_property
    def arrays(self) -> dict[str, NDArray[Any]]:
        with np.load(self.path.with_suffix(".npz")) as arrays:
            return dict(arrays)

    def given(self, name: str) -> Tensor:
        """An input; integers as int64."""
        array = self.arrays[f"in/{name}"]
        return torch.from_numpy(array.astype(np.int64) if array.dtype.kind == "i" else array)

    def texts(self) -> list[list[int]]:
        """The text ids, one list per sample."""
        ends = np.cumsum(self.arrays["in/text_len"])[:-1]
        return [part.tolist() for part in np.split(self.arrays["in/text_flat"], ends)]

    def given_output(self, name: str) -> Tensor:
        """An output, where it is needed as an input; integers as int64."""
        array = self.expected(name)
        return torch.from_numpy(array.astype(np.int64) if array.dtype.kind == "i" else array)

    def expected(self, name: str) -> NDArray[Any]:
        return self.arrays[f"out/{name}"]

    @property
    def outputs(self) -> set[str]:
        return {name.removeprefix("out/") for name in self.arrays if name.startswith("out/")}

    def weights(self) -> dict[str, Tensor]:
        """Every official weight that the rule fills; buffers that a module makes itself are left out."""
        seed, table = self.description["weight_seed"], self.description["state_dict"]
        with ThreadPoolExecutor() as threads:
            filled = {
                key: threads.submit(weight, seed, key, shape, kind)
                for key, (shape, kind) in table.items()
                if kind != "keep"
            }
        return {key: future.result() for key, future in filled.items()}

    def mutations(self) -> list[str]:
        """Deliberate errors of weights named in the json, the hardest to notice first; ours name some."""
        listed = self.description["sensitivity"] or {}
        weights = [name for name in listed if name.split()[0] in ("transpose", "roll")]
        if not weights and self.path.parent == OURS:
            raise ValueError(f"{self.path} names no deliberate error, so that a case that is met may mean nothing")
        return sorted(weights, key=lambda name: listed[name]["largest"][1])

    def differing(self, results: Mapping[str, Result]) -> list[str]:
        """What is outside its tolerance, in words; empty where all results agree."""
        return [words for name, result in results.items() if (words := self._difference(name, np.asarray(result)))]

    def _difference(self, name: str, result: NDArray[Any]) -> str:
        expected, tolerance = self.expected(name), self.description["tolerance"][name]
        if result.shape != expected.shape:
            return f"{name}: shape {result.shape}, expected {expected.shape}"
        if "exact" in tolerance:
            wrong = result != expected
        elif "exact_where" in tolerance:
            margin, _, limit = tolerance["exact_where"].split()
            wrong = (result != expected) & (self.expected(margin) > float(limit))
        elif "atol" in tolerance:
            wrong = ~(np.abs(result - expected) <= tolerance["atol"])
        else:
            wrong = ~(row_errors(result, expected) <= tolerance["row_rtol"])
        return f"{name}: {wrong.sum()} of {wrong.size} are outside {tolerance}" if wrong.any() else ""


def row_errors(result: NDArray[Any], expected: NDArray[Any]) -> NDArray[Any]:
    """For each row along the last axis the largest difference, relative to the row (at least 0.001 of the array)."""
    result, expected = np.atleast_1d(result), np.atleast_1d(expected)
    scale = np.maximum(np.abs(expected).max(-1), 1e-3 * np.abs(expected).max())
    return np.asarray(np.abs(result - expected).max(-1) / scale)


def mutated(weights: Mapping[str, Tensor], mutation: str) -> dict[str, Tensor]:
    """The weights with one transposed (its first two axes) or rolled by one along its first axis longer than one."""
    change, key = mutation.split()
    tensor = weights[key]
    changed = tensor.transpose(0, 1) if change == "transpose" else tensor.roll(1, int(tensor.shape[0] == 1))
    return {**weights, key: changed.contiguous()}
