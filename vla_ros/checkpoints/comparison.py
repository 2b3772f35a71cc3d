"""What lies between two sets of weights: names missing, too many, of other shapes, in groups that a person can read."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

#: More groups than these are counted, not listed.
_MOST_LISTED = 12
_MOST_KINDS = 4  # of names with the same numbers
_NUMBER = re.compile(r"(?<=\.)(\d+)(?=\.)")


@dataclass(frozen=True)
class Difference:
    """Weights that were expected and are not there, the other way round, and those of another shape."""

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    reshaped: Mapping[str, tuple[Shape, Shape]] = field(default_factory=dict)  # name -> expected, given

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.reshaped)

    @property
    def count(self) -> int:
        """How many weights differ."""
        return len(self.missing) + len(self.unexpected) + len(self.reshaped)

    def lines(self) -> list[str]:
        """A line per group: "missing: showo.model.layers.{0-23}.mlp.fc1.weight (24)"."""
        by_shapes: dict[tuple[Shape, Shape], list[str]] = defaultdict(list)
        for name, shapes in self.reshaped.items():
            by_shapes[shapes].append(name)
        return [
            *_told("missing", grouped(self.missing)),
            *_told("unexpected", grouped(self.unexpected)),
            *_told(
                "of another shape",
                [
                    f"{group}: {given} instead of {expected}"
                    for (expected, given), names in by_shapes.items()
                    for group in grouped(names)
                ],
            ),
        ]


def compare(expected: Shapes, given: Shapes) -> Difference:
    """What `given` lacks, has too much, and has in another shape."""
    return Difference(
        tuple(name for name in expected if name not in given),
        tuple(name for name in given if name not in expected),
        {name: (shape, given[name]) for name, shape in expected.items() if given.get(name, shape) != shape},
    )


def shapes_of(tensors: Mapping[str, Tensor]) -> Shapes:
    """Name and shape of tensors."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def beginnings(names: Iterable[str]) -> str:
    """What names begin with: "382 of encoder, 3 of decoder"; the most frequent."""
    begins = Counter(name.partition(".")[0] for name in names).most_common(_MOST_KINDS)
    return ", ".join(f"{count} of {beginning}" for beginning, count in begins)


def grouped(names: Iterable[str], at_most: int = _MOST_KINDS) -> list[str]:
    """Names that differ in their first number only as one: "layers.{0-23}.norm.weight (24)"; in the order they come in.

    Of more than `at_most` such groups with the same numbers, as when whole layers are missing, one is named.
    """
    numbers_of: dict[tuple[str, str], list[int]] = {}
    for name in names:
        number = _NUMBER.search(name)
        key = (name, "") if number is None else (name[: number.start()], name[number.end() :])
        numbers_of.setdefault(key, []).extend([] if number is None else [int(number[1])])
    kinds: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (before, after), numbers in numbers_of.items():
        kinds[before, _ranges(numbers)].append(after)
    groups = []
    for (before, ranges), afters in kinds.items():
        each = len(numbers_of[before, afters[0]]) or 1
        if len(afters) > at_most:
            groups.append(f"{before}{ranges}: {len(afters)} weights each ({each * len(afters)}), as {afters[0][1:]}")
        else:
            groups += [before + ranges + after + (f" ({each})" if each > 1 else "") for after in afters]
    return groups


def _ranges(numbers: Iterable[int]) -> str:
    """0, 1, 2, 5 as "{0-2,5}", a single one as it is; nothing of none."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    text = ",".join("-".join(map(str, run)) for run in runs)
    return text if not runs or (len(runs) == 1 and len(runs[0]) == 1) else f"{{{text}}}"


def _told(what: str, groups: list[str]) -> list[str]:
    lines = [f"{what}: {group}" for group in groups[:_MOST_LISTED]]
    return lines + ([f"{what}: {len(groups) - _MOST_LISTED} more groups"] if len(groups) > _MOST_LISTED else [])
