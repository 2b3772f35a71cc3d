"""Quality of service: what a publisher offers, what a subscriber asks, and why DDS connects them or does not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vla_ros.timing.stamps import ns_to_ms

#: From the least to the most; what is offered has to be at least what is asked. Other words (UNKNOWN) match everything.
_RELIABILITY = ("BEST_EFFORT", "RELIABLE")
_DURABILITY = ("VOLATILE", "TRANSIENT_LOCAL")
_LIVELINESS = ("AUTOMATIC", "MANUAL_BY_TOPIC")


@dataclass(frozen=True)
class Quality:
    """What DDS compares, in its words; a duration None is infinite."""

    reliability: str = "RELIABLE"
    durability: str = "VOLATILE"
    deadline_ns: int | None = None
    liveliness: str = "AUTOMATIC"
    lease_ns: int | None = None


def differences(offered: Quality, asked: Quality) -> list[tuple[str, str]]:
    """Why the two do not match, as (what is offered, what is asked); empty when they do."""
    return list(_differences(offered, asked))


def _differences(offered: Quality, asked: Quality) -> Iterator[tuple[str, str]]:
    for given, wanted, order in (
        (offered.reliability, asked.reliability, _RELIABILITY),
        (offered.durability, asked.durability, _DURABILITY),
    ):
        if _is_less(given, wanted, order):
            yield given, wanted
    if _is_later(offered.deadline_ns, asked.deadline_ns):
        yield f"deadline {_text(offered.deadline_ns)}", f"deadline {_text(asked.deadline_ns)}"
    if _is_less(offered.liveliness, asked.liveliness, _LIVELINESS):
        yield f"liveliness {offered.liveliness}", f"liveliness {asked.liveliness}"
    if _is_later(offered.lease_ns, asked.lease_ns):
        yield f"liveliness lease {_text(offered.lease_ns)}", f"liveliness lease {_text(asked.lease_ns)}"


def _is_less(offered: str, asked: str, order: tuple[str, ...]) -> bool:
    return offered in order and asked in order and order.index(offered) < order.index(asked)


def _is_later(offered_ns: int | None, asked_ns: int | None) -> bool:
    return asked_ns is not None and (offered_ns is None or offered_ns > asked_ns)


def _text(duration_ns: int | None) -> str:
    return "none" if duration_ns is None else f"{ns_to_ms(duration_ns):g} ms"
