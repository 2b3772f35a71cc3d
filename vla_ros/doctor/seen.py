"""What was seen of a running system, as values: nodes, who talks on each topic and how, messages, what nodes say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vla_ros.doctor.arrivals import Arrival, Clock
from vla_ros.doctor.findings import Level
from vla_ros.doctor.quality import Quality


@dataclass(frozen=True)
class Peer:
    """One publisher or subscriber of a topic. `definition` is the hash of its type, `id` tells it from others."""

    node: str  # as /vla/controller
    type: str
    quality: Quality = field(default_factory=Quality)
    definition: str = ""
    id: str = ""


@dataclass(frozen=True)
class Content:
    """What the newest message of a camera or of joint states shows; `problem`: why it cannot be used.

    `moved_rad`: how far a joint went at most, from the first joint state seen to the last.
    """

    width: int | None = None
    height: int | None = None
    encoding: str = ""
    problem: str = ""
    moved_rad: float = 0.0


@dataclass(frozen=True)
class Topic:
    """One topic: who talks, and what came."""

    publishers: tuple[Peer, ...] = ()
    subscribers: tuple[Peer, ...] = ()
    arrivals: tuple[Arrival, ...] = ()
    content: Content | None = None


@dataclass(frozen=True)
class State:
    """What a node last said about itself on /vla/state."""

    node: str  # without its namespace
    level: Level
    message: str
    values: Mapping[str, str] = field(default_factory=dict)
    age_s: float = 0.0  # at the end of the look


@dataclass(frozen=True)
class Seen:
    """A running graph, looked at for `seconds`."""

    seconds: float
    nodes: tuple[str, ...] = ()  # full names, one for each time it is there
    topics: Mapping[str, Topic] = field(default_factory=dict)  # those that the system's graph names
    others: Mapping[str, str] = field(default_factory=dict)  # the rest that is published: name -> type
    services: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # served: name -> types
    actions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    states: tuple[State, ...] = ()
    ticks: tuple[tuple[int, int], ...] = ()  # of /clock: (received_ns, time_ns)
    missing_types: tuple[str, ...] = ()  # of the graph, not installed here
    domain_id: int = 0
    other_domains: tuple[int, ...] = ()  # in use on this machine

    @property
    def clock(self) -> Clock:
        """The simulation's where there is one, else the machine's."""
        return Clock(self.ticks)

    def topic(self, name: str) -> Topic:
        """The topic of that name; an empty one if nobody talks on it."""
        return self.topics.get(name, Topic())
