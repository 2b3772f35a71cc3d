"""Names in groups: nothing is lost or made up by the grouping."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from vla_ros.checkpoints.comparison import Difference, compare, grouped

NAMES = st.builds(
    lambda parts, number, tail: ".".join([*parts, str(number), tail]),
    st.lists(st.sampled_from(["layers", "down", "block"]), min_size=1, max_size=2),
    st.integers(0, 30),
    st.sampled_from(["weight", "bias", "3.weight"]),
)


def expand(group: str) -> set[str]:
    """The names that a group stands for."""
    group = group.partition(" (")[0]
    if not (found := re.search(r"\{(.*)\}", group)):
        return {group}
    names = set()
    for run in found[1].split(","):
        first, _, last = run.partition("-")
        names |= {group.replace(found[0], str(number)) for number in range(int(first), int(last or first) + 1)}
    return names


@given(st.sets(NAMES))
def test_groups_stand_for_exactly_the_names(names: set[str]) -> None:
    groups = grouped(sorted(names), at_most=len(names))
    expanded = [name for group in groups for name in expand(group)]
    assert sorted(expanded) == sorted(names)


def test_whole_layers_are_one_group() -> None:
    names = [f"layers.{layer}.{name}.weight" for layer in (3, 4, 7) for name in ("q", "k", "v", "out", "norm")]
    assert grouped(["a", *names, "b"]) == ["a", "layers.{3-4,7}: 5 weights each (15), as q.weight", "b"]


def test_a_difference_is_what_lies_between() -> None:
    found = compare({"a": (1,), "b": (2, 3), "c": (4,)}, {"b": (2, 4), "c": (4,), "d": ()})
    assert (found.missing, found.unexpected, found.reshaped) == (("a",), ("d",), {"b": ((2, 3), (2, 4))})
    assert found.count == 3 and found and not compare({"a": (1,)}, {"a": (1,)})


def test_many_groups_are_counted() -> None:
    lines = Difference(missing=tuple(f"name{n}" for n in range(100))).lines()
    assert len(lines) == 13 and lines[-1] == "missing: 88 more groups"
